"""A comparison's folder: begun, gone on with, or cleared of what a comparison wrote and of nothing else.

    comparison.json                        what was asked for
    measures/NAME.json                     what each measure found
    models/NAME-seed-N/, .yaml, .log       the trainings; likewise generalisation/ and recall/, which has its data too
    models/NAME-seed-N.watched.json        what a training took of the processor
    memory_tasks/….safetensors             small networks
    tables/NAME.csv                        sentences and counts of the measure words
    predictions/NAME/                      of models that are taken as they are
    report.html, .md, .json, figures/      the report
    .seqloom.json, .seqloom.lock           as in a run's folder

What lies in a training's own folder, `seqloom.run_folder` says.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from seqloom import run_folder
from seqloom.comparison.trainings import WATCHED
from seqloom.support.disk import text, write_aside
from seqloom.support.foreign import from_json
from seqloom.support.locks import Lock
from seqloom.training.clearing import (
    OWN,
    SCORES,
    check_inputs,
    clear_matching,
    clear_run,
    is_ours,
    is_settings,
    left_in,
    told_of,
)

REQUEST = "comparison.json"
TRAININGS = ("models", "recall", "generalisation")
FILES = re.compile(r"(saving-)?(comparison\.json|report\.(json|md|html))")
IN_FOLDERS = {
    "measures": re.compile(r"(saving-)?[a-z_]+\.json"),
    "figures": re.compile(r"(saving-)?.+\.png"),
    "tables": re.compile(r"(saving-)?(sentences|words|lengths|outputs|ngrams)\.csv"),
    "memory_tasks": re.compile(r"(saving-)?.+\.safetensors"),
    "recall": re.compile(r"(saving-)?(train|validation|test)\.csv"),
}
"""The files that it writes, by the folder."""


def make_folder(
    folder: Path, asked: dict[str, Any], lock: Lock, inputs: Iterable[str], *, resume: bool, overwrite: bool
) -> None:
    """Makes the output folder ready, and refuses to write over anything unless told to.

    Args:
        folder: Of the comparison.
        asked: What one that is gone on with must have in common with this one.
        lock: The folder's, which is then held.
        inputs: What is read: models, configurations, data.
        resume, overwrite: As for `compare`.

    Raises:
        ValueError: It holds something else, or what is read; or another process works in it.
    """
    lock.check()
    if resume:
        if not (folder / REQUEST).is_file():
            raise ValueError(f"there is no comparison to resume in {folder}; start it without --resume.")
        before = run_folder.read_json(folder / REQUEST)
        others = [name for name in asked if asked[name] != before.get(name)]
        if others:
            raise ValueError(
                f"the comparison in {folder} was begun with another {', '.join(others)}; resume it with the same "
                "words, or take another --output."
            )
        lock.acquire()
        return
    is_empty = not folder.exists() or (folder.is_dir() and all(path.name in OWN for path in folder.iterdir()))
    if not is_empty and not overwrite:
        raise ValueError(
            f"the output folder {folder} is not empty; give --resume to go on, --overwrite to start anew, or "
            "another --output."
        )
    if not is_empty and not (folder.is_dir() and is_comparison(folder)):
        raise ValueError(f"{folder} holds no comparison, so --overwrite will not delete it; choose another one.")
    if overwrite:
        check_inputs(folder, inputs)
    folder.resolve().mkdir(parents=True, exist_ok=True)
    lock.acquire()
    run_folder.mark(folder, run_folder.COMPARISON)
    if overwrite and (left := clear(folder)):
        print(told_of(folder, left), flush=True)
    write_aside(folder / REQUEST, text(json.dumps(asked, indent=2)))


def is_comparison(folder: Path) -> bool:
    """Whether a folder is marked as a comparison's; or, of an earlier version, holds nothing but one."""
    if run_folder.COMPARISON in run_folder.marked(folder):
        return True
    try:
        asked = from_json((folder / REQUEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    names = {*TRAININGS, *IN_FOLDERS, *OWN, "predictions"}
    return isinstance(asked, dict) and {"configs", "models", "split"} <= set(asked) and all(
        path.name in names or FILES.fullmatch(path.name) for path in folder.iterdir()
    )  # fmt: skip


def clear(folder: Path) -> list[str]:
    """Deletes what a comparison wrote; returns the names of what is left, the marker and the lock apart.

    Raises:
        ValueError: A training goes on in it. Nothing is deleted then.
    """
    for name in TRAININGS:
        for path in (folder / name).glob("*/"):
            Lock(path / run_folder.LOCK).check()
    for name in TRAININGS:
        clear_trainings(folder / name)
    for name, pattern in IN_FOLDERS.items():
        clear_matching(folder / name, pattern)
    predictions = folder / "predictions"
    for path in predictions.iterdir() if predictions.is_dir() else ():
        if run_folder.SCORED in run_folder.marked(path) or (path / run_folder.SCORES).is_file():
            clear_matching(path, SCORES)
    clear_matching(predictions, SCORES)
    for path in sorted(folder.iterdir(), key=lambda path: path.name == REQUEST):
        if FILES.fullmatch(path.name) and not path.is_dir():
            path.unlink()
    return left_in(folder)


def clear_trainings(folder: Path) -> None:
    """Deletes the runs in a folder, with the settings that they were started by and what they printed."""
    for path in list(folder.iterdir()) if folder.is_dir() else ():
        if path.is_dir() and not path.is_symlink() and is_ours(path):
            if not clear_run(path):
                clear_matching(path, re.compile("|".join(map(re.escape, OWN))))
        elif path.suffix == ".yaml" and is_settings(path):
            path.with_suffix(".log").unlink(missing_ok=True)
            path.with_suffix(WATCHED).unlink(missing_ok=True)
            path.unlink()
    clear_matching(folder, re.compile(r"saving-.+\.(yaml|watched\.json)"))
