"""Metrics tried on two tiny pairs, so that an option or a package that cannot work shows before the work, not after."""

from __future__ import annotations

import math
from collections.abc import Iterable

from seqloom.scoring.metrics import METRICS, compute, load_metric
from seqloom.settings.schema import EvaluationSettings

TEXTS = ["a b c d e f", "b c a d e"]


def try_metrics(evaluation: EvaluationSettings, more: Iterable[str] = ()) -> None:
    """Scores two texts against themselves, with every metric and its arguments.

    Args:
        evaluation: The metrics and their arguments.
        more: Further metrics: the validations'.

    Raises:
        ValueError: There is no such metric, it does not take the arguments, or it lacks a package.
    """
    for name in dict.fromkeys([*more, *evaluation.metrics]):
        load_metric(name)
        options = evaluation.metric_kwargs.get(name, {})
        try:
            score = compute(name, TEXTS, TEXTS, sources=TEXTS, **options)["score"]
        except ValueError as error:
            raise ValueError(str(error) if name in str(error) else f"metric {name} with {options}: {error}") from None
        except Exception as error:  # a metric of the Hub is anybody's code; ours fail by what their libraries raise
            said = " ".join(str(error).split()) or "without a word"
            raise ValueError(
                f"metric {name} cannot be computed with {options} ({type(error).__name__}: {said}): change "
                "evaluation.metric_kwargs, or install what it needs."
            ) from None
        if name in METRICS and not (score > 0 if METRICS[name].higher_is_better else math.isfinite(score)):
            raise ValueError(f"metric {name} with {options} gives {score} for a perfect text: change its arguments.")
