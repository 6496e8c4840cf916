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
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list, gather_object, set_seed
from datasets import IterableDataset
from huggingface_hub.errors import StrictDataclassError
from tqdm.auto import tqdm
from transformers import AutoModelForSeq2SeqLM

from seqloom import cards, checkpoints, evaluation, metrics, sharing
from seqloom.batching import EpochPosition
from seqloom.building import (
    Run,
    check_output_folder,
    keep_freed_memory,
    make_accelerator,
    make_model,
    make_optimizer,
    make_stream,
    make_tokenizer,
)
from seqloom.checkpoints import Progress
from seqloom.data import Pairs, encode, load_pairs
from seqloom.decoding import translate
from seqloom.settings import Settings, load_settings
from seqloom.tracking import RunLog, quieten_libraries, say

USAGE = "usage: train.py CONFIG.yaml [--key value ...] [--resume | --overwrite]"


def main(argv: Sequence[str] | None = None) -> int:
    """The command ``train.py``; returns its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(USAGE, "", "Keys are the settings of configs/*.yaml; src/seqloom/settings.py explains each.", sep="\n")
        return 0 if words else 2
    flags = {flag: f"--{flag}" in words for flag in ("resume", "overwrite")}
    words = [word for word in words if word not in ("--resume", "--overwrite")]
    try:
        if not words or words[0].startswith("--"):
            raise ValueError(f"the configuration file comes first. {USAGE}")
        if all(flags.values()):
            raise ValueError("--resume goes on with what --overwrite would delete: give one of them.")
        quieten_libraries()
        run_training(load_settings(words[0], words[1:]), **flags)
    except (ValueError, OSError, StrictDataclassError) as error:
        if int(os.environ.get("RANK", "0")) == 0:
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


def run_training(settings: Settings, *, resume: bool = False, overwrite: bool = False) -> dict[str, Any]:
    """Trains, scores and saves one model.

    Args:
        settings: The run.
        resume: Go on from the output folder's last checkpoint.
        overwrite: Delete an earlier run's output folder.

    Returns:
        The run's record: data, progress, scores, hardware, versions. The model is in ``settings.output_dir``.

    Raises:
        ValueError: The settings, the data or the output folder do not allow it; or the loss is no longer a number.
    """
    keep_freed_memory()
    training = settings.training
    accelerator = make_accelerator(settings)
    folder = Path(settings.output_dir)
    check_output_folder(folder, settings, resume, overwrite)
    for name in filter(None, (training.eval_metric, *settings.evaluation.metrics)):
        metrics.load_metric(name)  # a misspelt name shows now, not after the training
    if settings.hub.push_to_hub and accelerator.is_main_process:
        sharing.prepare(settings.hub)
    set_seed(training.seed)
    with accelerator.main_process_first():
        pairs = load_pairs(settings.data, training.seed)
    # One process trains it for all, since unigram's trainer does not give the same tokenizer twice.
    tokenizer = make_tokenizer(settings, pairs, folder if resume else None) if accelerator.is_main_process else None
    (tokenizer,) = broadcast_object_list([tokenizer])
    with accelerator.main_process_first():
        train_set, report = encode(pairs.splits["train"], tokenizer, settings.data)
        validation_set, _ = encode(pairs.splits["validation"], tokenizer, settings.data, drop=False)
    is_streaming = isinstance(train_set, IterableDataset)
    say(
        accelerator,
        f"training data: {'a stream, whose pairs are counted as they are read' if is_streaming else report}",
    )

    train_stream = make_stream(train_set, settings, tokenizer, accelerator)
    validation_stream = make_stream(validation_set, settings, tokenizer, accelerator, is_validation=True)
    plan = train_stream.summary()
    say(accelerator, f"plan: {plan}")
    max_steps = training.max_steps
    if training.num_train_epochs is not None and not train_stream.is_streaming:
        epochs_steps = training.num_train_epochs * plan.updates
        max_steps = min(max_steps or epochs_steps, epochs_steps)

    model = make_model(settings, tokenizer, train_stream)
    say(accelerator, f"model: {type(model).__name__} with {model.num_parameters():,} parameters")
    optimizer, scheduler = make_optimizer(model, settings, max_steps)
    model, optimizer = accelerator.prepare(model, optimizer)
    accelerator.register_for_checkpointing(scheduler)
    set_seed(training.seed, device_specific=True)  # every process drops out other units

    run = Run(
        settings, folder, accelerator, model, optimizer, scheduler, tokenizer, train_stream, validation_stream,
        pairs.splits["validation"].select(range(min(training.eval_samples or 10**9, len(validation_set)))),
        max_steps, Progress(),
    )  # fmt: skip
    checkpoint = checkpoints.last_checkpoint(folder) if resume else None
    if checkpoint is not None:
        run.progress = checkpoints.load_checkpoint(checkpoint, accelerator)
        say(accelerator, f"resuming {checkpoint} after {run.progress.step:,} updates")
    if accelerator.is_main_process:
        if overwrite and folder.exists():  # not before everything that can be wrong with the new run was found right
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        settings.save(folder / "settings.yaml")
        if checkpoint is None:
            tokenizer.save_pretrained(folder)
    accelerator.wait_for_everyone()
    train(run)
    counts = f"a stream; of everything read, {report}" if is_streaming else str(report)
    record = finish(run, pairs, {"train": counts, "plan": dataclasses.asdict(plan)})
    if settings.hub.push_to_hub and accelerator.is_main_process:
        sharing.push(folder, settings.hub, say=functools.partial(say, accelerator))
    return record


def train(run: Run) -> None:
    """Opens the log and a progress bar around the loop."""
    bar = tqdm(
        total=run.max_steps, initial=run.progress.step, desc="training", unit=" updates", dynamic_ncols=True,
        disable=not run.accelerator.is_main_process, mininterval=0.5 if sys.stderr.isatty() else 30,
    )  # fmt: skip
    with bar, contextlib.closing(RunLog(run)) as log:
        train_until_over(run, log, bar)


def train_until_over(run: Run, log: RunLog, bar: tqdm) -> None:
    """The loop: update, log, validate, save; until the steps, the epochs or the patience end."""
    training, progress = run.settings.training, run.progress
    while not is_over(run):
        for position in run.train_stream.epoch(progress.epoch, start=progress.epoch_updates):
            if is_over(run):
                break
            started = time.perf_counter()
            learning_rate = run.scheduler.get_last_lr()[0]
            loss, gradient_norm = make_update(run, position)
            progress.step += 1
            progress.epoch_updates += 1
            progress.target_tokens += position.num_tokens
            seconds = time.perf_counter() - started
            progress.seconds += seconds
            log.update(loss, gradient_norm, learning_rate, position.num_tokens, seconds)
            bar.update()
            bar.set_postfix_str(
                f"epoch {progress.epoch + 1}, loss {loss:.3f}, {log.tokens_per_second:,.0f} tokens/s", refresh=False
            )
            if training.eval_steps and progress.step % training.eval_steps == 0:
                validate_and_save(run, log)
        else:
            if progress.epoch_updates == 0:
                raise ValueError(
                    "an epoch without a single pair: nothing is left of the training data after filtering."
                )
            progress.epoch += 1
            progress.epoch_updates = 0
            if training.eval_steps is None:
                validate_and_save(run, log)
    if log.last_validation != progress.step:
        validate_and_save(run, log)


def make_update(run: Run, position: EpochPosition) -> tuple[float, float]:
    """One optimizer step; its loss (mean over the target tokens of all processes) and gradient norm."""
    accelerator, total = run.accelerator, torch.zeros((), device=run.accelerator.device)
    run.model.train()
    last = len(position.micro_batches) - 1
    for index, batch in enumerate(position.micro_batches):
        # Gradients travel between processes once, with the last micro-batch.
        with contextlib.nullcontext() if index == last else accelerator.no_sync(run.model):
            inputs = {name: tensor.to(accelerator.device, non_blocking=True) for name, tensor in batch.items()}
            loss = run.model(**inputs, num_items_in_batch=position.num_tokens, use_cache=False).loss
            # DistributedDataParallel takes the mean over processes where a sum is wanted.
            accelerator.backward(loss * accelerator.num_processes)
            total += loss.detach()
    loss = accelerator.reduce(total, reduction="sum").item()
    if not math.isfinite(loss):
        raise ValueError(
            f"the loss became {loss} in update {run.progress.step + 1} (epoch {position.epoch + 1}, its update "
            f"{position.index + 1}); lower training.learning_rate, warm up longer or clip at a smaller max_grad_norm. "
            f"Checkpoints from before it are in {run.folder / 'checkpoints'}."
        )
    limit = run.settings.training.max_grad_norm
    gradient_norm = accelerator.clip_grad_norm_(run.model.parameters(), math.inf if limit is None else limit)
    run.optimizer.step()
    run.optimizer.zero_grad()
    run.scheduler.step()
    return loss, float(gradient_norm)


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
    if run.accelerator.is_main_process:
        model = run.accelerator.unwrap_model(run.model)
        if is_best:
            checkpoints.save_model(model, run.tokenizer, run.folder / "checkpoints" / "best")
        if training.average_checkpoints:
            checkpoints.keep_weights(model, run.folder, progress.step, training.average_checkpoints)
    checkpoints.save_checkpoint(run.folder, run.accelerator, progress)
    hub = run.settings.hub
    if is_best and hub.push_to_hub and hub.hub_strategy == "best" and run.accelerator.is_main_process:
        message = f"The best after {progress.step:,} updates: {name} {score:.4f}"
        sharing.push_best(run.folder / "checkpoints" / "best", hub, message, functools.partial(say, run.accelerator))


@torch.no_grad()
def validate(run: Run) -> dict[str, float]:
    """The unsmoothed validation loss per target token and, where wanted, the metric of greedy outputs."""
    accelerator, model = run.accelerator, run.accelerator.unwrap_model(run.model)
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
    model = AutoModelForSeq2SeqLM.from_pretrained(run.folder / "checkpoints" / "best").to(accelerator.device)
    chosen = f"the best validation's, after update {progress.best_step:,}"
    if settings.training.average_checkpoints > 1:
        average = AutoModelForSeq2SeqLM.from_pretrained(run.folder / "checkpoints" / "best").to(accelerator.device)
        steps = checkpoints.load_average(average, run.folder)
        name = settings.training.metric_for_best_model or settings.training.eval_metric or "loss"
        score = validate(dataclasses.replace(run, model=average))[name]
        sign = 1 if name != "loss" and metrics.higher_is_better(name) else -1
        say(accelerator, f"{name}: average of {len(steps)} checkpoints {score:.4f}, best one {progress.best_score:.4f}")
        if sign * score >= sign * progress.best_score:
            model, chosen = average, f"the mean of those after updates {', '.join(f'{step:,}' for step in steps)}"
    split = settings.evaluation.split
    record = {
        "model": {"parameters": model.num_parameters(), "weights": chosen},
        "data": {**pairs.provenance, **data_record},
        "progress": dataclasses.asdict(progress),
        "environment": evaluation.environment(accelerator.num_processes),
        "precision": accelerator.mixed_precision,
        "evaluation": None,
        "example": pairs.splits.get(split or "", pairs.splits["validation"])[0]["source"],
    }
    penalty = settings.generation.coverage_penalty
    decoding = {"coverage_penalty": penalty} if penalty else {}  # all else is in the generation config
    if accelerator.is_main_process:
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
