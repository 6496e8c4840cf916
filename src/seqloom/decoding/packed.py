"""Linear layers as inference wants them: laid out once for the processor, in float32, bfloat16 or int8."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from seqloom.support.int8 import pack_int8, saturates
from seqloom.support.layers import has_onednn, onednn_linear

SMALL, LARGE = 2**20, 2**19
"""Multiplications up to which oneDNN's call costs more than it gives: of small weights, and of large ones, which its
layout brings from memory faster."""
LARGE_WEIGHT = 2**17
"""Numbers in a large one."""
ROWS = 64
"""That weights are laid out for. Other numbers lose nothing by it; what is laid out for one row is slow with more."""


class PackedLinear:
    """x (rows, inputs) → x Wᵀ + b (rows, outputs), of one or more layers that read the same x, side by side.

    Args:
        layers: Their weights are taken as they are now.
        dtype: ``torch.float32`` (the layers' own arithmetic, by oneDNN where torch has it), ``torch.bfloat16``, or
            ``torch.int8``: weights by output, x by tensor and call (dynamic), in seven bits where eight overflow.
        activation: ``"none"`` or ``"relu"``, after it.
    """

    def __init__(self, layers: Sequence[nn.Linear], dtype: torch.dtype = torch.float32, activation: str = "none"):
        weights = [layer.weight.detach() for layer in layers]
        biases = [layer.bias.detach() for layer in layers if layer.bias is not None]
        assert len(biases) in (0, len(weights))
        self.take(beside(weights, 0), beside(biases, 0) if biases else None, dtype, activation)

    @classmethod
    def of(cls, *weights: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype) -> PackedLinear:
        """From weights that read parts of x, side by side."""
        linear = cls.__new__(cls)
        linear.take(beside([weight.detach() for weight in weights], 1), bias, dtype, "none")
        return linear

    def take(self, weight: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype, activation: str) -> None:
        """Chooses how it runs."""
        self.weight, self.bias, self.activation = weight, None if bias is None else bias.detach(), activation
        self.packed: torch.Tensor | None = None
        self.run: Callable[[torch.Tensor], torch.Tensor] = self.plain
        if dtype == torch.int8:
            self.quantized = pack_int8(self.weight, self.bias)
            self.run = self.dynamic
            return
        self.weight = self.weight.to(dtype)  # (outputs, inputs)
        self.bias = None if self.bias is None else self.bias.to(dtype)
        run = self.by_rows if has_onednn(self.weight.device) else self.plain
        # x of another type comes back as it went in.
        self.run = lambda x: run(x) if x.dtype == dtype else run(x.to(dtype)).to(x.dtype)

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.run(inputs)

    def plain(self, inputs: torch.Tensor) -> torch.Tensor:
        """As `nn.Linear`."""
        outputs = nn.functional.linear(inputs, self.weight, self.bias)
        return outputs.relu_() if self.activation == "relu" else outputs

    def by_rows(self, inputs: torch.Tensor) -> torch.Tensor:
        """Laid out when first there are rows enough."""
        numbers = self.weight.numel()
        if len(inputs) * numbers <= (LARGE if numbers >= LARGE_WEIGHT else SMALL):
            return self.plain(inputs)
        if self.packed is None:
            self.packed = torch.ops.mkldnn._reorder_linear_weight(self.weight.contiguous(), ROWS)
        return onednn_linear(inputs, self.packed, self.bias, self.activation)

    def dynamic(self, inputs: torch.Tensor) -> torch.Tensor:
        """In int8."""
        outputs = torch.ops.quantized.linear_dynamic(inputs, self.quantized, saturates())
        return outputs.relu_() if self.activation == "relu" else outputs


def beside(tensors: Sequence[torch.Tensor], dim: int) -> torch.Tensor:
    """Side by side; one stays what it is."""
    return tensors[0] if len(tensors) == 1 else torch.cat(list(tensors), dim)
