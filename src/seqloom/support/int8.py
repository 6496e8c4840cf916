"""Products in int8 on processors that add their pairs up in 16 bits, where they overflow.

x86 before VNNI multiplies eight bits without sign by eight with (VPMADDUBSW) and adds two products at a time into 16
bits: 2 · 255 · 127 is more than these hold, and the sum stays at their largest number. Scores are then off by many
times what int8 costs elsewhere. Seven bits on one side, or sums of 32 bits, do not overflow.
"""

from __future__ import annotations

import functools
import os
import warnings

import torch


def pack_int8(weight: torch.Tensor, bias: torch.Tensor | None) -> torch.ScriptObject:
    """A weight (outputs, inputs) in int8, symmetric, with a scale for each output, as torch's products take it."""
    scales = (weight.abs().amax(1) / 127).clamp(min=1e-12)  # (outputs,)
    zeros = torch.zeros(len(scales), dtype=torch.int64)
    with warnings.catch_warnings():  # of quantized tensors, which `linear_prepack` takes: to go, in torch's future
        warnings.simplefilter("ignore", UserWarning)
        quantized = torch.quantize_per_channel(weight.float(), scales.double(), zeros, 0, torch.qint8)
    return torch.ops.quantized.linear_prepack(quantized, bias)


@functools.cache
def saturates() -> bool:
    """Whether this processor's products of eight bits overflow: found by the largest there is."""
    width = 64
    ones = torch.ones(1, width)
    product = torch.ops.quantized.linear_dynamic(ones, pack_int8(ones, None), False)
    return bool(product < 0.9 * width)


def let_ctranslate2_be_exact() -> None:
    """Has CTranslate2 multiply by MKL, whose sums do not overflow, where the processor's own do.

    It hears that when it is loaded; whoever has loaded it before, or has set ``CT2_USE_MKL``, keeps what they have.
    """
    if torch.backends.quantized.engine in ("x86", "fbgemm", "onednn") and saturates():
        os.environ.setdefault("CT2_USE_MKL", "1")
