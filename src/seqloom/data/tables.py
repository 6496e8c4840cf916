"""The two columns of a table (csv, tsv, json, jsonl, parquet), row by row, as the texts that they are.

Other readers guess: an index where a row has a cell more than the header, dates and numbers where cells look like them,
the end of a row where a carriage return stands in a sentence. Here a table has what is written in it, or one sentence
says in which line it does not. Nothing is read further than the row at hand.
"""

from __future__ import annotations

import csv
import json
import re
import textwrap
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from seqloom.data import lines
from seqloom.settings.replaced import kind_of
from seqloom.support.wording import listing

Row = tuple[int, dict[str, str | None]]
"""A row's number (of the line in which it begins; in parquet of the row) and its pair; None where a cell is missing."""

_UNSEEN = 10_000
"""Rows of a JSON file after which a column that none of them has is taken for misspelt."""
# UTF-8 has no surrogates, so these stand for nothing that a text can hold.
_RETURN, _END = "\udc0d", "\udc1a"
_LONE_RETURN = re.compile(r"\r(?!\n|\Z)")
_SURROGATE = re.compile("[\ud800-\udfff]")
_SPACE = re.compile(r"[ \t\r\n]*")
_ABSENT = object()


def read_table(path: str, source: str, target: str, separator: str | None = None) -> Iterator[Row]:
    """The rows of a table.

    Args:
        path: The file; its name says what kind it is.
        source, target: The two columns; in json and parquet a dot reaches into a nested one.
        separator: What parts the cells of a csv, where it is no comma.

    Raises:
        ValueError: There is no such column, or it holds something else than text; a row has more cells than the
            header; the file is damaged, or no UTF-8.
    """
    names, kind = {"source": source, "target": target}, kind_of(path)
    if kind == "json":
        rows = _json_rows(path, names)
    elif kind == "parquet":
        rows = _parquet_rows(path, names)
    else:
        separator = separator or ("\t" if kind == "tsv" else ",")
        rows = _cell_rows(path, names, _tabbed(path) if separator == "\t" else _quoted(path, separator))
    for number, pair in rows:
        for text in pair.values():
            if text is not None and len(text) > lines.LONGEST_TEXT:
                raise lines.too_long(text, f"{path}, {_unit(path)} {number}")
        yield number, pair


def first_gap(path: str, source: str, target: str, separator: str | None = None) -> str | None:
    """Where a cell of the two columns is missing: ``a.tsv, line 3 has no target``."""
    for number, pair in read_table(path, source, target, separator):
        for side, text in pair.items():
            if text is None:
                return f"{path}, {_unit(path)} {number} has no {side}"
    return None


def _unit(path: str) -> str:
    return "row" if kind_of(path) == "parquet" else "line"


def _unknown(path: str, side: str, name: str, columns: Any, why: str = "") -> ValueError:
    known = textwrap.shorten(listing(columns), 500, placeholder=" …")
    return ValueError(f"data.{side} is {name!r}, but the columns of {path} are {known}{why}.")


def _no_text(path: str, place: str, side: str, name: str, kind: str) -> ValueError:
    return ValueError(
        f"{path}{place}: data.{side} is {name!r}, but that column holds {kind} instead of text; "
        "name another one, or write its values as texts."
    )


# csv and tsv ----------------------------------------------------------------------------------------------------------


def _cell_rows(path: str, names: dict[str, str], rows: Iterator[tuple[int, list[str]]]) -> Iterator[Row]:
    """Below the header, which says how many cells a row may have; of a shorter row the last ones are missing."""
    rows = ((number, cells) for number, cells in rows if len(cells) > 1 or (cells and cells[0].strip()))
    _, header = next(rows, (0, []))
    for side, name in names.items():
        if name not in header:
            raise _unknown(path, side, name, header, _why_unnamed(path, header, name))
        if header.count(name) > 1:
            raise ValueError(f"{path} has {header.count(name)} columns {name!r}; give each a name of its own.")
    places, width = {side: header.index(name) for side, name in names.items()}, len(header)
    for number, cells in rows:
        if len(cells) > width:
            quotes = "" if kind_of(path) == "tsv" else ", put cells that hold a separator into double quotes"
            raise ValueError(
                f"{path}, line {number} has {len(cells)} cells, but the header names {width} columns: "
                f"take out what is too much{quotes}, or give the further column a name in the header."
            )
        yield number, {side: cells[at] if at < len(cells) else None for side, at in places.items()}


