"""How far a score, and the difference of two, depend on which sentences were tested.

A corpus score is a function of statistics that each sentence has of its own (counts of n-grams, errors and words) and
that are added up. So a resample of the test set, in which each sentence is drawn any number of times, costs a sum, not
another run of the metric. The same number of sentences gives the same resamples, of sacrebleu's own bootstrap too:
scores of two systems on one test set can be compared resample by resample.

One score: `interval`, by bootstrap resampling (Koehn 2004), of a proportion Wilson's (1927). Two systems on the same
sentences: `compare_systems`, by paired bootstrap resampling (Koehn 2004), approximate randomisation (Riezler & Maxwell
2005) and, where a sentence is right or wrong, McNemar's exact test (McNemar 1947); of several training seeds each, by
the spread of seeds and sentences together. Several pairs of systems: `holm` (Holm 1979).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from seqloom.scoring.estimates import LEVEL, Estimate, wilson

SEED = 12345
"""Of the resamples and the swaps; sacrebleu's default."""
ROUNDING = 1e-9
"""Scores (in percent) that are closer than this are equal."""


@dataclass(frozen=True)
class Statistics:
    """What a corpus score is made of."""

    values: np.ndarray
    """Each sentence's own statistics, float64 (sentences, statistics)."""
    score: Callable[[np.ndarray], float]
    """The score of their sums over a corpus, (statistics,)."""
    is_share: bool = False
    """The score is the percentage of right units: a sentence's statistics are its errors and its units."""


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
    """The 95 % interval, lower bound first: the percentiles 2.5 and 97.5 of the resampled scores; of a share Wilson's.

    Where all is right, every resample is too: the bootstrap would say [100, 100] of however few sentences.
    """
    if statistics.is_share:
        return share_interval([statistics])
    return np.quantile(resampled_scores(statistics, num_samples), (0.025, 0.975)).tolist()


def share_interval(runs: Sequence[Statistics]) -> list[float]:
    """Wilson's interval of the mean of the runs' shares, in percent: of as many units as would scatter like these.

    Units of one sentence are right or wrong together, more or less. So what counts is the number of independent units
    that have the share's variance over sentences (Kish's effective sample); where it has none, that of the sentences.
    """
    counts = np.mean([run.values for run in runs], axis=0)  # errors and units, (sentences, 2)
    errors, units = counts.sum(axis=0)
    number, wrong = len(counts), errors / max(units, 1)
    effective = float(number)
    residues = counts[:, 0] - wrong * counts[:, 1]
    variance = float(np.square(residues).sum()) / max(units, 1) ** 2 * number / max(number - 1, 1)
    if variance > 0 and not (len(runs) == 1 and (counts[:, 1] == 1).all()):
        effective = min(wrong * (1 - wrong) / variance, float(units)) if 0 < wrong < 1 else effective
    return [100 * bound for bound in wilson(1 - wrong, max(effective, 1.0))]


def system_interval(runs: Sequence[Statistics], num_samples: int = 1000) -> list[float]:
    """The 95 % interval of a system's score: `interval` of one run; of several, of other seeds and sentences.

    The two sources of chance add up as squares do: how far the score depends on the sentences, and how far the mean of
    so few seeds is from that of all (Student's t, of the runs' own scores).
    """
    if len(runs) == 1:
        return interval(runs[0], num_samples)
    score, scores = system_score(runs), [system_score([run]) for run in runs]
    if runs[0].is_share:
        bounds = share_interval(runs)
    else:
        bounds = np.quantile(system_resamples(runs, num_samples), (0.025, 0.975)).tolist()
    low, high = Estimate.of(scores).interval()
    distances = [math.hypot(score - bounds[0], score - low), math.hypot(bounds[1] - score, high - score)]
    top = 100.0 if runs[0].is_share else math.inf
    return [max(0.0, score - distances[0]), min(top, score + distances[1])]


