"""A decoder of two graphs, whatever runs them; `seqloom.export.graphs` says what they are.

Shapes: sentences, beams (of each), rows = sentences · beams, source, time (columns), vocab.
"""

from __future__ import annotations

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

    def room(self) -> None:
        """Nothing: the graphs make new tensors."""

    def reorder(self, rows: torch.Tensor) -> None:
        """Every beam takes what the one has that it continues, of the same sentence."""
        self.of_target = [kept.flatten(0, 1).index_select(0, rows).view_as(kept) for kept in self.of_target]

    def keep(self, sentences: torch.Tensor) -> None:
        """The others leave, with the source's steps and the columns that they alone needed."""
        self.attention_mask = self.attention_mask.index_select(0, sentences)
        width = max(1, int(self.attention_mask.any(0).sum()))
        self.attention_mask = self.attention_mask[:, :width]
        self.of_source = [kept[..., :width, :].index_select(0, sentences) for kept in self.of_source]
        if self.lengths is not None:
            self.lengths = self.lengths.index_select(0, sentences)
            time = max(1, int(self.lengths.amax()))
            self.of_target = [kept[..., -time:, :] for kept in self.of_target]
        self.of_target = [kept.index_select(0, sentences) for kept in self.of_target]

    def join(self, other: GraphState) -> None:
        """Others take their place behind these: sources end, targets begin with what nobody sees."""

        def joined(mine: torch.Tensor, theirs: torch.Tensor, dim: int, is_before: bool = False) -> torch.Tensor:
            """Side by side, as wide as the wider one."""
            length = max(mine.shape[dim], theirs.shape[dim])
            parts = []
            for part in (mine, theirs):
                lacking = length - part.shape[dim]
                room = (lacking, 0) if is_before else (0, lacking)
                parts.append(nn.functional.pad(part, (*(0, 0) * (-1 - dim), *room)))
            return torch.cat(parts)

        self.attention_mask = joined(self.attention_mask, other.attention_mask, -1)
        self.of_source = [joined(*both, -2) for both in zip(self.of_source, other.of_source, strict=True)]
        self.of_target = [
            torch.cat(both) if self.lengths is None else joined(*both, -2, is_before=True)
            for both in zip(self.of_target, other.of_target, strict=True)
        ]
        if self.lengths is not None and other.lengths is not None:
            self.lengths = torch.cat((self.lengths, other.lengths))


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
