"""What the measure `gradients` says: who loses the gradient with distance, who keeps it, and who explodes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

from seqloom.comparison.instruments.gradient_norms import (
    factor_per_step,
    fallen_at,
)
from seqloom.comparison.measures.gradient_figures import NAMES
from seqloom.comparison.traits import in_words, recorded
from seqloom.comparison.verdicts import BELOW, Case, judged, told
from seqloom.scoring.estimates import Estimate
from seqloom.support.language import say
from seqloom.support.wording import together


def findings(result: dict[str, Any]) -> list[str]:
    """What was expected, and whether it was seen."""
    systems = result["systems"]
    return [
        falls("rnn", "initial", systems, say("At initialisation (recurrent matrices orthogonal)")),
        falls("uniform", "initial", systems, say("With torch's uniform initialisation of the tanh-RNN")),
        falls(
            "rnn",
            "trained",
            systems,
            say("Trained on the adding problem of {trained_on} numbers", trained_on=result["trained_on"]),
        ),
        _attends(systems),
        explodes(result["gains"], result.get("gain_factors", {})),
        *(candidates_findings(result["candidates"]) if result["candidates"] else []),
    ]


def factor_of(norms: Sequence[float]) -> str:
    """`factor_per_step` as a table has it; a dash where there is none."""
    factor = factor_per_step(norms)
    return "–" if factor is None else f"{factor:.3f}"


def _apart(ones: Sequence[float] | None, others: Sequence[float] | None) -> Estimate | None:
    """The difference of two means of logarithms; None where there are no replicates, as of earlier versions."""
    if not ones or not others or min(len(ones), len(others)) < 2:
        return None
    return Estimate.of(ones).minus(Estimate.of(others))


def falls(plain: str, kind: str, systems: dict[str, Any], when: str) -> str:
    """Does the tanh-RNN's gradient fall faster than LSTM's, GRU's and those of the parallel cells that were asked?"""
    gated = [name for name in systems if name not in ("rnn", "uniform", "transformer")]
    cases = [
        Case(
            in_words(NAMES[name]),
            _apart(systems[plain][kind].get("factors"), systems[name][kind].get("factors")),
            BELOW,
        )
        for name in gated
    ]
    seen = together(
        [
            say("{verdict} against {names}", verdict=say(verdict), names=together(names))
            for verdict, names in judged(cases).items()
        ]
    )
    places = []
    for name in (plain, *gated):
        norms = systems[name][kind]["states"]
        fallen = fallen_at(norms)
        where = (
            say("below 1 % after {fallen} steps", fallen=fallen)
            if fallen
            else say("not below 1 % within {number} steps", number=len(norms) - 1)
        )
        places.append(f"{in_words(NAMES[name])} {factor_of(norms)} ({where})")
    return say(
        "Expected (Bengio et al. 1994): the tanh-RNN's gradient falls faster with distance than those of "
        "gated cells. {when}: {seen}; factor per step {places}.",
        when=when,
        seen=seen,
        places=", ".join(places),
    )


def _attends(systems: dict[str, Any]) -> str:
    """Does the Transformer's gradient stay?"""
    norms, lowest = systems["transformer"]["trained"]["inputs"], systems["transformer"]["trained"].get("lowest", [])
    fallen = fallen_at(norms)
    known = Estimate.of(lowest) if len(lowest) > 1 else None
    verdict = Case("", known, (math.log(0.01), math.inf)).verdict()
    fallen_in_words = (
        say("below 1 % after {fallen} steps", fallen=fallen)
        if fallen
        else say("not below 1 % within {number} steps", number=len(norms) - 1)
    )
    return say(
        "Expected (Vaswani et al. 2017): attention is one step from everywhere, so the Transformer's "
        "gradient with respect to its inputs does not vanish with distance. Trained: {verdict}, {text}.",
        verdict=say(verdict),
        text=say("factor per step {factor}, {fallen}", factor=factor_of(norms), fallen=fallen_in_words),
    )


def explodes(gains: dict[str, list[float]], of_gains: dict[str, list[float]]) -> str:
    """Does a larger recurrent matrix make it grow?"""
    cases = []
    for gain, norms in gains.items():
        logs = of_gains.get(gain, [])
        if float(gain) > 1:
            cases.append(
                Case(
                    say("gain {gain} {factor}", gain=gain, factor=factor_of(norms)),
                    Estimate.of(logs) if len(logs) > 1 else None,
                )
            )
    least = ", ".join(
        say("{factor} at gain {gain}", factor=factor_of(norms), gain=gain)
        for gain, norms in gains.items()
        if float(gain) <= 1
    )
    expected = say(
        "Expected (Pascanu et al. 2013): a recurrent matrix of a spectral radius above 1 can make the "
        "tanh-RNN's gradient explode, that is grow by more than 1 per step ({least}).",
        least=least,
    )
    return " ".join(told(expected, cases))


def evenness(norms: Sequence[float]) -> float | None:
    """The weakest position's norm over the strongest's."""
    return min(norms) / max(norms) if max(norms) > 0 else None


def candidates_findings(models: dict[str, Any]) -> list[str]:
    """Does attention bring the gradient to every source position more evenly?"""
    sentences = []
    for kind, when in (("initial", say("With fresh weights")), ("trained", say("Trained"))):
        measured = {name: evenness(model["buckets"][-1][kind]) for name, model in models.items()}
        even = {name: value for name, value in measured.items() if value is not None}
        text = ", ".join(f"{name} {value:.0%}" for name, value in even.items())
        known = {name: recorded(models[name]).has_cross_attention for name in even}
        without, with_it = ([name for name, attends in known.items() if attends is is_so] for is_so in (False, True))
        if without and with_it:
            replicates = {name: models[name].get("evenness", {}).get(kind) for name in even}
            cases = [
                Case(
                    say("{name} against {other}", name=name, other=other),
                    _apart(replicates[name], replicates[other]),
                    BELOW,
                )
                for name, other in itertools.product(without, with_it)
            ]
            expected = say(
                "Expected (Bahdanau et al. 2015): without attention the gradient reaches the source's positions "
                "less evenly than with it. {when}:",
                when=when,
            )
            said = " ".join(told(expected, cases))
        else:
            alone = say("of kinds not known")
            if with_it or without:
                alone = say("with attention alone") if with_it else say("without attention alone")
            said = say("{when}, models {alone}, so nothing to hold them against.", when=when, alone=alone)
        shares = say("The weakest position's gradient is this share of the strongest's: {shares}.", shares=text)
        sentences.append(f"{said} {shares}")
    return sentences
