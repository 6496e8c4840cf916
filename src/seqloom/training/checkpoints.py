"""Checkpoints of a run: everything that the next update depends on, written aside and then renamed.

Every folder holds a manifest of its files' sizes and digests. It is written when all else is on the disk, and checked
before anything of the folder is used. Names in ``checkpoints`` that begin with ``saving-``, ``old-`` or ``deleting-``
are what a kill left behind, and `recover` puts them right.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils.constants import FSDP_MODEL_NAME
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from seqloom import run_folder
from seqloom.support.disk import damage, discard, explained_when_full, remove, replace_folder, seal, sync
from seqloom.training.state import Progress
from seqloom.training.states import Stateful, check_states, read_states, write_states

STATE_FILE = "progress.json"
WRITTEN_ASIDE = (
    run_folder.SETTINGS, run_folder.DATA, run_folder.LOG, run_folder.RECORD, run_folder.CARD, run_folder.CURVE,
    run_folder.MARKER, "tokenizer", "model",
)  # fmt: skip
"""What of an output folder is written beside its place, and then renamed."""


def save_checkpoint(
    folder: Path,
    accelerator: Accelerator,
    progress: Progress,
    optimizer: torch.optim.Optimizer | None = None,
    save_total_limit: int = 2,
    kept: Mapping[str, Stateful] | None = None,
) -> None:
    """Saves weights, optimizer, schedule, scaler, random states of every process, and the progress.

    A kill at any moment leaves this checkpoint whole or the one before it.

    Args:
        folder: The output folder, which all processes share.
        accelerator: Holds what is saved.
        progress: Where the run stands.
        optimizer: Tells how large a checkpoint is, should the disk be full.
        save_total_limit: Checkpoints that are kept, this one included.
        kept: What else belongs to the state, by name: the schedule, say.

    Raises:
        OSError: The disk is full. The checkpoints from before are whole.
    """
    checkpoints = run_folder.checkpoints(folder)
    name = f"step-{progress.step:08d}"
    aside = checkpoints / f"saving-{name}"
    with explained_when_full(aside, state_bytes(optimizer), removes=accelerator.is_main_process):
        if accelerator.is_main_process:
            remove(aside)
            aside.mkdir(parents=True)
        accelerator.wait_for_everyone()
        accelerator.save_state(str(aside))
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            write_states(aside, kept or {})
            (aside / STATE_FILE).write_text(json.dumps(asdict(progress), indent=2))
            seal(aside)
            replace_folder(aside, checkpoints / name)
            for path in step_folders(folder):
                if path.name > name:  # it was damaged, or it would have been gone on from
                    discard(path)
            drop_older(folder, name, save_total_limit)
    accelerator.wait_for_everyone()


def step_folders(folder: Path) -> list[Path]:
    """The checkpoints of an output folder, whole or not, the oldest first."""
    return sorted(path for path in run_folder.checkpoints(folder).glob("step-*") if path.is_dir())


def drop_older(folder: Path, name: str, most: int) -> None:
    """Deletes all but the last ``most`` checkpoints up to the one of this name."""
    for path in [path for path in step_folders(folder) if path.name <= name][:-most]:
        discard(path)


def last_checkpoint(folder: Path, say: Callable[[str], object] = print) -> Path | None:
    """The newest whole checkpoint of an output folder; None if it has no checkpoint at all.

    Args:
        folder: The output folder.
        say: Is told of every damaged one.

    Raises:
        ValueError: There are checkpoints, but none is whole.
    """
    damaged: list[str] = []
    for path in reversed(step_folders(folder)):
        what = damage(path)
        if what is None:
            for one in damaged:
                say(f"{one}; going on from {path.name}, the one before")
            return path
        damaged.append(f"{path} is damaged ({what})")
    if damaged:
        raise ValueError(f"no checkpoint to go on from is whole: {'; '.join(damaged)}; train anew with --overwrite.")
    return None


def load_checkpoint(checkpoint: Path, accelerator: Accelerator, kept: Mapping[str, Stateful] | None = None) -> Progress:
    """Puts everything back as it was. Nothing is run by reading it: `check_states` looks first.

    Raises:
        ValueError: The checkpoint is sharded and the run is not, or the other way round; or it holds a pickle of
            something else than tensors and plain values.
    """
    check_states(checkpoint)
    is_sharded = any(checkpoint.glob(f"{FSDP_MODEL_NAME}*"))
    if is_sharded != accelerator.is_fsdp2:
        earlier, now = ("FSDP2", "without it") if is_sharded else ("another engine", "with FSDP2")
        raise ValueError(f"{checkpoint} was saved with {earlier}, and this run is {now}: launch it as it was started.")
    accelerator.load_state(str(checkpoint))
    read_states(checkpoint, kept or {})
    return read_progress(checkpoint)


def read_progress(checkpoint: Path) -> Progress:
    """Where the run stood.

    Raises:
        ValueError: The file is damaged, or another version of seqloom wrote it.
    """
    kept, known = run_folder.read_object(checkpoint / STATE_FILE), {f.name for f in fields(Progress)}
    if unknown := sorted(set(kept) - known):
        raise ValueError(
            f"{checkpoint / STATE_FILE} has {', '.join(unknown)}, which this version of seqloom does not know: resume "
            "with the one that wrote it, or train anew with --overwrite."
        )
    return Progress(**kept)


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, step: int) -> None:
    """Writes a folder that `from_pretrained` loads, aside and then renamed; and of which update it is.

    Raises:
        OSError: The disk is full. The folder is as it was.
    """
    aside = folder.with_name(f"saving-{folder.name}")
    with explained_when_full(aside, sum(map(bytes_of, model.parameters()))):
        remove(aside)
        model.save_pretrained(aside)
        tokenizer.save_pretrained(aside)
        (aside / STATE_FILE).write_text(json.dumps({"step": step}), encoding="utf-8")
        seal(aside)
        replace_folder(aside, folder)


def step_of(folder: Path) -> int:
    """Of which update a model is that `save_model` wrote.

    Raises:
        ValueError: The file is damaged.
    """
    step = run_folder.read_object(folder / STATE_FILE).get("step")
    if not isinstance(step, int):
        raise ValueError(f"{folder / STATE_FILE} has no step: take the folder as the training left it.")
    return step


def recover(folder: Path) -> None:
    """Puts right what a kill left behind in an output folder: half of a save, of a replacement or of a deletion."""
    checkpoints = run_folder.checkpoints(folder)
    for old in checkpoints.glob("old-*"):
        place = checkpoints / old.name.removeprefix("old-")
        if place.exists():
            remove(old)
        else:
            os.replace(old, place)
    for left in (
        *(folder / f"saving-{name}" for name in WRITTEN_ASIDE), folder / "deleting-checkpoints",
        *checkpoints.glob("saving-*"), *checkpoints.glob("deleting-*"), *run_folder.weights(folder).glob("saving*"),
    ):  # fmt: skip
        remove(left)


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Writes a tokenizer into a folder, each file whole or not at all."""
    save_into(folder, "tokenizer", tokenizer.save_pretrained)


