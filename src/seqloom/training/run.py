"""Training from scratch: settings → data → tokenizer → plan → loop → checkpoint → evaluation → card.

The loss of an update is the sum over its target tokens divided by their number, over micro-batches and processes; the
schedule counts updates. So neither accumulation nor the number of processes changes what is learnt.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any, Literal

from accelerate.utils import broadcast_object_list, set_seed
from datasets import IterableDataset

from seqloom.data.encoding import encode
from seqloom.data.pairs import check_unchanged, load_pairs
from seqloom.scoring import metrics
from seqloom.settings.checks import check_settings
from seqloom.settings.reading import load_settings
from seqloom.settings.schema import Settings
from seqloom.sharing.push import prepare_repository, push
from seqloom.support import disk
from seqloom.support.console import say
from seqloom.support.machine import keep_freed_memory
from seqloom.training import checkpoints
from seqloom.training.building import (
    make_average,
    make_model,
    make_optimizer,
    make_sampled,
    make_stream,
    make_tokenizer,
    set_hyper_parameters,
)
from seqloom.training.devices import make_accelerator, prepare, whole_model
from seqloom.training.ending import counted, finish
from seqloom.training.initialisation import initialise
from seqloom.training.loop import train
from seqloom.training.state import Progress, Run, is_over
from seqloom.training.update import rehearse

DATA_FILE = "data.json"
"""What a run was begun with: its data's names, sizes and digests."""


def run_training(
    settings: Settings, *, resume: bool | Literal["auto"] = False, overwrite: bool = False, dry_run: bool = False
) -> dict[str, Any]:
    """Trains, scores and saves one model.

    Args:
        settings: The run.
        resume: Go on from the output folder's last checkpoint; ``auto``: if there is a run in it, else start one.
        overwrite: Delete an earlier run's output folder.
        dry_run: Check settings, data and plan, make the largest update, and write nothing.

    Returns:
        The run's record: data, progress, scores, hardware, versions. The model is in ``settings.output_dir``.

    Raises:
        ValueError: The settings, the data or the output folder do not allow it; or the loss is no longer a number.
        OSError: The disk is full, or a file cannot be read or written.
        Stopped: SIGINT, SIGTERM or SIGUSR1 came. A checkpoint is saved, to resume from.
    """
    check_settings(settings)
    keep_freed_memory()
    training = settings.training
    accelerator = make_accelerator(settings)
    folder = Path(settings.output_dir)
    if resume == "auto":
        resume = (folder / "settings.yaml").is_file()
    check_output_folder(folder, settings, resume, overwrite)
    for name in filter(None, (training.eval_metric, *settings.evaluation.metrics)):
        metrics.load_metric(name)  # a misspelt name shows now, not after the training
    if settings.hub.push_to_hub and accelerator.is_main_process and not dry_run:
        prepare_repository(settings.hub)
    set_seed(training.seed)
    with accelerator.main_process_first():
        pairs = load_pairs(settings.data, training.seed)
    if resume and (folder / DATA_FILE).is_file():
        check_unchanged(json.loads((folder / DATA_FILE).read_text(encoding="utf-8")), pairs.provenance)
    checkpoint = tokenizer = None
    if accelerator.is_main_process:
        if resume and not dry_run:
            checkpoints.recover(folder)
            checkpoint = checkpoints.last_checkpoint(folder, functools.partial(say, accelerator))
        # One process trains it for all, since unigram's trainer does not give the same tokenizer twice.
        tokenizer = make_tokenizer(settings, pairs, folder if checkpoint is not None else None)
    checkpoint, tokenizer = broadcast_object_list([checkpoint, tokenizer])
    with accelerator.main_process_first():
        train_set, report = encode(pairs.splits["train"], tokenizer, settings.data)
        validation_set, _ = encode(pairs.splits["validation"], tokenizer, settings.data, drop=False)
    is_streaming = isinstance(train_set, IterableDataset)
    say(
        accelerator,
        f"training data: {'a stream, whose pairs are counted as they are read' if is_streaming else report}",
    )

    dataset_of = make_sampled(pairs.splits["train"], settings, tokenizer, accelerator, report)
    train_stream = make_stream(train_set, settings, tokenizer, accelerator, dataset_of=dataset_of)
    validation_stream = make_stream(validation_set, settings, tokenizer, accelerator, is_validation=True)
    plan = train_stream.summary()
    say(accelerator, f"plan: {plan}")
    max_steps = training.max_steps
    if training.num_train_epochs is not None and not train_stream.is_streaming:
        epochs_steps = training.num_train_epochs * plan.updates
        max_steps = min(max_steps or epochs_steps, epochs_steps)

    model = make_model(settings, tokenizer, train_stream)
    trained = f", {model.num_parameters(only_trainable=True):,} of them to train" if training.freeze else ""
    say(accelerator, f"model: {type(model).__name__} with {model.num_parameters():,} parameters{trained}")
    if training.init_from is not None and checkpoint is None:
        with accelerator.main_process_first():
            say(accelerator, initialise(model, tokenizer, training.init_from, training.init_parameters))
    optimizer, scheduler = make_optimizer(model, settings, max_steps)
    average = make_average(model, settings, accelerator)
    model, optimizer = prepare(accelerator, model, optimizer)
    accelerator.register_for_checkpointing(scheduler)
    set_seed(training.seed, device_specific=True)  # every process drops out other units

    run = Run(
        settings, folder, accelerator, model, optimizer, scheduler, tokenizer, train_stream, validation_stream,
        pairs.splits["validation"].select(range(min(training.eval_samples or 10**9, len(validation_set)))),
        max_steps, Progress(), average=average,
    )  # fmt: skip
    if dry_run:
        return rehearse(run)
    if checkpoint is not None:
        run.progress = checkpoints.load_checkpoint(checkpoint, accelerator)
        set_hyper_parameters(run)
        say(accelerator, f"resuming {checkpoint} after {run.progress.step:,} updates")
        check_best(run)
        if is_over(run):
            say(accelerator, "this run is over already: nothing is left to train; its model is scored and saved again.")
    if accelerator.is_main_process:
        open_folder(run, checkpoint, overwrite, pairs.provenance)
    accelerator.wait_for_everyone()
    train(run)
    record = finish(run, pairs, {"train": counted(settings, is_streaming, report), "plan": dataclasses.asdict(plan)})
    if settings.hub.push_to_hub and accelerator.is_main_process:
        push(folder, settings.hub, say=functools.partial(say, accelerator))
    return record


