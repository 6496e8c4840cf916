"""Training from scratch: settings → data → tokenizer → plan → loop → checkpoint → evaluation → card.

The loss of an update is the sum over its target tokens divided by their number, over micro-batches and processes; the
schedule counts updates. So neither accumulation nor the number of processes changes what is learnt.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
import os
import re
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

import torch
from accelerate.utils import broadcast_object_list, gather_object, set_seed
from datasets import IterableDataset
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoModelForSeq2SeqLM

from seqloom import cards, checkpoints, evaluation, metrics, sharing
from seqloom.building import (
    Run,
    check_output_folder,
    keep_freed_memory,
    make_accelerator,
    make_average,
    make_model,
    make_optimizer,
    make_sampled,
    make_stream,
    make_tokenizer,
    prepare,
    set_hyper_parameters,
)
from seqloom.checkpoints import Progress
from seqloom.data import EncodingReport, Pairs, check_unchanged, encode, load_pairs
from seqloom.decoding import translate
from seqloom.initialisation import initialise
from seqloom.settings import Settings, load_settings
from seqloom.stopping import Stopped, StopSignals
from seqloom.tracking import Console, RunLog, quieten_libraries, say, summary
from seqloom.updating import make_update, rehearse

DATA_FILE = "data.json"
"""What a run was begun with: its data's names, sizes and digests."""
USAGE = "usage: train.py CONFIG.yaml [--key value ...] [--resume [auto] | --overwrite] [--dry_run]"


def main(argv: Sequence[str] | None = None) -> int:
    """The command ``train.py``; returns its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(USAGE, "", "Keys are the settings of configs/*.yaml; src/seqloom/settings.py explains each.", sep="\n")
        print("--resume goes on with the run in output_dir; --resume auto starts it if there is none.")
        return 0 if words else 2
    flags = {flag: f"--{flag}" in words for flag in ("resume", "overwrite", "dry_run")}
    if flags["resume"] and words[words.index("--resume") + 1 :][:1] == ["auto"]:
        flags["resume"] = words.pop(words.index("--resume") + 1)
    words = [word for word in words if word not in ("--resume", "--overwrite", "--dry_run")]
    is_main = int(os.environ.get("RANK", "0")) == 0
    try:
        if not words or words[0].startswith("--"):
            raise ValueError(f"the configuration file comes first. {USAGE}")
        if flags["resume"] and flags["overwrite"]:
            raise ValueError("--resume goes on with what --overwrite would delete: give one of them.")
        quieten_libraries()
        run_training(load_settings(words[0], words[1:]), **flags)
    except Stopped as stopped:
        if is_main:
            print(stopped)
        return 128 + stopped.signal
    except KeyboardInterrupt:
        if is_main:
            print("ended at once; --resume goes on from the last checkpoint.", file=sys.stderr)
        return 128 + signal.SIGINT
    except (ValueError, OSError, StrictDataclassError) as error:
        if is_main or getattr(error, "is_own", False):
            process = "" if is_main else f"process {os.environ['RANK']}: "
            print(f"error: {process}{' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except RuntimeError as error:
        if not is_lost_connection(error):
            raise
        print(
            "error: another process of this run ended, so this one ends too; what happened, its own words say. "
            f"Go on from the last checkpoint with --resume. ({str(error).splitlines()[0]})",
            file=sys.stderr,
        )
        return 1
    return 0


def is_lost_connection(error: RuntimeError) -> bool:
    """Whether a collective failed since another process is gone; torch has no class of its own for gloo's."""
    is_shared = int(os.environ.get("WORLD_SIZE", "1")) > 1
    return is_shared and re.search(r"gloo|NCCL|Connection (closed|reset|refused)|peer", str(error)) is not None


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
        sharing.prepare(settings.hub)
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
        sharing.push(folder, settings.hub, say=functools.partial(say, accelerator))
    return record


def counted(settings: Settings, is_streaming: bool, report: EncodingReport) -> str:
    """What was kept and dropped, in words: of a stream only what this process has read."""
    if settings.data.num_workers:
        return "a stream, read by processes of its own"  # which counted apart
    if settings.data.split_stream:
        return f"a stream; of what the first process read, {report}"
    return f"a stream; of everything read, {report}" if is_streaming else str(report)


