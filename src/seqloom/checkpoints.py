"""Checkpoints of a run: everything that the next update depends on, written aside and then renamed.

Layout of an output folder::

    config.json, model.safetensors, tokenizer…, README.md   the finished model
    settings.yaml, training_log.jsonl                       the run's settings and record
    checkpoints/step-00001200/                              full state of the last save, to resume from
    checkpoints/best/                                       the best model so far, for from_pretrained
    checkpoints/weights/step-….safetensors                  weights of the last validations, for averaging
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

STATE_FILE = "progress.json"


@dataclass
class Progress:
    """Where a run stands."""

    step: int = 0
    """Updates made."""
    epoch: int = 0
    epoch_updates: int = 0
    """Updates made in this epoch."""
    seconds: float = 0.0
    """Of training, validations included."""
    target_tokens: int = 0
    """Target tokens learnt from."""
    best_score: float | None = None
    best_step: int = 0
    validations_without_best: int = 0


def save_checkpoint(folder: Path, accelerator: Accelerator, progress: Progress) -> None:
    """Saves weights, optimizer, schedule, scaler, random states of every process, and the progress.

    A kill at any moment leaves this checkpoint whole or the one before it.
    """
    checkpoints = folder / "checkpoints"
    name = f"step-{progress.step:08d}"
    aside = checkpoints / f"saving-{name}"
    if accelerator.is_main_process:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(aside))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        (aside / STATE_FILE).write_text(json.dumps(asdict(progress), indent=2))
        replace_folder(aside, checkpoints / name)
        for older in checkpoints.glob("step-*"):
            if older.name != name:
                shutil.rmtree(older)
    accelerator.wait_for_everyone()


def last_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint of an output folder."""
    complete = sorted(path for path in (folder / "checkpoints").glob("step-*") if (path / STATE_FILE).is_file())
    return complete[-1] if complete else None


def load_checkpoint(checkpoint: Path, accelerator: Accelerator) -> Progress:
    """Puts everything back as it was."""
    accelerator.load_state(str(checkpoint))
    return Progress(**json.loads((checkpoint / STATE_FILE).read_text()))


def save_model(model: PreTrainedModel, tokenizer, folder: Path) -> None:
    """Writes a folder that `from_pretrained` loads, aside and then renamed."""
    aside = folder.with_name(f"saving-{folder.name}")
    shutil.rmtree(aside, ignore_errors=True)
    model.save_pretrained(aside)
    tokenizer.save_pretrained(aside)
    replace_folder(aside, folder)


def replace_folder(new: Path, place: Path) -> None:
    """Renames a folder into place, over an older one if there is one."""
    if place.exists():
        old = place.with_name(f"old-{place.name}")
        shutil.rmtree(old, ignore_errors=True)
        os.replace(place, old)
        os.replace(new, place)
        shutil.rmtree(old)
    else:
        os.replace(new, place)


def keep_weights(model: PreTrainedModel, folder: Path, step: int, most: int) -> None:
    """Adds the model's weights to those of the last ``most`` validations."""
    weights = folder / "checkpoints" / "weights"
    weights.mkdir(parents=True, exist_ok=True)
    # Tied matrices are one parameter to named_parameters, so each is written once.
    tensors = {name: parameter.detach().cpu().contiguous() for name, parameter in model.named_parameters()}
    aside = weights / "saving"
    save_file(tensors, aside)
    os.replace(aside, weights / f"step-{step:08d}.safetensors")
    for older in sorted(weights.glob("step-*.safetensors"))[:-most]:
        older.unlink()


@torch.no_grad()
def load_average(model: PreTrainedModel, folder: Path) -> list[int]:
    """Gives the model the mean of the kept weights (Vaswani et al. 2017, section 6.1), and returns their steps."""
    files = sorted((folder / "checkpoints" / "weights").glob("step-*.safetensors"))
    parameters = dict(model.named_parameters())
    sums = {
        name: torch.zeros_like(parameter, dtype=torch.float64, device="cpu") for name, parameter in parameters.items()
    }
    for file in files:
        for name, tensor in load_file(file).items():
            sums[name] += tensor
    for name, parameter in parameters.items():
        parameter.copy_(sums[name] / len(files))
    return [int(file.stem.removeprefix("step-")) for file in files]
