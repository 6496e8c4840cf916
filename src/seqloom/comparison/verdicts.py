"""Whether what was expected was seen, was not, or is not clear: from an interval of exactly what a sentence claims.

A claim is a range that a quantity should lie in: a ratio above 1, an exponent near 1. Where the quantity's whole
interval lies in it, it is seen; where none of it does, it is not seen; otherwise, or where nothing tells how sure the
quantity is, it is not clear. Two numbers alone, of which one is the larger, are no finding.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from seqloom.scoring.estimates import LEVEL, Estimate
from seqloom.support.language import later, say

Verdict = Literal["SEEN", "NOT SEEN", "NOT CLEAR"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
"""In the order in which findings say them."""
Interval = tuple[float, float]
ABOVE: Interval = (0.0, math.inf)
"""What is expected of a difference, or of the logarithm of a ratio: more than nothing."""
BELOW: Interval = (-math.inf, 0.0)
SAME = math.log(1.05)
"""What is counted and not measured differs by 5 % at least, before a sentence says so."""
TRAINED = later("Said of these trained models, of one run each, and not of their recipes.")
"""What a verdict of one training each is about."""


@dataclass(frozen=True)
class Case:
    """One thing that a finding says."""

    text: str
    """With the numbers that it is said of."""
    known: Estimate | Interval | Verdict | None
    """The quantity, by its error or its bounds; the verdict itself, of a test; or nothing."""
    expected: Interval = ABOVE
    """The range that the quantity should lie in; its bounds are not in it."""
    also: Case | None = None
    """A second claim of the same sentence: it is seen where both are, and not seen where either is not."""

    def verdict(self, level: float = LEVEL) -> Verdict:
        """Seen, not seen, or not clear, where an interval misses its quantity with the probability ``level``."""
        if self.also is not None:
            found = {replace(self, also=None).verdict(level / 2), self.also.verdict(level / 2)}
            return "NOT SEEN" if "NOT SEEN" in found else "NOT CLEAR" if "NOT CLEAR" in found else "SEEN"
        if self.known is None:
            return "NOT CLEAR"
        if isinstance(self.known, str):
            return self.known
        low, high = self.known.interval(level) if isinstance(self.known, Estimate) else self.known
        if math.isnan(low) or math.isnan(high):
            return "NOT CLEAR"
        if (self.expected[0] < low or low == -math.inf == self.expected[0]) and (
            high < self.expected[1] or high == math.inf == self.expected[1]
        ):
            return "SEEN"
        if high <= self.expected[0] or self.expected[1] <= low:
            return "NOT SEEN"
        return "NOT CLEAR"


def judged(cases: Iterable[Case]) -> dict[Verdict, list[str]]:
    """The texts by verdict. The more cases are measured, the wider their intervals: one of them misses in 5 % at most
    (Bonferroni)."""
    cases = list(cases)
    number = sum(isinstance(case.known, Estimate) for case in cases)
    found: dict[Verdict, list[str]] = {verdict: [] for verdict in VERDICTS}
    for case in cases:
        found[case.verdict(LEVEL / max(number, 1))].append(case.text)
    return {verdict: texts for verdict, texts in found.items() if texts}


def told(expected: str, cases: Iterable[Case]) -> list[str]:
    """What was expected, and where it was seen, was not, and is not clear, in one finding; none of no cases."""
    found = judged(cases)
    words = [
        expected,
        *(say("{verdict}: {texts}.", verdict=say(verdict), texts="; ".join(texts)) for verdict, texts in found.items()),
    ]
    return [" ".join(words)] if found else []


def counted(ratio: float, *, least: float = SAME) -> Interval:
    """The logarithm of a ratio of counted things, which are the same where they differ by little."""
    middle = math.log(ratio) if ratio > 0 else -math.inf
    return middle - least, middle + least


def recorded(entry: Mapping[str, float] | None) -> Estimate | None:
    """An estimate as a measure's result holds it; earlier versions held none."""
    return None if entry is None else Estimate(entry["value"], entry["error"], entry["freedom"])


def kept(estimate: Estimate | None) -> dict[str, Any] | None:
    """The same the other way: JSON knows no infinity, and what has an infinite error is not known."""
    if estimate is None or not (math.isfinite(estimate.error) and math.isfinite(estimate.value)):
        return None
    return {"value": estimate.value, "error": estimate.error, "freedom": estimate.freedom}


def told_apart(
    values: Mapping[str, float], controls: Sequence[float], number: int = 1
) -> tuple[list[str], dict[str, float]]:
    """The quickest, and the others with what they take of its time.

    Args:
        values: Times by name.
        controls: Logarithms of the ratios of things that are the same, timed twice.
        number: Of such questions in one finding.

    Returns:
        The names that the control does not tell from the quickest, in their own order; and the ratios of the rest.
    """
    best, pairs = min(values.values()), number * len(values) * (len(values) - 1) / 2  # any two could be the extremes
    first, behind = [], {}
    for name, value in values.items():
        known = Estimate.by_control(math.log(value / best), controls)
        if Case(name, known).verdict(LEVEL / max(pairs, 1)) == "SEEN":
            behind[name] = value / best
        else:
            first.append(name)
    return first, behind