def open_folder(run: Run, checkpoint: Path | None, overwrite: bool, provenance: dict[str, Any]) -> None:
    """Makes the output folder ready: settings, data and tokenizer lie in it before the first update."""
    folder, settings = run.folder, run.settings
    if checkpoint is not None:
        checkpoints.drop_older(folder, checkpoint.name, settings.training.save_total_limit)  # if a kill came before
    if overwrite and folder.exists():  # not before everything that can be wrong with the new run was found right
        checkpoints.remove_run(folder)
    folder.mkdir(parents=True, exist_ok=True)
    checkpoints.write_aside(folder / "settings.yaml", settings.save)
    data = json.dumps(provenance, indent=2)
    checkpoints.write_aside(folder / DATA_FILE, lambda aside: aside.write_text(data, encoding="utf-8"))
    if checkpoint is None:
        checkpoints.save_tokenizer(run.tokenizer, folder)


def check_best(run: Run) -> None:
    """Finds out, before anything more is trained, whether the best model so far is damaged, and mends it if it can."""
    best, progress, accelerator = run.folder / "checkpoints" / "best", run.progress, run.accelerator
    what = None
    if accelerator.is_main_process and progress.best_score is not None:
        if damage := checkpoints.damage(best):
            what = f"damaged ({damage})"
        elif (step := checkpoints.step_of(best)) != progress.best_step:  # a kill came between it and its checkpoint
            what = f"of update {step:,}, while the best so far is of update {progress.best_step:,}"
    (what,) = broadcast_object_list([what])
    if what is None:
        return
    if progress.best_step == progress.step:
        remedy = "saved again from the checkpoint"
        whole = checkpoints.whole_model(accelerator, run.scored_model)
        if accelerator.is_main_process:
            checkpoints.save_model(whole, run.tokenizer, best, progress.step)
    elif is_over(run):
        return  # there is no validation to come; finish says so
    else:
        remedy = "the next validation's takes its place"
        progress.best_score = None
    say(accelerator, f"{best} is {what}; {remedy}.")


def train(run: Run) -> None:
    """Opens the log and a progress bar around the loop."""
    with contextlib.closing(RunLog(run)) as log, Console(run, log) as console, StopSignals() as signals:
        try:
            train_until_over(run, log, console, signals)
        except (ValueError, OSError) as error:
            error.is_own = True  # what befell one process, the others cannot tell
            raise
    say(run.accelerator, summary(run, log))


def train_until_over(run: Run, log: RunLog, console: Console, signals: StopSignals) -> None:
    """The loop: update, log, validate, save; until the steps, the epochs or the patience end, or a signal comes."""
    training, progress = run.settings.training, run.progress
    while True:
        if is_due(training.eval_steps, progress.step) and log.last_validation != progress.step:
            validate_and_save(run, log)  # a signal came before it
        started = time.perf_counter()  # reading the data counts, validating and saving do not
        for position in run.train_stream.epoch(progress.epoch, start=progress.epoch_updates):
            if is_over(run):
                break
            learning_rate = run.scheduler.get_last_lr()[0]
            loss, gradient_norm = make_update(run, position)
            progress.step += 1
            progress.epoch_updates += 1
            seconds = time.perf_counter() - started
            progress.seconds += seconds
            if not progress.skipped_in_a_row:  # else nothing was learnt from it
                progress.target_tokens += position.num_tokens
            log.update(position, loss, gradient_norm, learning_rate, seconds)
            console.update(loss, learning_rate)
            if number := signals.agreed(run.accelerator):
                save(run, log)  # a validation that is due can wait, and a scheduler may not
                stop(run, number)
            if is_due(training.eval_steps, progress.step):
                validate_and_save(run, log)
            elif is_due(training.save_steps, progress.step) and not is_over(run):
                save(run, log)
            started = time.perf_counter()
        else:
            if progress.epoch_updates == 0:
                raise ValueError(
                    "an epoch without a single pair: nothing is left of the training data after filtering."
                )
            progress.epoch += 1
            progress.epoch_updates = 0
            if training.eval_steps is None:
                validate_and_save(run, log)
        if is_over(run):  # asked last, so that an epoch is counted whose last update a checkpoint is of
            break
    if log.last_validation != progress.step:
        validate_and_save(run, log)
    if number := signals.agreed(run.accelerator):
        stop(run, number)


