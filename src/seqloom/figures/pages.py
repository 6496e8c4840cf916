"""Figures as a page shows them: light and dark, and with their panels one below the other on a telephone.

An SVG picture that a page holds follows the reader's colour scheme by itself, so its colours become variables of CSS.
"""

from __future__ import annotations

import base64
import colorsys
import io
import pickle
import re
from typing import TYPE_CHECKING, Any

from seqloom.figures.style import COLOURS, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


PAPER, INK = "#15191e", "#e6edf3"
"""What white and black become in the dark; greys lie between them."""
DARK = dict(
    zip(map(str.lower, COLOURS), ("#3f9be0", "#f0803c", "#2cbf94", "#dd95bd", "#f2b134", "#9ad6f5", INK), strict=True)
)
"""The colours of lines, light enough for a dark page and told apart there too."""
LIGHT_ENOUGH = 0.6
NARROW = 4.2
"""Inches of a telephone's figure, whose letters are as large as those of the page at 390 pixels."""
LETTERS = 46
"""Of a legend's row on such a figure."""


def in_dark(colour: str) -> str:
    """What a colour (``#rrggbb``) is on a dark page."""
    if colour in DARK:
        return DARK[colour]
    red, green, blue = (int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
    hue, lightness, saturation = colorsys.rgb_to_hls(red, green, blue)
    if saturation < 0.1:
        ends = ((int(INK[place : place + 2], 16), int(PAPER[place : place + 2], 16)) for place in (1, 3, 5))
        return "#" + "".join(f"{round(ink + lightness * (paper - ink)):02x}" for ink, paper in ends)
    lighter = colorsys.hls_to_rgb(hue, max(lightness, LIGHT_ENOUGH), saturation)
    return "#" + "".join(f"{round(255 * value):02x}" for value in lighter)


def themed(figure: Figure) -> str:
    """The figure as SVG that is dark where its reader's screen is."""
    buffer = io.BytesIO()
    save(figure, buffer, "svg")
    picture = buffer.getvalue().decode()
    head, tag, body = picture.partition("<defs>")
    colours = sorted({colour.lower() for colour in re.findall(r"(?<=: )#[0-9a-fA-F]{6}\b", body)} | {"#000000"})
    names = {colour: f"--c{number}" for number, colour in enumerate(colours)}
    body = re.sub(r"(?<=: )#[0-9a-fA-F]{6}\b", lambda match: f"var({names[match[0].lower()]})", body)
    light, dark = ("".join(f"{name}:{change(colour)};" for colour, name in names.items()) for change in (str, in_dark))
    style = (
        f"<style>:root{{{light}fill:var({names['#000000']})}}"
        f"@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}</style>"
    )
    return f"{head}{style}{tag}{body}"


def as_address(picture: str) -> str:
    """An SVG picture as an address that holds it."""
    return f"data:image/svg+xml;base64,{base64.b64encode(picture.encode()).decode()}"


def narrow(figure: Figure) -> Figure:
    """A copy of a figure of panels in rows, with one panel a row; no lambda may format its axes."""
    copy: Any = pickle.loads(pickle.dumps(figure))
    panels = [panel for panel in copy.axes if panel.get_subplotspec() is not None]
    shown = [panel for panel in panels if panel.axison]
    grid = panels[0].get_gridspec()
    height = copy.get_size_inches()[1] / grid.nrows
    first = {place.get_subplotspec().rowspan.start: place for place in reversed(panels)}
    for panel in shown:
        _take_labels(panel, first[panel.get_subplotspec().rowspan.start])
    for panel in panels:
        if panel not in shown:
            panel.remove()
    below = copy.add_gridspec(len(shown), 1)
    for number, panel in enumerate(shown):
        panel.set_subplotspec(below[number])
    copy.set_size_inches(NARROW, max(height, 1.0) * len(shown))
    for legend in list(copy.legends):
        handles, labels = legend.legend_handles, [text.get_text() for text in legend.get_texts()]
        legend.remove()
        widest = max(map(len, labels), default=1) + 8
        columns = max(1, min(len(labels), LETTERS // widest))
        copy.legend(handles, labels, loc="outside upper center", ncols=columns, frameon=False)
    return copy


def _take_labels(panel: Axes, first: Axes) -> None:
    """What stands beside the first panel of a row alone is said of the others too."""
    if panel is first:
        return
    panel.set_ylabel(panel.get_ylabel() or first.get_ylabel())
    labels = [label.get_text() for label in first.get_yticklabels()]
    if not any(label.get_text() for label in panel.get_yticklabels()) and any(labels):
        panel.set_yticks(first.get_yticks(), labels)
