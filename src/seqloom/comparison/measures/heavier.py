"""What the measure `weight` says: which kind is the heavier one, and which came to a quality with less."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

from seqloom.comparison.instruments.budgets import SPENT
from seqloom.comparison.instruments.clock import log_ratios
from seqloom.comparison.remedies import lighter
from seqloom.comparison.trainings import disturbed
from seqloom.comparison.traits import recorded
from seqloom.comparison.verdicts import ABOVE, BELOW, SAME, TRAINED, Case, Interval, counted, judged
from seqloom.scoring.estimates import LEVEL, Estimate
from seqloom.support.language import later, say
from seqloom.support.wording import factor

HEAVINESS = {
    "parameters": later("parameters"),
    "training_flops": later("training FLOPs a target token"),
    "generation_flops": later("FLOPs a generated token"),
    "training_memory_mib": later("peak memory of training"),
    "generation_memory_mib": later("peak memory of generation"),
    "model_bytes": later("model file"),
}
MEASURED = ("training_memory_mib", "generation_memory_mib")
"""Those that are not counted, and differ from one time to the next."""
REASONS = {"flops": later("fewer FLOPs (Vaswani et al. 2017, table 2)"), "seconds": later("less time, being parallel")}


def findings_of(result: dict[str, Any], mark: str) -> tuple[list[str], list[str]]:
    """Heavier or not, quantity by quantity; cheaper to the quality or not; what the seconds cannot say.

    Args:
        result: Of the measure.
        mark: The quality in words; nothing where there is none.

    Returns:
        Findings, and those that a reader of the first table must know.
    """
    models, findings = result["models"], []
    cases = [case for key, title in HEAVINESS.items() if (case := heavier(models, key, say(title))) is not None]
    if cases:
        said = ". ".join(
            say("{verdict} in: {texts}", verdict=say(verdict), texts="; ".join(texts))
            for verdict, texts in judged(cases).items()
        )
        findings.append(say("Expected: the Transformer is heavier than the RNN (Wu et al. 2020). {said}.", said=said))
    findings += lighter(models)
    rows = {model["update_rows"] for model in models.values()}
    if len(rows) > 1:  # of an earlier version
        findings.append(
            say("The peak memories of training are of batches of different size, so they cannot be compared.")
        )
    cautions = disturbed({name: model.get("cpu_shares", []) for name, model in models.items()})
    if mark:
        findings += [to_quality_finding(models, key, mark, is_disturbed=bool(cautions)) for key in REASONS]
    machines = {machine for model in models.values() if model["to_quality"] for machine in model["trained_on"]}
    if len(machines) > 1:
        findings.append(
            say(
                "The seconds are of different machines ({machines}), so they cannot be compared; tokens, updates "
                "and FLOPs can.",
                machines="; ".join(sorted(machines)),
            )
        )
    return [*findings, *_energy(models), *_errors(models)], cautions


def sides(models: dict[str, Any], names: Sequence[str]) -> tuple[list[str], list[str]]:
    """The recurrent models, and the Transformers; none of either where one of the two kinds is missing."""
    traits = {name: recorded(models[name]) for name in names}
    recurrent = [name for name in names if traits[name].is_recurrent]
    others = [name for name in names if traits[name].is_transformer]
    return (recurrent, others) if recurrent and others else ([], [])


def heavier(models: dict[str, Any], key: str, title: str) -> Case | None:
    """Whether every Transformer has more of it than every recurrent model."""
    known = {name: model[key] for name, model in models.items() if model[key] is not None}
    recurrent, others = sides(models, list(known))
    if not recurrent:
        return None
    lightest, heaviest = min(others, key=known.__getitem__), max(recurrent, key=known.__getitem__)
    largest, least = max(others, key=known.__getitem__), min(recurrent, key=known.__getitem__)
    if not min(known[heaviest], known[least], known[lightest]):  # memory that is too little to be seen
        text = f"{lightest} {known[lightest]:.3g}, {heaviest} {known[heaviest]:.3g}"
        return Case(f"{title} ({text})", None)
    if key in MEASURED and len({models[name]["update_rows"] for name in known}) > 1 and key.startswith("training"):
        return Case(say("{title} (of batches of different size)", title=title), None)
    bounds: list[Interval] = []
    for one, other in ((lightest, heaviest), (largest, least)):
        ratio = known[one] / known[other]
        if key not in MEASURED:
            bounds.append(counted(ratio))
            continue
        pairs = [(model[key], model.get("again", {}).get(key)) for model in models.values()]
        estimate = Estimate.by_control(math.log(ratio), log_ratios(pairs))
        # Several pairs of extremes could have been these: each gets its share of the doubt.
        level = LEVEL / (len(MEASURED) * len(recurrent) * len(others))
        if estimate is None:
            return Case(
                say(
                    "{title} ({lightest} {ratio} times {heaviest})",
                    title=title,
                    lightest=lightest,
                    ratio=factor(ratio),
                    heaviest=heaviest,
                ),
                None,
            )
        bounds.append(_widened(estimate.interval(level)))
    (low, _), (_, high) = bounds
    one, other = (largest, least) if high <= 0 else (lightest, heaviest)
    return Case(
        say(
            "{title} ({one} {ratio} times {other})",
            title=title,
            one=one,
            ratio=factor(known[one] / known[other]),
            other=other,
        ),
        (low, high),
        ABOVE,
    )


def _widened(bounds: Interval) -> Interval:
    """What differs by less than `SAME` counts as the same."""
    return bounds[0] - SAME, bounds[1] + SAME


def to_quality_finding(models: dict[str, Any], key: str, mark: str, *, is_disturbed: bool) -> str:
    """What a validation score took."""
    spent = {name: (model["to_quality"] or {}).get(key) for name, model in models.items()}
    said = ", ".join(f"{name} {_in_words(stat)}" for name, stat in spent.items())
    title = say("Seconds") if key == "seconds" else say(SPENT[key])
    text = say("{title} of training to validation {mark}: {said}.", title=title, mark=mark, said=said)
    known = {name: stat for name, stat in spent.items() if stat is not None}
    recurrent, others = sides(models, list(known))
    if not recurrent:
        return text
    cases = []
    pairs = [(one, other) for one in others for other in recurrent]
    machines = {machine for name in known for machine in models[name]["trained_on"]}
    for one, other in pairs:
        a, b = known[one], known[other]
        what = _ratio(one, a, other, b)
        level = LEVEL / len(pairs)
        slack = _clock_slack([models[name] for name in (one, other)], level) if key == "seconds" else 0.0
        is_lost = key == "seconds" and (is_disturbed or len(machines) > 1)
        cases.append(Case(what, None if is_lost or slack is None else _spent_ratio(a, b, level, slack), BELOW))
    verdicts = " ".join(
        say("{verdict}: {texts}.", verdict=say(verdict), texts="; ".join(texts))
        for verdict, texts in judged(cases).items()
    )
    single = min(len(stat.get("runs") or [0]) for stat in known.values()) == 1
    about = f" {say(TRAINED)}" if single else ""
    return say(
        "{text} Expected: the Transformer needs {reason}.{about} {verdicts}",
        text=text,
        reason=say(REASONS[key]),
        about=about,
        verdicts=verdicts,
    )


def _ratio(one: str, a: dict[str, Any], other: str, b: dict[str, Any]) -> str:
    """``a 0.5 times b``; of what never came there, no number."""
    if a["mean"] is not None and b["mean"] is not None:
        return say("{one} {ratio} times {other}", one=one, ratio=factor(a["mean"] / b["mean"]), other=other)
    return say("{one} against {other}", one=one, other=other)


def _in_words(stat: dict[str, Any] | None) -> str:
    if stat is None:
        return "—"
    if stat["mean"] is None:
        return say("never") if not any(place is not None for place in stat["runs"]) else say("not with every seed")
    return number(stat["mean"])


def _clock_slack(models: Sequence[dict[str, Any]], level: float) -> float | None:
    """How far the logarithm of a ratio of two trainings' seconds may be off by the machine alone: as far as their speed
    changed from one line of the log to the next. None where that is not known; of several runs their spread tells."""
    spreads = [model.get("speed_spreads") or [None] for model in models]
    if min(map(len, spreads)) > 1:
        return 0.0
    known = [max(run for run in of_runs if run is not None) for of_runs in spreads if set(of_runs) != {None}]
    if len(known) < len(spreads):
        return None
    return NormalDist().inv_cdf(1 - level / 2) * math.hypot(*known)


def _spent_ratio(a: dict[str, Any], b: dict[str, Any], level: float, slack: float = 0.0) -> Interval | None:
    """Bounds of the logarithm of a's spending over b's; None where earlier versions kept none.

    Of several runs each, of the recipes: Welch's interval of the mean logarithms. Of one on either side, of these
    trained models: whatever lies between the validations. Where one never came there, it spent what it had at least.
    """
    if "between" not in a or "between" not in b:
        return None
    whole = [place for stat in (a, b) for place in stat["runs"]]
    bounds = [_logs(stat["between"]) for stat in (a, b)]
    low = min(low for low, _ in bounds[0]) - max(high for _, high in bounds[1]) - slack
    high = max(high for _, high in bounds[0]) - min(low for low, _ in bounds[1]) + slack
    if min(len(a["runs"]), len(b["runs"])) > 1 and None not in whole:
        logs = [[math.log(max(place, 1e-9)) for place in stat["runs"]] for stat in (a, b)]
        estimate = Estimate.of(logs[0]).minus(Estimate.of(logs[1])).interval(level)
        widths = [statistics.fmean(up - down for down, up in of_runs) / 2 for of_runs in bounds]
        widest = sum(width for width in widths if math.isfinite(width)) if all(map(math.isfinite, widths)) else math.inf
        low, high = estimate[0] - widest, estimate[1] + widest
    return _widened((low, high))


def _logs(between: list[list[float | None]]) -> list[Interval]:
    return [
        (math.log(low) if low else -math.inf, math.log(high) if high else math.inf) for low, high in between
    ]  # fmt: skip


def _energy(models: dict[str, Any]) -> list[str]:
    watts = {name: model["joules_per_1000_tokens"] for name, model in models.items()}
    if all(value is None for value in watts.values()):
        return [say("Energy: this machine does not tell (it has no counter that may be read).")]
    said = ", ".join(f"{name} {'—' if value is None else f'{value:.3g}'} J" for name, value in watts.items())
    return [say("Energy for 1,000 target tokens of training: {said}.", said=said)]


def _errors(models: dict[str, Any]) -> list[str]:
    return [
        say(
            "Memory and energy could not be measured for all of {name}'s work: {error}", name=name, error=model["error"]
        )
        for name, model in models.items()
        if model["error"]
    ]


def number(value: float | None) -> str:
    """``1.23 M``: three digits and the SI prefix."""
    if value is None:
        return "—"
    for size, prefix in ((1e15, " P"), (1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= 0.9995 * size:
            return f"{value / size:.3g}{prefix}"
    return f"{value:.3g}"
