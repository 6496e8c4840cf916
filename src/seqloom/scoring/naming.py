"""Which metrics a folder may name: to load one of the Hub is to run its code, and so is to load one by its path."""

from __future__ import annotations

import shlex
from collections.abc import Container, Iterable, Sequence
from pathlib import Path

from seqloom import run_folder
from seqloom.scoring.metrics import METRICS
from seqloom.settings.reading import given_values
from seqloom.settings.schema import ScoringSettings, Settings


def on_the_line(overrides: Sequence[str]) -> list[str]:
    """The metrics that stand on the command's own line, for scores or for validations."""
    return given_values(overrides, "metrics", "eval_metric")


def named_by(settings: Settings | ScoringSettings) -> list[str]:
    """The metrics that settings name."""
    validation = settings.training.eval_metric if isinstance(settings, Settings) else None
    return [*settings.evaluation.metrics, *([validation] if validation else [])]


def check_names(names: Iterable[str], place: str | Path, given: Container[str] = ()) -> None:
    """Refuses metrics that a folder names, which may be another's, and whose code would be run.

    Args:
        names: As they are in the folder.
        place: The file that names them.
        given: Those that the command's own line names too.

    Raises:
        ValueError: One is neither seqloom's own nor given.
    """
    names = list(dict.fromkeys(names))
    foreign = next((name for name in names if name not in METRICS and name not in given), None)
    if foreign is not None:
        raise ValueError(
            f"{place} names the metric {foreign!r}, which is none of seqloom's own ({', '.join(METRICS)}): loading it "
            "runs its code, which no folder may ask for; if you trust it, write it on this command's line: "
            f"--metrics {shlex.join(names)}"
        )


def check_config(path: str | Path, settings: Settings, overrides: Sequence[str]) -> None:
    """The same of a configuration, where that is a run's own ``settings.yaml``.

    Raises:
        ValueError: As for `check_names`.
    """
    if Path(path).name == run_folder.SETTINGS:
        check_names(named_by(settings), path, on_the_line(overrides))
