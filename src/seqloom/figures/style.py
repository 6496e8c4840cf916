"""What every figure has in common: colours, markers, axes, and how it is saved."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


BLUE, VERMILLION, GREEN = "#0072B2", "#D55E00", "#009E73"  # told apart without colour vision (Okabe & Ito 2008)
COLOURS = (BLUE, VERMILLION, GREEN, "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")  # and without colour


def save_png(figure: Figure, path: Path) -> None:
    """Writes the figure; the same figure gives the same file."""
    figure.savefig(path, format="png", facecolor="white", metadata={"Software": None})


def new_figure(columns: int = 1, rows: int = 1, *, height: float = 3.4) -> tuple[Figure, list[Axes]]:
    """A figure as wide as the report's page (9 inches), and its panels in reading order.

    Args:
        columns, rows: Panels.
        height: Of a row, in inches.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, height * rows), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for panel in panels:
        panel.grid(color="0.9")
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
    return figure, panels


def look(number: int) -> dict[str, Any]:
    """Colour and marker of the candidate or system of that number, the same in every plot."""
    again, index = divmod(number, len(COLOURS))
    marker = MARKERS[(index + 3 * again) % len(MARKERS)]
    return {"color": COLOURS[index], "marker": marker, "markersize": 4.5, "lw": 1.4, "ls": "-." if again else "-"}


def share_legend(figure: Figure, panel: Axes) -> None:
    """One legend above all panels, of the lines of one of them."""
    handles, labels = panel.get_legend_handles_labels()
    widths = [len(label) + 8 for label in labels]  # in letters, of which a line has room for about 120
    ncols = len(labels) if sum(widths) <= 120 else max(1, 120 // max(widths))
    figure.legend(handles, labels, loc="outside upper center", ncols=ncols, frameon=False)


def log_scale(panel: Axes, ticks: Sequence[float], axis: str = "x") -> None:
    """A logarithmic axis with plain numbers at the given places."""
    from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

    getattr(panel, f"set_{axis}scale")("log")
    scale = getattr(panel, f"{axis}axis")
    scale.set_major_locator(FixedLocator(list(ticks)))
    scale.set_minor_locator(NullLocator())
    scale.set_major_formatter(StrMethodFormatter("{x:,g}"))
