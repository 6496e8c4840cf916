"""The lines of a UTF-8 file, plain or gzip; one that is damaged or no text says where."""

from __future__ import annotations

import codecs
import gzip
import zlib
from collections.abc import Iterable, Iterator
from typing import IO, cast

LONGEST_TEXT = 1 << 20
"""Characters of a side of a pair. What has more is a file whose ends of lines were lost, not a sentence."""
_DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error)


def open_bytes(path: str) -> IO[bytes]:
    """The file's bytes, unpacked where its name ends in ``.gz``."""
    return cast(IO[bytes], gzip.open(path, "rb")) if path.endswith(".gz") else open(path, "rb")


class TooLong(ValueError):
    """A line is longer than any that is read."""


def longest_row() -> int:
    """Bytes of a line, or characters of a value, that are held to see what is in them: other columns may be long."""
    return 16 * LONGEST_TEXT


def bounded(file: IO[bytes]) -> Iterator[bytes]:
    """The lines of a file, of which none is read much further than it may be long.

    Raises:
        TooLong: One is longer.
    """
    most = longest_row()
    while line := file.readline(most + 1):
        if len(line) > most:
            raise TooLong
        yield line


def decoded(raw: Iterable[bytes], ends: bool = False) -> Iterator[str]:
    """The lines of a UTF-8 text, as training and `translate` read them: without a byte order mark, and with or without
    their ends, line feed or CRLF. Only a line feed ends one: other carriage returns, U+0085 and U+2028 stand inside
    sentences, and a line more on one side shifts all that follow.

    Raises:
        UnicodeDecodeError: A line is not UTF-8.
    """
    for index, line in enumerate(raw):
        text = line.decode("utf-8" if index else "utf-8-sig")
        yield text if ends else text.removesuffix("\n").removesuffix("\r")


def placed(raw: Iterable[bytes], origin: str, ends: bool = False) -> Iterator[str]:
    """The lines of a UTF-8 text, as `decoded` reads them; what is wrong with one says where it stands.

    Args:
        origin: What the text is called.

    Raises:
        ValueError: A line is not UTF-8, holds a zero byte (as UTF-16 does), or is too long; the text is damaged.
    """
    number = 0
    try:
        for text in decoded(raw, ends):
            if "\0" in text:
                raise ValueError(
                    f"{origin}, line {number + 1:,}: byte 0 is in no text of UTF-8; convert it (from UTF-16?) or "
                    "repair the line."
                )
            yield text
            number += 1
    except TooLong:
        raise endless(f"{origin}, line {number + 1:,}") from None
    except UnicodeDecodeError as error:
        byte = f"byte {error.start + 1} (0x{error.object[error.start]:02x})"
        where = f"{origin}, line {number + 1:,}"
        raise ValueError(f"{where}: {byte} is not UTF-8; convert it or repair the line.") from None
    except _DAMAGED as error:
        raise ValueError(f"{origin} is damaged after line {number:,} ({error}); make or download it again.") from None


def lines(path: str, ends: bool = False) -> Iterator[str]:
    """The lines of a file, as `placed` reads them.

    Raises:
        ValueError: As there.
    """
    with open_bytes(path) as file:
        yield from placed(bounded(file), path, ends)


def chunks(path: str) -> Iterator[str]:
    """The same text in pieces of a megabyte, wherever its lines end."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    try:
        with open_bytes(path) as file:
            while block := file.read(1 << 20):
                if text := decoder.decode(block):
                    yield text
            decoder.decode(b"", final=True)
    except (UnicodeDecodeError, *_DAMAGED):
        for _ in lines(path):  # says in which line
            pass
        raise


def endless(place: str) -> ValueError:
    """What is said of a line or value that was not read to its end."""
    return ValueError(
        f"{place} is longer than {longest_row():,} bytes; a text may have {LONGEST_TEXT:,} characters: look whether "
        "the ends of the lines were lost, or cut the text into sentences."
    )


def too_long(text: str, place: str) -> ValueError:
    """What is said of a text with more than `LONGEST_TEXT` characters, before anything is made of it."""
    return ValueError(
        f"{place} has a text of {len(text):,} characters; at most {LONGEST_TEXT:,} are allowed: "
        "look whether the ends of the lines were lost, or cut the text into sentences."
    )
