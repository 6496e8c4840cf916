"""What the measure `attention` says: whether models without attention lose more with the length."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from seqloom.comparison.traits import in_words, recorded
from seqloom.comparison.verdicts import TRAINED, Case, told
from seqloom.comparison.verdicts import recorded as estimate_of
from seqloom.scoring import metrics
from seqloom.scoring.estimates import Estimate
from seqloom.support.language import later, say

EXPECTED = later("Expected (Cho et al. 2014b; Bahdanau et al. 2015): without attention, long sources lose the most.")


def data_finding(data: dict[str, Any]) -> str:
    """Whether models without attention are farther behind on long sources than on short ones, on the test data."""
    label = metrics.label(data["metric"])
    ends = {name: (entries[0]["score"], entries[-1]["score"]) for name, entries in data["scores"].items()}
    said = "; ".join(
        say("{name} {first:.1f} and {last:.1f}", name=name, first=first, last=last)
        for name, (first, last) in ends.items()
    )
    said = say("{label} on the shortest and on the longest sources: {said}.", label=label, said=said)
    attends = {name: recorded(one).has_cross_attention for name, one in data["kinds"].items()}
    if not {False, True} <= set(attends.values()):
        return say(
            "{expected} Not to be seen here, for want of a model with attention and one without. {said}",
            expected=say(EXPECTED),
            said=said,
        )
    about = f" {say(TRAINED)}" if data.get("runs", 1) == 1 else ""
    found = data["gaps"] if "gaps" in data else _earlier_gaps(ends, attends, metrics.higher_is_better(data["metric"]))
    return f"{told(say(EXPECTED) + about, cases_of(found))[0]} {said}"


def _earlier_gaps(
    ends: dict[str, tuple[float, float]], attends: dict[str, bool | None], higher_is_better: bool
) -> list[dict[str, Any]]:
    """Of scores that earlier versions kept, which tell nothing of how sure a gap's growth is."""
    sign, sides = (
        1 if higher_is_better else -1,
        [[n for n in attends if attends[n] is is_so] for is_so in (False, True)],
    )
    return [
        {"without": one, "with": other, "change": None, **{
            end: sign * (ends[other][place] - ends[one][place]) for place, end in enumerate(("short", "long"))
        }}
        for one, other in itertools.product(*sides)
    ]  # fmt: skip


def cases_of(found: Sequence[dict[str, Any]]) -> list[Case]:
    """Whether a gap grows with the length."""
    return [
        Case(
            say(
                "{without} minus {other}: {short:+.1f} points on the shortest and {long:+.1f} on the longest, a change "
                "of {change}",
                without=in_words(gap["without"]),
                other=in_words(gap["with"]),
                short=-gap["short"] + 0.0,  # 0.0 and not -0.0
                long=-gap["long"] + 0.0,
                change=in_points(gap["short"] - gap["long"], estimate_of(gap["change"])),
            ),
            estimate_of(gap["change"]),
        )
        for gap in found
    ]


def in_points(change: float, growth: Estimate | None) -> str:
    """``-12.3 [-16.6, -8.0]`` of a gap that grows so much; the interval where there is one."""
    bounds = "" if growth is None else " [{:+.1f}, {:+.1f}]".format(*sorted(-bound for bound in growth.interval()))
    return f"{change + 0.0:+.1f}{bounds}"


def recall_finding(probe: dict[str, Any]) -> str:
    """Whether the model without attention, more than those with it, forgets with the length."""
    ends = {name: (system["scores"][0], system["scores"][-1]) for name, system in probe["systems"].items()}
    (first_low, first_high), (low, high) = probe["buckets"][0], probe["buckets"][-1]
    said = "; ".join(
        say("{name} {first:.0f} % and {last:.0f} %", name=in_words(name), first=first, last=last)
        for name, (first, last) in ends.items()
    )
    attends = {
        name: recorded(system if "traits" in system else name).has_cross_attention
        for name, system in probe["systems"].items()
    }
    expected = say(
        "Expected: to repeat what was read, a state of fixed size suffices for a few letters, and "
        "attention for many: without attention long rows lose the most. {trained}",
        trained=say(TRAINED),
    )
    found = probe["gaps"] if "gaps" in probe else _earlier_gaps(ends, attends, higher_is_better=True)
    return say(
        "{expected} Token accuracy on {first_low} to {first_high} and on {low} to {high} letters: {said}.",
        expected=" ".join(told(expected, cases_of(found))),
        first_low=first_low,
        first_high=first_high,
        low=low,
        high=high,
        said=said,
    )
