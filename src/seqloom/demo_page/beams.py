"""The tree of a beam search: every prefix that was kept at some step, and the outputs that were finished.

It is `seqloom.decoding.search` itself, looked at after each of its steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch

from seqloom.decoding.search import Batch, Decoder, Sentence
from seqloom.decoding.targets import SearchOptions

IMPOSSIBLE = -1e8
"""What the search gives to beams that there are not: at first all but one, at the end all."""


@dataclass
class Node:
    """A token, after those of its parents."""

    tokens: tuple[int, ...]
    """From the first of the output to this one."""
    score: float
    """log p of all of them, in nats."""
    parent: int | None
    """Its place in the tree; None: it is the first token."""
    rank: int | None = None
    """Of a finished output, 1 being the best by the search's own measure; None: nothing ends here."""

    @property
    def step(self) -> int:
        """Counted from 0."""
        return len(self.tokens) - 1


@dataclass
class Tree:
    """Nodes, parents before their children; those of a step side by side, the best first."""

    nodes: list[Node] = field(default_factory=list)
    places: dict[tuple[int, ...], int] = field(default_factory=dict)

    def add(self, tokens: Sequence[int], score: float) -> Node:
        """The node of a prefix whose own prefix is there, made if need be."""
        key = tuple(tokens)
        if key not in self.places:
            self.places[key] = len(self.nodes)
            self.nodes.append(Node(key, score, self.places[key[:-1]] if key[:-1] else None))
        return self.nodes[self.places[key]]

    def rank(self, outputs: Iterable[Sequence[int]]) -> None:
        """Numbers the outputs, the best first."""
        # Where there are fewer words than beams, some are those of beams that there are not.
        there_are = [tokens for tokens in dict.fromkeys(map(tuple, outputs)) if tokens in self.places]
        for rank, tokens in enumerate(there_are, start=1):
            self.nodes[self.places[tokens]].rank = rank


@torch.inference_mode()
def watched(decoder: Decoder, source: list[int], options: SearchOptions) -> Tree:
    """The tree of one sentence's beam search.

    Args:
        decoder: What scores the tokens.
        source: Ids.
        options: With two beams or more; as many outputs are ranked as it returns.
    """
    assert options.num_beams > 1
    batch, tree = Batch(decoder, options, 1), Tree()
    batch.enter([Sentence(0, source, [])])
    targets = batch.targets
    assert targets is not None
    while not bool(targets.is_done[0]):
        batch.step()
        assert targets.found is not None
        length = int(targets.lengths[0])
        running = zip(targets.tokens[0].tolist(), targets.scores[0].tolist(), strict=True)
        now = [(tokens[1 : 1 + length], score) for tokens, score in running if score > IMPOSSIBLE]
        found = zip(
            targets.found[0].tolist(), targets.found_scores[0].tolist(), targets.found_lengths[0].tolist(), strict=True
        )
        ended = [
            (tokens[1 : 1 + length], score * length**options.length_penalty)
            for tokens, score, found_length in found
            if found_length == length and score > IMPOSSIBLE
        ]
        for tokens, score in sorted([*now, *ended], key=lambda item: -item[1]):
            tree.add(tokens, score)
    (outputs,) = targets.results(targets.lengths.new_zeros(1))
    tree.rank(candidate.tokens for candidate in outputs)
    return tree


def of_outputs(outputs: Iterable[tuple[Sequence[int], Sequence[float]]]) -> Tree:
    """The tree of finished outputs alone, the best first, where the search cannot be watched.

    Args:
        outputs: Tokens of each, and log p of every token.
    """
    tree, outputs = Tree(), list(outputs)
    for step in range(max((len(tokens) for tokens, _ in outputs), default=0)):
        now = [(tokens[: step + 1], sum(scores[: step + 1])) for tokens, scores in outputs if step < len(tokens)]
        for tokens, score in sorted(now, key=lambda item: -item[1]):
            tree.add(tokens, score)
    tree.rank(tokens for tokens, _ in outputs)
    return tree
