"""Calls that write outputs of a given length, and the bytes that a sentence takes meanwhile."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from transformers import Cache, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.cache_utils import CacheLayerMixin

from seqloom.decoding.asked import NotOurs, options_for
from seqloom.decoding.engine import decoder_for
from seqloom.decoding.loading import GenerativeModel, Seq2SeqLM
from seqloom.decoding.search import search
from seqloom.decoding.translate import GREEDY
from seqloom.modeling.modeling_seq2seq import CACHE

LIMITS = (
    "max_position_embeddings", "max_encoder_position_embeddings", "max_decoder_position_embeddings",
    "max_source_positions", "max_target_positions",
)  # fmt: skip


def ordinary_ids(tokenizer: PreTrainedTokenizerBase, num_embeddings: int) -> torch.Tensor:
    """Ids of the source vocabulary that stand for text, (ids,)."""
    special = set(tokenizer.all_special_ids)
    return torch.tensor([index for index in range(min(len(tokenizer), num_embeddings)) if index not in special])


def position_limit(config: PreTrainedConfig) -> int | None:
    """The number of positions of a model that has embeddings of them; None for one that reaches any length."""
    parts = [config, *(getattr(config, side, None) for side in ("encoder", "decoder"))]
    limits = [getattr(part, name, None) for part in parts if part is not None for name in LIMITS]
    return min((limit for limit in limits if isinstance(limit, int)), default=None)


def writing(
    model: GenerativeModel, sources: torch.Tensor, length: int, num_beams: int, **inputs: Any
) -> Callable[[], Any]:
    """A call of `generate` that writes exactly ``length`` tokens for every source (batch, source).

    Args:
        inputs: More of `generate`: ``encoder_outputs``, that are then not computed again.
    """
    told = {
        **GREEDY, "num_beams": num_beams, "do_sample": False, "use_cache": True, "return_dict_in_generate": True,
        "min_new_tokens": length, "max_new_tokens": length,
    }  # fmt: skip
    mask = torch.ones_like(sources)

    @torch.inference_mode()
    def call() -> Any:
        outputs = model.generate(input_ids=sources, attention_mask=mask, **told, **inputs)
        check_length(model, outputs.sequences, length)
        return outputs

    return call


def searching(model: GenerativeModel, sources: torch.Tensor, length: int, num_beams: int) -> Callable[[], Any]:
    """The same by the search of `seqloom.translate`, whose decoder is made before; `writing` where it has none."""
    told = GREEDY | {"num_beams": num_beams, "min_new_tokens": length, "max_new_tokens": length}
    try:
        options, decoder = options_for(model, told), decoder_for(model)
    except NotOurs:
        return writing(model, sources, length, num_beams)
    given = sources.tolist()

    @torch.inference_mode()
    def call() -> Any:
        found = dict(search(decoder, given, options, batch_tokens=num_beams * sources.numel()))
        rows = [[options.start_token, *found[place][0].tokens] for place in range(len(given))]
        check_length(model, torch.tensor(rows), length)
        return rows

    return call


def check_length(model: GenerativeModel, sequences: torch.Tensor, length: int) -> None:
    """Refuses outputs (batch, 1 + target) that are shorter or longer, or have ended before.

    Raises:
        ValueError: They are.
    """
    ends = model.generation_config.eos_token_id
    ends = torch.tensor([] if ends is None else ends, device=sequences.device).reshape(-1)
    if sequences.shape[1] != 1 + length or torch.isin(sequences[:, 1:-1], ends).any():
        raise ValueError(
            f"{type(model).__name__} was told to write {length} tokens and wrote {sequences.shape[1] - 1} or ended "
            "before: its generation_config sets a length of its own; remove that, or compare without `generation`."
        )


def weigh(model: Seq2SeqLM, ids: torch.Tensor, lengths: Sequence[int]) -> dict[str, dict[str, Any]]:
    """Bytes that are kept of one sentence at the end of greedy decoding.

    Returns:
        ``cache`` (state, keys and values) for source and output of each length; ``encoder``, the encoder's outputs, for
        the source of each length; ``kept``, what the next token needs of both; ``longer_source`` and
        ``longer_output``, the same where only that one is of the longest length and the other of the shortest. None
        where the model tells of no cache.
    """
    if not lengths:
        return {"bytes": {"kept": {}, "cache": {}, "encoder": {}}}

    @torch.inference_mode()
    def encoded(source: int) -> tuple[torch.Tensor, Any]:
        sources = ids[torch.arange(source) % len(ids)][None].to(model.device)
        return sources, model.get_encoder()(input_ids=sources, attention_mask=torch.ones_like(sources))

    is_read = reads_on(model, *encoded(lengths[0]))

    def held(source: int, target: int) -> tuple[int | None, int | None]:
        sources, outputs = encoded(source)
        written = writing(model, sources, target, 1, encoder_outputs=outputs)()  # which a cache may share tensors with
        cache = getattr(written, CACHE, None)
        if cache is None:
            return None, None
        return num_bytes([cache, outputs.last_hidden_state] if is_read else cache), num_bytes(cache)

    short, long = lengths[0], lengths[-1]
    of_lengths = {str(length): held(length, length) for length in lengths}
    return {
        "bytes": {
            "kept": {length: kept for length, (kept, _) in of_lengths.items()},
            "cache": {length: cache for length, (_, cache) in of_lengths.items()},
            "encoder": {str(length): num_bytes(dict(encoded(length)[1])) for length in lengths},
            "longer_source": held(long, short)[0],
            "longer_output": held(short, long)[0],
        }
    }


@torch.inference_mode()
def reads_on(model: Seq2SeqLM, sources: torch.Tensor, encoded: Any) -> bool:
    """Whether a step after the first one reads the encoder's last hidden states still, and not the cache alone.

    Tried: they are made no numbers after the first step, and the second one's logits say whether they were read.
    """
    start = model.generation_config.decoder_start_token_id
    start = model.config.decoder_start_token_id if start is None else start
    step = torch.full((1, 1), start or 0, device=sources.device)
    told = {"attention_mask": torch.ones_like(sources), "use_cache": True}
    first = model(encoder_outputs=encoded, decoder_input_ids=step, **told)
    spoilt = type(encoded)(**{**encoded, "last_hidden_state": torch.full_like(encoded.last_hidden_state, math.nan)})
    second = model(encoder_outputs=spoilt, decoder_input_ids=step, **told, **{CACHE: getattr(first, CACHE)})
    return bool(second.logits.isnan().any())


def num_bytes(kept: Any) -> int:
    """Of all tensors in a cache, its layers, lists and dicts; one that is found twice is counted once."""

    def tensors(thing: Any) -> Iterator[torch.Tensor]:
        if torch.is_tensor(thing):
            yield thing
        elif isinstance(thing, (Cache, CacheLayerMixin)):
            yield from tensors(vars(thing))
        elif isinstance(thing, dict):
            yield from tensors(list(thing.values()))
        elif isinstance(thing, (list, tuple)):
            for part in thing:
                yield from tensors(part)

    return sum(tensor.nbytes for tensor in {id(tensor): tensor for tensor in tensors(kept)}.values())
