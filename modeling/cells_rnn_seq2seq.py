"""The cells of the recurrent family: all that depends on a ``cell_type``, in one table.

A layer holds a module, ``rnn``, and leaves to its `RecurrentCell` how that is made, run and initialised. A new cell is
a module of the form that `RecurrentCell` describes and its entry in `CELLS`.
"""

import math
from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from transformers import initialization as init
from transformers.utils import is_torchdynamo_exporting

from .export_rnn_seq2seq import scan_layer

State = tuple[torch.Tensor, ...]  # as many tensors as the cell carries from step to step, batch first
Module = Any  # an `nn.Module` that a cell built, and whose further methods it knows


def fill_matrix(weight: torch.Tensor, limit: float | None, gates: int = 1) -> None:
    """Fills a weight, unless it came from a checkpoint, uniformly in ± limit.

    Args:
        weight: (outputs, inputs).
        limit: None: √(6 / (inputs + outputs)), which keeps activations and gradients of one size whatever the width
            (Glorot & Bengio 2010).
        gates: How many matrices stand in the weight, one below the other.
    """
    if limit is None:
        limit = math.sqrt(6 / (weight.shape[0] // gates + weight.shape[1]))
    init.uniform_(weight, -limit, limit)


class RecurrentCell:
    """What a ``cell_type`` is. As it stands it serves a module, written in torch, that knows how to be one layer:

    - ``module_class(input_size, hidden_size, bidirectional)``: ``hidden_size`` is each direction's;
    - ``module(inputs, lengths, *state)`` returns what `run` returns, and `torch.export` takes it for any length;
    - ``module.init_weights(limit)`` initialises, by `transformers.initialization`, what is not right yet: its linear
      parts are filled by `fill_matrix` by then, each as one matrix, with biases of zero. Where one of them holds the
      matrices of several gates, ``fill_matrix(linear.weight, limit, gates)`` gives each its own bound.

    Args:
        name: In words, for reports and cards: ``GRU``.
        module_class: Of the layer's ``rnn``, and of nothing else in a model.
        num_states: Tensors that the cell carries from step to step, 1 or 2. The first is what Bahdanau's attention
            asks with.
    """

    def __init__(self, name: str, module_class: type[nn.Module], num_states: int = 1):
        self.name = name
        self.module_class = module_class
        self.num_states = num_states

    def build(self, input_size: int, hidden_size: int, bidirectional: bool = False) -> Module:
        """One layer; ``hidden_size`` is each direction's."""
        return self.module_class(input_size, hidden_size, bidirectional)

    def run(self, module: Module, inputs: torch.Tensor, lengths: torch.Tensor | None, state: State) -> State:
        """Reads whole sequences whose tokens stand at the front.

        Args:
            module: What `build` made.
            inputs: (batch, length, input_size).
            lengths: (batch,), on the CPU: where each sequence ends; None where all end together.
            state: (batch, hidden) each, before the first step, of a one-directional layer; zeros where there is none.

        Returns:
            Outputs (batch, length, hidden), zero behind each end, then the states after each sequence's last token
            (batch, hidden) each; of both directions side by side.
        """
        return module(inputs, lengths, *state)

    def init_weights(self, module: Module, limit: float | None) -> None:
        """Fills the parameters of what `build` made; ``limit`` as in `fill_matrix`."""
        module.init_weights(limit)


class TorchCell(RecurrentCell):
    """A cell of torch's own: `nn.RNN`, `nn.LSTM` or `nn.GRU`."""

    def build(self, input_size: int, hidden_size: int, bidirectional: bool = False) -> Module:
        return self.module_class(input_size, hidden_size, batch_first=True, bidirectional=bidirectional)

    def run(self, module: Module, inputs: torch.Tensor, lengths: torch.Tensor | None, state: State) -> State:
        if is_torchdynamo_exporting():
            return scan_layer(module, inputs, lengths, state)
        parts = tuple(part[None].contiguous() for part in state)
        first = parts if len(parts) > 1 else parts[0] if parts else None
        if lengths is None:
            outputs, last = module(inputs, first)
        else:
            packed = pack_padded_sequence(inputs, lengths, batch_first=True, enforce_sorted=False)
            packed, last = module(packed, first)
            outputs, _ = pad_packed_sequence(packed, batch_first=True, total_length=inputs.shape[1])
        last = last if isinstance(last, tuple) else (last,)  # (directions, batch, hidden / directions) each
        return outputs, *(part.transpose(0, 1).flatten(1) for part in last)

    def init_weights(self, module: Module, limit: float | None) -> None:
        """Uniform, recurrent matrices orthogonal (Bahdanau et al. 2015), biases zero but for the LSTM's forget gate,
        which starts open (Jozefowicz et al. 2015)."""
        for name, parameter in module.named_parameters():
            value = torch.zeros(parameter.shape, device=parameter.device)
            if name.startswith("weight_ih"):
                fill_matrix(value, limit, gates=len(value) // module.hidden_size)
            elif name.startswith("weight_hh"):
                for gate in value.split(module.hidden_size):
                    nn.init.orthogonal_(gate)
            elif name.startswith("bias_ih") and isinstance(module, nn.LSTM):
                value[module.hidden_size : 2 * module.hidden_size] = 1.0
            init.copy_(parameter, value)  # skips weights that came from a checkpoint


CELLS: dict[str, RecurrentCell] = {
    "rnn": TorchCell("tanh-RNN", nn.RNN),
    "lstm": TorchCell("LSTM", nn.LSTM, num_states=2),
    "gru": TorchCell("GRU", nn.GRU),
}
