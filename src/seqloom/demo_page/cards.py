"""Answers as HTML, a card a model. ``cards.html.jinja`` is their frame; every text in it is escaped."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any
from unicodedata import east_asian_width

from jinja2 import Environment, StrictUndefined

from seqloom.attention.maps import AttentionMaps
from seqloom.demo_page.answers import Answer, Problem
from seqloom.demo_page.models import Shown, sources_differ
from seqloom.support.language import say, spoken

LONGEST_LABEL = 14
LETTER, PADDING, GAP = 7.6, 16.0, 22.0
"""Widths of the tree, in pixels: of a narrow letter, of a box around its text, between two columns."""
BOX, ROW = 36.0, 43.0
"""Heights: of a box, and of a row with the space below it."""
LEAST_WIDTH = 46.0


@dataclass(frozen=True)
class Box:
    """A node of the tree, as it is drawn."""

    x: float
    y: float
    width: float
    label: str
    score: str
    said: str
    """What is told of it."""
    kind: str
    """``best``, ``finished``, ``kept`` or ``dropped``."""
    edge: str
    """The line from its parent, as the path of an SVG."""


@dataclass(frozen=True)
class Drawing:
    """A tree, as it is drawn."""

    width: float
    height: float
    boxes: list[Box]


def result_html(result: Sequence[Answer] | Problem | None) -> str:
    """In the language that is spoken, the cards of all answers to a sentence, or what is wrong with it; nothing where
    none was given yet."""
    if result is None:
        return ""
    if isinstance(result, Problem):
        return _template().render(what="problem", language=spoken(), problem=result)
    told = differing([one.model for one in result])
    return _template().render(what="cards", language=spoken(), answers=result, differing=told)


def differing(models: Sequence[Shown]) -> str:
    """``a: en, b: de``, where the models' sources are of several languages; else nothing."""
    return ", ".join(f"{title}: {language}" for title, language in sources_differ(models).items())


def weights_json(maps: AttentionMaps) -> str:
    """(target, source) weights in thousandths."""
    return json.dumps((1000 * maps.weights()).round().int().tolist(), separators=(",", ":"))


def drawing(answer: Answer) -> Drawing:
    """The tree of an answer, laid out: a column a step, the best of each on top."""
    nodes = answer.tree.nodes
    parents = {node.parent for node in nodes}
    best: set[int | None] = set()
    place: int | None = next((place for place, node in enumerate(nodes) if node.rank == 1), None)
    while place is not None:
        best.add(place)
        place = nodes[place].parent
    labels = [label if len(label) <= LONGEST_LABEL else f"{label[: LONGEST_LABEL - 1]}…" for label in answer.labels]
    labels = [f"{label} {node.rank or ''}".rstrip() for label, node in zip(labels, nodes, strict=True)]
    widths = [max(LEAST_WIDTH, PADDING + LETTER * columns(label)) for label in labels]
    steps = 1 + max((node.step for node in nodes), default=-1)
    of_step = [max(w for node, w in zip(nodes, widths, strict=True) if node.step == step) for step in range(steps)]
    starts = [1 + sum(of_step[:step]) + GAP * step for step in range(steps)]
    rows, boxes = [0] * steps, list[Box]()
    for place, (node, label) in enumerate(zip(nodes, labels, strict=True)):
        x, y = starts[node.step], 1 + ROW * rows[node.step]
        rows[node.step] += 1
        edge = ""
        if node.parent is not None:
            parent = boxes[node.parent]
            start, from_y, to_y = parent.x + parent.width, parent.y + BOX / 2, y + BOX / 2
            bend = f"{x - GAP / 2:.0f} {from_y:.0f} {x - GAP / 2:.0f} {to_y:.0f}"
            edge = f"M{start:.0f} {from_y:.0f}C{bend} {x:.0f} {to_y:.0f}"
        is_dropped = node.rank is None and place not in parents
        kind = "best" if place in best else "dropped" if is_dropped else "kept" if node.rank is None else "finished"
        fate = say("dropped") if is_dropped else say("went on")
        if node.rank is not None:
            fate = say("finished, number {rank}", rank=node.rank)
        end = f" {answer.labels[place]}" if answer.labels[place].startswith("⟨") else ""  # which the text is without
        said = f"{answer.model.say(node.tokens)}{end} · log p {number(node.score)} · {fate}"
        boxes.append(Box(x, y, of_step[node.step], label, number(node.score), said, kind, edge))
    return Drawing(2 + sum(of_step) + GAP * max(0, steps - 1), 2 + ROW * max(rows, default=0) - (ROW - BOX), boxes)


def columns(text: str) -> int:
    """Widths of a letter that a text takes; Hangul and Han are twice as wide."""
    return sum(1 + (east_asian_width(character) in "WF") for character in text)


def number(score: float) -> str:
    """``−1.23``, with the sign that is as wide as a digit."""
    return f"{score:.2f}".replace("-", "−")


@cache
def _template() -> Any:
    text = files("seqloom.demo_page").joinpath("cards.html.jinja").read_text(encoding="utf-8")
    frame = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    frame.globals |= {"say": say, "drawing": drawing, "weights": weights_json, "number": number}
    return frame.from_string(text)
