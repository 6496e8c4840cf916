"""The pictures of docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import costs
from common import Result
from decoding_speed import case, engines_of, threads_of
from engines import ENGINES, STOCK

from seqloom.figures.style import log_scale, look, new_figure, share_legend
from seqloom.support.wording import plural

STEPS = {"interpreter": "Python", "import": "imports", "load": "loading", "first_output": "first sentence"}
"""Of a start."""
TICKS = (0.25, 0.5, 1, 2, 4, 8, 16, 32, 64)


def draw_decoding(results: Sequence[Result]) -> Any:
    """Ratios with their intervals, a case a row, a panel for each number of threads."""
    threads, engines = threads_of(results), engines_of(results)[1:]
    figure, panels = new_figure(len(threads), height=1.1 + 0.55 * len(results))
    ends = [
        bound
        for result in results
        for name in engines
        for side in result["engines"].get(name, {}).values()
        for bound in side["interval"]
    ]
    ticks = [tick for tick in TICKS if min([1, *ends]) / 2 < tick < 2 * max([1, *ends])]
    for panel, number in zip(panels, threads, strict=True):
        for index, name in enumerate(engines):
            shift = 0.7 * ((index + 0.5) / len(engines) - 0.5)
            found = [
                (row + shift, result["engines"][name][number])
                for row, result in enumerate(results)
                if number in result["engines"].get(name, {})
            ]
            ratios = [side["ratio"] for _, side in found]
            bars = [
                [ratio - side["interval"][0] for ratio, (_, side) in zip(ratios, found, strict=True)],
                [side["interval"][1] - ratio for ratio, (_, side) in zip(ratios, found, strict=True)],
            ]
            style = look(list(ENGINES).index(name) - 1) | {"ls": ""}  # the same in every picture
            panel.errorbar(ratios, [place for place, _ in found], xerr=bars, label=name, elinewidth=1.2, **style)
        panel.axvline(1, color="0.3", lw=1)
        log_scale(panel, ticks)
        panel.set_xlim(min([1, *ends]) / 1.15, 1.15 * max([1, *ends]))
        panel.set_ylim(len(results) - 0.5, -0.5)
        panel.set_yticks(range(len(results)), [case(result) for result in results] if panel is panels[0] else [])
        panel.set_xlabel(f"times {STOCK}, {plural(int(number), 'thread')} (log scale)")
        for row in range(1, len(results)):
            panel.axhline(row - 0.5, color="0.85", lw=0.8)
        panel.grid(visible=False, axis="y")
    share_legend(figure, panels[0])
    return figure


def draw_curves(curves: Sequence[Result], works: Sequence[str]) -> Any:
    """Milliseconds along every axis: a colour a family, solid and dashed for the two ways to decode."""
    axes = list(dict.fromkeys(curve["axis"] for curve in curves))
    columns = min(2, len(axes))
    figure, panels = new_figure(columns, -(-len(axes) // columns), height=2.9)
    for panel, axis in zip(panels, axes, strict=False):
        drawn = [curve for curve in curves if curve["axis"] == axis and curve["work"] in works]
        families = list(dict.fromkeys(curve["family"] for curve in drawn))
        for curve in drawn:
            middle, (low, high) = curve["milliseconds"], zip(*curve["intervals"], strict=True)
            bars = [
                [m - bound for m, bound in zip(middle, low, strict=True)],
                [bound - m for m, bound in zip(middle, high, strict=True)],
            ]
            style = look(families.index(curve["family"])) | {"ls": "-" if curve["work"] == works[0] else "--"}
            name = curve["family"] + (f", {curve['work']}" if len(works) > 1 else "")
            panel.errorbar(curve["values"], middle, yerr=bars, label=name, elinewidth=1, **style)
        log_scale(panel, drawn[0]["values"])
        bounds = [bound for curve in drawn for interval in curve["intervals"] for bound in interval]
        low, high = min(bounds) / 1.1, max(bounds) * 1.1
        steps = (1, 2, 5) if high > 10 * low else (1, 1.5, 2, 3, 5, 7)
        ticks = [step * 10.0**power for power in range(-3, 7) for step in steps]
        log_scale(panel, [tick for tick in ticks if low <= tick <= high], "y")
        panel.set_ylim(low, high)
        panel.set_xlabel({"length": "length, tokens", "batch": "sentences together"}.get(axis, axis))
        panel.set_ylabel("milliseconds")
    for panel in panels[len(axes) :]:
        panel.set_axis_off()
    share_legend(figure, panels[0])
    return figure


def draw_starts(starts: Sequence[Result]) -> Any:
    """Seconds, stacked by what they go to, and MiB."""
    found = [entry for entry in starts if not entry["missing"]]
    figure, (seconds, memory) = new_figure(2, height=1.2 + 0.3 * len(found))
    places = range(len(found))
    left = [0.0] * len(found)
    for index, (name, words) in enumerate(STEPS.items()):
        values = [entry[name] for entry in found]
        seconds.barh(places, values, left=left, color=look(index)["color"], label=words, height=0.7)
        left = [a + b for a, b in zip(left, values, strict=True)]
    kinds = {"memory_one_mib": "one sentence", "memory_many_mib": f"{costs.MANY} sentences, {costs.BEAMS} beams"}
    for index, (name, words) in enumerate(kinds.items()):
        values = [entry[name] or 0.0 for entry in found]
        heights = [place + 0.2 - 0.4 * (1 - index) for place in places]
        memory.barh(heights, values, color=look(4 + index)["color"], label=words, height=0.38)
    seconds.set_yticks(places, [f"{entry['model']}, {entry['engine']}" for entry in found])
    memory.set_yticks(places, [])
    labels = ("seconds from the start of the process", "peak memory of the process, MiB")
    for panel, label in zip((seconds, memory), labels, strict=True):
        panel.set_ylim(len(found) - 0.5, -0.5)
        panel.grid(visible=False, axis="y")
        panel.set_xlabel(label)
        panel.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False, fontsize="small")
    return figure


def draw_layers(results: Sequence[Result]) -> Any:
    """Milliseconds of every layer against the length."""
    figure, (panel,) = new_figure(height=3.9)
    lengths = [result["length"] for result in results]
    values = []
    for number, name in enumerate(results[0]["milliseconds"]):
        middle = [result["milliseconds"][name] for result in results]
        bars = [
            [abs(result["intervals"][name][end] - result["milliseconds"][name]) for result in results] for end in (0, 1)
        ]
        panel.errorbar(lengths, middle, yerr=bars, label=name, elinewidth=1, **look(number))
        values += middle
    log_scale(panel, lengths)
    log_scale(panel, [step * 10.0**power for power in range(-3, 7) for step in (1, 2, 5)], "y")
    panel.set_ylim(min(values) / 1.3, max(values) * 1.3)
    panel.set_xlabel("steps of a sequence")
    panel.set_ylabel("milliseconds, forward and backward")
    share_legend(figure, panel)
    return figure
