"""The server as an ASGI application: the LibreTranslate API, what it has no word for, health and metrics.

LibreTranslate's own rules hold where it has any (https://docs.libretranslate.com): fields ``q``, ``source``,
``target``, ``format``, ``alternatives``, ``api_key``, in JSON or a form; errors are ``{"error": a sentence}``.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from seqloom.serving.engine import Asked, Job, Output
from seqloom.serving.languages import name_of
from seqloom.serving.metrics import CONTENT_TYPE, Metrics
from seqloom.serving.requests import Limits, Refusal, flag_of, number_of, read_values, shown, texts_of, word_of
from seqloom.serving.worker import Full, NotReady, Stopped, Worker
from seqloom.support.wording import listing
from seqloom.version import __version__

GONE = 499
"""The status of a request whose client has hung up, which nobody sees but the metrics."""
RETRY = {"Retry-After": "1"}
PATHS = {"/translate", "/languages", "/detect", "/frontend/settings", "/v1/translate", "/health", "/metrics"}
FIELDS = ("texts", "source", "target", "num_beams", "num_return_sequences", "return_scores", "stream")
"""Of ``/v1/translate``."""


@dataclass(frozen=True)
class Served:
    """A model that is served."""

    name: str
    source: str
    target: str
    worker: Worker


class Service:
    """Answers requests.

    Args:
        models: Each of another pair of languages.
        limits: What it takes.
        api_key: That requests must have; None: none.
    """

    def __init__(self, models: Sequence[Served], limits: Limits, api_key: str | None = None):
        self.models, self.limits, self.api_key = models, limits, api_key
        self.metrics = Metrics()
        self.pairs = {(model.source, model.target): model for model in models}
        self.in_flight = 0

    def app(self, cors_origins: Sequence[str] = ()) -> Starlette:
        """The application."""
        middleware = [Middleware(Counted, service=self)]
        if cors_origins:
            middleware.append(
                Middleware(CORSMiddleware, allow_origins=list(cors_origins), allow_methods=["GET", "POST"],
                           allow_headers=["Authorization", "Content-Type"])
            )  # fmt: skip
        return Starlette(
            routes=[
                Route("/translate", self.translate, methods=["POST"]),
                Route("/languages", self.languages, methods=["GET", "POST"]),
                Route("/detect", self.detect, methods=["POST"]),
                Route("/frontend/settings", self.frontend_settings, methods=["GET"]),
                Route("/v1/translate", self.translate_with_scores, methods=["POST"]),
                Route("/health", self.health, methods=["GET"]),
                Route("/metrics", self.show_metrics, methods=["GET"]),
            ],
            middleware=middleware,
            exception_handlers={
                Refusal: refused, HTTPException: no_such, ClientDisconnect: hung_up, Exception: broken,
            },
        )  # fmt: skip

    async def translate(self, request: Request) -> Response:
        """LibreTranslate's."""
        async with self.opened(request) as values:
            texts = texts_of(values, "q", self.limits)
            is_one = not isinstance(values["q"], list)
            model, is_auto = self.model_of(values)
            if (form := word_of(values, "format") or "text") != "text":
                raise Refusal(400, f"format is {shown(form)}, and this server translates plain text alone: leave the "
                                   "markup out, and give format text.")  # fmt: skip
            alternatives = number_of(values, "alternatives", 0, self.limits.beams - 1) or 0
            # A text's lines are translated one by one, as the models were trained; those with nothing in them stay.
            lines = [text.replace("\r\n", "\n").split("\n") for text in texts]
            parts = [line for text in lines for line in text if line.strip()]
            outputs = iter(await self.outputs(request, model, parts, Asked(num_return_sequences=1 + alternatives)))
            each = [[next(outputs) if line.strip() else line for line in text] for text in lines]
            ranked = [
                ["\n".join(nth(line, rank) for line in text) for rank in range(1 + alternatives)] for text in each
            ]
            answer: dict[str, Any] = {"translatedText": [best for best, *_ in ranked]}
            if alternatives:
                answer["alternatives"] = [others for _, *others in ranked]
            if is_auto:
                answer["detectedLanguage"] = [{"language": model.source, "confidence": 0.0}] * len(texts)
            return JSONResponse({name: value[0] for name, value in answer.items()} if is_one else answer)

    async def translate_with_scores(self, request: Request) -> Response:
        """Our own: several outputs with scores, any number of beams, and results as they are done."""
        async with self.opened(request) as values:
            if unknown := values.keys() - {*FIELDS, "api_key"}:
                raise Refusal(400, f"{shown(min(unknown))} is unknown; there are {listing(FIELDS)}.")
            texts = texts_of(values, "texts", self.limits)
            only = {"source": self.models[0].source, "target": self.models[0].target} if len(self.models) == 1 else {}
            model, _ = self.model_of(only | values)
            asked = Asked(
                number_of(values, "num_beams", 1, self.limits.beams),
                number_of(values, "num_return_sequences", 1, self.limits.beams) or 1,
                flag_of(values, "return_scores"),
            )
            if flag_of(values, "stream"):
                jobs = self.submitted(model, texts, asked)
                return StreamingResponse(self.lines(request, model, jobs), media_type="application/x-ndjson")
            outputs = await self.outputs(request, model, texts, asked)
            return JSONResponse({"model": model.name, "outputs": [in_json(found) for found in outputs]})

    async def languages(self, request: Request) -> Response:
        """All codes, their names, and what each is translated to."""
        codes = dict.fromkeys(code for pair in self.pairs for code in pair)
        targets = {code: [target for source, target in self.pairs if source == code] for code in codes}
        return JSONResponse([{"code": code, "name": name_of(code), "targets": targets[code]} for code in codes])

    async def detect(self, request: Request) -> Response:
        """There is nothing here that tells languages apart, and a guess would be taken for more."""
        async with self.opened(request):
            raise Refusal(501, f"this server does not detect languages: say which source it is; {self.offered()}.")

    async def frontend_settings(self, request: Request) -> Response:
        """What LibreTranslate's pages and apps ask first."""
        first = self.models[0]
        sides = {"source": first.source, "target": first.target}
        return JSONResponse({
            "apiKeys": self.api_key is not None, "keyRequired": self.api_key is not None,
            "charLimit": self.limits.chars, "frontendTimeout": 500, "suggestions": False, "supportedFilesFormat": [],
            "filesTranslation": False,
            "language": {side: {"code": code, "name": name_of(code)} for side, code in sides.items()},
        })  # fmt: skip

    async def health(self, request: Request) -> Response:
        """Whether all models are loaded."""
        is_ready = all(model.worker.is_ready for model in self.models)
        models = [{"name": model.name, "source": model.source, "target": model.target} for model in self.models]
        answer = {"status": "ok" if is_ready else "loading", "version": __version__, "models": models}
        return JSONResponse(answer, 200 if is_ready else 503, None if is_ready else RETRY)

    async def show_metrics(self, request: Request) -> Response:
        """For Prometheus."""
        labelled = [({"source": model.source, "target": model.target}, model.worker) for model in self.models]
        text = self.metrics.text(
            queued=[(labels, len(worker.waiting)) for labels, worker in labelled],
            running=[(labels, len(worker.running)) for labels, worker in labelled],
            ready=[(labels, worker.is_ready) for labels, worker in labelled],
        )
        return Response(text, headers={"Content-Type": CONTENT_TYPE})

    @asynccontextmanager
    async def opened(self, request: Request) -> AsyncIterator[dict[str, Any]]:
        """The values of a request that may come in.

        Raises:
            Refusal: It may not, or is no request.
        """
        most = max(model.worker.max_queue for model in self.models)
        if self.in_flight >= most:
            raise full()
        self.in_flight += 1
        try:
            try:
                values = await asyncio.wait_for(read_values(request, self.limits), self.limits.seconds)
            except asyncio.TimeoutError:
                raise Refusal(408, f"the body was not there within {self.limits.seconds} seconds.",
                              {"Connection": "close"}) from None  # fmt: skip
            self.check_key(request, values)
            yield values
        finally:
            self.in_flight -= 1

    def check_key(self, request: Request, values: dict[str, Any]) -> None:
        """Refuses who does not have the key.

        Raises:
            Refusal: There is one, and the request has another or none.
        """
        if self.api_key is None:
            return
        scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
        given = bearer.strip() if scheme.lower() == "bearer" else values.get("api_key")
        if not isinstance(given, str) or not given:
            raise Refusal(403, "this server wants an API key: give it as api_key, or in the header Authorization: "
                               "Bearer KEY.")  # fmt: skip
        if not hmac.compare_digest(given.encode("utf-8", "replace"), self.api_key.encode()):
            raise Refusal(403, "the API key is not the one that this server wants.")

    def model_of(self, values: dict[str, Any]) -> tuple[Served, bool]:
        """The model of a request's languages, and whether its source was left open.

        Raises:
            Refusal: There is none, or several would do.
        """
        source, target = word_of(values, "source"), word_of(values, "target")
        for name, code in (("source", source), ("target", target)):
            if code is None:
                raise Refusal(400, f"{name} is missing: give the code of a language; {self.offered()}.")
        if source == "auto":
            found = [model for model in self.models if model.target == target]
            if len(found) > 1:
                raise Refusal(400, f"source is auto, and this server does not detect languages: {self.offered()}.")
        else:
            found = [model for model in self.models if (model.source, model.target) == (source, target)]
        if not found:
            raise Refusal(400, f"{shown(source)} to {shown(target)} is not translated here: {self.offered()}.")
        return found[0], source == "auto"

    def offered(self) -> str:
        """``there is en to de``"""
        return f"there is {listing(f'{source} to {target}' for source, target in self.pairs)}"

    def submitted(self, model: Served, texts: Sequence[str], asked: Asked) -> list[Job]:
        """Texts on their way.

        Raises:
            Refusal: There is no room for them, now.
        """
        if len(texts) > model.worker.max_queue:
            raise Refusal(400, f"these are {len(texts):,} lines, and {model.worker.max_queue:,} may wait: send less.")
        try:
            return model.worker.submit(texts, asked)
        except Full:
            raise full() from None
        except Stopped:
            raise stopping() from None
        except NotReady:
            raise Refusal(503, f"{model.name} is being loaded: ask again in a moment.", RETRY) from None

    async def outputs(self, request: Request, model: Served, texts: Sequence[str], asked: Asked) -> list[list[Output]]:
        """The outputs of all texts; what nobody waits for any more is dropped.

        Raises:
            Refusal: They are not there in time, or cannot be.
            ClientDisconnect: The client has hung up.
        """
        jobs = self.submitted(model, texts, asked)
        everything = asyncio.gather(*map(asyncio.wrap_future, jobs))
        gone = asyncio.ensure_future(hangs_up(request))
        either: set[asyncio.Future[Any]] = {everything, gone}
        try:
            await asyncio.wait(either, timeout=self.limits.seconds, return_when=asyncio.FIRST_COMPLETED)
            if everything.done():
                found = self.checked(everything)
                self.metrics.texts[model.source, model.target] += len(texts)
                return found
            if gone.done():
                raise ClientDisconnect
            raise self.too_late()
        finally:
            gone.cancel()
            everything.cancel()
            self.metrics.dropped += model.worker.drop(jobs)

    async def lines(self, request: Request, model: Served, jobs: Sequence[Job]) -> AsyncIterator[str]:
        """A line of JSON for each text, as they are done; what is wrong is a line too."""
        numbers = {asyncio.wrap_future(job): number for number, job in enumerate(jobs)}
        until = time.monotonic() + self.limits.seconds
        waiting = set(numbers)
        try:
            while waiting:
                done, waiting = await asyncio.wait(
                    waiting, timeout=max(0.0, until - time.monotonic()), return_when=asyncio.FIRST_COMPLETED
                )
                if not done:
                    yield f"{json.dumps({'error': self.too_late().message})}\n"
                    return
                for one in done:
                    line: dict[str, Any] = {"index": numbers[one]}
                    try:
                        line["outputs"] = in_json(self.checked(one))
                        self.metrics.texts[model.source, model.target] += 1
                    except Refusal as refusal:
                        line["error"] = refusal.message
                    yield f"{json.dumps(line, ensure_ascii=False)}\n"
        finally:
            for one in waiting:
                one.cancel()
            self.metrics.dropped += model.worker.drop(jobs)

    def checked(self, done: asyncio.Future[Any]) -> Any:
        """What came of it.

        Raises:
            Refusal: It could not be done.
        """
        try:
            return done.result()
        except Stopped:
            raise stopping() from None
        except ValueError as error:
            raise Refusal(400, " ".join(str(error).split())) from None

    def too_late(self) -> Refusal:
        """Its time is up."""
        return Refusal(504, f"the answer was not there within {self.limits.seconds} seconds: send less, or ask again.")


