"""Held-out pairs that are training pairs too, word for word: their scores tell of memory rather than of learning."""

from __future__ import annotations

from collections.abc import Mapping

from datasets import IterableDataset

from seqloom.data.sources import Data
from seqloom.support.wording import plural, together


def count_overlap(splits: Mapping[str, Data]) -> dict[str, int] | None:
    """How many pairs of each held-out split are in the training data, source and target letter for letter.

    What is held in memory is the held-out pairs; the training pairs pass by once.

    Args:
        splits: ``train`` and what is held out.

    Returns:
        Pairs by the split; None where the training pairs are a stream, which is not read twice to count them.
    """
    train = splits["train"]
    if isinstance(train, IterableDataset):
        return None
    held_out = {
        split: list(zip(pairs["source"][:], pairs["target"][:], strict=True))
        for split, pairs in splits.items()
        if split != "train" and not isinstance(pairs, IterableDataset)
    }
    wanted, met = set().union(*held_out.values()), set[tuple[str, str]]()
    for part in train.iter(batch_size=10_000):
        met |= wanted.intersection(zip(part["source"], part["target"], strict=True))
        if len(met) == len(wanted):
            break
    return {split: sum(pair in met for pair in pairs) for split, pairs in held_out.items()}


def overlap_in_words(overlap: Mapping[str, int] | None, counts: Mapping[str, int]) -> str:
    """What `count_overlap` found, as a sentence.

    Args:
        overlap: Its result.
        counts: Pairs of each split.
    """
    if overlap is None:
        return (
            "How many held-out pairs are in the training data was not counted, since these are a stream, which is read "
            "as it is learnt from."
        )
    found = [f"{number:,} of {plural(counts[split], f'{split} pair')}" for split, number in overlap.items() if number]
    if not found:
        return f"No {' or '.join(overlap)} pair is in the training data word for word."
    return (
        f"{together(found)} {'is' if sum(overlap.values()) == 1 else 'are'} also in the training data, word for word: "
        "scores on them tell of memory too."
    )
