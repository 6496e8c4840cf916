"""The curves of one training, and of several in one picture."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from seqloom.figures.style import BLUE, COLOURS, GREEN, MARKERS, VERMILLION

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


LOSS_LABEL = "loss (nats per target token{})"
SPREAD = ("loss", "gradient_norm")
SPEED_AND_MEMORY = ("tokens_per_second", "memory_mib")


def series(log: list[dict[str, Any]], name: str, x: str = "step") -> tuple[list[float], list[float]]:
    """Two of the log's columns where both are: updates, and ``loss``, ``eval_loss`` or ``eval_`` and a metric, say."""
    lines = [line for line in log if name in line and x in line]
    return [line[x] for line in lines], [line[name] for line in lines]


def training_curve(
    log: list[dict[str, Any]],
    metric: str | None = None,
    *,
    metric_label: str = "",
    higher_is_better: bool = True,
    label_smoothing: float = 0.0,
    best_step: int | None = None,
) -> Figure:
    """Draws one run's curve.

    Args:
        log: The lines of ``training_log.jsonl``.
        metric: The validations' metric, as the log calls it behind ``eval_``; drawn beside the losses.
        metric_label: What stands at its axis, with the unit.
        higher_is_better: Whether it grows with quality.
        label_smoothing: Of the training loss, which is then not of the validation loss's kind and says so.
        best_step: The update of the best validation, marked in every part.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0 if metric else 5.4, 3.4), dpi=140, layout="constrained")
    parts = figure.subplots(1, 2 if metric else 1, squeeze=False)[0]
    smoothed = f", label smoothing {label_smoothing:g}" if label_smoothing else ""
    parts[0].plot(*series(log, "loss"), color=BLUE, label=f"training{smoothed}")
    parts[0].plot(*series(log, "eval_loss"), color=VERMILLION, marker="o", markersize=4, ls="--", label="validation")
    _scale(parts[0], [value for name in ("loss", "eval_loss") for value in series(log, name)[1]], LOSS_LABEL)
    if metric:
        parts[1].plot(*series(log, f"eval_{metric}"), color=GREEN, marker="s", markersize=4, label="validation, greedy")
        parts[1].set_ylabel(metric_label or metric)
    for part, falls in zip(parts, (True, not higher_is_better), strict=False):
        if best_step is not None:
            part.axvline(best_step, color="0.45", lw=1, ls=":", label="best validation")
        _dress(part, "updates")
        corner = "upper right" if falls else "lower right"  # where no curve passes
        part.legend(loc=corner, fontsize="small", framealpha=1, edgecolor="white")
    return figure


def comparison(
    logs: dict[str, list[dict[str, Any]]],
    x: str = "step",
    x_label: str = "updates",
    metric_labels: dict[str, str] | None = None,
) -> Figure:
    """Draws runs against each other: losses, each metric, learning rate, gradient norm, speed and memory; 1200 px wide.

    A part that no run has anything for is left out.

    Args:
        logs: Lines of ``training_log.jsonl``, by the run's name; at most twice as many as there are colours.
        x: The column that is drawn to the right.
        x_label: What stands at that axis, with the unit.
        metric_labels: What stands at the axes of metrics, with units, by the names that the log has behind ``eval_``.

    Raises:
        ValueError: There is nothing to draw.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import StrMethodFormatter

    columns = {name for log in logs.values() for line in log for name in _own(line) if x in line}
    metrics = {name: name.removeprefix("eval_") for name in sorted(columns - {"eval_loss"}) if name.startswith("eval_")}
    large = any(line.get("memory_mib", 0) > 10_000 for log in logs.values() for line in log)
    panels = [
        (("loss", "eval_loss"), LOSS_LABEL, 1.0),
        *(((name,), f"validation {(metric_labels or {}).get(short, short)}", 1.0) for name, short in metrics.items()),
        (("learning_rate",), "learning rate", 1.0),
        (("gradient_norm",), "gradient norm{}", 1.0),
        (("tokens_per_second",), "speed (target tokens/s)", 1.0),
        (("memory_mib",), f"peak memory ({'GiB' if large else 'MiB'})", 2.0**-10 if large else 1.0),
    ]
    panels = [panel for panel in panels if columns.intersection(panel[0])]
    if not panels:
        raise ValueError(f"the logs of {', '.join(logs)} hold no number that is drawn over {x_label}.")
    rows = math.ceil(len(panels) / 2)
    figure = Figure(figsize=(12, 0.8 + 3.1 * rows), dpi=100, layout="constrained")
    parts = list(figure.subplots(rows, 2, squeeze=False).flat)
    farthest = max(line.get(x, 0) for log in logs.values() for line in log)
    for part, (names, label, factor) in zip(parts, panels, strict=False):
        for number, log in enumerate(logs.values()):
            _draw(part, log, names, x, factor, number)
        if names[0] in SPREAD:
            values = [value for log in logs.values() for name in names for value in series(log, name, x)[1]]
            _scale(part, values, label, always="gradient_norm" in names)
        else:
            part.set_ylabel(label)
        _dress(part, x_label)
        part.set_xlim(right=1.02 * farthest or 1)  # the same in all parts, so that they can be read downwards
        if names[0] in SPEED_AND_MEMORY:
            part.set_ylim(0, 1.1 * part.dataLim.ymax or 1)
            part.yaxis.set_major_formatter(StrMethodFormatter("{x:,.10g}"))
    for part in parts[len(panels) :]:
        part.set_axis_off()
    styles: dict[str, dict[str, Any]] = {
        "training": {},
        "validation": {"ls": "--", "marker": "o", "markersize": 4},
        "best validation": {"ls": "", "marker": "*", "markersize": 12},
    }
    if "eval_loss" in columns:
        keys = [Line2D([], [], color="0.3", label=name, **style) for name, style in styles.items()]
        figure.axes[0].legend(handles=keys, loc="upper right", fontsize="small", framealpha=0.9, edgecolor="white")
    keys = [
        Line2D([], [], label=name, lw=2, markersize=6, **_look(number, marked=True)) for number, name in enumerate(logs)
    ]
    width = max(map(len, logs)) + 8  # of an entry, in letters
    figure.legend(handles=keys, loc="outside upper center", ncols=max(1, min(len(keys), 150 // width)), frameon=False)
    return figure


def _own(line: dict[str, Any]) -> set[str]:
    """The columns that a line of the log is of: a validation's has memory too, which is not drawn twice."""
    scores = {name for name in line if name.startswith("eval_")}
    return scores or {*line}


def _look(number: int, *, marked: bool) -> dict[str, Any]:
    """A run's colour, and its marker where there are single values; the second seven runs have another line."""
    again, index = divmod(number, len(COLOURS))
    marker = {"marker": MARKERS[(index + 3 * again) % len(MARKERS)]} if marked else {}
    return {"color": COLOURS[index], "ls": "-." if again else "-", **marker}


def _draw(part: Axes, log: list[dict[str, Any]], names: tuple[str, ...], x: str, factor: float, number: int) -> None:
    """One run's lines in one part, the best validation with a star."""
    for name in names:
        is_validation = name.startswith("eval_")
        lines = [line for line in log if name in _own(line)]
        places, values = series(lines, name, x)
        look = _look(number, marked=is_validation or len(places) == 1)
        if name == "eval_loss":
            look["ls"] = "--"  # beside the training loss of the same colour
        part.plot(places, [factor * value for value in values], lw=1.4, markersize=4, **look)
        best = [line for line in log if line.get("best") and name in line and x in line][-1:]
        if is_validation and best:
            part.plot([best[0][x]], [best[0][name]], marker="*", markersize=12, ls="", color=look["color"], zorder=3)


def _scale(part: Axes, values: list[float], label: str, always: bool = False) -> None:
    """A logarithmic scale where values are spread widely, or always; and the label, which says so."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    positive = bool(values) and min(values) > 0
    spread = positive and (always or max(values) > 50 * min(values))
    part.set_yscale("log" if spread else "linear")
    part.set_ylabel(label.format(", log scale" if spread else ""))
    if spread:
        part.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        is_narrow = max(values) < 100 * min(values)  # few powers of ten to read from
        part.yaxis.set_minor_locator(LogLocator(subs=(2, 3, 5)))
        part.yaxis.set_minor_formatter(StrMethodFormatter("{x:g}") if is_narrow else NullFormatter())


def _dress(part: Axes, x_label: str) -> None:
    """What all parts have in common."""
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    part.set_xlabel(x_label)
    part.set_xlim(left=0)
    part.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    part.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    part.grid(color="0.9")
    part.set_axisbelow(True)
    part.spines[["top", "right"]].set_visible(False)


COLUMNS = {"updates": "step", "tokens": "target_tokens", "seconds": "seconds"}
