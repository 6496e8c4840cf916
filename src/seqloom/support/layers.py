"""Linear layers and dropout as torch has them, computed faster on a CPU.

torch leaves float32 products to MKL, which on many AMD processors is slower than oneDNN (pytorch issue 38412), so that
`measure` times both. Dropout's masks it draws, except on Intel's processors, one number at a time. `speed_up` lets the
layers of a model that learns compute otherwise; to all else (weights, state dict, copies, pickles) they stay the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from seqloom.support.machine import cpu_name

PRODUCTS = ("forward", "inputs", "weight")
"""Of a linear layer: its outputs, the gradient of its inputs and that of its weight."""
LEAST_ROWS = 64
"""Below this many, laying out the weight costs oneDNN more than it gains."""
LEAST_WEIGHT = 2**14
"""Numbers of the smallest weight that is worth a measurement."""
MOST_ROWS, MOST_OPERATIONS = 1024, 1e9
"""Of a product that is timed, in multiplications."""
ROUNDS, MOMENT = 5, 0.1
"""How often it is timed at least, and for how many seconds."""
MARGIN = 0.8
"""oneDNN is chosen where it takes at most this share of the time: a small gain, which one start of a run sees and the
next does not, is not worth that two runs of one seed differ."""

Choice = dict[str, Any]
"""What `measure` found, as JSON keeps it: ``linear``, products by shape (``512x128``); ``dropout``, yes or no."""
NOTHING: Choice = {"linear": {}, "dropout": False}


def has_onednn(device: torch.device) -> bool:
    """Whether torch can be told to compute there by oneDNN."""
    return device.type == "cpu" and torch.backends.mkldnn.is_available()


def onednn_linear(
    inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, activation: str = "none"
) -> torch.Tensor:
    """As `nn.functional.linear`, with no gradient; ``activation`` is ``"none"`` or ``"relu"``."""
    return torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, activation, [], "")


def product(name: str, by_onednn: bool, left: torch.Tensor, right: torch.Tensor, bias: torch.Tensor | None = None):
    """One of `PRODUCTS`: of inputs and weight, of the outputs' gradient and weight, or of that and the inputs."""
    if name == "forward":
        return (onednn_linear if by_onednn else nn.functional.linear)(left, right, bias)
    if not by_onednn:
        return left @ right if name == "inputs" else left.t() @ right
    if name == "inputs":
        return onednn_linear(left, right.t())
    if left.shape[1] > right.shape[1]:  # oneDNN is the faster one with the larger dimension where it has the weight's
        return onednn_linear(right.t(), left.t()).t()
    return onednn_linear(left.t(), right.t())


class _Linear(torch.autograd.Function):
    """x (rows, inputs) → x Wᵀ + b (rows, outputs), each of its products by the one or the other."""

    @staticmethod
    def forward(ctx, inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, products: frozenset[str]):
        ctx.save_for_backward(inputs, weight)
        ctx.products = products
        return product("forward", "forward" in products, inputs, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: torch.Tensor):
        inputs, weight = ctx.saved_tensors
        of_inputs, of_weight, of_bias, _ = ctx.needs_input_grad
        return (
            product("inputs", "inputs" in ctx.products, gradient, weight) if of_inputs else None,
            product("weight", "weight" in ctx.products, gradient, inputs) if of_weight else None,
            gradient.sum(0) if of_bias else None,
            None,
        )


class _Fast(nn.Module):
    """A layer that computes faster; a copy or a pickle of it is the plain one again."""

    plain: type[nn.Module]

    def __reduce_ex__(self, protocol: Any) -> Any:
        state = {name: value for name, value in vars(self).items() if name != "products"}
        return object.__new__, (self.plain,), state


class FastLinear(_Fast, nn.Linear):
    """`nn.Linear`, with ``products`` by oneDNN where there are rows enough, in float32."""

    plain = nn.Linear
    products: frozenset[str]

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        weight, rows = self.weight, inputs.numel() // max(1, inputs.shape[-1])
        is_plain = inputs.dtype == weight.dtype == torch.float32 and has_onednn(inputs.device)
        if rows < LEAST_ROWS or not is_plain or torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling():
            return super().forward(inputs)
        outputs = _Linear.apply(inputs.reshape(rows, -1), weight, self.bias, self.products)
        return outputs.view(*inputs.shape[:-1], -1)


class FastDropout(_Fast, nn.Dropout):
    """`nn.Dropout`, which draws 16 bits for each unit: its probability is rounded to 1/65,536."""

    plain = nn.Dropout

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        dropped, is_plain = round(self.p * 2**16), inputs.device.type == "cpu" and not self.inplace
        if not (self.training and 0 < dropped < 2**16 and is_plain) or torch.compiler.is_compiling():
            return super().forward(inputs)
        count = inputs.numel()
        draws = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None)  # all 64 bits, four units' draws
        kept = draws.view(torch.int16)[:count].view(inputs.shape) >= dropped - 2**15
        return inputs * kept.to(inputs.dtype).mul_(2**16 / (2**16 - dropped))


