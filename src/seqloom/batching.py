"""Batches of like lengths under a token budget: a pure function of (seed, epoch), whatever the number of processes.

An *update* is the unit: some batches whose losses are summed over their target tokens and divided by the number of
these. Processes, and the pieces that a process cuts a batch into to fit its memory, are only ways of sharing an update
out; none of them changes what it computes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from datasets import Dataset, IterableDataset
from torch.nn.utils.rnn import pad_sequence

from seqloom.settings import TrainingSettings

Batch = np.ndarray  # (rows,) indices of the pairs in a batch
Update = list[Batch]
IGNORED = -100


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


@dataclass(frozen=True)
class EpochPosition:
    """Where in the data an update stands, and what it holds."""

    epoch: int
    index: int
    """Its number within the epoch, from 0."""
    num_tokens: int
    """Target tokens of the whole update, over all processes."""
    micro_batches: list[dict[str, torch.Tensor]]
    """This process's part, padded. A part without rows is a pair without labels: it adds nothing."""


class UpdateStream:
    """All updates of a training set, epoch after epoch, as one process sees them.

    Args:
        dataset: Encoded pairs (``input_ids``, ``labels``). A `datasets.IterableDataset` is read through a buffer of
            ``shuffle_buffer`` pairs, which are planned among themselves.
        settings: The batches.
        pad_token_id: Fills the sources.
        shuffle_buffer: Pairs held at a time when streaming.
        num_processes, process_index: Which part is this process's.
    """

    def __init__(
        self,
        dataset: Dataset | IterableDataset,
        settings: TrainingSettings,
        *,
        pad_token_id: int,
        shuffle_buffer: int = 10_000,
        num_processes: int = 1,
        process_index: int = 0,
    ):
        self.dataset = dataset
        self.settings = settings
        self.pad_token_id = pad_token_id
        self.shuffle_buffer = shuffle_buffer
        self.num_processes = num_processes
        self.process_index = process_index
        self.is_streaming = isinstance(dataset, IterableDataset)
        if not self.is_streaming:
            self.lengths = tuple(token_counts(dataset, column) for column in ("input_ids", "labels"))

    def epoch(self, epoch: int, start: int = 0) -> Iterator[EpochPosition]:
        """The updates of an epoch from number ``start`` on."""
        index = 0
        for chunk_index, (chunk, source_lengths, target_lengths) in enumerate(self._chunks(epoch)):
            # A stream's chunks are planned like epochs of their own, all of them different.
            seed = epoch if not self.is_streaming else epoch * 1_000_003 + chunk_index
            for update in plan_epoch(source_lengths, target_lengths, self.settings, seed):
                if index >= start:
                    num_tokens = sum(int(target_lengths[batch].sum()) for batch in update)
                    parts = share(
                        update, self.num_processes, self.process_index, self.settings.gradient_accumulation_steps
                    )
                    parts = [self._fetch(chunk, part, spare=int(update[0][0])) for part in parts]
                    yield EpochPosition(epoch, index, num_tokens, parts)
                index += 1

    def _chunks(self, epoch: int) -> Iterator[tuple[Dataset, np.ndarray, np.ndarray]]:
        if not self.is_streaming:
            yield self.dataset, *self.lengths
            return
        self.dataset.set_epoch(epoch)
        rows = iter(self.dataset)
        while buffered := list(islice(rows, self.shuffle_buffer)):
            chunk = Dataset.from_list(buffered)
            yield chunk, *(token_counts(chunk, column) for column in ("input_ids", "labels"))

    def _fetch(self, chunk: Dataset, part: Batch, spare: int) -> dict[str, torch.Tensor]:
        rows = chunk[part.tolist() if len(part) else [spare]]
        batch = collate(rows["input_ids"], rows["labels"], self.pad_token_id)
        if not len(part):
            batch["labels"].fill_(IGNORED)
        return batch

    def summary(self) -> PlanSummary:
        """The first epoch's plan in figures (of a stream: its first chunk's)."""
        first = next(self._chunks(0), None)
        if first is None:
            raise ValueError("there is no pair in the training stream: look at the texts and data.max_source_length.")
        _, *lengths = first
        return PlanSummary.of(plan_epoch(*lengths, self.settings, 0), *lengths)


def token_counts(dataset: Dataset, column: str) -> np.ndarray:
    """Lengths of a list column (pairs,), read batch by batch."""
    counts = [[len(ids) for ids in part[column]] for part in dataset.select_columns([column]).iter(batch_size=10_000)]
    return np.array([count for part in counts for count in part], dtype=np.int64)


@dataclass(frozen=True)
class PlanSummary:
    """A plan in figures."""

    pairs: int
    batches: int
    updates: int
    padding: float
    """Share of padding among all source and target positions."""
    target_tokens_per_update: float

    @classmethod
    def of(cls, updates: Iterable[Update], source_lengths: np.ndarray, target_lengths: np.ndarray) -> PlanSummary:
        """Counts a plan."""
        updates = list(updates)
        batches = [batch for update in updates for batch in update]
        sides = (source_lengths, target_lengths)
        cells = sum(int(len(batch) * side[batch].max()) for batch in batches for side in sides)
        tokens = sum(int(side[batch].sum()) for batch in batches for side in sides)
        target_tokens = sum(int(target_lengths[batch].sum()) for batch in batches)
        pairs = sum(len(batch) for batch in batches)
        return cls(pairs, len(batches), len(updates), 1 - tokens / cells, target_tokens / len(updates))

    def __str__(self) -> str:
        return (
            f"{self.pairs:,} pairs in {self.batches:,} batches and {self.updates:,} updates an epoch; "
            f"{self.target_tokens_per_update:,.0f} target tokens an update; padding {self.padding:.1%}"
        )
