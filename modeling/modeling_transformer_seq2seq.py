"""Transformer encoder-decoder: "Attention Is All You Need" (Vaswani et al. 2017, arXiv:1706.03762).

Read top-down: attention, feed-forward, layers, encoder, decoder, model, language-modelling head. Modules have
Marian's names, so that weights go over one to one. Options with a source of their own: pre-norm (Xiong et al.
2020, arXiv:2002.04745), rotary positions (Su et al. 2021, arXiv:2104.09864), relative ones (Dai et al. 2019,
arXiv:1901.02860), GELU, SwiGLU (Shazeer 2020, arXiv:2002.05202).

Shapes: batch, source, target (lengths), length (either), heads, head_dim, d_model, vocab.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache, EncoderDecoderCache
from transformers.generation import GenerationMixin
from transformers.masking_utils import create_bidirectional_mask, create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import (
    BaseModelOutput,
    BaseModelOutputWithPastAndCrossAttentions,
    Seq2SeqModelOutput,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .configuration_transformer_seq2seq import TransformerSeq2SeqConfig
from .modeling_seq2seq import Seq2SeqEmbeddingsMixin, Seq2SeqHeadMixin, memory, memory_of, seq2seq_loss, token_mask
from .pipeline_seq2seq import at_least_float32
from .positions_transformer_seq2seq import Angles, RelativePositions, adds_to_scores, count_positions, place, rotate


def eager_attention_forward(module, query, key, value, attention_mask, scaling=None, dropout=0.0, **kwargs):
    """Scaled dot-product attention written out (section 3.2.1): the one implementation that returns its weights."""
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling  # (batch, heads, length, length)
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = nn.functional.softmax(scores, dim=-1, dtype=at_least_float32(scores)).to(query.dtype)
    output = torch.matmul(nn.functional.dropout(weights, p=dropout, training=module.training), value)
    return output.transpose(1, 2).contiguous(), weights  # (batch, length, heads, head_dim)


class TransformerSeq2SeqAttention(nn.Module):
    """Multi-head attention (section 3.2.2), over the sequence itself or over the encoder's output."""

    def __init__(
        self,
        config: TransformerSeq2SeqConfig,
        num_heads: int,
        is_causal: bool,
        layer_idx: int,
        has_positions: bool = True,
    ):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.is_causal = is_causal  # read by the attention functions whenever the mask is None
        self.head_dim = config.d_model // num_heads
        self.scaling = self.head_dim**-0.5
        self.q_proj = nn.Linear(config.d_model, config.d_model)
        self.k_proj = nn.Linear(config.d_model, config.d_model)
        self.v_proj = nn.Linear(config.d_model, config.d_model)
        self.out_proj = nn.Linear(config.d_model, config.d_model)
        is_relative = has_positions and config.position_embedding_type == "relative"
        self.relative = RelativePositions(config.d_model) if is_relative else None

    def split_heads(self, states: torch.Tensor) -> torch.Tensor:
        """(batch, length, d_model) → (batch, heads, length, head_dim)"""
        return states.view(*states.shape[:2], -1, self.head_dim).transpose(1, 2)

    def forward(
        self,
        hidden_states: torch.Tensor,
        key_value_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        past_key_values: EncoderDecoderCache | None = None,
        angles: Angles | None = None,
        **kwargs,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        query = self.split_heads(self.q_proj(hidden_states))
        if key_value_states is not None:
            key, value = self.cross_keys_values(key_value_states, past_key_values)
        else:
            key = self.split_heads(self.k_proj(hidden_states))
            value = self.split_heads(self.v_proj(hidden_states))
            if self.relative is not None:
                assert angles is not None
                query, attention_mask = self.relative(query, attention_mask, *angles)
            elif angles is not None:
                query, key = rotate(query, *angles), rotate(key, *angles)
            if past_key_values is not None:
                key, value = past_key_values.self_attention_cache.update(key, value, self.layer_idx)
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        dropout = self.config.attention_dropout if self.training else 0.0
        output, weights = attention(
            self, query, key, value, attention_mask, dropout=dropout, scaling=self.scaling, **kwargs
        )
        return self.out_proj(output.reshape(hidden_states.shape)), weights

    def cross_keys_values(self, key_value_states: torch.Tensor, past_key_values: EncoderDecoderCache | None):
        """Keys and values of the encoder's output, computed once and then kept."""
        if past_key_values is not None and past_key_values.is_updated.get(self.layer_idx):
            layer = past_key_values.cross_attention_cache.layers[self.layer_idx]
            assert isinstance(layer, CacheLayerMixin)
            return layer.keys, layer.values
        key = self.split_heads(self.k_proj(key_value_states))
        value = self.split_heads(self.v_proj(key_value_states))
        if past_key_values is not None:
            key, value = past_key_values.cross_attention_cache.update(key, value, self.layer_idx)
            past_key_values.is_updated[self.layer_idx] = True
        return key, value


class TransformerSeq2SeqLayer(GradientCheckpointingLayer):
    """What encoder and decoder layers share: the feed-forward network and "add & norm" around every sublayer."""

    def __init__(self, config: TransformerSeq2SeqConfig, ffn_dim: int):
        super().__init__()
        self.normalize_before = config.normalize_before
        self.dropout = nn.Dropout(config.dropout)
        self.activation_dropout = nn.Dropout(config.activation_dropout)
        activations = {"relu": nn.functional.relu_, "gelu": nn.functional.gelu, "swiglu": nn.functional.silu}
        self.activation = activations[config.activation_function]  # relu_ works in place: one pass less over the widest
        self.fc1 = nn.Linear(config.d_model, ffn_dim)
        self.fc_gate = nn.Linear(config.d_model, ffn_dim) if config.activation_function == "swiglu" else None
        self.fc2 = nn.Linear(ffn_dim, config.d_model)
        self.final_layer_norm = nn.LayerNorm(config.d_model)

    def feed_forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Section 3.3."""
        inner = self.activation(self.fc1(hidden_states))  # (batch, length, ffn_dim)
        if self.fc_gate is not None:
            inner = inner * self.fc_gate(hidden_states)
        return self.fc2(self.activation_dropout(inner))

    def before(self, hidden_states: torch.Tensor, norm: nn.LayerNorm) -> torch.Tensor:
        """A sublayer's input."""
        return norm(hidden_states) if self.normalize_before else hidden_states

    def after(self, hidden_states: torch.Tensor, output: torch.Tensor, norm: nn.LayerNorm) -> torch.Tensor:
        """A sublayer's output, added to its input."""
        hidden_states = hidden_states + self.dropout(output)
        return hidden_states if self.normalize_before else norm(hidden_states)


class TransformerSeq2SeqEncoderLayer(TransformerSeq2SeqLayer):
    """Self-attention, feed-forward."""

    def __init__(self, config: TransformerSeq2SeqConfig, layer_idx: int):
        super().__init__(config, config.encoder_ffn_dim)
        self.self_attn = TransformerSeq2SeqAttention(config, config.encoder_attention_heads, False, layer_idx)
        self.self_attn_layer_norm = nn.LayerNorm(config.d_model)

    def forward(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None, **kwargs) -> torch.Tensor:
        sublayer_input = self.before(hidden_states, self.self_attn_layer_norm)
        output, _ = self.self_attn(sublayer_input, attention_mask=attention_mask, **kwargs)
        hidden_states = self.after(hidden_states, output, self.self_attn_layer_norm)

        output = self.feed_forward(self.before(hidden_states, self.final_layer_norm))
        return self.after(hidden_states, output, self.final_layer_norm)


class TransformerSeq2SeqDecoderLayer(TransformerSeq2SeqLayer):
    """Masked self-attention, attention over the encoder's output, feed-forward."""

    def __init__(self, config: TransformerSeq2SeqConfig, layer_idx: int):
        super().__init__(config, config.decoder_ffn_dim)
        self.self_attn = TransformerSeq2SeqAttention(config, config.decoder_attention_heads, True, layer_idx)
        self.self_attn_layer_norm = nn.LayerNorm(config.d_model)
        self.encoder_attn = TransformerSeq2SeqAttention(
            config, config.decoder_attention_heads, False, layer_idx, has_positions=False
        )
        self.encoder_attn_layer_norm = nn.LayerNorm(config.d_model)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None,
        encoder_hidden_states: torch.Tensor,
        encoder_attention_mask: torch.Tensor | None = None,
        past_key_values: EncoderDecoderCache | None = None,
        angles: Angles | None = None,
        **kwargs,
    ) -> torch.Tensor:
        sublayer_input = self.before(hidden_states, self.self_attn_layer_norm)
        output, _ = self.self_attn(
            sublayer_input, attention_mask=attention_mask, past_key_values=past_key_values, angles=angles, **kwargs
        )
        hidden_states = self.after(hidden_states, output, self.self_attn_layer_norm)

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


