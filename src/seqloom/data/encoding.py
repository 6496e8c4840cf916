"""Pairs of texts → pairs of token ids."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from datasets import Features, IterableDataset, List, Value

from seqloom.data.sources import PAIR, Data
from seqloom.settings.schema import DataSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from seqloom.data.subwords import Sampler


ENCODED = Features({"input_ids": List(Value("int32")), "labels": List(Value("int32"))})


@dataclass
class EncodingReport:
    """What `encode` kept and dropped. For a stream it counts what this process has read so far, epoch after epoch."""

    kept: int = 0
    """Pairs to use."""
    empty: int = 0
    """Pairs dropped because a side is missing or blank."""
    too_long: int = 0
    """Pairs dropped because a side has too many tokens."""

    def __str__(self) -> str:
        return (
            f"{self.kept:,} of {self.kept + self.empty + self.too_long:,} pairs kept; "
            f"dropped {self.empty:,} with an empty side and {self.too_long:,} that are too long"
        )


def encode(
    pairs: Data,
    tokenizer: PreTrainedTokenizerBase,
    settings: DataSettings,
    *,
    drop: bool = True,
    sampler: Sampler | None = None,
    report: EncodingReport | None = None,
) -> tuple[Data, EncodingReport]:
    """Tokenizes pairs, in ``data.num_proc`` processes and with the cache of `datasets`.

    Args:
        pairs: Columns ``source`` and ``target``.
        tokenizer: Gives the ``input_ids`` of a text and the ``labels`` of a ``text_target``.
        settings: The longest sides, in tokens, special tokens included.
        drop: Leave out what cannot be trained on. False for evaluation: every pair is scored, and row n of the result
            is row n of ``pairs``.
        sampler: Draws the segmentations of an epoch. The pairs stay those that are kept without it.
        report: Where a stream goes on counting.

    Returns:
        ``input_ids`` and ``labels`` of each pair; and the report to print.

    Raises:
        ValueError: Nothing is left (a stream just comes out empty); a side is missing although ``drop`` is False.
    """
    report = report or EncodingReport()
    counter: EncodingReport | None = report
    workers, filtering, tokenizing = dict[str, Any](), dict[str, Any](), dict[str, Any]()
    if not isinstance(pairs, IterableDataset):
        counter, workers = None, {"num_proc": settings.num_proc}
        filtering, tokenizing = {"desc": "looking for empty sides, pairs"}, {"desc": "tokenizing pairs"}
    limits = (settings.max_source_length or math.inf, settings.max_target_length or math.inf) if drop else None
    draws = {} if sampler is None else {"sampler": sampler}  # the cache of what is not drawn stays as it was
    written = pairs
    if drop:
        looking = {"batched": True, "input_columns": [*PAIR], "fn_kwargs": {"report": counter}, **workers, **filtering}
        written = pairs.filter(_written, **looking)
        if counter is None and len(written) == len(pairs):
            written = pairs  # read faster without the filter's index
    encoded = written.map(
        _tokenize,
        batched=True,
        with_indices=True,
        remove_columns=[*PAIR],
        features=ENCODED,
        fn_kwargs={"tokenizer": tokenizer, "limits": limits, "report": counter, **draws},
        **workers,
        **tokenizing,
    )
    if counter is None:
        # From the results, since functions that the cache or other processes stand in for cannot count.
        report.kept, report.empty = len(encoded), len(pairs) - len(written)
        report.too_long = len(written) - len(encoded)
        if not report.kept:
            raise ValueError(f"{report}: look at the texts, data.max_source_length and data.max_target_length.")
    return encoded, report


def _written(sources: list, targets: list, report: EncodingReport | None) -> list[bool]:
    """Which pairs have text on both sides."""
    kept = [all(text and text.strip() for text in pair) for pair in zip(sources, targets, strict=True)]
    if report is not None:
        report.empty += kept.count(False)
    return kept


def _tokenize(
    batch: dict[str, list],
    rows: list[int],
    tokenizer: PreTrainedTokenizerBase,
    limits: tuple[float, float] | None,
    report: EncodingReport | None,
    sampler: Sampler | None = None,
) -> dict[str, list]:
    for side in PAIR:
        if None in batch[side]:
            row = rows[batch[side].index(None)] + 1
            raise ValueError(f"pair {row} has no {side}; every pair of an evaluation is scored, so fill or remove it.")
    encoded = tokenizer(batch["source"], text_target=batch["target"], verbose=False)
    pairs = list(zip(encoded["input_ids"], encoded["labels"], strict=True))
    fits = [limits is None or (len(x) <= limits[0] and len(y) <= limits[1]) for x, y in pairs]
    kept: list[tuple[list[int], ...]] = [pair for pair, is_kept in zip(pairs, fits, strict=True) if is_kept]
    if sampler is not None:
        texts = zip(batch["source"], batch["target"], rows, fits, strict=True)
        drawn = [sampler(source, target, row) for source, target, row, is_kept in texts if is_kept]
        longest = [min(sampler.longest, limit) for limit in limits or (math.inf, math.inf)]
        kept = [
            tuple(
                new if new is not None and len(new) <= most else old
                for new, old, most in zip(news, olds, longest, strict=True)
            )
            for news, olds in zip(drawn, kept, strict=True)
        ]
    if report is not None:
        report.kept += len(kept)
        report.too_long += len(pairs) - len(kept)
    return {"input_ids": [x for x, _ in kept], "labels": [y for _, y in kept]}
