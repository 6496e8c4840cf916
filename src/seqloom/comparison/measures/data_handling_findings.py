"""What the measure `data_handling` says: exponents, crossings, cores, and what was left out."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

from seqloom.comparison.instruments.clock import (
    Series,
    crossing,
    exponent,
    local_exponent,
    log_ratios,
    slope_error,
)
from seqloom.comparison.instruments.training_steps import (
    PARTS,
    TRANSFORMER,
)
from seqloom.comparison.traits import in_words
from seqloom.comparison.verdicts import Case, told
from seqloom.modeling.configuration_rnn_seq2seq import ATTENTIONS
from seqloom.scoring.estimates import LEVEL, Estimate
from seqloom.support.language import say
from seqloom.support.wording import plural

LONG_SEQUENCE = 256
"""Tokens from which on a length is long: fixed costs a step weigh little there."""
NEAR = 0.15
"""How far a measured exponent may be from the one that is expected."""


def series_of(device: dict[str, Any]) -> dict[str, dict[str, Series]]:
    """Milliseconds with lengths as numbers, in their order; JSON has them as text."""
    return {
        part: {
            name: {int(length): value for length, value in sorted(series.items(), key=lambda item: int(item[0]))}
            for name, series in of_part.items()
        }
        for part, of_part in device["milliseconds"].items()
    }


def _of_exponent(value: float, series: Sequence[Series], controls: Sequence[float]) -> Estimate | None:
    """An exponent, or the difference of two, fitted to such times: with the control's error."""
    squares = sum(slope_error(times) ** 2 for times in series)
    return Estimate.by_control(value, controls, (squares / 2) ** 0.5)  # a control is of two timings, a point of one


def _within(times: Series, at_least: float = 0, at_most: float = float("inf")) -> Series:
    return {length: value for length, value in times.items() if at_least <= length <= at_most}


def growth(
    times: dict[str, dict[str, Series]],
    controls: Sequence[float],
    parallel_cells: Collection[str] = (),
    hybrids: Collection[str] = (),
) -> list[str]:
    """Whether the exponents are the expected ones; a hybrid's encoder is a Transformer's."""
    recurrent: list[Case] = []
    together: list[Case] = []
    decoders = []
    for name, series in times["encoder"].items():
        found = exponent(series, LONG_SEQUENCE)
        if name not in (TRANSFORMER, *hybrids) and found is not None:
            known = _of_exponent(found, [_within(series, LONG_SEQUENCE)], controls)
            text = say(
                "{name}, exponent {found:.2f} {lengths}",
                name=in_words(name),
                found=found,
                lengths=_range(series, LONG_SEQUENCE),
            )
            case = Case(text, known, (1 - NEAR, 1 + NEAR))
            (together if name in parallel_cells else recurrent).append(case)
    rising = []
    for part, words in PARTS.items():
        series = times[part][TRANSFORMER]
        short, last = exponent(series, at_most=LONG_SEQUENCE), local_exponent(series)
        if short is not None and last is not None and max(series) > LONG_SEQUENCE:
            before, longest = sorted(series)[-2:]
            text = say(
                "{part}, exponent {short:.2f} up to {middle} tokens, {last:.2f} between {before:,} and {longest:,}",
                part=say(words), short=short, middle=LONG_SEQUENCE, last=last, before=before, longest=longest,
            )  # fmt: skip
            two, few = _within(series, sorted(series)[-2]), _within(series, at_most=LONG_SEQUENCE)
            above = Case(text, _of_exponent(last, [two], controls), (1 + NEAR, float("inf")))
            rising.append(Case(text, _of_exponent(last - short, [two, few], controls), also=above))
    for name, series in times["decoder"].items():
        cell, _, attention = name.partition(", ")
        plain = exponent(times["decoder"].get(f"{cell}, {ATTENTIONS['none']}", {}), LONG_SEQUENCE)
        found = exponent(series, LONG_SEQUENCE)
        if name in (TRANSFORMER, *hybrids) or attention == ATTENTIONS["none"]:
            continue
        if plain is not None and found is not None:
            text = say(
                "decoder of {name}, exponent {found:.2f}, against {plain:.2f} without",
                name=in_words(name),
                found=found,
                plain=plain,
            )
            without = times["decoder"][f"{cell}, {ATTENTIONS['none']}"]
            parts = [_within(times_, LONG_SEQUENCE) for times_ in (series, without)]
            decoders.append(Case(text, _of_exponent(found - plain, parts, controls), (NEAR / 3, float("inf"))))
    return [
        *told(
            say(
                "A recurrent encoder does the same work for every token, one after the other, so its time should "
                "grow in proportion to the length (exponent 1, give or take {near:g}).",
                near=NEAR,
            ),
            recurrent,
        ),
        *told(
            say(
                "A recurrent encoder whose gates ask nothing of the state computes all steps together, and does "
                "the same work for every token all the same (exponent 1, give or take {near:g}).",
                near=NEAR,
            ),
            together,
        ),
        *told(
            say(
                "Self-attention compares all pairs of tokens, so the Transformer's exponent should rise above 1, "
                "towards 2, as the length grows."
            ),
            rising,
        ),
        *told(
            say(
                "Attention compares every target token with every source token, so the time of a recurrent "
                "decoder with attention should grow faster than that of the same decoder without."
            ),
            decoders,
        ),
    ]


