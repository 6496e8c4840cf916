"""A model that answers requests: texts come while others are decoded, and each is given out when it is done."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from seqloom.decoding.asked import NotOurs, options_for
from seqloom.decoding.engine import decoder_for, tell
from seqloom.decoding.exported import ExportedModel, Searcher
from seqloom.decoding.limits import check_sources, within_positions
from seqloom.decoding.loading import GenerativeModel, is_of_ours, open_pair
from seqloom.decoding.options import check_options, limited, try_options
from seqloom.decoding.search import Decoder, search_arriving
from seqloom.decoding.targets import SearchOptions
from seqloom.decoding.translate import translate
from seqloom.settings.schema import ScoringSettings


@dataclass(frozen=True)
class Asked:
    """What a request wants otherwise than the server does it; texts that want the same are decoded together."""

    num_beams: int | None = None
    num_return_sequences: int = 1
    return_scores: bool = False


@dataclass(frozen=True)
class Output:
    """One of a text's outputs."""

    text: str
    score: float | None = None
    """log p(output | source) in nats, if it was asked for."""


class Job(Future):
    """A text on its way; its result is its outputs, the best first."""

    def __init__(self, text: str, asked: Asked):
        super().__init__()
        self.text, self.asked = text, asked
        self.ids: list[int] | None = None
        """Its tokens, when the model's thread has looked at it."""


class Engine:
    """A model and how it decodes.

    Args:
        model, tokenizer: As for `translate`; nobody else uses them.
        generate_kwargs: For `generate`, beyond the model's own generation config.
        batch_tokens, dtype: As for `translate`.

    Raises:
        ValueError: The model has no such dtype.
    """

    def __init__(
        self,
        model: GenerativeModel,
        tokenizer: PreTrainedTokenizerBase,
        generate_kwargs: dict[str, Any],
        *,
        batch_tokens: int = 4096,
        dtype: str | None = None,
    ):
        self.model, self.tokenizer, self.batch_tokens = model, tokenizer, batch_tokens
        self.generate_kwargs = dict(generate_kwargs)
        self.decoder: Decoder | None = None
        if isinstance(model, ExportedModel):
            if dtype is not None:
                raise ValueError(model.refusal(f"compute in {dtype}, another dtype than it was exported in"))
            self.decoder = None if isinstance(model.engine, Searcher) else model.engine
        else:
            model.eval()
            try:
                self.decoder = decoder_for(model, dtype)
            except NotOurs as reason:
                if dtype is not None:
                    raise ValueError(f"dtype={dtype!r} is for seqloom's own search, but {reason}.") from None
                if is_of_ours(model):
                    tell(str(reason))
        self.options = lru_cache(maxsize=64)(self._options)
        if self.options(Asked()) is None and dtype is not None:
            raise ValueError(f"dtype={dtype!r} is for seqloom's own search, which has not all that is asked of it.")

    def encode(self, job: Job) -> list[int]:
        """A text's tokens.

        Raises:
            ValueError: They are more than the model has positions for.
        """
        ids: list[int] = self.tokenizer([job.text])["input_ids"][0]
        check_sources(self.model, [ids], None)
        return ids

    def arguments(self, asked: Asked) -> dict[str, Any]:
        """Of `generate`, for what a request wants.

        Raises:
            ValueError: They contradict each other.
        """
        config, told = self.model.generation_config, dict(self.generate_kwargs)
        own = told.get("num_beams") or config.num_beams or 1
        is_drawn = told.get("do_sample", config.do_sample)
        # The best of several need as many beams; what is drawn does not.
        beams = max(asked.num_beams or own, 1 if is_drawn else asked.num_return_sequences)
        if beams != own:
            told["num_beams"] = beams
        if asked.num_return_sequences > 1:
            told["num_return_sequences"] = asked.num_return_sequences
        if told != self.generate_kwargs:
            check_options(config, told, several=True, is_own=is_of_ours(self.model))
        return told

    def _options(self, asked: Asked) -> SearchOptions | None:
        """What our own search searches for it; None: it has not all of that."""
        told = self.arguments(asked)
        if self.decoder is None:
            return None
        told = within_positions(self.model, limited(self.model.generation_config, told))
        if isinstance(self.model, ExportedModel):
            return self.model.asked(told)
        told.pop("coverage_penalty", None)  # which ranks what is found
        try:
            return options_for(self.model, told)
        except NotOurs:
            return None

    @torch.inference_mode()
    def decode(self, first: Job, more: Callable[[int], Job | None]) -> Iterator[tuple[Job, list[Output]]]:
        """Outputs of a text, and of those that come while it is decoded and want the same.

        Args:
            first: A text that has its tokens, as the others.
            more: Gives the next text, if it has at most so many tokens.

        Raises:
            ValueError: What is asked cannot be done by this model; then nothing was decoded.
        """
        options = self.options(first.asked)
        if options is None or first.asked.return_scores or self.generate_kwargs.get("coverage_penalty"):
            yield from self.together([first, *self.as_many(first, more)], first.asked)
            return
        coming, numbers, jobs = iter([first]), itertools.count(), {}

        def arrivals(most: int) -> tuple[int, list[int]] | None:
            job = next(coming, None) or more(most)
            if job is None or job.ids is None:
                return None
            jobs[number := next(numbers)] = job
            return number, job.ids

        assert self.decoder is not None
        for number, found in search_arriving(self.decoder, options, arrivals, batch_tokens=self.batch_tokens):
            rows = [candidate.tokens for candidate in found]
            texts = self.tokenizer.batch_decode(rows, skip_special_tokens=True)
            yield jobs.pop(number), [Output(text) for text in texts]

    def as_many(self, first: Job, more: Callable[[int], Job | None]) -> Iterator[Job]:
        """Those that wait by now, as many as are decoded together."""
        assert first.ids is not None
        rows = max(first.asked.num_beams or 1, first.asked.num_return_sequences)
        left = self.batch_tokens // rows - len(first.ids)
        while left > 0 and (job := more(left)) is not None:
            assert job.ids is not None
            left -= len(job.ids)
            yield job

    def together(self, jobs: list[Job], asked: Asked) -> Iterator[tuple[Job, list[Output]]]:
        """Outputs of some texts by `translate`."""
        is_searched = self.options(asked) is not None and not isinstance(self.model, ExportedModel)
        outputs: list[Any] = translate(
            self.model, self.tokenizer, [job.text for job in jobs], batch_tokens=self.batch_tokens,
            decoder=self.decoder if is_searched else None, return_hypotheses=asked.return_scores,
            **self.arguments(asked),
        )  # fmt: skip
        for job, found in zip(jobs, outputs, strict=True):
            each = found if isinstance(found, list) else [found]
            yield job, [Output(one.text, one.score) if asked.return_scores else Output(one) for one in each]


def open_engine(name: str, settings: ScoringSettings, generate_kwargs: dict[str, Any], threads: int = 0) -> Engine:
    """Loads a model, in the thread that will use it.

    Args:
        name: A folder or a name on the Hub.
        settings, generate_kwargs: As `load_scoring_settings` gives them.
        threads: That it computes with; 0: as many as there are.

    Raises:
        ValueError: It cannot be loaded, or cannot decode so.
    """
    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(settings.seed)
    model, tokenizer = open_pair(name, settings.revision, settings.trust_remote_code)
    check_options(model.generation_config, generate_kwargs, is_own=is_of_ours(model))
    try_options(model, tokenizer, generate_kwargs)
    return Engine(
        model, tokenizer, generate_kwargs, batch_tokens=settings.generation.decode_batch_tokens,
        dtype=settings.generation.decode_dtype,
    )  # fmt: skip
