"""Small networks of seqloom's own layers, and the two tasks of memory that they learn.

The adding problem is Hochreiter & Schmidhuber 1997's: the sum of two marked numbers of a long row; the copy task is in
the form of Arjovsky et al. 2016 (arXiv:1511.06464): some symbols, a gap, and then the symbols again. The gradient's
norm may be clipped (Pascanu et al. 2013, arXiv:1211.5063).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedConfig

from seqloom.comparison.traits import hybrid_recipe, recurrent_recipe
from seqloom.modeling.cells_rnn_seq2seq import CELLS
from seqloom.modeling.configuration_rnn_seq2seq import RnnSeq2SeqConfig
from seqloom.modeling.configuration_transformer_seq2seq import TransformerSeq2SeqConfig
from seqloom.modeling.modeling_rnn_seq2seq import RnnSeq2SeqLayer, RnnSeq2SeqPreTrainedModel
from seqloom.modeling.modeling_transformer_seq2seq import TransformerSeq2SeqEncoderLayer, TransformerSeq2SeqStack
from seqloom.support.disk import write_aside

STANDARD = ("rnn", "lstm", "gru", "transformer")
"""The systems that are always asked; parallel cells are where a candidate has one."""
SYSTEMS = {
    **{name: CELLS[name].name for name in STANDARD[:-1]}, "transformer": "Transformer",
    **{name: cell.name for name, cell in CELLS.items() if cell.is_parallel},
}  # fmt: skip
NUM_SYMBOLS = 8
NUM_RECALLED = 3
"""Arjovsky et al. recall ten; three are learnt in hundreds of updates, not in thousands."""
BLANK, DELIMITER = NUM_SYMBOLS, NUM_SYMBOLS + 1
SOLVED, WINDOW = 0.1, 20
"""A task is solved when the mean loss of this many updates is below this share of the baseline."""
NUM_TESTED = 512


@dataclass(frozen=True)
class Training:
    """One system on one task; the same values give the same weights."""

    task: str
    """``adding`` or ``copy``."""
    length: int
    """Of the row of numbers; of the gap between the symbols and their recall."""
    system: str
    """One of `SYSTEMS`."""
    clipping: float | None
    """Largest norm of the gradient; None: as it comes."""
    updates: int
    learning_rate: float
    hidden_size: int
    batch_size: int
    seed: int


class RecurrentNetwork(RnnSeq2SeqPreTrainedModel):
    """(batch, length, inputs) → (batch, length, outputs): one recurrent layer of seqloom's and a linear readout."""

    def __init__(self, config: RnnSeq2SeqConfig, input_size: int, output_size: int):
        super().__init__(config)
        self.layer = RnnSeq2SeqLayer(config, input_size)
        self.readout = nn.Linear(config.hidden_size, output_size)
        self.post_init()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.readout(self.layer(inputs)[0])


class TransformerNetwork(TransformerSeq2SeqStack):
    """The same of seqloom's Transformer layers, with its positions, each of which sees itself and what is before it."""

    def __init__(self, config: TransformerSeq2SeqConfig, input_size: int, output_size: int):
        layers = [TransformerSeq2SeqEncoderLayer(config, index) for index in range(config.encoder_layers)]
        super().__init__(config, 1, layers)
        del self.embed_tokens  # inputs are numbers
        self.inputs = nn.Linear(input_size, config.d_model)
        self.readout = nn.Linear(config.d_model, output_size)
        self.post_init()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        embeds = self.embed(None, self.inputs(inputs))  # (batch, length, d_model)
        positions = torch.arange(inputs.shape[1], device=inputs.device)[None]
        head_dim = self.config.d_model // self.config.encoder_attention_heads
        hidden_states, _ = self.add_positions(embeds, positions, head_dim)
        for layer in self.layers:
            hidden_states = layer(hidden_states, None, is_causal=True)  # torch's attention masks the future itself
        return self.readout(self.layer_norm(hidden_states))


def build(system: str, task: str, hidden_size: int, seed: int) -> RecurrentNetwork | TransformerNetwork:
    """A fresh network of that width for that task, initialised as seqloom's models are."""
    torch.manual_seed(seed)
    sizes = {"adding": (2, 1), "copy": (NUM_SYMBOLS + 2, NUM_SYMBOLS + 2)}[task]
    if system == "transformer":
        fields: dict[str, Any] = {
            "vocab_size": 3, "d_model": hidden_size, "encoder_layers": 1, "encoder_attention_heads": 4,
            "encoder_ffn_dim": 2 * hidden_size, "scale_embedding": False, "dropout": 0.0, "normalize_before": True,
            "attn_implementation": "sdpa",
        }  # fmt: skip
        return TransformerNetwork(TransformerSeq2SeqConfig(**fields), *sizes)
    config = RnnSeq2SeqConfig(vocab_size=3, cell_type=system, hidden_size=hidden_size, bidirectional=False)
    return RecurrentNetwork(config, *sizes)


def systems_of(configs: Iterable[PreTrainedConfig]) -> tuple[str, ...]:
    """The standard ones, and the parallel cells of these models, recurrent or hybrid."""
    cells = [
        getattr(config, "cell_type", None) for config in configs if recurrent_recipe(config) or hybrid_recipe(config)
    ]
    return (*STANDARD, *(name for name in SYSTEMS if name not in STANDARD and name in cells))


