"""What a model costs: time against length, batch, vocabulary and size; peak memory; the time to the first output.

    python benchmarks/costs.py
    python benchmarks/costs.py --parts curves --rounds 12 --threads 2
    python benchmarks/costs.py --parts starts --engines "seqloom float32" generate

Curves are measured in one process, all points of a curve in turn; memory and starts each in a process of its own.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import Result, check_rounds, end_in_one_sentence, median_interval, save, take_turns
from decoding_speed import SHAPES, SPECIAL, save_random
from engines import ENGINES, STOCK, NotHere, Search, export_all, generate_with, load_engine, search_with
from transformers import PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from seqloom.comparison.instruments.clock import exponent
from seqloom.comparison.instruments.footprint import Work, watch
from seqloom.comparison.instruments.training_steps import build, training_step
from seqloom.decoding.engine import decoder_for
from seqloom.settings.schema import TrainingSettings
from seqloom.support.wording import listing, table

FAMILIES: dict[str, dict[str, Any]] = {
    "Transformer": {},
    "GRU": {"cell_type": "gru", "attention": "luong"},
    "LSTM": {"cell_type": "lstm", "attention": "luong"},
}
"""Two layers on each side; the recurrent ones have Luong's attention."""
LAYERS = 2
AT = {"length": 32, "batch": 16, "vocabulary": 8_000, "width": 128}
"""Where the other three stand while one is moved."""
AXES = {
    "length": (8, 16, 32, 64, 128, 256),
    "batch": (1, 4, 16, 64),
    "vocabulary": (500, 2_000, 8_000, 32_000),
    "width": (64, 128, 256, 512),
}
QUICK_AXES = {"length": (16, 64), "batch": (1, 16), "vocabulary": (2_000, 8_000), "width": (64, 128)}
WORKS = ("training step", "seqloom's search", STOCK)
MEMORY_LENGTHS = (32, 128, 512)
QUICK_MEMORY_LENGTHS = (32,)
MEMORY_ROWS = 16
STARTED = ("tiny", "gru")
"""Shapes that engines are started with."""
MANY, BEAMS, LENGTH = 64, 5, 24
"""Sentences, beams and tokens of the decoding whose memory is measured."""
PARTS = ("curves", "memory", "starts")


def main() -> None:
    """The command."""
    args = parse()
    disable_progress_bar()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    started = time.perf_counter()
    found: dict[str, Any] = {"threads": args.threads, "at": AT, "layers": LAYERS}
    with tempfile.TemporaryDirectory(prefix="seqloom-bench-") as name:
        for part in args.parts:
            found[part] = MEASURES[part](args, Path(name))
            save(args.output, [], **found, seconds=time.perf_counter() - started)
    print(*(f"\n{text}" for text in tables(found)), f"\nwritten to {args.output}", sep="\n")


