"""What a comparison comes to: which model for these data, why, at what cost, and what is not decided.

A pure function of what the measures found. Every answer is a verdict from an interval or a test (`verdicts`), none from
two numbers alone; "not clear" is an answer. The sentences are templates with named values.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

from seqloom.comparison.matching import in_words as in_words_matched
from seqloom.comparison.measured import Measured, cell_of, first_of, is_worthless, typical_length
from seqloom.comparison.measures.data_handling import controls_of, sides
from seqloom.comparison.measures.data_handling_findings import series_of
from seqloom.comparison.remedies import close, pairs_of
from seqloom.comparison.trainings import BUSY
from seqloom.comparison.traits import in_words
from seqloom.comparison.verdicts import BELOW, SAME, TRAINED, Case, Verdict, recorded, told_apart
from seqloom.scoring import metrics
from seqloom.scoring.estimates import LEVEL, Estimate
from seqloom.support.language import later, say
from seqloom.support.wording import digits, factor, together, with_interval

ABOUT = {
    "model": later("For your data"),
    "undecided": later("Not decided"),
    "cost": later("Cost"),
    "data_handling": later("Sequential or parallel"),
    "attention": later("Without or with attention"),
    "weight": later("Light or heavy"),
    "remedied": later("Remedied"),
    "matched": later("Of equal weight"),
}
"""The sentences in their order, what one must know first, and what each is headed by."""
SHOWN = 3
"""Pairs or models that a sentence names; the sections have all."""
WINNER = later(
    "{model}, because its {metric}, {score}, is better than that of {others}; the next is {next}, {gap} behind."
)
TIE = later("{models}, because {top} is better in {metric} than {others}, and between these no difference was found.")
NO_WINNER = later("no winner, because no difference in {metric} was found between {models} ({gaps}).")
ALONE = later("nothing to choose, because {model} alone was scored ({metric} {score}).")
NONE_WORTH = later("none of these models, because the best {metric} is {score}.")
UNSCORED = later("not decided, because the outputs were not scored: take the measure quality.")
WORTHLESS = later("not decided, because the best {metric} is {score}.")
ONE_OF = later("{first} or {last}")
GAP = later("{one} {gap} ahead of {other}")
UNTESTED = later("{one} and {other} not tested, one run against several")
MORE = later("{shown} and {number} more")
AT_YOUR_LENGTH = later("{verdict}, because at {length} tokens, about the length of your data, {said}")
AT_A_LENGTH = later("{verdict}, because at {length} tokens {said}")
AT_THE_LONGEST = later("; at {length} tokens {verdict}: {said}")
STEP = later("a training step of {one} takes {ratio} times as long as one of {other}")
PARALLEL, SEQUENTIAL = later("parallel (all tokens at once)"), later("sequential (one token after the other)")
NOT_CLEAR, MIXED = later("not clear"), later("it depends")
OF_EQUAL_WIDTH = later(" (untrained models of equal width, {device}).")
UNTIMED = later("not decided, because training steps were not timed: take the measure data_handling.")
ONE_SIDE = later("not decided, because all that was timed handles data alike.")
WITH, WITHOUT = later("with attention"), later("without attention")
BY_ATTENTION = later("{verdict}, because {said}{growth}.")
DIFFERS = later("{one} is better than {other} by {gap}")
NOT_FOUND = later("between {one} and {other} no difference was found ({gap})")
GROWS = later("; the gap is {short} points on the shortest sources and {long} on the longest, {verdict}")
GROWTH: dict[Verdict, str] = {
    "SEEN": later("a growth"),
    "NOT SEEN": later("no growth"),
    "NOT CLEAR": later("whether it grows is not clear"),
}
BEYOND_ATTENTION = later(" (they differ in more than attention)")
ALL_ALIKE = later("not decided for your data, because all models are {kind}.")
LIGHT, HEAVY, BETWEEN = later("light"), later("heavy"), later("neither the lightest nor the heaviest")
BY_WEIGHT = later("{verdict}, because {said}.")
HEAVIER = later("{heavy}, {ratio} times the parameters of {light}, {said}")
BETTER, WORSE = later("is better by {gap}"), later("is worse by {gap}")
NO_DIFFERENCE = later("is not told from it ({gap})")
EQUALLY_HEAVY = later("not asked, because none has {share} % more or fewer parameters than the best.")
UNWEIGHED = later("not decided, because the models were not weighed: take the measure weight.")
REMEDIED = later("{one} for {other}: {said}")
STEP_RATIO = later("a training step takes {ratio} times as long at {length} tokens ({verdict})")
SENTENCE_RATIO = later("a sentence takes {ratio} times as long to write ({verdict})")
PARAMETER_RATIO = later("{ratio} times the parameters")
GAP_TO = later("{metric} {gap} ({verdict})")
QUICKER: dict[Verdict, str] = {
    "SEEN": later("quicker"),
    "NOT SEEN": later("not quicker"),
    "NOT CLEAR": later("not clear"),
}
NEAR: dict[Verdict, str] = {
    "SEEN": later("less than a point is lost"),
    "NOT SEEN": later("more than a point is lost"),
    "NOT CLEAR": later("whether a point is lost is not clear"),
}
WHICH_OF = later("which of {models} is better")
OTHER_SEEDS = later("what other seeds would give (--seeds 1 2 3)")
NO_ACCELERATOR = later("what a GPU would change (none was used)")
NOT_MEASURED = later("what was not measured ({measures})")
NOTHING_OPEN = later("nothing of what was asked.")
COSTS_OF = later("{model}: {costs}")
SECONDS, MILLISECONDS = later("{value} s of training without validations"), later("{value} ms a sentence")
PARAMETERS = later("{value} parameters")
UNKNOWN_COST = later("not measured: take the measures weight, generation and learning_curves.")
FASTEST = later("Quickest to write: {models}{told}.")
DISTURBED = later(" The machine had other work while they were trained: the seconds are too long.")
NOT_TOLD_APART = later(" (not told apart)")


def conclude(record: dict[str, Any]) -> dict[str, Any]:
    """What the measures come to.

    Args:
        record: ``candidates`` and ``measures``, as `report.write` takes them.

    Returns:
        ``metric``; ``first``, the models that nothing is told to be better than (none where none is worth taking);
        ``verdicts`` by question; ``remedies`` by the pair;
        ``ranking``, a row each model; ``sentences`` by the names of `ABOUT`.
    """
    known = Measured({one["name"]: one.get("kind", "") for one in record["candidates"]}, record["measures"])
    first = first_of(known.entry) if known.metric else []
    answers = {
        "data_handling": of_data_handling(known),
        "attention": of_attention(known),
        "weight": of_weight(known, first),
    }
    remedies, remedied = of_remedies(known)
    sentences = {
        "model": of_models(known, first),
        **{name: sentence for name, (_, sentence) in answers.items()},
        "remedied": remedied,
        "matched": f"{'; '.join(in_words_matched(matched))}." if (matched := record.get("matched")) else "",
        "undecided": of_undecided(known, first, {name: verdict for name, (verdict, _) in answers.items()}),
        "cost": of_cost(known, first),
    }
    return {
        "metric": known.metric,
        "first": first if known.metric and len(known.names) > 1 and len(first) < len(known.names) else [],
        "verdicts": {name: verdict for name, (verdict, _) in answers.items()},
        "remedies": remedies,
        "ranking": ranking(known),
        "sentences": {name: sentences[name] for name in ABOUT if sentences[name]},
    }


def of_models(known: Measured, first: Sequence[str]) -> str:
    """Which model, and why."""
    if known.metric is None:
        return say(UNSCORED)
    entry, metric = known.entry, metrics.label(known.metric)
    scores = {name: with_interval(one["score"], one["interval"]) for name, one in entry["scores"].items()}
    if is_worthless(entry, first[0]):
        return say(NONE_WORTH, metric=metric, score=scores[first[0]])
    if len(scores) == 1:
        return say(ALONE, model=first[0], metric=metric, score=scores[first[0]])
    others = [name for name in scores if name not in first]
    single = " " + say(TRAINED) if 1 in known.runs.values() else ""
    if not others:
        gaps = [gap_in_words(known, one, other) for one, other in itertools.combinations(first, 2)]
        return say(NO_WINNER, metric=metric, models=together(first), gaps=some(gaps)) + single
    if len(first) > 1:
        return say(TIE, models=one_of(first), top=first[0], metric=metric, others=together(others)) + single
    behind = sorted(others, key=lambda name: known.pair(first[0], name)["gap"])
    gap = known.gap(first[0], behind[0])
    values = {"model": first[0], "metric": metric, "score": scores[first[0]], "others": together(others)}
    return say(WINNER, **values, next=behind[0], gap=gap) + single


def one_of(names: Sequence[str]) -> str:
    """``a, b or c``."""
    return say(ONE_OF, first=", ".join(names[:-1]), last=names[-1])


def gap_in_words(known: Measured, one: str, other: str) -> str:
    """A difference with its interval, or that it was not tested."""
    if known.pair(one, other)["p"] is None:
        return say(UNTESTED, one=one, other=other)
    return say(GAP, one=one, other=other, gap=known.gap(one, other, "+"))


def some(said: Sequence[str], shown: int = SHOWN) -> str:
    """As many as one reads."""
    if len(said) <= shown:
        return "; ".join(said)
    return say(MORE, shown="; ".join(said[:shown]), number=len(said) - shown)


def of_data_handling(known: Measured) -> tuple[str | None, str]:
    """Whether all tokens at once are quicker to learn from than one after the other, at the length of the data."""
    result = known.measures.get("data_handling")
    if not result:
        return None, say(UNTIMED)
    device = result["devices"][-1]  # the accelerator, where there is one
    times = series_of(device)["model"]
    two = sides(result, [name for name in times if name in known.kinds.values()])
    two = two if all(two) else sides(result, list(times))
    if not all(two):
        return None, say(ONE_SIDE)
    controls = controls_of(device)
    lengths = sorted(set.intersection(*(set(times[name]) for side in two for name in side)))
    typical = typical_length(known)
    length = _nearest(lengths, typical)
    verdict, said = steps(times, two, length, controls)
    words = say(AT_YOUR_LENGTH if typical else AT_A_LENGTH, verdict=say(verdict), length=f"{length:,}", said=said)
    longest, said = steps(times, two, lengths[-1], controls)
    if longest != verdict:
        words += say(AT_THE_LONGEST, length=f"{lengths[-1]:,}", verdict=say(longest), said=said)
    return verdict, words + say(OF_EQUAL_WIDTH, device=device["name"])


def steps(
    times: dict[str, Any], sides: Sequence[Sequence[str]], length: int, controls: Sequence[float]
) -> tuple[str, str]:
    """Who is quicker at a length, all at once or one after the other, and the ratios."""
    found: set[Verdict] = set()
    said = []
    level = LEVEL / (2 * len(sides[0]) * len(sides[1]))  # of all pairs, and of two lengths
    for one, other in itertools.product(*sides):
        ratio = times[one][length] / times[other][length]
        estimate = Estimate.by_control(math.log(ratio), controls)
        said.append(say(STEP, one=in_words(one), ratio=_with_bounds(ratio, estimate, level), other=in_words(other)))
        found.add(Case("", estimate, BELOW).verdict(level))
    names: dict[Verdict, str] = {"SEEN": PARALLEL, "NOT SEEN": SEQUENTIAL, "NOT CLEAR": NOT_CLEAR}
    verdict = names[found.pop()] if len(found) == 1 else NOT_CLEAR if "NOT CLEAR" in found else MIXED
    return verdict, some(said, 2)


def of_attention(known: Measured) -> tuple[str | None, str]:
    """Whether the decoder should look at the source."""
    if known.metric is None:
        return None, say(UNSCORED)
    scored = {name: known.traits[name] for name in known.entry["scores"]}
    sides = [[name for name, one in scored.items() if one.has_cross_attention is is_so] for is_so in (True, False)]
    if not all(sides):
        kind = WITH if sides[0] else WITHOUT
        return None, say(ALL_ALIKE, kind=say(kind)) if any(sides) else say(UNSCORED)
    pairs = list(itertools.product(*sides))
    alike = [(one, other) for one, other in pairs if cell_of(scored[one]) == cell_of(scored[other])]
    said, found = compared(known, alike or pairs)
    verdict = WITH if found == {"one"} else WITHOUT if found == {"other"} else NOT_CLEAR if None in found else MIXED
    growth = "" if alike else say(BEYOND_ATTENTION)
    gaps = (known.measures.get("attention", {}).get("data") or {}).get("gaps", ())
    for gap in gaps:
        if (gap["with"], gap["without"]) == (alike or pairs)[0]:
            grows = Case("", recorded(gap["change"])).verdict()
            growth += say(GROWS, short=f"{gap['short']:.1f}", long=f"{gap['long']:.1f}", verdict=say(GROWTH[grows]))
    return verdict, say(BY_ATTENTION, verdict=say(verdict), said=said, growth=growth)


def compared(known: Measured, pairs: Iterable[tuple[str, str]]) -> tuple[str, set[str | None]]:
    """Who of each two is better, in words; and whether the one, the other or None."""
    said, found = [], set()
    for one, other in pairs:
        better = known.pair(one, other)["better"]
        found.add("one" if better == one else "other" if better else None)
        if better:
            worse = other if better == one else one
            said.append(say(DIFFERS, one=better, other=worse, gap=known.gap(better, worse)))
        else:
            said.append(say(NOT_FOUND, one=one, other=other, gap=gap_in_words(known, one, other)))
    return some(said), found


def of_weight(known: Measured, first: Sequence[str]) -> tuple[str | None, str]:
    """Whether weight pays: what is lighter and what is heavier than the lightest of the best."""
    sizes = {name: size for name, size in known.parameters.items() if size}
    if len(sizes) < 2:
        return None, say(UNWEIGHED)
    if max(sizes.values()) <= math.exp(SAME) * min(sizes.values()):
        return None, say(EQUALLY_HEAVY, share=f"{100 * math.expm1(SAME):.0f}")
    best = [name for name in first if name in sizes]
    if known.metric is None or not best:
        return None, say(UNSCORED)
    if is_worthless(known.entry, best[0]):
        one = known.entry["scores"][best[0]]
        score = with_interval(one["score"], one["interval"])
        return None, say(WORTHLESS, metric=metrics.label(known.metric), score=score)
    middle = min(best, key=sizes.__getitem__)
    lighter = [name for name in sizes if sizes[name] * math.exp(SAME) < sizes[middle]]
    heavier = [name for name in sizes if sizes[name] > sizes[middle] * math.exp(SAME)]
    if not lighter and not heavier:
        return None, say(EQUALLY_HEAVY, share=f"{100 * math.expm1(SAME):.0f}")
    said, found = [], []
    for name in (*lighter, *heavier):
        heavy, light = (name, middle) if name in heavier else (middle, name)
        better = known.pair(heavy, light)["better"]
        found.append(better == middle)
        template = BETTER if better == heavy else WORSE if better == light else NO_DIFFERENCE
        gap = known.gap(heavy, light, "" if better else "+") if better != light else known.gap(light, heavy)
        values = {"heavy": heavy, "light": light, "ratio": factor(sizes[heavy] / sizes[light])}
        said.append(say(HEAVIER, **values, said=say(template, gap=gap)))
    side = HEAVY if not heavier else LIGHT if not lighter else BETWEEN
    verdict = side if all(found) else NOT_CLEAR
    return verdict, say(BY_WEIGHT, verdict=say(verdict), said=some(said))


def of_remedies(known: Measured) -> tuple[dict[str, dict[str, Verdict]], str]:
    """Whether recurrence is parallel now, and the Transformer light now, where such models are compared: by the pair
    ``ONE for OTHER``, the verdicts on ``step``, ``sentence`` and ``quality``; and in words."""
    found: dict[str, dict[str, Verdict]] = {}
    words = []
    pairs = [pair for kind in pairs_of(known.traits) for pair in kind]
    level = LEVEL / (2 * max(1, len(pairs)))  # of all pairs, and of two times
    for one, other in pairs:
        said: list[str] = []
        verdicts: dict[str, Verdict] = {}
        if step := _step_case(known, one, other, level):
            length, shown, case = step
            verdicts["step"] = case.verdict(level)
            values = {"ratio": shown, "length": f"{length:,}", "verdict": say(QUICKER[verdicts["step"]])}
            said.append(say(STEP_RATIO, **values))
        if one in known.milliseconds and other in known.milliseconds:
            ratio = known.milliseconds[one] / known.milliseconds[other]
            estimate = Estimate.by_control(math.log(ratio), known.controls)
            verdicts["sentence"] = Case("", estimate, BELOW).verdict(level)
            values = {"ratio": _with_bounds(ratio, estimate, level), "verdict": say(QUICKER[verdicts["sentence"]])}
            said.append(say(SENTENCE_RATIO, **values))
        if one in known.parameters and other in known.parameters:
            said.append(say(PARAMETER_RATIO, ratio=factor(known.parameters[one] / known.parameters[other])))
        if known.metric:
            verdicts["quality"] = close(known.entry, one, other, len(pairs)).verdict()
            gap = known.gap(one, other, "+")
            verdict = say(NEAR[verdicts["quality"]])
            said.append(say(GAP_TO, metric=metrics.label(known.metric), gap=gap, verdict=verdict))
        found[f"{one} for {other}"] = verdicts
        words.append(say(REMEDIED, one=one, other=other, said=", ".join(said)))
    return found, f"{some(words)}." if words else ""


def _step_case(known: Measured, one: str, other: str, level: float) -> tuple[int, str, Case] | None:
    """Of the training steps of two models' kinds: at what length, the ratio with its interval, and the case."""
    result = known.measures.get("data_handling")
    times = series_of(result["devices"][-1])["model"] if result else {}
    kinds = [known.kinds[one], known.kinds[other]]
    lengths = set.intersection(*(set(times.get(kind, {})) for kind in kinds))
    if not result or not lengths:
        return None
    length = _nearest(lengths, typical_length(known))
    ratio = times[kinds[0]][length] / times[kinds[1]][length]
    estimate = Estimate.by_control(math.log(ratio), controls_of(result["devices"][-1]))
    return length, _with_bounds(ratio, estimate, level), Case("", estimate, BELOW)


