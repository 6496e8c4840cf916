"""A recurrence whose gates are known beforehand, over a whole sequence at once.

c_t = a_t ∘ c_{t-1} + (1 - a_t) ∘ v_t needs of the step before nothing but its sum, so the gates a = σ(logits) and the
values v of all steps are there in one go (Martin & Cundy 2018, arXiv:1709.04057; Feng et al. 2024, arXiv:2410.01201).
What is left, h_t = a_t ∘ h_{t-1} + b_t, runs in place over tensors that lie step by step, and so does its gradient,
backwards; long sequences in chunks side by side. No logarithms: with gates between 0 and 1 nothing grows, and they
would lose digits.

Shapes: batch, length, width; inside, the length comes first.
"""

import itertools

import torch

from .pipeline_seq2seq import at_least_float32

CHUNKED = {"cpu": (64, 2048), "": (32, 2**20)}
"""Where chunks are faster than one step after the other: from so many steps on, of at most so many numbers (batch ·
width), by device. Small steps take their time for being called. The last is any accelerator's, where every call waits
for a kernel to start."""


def linear_recurrence_(h: torch.Tensor, a: torch.Tensor, first: torch.Tensor | None, is_reversed: bool = False) -> None:
    """Makes h_t = a_t ∘ h_{t-1} + b_t of ``h``, which holds b, in place and without a gradient.

    Args:
        h: (length, batch, width).
        a: As ``h``, of any size of numbers.
        first: (batch, width), before the first step; None for zeros.
        is_reversed: Reads from the end to the beginning: h_t = a_t ∘ h_{t+1} + b_t.
    """
    length = len(h)
    fewest, most = CHUNKED.get(h.device.type, CHUNKED[""])
    if length < fewest or h[0].numel() > most:
        one_by_one_(h, a, first, is_reversed)
        return
    size = round(length**0.5)
    rest = length % size  # what is left over is read last
    whole, tail = (
        (slice(rest, None), slice(rest)) if is_reversed else (slice(length - rest), slice(length - rest, None))
    )
    parts, decays = (tensor[whole].unflatten(0, (-1, size)) for tensor in (h, a))  # (chunks, size, batch, width)
    one_by_one_(parts.transpose(0, 1), decays.transpose(0, 1), None, is_reversed)  # as if each began with zeros
    decays = decays.clone()
    for before, here in itertools.pairwise(decays.unbind(1)[:: -1 if is_reversed else 1]):
        here.mul_(before)
    # What each chunk ends with begins the next.
    end, others = (0, slice(1, None)) if is_reversed else (-1, slice(-1))
    final, later, earlier = (0, slice(-1), slice(1, None)) if is_reversed else (-1, slice(1, None), slice(-1))
    ends = parts[:, end]
    linear_recurrence_(ends, decays[:, end], first, is_reversed)
    parts[later, others].addcmul_(decays[later, others], ends[earlier, None])
    if first is not None:
        start = -1 if is_reversed else 0
        parts[start, others].addcmul_(decays[start, others], first)
    one_by_one_(h[tail], a[tail], ends[final], is_reversed)


def one_by_one_(h: torch.Tensor, a: torch.Tensor, first: torch.Tensor | None, is_reversed: bool = False) -> None:
    """As `linear_recurrence_`, a step after the other; of any further dimensions."""
    steps = list(zip(h.unbind(0), a.unbind(0), strict=True))
    before = first
    for here, gate in reversed(steps) if is_reversed else steps:
        if before is not None:
            here.addcmul_(gate, before)
        before = here


def by_step(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """(batch, length, width) → its numbers as (length, batch, width), laid out anew."""
    return tensor.new_empty(tensor.shape[1], tensor.shape[0], tensor.shape[2], dtype=dtype).copy_(
        tensor.transpose(0, 1)
    )


class _GatedAverage(torch.autograd.Function):
    """The whole sequence, with its gradient."""

    @staticmethod
    def forward(ctx, logits: torch.Tensor, values: torch.Tensor, first: torch.Tensor, is_reversed: bool):
        dtype = at_least_float32(values)
        gates = by_step(logits, dtype).sigmoid_()
        values = values.transpose(0, 1)
        averages = torch.addcmul(values, gates, values, value=-1)
        linear_recurrence_(averages, gates, first, is_reversed)
        ctx.set_materialize_grads(False)
        ctx.is_reversed = is_reversed
        ctx.save_for_backward(gates, values, averages)
        return averages.transpose(0, 1), averages[0 if is_reversed else -1].clone()

    @staticmethod
    def backward(ctx, of_outputs: torch.Tensor | None, of_last: torch.Tensor | None):
        if torch.is_grad_enabled():
            raise ValueError(
                "create_graph=True asks for second derivatives, which the parallel cells do not have: leave it out, or "
                "use cell_type='gru' or 'lstm'."
            )
        gates, values, averages = ctx.saved_tensors
        gradient = torch.zeros_like(averages) if of_outputs is None else by_step(of_outputs, averages.dtype)
        end, others, nexts = (0, slice(1, None), slice(-1)) if ctx.is_reversed else (-1, slice(-1), slice(1, None))
        if of_last is not None:
            gradient[end] += of_last
        linear_recurrence_(gradient[others], gates[nexts], gradient[end], not ctx.is_reversed)
        start = -1 - end
        of_first = gates[start] * gradient[start]
        of_values = gradient.addcmul_(gates, gradient, value=-1)
        of_logits = torch.sub(averages, values).mul_(of_values)
        return of_logits.transpose(0, 1), of_values.transpose(0, 1), of_first, None


def gated_average(
    logits: torch.Tensor, values: torch.Tensor, first: torch.Tensor | None = None, is_reversed: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """c_t = σ(logits_t) ∘ c_{t-1} + (1 - σ(logits_t)) ∘ values_t, in float32 or more whatever comes in.

    Args:
        logits: (batch, length, width). Where they are infinite, the step before stays.
        values: (batch, length, width).
        first: (batch, width), c before the first step; zeros where not given.
        is_reversed: Reads from the end to the beginning.

    Returns:
        c of every step (batch, length, width), and of the step that was read last (batch, width).

    Raises:
        ValueError: ``first`` has another shape; in the backward pass, where second derivatives are asked for.
    """
    dtype = at_least_float32(values)
    batch, width = len(values), values.shape[-1]
    if first is None:
        first = values.new_zeros(batch, width, dtype=dtype)
    elif first.shape != (batch, width):
        raise ValueError(
            f"the first state is {' × '.join(map(str, first.shape))}, but there are {batch} sequences and the layer is "
            f"{width} wide: give a state of {batch} × {width}, or none for zeros."
        )
    if values.shape[1] == 1:
        last = gated_step(logits[:, 0], values[:, 0], first)
        return last[:, None], last
    return _GatedAverage.apply(logits, values, first.to(dtype), is_reversed)


def gated_step(logits: torch.Tensor, values: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """One step of `gated_average`: (batch, width) each."""
    dtype = at_least_float32(values)
    return torch.lerp(values.to(dtype), before.to(dtype), logits.to(dtype).sigmoid())
