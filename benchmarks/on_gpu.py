"""On one GPU: a training step's share of what the card can do, and decoding against `generate` of the same weights.

    python benchmarks/on_gpu.py --output runs/benchmarks/on_gpu.json
    python benchmarks/on_gpu.py --model runs/mine --sources sentences.txt   # decode these, with a trained model

Training is measured on pairs of 32 and 32 tokens, 16,384 tokens a side, in bf16 with fused AdamW; its FLOPs are counted
by `seqloom.comparison.instruments.flops` (matrix products alone, a multiply-add as two).
"""

from __future__ import annotations

import argparse
import gzip
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import save
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, PreTrainedModel

from seqloom import RnnSeq2SeqConfig, TransformerSeq2SeqConfig
from seqloom.comparison.instruments.flops import training_flops
from seqloom.decoding.asked import options_for
from seqloom.decoding.engine import decoder_for
from seqloom.decoding.search import search

LENGTH, BATCH_TOKENS = 32, 16_384
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""bf16 FLOP/s without sparsity, by the makers' sheets."""
VOCAB = 32_000
TRAINED: dict[str, Any] = {
    "Transformer base, 6+6×512": TransformerSeq2SeqConfig(vocab_size=VOCAB),
    "Transformer big, 6+6×1024": TransformerSeq2SeqConfig(
        vocab_size=VOCAB, d_model=1024, encoder_ffn_dim=4096, decoder_ffn_dim=4096, encoder_attention_heads=16,
        decoder_attention_heads=16,
    ),
    "LSTM 2+2×1024, Luong": RnnSeq2SeqConfig(
        vocab_size=VOCAB, cell_type="lstm", embedding_size=512, hidden_size=1024, encoder_layers=2, decoder_layers=2,
    ),
}  # fmt: skip


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a trained one; default: a base Transformer of random weights")
    parser.add_argument("--sources", type=Path, help="its sentences, a line each (.gz)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--skip_training", action="store_true")
    parser.add_argument("--output", type=Path, default=Path("runs/benchmarks/on_gpu.json"))
    args = parser.parse_args()
    results: list[dict[str, Any]] = []
    for result in steps(args):
        results.append(result)
        print({key: value for key, value in result.items() if key != "seconds"}, flush=True)
        save(args.output, results)