def _with_bounds(ratio: float, estimate: Estimate | None, level: float) -> str:
    """A ratio with its interval, of the logarithm's."""
    return with_interval(ratio, [math.exp(bound) for bound in estimate.interval(level)] if estimate else None)


def _nearest(lengths: Iterable[int], wanted: int | None) -> int:
    """The length that is most like the data's; like 64 tokens, where that is not known."""
    return min(lengths, key=lambda one: abs(math.log(one / (wanted or 64))))


QUESTIONS = {
    "data_handling": later("sequential or parallel"),
    "attention": later("without or with attention"),
    "weight": later("light or heavy"),
}


def of_undecided(known: Measured, first: Sequence[str], verdicts: dict[str, str | None]) -> str:
    """What the numbers leave open."""
    said = []
    if len(first) > 1:
        said.append(say(WHICH_OF, models=together(first)))
    said += [say(QUESTIONS[name]) for name, one in verdicts.items() if one in (None, NOT_CLEAR)]
    if known.metric and 1 in known.runs.values():
        said.append(say(OTHER_SEEDS))
    devices = known.measures.get("data_handling", {}).get("devices", ())
    if devices and all(device["type"] == "cpu" for device in devices):
        said.append(say(NO_ACCELERATOR))
    missing = [
        name for name in ("quality", "learning_curves", "attention", "data_handling", "weight", "generation")
        if name not in known.measures
    ]  # fmt: skip
    if missing:
        said.append(say(NOT_MEASURED, measures=", ".join(missing)))
    return f"{'; '.join(said)}." if said else say(NOTHING_OPEN)


