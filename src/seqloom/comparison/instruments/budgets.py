"""What the runs' logs tell of their trainings: what each validation scored, and what was spent before it."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from seqloom import run_folder
from seqloom.comparison.candidates import Candidate
from seqloom.scoring import metrics
from seqloom.support.language import later, say

SPENT = {"seconds": later("seconds"), "updates": later("updates"), "tokens": later("target tokens"), "flops": "FLOPs"}
"""What a quality is bought with."""
SHARE = 0.9
"""Of the best model's gain, which is a quality worth reaching."""


@dataclass(frozen=True)
class Validations:
    """A run's validations, one after another, and what was spent before each."""

    steps: list[int]
    tokens: list[float]
    """Target tokens learnt from."""
    seconds: list[float]
    """Of training; validating and saving are not in them."""
    scores: dict[str, list[float]]
    """By the log's names behind ``eval_``: ``loss``, and the metric where there is one."""
    tokens_per_second: float
    """Of the whole training."""
    speed_spread: float | None = None
    """Standard deviation of the logarithm of the speed from one of the log's lines to the next, the first apart: the
    control of its seconds. None of fewer than three lines."""


def read_validations(folder: Path) -> Validations | None:
    """From ``training_log.jsonl``; None where there is none, or none that counts tokens, seconds and validations."""
    if not (folder / run_folder.LOG).is_file():
        return None
    log = run_folder.read_log(folder)
    if run_folder.is_finished(folder):
        run_folder.check_log_ends(folder, log)
    tokens, seconds = [0.0], [0.0]  # at the log's lines of training
    for line in log:
        if "tokens_per_second" in line and "target_tokens" in line and line["tokens_per_second"]:
            tokens.append(line["target_tokens"])
            # The log's own seconds count validations too, which take what the metric takes, not the training.
            seconds.append(seconds[-1] + (tokens[-1] - tokens[-2]) / line["tokens_per_second"])
    validations = [line for line in log if "eval_loss" in line and "target_tokens" in line]
    if not validations or not seconds[-1]:
        return None
    rate = tokens[-1] / seconds[-1]
    names = set.intersection(*(set(line) for line in validations))
    spent = [line["target_tokens"] for line in validations]
    return Validations(
        [line["step"] for line in validations],
        spent,
        [float(np.interp(count, tokens, seconds)) + max(0.0, count - tokens[-1]) / rate for count in spent],
        {
            name.removeprefix("eval_"): [line[name] for line in validations]
            for name in sorted(names)
            if name.startswith("eval_")
        },
        rate,
        _spread_of(tokens, seconds),
    )


def _spread_of(tokens: Sequence[float], seconds: Sequence[float]) -> float | None:
    """How much the speed changed from line to line; the first line's updates warm up."""
    parts = [
        math.log((more - few) / (late - early))
        for (few, more), (early, late) in zip(itertools.pairwise(tokens), itertools.pairwise(seconds), strict=True)
        if more > few and late > early
    ][1:]
    return statistics.stdev(parts) if len(parts) > 1 else None


def read_all(candidates: Sequence[Candidate]) -> dict[str, list[Validations]]:
    """The runs of every candidate; without those that have no log."""
    found = {}
    for candidate in candidates:
        runs = [run for folder in candidate.folders if (run := read_validations(folder)) is not None]
        if runs:
            found[candidate.name] = runs
    return found


def common_metric(runs: dict[str, list[Validations]]) -> str:
    """The metric that all runs were validated with, else ``loss``."""
    names = set.intersection(*(set(run.scores) for group in runs.values() for run in group)) if runs else set()
    return min(names - {"loss"}, default="loss")


def label(metric: str) -> str:
    """As an axis or a table has it, with the unit."""
    if metric == "loss":
        return say("validation loss (nats per target token)")
    return say("validation {metric}", metric=metrics.label(metric)) + (" (%)" if metric in metrics.METRICS else "")


def over_seeds(values: Sequence[float]) -> dict[str, float] | None:
    """Mean, lowest and highest; None of nothing."""
    if not values:
        return None
    return {"mean": statistics.fmean(values), "low": min(values), "high": max(values)}


def worth_reaching(runs: dict[str, list[Validations]], metric: str) -> float | None:
    """A score that has most of what the best model gained: `SHARE` of the way from nothing learnt to its best.

    The worst model's best would be no mark: one that is broken makes it 0. Nothing learnt is a score of 0; where less
    is better, the median of the runs' first validations. None where no model gained anything.
    """
    is_higher_better = metrics.higher_is_better(metric)
    best = max if is_higher_better else min
    found = best(statistics.fmean(best(_numbers(run.scores[metric])) for run in group) for group in runs.values())
    first = [run.scores[metric][0] for group in runs.values() for run in group]
    start = 0.0 if is_higher_better else max(found, statistics.median(_numbers(first)))
    return start + SHARE * (found - start) if found != start else None


def _numbers(values: Sequence[float]) -> list[float]:
    """Without what a broken model scores."""
    return [value for value in values if math.isfinite(value)] or [0.0]


def reached(spent: Sequence[float], scores: Sequence[float], quality: float) -> tuple[float | None, list[float | None]]:
    """What was spent until the curve, straight from one validation to the next, first came to a score.

    Args:
        spent: Before each validation, growing.
        scores: Of each; more is better.

    Returns:
        The place, None where it never came to the score; and between which validations it surely lies: before the first
        one the curve is not known, and what never came to the score may still do so.
    """
    first = next((at for at, score in enumerate(scores) if score >= quality), None)
    if first is None:
        return None, [spent[-1], None]
    if first == 0:
        return spent[0], [0.0, spent[0]]
    before, after = first - 1, first
    at = float(np.interp(quality, (scores[before], scores[after]), (spent[before], spent[after])))
    return at, [spent[before], spent[after]]


def to_quality(
    runs: Sequence[Validations], metric: str, quality: float | None, training_flops: float
) -> dict[str, Any] | None:
    """Seconds, updates, target tokens and FLOPs until the score was as good; None where there is no run.

    Returns:
        By the names of `SPENT`: ``mean``, ``low`` and ``high`` over the runs, None where one never was as good;
        ``runs``, each one's own; ``between``, the bounds of each, of which the upper one is None where it never was.
    """
    if quality is None or not runs:
        return None
    sign = 1 if metrics.higher_is_better(metric) else -1
    found: dict[str, Any] = {}
    for name in SPENT:
        places, between = [], []
        for run in runs:
            spent: dict[str, list[float]] = {
                "seconds": run.seconds, "updates": [*map(float, run.steps)], "tokens": run.tokens,
                "flops": [count * training_flops for count in run.tokens],
            }  # fmt: skip
            place, bounds = reached(spent[name], [sign * score for score in run.scores[metric]], sign * quality)
            places.append(place)
            between.append(bounds)
        known = [place for place in places if place is not None]
        stat = over_seeds(known) if len(known) == len(places) else None
        found[name] = {**(stat or dict.fromkeys(("mean", "low", "high"))), "runs": places, "between": between}
    return found
