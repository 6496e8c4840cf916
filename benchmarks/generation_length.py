"""Generation against the length of the output: who is light now? Time, and what is kept of a sentence.

    python benchmarks/generation_length.py
    python benchmarks/generation_length.py --batches 64 --lengths 256 512 --add   # to what was measured before

Transformers with as deep a decoder as encoder and with a shallow one (Kasai et al. 2021), hybrids (a Transformer
encoder, an SSRU decoder) and an RNN, of equal width, by seqloom's own search: greedy, from random weights, every output
as long as it is told to be. All systems take turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import Result, check_rounds, end_in_one_sentence, origin, ratio_of, save, take_turns
from decoding_speed import SPECIAL
from engines import Search, search_with
from transformers import AutoConfig, AutoModelForSeq2SeqLM

import seqloom  # noqa: F401 - registers the families
from seqloom.decoding.engine import decoder_for
from seqloom.figures import style
from seqloom.figures.style import log_scale, look, new_figure
from seqloom.support.wording import table

FIRST = "Transformer 6-6"
"""Over which the ratios of the others are."""
SYSTEMS: dict[str, dict[str, Any]] = {
    FIRST: {"model_type": "transformer_seq2seq", "encoder_layers": 6, "decoder_layers": 6},
    "Transformer 12-1": {"model_type": "transformer_seq2seq", "encoder_layers": 12, "decoder_layers": 1},
    "Transformer 6-2": {"model_type": "transformer_seq2seq", "encoder_layers": 6, "decoder_layers": 2},
    "hybrid 6+2 SSRU": {"model_type": "hybrid_seq2seq", "encoder_layers": 6, "decoder_layers": 2},
    "hybrid 6+4 SSRU": {"model_type": "hybrid_seq2seq", "encoder_layers": 6, "decoder_layers": 4},
    "GRU 2+2, Luong": {"model_type": "rnn_seq2seq", "cell_type": "gru", "encoder_layers": 2, "decoder_layers": 2},
}
LENGTHS, BATCHES = (16, 32, 64, 128, 256, 512), (1, 64)
SOURCE = 24
"""Tokens of every source."""


def main() -> None:
    """The command."""
    args = parse()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    asked = {name: getattr(args, name) for name in ("width", "ffn", "heads", "vocabulary", "threads")}
    results: list[Result] = []
    if args.add and args.output.is_file():
        before = json.loads(args.output.read_text(encoding="utf-8"))
        if before["asked"] != asked:
            raise ValueError(f"{args.output} is of {before['asked']}, not of {asked}: give it another --output.")
        results = before["results"]
    decoders = {name: decoder_for(model(name, args)) for name in SYSTEMS}
    started = time.perf_counter()
    for batch in args.batches:
        for length in args.lengths:
            new = measure(decoders, batch, length, args)
            others = [one for one in results if (one["batch"], one["length"]) != (batch, length)]
            results = sorted([*others, new], key=lambda one: (one["batch"], one["length"]))
            save(args.output, results, asked=asked, source=SOURCE, seconds=time.perf_counter() - started)
    print(f"\n{in_words(results)}\n\nwritten to {args.output}")
    if args.plot is not None:
        figure = draw(results)
        args.plot.parent.mkdir(parents=True, exist_ok=True)
        style.save(figure, args.plot)


def parse() -> argparse.Namespace:
    """The command line's options, judged."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=list(LENGTHS), help="tokens of every output")
    parser.add_argument("--batches", type=int, nargs="+", default=list(BATCHES), help="sentences together")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--ffn", type=int, default=1536, help="inner width of the feed-forward networks")
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--vocabulary", type=int, default=8000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--add", action="store_true", help="keep what the output has of other lengths and batches")
    parser.add_argument("--output", type=Path, default=Path("runs/benchmarks/generation_length.json"))
    parser.add_argument("--plot", type=Path, help="a PNG of it")
    args = parser.parse_args()
    check_rounds(args.rounds)
    for name in ("width", "ffn", "heads", "vocabulary", "threads", "lengths", "batches"):
        values = getattr(args, name)
        if min(values if isinstance(values, list) else [values]) < 1:
            raise ValueError(f"--{name} is {values}; it must be 1 or more.")
    return args


def model(name: str, args: argparse.Namespace) -> Any:
    """A system with random weights."""
    fields: dict[str, Any] = {"vocab_size": args.vocabulary, **SPECIAL, **SYSTEMS[name]}
    if fields["model_type"] == "rnn_seq2seq":
        fields["hidden_size"] = args.width
    else:
        fields["d_model"] = args.width
        for side in ("encoder", "decoder"):
            fields |= {f"{side}_attention_heads": args.heads, f"{side}_ffn_dim": args.ffn}
    return AutoModelForSeq2SeqLM.from_config(AutoConfig.for_model(**fields)).eval()


