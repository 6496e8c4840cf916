"""The command ``seqloom plot``: the curves of one run, still going on or finished, or of several in one picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from seqloom import run_folder
from seqloom.commands.command import Command
from seqloom.commands.following import opening, tell_next
from seqloom.commands.shell import say

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(kw_only=True)
class Plot(Command):
    """Draws the curves of runs.

    Of one run, still going on or finished, or of several in one picture.
    """

    name = "plot"
    needs = "no run is given"
    stand_anywhere = True
    examples = """
        seqloom plot runs/scan-rnn
        seqloom plot runs/scan-rnn runs/scan-transformer --output both.png --x tokens
    """

    runs: list[Path]
    """Output folders of trainings, with their training_log.jsonl."""
    output: Path = Path("curves.png")
    """The picture."""
    x: Literal["updates", "tokens", "seconds"] = "updates"
    """What the curves are drawn over: updates, target tokens learnt from, or seconds of training, validations
    included."""
    overwrite: bool = False
    """Replace the picture."""

    def run(self) -> None:
        from seqloom.figures.style import save
        from seqloom.support import disk
        from seqloom.support.locks import alone_with

        disk.check_output(self.output, "--output", (".png",), overwrite=self.overwrite)
        figure = plot_runs(self.runs, self.x)
        with alone_with([self.output]):
            disk.check_output(
                self.output, "--output", (".png",), overwrite=self.overwrite
            )  # another may have been first
            disk.write_aside(self.output, lambda aside: save(figure, aside))
        names = run_folder.names_of(self.runs)
        say(f"the curves of {', '.join(names) if len(names) <= 3 else f'{len(names)} runs'} are in {self.output}")
        tell_next(opening(self.output))


def plot_runs(runs: Sequence[Path], x: str = "updates") -> Figure:
    """The figure of runs.

    Args:
        runs: Their output folders.
        x: ``updates``, ``tokens`` (target tokens learnt from) or ``seconds`` (of training, validations included).

    Raises:
        ValueError: A run has no log or an empty one, or there are too many.
    """
    from seqloom.figures.curves import COLUMNS, comparison
    from seqloom.figures.style import COLOURS
    from seqloom.scoring import metrics

    most = 2 * len(COLOURS)
    if len(runs) > most:
        raise ValueError(f"{len(runs)} runs are more than can be told apart in one picture: give at most {most}.")
    logs = dict(zip(run_folder.names_of(runs), map(run_folder.read_log, runs), strict=True))
    column, label = COLUMNS[x], {"updates": "updates", "tokens": "target tokens", "seconds": "seconds"}[x]
    for run, log in zip(runs, logs.values(), strict=True):
        if not any(column in line for line in log):
            raise ValueError(f"the log of {run} counts no {x}, as an older version wrote it; take --x updates.")
    largest = max(line.get(column, 0) for log in logs.values() for line in log)
    unit = 1
    if x == "seconds":
        unit, label = next(
            (size, f"training time, validations included ({name})")
            for size, name in ((3600, "hours"), (60, "minutes"), (1, "seconds"))
            if largest > 3 * size or size == 1
        )
    elif x == "tokens" and largest >= 10_000_000:
        unit, label = 1_000_000, "target tokens (millions)"
    if unit != 1:
        for log in logs.values():
            for line in log:
                if column in line:
                    line[column] /= unit
    metric_labels = {name: f"{metrics.label(name)} (%)" for name in metrics.METRICS}
    return comparison(logs, column, label, metric_labels)
