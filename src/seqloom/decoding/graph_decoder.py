"""A decoder of two graphs, whatever runs them; `seqloom.export.graphs` says what they are.

Shapes: sentences, beams (of each), rows = sentences · beams, source, time (columns), vocab.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import nn

Kept = list[torch.Tensor]


class Graph(Protocol):
    """The encoder, or a step, ready to run."""

    input_names: list[str]
    output_names: list[str]

    def __call__(self, inputs: Kept) -> Kept:
        """Contiguous tensors in, by the order of the names; tensors that are nobody else's out."""


class GraphState:
    """What is kept of the targets as they are written, and of their sources."""

    def __init__(self, attention_mask: torch.Tensor, of_source: Kept, of_target: Kept, lengths: torch.Tensor | None):
        self.attention_mask = attention_mask  # (sentences, source), padded at the end
        self.of_source = of_source  # (sentences, …, source, width) each
        self.of_target = of_target  # (sentences, beams, …), or where it grows (sentences, beams, …, time, width) each
        self.lengths = lengths  # (sentences,), tokens read, which are the last columns; None where nothing grows

    def reorder(self, rows: torch.Tensor) -> None:
        """Every beam takes what the one has that it continues, of the same sentence."""
        self.of_target = [kept.flatten(0, 1).index_select(0, rows).view_as(kept) for kept in self.of_target]

    def keep(self, sentences: torch.Tensor) -> None:
        """The others leave."""
        self.attention_mask = self.attention_mask.index_select(0, sentences)
        self.of_source = [kept.index_select(0, sentences) for kept in self.of_source]
        self.of_target = [kept.index_select(0, sentences) for kept in self.of_target]
        self.lengths = None if self.lengths is None else self.lengths.index_select(0, sentences)
        self.narrow()

    def join(self, other: GraphState) -> None:
        """Others take their place behind these."""
        self.put(other, lambda mine, theirs: torch.cat((mine, theirs)))

    def replace(self, places: torch.Tensor, other: GraphState, others: torch.Tensor) -> None:
        """Some others take the places of some of these."""
        self.put(other, lambda mine, theirs: mine.index_copy(0, places, theirs.index_select(0, others)))
        self.narrow()

    def put(self, other: GraphState, put: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        """Puts another's tensors to these, each as wide as the wider one: sources end, and targets begin, with what
        nobody sees."""

        def all_of(mine: Kept, theirs: Kept, dim: int | None, is_before: bool = False) -> Kept:
            return [put(*evened(*both, dim, is_before)) for both in zip(mine, theirs, strict=True)]

        (self.attention_mask,) = all_of([self.attention_mask], [other.attention_mask], -1)
        self.of_source = all_of(self.of_source, other.of_source, -2)
        self.of_target = all_of(self.of_target, other.of_target, None if self.lengths is None else -2, True)
        if self.lengths is not None and other.lengths is not None:
            self.lengths = put(self.lengths, other.lengths)

    def narrow(self) -> None:
        """Takes away the source's steps and the target's columns that nobody needs any more."""
        width = max(1, int(self.attention_mask.any(0).sum()))
        self.attention_mask = self.attention_mask[:, :width]
        self.of_source = [kept[..., :width, :] for kept in self.of_source]
        if self.lengths is not None:
            time = max(1, int(self.lengths.amax()))
            self.of_target = [kept[..., -time:, :] for kept in self.of_target]


def evened(
    mine: torch.Tensor, theirs: torch.Tensor, dim: int | None, is_before: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Both, as long in a dimension as the longer one; as they are where that is None."""
    if dim is None or mine.shape[dim] == theirs.shape[dim]:
        return mine, theirs

    def longer(part: torch.Tensor) -> torch.Tensor:
        lacking = max(mine.shape[dim], theirs.shape[dim]) - part.shape[dim]
        return nn.functional.pad(part, (*(0, 0) * (-1 - dim), *((lacking, 0) if is_before else (0, lacking))))

    return longer(mine), longer(theirs)


class GraphDecoder:
    """Decodes by an encoder's and a step's graph.

    Args:
        encoder: ``input_ids``, ``attention_mask`` → ``source_…``, ``target_…``.
        decoder: ``tokens``, ``attention_mask``, ``source_…``, ``target_…`` and, where these grow, ``lengths`` →
            ``logits``, ``new_target_…``.
    """

    device = torch.device("cpu")

    def __init__(self, encoder: Graph, decoder: Graph):
        self.encoder, self.decoder = encoder, decoder
        self.grows = "lengths" in decoder.input_names
        self.num_of_source = sum(name.startswith("source_") for name in encoder.output_names)

    def start(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, beams: int) -> GraphState:
        """Reads sources (sentences, source), padded at the end."""
        kept = self.encoder([input_ids, attention_mask])
        of_target = [part.repeat_interleave(beams, 1) for part in kept[self.num_of_source :]]
        lengths = torch.zeros(len(input_ids), dtype=torch.long) if self.grows else None
        return GraphState(attention_mask, kept[: self.num_of_source], of_target, lengths)

    def step(self, tokens: torch.Tensor, state: GraphState) -> torch.Tensor:
        """The last tokens (rows,) → scores of the next (rows, vocab), before the softmax."""
        tokens = tokens.reshape(len(state.attention_mask), -1)  # (sentences, beams)
        inputs = [tokens, state.attention_mask, *state.of_source, *state.of_target]
        if state.lengths is not None:
            inputs.append(state.lengths)
            state.lengths = state.lengths + 1
        logits, *state.of_target = self.decoder([part.contiguous() for part in inputs])
        return logits.flatten(0, 1).float()
