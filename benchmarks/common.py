"""Two ways to do one thing, timed against each other in one run."""

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

from seqloom.support.machine import environment

Result = dict[str, Any]


def compare(
    what: str,
    sides: dict[str, Callable[[Any], None]],
    inputs: Sequence[Any],
    tokens: Callable[[Any], int],
    *,
    rounds: int,
    warmup: int,
) -> Result:
    """Gives every input to both sides, in alternating order, so that what slows the machine for a while slows both.

    Args:
        what: Names the comparison.
        sides: The two, by name.
        inputs: Rounds take them in turn.
        tokens: What an input counts.
        rounds, warmup: Inputs that are timed, and before them inputs that are not.

    Returns:
        Every round's ``seconds``; the medians over rounds of both sides' tokens per second and of the ``ratio``, how
        many times as fast the first side is; and the ``interval`` that holds the ratio's true median at 95 %.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    counts: list[int] = []
    for number in tqdm(range(-warmup, rounds), desc=what, unit=" rounds", dynamic_ncols=True, leave=False):
        lap, index = divmod(number, len(inputs))
        for name in list(sides) if (lap + index) % 2 else reversed(sides):
            started = time.perf_counter()
            sides[name](inputs[index])
            if number >= 0:
                seconds[name].append(time.perf_counter() - started)
        if number >= 0:
            counts.append(tokens(inputs[index]))
    return in_figures(what, seconds, dict.fromkeys(sides, counts))


def in_figures(what: str, seconds: dict[str, list[float]], counts: dict[str, list[int]]) -> Result:
    """What `compare` returns, of every round's seconds and tokens of two sides, the first of which is ours."""
    speeds = {
        name: [count / time for count, time in zip(counts[name], times, strict=True)] for name, times in seconds.items()
    }
    ratios = sorted(a / b for a, b in zip(*speeds.values(), strict=True))
    rounds = len(ratios)
    rank = max(1, math.floor((rounds - 1.96 * math.sqrt(rounds)) / 2))  # of the order statistics that hold the median
    return {
        "what": what,
        "tokens_per_second": {name: statistics.median(values) for name, values in speeds.items()},
        "ratio": statistics.median(ratios),
        "interval": [ratios[rank - 1], ratios[-rank]],
        "seconds": seconds,
    }


def table(results: Sequence[Result]) -> str:
    """The results in Markdown."""
    lines = ["| what | A | B | A, tokens/s | B, tokens/s | A / B | 95 % |", "|---|---|---|---:|---:|---:|---|"]
    for result in results:
        (first, first_speed), (second, second_speed) = result["tokens_per_second"].items()
        low, high = result["interval"]
        lines.append(
            f"| {result['what']} | {first} | {second} | {first_speed:,.0f} | {second_speed:,.0f} "
            f"| **{result['ratio']:.2f}** | {low:.2f} to {high:.2f} |"
        )
    return "\n".join(lines)


def save(path: Path, results: Sequence[Result]) -> None:
    """Writes the results, with where they come from, as JSON."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    record = {
        "command": shlex.join(["python", *sys.argv]),
        "commit": commit or None,
        "environment": environment(),
        "results": results,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=2, ensure_ascii=False), encoding="utf-8")
