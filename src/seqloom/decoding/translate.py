"""Texts in, texts out, for any seq2seq model of transformers: sorted by length, batched by tokens, order restored.

`translate` takes one text, a list or an endless iterator.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, overload

import torch
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from seqloom.data.tokenization import target_tokenizer
from seqloom.decoding.asked import NotOurs, allowed_behind, for_batch, lengths_of, options_for, refuse_of_rows
from seqloom.decoding.coverage import coverage_beam_search, coverage_order
from seqloom.decoding.engine import decoder_for, tell
from seqloom.decoding.exported import ExportedModel
from seqloom.decoding.limits import check_sources, source_positions, within_positions
from seqloom.decoding.loading import GenerativeModel, eager_attention
from seqloom.decoding.options import limited, told_of_strings
from seqloom.decoding.search import Decoder, search
from seqloom.modeling.configuration_seq2seq import Seq2SeqConfig
from seqloom.modeling.pipeline_seq2seq import teacher_forced

GREEDY: dict[str, Any] = {"num_beams": 1, "early_stopping": False, "length_penalty": 1.0, "do_sample": False}
"""Greedy search, whatever the model's generation config says of beams and of drawing."""


@dataclass(frozen=True)
class Hypothesis:
    """One output, and what the model thinks of it."""

    text: str
    score: float
    """log p(output | source) in nats: the sum of ``token_scores``, not divided by any length."""
    source_tokens: list[str]
    target_tokens: list[str]
    """The end token included, if it was reached."""
    token_scores: list[float] = field(repr=False)
    """log p of every target token, given those before it."""
    cross_attentions: torch.Tensor | None = field(default=None, repr=False)
    """(layers, heads, target, source), each row adding up to 1; on the CPU."""


