"""Recurrent encoder-decoder, without and with attention.

A state is carried from step to step: it *is* the network's memory. Without attention the encoder's last state is all
that the decoder knows of the source (Sutskever et al. 2014, arXiv:1409.3215; Cho et al. 2014, arXiv:1406.1078); with
attention it looks back at every source step at every target step (Bahdanau et al. 2015, arXiv:1409.0473; Luong et al.
2015, arXiv:1508.04025).

Read top-down: recurrent layer, attention, state cache, encoder, decoder, model, language-modelling head.

Shapes: batch, source, target (lengths), length (either), layers, hidden, embedding, vocab.
"""

from dataclasses import dataclass
from typing import cast

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.generation import GenerationMixin
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import (
    BaseModelOutput,
    BaseModelOutputWithPastAndCrossAttentions,
    Seq2SeqModelOutput,
)
from transformers.utils import can_return_tuple, is_torchdynamo_exporting
from transformers.utils.generic import merge_with_config_defaults

from .cache_rnn_seq2seq import (
    RecurrentGenerationMixin,
    RecurrentStateLayer,
    check_sizes,
    counted_tokens,
    keep_where,
    state_layer,
)
from .cells_rnn_seq2seq import CELLS, State, fill_matrix
from .configuration_rnn_seq2seq import RnnSeq2SeqConfig
from .modeling_seq2seq import Seq2SeqEmbeddingsMixin, Seq2SeqHeadMixin, memory, memory_of, seq2seq_loss, token_mask
from .pipeline_seq2seq import at_least_float32


def take(states: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Puts the steps of (batch, length, width) into another order (batch, length)."""
    return states.gather(1, order[..., None].expand_as(states))


class RnnSeq2SeqLayer(GradientCheckpointingLayer):
    """One recurrent layer over a whole sequence, in one or both directions."""

    def __init__(self, config: RnnSeq2SeqConfig, input_size: int, bidirectional: bool = False):
        super().__init__()
        self.cell = CELLS[config.cell_type]
        size = config.hidden_size // 2 if bidirectional else config.hidden_size
        self.rnn = self.cell.build(input_size, size, bidirectional)

    def forward(self, inputs: torch.Tensor, lengths: torch.Tensor | None = None, *state: torch.Tensor) -> State:
        """(batch, length, input_size) → outputs (batch, length, hidden), then the last state (batch, hidden) each.

        Args:
            lengths: (batch,), on the CPU: where each sequence ends; None where all end together.
            state: (batch, hidden) each, of a one-directional layer; zeros where not given.
        """
        return self.cell.run(self.rnn, inputs, lengths, state)


class RnnSeq2SeqAttention(nn.Module):
    """Weights over the source steps, and the context that is their weighted sum."""

    def __init__(self, config: RnnSeq2SeqConfig):
        super().__init__()
        size = config.hidden_size
        self.is_additive = config.attention == "bahdanau"
        has_key_proj = self.is_additive or config.attention_score == "general"
        self.key_proj = nn.Linear(size, size, bias=False) if has_key_proj else nn.Identity()
        if self.is_additive:
            self.query_proj = nn.Linear(size, size)
            self.score = nn.Linear(size, 1, bias=False)

    def forward(
        self, query: torch.Tensor, keys: torch.Tensor, memory: torch.Tensor, mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Decoder states (batch, target, hidden) → contexts (batch, target, hidden), weights (batch, target, source).

        Args:
            keys: ``key_proj`` of the memory, computed once for all steps.
            memory: (batch, source, hidden), the encoder's outputs.
            mask: (batch, source), False at padding.
        """
        if self.is_additive:  # v·tanh(W s + U h): Bahdanau et al. 2015, appendix A.1.2
            scores = self.score(torch.tanh(self.query_proj(query)[:, :, None] + keys[:, None])).squeeze(-1)
        else:  # s·h or s·W h: Luong et al. 2015, equation 8
            scores = query @ keys.transpose(1, 2)  # (batch, target, source)
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None], torch.finfo(scores.dtype).min)
        weights = scores.softmax(-1, dtype=at_least_float32(scores)).to(query.dtype)  # (batch, target, source)
        return weights @ memory, weights