def of_cost(known: Measured, first: Sequence[str]) -> str:
    """What the models that come first cost; where none does, all."""
    shown = list(first or known.names)[: SHOWN + 1]
    said = []
    for name in shown:
        parts = []
        if name in known.seconds:
            runs = known.seconds[name]
            parts.append(say(SECONDS, value=digits(sum(runs) / len(runs))))
        if name in known.milliseconds:
            parts.append(say(MILLISECONDS, value=digits(known.milliseconds[name])))
        if name in known.parameters:
            parts.append(say(PARAMETERS, value=f"{known.parameters[name]:,}"))
        if parts:
            said.append(say(COSTS_OF, model=name, costs=", ".join(parts)))
    if not said:
        return say(UNKNOWN_COST)
    words = f"{'; '.join(said)}."
    if any(share < BUSY for name in shown for share in known.cpu_shares(name)):
        words += say(DISTURBED)
    if len(known.milliseconds) > 1:
        quickest, behind = told_apart(known.milliseconds, known.controls)
        if behind:
            told = say(NOT_TOLD_APART) if len(quickest) > 1 else ""
            words += " " + say(FASTEST, models=together(quickest), told=told)
    return words


def ranking(known: Measured) -> list[dict[str, Any]]:
    """A row each model, the best first: ``place`` (1 more than the models that are told to be better), score and costs
    with their intervals, None where nothing is known."""
    rows = []
    for name in known.names:
        score = known.entry["scores"].get(name) if known.metric else None
        better = (
            [pair for pair in known.entry["pairs"] if pair["better"] and name in (pair["a"], pair["b"])]
            if score
            else []
        )
        seconds, milliseconds = known.seconds.get(name), known.milliseconds.get(name)
        rows.append(
            {
                "name": name,
                "place": 1 + sum(pair["better"] != name for pair in better) if score else None,
                "score": score and score["score"],
                "interval": score and score["interval"],
                "seconds": seconds and with_bounds(Estimate.of(seconds)),
                "milliseconds": milliseconds and of_logarithm(milliseconds, known.controls),
                "parameters": known.parameters.get(name),
            }
        )
    sign = -1 if known.metric is None or known.entry["higher_is_better"] else 1
    return sorted(rows, key=lambda row: (row["score"] is None, sign * (row["score"] or 0.0)))


def with_bounds(estimate: Estimate) -> dict[str, Any]:
    """A value and its 95 % interval; of a single run there is none."""
    is_known = math.isfinite(estimate.error)
    return {"value": estimate.value, "interval": list(estimate.interval()) if is_known else None}


def of_logarithm(value: float, controls: Sequence[float]) -> dict[str, Any]:
    """A time and its interval by the control, which is of two timings."""
    estimate = Estimate.by_control(math.log(value), controls, 0.5**0.5)
    return {"value": value, "interval": [math.exp(bound) for bound in estimate.interval()] if estimate else None}
