"""Servers that run in a thread, and how they are asked over HTTP, as by a program that knows nothing of them."""

import http.client
import json
import socket
import threading
import urllib.parse
from contextlib import contextmanager

from helpers.patience import HANGS
from seqloom.decoding.loading import open_pair
from seqloom.serving.engine import Engine
from seqloom.serving.run import Model, Options, Server


def opened(folder, kind=Engine, generate_kwargs=None, **options):
    """A model as the command loads it."""
    return kind(*open_pair(str(folder)), generate_kwargs or {}, **options)


@contextmanager
def served(*openers, pairs=(("en", "de"), ("de", "en")), **options):
    """A client of a server on a free port."""
    models = [Model("mine", *pair, opener) for pair, opener in zip(pairs, openers, strict=False)]
    server = Server(models, Options(port=0, **options), say=lambda line: None)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        for model in server.models:
            model.worker.loading.result()
        yield Client(server)
    finally:
        server.stop()
        thread.join()


class Gated(Engine):
    """Decodes only while its gate is open."""

    gate: threading.Event
    entered: threading.Semaphore
    """Has one more for each time that somebody stood before it."""

    def decode(self, first, more):
        """As an engine does."""
        self.entered.release()
        self.gate.wait()
        yield from super().decode(first, more)


@contextmanager
def held(opener, **options):
    """A client of a server whose model waits for `client.gate`; it opens in the end."""
    gate, entered = threading.Event(), threading.Semaphore(0)

    def open_gated():
        engine = opener(Gated)
        engine.gate, engine.entered = gate, entered
        return engine

    with served(open_gated, **options) as client:
        client.gate, client.entered = gate, entered
        try:
            yield client
        finally:
            gate.set()


class Client:
    """Asks one server.

    Args:
        server: That runs, or its address.
    """

    def __init__(self, server):
        self.server = server
        self.url = getattr(server, "address", server)
        self.host, self.port = urllib.parse.urlsplit(self.url).netloc.split(":")

    def ask(self, method, path, body=None, headers=(), timeout=300):
        """Status, headers and the answer's text."""
        connection = http.client.HTTPConnection(self.host, int(self.port), timeout=timeout)
        try:
            connection.request(method, path, body, dict(headers))
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read().decode()
        finally:
            connection.close()

    def get(self, path):
        """Status and value."""
        status, _, text = self.ask("GET", path)
        return status, json.loads(text)

    def post(self, path, values, **headers):
        """Likewise, of JSON."""
        kinds = {"Content-Type": "application/json"} | {name.replace("_", "-"): text for name, text in headers.items()}
        status, _, text = self.ask("POST", path, json.dumps(values).encode(), kinds)
        return status, json.loads(text)

    def refusal(self, path, values, **headers):
        """Status and the one sentence of what is refused."""
        status, answer = self.post(path, values, **headers)
        assert status >= 400
        assert set(answer) == {"error"}
        return status, answer["error"]

    def raw(self, data: bytes) -> socket.socket:
        """A connection on which something was sent."""
        connection = socket.create_connection((self.host, int(self.port)), timeout=300)
        connection.sendall(data)
        return connection

    def is_there(self) -> bool:
        """Whether it listens, and has its models."""
        try:
            return self.get("/health")[0] == 200
        except ConnectionError:
            return False

    def metric(self, name) -> float:
        """A number of ``/metrics``, all labels together."""
        lines = self.ask("GET", "/metrics")[2].splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.partition("{")[0].split()[0] == name)


def until(happened) -> None:
    """Asks until it is so."""
    pause = threading.Event()
    for _ in range(50 * HANGS):
        if happened():
            return
        pause.wait(0.02)
    raise AssertionError("it never happened")


def posted(path: str, body: bytes, length: int | None = None) -> bytes:
    """A request of JSON, whose head may promise more than there is."""
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body) if length is None else length}\r\n\r\n".encode() + body
