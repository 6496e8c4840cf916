"""Predictions that were kept: read, checked to be of the same sentences, and tested for a difference in pairs."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from seqloom import metrics, significance
from seqloom.settings import EvaluationSettings
from seqloom.significance import Statistics

INDEPENDENT = (
    "The tests take the sentences as independent of each other: where neighbours are of one document, differences are "
    "less certain than the p-values say. What another training seed would give is not in them."
)


class Predictions(NamedTuple):
    """What ``predictions.jsonl`` holds, in the order of its lines."""

    sources: list[str]
    references: list[str]
    hypotheses: list[str]


def read_predictions(path: str | Path) -> Predictions:
    """Reads ``predictions.jsonl``.

    Raises:
        ValueError: It is missing or empty, or a line is not an object with the texts ``source``, ``reference`` and
            ``hypothesis``.
    """
    path, names = Path(path), ("source", "reference", "hypothesis")
    if not path.is_file():
        raise ValueError(f"there is no file {path}; evaluate.py writes predictions.jsonl beside the scores of a model.")
    try:
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")  # U+2028 ends no line of JSON
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error.reason} at byte {error.start:,}).") from None
    if lines == [""]:
        raise ValueError(f"{path} has no predictions: it is empty.")
    columns: list[list[str]] = [[], [], []]
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"line {number:,} of {path} is not JSON ({error.msg}): is the file damaged?") from None
        texts = [entry.get(name) if isinstance(entry, dict) else None for name in names]
        for name, text, column in zip(names, texts, columns, strict=True):
            if not isinstance(text, str):
                raise ValueError(f"line {number:,} of {path} has no text {name!r}; it needs {', '.join(names)}.")
            column.append(text)
    return Predictions(*columns)


def read_scores(folder: Path) -> dict[str, Any]:
    """``scores.json``; nothing where there is none.

    Raises:
        ValueError: It is damaged.
    """
    path = folder / "scores.json"
    if not path.is_file():
        return {}
    try:
        scores = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}): is it damaged? --overwrite makes it anew.") from None
    return scores if isinstance(scores, dict) else {}


def check_same_sentences(systems: dict[str, Predictions]) -> None:
    """Makes sure that predictions, by their systems' names, are of the same sources and references in the same order.

    Raises:
        ValueError: They are not; the message has the first line that differs.
    """
    (first, expected), *others = systems.items()
    for name, found in others:
        for column in ("sources", "references"):
            ours, theirs = getattr(expected, column), getattr(found, column)
            for number, (one, two) in enumerate(zip(ours, theirs, strict=False), start=1):
                if one != two:
                    raise ValueError(
                        f"the {column} differ: line {number:,} of {first} has {_clip(one)!r}, that of {name} "
                        f"{_clip(two)!r}; systems are compared on the same sentences in the same order."
                    )
        if len(expected.sources) != len(found.sources):
            raise ValueError(
                f"{first} has {len(expected.sources):,} sentences and {name} {len(found.sources):,}; systems are "
                "compared on the same sentences in the same order."
            )


def _clip(text: str, limit: int = 60) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def compare_predictions(
    ours: Predictions, theirs: Predictions, settings: EvaluationSettings
) -> dict[str, dict[str, Any]]:
    """Scores, intervals and tests by the metric's name."""
    results = {}
    for name in settings.metrics:
        options, samples = settings.metric_kwargs.get(name, {}), settings.bootstrap_samples
        if name not in metrics.METRICS:  # of the Hub
            both = [metrics.compute(name, system.hypotheses, system.references, **options) for system in (ours, theirs)]
            scores = [result["score"] for result in both]
            results[name] = {
                "scores": scores,
                "intervals": [None, None],
                "difference": scores[0] - scores[1],
                "tests": None,
                "signature": both[0]["signature"],
            }
            continue
        (signature, a), (_, b) = (measure_sentences(name, system, **options) for system in (ours, theirs))
        tests = paired_tests(name, [a], [b], samples)
        results[name] = {
            "scores": tests["scores"],
            "intervals": [significance.interval(system, samples) for system in (a, b)],
            "difference": tests["difference"],
            "tests": tests,
            "signature": signature,
        }
    return results