def measure(decoders: dict[str, Any], batch: int, length: int, args: argparse.Namespace) -> Result:
    """All systems at one batch and length: seconds of every round, ratios over the first, bytes of state."""
    search = Search(1, batch, max_new_tokens=length, min_new_tokens=length)
    sources = torch.randint(4, args.vocabulary, (batch, SOURCE)).tolist()

    def run(name: str, given: list[list[int]]) -> None:
        with torch.inference_mode():
            found = decode[name](given, search, args.threads)
        assert all(len(tokens) == length for tokens in found)

    config = AutoConfig.for_model(**{"vocab_size": args.vocabulary, **SPECIAL, **SYSTEMS[FIRST]})
    decode = {name: search_with({args.threads: decoder}, config) for name, decoder in decoders.items()}
    sides = {name: partial(run, name) for name in decoders}
    laps = take_turns(
        f"{batch} × {length}", sides, [sources], rounds=args.rounds, warmup=int(length == min(args.lengths))
    )
    first = laps.seconds[FIRST]
    found = {
        name: {
            "milliseconds_a_step": 1000 * statistics.median(seconds) / length,
            "tokens_per_second": batch * length / statistics.median(seconds),
            **ratio_of(first, seconds),
            "state_bytes": kept_bytes(decoders[name], length),
            "seconds": seconds,
        }
        for name, seconds in laps.seconds.items()
    }
    print(f"{batch} × {length}: " + ", ".join(f"{name} {one['ratio']:.2f}" for name, one in found.items()), flush=True)
    return {"batch": batch, "length": length, "systems": found, "origin": origin()}


@torch.inference_mode()
def kept_bytes(decoder: Any, length: int) -> int:
    """Of a sentence's target after so many tokens: keys and values of its own, or a recurrent state."""
    source = torch.full((1, SOURCE), 4)
    state = decoder.start(source, torch.ones_like(source), 1)
    for _ in range(length):
        decoder.step(torch.tensor([4]), state)
    if hasattr(state, "layers"):
        parts = [part for layer in state.layers for part in layer]
    else:
        parts = [state.own[:, :, :, :, : state.longest]]
    return sum(part.numel() * part.element_size() for part in parts)


def in_words(results: Sequence[Result]) -> str:
    """A row a batch and length: times as fast as the first, with 95 %; KiB of state."""
    rows = []
    for one in results:
        systems = one["systems"]
        cells = [f"{systems[FIRST]['milliseconds_a_step']:.2f}"]
        for name in list(SYSTEMS)[1:]:
            low, high = systems[name]["interval"]
            cells.append(f"**{systems[name]['ratio']:.2f}** ({low:.2f}–{high:.2f})")
        rows.append([f"{one['batch']}", f"{one['length']}", *cells])
    speeds = table(["sentences:", "tokens:", f"{FIRST}, ms a step:", *(f"{name}:" for name in list(SYSTEMS)[1:])], rows)
    rows = [
        [name, *(f"{one['systems'][name]['state_bytes'] / 1024:,.0f}" for one in results if one["batch"] == of_batch)]
        for of_batch in [results[0]["batch"]]
        for name in SYSTEMS
    ]
    lengths = [f"{one['length']} tokens:" for one in results if one["batch"] == results[0]["batch"]]
    return f"{speeds}\n\n{table(['KiB of state a sentence', *lengths], rows)}"


def draw(results: Sequence[Result]) -> Any:
    """Times as fast as the first against length, a panel for each batch; and bytes of state."""
    batches = sorted({one["batch"] for one in results})
    figure, panels = new_figure(len(batches) + 1, height=3.2)
    for panel, batch in zip(panels, [*batches, None], strict=True):
        of_batch = [one for one in results if one["batch"] == (batches[0] if batch is None else batch)]
        lengths = [one["length"] for one in of_batch]
        for index, name in enumerate(SYSTEMS):
            found = [one["systems"][name] for one in of_batch]
            values = [one["state_bytes"] / 1024 if batch is None else one["ratio"] for one in found]
            panel.plot(lengths, values, label=name, **look(index))
        log_scale(panel, lengths)
        if batch is None:
            log_scale(panel, [2**power for power in range(1, 14, 2)], "y")
        panel.set_xlabel("length of the output, tokens")
        panel.set_ylabel("KiB of state, a sentence" if batch is None else f"× {FIRST}, {batch} at a time")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
    return figure


if __name__ == "__main__":
    end_in_one_sentence(main)
