"""Timing two ways of one computation against each other in one run."""

from __future__ import annotations

import json
import math
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from seqloom.evaluation import environment


def interleave(
    sides: dict[str, Callable[[Any], None]], inputs: Sequence[Any], *, rounds: int, warmup: int, desc: str
) -> dict[str, list[float]]:
    """Seconds of every side in every round. A round is one input, given to all sides; their order alternates.

    What slows the machine for a while slows all sides: compare round by round.
    """
    seconds = {name: [] for name in sides}
    for number in tqdm(range(-warmup, rounds), desc=desc, unit=" rounds", dynamic_ncols=True, leave=False):
        lap, index = divmod(number, len(inputs))
        for name in list(sides) if (lap + index) % 2 else reversed(list(sides)):
            started = time.perf_counter()
            sides[name](inputs[index])
            if number >= 0:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def compare(
    what: str,
    sides: dict[str, Callable[[Any], None]],
    inputs: Sequence[Any],
    tokens: Callable[[Any], int],
    *,
    rounds: int,
    warmup: int,
) -> dict[str, Any]:
    """Times two sides; ``ratio`` is how many times as fast the first is, ``interval`` holds that median at 95 %."""
    seconds = interleave(sides, inputs, rounds=rounds, warmup=warmup, desc=what)
    ours, theirs = seconds.values()
    ratios = sorted(b / a for a, b in zip(ours, theirs, strict=True))
    rank = max(1, math.floor((rounds - 1.96 * math.sqrt(rounds)) / 2))  # of the order statistics around the median
    counts = [tokens(inputs[number % len(inputs)]) for number in range(rounds)]
    speeds = {name: statistics.median(map(float.__rtruediv__, times, counts)) for name, times in seconds.items()}
    return {
        "what": what,
        "tokens_per_second": speeds,
        "ratio": statistics.median(ratios),
        "interval": [ratios[rank - 1], ratios[-rank]],
        "seconds": seconds,
    }


def table(results: Sequence[dict[str, Any]]) -> str:
    """The results in Markdown."""
    lines = ["| what | A | B | A, tokens/s | B, tokens/s | A over B | 95 % |", "| --- | --- | --- | ---: | ---: | ---: | --- |"]
    for result in results:
        (a, speed_a), (b, speed_b) = result["tokens_per_second"].items()
        low, high = result["interval"]
        lines.append(
            f"| {result['what']} | {a} | {b} | {speed_a:,.0f} | {speed_b:,.0f} "
            f"| **{result['ratio']:.2f}** | {low:.2f} to {high:.2f} |"
        )
    return "\n".join(lines)


def save(path: Path, results: Sequence[dict[str, Any]]) -> None:
    """Writes the results with what it takes to repeat them."""
    root = Path(__file__).resolve().parent
    git = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip() or None
    record = {
        "command": shlex.join(["python", *sys.argv]),
        "commit": commit,
        "environment": environment(),
        "results": list(results),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=2), encoding="utf-8")
