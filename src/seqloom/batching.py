"""Batches of like lengths under a token budget: a pure function of (seed, epoch), whatever the number of processes.

An *update* is the unit: some batches whose losses are summed over their target tokens and divided by the number of
these. Processes, and the pieces that a process cuts a batch into to fit its memory, are only ways of sharing an update
out; none of them changes what it computes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import count, islice

import numpy as np
import torch
from datasets import Dataset, IterableDataset
from datasets.distributed import split_dataset_by_node
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

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
    num_positions: int = 0
    """Source and target positions of the whole update, padding included; 0: not known."""
    num_filled: int = 0
    """Those of them that hold a token."""


class UpdateStream:
    """All updates of a training set, epoch after epoch, as one process sees them.

    Args:
        dataset: Encoded pairs (``input_ids``, ``labels``). A `datasets.IterableDataset` is read through a buffer of
            ``shuffle_buffer`` pairs, which are planned among themselves.
        settings: The batches.
        pad_token_id: Fills the sources.
        shuffle_buffer: Pairs held at a time when streaming.
        num_processes, process_index: Which part is this process's.
        gather: Gives every process the integers of each. With it, each process reads and plans its own part of a
            stream, and an update is ``batches_per_update`` batches of every process; without, all processes read all
            and share each batch.
        num_workers: Processes that read and tokenize a stream for this one, as far as it has files for them.
        dataset_of: Gives an epoch's own encoding of ``dataset``, where each has one.
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
        gather: Callable[[list[int]], list[list[int]]] | None = None,
        num_workers: int = 0,
        dataset_of: Callable[[int], Dataset | IterableDataset] | None = None,
    ):
        self.dataset_of = dataset_of
        self._last: tuple[int, Dataset, np.ndarray, np.ndarray] | None = None
        self._strategy: str | None = None
        self.gather = gather if isinstance(dataset, IterableDataset) and num_processes > 1 else None
        if isinstance(dataset, IterableDataset):
            files = dataset.num_shards
            if self.gather is not None:
                # Whole files where every process gets one, else every n-th row.
                strategy = self._strategy = "shards" if files >= num_processes else "examples"
                dataset = split_dataset_by_node(dataset, process_index, num_processes, strategy=strategy)
                files = len(range(process_index, files, num_processes)) if strategy == "shards" else files
            num_workers = min(num_workers, files)
        self.num_workers = num_workers
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
        pieces = self.settings.gradient_accumulation_steps
        updates = islice(self._updates(epoch), start, None)
        if self.gather is None:
            for index, (chunk, lengths, update) in enumerate(updates, start=start):
                parts = share(update, self.num_processes, self.process_index, pieces)
                micro_batches = [self._fetch(chunk, part) for part in parts]
                num_tokens, *positions = _tokens(update, *lengths)
                yield EpochPosition(epoch, index, num_tokens, micro_batches, *positions)
            return
        none = np.array([], dtype=np.int64)
        for index in count(start):
            chunk, lengths, update = next(updates, (None, (none, none), []))
            figures = self.gather([*_tokens(update, *lengths), len(update)])
            num_tokens, num_positions, num_filled, num_batches = map(sum, zip(*figures, strict=True))
            if not num_batches:  # now that every process's part is over
                return
            whole = update + [none] * (self.settings.batches_per_update - len(update))
            parts = [self._fetch(chunk, part) for part in share(whole, 1, 0, pieces)]
            yield EpochPosition(epoch, index, num_tokens, parts, num_positions, num_filled)

    def _updates(self, epoch: int) -> Iterator[tuple[Dataset, tuple[np.ndarray, np.ndarray], Update]]:
        """Every update of this process's data, with what its indices point to."""
        for chunk_index, (chunk, *lengths) in enumerate(self._chunks(epoch)):
            # A stream's chunks are planned like epochs of their own, all of them different.
            seed = epoch if not self.is_streaming else epoch * 1_000_003 + chunk_index
            for update in plan_epoch(*lengths, self.settings, seed):
                yield chunk, lengths, update

    def largest_update(self) -> int:
        """Number of the first epoch's update with most positions, padding included (of a stream: the first)."""
        if self.is_streaming:
            return 0
        _, *lengths = next(self._chunks(0))
        updates = plan_epoch(*lengths, self.settings, 0)
        cells = [max(len(batch) * int(side[batch].max()) for batch in update for side in lengths) for update in updates]
        return int(np.argmax(cells))

    def _chunks(self, epoch: int) -> Iterator[tuple[Dataset, np.ndarray, np.ndarray]]:
        if not self.is_streaming and self.dataset_of is None:
            yield self.dataset, *self.lengths
            return
        if not self.is_streaming:
            if self._last is None or self._last[0] != epoch:
                dataset = self.dataset_of(epoch)
                self._last = (epoch, dataset, *(token_counts(dataset, column) for column in ("input_ids", "labels")))
            yield self._last[1:]
            return
        rows = self._rows(epoch)
        while buffered := list(islice(rows, self.shuffle_buffer)):
            chunk = Dataset.from_list(buffered)
            yield chunk, *(token_counts(chunk, column) for column in ("input_ids", "labels"))

    def _rows(self, epoch: int) -> Iterator[dict[str, list[int]]]:
        """The pairs of a stream; with workers, some of each in turn, so that the order is always the same."""
        dataset = self.dataset
        if self.dataset_of is not None:
            dataset = self.dataset_of(epoch)
            if self._strategy is not None:
                dataset = split_dataset_by_node(
                    dataset, self.process_index, self.num_processes, strategy=self._strategy
                )
        dataset.set_epoch(epoch)
        if not self.num_workers:
            return iter(dataset)
        # The loader draws a seed: not from the generator of the dropout, which a resumed run goes on with.
        loader = DataLoader(
            dataset, batch_size=256, collate_fn=list, num_workers=self.num_workers, generator=torch.Generator()
        )
        return (row for rows in loader for row in rows)

    def _fetch(self, chunk: Dataset | None, part: Batch) -> dict[str, torch.Tensor]:
        if not len(part):
            return collate([[self.pad_token_id]], [[IGNORED]], self.pad_token_id)
        rows = chunk[part.tolist()]
        return collate(rows["input_ids"], rows["labels"], self.pad_token_id)

    def summary(self) -> PlanSummary:
        """The first epoch's plan in figures (of a stream: its first chunk's, in every process)."""
        _, *lengths = next(self._chunks(0), (None, np.array([]), np.array([])))
        figures = _figures(plan_epoch(*lengths, self.settings, 0), *lengths)
        every = [figures] if self.gather is None else self.gather(figures)
        if not any(pairs for pairs, *_ in every):
            raise ValueError("there is no pair in the training stream: look at the texts and data.max_source_length.")
        return PlanSummary.over(every)

    def state_dict(self) -> dict[str, int]:
        """What a checkpoint holds of a stream that is split by process."""
        return {"num_processes": self.num_processes}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Refuses to go on with another split.

        Raises:
            ValueError: There were more or fewer processes.
        """
        if state["num_processes"] != self.num_processes:
            raise ValueError(
                f"the run was started with {state['num_processes']} processes and data.split_stream, by which each has "
                f"read its own part so far; resume with as many, not with {self.num_processes}."
            )


def token_counts(dataset: Dataset, column: str) -> np.ndarray:
    """Lengths of a list column (pairs,), read batch by batch."""
    counts = [[len(ids) for ids in part[column]] for part in dataset.select_columns([column]).iter(batch_size=10_000)]
    return np.array([count for part in counts for count in part], dtype=np.int64)


def _tokens(update: Update, source_lengths: np.ndarray, target_lengths: np.ndarray) -> tuple[int, int, int]:
    """Target tokens of an update; its positions on both sides, padding included; and those of them that are filled."""
    sides = [side[batch] for batch in update for side in (source_lengths, target_lengths)]
    positions, filled = sum(len(side) * int(side.max()) for side in sides), sum(int(side.sum()) for side in sides)
    return sum(int(target_lengths[batch].sum()) for batch in update), positions, filled


def _figures(updates: list[Update], source_lengths: np.ndarray, target_lengths: np.ndarray) -> list[int]:
    """Pairs, batches and updates of a plan, and `_tokens` of them all."""
    batches = [batch for update in updates for batch in update]
    tokens = _tokens(batches, source_lengths, target_lengths)
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

    @classmethod
    def of(cls, updates: Iterable[Update], source_lengths: np.ndarray, target_lengths: np.ndarray) -> PlanSummary:
        """Counts a plan."""
        return cls.over([_figures(list(updates), source_lengths, target_lengths)])

    @classmethod
    def over(cls, figures: list[list[int]]) -> PlanSummary:
        """The plans of all processes, an update being one of each."""
        pairs, batches, _, target_tokens, positions, filled = map(sum, zip(*figures, strict=True))
        updates = max(updates for _, _, updates, *_ in figures)
        return cls(pairs, batches, updates, 1 - filled / positions, target_tokens / updates)

    def __str__(self) -> str:
        return (
            f"{self.pairs:,} pairs in {self.batches:,} batches and {self.updates:,} updates an epoch; "
            f"{self.target_tokens_per_update:,.0f} target tokens an update; padding {self.padding:.1%}"
        )
