"""What one watches of a run: its log, its trackers, its lines on the console."""

from __future__ import annotations

import json
import logging
import sys
from typing import TYPE_CHECKING, Any

from accelerate import Accelerator
from tqdm.auto import tqdm
from transformers.utils.logging import disable_progress_bar

if TYPE_CHECKING:
    from seqloom.building import Run


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


def quieten_libraries() -> None:
    """For the commands: no bars for saving and loading across the run's own, no word of tied matrices at every save."""
    disable_progress_bar()
    logging.getLogger("accelerate.utils.other").setLevel(logging.ERROR)


def say(accelerator: Accelerator, text: str) -> None:
    """Prints a line once, above the progress bar."""
    if accelerator.is_main_process:
        tqdm.write(text, file=sys.stdout)
        sys.stdout.flush()
