"""Segmentations drawn at random, of which a seed decides: BPE-dropout and Unigram sampling.

BPE-dropout (Provilkov et al. 2020, arXiv:1910.13267, algorithm 1): at every step each possible merge is left out with
probability p, and of the others the one learnt first is made. Unigram sampling (Kudo 2018, arXiv:1804.10959): a
segmentation is drawn with a probability in proportion to that of its tokens, to the power of alpha, from all there are
(the paper's l is infinite).

The tokenizers library has both, with a random generator that cannot be seeded, so that no run could be repeated or go
on exactly as it would have. Here the draws of a text follow from (seed, epoch, row, side). All else, from normalisation
to the special tokens around it, is done by the tokenizer itself.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from seqloom.data.tokenization import target_tokenizer
from seqloom.settings.schema import TokenizerSettings

CACHED = 200_000
"""Pieces (words, for the most part) whose tables are kept."""
UNDEFINED = (
    "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "ignore_merges", "dropout", "alpha",
)  # fmt: skip
"""What other tokenizers' models may have, and random segmentation is not defined for here."""
UNKNOWN_PENALTY = 10.0
"""By which an unknown character is less likely than the unlikeliest token, as in the library."""


class Subwords:
    """Random segmentation by one tokenizer.

    Args:
        tokenizer: A trained BPE or Unigram tokenizer.
        dropout: Of BPE: share of merges left out. 0 gives the tokenizer's own segmentation, 1 its characters or bytes.
        alpha: Of Unigram: exponent of the probabilities. The larger, the more often the likeliest segmentation.

    Raises:
        ValueError: The tokenizer's model is another, or uses what its random segmentation is not defined for.
    """

    def __init__(self, tokenizer: Tokenizer, *, dropout: float = 0.0, alpha: float = 1.0):
        self.tokenizer = tokenizer
        model = json.loads(tokenizer.to_str())["model"]
        for name in UNDEFINED:
            if model.get(name):
                raise ValueError(
                    f"the tokenizer's model has {name} {model[name]!r}, with which its segmentations cannot be drawn: "
                    "set tokenizer.bpe_dropout to 0 and tokenizer.sampling_alpha to null, or train a tokenizer."
                )
        if model["type"] not in ("BPE", "Unigram"):
            raise ValueError(f"segmentations are drawn from BPE and Unigram models, not from {model['type']}.")
        self._draw = self._merge if model["type"] == "BPE" else self._walk
        self._tables: dict[str, Any] = {}
        if model["type"] == "BPE":
            self.dropout, self.ids = dropout, model["vocab"]
            self.unknown = self.ids.get(model.get("unk_token"))
            self.fuses = bool(model.get("fuse_unk"))
            self.merges: dict[tuple[int, int], tuple[int, int]] = {}  # two ids → rank, and the id they become
            for rank, merge in enumerate(model["merges"]):
                left, right = merge.split(" ") if isinstance(merge, str) else merge
                self.merges[self.ids[left], self.ids[right]] = (rank, self.ids[left + right])
        else:
            self.alpha, self.unknown, self.fuses = alpha, model["unk_id"], True
            self.scores = {token: (index, score) for index, (token, score) in enumerate(model["vocab"])}
            self.longest = max(map(len, self.scores))
            self.unknown_score = min(score for _, score in model["vocab"]) - UNKNOWN_PENALTY
        # What the post-processor puts around a text: every tokenizer of one text's does the same around any.
        around = tokenizer.encode("a")
        inner = [index for index, special in enumerate(around.special_tokens_mask) if not special]
        self.before, self.after = around.ids[: inner[0]], around.ids[inner[-1] + 1 :]
        # What the tokenizer takes out of a text before it segments the rest.
        tokens = tokenizer.get_added_tokens_decoder().values()
        added = [re.escape(t.content) for t in tokens if not (t.special and tokenizer.encode_special_tokens)]
        self._added = re.compile("|".join(sorted(added, key=len, reverse=True)) or r"(?!)")

    def encode(self, text: str, uniform: Callable[[], float]) -> list[int]:
        """The ids of a text, special tokens included.

        Args:
            text: As it was written. One that spells out an added token is segmented as always; a special token
                is one of them unless the tokenizer takes it for text.
            uniform: Gives the next of the random numbers, from 0 to 1.
        """
        normal = self.tokenizer.normalizer.normalize_str(text) if self.tokenizer.normalizer else text
        if self._added.search(text) or self._added.search(normal):
            return self.tokenizer.encode(text).ids
        pieces = [normal]
        if self.tokenizer.pre_tokenizer:
            pieces = [piece for piece, _ in self.tokenizer.pre_tokenizer.pre_tokenize_str(normal)]
        return [*self.before, *(index for piece in pieces for index in self._draw(piece, uniform)), *self.after]

    def _table(self, piece: str, make: Callable[[str], Any]) -> Any:
        table = self._tables.get(piece)
        if table is None:
            if len(self._tables) >= CACHED:
                self._tables.clear()
            table = self._tables[piece] = make(piece)
        return table

    def _merge(self, piece: str, uniform: Callable[[], float]) -> list[int]:
        """BPE-dropout of one piece."""
        symbols, found = self._table(piece, self._characters)
        symbols, found, dropout = [*symbols], [*found], self.dropout
        while True:
            best, place = None, -1
            for index, merge in enumerate(found):  # of equal rank the leftmost
                if merge is not None and (dropout == 0 or uniform() >= dropout) and (best is None or merge < best):
                    best, place = merge, index
            if best is None:
                return symbols
            symbols[place : place + 2] = [best[1]]
            merges = self.merges
            found[place : place + 1] = []
            if place > 0:
                found[place - 1] = merges.get((symbols[place - 1], symbols[place]))
            if place < len(found):
                found[place] = merges.get((symbols[place], symbols[place + 1]))

    def _characters(self, piece: str) -> tuple[list[int], list[tuple[int, int] | None]]:
        """The ids of a piece's characters, and the merge of each with the next."""
        symbols: list[int] = []
        for character in piece:
            index = self.ids.get(character, self.unknown)
            if index is None or (self.fuses and index == self.unknown and symbols[-1:] == [index]):
                continue
            symbols.append(index)
        return symbols, [self.merges.get(pair) for pair in pairwise(symbols)]

    def _walk(self, piece: str, uniform: Callable[[], float]) -> list[int]:
        """Unigram sampling of one piece: from its end back to its start (forward filtering, backward sampling)."""
        lattice, end = self._table(piece, self._lattice), len(piece)
        ids: list[int] = []
        while end:
            options = lattice[end]
            chance = uniform() if len(options) > 1 else 0.0
            _, end, index = next(option for option in options if chance < option[0])
            if not (self.fuses and index == self.unknown and ids[-1:] == [index]):
                ids.append(index)
        return ids[::-1]

    def _lattice(self, piece: str) -> list[list[tuple[float, int, int]]]:
        """For every end, the tokens that may stand before it: cumulative probability, start, id."""
        forward = [0.0]  # log of the summed, powered probabilities of all segmentations up to here
        lattice: list[list[tuple[float, int, int]]] = [[]]
        for end in range(1, len(piece) + 1):
            options = []
            for start in range(max(0, end - self.longest), end):
                known = self.scores.get(piece[start:end])
                if known is None and start == end - 1:
                    known = (self.unknown, self.unknown_score)
                if known is not None:
                    options.append((forward[start] + self.alpha * known[1], start, known[0]))
            most = max(score for score, *_ in options)
            shares = [math.exp(score - most) for score, *_ in options]
            total = math.fsum(shares)
            forward.append(most + math.log(total))
            sums = np.cumsum(shares) / total
            sums[-1] = 1.0
            lattice.append([(float(sum_), start, index) for sum_, (_, start, index) in zip(sums, options, strict=True)])
        return lattice