class TransformerSeq2SeqPreTrainedModel(PreTrainedModel):
    """Initialisation, and what transformers is told about the family."""

    config: TransformerSeq2SeqConfig
    base_model_prefix = "model"
    _auto_map = {"AutoModel": "modeling_transformer_seq2seq.TransformerSeq2SeqModel"}
    supports_gradient_checkpointing = True
    _no_split_modules = ["TransformerSeq2SeqEncoderLayer", "TransformerSeq2SeqDecoderLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _can_compile_fullgraph = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """As in the authors' tensor2tensor: Glorot for matrices, N(0, 1/d_model) for embeddings, scaled up."""
        super()._init_weights(module)
        if isinstance(module, RelativePositions):
            module.init_weights()
        # The output matrix alone has no bias.
        elif isinstance(module, nn.Embedding) or (isinstance(module, nn.Linear) and module.bias is None):
            init.normal_(module.weight, mean=0.0, std=self.config.d_model**-0.5)
        elif isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
            init.zeros_(module.bias)


class TransformerSeq2SeqStack(TransformerSeq2SeqPreTrainedModel):
    """What encoder and decoder share: embeddings, positions, the last norm of pre-norm."""

    def __init__(self, config: TransformerSeq2SeqConfig, vocab_size: int, layers: Sequence[nn.Module]):
        super().__init__(config)
        self.embed_scale = math.sqrt(config.d_model) if config.scale_embedding else 1.0
        adds_to_scores(config)  # refuses early what the first step would
        self.embed_tokens = nn.Embedding(vocab_size, config.d_model)
        self.layers = nn.ModuleList(layers)
        self.layer_norm = nn.LayerNorm(config.d_model) if config.normalize_before else nn.Identity()
        self.dropout = nn.Dropout(config.dropout)
        self.gradient_checkpointing = False
        self.post_init()

    def embed(self, input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor | None) -> torch.Tensor:
        """(batch, length) ids, or embeddings that are given, → (batch, length, d_model), scaled by √d_model."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either ids or embeddings: input_ids or inputs_embeds (and so for the decoder).")
        return (self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds) * self.embed_scale

    def add_positions(self, inputs_embeds: torch.Tensor, *args) -> tuple[torch.Tensor, Angles | None]:
        """The layers' first input, and what their self-attention takes; further arguments are those of `place`."""
        states, angles = place(self.config, inputs_embeds, *args)
        return self.dropout(states), angles


class TransformerSeq2SeqEncoder(TransformerSeq2SeqStack):
    """(batch, source) ids → (batch, source, d_model)."""

    _no_split_modules = ["TransformerSeq2SeqEncoderLayer"]
    _can_record_outputs = {
        "hidden_states": TransformerSeq2SeqEncoderLayer,
        "attentions": TransformerSeq2SeqAttention,
    }

    def __init__(self, config: TransformerSeq2SeqConfig):
        layers = [TransformerSeq2SeqEncoderLayer(config, index) for index in range(config.encoder_layers)]
        super().__init__(config, config.vocab_size, layers)

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs,
    ) -> BaseModelOutput:
        inputs_embeds = self.embed(input_ids, inputs_embeds)  # (batch, source, d_model)
        attention_mask = token_mask(attention_mask)
        positions = count_positions(attention_mask, inputs_embeds)  # (batch or 1, source)
        mask = create_bidirectional_mask(
            config=self.config,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            allow_is_bidirectional_skip=not adds_to_scores(self.config),
        )
        head_dim = self.config.d_model // self.config.encoder_attention_heads
        hidden_states, angles = self.add_positions(inputs_embeds, positions, head_dim, attention_mask, mask)
        for layer in self.layers:
            hidden_states = layer(hidden_states, mask, angles=angles, **kwargs)
        return BaseModelOutput(last_hidden_state=self.layer_norm(hidden_states))


