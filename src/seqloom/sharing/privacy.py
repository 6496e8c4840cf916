"""What of a run's folder is shared, and that no place of this machine is in it."""

from __future__ import annotations

import dataclasses
import os
import re
from typing import Any

from seqloom.settings.schema import Settings


def last_part(path: str) -> str:
    """A file's name without its folders, whichever system they are on."""
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1]


def without_places(value: Any) -> Any:
    """Plain values in which paths are cut to their last parts.

    A path is a text that starts at a root, a drive, a home or a folder's dots, or that has a slash and exists here; any
    other text with a slash may be a name on the Hub.
    """
    if isinstance(value, dict):
        return {without_places(key): without_places(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_places(item) for item in value]
    if not isinstance(value, str):
        return value
    starts_like_one = re.match(r"[/\\~]|\.{1,2}[/\\]|[A-Za-z]:[/\\]", value)
    return last_part(value) if starts_like_one or (re.search(r"[/\\]", value) and os.path.exists(value)) else value


def shareable_settings(settings: Settings) -> dict[str, Any]:
    """All settings, but files by their names alone and no word of the repository: where things lay and who pushed them
    is nobody else's business."""
    values = without_places(settings.to_dict())
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