def is_due(every: int | None, step: int) -> bool:
    """Whether what is done every so many updates is to be done after update ``step``."""
    return every is not None and step > 0 and step % every == 0


def save(run: Run, log: RunLog) -> None:
    """Saves a checkpoint to resume from."""
    run.progress.log = log.state_dict()
    log.sync()
    limit = run.settings.training.save_total_limit
    checkpoints.save_checkpoint(run.folder, run.accelerator, run.progress, run.optimizer, limit)


def stop(run: Run, number: int) -> NoReturn:
    """Ends a run whose checkpoint is saved, as a signal wants it."""
    run.accelerator.end_training()
    raise Stopped(
        number,
        f"stopped by {signal.Signals(number).name} after {run.progress.step:,} updates; go on with: "
        f"train.py {run.folder / 'settings.yaml'} --resume",
    )


def validate_and_save(run: Run, log: RunLog) -> None:
    """Scores the model, keeps it if it is the best so far, and saves a checkpoint."""
    training, progress, started = run.settings.training, run.progress, time.perf_counter()
    scores = validate(run)
    if not math.isfinite(scores["loss"]):
        raise ValueError(
            f"the validation loss after update {progress.step} is {scores['loss']}: the weights are no longer numbers; "
            f"lower training.learning_rate. Checkpoints from before it are in {run.folder / 'checkpoints'}."
        )
    name = training.metric_for_best_model or training.eval_metric or "loss"
    score = scores[name]
    sign = 1 if name != "loss" and metrics.higher_is_better(name) else -1
    is_best = progress.best_score is None or sign * score > sign * progress.best_score
    if is_best:
        progress.best_score, progress.best_step, progress.validations_without_best = score, progress.step, 0
    else:
        progress.validations_without_best += 1
    progress.seconds += time.perf_counter() - started
    log.validation(scores, is_best)
    if is_best or training.average_checkpoints:
        whole = checkpoints.whole_model(run.accelerator, run.scored_model)
    if run.accelerator.is_main_process:
        if is_best:
            checkpoints.save_model(whole, run.tokenizer, run.folder / "checkpoints" / "best", progress.step)
        if most := training.average_checkpoints:
            rank = sign * score if training.average_kind == "best" else None
            checkpoints.keep_weights(whole, run.folder, progress.step, most, rank)
    save(run, log)
    hub = run.settings.hub
    if is_best and hub.push_to_hub and hub.hub_strategy == "best" and run.accelerator.is_main_process:
        best = run.folder / "checkpoints" / "best"
        sharing.push_best(best, hub, progress.step, functools.partial(say, run.accelerator))


@torch.no_grad()
def validate(run: Run) -> dict[str, float]:
    """The unsmoothed validation loss per target token and, where wanted, the metric of greedy outputs."""
    accelerator, model = run.accelerator, run.scored_model
    model.eval()
    total, num_tokens = torch.zeros((), dtype=torch.float64), 0
    for position in run.validation_stream.epoch(0):
        for batch in position.micro_batches:
            inputs = {name: tensor.to(accelerator.device) for name, tensor in batch.items()}
            with accelerator.autocast():
                loss = model(**inputs, num_items_in_batch=1, label_smoothing=0.0, use_cache=False).loss
            total += loss.item()
        num_tokens += position.num_tokens
    total = accelerator.reduce(total.float().to(accelerator.device), reduction="sum").item()
    scores = {"loss": total / num_tokens}
    if name := run.settings.training.eval_metric:
        sources, references = run.validation_pairs["source"][:], run.validation_pairs["target"][:]
        mine = slice(accelerator.process_index, None, accelerator.num_processes)
        greedy = {"num_beams": 1, "early_stopping": False, "length_penalty": 1.0}
        model = checkpoints.whole_model(accelerator, model)  # processes decode other texts, in other numbers of steps
        outputs = translate(
            model, run.tokenizer, sources[mine], batch_tokens=run.settings.generation.decode_batch_tokens, **greedy
        )
        order = gather_object(list(range(len(sources)))[mine])
        outputs = [text for _, text in sorted(zip(order, gather_object(outputs), strict=True))]
        options = run.settings.evaluation.metric_kwargs.get(name, {})
        scores[name] = metrics.compute(name, outputs, references, **options)["score"]
    return scores


