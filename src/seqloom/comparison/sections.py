"""What a report is made of: sections of findings, tables and plots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Measure = Literal[
    "quality", "words", "learning_curves", "attention", "data_handling", "weight", "generation", "memory_tasks",
    "gradients", "generalisation",
]  # fmt: skip
MEASURES: tuple[Measure, ...] = get_args(Measure)
"""The measures in the order of the report; each is a module of `seqloom.comparison.measures`."""


@dataclass(frozen=True)
class Table:
    """Text in rows; a cell that begins with a number is aligned to the right where all of its column do."""

    header: list[str]
    rows: list[list[str]]
    caption: str = ""
    """What is in it, with the units; a sentence."""


@dataclass(frozen=True)
class Plot:
    """A picture."""

    name: str
    """Of its file, without an ending: ``data_handling``."""
    figure: Figure
    caption: str
    """What is seen in it, for those too who cannot see it."""


@dataclass(frozen=True)
class Passage:
    """Running text under a heading of its own: sentences of a test set, say. Each line is a paragraph."""

    heading: str
    lines: list[str]


@dataclass(frozen=True)
class Example:
    """A sentence and what each model made of it."""

    line: int
    """In the data, counted from 1."""
    words: int
    """Of the reference."""
    source: str
    reference: str
    outputs: list[list[str]]
    """Of each model, in parts that are by turns as in the reference and not."""
    scores: list[float]
    """Of each model."""


@dataclass(frozen=True)
class Examples:
    """Sentences that a reader filters, sorts and searches in the page, which draws them by ``examples.html.jinja``."""

    models: list[str]
    metric: str
    """As it is called; a sentence's own scores are its."""
    higher_is_better: bool
    rows: list[Example]
    total: int
    """So many there are, of which these are the ones with the largest differences."""
    is_first_run: bool
    """Of models that were trained several times."""


@dataclass(frozen=True)
class Section:
    """One question and its answer."""

    title: str
    question: str
    findings: list[str]
    """Sentences with the numbers that were measured: what was expected and seen, or expected and not seen."""
    parts: Sequence[Table | Plot | Passage | Examples]
    how: str
    """How it was measured."""
    limits: str
    """What it does not show."""
    headline: dict[str, dict[str, str]] = field(default_factory=dict)
    """Rows for the report's first table: row → candidate or system → value with its unit."""
    cautions: list[str] = field(default_factory=list)
    """Findings that whoever reads the first table alone must know: a machine that had other work, say."""
