"""The Transformer, lean: what it computes while it decodes, without what training and `generate` need around it.

Against the model's own step: query, key and value are one product, weights are laid out once, the source's keys and
values are kept once a sentence and not once a beam (its beams ask together), and there is no mask where nothing is
masked. The target's keys and values are written once, into memory that is there already, and are never moved: which of
them a beam sees, when beams fork, its ancestors say (as in the "tree attention" of SpecInfer, arXiv:2305.09781).

Shapes: sentences, beams (of each), rows = sentences · beams, source, time, heads, head_dim, d_model, vocab.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import nn

from seqloom.decoding.packed import PackedLinear
from seqloom.decoding.targets import FIRST_COLUMNS, NARROWER
from seqloom.modeling.modeling_transformer_seq2seq import TransformerSeq2SeqForConditionalGeneration
from seqloom.modeling.positions_transformer_seq2seq import encode_distances, rotate, sinusoids


class SourceState:
    """Keys and values of the sources, kept once a sentence, for attention by all of its beams."""

    def __init__(self, keys_values: torch.Tensor, mask: torch.Tensor | None, beams: int):
        self.keys_values = keys_values  # (layers, 2, sentences, heads, source, head_dim)
        self.mask = mask  # (sentences, 1, 1, source), added to the scores; None where no source is padded
        self.beams = beams

    def keep(self, sentences: torch.Tensor) -> None:
        """The others leave."""
        self.keys_values = self.keys_values.index_select(2, sentences)
        self.mask = None if self.mask is None else self.mask.index_select(0, sentences)

    def join(self, other: Any) -> None:
        """Others take their place behind these."""
        self.narrow(1.0)
        theirs, mask = self.fitted(other)
        self.keys_values = torch.cat((self.keys_values, theirs), dim=2)
        self.mask = None if mask is None or self.mask is None else torch.cat((self.mask, mask))

    def replace(self, places: torch.Tensor, other: Any, others: torch.Tensor) -> None:
        """Some others take the places of some of these."""
        theirs, mask = self.fitted(other)
        self.keys_values.index_copy_(2, places, theirs.index_select(2, others))
        if mask is not None and self.mask is not None:
            self.mask.index_copy_(0, places, mask.index_select(0, others))
            self.narrow(NARROWER)

    def narrow(self, share: float) -> None:
        """Takes the columns away that no source needs, if no more than this share of them is left."""
        if self.mask is None:
            return
        width = int((self.mask[:, 0, 0] == 0).any(0).nonzero().amax()) + 1  # padded at the end
        if width < self.mask.shape[-1] and width <= share * self.mask.shape[-1]:
            self.keys_values, self.mask = self.keys_values[..., :width, :].contiguous(), self.mask[..., :width]

    def fitted(self, other: SourceState) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Another's keys, values and mask, both states being made as wide as the wider one."""
        mine, theirs = self.keys_values, other.keys_values
        if mine.shape[4] == theirs.shape[4] and self.mask is None and other.mask is None:
            return theirs, None
        width = max(mine.shape[4], theirs.shape[4])
        self.mask, mask = (widened(state.mask, state.keys_values, width) for state in (self, other))
        if mine.shape[4] < width:
            self.keys_values = nn.functional.pad(mine, (0, 0, 0, width - mine.shape[4]))
        return nn.functional.pad(theirs, (0, 0, 0, width - theirs.shape[4])), mask


