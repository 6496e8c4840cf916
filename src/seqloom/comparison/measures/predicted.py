"""What the candidates' runs left: their outputs, their scores, and the metrics that they were scored by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from tqdm.auto import tqdm

from seqloom.comparison.candidates import Candidate
from seqloom.scoring import metrics
from seqloom.scoring.predictions import (
    Predictions,
    check_same_sentences,
    measure_sentences,
    read_predictions,
    read_scores,
)
from seqloom.scoring.significance import Statistics
from seqloom.support.console import has_terminal


class Predicted(NamedTuple):
    """By the candidate's name, a value a run."""

    outputs: dict[str, list[Predictions]]
    scores: dict[str, list[dict[str, Any]]]
    """What ``scores.json`` holds."""
    asked: list[str]
    """The metrics of all, those of the Hub too."""
    kwargs: dict[str, dict[str, Any]]
    """Arguments of metrics; where recipes differ, the first one's hold for all."""

    def statistics(self) -> dict[str, tuple[str, dict[str, list[Statistics]]]]:
        """Of each of seqloom's own metrics, the signature and what the scores are made of."""
        found = {}
        names = [name for name in self.asked if name in metrics.METRICS]
        for name in tqdm(names, desc="metrics", disable=not has_terminal()):
            measured = {
                system: [measure_sentences(name, run, **self.kwargs.get(name, {})) for run in runs]
                for system, runs in self.outputs.items()
            }
            signature = next(iter(measured.values()))[0][0]
            found[name] = signature, {system: [part for _, part in runs] for system, runs in measured.items()}
        if not found:
            raise ValueError(
                "no score of the candidates is one of seqloom's own metrics; add chrf to evaluation.metrics."
            )
        return found


def predicted(candidates: Sequence[Candidate]) -> Predicted:
    """Reads it.

    Raises:
        ValueError: Predictions are missing or damaged, or not of the same sentences.
    """
    outputs = {candidate.name: [read_predictions(path) for path in candidate.predictions] for candidate in candidates}
    for name, runs in outputs.items():
        if not runs:
            raise ValueError(f"{name} has no predictions to compare: score it with seqloom evaluate first.")
    check_same_sentences(
        {
            name if len(runs) == 1 else f"{name} (run {number})": run
            for name, runs in outputs.items()
            for number, run in enumerate(runs, start=1)
        }
    )
    kept = {candidate.name: [read_scores(path.parent) for path in candidate.predictions] for candidate in candidates}
    asked = list(dict.fromkeys(name for runs in kept.values() for run in runs for name in run.get("metrics", {})))
    kwargs: dict[str, dict[str, Any]] = {}
    for candidate in reversed(candidates):
        if candidate.settings is not None:
            kwargs |= candidate.settings.evaluation.metric_kwargs
    return Predicted(outputs, kept, asked, kwargs)


def metric_of_examples(names: Sequence[str]) -> str:
    """The one that examples are sorted by: whether a sentence is right, else chrF, else the first."""
    return next(name for name in ("exact_match", "chrf", *names) if name in names)