def steps(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """All that is measured."""
    yield {"what": "card", "name": torch.cuda.get_device_name(), "torch": torch.__version__}
    if not args.skip_training:
        for name, config in TRAINED.items():
            yield from trained(name, config)
    yield from decoded(args)


def timed(work: Callable[[], Any]) -> float:
    """Seconds until the GPU is done."""
    torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - started


def trained(name: str, config: Any) -> Iterator[dict[str, Any]]:
    """Updates of a model, as it is and compiled by torch."""
    torch.manual_seed(0)
    pairs = BATCH_TOKENS // LENGTH
    model: Any = AutoModelForSeq2SeqLM.from_config(config)
    flops = pairs * training_flops(model, LENGTH, LENGTH)
    model = model.cuda().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    ids = torch.randint(3, VOCAB, (2, pairs, LENGTH), device="cuda")
    peak = next((value for card, value in PEAKS.items() if card in torch.cuda.get_device_name()), None)
    # cuDNN's LSTM is one kernel, and torch 2.11's compiler fails around it under autocast.
    for is_compiled in (False, True) if config.model_type != "rnn_seq2seq" else (False,):
        forward = torch.compile(model) if is_compiled else model

        def update(forward: Any = forward) -> None:
            with torch.autocast("cuda", torch.bfloat16):
                loss = forward(input_ids=ids[0], labels=ids[1]).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        torch.cuda.reset_peak_memory_stats()
        first = timed(update)
        for _ in range(5):
            update()
        seconds = [timed(update) for _ in range(20)]
        median = statistics.median(seconds)
        yield {
            "what": "update", "model": name, "compiled": is_compiled, "parameters": model.num_parameters(),
            "tokens": pairs * LENGTH, "median_seconds": median, "target_tokens_per_second": pairs * LENGTH / median,
            "flops": flops, "mfu": flops / median / peak if peak else None, "first_seconds": first,
            "gigabytes": torch.cuda.max_memory_allocated() / 1e9, "seconds": seconds,
        }  # fmt: skip


def decoded(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Our search and `generate`, in turns."""
    torch.manual_seed(0)
    if args.model:
        tokenizer = AutoTokenizer.from_pretrained(args.model)
        opened = gzip.open if args.sources.suffix == ".gz" else open
        with opened(args.sources, "rt", encoding="utf-8") as file:
            encoded = tokenizer(file.read().splitlines())["input_ids"]
        model, name, lengths = AutoModelForSeq2SeqLM.from_pretrained(args.model), str(args.model), {}
    else:
        generator = torch.Generator().manual_seed(0)
        sizes = torch.randint(8, 40, (512,), generator=generator).tolist()
        encoded = [[*torch.randint(3, VOCAB, (size,), generator=generator).tolist(), 2] for size in sizes]
        model: Any = AutoModelForSeq2SeqLM.from_config(TransformerSeq2SeqConfig(vocab_size=VOCAB))
        name, lengths = "Transformer base, random weights", {"min_new_tokens": 32, "max_new_tokens": 32}
    lengths = lengths or {"max_new_tokens": 256}
    model = model.cuda().eval()
    for dtype in (torch.float32, torch.bfloat16):
        model = model.to(dtype)
        decoder = decoder_for(model)
        for sentences, num_beams in ((1, 1), (64, 1), (64, 5), (512, 5)):
            given = encoded[:24] if sentences == 1 else encoded
            options = {"num_beams": num_beams, "early_stopping": False, "length_penalty": 1.0, **lengths}
            sides = {
                "seqloom": partial(ours, decoder, model, given, sentences, options),
                "generate": partial(stock, model, given, sentences, options),
            }
            result = {"what": "decode", "model": name, "dtype": str(dtype).removeprefix("torch.")}
            yield result | {"sentences": sentences, "num_beams": num_beams, **in_turns(sides, args.rounds)}


def in_turns(sides: dict[str, Callable[[], list[list[int]]]], rounds: int) -> dict[str, Any]:
    """Both sides, as often; the first round warms up."""
    torch.cuda.reset_peak_memory_stats()
    found: dict[str, list[list[int]]] = {}
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(-1, rounds):
        for side, work in sides.items():
            torch.cuda.synchronize()
            started = time.perf_counter()
            found[side] = work()
            if number >= 0:
                seconds[side].append(time.perf_counter() - started)
    medians = {side: statistics.median(times) for side, times in seconds.items()}
    tokens, count = sum(map(len, found["seqloom"])), len(found["seqloom"])
    return {
        "of": count,
        "ratio": medians["generate"] / medians["seqloom"],
        "tokens_per_second": {side: tokens / median for side, median in medians.items()},
        "sentences_per_second": {side: count / median for side, median in medians.items()},
        "differing": sum(a != b for a, b in zip(*found.values(), strict=True)),
        "gigabytes": torch.cuda.max_memory_allocated() / 1e9,
        "seconds": seconds,
    }


@torch.inference_mode()
def ours(decoder: Any, model: Any, given: list[list[int]], sentences: int, options: dict[str, Any]) -> list[list[int]]:
    """By seqloom's search."""
    decided = options_for(model, options)
    if sentences == 1:
        outputs = [next(search(decoder, [source], decided, batch_tokens=1))[1] for source in given]
    else:
        budget = sentences * options["num_beams"] * max(map(len, given))
        found = dict(search(decoder, given, decided, batch_tokens=budget))
        outputs = [found[place] for place in range(len(given))]
    return [candidates[0].tokens for candidates in outputs]


@torch.inference_mode()
def stock(model: PreTrainedModel, given: list[list[int]], sentences: int, options: dict[str, Any]) -> list[list[int]]:
    """By transformers' generate: the longest first, so many at a time."""
    order = sorted(range(len(given)), key=lambda place: -len(given[place]))
    outputs: list[list[int]] = [[] for _ in given]
    for first in range(0, len(order), sentences):
        places = order[first : first + sentences]
        width = max(len(given[place]) for place in places)
        ids = torch.tensor([given[place] + [0] * (width - len(given[place])) for place in places], device="cuda")
        mask = torch.tensor([[1] * len(given[place]) + [0] * (width - len(given[place])) for place in places])
        generating: Any = model
        for place, row in zip(
            places, generating.generate(ids, attention_mask=mask.cuda(), **options)[:, 1:].tolist(), strict=True
        ):
            outputs[place] = row[: row.index(2) + 1] if 2 in row else row
    return outputs


if __name__ == "__main__":
    main()
