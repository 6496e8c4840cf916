"""Which pairs a run has: its splits, cut, mixed, and what was read of them.

Wherever they come from, pairs have the two columns ``source`` and ``target``.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from datasets import Dataset, IterableDataset, ReadInstruction, concatenate_datasets, interleave_datasets

from seqloom.data.sources import PAIR, Data, TableFolder, choose_columns, describe_file, read_dataset, read_files
from seqloom.data.tables import first_gap
from seqloom.settings.replaced import kind_of
from seqloom.settings.schema import DataSettings
from seqloom.support.wording import listing

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Pairs:
    """What `load_pairs` found."""

    splits: dict[str, Data]
    """``train``, ``validation`` and ``test``, as far as they were asked for and exist. With ``data.streaming`` the
    training split is an ``IterableDataset``; all else is a ``Dataset``."""
    provenance: dict[str, Any]
    """What was read, in plain values, for the model card; ``cut`` says so where validation was cut from training."""


def load_pairs(settings: DataSettings, seed: int, splits: Sequence[str] = SPLITS) -> Pairs:
    """Finds the pairs that the settings describe.

    The same settings and seed give the same splits, whichever of them are asked for: where there is no validation
    split, ``train`` is always what is left of the training split once validation is cut from it. A test split that
    does not exist is left out.

    Args:
        settings: Where the pairs are.
        seed: Draws the validation pairs.
        splits: Which of train, validation and test to load.

    Raises:
        ValueError: A file, dataset, split or column is missing, empty, unreadable or not text; two text files differ in
            length or hold a line that is not UTF-8, a table's row has more cells than its header (found when the line
            is read: in a stream, later); a validation or test pair lacks a side.
    """
    files = {split: paths for split in SPLITS if (paths := getattr(settings, f"{split}_files"))}
    dataset, provenance = read_dataset(settings) if settings.dataset else ({}, {})
    present = [split for split in SPLITS if _exists(split, settings, [split] if split in files else dataset)]
    wanted = set(splits)
    if "validation" in wanted - set(present):
        wanted.add("train")
    if "train" in wanted - set(present):
        need = "to train on" if "train" in splits else "to cut a validation split from"
        raise ValueError(f"there is no split {settings.train_split!r} {need}; there is {listing(dataset)}.")

    found, origins = {}, {}
    for split in (split for split in present if split in wanted):
        found[split], origins[split] = _read_split(split, settings, dataset, "data")
    if "validation" not in present and "train" in found:
        found["train"], found["validation"], origins["validation"] = _cut(found["train"], settings, seed)
    if settings.mix and "train" in splits:
        found["train"], mixed = _mix(found["train"], settings, seed, provenance, origins["train"])
        provenance = {**provenance, "mix": mixed}
        if not settings.weight:  # its own training pairs are none of them
            origins["train"] = mixed[0]["train"] if len(mixed) == 1 else files_of(mixed)

    found = {split: found[split] for split in SPLITS if split in splits and split in found}
    counts = {split: len(data) if isinstance(data, Dataset) else "streamed" for split, data in found.items()}
    if "validation" in found and "validation" not in present:
        provenance = {**provenance, "cut": origins["validation"]}
    return Pairs(found, {**provenance, "splits": {split: origins[split] for split in found}, "pairs": counts})


def _read_split(
    split: str, settings: DataSettings, dataset: Mapping[str, Data], section: str
) -> tuple[Data, str | list[dict[str, Any]]]:
    """A split's pairs and where they come from: a slice of the data set, or files with their digests."""
    spec, stream = getattr(settings, f"{split}_split"), settings.streaming and split == "train"
    tables: Sequence[str] = ()
    separator = None
    if files := getattr(settings, f"{split}_files"):
        where, origin = f"{section}.{split}_files", [describe_file(path, stream) for path in files]
        data = _slice({split: read_files(files, settings, stream, where, str(origin))}, spec)
        tables = files if spec == split else ()
    else:
        where, origin = f"split {spec!r} of {settings.dataset}", spec
        data = _slice(dataset, spec)
        if isinstance(dataset, TableFolder):  # whose columns are chosen
            tables, separator = dataset.files.get(spec, ()), dataset.separator
        else:
            data = choose_columns(data, settings, where)
    if stream and isinstance(data, Dataset):
        data = data.to_iterable_dataset()
    if not stream and isinstance(data, IterableDataset):
        data = _collect(data)
    if next(iter(data), None) is None:
        raise ValueError(f"{where} has no pairs.")
    if split != "train" and isinstance(data, Dataset) and (gap := find_gap(data)):
        tables = [path for path in tables if kind_of(path)]
        places = (first_gap(path, settings.source, settings.target, separator) for path in tables)
        refuse_gap(next(filter(None, places), f"{where}: {gap}"))
    return data, origin


