"""What a file of settings says of its own pairs, and what becomes of it where a command gives others."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

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
