"""A recurrent layer as `torch.export` takes it: for any length of the source, not only for the one it was shown.

Torch's own kernels are unrolled by the exporter and then fit one length; packed sequences it cannot trace at all.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from .pipeline_seq2seq import at_least_float32
from .scan_rnn_seq2seq import gated_step


def scan_layer(rnn: nn.RNNBase, inputs: torch.Tensor, lengths: torch.Tensor | None, state: tuple[torch.Tensor, ...]):
    """What ``rnn`` computes of packed sequences, as a loop over its cell that the exported program keeps.

    Args:
        rnn: One layer, in one or both directions.
        inputs: (batch, length, input_size).
        lengths: (batch,), where each sequence ends; None where all end together.
        state: (batch, hidden) each, before the first step; zeros where not given.

    Returns:
        Outputs (batch, length, hidden), zero behind each end, and the last state (batch, hidden) each; of both
        directions side by side.
    """
    cells: dict[str, Callable[..., Any]] = {
        "RNN_TANH": torch.rnn_tanh_cell, "GRU": torch.gru_cell, "LSTM": torch.lstm_cell,
    }  # fmt: skip
    cell = cells[rnn.mode]
    batch = inputs.shape[0]
    steps = torch.arange(inputs.shape[1], device=inputs.device).expand(inputs.shape[:2])
    is_token = steps >= 0 if lengths is None else steps < lengths.to(inputs.device)[:, None]  # (batch, length)
    if not state:  # tensors of their own: the exporter takes one that comes twice for one part of the state
        state = tuple(inputs.new_zeros(batch, rnn.hidden_size) for _ in range(1 + (rnn.mode == "LSTM")))
    state = tuple(part.contiguous() for part in state)
    outputs, finals = [], []
    for weights, is_reversed in zip(rnn.all_weights, (False, True), strict=False):

        def step(before, here, weights=weights):
            inputs, is_token = here  # (batch, input_size), (batch, 1)
            after = cell(inputs, before if len(before) > 1 else before[0], *weights)
            after = after if isinstance(after, tuple) else (after,)
            after = tuple(torch.where(is_token, new, old) for new, old in zip(after, before, strict=True))
            # The loop is told its batch: AOTInductor finds it nowhere else when it makes room for the outputs.
            return after, torch.where(is_token, after[0], 0.0).view(batch, -1)

        final, output = scan_steps(step, state, (inputs, is_token[..., None]), is_reversed)
        outputs.append(output)  # (batch, length, hidden)
        finals.append(final)
    return torch.cat(outputs, dim=-1), *(torch.cat(parts, dim=-1) for parts in zip(*finals, strict=True))


def scan_average(logits: torch.Tensor, values: torch.Tensor, first: torch.Tensor | None, is_reversed: bool):
    """What `gated_average` computes: arguments and returned as there."""
    dtype, batch = at_least_float32(values), values.shape[0]
    first = values.new_zeros(batch, values.shape[2]) if first is None else first

    def step(before, here):
        after = gated_step(*here, *before)
        return (after,), after.clone().view(batch, -1)  # the loop is told its batch, as above

    (last,), averages = scan_steps(step, (first.to(dtype).contiguous(),), (logits, values), is_reversed)
    return averages, last


def scan_steps(
    step: Callable[..., Any], state: tuple[torch.Tensor, ...], inputs: tuple[torch.Tensor, ...], is_reversed
):
    """A loop over the steps of inputs (batch, length, …) that the exported program keeps.

    Args:
        step: The state and one step of the inputs → the new state, and the output.

    Returns:
        The last state, and the outputs (batch, length, …).
    """
    from torch._higher_order_ops.scan import scan  # here, as only the exporter needs it

    if inputs[0].shape[1] == 1:
        state, output = step(state, tuple(part[:, 0] for part in inputs))
        return state, output[:, None]
    return scan(step, state, inputs, dim=1, reverse=is_reversed)
