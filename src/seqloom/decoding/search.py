"""Outputs for any number of sources by any decoder that answers three calls, with sentences coming and going.

A *decoder* reads sources (`Decoder.start`), scores the next token of every row (`Decoder.step`), and its state follows
the rows that are chosen (`State`). All that a search knows of a model is in these; what it chooses is in
`seqloom.decoding.targets`. No sentence waits for its company: those that are done leave the batch, and waiting ones
take their places.

Shapes: sentences, beams (or samples, of each), rows = sentences · beams, vocab.
"""

from __future__ import annotations

import copy
import math
import sys
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch

from seqloom.decoding.replay import EVEN, Recorder
from seqloom.decoding.targets import Candidate, SearchOptions, Targets

REFILLED = 1 / 16
"""The share of a batch that is replaced at a time."""
LONGER = 16
"""Tokens beyond those of its source with which an output is set aside, that its length cost no others time."""
TURNOVER = 0.25
"""That by which it grows or shrinks at a time."""


class State(Protocol):
    """What a decoder keeps of its rows. `beams` rows of a sentence lie side by side."""

    def reorder(self, rows: torch.Tensor) -> None:
        """Row i takes what row ``rows[i]`` of the same sentence has."""

    def keep(self, sentences: torch.Tensor) -> None:
        """The sentences that are not named, by their places, leave."""

    def join(self, other: Any) -> None:
        """Others take their places behind these."""

    def replace(self, places: torch.Tensor, other: Any, others: torch.Tensor) -> None:
        """Some of another state's sentences, by their places there, that were just started take these places."""


class Decoder(Protocol):
    """A model, as a search sees it."""

    device: torch.device

    def start(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, beams: int) -> Any:
        """Reads sources (sentences, source), padded at the end; returns the `State` before the first token."""

    def step(self, tokens: torch.Tensor, state: Any) -> torch.Tensor:
        """Reads the last token of every row (rows,); returns scores of the next (rows, vocab), in float32."""


@dataclass
class Sentence:
    """A source on its way through a search."""

    index: int
    source: list[int]
    prefix: list[int]
    """Tokens that its outputs begin with."""


def search(
    decoder: Decoder,
    sources: Sequence[list[int]],
    options: SearchOptions,
    *,
    batch_tokens: int = 4096,
    prefixes: Sequence[list[int]] | None = None,
) -> Iterator[tuple[int, list[Candidate]]]:
    """Outputs of all sources, as they are done.

    Args:
        decoder: What scores the tokens.
        sources: Ids of every source; the longest are taken first.
        options: What to search.
        batch_tokens: Padded source tokens that are decoded together, each counted once for every row.
        prefixes: Ids that the outputs of every source begin with; they cost nothing and are part of the output.

    Yields:
        The place of a source, and its ``num_return_sequences`` outputs, the best first.
    """
    order = sorted(range(len(sources)), key=lambda index: len(sources[index]), reverse=True)
    waiting = deque(Sentence(index, sources[index], prefixes[index] if prefixes else []) for index in order)
    batch = Batch(decoder, options, batch_tokens)
    while waiting or batch.sentences or batch.aside:
        yield from batch.turn_over(waiting)
        if batch.sentences:
            batch.step()


def search_arriving(
    decoder: Decoder,
    options: SearchOptions,
    arrivals: Callable[[int], tuple[int, list[int]] | None],
    *,
    batch_tokens: int = 4096,
) -> Iterator[tuple[int, list[Candidate]]]:
    """Outputs of sources that come while others are decoded; each is given out as soon as it is done.

    Args:
        decoder, options, batch_tokens: As for `search`.
        arrivals: Is asked, between steps, for the next source if it has at most so many tokens, and its number; None:
            there is none now. When there is none and nothing is left to be decoded, the search is over.

    Yields:
        The number of a source, and its outputs.
    """
    batch, waiting = Batch(decoder, options, batch_tokens, is_prompt=True), deque[Sentence]()
    while True:
        while (room := batch.room_for(waiting)) and (arrival := arrivals(room)) is not None:
            waiting.append(Sentence(*arrival, prefix=[]))
        if not (waiting or batch.sentences):
            return
        yield from batch.turn_over(waiting)
        if batch.sentences:
            batch.step()


