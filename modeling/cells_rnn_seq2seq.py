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

from .export_rnn_seq2seq import scan_average, scan_layer
from .scan_rnn_seq2seq import gated_average, gated_step

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
    - it has a parameter of its own, without which transformers leaves it as it was built;
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

    @property
    def is_parallel(self) -> bool:
        """All steps of a sequence that is known are computed together."""
        return issubclass(self.module_class, ParallelCell)

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
        if isinstance(module, nn.LSTM) and lacks_kernel(inputs):
            own = next(module.parameters()).dtype
            with torch.autocast("cpu", enabled=False):
                return self.run(module, inputs.to(own), lengths, tuple(part.to(own) for part in state))
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


def lacks_kernel(inputs: torch.Tensor) -> bool:
    """Whether torch would hand an LSTM to a kernel that this CPU has not, and raise an error.

    Under autocast it takes oneDNN's without asking whether the processor has that type, as of x86's only those with
    AVX-512 have bfloat16; in the weights' own type it is there.
    """
    if inputs.device.type != "cpu" or not torch.is_autocast_enabled("cpu") or not torch.backends.mkldnn.is_available():
        return False
    if torch.get_autocast_dtype("cpu") == torch.float16:
        return not torch.ops.mkldnn._is_mkldnn_fp16_supported()
    return not torch.ops.mkldnn._is_mkldnn_bf16_supported()


class ParallelCell(nn.Module):
    """A layer, as `RecurrentCell` asks, whose gates read the inputs alone, so that all its steps are computed together:
    c_t = a_t ∘ c_{t-1} + (1 - a_t) ∘ v_t, with a first state of any value.

    Args:
        input_size: Of the inputs.
        hidden_size: Of each direction.
        bidirectional: Read from both ends.
    """

    num_parts = 2
    """Matrices of a direction, one below the other in ``proj``: those of gates, then that of v."""
    num_biases = 2
    """How many of them, the first ones, add a bias."""

    def __init__(self, input_size: int, hidden_size: int, bidirectional: bool = False):
        super().__init__()
        self.hidden_size, self.num_directions = hidden_size, 1 + bidirectional
        self.proj = nn.Linear(input_size, self.num_directions * self.num_parts * hidden_size, bias=False)
        self.bias = nn.Parameter(torch.zeros(self.num_biases, self.num_directions, hidden_size))

    def init_weights(self, limit: float | None) -> None:
        """Matrices by `fill_matrix`, each for itself; biases zero."""
        fill_matrix(self.proj.weight, limit, gates=self.num_directions * self.num_parts)
        init.zeros_(self.bias)

    def read(self, parts: State) -> tuple[torch.Tensor, torch.Tensor]:
        """What each matrix gave, (…, directions, hidden) each → the logits of a, and v, of the same shape; (…, hidden)
        each do as well where there is one direction."""
        raise NotImplementedError

    def output(self, averages: torch.Tensor) -> torch.Tensor:
        """What the layer gives of c."""
        return averages

    def step(self, projected: torch.Tensor, before: torch.Tensor) -> State:
        """One step of one direction: what ``proj`` gave (batch, num_parts · hidden) and c (batch, hidden) → the output
        and the new c."""
        after = gated_step(*self.read(projected.chunk(self.num_parts, dim=-1)), before)
        return self.output(after), after

    def forward(self, inputs: torch.Tensor, lengths: torch.Tensor | None, *state: torch.Tensor) -> State:
        """As `RecurrentCell.run`; c is float32 at least, under autocast too, and is carried on in the weights' type."""
        is_padding = None  # (batch, length, 1)
        if lengths is not None:
            steps = torch.arange(inputs.shape[1], device=inputs.device)
            is_padding = (steps >= lengths.to(inputs.device)[:, None])[..., None]
        projected = self.proj(inputs).unflatten(-1, (self.num_directions, self.num_parts, self.hidden_size))
        logits, values = self.read(projected.unbind(-2))  # (batch, length, directions, hidden) each
        if is_padding is not None:
            logits = logits.masked_fill(is_padding[..., None], torch.inf)  # padding leaves c as it was
        average = scan_average if is_torchdynamo_exporting() else gated_average
        averages, lasts = zip(
            *(
                average(logits[:, :, index], values[:, :, index], state[0] if state else None, is_reversed=index > 0)
                for index in range(self.num_directions)
            ),
            strict=True,
        )
        outputs = self.output(torch.cat(averages, dim=-1)).to(projected.dtype)
        if is_padding is not None:
            outputs = outputs.masked_fill(is_padding, 0.0)
        return outputs, torch.cat(lasts, dim=-1).to(self.proj.weight.dtype)


class MinGru(ParallelCell):
    """h_t = (1 - z_t) ∘ h_{t-1} + z_t ∘ W_h x_t with z_t = σ(W_z x_t): Feng et al. 2024, arXiv:2410.01201, section 3.1,
    as it stands there, without the logarithms (and the g that they need) of appendix B."""

    def read(self, parts: State) -> tuple[torch.Tensor, torch.Tensor]:
        update, values = parts
        return -(update + self.bias[0]), values + self.bias[1]


class MinLstm(ParallelCell):
    """h_t = f'_t ∘ h_{t-1} + i'_t ∘ W_h x_t with f' = f / (f + i), i' = i / (f + i): Feng et al. 2024, section 3.2."""

    num_parts = num_biases = 3

    def init_weights(self, limit: float | None) -> None:
        """As the LSTM's, the forget gate starts open, by which it trains faster (Feng et al. 2024)."""
        super().init_weights(limit)
        bias = torch.zeros(self.bias.shape, device=self.bias.device)
        bias[0] = 1.0
        init.copy_(self.bias, bias)

    def read(self, parts: State) -> tuple[torch.Tensor, torch.Tensor]:
        forget, let_in, values = (part + bias for part, bias in zip(parts, self.bias, strict=True))
        return nn.functional.logsigmoid(forget) - nn.functional.logsigmoid(let_in), values


class Ssru(ParallelCell):
    """c_t = f_t ∘ c_{t-1} + (1 - f_t) ∘ W x_t, f_t = σ(W_f x_t + b_f); the layer gives h_t = relu(c_t) and carries c:
    Kim et al. 2019, "From Research to Production and Back: Ludicrously Fast Neural Machine Translation"."""

    num_biases = 1

    def read(self, parts: State) -> tuple[torch.Tensor, torch.Tensor]:
        forget, values = parts
        return forget + self.bias[0], values

    def output(self, averages: torch.Tensor) -> torch.Tensor:
        return averages.relu()


CELLS: dict[str, RecurrentCell] = {
    "rnn": TorchCell("tanh-RNN", nn.RNN),
    "lstm": TorchCell("LSTM", nn.LSTM, num_states=2),
    "gru": TorchCell("GRU", nn.GRU),
    "min_gru": RecurrentCell("minGRU", MinGru),
    "min_lstm": RecurrentCell("minLSTM", MinLstm),
    "ssru": RecurrentCell("SSRU", Ssru),
}
