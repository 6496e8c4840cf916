"""The Transformer, lean: what it computes while it decodes, without what training and `generate` need around it.

Against the model's own step: query, key and value are one product, weights are laid out once, the source's keys and
values are kept once a sentence and not once a beam (its beams ask together), and there is no mask where nothing is
masked. The target's keys and values are written once, into memory that is there already, and are never moved: which of
them a beam sees, when beams fork, its ancestors say (as in the "tree attention" of SpecInfer, arXiv:2305.09781).

Shapes: sentences, beams (of each), rows = sentences · beams, source, time, heads, head_dim, d_model, vocab.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from seqloom.decoding.attention_state import TransformerState
from seqloom.decoding.packed import PackedLinear
from seqloom.modeling.modeling_transformer_seq2seq import TransformerSeq2SeqForConditionalGeneration
from seqloom.modeling.positions_transformer_seq2seq import encode_distances, rotate, sinusoids

READ_TOGETHER = 512
"""Tokens of sources, padded, that a thread reads at a time."""


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, scaling: float
) -> torch.Tensor:
    """Scaled dot-product attention, (sentences, heads, …) each, by a mask `of_heads`. Torch's is slow with masks."""
    if mask is None:
        return nn.functional.scaled_dot_product_attention(query, key, value, mask, scale=scaling)
    scores = torch.baddbmm(mask, query.flatten(0, 1), key.flatten(0, 1).transpose(1, 2), alpha=scaling)
    return torch.bmm(scores.softmax(-1), value.flatten(0, 1)).view(query.shape)


def of_heads(mask: torch.Tensor | None, heads: int) -> torch.Tensor | None:
    """A mask (sentences, 1, …) for every head (sentences · heads, …)."""
    return None if mask is None else mask.expand(-1, heads, -1, -1).flatten(0, 1)


class Norm:
    """A layer norm, as it is now."""

    def __init__(self, norm: nn.Module, dtype: torch.dtype):
        self.is_identity = isinstance(norm, nn.Identity)
        if isinstance(norm, nn.LayerNorm):
            self.shape, self.epsilon = norm.normalized_shape, norm.eps
            self.weight, self.bias = norm.weight.detach().to(dtype), norm.bias.detach().to(dtype)

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        return (
            states
            if self.is_identity
            else nn.functional.layer_norm(states, self.shape, self.weight, self.bias, self.epsilon)
        )


