"""How far a score depends on which sentences were tested: bootstrap resampling (Koehn 2004).

A corpus score is a function of statistics that each sentence has of its own (counts of n-grams, errors and words) and
that are added up. So a resample of the test set, in which each sentence is drawn any number of times, costs a sum, not
another run of the metric. The same number of sentences gives the same resamples, of sacrebleu's own bootstrap too:
scores of two systems on one test set can be compared resample by resample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

SEED = 12345
"""Of the resamples; sacrebleu's default."""


@dataclass(frozen=True)
class Statistics:
    """What a corpus score is made of."""

    values: np.ndarray
    """Each sentence's own statistics, float64 (sentences, statistics)."""
    score: Callable[[np.ndarray], float]
    """The score of their sums over a corpus, (statistics,)."""


def resamples(num_sentences: int, num_samples: int) -> Iterator[np.ndarray]:
    """Test sets of the same size, drawn with replacement: how often each sentence is in each, (sentences,)."""
    generator = np.random.default_rng(SEED)
    for _ in range(num_samples):
        drawn = generator.integers(num_sentences, size=num_sentences)
        yield np.bincount(drawn, minlength=num_sentences)


def resampled_scores(statistics: Statistics, num_samples: int = 1000) -> np.ndarray:
    """The score of each resample, (samples,)."""
    draws = resamples(len(statistics.values), num_samples)
    return np.array([statistics.score(counts @ statistics.values) for counts in draws])


def interval(statistics: Statistics, num_samples: int = 1000) -> list[float]:
    """The 95 % interval: the percentiles 2.5 and 97.5 of the resampled scores, lower one first."""
    return np.quantile(resampled_scores(statistics, num_samples), (0.025, 0.975)).tolist()