def finish(run: Run, pairs: Pairs, data_record: dict[str, Any]) -> dict[str, Any]:
    """Chooses the final weights, scores them, and writes the model folder with its record and card."""
    settings, accelerator, progress = run.settings, run.accelerator, run.progress
    accelerator.wait_for_everyone()
    what = checkpoints.damage(run.folder / "checkpoints" / "best") if accelerator.is_main_process else None
    (what,) = broadcast_object_list([what])
    if what is not None:
        raise ValueError(
            f"{run.folder / 'checkpoints' / 'best'} is damaged ({what}), and no validation is left that could replace "
            "it; go on with --resume and more training.max_steps or num_train_epochs, or train anew with --overwrite."
        )
    model = AutoModelForSeq2SeqLM.from_pretrained(run.folder / "checkpoints" / "best").to(accelerator.device)
    chosen = f"the best validation's, after update {progress.best_step:,}"
    if run.average is not None:
        chosen += f" (their moving average with decay {settings.training.ema_decay})"
    if settings.training.average_checkpoints > 1 and checkpoints.has_kept_weights(run.folder):
        average = AutoModelForSeq2SeqLM.from_pretrained(run.folder / "checkpoints" / "best").to(accelerator.device)
        steps = checkpoints.load_average(average, run.folder)
        name = settings.training.metric_for_best_model or settings.training.eval_metric or "loss"
        score = validate(dataclasses.replace(run, model=average, average=None))[name]
        sign = 1 if name != "loss" and metrics.higher_is_better(name) else -1
        say(accelerator, f"{name}: average of {len(steps)} checkpoints {score:.4f}, best one {progress.best_score:.4f}")
        if sign * score >= sign * progress.best_score:
            model, chosen = average, f"the mean of those after updates {', '.join(f'{step:,}' for step in steps)}"
    split = settings.evaluation.split
    record = {
        "model": {"parameters": model.num_parameters(), "weights": chosen},
        "data": {**pairs.provenance, **data_record},
        "progress": {name: value for name, value in dataclasses.asdict(progress).items() if name != "log"},
        "environment": evaluation.environment(accelerator.num_processes),
        "precision": accelerator.mixed_precision,
        "evaluation": None,
        "example": pairs.splits.get(split or "", pairs.splits["validation"])[0]["source"],
    }
    penalty = settings.generation.coverage_penalty
    decoding = {"coverage_penalty": penalty} if penalty else {}  # all else is in the generation config
    if accelerator.is_main_process:
        with checkpoints.explained_when_full(run.folder / "saving-model"):
            model.save_pretrained(run.folder)
        if split in pairs.splits:
            record["evaluation"] = evaluation.score_split(
                model, run.tokenizer, pairs.splits[split], settings.evaluation,
                batch_tokens=settings.generation.decode_batch_tokens, split=split,
                folder=run.folder / "evaluation" / split, **decoding,
            )  # fmt: skip
        (run.folder / "record.json").write_text(json.dumps(record, indent=2, ensure_ascii=False), encoding="utf-8")
        cards.write_card(run.folder)
        if record["evaluation"] is not None:
            say(accelerator, evaluation.table(record["evaluation"]["metrics"]))
        say(accelerator, f"the model is in {run.folder}")
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return record


def is_over(run: Run) -> bool:
    """Whether the updates, the epochs or the patience are spent."""
    training, progress = run.settings.training, run.progress
    patience = training.early_stopping_patience
    return (
        (run.max_steps is not None and progress.step >= run.max_steps)
        or (training.num_train_epochs is not None and progress.epoch >= training.num_train_epochs)
        or (patience is not None and progress.validations_without_best >= patience)
    )
