"""Greedy search, sampling and beam search over any decoder that answers three calls, with sentences coming and going.

A *decoder* reads sources (`Decoder.start`), scores the next token of every row (`Decoder.step`), and its state follows
the rows that are chosen (`State`). All that a search knows of a model is in these; all that is known of a search is
here. Greedy and beam search find what transformers' `generate` finds (Sutskever et al. 2014, arXiv:1409.3215, with the
length penalty and the ends of its `_beam_search`), sentence by sentence: no sentence waits for its company. Those that
are done leave the batch, and waiting ones take their places.

Shapes: sentences, beams (or samples, of each), rows = sentences · beams, vocab.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from transformers import LogitsProcessor, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from seqloom.decoding.constraints import ban_repeated_ngrams, best, log_normaliser

TURNOVER = 0.25  # the share of a batch that leaves and comes at a time


class State(Protocol):
    """What a decoder keeps of its rows. `beams` rows of a sentence lie side by side."""

    def reorder(self, rows: torch.Tensor) -> None:
        """Row i takes what row ``rows[i]`` of the same sentence has."""

    def keep(self, sentences: torch.Tensor) -> None:
        """The sentences that are not named, by their places, leave."""

    def join(self, other: Any) -> None:
        """Sentences that were just started take their places behind these."""


class Decoder(Protocol):
    """A model, as a search sees it."""

    device: torch.device

    def start(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, beams: int) -> Any:
        """Reads sources (sentences, source), padded at the end; returns the `State` before the first token."""

    def step(self, tokens: torch.Tensor, state: Any) -> torch.Tensor:
        """Reads the last token of every row (rows,); returns scores of the next (rows, vocab), in float32."""


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """What to search; names as in transformers' `GenerationConfig`."""

    start_token: int
    eos_tokens: tuple[int, ...]
    pad_token: int
    max_new_tokens: int
    """Tokens of an output at most, beyond its prefix."""
    min_new_tokens: int = 0
    """Tokens before which no output ends."""
    num_beams: int = 1
    num_return_sequences: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | str = False
    no_repeat_ngram_size: int = 0
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    @property
    def rows(self) -> int:
        """For each sentence."""
        return max(self.num_beams, self.num_return_sequences)


@dataclass(order=True)
class Candidate:
    """A finished output."""

    score: float
    """Σ log p of the tokens, divided by their number to the power of the length penalty; 0 without beams."""
    tokens: list[int] = field(compare=False)
    """Without the start token; with the end token, if it was reached."""


