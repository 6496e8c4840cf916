"""Training from scratch: settings → data → tokenizer → plan → loop → checkpoint → evaluation → card.

The loss of an update is the sum over its target tokens divided by their number, over micro-batches and processes; the
schedule counts updates. So neither accumulation nor the number of processes changes what is learnt.
"""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import dataclasses
import functools
import json
import logging
import math
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import InitProcessGroupKwargs, broadcast_object_list, gather_object, set_seed
from datasets import IterableDataset
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from tqdm.auto import tqdm
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel, get_scheduler
from transformers.utils.logging import disable_progress_bar

from seqloom import cards, checkpoints, evaluation, metrics, sharing
from seqloom.batching import EpochPosition, UpdateStream
from seqloom.checkpoints import Progress
from seqloom.data import Pairs, encode, load_pairs
from seqloom.decoding import translate
from seqloom.settings import Settings, load_settings, model_config_class
from seqloom.tokenization import check_matches, load_tokenizer, target_tokenizer, train_tokenizer

USAGE = "usage: train.py CONFIG.yaml [--key value ...] [--resume | --overwrite]"


@dataclass
class Run:
    """What the loop works with."""

    settings: Settings
    folder: Path
    accelerator: Accelerator
    model: nn.Module
    """As Accelerate wraps it; ``accelerator.unwrap_model(run.model)`` is the model itself."""
    optimizer: Any
    scheduler: Any
    tokenizer: Any
    train_stream: UpdateStream
    validation_stream: UpdateStream
    validation_pairs: Any
    """The texts that are decoded in validations."""
    max_steps: int | None
    progress: Progress


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


class RunLog:
    """``training_log.jsonl``, one line every ``logging_steps`` updates and every validation, and Accelerate's
    trackers."""

    def __init__(self, run: Run):
        self.run = run
        self.last_validation = run.progress.step  # checkpoints are saved after validations alone
        self.tokens_per_second = 0.0
        self._clear()
        if run.settings.training.report_to:
            flat = {f"{section}.{key}": str(value) for section, values in run.settings.to_dict().items()
                    if isinstance(values, dict) for key, value in values.items()}  # fmt: skip
            run.accelerator.init_trackers("seqloom", config=flat)
        self.file = None
        if run.accelerator.is_main_process:
            path = run.folder / "training_log.jsonl"
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
            whole = [line for line in lines if line.endswith("\n")]  # a kill may have cut the last one
            done = [line for line in whole if json.loads(line)["step"] <= run.progress.step]  # the rest is done anew
            self.file = path.open("w", encoding="utf-8", buffering=1)
            self.file.writelines(done)

    def _clear(self) -> None:
        self.loss = self.num_tokens = self.seconds = self.updates = 0

    def update(self, loss: float, gradient_norm: float, learning_rate: float, num_tokens: int, seconds: float) -> None:
        """Counts one update."""
        self.loss += loss * num_tokens
        self.num_tokens += num_tokens
        self.seconds += seconds
        self.updates += 1
        self.tokens_per_second = self.num_tokens / self.seconds
        progress = self.run.progress
        if progress.step % self.run.settings.training.logging_steps == 0:
            self._write(
                {
                    "epoch": progress.epoch,
                    "loss": self.loss / self.num_tokens,
                    "learning_rate": learning_rate,
                    "gradient_norm": gradient_norm,
                    "tokens_per_second": round(self.tokens_per_second, 1),
                    "seconds": round(progress.seconds, 2),
                }
            )
            self._clear()

    def validation(self, scores: dict[str, float], is_best: bool) -> None:
        """Writes and prints one validation."""
        progress = self.run.progress
        self.last_validation = progress.step
        line = ", ".join(f"{name} {score:.4f}" for name, score in scores.items())
        say(self.run.accelerator, f"update {progress.step:,}: validation {line}{' (best)' if is_best else ''}")
        values = {f"eval_{name}": score for name, score in scores.items()}
        self._write({"epoch": progress.epoch, **values, "best": is_best, "seconds": round(progress.seconds, 2)})

    def _write(self, values: dict[str, Any]) -> None:
        step = self.run.progress.step
        if self.file is not None:
            self.file.write(json.dumps({"step": step, **values}) + "\n")
        self.run.accelerator.log(values, step=step)

    def close(self) -> None:
        """Closes the file."""
        if self.file is not None:
            self.file.close()