@dataclass
class RnnSeq2SeqEncoderOutput(BaseModelOutput):
    """The encoder's outputs, and the states after each sentence's last token (batch, layers, hidden)."""

    final_hidden: torch.Tensor | None = None
    final_cell: torch.Tensor | None = None

    @classmethod
    def from_any(cls, outputs: BaseModelOutput | tuple | None) -> "RnnSeq2SeqEncoderOutput":
        """Also from the tuple that ``return_dict=False`` gives."""
        if isinstance(outputs, tuple):
            names = ("last_hidden_state", "final_hidden", "final_cell")
            outputs = cls(**dict(zip(names, filter(torch.is_tensor, outputs), strict=False)))
        if getattr(outputs, "final_hidden", None) is None:
            raise ValueError(
                "encoder_outputs has no final_hidden: a recurrent decoder starts from the encoder's last state; "
                "pass what this model's own encoder returned."
            )
        return cast("RnnSeq2SeqEncoderOutput", outputs)


class RnnSeq2SeqPreTrainedModel(PreTrainedModel):
    """Initialisation, and what transformers is told about the family."""

    config: RnnSeq2SeqConfig
    base_model_prefix = "model"
    _auto_map = {"AutoModel": "modeling_rnn_seq2seq.RnnSeq2SeqModel"}
    supports_gradient_checkpointing = True
    _no_split_modules = ["RnnSeq2SeqLayer"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """By the width (docs/training.md has what was measured), or in the config's range; biases zero; the cell
        initialises itself."""
        super()._init_weights(module)
        limit = self.config.init_range
        cell = CELLS[self.config.cell_type]
        if isinstance(module, nn.Embedding) and limit is None:
            init.normal_(module.weight, std=2 * module.embedding_dim**-0.5)
        elif isinstance(module, (nn.Linear, nn.Embedding)):
            fill_matrix(module.weight, limit)
            bias = getattr(module, "bias", None)
            if bias is not None:
                init.zeros_(bias)
        elif isinstance(module, cell.module_class):
            cell.init_weights(module, limit)


class RnnSeq2SeqEncoder(RnnSeq2SeqPreTrainedModel):
    """(batch, source) ids → outputs (batch, source, hidden) and the last states (batch, layers, hidden)."""

    def __init__(self, config: RnnSeq2SeqConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.embedding_size)
        sizes = [config.embedding_size] + [config.hidden_size] * (config.encoder_layers - 1)
        self.layers = nn.ModuleList(RnnSeq2SeqLayer(config, size, config.bidirectional) for size in sizes)
        self.dropout = nn.Dropout(config.dropout)
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        **kwargs,
    ) -> RnnSeq2SeqEncoderOutput:
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds.")
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        hidden_states = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        lengths, order, back = None, None, None
        attention_mask = token_mask(attention_mask)
        if attention_mask is not None and (is_torchdynamo_exporting() or not attention_mask.all()):
            lengths = attention_mask.long().sum(-1).clamp(min=1).cpu()
            # Tokens to the front, whichever side the padding is on; afterwards everything goes back to its place.
            length = attention_mask.shape[1]
            steps = torch.arange(length, device=attention_mask.device)
            order = torch.where(attention_mask, steps, steps + length).argsort(dim=-1)  # (batch, source)
            back = order.argsort(dim=-1)
            hidden_states = take(hidden_states, order)

        all_hidden_states, finals = [hidden_states], []
        for layer in self.layers:
            hidden_states, *final = layer(self.dropout(hidden_states), lengths)  # (batch, source, hidden)
            all_hidden_states.append(hidden_states)
            finals.append(final)
        if back is not None:
            all_hidden_states = [take(states, back) for states in all_hidden_states]

        final = [torch.stack(parts, dim=1) for parts in zip(*finals, strict=True)]  # (batch, layers, hidden) each
        return RnnSeq2SeqEncoderOutput(
            last_hidden_state=all_hidden_states[-1],
            hidden_states=tuple(all_hidden_states) if output_hidden_states else None,
            final_hidden=final[0],
            final_cell=final[1] if len(final) > 1 else None,
        )


