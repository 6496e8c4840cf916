"""What lies where in a run's folder, and how each file is read.

    config.json, model.safetensors, tokenizer…   the finished model, which ``from_pretrained`` loads
    settings.yaml                                the run: a folder that has it is one's
    data.json                                    what its data were when it began
    training_log.jsonl                           what was watched of it, a line each time
    record.json                                  what came of it: a folder that has it is a finished run's
    README.md, training_curve.png                the model card
    evaluation/SPLIT/predictions.jsonl           what the model said, and beside it
    evaluation/SPLIT/scores.json                 how that was scored
    checkpoints/step-00001200/                   the full state of the last saves, to resume from
    checkpoints/best/                            the best model so far, for from_pretrained
    checkpoints/weights/step-….safetensors       weights of the last or best validations, for averaging
    trackers/                                    what TensorBoard and the like were told
    export.json                                  of an exported model's folder: which engine runs it, what was checked
    train.jsonl, distillation.json               of a distilled set's folder: what a teacher says, and how it came about
    student.yaml                                 of such a folder: the settings that learn from it
    app.py, requirements.txt                     of a demo page's folder, which is a Space of the Hub's
    .seqloom.json                                the marker: seqloom made this folder, and what it holds
    .seqloom.lock                                who works in it, for as long as somebody does

Settings are read by `seqloom.settings.reading`, predictions by `seqloom.scoring.predictions`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seqloom.support import disk
from seqloom.support.foreign import from_json
from seqloom.version import __version__

CONFIG = "config.json"
SETTINGS = "settings.yaml"
DATA = "data.json"
LOG = "training_log.jsonl"
RECORD = "record.json"
CARD = "README.md"
CURVE = "training_curve.png"
PREDICTIONS = "predictions.jsonl"
SCORES = "scores.json"
EXPORT = "export.json"
DISTILLED_PAIRS = "train.jsonl"
DISTILLATION = "distillation.json"
STUDENT = "student.yaml"
TRACKERS = "trackers"
MARKER = ".seqloom.json"
LOCK = ".seqloom.lock"
RUN, COMPARISON, SCORED, EXPORTED, DISTILLED = "run", "comparison", "scores", "export", "distilled"
SPACE = "space"
"""What a marked folder can hold."""

RECORDED = {"model", "data", "progress", "environment", "evaluation", "example", "precision"}
"""What a record tells of."""


def checkpoints(folder: Path) -> Path:
    """Where the states are that a run is resumed from."""
    return folder / "checkpoints"


def best(folder: Path) -> Path:
    """The best model so far."""
    return checkpoints(folder) / "best"


def weights(folder: Path) -> Path:
    """Where the weights are that will be averaged."""
    return checkpoints(folder) / "weights"


def evaluation(folder: Path, split: str) -> Path:
    """Where a split's predictions and scores are."""
    return folder / "evaluation" / split


