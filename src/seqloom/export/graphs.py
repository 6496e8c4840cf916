"""A model as two graphs of plain tensors, which other runtimes can run: the encoder, and one step of the decoder.

The encoder reads sources once. The step reads the last token of every row, what is kept of the sources and what is
kept of the targets, and gives the scores of the next tokens and what is kept then. What a caller does with that is the
same for every model (`seqloom.decoding.graph_decoder` does it):

- what is kept of a source is (sentences, …, source, width): padded at the end where sentences are put side by side;
- what is kept of a target is (sentences, beams, …), and comes from the encoder with one beam, to be repeated. Where it
  grows with the target it is (sentences, beams, …, time, width), and a row that came later is padded at its *front*:
  how many tokens every sentence has written, ``lengths``, tells what of it is a row's own. It begins with one column
  that no row has written, since runtimes mind tensors without elements.

Shapes: sentences, beams (of each), source, time (columns), heads, head_dim, d_model, hidden, vocab.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from packaging.version import Version
from torch import nn

from seqloom.decoding.asked import NotOurs
from seqloom.decoding.engine import decoder_for
from seqloom.decoding.loading import eager_attention
from seqloom.modeling import (
    HybridSeq2SeqForConditionalGeneration,
    RnnSeq2SeqForConditionalGeneration,
    TransformerSeq2SeqForConditionalGeneration,
)
from seqloom.modeling.modeling_rnn_seq2seq import RnnSeq2SeqEncoderOutput
from seqloom.modeling.positions_transformer_seq2seq import rotate, sinusoids

Kept = list[torch.Tensor]

TORCH = "2.13"
"""The oldest whose exporter is known to take all families."""


class TransformerEncoderGraph(nn.Module):
    """Sources → keys and values for every layer of the decoder; of the target, columns that nobody sees."""

    def __init__(self, model: TransformerSeq2SeqForConditionalGeneration):
        super().__init__()
        self.encoder: Any = model.get_encoder()
        decoder: Any = model.model.decoder
        self.attentions = nn.ModuleList(layer.encoder_attn for layer in decoder.layers)

    def read(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Kept:
        """(sentences, source) each → (sentences, heads, source, head_dim) each"""
        # ONNX's exporter cannot take torch's fused attention apart where the mask is computed.
        is_relative = self.encoder.config.position_embedding_type == "relative"
        with eager_attention(self.encoder) if is_relative else contextlib.nullcontext():
            memory = self.encoder(input_ids, attention_mask, return_dict=True).last_hidden_state
        attentions: Any = self.attentions
        return [kept.contiguous() for each in attentions for kept in each.cross_keys_values(memory, None)]

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[Kept, Kept]:
        """(sentences, source) each → (sentences, heads, source, head_dim) each; (sentences, 1, heads, 1, head_dim)"""
        of_source = self.read(input_ids, attention_mask)
        return of_source, [kept[:, None, :, :1].new_zeros(kept[:, None, :, :1].shape) for kept in of_source]


class TransformerStepGraph(nn.Module):
    """The Transformer's step: queries, keys and values as one product, the source's kept once a sentence."""

    grows = True
    """What is kept of a target does, and the step is told how far it is."""

    def __init__(self, model: TransformerSeq2SeqForConditionalGeneration):
        super().__init__()
        decoder: Any = model.model.decoder
        self.config, self.embed_scale = model.config, decoder.embed_scale
        self.embed_tokens, self.layers, self.layer_norm = decoder.embed_tokens, decoder.layers, decoder.layer_norm
        self.lm_head = model.lm_head
        self.together = nn.ModuleList(side_by_side(layer.self_attn) for layer in decoder.layers)

    def forward(
        self, tokens: torch.Tensor, attention_mask: torch.Tensor, of_source: Kept, of_target: Kept,
        lengths: torch.Tensor,
    ) -> tuple[torch.Tensor, Kept]:  # fmt: skip
        """(sentences, beams) → (sentences, beams, vocab); (sentences, beams, heads, 1 + time, head_dim) each"""
        config = self.config
        heads, head_dim = config.decoder_attention_heads, config.d_model // config.decoder_attention_heads
        time = of_target[0].shape[3]  # columns before the new one
        is_own = torch.arange(time + 1, device=tokens.device) >= time - lengths[:, None]  # (sentences, 1 + time)
        own_mask = torch.where(is_own, 0.0, -math.inf)[:, None, None, None]
        source_mask = mask_of(attention_mask)
        states = self.embed_tokens(tokens) * self.embed_scale  # (sentences, beams, d_model)
        angles: tuple[Any, ...] = ()
        if config.position_embedding_type == "rotary":
            angles = sinusoids(lengths, head_dim, config.rope_theta)
            angles = tuple(angle[:, None, None, None] for angle in angles)
        elif config.position_embedding_type == "relative":
            # The new token stands in the last column, whenever its row came: distances are the same for all.
            distances = torch.arange(time + 1, device=tokens.device).flip(0)
            angles = (torch.cat(sinusoids(distances, config.d_model), dim=-1), None)
        else:
            states = states + torch.cat(sinusoids(lengths, config.d_model), dim=-1)[:, None]
        kept: Kept = []
        for index, (layer, together) in enumerate(zip(self.layers, self.together, strict=True)):
            # (3, sentences, beams, heads, 1, head_dim)
            read = together(layer.before(states, layer.self_attn_layer_norm))
            query, key, value = read.unflatten(-1, (3, heads, 1, head_dim)).unbind(2)
            bias = own_mask
            if config.position_embedding_type == "rotary":
                query, key = rotate(query, *angles), rotate(key, *angles)
            elif config.position_embedding_type == "relative":
                query, bias = layer.self_attn.relative(query, own_mask, *angles)
            kept += (torch.cat((of_target[2 * index], key), 3), torch.cat((of_target[2 * index + 1], value), 3))
            scores = (query * layer.self_attn.scaling) @ kept[-2].transpose(-1, -2)
            context = (scores + bias).softmax(-1) @ kept[-1]  # (sentences, beams, heads, 1, head_dim)
            output = layer.self_attn.out_proj(context.flatten(2))
            states = layer.after(states, output, layer.self_attn_layer_norm)

            states = upper_sublayers(layer, states, of_source[2 * index], of_source[2 * index + 1], source_mask)
        return self.lm_head(self.layer_norm(states)), kept


def mask_of(attention_mask: torch.Tensor) -> torch.Tensor:
    """(sentences, source) → (sentences, 1, 1, source), to be added to scores."""
    return torch.where(attention_mask == 0, torch.finfo(torch.float32).min, 0.0)[:, None, None]


def upper_sublayers(
    layer: Any, states: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """Attention over the source and the feed-forward network, (sentences, beams, d_model) → the same."""
    attention = layer.encoder_attn
    query = attention.split_heads(attention.q_proj(layer.before(states, layer.encoder_attn_layer_norm)))
    scores = (query * attention.scaling) @ key.transpose(-1, -2)
    context = (scores + mask).softmax(-1) @ value  # (sentences, heads, beams, head_dim)
    states = layer.after(states, attention.out_proj(context.transpose(1, 2).flatten(2)), layer.encoder_attn_layer_norm)

    output = layer.feed_forward(layer.before(states, layer.final_layer_norm))
    return layer.after(states, output, layer.final_layer_norm)


def side_by_side(attention: Any) -> nn.Linear:
    """One layer in place of three that read the same."""
    parts = (attention.q_proj, attention.k_proj, attention.v_proj)
    layer = nn.Linear(parts[0].in_features, sum(part.out_features for part in parts))
    with torch.no_grad():
        layer.weight.copy_(torch.cat([part.weight for part in parts]))
        layer.bias.copy_(torch.cat([part.bias for part in parts]))
    return layer


class RnnEncoderGraph(nn.Module):
    """Sources → with attention its memory and keys; of the target, the first state of every layer, and the feed."""

    def __init__(self, model: RnnSeq2SeqForConditionalGeneration):
        super().__init__()
        self.encoder: Any = model.get_encoder()
        self.decoder: Any = model.get_decoder()

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[Kept, Kept]:
        """(sentences, source) each → (sentences, source, hidden) each; (sentences, 1, hidden or feed) each"""
        read = self.encoder(input_ids, attention_mask, return_dict=True)
        state, feed, keys = self.decoder.recall(None, RnnSeq2SeqEncoderOutput.from_any(read))
        of_target = [layer[:, None].contiguous() for part in state for layer in part.unbind(1)]
        if feed is not None:
            of_target.append(feed[:, None])
        # Luong's keys can be the memory itself; the exporter wants two.
        return [] if keys is None else [keys.clone(), read.last_hidden_state.contiguous()], of_target


class RnnStepGraph(nn.Module):
    """The recurrent step: the layers see rows, the attention sees the beams of a sentence side by side."""

    grows = False

    def __init__(self, model: RnnSeq2SeqForConditionalGeneration):
        super().__init__()
        self.decoder: Any = model.get_decoder()
        self.lm_head = model.lm_head

    def forward(
        self, tokens: torch.Tensor, attention_mask: torch.Tensor, of_source: Kept, of_target: Kept
    ) -> tuple[torch.Tensor, Kept]:
        """(sentences, beams) → (sentences, beams, vocab); (sentences, beams, hidden or feed) each"""
        decoder, attention = self.decoder, self.decoder.attention
        size, depth = decoder.num_states, len(decoder.layers)
        embeds = decoder.embed_tokens(tokens)  # (sentences, beams, embedding)
        inputs, context = embeds, None
        look = (*of_source, attention_mask != 0)
        if attention is not None and attention.is_additive:
            context, _ = attention(of_target[depth - 1], *look)  # (sentences, beams, hidden)
            inputs = torch.cat((embeds, context), dim=-1)
        elif decoder.config.input_feeding:
            inputs = torch.cat((embeds, of_target[-1]), dim=-1)
        finals = []
        for index, layer in enumerate(decoder.layers):
            before = [of_target[part * depth + index].flatten(0, 1) for part in range(size)]
            output, *final = layer(inputs.flatten(0, 1)[:, None], None, *before)  # (rows, 1, hidden), (rows, hidden)
            inputs = output.view(*tokens.shape, -1)
            finals.append([part.view(*tokens.shape, -1).contiguous() for part in final])
        kept = [part for parts in zip(*finals, strict=True) for part in parts]
        if attention is None:
            return self.lm_head(decoder.readout(inputs)), kept
        if context is not None:
            read = torch.cat((inputs, embeds, context), dim=-1)
        else:
            context, _ = attention(inputs, *look)
            read = torch.cat((context, inputs), dim=-1)
        readout = torch.tanh(decoder.readout(read))  # (sentences, beams, embedding)
        return self.lm_head(readout), [*kept, readout] if decoder.config.input_feeding else kept


class HybridEncoderGraph(TransformerEncoderGraph):
    """Sources → keys and values for every layer of the decoder; of the target, the first state of every layer."""

    def __init__(self, model: HybridSeq2SeqForConditionalGeneration):
        super().__init__(model)
        decoder: Any = model.model.decoder
        self.num_states = sum(layer.recurrence.cell.num_states for layer in decoder.layers)
        self.d_model = model.config.d_model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[Kept, Kept]:
        """(sentences, source) each → (sentences, heads, source, head_dim) each; (sentences, 1, d_model) each"""
        of_source = self.read(input_ids, attention_mask)
        size = input_ids.shape[0], 1, self.d_model
        return of_source, [of_source[0].new_zeros(size) for _ in range(self.num_states)]


class HybridStepGraph(nn.Module):
    """The hybrid's step: the recurrence sees rows, the attention the beams of a sentence side by side."""

    grows = False

    def __init__(self, model: HybridSeq2SeqForConditionalGeneration):
        super().__init__()
        self.decoder: Any = model.get_decoder()
        self.lm_head = model.lm_head

    def forward(
        self, tokens: torch.Tensor, attention_mask: torch.Tensor, of_source: Kept, of_target: Kept
    ) -> tuple[torch.Tensor, Kept]:
        """(sentences, beams) → (sentences, beams, vocab); (sentences, beams, d_model) each"""
        decoder, source_mask = self.decoder, mask_of(attention_mask)
        states = decoder.embed_tokens(tokens) * decoder.embed_scale  # (sentences, beams, d_model)
        kept: Kept = []
        for index, layer in enumerate(decoder.layers):
            recurrence = layer.recurrence
            inputs = layer.before(states, layer.recurrence_layer_norm).flatten(0, 1)[:, None]  # (rows, 1, d_model)
            before = tuple(part.flatten(0, 1) for part in of_target[len(kept) : len(kept) + recurrence.cell.num_states])
            output, *after = recurrence.cell.run(recurrence.rnn, inputs, None, before)
            kept += [part.view(*tokens.shape, -1).contiguous() for part in after]
            states = layer.after(states, output.view(*tokens.shape, -1), layer.recurrence_layer_norm)
            states = upper_sublayers(layer, states, of_source[2 * index], of_source[2 * index + 1], source_mask)
        return self.lm_head(decoder.layer_norm(states)), kept


