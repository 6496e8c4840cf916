"""Held-out pairs that are training pairs too."""

import pytest
from datasets import Dataset

from seqloom.data.overlap import count_overlap, overlap_in_words


def pairs(*texts: tuple[str | None, str | None]) -> Dataset:
    return Dataset.from_list([{"source": source, "target": target} for source, target in texts])


TRAIN = pairs(("a", "b"), ("a", "b"), ("c", "d"), (None, "e"), ("f", "g"))


def test_counts_pairs_letter_for_letter():
    """Both sides must be the same; a pair that is held out twice counts twice."""
    test = pairs(("a", "b"), ("a", "d"), ("c", "d"), ("c", "d"), ("ab", ""), ("A", "b"), ("f", "g "))
    assert count_overlap({"train": TRAIN, "validation": pairs(("x", "y")), "test": test}) == {
        "validation": 0,
        "test": 3,
    }
    assert count_overlap({"train": TRAIN}) == {}


def test_a_stream_is_not_read_twice():
    assert count_overlap({"train": TRAIN.to_iterable_dataset(), "test": TRAIN}) is None


@pytest.mark.parametrize(
    ("overlap", "sentence"),
    [
        ({"validation": 0, "test": 0}, "No validation or test pair is in the training data word for word."),
        ({"validation": 0, "test": 3}, "3 of 7 test pairs are also in the training data, word for word"),
        ({"validation": 1, "test": 0}, "1 of 1 validation pair is also in the training data"),
        ({"validation": 1, "test": 3}, "1 of 1 validation pair and 3 of 7 test pairs are also in the training data"),
        (None, "was not counted, since these are a stream"),
    ],
)
def test_in_words(overlap, sentence):
    assert sentence in overlap_in_words(overlap, {"train": 5, "validation": 1, "test": 7})
