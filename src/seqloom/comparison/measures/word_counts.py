"""Words of outputs and references, counted: which are right by how often training had them, which n-grams one system
has right more often, and which outputs repeat themselves.

The definitions are compare-mt's (Neubig et al. 2019, arXiv:1903.07926): a word of an output is right where the
reference has it too, as often as the reference has it; likewise an n-gram.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from sacrebleu.metrics import BLEU

from seqloom.scoring.scripts import bleu_tokenizer, written_in
from seqloom.scoring.significance import Statistics

BUCKETS = ((0, 0), (1, 1), (2, 4), (5, 9), (10, 99), (100, 999), (1000, None))
"""How often a word was met, both ends included; None: or oftener."""
LONGEST_NGRAM = 4
LONGEST_LOOP = 8
"""Words of what is said over and over."""
LEAST_TURNS = 4
"""So often in a row, and oftener than in the reference, is over and over."""
AT_SPACES = ("exact_match", "token_accuracy", "wer", "per")
"""Metrics to which a word is what stands between spaces, or that know of no words."""

Words = list[str]


class Splitter(NamedTuple):
    """What makes words of texts."""

    name: str
    """Of sacrebleu's tokenizer; ``none``: at spaces."""
    is_of_letters: bool
    """The script parts no words, so that a change is better shown letter by letter."""
    split: Callable[[str], Words]


def splitter(metrics: Sequence[str], kwargs: Mapping[str, Any], references: Sequence[str]) -> Splitter:
    """The tokenizer that BLEU has, where it is among the metrics, or would have; where a metric that splits at spaces
    is and BLEU is not, spaces.

    Args:
        metrics: Names, of those that the outputs are scored by.
        kwargs: Of BLEU.
        references: Texts that decide where nothing else does.
    """
    name = kwargs.get("tokenize") or bleu_tokenizer(references).tokenize
    if name is None:
        is_at_spaces = "sacrebleu" not in metrics and any(metric in AT_SPACES for metric in metrics)
        name = "none" if is_at_spaces else "13a"
    tokenize = BLEU(tokenize=name, lowercase=kwargs.get("lowercase", False), force=True)._preprocess_segment
    return Splitter(name, written_in(references) not in (None, "Korean"), lambda text: tokenize(text).split())


def bucket_of(frequency: int) -> int:
    """The number of the bucket that a word of this frequency is in."""
    return next(number for number, (_, high) in enumerate(BUCKETS) if high is None or frequency <= high)


def matches(output: Iterable[Any], reference: Iterable[Any]) -> Counter[Any]:
    """What both have, as often as both have it."""
    return Counter(output) & Counter(reference)


def counts_by_frequency(
    outputs: Sequence[Words], references: Sequence[Words], frequency: Mapping[str, int]
) -> np.ndarray:
    """Words of each sentence that are right, that the output has, that the reference has, by the bucket of the word's
    frequency: (sentences, buckets, 3)."""
    counts = np.zeros((len(outputs), len(BUCKETS), 3))
    places: dict[str, int] = {}
    for row, output, reference in zip(counts, outputs, references, strict=True):
        for column, words in enumerate((matches(output, reference), Counter(output), Counter(reference))):
            for word, number in words.items():
                if word not in places:
                    places[word] = bucket_of(frequency.get(word, 0))
                row[places[word], column] += number
    return counts


def as_shares(runs: Sequence[np.ndarray], kind: str) -> list[Statistics]:
    """Precision, recall or F1 of each run's counts (sentences, 3), as a share of right units: F1 is twice the right
    words among those of both sides. Sentences without such a word tell nothing of it, and are left out."""
    is_there = np.any([run.any(axis=1) for run in runs], axis=0)
    shares = []
    for run in runs:
        right, output, reference = run[is_there].T
        units = {"precision": output, "recall": reference, "f1": output + reference}[kind]
        errors = units - (2 * right if kind == "f1" else right)
        shares.append(Statistics(np.stack([errors, units], axis=1), _percent, is_share=True))
    return shares


def _percent(sums: np.ndarray) -> float:
    """Right units of errors and units; 0 where there are none."""
    return 100 * float(1 - sums[0] / sums[1]) if sums[1] else 0.0


def ngrams(words: Words) -> Iterable[tuple[str, ...]]:
    """All of one to four words, as often as they stand there."""
    for length in range(1, LONGEST_NGRAM + 1):
        yield from zip(*(islice(words, start, None) for start in range(length)), strict=False)


def matched_ngrams(outputs: Sequence[Words], references: Sequence[Words]) -> Counter[tuple[str, ...]]:
    """How often each n-gram is right, over all sentences."""
    found: Counter[tuple[str, ...]] = Counter()
    for output, reference in zip(outputs, references, strict=True):
        found.update(matches(ngrams(output), ngrams(reference)))
    return found


def ratio(ours: float, theirs: float) -> float:
    """Our share of what both have right, as if each had had one more: 0.5 where there is no difference."""
    return (ours + 1) / (ours + theirs + 2)


def turns(words: Words) -> int:
    """How often in a row the output says the same word or words, at most; 0 where it says nothing."""
    most = min(len(words), 1)
    for period in range(1, min(LONGEST_LOOP, len(words) // 2) + 1):
        same = 0
        for one, two in zip(words, islice(words, period, None), strict=False):
            same = same + 1 if one == two else 0
            most = max(most, same // period + 1)
    return most


def is_loop(output: Words, reference: Words) -> bool:
    """Whether the output says the same over and over where the reference does not."""
    number = turns(output)
    return number >= LEAST_TURNS and number > turns(reference)
