"""What the runs' logs tell of their trainings: what each validation scored, and what was spent before it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from seqloom import run_folder
from seqloom.comparison.candidates import Candidate
from seqloom.scoring import metrics

SPENT = {"seconds": "seconds", "updates": "updates", "tokens": "target tokens", "flops": "FLOPs"}
"""What a quality is bought with."""


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
    )


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
        return "validation loss (nats per target token)"
    return f"validation {metrics.label(metric)}" + (" (%)" if metric in metrics.METRICS else "")


def over_seeds(values: Sequence[float]) -> dict[str, float] | None:
    """Mean, lowest and highest; None of nothing."""
    if not values:
        return None
    return {"mean": statistics.fmean(values), "low": min(values), "high": max(values)}


def best_of_all(runs: dict[str, list[Validations]], metric: str) -> float:
    """The best score that every run reaches."""
    better, worse = (max, min) if metrics.higher_is_better(metric) else (min, max)
    return worse(better(run.scores[metric]) for group in runs.values() for run in group)


def to_quality(
    runs: Sequence[Validations], metric: str, quality: float | None, training_flops: float
) -> dict[str, Any] | None:
    """Seconds, updates, target tokens and FLOPs before the first validation that is as good; None if a run has none."""
    if quality is None:
        return None
    sign = 1 if metrics.higher_is_better(metric) else -1
    spent: dict[str, list[float]] = {name: [] for name in SPENT}
    for run in runs:
        good = (at for at, score in enumerate(run.scores[metric]) if sign * score >= sign * quality)
        if (first := next(good, None)) is None:
            return None
        spent["seconds"].append(run.seconds[first])
        spent["updates"].append(run.steps[first])
        spent["tokens"].append(run.tokens[first])
        spent["flops"].append(run.tokens[first] * training_flops)
    return {name: over_seeds(values) for name, values in spent.items()} if runs else None