@dataclass
class Sentence:
    """A source on its way through a search."""

    index: int
    source: list[int]
    prefix: list[int]
    """Tokens that its outputs begin with."""
    length: int = 0
    """Tokens written, the prefix included."""
    found: list[Candidate] = field(default_factory=list)
    """What is finished, the best first."""
    ended: dict[int, Candidate] = field(default_factory=dict)
    """Of the rows, each by itself, those that have ended."""
    is_done: bool = False

    @property
    def num_new(self) -> int:
        """Tokens written beyond the prefix."""
        return self.length - len(self.prefix)

    @property
    def is_forced(self) -> bool:
        """Whether the next token is one of the prefix."""
        return self.length < len(self.prefix)


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
    batch = Batch(decoder, options, max(1, batch_tokens // options.rows))
    while waiting or batch.sentences:
        yield from batch.turn_over(waiting)
        if batch.sentences:
            batch.step()


class Batch:
    """The sentences that are decoded side by side."""

    def __init__(self, decoder: Decoder, options: SearchOptions, budget: int):
        self.decoder, self.options, self.budget = decoder, options, budget
        self.sentences: list[Sentence] = []
        self.num_done = 0
        self.state: Any = None
        self.scores = torch.zeros(0, options.rows, device=decoder.device)  # (sentences, beams), of beams that run
        self.tokens = torch.zeros(0, 1, dtype=torch.long, device=decoder.device)
        """(rows, time): what was written, its last token in the last column, with padding before the first."""
        self.eos_tokens = torch.tensor(options.eos_tokens, dtype=torch.long, device=decoder.device)
        self.warpers = warpers(options) if options.do_sample else []

    def turn_over(self, waiting: deque[Sentence]) -> Iterator[tuple[int, list[Candidate]]]:
        """Lets out what is done and takes in what waits, if it is worth while."""
        num_running = len(self.sentences) - self.num_done
        if self.num_done and (not num_running or self.num_done >= TURNOVER * len(self.sentences)):
            for sentence in self.sentences:
                if sentence.is_done:
                    yield sentence.index, sentence.found[: self.options.num_return_sequences]
            self.leave()
        room = 0
        if waiting:
            width = max(1, *(len(sentence.source) for sentence in (*self.sentences, waiting[0])))
            room = max(1, self.budget // width) - len(self.sentences)
        if room > 0 and (not self.sentences or room >= TURNOVER * (room + len(self.sentences))):
            self.enter([waiting.popleft() for _ in range(min(room, len(waiting)))])

    def leave(self) -> None:
        """Those that are done go."""
        stay = [place for place, sentence in enumerate(self.sentences) if not sentence.is_done]
        self.sentences, self.num_done = [self.sentences[place] for place in stay], 0
        if not stay:
            self.state, self.scores, self.tokens = None, self.scores[:0], self.tokens[:0, -1:]
            return
        places = torch.tensor(stay, device=self.decoder.device)
        self.state.keep(places)
        self.scores = self.scores[places]
        longest = max(sentence.length for sentence in self.sentences) + 1
        tokens = self.tokens[:, -longest:].view(-1, self.options.rows, min(longest, self.tokens.shape[1]))
        self.tokens = tokens[places].flatten(0, 1)

    def enter(self, newcomers: list[Sentence]) -> None:
        """Reads their sources."""
        device, options = self.decoder.device, self.options
        width = max(1, *(len(sentence.source) for sentence in newcomers))
        input_ids = torch.full((len(newcomers), width), options.pad_token)
        attention_mask = torch.zeros_like(input_ids)
        for row, sentence in enumerate(newcomers):
            input_ids[row, : len(sentence.source)] = torch.tensor(sentence.source)
            attention_mask[row, : len(sentence.source)] = 1
        state = self.decoder.start(input_ids.to(device), attention_mask.to(device), options.rows)
        if self.state is None:
            self.state = state
        else:
            self.state.join(state)
        scores = torch.zeros(len(newcomers), options.rows, device=device)
        scores[:, 1:] = -1e9  # all beams are the same at first: one goes on
        self.scores = torch.cat((self.scores, scores))
        tokens = self.tokens.new_full((len(newcomers) * options.rows, self.tokens.shape[1]), options.pad_token)
        tokens[:, -1] = options.start_token
        self.tokens = torch.cat((self.tokens, tokens))
        self.sentences += newcomers

    def step(self) -> None:
        """One more token for every row."""
        scores = self.decoder.step(self.tokens[:, -1], self.state)  # (rows, vocab)
        if self.options.num_beams > 1:
            normaliser = log_normaliser(scores)  # (rows, 1), of all tokens: also of those that must not come
            self.constrain(scores, normaliser)
            self.step_beams(scores, normaliser)
        else:
            self.constrain(scores, None)
            self.step_rows(scores)

    def constrain(self, scores: torch.Tensor, normaliser: torch.Tensor | None) -> None:
        """Leaves no token that must not come next."""
        options, beams = self.options, self.options.rows
        if options.no_repeat_ngram_size:
            lengths = [sentence.length + 1 for sentence in self.sentences for _ in range(beams)]
            ban_repeated_ngrams(scores, self.tokens, lengths, options.no_repeat_ngram_size)
        by_sentence = scores.view(len(self.sentences), beams, -1)
        for place, sentence in enumerate(self.sentences):
            if sentence.is_forced:
                by_sentence[place] = -torch.inf
                certain = 0.0 if normaliser is None else normaliser.view(-1, beams)[place]
                by_sentence[place, :, sentence.prefix[sentence.length]] = certain
            elif sentence.num_new < options.min_new_tokens:
                for token in options.eos_tokens:
                    by_sentence[place, :, token] = -torch.inf

    def step_rows(self, scores: torch.Tensor) -> None:
        """Greedy search and sampling: every row by itself."""
        options, beams = self.options, self.options.rows
        if options.do_sample:
            for warp in self.warpers:
                scores = warp(self.tokens, scores)
            chosen = torch.multinomial(scores.softmax(-1), 1)  # (rows, 1)
        else:
            chosen = scores.argmax(-1, keepdim=True)
        self.tokens = torch.cat((self.tokens, chosen), dim=1)
        ids = chosen.flatten().tolist()
        for place, sentence in enumerate(self.sentences):
            sentence.length += 1
            if sentence.is_done or sentence.is_forced:
                continue
            is_last = sentence.num_new >= options.max_new_tokens
            for row in range(place * beams, (place + 1) * beams):
                beam = row - place * beams
                if beam not in sentence.ended and (is_last or ids[row] in options.eos_tokens):
                    sentence.ended[beam] = Candidate(0.0, self.tokens[row, -sentence.length :].tolist())
            if len(sentence.ended) == beams:
                self.finish(sentence, [sentence.ended[beam] for beam in range(beams)])

    def step_beams(self, scores: torch.Tensor, normaliser: torch.Tensor) -> None:
        """Beam search: the best continuations of all beams of a sentence, as `GenerationMixin._beam_search` has it."""
        options, beams, num_sentences = self.options, self.options.num_beams, len(self.sentences)
        # So many that as many as there are beams go on, whatever ends.
        num_kept = max(2, 1 + len(options.eos_tokens)) * beams
        values, ids = best(scores, num_kept)  # (rows, kept)
        num_each = ids.shape[1]
        totals = values - normaliser + self.scores.view(-1, 1)
        totals, places = totals.view(num_sentences, -1).topk(min(num_kept, beams * num_each))  # (sentences, kept)
        parents = places // num_each + beams * torch.arange(num_sentences, device=ids.device)[:, None]  # rows
        ids = ids.view(num_sentences, -1).gather(1, places)
        ends = torch.isin(ids, self.eos_tokens) & ~self.flags([sentence.is_forced for sentence in self.sentences])
        ends |= self.flags([sentence.num_new + 1 >= options.max_new_tokens for sentence in self.sentences])

        order = (totals - 1e9 * ends).topk(beams).indices  # (sentences, beams)
        running, rows = totals.gather(1, order), parents.gather(1, order).flatten()
        self.collect(totals, parents, ids, ends[:, :beams])
        self.scores = running
        self.tokens = torch.cat((self.tokens[rows], ids.gather(1, order).view(-1, 1)), dim=1)
        if not torch.equal(rows, torch.arange(len(rows), device=rows.device)):
            self.state.reorder(rows)
        self.close(running[:, 0].tolist())

    def flags(self, values: list[bool]) -> torch.Tensor:
        """(sentences, 1)"""
        return torch.tensor(values, device=self.decoder.device)[:, None]

    def collect(self, totals: torch.Tensor, parents: torch.Tensor, ids: torch.Tensor, ends: torch.Tensor) -> None:
        """Takes in the outputs that are finished by this step (sentences, beams); their sentences keep the best."""
        finished = ends.nonzero()  # (finished, 2)
        if not len(finished):
            return
        rows, columns = finished.unbind(1)
        histories = self.tokens[parents[rows, columns]].tolist()
        found = zip(rows.tolist(), histories, ids[rows, columns].tolist(), totals[rows, columns].tolist(), strict=True)
        for place, history, token, total in found:
            sentence = self.sentences[place]
            if sentence.is_done:
                continue
            written = [*history[len(history) - sentence.length :], token]
            penalty = (sentence.num_new + 1) ** self.options.length_penalty
            sentence.found.append(Candidate(total / penalty, written))
            sentence.found.sort(reverse=True)
            del sentence.found[self.options.num_beams :]

    def close(self, best_running: list[float]) -> None:
        """Ends the sentences that nothing can better."""
        options = self.options
        for sentence, running in zip(self.sentences, best_running, strict=True):
            sentence.length += 1
            if sentence.is_done or sentence.num_new < 1:
                continue
            is_full = len(sentence.found) == options.num_beams
            reach = sentence.num_new
            if options.early_stopping == "never" and options.length_penalty > 0:
                reach = options.max_new_tokens
            hopeless = is_full and running / reach**options.length_penalty <= sentence.found[-1].score
            is_last = sentence.num_new >= options.max_new_tokens
            if is_last or hopeless or (is_full and options.early_stopping is True):
                self.finish(sentence, sentence.found)

    def finish(self, sentence: Sentence, found: list[Candidate]) -> None:
        """A sentence has all its outputs."""
        sentence.found, sentence.is_done = found, True
        self.num_done += 1


def warpers(options: SearchOptions) -> list[LogitsProcessor]:
    """What a distribution goes through before it is sampled, in the order of `generate`."""
    chain: list[LogitsProcessor] = []
    if options.temperature != 1.0:
        chain.append(TemperatureLogitsWarper(options.temperature))
    if options.top_k:
        chain.append(TopKLogitsWarper(options.top_k))
    if options.top_p < 1.0:
        chain.append(TopPLogitsWarper(options.top_p))
    return chain
