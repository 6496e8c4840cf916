"""Attention maps and their pictures: heat maps with words on the axes."""

from __future__ import annotations

import textwrap
import unicodedata
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from seqloom.figures.fonts import choose_fonts
from seqloom.figures.style import VERMILLION

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from matplotlib.image import AxesImage


PALE = 0.25  # the least weight that may be drawn darkest
LONGEST_LABEL = 22  # characters
CELL = 0.34  # inches of a word in the large map, less where there are many
LARGEST = 24.0  # inches of a large map, and of two side by side
THUMBNAIL, GAP = 1.05, 0.12  # inches
PER_ROW = 9  # thumbnails
MOST_THUMBNAILS = 72  # that can still be told apart in one picture
EDGE = 0.15  # inches


@dataclass(frozen=True)
class AttentionMaps:
    """What a model looked at while it wrote one output."""

    source: str
    output: str
    score: float
    """log p(output | source) in nats."""
    source_labels: list[str]
    target_labels: list[str]
    """What stands beside the rows: words, or tokens."""
    cross: torch.Tensor
    """(layers, heads, target, source): row t is where it looked to write target t; each row adds up to 1."""
    encoder_self: torch.Tensor | None
    """(layers, heads, source, source): row s is where the encoder looked to understand source s; None where there is
    none."""

    by_tokens: tuple[str, ...] = ()
    """Of ``source`` and ``output``, those that are one word each and whose labels are its tokens therefore."""

    def every(self, kind: str) -> torch.Tensor:
        """(layers, heads, target, source) or (layers, heads, source, source) weights of a kind that there is."""
        found = self.cross if kind == "cross" else self.encoder_self
        assert found is not None  # whoever asks for `self` has looked
        return found

    def weights(self, kind: str = "cross", layer: int | None = None, head: int | None = None) -> torch.Tensor:
        """(target, source) or (source, source) weights of one head, or the mean over the heads.

        Args:
            kind: ``cross`` or ``self``.
            layer, head: Counted from 1. Without a layer the last is taken, without a head the mean.
        """
        chosen = self.every(kind)[-1 if layer is None else layer - 1]
        return chosen.mean(0) if head is None else chosen[head - 1]

    def alignment(self, layer: int | None = None, head: int | None = None) -> list[tuple[int, float]]:
        """For every target the source it looked at most, and with what weight."""
        best = self.weights("cross", layer, head).max(-1)
        return list(zip(best.indices.tolist(), best.values.tolist(), strict=True))


def draw_map(
    panel: Axes,
    labels_source: Sequence[str],
    labels_target: Sequence[str],
    weights: Any,
    *,
    largest: float | None = 1.0,
    mark: bool = True,
    size: float = 9.0,
    font: str | Path | None = None,
    files: Iterable[str] | None = None,
) -> AxesImage:
    """Draws one map: sources from left to right, targets from top to bottom, the best source of each target ringed.

    Args:
        panel: Where.
        labels_source, labels_target: Words.
        weights: (target, source), a list of rows or a tensor.
        largest: The weight that is drawn darkest; None: the largest there is, but 0.25 at least, so that attention
            that is spread evenly looks pale.
        mark: Ring the best sources.
        size: Of the labels, in points.
        font, files: As for `font_families`. What no font has is drawn as □, with a warning.

    Returns:
        The image, for a colour bar.

    Raises:
        ValueError: There are not as many labels as the map has rows and columns.
    """
    families, table = choose_fonts([*labels_source, *labels_target], font, files)
    weights = torch.as_tensor(weights, dtype=torch.float32)
    if weights.shape != (len(labels_target), len(labels_source)):
        raise ValueError(
            f"the map has shape {tuple(weights.shape)}, but there are {len(labels_target)} target and "
            f"{len(labels_source)} source labels: give a row for each target and a column for each source."
        )
    image = _heat(panel, weights, largest)
    text: dict[str, Any] = {"fontfamily": families, "fontsize": size, "parse_math": False}
    columns, rows = ([_short(label.translate(table)) for label in labels] for labels in (labels_source, labels_target))
    panel.set_xticks(range(len(columns)), columns, rotation=50, ha="left", rotation_mode="anchor", **text)
    panel.set_yticks(range(len(rows)), rows, **text)
    panel.xaxis.tick_top()
    panel.tick_params(length=0)
    if mark:
        best = weights.argmax(-1).tolist()
        panel.plot(best, range(len(best)), ls="", marker="o", ms=0.6 * size, mfc="none", mec=VERMILLION, mew=1.2)
    return image


