"""Predictions that were kept, scored again: whoever has them needs no model to check a score."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seqloom import run_folder
from seqloom.scoring import metrics
from seqloom.scoring.naming import check_names, on_the_line
from seqloom.scoring.normalization import signed
from seqloom.scoring.predictions import read_predictions, read_scores
from seqloom.scoring.score import empties, settings_of
from seqloom.scoring.trials import try_metrics
from seqloom.settings.reading import is_given


def score_predictions(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Scores what a file holds.

    Args:
        path: A ``predictions.jsonl``, packed by gzip or not.
        overrides: Words of the command line, ``["--metrics", "chrf"]``; what they leave out is as the settings of the
            run whose predictions these are have it, else as the scores beside the file.

    Returns:
        ``metrics`` and ``notes`` as in ``scores.json``, and ``sentences``.

    Raises:
        ValueError: It holds no predictions; or a setting is about making them.
    """
    home = next((place for place in (path.parent, path.resolve().parent.parent.parent) if _has_settings(place)), path)
    settings, generate_kwargs = settings_of(home, overrides)
    if generate_kwargs:
        raise ValueError(f"{', '.join(generate_kwargs)} cannot be set for predictions, already decoded: leave it out.")
    evaluation = settings.evaluation
    beside = read_scores(path.parent).get("metrics")
    if home == path and beside and not is_given(overrides, "metrics"):
        evaluation = dataclasses.replace(evaluation, metrics=list(beside))
    check_names(evaluation.metrics, f"what lies with {path}", on_the_line(overrides))
    found = read_predictions(path)
    try_metrics(evaluation)
    results = {}
    for name in evaluation.metrics:
        told = {"bootstrap_samples": evaluation.bootstrap_samples, **evaluation.metric_kwargs.get(name, {})}
        result = metrics.compute(name, found.hypotheses, found.scored_references, **told)
        results[name] = result | {"signature": signed(result["signature"], found.normalization)}
    said = (metrics.note(name, found.scored_references, evaluation.metric_kwargs.get(name, {})) for name in results)
    notes = [*empties(found.references, found.hypotheses), *filter(None, said)]
    return {"metrics": results, "notes": notes, "sentences": len(found.sources)}


def _has_settings(folder: Path) -> bool:
    return (folder / run_folder.SETTINGS).is_file()
