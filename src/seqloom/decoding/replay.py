"""A search on a GPU: each step recorded once as a CUDA graph and replayed, the host never waiting for it.

A step of a small model is a few hundred small kernels, which take longer to launch than to run. So a batch keeps its
shape while it is decoded (its sentences come and go together), steps write into the same memory over and over, and
whether all are done is looked up two steps late, without stopping the GPU.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import torch

from seqloom.decoding.targets import Targets

LAG = 2
"""Steps that the host is ahead of what it knows to be done."""
EVEN = 8
"""Sources are padded to multiples of this, so that few shapes are recorded."""


class Recording:
    """Targets and state in memory that stays where it is, and a step over them, once it is recorded."""

    def __init__(self, targets: Targets, state: Any):
        self.targets, self.state = targets, state
        self.is_warm = False
        self.replay: Callable[[], None] | None = None

    def tensors(self) -> list[torch.Tensor]:
        """All that a step reads and writes."""
        return [*tensors_of(self.targets), *tensors_of(self.state)]

    def take(self, other: Recording) -> None:
        """What another one of the same shape holds."""
        for mine, theirs in zip(self.tensors(), other.tensors(), strict=True):
            if mine.data_ptr() != theirs.data_ptr():
                mine.copy_(theirs)
        for part, given in ((self.targets, other.targets), (self.state, other.state)):
            vars(part).update({name: value for name, value in vars(given).items() if isinstance(value, int)})


class Recorder:
    """The steps of a decoder and a search, recorded by shape.

    Args:
        step: What is done to targets and state, in tensors that stay where they are.
        record: Gives what does it again.
    """

    def __init__(
        self,
        step: Callable[[Targets, Any], None],
        record: Callable[[Callable[[], None]], Callable[[], None]] | None = None,
    ):
        self.step, self.record = step, record or cuda_graph
        self.recordings: dict[Any, Recording] = {}

    def recording(self, targets: Targets, state: Any) -> Recording:
        """That of their shape, with what they hold in it."""
        given = Recording(targets, state)
        known = self.recordings.setdefault(tuple(tensor.shape for tensor in given.tensors()), given)
        if known is not given:
            known.take(given)
        return known

    def run(self, targets: Targets, state: Any) -> Targets:
        """Steps until all sentences are done; the targets then."""
        recording = self.recording(targets, state)
        look = Lookout(targets.device)
        while not look.has_seen_the_end:
            targets, state = recording.targets, recording.state
            if is_full := targets.is_full:  # what comes next has another shape
                targets, state = copy.copy(targets), copy.copy(state)
            targets.room()
            state.room()
            if is_full:
                recording = self.recording(targets, state)
            self.advance(recording)
            look.at(recording.targets.is_done)
        return recording.targets

    def advance(self, recording: Recording) -> None:
        """A step: the first as it is, which also warms up; the second is recorded."""
        targets, state = recording.targets, recording.state
        if not recording.is_warm:
            self.step(targets, state)
            recording.is_warm = True
            return
        if recording.replay is None:
            recording.replay = self.record(lambda: self.step(targets, state))
        recording.replay()


class Lookout:
    """Whether all are done, as it was `LAG` steps ago: the host does not wait for the GPU."""

    def __init__(self, device: torch.device):
        self.is_cuda = device.type == "cuda"
        self.flags = torch.zeros(LAG + 1, dtype=torch.bool, pin_memory=self.is_cuda)
        self.looks: deque[tuple[torch.Tensor, torch.cuda.Event | None]] = deque()
        self.num_looks = 0
        self.has_seen_the_end = False

    def at(self, is_done: torch.Tensor) -> None:
        """Sends for what is so now, and reads what has arrived."""
        flag = self.flags[self.num_looks % len(self.flags)]
        flag.copy_(is_done.all(), non_blocking=True)
        self.looks.append((flag, torch.cuda.current_stream().record_event() if self.is_cuda else None))
        self.num_looks += 1
        if len(self.looks) > LAG:
            flag, event = self.looks.popleft()
            if event is not None:
                event.synchronize()
            self.has_seen_the_end = bool(flag)


def cuda_graph(step: Callable[[], None]) -> Callable[[], None]:
    """A step, recorded without being done."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def tensors_of(value: Any) -> Iterator[torch.Tensor]:
    """The tensors that an object holds, or lists and tuples in it; each once."""
    parts = list(vars(value).values()) if hasattr(value, "__dict__") else list(value)
    for place, part in enumerate(parts):
        if isinstance(part, torch.Tensor) and not any(part is other for other in parts[:place]):
            yield part
        elif isinstance(part, (list, tuple)):
            yield from tensors_of(part)
