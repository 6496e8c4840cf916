"""What one watches of a run: its log, its trackers, its lines on the console."""

from __future__ import annotations

import itertools
import json
import math
import os
import sys
import time
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from tqdm.auto import tqdm

from seqloom import run_folder
from seqloom.scoring.metrics import Goal
from seqloom.support.console import duration, has_terminal, say
from seqloom.support.disk import RESUME, text, write_aside
from seqloom.support.foreign import from_json
from seqloom.support.machine import peak_memory

if TYPE_CHECKING:
    from seqloom.data.updates import EpochPosition
    from seqloom.training.state import Run


PROJECT = "seqloom"
"""What the trackers call it."""
SECONDS_BETWEEN_LINES = 10
"""On a console that is no terminal."""


class RunLog:
    """``training_log.jsonl``, one line every ``logging_steps`` updates and every validation, and Accelerate's trackers.

    All processes call its methods; the main one writes. docs/watching.md explains the columns. What is no number (NaN,
    infinite) is left out, since neither JSON nor every tracker knows such.
    """

    loss: float
    seconds: float

    def __init__(self, run: Run):
        self.run = run
        self.last_validation = run.progress.step  # where no checkpoint says otherwise
        self.mean_loss = math.nan
        """Of the line in the making, or of the last one."""
        self.tokens_per_second = 0.0
        """As ``mean_loss``."""
        self.memory_mib = 0.0
        self._clear()
        if run.progress.log:
            self.load_state_dict(run.progress.log)
        if run.settings.training.report_to:
            start_trackers(run)
        self.file, self.tracked = None, set()
        if run.accelerator.is_main_process:
            path = run.folder / run_folder.LOG
            # What is no UTF-8 is damaged, and no JSON with backslashes in its place either.
            written = path.read_text(encoding="utf-8", errors="backslashreplace") if path.exists() else ""
            lines = written.splitlines(keepends=True)
            whole = list(itertools.takewhile(_is_whole, lines))  # a kill may have cut the last one
            if len(lines) > len(whole) + 1:
                say(
                    run.accelerator,
                    f"{path} is damaged from line {len(whole) + 1} on; it goes on after the one before.",
                )
            done = [line for line in whole if self._is_done(from_json(line))]  # the rest is done anew
            # Of what is done anew, TensorBoard forgets the first time; the others could only show it twice.
            self.tracked = {_name(from_json(line)) for line in whole if line not in done}
            if done != lines:
                write_aside(path, text("".join(done)), RESUME)
            self.file = path.open("a", encoding="utf-8", buffering=1)

    def sync(self) -> None:
        """Brings the lines to the disk, before a checkpoint is that counts on them."""
        if self.file is not None:
            os.fsync(self.file.fileno())

    def _is_done(self, line: dict[str, Any]) -> bool:
        # A checkpoint may be of the update that a validation followed.
        return line["step"] <= (self.last_validation if "best" in line else self.run.progress.step)

    def _clear(self) -> None:
        self.loss = self.loss_tokens = self.num_tokens = self.seconds = self.num_positions = self.num_filled = 0

    def state_dict(self) -> dict[str, Any]:
        """The sums of the line in the making, and the last validation's update: plain numbers, as JSON holds them."""
        return {name: getattr(self, name) for name in self._STATE}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from the sums of another log's `state_dict`."""
        for name in self._STATE:
            setattr(self, name, state[name])

    _STATE = (
        "loss", "loss_tokens", "num_tokens", "seconds", "num_positions", "num_filled", "last_validation",
    )  # fmt: skip

    def update(
        self, position: EpochPosition, loss: float, gradient_norm: float, learning_rate: float, seconds: float
    ) -> None:
        """Counts one update; of one that was left out, the time and the size alone."""
        progress = self.run.progress
        if not progress.skipped_in_a_row:
            self.loss += loss * position.num_tokens
            self.loss_tokens += position.num_tokens
        self.num_tokens += position.num_tokens
        self.num_positions += position.num_positions
        self.num_filled += position.num_filled
        self.seconds += seconds
        self.mean_loss = self.loss / self.loss_tokens if self.loss_tokens else math.nan
        self.tokens_per_second = self.num_tokens / self.seconds
        if progress.step % self.run.settings.training.logging_steps == 0:
            self._write(
                "train",
                {
                    "epoch": progress.epoch,
                    "loss": self.mean_loss,
                    "learning_rate": learning_rate,
                    "gradient_norm": gradient_norm,
                    "tokens_per_second": round(self.tokens_per_second, 1),
                    "padding": 1 - self.num_filled / self.num_positions if self.num_positions else math.nan,
                },
            )
            self._clear()

    def validation(self, scores: dict[str, float], is_best: bool) -> None:
        """Writes and prints one validation."""
        progress = self.run.progress
        self.last_validation = progress.step
        line = ", ".join(f"{name} {score:.4f}" for name, score in scores.items())
        say(self.run.accelerator, f"update {progress.step:,}: validation {line}{' (best)' if is_best else ''}")
        values = {f"eval_{name}": score for name, score in scores.items()}
        self._write("eval", {"epoch": progress.epoch, **values, "best": is_best})

    def _write(self, group: str, values: dict[str, Any]) -> None:
        progress, accelerator = self.run.progress, self.run.accelerator
        memory = torch.tensor([peak_memory(accelerator.device)], device=accelerator.device)
        self.memory_mib = round(accelerator.gather(memory).max().item(), 1)  # of the process that takes most
        values = {
            **values,
            "target_tokens": progress.target_tokens,
            "memory_mib": self.memory_mib,
            "seconds": round(progress.seconds, 2),
        }
        values = {name: value for name, value in values.items() if math.isfinite(value)}
        if self.file is not None:
            self.file.write(json.dumps({"step": progress.step, **values}, allow_nan=False) + "\n")
        if accelerator.trackers:
            named = {f"{group}/{name.removeprefix('eval_')}": float(value) for name, value in values.items()}
            for tracker in accelerator.trackers:
                if tracker.name == "tensorboard" or _name({"step": progress.step, **values}) not in self.tracked:
                    tracker.log(named, step=progress.step)

    def close(self) -> None:
        """Closes the file."""
        if self.file is not None:
            self.file.close()


