"""The recurrent decoder, lean: one step of it, without what training and `generate` need around it.

The encoder is the model's own. In a step the input's and the state's matrices are one product where the cell allows
it, weights are laid out once, and the source's keys and values are kept once a sentence and not once a beam (its beams
ask together).

Shapes: sentences, beams (of each), rows = sentences · beams, source, layers, hidden, embedding, vocab.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from seqloom.decoding.packed import PackedLinear
from seqloom.decoding.targets import NARROWER
from seqloom.modeling.cells_rnn_seq2seq import CELLS, ParallelCell
from seqloom.modeling.modeling_rnn_seq2seq import RnnSeq2SeqForConditionalGeneration

States = tuple[torch.Tensor, ...]  # (rows, hidden) each, of one layer
Advance = Callable[[torch.Tensor, States], States]  # inputs and states of a layer → its output, then its new states


class RecurrentState:
    """What is kept of the targets as they are written: a state of constant size."""

    def __init__(self, layers: list[States], beams: int):
        self.layers = layers
        self.beams = beams

    def room(self) -> None:
        """Does nothing: a state does not grow."""

    def reorder(self, rows: torch.Tensor) -> None:
        """Every beam takes what the one has that it continues, of the same sentence."""
        for part in itertools.chain(*self.layers):
            part.copy_(part.index_select(0, rows))

    def keep(self, sentences: torch.Tensor) -> None:
        """The others leave."""
        rows = rows_of(sentences, self.beams)
        self.layers = [tuple(part.index_select(0, rows) for part in layer) for layer in self.layers]

    def join(self, other: Any) -> None:
        """Others take their place behind these."""
        self.layers = [
            tuple(torch.cat(parts) for parts in zip(mine, theirs, strict=True))
            for mine, theirs in zip(self.layers, other.layers, strict=True)
        ]

    def replace(self, places: torch.Tensor, other: Any, others: torch.Tensor) -> None:
        """Some others take the places of some of these."""
        rows, their_rows = rows_of(places, self.beams), rows_of(others, self.beams)
        for mine, theirs in zip(itertools.chain(*self.layers), itertools.chain(*other.layers), strict=True):
            mine.index_copy_(0, rows, theirs.index_select(0, their_rows))

    def run(self, index: int, advance: Advance, inputs: torch.Tensor) -> torch.Tensor:
        """A layer's step (rows, …), whose new state takes the place of the old one; its output (rows, hidden)."""
        output, *after = advance(inputs, self.layers[index])
        self.take(index, *after)
        return output

    def take(self, index: int, *after: torch.Tensor) -> None:
        """A layer's state from now on."""
        for part, new in zip(self.layers[index], after, strict=True):
            part.copy_(new)


class RnnState(RecurrentState):
    """That, and what is kept of the sources; Luong's last attentional vector (rows, feed_size) is one more layer."""

    def __init__(
        self,
        layers: list[States],
        memory: torch.Tensor | None,
        keys: torch.Tensor | None,
        is_padding: torch.Tensor | None,
        beams: int,
    ):
        super().__init__(layers, beams)
        self.memory, self.keys = memory, keys  # (sentences, source, hidden); None without attention
        self.is_padding = is_padding  # (sentences, 1, source); None where no source is padded

    def keep(self, sentences: torch.Tensor) -> None:
        """The others leave."""
        super().keep(sentences)
        if self.memory is None or self.keys is None:
            return
        self.memory, self.keys = self.memory.index_select(0, sentences), self.keys.index_select(0, sentences)
        self.is_padding = None if self.is_padding is None else self.is_padding.index_select(0, sentences)

    def join(self, other: RnnState) -> None:
        """Others take their place behind these."""
        super().join(other)
        if self.memory is None or self.keys is None:
            return
        self.narrow(1.0)
        memory, keys, is_padding = self.fitted(other)
        self.memory, self.keys = torch.cat((self.memory, memory)), torch.cat((self.keys, keys))
        if self.is_padding is not None and is_padding is not None:
            self.is_padding = torch.cat((self.is_padding, is_padding))

    def replace(self, places: torch.Tensor, other: RnnState, others: torch.Tensor) -> None:
        """Some others take the places of some of these."""
        super().replace(places, other, others)
        if self.memory is None or self.keys is None:
            return
        memory, keys, is_padding = self.fitted(other)
        self.memory.index_copy_(0, places, memory.index_select(0, others))
        self.keys.index_copy_(0, places, keys.index_select(0, others))
        if self.is_padding is not None and is_padding is not None:
            self.is_padding.index_copy_(0, places, is_padding.index_select(0, others))
            self.narrow(NARROWER)

    def narrow(self, share: float) -> None:
        """Takes the columns away that no source needs, if no more than this share of them is left."""
        if self.is_padding is None or self.memory is None or self.keys is None:
            return
        width = int((~self.is_padding[:, 0]).any(0).nonzero().amax()) + 1  # padded at the end
        if width < self.is_padding.shape[-1] and width <= share * self.is_padding.shape[-1]:
            self.memory, self.keys = self.memory[:, :width].contiguous(), self.keys[:, :width].contiguous()
            self.is_padding = self.is_padding[..., :width].contiguous()

    def fitted(self, other: RnnState) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Another's memory, keys and padding, both states being made as wide as the wider one."""
        assert self.memory is not None
        assert self.keys is not None
        assert other.memory is not None
        assert other.keys is not None
        width = max(self.memory.shape[1], other.memory.shape[1])
        is_padding = None
        if width != min(self.memory.shape[1], other.memory.shape[1]) or not (
            self.is_padding is other.is_padding is None
        ):
            self.is_padding, is_padding = self.padding(width), other.padding(width)

        def fit(kept: torch.Tensor) -> torch.Tensor:
            return kept if kept.shape[1] == width else nn.functional.pad(kept, (0, 0, 0, width - kept.shape[1]))

        self.memory, self.keys = fit(self.memory), fit(self.keys)
        return fit(other.memory), fit(other.keys), is_padding

    def padding(self, width: int) -> torch.Tensor:
        """(sentences, 1, width)"""
        assert self.memory is not None
        is_padding = self.is_padding
        if is_padding is None:
            is_padding = self.memory.new_zeros(self.memory.shape[0], 1, self.memory.shape[1], dtype=torch.bool)
        return nn.functional.pad(is_padding, (0, width - is_padding.shape[-1]), value=True)


