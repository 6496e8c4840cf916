"""The tables of the measure `words`, as CSV files below the report: whole, where the page shows the first rows."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from seqloom.comparison.candidates import Candidate
from seqloom.comparison.measures.predicted import Predicted
from seqloom.comparison.measures.word_counts import ratio
from seqloom.scoring.significance import Statistics, sentence_scores
from seqloom.support.disk import write_together

FOLDER = "tables"


def write_tables(
    folder: Path,
    result: dict[str, Any],
    read: Predicted,
    candidates: Sequence[Candidate],
    statistics: dict[str, dict[str, list[Statistics]]],
    flags: dict[str, list[dict[str, list[bool]]]],
    matched: dict[str, Counter[tuple[str, ...]]],
) -> None:
    """``sentences.csv`` (a row a sentence and run, with every metric's score of it), ``words.csv``, ``lengths.csv``,
    ``outputs.csv`` and ``ngrams.csv``; numbers as they are, texts to the letter.

    Args:
        folder: Of the report.
        result: Of the measure.
        read: The outputs.
        candidates: Whose they are.
        statistics: By metric and candidate, of each run.
        flags: By candidate, of each run.
        matched: By candidate, the n-grams that are right, over all runs.
    """
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    tables = {
        "sentences": _sentences(read, candidates, statistics, flags),
        "words": _words(result),
        "lengths": _lengths(result),
        "outputs": _outputs(result),
        "ngrams": _ngrams(matched),
    }
    write_together({folder / FOLDER / f"{name}.csv": _writer(rows) for name, rows in tables.items()})


def _writer(rows: Iterable[Sequence[Any]]) -> Callable[[Path], object]:
    def write(path: Path, rows: Iterable[Sequence[Any]]) -> None:
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)

    return partial(write, rows=rows)


def _sentences(
    read: Predicted,
    candidates: Sequence[Candidate],
    statistics: dict[str, dict[str, list[Statistics]]],
    flags: dict[str, list[dict[str, list[bool]]]],
) -> Iterable[Sequence[Any]]:
    hub = [name for name in read.asked if name not in statistics]
    yield ["line", "model", "seed", "source", "reference", "output", *statistics, *hub, "empty", "loop", "cut"]
    for candidate in candidates:
        for number, run in enumerate(read.outputs[candidate.name]):
            own = [sentence_scores([systems[candidate.name][number]]) for systems in statistics.values()]
            kept = read.scores[candidate.name][number].get("metrics", {})
            others = [_each(kept.get(name, {}), len(run.sources)) for name in hub]
            seed = candidate.seeds[number] if number < len(candidate.seeds) else ""
            found = flags[candidate.name][number]
            for index, texts in enumerate(zip(run.sources, run.references, run.hypotheses, strict=True)):
                scores = [
                    *(f"{of_metric[index]:.4f}" for of_metric in own),
                    *(of_metric[index] for of_metric in others),
                ]
                marks = [int(found[key][index]) if key in found else "" for key in ("empty", "loops", "cut")]
                yield [index + 1, candidate.name, seed, *texts, *scores, *marks]


def _each(result: dict[str, Any], number: int) -> list[Any]:
    """Each sentence's score by a metric of the Hub, where its result has one: the first list of so many numbers."""
    for values in result.values():
        if isinstance(values, list) and len(values) == number and all(isinstance(one, float | int) for one in values):
            return values
    return [""] * number


def _words(result: dict[str, Any]) -> Iterable[Sequence[Any]]:
    yield ["model", "least", "most", "reference_words", "precision", "recall", "f1", "f1_low", "f1_high"]
    for name, of_buckets in result["accuracy"].items():
        for bucket, found in zip(result["buckets"], of_buckets, strict=True):
            bounds = found["interval"] or (None, None)
            values = (found["precision"], found["recall"], found["f1"], *bounds)
            yield [name, bucket["low"], bucket["high"], bucket["words"], *values]


def _lengths(result: dict[str, Any]) -> Iterable[Sequence[Any]]:
    yield ["model", "least", "most", "sentences", "ratio", "ratio_low", "ratio_high", result["metric"], "low", "high"]
    lengths = result["lengths"]
    for name in lengths["ratios"]:
        columns = (lengths["buckets"], lengths["counts"], lengths["ratios"][name], lengths["scores"][name])
        for bucket, number, ratios, scores in zip(*columns, strict=True):
            yield [name, *bucket, number, *(v for one in (ratios, scores) for v in (one["value"], *one["interval"]))]


def _outputs(result: dict[str, Any]) -> Iterable[Sequence[Any]]:
    yield ["model", "outputs", "empty", "loops", "cut", "limit"]
    for name, found in result["outputs"].items():
        yield [name, *(found.get(key) for key in ("outputs", "empty", "loops", "cut", "limit"))]


def _ngrams(matched: dict[str, Counter[tuple[str, ...]]]) -> Iterable[Sequence[Any]]:
    """Those that not all have right equally often, the longest differences first."""
    yield ["ngram", "words", *matched]
    every = dict.fromkeys(ngram for counts in matched.values() for ngram in counts)
    rows = [(ngram, [counts[ngram] for counts in matched.values()]) for ngram in every]
    rows = [row for row in rows if len(matched) == 1 or len(set(row[1])) > 1]
    for ngram, counts in sorted(rows, key=lambda row: (-ratio(max(row[1]), min(row[1])), row[0])):
        yield [" ".join(ngram), len(ngram), *counts]