FAMILIES: dict[type, tuple[Any, Any]] = {
    TransformerSeq2SeqForConditionalGeneration: (TransformerEncoderGraph, TransformerStepGraph),
    RnnSeq2SeqForConditionalGeneration: (RnnEncoderGraph, RnnStepGraph),
    HybridSeq2SeqForConditionalGeneration: (HybridEncoderGraph, HybridStepGraph),
}


@dataclass(frozen=True)
class Graph:
    """One of the two, with what an exporter wants of it."""

    module: nn.Module
    inputs: tuple[Any, ...]
    dynamic_shapes: tuple[Any, ...]
    input_names: list[str]
    output_names: list[str]

    def program(self) -> torch.export.ExportedProgram:
        """Traced afresh: what was compiled before would leave its own guards in it."""
        torch.compiler.reset()
        with torch.no_grad():
            return torch.export.export(self.module, self.inputs, dynamic_shapes=self.dynamic_shapes, strict=False)


def check_model(model: Any) -> None:
    """Refuses what there are no graphs of.

    Raises:
        ValueError: It is no model as seqloom made it, or torch is too old to export it.
    """
    if Version(torch.__version__) < Version(TORCH):
        raise ValueError(f"--to onnx and --to torch need torch {TORCH} or newer, and this is {torch.__version__}.")
    try:
        decoder_for(model)
    except NotOurs as reason:
        raise ValueError(f"--to onnx and --to torch know the layers of seqloom's own models, but {reason}.") from None


