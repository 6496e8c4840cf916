"""A number and how sure it is: a standard error with its degrees of freedom, its interval and p-value; proportions.

Student's t stands for itself, so that two seeds count as two: nothing here is an approximation for many values.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

LEVEL = 0.05
"""A p-value below it is called a difference."""
MOST_FREEDOM = 1e5
"""Degrees of freedom from which on Student's t is the normal distribution for every purpose here."""


@dataclass(frozen=True)
class Estimate:
    """What was measured, and how far it may be from what it stands for."""

    value: float
    error: float
    """Its standard error."""
    freedom: float
    """Degrees of freedom of the standard error."""

    @classmethod
    def of(cls, values: Sequence[float]) -> Estimate:
        """The mean of independent replicates; of a single one the error is not known, that is infinite."""
        number = len(values)
        error = float(np.std(values, ddof=1)) / math.sqrt(number) if number > 1 else math.inf
        return cls(float(np.mean(values)), error, max(number - 1, 1))

    @classmethod
    def sum(cls, value: float, variances: Iterable[tuple[float, float]]) -> Estimate:
        """A value whose variance is the sum of some, each with its degrees of freedom (Welch & Satterthwaite)."""
        parts = [(variance, freedom) for variance, freedom in variances if variance > 0]
        total = sum(variance for variance, _ in parts)
        if not parts:
            return cls(value, 0.0, MOST_FREEDOM)
        return cls(value, math.sqrt(total), total**2 / sum(variance**2 / freedom for variance, freedom in parts))

    @classmethod
    def by_control(cls, value: float, controls: Sequence[float], scale: float = 1.0) -> Estimate | None:
        """A difference whose error is how far the same thing, measured twice, was from itself; None without a control.

        Args:
            value: Of two measurements.
            controls: Differences of things that are the same: their mean is 0, as is known.
            scale: The value's standard error over that of a control.
        """
        if not controls:
            return None
        return cls(value, scale * math.sqrt(float(np.mean(np.square(controls)))), len(controls))

    def minus(self, other: Estimate) -> Estimate:
        """The difference of two independent ones."""
        return Estimate.sum(self.value - other.value, [(self.error**2, self.freedom), (other.error**2, other.freedom)])

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """What it covers with the probability 1 - level."""
        if not self.error:
            return self.value, self.value
        half = student_quantile(level, self.freedom) * self.error
        return self.value - half, self.value + half

    @property
    def p(self) -> float:
        """Two-sided, of its being 0."""
        if not self.value:
            return 1.0
        return student_tail(abs(self.value) / self.error, self.freedom) if self.error else 0.0


def student_tail(t: float, freedom: float) -> float:
    """The probability that Student's t is farther from 0 than that, on either side."""
    angles, tail = _tail(freedom)
    return float(np.interp(math.atan(t / math.sqrt(min(freedom, MOST_FREEDOM))), angles, tail))


def student_quantile(level: float, freedom: float) -> float:
    """The distance from 0 that Student's t exceeds with this probability, on either side."""
    angles, tail = _tail(freedom)
    angle = float(np.interp(-level, -tail, angles))
    return math.sqrt(min(freedom, MOST_FREEDOM)) * math.tan(angle)


def _tail(freedom: float) -> tuple[np.ndarray, np.ndarray]:
    """With t = √freedom · tan(angle), t's density is that of cos(angle)^(freedom - 1): its integral from angles on."""
    freedom = min(freedom, MOST_FREEDOM)
    farthest = min(math.pi / 2, 40 / math.sqrt(freedom))  # beyond it nothing is left
    angles = np.linspace(0, farthest, 20_001)
    density = np.cos(angles) ** (freedom - 1)
    parts = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return angles, 1 - parts / parts[-1]


def wilson(share: float, number: float, level: float = LEVEL) -> tuple[float, float]:
    """The interval of a proportion (Wilson 1927), also where it is 0 or 1.

    Args:
        share: Of successes, from 0 to 1.
        number: Of trials.
    """
    z = NormalDist().inv_cdf(1 - level / 2)
    middle = (share + z**2 / (2 * number)) / (1 + z**2 / number)
    half = z / (1 + z**2 / number) * math.sqrt(share * (1 - share) / number + z**2 / (4 * number**2))
    return max(0.0, middle - half), min(1.0, middle + half)
