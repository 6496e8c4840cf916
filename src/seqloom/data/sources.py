"""Pairs of texts from wherever they are: the built-in task, the Hub, a local data set, text files, tables.

Texts stay on disk: `datasets` maps its cache into memory or reads a stream. Input that cannot be used raises a
``ValueError`` of one sentence.
"""

from __future__ import annotations

import csv
import hashlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeAlias

import datasets
import pyarrow.compute as pc
from datasets import Dataset, DatasetDict, Features, IterableDataset, Value, load_dataset_builder, load_from_disk

from seqloom import run_folder
from seqloom.data import lines
from seqloom.data.scan import load_scan
from seqloom.data.tables import read_table
from seqloom.settings.replaced import TABLES, kind_of
from seqloom.settings.schema import DataSettings, MixSettings
from seqloom.support import hub_files
from seqloom.support.disk import sha256
from seqloom.support.wording import listing
from seqloom.support.xet import with_cure

Data: TypeAlias = Dataset | IterableDataset
PAIR = Features({"source": Value("string"), "target": Value("string")})


def read_dataset(settings: DataSettings) -> tuple[Mapping[str, Data], dict[str, Any]]:
    """All splits of ``data.dataset``, and which version of it they are."""
    name = settings.dataset
    assert name is not None
    if name == "scan":
        split = settings.split or "simple"
        return load_scan(split), {"dataset": name, "split": split}
    with _cache_alone(name) as why:
        return _read_dataset(name, settings, why)


@contextmanager
def _cache_alone(name: str) -> Iterator[str | None]:
    """Lets `datasets` take what is in its cache where the Hub is out of reach, and not try for half a minute.

    Gives why it is out of reach, if it is.
    """
    before = datasets.config.HF_HUB_OFFLINE
    why = None if before or Path(name).exists() or name.startswith(".") else hub_files.out_of_reach()
    datasets.config.HF_HUB_OFFLINE = before or why is not None
    try:
        yield why
    finally:
        datasets.config.HF_HUB_OFFLINE = before


def _read_dataset(name: str, settings: DataSettings, why: str | None) -> tuple[Mapping[str, Data], dict[str, Any]]:
    """`read_dataset` of what is not built in; ``why`` the Hub is out of reach, if it is."""
    about: dict[str, Any] = {}
    try:
        if any(Path(name, mark).is_file() for mark in ("dataset_dict.json", "state.json")):  # made by save_to_disk
            data = load_from_disk(name)
            described = [describe_file(str(path), settings.streaming) for path in sorted(Path(name).rglob("*.arrow"))]
            return data if isinstance(data, DatasetDict) else {"train": data}, {"dataset": name, "files": described}
        options: dict[str, Any] = {"revision": settings.revision}
        builder = load_dataset_builder(name, settings.config_name, **options)
        if Path(name).exists():
            files = {str(split): [*paths] for split, paths in builder.config.data_files.items()}
            described = [describe_file(path, settings.streaming) for paths in files.values() for path in paths]
            about = {"dataset": name, "files": described}
            if folder := _table_folder(builder.config, files, settings):
                return folder, about
            # The builder knows a file by its date: what was read of another content must lie elsewhere.
            digest = hashlib.sha256(str(described).encode()).hexdigest()[:16]
            options["cache_dir"] = str(Path(datasets.config.HF_DATASETS_CACHE, f"seqloom-{digest}"))
        if hasattr(builder.config, "keep_default_na"):
            options |= _csv_options(settings, builder.config.sep)
        if len(options) > 1:
            builder = load_dataset_builder(name, settings.config_name, **options)
        about = about or {"dataset": name, "config_name": builder.config.name, "revision": builder.hash}
        if settings.streaming:
            data = builder.as_streaming_dataset()
        else:
            builder.download_and_prepare()
            data = builder.as_dataset()
    except Exception as error:  # the network's, the Hub's, the file formats': they have no class in common
        reason = _reason(error) if why is None else f"{_reason(error)}; the Hub is out of reach: {why}"
        raise ValueError(
            f"data.dataset {name!r} cannot be loaded ({reason}); check the name, data.config_name, data."
            "revision and the way to the Hub (private datasets need `hf auth login`), or give data.train_files instead."
        ) from None
    return data, about