def rows_of(sentences: torch.Tensor, beams: int) -> torch.Tensor:
    """The rows of some sentences."""
    return (sentences[:, None] * beams + torch.arange(beams, device=sentences.device)).flatten()


def lstm_step(rnn: Any, dtype: torch.dtype) -> Advance:
    """(Hochreiter & Schmidhuber 1997), in torch's order of gates: one product."""
    gates = PackedLinear.of(rnn.weight_ih_l0, rnn.weight_hh_l0, bias=rnn.bias_ih_l0 + rnn.bias_hh_l0, dtype=dtype)

    def step(inputs: torch.Tensor, state: States) -> States:
        hidden, cell = state
        both = gates(torch.cat((inputs, hidden), dim=-1))  # (rows, 4 · hidden)
        let_in, forget, candidate, let_out = both.chunk(4, dim=-1)
        cell = forget.sigmoid() * cell + let_in.sigmoid() * candidate.tanh()
        hidden = let_out.sigmoid() * cell.tanh()
        return hidden, hidden, cell

    return step


def gru_step(rnn: Any, dtype: torch.dtype) -> Advance:
    """(Cho et al. 2014), in torch's order of gates: the candidate keeps input and state apart."""
    of_inputs = PackedLinear.of(rnn.weight_ih_l0, bias=rnn.bias_ih_l0, dtype=dtype)
    of_hidden = PackedLinear.of(rnn.weight_hh_l0, bias=rnn.bias_hh_l0, dtype=dtype)

    def step(inputs: torch.Tensor, state: States) -> States:
        (hidden,) = state
        size = hidden.shape[-1]
        from_inputs, from_hidden = of_inputs(inputs), of_hidden(hidden)  # (rows, 3 · hidden)
        gates = (from_inputs[:, : 2 * size] + from_hidden[:, : 2 * size]).sigmoid_()
        reset, update = gates.chunk(2, dim=-1)
        candidate = torch.addcmul(from_inputs[:, 2 * size :], reset, from_hidden[:, 2 * size :]).tanh_()
        hidden = torch.lerp(candidate, hidden, update)
        return hidden, hidden

    return step


def tanh_step(rnn: Any, dtype: torch.dtype) -> Advance:
    """(Elman 1990): one product."""
    both = PackedLinear.of(rnn.weight_ih_l0, rnn.weight_hh_l0, bias=rnn.bias_ih_l0 + rnn.bias_hh_l0, dtype=dtype)
    return lambda inputs, state: (both(torch.cat((inputs, state[0]), dim=-1)).tanh_(),) * 2


def parallel_step(rnn: Any, dtype: torch.dtype) -> Advance:
    """A cell's own step, of what one product gave: its gates ask nothing of the state."""
    projected = PackedLinear([rnn.proj], dtype)
    return lambda inputs, state: rnn.step(projected(inputs), *state)


STEPS: dict[type, Callable[[Any, torch.dtype], Advance]] = {
    nn.LSTM: lstm_step, nn.GRU: gru_step, nn.RNN: tanh_step, ParallelCell: parallel_step,
}  # fmt: skip
"""By the class of a layer's ``rnn``, or one that it is derived from."""


