"""The stream of updates that one process sees, epoch after epoch, resumable at any of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, islice

import numpy as np
import torch
from datasets import Dataset, IterableDataset
from datasets.distributed import split_dataset_by_node
from torch.utils.data import DataLoader

from seqloom.data.batches import (
    Batch,
    Lengths,
    PlanSummary,
    Update,
    collate,
    count_tokens,
    figures_of,
    lengths_of,
    plan_epoch,
    share,
)
from seqloom.modeling.modeling_seq2seq import IGNORED
from seqloom.settings.schema import TrainingSettings


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
        self._last: tuple[int, Dataset, Lengths] | None = None
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
            self.lengths = lengths_of(dataset)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[EpochPosition]:
        """The updates of an epoch from number ``start`` on."""
        pieces = self.settings.gradient_accumulation_steps
        updates = islice(self._updates(epoch), start, None)
        if self.gather is None:
            for index, (chunk, lengths, update) in enumerate(updates, start=start):
                parts = share(update, self.num_processes, self.process_index, pieces)
                micro_batches = [self._fetch(chunk, part) for part in parts]
                num_tokens, *positions = count_tokens(update, *lengths)
                yield EpochPosition(epoch, index, num_tokens, micro_batches, *positions)
            return
        none = np.array([], dtype=np.int64)
        for index in count(start):
            chunk, lengths, update = next(updates, (None, (none, none), []))
            figures = self.gather([*count_tokens(update, *lengths), len(update)])
            num_tokens, num_positions, num_filled, num_batches = map(sum, zip(*figures, strict=True))
            if not num_batches:  # now that every process's part is over
                return
            whole = update + [none] * (self.settings.batches_per_update - len(update))
            micro_batches = [self._fetch(chunk, part) for part in share(whole, 1, 0, pieces)]
            yield EpochPosition(epoch, index, num_tokens, micro_batches, num_positions, num_filled)

    def _updates(self, epoch: int) -> Iterator[tuple[Dataset, Lengths, Update]]:
        """Every update of this process's data, with what its indices point to."""
        for chunk_index, (chunk, lengths) in enumerate(self._chunks(epoch)):
            # A stream's chunks are planned like epochs of their own, all of them different.
            seed = epoch if not self.is_streaming else epoch * 1_000_003 + chunk_index
            for update in plan_epoch(*lengths, self.settings, seed):
                yield chunk, lengths, update

    def largest_update(self) -> int:
        """Number of the first epoch's update with most positions, padding included (of a stream: the first)."""
        if self.is_streaming:
            return 0
        _, lengths = next(self._chunks(0))
        updates = plan_epoch(*lengths, self.settings, 0)
        cells = [max(len(batch) * int(side[batch].max()) for batch in update for side in lengths) for update in updates]
        return int(np.argmax(cells))

    def _chunks(self, epoch: int) -> Iterator[tuple[Dataset, Lengths]]:
        if not self.is_streaming:
            if self.dataset_of is None:
                yield self.dataset, self.lengths
                return
            if self._last is None or self._last[0] != epoch:
                dataset = self.dataset_of(epoch)
                self._last = (epoch, dataset, lengths_of(dataset))
            yield self._last[1:]
            return
        rows = self._rows(epoch)
        while buffered := list(islice(rows, self.shuffle_buffer)):
            chunk = Dataset.from_list(buffered)
            yield chunk, lengths_of(chunk)

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
        assert chunk is not None  # a process without one has parts without rows alone
        rows = chunk[part.tolist()]
        return collate(rows["input_ids"], rows["labels"], self.pad_token_id)

    def summary(self) -> PlanSummary:
        """The first epoch's plan in figures (of a stream: its first chunk's, in every process)."""
        _, lengths = next(self._chunks(0), (None, (np.array([]), np.array([]))))
        figures = figures_of(plan_epoch(*lengths, self.settings, 0), *lengths)
        every = [figures] if self.gather is None else self.gather(figures)
        if not any(pairs for pairs, *_ in every):
            raise ValueError("there is no pair in the training stream: look at the texts and data.max_source_length.")
        return PlanSummary.over(every, "buffer" if self.is_streaming else "epoch")

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