# What it gives is known before it runs: a text, a list or an iterator, of texts or of hypotheses. The last one is for
# lists of outputs of each source, for sources of other types, and for options that are known only then.
@overload
def translate(
    model: GenerativeModel, tokenizer: PreTrainedTokenizerBase, sources: str, *,
    batch_tokens: int = ..., read_ahead: int = ..., coverage_penalty: float = ..., dtype: str | None = ...,
    decoder: Decoder | None = ..., target_prefix: str | Sequence[str] = ..., progress: bool = ...,
    return_hypotheses: Literal[False] = ..., output_attentions: Literal[False] = ...,
    num_return_sequences: Literal[1] | None = ..., return_tokens: Literal[False] = ..., **generate_kwargs: Any,
) -> str: ...  # fmt: skip
@overload
def translate(
    model: GenerativeModel, tokenizer: PreTrainedTokenizerBase, sources: list[str] | tuple[str, ...], *,
    batch_tokens: int = ..., read_ahead: int = ..., coverage_penalty: float = ..., dtype: str | None = ...,
    decoder: Decoder | None = ..., target_prefix: str | Sequence[str] = ..., progress: bool = ...,
    return_hypotheses: Literal[False] = ..., output_attentions: Literal[False] = ...,
    num_return_sequences: Literal[1] | None = ..., return_tokens: Literal[False] = ..., **generate_kwargs: Any,
) -> list[str]: ...  # fmt: skip
@overload
def translate(
    model: GenerativeModel, tokenizer: PreTrainedTokenizerBase, sources: Iterator[str], *,
    batch_tokens: int = ..., read_ahead: int = ..., coverage_penalty: float = ..., dtype: str | None = ...,
    decoder: Decoder | None = ..., target_prefix: str | Sequence[str] = ..., progress: bool = ...,
    return_hypotheses: Literal[False] = ..., output_attentions: Literal[False] = ...,
    num_return_sequences: Literal[1] | None = ..., return_tokens: Literal[False] = ..., **generate_kwargs: Any,
) -> Iterator[str]: ...  # fmt: skip
@overload
def translate(
    model: GenerativeModel, tokenizer: PreTrainedTokenizerBase, sources: str, *,
    batch_tokens: int = ..., read_ahead: int = ..., coverage_penalty: float = ..., dtype: str | None = ...,
    decoder: Decoder | None = ..., target_prefix: str | Sequence[str] = ..., progress: bool = ...,
    return_hypotheses: Literal[True], output_attentions: bool = ...,
    num_return_sequences: Literal[1] | None = ..., return_tokens: Literal[False] = ..., **generate_kwargs: Any,
) -> Hypothesis: ...  # fmt: skip
@overload
def translate(
    model: GenerativeModel, tokenizer: PreTrainedTokenizerBase, sources: list[str] | tuple[str, ...], *,
    batch_tokens: int = ..., read_ahead: int = ..., coverage_penalty: float = ..., dtype: str | None = ...,
    decoder: Decoder | None = ..., target_prefix: str | Sequence[str] = ..., progress: bool = ...,
    return_hypotheses: Literal[True], output_attentions: bool = ...,
    num_return_sequences: Literal[1] | None = ..., return_tokens: Literal[False] = ..., **generate_kwargs: Any,
) -> list[Hypothesis]: ...  # fmt: skip
@overload
def translate(
    model: GenerativeModel, tokenizer: PreTrainedTokenizerBase, sources: Iterator[str], *,
    batch_tokens: int = ..., read_ahead: int = ..., coverage_penalty: float = ..., dtype: str | None = ...,
    decoder: Decoder | None = ..., target_prefix: str | Sequence[str] = ..., progress: bool = ...,
    return_hypotheses: Literal[True], output_attentions: bool = ...,
    num_return_sequences: Literal[1] | None = ..., return_tokens: Literal[False] = ..., **generate_kwargs: Any,
) -> Iterator[Hypothesis]: ...  # fmt: skip
@overload
def translate(
    model: GenerativeModel, tokenizer: PreTrainedTokenizerBase, sources: str | Iterable[str], *,
    batch_tokens: int = ..., read_ahead: int = ..., coverage_penalty: float = ..., dtype: str | None = ...,
    decoder: Decoder | None = ..., target_prefix: str | Sequence[str] = ..., progress: bool = ...,
    return_hypotheses: bool = ..., return_tokens: bool = ..., output_attentions: bool = ..., **generate_kwargs: Any,
) -> Any: ...  # fmt: skip
def translate(
    model: GenerativeModel,
    tokenizer: PreTrainedTokenizerBase,
    sources: str | Iterable[str],
    *,
    batch_tokens: int = 4096,
    read_ahead: int = 10_000,
    return_hypotheses: bool = False,
    return_tokens: bool = False,
    output_attentions: bool = False,
    coverage_penalty: float = 0.0,
    dtype: str | None = None,
    decoder: Decoder | None = None,
    target_prefix: str | Sequence[str] = "",
    progress: bool = False,
    **generate_kwargs: Any,
) -> Any:
    """The model's output for every source, whatever company each was decoded in.

    One model serves one call at a time: it is put into evaluation mode, for attentions onto eager attention, and back.

    Args:
        model: Any encoder-decoder with ``generate``; its mode (train or eval) is left as it was.
        tokenizer: Its tokenizer.
        sources: A text, which gives an output; a list of them (or any other sized collection), which gives a list; or
            an iterator, which gives an iterator and may be endless. Texts may have any lengths.
        batch_tokens: Padded source tokens decoded together, each counted once for every beam.
        read_ahead: Texts that are sorted by length among themselves, and held at a time.
        return_hypotheses: Give a `Hypothesis` instead of a text: with scores and tokens.
        return_tokens: Give a text and the ids of its tokens, the end token included if it was reached, which costs
            nothing more.
        output_attentions: And with the cross-attention; implies ``return_hypotheses``.
        coverage_penalty: β of Wu et al. 2016; more than 0 re-ranks the beams by `coverage_beam_search`.
        dtype: ``"float32"``, ``"bfloat16"`` or, on a CPU, ``"int8"``, of a model of seqloom's; default: its own. The
            last two are faster where the processor has them, and may choose other words.
        decoder: What `decoder_for` made of the model, for many calls with weights that stay as they are: otherwise each
            call makes one.
        target_prefix: A text that every output begins with, or of a list of sources one for each.
        progress: Show a bar.
        generate_kwargs: For `generate`, beyond the model's own generation config; where neither limits the length, it
            is 256 tokens, and none reaches beyond the model's positions. With ``num_return_sequences`` above 1 every
            source has a list of outputs, the best first.

    Returns:
        An output, a list or an iterator of outputs, as the sources are, in their order.

    Raises:
        ValueError: A source is no text, or longer than the model's positions reach; or `generate` does not take the
            arguments.
    """
    for name, value in (("batch_tokens", batch_tokens), ("read_ahead", read_ahead)):
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be 1 or more.")
    if not 0 <= coverage_penalty < float("inf"):
        raise ValueError(f"coverage_penalty is {coverage_penalty}; it must be 0 (none) or more.")
    if coverage_penalty:
        generate_kwargs |= {"custom_generate": coverage_beam_search, "coverage_penalty": coverage_penalty}
    if decoder is not None and dtype is not None:
        raise ValueError(f"dtype is {dtype!r}, but the decoder that is given has its own: leave one of them out.")
    total = 1 if isinstance(sources, str) else len(sources) if isinstance(sources, Sized) else None
    if not isinstance(target_prefix, str) and len(target_prefix) != total:
        raise ValueError(
            f"target_prefix has {len(target_prefix):,} texts for {'an iterator' if total is None else f'{total:,}'} "
            "of sources; give one for each of a list, or a single text for all."
        )
    if return_tokens and (return_hypotheses or output_attentions):
        raise ValueError("return_tokens is given with hypotheses, which have their tokens: leave it out.")
    how = _How(batch_tokens, return_hypotheses, return_tokens, output_attentions, dtype, decoder)

    def outputs() -> Iterator[Any]:
        texts = iter([sources] if isinstance(sources, str) else sources)
        bar = tqdm(total=total, desc="decoding", unit=" sentences", disable=not progress, dynamic_ncols=True)
        first = 1
        with bar:
            while window := list(itertools.islice(texts, read_ahead)):
                encoded = _encoded(model, tokenizer, window, None if isinstance(sources, str) else first)
                texts_before = target_prefix
                if not isinstance(target_prefix, str):
                    texts_before = target_prefix[first - 1 : first - 1 + len(window)]
                prefixes = _prefixes(tokenizer, texts_before, len(window))
                asked = dict(generate_kwargs)
                if allowed := asked.get("prefix_allowed_tokens_fn"):
                    asked["prefix_allowed_tokens_fn"] = partial(allowed_behind, first - 1, allowed)
                yield from _decode(model, tokenizer, encoded, how, prefixes, bar, asked)
                first += len(window)

    if total is not None and total > read_ahead and source_positions(model) is not None:
        _encoded(model, tokenizer, list(sources), 1)  # what cannot be read shows before anything is decoded
    if isinstance(sources, str):
        return next(outputs())
    return outputs() if total is None else list(outputs())


