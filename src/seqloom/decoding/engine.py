"""Which decoder serves a model and a search: a lean one of ours, or the model's own `generate`, and why."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig
from transformers.generation import GenerationMode
from transformers.utils import output_capturing

from seqloom.decoding.lean_rnn import LeanRnn
from seqloom.decoding.lean_transformer import LeanTransformer
from seqloom.decoding.loading import GenerativeModel
from seqloom.decoding.search import Decoder
from seqloom.decoding.targets import SearchOptions
from seqloom.modeling import RnnSeq2SeqForConditionalGeneration, TransformerSeq2SeqForConditionalGeneration
from seqloom.modeling.modeling_rnn_seq2seq import RnnSeq2SeqLayer

LEAN: dict[type, Callable[..., Decoder]] = {
    TransformerSeq2SeqForConditionalGeneration: LeanTransformer,
    RnnSeq2SeqForConditionalGeneration: LeanRnn,
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}

OWN = ("torch.nn.modules.", "seqloom.modeling.", "seqloom.support.layers")
"""Where the classes are defined that a model is made of; a recurrent cell may be anybody's."""

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


def decoder_for(model: Any, dtype: str | None = None) -> Decoder:
    """The lean decoder of a model, with its weights as they are now.

    Args:
        model: One of seqloom's, as it was made: of plain linear layers, without hooks, whole and on one device.
        dtype: ``"float32"``, ``"bfloat16"`` or ``"int8"``; default: the model's own.

    Raises:
        NotOurs: There is none; the message says why.
        ValueError: There is no such dtype.
    """
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}; choose {', '.join(DTYPES)}.")
    if type(model) not in LEAN:
        raise NotOurs("it is no model of seqloom's")
    cells = {part for module in model.modules() if isinstance(module, RnnSeq2SeqLayer) for part in module.rnn.modules()}
    for module in model.modules():
        # An adapter (LoRA) or a quantised layer has a weight too, which is not all that it computes with.
        if module not in cells and not type(module).__module__.startswith(OWN):
            raise NotOurs(f"it holds a {type(module).__name__}")
        if not is_plain(module):
            raise NotOurs(f"hooks are attached to its {type(module).__name__}")
    parameters: list[nn.Parameter] = list(model.parameters())
    kinds = {(type(parameter), parameter.dtype, parameter.device) for parameter in parameters}
    own = parameters[0].dtype
    if len(kinds) > 1 or type(parameters[0]) is not nn.Parameter or own not in (torch.float32, torch.bfloat16):
        raise NotOurs("its weights are not all of one kind, float32 or bfloat16, in one place")
    chosen = own if dtype is None else DTYPES[dtype]
    if own != torch.float32 and (chosen != own or LEAN[type(model)] is not LeanTransformer):
        raise NotOurs(f"its weights are {str(own).removeprefix('torch.')}")
    if chosen == torch.int8 and parameters[0].device.type != "cpu":
        raise ValueError("dtype='int8' is for CPUs; on an accelerator choose 'bfloat16'.")
    return LEAN[type(model)](model, chosen)


def is_plain(module: nn.Module) -> bool:
    """Whether a module does what its class says.

    What is known to change nothing is let be: the hooks by which transformers hands out attentions, which stay once
    they were asked for, and Accelerate's autocast around a model's ``forward``, whose weights are what they were.
    """
    hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
    if any(hook.__module__ != output_capturing.__name__ for hook in hooks):
        return False
    return "forward" not in vars(module) or "_original_forward" in vars(module)


def options_for(model: GenerativeModel, generate_kwargs: dict[str, Any]) -> SearchOptions:
    """What `generate` would search, given the model's generation config and its arguments.

    Raises:
        NotOurs: Something in them is not in `SearchOptions`; the message has its name.
        ValueError: As `generate` does.
    """
    preparing: Any = model  # with methods of `GenerationMixin` that its protocol need not have
    given = dict(generate_kwargs)
    config: GenerationConfig | None = given.pop("generation_config", None)
    is_default = {
        name: given.get(name) is None
        and getattr(config, name, None) is None
        and getattr(model.generation_config, name) is None
        for name in ("max_length", "min_length")
    }
    config, others = preparing._prepare_generation_config(config, **given)
    if others := [name for name, value in others.items() if value is not None]:
        raise NotOurs(f"{others[0]} is given")
    config = preparing._prepare_generated_length(
        config, is_default["max_length"], is_default["min_length"], "input_ids", 1, None
    )
    assert config is not None
    inert = GenerationConfig().to_dict() | config._get_default_generation_params()
    for name, value in config.to_dict().items():
        if name in KNOWN | WITHOUT_EFFECT or value is None or value is False:
            continue
        if value != inert.get(name):
            raise NotOurs(f"{name} is {value!r}")
    mode = config.get_generation_mode()
    if mode not in (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE, GenerationMode.BEAM_SEARCH):
        raise NotOurs(f"the mode is {mode.value}")
    preparing._validate_generation_mode(mode, config, {})
    preparing._prepare_special_tokens(config, True, device="cpu")
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


@cache
def tell(reason: str) -> None:
    """Says once why `generate` decodes."""
    logging.getLogger(__name__).warning(
        "decoding with the model's own generate, since %s: slower than seqloom's search.", reason
    )
