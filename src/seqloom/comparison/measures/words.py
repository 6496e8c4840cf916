"""Words: which of them each candidate gets right, by how often training had them; n-grams that one has right more often
than another; lengths; outputs that are empty, repeat themselves or are cut; and sentences to look at.

What compare-mt (Neubig et al. 2019, arXiv:1903.07926) and MT-ComparEval (Klejch et al. 2015) show of systems. It
describes, and tests nothing: whether a difference is one, `quality` says.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from datasets import IterableDataset

from seqloom.comparison.candidates import Candidate, Options
from seqloom.comparison.measures.attention import cut
from seqloom.comparison.measures.predicted import Predicted, metric_of_examples, predicted
from seqloom.comparison.measures.word_counts import (
    BUCKETS,
    Splitter,
    Words,
    as_shares,
    counts_by_frequency,
    is_loop,
    matched_ngrams,
    ratio,
    splitter,
)
from seqloom.comparison.measures.words_examples import example_rows
from seqloom.comparison.measures.words_section import section
from seqloom.comparison.measures.words_tables import write_tables
from seqloom.data.pairs import load_pairs
from seqloom.data.tokenization import load_tokenizer, target_tokenizer
from seqloom.scoring.normalization import as_named
from seqloom.scoring.predictions import Predictions
from seqloom.scoring.significance import Statistics, system_interval, system_score

__all__ = ["measure", "section"]

MOST_PAIRS = 1_000_000
"""Of the training data, whose words are counted."""
LENGTHS = 6
"""Buckets of the references' lengths."""
NGRAMS = 8
"""Of a pair, that are kept for each of the two."""
COUNTED = ("empty", "loops", "cut")


def measure(candidates: Sequence[Candidate], options: Options) -> dict[str, Any]:
    """Counts of words, n-grams, lengths and outputs; all of them, and the sentences, also as tables below the report.

    Args:
        candidates: One or more, with predictions of the same sentences.
        options: ``bootstrap_samples`` and ``folder`` count.

    Raises:
        ValueError: As for `predicted`; or no score is one of seqloom's own metrics.
    """
    read = predicted(candidates)
    statistics = {name: systems for name, (_, systems) in read.statistics().items()}
    shown = metric_of_examples(list(statistics))
    first = next(iter(read.outputs.values()))[0]
    splitting = splitter(read.asked, read.kwargs.get("sacrebleu", {}), first.scored_references)
    outputs, references = (
        {name: [[*map(splitting.split, texts(run))] for run in runs] for name, runs in read.outputs.items()}
        for texts in (lambda run: run.hypotheses, lambda run: run.scored_references)
    )
    frequency, source = word_frequencies(candidates, read, splitting)
    counts = {
        name: [
            counts_by_frequency(output, reference, frequency[run.normalization])
            for output, reference, run in zip(outputs[name], references[name], runs, strict=True)
        ]
        for name, runs in read.outputs.items()
    }
    matched: dict[str, Counter[tuple[str, ...]]] = {
        name: sum(map(matched_ngrams, outputs[name], references[name]), Counter()) for name in outputs
    }
    numbers = {candidate.name: len(candidate.predictions) for candidate in candidates}
    limits = {candidate.name: limit_of(candidate, read) for candidate in candidates}
    flags = {
        name: [
            flagged(run, output, reference, limits[name])
            for run, output, reference in zip(read.outputs[name], outputs[name], references[name], strict=True)
        ]
        for name in outputs
    }
    result = {
        "candidates": [{"name": name, "runs": number} for name, number in numbers.items()],
        "split": read.scores[candidates[0].name][0].get("split"),
        "sentences": len(first.sources),
        "samples": options.bootstrap_samples,
        "tokenizer": splitting.name,
        "frequency": source,
        "buckets": [
            {"low": low, "high": high, "words": int(number)}
            for (low, high), number in zip(BUCKETS, counts[candidates[0].name][0].sum(0)[:, 2], strict=True)
        ],
        "accuracy": {
            name: [_accuracy(of_runs, place) for place in range(len(BUCKETS))] for name, of_runs in counts.items()
        },
        "metric": shown,
        "lengths": by_length(outputs, references, statistics[shown], options.bootstrap_samples),
        "outputs": {
            name: {
                "outputs": numbers[name] * len(first.sources),
                **{key: sum(sum(run[key]) for run in of_runs) for key in COUNTED if key in of_runs[0]},
                "limit": None if (limit := limits[name]) is None else limit[1],
            }
            for name, of_runs in flags.items()
        },
        "ngrams": [
            {"a": a, "b": b, **salient(_mean(matched[a], numbers[a]), _mean(matched[b], numbers[b]))}
            for a, b in itertools.combinations(matched, 2)
        ],
        "examples": example_rows(read, statistics[shown], [len(words) for words in references[candidates[0].name][0]]),
        "by_letters": splitting.is_of_letters,
    }  # fmt: skip
    write_tables(options.folder, result, read, candidates, statistics, flags, matched)
    return result