class LeanRnn:
    """Decodes with a `RnnSeq2SeqForConditionalGeneration`, whose weights are taken as they are now.

    Args:
        model: In evaluation mode: its own encoder reads the sources.
        dtype: ``torch.float32``, ``torch.bfloat16`` or ``torch.int8``, of the decoder's matrices; its state and the
            rest are float32.
    """

    def __init__(self, model: RnnSeq2SeqForConditionalGeneration, dtype: torch.dtype = torch.float32):
        whole: Any = model
        decoder: Any = model.model.decoder
        self.model, self.decoder = whole, decoder
        self.device = model.device
        cell = CELLS[model.config.cell_type]
        self.is_fed = model.config.input_feeding
        self.steps = [self.step_of(cell, layer.rnn, dtype) for layer in decoder.layers]
        self.embeddings = decoder.embed_tokens.weight.detach()
        self.attention = attention = decoder.attention
        self.query = (
            PackedLinear([attention.query_proj], dtype) if attention is not None and attention.is_additive else None
        )
        readout = decoder.readout
        self.readout = PackedLinear([readout], dtype) if isinstance(readout, nn.Linear) else None
        self.output = PackedLinear([model.lm_head], dtype)

    @staticmethod
    def step_of(cell: Any, rnn: Any, dtype: torch.dtype) -> Advance:
        """One step of a layer: lean where one is known, else the cell's own."""
        for kind, lean_step in STEPS.items():
            if isinstance(rnn, kind):
                return lean_step(rnn, dtype)

        def step(inputs: torch.Tensor, state: States) -> States:
            outputs, *after = cell.run(rnn, inputs[:, None], None, state)
            return outputs[:, 0], *after

        return step

    def start(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, beams: int) -> RnnState:
        """Reads the sources.

        Args:
            input_ids: (sentences, source), padded at the end.
            attention_mask: (sentences, source), 1 for tokens.
            beams: Rows for each sentence.
        """
        read = self.model.get_encoder()(input_ids, attention_mask=attention_mask, return_dict=True)
        state = [part.repeat_interleave(beams, 0) for part in self.decoder.first_state(read)]  # (rows, layers, hidden)
        layers = [tuple(part[:, index].contiguous() for part in state) for index in range(len(self.steps))]
        if self.is_fed:
            layers.append((state[0].new_zeros(len(state[0]), self.decoder.feed_size),))
        if self.attention is None:
            return RnnState(layers, None, None, None, beams)
        memory = read.last_hidden_state
        is_padding = None if bool(attention_mask.all()) else attention_mask[:, None] == 0
        return RnnState(layers, memory, self.attention.key_proj(memory), is_padding, beams)

    def step(self, tokens: torch.Tensor, state: RnnState) -> torch.Tensor:
        """The last tokens (rows,) → scores of the next (rows, vocab), before the softmax."""
        embeds = nn.functional.embedding(tokens, self.embeddings)  # (rows, embedding)
        inputs, context = embeds, None
        if self.query is not None:  # Bahdanau's: the last state asks, the answer enters the recurrence
            context = self.look(state.layers[-1][0], state)
            inputs = torch.cat((embeds, context), dim=-1)
        elif self.is_fed:
            inputs = torch.cat((embeds, state.layers[-1][0]), dim=-1)
        for index, advance in enumerate(self.steps):
            inputs = state.run(index, advance, inputs)  # (rows, hidden)
        if self.attention is None:
            return self.output(inputs if self.readout is None else self.readout(inputs)).float()
        assert self.readout is not None
        if context is not None:
            read = torch.cat((inputs, embeds, context), dim=-1)
        else:
            read = torch.cat((self.look(inputs, state), inputs), dim=-1)
        readout = self.readout(read).tanh_()  # (rows, embedding)
        if self.is_fed:
            state.take(-1, readout)
        return self.output(readout).float()

    def look(self, query: torch.Tensor, state: RnnState) -> torch.Tensor:
        """The context (rows, hidden) that decoder states (rows, hidden) find; beams of a sentence ask together."""
        assert self.attention is not None
        assert state.keys is not None
        assert state.memory is not None
        by_sentence = query.view(-1, state.beams, query.shape[-1])  # (sentences, beams, hidden)
        if self.query is not None:
            asked = self.query(query).view(*by_sentence.shape[:2], 1, -1)
            scores = self.attention.score((asked + state.keys[:, None]).tanh_()).squeeze(-1)
        else:
            scores = by_sentence @ state.keys.transpose(1, 2)  # (sentences, beams, source)
        if state.is_padding is not None:
            scores = scores.masked_fill_(state.is_padding, torch.finfo(scores.dtype).min)
        return (scores.softmax(-1) @ state.memory).flatten(0, 1)