class TransformerSeq2SeqDecoder(TransformerSeq2SeqStack):
    """(batch, target) ids and the encoder's output → (batch, target, d_model)."""

    _can_record_outputs = {
        "hidden_states": TransformerSeq2SeqDecoderLayer,
        "attentions": OutputRecorder(TransformerSeq2SeqAttention, index=1, layer_name="self_attn"),
        "cross_attentions": OutputRecorder(TransformerSeq2SeqAttention, index=1, layer_name="encoder_attn"),
    }

    def __init__(self, config: TransformerSeq2SeqConfig):
        layers = [TransformerSeq2SeqDecoderLayer(config, index) for index in range(config.decoder_layers)]
        super().__init__(config, config.decoder_vocab_size, layers)

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        encoder_hidden_states: torch.Tensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        past_key_values: EncoderDecoderCache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        inputs_embeds = self.embed(input_ids, inputs_embeds)  # (batch, target, d_model)
        attention_mask, encoder_attention_mask = token_mask(attention_mask), token_mask(encoder_attention_mask)
        if use_cache and past_key_values is None:
            past_key_values = EncoderDecoderCache(DynamicCache(config=self.config), DynamicCache(config=self.config))
        past_length = 0 if past_key_values is None else past_key_values.get_seq_length()
        positions = count_positions(attention_mask, inputs_embeds, past_length)  # (batch or 1, target)
        causal_mask = create_causal_mask(
            config=self.config,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            **memory(None if past_key_values is None else past_key_values.self_attention_cache),
            allow_is_causal_skip=not adds_to_scores(self.config),
        )
        cross_mask = create_bidirectional_mask(
            config=self.config,
            inputs_embeds=inputs_embeds,
            attention_mask=encoder_attention_mask,
            encoder_hidden_states=encoder_hidden_states,
        )
        head_dim = self.config.d_model // self.config.decoder_attention_heads
        hidden_states, angles = self.add_positions(
            inputs_embeds, positions, head_dim, attention_mask, causal_mask, True
        )
        for layer in self.layers:
            hidden_states = layer(
                hidden_states,
                causal_mask,
                encoder_hidden_states,  # by position: gradient checkpointing needs it so
                encoder_attention_mask=cross_mask,
                past_key_values=past_key_values,
                angles=angles,
                **kwargs,
            )
        return BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=self.layer_norm(hidden_states), **memory(past_key_values)
        )


