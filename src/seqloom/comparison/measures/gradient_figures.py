"""Pictures of the measure `gradients`: norms by distance, on logarithmic axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from seqloom.comparison.instruments.memory_networks import STANDARD, SYSTEMS
from seqloom.comparison.traits import in_words
from seqloom.figures.style import as_label, look, new_figure, share_legend
from seqloom.support.language import later, say

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


NAMES = {
    **{name: SYSTEMS[name] for name in STANDARD},
    "uniform": later("tanh-RNN, uniform init."),
    **{name: words for name, words in SYSTEMS.items() if name not in STANDARD},
}


def _lines(panel: Axes, number: int, norms: Sequence[float], label: str, unit: float = 1.0) -> None:
    """Norms by distance with a marker here and there."""
    style = {**look(number), "markevery": max(1, len(norms) // 8)}
    panel.plot(
        range(len(norms)), [norm / unit if norm > 0 else math.nan for norm in norms], label=as_label(label), **style
    )


def _dress(panel: Axes, title: str, x_label: str, bottom: float | None = None) -> None:
    panel.set_title(title, fontsize="medium")
    panel.set_xlabel(x_label)
    panel.set_xlim(left=0)
    panel.set_yscale("log")
    if bottom is not None:
        panel.set_ylim(bottom=max(bottom, panel.get_ylim()[0]))


def _share_scale(panels: Sequence[Axes]) -> None:
    """The same norms at the same height; plain numbers where there are few powers of ten."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    lowest, highest = (choose(panel.get_ylim()[end] for panel in panels) for end, choose in ((0, min), (1, max)))
    for panel in panels:
        panel.set_ylim(lowest, highest)
        if highest < 1000 * lowest:
            panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            panel.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            panel.yaxis.set_minor_formatter(NullFormatter())


def states_plot(result: dict[str, Any]) -> Figure:
    """Norms between states: initialised, trained, with the recurrent matrix scaled."""
    figure, panels = new_figure(3)
    numbers = {name: number for number, name in enumerate(NAMES)}
    for panel, kind, title in zip(panels, ("initial", "trained"), (say("initialised"), say("trained")), strict=False):
        for name, kinds in result["systems"].items():
            if "states" in kinds.get(kind, {}):
                _lines(panel, numbers[name], kinds[kind]["states"], in_words(NAMES[name]))
        _dress(panel, title, say("distance (steps)"), 1e-12)
    for number, (gain, norms) in enumerate(result["gains"].items(), start=len(STANDARD)):
        _lines(panels[2], 0 if float(gain) == 1 else number, norms, say("tanh-RNN, gain {gain}", gain=gain))
    _dress(panels[2], say("recurrent matrix scaled"), say("distance (steps)"), 1e-12)
    _share_scale(panels[:2])
    panels[0].set_ylabel(say("norm of ∂state_T / ∂state_t"))
    share_legend(figure, panels[0])
    panels[2].legend(fontsize="small", frameon=False, loc="upper left")
    return figure


def inputs_plot(systems: dict[str, Any]) -> Figure:
    """Norms to the inputs: initialised, trained."""
    figure, panels = new_figure(2)
    numbers = {name: number for number, name in enumerate(NAMES)}
    for panel, kind, title in zip(panels, ("initial", "trained"), (say("initialised"), say("trained")), strict=True):
        for name, kinds in systems.items():
            if kind in kinds:
                norms = kinds[kind]["inputs"]
                _lines(panel, numbers[name], norms, in_words(NAMES[name]), norms[1] or 1.0)
        _dress(panel, title, say("distance from the last input (steps)"), 1e-9)
    _share_scale(panels)
    panels[0].set_ylabel(say("gradient norm / that at distance 1"))
    share_legend(figure, panels[0])
    return figure


def candidates_plot(models: dict[str, Any]) -> Figure:
    """Norms to the source's tokens, by the distance from either end: fresh and trained weights."""
    figure, panels = new_figure(2, 2, height=2.7)
    sides = (
        ("", say("distance from the source's end (tokens)")),
        ("_from_start", say("position from the source's start (tokens)")),
    )
    kinds = (("initial", say("fresh weights")), ("trained", say("trained")))
    for panel, (kind, title, side, x_label) in zip(
        panels, [(*kind, *side) for kind in kinds for side in sides], strict=True
    ):
        for number, (name, model) in enumerate(models.items()):
            norms = model["buckets"][-1][kind + side]
            _lines(panel, number, norms, name, sum(norms) / len(norms) or 1.0)
        _dress(panel, title, x_label)
    _share_scale(panels)
    for panel in panels[::2]:
        panel.set_ylabel(say("gradient norm / mean"))
    share_legend(figure, panels[0])
    return figure
