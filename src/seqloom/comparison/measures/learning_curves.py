"""Learning curves against updates, target tokens, seconds and FLOPs: what each budget buys.

Which model is ahead depends on what is held equal. Vaswani et al. 2017 (arXiv:1706.03762, table 2) compare at equal
FLOPs and find the Transformer ahead of recurrent and convolutional models; Kaplan et al. 2020 (arXiv:2001.08361, figure
7) find LSTMs behind Transformers at equal data and size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm.auto import tqdm

from seqloom import run_folder
from seqloom.comparison.candidates import Candidate, Options
from seqloom.comparison.instruments.budgets import common_metric, label, read_all
from seqloom.comparison.instruments.flops import costs
from seqloom.comparison.sections import Passage, Plot, Section, Table
from seqloom.comparison.trainings import disturbed, watched_share
from seqloom.comparison.traits import recorded
from seqloom.comparison.verdicts import TRAINED, Case, Interval, told
from seqloom.figures.style import as_label, look, new_figure, share_legend
from seqloom.scoring import metrics
from seqloom.scoring.estimates import LEVEL, Estimate, wilson
from seqloom.support.console import has_terminal
from seqloom.support.language import Language, later, say, spoken
from seqloom.support.wording import digits, together

if TYPE_CHECKING:
    from matplotlib.axes import Axes


BUDGETS = {
    "updates": later("updates"),
    "tokens": later("target tokens"),
    "seconds": later("seconds of training"),
    "flops": "FLOPs",
}
POWERS = {10**12: "10¹²", 10**15: "10¹⁵", 10**18: "10¹⁸"}
UNITS: dict[Language, dict[int, str]] = {
    "en": {1: "", 10**3: "thousand", 10**6: "million", 10**9: "billion", **POWERS},
    "ko": {1: "", 10**4: "만", 10**8: "억", **POWERS},
}


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
    for candidate in tqdm(logged, desc="learning curves", unit=" models", disable=not has_terminal()):
        cost = costs(candidate)
        curves[candidate.name] = {
            "number": list(candidates).index(candidate),  # its look, the same in every plot
            "traits": asdict(candidate.traits),
            "validated": validated(candidate),
            "cpu_shares": [share for folder in candidate.folders if (share := watched_share(folder)) is not None],
            "runs": [
                {
                    "updates": list(run.steps),
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


def validated(candidate: Candidate) -> int | None:
    """Sentences that a validation's metric was computed of; None where the run does not tell."""
    if candidate.settings is None or not run_folder.is_finished(candidate.folders[0]):
        return None
    number = run_folder.read_record(candidate.folders[0])["data"].get("pairs", {}).get("validation")
    most = candidate.settings.training.eval_samples
    return min(number, most or number) if isinstance(number, int) else None