def find_gap(pairs: Dataset) -> str | None:
    """Which pair lacks a side, if any: ``pair 3 has no target``. A side may be empty, but it must be there."""
    number = 0
    for batch in pairs.with_format("arrow").iter(batch_size=10_000):
        for side in PAIR:
            if batch[side].null_count:
                return f"pair {number + batch[side].is_null().to_pylist().index(True) + 1} has no {side}"
        number += len(batch)
    return None


def refuse_gap(gap: str) -> None:
    """Says that pairs with a gap are not scored.

    Raises:
        ValueError: Always.
    """
    raise ValueError(
        f"{gap}: whatever is validated or scored on needs both sides; write the missing one, an empty text where none "
        "is meant, or take the row out (training pairs without a side are left out and counted)."
    )


def _mix(
    train: Data, settings: DataSettings, seed: int, provenance: dict[str, Any], origin: Any
) -> tuple[Data, list[dict[str, Any]]]:
    """Training pairs drawn from ``data``, unless its weight is 0, and every set of ``data.mix``, and what each of them
    is and gave."""
    sets, described = [train], [{**provenance, "train": origin, "weight": settings.weight}]
    if not settings.weight:
        sets, described = [], []
    for number, mixed in enumerate(settings.mix):
        section, fields = f"data.mix[{number}]", asdict(mixed)
        weight, source = fields.pop("weight"), DataSettings(**fields, streaming=settings.streaming)
        try:
            dataset, about = read_dataset(source) if source.dataset else ({}, {})
            if not _exists("train", source, ["train"] if source.train_files else dataset):
                raise ValueError(f"there is no split {source.train_split!r} to train on; there is {listing(dataset)}.")
            data, origin = _read_split("train", source, dataset, section)
        except ValueError as error:
            raise ValueError(str(error) if section in str(error) else f"{section}: {error}") from None
        sets.append(data)
        described.append({**about, "train": origin, "weight": weight})
    sets = [data if data.features == PAIR else data.cast(PAIR) for data in sets]
    if len(sets) == 1:  # all of it, in its own order
        described[0] |= {name: "streamed" if settings.streaming else len(sets[0]) for name in ("pairs", "drawn")}
        return sets[0], described
    weights = [entry["weight"] for entry in described]
    draw = functools.partial(
        interleave_datasets,
        probabilities=[weight / sum(weights) for weight in weights],
        seed=seed,
        stopping_strategy=settings.stopping_strategy,
    )
    if not settings.streaming:  # the draws depend on the sets' sizes alone: the same ones, of the sets' numbers
        numbers = [
            Dataset.from_dict({"set": np.full(len(data), number, dtype=np.int8)}) for number, data in enumerate(sets)
        ]
        drawn = np.bincount(draw(numbers).with_format("numpy")["set"][:], minlength=len(sets)).tolist()
    for number, entry in enumerate(described):
        entry["pairs"] = "streamed" if settings.streaming else len(sets[number])
        entry["drawn"] = "streamed" if settings.streaming else drawn[number]
    return draw(sets), described


