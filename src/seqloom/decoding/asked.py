"""What `generate` would search, given a model's generation config and arguments, as far as our own searches have it.

And how it is asked for the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import GenerationConfig
from transformers.generation import GenerationMode

from seqloom.decoding.targets import SearchOptions
from seqloom.modeling.pipeline_seq2seq import ends_of, generated_mask

KNOWN = {
    "num_beams", "num_return_sequences", "length_penalty", "early_stopping", "max_length", "max_new_tokens",
    "min_length", "min_new_tokens", "no_repeat_ngram_size", "do_sample", "temperature", "top_k", "top_p",
}  # fmt: skip
"""Options of `generate` that the search has."""
WITHOUT_EFFECT = {
    "use_cache", "pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id", "transformers_version",
    "_from_model_config", "return_dict_in_generate", "output_scores",
}  # fmt: skip
"""Options that it reads elsewhere, or that change no token."""


class NotOurs(Exception):
    """Why a search is left to `generate`."""


class NotHere(ValueError):
    """An exported folder is whole, but not for this machine; the message is a sentence that says what to do."""


def options_for(model: Any, generate_kwargs: dict[str, Any]) -> SearchOptions:
    """What `generate` would search, given the model's generation config and its arguments.

    Raises:
        NotOurs: Something in them is not in `SearchOptions`; the message has its name.
        ValueError: As `generate` does.
    """
    given = dict(generate_kwargs)
    config: GenerationConfig | None = given.pop("generation_config", None)
    is_default = {
        name: given.get(name) is None
        and getattr(config, name, None) is None
        and getattr(model.generation_config, name) is None
        for name in ("max_length", "min_length")
    }
    config, others = model._prepare_generation_config(config, **given)
    if others := [name for name, value in others.items() if value is not None]:
        raise NotOurs(f"{others[0]} is given")
    config = model._prepare_generated_length(
        config, is_default["max_length"], is_default["min_length"], "input_ids", 1, None
    )
    assert config is not None
    if config.max_length < 2:
        raise ValueError(
            f"max_length is {config.max_length}, which counts the token that an output begins with: give 2 or more, or "
            "max_new_tokens."
        )
    if config.num_beams is not None and config.num_beams < 1:
        raise ValueError(f"num_beams is {config.num_beams}; it must be 1 or more.")
    inert = GenerationConfig().to_dict() | config._get_default_generation_params()
    for name, value in config.to_dict().items():
        if name in KNOWN | WITHOUT_EFFECT or value is None or value is False:
            continue
        if value != inert.get(name):
            raise NotOurs(f"{name} is {value!r}")
    mode = config.get_generation_mode()
    if mode not in (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE, GenerationMode.BEAM_SEARCH):
        raise NotOurs(f"the mode is {mode.value}")
    model._validate_generation_mode(mode, config, {})
    model._prepare_special_tokens(config, True, device="cpu")
    assert config._decoder_start_token_tensor is not None  # `generate` refuses that
    starts = config._decoder_start_token_tensor.flatten().tolist()
    if len(starts) != 1:
        raise NotOurs("there is a start token for each row")
    return SearchOptions(
        start_token=starts[0],
        eos_tokens=() if config._eos_token_tensor is None else tuple(config._eos_token_tensor.flatten().tolist()),
        pad_token=int(config._pad_token_tensor or 0),
        max_new_tokens=config.max_length - 1,
        min_new_tokens=max(0, (config.min_length or 0) - 1),
        num_beams=config.num_beams,
        num_return_sequences=config.num_return_sequences,
        length_penalty=config.length_penalty,
        early_stopping=config.early_stopping,
        no_repeat_ngram_size=config.no_repeat_ngram_size or 0,
        do_sample=config.do_sample,
        temperature=config.temperature,
        top_k=config.top_k or 0,
        top_p=config.top_p,
    )


def allowed_behind(number: int, allowed: Callable[[int, torch.Tensor], list[int]], place: int, ids: Any) -> list[int]:
    """What is allowed of a source behind so many others."""
    return allowed(number + place, ids)


OF_ROWS = ("decoder_input_ids", "decoder_attention_mask", "decoder_inputs_embeds", "encoder_outputs", "inputs_embeds")
"""Arguments of `generate` that have a row for each row of its batch."""


def refuse_of_rows(generate_kwargs: dict[str, Any], num_sources: int) -> None:
    """Sources are sorted and cut into batches here, of which the caller's rows know nothing."""
    start = generate_kwargs.get("decoder_start_token_id")
    given = [name for name in OF_ROWS if generate_kwargs.get(name) is not None]
    if start is not None and torch.as_tensor(start).numel() > 1:
        given.append("decoder_start_token_id, of several tokens,")
    if given and num_sources > 1:
        raise ValueError(
            f"{given[0]} has a row for each of a batch, but {num_sources:,} sources are decoded in batches of "
            "translate's own: give target_prefix, which follows the sources, or one source at a time, or call generate."
        )


def for_batch(generate_kwargs: dict[str, Any], batch: list[int], num_beams: int) -> dict[str, Any]:
    """The arguments for one batch, in which ``prefix_allowed_tokens_fn`` is told the source's place among all."""
    allowed = generate_kwargs.get("prefix_allowed_tokens_fn")
    if allowed is None:
        return generate_kwargs
    rows = 1 if num_beams > 1 else generate_kwargs.get("num_return_sequences") or 1  # which repeat a source

    def allowed_here(row: int, ids: torch.Tensor) -> list[int]:
        return allowed(batch[row // rows], ids)

    return generate_kwargs | {"prefix_allowed_tokens_fn": allowed_here}


def lengths_of(model: Any, sequences: torch.Tensor, generate_kwargs: dict[str, Any]) -> list[int]:
    """How many tokens each output of `generate` has: to its first end, and no padding behind another stop."""
    is_generated = generated_mask(sequences, ends_of(model, generate_kwargs))
    pad = generate_kwargs.get("pad_token_id", model.generation_config.pad_token_id)
    if pad is not None and ("tokenizer" in generate_kwargs or generate_kwargs.get("stopping_criteria")):
        is_text = sequences[:, 1:] != pad
        is_generated &= is_text.flip(-1).cumsum(-1).flip(-1) > 0  # something but padding is to come
    return is_generated.sum(-1).tolist()
