"""What of a run's folder is shared, and that no place of this machine is in it."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Collection, Sequence
from typing import Any

from seqloom.settings.schema import Settings


def last_part(path: str) -> str:
    """A file's name without its folders, whichever system they are on."""
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1]


def is_place(text: str) -> bool:
    """Whether a text is a path: it starts at a root, a drive, a home or a folder's dots, or has a slash and exists.

    Any other text with a slash may be a name on the Hub.
    """
    starts_like_one = re.match(r"[/\\~]|\.{1,2}[/\\]|[A-Za-z]:[/\\]|file:", text)
    return bool(starts_like_one or (re.search(r"[/\\]", text) and os.path.exists(text)))


def places_in(value: Any) -> list[str]:
    """The paths in plain values, as a run's record keeps them: elsewhere nobody sees that ``data/mine`` was one."""
    if isinstance(value, dict):
        return places_in([*value, *value.values()])
    if isinstance(value, list):
        return sorted({place for item in value for place in places_in(item)})
    return [value] if isinstance(value, str) and is_place(value) else []


def without_places(value: Any, known: Collection[str] = ()) -> Any:
    """Plain values in which paths, those that are known and those that look like it, are cut to their last parts."""
    if isinstance(value, dict):
        return {without_places(key, known): without_places(item, known) for key, item in value.items()}
    if isinstance(value, list):
        return [without_places(item, known) for item in value]
    return last_part(value) if isinstance(value, str) and (value in known or is_place(value)) else value


def shareable_record(record: dict[str, Any]) -> dict[str, Any]:
    """A run's record without a path of this machine, be it a metric's name."""
    known = record.get("places", ())
    shared = {name: value for name, value in record.items() if name != "places"}
    for name in {"data", "start", "resumed"} & set(shared):
        shared[name] = without_places(record[name], known)
    if record["evaluation"] is not None:
        shared["evaluation"] = {name: value for name, value in record["evaluation"].items() if name != "folder"}
        shared["evaluation"]["metrics"] = {
            without_places(name, known): {
                key: item.replace(name, without_places(name, known)) if key == "signature" else item
                for key, item in result.items()
            }
            for name, result in record["evaluation"]["metrics"].items()
        }
    return shared


def shareable_log(log: Sequence[dict[str, Any]], known: Collection[str]) -> list[dict[str, Any]]:
    """A run's log, in which metrics that are paths have their names alone."""

    def short(name: str) -> str:
        return f"eval_{without_places(name.removeprefix('eval_'), known)}" if name.startswith("eval_") else name

    return [{short(name): value for name, value in line.items()} for line in log]


def shareable_settings(settings: Settings, known: Collection[str] = ()) -> dict[str, Any]:
    """All settings, but files by their names alone and no word of the repository: where things lay and who pushed them
    is nobody else's business."""
    values = without_places(settings.to_dict(), known)
    values["output_dir"] = last_part(settings.output_dir)
    for split in ("train", "validation", "test"):
        paths = values["data"][f"{split}_files"]
        values["data"][f"{split}_files"] = paths and [last_part(path) for path in paths]
    for entry in values["data"]["mix"]:
        if entry.get("train_files"):
            files = entry["train_files"]
            entry["train_files"] = [last_part(path) for path in (files if isinstance(files, list) else [files])]
    nowhere = {"push_to_hub": None, "hub_private_repo": None, "hub_revision": None}
    values["hub"] = dataclasses.asdict(settings.hub) | nowhere
    return values
