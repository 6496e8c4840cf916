"""Student's t is that of the tables, sums of variances Welch's, and intervals hold what they should."""

import math

import numpy as np
import pytest

from seqloom.scoring.estimates import Estimate, student_quantile, student_tail, wilson


@pytest.mark.parametrize(
    ("freedom", "level", "expected"),
    [
        (1, 0.05, 12.7062), (2, 0.05, 4.30265), (3, 0.001, 12.9240), (5, 0.05, 2.57058), (10, 0.01, 3.16927),
        (30, 0.05, 2.04227), (120, 0.05, 1.97993), (1e9, 0.05, 1.95996),
    ],
)  # fmt: skip
def test_student_as_tables_have_it(freedom, level, expected):
    assert student_quantile(level, freedom) == pytest.approx(expected, rel=1e-4)
    assert student_tail(expected, freedom) == pytest.approx(level, rel=1e-3)


@pytest.mark.parametrize("freedom", [1, 2])
def test_student_in_closed_form(freedom):
    """Of one degree of freedom it is Cauchy's; of two, algebraic."""
    for t in (0.1, 1.0, 3.0, 10.0):
        cauchy, two = 1 - 2 / math.pi * math.atan(t), 1 - t / math.sqrt(2 + t * t)
        assert student_tail(t, freedom) == pytest.approx(cauchy if freedom == 1 else two, rel=1e-4)


class TestEstimates:
    def test_of_replicates(self):
        found = Estimate.of([1.0, 2.0, 6.0])
        assert (found.value, found.freedom) == (3.0, 2)
        assert found.error == pytest.approx(math.sqrt(7 / 3))
        assert found.interval()[1] == pytest.approx(3 + 4.30265 * math.sqrt(7 / 3), rel=1e-4)
        assert Estimate.of([1.0]).error == math.inf

    def test_of_a_difference(self):
        """Welch's: with equal variances and numbers, as many degrees of freedom as both have."""
        found = Estimate(5.0, 2.0, 4).minus(Estimate(2.0, 2.0, 4))
        assert (found.value, found.freedom) == (3.0, pytest.approx(8))
        assert found.error == pytest.approx(math.sqrt(8))
        assert Estimate(5.0, 2.0, 4).minus(Estimate(2.0, 0.0, 1)).freedom == pytest.approx(4)

    def test_by_a_control(self):
        """Its mean is known to be 0, so nothing is taken off for it."""
        found = Estimate.by_control(0.3, [0.1, -0.2, 0.2], 2.0)
        assert (found.value, found.freedom) == (0.3, 3)
        assert found.error == pytest.approx(2 * math.sqrt(0.09 / 3))
        assert Estimate.by_control(0.3, []) is None

    def test_p_and_interval_agree(self):
        for value in (0.5, 1.9, 2.0, 4.0):
            found = Estimate(value, 1.0, 20)
            assert (found.p < 0.05) == (found.interval()[0] > 0)
        assert Estimate(0.0, 0.0, 5).p == 1
        assert Estimate(1.0, 0.0, 5).p == 0

    @pytest.mark.parametrize("number", [2, 3, 8])
    def test_intervals_hold_the_mean(self, number):
        chance = np.random.default_rng(number)
        found = [Estimate.of(chance.normal(3, 2, number)).interval() for _ in range(1000)]
        assert 930 <= sum(low <= 3 <= high for low, high in found) <= 970


def test_wilson_at_the_ends():
    """All right is not surely all right; and the interval stays where proportions are."""
    assert wilson(1.0, 50) == (pytest.approx(50 / (50 + 1.959964**2)), pytest.approx(1.0))
    assert wilson(0.0, 50) == (pytest.approx(0.0), pytest.approx(1 - 50 / (50 + 1.959964**2)))
    assert wilson(0.5, 100)[0] == pytest.approx(0.4038, abs=1e-4)  # as Brown, Cai & DasGupta (2001) have it


@pytest.mark.parametrize("share", [0.5, 0.9, 0.98])
def test_wilson_holds_the_share(share):
    """Exactly, by all that can be counted of fifty; the bootstrap holds 0.98 in 63 of 100 samples."""
    number, held = 50, 0.0
    for right in range(number + 1):
        low, high = wilson(right / number, number)
        if low <= share <= high:
            held += math.comb(number, right) * share**right * (1 - share) ** (number - right)
    assert held > 0.92