def is_over(run: Run) -> bool:
    """Whether the updates, the epochs or the patience are spent."""
    training, progress = run.settings.training, run.progress
    patience = training.early_stopping_patience
    return (
        (run.max_steps is not None and progress.step >= run.max_steps)
        or (training.num_train_epochs is not None and progress.epoch >= training.num_train_epochs)
        or (patience is not None and progress.validations_without_best >= patience)
    )


def make_accelerator(settings: Settings) -> Accelerator:
    """Accelerate, on whatever ``accelerate launch`` or torchrun started."""
    precision = settings.training.mixed_precision
    on_cpu = not torch.accelerator.is_available()
    if on_cpu and precision == "fp16":
        raise ValueError("training.mixed_precision is fp16, which needs a GPU; on a CPU take bf16 or no.")
    installed = [str(tracker) for tracker in get_available_trackers()]
    for tracker in settings.training.report_to:  # Accelerate would leave out in silence what is not installed
        if tracker not in installed:
            raise ValueError(
                f"training.report_to has {tracker!r}, which is not installed here or not one of Accelerate's trackers; "
                f"installed: {', '.join(installed) or 'none'} (pip install 'seqloom[trackers]')."
            )
    accelerator = Accelerator(
        cpu=on_cpu,
        mixed_precision=precision,
        log_with=list(settings.training.report_to) or None,
        # The main process tokenizes and scores while the others wait, longer than the default of some minutes.
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(days=1))],
        project_dir=str(Path(settings.output_dir) / "trackers"),
    )
    if on_cpu:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        local_processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        torch.set_num_threads(settings.training.num_threads or max(1, cores // local_processes))
    return accelerator


def check_output_folder(folder: Path, settings: Settings, resume: bool, overwrite: bool) -> None:
    """Refuses to write over anything unless told to, and to resume another run."""
    is_run = (folder / "settings.yaml").is_file()
    if resume and is_run:
        earlier = load_settings(folder / "settings.yaml")
        for section in ("model", "data", "tokenizer"):
            if getattr(earlier, section) != getattr(settings, section):
                raise ValueError(
                    f"the run in {folder} was started with another {section} section than the one given; resume with "
                    f"{folder / 'settings.yaml'}, or train into another output_dir."
                )
        for name in ("seed", "batch_tokens", "batch_size", "batches_per_update"):
            if getattr(earlier.training, name) != getattr(settings.training, name):
                raise ValueError(
                    f"training.{name} is {getattr(settings.training, name)}, but the run in {folder} was started with "
                    f"{getattr(earlier.training, name)}: resuming would mix two orders of the data; keep it."
                )
    elif resume:
        raise ValueError(f"there is no run to resume in {folder}: it has no settings.yaml; start it without --resume.")
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        if not overwrite:
            raise ValueError(
                f"the output folder {folder} is not empty; give --resume to go on, --overwrite to start anew, or "
                "another --output_dir."
            )
        if not is_run:
            raise ValueError(
                f"{folder} holds no run of seqloom's, so --overwrite will not delete it; choose another one."
            )


def make_tokenizer(settings: Settings, pairs: Pairs, resumed: Path | None):
    """Loads the tokenizer, or trains it on the training data."""
    if resumed is not None:
        return load_tokenizer(resumed)
    if settings.tokenizer.path is not None:
        return load_tokenizer(settings.tokenizer.path)
    most = settings.tokenizer.train_samples
    train_set = pairs.splits["train"]
    head = train_set.take(most) if isinstance(train_set, IterableDataset) or len(train_set) > most else train_set

    def texts(side: str) -> Iterator[str]:
        return (text for part in head.iter(batch_size=1000) for text in part[side] if text)

    return train_tokenizer(texts("source"), texts("target"), settings.tokenizer)


def make_stream(
    dataset, settings: Settings, tokenizer, accelerator: Accelerator, is_validation: bool = False
) -> UpdateStream:
    """Encoded pairs as updates; validation data as single batches that no pair is too long for."""
    training = settings.training
    if is_validation:
        longest = max(map(len, (*dataset["input_ids"], *dataset["labels"])))
        training = dataclasses.replace(
            training,
            batch_tokens=None if training.batch_tokens is None else max(training.batch_tokens, longest),
            batches_per_update=1,
            gradient_accumulation_steps=1,
        )
    return UpdateStream(
        dataset,
        training,
        pad_token_id=tokenizer.pad_token_id,
        shuffle_buffer=settings.data.shuffle_buffer,
        num_processes=accelerator.num_processes,
        process_index=accelerator.process_index,
    )


def make_model(settings: Settings, tokenizer, train_stream: UpdateStream) -> PreTrainedModel:
    """A model of the settings' family, for the tokenizer's vocabularies, with its generation config."""
    fields = {name: value for name, value in settings.model.items() if name != "model_type"}
    config = model_config_class(settings.model["model_type"])(
        **fields,
        vocab_size=len(tokenizer),
        decoder_vocab_size=len(target_tokenizer(tokenizer)),
        share_encoder_decoder_embeddings=target_tokenizer(tokenizer) is tokenizer,
        label_smoothing=settings.training.label_smoothing_factor,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id,
    )
    check_matches(tokenizer, config)
    attention = settings.training.attn_implementation
    model = AutoModelForSeq2SeqLM.from_config(config, **({"attn_implementation": attention} if attention else {}))
    if settings.training.gradient_checkpointing:
        model.activation_checkpointing_enable()
    generation = settings.generation
    longest = generation.max_new_tokens
    if longest is None:
        limit = settings.data.max_target_length or 256
        longest = max(32, 2 * (limit if train_stream.is_streaming else int(train_stream.lengths[1].max())))
    model.generation_config.max_new_tokens = longest
    model.generation_config.num_beams = generation.num_beams
    if generation.num_beams > 1:
        model.generation_config.length_penalty = generation.length_penalty
        model.generation_config.early_stopping = generation.early_stopping
    unknown = model.generation_config.update(**generation.generate_kwargs)
    if unknown:
        raise ValueError(f"generation.generate_kwargs has {', '.join(unknown)}, which generate does not know.")
    model.generation_config.validate(strict=True)  # as saving will do, but now
    return model


def make_optimizer(model: nn.Module, settings: Settings, max_steps: int | None):
    """Optimizer and schedule. Biases and normalisation weights do not decay."""
    training = settings.training
    if max_steps is None and training.lr_scheduler_type in ("cosine", "linear"):
        raise ValueError(
            f"lr_scheduler_type {training.lr_scheduler_type} must know its end, which a streamed set has not: give "
            "training.max_steps, or take inverse_sqrt or constant."
        )
    decaying = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    others = [parameter for parameter in model.parameters() if parameter.dim() <= 1]
    optimizer = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[training.optim](
        [{"params": decaying}, {"params": others, "weight_decay": 0.0}],
        lr=training.learning_rate,
        betas=(training.adam_beta1, training.adam_beta2),
        eps=training.adam_epsilon,
        weight_decay=training.weight_decay,
        fused=True,
    )
    name = "constant_with_warmup" if training.lr_scheduler_type == "constant" else training.lr_scheduler_type
    scheduler = get_scheduler(name, optimizer, num_warmup_steps=training.warmup_steps, num_training_steps=max_steps)
    return optimizer, scheduler


def keep_freed_memory() -> None:
    """Tells glibc to keep large freed blocks: it would return every activation to the kernel and ask for it again."""
    if sys.platform == "linux" and not torch.accelerator.is_available() and ctypes.util.find_library("c"):
        libc = ctypes.CDLL(ctypes.util.find_library("c"))
        if hasattr(libc, "mallopt"):
            mmap_threshold, trim_threshold, largest = -3, -1, 2**31 - 1  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
            libc.mallopt(mmap_threshold, largest)
            libc.mallopt(trim_threshold, largest)


def quieten_libraries() -> None:
    """For the commands: no bars for saving and loading across the run's own, no word of tied matrices at every save."""
    disable_progress_bar()
    logging.getLogger("accelerate.utils.other").setLevel(logging.ERROR)


def say(accelerator: Accelerator, text: str) -> None:
    """Prints a line once, above the progress bar."""
    if accelerator.is_main_process:
        tqdm.write(text, file=sys.stdout)
        sys.stdout.flush()
