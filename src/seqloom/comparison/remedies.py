"""The drawbacks of the field, remedied or not: is recurrence parallel now, is the Transformer light now?

Parallel cells (Kim et al. 2019; Feng et al. 2024, arXiv:2410.01201) are held against the recurrent models that they
stand for, hybrids (Chen et al. 2018; Kim et al. 2019) against Transformers. Said where such models are compared.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from seqloom.comparison.instruments.clock import Series
from seqloom.comparison.instruments.training_steps import TRANSFORMER
from seqloom.comparison.traits import Traits, in_words, recorded
from seqloom.comparison.verdicts import BELOW, Case, counted, told
from seqloom.modeling.cells_rnn_seq2seq import CELLS
from seqloom.scoring import metrics
from seqloom.scoring.estimates import LEVEL, Estimate, student_quantile
from seqloom.support.language import later, say
from seqloom.support.wording import factor, together, with_interval

CLOSE = 1.0
"""Points of a metric that a remedy may cost."""
WORTH = 10.0
"""Points that the other has at least; of less there is nothing to keep."""
COUNTED = {
    "parameters": later("parameters"),
    "training_flops": later("training FLOPs a target token"),
    "generation_flops": later("FLOPs a generated token"),
}


def pairs_of(traits: dict[str, Traits]) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Remedied models and what they stand for: parallel recurrent ones with other recurrent ones that attend alike;
    hybrids with Transformers."""
    recurrent = [name for name, one in traits.items() if one.is_recurrent]
    parallel = [
        (name, other)
        for name in recurrent
        for other in recurrent
        if traits[name].has_parallel_training
        and traits[other].has_parallel_training is False
        and not is_cell_parallel(traits[other])
        and traits[name].has_cross_attention == traits[other].has_cross_attention
    ]
    hybrids = [name for name, one in traits.items() if one.is_hybrid]
    transformers = [name for name, one in traits.items() if one.is_transformer]
    return parallel, [(name, other) for name in hybrids for other in transformers]


def is_cell_parallel(traits: Traits) -> bool:
    """Whether its cell computes all steps at once, whatever its attention makes of that."""
    return traits.name.partition(",")[0] in {cell.name for cell in CELLS.values() if cell.is_parallel}


def at_once(result: dict[str, Any], times: dict[str, Series], controls: Sequence[float]) -> list[str]:
    """Whether recurrence that is trained on all tokens at once takes less time than that which is not, and than the
    Transformer, at the longest length that all of them were timed at.

    Args:
        result: Of `data_handling`.
        times: Of the whole model's step, by system and length.
        controls: Of these times.
    """
    remedied = [name for name in result.get("parallel_training", ()) if name in times]
    waiting = [name for name in result.get("parallel_cells", ()) if name in times and name not in remedied]
    said = []
    lengths = set.intersection(*(set(times[name]) for name in (*remedied, TRANSFORMER))) if remedied else set()
    cases, to_transformer = [], []
    for name in remedied if lengths else ():
        attention = name.partition(", ")[2]
        other = f"{CELLS['gru'].name}, {attention}"
        shared = lengths & times[other].keys() if other in times else set()
        if shared and name not in result.get("hybrids", ()):
            cases.append(_slower(name, other, times, max(shared), controls))
        to_transformer.append(_slower(name, TRANSFORMER, times, max(lengths), controls))
    said += told(
        say(
            "Remedied: recurrence is parallel now. Where no gate asks for the state, a training step should take less "
            "time than with a GRU of the same attention."
        ),
        cases,
    )
    said += told(say("And less than with a Transformer, whose work grows with the square."), to_transformer)
    if waiting:
        said.append(
            say(
                "Not remedied: {names} takes one step after the other all the same, since its attention gives each "
                "step what the step before looked up.",
                names=together([in_words(name) for name in waiting]),
            )
        )
    return said


def _slower(one: str, other: str, times: dict[str, Series], length: int, controls: Sequence[float]) -> Case:
    ratio = times[one][length] / times[other][length]
    text = say(
        "{one} {ratio:.2f} times {other} at {length:,} tokens",
        one=in_words(one), ratio=ratio, other=in_words(other), length=length,
    )  # fmt: skip
    return Case(text, Estimate.by_control(math.log(ratio), controls), BELOW)


