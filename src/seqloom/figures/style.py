"""What every figure has in common: colours, markers, axes, and how it is saved."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from seqloom.figures.fonts import choose_fonts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


BLUE, VERMILLION, GREEN = "#0072B2", "#D55E00", "#009E73"  # told apart without colour vision (Okabe & Ito 2008)
COLOURS = (BLUE, VERMILLION, GREEN, "#CC79A7", "#E69F00", "#56B4E9", "#000000")
UNSEEN = "\u2060"  # before a label, until it is drawn
MARKERS = ("o", "s", "^", "D", "v", "P", "X")  # and without colour


def save(figure: Figure, file: Path | IO[bytes], kind: Literal["png", "svg"] = "png") -> None:
    """Writes the figure, its texts as they were typed; the same figure gives the same file.

    Args:
        figure: The figure.
        file: Where to.
        kind: The file's format.
    """
    as_typed(figure)
    metadata = {"Software": None} if kind == "png" else {"Date": None}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # it has been said
        figure.savefig(file, format=kind, facecolor="white", metadata=metadata)


def as_label(name: str) -> str:
    """A name as the label of a line: one that begins with an underscore would not be in the legend."""
    return f"{UNSEEN}{name}" if name.startswith("_") else name


def as_typed(figure: Figure) -> None:
    """Makes every text of a figure be drawn letter for letter, whatever names of runs, files and metrics it holds.

    Dollars are no formulas, but for the powers of ten that a logarithmic axis writes itself; letters that matplotlib's
    own font lacks come from an installed one that has them, where a text has no font of its own.

    Warns:
        UserWarning: No installed font has a letter; it is drawn as □.
    """
    from matplotlib import rcParams
    from matplotlib.axes import Axes
    from matplotlib.text import Text
    from matplotlib.ticker import LogFormatter, ScalarFormatter

    formulas = {
        id(label)
        for axes in figure.findobj(Axes)
        for axis in (axes.xaxis, axes.yaxis)
        for ticks, formatter in (
            (axis.get_major_ticks(), axis.get_major_formatter()), (axis.get_minor_ticks(), axis.get_minor_formatter())
        )
        if isinstance(formatter, LogFormatter | ScalarFormatter)
        for tick in ticks
        for label in (tick.label1, tick.label2)
    }  # fmt: skip
    texts = [text for text in figure.findobj(Text) if id(text) not in formulas]
    for text in texts:
        text.set_parse_math(False)
        text.set_text(text.get_text().removeprefix(UNSEEN))
    plain = [text for text in texts if text.get_fontfamily() == rcParams["font.family"]]
    families, table = choose_fonts((text.get_text() for text in plain), None, None, way_out="")
    if len(families) > 1 or table:
        for text in plain:
            text.set_fontfamily(families)
            text.set_text(text.get_text().translate(table))


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
    widths = [len(label) + 8 for label in labels]  # in letters, of which a line has room for about 110
    ncols = len(labels) if sum(widths) <= 110 else max(1, 110 // max(widths))
    figure.legend(handles, labels, loc="outside upper center", ncols=ncols, frameon=False)


def log_scale(panel: Axes, ticks: Sequence[float], axis: str = "x") -> None:
    """A logarithmic axis with plain numbers at the given places."""
    from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

    getattr(panel, f"set_{axis}scale")("log")
    scale = getattr(panel, f"{axis}axis")
    scale.set_major_locator(FixedLocator(list(ticks)))
    scale.set_minor_locator(NullLocator())
    scale.set_major_formatter(StrMethodFormatter("{x:,g}"))