def read_files(paths: list[str], settings: DataSettings, stream: bool, where: str, state: str) -> Data:
    """Two line-aligned text files, or tables, named by the setting `where`; `state` changes when a file does."""
    for path in paths:
        with open(path, "rb") as file:
            start = file.read(2)
        if not start:
            raise ValueError(f"{path} of {where} is empty.")
        if path.endswith(".gz") and start != b"\x1f\x8b":
            raise ValueError(f"{path} of {where} is not compressed with gzip; compress it or take .gz off its name.")
    kinds = {kind_of(path) for path in paths}
    if len(kinds) == 1 and None not in kinds:
        return _tables(paths, settings, stream, state)
    if kinds != {None} or len(paths) != 2:
        raise ValueError(
            f"{where} is {listing(paths)}; give two line-aligned text files, source and target, "
            f"or tables of one kind ({listing(TABLES)})."
        )
    return _generated(stream, _aligned, {"source": paths[0], "target": paths[1], "state": state})


def check_columns(settings: DataSettings | MixSettings, where: str) -> None:
    """Refuses names of columns, the usual ones apart, where all files are lines of text, which have none.

    Args:
        where: The section is, in the settings.

    Raises:
        ValueError: A column is named.
    """
    lists = ("train_files", "validation_files", "test_files")
    files = [path for name in lists for path in getattr(settings, name, None) or []]
    if settings.dataset is not None or any(kind_of(path) for path in files):
        return
    for side in PAIR:
        if (column := getattr(settings, side)) != side:
            raise ValueError(
                f"{where}.{side} is {column!r}, a column of tables, but {listing(files[:2])} are lines of text, the "
                "source's and the target's: leave it out."
            )


def _aligned(source: str, target: str, state: str) -> Iterator[dict[str, str]]:
    number, both = 0, zip_longest(lines.lines(source), lines.lines(target))
    for number, (left, right) in enumerate(both, start=1):
        if left is None or right is None:
            shorter, longer = (source, target) if left is None else (target, source)
            raise ValueError(
                f"{shorter} has {number - 1:,} lines and {longer} has {number + sum(1 for _ in both):,}; line n of the"
                " one must belong to line n of the other, so find where they part."
            )
        for path, text in ((source, left), (target, right)):
            if len(text) > lines.LONGEST_TEXT:
                raise lines.too_long(text, f"{path}, line {number}")
        yield {"source": left, "target": right}
    if not number:
        raise ValueError(f"{source} and {target} have no lines.")


def _rows(paths: list[str], source: str, target: str, separator: str | None, state: str) -> Iterator[dict[str, Any]]:
    for path in paths:
        for _, pair in read_table(path, source, target, separator):
            yield pair


def _generated(stream: bool, generator: Callable[..., Iterator[dict[str, Any]]], arguments: dict[str, Any]) -> Data:
    """What the generator gives, on disk or as a stream; all its arguments name the cache."""
    try:
        return (IterableDataset if stream else Dataset).from_generator(generator, features=PAIR, gen_kwargs=arguments)
    except Exception as error:
        raise ValueError(str(error.__cause__ or error)) from None


def _tables(paths: list[str], settings: DataSettings, stream: bool, state: str, separator: str | None = None) -> Data:
    """The two columns of tables. A stream has a shard a file, since ``paths`` is a list."""
    columns = {side: getattr(settings, side) for side in PAIR}
    _check_two(columns)
    return _generated(stream, _rows, {"paths": paths, **columns, "separator": separator, "state": state})


class TableFolder(Mapping[str, Data]):
    """The splits of a local folder of tables, each read when it is asked for: its pairs, not all its columns."""

    def __init__(self, files: dict[str, list[str]], settings: DataSettings, separator: str | None):
        self.files, self.separator = files, separator
        self._settings, self._read = settings, dict[str, Data]()

    def __getitem__(self, split: str) -> Data:
        if split not in self._read:
            paths, stream = self.files[split], self._settings.streaming
            state = str([describe_file(path, stream) for path in paths])
            self._read[split] = _tables(paths, self._settings, stream, state, self.separator)
        return self._read[split]

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def __len__(self) -> int:
        return len(self.files)


def _table_folder(config: Any, files: dict[str, list[str]], settings: DataSettings) -> TableFolder | None:
    """The folder that a builder found, unless it has other files than tables or is to be read in a way of its own."""
    if not all(kind_of(path) and Path(path).is_file() for paths in files.values() for path in paths):
        return None
    ours = {"name", "version", "data_dir", "data_files", "description", "sep", "delimiter"}
    usual, separator = type(config)(), getattr(config, "sep", None)
    if any(getattr(config, f.name) != getattr(usual, f.name) for f in fields(config) if f.name not in ours):
        return None
    separator = None if separator in (None, ",") else separator
    return TableFolder(files, settings, separator) if separator is None or len(separator) == 1 else None


