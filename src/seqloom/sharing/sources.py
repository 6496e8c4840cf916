"""The card's words of the data: where pairs are from, how many there are, what was cut, mixed and met twice."""

from __future__ import annotations

from typing import Any

from seqloom.data.overlap import overlap_in_words
from seqloom.data.scan import UNPUBLISHED
from seqloom.settings.schema import Settings
from seqloom.sharing.privacy import last_part, without_places
from seqloom.sharing.teachers import teachers_section
from seqloom.support.wording import as_code, in_markdown, table


def is_on_hub(record: dict[str, Any]) -> bool:
    """Whether the data are a Hub data set. The record tells, on every machine: such data have a configuration."""
    return "config_name" in record["data"]


def data_name_of(settings: Settings, record: dict[str, Any]) -> str:
    """The training data in a word or two."""
    data = settings.data
    if data.dataset == "scan":
        split = record["data"]["split"]
        return f"SCAN, split {split}" + (f" ({UNPUBLISHED[split]})" if split in UNPUBLISHED else "")
    if data.dataset:
        return data.dataset if is_on_hub(record) else in_markdown(last_part(data.dataset))
    return ", ".join(in_markdown(last_part(path)) for path in data.train_files or ())


def _source_name(entry: dict[str, Any]) -> str:
    """One of the sets that training pairs are drawn from, in a word or two."""
    if isinstance(entry["train"], list):
        return ", ".join(in_markdown(file["name"]) for file in entry["train"])
    revision = f", revision {as_code(entry['revision'])}" if entry.get("revision") else ""
    return f"{in_markdown(without_places(entry['dataset']))}: {as_code(entry['train'])}{revision}"


def split_name(settings: Settings, record: dict[str, Any], split: str, data_name: str) -> str:
    """Where a split's pairs come from, in a word or two."""
    origin = record["data"]["splits"][split]
    if isinstance(origin, list):
        return ", ".join(in_markdown(file["name"]) for file in origin)
    return data_name if settings.data.dataset else f"{data_name}: {origin}"


def _number(value: Any) -> str:
    """Thousands with commas; what is no number (a streamed split's count) as it is."""
    return f"{value:,}" if isinstance(value, int) else str(value)


def data_section(settings: Settings, record: dict[str, Any], data_name: str) -> str:
    """Where the pairs are from, how many of them there are in each split, and which files these were."""
    data = record["data"]
    parts = [f"{data_name}. Of the training pairs: {data['train']}."]
    if is_on_hub(record):
        parts.append(f"From the Hub: configuration {data['config_name']}, revision `{data['revision']}`.")
    rows = []
    for split, origin in data["splits"].items():
        is_cut = split == "validation" and "cut" in data
        described = "files below" if isinstance(origin, list) else in_markdown(origin) if is_cut else as_code(origin)
        rows.append([split, _number(data["pairs"][split]), described])
    listed = [(split, origin) for split, origin in data["splits"].items() if isinstance(origin, list)]
    listed += [("all", data["files"])] if "files" in data else []
    names = [
        [
            split,
            in_markdown(file["name"]),
            f"{file['bytes']:,}",
            f"`{file['sha256']}`" if "sha256" in file else "not computed",
        ]
        for split, origin in listed
        for file in origin
    ]
    if "cut" in data:
        parts.append(f"The validation pairs were cut from the training data: {in_markdown(data['cut'])}.")
    if "overlap" in data:
        parts.append(overlap_in_words(data["overlap"], data["pairs"]))
    parts = [" ".join(parts), table(["split", "pairs:", "from"], rows), *teachers_section(record)]
    if len(mixed := data.get("mix") or ()) > 1:
        sets = [
            [_source_name(entry), f"{entry['weight']:g}", _number(entry["pairs"]), _number(entry["drawn"])]
            for entry in mixed
        ]
        parts.append(f"The training pairs are drawn from {len(sets)} sets, in proportion to their weights:")
        parts.append(table(["set", "weight:", "its pairs:", "drawn of them:"], sets))
    return "\n\n".join([*parts, *([table(["split", "file", "bytes:", "sha256"], names)] if names else [])])
