"""Sentences of the measure `words`, as the report's page shows them to be filtered and sorted."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Any

import numpy as np

from seqloom.comparison.measures.predicted import Predicted
from seqloom.comparison.sections import Example, Examples
from seqloom.scoring import metrics
from seqloom.scoring.significance import Statistics, sentence_scores

MOST = 1000
"""Sentences in the page."""
MOST_LETTERS = 1_000_000
"""Likewise, of all their texts; a dozen sentences are there whatever their length."""
LEAST = 12


def example_rows(
    read: Predicted, statistics: dict[str, list[Statistics]], lengths: Sequence[int]
) -> list[dict[str, Any]]:
    """The sentences on which the candidates' first runs are farthest apart, by each one's own score; of equals, the
    first in the data.

    Args:
        lengths: Words of the references.
    """
    first = [runs[0] for runs in read.outputs.values()]
    scores = np.array([sentence_scores(runs[:1]) for runs in statistics.values()])  # (systems, sentences)
    rows: list[dict[str, Any]] = []
    letters = 0
    for index in np.argsort(-np.ptp(scores, axis=0).round(9), kind="stable")[:MOST]:
        texts = [first[0].sources[index], first[0].references[index], *(run.hypotheses[index] for run in first)]
        letters += sum(map(len, texts))
        if letters > MOST_LETTERS and len(rows) >= LEAST:
            break
        rows.append(
            {
                "line": int(index) + 1,
                "words": lengths[index],
                "source": texts[0],
                "reference": texts[1],
                "outputs": texts[2:],
                "scores": [round(float(score), 2) for score in scores[:, index]],
            }
        )
    return rows


def examples(result: dict[str, Any]) -> Examples:
    """The rows with what differs from the reference marked."""
    rows = [
        Example(
            line=row["line"],
            words=row["words"],
            source=row["source"],
            reference=row["reference"],
            outputs=[marked(output, row["reference"], result["by_letters"]) for output in row["outputs"]],
            scores=row["scores"],
        )
        for row in result["examples"]
    ]
    metric = result["metric"]
    return Examples(
        models=[candidate["name"] for candidate in result["candidates"]],
        metric=metrics.label(metric),
        higher_is_better=metrics.higher_is_better(metric),
        rows=rows,
        total=result["sentences"],
        is_first_run=any(candidate["runs"] > 1 for candidate in result["candidates"]),
    )


def marked(output: str, reference: str, by_letters: bool = False) -> list[str]:
    """An output in parts that are by turns as in the reference and not; joined, they are the output.

    Args:
        output, reference: Texts.
        by_letters: Compare letters rather than words.
    """
    ours, theirs = ([*text] if by_letters else re.findall(r"\w+|[^\w\s]|\s+", text) for text in (output, reference))
    parts, is_same = [""], True
    for kind, start, end, _, _ in SequenceMatcher(None, ours, theirs, autojunk=False).get_opcodes():
        text = "".join(ours[start:end])
        if not text:
            continue
        if (kind == "equal") is not is_same:
            parts.append("")
            is_same = not is_same
        parts[-1] += text
    return parts
