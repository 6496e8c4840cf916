"""Words of sentences: listings, plurals, numbers, and the nearest right name."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from seqloom.support.language import say, spoken


def in_markdown(text: str) -> str:
    """Somebody's text as Markdown shows it to the letter: as it is, or as code where it could be markup."""
    is_plain = re.fullmatch(r"[\w .,:;/@+()%-]*", text) and not re.search(r"__|://|\b_|_\b|\n|www\.", text)
    return text if is_plain else as_code(text)


def as_code(text: str) -> str:
    """A text as code within a line, whatever backticks it has."""
    text = " ".join(text.split())
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " if text[:1] == "`" or text[-1:] == "`" else ""
    return f"{fence}{space}{text}{space}{fence}"


def fenced(text: str, language: str) -> str:
    """Lines as a block of code, whatever fences they have."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text}\n{fence}"


def table(headers: list[str], rows: list[list[str]]) -> str:
    """A table of Markdown; columns whose headers end in a colon are set to the right."""

    def line(cells: list[str]) -> str:
        return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"  # a bar would end the cell

    rules = ["---:" if header.endswith(":") else "---" for header in headers]
    return "\n".join([line([header.rstrip(":") for header in headers]), line(rules), *map(line, rows)])


def digits(value: float) -> str:
    """Three digits, or as many as it has before the point."""
    return f"{value:,.0f}" if value >= 99.95 else f"{value:.3g}"


def factor(ratio: float) -> str:
    """Two digits, or as many as it has before the point."""
    return f"{ratio:,.0f}" if ratio >= 99.5 else f"{ratio:.2g}"


def plural(number: int, word: str) -> str:
    """``1 beam``, ``5 beams``; in another language, by the translation of ``{number:,} beam``."""
    if spoken() != "en":
        return say(f"{{number:,}} {word}", number=number)
    return f"{number:,} {word}" + ("" if number == 1 else "s")


def with_interval(value: float, low_high: Sequence[float] | None, sign: str = "") -> str:
    """``1.50 [1.00, 2.00]``; with ``+`` as the sign, differences have theirs."""
    bounds = f" [{low_high[0]:{sign}.2f}, {low_high[1]:{sign}.2f}]" if low_high else ""
    return f"{value:{sign}.2f}{bounds}"


def p_value(p: float | None) -> str:
    """``0.049``, ``< 0.001``; nothing where there is none."""
    return "" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def listing(values: Iterable[Any]) -> str:
    """``a, b, c``: names to choose from; ``none``."""
    return ", ".join(str(value) for value in values) or "none"


def value_in_words(value: Any) -> str:
    """A setting's value as YAML writes it: ``null``, ``0.001``, ``[a, b]``."""
    return json.dumps(value, ensure_ascii=False).replace('"', "")


def nearest(name: str, known: Iterable[str], cutoff: float = 0.5) -> str | None:
    """The known name that a misspelt one is most like, if any is as like as the cutoff, from 0 to 1."""
    near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=cutoff)
    return near[0] if near else None


def together(items: Sequence[str]) -> str:
    """``a, b and c``: all of them in a sentence."""
    if len(items) < 2:
        return "".join(items)
    return say("{first} and {last}", first=", ".join(items[:-1]), last=items[-1])


def unknown(name: str, known: Iterable[str]) -> str:
    """The sentence for a name that is none of those known, with the nearest of them."""
    known = sorted(known)
    near = nearest(name, known)
    return f"{name} is unknown; " + (f"did you mean {near}?" if near else f"known are {listing(known)}.")
