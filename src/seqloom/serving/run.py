"""Runs the server: a socket that is free, models that load behind it, and an end in good order."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial

import uvicorn

from seqloom.serving.app import Served, Service
from seqloom.serving.engine import Engine
from seqloom.serving.requests import Limits
from seqloom.serving.worker import Worker

AFTERWARDS = 5
"""Seconds to say that there is no time left, and to whom one more step takes too long."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a server listens, and what it takes."""

    host: str = "127.0.0.1"
    port: int = 5000
    max_queue: int = 1000
    grace: int = 30
    """Seconds that running requests have when it is stopped."""
    api_key: str | None = None
    cors_origins: Sequence[str] = ()
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True)
class Model:
    """What is to be served."""

    name: str
    source: str
    target: str
    opener: Callable[[], Engine]
    """Loads it."""


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens there.

    Raises:
        ValueError: The port is in use or not allowed, or the host is none of this machine.
    """
    if port > 65535:
        raise ValueError(f"--port is {port}; it can be 1 to 65535, or 0 for any that is free.")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise ValueError(f"--host is {host!r}, which is no address of this machine ({error}).") from None
    listening = socket.socket(family, kind, protocol)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(address)
        listening.listen()
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            why = "is in use by another program: stop that, or choose another with --port (0: any that is free)"
        elif error.errno == errno.EACCES:
            why = "is not allowed to you: choose one from 1024 on, with --port"
        else:
            why = f"cannot be had at {host!r} ({error.strerror}): look at --host"
        raise ValueError(f"port {port} {why}.") from None
    return listening


class Patient(uvicorn.Server):
    """Lets running requests be answered when it is stopped; those that take longer are told so."""

    def __init__(self, config: uvicorn.Config, grace: int, workers: Sequence[Worker]):
        super().__init__(config)
        self.grace, self.workers = grace, workers

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accepts nothing more, and waits."""

        def stop() -> None:
            for worker in self.workers:
                worker.stop()

        end = asyncio.get_running_loop().call_later(self.grace, stop)
        await super().shutdown(sockets)
        end.cancel()


class Server:
    """Models that are served.

    Args:
        models: Which; they are loaded from now on, while the server listens.
        options: How.
        say: Takes a line for whoever runs it.

    Raises:
        ValueError: The address cannot be had.
    """

    def __init__(self, models: Sequence[Model], options: Options, say: Callable[[str], object]):
        self.listening = bound(options.host, options.port)
        host, port = self.listening.getsockname()[:2]
        self.address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        self.say, self.started = say, time.monotonic()
        self.models = [
            Served(model.name, model.source, model.target, Worker(model.opener, options.max_queue)) for model in models
        ]
        self.service = Service(self.models, options.limits, options.api_key)
        config = uvicorn.Config(
            self.service.app(options.cors_origins), loop="asyncio", http="h11", ws="none", log_level="warning",
            access_log=False, proxy_headers=False, server_header=False, lifespan="off",
            timeout_graceful_shutdown=options.grace + AFTERWARDS,
        )  # fmt: skip
        self._server = Patient(config, options.grace, [model.worker for model in self.models])

    def run(self) -> None:
        """Serves until it is stopped, by SIGTERM or otherwise; after Ctrl-C it raises KeyboardInterrupt.

        Raises:
            ValueError: A model cannot be loaded.
        """
        self.say(f"listening at {self.address}; Ctrl-C stops it")
        for model in self.models:
            model.worker.loading.add_done_callback(partial(self._told, model))
        try:
            with quiet_end():
                asyncio.run(self._server.serve([self.listening]))
        finally:
            for model in self.models:
                model.worker.close()
        for model in self.models:
            model.worker.loading.result()
        self.say("stopped")

    def stop(self) -> None:
        """Has it stop: it accepts nothing more, and finishes what is running."""
        self._server.should_exit = True

    def _told(self, model: Served, loading: Future[None]) -> None:
        """Says that a model is there; without it there is nothing to serve."""
        if loading.exception() is not None:
            self.stop()
            return
        seconds = time.monotonic() - self.started
        self.say(f"{model.source} → {model.target} is ready: {model.name}, after {seconds:.1f} s")


@contextlib.contextmanager
def quiet_end() -> Iterator[None]:
    """uvicorn raises the signal again that it has stopped for: SIGTERM then does nothing more, for all is done."""
    if threading.current_thread() is not threading.main_thread():  # which alone has signals
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