def save_into(folder: Path, what: str, save: Callable[[Path], object]) -> None:
    """Writes several files into a folder of other things too, each whole or not at all, and none on a full disk.

    Args:
        folder: Where they go.
        what: They are, for a message.
        save: Writes them into an empty folder.
    """
    aside = folder / f"saving-{what}"
    with explained_when_full(aside):
        remove(aside)
        save(aside)
        for path in (paths := sorted(path for path in aside.rglob("*") if path.is_file())):
            sync(path)
        for path in paths:
            place = folder / path.relative_to(aside)
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, place)
        sync(folder)
        remove(aside)


def state_bytes(optimizer: torch.optim.Optimizer | None) -> int | None:
    """About how large a checkpoint is: weights, and what the optimizer keeps of each."""
    if optimizer is None:
        return None
    weights = sum(bytes_of(parameter) for group in optimizer.param_groups for parameter in group["params"])
    kept = (value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value))
    return weights + sum(map(bytes_of, kept))


def bytes_of(tensor: torch.Tensor) -> int:
    """What it takes, in memory and on the disk."""
    return tensor.numel() * tensor.element_size()


def keep_weights(
    model: PreTrainedModel,
    folder: Path,
    step: int,
    most: int,
    score: float | None = None,
    loss: float | None = None,
) -> None:
    """Adds the model's weights to those that `load_average` takes the mean of.

    Args:
        model: After a validation.
        folder: The run's.
        step: Updates made; weights that are kept from later ones, before the run was resumed, go.
        most: How many are kept.
        score: More is better: the best are kept. None: the last.
        loss: Of equal scores those with the lower one are kept, then the earlier.
    """
    weights = run_folder.weights(folder)
    weights.mkdir(parents=True, exist_ok=True)
    # Tied matrices are one parameter to named_parameters, so each is written once.
    tensors = {name: parameter.detach().cpu().contiguous() for name, parameter in model.named_parameters()}
    aside, newest = weights / "saving-weights", weights / f"step-{step:08d}.safetensors"
    with explained_when_full(aside, sum(map(bytes_of, tensors.values()))):
        save_file(tensors, aside, metadata=None if score is None else {"score": repr(score), "loss": repr(loss)})
        sync(aside)
        os.replace(aside, newest)
        sync(weights)
    files = sorted(weights.glob("step-*.safetensors"), reverse=True)
    kept = [file for file in files if file <= newest]
    if score is not None:
        kept.sort(key=_rank, reverse=True)
    for file in {*files} - {*kept[:most]}:
        file.unlink()


def _rank(file: Path) -> tuple[float, float, int]:
    """Score, loss and age: more is better."""
    with safe_open(file, "pt") as weights:
        kept = weights.metadata() or {}
    score = kept.get("score", "-inf")  # kept as one of the last, before the run was resumed
    loss = kept.get("loss", "None")
    if loss == "None":
        loss = "-inf"  # where it is unknown, the earlier stays
    return float(score), -float(loss), -int(file.stem.removeprefix("step-"))


def kept_steps(folder: Path) -> list[int]:
    """Updates of the weights that are kept to take a mean of."""
    files = sorted(run_folder.weights(folder).glob("step-*.safetensors"))
    return [int(file.stem.removeprefix("step-")) for file in files]


@torch.no_grad()
def load_average(model: PreTrainedModel, folder: Path) -> list[int]:
    """Gives the model the mean of the kept weights (Vaswani et al. 2017, section 6.1), and returns their steps."""
    files = sorted(run_folder.weights(folder).glob("step-*.safetensors"))
    parameters = dict(model.named_parameters())
    sums = {
        name: torch.zeros_like(parameter, dtype=torch.float64, device="cpu") for name, parameter in parameters.items()
    }
    for file in files:
        for name, tensor in load_file(file).items():
            sums[name] += tensor
    for name, parameter in parameters.items():
        parameter.copy_(sums[name] / len(files))
    return kept_steps(folder)
