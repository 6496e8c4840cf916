"""Pairs of texts from wherever they are: the built-in task, the Hub, a local data set, text files, tables.

Texts stay on disk: `datasets` maps its cache into memory or reads a stream. Input that cannot be used raises a
``ValueError`` of one sentence.
"""

from __future__ import annotations

import csv
import glob
import gzip
import hashlib
import zlib
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeAlias

from datasets import (
    Dataset,
    DatasetDict,
    Features,
    IterableDataset,
    Value,
    load_dataset,
    load_dataset_builder,
    load_from_disk,
)

from seqloom.data.scan import load_scan
from seqloom.settings.schema import DataSettings
from seqloom.support.wording import listing

Data: TypeAlias = Dataset | IterableDataset
PAIR = Features({"source": Value("string"), "target": Value("string")})
TABLES = {".csv": "csv", ".tsv": "tsv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}


def read_dataset(settings: DataSettings) -> tuple[dict[str, Data], dict[str, Any]]:
    """All splits of ``data.dataset``, and which version of it they are."""
    name = settings.dataset
    assert name is not None
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
    return data, {"dataset": name, "files": [describe_file(path, settings.streaming) for path in files]}


def read_files(paths: list[str], settings: DataSettings, stream: bool, where: str, state: str) -> Data:
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
        (kind,) = kinds
        return choose_columns(_read_tables(paths, kind, settings, stream), settings, where)
    if kinds != {"text"} or len(paths) != 2:
        raise ValueError(
            f"{where} is {listing(paths)}; give two line-aligned text files, source and target, "
            f"or tables of one kind ({listing(TABLES)})."
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


def decoded(lines: Iterable[bytes]) -> Iterator[str]:
    """The lines of a UTF-8 text, as training and `translate` read them: without a byte order mark and their ends, line
    feed or CRLF. Only a line feed ends one: other carriage returns, U+0085 and U+2028 also stand inside sentences, and
    a line more on one side shifts all that follow.

    Raises:
        UnicodeDecodeError: A line is not UTF-8.
    """
    for index, line in enumerate(lines):
        yield line.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8" if index else "utf-8-sig")


def _lines(path: str) -> Iterator[str]:
    number = 0
    try:
        with (gzip.open if path.endswith(".gz") else open)(path, "rb") as file:
            for line in decoded(file):
                yield line
                number += 1
    except UnicodeDecodeError as error:
        byte = f"byte {error.start + 1} (0x{error.object[error.start]:02x})"
        where = f"{path}, line {number + 1}"
        raise ValueError(f"{where}: {byte} is not UTF-8; convert the file or repair the line.") from None
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
        raise ValueError(f"{listing(paths)} cannot be read as {kind} ({_reason(error)}).") from None


def _csv_options(settings: DataSettings, separator: str) -> dict[str, Any]:
    """Cells are texts as they stand, ``NA``, ``null`` and ``12`` too; tab-separated ones have no quoting."""
    options = {"sep": separator, "keep_default_na": False, "converters": {settings.source: str, settings.target: str}}
    return {**options, "quoting": csv.QUOTE_NONE} if separator == "\t" else options


def choose_columns(data: Data, settings: DataSettings, where: str) -> Data:
    """The two columns that the settings name, as ``source`` and ``target``."""
    names = {side: getattr(settings, side) for side in PAIR}
    rows = data if isinstance(data, Dataset) else list(data.take(100))
    if not len(rows):
        raise ValueError(f"{where} has no pairs.")
    flat = (data if isinstance(data, Dataset) else Dataset.from_list(rows, features=data.features)).flatten()
    for side, name in names.items():
        if name not in flat.column_names:
            raise ValueError(f"data.{side} is {name!r}, but the columns of {where} are {listing(flat.column_names)}.")
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
        value: Any = row
        for key in [name] if name in row else name.split("."):
            value = (value or {}).get(key)
        picked[side] = value
    return picked


def describe_file(path: str, stream: bool) -> dict[str, Any]:
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