def marked(folder: Path) -> list[str]:
    """What seqloom has said that it keeps in a folder; nothing where it has not marked it."""
    try:
        marker = from_json((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    holds = marker.get("holds") if isinstance(marker, dict) else None
    return holds if isinstance(holds, list) else []


def check_marker(folder: Path) -> None:
    """Refuses to mark a folder in which the marker's name is taken.

    Raises:
        ValueError: Somebody else's file has it.
    """
    if not marked(folder) and (folder / MARKER).exists():
        raise ValueError(f"{folder / MARKER} is no marker of seqloom's: move it, or choose another folder.")


def mark(folder: Path, kind: str) -> None:
    """Marks a folder as one that seqloom keeps this in, before anything else of it is written.

    Raises:
        ValueError: Somebody else's file has the marker's name.
    """
    kinds = marked(folder)
    if kind in kinds:
        return
    check_marker(folder)
    marker = json.dumps({"seqloom": __version__, "holds": [*kinds, kind]}) + "\n"
    disk.write_aside(folder / MARKER, disk.text(marker))


def is_untouched(folder: Path) -> bool:
    """Whether nothing is in it but what a process leaves that is killed before it has written anything."""
    early = {MARKER, LOCK, f"saving-{MARKER}", f"saving-{SETTINGS}"}
    return set(marked(folder)) <= {RUN} and all(path.name in early for path in folder.iterdir())


def is_run(folder: Path) -> bool:
    """Whether a run was begun in it."""
    return (folder / SETTINGS).is_file()


def is_exported(folder: Path) -> bool:
    """Whether what is in it is run by another engine than PyTorch, or by another program of it."""
    return (folder / EXPORT).is_file() and read_object(folder / EXPORT).get("engine") != "transformers"


def distilled_by(file: Path) -> dict[str, Any] | None:
    """What is known of a file's pairs if ``seqloom distill`` wrote it: the content of `DISTILLATION` beside it."""
    path = file.parent / DISTILLATION
    if file.name != DISTILLED_PAIRS or not path.is_file():
        return None
    about = read_object(path)
    return about if {"teacher", "kind", "decoding", "data", "pairs", "file"} <= set(about) else None


def is_finished(folder: Path) -> bool:
    """Whether the run in it has come to its end."""
    return (folder / RECORD).is_file()


def finished(folder: Path) -> Path:
    """The folder, if it holds a finished run.

    Raises:
        ValueError: It does not.
    """
    missing = [name for name in (SETTINGS, RECORD, LOG, CONFIG) if not (folder / name).is_file()]
    if missing:
        raise ValueError(
            f"{folder} holds no finished run of seqloom's: it lacks {', '.join(missing)}; give the output_dir of a "
            "training that came to its end."
        )
    return folder


def read_json(path: Path) -> Any:
    """A file of JSON that a run has left.

    Raises:
        ValueError: It is damaged.
    """
    try:
        return from_json(path.read_text(encoding="utf-8"))
    except ValueError as error:  # no JSON, or no UTF-8
        raise ValueError(f"{path} is damaged: {error}; take the folder as the training left it.") from None


def read_object(path: Path) -> dict[str, Any]:
    """A file of JSON that holds names and values.

    Raises:
        ValueError: It is damaged, or holds something else.
    """
    found = read_json(path)
    if not isinstance(found, dict):
        raise ValueError(f"{path} is damaged: it holds no names and values; take the folder as the training left it.")
    return found


def read_record(folder: Path) -> dict[str, Any]:
    """What came of a finished run.

    Raises:
        ValueError: It is damaged, or another version of seqloom wrote it.
    """
    record = read_object(folder / RECORD)
    lacking = sorted(RECORDED - set(record))
    if lacking:
        raise ValueError(
            f"{folder / RECORD} lacks {', '.join(lacking)}: another version of seqloom wrote it; make its card with "
            "that one, or train anew."
        )
    return record


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's log, without what is no number in them (null, NaN, infinite). A last line that is still
    being written is left out of one that goes on.

    Raises:
        ValueError: There is none, or it is empty or damaged.
    """
    path = folder / LOG
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}; give the output_dir of a training.")
    if not path.is_file():
        raise ValueError(f"{folder} has no {LOG}; give the output_dir of a training that has begun.")
    log: list[dict[str, Any]] = []
    for number, written in enumerate(path.read_bytes().splitlines(keepends=True), start=1):
        if not written.endswith(b"\n") and not is_finished(folder):
            break
        try:
            line = from_json(written)
        except ValueError:
            line = None
        is_line = isinstance(line, dict) and isinstance(line.get("step"), int)
        if not is_line or not all(value is None or isinstance(value, int | float) for value in line.values()):
            raise ValueError(f"line {number} of {path} is damaged; mend or delete it.")
        if log and line["step"] < log[-1]["step"]:
            raise ValueError(f"line {number} of {path} is of an earlier update than the one before; mend or delete it.")
        log.append({name: value for name, value in line.items() if value is not None and math.isfinite(value)})
    if not log:
        raise ValueError(
            f"{path} is empty: its first line comes after training.logging_steps updates; wait, or lower that."
        )
    return log


def check_log_ends(folder: Path, log: Sequence[dict[str, Any]]) -> None:
    """Refuses a finished run's log that ends before the run did: its curves would tell of a shorter one.

    Raises:
        ValueError: It does, or the record is damaged.
    """
    last = read_record(folder)["progress"].get("step")
    if isinstance(last, int) and log[-1]["step"] < last:
        raise ValueError(
            f"{folder / LOG} ends after update {log[-1]['step']:,}, but its run after {last:,}: lines are missing; "
            "take the folder as the training left it."
        )


def names_of(runs: Sequence[Path]) -> list[str]:
    """What tells the runs apart: their folders' names, with as many parent folders as that takes."""
    parts = [run.resolve().parts for run in runs]
    if len(set(parts)) < len(parts):
        twice = next(run for run, path in zip(runs, parts, strict=True) if parts.count(path) > 1)
        raise ValueError(f"the run {twice} is given twice; give each once.")
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(path[-count:]) for path in parts]
        if len(set(names)) == len(names):
            break
    return names