def adding(length: int, batch_size: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Numbers in [0, 1) and markers (batch, length, 2), one marker in each half of the row; sums of the marked ones
    (batch, 1)."""
    numbers = torch.rand(batch_size, length, generator=generator)
    half = length // 2
    first = torch.randint(0, half, (batch_size, 1), generator=generator)
    second = torch.randint(half, length, (batch_size, 1), generator=generator)
    markers = torch.zeros(batch_size, length).scatter_(1, torch.cat((first, second), dim=1), 1.0)
    return torch.stack((numbers, markers), dim=-1), (numbers * markers).sum(1, keepdim=True)


def copy(gap: int, batch_size: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """One-hot symbols (batch, gap + 6, 10) and the ids to say (batch, gap + 6): blanks, then the three symbols."""
    symbols = torch.randint(NUM_SYMBOLS, (batch_size, NUM_RECALLED), generator=generator)
    given = torch.full((batch_size, gap + 2 * NUM_RECALLED), BLANK)
    wanted = given.clone()
    given[:, :NUM_RECALLED] = symbols
    given[:, NUM_RECALLED + gap - 1] = DELIMITER  # "now": the last of the gap
    wanted[:, -NUM_RECALLED:] = symbols
    return nn.functional.one_hot(given, NUM_SYMBOLS + 2).float(), wanted


TASKS = {"adding": adding, "copy": copy}


def loss_of(task: str, network: nn.Module, inputs: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Mean squared error of the last position's answer; or cross-entropy per position, in nats."""
    outputs = network(inputs)  # (batch, length, outputs)
    if task == "adding":
        return nn.functional.mse_loss(outputs[:, -1], wanted)
    return nn.functional.cross_entropy(outputs.flatten(0, 1), wanted.flatten())


def baseline(task: str, length: int) -> float:
    """The loss of who remembers nothing: always 1 (the variance of a sum of two), or blanks and then any symbol."""
    if task == "adding":
        return 1 / 6
    return NUM_RECALLED * math.log(NUM_SYMBOLS) / (length + 2 * NUM_RECALLED)


def train(training: Training) -> tuple[dict[str, Any], RecurrentNetwork | TransformerNetwork]:
    """Trains with Adam until the task is solved, the updates are used up or the loss is no number; every batch is new.

    Returns:
        The training's values and its ``curve`` (updates, loss / baseline), ``error`` (loss / baseline on fresh
        sequences), ``accuracy`` (of the recalled symbols; None for the adding problem), ``largest_norm`` (of the
        gradient, before clipping) and ``solved_after`` (updates, or None); and the trained network.
    """
    network = build(training.system, training.task, training.hidden_size, training.seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=training.learning_rate)
    make = TASKS[training.task]
    nothing = baseline(training.task, training.length)
    generator = torch.Generator().manual_seed(training.seed)
    curve, window, largest_norm, solved_after = [], [], 0.0, None
    for update in range(1, training.updates + 1):
        loss = loss_of(training.task, network, *make(training.length, training.batch_size, generator))
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(network.parameters(), training.clipping or math.inf).item()
        if not math.isfinite(norm):
            break
        largest_norm = max(largest_norm, norm)
        optimizer.step()
        window.append(loss.item() / nothing)
        if len(window) == WINDOW:
            curve.append([update, sum(window) / WINDOW])
            window.clear()
            if curve[-1][1] < SOLVED:
                solved_after = update
                break
    inputs, wanted = make(training.length, NUM_TESTED, torch.Generator().manual_seed(training.seed + 1))
    with torch.no_grad():
        error = loss_of(training.task, network, inputs, wanted).item() / nothing
        accuracy = None
        if training.task == "copy":
            answers = network(inputs)[:, -NUM_RECALLED:].argmax(-1)
            accuracy = (answers == wanted[:, -NUM_RECALLED:]).float().mean().item()
    result = {
        **asdict(training),
        "curve": curve,
        "error": error if math.isfinite(error) else None,
        "accuracy": accuracy,
        "largest_norm": largest_norm,
        "solved_after": solved_after,
    }
    return result, network


def load_or_train(training: Training, folder: Path) -> RecurrentNetwork | TransformerNetwork:
    """The trained network: as `train_and_keep` left it, else trained anew."""
    network = build(training.system, training.task, training.hidden_size, training.seed)
    path = weights_file(training, folder)
    if path.is_file():
        with safe_open(path, framework="pt") as file:
            is_same = (file.metadata() or {}).get("training") == json.dumps(asdict(training))
        if is_same:
            network.load_state_dict(load_file(path))
            return network
    with one_thread():
        return train(training)[1]


def weights_file(training: Training, folder: Path) -> Path:
    """Where `train_and_keep` leaves the weights."""
    clipping = "not-clipped" if training.clipping is None else "clipped"
    name = f"{training.task}-{training.length}-{training.system}-{clipping}.safetensors"
    return folder / "memory_tasks" / name


@contextmanager
def one_thread() -> Iterator[None]:
    """The same sums whatever the number of threads was; it is restored."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def train_and_keep(training: Training, folder: Path) -> dict[str, Any]:
    """Trains, and leaves the weights under the report's folder for `load_or_train`."""
    with one_thread():
        result, network = train(training)
    path = weights_file(training, folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {"training": json.dumps(asdict(training))}
    write_aside(path, lambda aside: save_file(network.state_dict(), aside, metadata=about))
    return result
