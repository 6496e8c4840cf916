"""Ways to do one thing, timed against each other in one run; and where the numbers come from."""

from __future__ import annotations

import json
import math
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from tqdm.auto import tqdm

from seqloom.support import disk
from seqloom.support.machine import available_cores, cpu_name, environment, total_memory

Result = dict[str, Any]
FEWEST = 6
"""Rounds: the least and the greatest of six values hold their median at 97 %, of five at 94 %."""
INSTRUCTIONS = (
    "avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "bf16", "i8mm",
)  # fmt: skip
"""Of x86 and ARM, that matrix products use."""
REST = 0.002
"""Seconds before each run, for threads of the one before that still spin."""
BAR: dict[str, Any] = {"dynamic_ncols": True, "leave": False, "disable": None}  # None: none without a terminal


def compare(
    what: str,
    sides: dict[str, Callable[[Any], object]],
    inputs: Sequence[Any],
    tokens: Callable[[Any], int],
    *,
    rounds: int,
    warmup: int,
) -> Result:
    """Two ways, by `take_turns`.

    Args:
        what: Names the comparison.
        sides: The two, by name.
        inputs: Rounds take them in turn.
        tokens: What an input counts.
        rounds, warmup: Inputs that are timed, and before them inputs that are not.

    Returns:
        As `in_figures`.
    """
    laps = take_turns(what, sides, inputs, rounds=rounds, warmup=warmup)
    counts = [tokens(inputs[number % len(inputs)]) for number in range(rounds)]
    return in_figures(what, laps.seconds, dict.fromkeys(sides, counts))


def in_figures(what: str, seconds: dict[str, list[float]], counts: dict[str, list[int]]) -> Result:
    """What every round's seconds and tokens of two sides, the first of which is ours, come to.

    Returns:
        ``tokens_per_second`` of both, medians over rounds; the ``ratio`` of the first over the second with its
        ``interval``, of `ratio_of`; and the ``seconds``.
    """
    speeds = {name: speeds_of(counts[name], times) for name, times in seconds.items()}
    first, second = speeds.values()
    return {
        "what": what,
        "tokens_per_second": {name: statistics.median(values) for name, values in speeds.items()},
        **ratio_of(first, second),
        "seconds": seconds,
    }


class Laps(NamedTuple):
    """What `take_turns` measured of each side, by name."""

    seconds: dict[str, list[float]]
    """Of every timed round."""
    cpu_share: dict[str, float]
    """Cores that the process had while the side ran, on average."""


def take_turns(
    what: str,
    sides: Mapping[str, Callable[[Any], Any]],
    inputs: Sequence[Any],
    *,
    rounds: int,
    warmup: int,
    check: Callable[[dict[str, Any]], None] | None = None,
) -> Laps:
    """Gives every input to all sides, in alternating order, so that what slows the machine for a while slows all.

    Args:
        what: Names the comparison.
        sides: By name.
        inputs: Rounds take them in turn.
        rounds, warmup: Inputs that are timed, and before them inputs that are not.
        check: Is given what the sides returned in each round.

    Raises:
        ValueError: There are too few rounds for an interval.
    """
    check_rounds(rounds)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    worked = dict.fromkeys(sides, 0.0)
    for number in tqdm(range(-warmup, rounds), desc=what, unit=" rounds", **BAR):
        lap, index = divmod(number, len(inputs))
        outputs = {}
        for name in list(sides) if (lap + index) % 2 else reversed(sides):
            time.sleep(REST)
            cpu, started = time.process_time(), time.perf_counter()
            outputs[name] = sides[name](inputs[index])
            if number >= 0:
                seconds[name].append(time.perf_counter() - started)
                worked[name] += time.process_time() - cpu
        if check is not None:
            check(outputs)
    return Laps(seconds, {name: worked[name] / sum(times) for name, times in seconds.items()})


def check_rounds(rounds: int) -> None:
    """Refuses a number of rounds that has no interval.

    Raises:
        ValueError: It is too small.
    """
    if rounds < FEWEST:
        raise ValueError(f"rounds is {rounds}; it must be {FEWEST} or more: fewer hold no median with 95 %.")


def speeds_of(counts: Sequence[int], seconds: Sequence[float]) -> list[float]:
    """Tokens per second of every round."""
    return [count / time for count, time in zip(counts, seconds, strict=True)]


def ratio_of(first: Sequence[float], second: Sequence[float]) -> Result:
    """How many times as large the first is, by the values of the rounds of both.

    Returns:
        ``ratio``, the median over rounds; and the ``interval`` that holds its true median at 95 %.
    """
    ratios = [a / b for a, b in zip(first, second, strict=True)]
    return {"ratio": statistics.median(ratios), "interval": median_interval(ratios)}


def median_interval(values: Sequence[float]) -> list[float]:
    """The order statistics that hold the true median at 95 %, by the binomial distribution's normal limit; of six
    values, the least and the greatest."""
    number, ordered = len(values), sorted(values)
    rank = max(1, math.floor((number - 1.96 * math.sqrt(number)) / 2))
    return [ordered[rank - 1], ordered[-rank]]


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


def save(path: Path, results: Sequence[Result], **more: Any) -> None:
    """Writes the results, with where they come from and ``more``, as JSON."""
    record = {**origin(), **more, "results": results}
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False)
    disk.write_aside(path, disk.text(text))


def origin() -> Result:
    """Where numbers come from: ``command``, ``commit``, ``date``, ``environment`` (versions) and ``machine``."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "command": shlex.join(["python", *sys.argv]),
        "commit": commit or None,
        "date": time.strftime("%Y-%m-%d"),
        "environment": environment(),
        "machine": machine(),
    }


def machine() -> Result:
    """The processor and what of it decides speed: cores, vector instructions, memory; and what else it was doing."""
    flags: set[str] = set()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("flags"):
                flags = set(line.partition(":")[2].split())
                break
    memory = total_memory()
    return {
        "cpu": cpu_name(),
        "cores": available_cores(),
        "instructions": [name for name in INSTRUCTIONS if name in flags],
        "memory_gib": None if memory is None else round(memory / 2**30, 1),
        "system": platform.system(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def versions(packages: Sequence[str]) -> dict[str, str | None]:
    """Of packages that may be there; None for those that are not."""
    found: dict[str, str | None] = {}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def end_in_one_sentence(command: Callable[[], None]) -> None:
    """Runs a command; what is wrong with what it was given is said in a sentence, with exit status 1."""
    try:
        command()
    except ValueError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("ended at once.", file=sys.stderr)
        sys.exit(130)
