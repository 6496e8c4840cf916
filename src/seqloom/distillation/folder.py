"""The folder of a distilled set: what is in it, whether it is ours, and whether the set in it is the one asked for.

train.jsonl          the pairs, when all are there
distillation.json    how they came about: teacher, decoding and pairs when the set is begun, counts when it is made
outputs.jsonl        until then: a line for every source that the teacher was given
student.yaml         the settings that learn from them
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from seqloom import run_folder
from seqloom.sharing.teachers import is_same_teacher
from seqloom.support import disk
from seqloom.support.foreign import from_json
from seqloom.support.wording import listing, value_in_words

CHUNK = 500
"""Sources that are decoded and written together: what a kill costs at most, and what has a seed of its own."""
WORK = "outputs.jsonl"
"""What was decoded so far, a line for every source that was given to the teacher."""
FILES = {WORK, run_folder.DISTILLED_PAIRS, run_folder.DISTILLATION, run_folder.STUDENT}
AGAIN = "make room, and give the command again: it goes on."
"""What helps when a disk is full."""


def check_folder(folder: Path, overwrite: bool) -> None:
    """Refuses to write among somebody else's files.

    Raises:
        ValueError: They are there.
    """
    if not folder.exists() or (folder.is_dir() and all(path.name in _early(folder) for path in folder.iterdir())):
        return
    if not folder.is_dir() or run_folder.DISTILLED not in run_folder.marked(folder):
        raise ValueError(
            f"{folder} holds something else than a distilled set"
            f"{', so --overwrite will not touch it' if overwrite else ''}: choose another --data_dir."
        )


def _early(folder: Path) -> set[str]:
    """What a process leaves that is killed before it has written anything."""
    early = {run_folder.LOCK, f"saving-{run_folder.MARKER}"}
    return early | ({run_folder.MARKER} if set(run_folder.marked(folder)) <= {run_folder.DISTILLED} else set())


def clear(folder: Path) -> None:
    """Deletes a set, and nothing else that is in its folder; what tells of it goes last."""
    for name in sorted(FILES, key=lambda name: name == run_folder.DISTILLATION):
        disk.remove(folder / name)


def begun(folder: Path, about: dict[str, Any]) -> dict[str, Any] | None:
    """Begins a set, or makes sure that the one that was begun is the same; gives a finished one back.

    Raises:
        ValueError: It was begun with another teacher, decoding or pairs; or a part of it is gone.
    """
    path = folder / run_folder.DISTILLATION
    if not path.is_file():
        if (folder / WORK).exists() or (folder / run_folder.DISTILLED_PAIRS).exists():
            raise ValueError(
                f"{folder} holds outputs, but no {path.name} that says whose they are: --overwrite makes them anew."
            )
        disk.write_aside(path, disk.text(as_json(about)), AGAIN)
        return None
    before = run_folder.read_object(path)
    check_same(folder, before, about)
    if "file" not in before:
        return None
    if not (folder / run_folder.DISTILLED_PAIRS).is_file():
        raise ValueError(f"{folder / run_folder.DISTILLED_PAIRS} is gone: --overwrite makes the set anew.")
    return before


def check_same(folder: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuses to go on with another teacher, decoding or pairs than a set was begun with.

    Raises:
        ValueError: One of them is another.
    """
    then: dict[str, dict[str, Any]] = {}
    for name in ("teacher", "decoding", "data"):
        value = before.get(name)
        then[name] = value if isinstance(value, dict) else {}
    of_pairs = ["sha256"] if "sha256" in now["data"] else list(now["data"])
    what = None
    if not is_same_teacher(then["teacher"], now["teacher"]):
        one, other = (about.get("files") or {} for about in (then["teacher"], now["teacher"]))
        names = sorted(name for name in {*one, *other} if one.get(name) != other.get(name))
        of = listing(names[:5]) if one and other else f"{then['teacher'].get('name')}, now {now['teacher']['name']}"
        what = f"another teacher ({of})"
    elif then["decoding"] != now["decoding"]:
        changes = (
            f"{name} {value_in_words(then['decoding'].get(name))}, now {value_in_words(now['decoding'].get(name))}"
            for name in sorted({*then["decoding"], *now["decoding"]})
            if then["decoding"].get(name) != now["decoding"].get(name)
        )
        what = f"another decoding ({'; '.join(changes)})"
    elif any(then["data"].get(key) != now["data"][key] for key in of_pairs):
        what = "other training pairs"
    if what is not None:
        raise ValueError(
            f"the set in {folder} was begun with {what}: going on would mix two sets; bring back what was there, take "
            "another --data_dir, or make it anew with --overwrite."
        )


def whole_chunks(work: Path) -> int:
    """How many sources have their lines, in whole chunks; what a kill left of the last one is cut off."""
    if not work.exists():
        return 0
    done = kept = size = 0
    with work.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                break
            size += len(line)
            if number % CHUNK == 0:
                done, kept = number, size
    with work.open("rb+") as file:
        file.truncate(kept)
    return done


def written(work: Path) -> Iterator[dict[str, Any]]:
    """The lines of what was decoded.

    Raises:
        ValueError: One is damaged.
    """
    with work.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                entry = from_json(line)
            except ValueError:
                entry = None
            if not isinstance(entry, dict) or not {"source", "target", "state"} <= set(entry):
                raise ValueError(f"line {number:,} of {work} is damaged: --overwrite makes the set anew.")
            yield entry


def as_json(about: dict[str, Any]) -> str:
    """As it is written."""
    return json.dumps(about, indent=2, ensure_ascii=False) + "\n"
