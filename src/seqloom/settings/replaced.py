"""What a file of settings says of its own pairs, and what becomes of it where a command gives others."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from seqloom.support.wording import together

PAIRS = ("dataset", "config_name", "train_files", "source", "target", "mix")
"""What decides which languages the pairs are of."""
TABLES = {".csv": "csv", ".tsv": "tsv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}


def kind_of(path: str) -> str | None:
    """``csv``, ``tsv``, ``json`` or ``parquet``; None for what is no table."""
    return TABLES.get(Path(path.removesuffix(".gz")).suffix.lower())


def pairs_of(raw: dict[str, Any]) -> dict[str, Any]:
    """Where the pairs are that settings in the making learn from."""
    data = raw.get("data")
    return {key: data.get(key) for key in PAIRS} if isinstance(data, dict) else {}


def take_place(
    raw: dict[str, Any],
    before: dict[str, Any],
    given: Collection[tuple[str, ...]],
    path: Path,
    say: Callable[[str], object],
) -> None:
    """Files that the command gives take the place of the file's dataset, and a dataset that of its files: a run learns
    from the one or the other. Another dataset has other configurations and revisions.

    Args:
        raw, before, given, path, say: As for `leave_out`.
    """
    data = raw.get("data")
    if not isinstance(data, dict):
        return
    on_the_line = {key[1] for key in given if len(key) > 1 and key[0] == "data" and data.get(key[1])}
    version = ("config_name", "revision", "split")
    of_dataset = ("dataset", *version, "train_split", "validation_split", "test_split")
    of_files = ("train_files", "validation_files", "test_files")
    for new, old, others in (("train_files", "dataset", of_dataset), ("dataset", "train_files", of_files)):
        if new in on_the_line and before[old] and old not in on_the_line:
            gone = [key for key in others if data.get(key) and ("data", key) not in given]
            for key in gone:
                del data[key]
            told = f"data.{old}, {before[old]!r} in {path}, gives way to --{new} of the command"
            also = [f"data.{key}" for key in gone if key != old]
            if gone:  # else --dataset null says it
                say(f"{told}; so {'do' if len(also) > 1 else 'does'} {together(also)}." if also else f"{told}.")
    if "dataset" in on_the_line and before.get("dataset") not in (None, data["dataset"]):
        for key in [key for key in version if data.get(key) and ("data", key) not in given]:
            say(f"data.{key}, {data.pop(key)!r} in {path}, is left out: it is of {before['dataset']}.")


def leave_out(
    raw: dict[str, Any],
    before: dict[str, Any],
    given: Collection[tuple[str, ...]],
    path: Path,
    say: Callable[[str], object],
) -> None:
    """Takes out what the file says of pairs that are no longer those it names: their languages, and for lines of text,
    which have none, their columns.

    Args:
        raw: Settings in the making, with what the command gives in them.
        before: `pairs_of` without.
        given: The keys that the command gives.
        path: The file.
        say: Is told what is left out.
    """
    pairs = pairs_of(raw)
    if pairs == before:
        return
    files = pairs["train_files"]
    files = [files] if isinstance(files, str) else files
    if files and files != before["train_files"] and not pairs["dataset"] and not any(map(kind_of, map(str, files))):
        for key in ("source", "target"):
            if before[key] and ("data", key) not in given:
                column = raw["data"].pop(key)
                say(f"data.{key}, {column!r} in {path}, is left out: the command gives lines of text, without columns.")
    hub = raw.get("hub")
    if ("hub", "language") in given or not isinstance(hub, dict):
        return
    if languages := hub.pop("language", None):
        say(
            f"hub.language, {languages} in {path}, is left out, as the command gives other training pairs: the card "
            "will name no language unless --language is given too."
        )
