"""Pictures of the measure `generation`: time of a token, and what is kept of a sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from seqloom.figures.style import as_label, log_scale, look, new_figure, share_legend
from seqloom.support.language import later, say
from seqloom.support.wording import plural

if TYPE_CHECKING:
    from matplotlib.figure import Figure


PARTS = {"kept": later("all that is kept"), "cache": later("decoder's cache"), "encoder": later("encoder's outputs")}


def token_milliseconds(candidate: dict[str, Any], beams: int, size: int, length: int) -> float | None:
    """A call's time over its tokens: sentences × length."""
    seconds = candidate["seconds"].get(str(beams), {}).get(str(size), {}).get(str(length))
    return None if seconds is None else 1000 * seconds / (size * length)


def draw_times(result: dict[str, Any]) -> Figure:
    """Time of a token against batch and against length, a row each, for every number of beams."""
    beams = result["beams"]
    figure, panels = new_figure(len(beams), 2, height=2.9)
    for index, panel in enumerate(panels):
        row, number = divmod(index, len(beams))
        places = [(size, result["batch_length"]) for size in result["batch_sizes"]]
        if row:
            places = [(result["length_batch"], length) for length in result["lengths"]]
        for order, (name, candidate) in enumerate(result["candidates"].items()):
            values = [token_milliseconds(candidate, beams[number], *place) for place in places]
            known = [(place[row], value) for place, value in zip(places, values, strict=True) if value is not None]
            panel.plot(*zip(*known, strict=True), label=as_label(name), **look(order)) if known else None
        log_scale(panel, result["lengths" if row else "batch_sizes"])
        if row:
            panel.set_ylim(0, 1.15 * (panel.dataLim.ymax if panel.lines else 1))
        else:
            log_scale(panel, [step * 10.0**power for power in range(-4, 5) for step in (1, 2, 5)], "y")
        fixed = (
            say("{sentences} a call", sentences=plural(result["length_batch"], "sentence"))
            if row
            else say("{batch_length} tokens", batch_length=result["batch_length"])
        )
        panel.set_title(f"{plural(beams[number], 'beam')}, {fixed}", fontsize="medium")
        panel.set_xlabel(say("length of source and output (tokens)") if row else say("sentences a call"))
        if number == 0:
            panel.set_ylabel(say("ms a token"))
    share_legend(figure, panels[0])
    return figure


def draw_state(result: dict[str, Any]) -> Figure:
    """Bytes against length: all that is kept, the cache, and the encoder's outputs."""
    parts = {part: title for part, title in PARTS.items() if has_part(result, part)}
    figure, panels = new_figure(len(parts), height=3.0)
    sides = [candidate["bytes"][part].values() for candidate in result["candidates"].values() for part in parts]
    values = [value / 1024 for side in sides for value in side if value] or [1.0]
    for panel, (part, title) in zip(panels, parts.items(), strict=True):
        for order, (name, candidate) in enumerate(result["candidates"].items()):
            kept = candidate["bytes"].get(part, {})
            known = [(int(n), value / 1024) for n, value in kept.items() if value is not None]
            panel.plot(*zip(*sorted(known), strict=True), label=as_label(name), **look(order)) if known else None
        log_scale(panel, result["lengths"])
        log_scale(panel, [4.0**power for power in range(-3, 16)], "y")
        panel.set_ylim(min(values) / 1.5, 1.5 * max(values))
        panel.set_title(say(title), fontsize="medium")
        panel.set_xlabel(say("length of source and output (tokens)"))
    panels[0].set_ylabel(say("KiB a sentence"))
    share_legend(figure, panels[0])
    return figure


def has_part(result: dict[str, Any], part: str) -> bool:
    """Whether a part was weighed; earlier versions did not weigh them together."""
    return all(part in candidate["bytes"] for candidate in result["candidates"].values())
