"""Hybrid encoder-decoder: a Transformer reads the source, a recurrent network with attention writes the target.

The encoder works on all tokens at once; the decoder, which has to go token by token anyway, keeps a state of constant
size in place of keys and values that grow (Chen et al. 2018, arXiv:1804.09849; Kim et al. 2019, D19-5632; Bogoychev et
al. 2020, 2020.ngt-1.26). A decoder layer is the Transformer's with a recurrent cell in place of its self-attention:
cell, attention over the encoder's output, feed-forward network, "add & norm" around each. There are no positions in the
decoder, since the recurrence has an order, and its first state is zero, since it looks at the source at every step.

Read top-down: recurrence, layer, state cache, decoder, model, head; the encoder is the Transformer's.

Shapes: batch, source, target (lengths), d_model, vocab.
"""

from typing import Any, cast

import torch
from torch import nn
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .cache_rnn_seq2seq import (
    RecurrentGenerationMixin,
    RecurrentStateLayer,
    check_sizes,
    counted_tokens,
    keep_where,
)
from .cells_rnn_seq2seq import CELLS, State
from .configuration_hybrid_seq2seq import HybridSeq2SeqConfig
from .modeling_seq2seq import memory, token_mask
from .modeling_transformer_seq2seq import (
    TransformerSeq2SeqAttention,
    TransformerSeq2SeqForConditionalGeneration,
    TransformerSeq2SeqLayer,
    TransformerSeq2SeqModel,
    TransformerSeq2SeqPreTrainedModel,
    TransformerSeq2SeqStack,
)


class HybridSeq2SeqRecurrence(nn.Module):
    """A recurrent cell that reads the target from left to right."""

    def __init__(self, config: HybridSeq2SeqConfig):
        super().__init__()
        self.cell = CELLS[config.cell_type]
        self.rnn = self.cell.build(config.d_model, config.d_model)

    def forward(
        self, inputs: torch.Tensor, counted: torch.Tensor | None, kept: RecurrentStateLayer | None
    ) -> torch.Tensor:
        """(batch, target, d_model) → (batch, target, d_model)

        Args:
            counted: (batch, target), False at padding, which leaves the state as it was; None where nothing is, or
                where no token comes after it.
            kept: The state before these tokens, and then after them.
        """
        state = () if kept is None else cast(State, kept.tensors)
        if not state:  # tensors of their own: the exporter takes one that comes twice for one part of the state
            state = tuple(inputs.new_zeros(inputs.shape[0], inputs.shape[2]) for _ in range(self.cell.num_states))
        is_stepwise = counted is not None or (kept is not None and kept.record_past)
        outputs = []
        for start in range(inputs.shape[1]) if is_stepwise else (0,):
            piece = inputs[:, start : start + 1] if is_stepwise else inputs
            output, *new = self.cell.run(self.rnn, piece, None, state)
            state = tuple(new) if counted is None else keep_where(counted[:, start], tuple(new), state)
            if kept is not None:
                kept.store(state, None, num_steps=piece.shape[1])
            outputs.append(output)
        return torch.cat(outputs, dim=1)


class HybridSeq2SeqDecoderLayer(TransformerSeq2SeqLayer):
    """Recurrence, attention over the encoder's output, feed-forward."""

    def __init__(self, config: HybridSeq2SeqConfig, layer_idx: int):
        super().__init__(config, config.decoder_ffn_dim)
        self.layer_idx = layer_idx
        self.recurrence = HybridSeq2SeqRecurrence(config)
        self.recurrence_layer_norm = nn.LayerNorm(config.d_model)
        self.encoder_attn = TransformerSeq2SeqAttention(
            config, config.decoder_attention_heads, False, layer_idx, has_positions=False
        )
        self.encoder_attn_layer_norm = nn.LayerNorm(config.d_model)

    def forward(
        self,
        hidden_states: torch.Tensor,
        counted: torch.Tensor | None,
        encoder_hidden_states: torch.Tensor,
        encoder_attention_mask: torch.Tensor | None = None,
        past_key_values: EncoderDecoderCache | None = None,
        **kwargs,
    ) -> torch.Tensor:
        kept: Any = None if past_key_values is None else past_key_values.self_attention_cache.layers[self.layer_idx]
        output = self.recurrence(self.before(hidden_states, self.recurrence_layer_norm), counted, kept)
        hidden_states = self.after(hidden_states, output, self.recurrence_layer_norm)

        output, _ = self.encoder_attn(
            self.before(hidden_states, self.encoder_attn_layer_norm),
            key_value_states=encoder_hidden_states,
            attention_mask=encoder_attention_mask,
            past_key_values=past_key_values,
            **kwargs,
        )
        hidden_states = self.after(hidden_states, output, self.encoder_attn_layer_norm)

        output = self.feed_forward(self.before(hidden_states, self.final_layer_norm))
        return self.after(hidden_states, output, self.final_layer_norm)


