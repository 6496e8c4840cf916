"""Pairs of texts from the built-in task, the Hub, a local folder or local files; and those pairs as token ids.

Wherever they come from, pairs have the two columns ``source`` and ``target``. Texts stay on disk: `datasets` maps its
cache into memory or reads a stream. Input that cannot be used raises a ``ValueError`` of one sentence.
"""

from __future__ import annotations

import csv
import functools
import glob
import gzip
import hashlib
import math
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import (
    Dataset,
    DatasetDict,
    Features,
    IterableDataset,
    List,
    ReadInstruction,
    Value,
    concatenate_datasets,
    interleave_datasets,
    load_dataset,
    load_dataset_builder,
    load_from_disk,
)

from seqloom.scan import load_scan
from seqloom.settings import DataSettings, mix_sources

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from seqloom.subwords import Sampler

Data = Dataset | IterableDataset
SPLITS = ("train", "validation", "test")
PAIR = Features({"source": Value("string"), "target": Value("string")})
ENCODED = Features({"input_ids": List(Value("int32")), "labels": List(Value("int32"))})
TABLES = {".csv": "csv", ".tsv": "tsv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}


@dataclass(frozen=True)
class Pairs:
    """What `load_pairs` found."""

    splits: dict[str, Data]
    """``train``, ``validation`` and ``test``, as far as they were asked for and exist. With ``data.streaming`` the
    training split is an ``IterableDataset``; all else is a ``Dataset``."""
    provenance: dict[str, Any]
    """What was read, in plain values, for the model card."""


@dataclass
class EncodingReport:
    """What `encode` kept and dropped. For a stream it counts what this process has read so far, epoch after epoch."""

    kept: int = 0
    """Pairs to use."""
    empty: int = 0
    """Pairs dropped because a side is missing or blank."""
    too_long: int = 0
    """Pairs dropped because a side has too many tokens."""

    def __str__(self) -> str:
        return (
            f"{self.kept:,} of {self.kept + self.empty + self.too_long:,} pairs kept; "
            f"dropped {self.empty:,} with an empty side and {self.too_long:,} that are too long"
        )


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
            length or hold a line that is not UTF-8 (found when the line is read: in a stream, later).
    """
    files = {split: paths for split in SPLITS if (paths := getattr(settings, f"{split}_files"))}
    dataset, provenance = _read_dataset(settings) if settings.dataset else ({}, {})
    present = [split for split in SPLITS if _exists(split, settings, [split] if split in files else dataset)]
    wanted = set(splits)
    if "validation" in wanted - set(present):
        wanted.add("train")
    if "train" in wanted - set(present):
        need = "to train on" if "train" in splits else "to cut a validation split from"
        raise ValueError(f"there is no split {settings.train_split!r} {need}; there is {_listing(dataset)}.")

    found, origins = {}, {}
    for split in (split for split in present if split in wanted):
        found[split], origins[split] = _read_split(split, settings, dataset, "data")
    if "validation" not in present and "train" in found:
        found["train"], found["validation"], origins["validation"] = _cut(found["train"], settings, seed)
    if settings.mix and "train" in splits:
        found["train"], mixed = _mix(found["train"], settings, seed, provenance, origins["train"])
        provenance = {**provenance, "mix": mixed}

    found = {split: found[split] for split in SPLITS if split in splits and split in found}
    counts = {split: len(data) if isinstance(data, Dataset) else "streamed" for split, data in found.items()}
    return Pairs(found, {**provenance, "splits": {split: origins[split] for split in found}, "pairs": counts})


def _read_split(
    split: str, settings: DataSettings, dataset: dict[str, Data], section: str
) -> tuple[Data, str | list[dict[str, Any]]]:
    """A split's pairs and where they come from: a slice of the data set, or files with their digests."""
    spec, stream = getattr(settings, f"{split}_split"), settings.streaming and split == "train"
    if files := getattr(settings, f"{split}_files"):
        where, origin = f"{section}.{split}_files", [_describe(path, stream) for path in files]
        data = _slice({split: _read_files(files, settings, stream, where, str(origin))}, spec)
    else:
        where, origin = f"split {spec!r} of {settings.dataset}", spec
        data = _columns(_slice(dataset, spec), settings, where)
    if stream and isinstance(data, Dataset):
        data = data.to_iterable_dataset()
    if not stream and isinstance(data, IterableDataset):
        data = _collect(data)
    if next(iter(data), None) is None:
        raise ValueError(f"{where} has no pairs.")
    return data, origin


def _mix(
    train: Data, settings: DataSettings, seed: int, provenance: dict[str, Any], origin: Any
) -> tuple[Data, list[dict[str, Any]]]:
    """Training pairs drawn from ``data`` and every set of ``data.mix``, and what each of them is and gave."""
    sets, described = [train], [{**provenance, "train": origin, "weight": settings.weight}]
    for number, (weight, source) in enumerate(mix_sources(settings)):
        section = f"data.mix[{number}]"
        try:
            dataset, about = _read_dataset(source) if source.dataset else ({}, {})
            if not _exists("train", source, ["train"] if source.train_files else dataset):
                raise ValueError(f"there is no split {source.train_split!r} to train on; there is {_listing(dataset)}.")
            data, origin = _read_split("train", source, dataset, section)
        except ValueError as error:
            raise ValueError(str(error) if section in str(error) else f"{section}: {error}") from None
        sets.append(data)
        described.append({**about, "train": origin, "weight": weight})
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
    return draw([data if data.features == PAIR else data.cast(PAIR) for data in sets]), described


def check_unchanged(before: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuses to go on with other data than a run began with.

    Args:
        before, now: `Pairs.provenance` of then and now.

    Raises:
        ValueError: A file's size, content or (of a stream) date, or a data set's revision, is another.
    """
    if before == now:
        return
    then, present = (
        {entry["name"]: entry for origin in found.get("splits", {}).values() if isinstance(origin, list)
         for entry in origin} for found in (before, now)
    )  # fmt: skip
    names = [name for name in present if then.get(name) != present[name]]
    what = f"{_listing(names)} changed" if names else "the data changed"
    raise ValueError(
        f"{what} since the run began: going on would mix two sets of data; bring back what was there, or train anew "
        "into another output_dir."
    )


def encode(
    pairs: Data,
    tokenizer: PreTrainedTokenizerBase,
    settings: DataSettings,
    *,
    drop: bool = True,
    sampler: Sampler | None = None,
    report: EncodingReport | None = None,
) -> tuple[Data, EncodingReport]:
    """Tokenizes pairs, in ``data.num_proc`` processes and with the cache of `datasets`.

    Args:
        pairs: Columns ``source`` and ``target``.
        tokenizer: Gives the ``input_ids`` of a text and the ``labels`` of a ``text_target``.
        settings: The longest sides, in tokens, special tokens included.
        drop: Leave out what cannot be trained on. False for evaluation: every pair is scored, and row n of the result
            is row n of ``pairs``.
        sampler: Draws the segmentations of an epoch. The pairs stay those that are kept without it.
        report: Where a stream goes on counting.

    Returns:
        ``input_ids`` and ``labels`` of each pair; and the report to print.

    Raises:
        ValueError: Nothing is left (a stream just comes out empty); a side is missing although ``drop`` is False.
    """
    report = report or EncodingReport()
    counter, workers = (report, {}) if isinstance(pairs, IterableDataset) else (None, {"num_proc": settings.num_proc})
    limits = (settings.max_source_length or math.inf, settings.max_target_length or math.inf) if drop else None
    draws = {} if sampler is None else {"sampler": sampler}  # the cache of what is not drawn stays as it was
    written = pairs
    if drop:
        written = pairs.filter(_written, batched=True, input_columns=[*PAIR], fn_kwargs={"report": counter}, **workers)
        if counter is None and len(written) == len(pairs):
            written = pairs  # read faster without the filter's index
    encoded = written.map(
        _tokenize,
        batched=True,
        with_indices=True,
        remove_columns=[*PAIR],
        features=ENCODED,
        fn_kwargs={"tokenizer": tokenizer, "limits": limits, "report": counter, **draws},
        **workers,
    )
    if counter is None:
        # From the results, since functions that the cache or other processes stand in for cannot count.
        report.kept, report.empty = len(encoded), len(pairs) - len(written)
        report.too_long = len(written) - len(encoded)
        if not report.kept:
            raise ValueError(f"{report}: look at the texts, data.max_source_length and data.max_target_length.")
    return encoded, report


def _written(sources: list, targets: list, report: EncodingReport | None) -> list[bool]:
    """Which pairs have text on both sides."""
    kept = [all(text and text.strip() for text in pair) for pair in zip(sources, targets, strict=True)]
    if report is not None:
        report.empty += kept.count(False)
    return kept


def _tokenize(
    batch: dict[str, list],
    rows: list[int],
    tokenizer: PreTrainedTokenizerBase,
    limits: tuple[float, float] | None,
    report: EncodingReport | None,
    sampler: Sampler | None = None,
) -> dict[str, list]:
    for side in PAIR:
        if None in batch[side]:
            row = rows[batch[side].index(None)] + 1
            raise ValueError(f"pair {row} has no {side}; every pair of an evaluation is scored, so fill or remove it.")
    encoded = tokenizer(batch["source"], text_target=batch["target"], verbose=False)
    pairs = list(zip(encoded["input_ids"], encoded["labels"], strict=True))
    fits = [limits is None or (len(x) <= limits[0] and len(y) <= limits[1]) for x, y in pairs]
    kept = [pair for pair, is_kept in zip(pairs, fits, strict=True) if is_kept]
    if sampler is not None:
        texts = zip(batch["source"], batch["target"], rows, fits, strict=True)
        drawn = [sampler(source, target, row) for source, target, row, is_kept in texts if is_kept]
        longest = [min(sampler.longest, limit) for limit in limits or (math.inf, math.inf)]
        kept = [
            tuple(
                new if new is not None and len(new) <= most else old
                for new, old, most in zip(news, olds, longest, strict=True)
            )
            for news, olds in zip(drawn, kept, strict=True)
        ]
    if report is not None:
        report.kept += len(kept)
        report.too_long += len(pairs) - len(kept)
    return {"input_ids": [x for x, _ in kept], "labels": [y for _, y in kept]}


def _read_dataset(settings: DataSettings) -> tuple[dict[str, Data], dict[str, Any]]:
    """All splits of ``data.dataset``, and which version of it they are."""
    name = settings.dataset
    if name == "scan":
        split = settings.split or "simple"
        return load_scan(split), {"dataset": name, "split": split}
    try:
        if any(Path(name, mark).is_file() for mark in ("dataset_dict.json", "state.json")):  # made by save_to_disk
            data = load_from_disk(name)
            return data if isinstance(data, DatasetDict) else {"train": data}, {"dataset": name}
        builder = load_dataset_builder(name, settings.config_name, revision=settings.revision)
        if hasattr(builder.config, "keep_default_na"):
            options = _csv_options(settings, builder.config.sep)
            builder = load_dataset_builder(name, settings.config_name, revision=settings.revision, **options)
        if settings.streaming:
            data = builder.as_streaming_dataset()
        else:
            builder.download_and_prepare()
            data = builder.as_dataset()
    except Exception as error:  # the network's, the Hub's, the file formats': they have no class in common
        raise ValueError(
            f"data.dataset {name!r} cannot be loaded ({_reason(error)}); check the name, data.config_name, data."
            "revision and the way to the Hub (private datasets need `hf auth login`), or give data.train_files instead."
        ) from None
    if not Path(name).exists():
        return data, {"dataset": name, "config_name": builder.config.name, "revision": builder.hash}
    files = [path for paths in builder.config.data_files.values() for path in paths]
    return data, {"dataset": name, "files": [_describe(path, settings.streaming) for path in files]}


def _read_files(paths: list[str], settings: DataSettings, stream: bool, where: str, state: str) -> Data:
    """Two line-aligned text files, or tables, named by the setting `where`; `state` changes when a file does."""
    for path in paths:
        with open(path, "rb") as file:
            start = file.read(2)
        if not start:
            raise ValueError(f"{path} of {where} is empty.")
        if path.endswith(".gz") and start != b"\x1f\x8b":
            raise ValueError(f"{path} of {where} is not compressed with gzip; compress it or take .gz off its name.")
    kinds = {TABLES.get(Path(path.removesuffix(".gz")).suffix.lower(), "text") for path in paths}
    if len(kinds) == 1 and "text" not in kinds:
        return _columns(_read_tables(paths, *kinds, settings, stream), settings, where)
    if kinds != {"text"} or len(paths) != 2:
        raise ValueError(
            f"{where} is {_listing(paths)}; give two line-aligned text files, source and target, "
            f"or tables of one kind ({_listing(TABLES)})."
        )
    arguments = {"source": paths[0], "target": paths[1], "state": state}  # all of them name the cache
    try:
        return (IterableDataset if stream else Dataset).from_generator(_aligned, features=PAIR, gen_kwargs=arguments)
    except Exception as error:
        raise ValueError(str(error.__cause__ or error)) from None


def _aligned(source: str, target: str, state: str) -> Iterator[dict[str, str]]:
    number, lines = 0, zip_longest(_lines(source), _lines(target))
    for number, (left, right) in enumerate(lines, start=1):
        if left is None or right is None:
            shorter, longer = (source, target) if left is None else (target, source)
            raise ValueError(
                f"{shorter} has {number - 1:,} lines and {longer} has {number + sum(1 for _ in lines):,}; line n of the"
                " one must belong to line n of the other, so find where they part."
            )
        yield {"source": left, "target": right}
    if not number:
        raise ValueError(f"{source} and {target} have no lines.")


def _lines(path: str) -> Iterator[str]:
    """The lines of a UTF-8 text. Only a newline ends one: carriage returns, U+0085 and U+2028 also stand inside
    sentences, and a line more on one side shifts all that follow."""
    number = 0
    try:
        with (gzip.open if path.endswith(".gz") else open)(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                yield line.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        byte = f"byte {error.start + 1} (0x{error.object[error.start]:02x})"
        raise ValueError(f"{path}, line {number}: {byte} is not UTF-8; convert the file or repair the line.") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is damaged after line {number} ({error}); make or download it again.") from None


def _read_tables(paths: list[str], kind: str, settings: DataSettings, stream: bool) -> Data:
    loader, options = kind, {}
    if kind in ("csv", "tsv"):
        loader, options = "csv", _csv_options(settings, "\t" if kind == "tsv" else ",")
    names = [glob.escape(path) for path in paths]
    for path in paths if kind != "parquet" and not stream else []:
        for _ in _lines(path):  # says where a file is not UTF-8; the readers say it without the line, or too late
            pass
    try:
        data = load_dataset(loader, data_files=names, split="train", streaming=stream, **options)
        next(iter(data), None)  # a stream that cannot be read fails here
        return data
    except Exception as error:
        raise ValueError(f"{_listing(paths)} cannot be read as {kind} ({_reason(error)}).") from None


def _csv_options(settings: DataSettings, separator: str) -> dict[str, Any]:
    """Cells are texts as they stand, ``NA``, ``null`` and ``12`` too; tab-separated ones have no quoting."""
    options = {"sep": separator, "keep_default_na": False, "converters": {settings.source: str, settings.target: str}}
    return {**options, "quoting": csv.QUOTE_NONE} if separator == "\t" else options


def _columns(data: Data, settings: DataSettings, where: str) -> Data:
    """The two columns that the settings name, as ``source`` and ``target``."""
    names = {side: getattr(settings, side) for side in PAIR}
    rows = data if isinstance(data, Dataset) else list(data.take(100))
    if not len(rows):
        raise ValueError(f"{where} has no pairs.")
    flat = (data if isinstance(data, Dataset) else Dataset.from_list(rows, features=data.features)).flatten()
    for side, name in names.items():
        if name not in flat.column_names:
            raise ValueError(f"data.{side} is {name!r}, but the columns of {where} are {_listing(flat.column_names)}.")
        kind = getattr(flat.features[name], "dtype", type(flat.features[name]).__name__)
        if kind not in ("string", "large_string"):
            raise ValueError(f"data.{side} is {name!r}, but that column of {where} holds {kind} instead of text.")
    if names["source"] == names["target"]:
        raise ValueError(f"data.source and data.target are both {names['source']!r}; they must be two columns.")
    if isinstance(data, Dataset):
        return flat.select_columns([*names.values()]).rename_columns({name: side for side, name in names.items()})
    return data.map(_pick, fn_kwargs={"names": names}, remove_columns=[*rows[0]], features=PAIR)


def _pick(row: dict[str, Any], names: dict[str, str]) -> dict[str, str | None]:
    picked = {}
    for side, name in names.items():
        value = row
        for key in [name] if name in row else name.split("."):
            value = (value or {}).get(key)
        picked[side] = value
    return picked


def _exists(split: str, settings: DataSettings, available: Iterable[str]) -> bool:
    """Whether there is such a split; where not, one that the settings ask for by name is an error."""
    key = f"{split}_split"
    spec = getattr(settings, key)
    missing = {part.split("[")[0].strip() for part in spec.split("+")} - set(available)
    if missing and spec != getattr(DataSettings, key):
        raise ValueError(
            f"data.{key} is {spec!r}, but there is no {_listing(missing)}; there is {_listing(available)}."
        )
    return not missing


def _slice(available: dict[str, Data], spec: str) -> Data:
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
        raise ValueError(f"{spec!r} has no pairs; there are {_listing(f'{n:,} in {s}' for s, n in lengths.items())}.")
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
        if next(iter(train), None) is None:
            raise ValueError(f"the training stream ends within data.validation_size, {size} pairs; make that smaller.")
        return train, validation, f"the first {size} pairs of the training stream"
    size = min(size, len(train) // 10)
    if not size:
        raise ValueError(f"{len(train)} training pairs are too few to cut validation from; give a validation split.")
    parts = train.train_test_split(test_size=size, seed=seed)
    return parts["train"], parts["test"], f"{size} pairs drawn from the training split with seed {seed}"


def _collect(stream: IterableDataset) -> Dataset:
    """A stream's pairs in memory."""
    batches = [Dataset.from_dict(batch, features=PAIR) for batch in stream.iter(batch_size=10_000)]
    return concatenate_datasets(batches or [Dataset.from_dict({side: [] for side in PAIR}, features=PAIR)])


def _describe(path: str, stream: bool) -> dict[str, Any]:
    """A file's name, size and content; its date instead of the latter where a stream is to begin at once."""
    if not Path(path).is_file():
        raise ValueError(f"there is no file {path} (in {Path.cwd()}); check the data settings.")
    state = Path(path).stat()
    described = {"name": Path(path).name, "bytes": state.st_size}
    if stream:
        return {**described, "modified": state.st_mtime_ns}
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return {**described, "sha256": digest.hexdigest()}


def _reason(error: BaseException) -> str:
    error = error.__cause__ or error
    return f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(": .")


def _listing(values: Iterable[Any]) -> str:
    return ", ".join(str(value) for value in values) or "none"
