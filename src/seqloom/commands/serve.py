"""The command ``seqloom serve``: models behind HTTP, for programs that know LibreTranslate, and for others."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from seqloom.commands.command import Command
from seqloom.commands.shell import say
from seqloom.settings.schema import ScoringSettings
from seqloom.support.wording import together

API_KEY = "SEQLOOM_API_KEY"
"""The environment's variable, which no list of processes shows."""


@dataclass(kw_only=True)
class Serve(Command):
    """Serves models over HTTP, by the API of LibreTranslate.

    What arrives together is decoded together. Exported models are served as well. A model says itself which languages
    it translates; of several, each must translate another pair.
    """

    name = "serve"
    needs = "a model comes first"
    settings = ScoringSettings
    sections = ("revision", "trust_remote_code", "seed", "generation")
    interrupted = "stopped; what was being translated is done."
    examples = """
        seqloom serve runs/mine
        seqloom serve runs/en-de runs/de-en --languages en de de en --port 8080 --num_beams 4
        curl localhost:5000/translate -d q="two dogs run ." -d source=en -d target=de
    """

    models: list[str]
    """Folders, or names on the Hub."""
    host: str = "127.0.0.1"
    """The address to listen at; 0.0.0.0 is every one of this machine, for all who reach it."""
    port: int = 5000
    """The port; 0: any that is free."""
    languages: list[str] = field(default_factory=list)
    """Codes of each model's languages, the source's first; else as the models say themselves."""
    threads: int = field(default=0, metadata={"least": 1})
    """Threads of each model; else as many as there are cores."""
    max_chars: int = field(default=5000, metadata={"least": 1})
    """Characters of a text at most."""
    max_texts: int = field(default=128, metadata={"least": 1})
    """Texts of a request at most."""
    max_body: int = field(default=1 << 20, metadata={"least": 1})
    """Bytes of a request at most; what says that it is larger is refused unread."""
    max_beams: int = field(default=10, metadata={"least": 1})
    """Beams, and outputs of a text, that a request may ask for at most."""
    max_queue: int = field(default=1000, metadata={"least": 1})
    """Texts that may wait for each model; when it is full, requests are answered with 503."""
    timeout: int = field(default=30, metadata={"least": 1})
    """Seconds that a request may take; then it is answered with 504."""
    grace: int = field(default=30, metadata={"least": 1})
    """Seconds that running requests have when the server is stopped."""
    api_key: str | None = None
    """A key that requests must have; else SEQLOOM_API_KEY of the environment, else none."""
    cors_origins: list[str] = field(default_factory=list)
    """Web pages that browsers let use this server: https://example.org, or * for all; else none."""

    def check(self) -> None:
        from seqloom.settings.reading import load_scoring_settings

        for model in self.models:
            load_scoring_settings(model, self.overrides, self.sections)

    def run(self) -> None:
        require()
        from seqloom.serving.engine import open_engine
        from seqloom.serving.languages import pairs_of
        from seqloom.serving.requests import Limits
        from seqloom.serving.run import Model, Options, Server
        from seqloom.settings.reading import load_scoring_settings

        told = [load_scoring_settings(model, self.overrides, self.sections) for model in self.models]
        pairs = pairs_of(self.models, self.languages, told[0][0].revision)
        openers = [
            partial(open_engine, model, settings, generate_kwargs, self.threads)
            for model, (settings, generate_kwargs) in zip(self.models, told, strict=True)
        ]
        # Nobody who asks over the network need know where folders lie here.
        names = [Path(model).resolve().name if Path(model).is_dir() else model for model in self.models]
        models = [Model(name, *pair, opener) for name, pair, opener in zip(names, pairs, openers, strict=True)]
        limits = Limits(
            chars=self.max_chars, texts=self.max_texts, body=self.max_body, beams=self.max_beams, seconds=self.timeout
        )  # fmt: skip
        options = Options(
            host=self.host, port=self.port, max_queue=self.max_queue, grace=self.grace, limits=limits,
            api_key=self.api_key or os.environ.get(API_KEY) or None, cors_origins=self.cors_origins,
        )  # fmt: skip
        Server(models, options, say).run()


def require() -> None:
    """Makes sure that a server can be run.

    Raises:
        ValueError: Its packages are missing.
    """
    missing = [name for name in ("starlette", "uvicorn") if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"seqloom serve needs {together(missing)}: pip install 'seqloom[serve]'")
