"""Words of sentences: listings, plurals, numbers, and the nearest right name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


def digits(value: float) -> str:
    """Three digits, or as many as it has before the point."""
    return f"{value:,.0f}" if value >= 99.95 else f"{value:.3g}"


def plural(number: int, word: str) -> str:
    """``1 beam``, ``5 beams``."""
    return f"{number:,} {word}" + ("" if number == 1 else "s")


def listing(values: Iterable[Any]) -> str:
    return ", ".join(str(value) for value in values) or "none"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that a misspelt one is most like, if any."""
    near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.5)
    return near[0] if near else None


def unknown(name: str, known: Iterable[str]) -> str:
    known = sorted(known)
    near = nearest(name, known)
    return f"{name} is unknown; " + (f"did you mean {near}?" if near else f"known are {listing(known)}.")