def compare_systems(
    a: Sequence[Statistics],
    b: Sequence[Statistics],
    *,
    samples: int = 1000,
    higher_is_better: bool = True,
    is_binary: bool = False,
) -> dict[str, Any]:
    """Tests whether two systems differ on one metric, by their outputs for the same sentences.

    A system is one run or several (training seeds); its score is the mean of its runs' scores. The resamples and swaps
    are of sentences, and the same for all runs: one run each tells these two trained models apart, and not how they
    were trained. Of several runs each, the test of seeds and sentences together decides. One run against several tells
    nothing of the one's seeds: no verdict.

    Args:
        a, b: Statistics of each system's runs, all of the same metric and sentences.
        samples: Resamples of the bootstrap, and swaps of the randomisation.
        higher_is_better: Whether the score grows with quality.
        is_binary: Whether a sentence is right or wrong: one run a system then has the exact test too.

    Returns:
        Plain values:

        - ``scores``: of a and of b. ``difference``: a minus b. ``interval``: its 95 % interval, the percentiles 2.5 and
          97.5 of the resampled differences; of several runs each, of other seeds and sentences.
        - ``p_bootstrap``: as sacrebleu's ``paired-bs`` has it. Without a difference between the systems it is below
          0.05 oftener than in every twentieth test: where differences are large, it looks at one side alone.
        - ``p_randomisation``: the share of swaps, themselves counted as one, that separate the scores as far as they
          are or farther; None where the systems have different numbers of runs, which cannot be swapped.
        - ``p_exact``: McNemar's; None where it does not apply.
        - ``p_seeds``: of the difference over its standard error, made of the resampled sentences and of the spread of
          each system's runs (Welch's t); None where one of the two has a single run.
        - ``p`` and ``test``: the one that decides: of one run each the exact test where it applies, else the
          randomisation; of several each the seeds'; else None. ``better``: ``"a"``, ``"b"``, or None where p is 0.05
          or more, or None.
        - ``wins``, ``losses``, ``ties``: sentences that a does better than b by their own scores, worse, the same.
        - ``samples`` and ``signature``: the tests, their samples, the seed.

    Raises:
        ValueError: No run, no sentence, no sample, or not the same number of sentences.
    """
    sizes = {len(run.values) for run in (*a, *b)}
    if not a or not b or len(sizes) != 1 or 0 in sizes or samples < 1:
        raise ValueError(
            f"systems of {len(a)} and {len(b)} runs with {', '.join(map(str, sorted(sizes)))} sentences cannot be "
            f"compared by {samples} samples: give each a run or more, with the same sentences, and a sample or more."
        )
    scores = [system_score(a), system_score(b)]
    difference = scores[0] - scores[1]
    resampled = system_resamples(a, samples) - system_resamples(b, samples)
    low, high = np.quantile(resampled, (0.025, 0.975)).tolist()
    distances = np.abs(resampled)
    p_values = {"bootstrap": _p_value(distances - distances.mean(), abs(difference))}
    signature = f"bs:{samples}"
    if len(a) == len(b):
        p_values["randomisation"] = _p_value(_swapped_distances(a, b, samples), abs(difference))
        signature += f"|ar:{samples}"
    margins = sentence_scores(a) - sentence_scores(b)
    margins = margins if higher_is_better else -margins
    wins, losses = int((margins > ROUNDING).sum()), int((margins < -ROUNDING).sum())
    test: str | None = "randomisation" if len(a) == len(b) == 1 else None
    if is_binary and len(a) == len(b) == 1:
        test, p_values["exact"] = "exact", mcnemar(wins, losses)
        signature += "|mcnemar:exact"
    if min(len(a), len(b)) > 1:
        found = _of_seeds(a, b, difference, float(resampled.var(ddof=1)) if samples > 1 else 0.0)
        test, p_values["seeds"], (low, high) = "seeds", found.p, found.interval()
        signature += "|seeds:welch"
    p = None if test is None else p_values[test]
    is_found = p is not None and p < LEVEL
    return {
        "scores": scores,
        "difference": difference,
        "interval": [low, high],
        **{f"p_{name}": p_values.get(name) for name in ("bootstrap", "randomisation", "exact", "seeds")},
        "p": p,
        "test": test,
        "better": ("a" if (difference > 0) == higher_is_better else "b") if is_found else None,
        "wins": wins,
        "losses": losses,
        "ties": len(margins) - wins - losses,
        "samples": samples,
        "signature": f"{signature}|seed:{SEED}|runs:{len(a)},{len(b)}",
    }


def _of_seeds(a: Sequence[Statistics], b: Sequence[Statistics], difference: float, of_sentences: float) -> Estimate:
    """The difference of two systems of several runs each, with the chance of seeds and of sentences in its error.

    A bootstrap of two or three seeds would have the spread too small; the unbiased variance has it right, and Student's
    t pays for how little so few seeds tell of it.

    Args:
        of_sentences: The variance of the difference over the resamples.
    """
    number = len(a[0].values)
    parts = [(of_sentences * number / max(number - 1, 1), max(number - 1, 1))]
    for runs in (a, b):
        scores = [system_score([run]) for run in runs]
        parts.append((float(np.var(scores, ddof=1)) / len(runs), len(runs) - 1))
    return Estimate.sum(difference, parts)