def _heat(panel: Axes, weights: torch.Tensor, largest: float | None) -> AxesImage:
    top = max(PALE, float(weights.max())) if largest is None else largest
    image = panel.imshow(weights.numpy(), cmap="Blues", vmin=0.0, vmax=top, aspect="equal")
    panel.grid(False)
    panel.spines[["top", "right", "bottom", "left"]].set(visible=True, color="0.6")
    return image


def overview(
    maps: AttentionMaps,
    *,
    what: str = "all",
    layer: int | None = None,
    head: int | None = None,
    font: str | Path | None = None,
    files: Iterable[str] | None = None,
) -> Figure:
    """Draws one sentence's maps.

    A large one, of the last layer's mean over heads or of what is asked for, and below it small ones of the same words:
    a row for every layer with its mean and its heads; in a model with many heads the mean of every layer, then the
    heads of one.

    Args:
        maps: Of one sentence.
        what: ``cross``, ``self``, or ``all``: both, where there are both.
        layer, head: Which one is drawn large, counted from 1; with a layer only its heads are drawn small, with a head
            nothing is.
        font, files: As for `font_families`.
    """
    from matplotlib.figure import Figure

    kinds = ("cross", "self") if what == "all" and maps.encoder_self is not None else (what.replace("all", "cross"),)
    parts = [_Part(maps, kind, layer, head) for kind in kinds]
    is_narrow = sum(part.width for part in parts) <= LARGEST
    rows = [parts] if is_narrow else [[part] for part in parts]  # side by side where there is room
    width = max(5.0, *(sum(part.width for part in row) for row in rows))
    heights = [max(part.height for part in row) for row in rows]
    families, table = choose_fonts([maps.source, maps.output, *maps.source_labels, *maps.target_labels], font, files)
    title = [line for text in (maps.source, f"→ {maps.output}") for line in _lines(text.translate(table), width)]
    top = 0.25 + 0.19 * len(title)
    figure = Figure(figsize=(width, top + sum(heights)), dpi=110)
    bands = figure.subfigures(1 + len(rows), 1, height_ratios=[top, *heights], squeeze=False)[:, 0]
    text = {"va": "center", "fontsize": 10.5, "fontfamily": families, "parse_math": False}
    bands[0].text(EDGE / width, 0.45, "\n".join(title), **text)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of fonts: it has been said, above
        for band, row, height in zip(bands[1:], rows, heights, strict=True):
            shares = [part.width for part in row]
            for part, place in zip(
                row, band.subfigures(1, len(row), width_ratios=shares, squeeze=False)[0], strict=True
            ):
                part.draw(place, part.width * width / sum(shares), height, font, files)
    return figure


