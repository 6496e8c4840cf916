"""Findings in worlds without a difference, few of each: what is false oftener than chance has it would show."""

import false_verdicts
import pytest

WORLDS = 80
MOST = 10
"""False ones of 80: at 5 % there are more in 3 of 1,000 tries, and the worlds are always the same."""
LEAST = 70
"""Intervals of 80 that hold the truth; of 95 % there are fewer in 2 of 1,000 tries."""
TAKES_LONG = {"quality, four systems of three seeds", "long sources, three seeds"}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in false_verdicts.KINDS if name not in TAKES_LONG])
def test_findings(name):
    world = false_verdicts.KINDS[name]
    assert false_verdicts.count({name: world}, WORLDS)[name] <= MOST


@pytest.mark.slow
@pytest.mark.parametrize("name", false_verdicts.INTERVALS)
def test_intervals(name):
    world = false_verdicts.INTERVALS[name]
    assert false_verdicts.count({name: world}, WORLDS)[name] >= LEAST


def test_what_counts_as_decided():
    assert false_verdicts.decided("E. SEEN: a.")
    assert false_verdicts.decided("E. NOT CLEAR: b. NOT SEEN: a.")
    assert not false_verdicts.decided("E. NOT CLEAR: SEENA.")


def test_rows():
    assert false_verdicts.rows_of({"one": 5}, 100) == [["one", "5", "5.0%", "2.2% to 11.2%"]]
