"""Batches of like lengths under a token budget: a pure function of (seed, epoch), whatever the number of processes.

An *update* is the unit: some batches whose losses are summed over their target tokens and divided by the number of
these. Processes, and the pieces that a process cuts a batch into to fit its memory, are only ways of sharing an update
out; none of them changes what it computes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from datasets import Dataset
from torch.nn.utils.rnn import pad_sequence

from seqloom.modeling.modeling_seq2seq import IGNORED
from seqloom.settings.schema import TrainingSettings

Batch = np.ndarray  # (rows,) indices of the pairs in a batch
Update = list[Batch]
Lengths = tuple[np.ndarray, np.ndarray]  # (pairs,) tokens of the sources, and of the targets


def plan_epoch(
    source_lengths: np.ndarray, target_lengths: np.ndarray, settings: TrainingSettings, epoch: int
) -> list[Update]:
    """Sorts pairs by length, cuts batches, shuffles them, and groups them into updates.

    Args:
        source_lengths, target_lengths: (pairs,) in tokens, end of sentence included.
        settings: ``batch_tokens`` or ``batch_size``, ``batches_per_update`` and ``seed`` are used.
        epoch: Counts from 0. Every epoch pairs other neighbours and orders the batches anew.

    Raises:
        ValueError: A pair is longer than the whole token budget.
    """
    random = np.random.default_rng((settings.seed, epoch))
    # Within a target length, sources rise in one and fall in the next, so that neighbours stay alike across the border.
    ties = random.permutation(len(source_lengths))
    order = np.lexsort((ties, np.where(target_lengths % 2, source_lengths, -source_lengths), target_lengths))
    longest = np.maximum(source_lengths, target_lengths)[order]
    if settings.batch_tokens is not None and len(longest) and longest.max() > settings.batch_tokens:
        raise ValueError(
            f"the longest pair has {longest.max()} tokens on its larger side, but training.batch_tokens is "
            f"{settings.batch_tokens}: raise it, or lower data.max_source_length and data.max_target_length."
        )
    batches, start, width = [], 0, 0
    for position, length in enumerate(longest.tolist()):
        width = max(width, length)
        rows = position - start + 1
        full = rows > settings.batch_size if settings.batch_size else rows * width > settings.batch_tokens
        if full:
            batches.append(order[start:position])
            start, width = position, length
    if start < len(order):
        batches.append(order[start:])
    batches = [batches[index] for index in random.permutation(len(batches))]
    size = settings.batches_per_update
    return [batches[first : first + size] for first in range(0, len(batches), size)]


def share(update: Update, num_processes: int, process_index: int, pieces: int) -> list[Batch]:
    """One process's part of an update: as many micro-batches as every other process has, some perhaps without rows.

    Whole batches where they can be dealt out evenly, else a part of the rows of each. Every batch, or part of one, is
    then cut into ``pieces`` that fit the memory.
    """
    if len(update) % num_processes == 0:
        mine = update[process_index::num_processes]
    else:
        mine = [batch[process_index::num_processes] for batch in update]
    return [batch[piece::pieces] for batch in mine for piece in range(pieces)]


def collate(input_ids: list[list[int]], labels: list[list[int]], pad_token_id: int) -> dict[str, torch.Tensor]:
    """Pads encoded pairs to ``input_ids``, ``attention_mask`` (batch, source) and ``labels`` (batch, target)."""

    def padded(rows: list[list[int]], value: int) -> torch.Tensor:
        return pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=value)

    sources = padded(input_ids, pad_token_id)
    lengths = torch.tensor([len(row) for row in input_ids])
    attention_mask = (torch.arange(sources.shape[1]) < lengths[:, None]).long()
    return {"input_ids": sources, "attention_mask": attention_mask, "labels": padded(labels, IGNORED)}


def cut(batch: dict[str, torch.Tensor], pieces: int) -> list[dict[str, torch.Tensor]]:
    """A batch in at most so many parts, every n-th row each, without the padding that only other rows needed."""
    if pieces == 1:
        return [batch]
    parts = []
    for first in range(min(pieces, len(batch["labels"]))):
        part = {name: tensor[first::pieces] for name, tensor in batch.items()}
        source, target = (
            int(mask.sum(-1).max().clamp(min=1)) for mask in (part["attention_mask"], part["labels"] != IGNORED)
        )
        parts.append({name: tensor[:, : target if name == "labels" else source] for name, tensor in part.items()})
    return parts


def token_counts(dataset: Dataset, column: str) -> np.ndarray:
    """Lengths of a list column (pairs,), read batch by batch."""
    counts = [[len(ids) for ids in part[column]] for part in dataset.select_columns([column]).iter(batch_size=10_000)]
    return np.array([count for part in counts for count in part], dtype=np.int64)


def lengths_of(dataset: Dataset) -> Lengths:
    """Both sides' lengths of encoded pairs."""
    return token_counts(dataset, "input_ids"), token_counts(dataset, "labels")


def count_tokens(update: Update, source_lengths: np.ndarray, target_lengths: np.ndarray) -> tuple[int, int, int]:
    """Target tokens of an update; its positions on both sides, padding included; and those of them that are filled."""
    sides = [side[batch] for batch in update for side in (source_lengths, target_lengths)]
    positions, filled = sum(len(side) * int(side.max()) for side in sides), sum(int(side.sum()) for side in sides)
    return sum(int(target_lengths[batch].sum()) for batch in update), positions, filled


def figures_of(updates: list[Update], source_lengths: np.ndarray, target_lengths: np.ndarray) -> list[int]:
    """Pairs, batches and updates of a plan, and `_tokens` of them all."""
    batches = [batch for update in updates for batch in update]
    tokens = count_tokens(batches, source_lengths, target_lengths)
    return [sum(len(batch) for batch in batches), len(batches), len(updates), *tokens]


@dataclass(frozen=True)
class PlanSummary:
    """A plan in figures."""

    pairs: int
    batches: int
    updates: int
    padding: float
    """Share of padding among all source and target positions."""
    target_tokens_per_update: float
    of: Literal["epoch", "buffer"] = "epoch"
    """What it is a plan of: a whole epoch, or the pairs of a stream that are held first (``data.shuffle_buffer``),
    since how many there are shows when they have been read."""

    @classmethod
    def over(cls, figures: list[list[int]], of: Literal["epoch", "buffer"] = "epoch") -> PlanSummary:
        """The plans of all processes, an update being one of each."""
        pairs, batches, _, target_tokens, positions, filled = map(sum, zip(*figures, strict=True))
        updates = max(updates for _, _, updates, *_ in figures)
        return cls(pairs, batches, updates, 1 - filled / positions, target_tokens / updates, of)

    def __str__(self) -> str:
        what, each = f"{self.pairs:,} pairs", " an epoch"
        if self.of == "buffer":
            what, each = f"the stream's first {what}, as many as are held at a time,", ""
        return (
            f"{what} in {self.batches:,} batches and {self.updates:,} updates{each}; "
            f"{self.target_tokens_per_update:,.0f} target tokens an update; padding {self.padding:.1%}"
        )
