"""Convolutional encoder-decoder: gated convolutions on both sides, one dot attention over the source.

Gehring et al. 2017 (arXiv:1705.03122), simplified: no positions, and one attention instead of one a layer. The
decoder's convolutions see the past alone; while generating, each keeps its last ``kernel_size - 1`` inputs.

Shapes: batch, source, target (lengths), length (either), channels.
"""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import (
    BaseModelOutput,
    BaseModelOutputWithPastAndCrossAttentions,
    Seq2SeqModelOutput,
)
from transformers.utils import can_return_tuple

from .cache_rnn_seq2seq import RecurrentStateLayer, state_layer
from .configuration_guest_seq2seq import GuestSeq2SeqConfig
from .modeling_seq2seq import Seq2SeqEmbeddingsMixin, Seq2SeqHeadMixin, seq2seq_loss


class GuestSeq2SeqLayer(nn.Module):
    """A gated convolution; what goes in is added to what comes out."""

    def __init__(self, config: GuestSeq2SeqConfig):
        super().__init__()
        self.conv = nn.Conv1d(config.channels, 2 * config.channels, config.kernel_size)

    def forward(self, window: torch.Tensor, start: int) -> torch.Tensor:
        """(batch, channels, length + kernel_size - 1) → (batch, channels, length), whose first step is ``start``."""
        gated = nn.functional.glu(self.conv(window), dim=1)
        return window[..., start : start + gated.shape[-1]] + gated


class GuestSeq2SeqPreTrainedModel(PreTrainedModel):
    """What transformers is told about the family."""

    config: GuestSeq2SeqConfig
    base_model_prefix = "model"
    _auto_map = {"AutoModel": "modeling_guest_seq2seq.GuestSeq2SeqModel"}


class GuestSeq2SeqEncoder(GuestSeq2SeqPreTrainedModel):
    """(batch, source) ids → (batch, source, channels), zero at padding."""

    def __init__(self, config: GuestSeq2SeqConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.channels)
        self.layers = nn.ModuleList(GuestSeq2SeqLayer(config) for _ in range(config.encoder_layers))
        self.dropout = nn.Dropout(config.dropout)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs,
    ) -> BaseModelOutput:
        embeds = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        hidden = self.dropout(embeds).transpose(1, 2)  # (batch, channels, source)
        mask = 1.0 if attention_mask is None else attention_mask[:, None].to(hidden)
        half = self.config.kernel_size // 2
        for layer in self.layers:
            hidden = layer(nn.functional.pad(hidden * mask, (half, half)), half)
        return BaseModelOutput(last_hidden_state=(hidden * mask).transpose(1, 2))


class GuestSeq2SeqDecoder(GuestSeq2SeqPreTrainedModel):
    """(batch, target) ids and the encoder's outputs → (batch, target, channels)."""

    def __init__(self, config: GuestSeq2SeqConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.decoder_vocab_size, config.channels)
        self.layers = nn.ModuleList(GuestSeq2SeqLayer(config) for _ in range(config.decoder_layers))
        self.key_proj = nn.Linear(config.channels, config.channels, bias=False)
        self.readout = nn.Linear(2 * config.channels, config.channels)
        self.dropout = nn.Dropout(config.dropout)
        self.post_init()

    def forward(
        self,
        input_ids: torch.Tensor | None,
        memory: torch.Tensor,
        mask: torch.Tensor | None = None,
        decoder_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        embeds = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        hidden = self.dropout(embeds).transpose(1, 2)  # (batch, channels, target)
        length, past = hidden.shape[-1], self.config.kernel_size - 1
        is_token = None if decoder_mask is None else decoder_mask[:, None, -length:].to(hidden)
        if use_cache and past_key_values is None:
            past_key_values = Cache(layers=[RecurrentStateLayer()])
        cache = state_layer(past_key_values)
        if cache is not None and cache.is_initialized:
            before, keys = cache.tensors, cache.keys
        else:
            before = (hidden.new_zeros(*hidden.shape[:2], past),) * len(self.layers)
            keys = self.key_proj(memory)  # (batch, source, channels)
        after = []
        for layer, past_inputs in zip(self.layers, before, strict=True):
            window = torch.cat((past_inputs, hidden if is_token is None else hidden * is_token), dim=-1)
            after.append(window[..., -past:])
            hidden = layer(window, past)
        if cache is not None:
            cache.store(tuple(after), keys, num_steps=length)
        queries = hidden.transpose(1, 2)  # (batch, target, channels)
        scores = queries @ keys.transpose(1, 2)  # (batch, target, source)
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None].bool(), torch.finfo(scores.dtype).min)
        weights = scores.softmax(-1)
        return BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=torch.tanh(self.readout(torch.cat((queries, weights @ memory), dim=-1))),
            past_key_values=past_key_values,
            cross_attentions=(weights[:, None],) if output_attentions else None,
        )


