"""Options of ``generate``, judged before anything is decoded: unknown ones, contradictions, those without any effect.

transformers warns of some of them and leaves them out; here what is given holds, or one sentence says why it cannot.
"""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase

from seqloom.data.tokenization import target_tokenizer
from seqloom.decoding.coverage import coverage_beam_search
from seqloom.decoding.exported import ExportedModel
from seqloom.decoding.loading import DEFAULT_MAX_NEW_TOKENS, GenerativeModel
from seqloom.decoding.values import SAMPLING, check_given
from seqloom.settings.schema import GenerationSettings
from seqloom.support.wording import nearest

BEAMS = {"length_penalty": 1.0, "early_stopping": False}
"""The same of what needs more beams than one."""
GONE = ("constraints", "force_words_ids", "num_beam_groups", "diversity_penalty", "penalty_alpha", "dola_layers",
        "low_memory")  # fmt: skip
"""Searches that transformers 5 no longer has: it would run code of the Hub in their place."""
LENGTHS = (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens"))
"""Limits that count the token which an output begins with, and those that do not."""
IDS = ("bad_words_ids", "suppress_tokens", "begin_suppress_tokens")


def options_of(generation: GenerationSettings) -> dict[str, Any]:
    """All that a run's settings say to ``generate``."""
    names = (f.name for f in dataclasses.fields(generation))
    given = {
        name: getattr(generation, name)
        for name in names
        if name not in ("decode_batch_tokens", "decode_dtype", "generate_kwargs")
    }
    return {name: value for name, value in given.items() if value is not None} | generation.generate_kwargs


def limited(config: GenerationConfig, given: dict[str, Any]) -> dict[str, Any]:
    """The arguments of ``generate`` with a limit of length where neither they nor the model have one: whoever decodes
    with a model ends its outputs at the same length. The model's own ``config`` fills what one among
    them leaves open."""
    configs = (given.get("generation_config"), config)
    for name in ("max_new_tokens", "max_length"):
        if given.get(name) or any(getattr(one, name, None) for one in configs):
            return given
    return given | {"max_new_tokens": DEFAULT_MAX_NEW_TOKENS}


def told_of_strings(
    model: GenerativeModel, tokenizer: PreTrainedTokenizerBase, given: dict[str, Any]
) -> dict[str, Any]:
    """The arguments of ``generate``, with the tokenizer that ``stop_strings`` need where there are any."""
    configs = (given.get("generation_config"), model.generation_config)
    if given.get("stop_strings") or any(getattr(config, "stop_strings", None) for config in configs):
        return given | {"tokenizer": target_tokenizer(tokenizer)}
    return given


def check_options(
    config: GenerationConfig, given: dict[str, Any], *, several: bool = False, is_own: bool = False
) -> None:
    """Refuses options that are unknown, contradict each other, are outranked, or change nothing.

    Args:
        config: The model's own, which holds where nothing is given.
        given: Arguments of ``generate``, and the coverage penalty.
        several: Each source may have several outputs.
        is_own: The model is of a family of seqloom's, with which a length that is given goes before the model's own,
            however the two are counted; with others ``max_new_tokens`` goes before ``max_length``, whoever gives it.

    Raises:
        ValueError: There is such an option; the message says which and what to do.
    """
    check_values(given)
    whole = copy.deepcopy(config)
    whole.update(**{name: value for name, value in given.items() if name != "coverage_penalty"})
    if is_own:
        for name in outranked(given):
            setattr(whole, name, None)
    _check_lengths(whole, given)
    _check_effects(whole, given)
    for name in GONE:
        value = getattr(whole, name, None)
        if value not in (None, 0, [], 1 if name == "num_beam_groups" else None):
            raise ValueError(
                f"the model's own generation_config.json has {name} {value!r}, of a search that transformers has no "
                f"longer: to decode without it, give {{{name}: null}} in generation.generate_kwargs."
            )
    if not several and (whole.num_return_sequences or 1) > 1:
        raise ValueError(
            f"num_return_sequences is {whole.num_return_sequences}, but every source has one output here: leave it out"
            + ("." if "num_return_sequences" in given else ", or set it to 1, since the model's own config has it.")
        )
    try:
        whole.validate()
    except (ValueError, TypeError) as error:
        raise ValueError(f"generation: {' '.join(str(error).split())}") from None


def check_values(given: dict[str, Any]) -> None:
    """Refuses, without a model, options that are unknown or cannot be what they are.

    Raises:
        ValueError: There is one.
    """
    known = {name for name in vars(GenerationConfig()) if not name.startswith("_")} - {"transformers_version"}
    for name, value in given.items():
        if name not in known | {"coverage_penalty"}:
            near = nearest(name, known)
            hint = f"; did you mean {near}?" if near else "."
            raise ValueError(f"generation.generate_kwargs has {name}, which generate does not know{hint}")
        if name in GONE and value is not None:
            raise ValueError(
                f"generation.generate_kwargs has {name}, of a search that transformers has no longer: take it out."
            )
        check_given(name, value)


def outranked(given: dict[str, Any]) -> list[str]:
    """Limits of a model's own in whose place others are given, which count the token that an output begins with."""
    return [new for total, new in LENGTHS if given.get(total) is not None and given.get(new) is None]


def _check_lengths(whole: GenerationConfig, given: dict[str, Any]) -> None:
    for shorter, longer in LENGTHS:
        outranking = getattr(whole, longer)
        if given.get(shorter) is not None and outranking is not None:
            origin = "given too" if given.get(longer) is not None else "the model's own"
            raise ValueError(
                f"generation.{shorter} is {given[shorter]}, but {longer}, which goes before it, is {outranking} "
                f"({origin}): give {longer} alone, which does not count the token that an output begins with."
            )
    least, most = whole.min_new_tokens, whole.max_new_tokens
    if least is not None and most is not None and least > most and {"min_new_tokens", "max_new_tokens"} & given.keys():
        raise ValueError(f"generation.min_new_tokens is {least}, more than max_new_tokens, {most}: no output is both.")


def _check_effects(whole: GenerationConfig, given: dict[str, Any]) -> None:
    for name, idle in SAMPLING.items():
        if given.get(name) not in (None, idle) and whole.do_sample is not True:
            raise ValueError(
                f"generation.{name} is {given[name]!r}, but outputs are not drawn: set do_sample to true in "
                f"generation.generate_kwargs, or leave {name} out."
            )
    for name, idle in (BEAMS | {"coverage_penalty": 0.0}).items():
        if given.get(name) not in (None, idle) and (whole.num_beams or 1) == 1:
            raise ValueError(
                f"generation.{name} is {given[name]!r}, which ranks beams, but generation.num_beams is 1: set that to "
                "2 or more, or leave it out."
            )


def check_ids(model: GenerativeModel, given: dict[str, Any]) -> None:
    """Refuses ids of tokens that the model's vocabulary has not.

    Raises:
        ValueError: There is one, or something else than an id.
    """
    output = model.get_output_embeddings()
    if output is not None:
        size = output.weight.shape[0]
    else:
        size = getattr(model.config, "decoder_vocab_size", None) or model.config.vocab_size
    for name, value in given.items():
        if value is None or not (name.endswith("_token_id") or name in IDS):
            continue
        for number in _flat(value):
            if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < size:
                raise ValueError(
                    f"generation.{name} has {number!r}; ids of the model's tokens are whole numbers from 0 to "
                    f"{size - 1:,}."
                )


def _flat(value: Any) -> Iterator[Any]:
    for item in value if isinstance(value, list | tuple) else [value]:
        if isinstance(item, list | tuple):
            yield from _flat(item)
        else:
            yield item


@torch.inference_mode()
def try_options(model: GenerativeModel, tokenizer: PreTrainedTokenizerBase, given: dict[str, Any]) -> None:
    """Generates two tokens with the options, since what a search makes of some of them only it tells.

    Args:
        model, tokenizer: As for `translate`; the model's mode is left as it was.
        given: Arguments of ``generate``, and the coverage penalty.

    Raises:
        ValueError: ``generate`` does not take them.
    """
    check_ids(model, given)
    tried = copy.deepcopy({name: value for name, value in given.items() if name != "coverage_penalty"})
    if given.get("coverage_penalty"):
        tried |= {"custom_generate": coverage_beam_search, "coverage_penalty": given["coverage_penalty"]}
    tried |= {"max_new_tokens": 2, "max_length": None, "min_new_tokens": None, "min_length": None}
    ids = torch.tensor(tokenizer(["a"])["input_ids"], device=model.device)
    if isinstance(model, ExportedModel):
        model.generate(ids, **tried)  # what it refuses, it says itself
        return
    was_training = model.training
    model.eval()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tried = told_of_strings(model, tokenizer, tried)
            model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **tried)
    except (ValueError, TypeError, RuntimeError, LookupError, AttributeError, ArithmeticError, ImportError,
            AssertionError) as error:  # fmt: skip
        said = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        where = "the options of generation" if given else "the model's own generation_config.json"
        raise ValueError(f"generate cannot work with {where} ({said}): change what is wrong there.") from None
    finally:
        model.train(was_training)
