"""Runs the server: a socket that is free, models that load behind it, and an end in good order."""

from __future__ import annotations

import asyncio
import errno
import importlib.util
import signal
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from seqloom.serving.engine import Engine
from seqloom.serving.worker import Worker
from seqloom.support.wording import together

if TYPE_CHECKING:
    pass


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
    limits: dict[str, int] = field(default_factory=dict)
    """Fields of `seqloom.serving.requests.Limits`."""


@dataclass(frozen=True)
class Model:
    """What is to be served."""

    name: str
    source: str
    target: str
    opener: Callable[[], Engine]
    """Loads it."""


def require() -> None:
    """Makes sure that a server can be run.

    Raises:
        ValueError: Its packages are missing.
    """
    missing = [name for name in ("starlette", "uvicorn") if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"seqloom serve needs {together(missing)}: pip install 'seqloom[serve]'")


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


def serve(models: Sequence[Model], options: Options, say: Callable[[str], object]) -> None:
    """Serves until a signal comes: SIGTERM, or Ctrl-C, after which it raises KeyboardInterrupt.

    Raises:
        ValueError: The address cannot be had, or a model cannot be loaded.
    """
    require()
    import uvicorn

    from seqloom.serving.app import Served, Service
    from seqloom.serving.requests import Limits

    listening = bound(options.host, options.port)
    host, port = listening.getsockname()[:2]
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    started = time.monotonic()
    served = [
        Served(model.name, model.source, model.target, Worker(model.opener, options.max_queue)) for model in models
    ]
    service = Service(served, Limits(**options.limits), options.api_key)
    config = uvicorn.Config(
        service.app(options.cors_origins), loop="asyncio", http="h11", ws="none", log_level="warning",
        access_log=False, proxy_headers=False, server_header=False, timeout_graceful_shutdown=options.grace,
    )  # fmt: skip
    server = uvicorn.Server(config)
    say(f"listening at {address}; Ctrl-C stops it")

    def told(model: Served, loading: Any) -> None:
        if loading.exception() is not None:
            server.should_exit = True
        else:
            say(f"{model.source} → {model.target} is ready: {model.name}, after {time.monotonic() - started:.1f} s")

    for model in served:
        model.worker.loading.add_done_callback(partial(told, model))
    # uvicorn raises the signal again that it stopped for: SIGTERM is to end this as anything else that is done.
    before = signal.signal(signal.SIGTERM, lambda number, frame: None)
    try:
        asyncio.run(server.serve([listening]))
    finally:
        signal.signal(signal.SIGTERM, before)
        for model in served:
            model.worker.close()
    for model in served:
        model.worker.loading.result()
    say("stopped")
