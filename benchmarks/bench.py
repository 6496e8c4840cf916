"""`make bench`: everything that is measured, one after the other, and docs/benchmarks.md made of it.

    python benchmarks/bench.py                       # everything; writes docs/benchmarks.md
    python benchmarks/bench.py --quick               # a look; the page stays as it is
    python benchmarks/bench.py --only costs          # measures one part anew, the rest of the page stays
    python benchmarks/bench.py --page                # measures nothing: the page of what was measured last

Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from common import Result, end_in_one_sentence, origin, versions
from decoding_speed import EXTRA
from page import read, write

from seqloom.support import disk
from seqloom.support.console import duration

ROOT = Path(__file__).parents[1]
HERE = ROOT / "benchmarks"
PAGE = ROOT / "docs" / "benchmarks.md"


@dataclass(frozen=True)
class Stage:
    """A part: a script beside this one, or a command of seqloom's."""

    name: str
    """Of its JSON file too."""
    script: str
    words: tuple[str, ...]
    quick: tuple[str, ...]
    """Instead of them, for a look."""
    minutes: float
    """That it takes, about, on two cores."""
    makes_record: bool = True


def train_stage(name: str, steps: int, quick_steps: int) -> Stage:
    """A model of the built-in task, trained for about a minute."""
    common = ("train", f"configs/{name}.yaml", "--output_dir", f"{{folder}}/models/{name}", "--overwrite")
    words, quick = (
        (*common, "--max_steps", str(number), "--eval_steps", str(number)) for number in (steps, quick_steps)
    )
    return Stage(f"train {name}", "seqloom", words, quick, 1, makes_record=False)


FEW = ("--engines", "generate", "seqloom float32", "seqloom int8", "CTranslate2 int8")
TRAINED = ("--model", "{folder}/models/scan-rnn", "{folder}/models/scan-transformer", "--metric", "exact_match")
STAGES = (
    Stage(
        "training_speed", "training_speed.py",
        ("--label_smoothing", "0.1", "--batch_tokens", "1024", "--rounds", "10"),
        ("--compare", "tiny", "recurrent-scan", "--label_smoothing", "0.1", "--batch_tokens", "256", "--rounds", "6"),
        2,
    ),
    Stage(
        "whole_run", "whole_run.py", ("--rounds", "8", "--updates", "4"),
        ("--compare", "grouped", "--batch_tokens", "512", "--rounds", "6", "--updates", "1"), 3,
    ),
    train_stage("scan-rnn", 1500, 100),
    train_stage("scan-transformer", 2000, 100),
    Stage(
        "decoding_speed", "decoding_speed.py", (),
        ("--shapes", "tiny", "gru", "--lengths", "short", "--seconds", "1", *FEW), 10,
    ),
    Stage(
        "decoding_trained", "decoding_speed.py", (*TRAINED, "--seconds", "4"),
        (*TRAINED, "--seconds", "1", "--most_sentences", "128", "--batches", "64", "--beams", "1", *FEW),
        3,
    ),
    Stage(
        "layers", "layers.py", (), ("--tokens", "512", "--lengths", "16", "512", "--width", "64", "--rounds", "6"), 2
    ),
    Stage("costs", "costs.py", (), ("--quick", "--rounds", "6", "--parts", "curves", "starts", *FEW), 6),
)  # fmt: skip


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [stage.name for stage in STAGES]
    parser.add_argument("--quick", action="store_true", help="a look, in a folder of its own")
    parser.add_argument("--only", nargs="+", choices=names, metavar="PART", help=", ".join(names))
    parser.add_argument("--page", action="store_true", help="only write the page")
    args = parser.parse_args()
    folder = ROOT / "runs" / ("bench-quick" if args.quick else "bench")
    page = folder / "benchmarks.md" if args.quick else PAGE
    if not args.page:
        run([stage for stage in STAGES if stage.name in (args.only or names)], folder, args.quick)
    write(folder, page)
    print(f"written: {page.relative_to(ROOT)}")
    failed = [stage["name"] for stage in read(folder / "bench.json")["stages"] if stage["status"]]
    if failed:
        raise ValueError(f"{', '.join(failed)} could not be measured; the page says why.")


def run(stages: list[Stage], folder: Path, quick: bool) -> None:
    """Measures the parts and keeps, in ``bench.json``, where they come from and how long they took."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "bench.json"
    kept = {stage["name"]: stage for stage in read(path)["stages"]} if path.is_file() else {}
    record: Result = {**origin(), "asked": "make bench", "packages": versions(EXTRA)}
    if quick:
        record["asked"] = "make bench BENCH=--quick"
    started, whole = time.perf_counter(), sum(stage.minutes for stage in stages)
    for number, stage in enumerate(stages, start=1):
        left = sum(other.minutes for other in stages[number - 1 :])
        about = "" if quick else f", about {left:.0f} of {whole:.0f} minutes left"
        print(f"[{number}/{len(stages)}] {stage.name}{about}", flush=True)
        kept[stage.name] = run_stage(stage, folder, quick)
        ended = kept[stage.name]["said"] or "done"
        print(f"[{number}/{len(stages)}] {stage.name}: {ended}, {duration(kept[stage.name]['seconds'])}", flush=True)
        if not quick and len(kept) < len(STAGES):  # the page is of these alone
            record["asked"] = shlex.join(["python", "benchmarks/bench.py", "--only", *kept])
        record |= {
            "stages": [kept[other.name] for other in STAGES if other.name in kept],
            "seconds": sum(stage["seconds"] for stage in kept.values()),
        }
        disk.write_aside(path, disk.text(json.dumps(record, indent=2, ensure_ascii=False)))
    print(f"measured in {duration(time.perf_counter() - started)}", flush=True)


def run_stage(stage: Stage, folder: Path, quick: bool) -> Result:
    """One part, in a process of its own: ``name``, ``seconds``, ``status`` and what it ``said`` where that is not 0."""
    output = folder / f"{stage.name}.json"
    if stage.makes_record:
        output.unlink(missing_ok=True)  # what fails now leaves no older numbers on the page
    result: Result = {"name": stage.name, "seconds": 0.0, "status": 0, "said": ""}
    script = HERE / stage.script
    if stage.script.endswith(".py") and not script.is_file():
        return result | {"status": 1, "said": f"there is no benchmarks/{stage.script}"}
    start = [script.relative_to(ROOT).as_posix()] if stage.script.endswith(".py") else ["-m", stage.script]
    place = Path(os.path.relpath(folder, ROOT)).as_posix()
    words = [word.replace("{folder}", place) for word in (stage.quick if quick else stage.words)]
    if stage.makes_record:
        words += ["--output", f"{place}/{output.name}"]
    started = time.perf_counter()
    done = subprocess.run([sys.executable, *start, *words], cwd=ROOT, stderr=subprocess.PIPE, text=True, check=False)
    result |= {"seconds": time.perf_counter() - started, "status": done.returncode}
    if done.returncode:
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        result["said"] = (said[-1] if said else f"ended with status {done.returncode}").removeprefix("error: ")
    return result


if __name__ == "__main__":
    end_in_one_sentence(main)