def parse() -> argparse.Namespace:
    """The command line's options, judged."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES), metavar="ENGINE",
                        help=f"that are started: {listing(ENGINES)}")  # fmt: skip
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--repeats", type=int, default=3, help="processes of each start")
    parser.add_argument("--quick", action="store_true", help="few points, one process of each start")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("runs/benchmarks/costs.json"))
    args = parser.parse_args()
    check_rounds(args.rounds)
    for name in ("threads", "repeats"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name} is {getattr(args, name)}; it must be 1 or more.")
    return args


def measure_curves(args: argparse.Namespace, scratch: Path) -> list[Result]:
    """Milliseconds of a training step (forward and backward) and of decoding, greedily, along every axis."""
    results = []
    for axis, values in (QUICK_AXES if args.quick else AXES).items():
        sides: dict[str, Callable[[Any], Any]] = {}
        keys: dict[str, tuple[str, str, int]] = {}
        parameters: dict[tuple[str, int], int] = {}
        for family, recipe in FAMILIES.items():
            for value in values:
                at = AT | {axis: value}
                model = build(recipe, at["width"], LAYERS, at["vocabulary"])
                parameters[family, value] = model.num_parameters()
                for work, side in works(model, at, args.threads).items():
                    keys[name := f"{work}, {family}, {value}"] = (work, family, value)
                    sides[name] = side
        laps = take_turns(f"cost against {axis}", sides, [None], rounds=args.rounds, warmup=1)
        for work in WORKS:
            for family in FAMILIES:
                names = [name for name, key in keys.items() if key[:2] == (work, family)]
                mine = {keys[name][2]: laps.seconds[name] for name in names}
                medians = {value: 1000 * statistics.median(times) for value, times in mine.items()}
                results.append({
                    "axis": axis, "work": work, "family": family, "values": list(mine),
                    "milliseconds": list(medians.values()),
                    "intervals": [[1000 * bound for bound in median_interval(times)] for times in mine.values()],
                    "parameters": [parameters[family, value] for value in mine],
                    "exponent": exponent(medians),
                })  # fmt: skip
        print(f"cost against {axis}: {', '.join(map(str, values))}", flush=True)
    return results


def works(model: Any, at: dict[str, int], threads: int) -> dict[str, Callable[[Any], Any]]:
    """What is timed of a model, by its name in `WORKS`. Outputs are as long as sources."""
    ids = torch.randint(4, at["vocabulary"], (at["batch"], at["length"])).tolist()
    search = Search(1, at["batch"], max_new_tokens=at["length"], min_new_tokens=at["length"])
    step = training_step(model, "model", at["length"], at["batch"])
    ours, stock = search_with({threads: decoder_for(model, "float32")}, model.config), generate_with(model)

    def in_mode(training: bool, run: Callable[[], object], _: Any) -> None:
        set_mode(model, training)
        run()

    return {
        WORKS[0]: partial(in_mode, True, step),
        WORKS[1]: partial(in_mode, False, lambda: ours(ids, search, threads)),
        WORKS[2]: partial(in_mode, False, lambda: stock(ids, search, threads)),
    }


def set_mode(model: PreTrainedModel, training: bool) -> None:
    """Training or evaluation; not a walk over all modules where it is that already."""
    if model.training is not training:
        model.train(training)


def measure_memory(args: argparse.Namespace, scratch: Path) -> list[Result]:
    """MiB that grow while a model trains, and while stock `generate` decodes, each in a fresh process."""
    results = []
    for family, recipe in FAMILIES.items():
        config = build(recipe, AT["width"], LAYERS, AT["vocabulary"]).config
        folder = scratch / f"memory-{family}"
        config.save_pretrained(folder)
        for length in QUICK_MEMORY_LENGTHS if args.quick else MEMORY_LENGTHS:
            training = dataclasses.asdict(TrainingSettings())
            work = Work(str(folder), length, length, MEMORY_ROWS, MEMORY_ROWS, training, args.threads)
            found = watch(work)
            del found["energy"]
            results.append({"family": family, "length": length, "rows": MEMORY_ROWS, **found})
            print(f"memory: {family}, {MEMORY_ROWS} pairs of {length} tokens", flush=True)
    return results


def measure_starts(args: argparse.Namespace, scratch: Path) -> list[Result]:
    """Seconds to the first output and peak memory of every engine, each in fresh processes."""
    results = []
    for shape in STARTED[:1] if args.quick else STARTED:
        folder = scratch / shape
        save_random(SHAPES[shape](), folder, args.seed)
        export_all(args.engines, folder, scratch)
        sources = torch.randint(4, AT["vocabulary"], (MANY, LENGTH - 1)).tolist()
        work = {
            "folder": str(folder), "scratch": str(scratch), "threads": args.threads, "beams": BEAMS,
            "sources": [[*ids, SPECIAL["eos_token_id"]] for ids in sources],
            "limits": {"max_new_tokens": LENGTH, "min_new_tokens": LENGTH},
        }  # fmt: skip
        for engine in args.engines:
            try:
                load_engine(engine, folder, scratch, [args.threads])  # what is exported is there from now on
            except NotHere as reason:
                results.append({"model": shape, "engine": engine, "missing": str(reason)})
                continue
            runs = [start(work | {"engine": engine}) for _ in range(1 if args.quick else args.repeats)]
            medians = {
                name: None if None in (values := [run[name] for run in runs]) else statistics.median(values)
                for name in runs[0]
            }
            results.append({"model": shape, "engine": engine, "missing": None, **medians, "runs": runs})
            print(f"start: {shape}, {engine}", flush=True)
    return results


def start(work: dict[str, Any]) -> dict[str, float | None]:
    """What a fresh process measured."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(work["threads"])}
    command = [sys.executable, str(Path(__file__).with_name("startup.py"))]
    words = json.dumps(work | {"spawned": time.time()})
    done = subprocess.run([*command, words], capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        raise ValueError(f"{work['engine']} did not start: {said[-1] if said else f'status {done.returncode}'}")
    return json.loads(done.stdout.splitlines()[-1])


def tables(found: dict[str, Any]) -> list[str]:
    """What was found, in Markdown, a table a part."""
    return [TABLES[part](found[part]) for part in PARTS if part in found]


def curves_table(curves: list[Result]) -> str:
    """How time grows along every axis, from its first value to its last."""
    rows = []
    for curve in curves:
        first, last = curve["milliseconds"][0], curve["milliseconds"][-1]
        rows.append([
            f"{curve['axis']} {curve['values'][0]:,} to {curve['values'][-1]:,}", curve["work"], curve["family"],
            f"{first:,.1f}", f"{last:,.1f}", f"{last / first:.1f}", f"{curve['exponent']:.2f}",
        ])  # fmt: skip
    return table(["axis", "what", "model", "ms, first:", "ms, last:", "times:", "exponent:"], rows)


def memory_table(memory: list[Result]) -> str:
    """MiB."""
    rows = []
    for entry in memory:
        values = (entry[f"{kind}_memory_mib"] for kind in ("training", "generation"))
        cells = ("–" if value is None else f"{value:,.0f}" for value in values)
        rows.append([entry["family"], f"{entry['length']:,}", *cells])
    return table(["model", "tokens:", "training, MiB:", "generate, MiB:"], rows)


def starts_table(starts: list[Result]) -> str:
    """Seconds and MiB."""
    rows = []
    for entry in starts:
        if entry["missing"]:
            rows.append([entry["model"], entry["engine"], entry["missing"], *[""] * 6])
            continue
        steps = [entry[name] for name in ("interpreter", "import", "load", "first_output")]
        megabytes = (entry[name] for name in ("memory_one_mib", "memory_many_mib"))
        rows.append([
            entry["model"], entry["engine"], f"{sum(steps):.2f}", f"{steps[0] + steps[1]:.2f}", f"{steps[2]:.2f}",
            f"{1000 * steps[3]:,.0f}", f"{1000 * entry['next_output']:,.0f}",
            *("–" if value is None else f"{value:,.0f}" for value in megabytes),
        ])  # fmt: skip
    headers = ["model", "engine", "first output after, s:", "import, s:", "load, s:", "first sentence, ms:",
               "next, ms:", "peak memory, one, MiB:", f"{MANY} × {BEAMS} beams, MiB:"]  # fmt: skip
    return table(headers, rows)


MEASURES = {"curves": measure_curves, "memory": measure_memory, "starts": measure_starts}
TABLES: dict[str, Callable[[list[Result]], str]] = {
    "curves": curves_table, "memory": memory_table, "starts": starts_table,
}  # fmt: skip


if __name__ == "__main__":
    end_in_one_sentence(main)