def _name(line: dict[str, Any]) -> tuple[int, bool]:
    """Which line of the log it is: update, and whether it is a validation's."""
    return line["step"], "best" in line


def start_trackers(run: Run) -> None:
    """Starts those of ``report_to``, or goes on where they were, and gives them the settings once."""
    folder = run.folder / run_folder.TRACKERS
    identity, options, is_new = folder / "run_id", {}, True
    if run.accelerator.is_main_process:
        is_new = run.progress.step == 0 or not identity.exists()
        if is_new:
            folder.mkdir(exist_ok=True)
            write_aside(identity, text(uuid.uuid4().hex[:8]), RESUME)
        run_id, name = identity.read_text(), run.folder.resolve().name
        wandb = {"id": run_id, "name": name, "dir": str(folder), "resume": "allow"}
        variables = {"id": "WANDB_RUN_ID", "name": "WANDB_NAME", "dir": "WANDB_DIR", "resume": "WANDB_RESUME"}
        options = {
            # What was written after the checkpoint is written anew.
            "tensorboard": {} if is_new else {"purge_step": run.progress.step + 1},
            "wandb": {key: value for key, value in wandb.items() if variables[key] not in os.environ},
            "trackio": {"name": f"{name}-{run_id}", "resume": "allow"},
        }
    run.accelerator.init_trackers(PROJECT, flat_settings(run.settings.to_dict()) if is_new else None, options)


def flat_settings(settings: dict[str, Any]) -> dict[str, str | int | float | bool]:
    """Settings as trackers take them: ``{"training.learning_rate": 0.001, "model.d_model": 512, …}``, lists as JSON."""
    flat = {}
    for name, value in settings.items():
        section = value if isinstance(value, dict) else None
        for key, item in ({name: value} if section is None else section).items():
            plain = item if isinstance(item, str | int | float) else json.dumps(item, ensure_ascii=False)
            flat[key if section is None else f"{name}.{key}"] = plain
    return flat


