"""One update: forward, backward, step; and what is done when it does not fit or gives no numbers."""

from __future__ import annotations

import contextlib
import math
import time
from typing import Any

import torch
from accelerate.utils import release_memory

from seqloom import run_folder
from seqloom.data.batches import cut
from seqloom.data.tokenization import target_tokenizer
from seqloom.data.updates import EpochPosition
from seqloom.support.console import duration, say
from seqloom.support.machine import peak_memory
from seqloom.training.r_drop import disagreement, twice
from seqloom.training.state import Run


def make_update(run: Run, position: EpochPosition) -> tuple[float, float]:
    """One optimizer step; its loss (mean over the target tokens of all processes) and gradient norm.

    An update whose loss or gradient is no number is left out: the weights stay, the schedule goes on.
    """
    accelerator, training, progress = run.accelerator, run.settings.training, run.progress
    run.model.train()
    while True:
        try:
            loss = accumulate_gradients(run, position)
            break
        except torch.OutOfMemoryError as error:
            cut_finer(run, position, error)  # and once more
    limit = math.inf if training.max_grad_norm is None else training.max_grad_norm
    gradient_norm = float(accelerator.clip_grad_norm_(run.model.parameters(), limit))
    is_number = math.isfinite(loss) and math.isfinite(gradient_norm)
    if is_number or accelerator.scaler is not None:  # the scaler of fp16 leaves out what overflows, and scales less
        run.optimizer.step()
    run.optimizer.zero_grad()
    run.scheduler.step()
    if is_number:
        progress.skipped_in_a_row = 0
        if run.average is not None and not accelerator.optimizer_step_was_skipped:
            run.average.update_parameters(accelerator.unwrap_model(run.model))
    else:
        note_skipped(run, position, loss, gradient_norm)
    return loss, gradient_norm


def accumulate_gradients(run: Run, position: EpochPosition) -> float:
    """Forward and backward of all micro-batches; the update's loss over all processes."""
    accelerator, total = run.accelerator, torch.zeros((), device=run.accelerator.device)
    micro_batches = [piece for batch in position.micro_batches for piece in cut(batch, run.pieces)]
    last, alpha = len(micro_batches) - 1, run.settings.training.r_drop_alpha
    for index, batch in enumerate(micro_batches):
        # Gradients travel between processes once, with the last micro-batch.
        with contextlib.nullcontext() if index == last else accelerator.no_sync(run.model):
            inputs = {name: tensor.to(accelerator.device, non_blocking=True) for name, tensor in batch.items()}
            num_tokens = position.num_tokens
            if alpha:
                inputs, num_tokens = twice(inputs), 2 * num_tokens
            outputs = run.model(**inputs, num_items_in_batch=num_tokens, use_cache=False, **run.loss_options)
            loss = outputs.loss
            if run.teacher is not None:
                loss = run.teacher.mixed(loss, outputs.logits, inputs, num_tokens)
            if alpha:
                loss = loss + alpha * disagreement(outputs.logits, inputs["labels"]) / position.num_tokens
            # DistributedDataParallel takes the mean over processes where a sum is wanted.
            accelerator.backward(loss * accelerator.num_processes)
            total += loss.detach()
    return accelerator.reduce(total, reduction="sum").item()


def cut_finer(run: Run, position: EpochPosition, error: torch.OutOfMemoryError) -> None:
    """After an update that did not fit into the device's memory: half as many tokens at a time, from now on.

    The update stays the same, as its pieces' gradients add up to it.

    Raises:
        ValueError: Pieces of one pair do not fit either; or there are several processes, whose pieces must agree.
    """
    run.optimizer.zero_grad()
    rows = max(len(batch["labels"]) for batch in position.micro_batches)
    pieces = run.settings.training.gradient_accumulation_steps
    if run.accelerator.num_processes > 1 or rows <= run.pieces:
        remedy = (
            "a single pair does not fit: lower data.max_source_length and data.max_target_length, or shrink the model"
            if rows <= run.pieces
            else f"set training.gradient_accumulation_steps to {2 * pieces} and --resume: the updates stay the same"
        )
        raise ValueError(f"the device has too little memory for update {run.progress.step + 1}; {remedy}.") from error
    run.pieces *= 2
    error.__traceback__ = None  # its frames hold the tensors that were too many
    release_memory()
    say(
        run.accelerator,
        f"update {run.progress.step + 1:,} did not fit into memory: from now on every batch goes through in "
        f"{run.pieces} pieces; the updates stay the same (as with gradient_accumulation_steps: {pieces * run.pieces}).",
    )


def note_skipped(run: Run, position: EpochPosition, loss: float, gradient_norm: float) -> None:
    """Counts and names an update that was left out.

    Raises:
        ValueError: There were too many in a row.
    """
    progress, most = run.progress, run.settings.training.max_skipped_updates
    progress.skipped_updates += 1
    progress.skipped_in_a_row += 1
    if run.accelerator.scaler is not None and math.isfinite(loss):
        most += 24  # halvings from the first scale on, until gradients fit into fp16
    batch = position.micro_batches[0]
    side = {} if target_tokenizer(run.tokenizer) is run.tokenizer else {"use_source_tokenizer": True}
    text = run.tokenizer.decode(batch["input_ids"][0], skip_special_tokens=True, **side)
    what = (
        f"the loss became {loss} with a gradient norm of {gradient_norm} in update {progress.step + 1} (epoch "
        f"{position.epoch + 1}, its update {position.index + 1}, with the pair of {text[:80]!r})"
    )
    if progress.skipped_in_a_row > most:
        raise ValueError(
            f"{what}, the {progress.skipped_in_a_row}. such update in a row; lower training.learning_rate, warm up "
            "longer, clip at a smaller max_grad_norm, or look at these pairs. Checkpoints from before it are in "
            f"{run_folder.checkpoints(run.folder)}."
        )
    say(run.accelerator, f"{what}: left out ({progress.skipped_updates} so far).")


def rehearse(run: Run) -> dict[str, Any]:
    """Makes the update that needs most memory, twice, and says what the training will take; writes nothing."""
    stream, accelerator = run.train_stream, run.accelerator
    left = None if run.max_steps is None else run.max_steps - run.progress.step
    index = stream.largest_update()
    for _ in range(2):  # the first one warms up
        position = next(stream.epoch(0, start=index))
        started = time.perf_counter()
        loss, gradient_norm = make_update(run, position)
        seconds = time.perf_counter() - started
        run.progress.step += 1
    parameters = list(run.model.parameters())
    mebibytes = {
        "weights": sum(p.numel() * p.element_size() for p in parameters) / 2**20,
        "gradients": sum(p.numel() * p.element_size() for p in parameters if p.requires_grad) / 2**20,
        "optimizer": sum(
            t.numel() * t.element_size()
            for state in run.optimizer.state.values()
            for t in state.values()
            if torch.is_tensor(t)
        )
        / 2**20,
        "peak of the process": peak_memory(accelerator.device),
    }
    say(accelerator, f"memory, MiB: {', '.join(f'{name} {size:,.0f}' for name, size in mebibytes.items())}")
    say(
        accelerator,
        f"the largest update ({position.num_tokens:,} target tokens): {seconds:.2f} s, loss {loss:.3f}, gradient norm "
        f"{gradient_norm:.3f}",
    )
    if left is not None and left > 0:
        say(accelerator, f"at most {duration(math.ceil(left * seconds))} for {left:,} updates, validations apart")
    say(accelerator, "dry run: nothing was written.")
    return {"memory_mib": mebibytes, "seconds": seconds, "loss": loss, "gradient_norm": gradient_norm}