class Counted:
    """Counts requests, by their routes, and how long they took."""

    def __init__(self, app: ASGIApp, service: Service):
        self.app, self.service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.monotonic(), 500

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, noted)
        finally:
            path = scope["path"] if scope["path"] in PATHS else "other"
            self.service.metrics.observe(path, status, time.monotonic() - started)


async def hangs_up(request: Request) -> None:
    """Until the client does."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def full() -> Refusal:
    """There is more to do than may wait."""
    return Refusal(503, "the queue is full: ask again in a moment, or send fewer texts.", RETRY)


def stopping() -> Refusal:
    """Whoever is asked next may do it."""
    return Refusal(503, "this server is being stopped.", RETRY)


def nth(line: str | list[Output], rank: int) -> str:
    """A line's output of a rank, its last where there are fewer; a line that is not translated is itself."""
    return line if isinstance(line, str) else line[min(rank, len(line) - 1)].text


def in_json(outputs: Sequence[Output]) -> list[dict[str, Any]]:
    """With their scores, if they have any."""
    return [{"text": one.text} | ({} if one.score is None else {"score": one.score}) for one in outputs]


async def refused(request: Request, error: Exception) -> Response:
    """In one sentence."""
    assert isinstance(error, Refusal)
    return JSONResponse({"error": error.message}, error.status, error.headers)


async def no_such(request: Request, error: Exception) -> Response:
    """A path or a method that is none of ours."""
    assert isinstance(error, HTTPException)
    return JSONResponse(
        {"error": f"{request.method} {request.url.path}: {error.detail}"}, error.status_code, error.headers
    )


async def hung_up(request: Request, error: Exception) -> Response:
    """Nobody reads it."""
    return Response(status_code=GONE)


async def broken(request: Request, error: Exception) -> Response:
    """A mistake of ours, whose traceback is in the server's own output."""
    return JSONResponse({"error": "something went wrong here; whoever runs this server sees what."}, 500)