class _Part:
    """One kind's large map and its thumbnails, laid out in inches."""

    def __init__(self, maps: AttentionMaps, kind: str, layer: int | None, head: int | None):
        every = maps.every(kind)
        layers, heads = every.shape[:2]
        self.kind, self.weights = kind, maps.weights(kind, layer, head)
        self.columns = maps.source_labels
        self.rows = maps.target_labels if kind == "cross" else maps.source_labels
        where = f", layer {layer or layers} of {layers}" if layers > 1 else ""
        who = f", head {head} of {heads}" if head else f", mean of {heads} heads" if heads > 1 else ""
        self.title = ("Cross-attention" if kind == "cross" else "Encoder self-attention") + where + who
        self.caption = {
            "cross": "Row: what is being written. Column: where the model looks; the most is ringed.",
            "self": "Row: what is being read. Column: where the encoder looks.",
        }[kind]
        self.small = _thumbnails(every, layer) if head is None and layers * heads > 1 else []

        cell = min(CELL, LARGEST / max(len(self.rows), len(self.columns)))
        self.size = min(9.5, max(3.0, 27 * cell))  # of the labels, in points
        row, column = (max(map(_width, labels)) * self.size / 72 for labels in (self.rows, self.columns))
        self.left = EDGE + row + 0.12
        self.top = 0.62 + 0.8 * column  # the title, and labels that lean
        self.large = (max(1.0, cell * len(self.columns)), max(1.0, cell * len(self.rows)))
        leaning = max(  # beyond the map
            0.66 * _width(label) * self.size / 72 - (len(self.columns) - 0.5 - index) * cell
            for index, label in enumerate(self.columns)
        )
        across = max(map(len, self.small), default=0)
        self.width = max(
            self.left + self.large[0] + max(leaning + EDGE, 1.0),
            2 * EDGE + across * (THUMBNAIL + GAP),
            2 * EDGE + 0.085 * len(self.title),
            2 * EDGE + 0.065 * len(self.caption),
        )
        self.band = THUMBNAIL + 0.26
        self.height = self.top + self.large[1] + 0.3 + (0.5 + self.band * len(self.small) if self.small else 0)

    def draw(self, band: SubFigure, width: float, height: float, font: Any, files: Any) -> None:
        """Draws it into its part of the figure, which has this width and height."""

        def panel(left: float, top: float, wide: float, high: float) -> Axes:
            """From the left and from the top."""
            return band.add_axes((left / width, 1 - (top + high) / height, wide / width, high / height))

        def write(top: float, text: str, **look: Any) -> None:
            band.text(EDGE / width, 1 - top / height, text, va="top", **look)

        write(0.1, self.title, fontsize=10, fontweight="bold")
        write(0.3, self.caption, fontsize=8, color="0.35")
        image = draw_map(
            panel(self.left, self.top, *self.large), self.columns, self.rows, self.weights,
            largest=None, mark=self.kind == "cross", size=self.size, font=font, files=files,
        )  # fmt: skip
        bar = panel(self.left + self.large[0] + 0.18, self.top, 0.12, min(self.large[1], 2.2))
        band.colorbar(image, cax=bar)
        bar.tick_params(labelsize=7.5)
        bar.set_ylabel("weight", fontsize=8)
        top = self.top + self.large[1] + 0.25
        if self.small:
            write(top, "The same words, smaller; white is 0, dark is 1", fontsize=8.5)
        for number, row in enumerate(self.small):
            for column, (title, weights) in enumerate(row):
                place = (EDGE + column * (THUMBNAIL + GAP), top + 0.42 + number * self.band)
                thumbnail = panel(*place, THUMBNAIL, THUMBNAIL)
                _heat(thumbnail, weights, 1.0)
                thumbnail.set(xticks=[], yticks=[], aspect="auto")
                thumbnail.set_title(title, fontsize=7.5, pad=2)


def _thumbnails(every: torch.Tensor, layer: int | None) -> list[list[tuple[str, torch.Tensor]]]:
    """Rows of small maps with their titles, of (layers, heads, rows, columns) weights or of one layer of them."""
    layers, heads = every.shape[:2]
    means = [(f"layer {number}, mean", weights) for number, weights in enumerate(every.mean(1), start=1)]
    each = [[(f"head {number}", weights) for number, weights in enumerate(some, start=1)] for some in every]
    if heads == 1:
        rows = [[(title.removesuffix(", mean"), weights) for title, weights in means]] if layer is None else []
    elif layer is not None or layers == 1:
        rows = [each[(layer or layers) - 1]]
    elif heads < PER_ROW and layers * (heads + 1) <= MOST_THUMBNAILS:
        rows = [[mean, *some] for mean, some in zip(means, each, strict=True)]
    else:
        rows = [means, [(f"layer {layers}, {title}", weights) for title, weights in each[-1]]]
    return [row[start : start + PER_ROW] for row in rows for start in range(0, len(row), PER_ROW)]


def _short(label: str) -> str:
    return label if len(label) <= LONGEST_LABEL else label[: LONGEST_LABEL - 1] + "…"


def _width(label: str) -> float:
    """Of a label, in ems: roughly, since fonts differ."""
    return sum(1.0 if unicodedata.east_asian_width(c) in "WF" else 0.6 for c in _short(label))


def _lines(text: str, width: float) -> list[str]:
    """A text in at most four lines of so many inches."""
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text) / max(1, len(text))
    lines = textwrap.wrap(text, int((width - 2 * EDGE) * 12 / (1 + wide))) or [""]
    return lines if len(lines) <= 4 else [*lines[:3], lines[3] + " …"]
