"""The training curve: losses, and the validations' metric, against updates."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, VERMILLION, GREEN = "#0072B2", "#D55E00", "#009E73"  # told apart without colour vision (Okabe & Ito 2008)


def series(log: list[dict[str, Any]], name: str) -> tuple[list[int], list[float]]:
    """Updates and values of one of the log's columns, ``loss``, ``eval_loss`` or ``eval_`` and a metric."""
    lines = [line for line in log if name in line]
    return [line["step"] for line in lines], [line[name] for line in lines]


def training_curve(
    log: list[dict[str, Any]],
    metric: str | None = None,
    *,
    metric_label: str = "",
    higher_is_better: bool = True,
    label_smoothing: float = 0.0,
    best_step: int | None = None,
) -> Figure:
    """Draws the curve.

    Args:
        log: The lines of ``training_log.jsonl``.
        metric: The validations' metric, as the log calls it behind ``eval_``; drawn beside the losses.
        metric_label: What stands at its axis, with the unit.
        higher_is_better: Whether it grows with quality.
        label_smoothing: Of the training loss, which is then not of the validation loss's kind and says so.
        best_step: The update of the best validation, marked in every part.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    figure = Figure(figsize=(9.0 if metric else 5.4, 3.4), dpi=140, layout="constrained")
    parts = figure.subplots(1, 2 if metric else 1, squeeze=False)[0]
    smoothed = f", label smoothing {label_smoothing:g}" if label_smoothing else ""
    parts[0].plot(*series(log, "loss"), color=BLUE, label=f"training{smoothed}")
    parts[0].plot(*series(log, "eval_loss"), color=VERMILLION, marker="o", markersize=4, ls="--", label="validation")
    losses = [value for name in ("loss", "eval_loss") for value in series(log, name)[1]]
    spread = bool(losses) and min(losses) > 0 and max(losses) > 50 * min(losses)
    parts[0].set_yscale("log" if spread else "linear")
    parts[0].set_ylabel(f"loss (nats per target token{', log scale' if spread else ''})")
    if metric:
        parts[1].plot(*series(log, f"eval_{metric}"), color=GREEN, marker="s", markersize=4, label="validation, greedy")
        parts[1].set_ylabel(metric_label or metric)
    for part, falls in zip(parts, (True, not higher_is_better), strict=False):
        if best_step is not None:
            part.axvline(best_step, color="0.45", lw=1, ls=":", label="best validation")
        part.set_xlabel("updates")
        part.set_xlim(left=0)
        part.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        part.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        part.grid(color="0.9")
        part.set_axisbelow(True)
        part.spines[["top", "right"]].set_visible(False)
        corner = "upper right" if falls else "lower right"  # where no curve passes
        part.legend(loc=corner, fontsize="small", framealpha=1, edgecolor="white")
    return figure


def save_png(figure: Figure, path: Path) -> None:
    """Writes the figure; the same figure gives the same file."""
    figure.savefig(path, format="png", facecolor="white", metadata={"Software": None})
