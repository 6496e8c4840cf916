"""The report's first screen: the conclusion in words, quality against cost in one picture, and the ranking."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from seqloom.comparison.conclusion import ABOUT, conclude
from seqloom.comparison.measures.heavier import number
from seqloom.comparison.sections import Plot, Table
from seqloom.comparison.traits import in_words
from seqloom.figures.style import as_label, look, new_figure, share_legend
from seqloom.scoring import metrics
from seqloom.support.language import later, say
from seqloom.support.wording import digits, with_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COSTS = {
    "seconds": later("seconds of training"),
    "milliseconds": later("ms a sentence"),
    "parameters": later("parameters"),
}
"""By the names of a conclusion's ranking."""
CAPTION = later(
    "{metric} against what each model costs, with 95 % intervals where they are known; costs are logarithmic, and "
    "seconds of training leave validations out."
)
TABLE = later(
    "The models by {metric}. A place is 1 more than the number of models that are told to be better: those of "
    "one place are not told apart from the best of it. Seconds of training leave validations out."
)
HEADER = (
    later("model"), later("place"), later("kind"), later("{metric} [95 %]"), later("s of training"),
    later("ms a sentence"), later("parameters"),
)  # fmt: skip
NEXT = {
    "quality": later("Is the difference real, and in which sentences?"),
    "words": later("Which words does it get?"),
    "learning_curves": later("And with more training, or less?"),
    "attention": later("And with longer sentences?"),
    "data_handling": later("And with longer sequences, more cores?"),
    "weight": later("What does it weigh?"),
    "generation": later("How fast does it answer?"),
    "gradients": later("Why does it forget?"),
    "generalisation": later("And on what it has never seen?"),
}
"""What a person asks next, by the section that answers."""
MANY = 4
"""Models, of which more are hidden and shown by choice, and whose widest table is folded."""


@dataclass(frozen=True)
class FirstScreen:
    """What one reads first, in the language that is spoken."""

    lines: list[tuple[str, str]]
    """Heading and sentence of every answer."""
    plot: Plot | None
    ranking: Table | None
    chosen: dict[str, int]
    """Models that one may hide, where there are many, with their rows in the ranking."""

    @classmethod
    def of(cls, record: dict[str, Any]) -> FirstScreen:
        """By a report's record."""
        conclusion = conclude(record)
        kinds = {one["name"]: one["description"] for one in record["candidates"]}
        rows = [row["name"] for row in conclusion["ranking"]]
        return cls(
            [(say(ABOUT[name]), sentence) for name, sentence in conclusion["sentences"].items()],
            plot_of(conclusion, list(kinds)),
            table_of(conclusion, kinds),
            {name: 1 + rows.index(name) for name in kinds} if len(kinds) > MANY else {},
        )

    def questions(self, names: Collection[str]) -> dict[str, str]:
        """What is asked next, by the sections that there are."""
        return {name: say(question) for name, question in NEXT.items() if name in names}


def plot_of(conclusion: dict[str, Any], names: Sequence[str]) -> Plot | None:
    """Quality against every cost that is known; None where there is no score, or no cost.

    Args:
        names: Of the candidates, in whose order they have their looks.
    """
    rows = {row["name"]: row for row in conclusion["ranking"] if row["score"] is not None}
    costs = [cost for cost in COSTS if any(row[cost] for row in rows.values())]
    if not costs:
        return None
    metric = metrics.label(conclusion["metric"])
    figure, panels = new_figure(len(costs), height=3.2)
    for panel, cost in zip(panels, costs, strict=True):
        _draw(panel, cost, [(names.index(name), name, row) for name, row in rows.items()])
    panels[0].set_ylabel(f"{metric} (%)")
    share_legend(figure, panels[0])
    return Plot("quality_and_cost", figure, say(CAPTION, metric=metric))


def _draw(panel: Axes, cost: str, rows: Sequence[tuple[int, str, dict[str, Any]]]) -> None:
    """A point each model, with bars as long as the intervals."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, NullLocator

    for index, name, row in rows:
        value, bounds = _value(row[cost])
        style = look(index) | {"ls": "", "markersize": 7}
        panel.plot([], [], label=as_label(name), **style)  # in the legend, also where nothing is known of it
        if not value:
            continue
        low, high = row["interval"] or (row["score"], row["score"])
        up = [[max(0.0, row["score"] - low)], [max(0.0, high - row["score"])]]
        aside = [[max(0.0, value - bounds[0])], [max(0.0, bounds[1] - value)]] if bounds else None
        panel.errorbar([value], [row["score"]], yerr=up, xerr=aside, elinewidth=1.2, capsize=3, **style)
    panel.set_xscale("log")
    known = [value for _, _, row in rows if (value := _value(row[cost])[0])]
    panel.set_xlim(min(known) / 1.6, max(known) * 1.6)
    panel.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    panel.xaxis.set_major_formatter(FuncFormatter(_tick))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.set_xlabel(say(COSTS[cost]))


def _tick(value: float, _: int) -> str:
    return number(value)


def _value(cost: Any) -> tuple[float | None, Sequence[float] | None]:
    return (cost["value"], cost["interval"]) if isinstance(cost, dict) else (cost, None)


def table_of(conclusion: dict[str, Any], kinds: dict[str, str]) -> Table | None:
    """The ranking; None where nothing was scored."""
    rows = [row for row in conclusion["ranking"] if row["score"] is not None]
    if not rows:
        return None
    metric = metrics.label(conclusion["metric"])
    cells = [
        [
            row["name"],
            str(row["place"]),
            in_words(kinds[row["name"]]),
            with_interval(row["score"], row["interval"]),
            *(_cell(row[cost]) for cost in COSTS),
        ]
        for row in rows
    ]
    return Table([say(head, metric=metric) for head in HEADER], cells, say(TABLE, metric=metric))


def _cell(cost: Any) -> str:
    value, bounds = _value(cost)
    if value is None:
        return "–"
    return digits(value) + (f" [{digits(bounds[0])}, {digits(bounds[1])}]" if bounds else "")