def at_equal(curves: dict[str, Any], budget: str) -> dict[str, Any]:
    """Every candidate's scores, a run each, when it had spent as much as every run did.

    Args:
        curves: As `measure` has them.
        budget: One of `BUDGETS`.

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


def difference(result: dict[str, Any], budget: str, one: str, other: str) -> Estimate | Interval | None:
    """How much better the one was than the other at a budget, in the metric's unit; None where nothing tells how sure
    that is.

    Of several runs each, of the recipes, by the spread of the runs. Of one on either side, of these trained models: how
    much a mean of so many validated sentences, each from 0 to 100, can be away from that of all (Wilson; two of them by
    Newcombe 1998). The losses of one run each say nothing of that.
    """
    scores = [result["equal"][budget]["scores"][name] for name in (one, other)]
    sign = 1 if result["higher_is_better"] else -1
    if min(map(len, scores)) > 1:
        return Estimate.of([sign * s for s in scores[0]]).minus(Estimate.of([sign * s for s in scores[1]]))
    counts = [result["curves"][name].get("validated") for name in (one, other)]
    means = [float(np.mean(values)) for values in scores]
    if None in counts or result["metric"] not in metrics.METRICS or not all(0 <= mean <= 100 for mean in means):
        return None
    level = LEVEL / max(1, len(result["curves"]) * (len(result["curves"]) - 1) / 2)  # any two could be first
    (low, high), (low_, high_) = (
        [100 * bound for bound in wilson(mean / 100, count, level)] for mean, count in zip(means, counts, strict=True)
    )
    gap = means[0] - means[1]
    bounds = gap - math.hypot(means[0] - low, high_ - means[1]), gap + math.hypot(high - means[0], means[1] - low_)
    return bounds if sign > 0 else (-bounds[1], -bounds[0])


def ahead(result: dict[str, Any], budget: str) -> tuple[list[str], list[str]]:
    """Names of those that nothing tells from the best at a budget, in the order of their means; and of the rest."""
    means = {name: float(np.mean(scores)) for name, scores in result["equal"][budget]["scores"].items() if scores}
    names = sorted(means, key=lambda name: (-1 if result["higher_is_better"] else 1) * means[name])
    pairs = len(names) * (len(names) - 1) / 2
    first: list[str] = []
    rest: list[str] = []
    for name in names:
        known = difference(result, budget, names[0], name) if name != names[0] else None
        (rest if Case(name, known).verdict(LEVEL / max(pairs, 1)) == "SEEN" else first).append(name)
    return first, rest


def section(result: dict[str, Any]) -> Section:
    """Curves, table, and who is ahead of whom."""
    curves, equal, metric = result["curves"], result["equal"], result["metric"]
    parts: list[Table | Plot | Passage] = []
    if curves:
        budgets = budgets_of(result)
        figure, panels = new_figure(len(budgets), height=3.2)
        for panel, budget in zip(panels, budgets, strict=True):
            _draw(panel, curves, equal[budget]["at"], budget)
        panels[0].set_ylabel(label(metric))
        share_legend(figure, panels[0])
        score = label(metric)[0].upper() + label(metric)[1:]
        caption = say(
            "{score} against what was spent on training, a line each run; dotted: the largest budget that "
            "all runs spent.",
            score=score,
        )
        parts.append(Plot("learning_curves", figure, caption))
        header = ["", *(say("at {at}", at=amount(equal[budget]["at"], budget)) for budget in budgets)]
        rows = [[name, *(spread(equal[budget]["scores"][name]) for budget in budgets)] for name in curves]
        parts.append(Table(header, rows, say("{score} at equal budgets: mean (lowest to highest run).", score=score)))
    missing = result["without_log"]
    left_out = (
        say(" Left out, as no training log of theirs is here: {missing}.", missing=", ".join(missing))
        if missing
        else ""
    )
    cautions = disturbed({name: curve.get("cpu_shares", []) for name, curve in curves.items()})
    return Section(
        title=say("Learning curves"),
        question=say("What does each model make of the same updates, data, time and number of operations?"),
        findings=[*findings_of(result), *cautions],
        parts=parts,
        how=say(
            "From the training logs: every validation's score against the target tokens learnt from, the "
            "seconds of training (validations not counted) and FLOPs (tokens times the counted training "
            "FLOPs of a target token of a typical pair). Between validations the score is interpolated on a "
            "straight line. Ahead is who is so beyond the spread of the runs (Welch's interval of several "
            "seeds each), or, of one run each, beyond what so many validated sentences leave open (Wilson's "
            "intervals); then these trained models are told apart, and not their recipes."
        )
        + left_out,
        limits=say(
            "A learning-rate schedule that ends with the run makes a score in its middle lower than that of "
            "a run which would have ended there, so the run whose budget all others share is favoured. "
            "Seconds are those of the machine that trained, and losses of different tokenizers cannot be "
            "compared."
        ),
        cautions=cautions,
    )


def budgets_of(result: dict[str, Any]) -> list[str]:
    """Those that the result has: earlier versions had no equal updates."""
    return [budget for budget in BUDGETS if budget in result["equal"]]


def _draw(panel: Axes, curves: dict[str, Any], at: float, budget: str) -> None:
    """All runs against one budget."""
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    farthest = max(run[budget][-1] for curve in curves.values() for run in curve["runs"])
    units = UNITS[spoken()]
    unit = max((size for size in units if farthest >= 2 * size and (budget != "seconds" or size == 1)), default=1)
    for name, curve in curves.items():
        style = look(curve["number"]) | ({"lw": 0.9, "markersize": 3} if len(curve["runs"]) > 1 else {})
        for index, run in enumerate(curve["runs"]):
            places = [value / unit for value in run[budget]]
            panel.plot(places, run["scores"], label=None if index else as_label(name), **style)
    panel.axvline(at / unit, color="0.45", lw=1, ls=":")
    panel.set_xlabel(say(BUDGETS[budget]) + (f" ({units[unit]})" if units[unit] else ""))
    panel.set_xlim(left=0)
    panel.xaxis.set_major_locator(MaxNLocator(5))
    panel.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))


def findings_of(result: dict[str, Any]) -> list[str]:
    """Who is ahead at each budget, whether they agree, and what was expected."""
    curves = result["curves"]
    if len(curves) < 2:
        return [say("Fewer than two of the models have a training log here: there are no curves to compare.")]
    findings, firsts = [], {}
    for budget in budgets_of(result):
        scores, at = result["equal"][budget]["scores"], result["equal"][budget]["at"]
        first, rest = firsts[budget] = ahead(result, budget)
        late = [name for name in curves if name not in (*first, *rest)]
        said = ", ".join(f"{name} {np.mean(scores[name]):.4g}" for name in (*first, *rest))
        text = say("At equal {budget} ({at}): {said}.", budget=say(BUDGETS[budget]), at=amount(at, budget), said=said)
        if late:
            text += say(" {late} had not been validated by then.", late=", ".join(late))
        if first and rest:
            ahead_of = later(" {first} is ahead of {rest}.")
            if len(first) > 1:
                ahead_of = later(" {first} are ahead of {rest}, and not told apart.")
            text += say(ahead_of, first=together(first), rest=together(rest))
        elif len(first) > 1:
            text += say(" Not clear: {first} are not told apart.", first=together(first))
        if cut := _cut_off(curves, at, budget):
            text += say(
                " Cut off before their schedules ended, and so worse than if trained for this: {cut}.",
                cut=together(cut),
            )
        findings.append(text)
    if all(len(first) + len(rest) == len(curves) for first, rest in firsts.values()):
        winners = {tuple(sorted(first)) for first, _ in firsts.values()}
        if len(winners) == 1 and all(len(first) == 1 for first, _ in firsts.values()):
            findings.append(say("{model} is ahead whichever of them is held equal.", model=winners.pop()[0]))
        elif not set.intersection(*(set(first) for first, _ in firsts.values())):
            findings.append(
                say("Who is ahead depends on what is held equal: no model is among the first of all budgets.")
            )
    return [*findings, *_expected(result)]


def _cut_off(curves: dict[str, Any], at: float, budget: str) -> list[str]:
    """Models whose runs went on after the budget: a schedule that ends with the run had not ended by then."""
    return [name for name, curve in curves.items() if any(run[budget][-1] > 1.01 * at for run in curve["runs"])]


def _expected(result: dict[str, Any]) -> list[str]:
    """Whether each Transformer is ahead of each recurrent model at equal FLOPs."""
    curves, scores = result["curves"], result["equal"]["flops"]["scores"]
    traits = {name: recorded(curve) for name, curve in curves.items() if scores[name]}
    recurrent = [name for name, one in traits.items() if one.is_recurrent]
    cases = []
    for name in (name for name, one in traits.items() if one.is_transformer):
        for other in recurrent:
            gap = np.mean(scores[name]) - np.mean(scores[other])
            cases.append(
                Case(
                    say("{name} against {other} ({gap:+.4g})", name=name, other=other, gap=gap),
                    difference(result, "flops", name, other),
                )
            )
    cut = _cut_off(curves, result["equal"]["flops"]["at"], "flops")
    single = any(len(scores[name]) == 1 for name in traits)
    about = f" {say(TRAINED)}" if single else ""
    confound = say(" The budget cuts {cut} off, which speaks against them.", cut=together(cut)) if cut else ""
    expected = say(
        "Expected: at equal FLOPs a Transformer is ahead of recurrent models (Vaswani et al. 2017, table 2)."
    )
    return told(f"{expected}{about}{confound}", cases)


def amount(value: float, budget: str) -> str:
    """``1.23 million target tokens``, ``72 seconds of training``, ``4.1 × 10¹² FLOPs``."""
    if budget == "seconds":
        return (
            say("{value:,.0f} seconds of training", value=value)
            if value >= 99.5
            else say("{value:.3g} seconds of training", value=value)
        )
    units = UNITS[spoken()]
    unit = max((size for size in units if value >= size), default=1)
    word = f" × {POWERS[unit]}" if unit in POWERS else f" {units[unit]}" if units[unit].isascii() else units[unit]
    number = f"{digits(value / unit)}{word}".rstrip()
    return say("{number} {budget}", number=number, budget=say(BUDGETS[budget]))


def spread(scores: Sequence[float]) -> str:
    """Mean, and the lowest and highest of several; a dash for none."""
    if not scores:
        return "—"
    mean = f"{np.mean(scores):.4g}"
    return (
        mean
        if len(scores) == 1
        else say("{mean} ({lowest:.4g} to {highest:.4g})", mean=mean, lowest=min(scores), highest=max(scores))
    )