def _encoded(
    model: GenerativeModel, tokenizer: PreTrainedTokenizerBase, texts: list[str], first: int | None
) -> list[list[int]]:
    """The ids of sources that the model can read; ``first`` as for `check_sources`."""
    for text in texts:
        if not isinstance(text, str):
            raise ValueError(f"sources are texts, but one of them is {text!r}.")
    encoded = tokenizer(texts)["input_ids"]
    check_sources(model, encoded, first)
    return encoded


@dataclass
class _How:
    """What `translate` was asked for."""

    batch_tokens: int
    return_hypotheses: bool
    return_tokens: bool
    output_attentions: bool
    dtype: str | None
    decoder: Decoder | None
    """Made when it is first needed, once a call."""


def _prefixes(
    tokenizer: PreTrainedTokenizerBase, texts: str | Sequence[str], num_sources: int
) -> list[list[int]] | None:
    """Ids that outputs begin with; None where there are none."""
    given = [texts] * num_sources if isinstance(texts, str) else list(texts)
    if not any(given):
        return None
    return target_tokenizer(tokenizer)(given, add_special_tokens=False)["input_ids"]


@torch.inference_mode()
def _decode(
    model: GenerativeModel,
    tokenizer: PreTrainedTokenizerBase,
    encoded: list[list[int]],
    how: _How,
    prefixes: list[list[int]] | None,
    bar: tqdm,
    generate_kwargs: dict[str, Any],
) -> list[Any]:
    """All outputs of the texts that are held at a time."""
    generate_kwargs = within_positions(model, limited(model.generation_config, generate_kwargs))
    outputs: list[Any] = [None] * len(encoded)
    was_training = model.training
    model.eval()
    try:
        for batch, sequences, lengths, inputs in _found(model, tokenizer, encoded, how, prefixes, generate_kwargs):
            found: list[str] | list[Hypothesis] | list[tuple[str, list[int]]]
            if how.return_hypotheses or how.output_attentions:
                found = _hypotheses(model, tokenizer, sequences, lengths, inputs, how.output_attentions)
            else:
                found = _texts(tokenizer, sequences, lengths)
                if how.return_tokens:
                    rows = zip(sequences.tolist(), lengths, strict=True)
                    found = [(text, ids[1 : 1 + length]) for text, (ids, length) in zip(found, rows, strict=True)]
            num_returned = len(found) // len(batch)
            for row, index in enumerate(batch):
                mine = found[row * num_returned : (row + 1) * num_returned]
                outputs[index] = mine if num_returned > 1 else mine[0]
            bar.update(len(batch))
    finally:
        model.train(was_training)
    return outputs


