"""The command ``seqloom plot``: the curves of one run, still going on or finished, or of several in one picture."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seqloom.comparison.compare import names_of
from seqloom.figures.curves import COLUMNS, comparison
from seqloom.figures.style import COLOURS, save_png
from seqloom.sharing.card import METRICS
from seqloom.support import disk

USAGE = "usage: seqloom plot RUN [RUN ...] [--output curves.png] [--x updates|tokens|seconds] [--overwrite]"
LOG = "training_log.jsonl"


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit status."""
    words = list(argv)
    if not words or words[0] in ("-h", "--help"):
        print(USAGE, "", f"RUN is the output folder of a training, with its {LOG}.", sep="\n")
        return 0 if words else 2
    try:
        runs, options = read_words(words)
        output = Path(options["output"])
        disk.check_output(output, "--output", (".png",), overwrite=options["overwrite"])
        figure = plot_runs(runs, options["x"])
        disk.write_aside(output, lambda aside: save_png(figure, aside))
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    names = names_of(runs)
    print(f"the curves of {', '.join(names) if len(names) <= 3 else f'{len(names)} runs'} are in {output}")
    return 0


def read_words(words: Sequence[str]) -> tuple[list[Path], dict[str, Any]]:
    """Runs and options of the command line."""
    runs, options, rest = [], {"output": "curves.png", "x": "updates", "overwrite": False}, iter(words)
    for word in rest:
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--"):
            runs.append(Path(word))
        elif name == "overwrite" and not equals:
            options[name] = True
        elif name in ("output", "x"):
            options[name] = value if equals else next(rest, "")
            if not options[name] or options[name].startswith("--"):
                raise ValueError(f"--{name} needs a value. {USAGE}")
        else:
            raise ValueError(f"{word} is unknown. {USAGE}")
    if options["x"] not in COLUMNS:
        raise ValueError(f"--x is {options['x']!r}; it can be {', '.join(COLUMNS)}.")
    if not runs:
        raise ValueError(f"no run is given. {USAGE}")
    return runs, options


def plot_runs(runs: Sequence[Path], x: str = "updates"):
    """The figure of runs.

    Args:
        runs: Their output folders.
        x: ``updates``, ``tokens`` (target tokens learnt from) or ``seconds`` (of training, validations included).

    Raises:
        ValueError: A run has no log or an empty one, or there are too many.
    """
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