class RnnSeq2SeqDecoder(RnnSeq2SeqPreTrainedModel):
    """(batch, target) ids and the encoder's output → readouts (batch, target, embedding)."""

    def __init__(self, config: RnnSeq2SeqConfig):
        super().__init__(config)
        embedding, hidden = config.embedding_size, config.hidden_size
        self.embed_tokens = nn.Embedding(config.decoder_vocab_size, embedding)
        self.num_states = CELLS[config.cell_type].num_states
        # The encoder layer whose last state each decoder layer starts from: the upper ones, then the topmost again.
        skipped = max(0, config.encoder_layers - config.decoder_layers)
        self.origins = [min(i + skipped, config.encoder_layers - 1) for i in range(config.decoder_layers)]
        num_bridges = self.num_states * config.decoder_layers if config.bridge == "dense" else 0
        self.bridge = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(num_bridges))
        self.feed_size = hidden if config.attention == "bahdanau" else embedding if config.input_feeding else 0
        sizes = [embedding + self.feed_size] + [hidden] * (config.decoder_layers - 1)
        self.layers = nn.ModuleList(RnnSeq2SeqLayer(config, size) for size in sizes)
        self.attention = RnnSeq2SeqAttention(config) if config.attention != "none" else None
        read = {"none": hidden, "luong": 2 * hidden, "bahdanau": 2 * hidden + embedding}[config.attention]
        needs_readout = config.attention != "none" or hidden != embedding
        self.readout = nn.Linear(read, embedding, bias=False) if needs_readout else nn.Identity()
        self.dropout = nn.Dropout(config.dropout)
        self.gradient_checkpointing = False
        self.post_init()

    def first_state(self, encoder_outputs: RnnSeq2SeqEncoderOutput) -> State:
        """The bridge: the encoder's last states → the decoder's first."""
        finals = cast(State, (encoder_outputs.final_hidden, encoder_outputs.final_cell)[: self.num_states])
        expected = (self.config.encoder_layers, self.config.hidden_size)
        if any(final is None or final.shape[1:] != expected for final in finals):
            found = ", ".join("no" if final is None else "×".join(map(str, final.shape[1:])) for final in finals)
            raise ValueError(
                f"encoder_outputs has last states of {found} (layers × width), but this decoder starts from "
                f"{self.num_states} of {expected[0]}×{expected[1]}: pass what this model's own encoder returned."
            )
        states = [final[:, self.origins] for final in finals]  # (batch, layers, hidden)
        if self.config.bridge == "zeros":
            states = [torch.zeros_like(state) for state in states]
        elif self.config.bridge == "dense":
            matrices = iter(self.bridge)
            states = [
                torch.stack([torch.tanh(next(matrices)(part)) for part in state.unbind(1)], dim=1) for state in states
            ]
        return tuple(states)

    def recall(self, cache: RecurrentStateLayer | None, encoder_outputs: RnnSeq2SeqEncoderOutput) -> tuple:
        """State, feed and attention keys: from the cache, or as they are before the first token."""
        if cache is not None and cache.is_initialized:
            state, feed = cast(State, cache.tensors[:-1]), cache.tensors[-1]  # (batch, layers, hidden) each
            sizes = len(self.layers), self.num_states, self.config.hidden_size
            check_sizes((state[0].shape[1], len(state), state[0].shape[2]), sizes)
            return state, feed, cache.keys
        first, memory = self.first_state(encoder_outputs), encoder_outputs.last_hidden_state
        assert memory is not None
        keys = None if self.attention is None else self.attention.key_proj(memory)  # (batch, source, hidden)
        feed = memory.new_zeros(memory.shape[0], self.feed_size) if self.config.input_feeding else None
        return first, feed, keys

    def advance(self, embeds: torch.Tensor, state: State, feed: torch.Tensor | None, source: tuple):
        """Reads target tokens: all at once where no step needs what the step before it gave, else one.

        Args:
            embeds: (batch, target, embedding), with dropout applied.
            feed: (batch, feed_size), Luong's last attentional vector.
            source: Keys, memory and mask for the attention.

        Returns:
            Readouts (batch, target, embedding), the new state, the new feed, attention weights, the layers' outputs.
        """
        attention, weights, inputs = self.attention, None, embeds
        if attention is not None and attention.is_additive:  # the last state asks, the answer enters the recurrence
            context, weights = attention(state[0][:, -1:], *source)  # (batch, 1, hidden)
            inputs = torch.cat((embeds, context), dim=-1)
        elif feed is not None:
            inputs = torch.cat((embeds, feed[:, None]), dim=-1)

        outputs, finals = [], []
        for index, layer in enumerate(self.layers):
            layer_inputs = self.dropout(inputs) if index else inputs
            inputs, *final = layer(layer_inputs, None, *(part[:, index] for part in state))
            outputs.append(inputs)  # (batch, target, hidden)
            finals.append(final)
        state = tuple(torch.stack(parts, dim=1) for parts in zip(*finals, strict=True))

        if attention is None:
            readout = self.readout(inputs)
        elif attention.is_additive:
            readout = torch.tanh(self.readout(torch.cat((inputs, embeds, context), dim=-1)))
        else:
            context, weights = attention(inputs, *source)  # (batch, target, hidden)
            readout = torch.tanh(self.readout(torch.cat((context, inputs), dim=-1)))
        return readout, state, readout[:, -1] if self.config.input_feeding else None, weights, outputs

    @merge_with_config_defaults
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        encoder_outputs: RnnSeq2SeqEncoderOutput | tuple | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either decoder_input_ids or decoder_inputs_embeds.")
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        if output_attentions is None:
            output_attentions = self.config.output_attentions
        embeds = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds  # (batch, target, embedding)
        encoder_outputs = RnnSeq2SeqEncoderOutput.from_any(encoder_outputs)
        if use_cache and past_key_values is None:
            past_key_values = Cache(layers=[RecurrentStateLayer()])
        cache = state_layer(past_key_values)
        state, feed, keys = self.recall(cache, encoder_outputs)
        source = (keys, encoder_outputs.last_hidden_state, token_mask(encoder_attention_mask))

        target_length = embeds.shape[1]
        counted = counted_tokens(attention_mask, target_length, cache is not None)
        records = cache is not None and cache.record_past
        is_stepwise = self.feed_size or counted is not None or records
        pieces: list[tuple[torch.Tensor | None, ...]] = []
        for start in range(target_length) if is_stepwise else (0,):
            before = (*state, feed)
            piece = self.dropout(embeds[:, start : start + 1] if is_stepwise else embeds)
            readout, state, feed, weights, outputs = self.advance(piece, state, feed, source)
            if counted is not None:  # padding leaves everything as it was
                *state, feed = keep_where(counted[:, start], (*state, feed), before)
            if cache is not None:
                cache.store((*state, feed), keys, num_steps=piece.shape[1])
            pieces.append((readout, weights, *outputs))

        readout, weights, *outputs = (  # (batch, target, …) each
            None if parts[0] is None else torch.cat(parts, dim=1) for parts in zip(*pieces, strict=True)
        )
        return BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=self.dropout(readout),
            **memory(past_key_values),
            hidden_states=cast(State, (embeds, *outputs)) if output_hidden_states else None,
            cross_attentions=(weights[:, None],) if output_attentions and weights is not None else None,
        )