def measure_sentences(name: str, predictions: Predictions, **options: Any) -> tuple[str, Statistics]:
    """The signature of one of seqloom's metrics, and the statistics that its score is computed from."""
    references = [[reference] for reference in predictions.references]
    result, statistics = metrics.METRICS[name]().measure(predictions.hypotheses, references, **options)
    return result["signature"], statistics


def paired_tests(name: str, a: Sequence[Statistics], b: Sequence[Statistics], samples: int) -> dict[str, Any]:
    """`significance.compare_systems`, told what one of seqloom's metrics is like."""
    return significance.compare_systems(
        a,
        b,
        samples=samples,
        higher_is_better=metrics.higher_is_better(name),
        is_binary=name == "exact_match",
    )


def other_signatures(results: dict[str, Any], folders: dict[str, Path]) -> list[str]:
    """Which of the scores that lie beside the predictions were made otherwise, versions apart."""
    notes = []
    for letter, folder in folders.items():
        kept = read_scores(folder).get("metrics", {})
        for name, result in results["metrics"].items():
            signatures = [kept.get(name, {}).get("signature"), result["signature"]]
            without_version = [re.sub(r"version:[^|]*", "", signature or "") for signature in signatures]
            if signatures[0] and without_version[0] != without_version[1]:
                notes.append(
                    f"{name}: the score that is kept with {letter}'s predictions has another signature, "
                    f"{signatures[0]}; give its arguments with --metric_kwargs for the same."
                )
    return notes


def comparison_text(results: dict[str, Any]) -> str:
    """What `seqloom.evaluation.compare_models` found: a table, what it says of each metric, and how it was tested."""
    names = results["systems"]
    lines = [f"A: {names['a']}", f"B: {names['b']}", f"{results['sentences']:,} sentences", ""]
    rows = [("metric", "A", "B", "A - B", "p bootstrap", "p randomisation", "p exact")]
    verdicts, signatures = [], []
    for name, result in results["metrics"].items():
        tests = result["tests"] or {}
        rows.append(
            (
                name,
                *map(_with_interval, result["scores"], result["intervals"]),
                _with_interval(result["difference"], tests.get("interval"), sign="+"),
                *(_p(tests.get(f"p_{test}")) for test in ("bootstrap", "randomisation", "exact")),
            )
        )
        verdicts.append(f"{name}: {_verdict(tests)}")
        signatures.append(f"{name}: {result['signature']}" + (f"; {tests['signature']}" if tests else ""))
    rows = [
        [cell for cell, used in zip(row, map(any, zip(*rows[1:], strict=True)), strict=True) if used] for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines += ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    lines += ["", *verdicts, "", *signatures, *results["notes"], "", INDEPENDENT]
    return "\n".join(lines + ([f"the results are in {results['file']}"] if "file" in results else []))


def _with_interval(value: float, low_high: Sequence[float] | None, sign: str = "") -> str:
    bounds = f" [{low_high[0]:{sign}.2f}, {low_high[1]:{sign}.2f}]" if low_high else ""
    return f"{value:{sign}.2f}{bounds}"


def _p(value: float | None) -> str:
    return "" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _verdict(tests: dict[str, Any]) -> str:
    if not tests:
        return "not tested, since a metric of the Hub does not tell what its score is made of."
    sentences = f"{tests['wins']:,} sentences better in A, {tests['losses']:,} in B, {tests['ties']:,} the same"
    p = _p(tests["p"])
    decided = f"{'p' if p.startswith('<') else 'p ='} {p}, {tests['test']}; {sentences}"
    if tests["better"] is None:
        return f"no difference was found at p < {significance.LEVEL:g} ({decided})."
    return f"{tests['better'].upper()} is better ({decided})."
