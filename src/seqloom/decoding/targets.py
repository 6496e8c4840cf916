"""What a batch of sentences has written, and one more token for each: greedy search, sampling and beam search.

In tensors alone, changed in place: a step asks nothing of the host, so that on a GPU it can be recorded once and
replayed (`seqloom.decoding.replay`). Beam search is that of transformers' `_beam_search` (Sutskever et al. 2014,
arXiv:1409.3215, with its length penalty and its ends), sentence by sentence: each has its own length.

Shapes: sentences, beams (or samples, of each), rows = sentences · beams, columns (room, not all in use), vocab.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from transformers import LogitsProcessor, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from seqloom.decoding.constraints import argmax, ban_repeated_ngrams, best, log_normaliser

FIRST_COLUMNS = 32
"""The room that there is at first, the start token's column not counted; it doubles."""
NARROWER = 0.75
"""The share of the columns of sources at which it pays to take the others away."""
LEAST = torch.finfo(torch.float32).min


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


class Targets:
    """The outputs of some sentences while they are written.

    Args:
        options: What is searched.
        prefixes: Tokens that the outputs of each sentence begin with.
        device: Where.
    """

    def __init__(self, options: SearchOptions, prefixes: list[list[int]], device: torch.device):
        sentences, rows = len(prefixes), options.rows
        self.options, self.device = options, device
        self.longest = 0  # tokens at most, that a sentence has written; not counted with it is its start token
        self.lengths = torch.zeros(sentences, dtype=torch.long, device=device)  # of each, prefix included
        self.prefixes, self.prefix_lengths = padded(prefixes, options.pad_token, device)
        self.tokens = self.lengths.new_full((sentences, rows, 1 + FIRST_COLUMNS), options.pad_token)
        self.tokens[..., 0] = options.start_token
        self.scores = torch.zeros(sentences, rows, device=device)  # of the beams that run
        self.scores[:, 1:] = -1e9  # all are the same at first: one goes on
        # Of beams, the tokens of what is finished, the best first; without beams it is what the row has written.
        self.found = self.tokens.clone() if options.num_beams > 1 else None
        self.found_scores = torch.full((sentences, rows), -torch.inf, device=device)
        self.found_lengths = self.lengths.new_zeros(sentences, rows)  # 0 where nothing is finished yet
        self.is_done = torch.zeros(sentences, dtype=torch.bool, device=device)
        self.eos_tokens = torch.tensor(options.eos_tokens, dtype=torch.long).to(device)
        self.warpers = warpers(options) if options.do_sample else []

    @property
    def last(self) -> torch.Tensor:
        """The last token of every row (rows,)."""
        return self.tokens.gather(2, self.places).flatten()

    @property
    def places(self) -> torch.Tensor:
        """Of the last token of every row (sentences, beams, 1)."""
        return self.lengths[:, None, None].expand(*self.tokens.shape[:2], 1)

    @property
    def is_full(self) -> bool:
        """Whether the next token needs more room."""
        return self.longest + 1 == self.tokens.shape[2]

    def room(self) -> None:
        """Makes sure that there is a place for the next token."""
        if self.is_full:
            self.widen("tokens", 2 * self.tokens.shape[2] - 1)
            self.widen("found", self.tokens.shape[2])
        self.longest += 1

    def widen(self, name: str, width: int) -> None:
        """Gives a tensor so many columns, if it has fewer."""
        kept: torch.Tensor | None = getattr(self, name)
        if kept is not None and kept.shape[-1] < width:
            lacking = width - kept.shape[-1]
            setattr(self, name, torch.nn.functional.pad(kept, (0, lacking), value=self.options.pad_token))

    def advance(self, logits: torch.Tensor) -> torch.Tensor | None:
        """One more token for every row, by the scores of all tokens (rows, vocab), which may be changed.

        Returns:
            With beams, the row (rows,) of the same sentence that each row goes on from.
        """
        num_new = (self.lengths - self.prefix_lengths)[:, None]  # (sentences, 1), beyond the prefix
        if self.options.num_beams > 1:
            normaliser = log_normaliser(logits)  # (rows, 1), of all tokens: also of those that must not come
            return self.advance_beams(self.constrained(logits, normaliser, num_new), normaliser, num_new + 1)
        self.advance_rows(self.constrained(logits, None, num_new), num_new + 1)
        return None

    def constrained(self, scores: torch.Tensor, normaliser: torch.Tensor | None, num_new: torch.Tensor) -> torch.Tensor:
        """Leaves no token that must not come next."""
        options, (sentences, beams, _) = self.options, self.tokens.shape
        if options.no_repeat_ngram_size:
            written = self.tokens[..., : self.longest].flatten(0, 1)
            ban_repeated_ngrams(scores, written, self.places.flatten(), options.no_repeat_ngram_size)
        by_sentence = scores.view(sentences, beams, -1)
        if options.min_new_tokens:
            is_early = (num_new >= 0) & (num_new < options.min_new_tokens)
            banned = by_sentence.index_select(2, self.eos_tokens).masked_fill(is_early[..., None], -torch.inf)
            by_sentence.index_copy_(2, self.eos_tokens, banned)
        if self.prefixes.shape[1]:
            places = self.lengths.clamp(max=self.prefixes.shape[1] - 1)[:, None]
            forced = self.prefixes.gather(1, places)[:, None].expand(-1, beams, -1)  # (sentences, beams, 1)
            certain = torch.zeros_like(scores[:, :1]) if normaliser is None else normaliser
            only = torch.full_like(by_sentence, -torch.inf).scatter(2, forced, certain.view(sentences, beams, 1))
            by_sentence = torch.where((num_new < 0)[..., None], only, by_sentence)
        return by_sentence.flatten(0, 1)

    def advance_rows(self, scores: torch.Tensor, num_new: torch.Tensor) -> None:
        """Greedy search and sampling: every row by itself. ``num_new`` counts the token that is chosen."""
        if self.options.do_sample:
            for warp in self.warpers:
                scores = warp(self.last[:, None], scores)
            chosen = torch.multinomial(scores.softmax(-1), 1)  # (rows, 1)
        else:
            chosen = argmax(scores)
        chosen = chosen.view(self.tokens.shape[:2])
        self.lengths += 1
        self.tokens.scatter_(2, self.places, chosen[..., None])
        ends = self.ends(chosen, num_new) & (self.found_lengths == 0)
        self.found_lengths.copy_(torch.where(ends, self.lengths[:, None], self.found_lengths))
        self.is_done.copy_((self.found_lengths > 0).all(1))

    def advance_beams(self, scores: torch.Tensor, normaliser: torch.Tensor, num_new: torch.Tensor) -> torch.Tensor:
        """The best continuations of all beams of a sentence. ``num_new`` counts the tokens that are chosen."""
        options, (sentences, beams, columns) = self.options, self.tokens.shape
        # So many that as many as there are beams go on, whatever ends.
        num_kept = max(2, 1 + len(options.eos_tokens)) * beams
        totals, parents, ids = best(scores, normaliser, self.scores, num_kept)  # (sentences, kept)
        ends = self.ends(ids, num_new)
        order = (totals - 1e9 * ends).topk(beams).indices  # (sentences, beams)
        running, chosen = totals.gather(1, order), parents.gather(1, order)

        written = self.tokens.gather(1, chosen[..., None].expand(-1, -1, columns))
        self.lengths += 1
        self.collect(totals, parents, ids, ends, num_new)
        self.tokens.copy_(written.scatter_(2, self.places, ids.gather(1, order)[..., None]))
        self.scores.copy_(running)
        self.close(running[:, :1], num_new)
        first_rows = beams * torch.arange(sentences, device=chosen.device)[:, None]
        return (chosen + first_rows).flatten()

    def ends(self, ids: torch.Tensor, num_new: torch.Tensor) -> torch.Tensor:
        """Whether outputs end with these tokens (sentences, any)."""
        is_end = torch.isin(ids, self.eos_tokens) & (num_new > 0)  # a prefix's token ends nothing
        return is_end | (num_new >= self.options.max_new_tokens)

    def collect(
        self, totals: torch.Tensor, parents: torch.Tensor, ids: torch.Tensor, ends: torch.Tensor, num_new: torch.Tensor
    ) -> None:
        """Takes in the outputs among the best (sentences, kept) that are finished by this step, and keeps the best."""
        _, beams, columns = self.tokens.shape
        finished = ends[:, :beams] & ~self.is_done[:, None]
        if finished.device.type == "cpu" and not bool(finished.any()):
            return
        scores = (totals[:, :beams] / num_new**self.options.length_penalty).clamp(min=LEAST)
        scores = scores.masked_fill(~finished, -torch.inf)
        written = self.tokens.gather(1, parents[:, :beams, None].expand(-1, -1, columns))
        written.scatter_(2, self.places, ids[:, :beams, None])
        lengths = self.lengths[:, None] * finished
        # Of equals, the one that was found first.
        scores, order = torch.cat((self.found_scores, scores), 1).sort(dim=1, descending=True, stable=True)
        order = order[:, :beams]
        self.found_scores.copy_(scores[:, :beams])
        self.found_lengths.copy_(torch.cat((self.found_lengths, lengths), 1).gather(1, order))
        assert self.found is not None
        self.found.copy_(torch.cat((self.found, written), 1).gather(1, order[..., None].expand(-1, -1, columns)))

    def close(self, running: torch.Tensor, num_new: torch.Tensor) -> None:
        """Ends the sentences that nothing can better; ``running`` is the best of the beams that go on."""
        options = self.options
        is_full = (self.found_lengths > 0).all(1, keepdim=True)
        if options.early_stopping is True:
            hopeless = is_full
        else:
            to_the_end = options.early_stopping == "never" and options.length_penalty > 0
            reach = options.max_new_tokens if to_the_end else num_new
            hopeless = is_full & (running / reach**options.length_penalty <= self.found_scores[:, -1:])
        is_done = (hopeless & (num_new > 0)) | (num_new >= options.max_new_tokens)
        self.is_done.logical_or_(is_done[:, 0])

    def results(self, places: torch.Tensor) -> list[list[Candidate]]:
        """What was found for some sentences, by their places; the best first."""
        num_returned = self.options.num_return_sequences
        kept = (self.tokens if self.found is None else self.found, self.found_lengths, self.found_scores)
        tokens, lengths, scores = (part.index_select(0, places)[:, :num_returned].tolist() for part in kept)
        is_beam = self.options.num_beams > 1
        return [
            [
                Candidate(score if is_beam else 0.0, written[1 : 1 + length])
                for written, length, score in zip(*of_sentence, strict=True)
                if length
            ]
            for of_sentence in zip(tokens, lengths, scores, strict=True)
        ]

    def keep(self, sentences: torch.Tensor) -> None:
        """The others leave, by their places."""
        for name in self.held:
            setattr(self, name, getattr(self, name).index_select(0, sentences))
        self.longest = int(self.lengths.max())

    def join(self, other: Targets) -> None:
        """Others take their places behind these."""
        self.fit(other)
        for name in self.held:
            setattr(self, name, torch.cat((getattr(self, name), getattr(other, name))))
        self.longest = max(self.longest, other.longest)

    def replace(self, places: torch.Tensor, other: Targets, others: torch.Tensor) -> None:
        """Some others that have not written yet take the places of some of these."""
        self.fit(other)
        for name in self.held:
            getattr(self, name).index_copy_(0, places, getattr(other, name).index_select(0, others))
        self.longest = int(self.lengths.max())

    def fit(self, other: Targets) -> None:
        """Gives both room for the longest output and the longest prefix of the two."""
        for name in ("tokens", "found", "prefixes"):
            for one, another in ((self, other), (other, self)):
                if getattr(another, name) is not None:
                    one.widen(name, getattr(another, name).shape[-1])

    @property
    def held(self) -> list[str]:
        """The names of the tensors with a row for each sentence."""
        return [name for name in OF_SENTENCES if getattr(self, name) is not None]


OF_SENTENCES = (
    "lengths", "prefixes", "prefix_lengths", "tokens", "found", "scores", "found_scores", "found_lengths", "is_done",
)  # fmt: skip
"""What `Targets` has of each sentence."""


def padded(prefixes: list[list[int]], pad_token: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Prefixes (sentences, longest of them), and their lengths (sentences,)."""
    lengths = torch.tensor([len(prefix) for prefix in prefixes], dtype=torch.long)
    rows = torch.full((len(prefixes), max(map(len, prefixes), default=0)), pad_token)
    for row, prefix in zip(rows, prefixes, strict=True):
        row[: len(prefix)] = torch.tensor(prefix, dtype=torch.long)
    return rows.to(device), lengths.to(device)


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