@dataclass
class Sampler:
    """Pairs segmented at random: of every epoch and row the same, in whatever process and order.

    Args:
        tokenizer: Of the run.
        settings: ``bpe_dropout`` is for its BPE sides and ``sampling_alpha`` for its Unigram sides; a side that neither
            is for keeps its segmentation.
        seed, epoch: Decide, with the row, what is drawn.
        longest: Tokens; a side that would be longer keeps its segmentation, so that every epoch has the same pairs and
            each fits into a batch.

    Raises:
        ValueError: The options are for neither side.
    """

    tokenizer: PreTrainedTokenizerBase
    settings: TokenizerSettings
    seed: int
    epoch: int
    longest: float = math.inf

    def __post_init__(self) -> None:
        self._sides: list[Subwords | None] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Without the tables, so that the cache of `datasets` knows it again."""
        return {**self.__dict__, "_sides": None}

    @property
    def sides(self) -> list[Subwords | None]:
        """How the source and the target are segmented; None: as always."""
        if self._sides is None:
            source, target = self.tokenizer, target_tokenizer(self.tokenizer)
            first = self._side(source)
            self._sides = [first, first if target is source else self._side(target)]
            if self._sides == [None, None]:
                raise ValueError(
                    "tokenizer.bpe_dropout is for BPE and tokenizer.sampling_alpha for Unigram, which the run's "
                    "tokenizer is not: leave them out, or give the other one."
                )
        return self._sides

    def _side(self, tokenizer: PreTrainedTokenizerBase) -> Subwords | None:
        backend = tokenizer.backend_tokenizer
        backend.encode_special_tokens = tokenizer.split_special_tokens  # else lost on the way to other processes
        kind = type(backend.model).__name__
        if kind == "BPE" and self.settings.bpe_dropout:
            return Subwords(backend, dropout=self.settings.bpe_dropout)
        if kind == "Unigram" and self.settings.sampling_alpha is not None:
            return Subwords(backend, alpha=self.settings.sampling_alpha)
        return None

    def __call__(self, source: str, target: str, row: int) -> tuple[list[int] | None, list[int] | None]:
        """The ids of a pair's two sides; None where a side is segmented as always."""
        source_ids, target_ids = (
            None if side is None else side.encode(text, _uniform((self.seed, self.epoch, row, number)))
            for number, (side, text) in enumerate(zip(self.sides, (source, target), strict=True))
        )
        return source_ids, target_ids


def is_sampled(settings: TokenizerSettings) -> bool:
    """Whether training pairs are segmented at random."""
    return settings.bpe_dropout > 0 or settings.sampling_alpha is not None


def _uniform(seed: Sequence[int]) -> Callable[[], float]:
    """Random numbers one by one, drawn many at a time."""
    random = np.random.default_rng(seed)

    def numbers() -> Iterator[float]:
        while True:
            yield from random.random(256).tolist()

    return numbers().__next__