def crossings(times: dict[str, dict[str, Series]], controls: Sequence[float]) -> list[str]:
    """From which length on the Transformer is the slower one, between those that the control leaves open."""
    half = 0.0
    if spread := Estimate.by_control(0.0, controls):
        half = spread.interval(LEVEL / max(1, len(times["model"]) - 1))[1]
    sentences = []
    for part, words in PARTS.items():
        ours, said = times[part][TRANSFORMER], []
        for name, theirs in times[part].items():
            both = sorted(ours.keys() & theirs.keys())
            if name == TRANSFORMER or not both:
                continue
            # As far as the control is from itself, either may be the quicker one: crossings of both extremes.
            late, at, early = (
                crossing({n: ours[n] * math.exp(shift) for n in both}, theirs) for shift in (-half, 0.0, half)
            )
            gain = theirs[both[-1]] / ours[both[-1]]
            if early is None and controls:
                said.append(
                    say(
                        "not slower than {name} up to {longest:,} tokens ({gain:.1f} times as fast there)",
                        name=in_words(name),
                        longest=both[-1],
                        gain=gain,
                    )
                )
            elif late is None or not controls:
                said.append(
                    say(
                        "not clearly slower than {name} up to {longest:,} tokens (× {ratio:.2f} there)",
                        name=in_words(name),
                        longest=both[-1],
                        ratio=1 / gain,
                    )
                )
            elif late == 0:
                said.append(
                    say(
                        "slower than {name} at all lengths measured ({shortest:,} to {longest:,})",
                        name=in_words(name),
                        shortest=both[0],
                        longest=both[-1],
                    )
                )
            else:
                about = f"{at:,.0f}" if at else say("{length:,} or fewer", length=both[0])
                bounds = f"{early:,.0f}" if early else say("{length:,} or fewer", length=both[0])
                said.append(
                    say(
                        "slower than {name} from about {about} tokens on ({bounds} to {late:,.0f})",
                        name=in_words(name),
                        about=about,
                        bounds=bounds,
                        late=late,
                    )
                )
        if said:
            sentences.append(say("The Transformer's {part}: {said}.", part=say(words), said="; ".join(said)))
    return sentences


def left_out(device: dict[str, Any]) -> list[str]:
    """What was not measured, and why."""
    said = []
    for part, of_part in device["skipped"].items():
        for name, lengths in of_part.items():
            if lengths:
                first = min(lengths, key=int)
                why = lengths[first]
                reason = (
                    say("about {seconds:.1f} s", seconds=why["seconds"])
                    if "seconds" in why
                    else say("about {gib:.0f} GiB", gib=why.get("gib", 0))
                )
                said.append(
                    say(
                        "{part} of {name} from {first:,} tokens on (a step would take {reason})",
                        part=say(PARTS[part]),
                        name=in_words(name),
                        first=int(first),
                        reason=reason,
                    )
                )
    return [say("Not measured: {said}.", said="; ".join(said))] if said else []


def speedup(result: dict[str, Any]) -> list[str]:
    """What more cores give."""
    trained_in_parallel = result.get("parallel_training", ())
    theory = say(
        "In theory a recurrent layer needs n sequential operations for n tokens and self-attention one "
        "(Vaswani et al. 2017, table 1), so more cores should help the Transformer more."
    )
    measured = result.get("speedup") or {"cores": 1, "milliseconds": {}}
    gains = {name: pair[0] / pair[1] for name, pair in measured["milliseconds"].items() if len(pair) == 2}
    if TRANSFORMER not in gains or len(gains) < 2:
        return [
            say(
                "{theory} Not measured: this process may use {cores}.",
                theory=theory,
                cores=plural(measured["cores"], "core"),
            )
        ]
    ours = gains.pop(TRANSFORMER)
    place = say(
        "{cores} threads instead of one, {length:,} tokens, whole model",
        cores=measured["cores"],
        length=measured["length"],
    )
    again = measured.get("again", {})
    both = [(times, again.get(name, [])) for name, times in measured["milliseconds"].items()]
    controls = log_ratios(pair for times in both for pair in zip(*times, strict=False))
    cases, together = [], []
    quicker = Case("", Estimate.by_control(math.log(ours), controls))
    for name, gain in gains.items():
        if name in trained_in_parallel:
            known = Estimate.by_control(math.log(gain), controls)
            together.append(Case(say("{name} {gain:.2f} times as fast", name=in_words(name), gain=gain), known))
            continue
        more = Estimate.by_control(math.log(ours / gain), controls, 2**0.5)  # of four timings
        cases.append(
            Case(
                say(
                    "Transformer {ours:.2f} times as fast, {name} {gain:.2f}", ours=ours, name=in_words(name), gain=gain
                ),
                more,
                also=quicker,
            )
        )
    return [
        *told(say("{theory} Measured with {place}.", theory=theory, place=place), cases),
        *told(say("A recurrence whose steps are computed together should gain by more cores as well."), together),
    ]


def accelerator(result: dict[str, Any]) -> list[str]:
    """What the accelerator gives, at the longest length that was timed on both."""
    if len(result["devices"]) < 2:
        return []
    (slow_name, slow), (fast_name, fast) = (
        (device["name"], series_of(device)["model"]) for device in result["devices"][:2]
    )
    said = []
    for name, times in slow.items():
        if both := times.keys() & fast[name].keys():
            said.append(
                say(
                    "{name} {ratio:.1f} times ({length:,} tokens)",
                    name=in_words(name),
                    ratio=times[max(both)] / fast[name][max(both)],
                    length=max(both),
                )
            )
    return [
        say(
            "How much faster the whole model's step is on {fast_name} than on {slow_name}: {said}.",
            fast_name=fast_name,
            slow_name=slow_name,
            said="; ".join(said),
        )
    ]


def _range(times: Series, at_least: int) -> str:
    lengths = [length for length in times if length >= at_least]
    return say("({shortest:,} to {longest:,} tokens)", shortest=min(lengths), longest=max(lengths))