class RnnSeq2SeqModel(Seq2SeqEmbeddingsMixin, RnnSeq2SeqPreTrainedModel):
    """Encoder and decoder without the output matrix."""

    def __init__(self, config: RnnSeq2SeqConfig):
        super().__init__(config)
        if config.share_encoder_decoder_embeddings and config.tie_word_embeddings:
            self.shared = nn.Embedding(config.vocab_size, config.embedding_size)
            self._tied_weights_keys = {
                "encoder.embed_tokens.weight": "shared.weight",
                "decoder.embed_tokens.weight": "shared.weight",
            }
        self.encoder = RnnSeq2SeqEncoder(config)
        self.decoder = RnnSeq2SeqDecoder(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        encoder_outputs: RnnSeq2SeqEncoderOutput | tuple | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        decoder_inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs,
    ) -> Seq2SeqModelOutput:
        """Arguments as in `RnnSeq2SeqForConditionalGeneration.forward`; ``last_hidden_state`` (batch, target,
        embedding) is what the output matrix reads."""
        if encoder_outputs is None:
            encoder_outputs = self.encoder(input_ids, attention_mask, inputs_embeds, return_dict=True, **kwargs)
        encoder_outputs = RnnSeq2SeqEncoderOutput.from_any(encoder_outputs)
        outputs = self.decoder(
            decoder_input_ids,
            attention_mask=decoder_attention_mask,
            encoder_outputs=encoder_outputs,
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
            cross_attentions=outputs.cross_attentions,
            encoder_last_hidden_state=encoder_outputs.last_hidden_state,
            encoder_hidden_states=encoder_outputs.hidden_states,
        )


class RnnSeq2SeqForConditionalGeneration(
    RecurrentGenerationMixin, Seq2SeqHeadMixin, RnnSeq2SeqPreTrainedModel, GenerationMixin
):
    """Encoder, decoder and output matrix; ``forward`` is documented at `Seq2SeqHeadMixin.forward`."""

    def __init__(self, config: RnnSeq2SeqConfig):
        super().__init__(config)
        self._tied_weights_keys = {"lm_head.weight": "model.decoder.embed_tokens.weight"}
        if config.share_encoder_decoder_embeddings:
            self._tied_weights_keys = {
                "model.encoder.embed_tokens.weight": "model.shared.weight",
                "model.decoder.embed_tokens.weight": "model.shared.weight",
                "lm_head.weight": "model.shared.weight",
            }
        self.model = RnnSeq2SeqModel(config)
        self.lm_head = nn.Linear(config.embedding_size, config.decoder_vocab_size, bias=False)
        self.loss_function = seq2seq_loss
        self.post_init()

    def new_cache(self) -> Cache:
        return Cache(layers=[RecurrentStateLayer()])


__all__ = ["RnnSeq2SeqForConditionalGeneration", "RnnSeq2SeqModel", "RnnSeq2SeqPreTrainedModel"]
