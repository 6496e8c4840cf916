"""Pictures of the measure `quality`: scores and differences as points with their intervals."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from seqloom.figures.style import look, new_figure
from seqloom.scoring import metrics
from seqloom.support.language import say

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


PANELS = 3
"""Metrics beside each other in a plot."""


def scores_figure(result: dict[str, Any]) -> Figure:
    """Every candidate's score with its interval, a panel a metric."""
    names = [candidate["name"] for candidate in result["candidates"]]
    figure, panels = _panels(result, len(names))
    for panel, (metric, entry) in zip(panels, result["metrics"].items(), strict=False):
        for row, name in enumerate(names):
            score, style = entry["scores"][name], look(row)
            _point(panel, row, score["score"], score["interval"], style["color"], style["marker"], style["color"])
            if len(score["runs"]) > 1:
                below = np.full(len(score["runs"]), row + 0.22)
                panel.plot(score["runs"], below, ".", color=style["color"], markersize=4, alpha=0.8)
        _rows(panel, names, is_first=_is_first(panel))
        panel.set_xlabel(
            say(
                "{metric} (%; more is better)" if entry["higher_is_better"] else "{metric} (%; less is better)",
                metric=metrics.label(metric),
            )
        )
    return figure


def differences_figure(result: dict[str, Any]) -> Figure:
    """Every pair's difference with its interval, a panel a metric."""
    pairs = [f"{pair['a']} −\n{pair['b']}" for pair in next(iter(result["metrics"].values()))["pairs"]]
    figure, panels = _panels(result, 1.5 * len(pairs))
    for panel, (metric, entry) in zip(panels, result["metrics"].items(), strict=False):
        panel.axvline(0, color="0.45", lw=1, ls=":")
        for row, pair in enumerate(entry["pairs"]):
            _point(panel, row, pair["difference"], pair["interval"], "0.2", "o", "0.2" if pair["better"] else "white")
        _rows(panel, pairs, is_first=_is_first(panel))
        is_better = say("first better →") if entry["higher_is_better"] else say("← first better")
        panel.set_xlabel(
            say("{metric}, difference (points)\n{is_better}", metric=metrics.label(metric), is_better=is_better)
        )
    return figure


def _panels(result: dict[str, Any], rows: float) -> tuple[Figure, list[Axes]]:
    """A panel a metric."""
    count = len(result["metrics"])
    columns = min(count, PANELS)
    figure, panels = new_figure(columns, math.ceil(count / columns), height=1.2 + 0.32 * rows)
    for panel in panels[count:]:
        panel.set_axis_off()
    return figure, panels


def _point(panel: Axes, row: int, value: float, bounds: list[float], colour: str, marker: str, fill: str) -> None:
    panel.plot(bounds, [row, row], color=colour, lw=1.4)
    panel.plot([value], [row], marker=marker, color=colour, markersize=6, mfc=fill)


def _rows(panel: Axes, labels: list[str], is_first: bool) -> None:
    """The first above the others; the names beside the first column alone."""
    panel.set_ylim(len(labels) - 0.5, -0.5)
    panel.set_yticks(range(len(labels)), labels if is_first else [])
    panel.tick_params(axis="y", length=0)
    panel.locator_params(axis="x", nbins=5)


def _is_first(panel: Axes) -> bool:
    """Whether a panel stands at the left."""
    place = panel.get_subplotspec()
    return place is not None and place.is_first_col()