def _found(
    model: GenerativeModel,
    tokenizer: PreTrainedTokenizerBase,
    encoded: list[list[int]],
    how: _How,
    prefixes: list[list[int]] | None,
    generate_kwargs: dict[str, Any],
) -> Iterator[tuple[list[int], torch.Tensor, list[int], dict[str, torch.Tensor]]]:
    """Places of sources, their outputs (places · returned, 1 + target), how many tokens each has, the end included, and
    padded inputs, some at a time.

    By the search of `seqloom.decoding.search`, if it has what is asked; else by the model's own `generate`.
    """

    def inputs_of(batch: list[int]) -> dict[str, torch.Tensor]:
        padded = tokenizer.pad({"input_ids": [encoded[index] for index in batch]}, return_tensors="pt")
        return {name: padded[name].to(model.device) for name in ("input_ids", "attention_mask")}

    try:
        given = dict(generate_kwargs)
        penalty = given.pop("coverage_penalty", 0.0)
        if isinstance(model, ExportedModel):
            if how.dtype is not None:
                raise ValueError(model.refusal(f"compute in {how.dtype}, another dtype than it was exported in"))
            options = model.asked(generate_kwargs)
            search_by = model.search
        else:
            if penalty:
                del given["custom_generate"]
            options = options_for(model, given)
            if penalty and options.num_beams < 2:
                raise NotOurs("there are no beams to rank")
            how.decoder = how.decoder or decoder_for(model, how.dtype)
            search_by = partial(search, how.decoder)
    except NotOurs as reason:
        ours = {f"dtype={how.dtype!r}": how.dtype, "decoder": how.decoder, "target_prefix": prefixes}
        if asked := [name for name, value in ours.items() if value is not None]:
            raise ValueError(f"{asked[0]} is for seqloom's own search, but {reason}.") from None
        if isinstance(model.config, Seq2SeqConfig):
            tell(str(reason))
    else:
        whole: Any = model  # one of seqloom's
        num_returned = options.num_return_sequences
        if penalty:  # the best are known when all are ranked
            options = replace(options, num_return_sequences=options.num_beams)
        done = search_by(encoded, options, batch_tokens=how.batch_tokens, prefixes=prefixes)
        while some := list(itertools.islice(done, 64)):
            batch = [index for index, _ in some]
            rows = [[options.start_token, *candidate.tokens] for _, found in some for candidate in found]
            width = max(map(len, rows))
            padded = [row + [options.pad_token] * (width - len(row)) for row in rows]
            sequences, inputs = torch.tensor(padded, device=model.device), inputs_of(batch)
            lengths = torch.tensor([len(row) for row in rows], device=model.device)
            if penalty:
                scores = torch.tensor([[beam.score for beam in found] for _, found in some], device=model.device)
                ranks = coverage_order(whole, sequences, lengths, scores, inputs, options.eos_tokens, penalty)
                first_rows = torch.arange(0, len(rows), options.num_beams, device=model.device)[:, None]
                best = (ranks + first_rows)[:, :num_returned].flatten()
                sequences, lengths = sequences[best], lengths[best]
            yield batch, sequences, (lengths - 1).tolist(), inputs
        return
    refuse_of_rows(generate_kwargs, len(encoded))
    generate_kwargs = told_of_strings(model, tokenizer, generate_kwargs)
    order = sorted(range(len(encoded)), key=lambda index: len(encoded[index]), reverse=True)  # the largest batch first
    config = generate_kwargs.get("generation_config") or model.generation_config
    num_beams = generate_kwargs.get("num_beams") or config.num_beams or 1
    for batch in _batches(order, encoded, max(1, how.batch_tokens // num_beams)):
        inputs = inputs_of(batch)
        found = model.generate(**inputs, **for_batch(generate_kwargs, batch, num_beams))
        sequences = found if torch.is_tensor(found) else found.sequences  # (batch · returned, 1 + target)
        yield batch, sequences, lengths_of(model, sequences, generate_kwargs), inputs


def _texts(tokenizer: PreTrainedTokenizerBase, sequences: torch.Tensor, lengths: list[int]) -> list[str]:
    """The outputs' texts, without what lies behind them."""
    rows = [ids[: 1 + length] for ids, length in zip(sequences.tolist(), lengths, strict=True)]
    return tokenizer.batch_decode(rows, skip_special_tokens=True)


def _batches(order: list[int], encoded: list[list[int]], budget: int) -> Iterator[list[int]]:
    """Cuts sources, longest first, into batches of at most ``budget`` padded tokens."""
    rest = iter(order)
    for first in rest:
        rows = max(1, budget // max(1, len(encoded[first])))
        yield [first, *itertools.islice(rest, rows - 1)]


def _hypotheses(
    model: GenerativeModel,
    tokenizer: PreTrainedTokenizerBase,
    sequences: torch.Tensor,
    lengths: list[int],
    inputs: dict[str, torch.Tensor],
    output_attentions: bool,
) -> list[Hypothesis]:
    """Scores and maps by one pass of teacher forcing: they are the model's own, however the sequences were found."""
    outputs: Any = None
    if isinstance(model, ExportedModel):
        if output_attentions:
            raise ValueError(model.refusal("give attentions"))
        scores = _scores_of(model, sequences, lengths, **inputs)
    else:
        with eager_attention(model) if output_attentions else contextlib.nullcontext():
            options: dict[str, Any] = {"output_attentions": True} if output_attentions else {}
            places = torch.arange(sequences.shape[1] - 1, device=sequences.device)
            is_generated = places < torch.tensor(lengths, device=sequences.device)[:, None]
            scores, outputs = teacher_forced(model, sequences, **inputs, is_generated=is_generated, **options)
    texts = _texts(tokenizer, sequences, lengths)
    maps = None
    given = getattr(outputs, "cross_attentions", None) or ()
    if output_attentions and (layers := [weights for weights in given if weights is not None]):
        maps = torch.stack(layers, dim=1)  # (batch · returned, layers, heads, target, source)
    returned = sequences.shape[0] // inputs["input_ids"].shape[0]
    hypotheses = []
    for row, (ids, length) in enumerate(zip(sequences, lengths, strict=True)):
        is_token = inputs["attention_mask"][row // returned].bool()
        token_scores = scores[row, :length].tolist()
        hypotheses.append(
            Hypothesis(
                text=texts[row],
                score=sum(token_scores),
                source_tokens=_tokens(tokenizer, inputs["input_ids"][row // returned][is_token].tolist()),
                target_tokens=_tokens(target_tokenizer(tokenizer), ids[1 : 1 + length].tolist()),
                token_scores=token_scores,
                cross_attentions=None if maps is None else maps[row, :, :, :length][..., is_token].float().cpu(),
            )
        )
    return hypotheses


def _scores_of(
    model: ExportedModel,
    sequences: torch.Tensor,
    lengths: list[int],
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
) -> torch.Tensor:
    """What `teacher_forced` gives, by an exported model: log p (batch · returned, target), 0 after the end."""
    returned = len(sequences) // len(input_ids)
    sources = [ids[mask.bool()].tolist() for ids, mask in zip(input_ids, attention_mask, strict=True)]
    targets = [ids[1 : 1 + length].tolist() for ids, length in zip(sequences, lengths, strict=True)]
    each = model.score([ids for ids in sources for _ in range(returned)], targets, int(sequences[0, 0]))
    scores = torch.zeros(len(targets), sequences.shape[1] - 1)
    for row, mine in enumerate(each):
        scores[row, : len(mine)] = torch.tensor(mine)
    return scores


def _tokens(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[str]:
    tokens = tokenizer.convert_ids_to_tokens(ids)
    assert isinstance(tokens, list)  # of one id it would be a text
    return tokens
