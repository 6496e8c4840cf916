"""Which decoder serves a model: a lean one of ours, or its own `generate`, and why."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import nn
from transformers.utils import output_capturing

from seqloom.decoding.asked import NotOurs
from seqloom.decoding.lean_hybrid import LeanHybrid
from seqloom.decoding.lean_rnn import LeanRnn
from seqloom.decoding.lean_transformer import LeanTransformer
from seqloom.decoding.search import Decoder
from seqloom.modeling import (
    HybridSeq2SeqForConditionalGeneration,
    RnnSeq2SeqForConditionalGeneration,
    TransformerSeq2SeqForConditionalGeneration,
)
from seqloom.modeling.cells_rnn_seq2seq import RecurrentCell

LEAN: dict[type, Callable[..., Decoder]] = {
    TransformerSeq2SeqForConditionalGeneration: LeanTransformer,
    RnnSeq2SeqForConditionalGeneration: LeanRnn,
    HybridSeq2SeqForConditionalGeneration: LeanHybrid,
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}

OWN = ("torch.nn.modules.", "seqloom.modeling.", "seqloom.support.layers")
"""Where the classes are defined that a model is made of; a recurrent cell may be anybody's."""


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
    layers = [module for module in model.modules() if isinstance(getattr(module, "cell", None), RecurrentCell)]
    cells = {part for layer in layers for part in layer.rnn.modules()}
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


@cache
def tell(reason: str) -> None:
    """Says once why `generate` decodes."""
    logging.getLogger(__name__).warning(
        "decoding with the model's own generate, since %s: slower than seqloom's search.", reason
    )