class GuestSeq2SeqModel(Seq2SeqEmbeddingsMixin, GuestSeq2SeqPreTrainedModel):
    """Encoder and decoder without the output matrix."""

    def __init__(self, config: GuestSeq2SeqConfig):
        super().__init__(config)
        if config.share_encoder_decoder_embeddings and config.tie_word_embeddings:
            self.shared = nn.Embedding(config.vocab_size, config.channels)
            self._tied_weights_keys = {
                "encoder.embed_tokens.weight": "shared.weight",
                "decoder.embed_tokens.weight": "shared.weight",
            }
        self.encoder = GuestSeq2SeqEncoder(config)
        self.decoder = GuestSeq2SeqDecoder(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        encoder_outputs: BaseModelOutput | tuple | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        decoder_inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        **kwargs,
    ) -> Seq2SeqModelOutput:
        """Arguments as in `Seq2SeqHeadMixin.forward`."""
        if encoder_outputs is None:
            encoder_outputs = self.encoder(input_ids, attention_mask, inputs_embeds, return_dict=True)
        outputs = self.decoder(
            decoder_input_ids,
            encoder_outputs[0],
            attention_mask,
            decoder_attention_mask,
            past_key_values,
            decoder_inputs_embeds,
            use_cache,
            self.config.output_attentions if output_attentions is None else output_attentions,
        )
        return Seq2SeqModelOutput(
            last_hidden_state=outputs.last_hidden_state,
            past_key_values=outputs.past_key_values,
            cross_attentions=outputs.cross_attentions,
            encoder_last_hidden_state=encoder_outputs[0],
        )


class GuestSeq2SeqForConditionalGeneration(Seq2SeqHeadMixin, GuestSeq2SeqPreTrainedModel, GenerationMixin):
    """Encoder, decoder and output matrix."""

    def __init__(self, config: GuestSeq2SeqConfig):
        super().__init__(config)
        self._tied_weights_keys = {"lm_head.weight": "model.decoder.embed_tokens.weight"}
        if config.share_encoder_decoder_embeddings:
            self._tied_weights_keys = {
                "model.encoder.embed_tokens.weight": "model.shared.weight",
                "model.decoder.embed_tokens.weight": "model.shared.weight",
                "lm_head.weight": "model.shared.weight",
            }
        self.model = GuestSeq2SeqModel(config)
        self.lm_head = nn.Linear(config.channels, config.decoder_vocab_size, bias=False)
        self.loss_function = seq2seq_loss
        self.post_init()

    def _prepare_cache_for_generation(self, generation_config, model_kwargs, *args: Any, **kwargs: Any) -> Any:
        """`generate` would make a cache of keys and values; here windows are kept."""
        if generation_config.use_cache and model_kwargs.get("past_key_values") is None:
            model_kwargs["past_key_values"] = Cache(layers=[RecurrentStateLayer()])


__all__ = ["GuestSeq2SeqForConditionalGeneration", "GuestSeq2SeqModel", "GuestSeq2SeqPreTrainedModel"]