def word_frequencies(
    candidates: Sequence[Candidate], read: Predicted, splitting: Splitter
) -> tuple[dict[str | None, Counter[str]], dict[str, Any]]:
    """How often each word stands in the targets of the training data, by how the outputs' references are normalised;
    where no candidate's training data are to be had, in the references.

    Returns:
        The counts; and what was counted: ``of`` (the candidate whose training data these are, or None), ``texts`` (so
        many), ``is_whole`` (they are all of it), ``is_shared`` (all candidates were trained on the same), ``why`` there
        are none.
    """
    forms = {run.normalization for runs in read.outputs.values() for run in runs}
    counts: dict[str | None, Counter[str]] = {form: Counter() for form in forms}
    number, is_whole, of, why = 0, True, None, None
    for candidate in candidates:
        settings = candidate.settings
        if settings is None:
            continue
        try:
            pairs = load_pairs(settings.data, settings.training.seed, splits=("train",)).splits["train"]
        except ValueError as error:  # its files are elsewhere by now
            why = why or str(error)
            continue
        of = candidate.name
        for batch in pairs.iter(1000):
            for form in forms:
                for text in as_named(batch["target"], form):
                    counts[form].update(splitting.split(text))
            number += len(batch["target"])
            if number >= MOST_PAIRS:
                is_whole = not isinstance(pairs, IterableDataset) and number >= len(pairs)
                break
        break
    if of is None:
        for runs in read.outputs.values():
            for run in runs:
                if not counts[run.normalization]:
                    for text in run.scored_references:
                        counts[run.normalization].update(splitting.split(text))
        number = len(next(iter(read.outputs.values()))[0].references)
    data = [candidate.settings and candidate.settings.data for candidate in candidates]
    is_shared = of is not None and all(one == data[0] for one in data)
    return counts, {"of": of, "texts": number, "is_whole": is_whole, "is_shared": is_shared, "why": None if of else why}


def _accuracy(of_runs: Sequence[np.ndarray], place: int) -> dict[str, Any]:
    """Precision, recall and F1 of a bucket in percent, F1 with its interval; nothing where no word is in it."""
    counts = [run[:, place] for run in of_runs]
    found: dict[str, Any] = {"interval": None}
    for kind in ("precision", "recall", "f1"):
        shares = as_shares(counts, kind)
        is_there = all(run.values[:, 1].any() for run in shares)  # the outputs, or the references, may have none
        found[kind] = system_score(shares) if is_there else None
        if kind == "f1" and is_there:
            found["interval"] = system_interval(shares)
    return found


def by_length(
    outputs: dict[str, list[list[Words]]],
    references: dict[str, list[list[Words]]],
    scores: dict[str, list[Statistics]],
    samples: int,
) -> dict[str, Any]:
    """The length of the outputs over that of the references, and the score, by the length of the reference in words."""
    lengths = np.array([len(words) for words in next(iter(references.values()))[0]])
    buckets = cut(lengths, LENGTHS)
    inside = [(lengths >= low) & (lengths <= high) for low, high in buckets]
    ratios = {
        name: [
            Statistics(
                np.array([(len(ours), len(theirs)) for ours, theirs in zip(*sides, strict=True)], dtype=np.float64),
                lambda sums: float(sums[0] / max(sums[1], 1)),
            )
            for sides in zip(outputs[name], references[name], strict=True)
        ]
        for name in outputs
    }

    def of_buckets(systems: dict[str, list[Statistics]]) -> dict[str, list[dict[str, Any]]]:
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in systems}
        for name, runs in systems.items():
            for chosen in inside:
                parts = [replace(run, values=run.values[chosen]) for run in runs]
                found[name].append({"value": system_score(parts), "interval": system_interval(parts, samples)})
        return found

    return {
        "buckets": [list(bucket) for bucket in buckets],
        "counts": [int(chosen.sum()) for chosen in inside],
        "ratios": of_buckets(ratios),
        "scores": of_buckets(scores),
    }


def limit_of(candidate: Candidate, read: Predicted) -> tuple[Any, int] | None:
    """The tokenizer that counts an output's tokens, and so many that decoding stops, at the latest where a model of
    another make has no more positions; None where that is not known."""
    limit = read.scores[candidate.name][0].get("generation", {}).get("max_new_tokens")
    if not isinstance(limit, int):
        return None
    config = candidate.config
    positions = getattr(getattr(config, "decoder", config), "max_position_embeddings", None)
    try:
        return target_tokenizer(load_tokenizer(candidate.folders[0], needs_end=False)), min(limit, positions or limit)
    except ValueError:  # predictions may have come without their model
        return None


def flagged(
    run: Predictions, outputs: list[Words], references: list[Words], limit: tuple[Any, int] | None
) -> dict[str, list[bool]]:
    """Which outputs are empty, repeat themselves, or have as many tokens as there may be."""
    found = {
        "empty": [not text.strip() for text in run.hypotheses],
        "loops": [is_loop(*sides) for sides in zip(outputs, references, strict=True)],
    }
    if limit is not None:
        tokenizer, most = limit
        ids = tokenizer(text_target=run.hypotheses, add_special_tokens=False)["input_ids"]
        found["cut"] = [len(one) >= most for one in ids]
    return found


def salient(a: dict[tuple[str, ...], float], b: dict[tuple[str, ...], float]) -> dict[str, list[dict[str, Any]]]:
    """The n-grams that each has right more often than the other, by compare-mt's ratio; of equals, those with the
    larger difference first."""
    found = {}
    for side, ours, theirs in (("a", a, b), ("b", b, a)):
        ordered = sorted(
            (ngram for ngram, number in ours.items() if number > theirs.get(ngram, 0)),
            key=lambda ngram: (-ratio(ours[ngram], theirs.get(ngram, 0)), ngram),
        )
        found[f"better_{side}"] = [
            {"ngram": " ".join(ngram), "a": a.get(ngram, 0), "b": b.get(ngram, 0)} for ngram in ordered[:NGRAMS]
        ]
    return found


def _mean(counts: Counter[tuple[str, ...]], runs: int) -> dict[tuple[str, ...], float]:
    return {ngram: number / runs for ngram, number in counts.items()}
