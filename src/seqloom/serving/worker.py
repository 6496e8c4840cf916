"""Who owns a model: one thread, and a queue before it that has an end."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

from seqloom.serving.engine import Asked, Engine, Job


class Full(Exception):
    """There is no room for so many texts in the queue."""


class NotReady(Exception):
    """The model is not loaded yet."""


class Stopped(Exception):
    """The server ends; what is not done will not be."""


class Worker:
    """Decodes texts of all requests in a thread of its own, in the order in which they come.

    Texts that want the same are decoded together: those that come later join in between two steps. One that wants
    something else waits until those before it are done, and those after it wait for it: nobody overtakes.

    Args:
        opener: Loads the model, in the thread.
        max_queue: Texts that may wait.
    """

    def __init__(self, opener: Callable[[], Engine], max_queue: int):
        self.max_queue = max_queue
        self.waiting: deque[Job] = deque()
        self.running: set[Job] = set()
        self.engine: Engine | None = None
        self._lock = threading.RLock()
        self._is_busy = self._is_closed = False
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")
        self.loading: Future[None] = self._pool.submit(self._open, opener)
        """Whose exception says why there is no model."""

    @property
    def is_ready(self) -> bool:
        """Whether the model is loaded."""
        return self.engine is not None

    def submit(self, texts: Sequence[str], asked: Asked) -> list[Job]:
        """Puts texts into the queue: all of them, or none.

        Raises:
            Full: They have no room there.
            NotReady: The model is not loaded yet.
            Stopped: The worker was stopped.
        """
        jobs = [Job(text, asked) for text in texts]
        with self._lock:
            if self._is_closed:
                raise Stopped
            if self.engine is None:
                raise NotReady
            if len(self.waiting) + len(jobs) > self.max_queue:
                raise Full
            self.waiting.extend(jobs)
            self._wake()
        return jobs

    def drop(self, jobs: Sequence[Job]) -> int:
        """Takes out of the queue what nobody waits for any more; gives how many were there. What is being decoded is
        finished."""
        gone = {job for job in jobs if job.cancel()}
        if gone:
            with self._lock:
                self.waiting = deque(job for job in self.waiting if job not in gone)
        return len(gone)

    def stop(self) -> None:
        """Ends the decoding after the step that it is in. What waits or is being decoded is `Stopped`."""
        with self._lock:
            self._is_closed = True
            left, self.waiting = [*self.waiting], deque()
        for job in left:
            self._fail(job, Stopped())

    def close(self) -> None:
        """Stops, and waits until the thread has ended."""
        self.stop()
        self._pool.shutdown()

    def _open(self, opener: Callable[[], Engine]) -> None:
        self.engine = opener()

    def _wake(self) -> None:
        """Has the thread look into the queue, if it does not do so anyway."""
        if self.waiting and not self._is_busy and not self._is_closed:
            self._is_busy = True
            self._pool.submit(self._decode).add_done_callback(self._end)

    def _decode(self) -> None:
        """Until the queue is empty."""
        assert self.engine is not None
        while (first := self._take(None)) is not None:
            for job, outputs in self.engine.decode(first, partial(self._take, first.asked)):
                self.running.discard(job)
                job.set_result(outputs)

    def _end(self, decoding: Future[None]) -> None:
        """Whatever went wrong is told to those whose texts were being decoded; those that wait have their turn."""
        for job in [*self.running]:
            self._fail(job, decoding.exception() or Stopped())
        with self._lock:
            self._is_busy = False
            self._wake()

    def _take(self, asked: Asked | None, most: int | None = None) -> Job | None:
        """The next text of the queue, if it wants this (None: whatever it wants) and has at most so many tokens.

        Raises:
            Stopped: The worker was closed.
        """
        assert self.engine is not None
        with self._lock:
            if self._is_closed:
                raise Stopped
            while self.waiting:
                if asked is not None and self.waiting[0].asked != asked:
                    return None
                job = self.waiting.popleft()
                self.running.add(job)  # whatever goes wrong from here on is told to it
                if job.ids is None:
                    try:
                        job.ids = self.engine.encode(job)
                    except ValueError as error:  # it is too long
                        self._fail(job, error)
                        continue
                if most is not None and len(job.ids) > most:
                    self.running.discard(job)
                    self.waiting.appendleft(job)
                    return None
                if job.set_running_or_notify_cancel():
                    return job
                self.running.discard(job)
        return None

    def _fail(self, job: Job, error: BaseException) -> None:
        """Tells it, unless nobody waits for it any more."""
        self.running.discard(job)
        if job.running() or job.set_running_or_notify_cancel():
            job.set_exception(error)