class LeanLayer:
    """A layer of encoder or decoder: packed matrices, norms, and the feed-forward network."""

    def __init__(self, layer: Any, linear_dtype: torch.dtype, dtype: torch.dtype):
        def pack(*layers: nn.Linear, activation: str = "none") -> PackedLinear:
            return PackedLinear(layers, linear_dtype, activation)

        attention = getattr(layer, "self_attn", None) or layer.encoder_attn
        self.head_dim, self.heads = attention.head_dim, attention.q_proj.out_features // attention.head_dim
        self.scaling = attention.scaling
        self.relative: tuple[torch.Tensor, ...] | None = None
        if attention.relative is not None:
            biases = (attention.relative.content_bias, attention.relative.position_bias)
            u, v = (bias.detach().to(dtype).view(self.heads, 1, self.head_dim) for bias in biases)
            self.relative = u, v, attention.relative.weight.detach().to(dtype).view(self.heads, self.head_dim, -1)
        if hasattr(layer, "self_attn"):
            self.query_key_value = pack(attention.q_proj, attention.k_proj, attention.v_proj)
            self.out = pack(attention.out_proj)
            self.norm = Norm(layer.self_attn_layer_norm, dtype)
        if hasattr(layer, "encoder_attn"):
            self.cross_query = pack(layer.encoder_attn.q_proj)
            self.cross_key_value = pack(layer.encoder_attn.k_proj, layer.encoder_attn.v_proj)
            self.cross_out = pack(layer.encoder_attn.out_proj)
            self.cross_norm = Norm(layer.encoder_attn_layer_norm, dtype)
        self.is_relu = layer.activation is nn.functional.relu_
        self.activation = layer.activation
        self.first = pack(layer.fc1, activation="relu" if self.is_relu else "none")
        self.gate = None if layer.fc_gate is None else pack(layer.fc_gate)
        self.second = pack(layer.fc2)
        self.final_norm = Norm(layer.final_layer_norm, dtype)
        self.before = layer.normalize_before

    def around(self, states: torch.Tensor, norm: Norm, sublayer) -> torch.Tensor:
        """ "Add & norm", before or after."""
        if self.before:
            return states + sublayer(norm(states))
        return norm(states + sublayer(states))

    def attend_source(
        self, inputs: torch.Tensor, kept: torch.Tensor, mask: torch.Tensor | None, beams: int
    ) -> torch.Tensor:
        """(rows, d_model) → (rows, d_model), by a layer's keys and values; beams of a sentence ask together."""
        query = self.cross_query(inputs).view(-1, beams, self.heads, self.head_dim).transpose(1, 2)
        context = attend(query, kept[0], kept[1], mask, self.scaling)
        return self.cross_out(context.transpose(1, 2).reshape(inputs.shape))

    def add_relative(
        self, query: torch.Tensor, mask: torch.Tensor | None, projected: torch.Tensor, index: torch.Tensor, beams: int
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """A query and a mask `of_heads`, with what relative positions add to them.

        Args:
            query: (sentences, heads, …, head_dim)
            mask: Broadcast to (sentences, heads, …, keys · beams).
            projected: `project` of the distances.
            index: Of each pair's distance, (sentences or 1, 1, … or 1, keys).
            beams: Keys of one position, side by side.
        """
        assert self.relative is not None
        scores = (query + self.relative[1]) @ projected  # (sentences, heads, …, distances)
        scores = scores.gather(-1, index.expand(*scores.shape[:-1], -1))
        scores = scores[..., None].expand(*scores.shape, beams).flatten(-2)
        return query + self.relative[0], of_heads(scores if mask is None else scores + mask, self.heads)

    def project(self, encodings: torch.Tensor) -> torch.Tensor:
        """Sinusoids of distances (distances, d_model) → (heads, head_dim, distances), scaled."""
        assert self.relative is not None
        return self.relative[2] @ encodings.T * self.scaling

    def feed_forward(self, states: torch.Tensor) -> torch.Tensor:
        """(rows, d_model) → (rows, d_model)"""
        inner = self.first(states)  # (rows, ffn_dim)
        if not self.is_relu:
            inner = self.activation(inner)
        if self.gate is not None:
            inner = inner * self.gate(states)
        return self.second(inner)


class LeanTransformer:
    """Decodes with a `TransformerSeq2SeqForConditionalGeneration`, whose weights are taken as they are now.

    Args:
        model: In any mode; dropout is not computed.
        dtype: ``torch.float32``, ``torch.bfloat16`` or ``torch.int8`` (matrices alone; the rest is float32).
    """

    def __init__(self, model: TransformerSeq2SeqForConditionalGeneration, dtype: torch.dtype = torch.float32):
        config = model.config
        self.dtype = torch.float32 if dtype == torch.int8 else dtype
        self.d_model, self.positions = config.d_model, config.position_embedding_type
        self.rope_theta = config.rope_theta
        encoder: Any = model.model.encoder
        decoder: Any = model.model.decoder
        self.encoder = [LeanLayer(layer, dtype, self.dtype) for layer in encoder.layers]
        self.encoder_norm = Norm(encoder.layer_norm, self.dtype)
        self.decoder = [LeanLayer(layer, dtype, self.dtype) for layer in decoder.layers]
        self.decoder_norm = Norm(decoder.layer_norm, self.dtype)
        self.source_embeddings = encoder.embed_tokens.weight.detach()
        self.target_embeddings = decoder.embed_tokens.weight.detach()
        self.scales = encoder.embed_scale, decoder.embed_scale
        self.output = PackedLinear([model.lm_head], dtype)
        self.device = self.target_embeddings.device
        self.tables: dict[int, tuple[torch.Tensor, ...]] = {}
        """`angles` of as many positions; they stay where they are, for steps that are recorded."""
        self.distances: dict[int, list[torch.Tensor]] = {}
        """Likewise what each layer of the decoder makes of as many distances, where positions are relative."""
        self.is_fixed = self.device.type == "cuda"  # steps are recorded: nothing in them may depend on the host

    def angles(self, positions: torch.Tensor, heads: int) -> tuple[torch.Tensor, ...]:
        """What positions (…,) add or turn: the sinusoids (…, d_model), or sines and cosines (…, head_dim / 2)."""
        if self.positions == "rotary":
            sine, cosine = sinusoids(positions, self.d_model // heads, self.rope_theta)
            return sine.to(self.dtype), cosine.to(self.dtype)
        return (torch.cat(sinusoids(positions, self.d_model), dim=-1).to(self.dtype),)

    def embed(self, ids: torch.Tensor, embeddings: torch.Tensor, scale: float) -> torch.Tensor:
        """(…,) → (…, d_model)"""
        return nn.functional.embedding(ids, embeddings).to(self.dtype) * scale

    def start(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, beams: int) -> Any:
        """Reads the sources.

        Args:
            input_ids: (sentences, source), padded at the end.
            attention_mask: (sentences, source), 1 for tokens.
            beams: Rows for each sentence.
        """
        keys_values, mask = self.read(input_ids, attention_mask)
        return TransformerState(keys_values, mask, beams, len(self.decoder), self.is_fixed)

    def read(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What the encoder makes of the sources: `SourceState.keys_values` and `SourceState.mask`."""
        sentences, source = input_ids.shape
        heads, head_dim = self.decoder[0].heads, self.decoder[0].head_dim
        shape = len(self.decoder), 2, sentences, heads, source, head_dim
        kept = torch.zeros(shape, dtype=self.dtype, device=self.device)
        # Some at a time: those of a length lie together and are padded less, and what is computed stays in the cache.
        size = sentences if self.is_fixed else max(1, READ_TOGETHER * torch.get_num_threads() // source)
        lengths = [source] * sentences if self.is_fixed else attention_mask.sum(1).tolist()
        for first in range(0, sentences, size):
            width = max(lengths[first : first + size])
            states = self.encode(*(part[first : first + size, :width] for part in (input_ids, attention_mask)))
            for layer, mine in zip(self.decoder, kept[:, :, first : first + size, :, :width], strict=True):
                both = layer.cross_key_value(states).view(-1, width, 2, heads, head_dim)
                mine.copy_(both.permute(2, 0, 3, 1, 4))
        return kept, self.mask_of(attention_mask)

    def mask_of(self, attention_mask: torch.Tensor) -> torch.Tensor | None:
        """What is added to scores (sentences, 1, 1, source); None where no source is padded."""
        if bool(attention_mask.all()):
            return None
        is_padding = attention_mask[:, None, None] == 0
        mask = torch.zeros(is_padding.shape, dtype=self.dtype, device=self.device)
        return mask.masked_fill_(is_padding, torch.finfo(self.dtype).min)

    def encode(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """The encoder's states (sentences · source, d_model)."""
        sentences, source = input_ids.shape
        states = self.embed(input_ids, self.source_embeddings, self.scales[0])  # (sentences, source, d_model)
        heads = self.encoder[0].heads
        places = torch.arange(source, device=self.device)
        angles = self.angles(places, heads)
        if self.positions == "sinusoidal":
            states = states + angles[0]
        elif self.positions == "relative":
            angles = encode_distances(places, places, False, self.d_model, self.dtype)
        padding = self.mask_of(attention_mask)
        mask = of_heads(padding, heads)
        states = states.flatten(0, 1)  # (sentences · source, d_model)
        for layer in self.encoder:

            def attend_self(inputs: torch.Tensor, layer: LeanLayer = layer) -> torch.Tensor:
                together = layer.query_key_value(inputs).view(sentences, source, 3, layer.heads, layer.head_dim)
                query, key, value = together.permute(2, 0, 3, 1, 4)  # (sentences, heads, source, head_dim)
                seen = mask
                if self.positions == "rotary":
                    query, key = rotate(query, *angles), rotate(key, *angles)
                elif self.positions == "relative":
                    query, seen = layer.add_relative(query, padding, layer.project(angles[0]), angles[1], 1)
                context = attend(query, key, value, seen, layer.scaling)
                return layer.out(context.transpose(1, 2).reshape(sentences * source, self.d_model))

            states = layer.around(states, layer.norm, attend_self)
            states = layer.around(states, layer.final_norm, layer.feed_forward)
        return self.encoder_norm(states)

    def step(self, tokens: torch.Tensor, state: TransformerState) -> torch.Tensor:
        """The last tokens (rows,) → scores of the next (rows, vocab), before the softmax."""
        if not state.is_fixed:  # else whoever records the step sees to it
            state.room()
        beams, rows = state.beams, len(tokens)
        states = self.embed(tokens, self.target_embeddings, self.scales[1])  # (rows, d_model)
        angles = self.position_of(state)
        if self.positions == "sinusoidal":
            states = (states.view(-1, beams, self.d_model) + angles[0][:, None]).view(rows, self.d_model)
        else:  # (sentences or 1, 1, 1, …)
            angles = tuple(angle[:, None, None] for angle in angles)
        heads = self.decoder[0].heads
        open_column = state.open_column()
        mask, source_mask = of_heads(open_column, heads), of_heads(state.mask, heads)
        for index, layer in enumerate(self.decoder):
            kept = state.keys_values[index]

            def attend_self(inputs: torch.Tensor, layer: LeanLayer = layer, index: int = index) -> torch.Tensor:
                together = layer.query_key_value(inputs).view(-1, beams, 3, layer.heads, layer.head_dim)
                together = together.permute(2, 0, 3, 1, 4)
                query, new = together[0], together[1:]  # (sentences, heads, beams, head_dim), and both of them
                seen = mask
                if self.positions == "rotary":
                    query, new = rotate(query, *angles), torch.stack((rotate(new[0], *angles), new[1]))
                elif self.positions == "relative":
                    projected = self.distances[state.num_columns][index]
                    query, seen = layer.add_relative(query, open_column, projected, angles[0], beams)
                context = attend(query, *state.write(index, new), seen, layer.scaling)
                return layer.out(context.transpose(1, 2).reshape(rows, self.d_model))

            states = layer.around(states, layer.norm, attend_self)
            states = layer.around(
                states, layer.cross_norm, partial(layer.attend_source, kept=kept, mask=source_mask, beams=beams)
            )
            states = layer.around(states, layer.final_norm, layer.feed_forward)
        state.lengths += 1
        return self.output(self.decoder_norm(states)).float()

    def position_of(self, state: TransformerState) -> tuple[torch.Tensor, ...]:
        """`angles` of the next token of each sentence, or of all of them; or which distance each column is at."""
        columns = state.num_columns
        positions = torch.arange(columns, device=self.device)
        places = state.lengths[:1] if state.is_even else state.lengths
        if self.positions == "relative":
            if columns not in self.distances:
                encodings = torch.cat(sinusoids(positions, self.d_model), dim=-1).to(self.dtype)
                self.distances[columns] = [layer.project(encodings) for layer in self.decoder]
            return ((places[:, None] - positions[: state.num_used]).clamp(min=0),)
        if columns not in self.tables:
            self.tables[columns] = self.angles(positions, self.decoder[0].heads)
        return tuple(table.index_select(0, places) for table in self.tables[columns])
