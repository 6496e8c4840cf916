"""A verdict follows an interval, whatever the order of what is compared; without an interval there is none."""

import itertools
import json
import math

import pytest

from seqloom.comparison.verdicts import BELOW, Case, counted, judged, kept, recorded, told, told_apart
from seqloom.scoring.estimates import Estimate

CERTAIN = 1e5


class TestCases:
    @pytest.mark.parametrize(
        ("known", "verdict"),
        [
            ((0.1, 0.5), "SEEN"), ((-0.5, -0.1), "NOT SEEN"), ((-0.1, 0.5), "NOT CLEAR"), ((0.0, 0.5), "NOT CLEAR"),
            ((0.0, 0.0), "NOT SEEN"), (None, "NOT CLEAR"), ((math.nan, 1.0), "NOT CLEAR"), ("SEEN", "SEEN"),
            ((0.1, math.inf), "SEEN"), ((-math.inf, math.inf), "NOT CLEAR"),
            (Estimate(2.0, 1.0, CERTAIN), "SEEN"), (Estimate(1.9, 1.0, CERTAIN), "NOT CLEAR"),
            (Estimate(2.0, 1.0, 3), "NOT CLEAR"), (Estimate(-2.0, 1.0, CERTAIN), "NOT SEEN"),
            (Estimate(9.0, math.inf, 1), "NOT CLEAR"),
        ],
    )  # fmt: skip
    def test_more_than_nothing(self, known, verdict):
        assert Case("", known).verdict() == verdict

    @pytest.mark.parametrize(
        ("known", "verdict"),
        [((0.9, 1.1), "SEEN"), ((0.8, 1.1), "NOT CLEAR"), ((1.2, 1.4), "NOT SEEN"), ((0.1, 0.8), "NOT SEEN")],
    )
    def test_a_range(self, known, verdict):
        assert Case("", known, (0.85, 1.15)).verdict() == verdict

    def test_less_than_nothing(self):
        """What the one reached and the other never did is infinitely less."""
        assert Case("", (-math.inf, -0.1), BELOW).verdict() == "SEEN"
        assert Case("", (0.1, math.inf), BELOW).verdict() == "NOT SEEN"

    def test_two_claims_in_one(self):
        """Seen where both are; not seen where either is not."""
        words = {"SEEN": (1.0, 2.0), "NOT SEEN": (-2.0, -1.0), "NOT CLEAR": (-1.0, 1.0)}
        for one, other in itertools.product(words, words):
            found = Case("", words[one], also=Case("", words[other])).verdict()
            worst = "NOT SEEN" if "NOT SEEN" in (one, other) else "NOT CLEAR" if "NOT CLEAR" in (one, other) else "SEEN"
            assert found == worst

    def test_the_more_is_asked_the_wider(self):
        """What is seen of one case is not clear of one among ten: one of them would be false oftener than in 5 %."""
        case = Case("it", Estimate(2.2, 1.0, CERTAIN))
        assert judged([case]) == {"SEEN": ["it"]}
        assert judged([case] * 10) == {"NOT CLEAR": ["it"] * 10}
        assert judged([Case("it", (0.1, 0.2))] * 10) == {"SEEN": ["it"] * 10}  # counted: nothing to be unsure of

    def test_in_words(self):
        cases = [Case("a", "SEEN"), Case("b", None), Case("c", (-2, -1)), Case("d", (1, 2))]
        assert told("E.", cases) == ["E. SEEN: a; d. NOT SEEN: c. NOT CLEAR: b."]
        assert told("E.", []) == []


class TestCounted:
    def test_ties_and_near_ties(self):
        assert Case("", counted(1.0)).verdict() == "NOT CLEAR"
        assert Case("", counted(1.001)).verdict() == Case("", counted(1 / 1.001)).verdict() == "NOT CLEAR"
        assert Case("", counted(1.2)).verdict() == "SEEN"
        assert Case("", counted(1 / 1.2)).verdict() == "NOT SEEN"
        assert Case("", counted(1 / 1.2), BELOW).verdict() == "SEEN"
        assert Case("", counted(0.0)).verdict() == "NOT SEEN"


class TestToldApart:
    CONTROLS = (0.02, -0.03, 0.01, 0.02, -0.02, 0.03)

    def test_the_quickest(self):
        assert told_apart({"a": 1.0, "b": 2.0, "c": 1.5}, self.CONTROLS) == (["a"], {"b": 2.0, "c": 1.5})

    def test_whatever_the_order(self):
        values = {"a": 1.0, "twin": 1.001, "slow": 2.0}
        for names in itertools.permutations(values):
            first, behind = told_apart({name: values[name] for name in names}, self.CONTROLS)
            assert (set(first), behind) == ({"a", "twin"}, {"slow": 2.0})

    def test_without_a_control_nobody_is(self):
        assert told_apart({"a": 1.0, "b": 9.0}, []) == (["a", "b"], {})


def test_kept_in_json():
    estimate = Estimate(1.5, 0.5, 7.0)
    assert recorded(json.loads(json.dumps(kept(estimate), allow_nan=False))) == estimate
    assert kept(Estimate(1.5, math.inf, 1)) is None
    assert kept(None) is recorded(None) is None
