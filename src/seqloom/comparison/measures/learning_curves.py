"""Learning curves against target tokens, seconds and FLOPs: what each budget buys.

Which model is ahead depends on what is held equal. Vaswani et al. 2017 (arXiv:1706.03762, table 2) compare at equal
FLOPs and find the Transformer ahead of recurrent and convolutional models; Kaplan et al. 2020 (arXiv:2001.08361, figure
7) find LSTMs behind Transformers at equal data and size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm.auto import tqdm

from seqloom.comparison.candidates import Candidate, Options
from seqloom.comparison.instruments.budgets import common_metric, label, read_all
from seqloom.comparison.instruments.flops import costs
from seqloom.comparison.sections import Passage, Plot, Section, Table
from seqloom.comparison.traits import recorded
from seqloom.figures.style import as_label, look, new_figure, share_legend
from seqloom.scoring import metrics
from seqloom.support.console import has_terminal

if TYPE_CHECKING:
    from matplotlib.axes import Axes


BUDGETS = {"tokens": "target tokens", "seconds": "seconds of training", "flops": "FLOPs"}
UNITS = {1: "", 10**3: "thousand", 10**6: "million", 10**9: "billion", 10**12: "10¹²", 10**15: "10¹⁵", 10**18: "10¹⁸"}


def measure(candidates: Sequence[Candidate], options: Options) -> dict[str, Any]:
    """Curves, and the scores at the largest budgets that all runs spent.

    Args:
        candidates: Of those without a log, only the names are kept.
        options: Nothing of them counts.
    """
    runs = read_all(candidates)
    metric = common_metric(runs)
    curves = {}
    logged = [candidate for candidate in candidates if candidate.name in runs]
    for candidate in tqdm(logged, desc="learning curves", disable=not has_terminal()):
        cost = costs(candidate)
        curves[candidate.name] = {
            "number": list(candidates).index(candidate),  # its look, the same in every plot
            "traits": asdict(candidate.traits),
            "runs": [
                {
                    "tokens": list(run.tokens),
                    "seconds": list(run.seconds),
                    "flops": [count * cost["training_flops"] for count in run.tokens],
                    "scores": list(run.scores[metric]),
                }
                for run in runs[candidate.name]
            ],
        }
    return {
        "metric": metric,
        "higher_is_better": metrics.higher_is_better(metric),
        "curves": curves,
        "equal": {budget: at_equal(curves, budget) for budget in BUDGETS} if curves else {},
        "without_log": [candidate.name for candidate in candidates if candidate.name not in runs],
    }


def at_equal(curves: dict[str, Any], budget: str) -> dict[str, Any]:
    """Every candidate's scores, a run each, when it had spent as much as every run did.

    Args:
        curves: As `measure` has them.
        budget: ``tokens``, ``seconds`` or ``flops``.

    Returns:
        ``at``, the budget; ``scores``: by candidate, of every run that had been validated by then.
    """
    at = min(run[budget][-1] for curve in curves.values() for run in curve["runs"])
    scores = {
        name: [score for run in curve["runs"] if (score := score_at(run[budget], run["scores"], at)) is not None]
        for name, curve in curves.items()
    }
    return {"at": at, "scores": scores}


def score_at(spent: Sequence[float], scores: Sequence[float], at: float) -> float | None:
    """Between two validations on the straight line from one to the other; None before the first or after the last."""
    if not spent[0] <= at <= spent[-1]:
        return None
    return float(np.interp(at, spent, scores))


def order(equal: dict[str, Any], higher_is_better: bool) -> list[str]:
    """Names, the best mean over seeds first; without those that had no validation yet."""
    means = {name: float(np.mean(scores)) for name, scores in equal["scores"].items() if scores}
    return sorted(means, key=lambda name: -means[name] if higher_is_better else means[name])


def section(result: dict[str, Any]) -> Section:
    """Curves, table, and who is ahead of whom."""
    curves, equal, metric = result["curves"], result["equal"], result["metric"]
    parts: list[Table | Plot | Passage] = []
    if curves:
        figure, panels = new_figure(3, height=3.2)
        for panel, budget in zip(panels, BUDGETS, strict=True):
            _draw(panel, curves, equal[budget]["at"], budget)
        panels[0].set_ylabel(label(metric))
        share_legend(figure, panels[0])
        score = label(metric)[0].upper() + label(metric)[1:]
        caption = (
            f"{score} against what was spent on training, a line each run; dotted: the largest "
            "budget that all runs spent."
        )
        parts.append(Plot("learning_curves", figure, caption))
        header = ["", *(f"at {amount(equal[budget]['at'], budget)}" for budget in BUDGETS)]
        rows = [[name, *(spread(equal[budget]["scores"][name]) for budget in BUDGETS)] for name in curves]
        parts.append(Table(header, rows, f"{score} at equal budgets: mean (lowest to highest run)."))
    missing = result["without_log"]
    left_out = f" Left out, as no training log of theirs is here: {', '.join(missing)}." if missing else ""
    return Section(
        title="Learning curves",
        question="What does each model make of the same data, the same time and the same number of operations?",
        findings=_findings(result),
        parts=parts,
        how="From the training logs: every validation's score against the target tokens learnt from, the seconds of "
        "training (validations not counted) and FLOPs (tokens times the counted training FLOPs of a target token of a "
        "typical pair). Between validations the score is interpolated on a straight line." + left_out,
        limits="A learning-rate schedule that ends with the run makes a score in its middle lower than that of a run "
        "which would have ended there, so the run whose budget all others share is favoured. Seconds are those of the "
        "machine that trained, and losses of different tokenizers cannot be compared.",
    )


def _draw(panel: Axes, curves: dict[str, Any], at: float, budget: str) -> None:
    """All runs against one budget."""
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    farthest = max(run[budget][-1] for curve in curves.values() for run in curve["runs"])
    unit = max((size for size in UNITS if farthest >= 2 * size and (budget != "seconds" or size == 1)), default=1)
    for name, curve in curves.items():
        style = look(curve["number"]) | ({"lw": 0.9, "markersize": 3} if len(curve["runs"]) > 1 else {})
        for index, run in enumerate(curve["runs"]):
            places = [value / unit for value in run[budget]]
            panel.plot(places, run["scores"], label=None if index else as_label(name), **style)
    panel.axvline(at / unit, color="0.45", lw=1, ls=":")
    panel.set_xlabel(BUDGETS[budget] + (f" ({UNITS[unit]})" if UNITS[unit] else ""))
    panel.set_xlim(left=0)
    panel.xaxis.set_major_locator(MaxNLocator(5))
    panel.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))


def _findings(result: dict[str, Any]) -> list[str]:
    """Who is ahead at each budget, whether the three agree, and what was expected."""
    curves, higher = result["curves"], result["higher_is_better"]
    if len(curves) < 2:
        return ["Fewer than two of the models have a training log here: there are no curves to compare."]
    orders = {budget: order(result["equal"][budget], higher) for budget in BUDGETS}
    findings = []
    for budget, names in orders.items():
        scores = result["equal"][budget]["scores"]
        late = [name for name in curves if name not in names]
        told = ", ".join(f"{name} {np.mean(scores[name]):.4g}" for name in names)
        text = f"At equal {BUDGETS[budget]} ({amount(result['equal'][budget]['at'], budget)}): {told}."
        if late:
            text += f" {', '.join(late)} had not been validated by then."
        if len(names) > 1:
            text += f" {_ahead(names, scores)}"
        findings.append(text)
    if all(len(names) == len(curves) for names in orders.values()):
        if len({tuple(names) for names in orders.values()}) == 1:
            findings.append("The order is the same whichever of the three is held equal.")
        else:
            findings.append("The order depends on what is held equal: the three budgets do not agree.")
    traits = {name: recorded(curve) for name, curve in curves.items()}
    names = [name for name in orders["flops"] if traits[name].is_recurrent or traits[name].is_transformer]
    if len({traits[name].is_transformer for name in names}) == 2:
        is_seen = traits[names[0]].is_transformer
        findings.append(
            f"Expected: at equal FLOPs a Transformer is ahead of recurrent models (Vaswani et al. 2017, table 2). "
            f"{'SEEN' if is_seen else 'NOT SEEN'}: {names[0]}, "
            f"{'a Transformer' if is_seen else 'a recurrent model'}, is ahead "
            f"{'here' if names[0] == orders['flops'][0] else 'of the two kinds'}."
        )
    return findings


def _ahead(names: list[str], scores: dict[str, list[float]]) -> str:
    """Whether the first's lead over the second is larger than what the seeds differ by."""
    first, second = (scores[name] for name in names[:2])
    if np.mean(first) == np.mean(second):
        return f"{names[0]} and {names[1]} are level."
    if len(first) == len(second) == 1:
        return f"{names[0]} is ahead; with one seed each, chance is not ruled out."
    overlap = max(min(first), min(second)) <= min(max(first), max(second))
    return f"{names[0]} is ahead" + (", but the runs' ranges overlap." if overlap else ", with all of its runs.")


def amount(value: float, budget: str) -> str:
    """``1.23 million target tokens``, ``72 seconds of training``, ``4.1 × 10¹² FLOPs``."""
    if budget == "seconds":
        return f"{value:,.0f} seconds of training" if value >= 99.5 else f"{value:.3g} seconds of training"
    unit = max((size for size in UNITS if value >= size), default=1)
    word = UNITS[unit]
    word = f" × {word}" if word.startswith("10") else f" {word}" if word else ""
    return f"{value / unit:.3g}{word} {BUDGETS[budget]}"


def spread(scores: Sequence[float]) -> str:
    """Mean, and the lowest and highest of several; a dash for none."""
    if not scores:
        return "—"
    mean = f"{np.mean(scores):.4g}"
    return mean if len(scores) == 1 else f"{mean} ({min(scores):.4g} to {max(scores):.4g})"
