"""The hybrid, lean: the Transformer's encoder and its attention over the source, between recurrent steps.

Shapes: sentences, beams (of each), rows = sentences · beams, d_model, vocab.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from seqloom.decoding.attention_state import SourceState
from seqloom.decoding.lean_rnn import Advance, LeanRnn, RecurrentState, States
from seqloom.decoding.lean_transformer import LeanTransformer, Norm, of_heads
from seqloom.modeling.modeling_hybrid_seq2seq import HybridSeq2SeqForConditionalGeneration


class HybridState(SourceState, RecurrentState):
    """Of the targets a state of constant size, of the sources keys and values."""

    def __init__(self, keys_values: torch.Tensor, mask: torch.Tensor | None, layers: list[States], beams: int):
        SourceState.__init__(self, keys_values, mask, beams)
        RecurrentState.__init__(self, layers, beams)

    def keep(self, sentences: torch.Tensor) -> None:
        """The others leave."""
        SourceState.keep(self, sentences)
        RecurrentState.keep(self, sentences)

    def join(self, other: HybridState) -> None:
        """Others take their place behind these."""
        SourceState.join(self, other)
        RecurrentState.join(self, other)

    def replace(self, places: torch.Tensor, other: HybridState, others: torch.Tensor) -> None:
        """Some others take the places of some of these."""
        SourceState.replace(self, places, other, others)
        RecurrentState.replace(self, places, other, others)


class LeanHybrid(LeanTransformer):
    """Decodes with a `HybridSeq2SeqForConditionalGeneration`, whose weights are taken as they are now.

    Args:
        model: In any mode; dropout is not computed.
        dtype: As `LeanTransformer`'s; the state is float32.
    """

    def __init__(self, model: HybridSeq2SeqForConditionalGeneration, dtype: torch.dtype = torch.float32):
        super().__init__(model, dtype)
        decoder: Any = model.model.decoder
        layers = decoder.layers
        self.num_states = layers[0].recurrence.cell.num_states
        self.steps = [LeanRnn.step_of(layer.recurrence.cell, layer.recurrence.rnn, dtype) for layer in layers]
        for lean, layer in zip(self.decoder, layers, strict=True):
            lean.norm = Norm(layer.recurrence_layer_norm, self.dtype)

    def start(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, beams: int) -> HybridState:
        """Reads the sources, as `LeanTransformer.start`."""
        keys_values, mask = self.read(input_ids, attention_mask)
        size = self.num_states, len(input_ids) * beams, self.d_model
        layers = [torch.zeros(size, device=self.device).unbind() for _ in self.steps]
        return HybridState(keys_values, mask, layers, beams)

    def step(self, tokens: torch.Tensor, state: Any) -> torch.Tensor:
        """The last tokens (rows,) → scores of the next (rows, vocab), before the softmax."""
        states = self.embed(tokens, self.target_embeddings, self.scales[1])  # (rows, d_model)
        beams, mask = state.beams, of_heads(state.mask, self.decoder[0].heads)
        for index, (layer, advance) in enumerate(zip(self.decoder, self.steps, strict=True)):
            kept = state.keys_values[index]

            def recur(inputs: torch.Tensor, index: int = index, advance: Advance = advance) -> torch.Tensor:
                return state.run(index, advance, inputs.float()).to(self.dtype)

            states = layer.around(states, layer.norm, recur)
            states = layer.around(
                states, layer.cross_norm, partial(layer.attend_source, kept=kept, mask=mask, beams=beams)
            )
            states = layer.around(states, layer.final_norm, layer.feed_forward)
        return self.output(self.decoder_norm(states)).float()
