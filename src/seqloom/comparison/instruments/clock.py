"""A clock for things that are compared: all in turn, again and again."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from tqdm.auto import tqdm

from seqloom.support.console import has_terminal
from seqloom.support.language import say
from seqloom.support.machine import synchronise
from seqloom.support.wording import plural

Key = TypeVar("Key")
CONTROL = "control"
"""The first of what is timed, once more: how far it is from itself is what a ratio of two others must exceed."""
Series = dict[int, float]  # length → time
SHORT = 0.03
"""Seconds that a quick step's runs last together in a round: a single one would be lost in the clock's noise."""
MOST_RUNS = 10
LONG_RUN = 1.0
"""Seconds; the first run of a step that lasts longer counts too."""
UNDISTURBED = 0.9
"""Share of a core that one thread has on a quiet machine, at least."""


def median_seconds(
    steps: Mapping[Key, Callable[[], object]],
    device: torch.device,
    repeats: int = 3,
    *,
    first: Mapping[Key, float] | None = None,
    title: str = "",
) -> dict[Key, float]:
    """Times every step, in rounds, so that what slows the machine for a while slows all of them.

    Args:
        steps: What is timed, by name.
        device: Where they run; it is waited for.
        repeats: Rounds. In one of them every step runs once, a quick one several times.
        first: Seconds of the first run of each, which warmed up; default: they are run for it here.
        title: Of the progress bar; without it there is none.

    Returns:
        Each step's median, in seconds.
    """
    first = first or {name: seconds_of(step, device) for name, step in steps.items()}
    taken = {name: [first[name]] if first[name] > LONG_RUN else [] for name in steps}
    shown = bool(title) and has_terminal()
    with tqdm(total=repeats * len(steps), desc=title, disable=not shown, dynamic_ncols=True, unit=" timings") as bar:
        for number in range(repeats):
            for name in list(steps) if number % 2 else reversed(list(steps)):
                if len(taken[name]) <= number or first[name] <= LONG_RUN:
                    runs = min(MOST_RUNS, math.ceil(SHORT / first[name]))
                    taken[name] += [seconds_of(steps[name], device) for _ in range(runs)]
                bar.update()
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def seconds_of(step: Callable[[], object], device: torch.device) -> float:
    """One run of the step, until the device has finished it."""
    synchronise(device)
    started = time.perf_counter()
    step()
    synchronise(device)
    return time.perf_counter() - started


@contextmanager
def cpu_share(into: dict[str, Any], name: str = "cpu_share") -> Iterator[None]:
    """Notes how much of the time the process was at work: less than 1 with one thread, if others took the core."""
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    into[name] = (time.process_time() - cpu) / max(time.perf_counter() - wall, 1e-9)


def disturbance(share: float | None, threads: int) -> list[str]:
    """A sentence, if the machine had other work while one CPU thread was timed."""
    if share is None or threads != 1 or share > UNDISTURBED:
        return []
    return [
        say(
            "The machine had other work to do while this was timed: this process had {share:.0%} of a core. "
            "Take these times with caution, or measure again.",
            share=share,
        )
    ]


def log_ratios(pairs: Iterable[tuple[float | None, float | None]]) -> list[float]:
    """Of times of the same thing, where both were taken: the control's values."""
    return [math.log(one / other) for one, other in pairs if one and other]


def spread_in_words(controls: Sequence[float]) -> str:
    """What two timings of the same differed by, for a report's account of how it was measured."""
    if not controls:
        return say(
            "This report is of a version that timed no control, so that no ratio of times is called a difference."
        )
    typical = math.expm1(math.sqrt(float(np.mean(np.square(controls)))))
    return say(
        "A control, the first of them made and timed a second time, differed from itself by "
        "{typical:.1%} (root mean square of {pairs}); a ratio that such differences explain is not clear.",
        typical=typical,
        pairs=plural(len(controls), "pair"),
    )


def slope_error(lengths: Iterable[float]) -> float:
    """The standard error of an exponent over that of a time's logarithm, for a fit over these lengths."""
    logarithms = np.log(list(lengths))
    return 1 / math.sqrt(float(np.square(logarithms - logarithms.mean()).sum()))


def exponent(times: Series, at_least: int = 0, at_most: float = float("inf")) -> float | None:
    """k of time = c · length^k, by least squares of the logarithms; None for fewer than two lengths."""
    chosen = {length: value for length, value in times.items() if at_least <= length <= at_most}
    if len(chosen) < 2:
        return None
    return float(np.polyfit(np.log(list(chosen)), np.log(list(chosen.values())), 1)[0])


def local_exponent(times: Series) -> float | None:
    """The exponent between the two longest lengths."""
    return exponent(times, at_least=sorted(times)[-2]) if len(times) > 1 else None


def crossing(first: Series, second: Series) -> float | None:
    """The length from which on the first takes longer than the second; lines are straight between logarithms.

    Returns:
        0 if it always does, None if it does not at the longest length that both have.
    """
    lengths = sorted(first.keys() & second.keys())
    gaps = [float(np.log(first[length] / second[length])) for length in lengths]
    if not gaps or gaps[-1] <= 0:
        return None
    for (short, before), (long, after) in reversed(list(itertools.pairwise(zip(lengths, gaps, strict=True)))):
        if before <= 0:
            return float(np.exp(np.interp(0.0, (before, after), np.log((short, long)))))
    return 0.0