class TransformerState(SourceState):
    """What is kept of the targets as they are written, and of their sources.

    Every sentence writes at the place that its own length says, each beam into a slot of it; what is beyond, or not an
    ancestor's, is masked. So sentences of any age go side by side, and one takes the place of another.
    """

    def __init__(
        self, keys_values: torch.Tensor, mask: torch.Tensor | None, beams: int, num_layers: int, is_fixed: bool
    ):
        _, _, sentences, heads, _, head_dim = keys_values.shape
        super().__init__(keys_values, mask, beams)
        # There is no room before the first step, which those that are ready for a place elsewhere never come to.
        columns = FIRST_COLUMNS if is_fixed else 0
        self.own = keys_values.new_zeros(num_layers, 2, sentences, heads, columns, beams, head_dim)
        self.lengths = torch.zeros(sentences, dtype=torch.long, device=keys_values.device)
        self.longest = 0  # of them, the next step's token counted
        self.is_even = True  # all have one length
        # The slot of each column that a beam comes from (sentences, beams, columns); -1 where it comes from none.
        self.ancestors = self.lengths.new_full((sentences, beams, columns), -1) if beams > 1 else None
        self.is_fixed = is_fixed  # a step goes over all columns, and nothing in it depends on the host

    @property
    def num_columns(self) -> int:
        """The room."""
        return self.own.shape[4]

    def room(self) -> None:
        """Makes sure that the next step has a place to write into."""
        if self.longest == self.num_columns:
            columns = max(FIRST_COLUMNS, 2 * self.num_columns)
            self.own = with_columns(self.own, 4, columns, 0.0)
            if self.ancestors is not None:
                self.ancestors = with_columns(self.ancestors, 2, columns, -1)
        self.longest += 1

    @property
    def num_used(self) -> int:
        """Columns that a step goes over."""
        return self.num_columns if self.is_fixed else self.longest

    def open_column(self) -> torch.Tensor | None:
        """What each beam does not see of what is written, the next token too (sentences, 1, beams, columns · beams)."""
        if self.ancestors is not None:
            slots = torch.arange(self.beams, device=self.lengths.device)
            new = self.lengths[:, None, None].expand(-1, self.beams, 1)
            self.ancestors.scatter_(2, new, slots.view(1, -1, 1).expand(len(self.lengths), -1, 1))
            is_seen = (self.ancestors[..., : self.num_used, None] == slots).flatten(2)[:, None]
        elif self.is_even and not self.is_fixed:
            return None
        else:
            columns = torch.arange(self.num_used, device=self.lengths.device)
            is_seen = (columns <= self.lengths[:, None])[:, None, None]  # (sentences, 1, 1, columns)
        mask = torch.zeros(is_seen.shape, dtype=self.own.dtype, device=is_seen.device)
        return mask.masked_fill_(~is_seen, -math.inf)

    def write(self, layer: int, new: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Puts keys and values (2, sentences, heads, beams, head_dim) where they belong, and gives all of a layer."""
        own = self.own[layer]  # (2, sentences, heads, columns, beams, head_dim)
        if self.is_even and not self.is_fixed:
            own[:, :, :, self.longest - 1] = new
        else:
            own[:, torch.arange(len(self.lengths), device=own.device), :, self.lengths] = new.transpose(0, 1)
        key, value = own[:, :, :, : self.num_used].flatten(3, 4)
        return key, value

    def reorder(self, rows: torch.Tensor) -> None:
        """Every beam takes what the one has that it continues, of the same sentence: its ancestors."""
        assert self.ancestors is not None
        self.ancestors.copy_(self.ancestors.flatten(0, 1).index_select(0, rows).view_as(self.ancestors))

    def keep(self, sentences: torch.Tensor) -> None:
        """The others leave."""
        super().keep(sentences)
        self.lengths = self.lengths.index_select(0, sentences)
        self.own = self.own.index_select(2, sentences)
        self.ancestors = None if self.ancestors is None else self.ancestors.index_select(0, sentences)
        self.count()

    def join(self, other: TransformerState) -> None:
        """Others take their place behind these."""
        super().join(other)
        columns = max(self.num_columns, other.num_columns)
        self.own = torch.cat([with_columns(one.own, 4, columns, 0.0) for one in (self, other)], dim=2)
        if self.ancestors is not None and other.ancestors is not None:
            both = (self.ancestors, other.ancestors)
            self.ancestors = torch.cat([with_columns(ancestors, 2, columns, -1) for ancestors in both])
        self.lengths = torch.cat((self.lengths, other.lengths))
        self.count()

    def replace(self, places: torch.Tensor, other: TransformerState, others: torch.Tensor) -> None:
        """Some others that have not written yet take the places of some of these."""
        super().replace(places, other, others)
        if self.ancestors is not None:
            self.ancestors.index_fill_(0, places, -1)
        self.lengths.index_fill_(0, places, 0)
        self.count()

    def count(self) -> None:
        """After others came or went."""
        self.longest = int(self.lengths.max())
        self.is_even = int(self.lengths.min()) == self.longest


def with_columns(kept: torch.Tensor, dim: int, columns: int, value: float) -> torch.Tensor:
    """With room for so many, filled with a value where there was none."""
    lacking = columns - kept.shape[dim]
    more = kept.new_full((*kept.shape[:dim], lacking, *kept.shape[dim + 1 :]), value)
    return torch.cat((kept, more), dim=dim) if lacking else kept


def widened(mask: torch.Tensor | None, keys_values: torch.Tensor, width: int) -> torch.Tensor:
    """A mask (sentences, 1, 1, width), for sources that are padded to a width."""
    if mask is None:
        mask = keys_values.new_zeros(keys_values.shape[2], 1, 1, keys_values.shape[4])
    return nn.functional.pad(mask, (0, width - mask.shape[-1]), value=torch.finfo(mask.dtype).min)


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, scaling: float
) -> torch.Tensor:
    """Scaled dot-product attention, (sentences, heads, …) each. Torch's kernel is slow with masks."""
    if mask is None:
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

    def attend_source(self, inputs: torch.Tensor, kept: torch.Tensor, state: SourceState) -> torch.Tensor:
        """(rows, d_model) → (rows, d_model), by a layer's keys and values; beams of a sentence ask together."""
        query = self.cross_query(inputs).view(-1, state.beams, self.heads, self.head_dim).transpose(1, 2)
        context = attend(query, kept[0], kept[1], state.mask, self.scaling)
        return self.cross_out(context.transpose(1, 2).reshape(inputs.shape))

    def add_relative(
        self, query: torch.Tensor, mask: torch.Tensor | None, projected: torch.Tensor, index: torch.Tensor, beams: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A query and a mask, with what relative positions add to them.

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
        return query + self.relative[0], scores if mask is None else scores + mask

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
        """The encoder: `SourceState.keys_values` and `SourceState.mask`."""
        sentences, source = input_ids.shape
        states = self.embed(input_ids, self.source_embeddings, self.scales[0])  # (sentences, source, d_model)
        places = torch.arange(source, device=self.device)
        angles = self.angles(places, self.encoder[0].heads)
        if self.positions == "sinusoidal":
            states = states + angles[0]
        elif self.positions == "relative":
            angles = encode_distances(places, places, False, self.d_model, self.dtype)
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
                seen = mask
                if self.positions == "rotary":
                    query, key = rotate(query, *angles), rotate(key, *angles)
                elif self.positions == "relative":
                    query, seen = layer.add_relative(query, mask, layer.project(angles[0]), angles[1], 1)
                context = attend(query, key, value, seen, layer.scaling)
                return layer.out(context.transpose(1, 2).reshape(sentences * source, self.d_model))

            states = layer.around(states, layer.norm, attend_self)
            states = layer.around(states, layer.final_norm, layer.feed_forward)
        states = self.encoder_norm(states)
        heads, head_dim = self.decoder[0].heads, self.decoder[0].head_dim
        kept = torch.stack([layer.cross_key_value(states) for layer in self.decoder])
        return kept.view(-1, sentences, source, 2, heads, head_dim).permute(0, 3, 1, 4, 2, 5).contiguous(), mask

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
        mask = state.open_column()
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
                    query, seen = layer.add_relative(query, mask, projected, angles[0], beams)
                context = attend(query, *state.write(index, new), seen, layer.scaling)
                return layer.out(context.transpose(1, 2).reshape(rows, self.d_model))

            states = layer.around(states, layer.norm, attend_self)
            states = layer.around(states, layer.cross_norm, partial(layer.attend_source, kept=kept, state=state))
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