class Console:
    """The progress bar of a terminal or notebook; elsewhere plain lines, as a file or a CI's log can hold them.

    There is a line for the first update, one with every line of the log but not oftener than every 10 seconds, and one
    for the last: ``update 850/1,200, epoch 4: loss 0.066, learning rate 6.9e-04, 36,914 tokens/s, 11 s left``.

    Args:
        run, log: What it tells of.
        clock: Seconds, from any moment on.
    """

    def __init__(self, run: Run, log: RunLog, clock: Callable[[], float] = time.monotonic):
        self.run, self.log, self.clock = run, log, clock
        self.is_main = run.accelerator.is_main_process
        self.has_bar = self.is_main and has_terminal()
        self.bar = tqdm(
            total=run.max_steps, initial=run.progress.step, desc="training", unit=" updates", dynamic_ncols=True,
            disable=not self.has_bar, mininterval=0.5,
        )  # fmt: skip
        self.first_step, self.started = run.progress.step, clock()
        self.last_step, self.last_time = run.progress.step, -math.inf
        self.learning_rate = 0.0

    def update(self, loss: float, learning_rate: float) -> None:
        """After every update, when the log has counted it."""
        step, self.learning_rate = self.run.progress.step, learning_rate
        self.bar.update()
        self.bar.set_postfix_str(
            f"epoch {self.run.progress.epoch + 1}, loss {loss:.3f}, {self.log.tokens_per_second:,.0f} tokens/s",
            refresh=False,
        )
        is_logged = step % self.run.settings.training.logging_steps == 0
        is_time = self.clock() - self.last_time >= SECONDS_BETWEEN_LINES
        if step == self.first_step + 1 or (is_logged and is_time):
            self._print_line()

    def _print_line(self) -> None:
        progress, log, total = self.run.progress, self.log, self.run.max_steps
        self.last_step, self.last_time = progress.step, self.clock()
        if not self.is_main or self.has_bar:
            return
        elapsed, updates = self.last_time - self.started, progress.step - self.first_step
        place = f"update {progress.step:,}" + (f"/{total:,}" if total else "")
        # At an epoch's end, its number has risen already.
        epoch = progress.epoch + (progress.epoch_updates > 0 or progress.epoch == 0)
        facts = [
            f"loss {log.mean_loss:.3f}",
            f"learning rate {self.learning_rate:.1e}",
            f"{log.tokens_per_second:,.0f} tokens/s",
        ]
        if total and 0 < progress.step < total and updates > 1:  # the first update takes longer than the others
            facts.append(f"{duration((total - progress.step) * elapsed / updates)} left")
        else:
            facts.append(f"{duration(elapsed)} so far")
        print(f"{place}, epoch {epoch}: {', '.join(facts)}", file=sys.stderr, flush=True)

    def __enter__(self) -> Console:
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.close()
        if self.last_step != self.run.progress.step:
            self._print_line()


def summary(run: Run, log: RunLog) -> str:
    """A finished training as a small table."""
    progress, training = run.progress, run.settings.training
    name = Goal.of(training).name
    memory = "of the process" if run.accelerator.device.type == "cpu" else "on the device"
    begun = f", {progress.epoch_updates:,} updates of the next" if progress.epoch_updates else ""
    rows = {
        "updates": f"{progress.step:,}",
        "epochs": f"{progress.epoch:,}{begun}",
        "target tokens": f"{progress.target_tokens:,}",
        "time": f"{progress.seconds:,.1f} s ({duration(progress.seconds)}), validations included",
        "speed": f"{progress.target_tokens / progress.seconds:,.0f} target tokens/s" if progress.seconds else "",
        "best": f"{name} {progress.best_score:.4f} after update {progress.best_step:,}" if progress.best_step else "",
        "peak memory": f"{log.memory_mib:,.0f} MiB {memory}" if log.memory_mib else "",  # none: all was done
        "folder": str(run.folder),
    }
    return "\n".join(f"{title:<15}{value}" for title, value in rows.items() if value)


def _is_whole(line: str) -> bool:
    """Whether a line of the log came to its end and is what was written."""
    try:
        found = from_json(line)
    except ValueError:
        return False
    return line.endswith("\n") and isinstance(found, dict) and isinstance(found.get("step"), int)