class HybridSeq2SeqCache(EncoderDecoderCache):
    """A state of constant size for every decoder layer, and its keys and values of the source."""

    def __init__(self, config: HybridSeq2SeqConfig):
        states = Cache(layers=[RecurrentStateLayer() for _ in range(config.decoder_layers)])
        super().__init__(states, DynamicCache(config=config))

    def check_dynamic_cache(self, method: str) -> None:
        """Every method is defined: a state can do what keys and values can."""

    def reset(self) -> None:
        """Forgets everything; transformers would keep the source's keys and values as zeros, and add to them."""
        self.self_attention_cache.reset()
        self.cross_attention_cache = DynamicCache()
        self.is_updated.clear()

    @classmethod
    def of(cls, cache: Cache | None, config: HybridSeq2SeqConfig) -> "HybridSeq2SeqCache | None":
        """A cache that was passed to a model.

        Raises:
            ValueError: It is of another kind, or of a model of another size.
        """
        if cache is None:
            return None
        if not isinstance(cache, cls):
            raise ValueError(
                f"past_key_values is a {type(cache).__name__} that holds no recurrent state: pass what this model "
                "returned as past_key_values, or nothing."
            )
        states: Any = cache.self_attention_cache.layers
        expected = config.decoder_layers, CELLS[config.cell_type].num_states, config.d_model
        for layer in states:
            for part in layer.tensors:
                check_sizes((len(states), len(layer.tensors), part.shape[-1]), expected)
        return cache


class HybridSeq2SeqPreTrainedModel(TransformerSeq2SeqPreTrainedModel):
    """Initialisation, and what transformers is told about the family."""

    config: HybridSeq2SeqConfig
    _auto_map = {"AutoModel": "modeling_hybrid_seq2seq.HybridSeq2SeqModel"}
    _no_split_modules = ["TransformerSeq2SeqEncoderLayer", "HybridSeq2SeqDecoderLayer"]
    _can_compile_fullgraph = False

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """As the Transformer's; the cell initialises itself."""
        super()._init_weights(module)
        cell = CELLS[self.config.cell_type]
        if isinstance(module, cell.module_class):
            cell.init_weights(module, None)


class HybridSeq2SeqDecoder(HybridSeq2SeqPreTrainedModel, TransformerSeq2SeqStack):
    """(batch, target) ids and the encoder's output → (batch, target, d_model)."""

    _can_record_outputs = {
        "hidden_states": HybridSeq2SeqDecoderLayer,
        "cross_attentions": OutputRecorder(TransformerSeq2SeqAttention, index=1, layer_name="encoder_attn"),
    }

    def __init__(self, config: HybridSeq2SeqConfig):
        layers = [HybridSeq2SeqDecoderLayer(config, index) for index in range(config.decoder_layers)]
        super().__init__(config, config.decoder_vocab_size, layers)

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        encoder_hidden_states: torch.Tensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        inputs_embeds = self.embed(input_ids, inputs_embeds)  # (batch, target, d_model)
        if use_cache and past_key_values is None:
            past_key_values = HybridSeq2SeqCache(self.config)
        past_key_values = HybridSeq2SeqCache.of(past_key_values, self.config)
        counted = counted_tokens(attention_mask, inputs_embeds.shape[1], past_key_values is not None)
        cross_mask = create_bidirectional_mask(
            config=self.config,
            inputs_embeds=inputs_embeds,
            attention_mask=token_mask(encoder_attention_mask),
            encoder_hidden_states=encoder_hidden_states,
        )
        hidden_states = self.dropout(inputs_embeds)
        for layer in self.layers:
            hidden_states = layer(
                hidden_states,
                counted,
                encoder_hidden_states,  # by position: gradient checkpointing needs it so
                encoder_attention_mask=cross_mask,
                past_key_values=past_key_values,
                **kwargs,
            )
        return BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=self.layer_norm(hidden_states), **memory(past_key_values)
        )


class HybridSeq2SeqModel(HybridSeq2SeqPreTrainedModel, TransformerSeq2SeqModel):
    """Encoder and decoder without the output matrix."""

    decoder_class = HybridSeq2SeqDecoder


class HybridSeq2SeqForConditionalGeneration(
    RecurrentGenerationMixin, HybridSeq2SeqPreTrainedModel, TransformerSeq2SeqForConditionalGeneration
):
    """Encoder, decoder and output matrix; ``forward`` is documented at `Seq2SeqHeadMixin.forward`."""

    model_class = HybridSeq2SeqModel

    def new_cache(self) -> Cache:
        return HybridSeq2SeqCache(self.config)


__all__ = ["HybridSeq2SeqForConditionalGeneration", "HybridSeq2SeqModel", "HybridSeq2SeqPreTrainedModel"]