class TransformerSeq2SeqModel(Seq2SeqEmbeddingsMixin, TransformerSeq2SeqPreTrainedModel):
    """Encoder and decoder without the output matrix."""

    decoder_class: type[Any] = TransformerSeq2SeqDecoder

    def __init__(self, config: TransformerSeq2SeqConfig):
        super().__init__(config)
        if config.share_encoder_decoder_embeddings and config.tie_word_embeddings:
            self.shared = nn.Embedding(config.vocab_size, config.d_model)
            self._tied_weights_keys = {
                "encoder.embed_tokens.weight": "shared.weight",
                "decoder.embed_tokens.weight": "shared.weight",
            }
        self.encoder = TransformerSeq2SeqEncoder(config)
        self.decoder = self.decoder_class(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        encoder_outputs: tuple[torch.Tensor] | BaseModelOutput | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        decoder_inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs,
    ) -> Seq2SeqModelOutput:
        """Arguments as in `TransformerSeq2SeqForConditionalGeneration.forward`."""
        if encoder_outputs is None:
            encoder_outputs = self.encoder(input_ids, attention_mask, inputs_embeds, return_dict=True, **kwargs)
        if not isinstance(encoder_outputs, BaseModelOutput):
            encoder_outputs = BaseModelOutput(*encoder_outputs)
        outputs = self.decoder(
            decoder_input_ids,
            attention_mask=decoder_attention_mask,
            encoder_hidden_states=encoder_outputs.last_hidden_state,
            encoder_attention_mask=attention_mask,
            past_key_values=past_key_values,
            inputs_embeds=decoder_inputs_embeds,
            use_cache=use_cache,
            return_dict=True,
            **kwargs,
        )
        return Seq2SeqModelOutput(
            last_hidden_state=outputs.last_hidden_state,
            **memory_of(outputs),
            decoder_hidden_states=outputs.hidden_states,
            decoder_attentions=outputs.attentions,
            cross_attentions=outputs.cross_attentions,
            encoder_last_hidden_state=encoder_outputs.last_hidden_state,
            encoder_hidden_states=encoder_outputs.hidden_states,
            encoder_attentions=encoder_outputs.attentions,
        )


class TransformerSeq2SeqForConditionalGeneration(Seq2SeqHeadMixin, TransformerSeq2SeqPreTrainedModel, GenerationMixin):
    """Encoder, decoder and output matrix; ``forward`` is documented at `Seq2SeqHeadMixin.forward`."""

    model_class: type[Any] = TransformerSeq2SeqModel

    def __init__(self, config: TransformerSeq2SeqConfig):
        super().__init__(config)
        self._tied_weights_keys = {"lm_head.weight": "model.decoder.embed_tokens.weight"}
        if config.share_encoder_decoder_embeddings:
            self._tied_weights_keys = {
                "model.encoder.embed_tokens.weight": "model.shared.weight",
                "model.decoder.embed_tokens.weight": "model.shared.weight",
                "lm_head.weight": "model.shared.weight",
            }
        self.model = self.model_class(config)
        self.lm_head = nn.Linear(config.d_model, config.decoder_vocab_size, bias=False)
        self.loss_function = seq2seq_loss
        self.post_init()


__all__ = [
    "TransformerSeq2SeqForConditionalGeneration",
    "TransformerSeq2SeqModel",
    "TransformerSeq2SeqPreTrainedModel",
]
