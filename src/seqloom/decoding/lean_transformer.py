"""The Transformer, lean: what it computes while it decodes, without what training and `generate` need around it.

Against the model's own step: query, key and value are one product, weights are laid out once, the source's keys and
values are kept once a sentence and not once a beam (its beams ask together), and there is no mask where nothing is
masked. The target's keys and values are written once, into memory that is there already, and are never moved: which of
them a beam sees, when beams fork, its ancestors say (as in the "tree attention" of SpecInfer, arXiv:2305.09781).

Shapes: sentences, beams (of each), rows = sentences · beams, source, time, heads, head_dim, d_model, vocab.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from seqloom.decoding.packed import PackedLinear
from seqloom.modeling.modeling_transformer_seq2seq import (
    TransformerSeq2SeqForConditionalGeneration,
    rotate,
    sinusoids,
)

FIRST_STEPS = 32  # the room that there is at first; it doubles


class TransformerState:
    """What is kept of the targets as they are written, and of their sources.

    All rows write into one column at a time, of as many slots as there are beams. A row that came later begins at a
    later column, and what is before that is masked for it: so rows of any age go side by side.
    """

    def __init__(self, keys_values: torch.Tensor, mask: torch.Tensor | None, beams: int, num_layers: int):
        _, _, sentences, heads, _, head_dim = keys_values.shape
        self.keys_values = keys_values  # (layers, 2, sentences, heads, source, head_dim)
        self.mask = mask  # (sentences, 1, 1, source), added to the scores; None where no source is padded
        self.beams = beams
        # (layers, 2, sentences, heads, columns · beams, head_dim)
        self.own = keys_values.new_empty(num_layers, 2, sentences, heads, FIRST_STEPS * beams, head_dim)
        self.end = 0  # columns in use
        self.begins = torch.zeros(
            sentences, dtype=torch.long, device=keys_values.device
        )  # each sentence's first column
        self.is_even = True  # all began together
        # The slot of each column that a beam comes from; -1 where it comes from none.
        self.ancestors = self.begins.new_empty(sentences, beams, 0)  # (sentences, beams, columns)

    def write_column(self) -> int:
        """The column of the next step."""
        used = self.end * self.beams
        if used == self.own.shape[4]:
            self.put(self.own)
        slots = torch.arange(self.beams, device=self.begins.device).expand(len(self.begins), 1, -1).transpose(1, 2)
        self.ancestors = torch.cat((self.ancestors, slots), dim=2)
        self.end += 1
        return self.end - 1

    def own_mask(self, dtype: torch.dtype) -> torch.Tensor | None:
        """What each beam does not see of what its sentence has written (sentences, 1, beams, columns · beams)."""
        if self.beams == 1 and self.is_even:
            return None
        slots = torch.arange(self.beams, device=self.begins.device)
        is_seen = (self.ancestors[..., None] == slots).flatten(2)[:, None]
        return torch.zeros(is_seen.shape, dtype=dtype, device=is_seen.device).masked_fill_(~is_seen, -math.inf)

    def reorder(self, rows: torch.Tensor) -> None:
        """Every beam takes what the one has that it continues, of the same sentence: its ancestors."""
        self.ancestors = self.ancestors.flatten(0, 1).index_select(0, rows).view_as(self.ancestors)

    def keep(self, sentences: torch.Tensor) -> None:
        """The others leave, and the columns of those who began before the rest."""
        self.keys_values = self.keys_values.index_select(2, sentences)
        if self.mask is not None:
            self.mask = self.mask.index_select(0, sentences)
            width = int((self.mask[:, 0, 0] == 0).any(0).nonzero().amax()) + 1  # padded at the end
            self.keys_values = self.keys_values[..., :width, :].contiguous()
            self.mask = self.mask[..., :width] if bool((self.mask[..., :width] != 0).any()) else None
        self.begins = self.begins.index_select(0, sentences)
        first = int(self.begins.min())
        self.put(self.own[..., first * self.beams : self.end * self.beams, :].index_select(2, sentences))
        self.ancestors = self.ancestors.index_select(0, sentences)[..., first:]
        self.begins -= first
        self.end -= first
        self.is_even = not bool(self.begins.any())

    def put(self, own: torch.Tensor) -> None:
        """Takes what was written from where it is, with room for more."""
        used = own.shape[4]
        self.own = own.new_empty(*own.shape[:4], max(FIRST_STEPS * self.beams, 2 * used), own.shape[5])
        self.own[..., :used, :] = own

    def join(self, other: TransformerState) -> None:
        """Others that have not written yet take their place behind these."""
        assert other.end == 0
        mine, theirs = self.keys_values, other.keys_values
        if mine.shape[4] != theirs.shape[4] or self.mask is not None or other.mask is not None:
            width = max(mine.shape[4], theirs.shape[4])
            self.mask = torch.cat([widened(state.mask, state.keys_values, width) for state in (self, other)])
            mine, theirs = (nn.functional.pad(kept, (0, 0, 0, width - kept.shape[4])) for kept in (mine, theirs))
        self.keys_values = torch.cat((mine, theirs), dim=2)
        own = self.own[..., : self.end * self.beams, :]
        empty = own.new_zeros(*own.shape[:2], len(other.begins), *own.shape[3:])
        self.put(torch.cat((own, empty), dim=2))
        nobody = self.ancestors.new_full((len(other.begins), self.beams, self.end), -1)
        self.ancestors = torch.cat((self.ancestors, nobody))
        self.begins = torch.cat((self.begins, other.begins + self.end))
        self.is_even = self.end == 0


def widened(mask: torch.Tensor | None, keys_values: torch.Tensor, width: int) -> torch.Tensor:
    """A mask (sentences, 1, 1, width), for sources that are padded to a width."""
    if mask is None:
        mask = keys_values.new_zeros(keys_values.shape[2], 1, 1, keys_values.shape[4])
    return nn.functional.pad(mask, (0, width - mask.shape[-1]), value=torch.finfo(mask.dtype).min)


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, scaling: float
) -> torch.Tensor:
    """Scaled dot-product attention, (sentences, heads, …) each. Torch's kernel is slow with masks on CPUs."""
    if mask is None or query.device.type != "cpu":
        return nn.functional.scaled_dot_product_attention(query, key, value, mask, scale=scaling)
    scores = (query * scaling) @ key.transpose(2, 3)  # (sentences, heads, beams, time)
    return scores.add_(mask).softmax(-1) @ value


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

        attention = layer.self_attn
        self.head_dim, self.heads = attention.head_dim, attention.q_proj.out_features // attention.head_dim
        self.scaling = attention.scaling
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
        self.d_model, self.is_rotary = config.d_model, config.position_embedding_type == "rotary"
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
        self.positions = self.angles(torch.arange(0, device=self.device), 1)

    def angles(self, positions: torch.Tensor, heads: int) -> tuple[torch.Tensor, ...]:
        """What positions (…,) add or turn: the sinusoids (…, d_model), or sines and cosines (…, head_dim / 2)."""
        if self.is_rotary:
            sine, cosine = sinusoids(positions, self.d_model // heads, self.rope_theta)
            return sine.to(self.dtype), cosine.to(self.dtype)
        return (torch.cat(sinusoids(positions, self.d_model), dim=-1).to(self.dtype),)

    def embed(self, ids: torch.Tensor, embeddings: torch.Tensor, scale: float) -> torch.Tensor:
        """(…,) → (…, d_model)"""
        return nn.functional.embedding(ids, embeddings).to(self.dtype) * scale

    def start(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, beams: int) -> TransformerState:
        """Reads the sources.

        Args:
            input_ids: (sentences, source), padded at the end.
            attention_mask: (sentences, source), 1 for tokens.
            beams: Rows for each sentence.
        """
        sentences, source = input_ids.shape
        states = self.embed(input_ids, self.source_embeddings, self.scales[0])  # (sentences, source, d_model)
        angles = self.angles(torch.arange(source, device=self.device), self.encoder[0].heads)
        rotary = None
        if self.is_rotary:
            rotary = angles
        else:
            states = states + angles[0]
        mask = None  # (sentences, 1, 1, source)
        if not bool(attention_mask.all()):
            is_padding = attention_mask[:, None, None] == 0
            mask = torch.zeros(is_padding.shape, dtype=self.dtype, device=self.device)
            mask.masked_fill_(is_padding, torch.finfo(self.dtype).min)
        states = states.flatten(0, 1)  # (sentences · source, d_model)
        for layer in self.encoder:

            def attend_self(inputs: torch.Tensor, layer: LeanLayer = layer) -> torch.Tensor:
                together = layer.query_key_value(inputs).view(sentences, source, 3, layer.heads, layer.head_dim)
                query, key, value = together.permute(2, 0, 3, 1, 4)  # (sentences, heads, source, head_dim)
                if rotary is not None:
                    query, key = rotate(query, *rotary), rotate(key, *rotary)
                context = attend(query, key, value, mask, layer.scaling)
                return layer.out(context.transpose(1, 2).reshape(sentences * source, self.d_model))

            states = layer.around(states, layer.norm, attend_self)
            states = layer.around(states, layer.final_norm, layer.feed_forward)
        states = self.encoder_norm(states)
        heads, head_dim = self.decoder[0].heads, self.decoder[0].head_dim
        kept = torch.stack([layer.cross_key_value(states) for layer in self.decoder])
        kept = kept.view(-1, sentences, source, 2, heads, head_dim).permute(0, 3, 1, 4, 2, 5).contiguous()
        return TransformerState(kept, mask, beams, len(self.decoder))

    def step(self, tokens: torch.Tensor, state: TransformerState) -> torch.Tensor:
        """The last tokens (rows,) → scores of the next (rows, vocab), before the softmax."""
        column = state.write_column()
        beams, rows = state.beams, len(tokens)
        written, used = slice(column * beams, (column + 1) * beams), slice(0, (column + 1) * beams)
        states = self.embed(tokens, self.target_embeddings, self.scales[1])  # (rows, d_model)
        angles, rotary = self.position_of(state, column), None
        if self.is_rotary:
            rotary = tuple(angle[:, None, None] for angle in angles)  # (sentences or 1, 1, 1, head_dim / 2)
        else:
            states = (states.view(-1, beams, self.d_model) + angles[0][:, None]).view(rows, self.d_model)
        mask = state.own_mask(self.dtype)
        by_sentence = (-1, beams, self.decoder[0].heads, self.decoder[0].head_dim)
        for index, layer in enumerate(self.decoder):
            own, kept = state.own[index], state.keys_values[index]

            def attend_self(inputs: torch.Tensor, layer: LeanLayer = layer, own: torch.Tensor = own) -> torch.Tensor:
                together = layer.query_key_value(inputs).view(-1, beams, 3, *by_sentence[2:]).permute(2, 0, 3, 1, 4)
                query, new = together[0], together[1:]  # (sentences, heads, beams, head_dim), and both of them
                if rotary is not None:
                    query, new = rotate(query, *rotary), torch.stack((rotate(new[0], *rotary), new[1]))
                own[..., written, :] = new
                context = attend(query, own[0][..., used, :], own[1][..., used, :], mask, layer.scaling)
                return layer.out(context.transpose(1, 2).reshape(rows, self.d_model))

            def attend_source(
                inputs: torch.Tensor, layer: LeanLayer = layer, kept: torch.Tensor = kept
            ) -> torch.Tensor:
                query = layer.cross_query(inputs).view(by_sentence).transpose(1, 2)
                context = attend(query, kept[0], kept[1], state.mask, layer.scaling)
                return layer.cross_out(context.transpose(1, 2).reshape(rows, self.d_model))

            states = layer.around(states, layer.norm, attend_self)
            states = layer.around(states, layer.cross_norm, attend_source)
            states = layer.around(states, layer.final_norm, layer.feed_forward)
        return self.output(self.decoder_norm(states)).float()

    def position_of(self, state: TransformerState, column: int) -> tuple[torch.Tensor, ...]:
        """`angles` of the next token of each sentence, or of all of them."""
        if column >= len(self.positions[0]):
            steps = torch.arange(max(FIRST_STEPS, 2 * column), device=self.device)
            self.positions = self.angles(steps, self.decoder[0].heads)
        if state.is_even:
            return tuple(table[column : column + 1] for table in self.positions)
        return tuple(table.index_select(0, column - state.begins) for table in self.positions)
