"""The command ``seqloom plot``: the curves of one run, still going on or finished, or of several in one picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from seqloom.commands.command import Command

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOG = "training_log.jsonl"


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
        from seqloom.comparison.compare import names_of
        from seqloom.figures.style import save_png
        from seqloom.support import disk

        disk.check_output(self.output, "--output", (".png",), overwrite=self.overwrite)
        figure = plot_runs(self.runs, self.x)
        disk.write_aside(self.output, lambda aside: save_png(figure, aside))
        names = names_of(self.runs)
        print(f"the curves of {', '.join(names) if len(names) <= 3 else f'{len(names)} runs'} are in {self.output}")


def plot_runs(runs: Sequence[Path], x: str = "updates") -> Figure:
    """The figure of runs.

    Args:
        runs: Their output folders.
        x: ``updates``, ``tokens`` (target tokens learnt from) or ``seconds`` (of training, validations included).

    Raises:
        ValueError: A run has no log or an empty one, or there are too many.
    """
    from seqloom.comparison.compare import names_of
    from seqloom.figures.curves import COLUMNS, comparison
    from seqloom.figures.style import COLOURS
    from seqloom.sharing.card import METRICS

    most = 2 * len(COLOURS)
    if len(runs) > most:
        raise ValueError(f"{len(runs)} runs are more than can be told apart in one picture: give at most {most}.")
    logs = dict(zip(names_of(runs), map(read_log, runs), strict=True))
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
    metric_labels = {name: f"{title} (%)" for name, title in METRICS.items()}
    return comparison(logs, column, label, metric_labels)


def read_log(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's log. A last line that is still being written is left out.

    Raises:
        ValueError: There is none, or it is empty or damaged.
    """
    path = run / LOG
    if not run.is_dir():
        raise ValueError(f"there is no folder {run}; give the output_dir of a training.")
    if not path.is_file():
        raise ValueError(f"{run} has no {LOG}; give the output_dir of a training that has begun.")
    log = []
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(keepends=True), start=1):
        if not text.endswith("\n"):
            break
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            line = None
        if not isinstance(line, dict) or "step" not in line:
            raise ValueError(f"line {number} of {path} is damaged; mend or delete it.")
        log.append({name: value for name, value in line.items() if value is not None})
    if not log:
        raise ValueError(
            f"{path} is empty: its first line comes after training.logging_steps updates; wait, or lower that."
        )
    return log
