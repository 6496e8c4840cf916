"""One layer, forward and backward, against the length: torch's cells, the parallel ones, a Transformer's.

    python benchmarks/layers.py
    python benchmarks/layers.py --lengths 16 1024 --width 512 --rounds 20 --threads 2

An update's worth of tokens stands in every measurement, as few long sequences or as many short ones. At each length all
layers take turns; each is as wide as its inputs, reads in one direction and gives the gradients of inputs and weights.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import Result, end_in_one_sentence, median_interval, ratio_of, save, take_turns
from pictures import draw_layers
from torch import nn

from seqloom import RnnSeq2SeqConfig, TransformerSeq2SeqConfig
from seqloom.figures import style
from seqloom.modeling.cells_rnn_seq2seq import CELLS
from seqloom.modeling.modeling_rnn_seq2seq import RnnSeq2SeqLayer
from seqloom.modeling.modeling_transformer_seq2seq import TransformerSeq2SeqEncoderLayer
from seqloom.support import disk
from seqloom.support.machine import keep_freed_memory
from seqloom.support.wording import table

TRANSFORMER = "Transformer"
LENGTHS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
COMPARED = (("minGRU", "LSTM"), ("minGRU", "GRU"), ("minLSTM", "LSTM"), ("SSRU", "LSTM"), ("minGRU", TRANSFORMER))
"""How many times as fast the first is as the second."""


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", nargs="+", type=int, default=LENGTHS)
    parser.add_argument("--tokens", type=int, default=4096, help="of all sequences together")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--heads", type=int, default=4, help="of the Transformer's layer")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("runs/benchmarks/layers.json"), help="and a picture beside")
    args = parser.parse_args()
    for length in args.lengths:
        if length < 1 or args.tokens % length:
            raise ValueError(f"--lengths has {length}, which does not divide {args.tokens} tokens: give one that does.")
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    keep_freed_memory()
    layers = build(args.width, args.heads)
    results: list[Result] = []
    for length in sorted(args.lengths):
        results.append(measure(layers, length, args))
        settings = {name: getattr(args, name) for name in ("tokens", "width", "heads", "threads", "rounds")}
        save(args.output, results, **settings)
    picture = args.output.with_suffix(".png")
    disk.write_aside(picture, partial(style.save, draw_layers(results)))
    print(layers_table(results), f"\nwritten to {args.output} and {picture}", sep="\n")


def build(width: int, heads: int) -> dict[str, nn.Module]:
    """A layer each, by name, without dropout."""
    layers: dict[str, nn.Module] = {}
    for name in ("lstm", "gru", "min_gru", "min_lstm", "ssru"):
        config = RnnSeq2SeqConfig(vocab_size=8, hidden_size=width, cell_type=name, bidirectional=False)
        layers[CELLS[name].name] = RnnSeq2SeqLayer(config, width)
    of_transformer = TransformerSeq2SeqConfig(
        vocab_size=8, d_model=width, encoder_attention_heads=heads, encoder_ffn_dim=4 * width, dropout=0.0,
        decoder_attention_heads=heads, attn_implementation="sdpa",
    )  # fmt: skip
    layers[TRANSFORMER] = TransformerSeq2SeqEncoderLayer(of_transformer, 0)
    return {name: layer.train() for name, layer in layers.items()}


def measure(layers: dict[str, nn.Module], length: int, args: argparse.Namespace) -> Result:
    """All layers at one length: ``milliseconds`` (medians) with their ``intervals``, ``ratios`` of `COMPARED`."""
    batch = args.tokens // length
    inputs = torch.randn(batch, length, args.width, requires_grad=True), torch.randn(batch, length, args.width)
    sides: dict[str, Callable[[Any], object]] = {name: partial(step, layer) for name, layer in layers.items()}
    laps = take_turns(f"{length} steps", sides, [inputs], rounds=args.rounds, warmup=args.warmup)
    return {
        "length": length,
        "milliseconds": {name: 1000 * statistics.median(times) for name, times in laps.seconds.items()},
        "intervals": {name: [1000 * end for end in median_interval(times)] for name, times in laps.seconds.items()},
        "ratios": {f"{fast} over {slow}": ratio_of(laps.seconds[slow], laps.seconds[fast]) for fast, slow in COMPARED},
        "seconds": laps.seconds,
        "cpu_share": laps.cpu_share,
    }


def step(layer: nn.Module, given: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Forward and backward; leaves no gradient behind."""
    inputs, gradient = given
    outputs = layer(inputs, None)
    (outputs if torch.is_tensor(outputs) else outputs[0]).backward(gradient)
    inputs.grad = None
    layer.zero_grad()


def layers_table(results: Sequence[Result]) -> str:
    """Milliseconds of every layer, and how many times as fast, a length a row."""
    names, ratios = list(results[0]["milliseconds"]), list(results[0]["ratios"])
    rows = []
    for result in results:
        row = [f"{result['length']:,}", *(f"{result['milliseconds'][name]:,.1f}" for name in names)]
        for name in ratios:
            low, high = result["ratios"][name]["interval"]
            row.append(f"**{result['ratios'][name]['ratio']:.2f}** ({low:.2f}–{high:.2f})")
        rows.append(row)
    return table(["steps:", *(f"{name}, ms:" for name in names), *(f"{name}:" for name in ratios)], rows)


if __name__ == "__main__":
    end_in_one_sentence(main)
