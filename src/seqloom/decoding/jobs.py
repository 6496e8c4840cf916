"""Large inputs over several processes, each with a model of its own; the order of the outputs is that of the inputs."""

from __future__ import annotations

import itertools
import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import torch

from seqloom.decoding.translate import translate

AHEAD = 2
"""Chunks that wait for each process, besides the one that it works on."""
_open: dict[str, Any] = {}
"""What a process of ours has opened."""


def translate_by_jobs(
    opener: Callable[[], tuple[Any, Any]],
    sources: Iterable[str],
    num_jobs: int,
    *,
    chunk: int = 1000,
    first: int = 0,
    seed: int = 0,
    **options: Any,
) -> Iterator[Any]:
    """As `translate` of an iterator.

    Args:
        opener: Gives the model and its tokenizer, in each process.
        sources: Texts, of which some chunks are held at a time; there may be no end to them.
        num_jobs: Processes; the threads of this one are divided among them. One is this process itself.
        chunk: Sources that a process takes at a time, and sorts by length.
        first: The number of the first chunk, where others were translated before.
        seed: Of what is drawn; each chunk has its own, so the number of processes changes nothing.
        options: For `translate`.

    Raises:
        ValueError: As `translate`, or a process has died.
    """
    texts, numbers = iter(sources), itertools.count(first)
    if num_jobs == 1:
        model, tokenizer = opener()
        while some := list(itertools.islice(texts, chunk)):
            torch.manual_seed(seed + next(numbers))
            yield from translate(model, tokenizer, some, **options)
        return
    threads = max(1, torch.get_num_threads() // num_jobs)
    with ProcessPoolExecutor(
        num_jobs, multiprocessing.get_context("spawn"), initializer=_start, initargs=(opener, threads)
    ) as pool:
        waiting: deque[Future[list[Any]]] = deque()
        try:
            while True:
                while len(waiting) < (1 + AHEAD) * num_jobs and (some := list(itertools.islice(texts, chunk))):
                    waiting.append(pool.submit(_translate, some, seed + next(numbers), options))
                if not waiting:
                    return
                yield from waiting.popleft().result()
        except BrokenProcessPool:
            raise ValueError(
                f"one of the {num_jobs} processes has died, as they do where memory runs out: take fewer with "
                "--num_jobs, or a smaller --decode_batch_tokens."
            ) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _start(opener: Callable[[], tuple[Any, Any]], threads: int) -> None:
    torch.set_num_threads(threads)
    _open["model"], _open["tokenizer"] = opener()


def _translate(texts: list[str], seed: int, options: dict[str, Any]) -> list[Any]:
    torch.manual_seed(seed)
    return translate(_open["model"], _open["tokenizer"], texts, **options)