def _why_unnamed(path: str, header: list[str], name: str) -> str:
    """What a first line that does not name a column may be, and what to do."""
    kind = kind_of(path)
    for other in (";", "|", "," if kind == "tsv" else "\t"):
        if len(header) == 1 and name in (cell.strip(' "') for cell in header[0].split(other)):
            wanted = "tabs" if kind == "tsv" else "commas"
            return f": its cells are parted by {other!r}, and those of a .{kind} are by {wanted}; write them so"
    return ", by its first line; if that is a pair already, put a line with the columns' names above it"


def _tabbed(path: str) -> Iterator[tuple[int, list[str]]]:
    """Tab-separated cells have no quoting."""
    for number, line in enumerate(lines.lines(path), start=1):
        yield number, line.split("\t")


def _quoted(path: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Cells as the csv module reads them, but for a carriage return, which ends a row only before a newline."""
    csv.field_size_limit(lines.longest_row())  # a document may be a cell, all behind a lone quote not
    rows = csv.reader(_marked(path), delimiter=separator, strict=True)
    number = 1
    try:
        for cells in rows:
            if cells == [_END]:
                return
            yield number, [cell.replace(_RETURN, "\r") for cell in cells]
            number = rows.line_num + 1
    except csv.Error as error:
        if "unexpected end" in str(error):
            said = "a double quote opens a cell that no other one closes"
        elif "expected after" in str(error):
            if number == 1:  # the header may have another separator, which it shows as it is
                yield number, next(csv.reader(_marked(path), delimiter=separator))
            said = f"a cell goes on behind its closing quote, where {separator!r} or the line's end must stand"
            said += ': a quote in a quoted cell is written twice ("")'
        else:
            said = f"cannot be read as csv ({error}); look at its quotes"
        raise ValueError(f"{path}, line {number}: {said}.") from None


def _marked(path: str) -> Iterator[str]:
    """Lines whose lone carriage returns the csv module does not know, and one more, which no open quote lets stand."""
    for line in lines.lines(path, ends=True):
        yield _LONE_RETURN.sub(_RETURN, line) if "\r" in line else line
    yield f"{_END}\n"


# json -----------------------------------------------------------------------------------------------------------------


def _json_rows(path: str, names: dict[str, str]) -> Iterator[Row]:
    held: list[Row] = []
    """Rows before both columns were seen."""
    unseen, columns = set(names), dict[str, None]()
    for line, row in _json_values(path):
        if not isinstance(row, dict):
            raise ValueError(
                f"{path}, line {line}: cannot be read as json, since a row must be an object with the columns as its "
                f"keys, but this is a value of type {_json_type(row)}."
            )
        pair: dict[str, str | None] = {}
        for side, name in names.items():
            value = _reach(row, name)
            if value is not _ABSENT:
                unseen.discard(side)
            if value is None or value is _ABSENT:
                pair[side] = None
            elif not isinstance(value, str):
                raise _no_text(path, f", line {line}", side, name, _json_type(value))
            elif not value.isascii() and (half := _SURROGATE.search(value)):
                raise ValueError(
                    f"{path}, line {line}: data.{side} has half a character (\\u{ord(half[0]):04x}), which no text "
                    "can hold; repair the line."
                )
            else:
                pair[side] = value
        if not unseen and not held:
            yield line, pair
            continue
        held.append((line, pair))
        if unseen:
            columns.update(dict.fromkeys(_flat(row)))
            if len(held) < _UNSEEN:
                continue
            break
        yield from held
        held = []
    if unseen and held:
        (side, *_) = (side for side in names if side in unseen)
        raise _unknown(path, side, names[side], columns)


def _json_type(value: Any) -> str:
    """As `datasets` would call it."""
    kinds = {bool: "bool", int: "int64", float: "float64", list: "List", dict: "Struct"}
    return kinds.get(type(value), type(value).__name__)


def _reach(row: dict[str, Any], name: str) -> Any:
    value: Any = row
    for key in [name] if name in row else name.split("."):
        if value is None:
            return None
        if not isinstance(value, dict) or key not in value:
            return _ABSENT
        value = value[key]
    return value


def _flat(row: dict[str, Any], before: str = "") -> Iterator[str]:
    """The names of the columns, ``translation.en`` among them."""
    for key, value in row.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}"


def _json_values(path: str) -> Iterator[tuple[int, Any]]:
    """The values of a list, or one behind the other as in JSON Lines, and in which line each begins."""
    # No number is used, and one of thousands of digits would be refused.
    decode = json.JSONDecoder(parse_int=lambda digits: 0).raw_decode
    parts = lines.chunks(path)
    text, at, counted, line = "", 0, 0, 1
    is_list, may_end, needs_comma = None, True, False
    while True:
        at = _SPACE.match(text, at).end()  # type: ignore[union-attr]
        line, counted = line + text.count("\n", counted, at), at
        problem, broken, value, end = "it ends in the middle of a list", line, None, at
        if at < len(text):
            if is_list is None and text[at] == "[":
                is_list, at = True, at + 1
                continue
            if is_list and text[at] == "]" and may_end:
                is_list, may_end, needs_comma, at = False, True, True, at + 1
                continue
            if needs_comma:
                if not is_list or text[at] != ",":
                    raise _no_json(path, line, "here a comma is missing" if is_list else "something follows the list")
                may_end, needs_comma, at = False, False, at + 1
                continue
            try:
                value, end = decode(text, at)
                problem = ""
            except json.JSONDecodeError as error:
                problem, broken = error.msg, line + text.count("\n", at, error.pos)
                if not error.msg.startswith("Unterminated string") and error.pos < len(text) - 16:
                    raise _no_json(path, broken, problem) from None  # else it may be cut off
            except RecursionError:
                raise _no_json(path, line, "it is nested too deeply") from None
        if problem and len(text) - at > lines.longest_row():
            raise lines.endless(f"{path}, line {line}: a value")
        if not problem:
            is_list = bool(is_list)
            may_end, needs_comma, at = True, is_list, end
            yield line, value
            continue
        more, wanted = [text[at:]], max(len(text) - at, 1)
        while wanted > 0 and (part := next(parts, "")):  # as much again, lest a long value be tried too often
            more.append(part)
            wanted -= len(part)
        if len(more) == 1:
            if at < len(text) or is_list:
                raise _no_json(path, broken, problem)
            return
        text, at, counted = "".join(more), 0, 0


def _no_json(path: str, line: int, problem: str) -> ValueError:
    return ValueError(f"{path}, line {line}: cannot be read as json ({problem}); repair the file.")


# parquet --------------------------------------------------------------------------------------------------------------


_TEXTS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)


def _parquet_rows(path: str, names: dict[str, str]) -> Iterator[Row]:
    try:
        with lines.open_bytes(path) as stream, pq.ParquetFile(stream) as file:
            fields = list(_flat_fields(file.schema_arrow))
            columns = dict(fields)
            for side, name in names.items():
                if name not in columns:
                    raise _unknown(path, side, name, columns)
                if [field for field, _ in fields].count(name) > 1:
                    raise ValueError(
                        f"{path} has several columns {name!r}, and which is meant is not known: rename them."
                    )
                kind = columns[name].value_type if pa.types.is_dictionary(columns[name]) else columns[name]
                if not any(is_text(kind) for is_text in _TEXTS):
                    raise _no_text(path, "", side, name, "List" if pa.types.is_list(kind) else str(kind))
            number = 0
            for batch in file.iter_batches(batch_size=1000, columns=[*names.values()]):
                part = pa.Table.from_batches([batch])
                while any(pa.types.is_struct(field.type) for field in part.schema):
                    part = part.flatten()
                texts = [part[name].cast(pa.string()).to_pylist() for name in names.values()]
                for pair in zip(*texts, strict=True):
                    number += 1
                    yield number, dict(zip(names, pair, strict=True))
    except (pa.ArrowException, OSError, EOFError) as error:
        said = " ".join(str(error).split()).rstrip(".")
        raise ValueError(f"{path} cannot be read as parquet ({said}); make or download it again.") from None


def _flat_fields(fields: pa.Schema | pa.StructType, before: str = "") -> Iterator[tuple[str, pa.DataType]]:
    for field in fields:
        if pa.types.is_struct(field.type):
            yield from _flat_fields(field.type, f"{before}{field.name}.")
        else:
            yield f"{before}{field.name}", field.type