def _csv_options(settings: DataSettings, separator: str) -> dict[str, Any]:
    """How pandas is to read the tables of the Hub. Cells are texts as they stand, ``NA``, ``null`` and ``12`` too; the
    first column is none of rows' names, and a cell more than the header is an error; tabs have no quoting."""
    warnings.filterwarnings("error", "Length of header or names does not match length of data")
    columns = {settings.source: str, settings.target: str}
    options = {"sep": separator, "keep_default_na": False, "converters": columns, "index_col": False}
    return {**options, "quoting": csv.QUOTE_NONE} if separator == "\t" else options


def choose_columns(data: Data, settings: DataSettings, where: str) -> Data:
    """The two columns that the settings name, as ``source`` and ``target``."""
    names = {side: getattr(settings, side) for side in PAIR}
    _check_two(names)
    try:
        rows = data if isinstance(data, Dataset) else list(data.take(100))
    except Exception as error:  # of a stream, as in `read_dataset`; and the warning of `_csv_options`
        raise ValueError(f"{where} cannot be read ({_reason(error)}).") from None
    if not len(rows):
        raise ValueError(f"{where} has no pairs.")
    flat = (data if isinstance(data, Dataset) else Dataset.from_list(rows, features=data.features)).flatten()
    for side, name in names.items():
        if name not in flat.column_names:
            raise ValueError(f"data.{side} is {name!r}, but the columns of {where} are {listing(flat.column_names)}.")
        kind = getattr(flat.features[name], "dtype", type(flat.features[name]).__name__)
        if kind not in ("string", "large_string"):
            raise ValueError(f"data.{side} is {name!r}, but that column of {where} holds {kind} instead of text.")
    if isinstance(data, Dataset):
        pairs = flat.select_columns([*names.values()]).rename_columns({name: side for side, name in names.items()})
        _check_lengths(pairs, where)
        return pairs
    return data.map(_pick, fn_kwargs={"names": names}, remove_columns=[*rows[0]], features=PAIR)


def _check_lengths(pairs: Dataset, where: str) -> None:
    number = 0
    for batch in pairs.with_format("arrow").iter(batch_size=1000):
        for side in PAIR:
            if (pc.max(pc.utf8_length(batch[side])).as_py() or 0) > lines.LONGEST_TEXT:
                for row, text in enumerate(batch[side].to_pylist(), start=number + 1):
                    if len(text or "") > lines.LONGEST_TEXT:
                        raise lines.too_long(text, f"{where}, row {row}")
        number += len(batch)


def _check_two(names: dict[str, str]) -> None:
    if names["source"] == names["target"]:
        raise ValueError(f"data.source and data.target are both {names['source']!r}; they must be two columns.")


def _pick(row: dict[str, Any], names: dict[str, str]) -> dict[str, str | None]:
    picked = {}
    for side, name in names.items():
        value: Any = row
        for key in [name] if name in row else name.split("."):
            value = (value or {}).get(key)
        if isinstance(value, str) and len(value) > lines.LONGEST_TEXT:
            raise lines.too_long(value, f"column {name!r}")
        picked[side] = value
    return picked


def describe_file(path: str, stream: bool) -> dict[str, Any]:
    """A file's name, size and content; its date instead of the latter where a stream is to begin at once. And of a
    distilled set, who was its teacher."""
    if not Path(path).is_file():
        raise ValueError(f"there is no file {path} (in {Path.cwd()}); check the data settings.")
    state = Path(path).stat()
    described: dict[str, Any] = {"name": Path(path).name, "bytes": state.st_size}
    if stream:
        described["modified"] = state.st_mtime_ns
    else:
        described["sha256"] = sha256(Path(path))
    if about := run_folder.distilled_by(Path(path)):
        is_same = all(about["file"].get(name) == described[name] for name in ("bytes", "sha256") if name in described)
        told = {name: about[name] for name in ("teacher", "kind", "decoding", "pairs") if name in about}
        described["distilled"] = {**told, "sources": about["data"]["name"], "changed_since": not is_same}
    return described


def _reason(error: BaseException) -> str:
    error = error.__cause__ or error
    return f"{type(error).__name__}: {with_cure(error)}".rstrip(": .")