def open_folder(run: Run, checkpoint: Path | None, overwrite: bool, provenance: dict[str, Any]) -> None:
    """Makes the output folder ready: settings, data and tokenizer lie in it before the first update."""
    folder, settings = run.folder, run.settings
    if checkpoint is not None:
        checkpoints.drop_older(folder, checkpoint.name, settings.training.save_total_limit)  # if a kill came before
    if overwrite and folder.exists():  # not before everything that can be wrong with the new run was found right
        checkpoints.remove_run(folder)
    folder.mkdir(parents=True, exist_ok=True)
    disk.write_aside(folder / "settings.yaml", settings.save)
    data = json.dumps(provenance, indent=2)
    disk.write_aside(folder / DATA_FILE, lambda aside: aside.write_text(data, encoding="utf-8"))
    if checkpoint is None:
        checkpoints.save_tokenizer(run.tokenizer, folder)


def check_best(run: Run) -> None:
    """Finds out, before anything more is trained, whether the best model so far is damaged, and mends it if it can."""
    best, progress, accelerator = run.folder / "checkpoints" / "best", run.progress, run.accelerator
    what = None
    if accelerator.is_main_process and progress.best_score is not None:
        if damage := disk.damage(best):
            what = f"damaged ({damage})"
        elif (step := checkpoints.step_of(best)) != progress.best_step:  # a kill came between it and its checkpoint
            what = f"of update {step:,}, while the best so far is of update {progress.best_step:,}"
    (what,) = broadcast_object_list([what])
    if what is None:
        return
    if progress.best_step == progress.step:
        remedy = "saved again from the checkpoint"
        whole = whole_model(accelerator, run.scored_model)
        if accelerator.is_main_process:
            checkpoints.save_model(whole, run.tokenizer, best, progress.step)
    elif is_over(run):
        return  # there is no validation to come; finish says so
    else:
        remedy = "the next validation's takes its place"
        progress.best_score = None
    say(accelerator, f"{best} is {what}; {remedy}.")


def check_output_folder(folder: Path, settings: Settings, resume: bool, overwrite: bool) -> None:
    """Refuses to write over anything unless told to, and to resume another run."""
    is_run = (folder / "settings.yaml").is_file()
    if resume and is_run:
        earlier = load_settings(folder / "settings.yaml")
        for section in ("model", "data", "tokenizer"):
            then, now = (values.to_dict()[section] for values in (earlier, settings))
            others = [name for name in {**then, **now} if then.get(name) != now.get(name) and name != "num_proc"]
            if others:
                raise ValueError(
                    f"the run in {folder} was started with another {section} section than the one given "
                    f"({', '.join(others)}); resume with {folder / 'settings.yaml'}, or train into another output_dir."
                )
        for name in ("seed", "batch_tokens", "batch_size", "batches_per_update"):
            if getattr(earlier.training, name) != getattr(settings.training, name):
                raise ValueError(
                    f"training.{name} is {getattr(settings.training, name)}, but the run in {folder} was started with "
                    f"{getattr(earlier.training, name)}: resuming would mix two orders of the data; keep it."
                )
        for name in ("freeze", "ema_decay", "optim"):
            if getattr(earlier.training, name) != getattr(settings.training, name):
                raise ValueError(
                    f"training.{name} is {getattr(settings.training, name)}, but the run in {folder} was started with "
                    f"{getattr(earlier.training, name)}, and its checkpoints hold what belongs to that: keep it."
                )
    elif resume:
        raise ValueError(f"there is no run to resume in {folder}: it has no settings.yaml; start it without --resume.")
    elif folder.exists() and (
        # A kill at the very start leaves a folder that is as good as empty.
        not folder.is_dir() or any(path.name != "saving-settings.yaml" for path in folder.iterdir())
    ):
        if not overwrite:
            raise ValueError(
                f"the output folder {folder} is not empty; give --resume to go on, --overwrite to start anew, or "
                "another --output_dir."
            )
        if not is_run:
            raise ValueError(
                f"{folder} holds no run of seqloom's, so --overwrite will not delete it; choose another one."
            )
