"""An output folder made empty of what a run wrote, and of nothing else.

A folder is a run's by its marker (`run_folder.mark`); one of an earlier version, which has none, if it holds nothing
but what a run writes. The folder itself stays, which may be a link or a mount point, and so does all else in it.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from seqloom import modeling, run_folder
from seqloom.settings.schema import Settings
from seqloom.settings.typed import from_yaml
from seqloom.sharing.card import is_as_made
from seqloom.sharing.files import TOKENIZER_FILES, model_files
from seqloom.support.disk import discard, remove
from seqloom.support.wording import listing

FILES = {
    run_folder.CONFIG, "generation_config.json", run_folder.SETTINGS, run_folder.DATA, run_folder.LOG,
    run_folder.RECORD, run_folder.CURVE, run_folder.CARD, *TOKENIZER_FILES,
}  # fmt: skip
"""That a run writes into its folder, but for weights and code."""
WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors(\.index\.json)?")
FOLDERS = {"checkpoints", "evaluation", run_folder.TRACKERS}
ASIDE = {"saving-model", "saving-tokenizer", "deleting-checkpoints"}
"""Folders that a kill leaves."""
CHECKPOINT = re.compile(r"((saving|old|deleting)-)*(step-\d+|best)")
KEPT_WEIGHTS = re.compile(r"step-\d+\.safetensors|saving-weights")
SCORES = re.compile(
    rf"(saving-)?(new-)?({re.escape(run_folder.PREDICTIONS)}|{re.escape(run_folder.SCORES)}|against-.+\.json|"
    rf"{re.escape(run_folder.MARKER)})"
)
OWN = (run_folder.MARKER, run_folder.LOCK)
"""What stays to the last."""


def is_settings(path: Path) -> bool:
    """Whether a file holds settings of a training, as seqloom writes them, and not somebody else's."""
    try:
        found = from_yaml(path.read_text(encoding="utf-8"), str(path))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and {"output_dir", "model", "data", "tokenizer", "training"} <= set(found)


def is_ours(folder: Path) -> bool:
    """Whether a folder is a run's, that may be cleared."""
    if run_folder.RUN in run_folder.marked(folder):
        return True
    names = {path.name for path in written(folder)} | FOLDERS | ASIDE | set(OWN)
    return is_settings(folder / run_folder.SETTINGS) and all(path.name in names for path in folder.iterdir())


def written(folder: Path) -> list[Path]:
    """The files in a folder itself that have the names of what a run writes; code, if the configs in it name that."""
    try:
        code = {path.name for path in model_files(folder) if path.suffix == ".py"}
    except (OSError, ValueError):  # a config that a kill cut, or code that it left a part of
        code = {path.name for path in Path(modeling.__path__[0]).glob("*.py")}
    return [path for path in folder.iterdir() if _is_written(path, code)]


def _is_written(path: Path, code: Iterable[str]) -> bool:
    name = path.name.removeprefix("saving-")
    is_named = name in FILES or name in OWN or name in code or WEIGHTS.fullmatch(name)
    return bool(is_named) and (path.is_symlink() or not path.is_dir())


def clear_run(folder: Path) -> list[str]:
    """Deletes what a run wrote; it remains a run's folder, which may be cleared again, if a kill comes between.

    Returns:
        The names of what is left, the marker and the lock apart.
    """
    run_folder.mark(folder, run_folder.RUN)
    last = (run_folder.CONFIG, "tokenizer_config.json", run_folder.SETTINGS)  # which name the code, or the run
    files = sorted(written(folder), key=lambda path: (path.name in last, path.name))
    clear_checkpoints(run_folder.checkpoints(folder))
    for split in _folders(folder / "evaluation"):
        clear_matching(split, SCORES)
    _remove_if_empty(folder / "evaluation")
    for path in (*_entries(folder / run_folder.TRACKERS), *(folder / name for name in ASIDE)):
        remove(path)
    _remove_if_empty(folder / run_folder.TRACKERS)
    for path in files:
        is_edited = path.name == run_folder.CARD and not is_as_made(path.read_text(encoding="utf-8", errors="replace"))
        if path.name not in OWN and not is_edited:
            path.unlink(missing_ok=True)
    return left_in(folder)


def clear_checkpoints(folder: Path) -> None:
    """Deletes the checkpoints, the newest first, so that what a kill leaves is a run at an earlier update."""
    for path in sorted(_entries(folder), reverse=True):
        if found := CHECKPOINT.fullmatch(path.name):
            remove(path) if found[1] or path.is_symlink() else discard(path)
    clear_matching(folder / "weights", KEPT_WEIGHTS)
    _remove_if_empty(folder)


def clear_matching(folder: Path, pattern: re.Pattern[str]) -> None:
    """Deletes the files of these names in a folder, and the folder if nothing else is in it."""
    for path in _entries(folder):
        if pattern.fullmatch(path.name) and (path.is_symlink() or not path.is_dir()):
            path.unlink(missing_ok=True)
    _remove_if_empty(folder)


def left_in(folder: Path) -> list[str]:
    """The names of what is in a folder, the marker and the lock apart."""
    return sorted(path.name for path in folder.iterdir() if path.name not in OWN)


def told_of(folder: Path, left: Sequence[str]) -> str:
    """What was not deleted, in a line."""
    names = listing([*left[:5], *([f"{len(left) - 5} more"] if len(left) > 5 else [])])
    return f"left in {folder}, since seqloom did not write it: {names}"


def check_inputs(folder: Path, inputs: Iterable[str]) -> None:
    """Refuses to clear a folder that what is to be done reads from.

    Raises:
        ValueError: One of the inputs is in it.
    """
    place = folder.resolve()
    for name in inputs:
        if Path(name).exists() and Path(name).resolve().is_relative_to(place):
            raise ValueError(
                f"{name} is read, and it lies in {folder}, which --overwrite would delete from: move it, or choose "
                "another folder."
            )


def inputs_of(settings: Settings) -> list[str]:
    """What a run reads: names of files and folders, some perhaps on the Hub."""
    named = (settings.tokenizer.path, settings.training.init_from, settings.distillation.teacher)
    return [*settings.data.places(), *filter(None, named)]


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _folders(folder: Path) -> list[Path]:
    return [path for path in _entries(folder) if path.is_dir()]


def _remove_if_empty(folder: Path) -> None:
    """Removes an empty folder; a link to one, or a mount point, stays."""
    if folder.is_dir() and not folder.is_symlink() and not os.path.ismount(folder):
        with contextlib.suppress(OSError):
            folder.rmdir()