class Batch:
    """The sentences that are decoded side by side.

    Args:
        decoder, options, batch_tokens: As for `search`.
        is_prompt: What is done leaves at once, and no long output is put off until all others are done: there may
            always be others.
    """

    def __init__(self, decoder: Decoder, options: SearchOptions, batch_tokens: int, is_prompt: bool = False):
        self.decoder, self.options, self.is_prompt = decoder, options, is_prompt
        self.budget = max(1, batch_tokens // options.rows)
        self.sentences: list[Sentence | None] = []
        """By their places; None where one has gone and nobody came."""
        self.targets: Targets | None = None
        self.state: Any = None
        self.ready: deque[tuple[int, Sentence]] = deque()
        """Those whose sources are read, by their places in what was `read`, and who wait for a place here."""
        self.read: tuple[Targets, Any]
        self.aside: list[tuple[list[Sentence], Targets, Any]] = []
        """Those that write on and on, who are finished together when nobody waits any more."""
        self.recorder: Recorder | None = None
        """Where steps are recorded: then all sentences of a batch come and go together."""
        self.even = 1
        """Sources are padded to multiples of this."""
        if decoder.device.type == "cuda" and not options.no_repeat_ngram_size:  # which the host looks at
            self.recorder, self.even = recorder_of(decoder, options), EVEN

    def room_for(self, waiting: deque[Sentence]) -> int:
        """Tokens that one more source may have beside those that are here and those that wait; 0: none has room."""
        others = [*filter(None, self.sentences), *(sentence for _, sentence in self.ready), *waiting]
        if not others:
            return sys.maxsize
        most = self.budget // (len(others) + 1)
        return most if most >= width_of(others, self.even) else 0

    def turn_over(self, waiting: deque[Sentence]) -> Iterator[tuple[int, list[Candidate]]]:
        """Lets out what is done and takes in what waits, if it is worth while."""
        if self.targets is not None:
            yield from self.let_out(self.targets, waiting)
        if not (self.sentences or waiting or self.ready):
            self.take_back()
        if waiting and not self.ready:
            width = width_of([*filter(None, self.sentences), waiting[0]], self.even)
            room = max(1, self.budget // width) - len(self.sentences)
            if not self.sentences or room >= max(1, TURNOVER * (room + len(self.sentences))):
                self.enter([waiting.popleft() for _ in range(min(room, len(waiting)))])

    def let_out(self, targets: Targets, waiting: deque[Sentence]) -> Iterator[tuple[int, list[Candidate]]]:
        """Gives what is done, and its place to others or, where none wait, up."""
        free, size = [place for place, done in enumerate(targets.is_done.tolist()) if done], len(self.sentences)
        is_refilled = self.recorder is None and bool(self.ready or waiting)
        share = 0.0 if self.is_prompt else REFILLED if is_refilled else TURNOVER
        if len(free) < size and len(free) < max(1, share * size):
            return
        places = torch.tensor(free, device=self.decoder.device)
        for place, found in zip(free, targets.results(places), strict=True):
            if (sentence := self.sentences[place]) is not None:
                yield sentence.index, found
            self.sentences[place] = None
        if is_refilled:
            self.refill(deque(free + ([] if self.is_prompt else self.set_aside(targets))), waiting)
        stay = [place for place, sentence in enumerate(self.sentences) if sentence is not None]
        if len(stay) <= (1 - TURNOVER) * size:
            self.leave(stay)

    def set_aside(self, targets: Targets) -> list[int]:
        """Takes out, with a copy of their state, those that write on and on; gives their places."""
        long, sentences = [], []
        for place, (sentence, length) in enumerate(zip(self.sentences, targets.lengths.tolist(), strict=True)):
            if sentence is not None and length > len(sentence.source) + len(sentence.prefix) + LONGER:
                long.append(place)
                sentences.append(sentence)
                self.sentences[place] = None
        if long:
            parts = copy.copy(targets), copy.copy(self.state)
            for part in parts:
                part.keep(torch.tensor(long, device=self.decoder.device))
            self.aside.append((sentences, *parts))
        return long

    def take_back(self) -> None:
        """Puts those together that were set aside."""
        for sentences, targets, state in self.aside:
            if self.targets is None:
                self.targets, self.state = targets, state
            else:
                self.targets.join(targets)
                self.state.join(state)
            self.sentences += sentences
        self.aside = []

    def refill(self, free: deque[int], waiting: deque[Sentence]) -> None:
        """Gives places to those who wait, whose sources are read many at a time."""
        assert self.targets is not None
        while free and (self.ready or waiting):
            if not self.ready:
                count = min(len(waiting), len(self.sentences))
                self.ready = deque(enumerate(waiting.popleft() for _ in range(count)))
                self.read = self.start([sentence for _, sentence in self.ready])
            pairs = [(free.popleft(), *self.ready.popleft()) for _ in range(min(len(free), len(self.ready)))]
            places, others = (
                torch.tensor(side, device=self.decoder.device) for side in list(zip(*pairs, strict=True))[:2]
            )
            targets, state = self.read
            self.targets.replace(places, targets, others)
            self.state.replace(places, state, others)
            for place, _, sentence in pairs:
                self.sentences[place] = sentence

    def leave(self, stay: list[int]) -> None:
        """All others go."""
        self.sentences = [self.sentences[place] for place in stay]
        if not stay or self.targets is None:
            self.state, self.targets = None, None
            return
        places = torch.tensor(stay, device=self.decoder.device)
        self.state.keep(places)
        self.targets.keep(places)

    def enter(self, newcomers: list[Sentence]) -> None:
        """Takes them in beside those that are there."""
        targets, state = self.start(newcomers)
        if self.targets is None:
            self.targets, self.state = targets, state
        else:
            self.state.join(state)
            self.targets.join(targets)
        self.sentences += newcomers

    def start(self, newcomers: list[Sentence]) -> tuple[Targets, Any]:
        """Reads their sources."""
        ids, mask = padded(newcomers, width_of(newcomers, self.even), self.options.pad_token)
        state = self.decoder.start(ids.to(self.decoder.device), mask.to(self.decoder.device), self.options.rows)
        return Targets(self.options, [sentence.prefix for sentence in newcomers], self.decoder.device), state

    def step(self) -> None:
        """One more token for every row; as many as it takes, if steps are recorded."""
        assert self.targets is not None
        if self.recorder is not None:
            self.targets = self.recorder.run(self.targets, self.state)
            return
        self.targets.room()
        rows = self.targets.advance(self.decoder.step(self.targets.last, self.state))
        if rows is not None and not torch.equal(rows, torch.arange(len(rows), device=rows.device)):
            self.state.reorder(rows)


RECORDERS: WeakKeyDictionary[Decoder, dict[SearchOptions, Recorder]] = WeakKeyDictionary()


def recorder_of(decoder: Decoder, options: SearchOptions) -> Recorder:
    """The same for every search of a decoder: what was recorded serves again."""
    whole = weakref.proxy(decoder)  # which goes when nobody else has it

    def step(targets: Targets, state: Any) -> None:
        rows = targets.advance(whole.step(targets.last, state))
        if rows is not None:
            state.reorder(rows)

    return RECORDERS.setdefault(decoder, {}).setdefault(options, Recorder(step))


def width_of(sentences: Sequence[Sentence], even: int) -> int:
    """Tokens to which sources are padded."""
    return even * math.ceil(max(1, *(len(sentence.source) for sentence in sentences)) / even)


def padded(sentences: Sequence[Sentence], width: int, pad_token: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask of their sources (sentences, width)."""
    input_ids = torch.full((len(sentences), width), pad_token)
    attention_mask = torch.zeros_like(input_ids)
    for row, sentence in enumerate(sentences):
        input_ids[row, : len(sentence.source)] = torch.tensor(sentence.source)
        attention_mask[row, : len(sentence.source)] = 1
    return input_ids, attention_mask