def measure(model: nn.Module, rows: int, *, in_float32: bool) -> Choice:
    """Which products, of which layers of a model, are faster here by oneDNN, and whether dropout is; takes a moment.

    Args:
        model: On the CPU. Linear layers that are small are not measured.
        rows: That its layers read at a time, about.
        in_float32: Whether it computes in it; in bf16 torch takes oneDNN by itself.
    """
    modules = list(model.modules())
    shapes = {tuple(layer.weight.shape) for layer in modules if type(layer) is nn.Linear} if in_float32 else set()
    worth = sorted(shape for shape in shapes if shape[0] * shape[1] >= LEAST_WEIGHT)
    drops = any(type(module) is nn.Dropout and module.p > 0 for module in modules)
    with torch.random.fork_rng(devices=[]), torch.no_grad():  # a run's own draws are as if nothing had been measured
        linear = {f"{shape[0]}x{shape[1]}": faster_products(shape, rows) for shape in worth}
        return {
            "linear": {shape: names for shape, names in linear.items() if names},
            "dropout": drops and "Intel" not in cpu_name(),  # there MKL draws, in a few vector instructions
        }


def faster_products(shape: tuple[int, ...], rows: int) -> list[str]:
    """Those of a layer (outputs, inputs) in which oneDNN is the faster one."""
    if not has_onednn(torch.device("cpu")):
        return []
    most = min(MOST_ROWS, int(MOST_OPERATIONS / (shape[0] * shape[1])))
    rows = max(LEAST_ROWS, min(rows, most))
    inputs, weight, gradient = torch.randn(rows, shape[1]), torch.randn(shape), torch.randn(rows, shape[0])
    pairs = {"forward": (inputs, weight), "inputs": (gradient, weight), "weight": (gradient, inputs)}

    faster = []
    for name in PRODUCTS:
        torchs, onednns = fastest([partial(product, name, by_onednn, *pairs[name]) for by_onednn in (False, True)])
        if onednns <= MARGIN * torchs:
            faster.append(name)
    return faster


def speeds_of_products(rows: int = 1024, width: int = 512) -> tuple[float, float, float | None]:
    """GFLOP/s of a linear layer's product, rows by width x width: torch's in float32 and in bfloat16, oneDNN's in
    float32 (None where torch has none)."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        inputs, weight = torch.randn(rows, width), torch.randn(width, width)
        pairs = [(False, inputs, weight), (False, inputs.bfloat16(), weight.bfloat16())]
        pairs += [(True, inputs, weight)] if has_onednn(inputs.device) else []
        seconds = fastest([partial(product, "forward", *pair) for pair in pairs])
    single, half, *others = (2 * rows * width**2 / one / 1e9 for one in seconds)
    return single, half, others[0] if others else None


def gain_of_bfloat16() -> float:
    """How many times as fast as in float32 this processor multiplies in bfloat16; far below 1 where it has no
    instructions for it."""
    single, half, by_onednn = speeds_of_products(rows=256)
    return half / max(single, by_onednn or 0.0)


def fastest(ways: Sequence[Callable[[], object]]) -> list[float]:
    """Seconds that each takes when least disturbed; they take turns."""
    seconds: list[list[float]] = [[] for _ in ways]
    # One thread's own time is the same whoever else is at work.
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    end = clock() + MOMENT
    while len(seconds[0]) <= ROUNDS or clock() < end:
        for way, times in zip(ways, seconds, strict=True):
            started = clock()
            way()
            times.append(clock() - started)
    return [min(times[1:]) for times in seconds]  # the first one warms up


def speed_up(model: nn.Module, choice: Mapping[str, Any]) -> None:
    """Lets a model's layers compute as `measure` found best; where they cannot, they compute as torch does."""
    for module in model.modules():
        if type(module) is nn.Linear:
            shape = "x".join(map(str, module.weight.shape))
            if names := choice["linear"].get(shape):
                module.__class__ = FastLinear
                module.products = frozenset(names)  # type: ignore[assignment]
        elif type(module) is nn.Dropout and choice["dropout"]:
            module.__class__ = FastDropout


def in_words(choice: Mapping[str, Any]) -> str | None:
    """For the console; None where everything is as torch has it."""
    told = [f"{shape} ({', '.join(names)})" for shape, names in choice["linear"].items()]
    told = [f"products of linear layers by oneDNN: {', '.join(told)}"] if told else []
    told += ["dropout from 16 bits a unit"] if choice["dropout"] else []
    return f"computed faster on this CPU: {'; '.join(told)}" if told else None
