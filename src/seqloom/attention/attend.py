"""What a model looks at while it writes: attention maps of one sentence, from the model to words.

Maps are the cross-attention of Bahdanau et al. 2015 (arXiv:1409.0473, figure 3) and of every layer and head of a
Transformer (Vaswani et al. 2017, arXiv:1706.03762), whose encoder also attends to the source itself. They come from one
teacher-forced pass over the finished output, so they are the model's own, however the output was found.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedTokenizerBase

from seqloom.attention.maps import AttentionMaps, overview
from seqloom.attention.words import Token, group_words, merge, read_tokens, says_more_by_words, word_labels
from seqloom.decoding.coverage import coverage_beam_search
from seqloom.decoding.limits import check_sources, check_target, within_positions
from seqloom.decoding.loading import GenerativeModel, eager_attention
from seqloom.decoding.options import limited, told_of_strings
from seqloom.modeling.pipeline_seq2seq import ends_of, generated_mask, teacher_forced

if TYPE_CHECKING:
    from matplotlib.figure import Figure


WHAT = ("all", "cross", "self")
"""Maps to choose from."""


@torch.inference_mode()
def attend(
    model: GenerativeModel,
    tokenizer: PreTrainedTokenizerBase,
    sentence: str,
    *,
    target: str | Sequence[int] | None = None,
    words: bool = True,
    coverage_penalty: float = 0.0,
    **generate_kwargs: Any,
) -> AttentionMaps:
    """What the model looks at while it writes its output for a sentence.

    Args:
        model: Any encoder-decoder of transformers that has cross-attention; its mode and its attention's
            implementation are left as they were.
        tokenizer: Its tokenizer.
        sentence: The source.
        target: An output whose maps are wanted instead of the model's own: a text, or the ids of its tokens.
        words: Join the tokens of a word: sources are added up, targets averaged. A side that is one word, of which that
            would show nothing, keeps its tokens. Else the model's tokens.
        coverage_penalty, generate_kwargs: As for `translate`, where there is no ``target``.

    Raises:
        ValueError: The sentence is empty, it or the target is longer than the model's positions reach, or the model has
            no attention over the source.
    """
    if not isinstance(sentence, str) or not sentence.strip():
        raise ValueError(f"the sentence is {sentence!r}, in which there is nothing to look at: give a text.")
    inputs = {name: ids.to(model.device) for name, ids in _encode(tokenizer, sentence).items()}
    check_sources(model, inputs["input_ids"].tolist(), None)
    was_training = model.training
    model.eval()
    try:
        if target is None:
            if coverage_penalty:
                generate_kwargs |= {"custom_generate": coverage_beam_search, "coverage_penalty": coverage_penalty}
            asked = told_of_strings(model, tokenizer, limited(model.generation_config, generate_kwargs))
            sequences = model.generate(**inputs, **within_positions(model, asked))
            sequences = (sequences if torch.is_tensor(sequences) else sequences.sequences)[:1]
        else:
            sequences = _forced(model, tokenizer, target)
        is_generated = generated_mask(sequences, ends_of(model, generate_kwargs))
        with eager_attention(model):
            scores, outputs = teacher_forced(
                model, sequences, **inputs, is_generated=is_generated, output_attentions=True
            )
    finally:
        model.train(was_training)

    length = int(is_generated.sum())
    cross = _stack(getattr(outputs, "cross_attentions", None))
    encoder_self = _stack(getattr(outputs, "encoder_attentions", None))
    if cross is None:
        raise ValueError(_nothing_to_see(model))
    source, columns = read_tokens(tokenizer, inputs["input_ids"][0].tolist(), is_target=False)
    columns = _name_unknown(tokenizer, sentence, columns)
    output, rows = read_tokens(tokenizer, sequences[0, 1 : 1 + length].tolist(), is_target=True)
    sides = {"output": (output, rows), "source": (source, columns)}
    by_tokens = [side for side, (text, tokens) in sides.items() if words and not says_more_by_words(text, tokens)]
    row_groups, column_groups = (
        group_words(text, tokens) if words and side not in by_tokens else [[index] for index in range(len(tokens))]
        for side, (text, tokens) in sides.items()
    )
    if encoder_self is not None and encoder_self.shape[-2] != encoder_self.shape[-1]:
        encoder_self = None  # of windows, as in LongT5: no map of words
    return AttentionMaps(
        source=sentence,
        output=output,
        score=float(scores.sum()),
        source_labels=word_labels(source, columns, column_groups),
        target_labels=word_labels(output, rows, row_groups),
        cross=merge(cross[..., :length, :], row_groups, column_groups),
        encoder_self=None if encoder_self is None else merge(encoder_self, column_groups, column_groups),
        by_tokens=tuple(by_tokens),
    )


def cross_attention_map(
    model: GenerativeModel, tokenizer: PreTrainedTokenizerBase, sentence: str, **options: Any
) -> dict[str, Any]:
    """The last layer's cross-attention, its mean over the heads, as plain values; `draw_map` draws it.

    Args:
        model, tokenizer, sentence, options: As for `attend`.

    Returns:
        ``source`` and ``output``, the texts; ``source_labels`` and ``target_labels``, lists of words; ``weights``, a
        list of rows, one a target word, each with a weight a source word; ``score``, log p of the output in nats.
    """
    found = attend(model, tokenizer, sentence, **options)
    return {
        "source": found.source,
        "output": found.output,
        "source_labels": found.source_labels,
        "target_labels": found.target_labels,
        "weights": found.weights().tolist(),
        "score": found.score,
    }


def attention_figure(
    model: GenerativeModel,
    tokenizer: PreTrainedTokenizerBase,
    sentence: str,
    *,
    what: str = "all",
    layer: int | None = None,
    head: int | None = None,
    font: str | Path | None = None,
    **options: Any,
) -> Figure:
    """The picture of a sentence's maps.

    Args:
        model, tokenizer, sentence, options: As for `attend`.
        what: ``cross``, ``self`` (the encoder's), or ``all`` there is.
        layer, head: Which one is drawn large, counted from 1; default: the last layer, the mean over its heads.
        font: A font file for the labels; default: one is found.

    Raises:
        ValueError: As for `attend`; or there is no such map.
    """
    found = attend(model, tokenizer, sentence, **options)
    check_choice(found, what, layer, head)
    return overview(found, what=what, layer=layer, head=head, font=font)


def check_choice(found: AttentionMaps, what: str, layer: int | None, head: int | None) -> None:
    """Refuses a map that there is not."""
    if what not in WHAT:
        raise ValueError(f"what is {what!r}; it can be {', '.join(WHAT)}.")
    if what == "self" and found.encoder_self is None:
        raise ValueError(
            "what is 'self', but this model's encoder has no self-attention that could be drawn (a recurrent one hands "
            "a state from word to word instead): take cross."
        )
    kinds = [] if what == "self" else [found.cross]
    if what != "cross" and found.encoder_self is not None:
        kinds.append(found.encoder_self)
    for name, value, sizes in (
        ("layer", layer, [weights.shape[0] for weights in kinds]),
        ("head", head, [weights.shape[1] for weights in kinds]),
    ):
        if value is not None and not 1 <= value <= min(sizes):
            raise ValueError(f"{name} is {value}, but there are {name}s 1 to {min(sizes)}: choose one of them.")


def _encode(tokenizer: PreTrainedTokenizerBase, text: str) -> dict[str, torch.Tensor]:
    encoded = tokenizer([text], return_tensors="pt")
    return {name: encoded[name] for name in ("input_ids", "attention_mask")}


def _name_unknown(tokenizer: PreTrainedTokenizerBase, sentence: str, tokens: list[Token]) -> list[Token]:
    """The source's unknown tokens with what was written there, where the tokenizer can tell."""
    if not tokenizer.is_fast or all(token.special != "unknown" for token in tokens):
        return tokens
    spans = tokenizer(sentence, return_offsets_mapping=True)["offset_mapping"]
    return [
        dataclasses.replace(token, special=f"unknown: {said}")
        if token.special == "unknown" and (said := sentence[start:end].strip())
        else token
        for token, (start, end) in zip(tokens, spans, strict=True)
    ]


def _forced(model: GenerativeModel, tokenizer: PreTrainedTokenizerBase, target: str | Sequence[int]) -> torch.Tensor:
    """(1, 1 + target) ids of a given output, after what the decoder starts from."""
    if not (target.strip() if isinstance(target, str) else target):
        raise ValueError("the target is empty: give the output whose maps are wanted, or leave it out.")
    start = model.generation_config.decoder_start_token_id
    start = model.config.decoder_start_token_id if start is None else start
    ids = tokenizer(text_target=target)["input_ids"] if isinstance(target, str) else list(target)
    check_target(model, ids)
    return torch.tensor([[start, *ids]], device=model.device)


def _stack(layers: Sequence[torch.Tensor | None] | None) -> torch.Tensor | None:
    """One sentence's weights of all layers, (layers, heads, rows, columns), on the CPU."""
    found = [weights[0] for weights in layers or () if weights is not None]
    return torch.stack(found).float().cpu() if found else None


def _nothing_to_see(model: GenerativeModel) -> str:
    config = model.config
    attends = getattr(config, "has_cross_attention", None)  # None: a config of another make
    if attends is False and not config.has_recurrent_decoder:
        return (
            f"this model ({config.name_in_words}) does not attend to the source, so there is no map: take one that "
            "does."
        )
    if attends is False:
        return (
            "this model has no attention, so there is no map: all its decoder knows of the source is the encoder's "
            f"last state ({config.hidden_size} numbers a layer, however long the sentence is); train one with "
            "model.attention: luong or bahdanau to see maps."
        )
    return f"{type(model).__name__} returned no cross-attention, so there is no map: take an encoder-decoder that does."
