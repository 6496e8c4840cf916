"""Sentences of the measure `quality` that one of two candidates does better than the other."""

from __future__ import annotations

from itertools import combinations, zip_longest
from typing import Any

import numpy as np

from seqloom.comparison.sections import Passage
from seqloom.scoring import metrics
from seqloom.scoring.predictions import Predictions
from seqloom.scoring.significance import ROUNDING, Statistics, sentence_scores
from seqloom.support.language import say

EXAMPLES = 3
"""Sentences of a pair that are shown for each of the two."""
EXAMPLE_PAIRS = 3
"""Pairs of which sentences are shown: the first in the order of the candidates."""
LONGEST = 300
"""Letters of a sentence that are shown."""


def examples(
    metric: str, predictions: dict[str, list[Predictions]], statistics: dict[str, list[Statistics]]
) -> list[dict[str, Any]]:
    """For each pair, sentences on which the first runs' own scores are farthest apart, either way."""
    sign = 1 if metrics.higher_is_better(metric) else -1
    scores = {name: sentence_scores(runs[:1]) for name, runs in statistics.items()}
    pairs = []
    for a, b in list(combinations(predictions, 2))[:EXAMPLE_PAIRS]:
        margins = sign * (scores[a] - scores[b])
        entry: dict[str, Any] = {"a": a, "b": b}
        for better, gains in (("a", margins), ("b", -margins)):
            order = np.argsort(-gains, kind="stable")[:EXAMPLES]  # of equals, the first in the data
            entry[f"better_{better}"] = [
                {
                    "line": int(index) + 1,
                    "source": predictions[a][0].sources[index],
                    "reference": predictions[a][0].references[index],
                    "hypotheses": [predictions[name][0].hypotheses[index] for name in (a, b)],
                    "scores": [float(scores[name][index]) for name in (a, b)],
                }
                for index in order
                if gains[index] > ROUNDING
            ]
        pairs.append(entry)
    return pairs


def passages(result: dict[str, Any]) -> list[Passage]:
    """Sentences that one of a pair does better than the other."""
    metric, found_ones = result["examples"]["metric"], []
    several = any(candidate["runs"] > 1 for candidate in result["candidates"])
    for pair in result["examples"]["pairs"]:
        for better, worse in (("a", "b"), ("b", "a")):
            found = pair[f"better_{better}"]
            if not found:
                continue
            what = (
                say("Where {better} is right and {worse} wrong", better=pair[better], worse=pair[worse])
                if metric == "exact_match"
                else say(
                    "Where {better} is farthest ahead of {worse} ({metric} of the sentence)",
                    better=pair[better],
                    worse=pair[worse],
                    metric=metrics.label(metric),
                )
            )
            lines = []
            for entry in found:
                texts = _excerpts([entry["source"]]) + _excerpts([entry["reference"], *entry["hypotheses"]])
                scores = ["", ""] if metric == "exact_match" else [f" ({score:.1f})" for score in entry["scores"]]
                lines += [
                    say("Line {line:,}. Source: {text}", line=entry["line"], text=texts[0]),
                    say("Reference: {text}", text=texts[1]),
                    *(f"{pair[k]}{s}: {text}" for k, s, text in zip("ab", scores, texts[2:], strict=True)),
                ]
            found_ones.append(Passage(what + (say(", first seeds") if several else ""), lines))
    return found_ones


def _excerpts(texts: list[str]) -> list[str]:
    """Long texts cut to where they begin to differ."""
    same = next((n for n, letters in enumerate(zip_longest(*texts)) if len(set(letters)) > 1), 0)
    start = max(0, same - LONGEST // 3) if max(map(len, texts)) > LONGEST else 0
    return [
        ("…" if start else "") + text[start : start + LONGEST] + ("…" if len(text) > start + LONGEST else "")
        for text in texts
    ]