def files_of(mixed: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The files, as `describe_file` tells of them, that mixed sets are read from."""
    return [file for entry in mixed if isinstance(entry["train"], list) for file in entry["train"]]


def check_unchanged(before: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuses to go on with other data than a run began with.

    Args:
        before, now: `Pairs.provenance` of then and now.

    Raises:
        ValueError: A file's size, content or (of a stream) date, or a data set's revision, is another.
    """
    if before == now:
        return
    splits = before.get("splits")
    then, present = (
        {entry["name"]: entry for origin in found.values() if isinstance(origin, list) for entry in origin
         if isinstance(entry, dict) and isinstance(entry.get("name"), str)}
        for found in (splits if isinstance(splits, dict) else {}, now["splits"])
    )  # fmt: skip
    names = [name for name in present if then.get(name) != present[name]]
    what = f"{listing(names)} changed" if names else "the data changed"
    raise ValueError(
        f"{what} since the run began: going on would mix two sets of data; bring back what was there, or train anew "
        "into another output_dir."
    )


def check_scorable(pairs: Data, split: str) -> None:
    """Refuses a split without a single reference: saying nothing would be all right there.

    Raises:
        ValueError: Every target is empty.
    """
    if isinstance(pairs, Dataset) and len(pairs) and not any(text and text.strip() for text in pairs["target"]):
        raise ValueError(
            f"every target of the {split} split is empty, so that there is nothing to score: look at data.target and "
            "at the files."
        )


def _exists(split: str, settings: DataSettings, available: Iterable[str]) -> bool:
    """Whether there is such a split; where not, one that the settings ask for by name is an error."""
    key = f"{split}_split"
    spec = getattr(settings, key)
    missing = {part.split("[")[0].strip() for part in spec.split("+")} - set(available)
    if missing and spec != getattr(DataSettings, key):
        raise ValueError(f"data.{key} is {spec!r}, but there is no {listing(missing)}; there is {listing(available)}.")
    return not missing


def _slice(available: Mapping[str, Data], spec: str) -> Data:
    """``train``, ``train[:1000]``, ``train[:10%]+test``; of streams neither percentages nor counts from the end."""
    if spec in available:
        return available[spec]
    streamed = any(isinstance(data, IterableDataset) for data in available.values())
    try:
        lengths = {name: sys.maxsize if streamed else len(data) for name, data in available.items()}
        ranges = ReadInstruction.from_spec(spec).to_absolute(lengths)
        if streamed and any(sign in spec.partition("[")[2] for sign in "%-"):
            raise ValueError
    except ValueError:
        examples = "train[:1000] or train[1000:2000]" + ("" if streamed else " or train[:10%]")
        raise ValueError(f"{spec!r} is not a slice that can be taken; write it as {examples}.") from None
    parts = [available[r.splitname].skip(r.from_).take(r.to - r.from_) for r in ranges if r.from_ < r.to]
    if not parts:
        raise ValueError(f"{spec!r} has no pairs; there are {listing(f'{n:,} in {s}' for s, n in lengths.items())}.")
    return parts[0] if len(parts) == 1 else concatenate_datasets(parts)


def _cut(train: Data, settings: DataSettings, seed: int) -> tuple[Data, Dataset, str]:
    """Training pairs, validation pairs taken from them, and how."""
    size = settings.validation_size
    if isinstance(train, IterableDataset):
        if settings.split_stream or settings.num_workers:  # each part would leave out some pairs of its own instead
            raise ValueError(
                "data.split_stream and data.num_workers deal out the files of the training stream, from whose start "
                "the validation pairs would be cut: give data.validation_files or a dataset with a validation split."
            )
        validation, train = _collect(train.take(size)), train.skip(size)
        validation, broken = _part(validation)
        if next(iter(train), None) is None:
            raise ValueError(f"the training stream ends within data.validation_size, {size} pairs; make that smaller.")
        lacking = f", but for {len(broken)} that lack a side" if len(broken) else ""
        return train, validation, f"the first {size} pairs of the training stream{lacking}"
    size = min(size, len(train) // 10)
    if not size:
        raise ValueError(f"{len(train)} training pairs are too few to cut validation from; give a validation split.")
    parts = train.train_test_split(test_size=size, seed=seed)
    rest, (validation, broken) = parts["train"], _part(parts["test"])
    rest = concatenate_datasets([rest, broken]) if len(broken) else rest  # which are counted in training
    return rest, validation, f"{len(validation)} pairs drawn from the training split with seed {seed}"


def _part(pairs: Dataset) -> tuple[Dataset, Dataset]:
    """Those that have both sides, and those that lack one."""
    if find_gap(pairs) is None:
        return pairs, pairs.select(range(0))
    whole = np.array([all(text is not None for text in row.values()) for row in pairs])
    return pairs.select(np.flatnonzero(whole)), pairs.select(np.flatnonzero(~whole))


def _collect(stream: IterableDataset) -> Dataset:
    """A stream's pairs in memory."""
    batches = [Dataset.from_dict(batch, features=PAIR) for batch in stream.iter(batch_size=10_000)]
    return concatenate_datasets(batches or [Dataset.from_dict({side: [] for side in PAIR}, features=PAIR)])