def graphs(model: Any) -> tuple[Graph, Graph]:
    """The encoder and the step of a model of seqloom's, in evaluation mode, in float32 on the CPU."""
    encoder_class, step_class = FAMILIES[type(model)]
    encoder, step = encoder_class(model).eval(), step_class(model).eval()
    grows = step.grows
    input_ids = torch.arange(15).view(3, 5) % model.config.vocab_size
    attention_mask = (torch.arange(5) < torch.tensor([[5], [4], [2]])).long()
    with torch.no_grad():
        of_source, of_target = encoder(input_ids, attention_mask)
    # Compiled programs go by the strides that they were shown.
    of_source = [kept.contiguous() for kept in of_source]
    of_target = [kept.repeat_interleave(2, 1) for kept in of_target]
    if grows:
        of_target = [kept.repeat_interleave(4, -2) for kept in of_target]
    dim = torch.export.Dim
    sentences, source = dim("sentences", max=2**20), dim("source", max=2**20)
    beams, time = dim("beams", max=2**20), dim("time", max=2**20)
    whole = {0: sentences, 1: source}
    source_names = [f"source_{index}" for index in range(len(of_source))]
    target_names = [f"target_{index}" for index in range(len(of_target))]
    tokens = torch.tensor([[1, 2]] * 3) % model.config.decoder_vocab_size
    shapes = [{0: sentences, 1: beams, **({kept.dim() - 2: time} if grows else {})} for kept in of_target]
    return (
        Graph(
            encoder, (input_ids, attention_mask), (whole, whole),
            ["input_ids", "attention_mask"], [*source_names, *target_names],
        ),
        Graph(
            step,
            (tokens, attention_mask, of_source, of_target, *([torch.tensor([4, 2, 0])] if grows else [])),
            (
                {0: sentences, 1: beams}, whole, [{0: sentences, kept.dim() - 2: source} for kept in of_source],
                shapes, *([{0: sentences}] if grows else []),
            ),
            ["tokens", "attention_mask", *source_names, *target_names, *(["lengths"] if grows else [])],
            ["logits", *(f"new_{name}" for name in target_names)],
        ),
    )  # fmt: skip


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what exporters say of operators that nobody asked for."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