def lighter(models: dict[str, Any]) -> list[str]:
    """Whether hybrids weigh less than Transformers: what is counted.

    Args:
        models: Of `weight`.
    """
    _, hybrids = pairs_of({name: recorded(model) for name, model in models.items()})
    cases = []
    for one, other in hybrids:
        for key, title in COUNTED.items():
            ratio = models[one][key] / models[other][key]
            values = {"title": say(title), "one": one, "ratio": factor(ratio), "other": other}
            cases.append(Case(say("{title} ({one} {ratio} times {other})", **values), counted(ratio), BELOW))
    return told(say("Remedied: the Transformer is light now. A hybrid should weigh less than a Transformer in:"), cases)


def quicker(result: dict[str, Any], controls: Sequence[float]) -> list[str]:
    """Whether hybrids write faster than Transformers.

    Args:
        result: Of `generation`.
        controls: Of its times.
    """
    candidates = result["candidates"]
    _, hybrids = pairs_of({name: recorded(one) for name, one in candidates.items()})
    cases = []
    for one, other in hybrids:
        for beams in result["beams"]:
            for size in dict.fromkeys((result["batch_sizes"][0], result["batch_sizes"][-1])):
                place = (str(beams), str(size), str(result["batch_length"]))
                two = [_seconds(candidates[name], *place) for name in (one, other)]
                if two[0] is None or two[1] is None:
                    continue
                text = say(
                    "{one} {ratio:.2f} times {other} (sentences a call: {size}, beams: {beams})",
                    one=one, ratio=two[0] / two[1], other=other, size=size, beams=beams,
                )  # fmt: skip
                cases.append(Case(text, Estimate.by_control(math.log(two[0] / two[1]), controls), BELOW))
    return told(say("Remedied: the Transformer is light now. A hybrid should write a token in less time."), cases)


def _seconds(candidate: dict[str, Any], beams: str, size: str, length: str) -> float | None:
    return candidate["seconds"].get(beams, {}).get(size, {}).get(length)


def as_good(result: dict[str, Any]) -> list[str]:
    """Whether remedied models score within a point of what they stand for, by each metric.

    Args:
        result: Of `quality`.
    """
    traits = {one["name"]: recorded(one) for one in result["candidates"]}
    pairs = [pair for kind in pairs_of(traits) for pair in kind]
    said = []
    for name, entry in result["metrics"].items():
        cases = [close(entry, one, other, len(pairs)) for one, other in pairs]
        expected = say(
            "Remedies cost little: {metric} should be less than {points:g} point worse than that of what is remedied.",
            metric=metrics.label(name), points=CLOSE,
        )  # fmt: skip
        said += told(expected, cases)
    return said


def close(entry: dict[str, Any], one: str, other: str, number: int = 1) -> Case:
    """Whether the one is less than `CLOSE` points worse than the other.

    A few sentences may all come out alike by chance, and the bootstrap's interval then has no width: as in
    `significance.gap_change`, there are two more, one that each alone has right (Bonett & Price 2012).

    Args:
        number: Of such questions in one finding, for which the interval is widened.
    """
    pair = next(pair for pair in entry["pairs"] if {pair["a"], pair["b"]} == {one, other})
    sign = (1 if pair["a"] == one else -1) * (1 if entry["higher_is_better"] else -1)
    low, high = sorted(sign * bound for bound in pair["interval"])
    gap, widening = sign * pair["difference"], student_quantile(LEVEL / number, 1e5) / student_quantile(LEVEL, 1e5)
    if pair["p"] is not None:
        sentences = pair["wins"] + pair["losses"] + pair["ties"]
        more = student_quantile(LEVEL, 1e5) * 2**0.5 * 100 / (sentences + 2)
        low, high = gap - math.hypot(gap - low, more), gap + math.hypot(high - gap, more)
    text = say("{one} {gap} against {other}", one=one, gap=with_interval(gap, (low, high), "+"), other=other)
    bounds = (gap - widening * (gap - low), gap + widening * (high - gap))
    is_known = pair["p"] is not None and not (entry["higher_is_better"] and entry["scores"][other]["score"] < WORTH)
    return Case(text, bounds if is_known else None, (-CLOSE, math.inf))