def gap_change(
    short: tuple[Sequence[Statistics], Sequence[Statistics]],
    long: tuple[Sequence[Statistics], Sequence[Statistics]],
    samples: int = 1000,
) -> Estimate:
    """How much farther a is ahead of b on the second sentences than on the first ones, which are others.

    Of several runs each, for other seeds and sentences; else for these trained models. A few sentences may all come out
    alike by chance, so each set gets two more: one that a alone has right, and one that b alone has (Bonett & Price
    2012, whose interval this is, or a little more, where a sentence is right or wrong).

    Args:
        short, long: Statistics of the runs of a and of b, of the one and of the other sentences; scores in percent.
        samples: Resamples of the sentences.
    """
    gaps, parts = [], []
    for a, b in (short, long):
        number = len(a[0].values)
        gaps.append(system_score(a) - system_score(b))
        resampled = system_resamples(a, samples) - system_resamples(b, samples)
        more = 2 * (100 / (number + 2)) ** 2
        parts.append((float(resampled.var(ddof=1)) * number / max(number - 1, 1) + more, max(number - 1, 1)))
    for ours, theirs in zip(short, long, strict=True):  # a's runs, then b's
        changes = [system_score([two]) - system_score([one]) for one, two in zip(ours, theirs, strict=True)]
        if len(changes) > 1:
            parts.append((float(np.var(changes, ddof=1)) / len(changes), len(changes) - 1))
    return Estimate.sum(gaps[1] - gaps[0], parts)


def system_score(runs: Sequence[Statistics]) -> float:
    """The mean of the runs' scores."""
    return float(np.mean([run.score(run.values.sum(axis=0)) for run in runs]))


def system_resamples(runs: Sequence[Statistics], num_samples: int = 1000) -> np.ndarray:
    """The mean of the runs' scores in each resample, (samples,)."""
    return np.mean([resampled_scores(run, num_samples) for run in runs], axis=0)


def sentence_scores(runs: Sequence[Statistics]) -> np.ndarray:
    """The score of each sentence alone, as if it were the corpus; the mean over the runs, (sentences,)."""
    return np.mean([[run.score(row) for row in run.values] for run in runs], axis=0)


def swaps(num_sentences: int, num_samples: int) -> Iterator[np.ndarray]:
    """Which sentences' outputs the two systems exchange, at random, bool (sentences,); sacrebleu's very swaps."""
    generator, block = np.random.default_rng(SEED), 32  # a draw of whole words of bits goes on where the last one ended
    for start in range(0, num_samples, block):
        yield from generator.integers(2, size=(min(block, num_samples - start), num_sentences), dtype=bool)


def _swapped_distances(a: Sequence[Statistics], b: Sequence[Statistics], num_samples: int) -> np.ndarray:
    """How far the scores of the two systems are apart after each swap, (samples,)."""
    pairs = [
        (ours.values.sum(axis=0), theirs.values.sum(axis=0), theirs.values - ours.values, ours.score)
        for ours, theirs in zip(a, b, strict=True)
    ]
    distances = []
    for swapped in swaps(len(a[0].values), num_samples):
        gaps = []
        for ours, theirs, change, score in pairs:
            moved = swapped @ change
            gaps.append(score(ours + moved) - score(theirs - moved))
        distances.append(abs(np.mean(gaps)))
    return np.array(distances)


def _p_value(values: np.ndarray, observed: float) -> float:
    """The share of values that reach the observed one, which is counted as one of them.

    sacrebleu asks for more than the observed one, which differs where scores are few and often equal: systems without
    any difference have p = 1 here and 1 / (samples + 1) there.
    """
    return (int((values >= observed - ROUNDING).sum()) + 1) / (len(values) + 1)


def mcnemar(wins: int, losses: int) -> float:
    """The exact two-sided p-value of so many sentences that only the one system, or only the other, has right.

    Without a difference, each is a win or a loss with probability 1/2: twice the binomial tail of the fewer, at most 1.
    """
    total, fewer = wins + losses, min(wins, losses)
    # The tail's largest term, by logarithms (C(n, k) / 2^n overflows), and the others as shares of it.
    largest = math.lgamma(total + 1) - math.lgamma(fewer + 1) - math.lgamma(total - fewer + 1) - total * math.log(2)
    down = np.arange(fewer, 0, -1, dtype=np.float64)
    tail = math.exp(largest) * (1 + float(np.cumprod(down / (total - down + 1)).sum()))
    return min(1.0, 2 * tail)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values adjusted for their number, in the same order: one below 0.05 among them is false at most in 5 %."""
    adjusted, floor = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        floor = max(floor, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = floor
    return adjusted
