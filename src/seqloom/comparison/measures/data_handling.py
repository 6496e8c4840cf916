"""Data handling: sequential or parallel. Time of forward and backward pass against sequence length.

A recurrent layer needs n steps, one after the other, for n tokens, unless its gates ask nothing of the state (Feng et
al. 2024, arXiv:2410.01201); self-attention sees all at once, but compares every token with every other (Vaswani et al.
2017, arXiv:1706.03762, section 4 and table 1). So time is expected to
grow with n for the one and with n² for the other, and more cores to help the other more. The families are built anew at
equal width and depth: the candidates' weights play no part.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import torch

from seqloom.comparison.candidates import Candidate, Options
from seqloom.comparison.instruments.clock import (
    CONTROL,
    Series,
    crossing,
    disturbance,
    exponent,
    local_exponent,
    log_ratios,
    slope_error,
    spread_in_words,
)
from seqloom.comparison.instruments.training_steps import (
    NUM_HEADS,
    PARTS,
    TRANSFORMER,
    build,
    common_width,
    systems,
    time_lengths,
    time_threads,
)
from seqloom.comparison.sections import Passage, Plot, Section, Table
from seqloom.comparison.verdicts import Case, told
from seqloom.figures.style import as_label, log_scale, look, new_figure, share_legend
from seqloom.modeling.cells_rnn_seq2seq import CELLS
from seqloom.modeling.configuration_rnn_seq2seq import ATTENTIONS, RnnSeq2SeqConfig
from seqloom.scoring.estimates import LEVEL, Estimate
from seqloom.support.machine import cpu_threads, device_name
from seqloom.support.wording import digits, plural

if TYPE_CHECKING:
    from matplotlib.figure import Figure


LENGTHS = (16, 32, 64, 128, 256, 512, 1024, 2048)
LONG_SEQUENCE = 256
"""Tokens from which on a length is long: fixed costs a step weigh little there."""
NEAR = 0.15
"""How far a measured exponent may be from the one that is expected."""


def measure(
    candidates: Sequence[Candidate],
    options: Options,
    *,
    lengths: Sequence[int] = LENGTHS,
    width: int | None = None,
    layers: int = 1,
    batch_size: int = 4,
    vocab_size: int = 64,
    repeats: int = 3,
    longest_step: float = 4.0,
    speedup_length: int = 512,
) -> dict[str, Any]:
    """Times training steps of every family at every length, on the CPU and on the accelerator if there is one.

    Args:
        candidates: Their cells and attentions are timed, and their largest width is used; their weights are not.
        options: Device, CPU threads, seed.
        lengths: Tokens of source and target.
        width: Of every layer; default: the candidates' largest, at most 256.
        layers: On each side.
        batch_size: Sentences a step.
        vocab_size: Entries of the vocabulary.
        repeats: Steps of which the median is taken, at least.
        longest_step: Seconds; a step that is expected to last longer is not run.
        speedup_length: Where one CPU thread is compared with all cores: the longest length up to this.

    Returns:
        What was used, and for each device milliseconds by part, system and length.
    """
    lengths = sorted(lengths)
    configs = [candidate.config for candidate in candidates]
    width = width or common_width(configs)
    recipes = systems(configs)
    devices = [torch.device("cpu")] + ([] if options.device.type == "cpu" else [options.device])
    result: dict[str, Any] = {
        "lengths": lengths, "width": width, "layers": layers, "batch_size": batch_size, "vocab_size": vocab_size,
        "heads": NUM_HEADS, "repeats": repeats, "longest_step": longest_step, "parameters": {}, "devices": [],
        **parallel(recipes),
    }  # fmt: skip
    with cpu_threads(options.num_threads), torch.random.fork_rng():
        torch.manual_seed(options.seed)
        for device in devices:
            models = {name: build(recipe, width, layers, vocab_size).to(device) for name, recipe in recipes.items()}
            result["parameters"] = {name: model.num_parameters() for name, model in models.items()}
            same = next(iter(recipes.values()))
            timed = {**models, CONTROL: build(same, width, layers, vocab_size).to(device)}
            result["devices"].append(
                {
                    "name": device_name(device),
                    "type": device.type,
                    "threads": options.num_threads,
                    **time_lengths(timed, {**recipes, CONTROL: same}, lengths, batch_size, repeats, longest_step),
                }
            )
            if device.type == "cpu":
                length = max((length for length in lengths if length <= speedup_length), default=lengths[0])
                known = result["devices"][0]["milliseconds"]["model"]
                affordable = {name: model for name, model in models.items() if str(length) in known[name]}
                result["speedup"] = time_threads(affordable, length, batch_size, repeats)
    return result


def parallel(recipes: dict[str, dict[str, Any]]) -> dict[str, list[str]]:
    """Names of recurrent systems whose cells compute all steps together, and of those whose training does."""
    recurrent = {name: RnnSeq2SeqConfig(**recipe) for name, recipe in recipes.items() if recipe}
    return {
        "parallel_cells": [name for name, config in recurrent.items() if CELLS[config.cell_type].is_parallel],
        "parallel_training": [name for name, config in recurrent.items() if config.has_parallel_training],
    }


def sides(result: dict[str, Any], names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Of these systems, those that are trained on all tokens at once, and those that take one after the other."""
    together = {TRANSFORMER, *result.get("parallel_training", ())}
    return [name for name in names if name in together], [name for name in names if name not in together]


def section(result: dict[str, Any]) -> Section:
    """Words, tables and plots of what `measure` returned."""
    findings: list[str] = []
    cautions: list[str] = []
    spreads: list[str] = []
    parts: list[Table | Plot | Passage] = []
    several = len(result["devices"]) > 1
    for device in result["devices"]:
        times = series_of(device)
        where = f"{device['name']}: " if several else ""
        share = device["cpu_share"] if device["type"] == "cpu" else None
        controls = controls_of(device)
        disturbed = [where + sentence for sentence in disturbance(share, device["threads"])]
        said = growth(times, controls, result.get("parallel_cells", ()))
        findings += [where + sentence for sentence in (*said, *crossings(times, controls), *_left_out(device))]
        findings += disturbed
        cautions += disturbed
        spreads.append(where + spread_in_words(controls))
        parts += _pictures(result, device, times)
    findings += speedup(result) + _accelerator(result)
    on = " and ".join(
        f"the CPU ({plural(device['threads'], 'thread')})" if device["type"] == "cpu" else device["name"]
        for device in result["devices"]
    )
    sizes = ", ".join(f"{name} {number:,}" for name, number in result["parameters"].items())
    return Section(
        title="Data handling: sequential or parallel",
        question="How does the time of a training step grow with the length of the sequences?",
        findings=findings,
        parts=parts,
        how=(
            f"Untrained models of equal width and depth, {result['layers']}+{result['layers']} layers of "
            f"{result['width']}, {result['heads']} heads and feed-forward networks of {4 * result['width']} in the "
            f"Transformer, bidirectional recurrent encoders, on {on}. A step is forward and backward pass of "
            f"{result['batch_size']} pairs of random tokens, source and target of the same length, no padding, no "
            f"dropout, no optimizer, float32. The vocabulary is small ({result['vocab_size']}), so that the output "
            "matrix does not hide the layers. The decoder alone reads a fixed encoder output of the same length, by "
            f"teacher forcing. Each time is a median of {result['repeats']} steps or more after a warm-up, the systems "
            f"in turn. {' '.join(spreads)} Exponents are least squares on logarithms. Parameters: {sizes}."
        ),
        limits=(
            "Equal width is not an equal number of parameters. The length at which lines cross depends on the machine, "
            "the width and the batch: larger batches help the recurrent models more. Other implementations grow "
            "otherwise."
        ),
        headline=_headline(result),
        cautions=cautions,
    )


def controls_of(device: dict[str, Any]) -> list[float]:
    """Logarithms of the ratios of the first system to itself, made twice."""
    pairs = []
    for part, again in device.get("control", {}).items():
        first = next(iter(device["milliseconds"][part].values()))
        pairs += [(first.get(length), value) for length, value in again.items()]
    return log_ratios(pairs)


def _of_exponent(value: float, series: Sequence[Series], controls: Sequence[float]) -> Estimate | None:
    """An exponent, or the difference of two, fitted to such times: with the control's error."""
    squares = sum(slope_error(times) ** 2 for times in series)
    return Estimate.by_control(value, controls, (squares / 2) ** 0.5)  # a control is of two timings, a point of one


def _within(times: Series, at_least: float = 0, at_most: float = float("inf")) -> Series:
    return {length: value for length, value in times.items() if at_least <= length <= at_most}


def series_of(device: dict[str, Any]) -> dict[str, dict[str, Series]]:
    """Milliseconds with lengths as numbers, in their order; JSON has them as text."""
    return {
        part: {
            name: {int(length): value for length, value in sorted(series.items(), key=lambda item: int(item[0]))}
            for name, series in of_part.items()
        }
        for part, of_part in device["milliseconds"].items()
    }


def growth(
    times: dict[str, dict[str, Series]], controls: Sequence[float], parallel_cells: Collection[str] = ()
) -> list[str]:
    """Whether the exponents are the expected ones."""
    recurrent: list[Case] = []
    together: list[Case] = []
    decoders = []
    for name, series in times["encoder"].items():
        found = exponent(series, LONG_SEQUENCE)
        if name != TRANSFORMER and found is not None:
            known = _of_exponent(found, [_within(series, LONG_SEQUENCE)], controls)
            text = f"{name}, exponent {found:.2f} {_range(series, LONG_SEQUENCE)}"
            case = Case(text, known, (1 - NEAR, 1 + NEAR))
            (together if name in parallel_cells else recurrent).append(case)
    rising = []
    for part, words in PARTS.items():
        series = times[part][TRANSFORMER]
        short, last = exponent(series, at_most=LONG_SEQUENCE), local_exponent(series)
        if short is not None and last is not None and max(series) > LONG_SEQUENCE:
            ends = "{:,} and {:,}".format(*sorted(series)[-2:])
            text = f"{words}, exponent {short:.2f} up to {LONG_SEQUENCE} tokens, {last:.2f} between {ends}"
            two, few = _within(series, sorted(series)[-2]), _within(series, at_most=LONG_SEQUENCE)
            above = Case(text, _of_exponent(last, [two], controls), (1 + NEAR, float("inf")))
            rising.append(Case(text, _of_exponent(last - short, [two, few], controls), also=above))
    for name, series in times["decoder"].items():
        cell, _, attention = name.partition(", ")
        plain = exponent(times["decoder"].get(f"{cell}, {ATTENTIONS['none']}", {}), LONG_SEQUENCE)
        found = exponent(series, LONG_SEQUENCE)
        if name == TRANSFORMER or attention == ATTENTIONS["none"]:
            continue
        if plain is not None and found is not None:
            text = f"decoder of {name}, exponent {found:.2f}, against {plain:.2f} without"
            without = times["decoder"][f"{cell}, {ATTENTIONS['none']}"]
            parts = [_within(times_, LONG_SEQUENCE) for times_ in (series, without)]
            decoders.append(Case(text, _of_exponent(found - plain, parts, controls), (NEAR / 3, float("inf"))))
    return [
        *told(
            "A recurrent encoder does the same work for every token, one after the other, so its time should grow in "
            f"proportion to the length (exponent 1, give or take {NEAR:g}).",
            recurrent,
        ),
        *told(
            "A recurrent encoder whose gates ask nothing of the state computes all steps together, and does the same "
            f"work for every token all the same (exponent 1, give or take {NEAR:g}).",
            together,
        ),
        *told(
            "Self-attention compares all pairs of tokens, so the Transformer's exponent should rise above 1, towards "
            "2, as the length grows.",
            rising,
        ),
        *told(
            "Attention compares every target token with every source token, so the time of a recurrent decoder with "
            "attention should grow faster than that of the same decoder without.",
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
                said.append(f"not slower than {name} up to {both[-1]:,} tokens ({gain:.1f} times as fast there)")
            elif late is None or not controls:
                said.append(f"not clearly slower than {name} up to {both[-1]:,} tokens (× {1 / gain:.2f} there)")
            elif late == 0:
                said.append(f"slower than {name} at all lengths measured ({both[0]:,} to {both[-1]:,})")
            else:
                about = f"{at:,.0f}" if at else f"{both[0]:,} or fewer"
                bounds = f"{early:,.0f}" if early else f"{both[0]:,} or fewer"
                said.append(f"slower than {name} from about {about} tokens on ({bounds} to {late:,.0f})")
        if said:
            sentences.append(f"The Transformer's {words}: {'; '.join(said)}.")
    return sentences


def _left_out(device: dict[str, Any]) -> list[str]:
    """What was not measured, and why."""
    said = []
    for part, of_part in device["skipped"].items():
        for name, lengths in of_part.items():
            if lengths:
                first = min(lengths, key=int)
                why = lengths[first]
                reason = f"about {why['seconds']:.1f} s" if "seconds" in why else f"about {why.get('gib', 0):.0f} GiB"
                said.append(f"{PARTS[part]} of {name} from {int(first):,} tokens on (a step would take {reason})")
    return [f"Not measured: {'; '.join(said)}."] if said else []


def speedup(result: dict[str, Any]) -> list[str]:
    """What more cores give."""
    trained_in_parallel = result.get("parallel_training", ())
    theory = (
        "In theory a recurrent layer needs n sequential operations for n tokens and self-attention one (Vaswani et al. "
        "2017, table 1), so more cores should help the Transformer more."
    )
    measured = result.get("speedup") or {"cores": 1, "milliseconds": {}}
    gains = {name: pair[0] / pair[1] for name, pair in measured["milliseconds"].items() if len(pair) == 2}
    if TRANSFORMER not in gains or len(gains) < 2:
        return [f"{theory} Not measured: this process may use {plural(measured['cores'], 'core')}."]
    ours = gains.pop(TRANSFORMER)
    place = f"{measured['cores']} threads instead of one, {measured['length']:,} tokens, whole model"
    again = measured.get("again", {})
    both = [(times, again.get(name, [])) for name, times in measured["milliseconds"].items()]
    controls = log_ratios(pair for times in both for pair in zip(*times, strict=False))
    cases, together = [], []
    quicker = Case("", Estimate.by_control(math.log(ours), controls))
    for name, gain in gains.items():
        if name in trained_in_parallel:
            known = Estimate.by_control(math.log(gain), controls)
            together.append(Case(f"{name} {gain:.2f} times as fast", known))
            continue
        more = Estimate.by_control(math.log(ours / gain), controls, 2**0.5)  # of four timings
        cases.append(Case(f"Transformer {ours:.2f} times as fast, {name} {gain:.2f}", more, also=quicker))
    return [
        *told(f"{theory} Measured with {place}.", cases),
        *told("A recurrence whose steps are computed together should gain by more cores as well.", together),
    ]


def _accelerator(result: dict[str, Any]) -> list[str]:
    """What the accelerator gives, at the longest length that was timed on both."""
    if len(result["devices"]) < 2:
        return []
    (slow_name, slow), (fast_name, fast) = (
        (device["name"], series_of(device)["model"]) for device in result["devices"][:2]
    )
    said = []
    for name, times in slow.items():
        if both := times.keys() & fast[name].keys():
            said.append(f"{name} {times[max(both)] / fast[name][max(both)]:.1f} times ({max(both):,} tokens)")
    return [f"How much faster the whole model's step is on {fast_name} than on {slow_name}: {'; '.join(said)}."]


def _headline(result: dict[str, Any]) -> dict[str, dict[str, str]]:
    rows: dict[str, dict[str, str]] = {}
    for device in result["devices"]:
        of_model = series_of(device)["model"]
        shared = set.intersection(*(set(series) for series in of_model.values()))
        length = max((length for length in shared if length <= 512), default=max(shared, default=None))
        if length is None:
            continue
        step = f"step of {result['batch_size']} × {length:,} tokens"
        row = f"data handling: {step}, growth with length n ({device['name']})"
        rows[row] = {}
        for name, series in of_model.items():
            power = exponent(series, LONG_SEQUENCE)
            rows[row][name] = digits(series[length]) + " ms" + (f", n^{power:.2f}" if power is not None else "")
    return rows


def _pictures(
    result: dict[str, Any], device: dict[str, Any], times: dict[str, dict[str, Series]]
) -> list[Plot | Table]:
    place = device["name"] if device["type"] != "cpu" else f"CPU, {plural(device['threads'], 'thread')}"
    rows, powers = [], []
    for part, words in PARTS.items():
        for name, series in times[part].items():
            known = (series.get(length) for length in result["lengths"])
            rows.append([words, name, *("" if value is None else digits(value) for value in known)])
            found = (exponent(series), exponent(series, LONG_SEQUENCE), local_exponent(series))
            powers.append([words, name, *("" if value is None else f"{value:.2f}" for value in found)])
    name = "data_handling" + ("" if device["type"] == "cpu" else f"_{device['type']}")
    caption = (
        f"Milliseconds of a training step ({result['batch_size']} sequences) against sequence length, both axes "
        f"logarithmic, {place}. A straight line is a power of the length, its slope the exponent; dotted: n and n²."
    )
    return [
        Plot(name, _draw(result["lengths"], times), caption),
        Table(
            ["part", "system", *(f"{length:,}" for length in result["lengths"])], rows,
            f"Milliseconds of forward and backward pass by length in tokens, {place}.",
        ),
        Table(
            ["part", "system", "all lengths", f"{LONG_SEQUENCE} tokens and more", "the two longest"], powers,
            f"Exponent k of time ∝ length^k, {place}.",
        ),
    ]  # fmt: skip


def _draw(lengths: Sequence[int], times: dict[str, dict[str, Series]]) -> Figure:
    """Time against length, a panel each for encoder, decoder and both."""
    figure, panels = new_figure(3)
    values = [value for of_part in times.values() for series in of_part.values() for value in series.values()]
    low, high = (min(values), max(values)) if values else (1.0, 10.0)
    for panel, (part, words) in zip(panels, PARTS.items(), strict=True):
        for number, (name, series) in enumerate(times[part].items()):
            panel.plot(list(series), list(series.values()), label=as_label(name), **look(number))
        for power, label in ((1, "n"), (2, "n²")):  # slopes to compare with, below the lines, where there is room
            ends, height = (lengths[-1] / 8, lengths[-1]), low / 1.5
            panel.plot(ends, (height, height * 8**power), color="0.45", lw=1, ls=":")
            panel.annotate(
                label, (ends[1], height * 8**power), (4, 0), textcoords="offset points", va="center", color="0.35"
            )
        log_scale(panel, lengths[::2] if len(lengths) > 5 else lengths)
        log_scale(panel, [10.0**power for power in range(-3, 7)], "y")
        panel.set_ylim(low / 2, high * 1.6)
        panel.set_title(words, fontsize="medium")
        panel.set_xlabel("length (tokens)")
    panels[0].set_ylabel("ms a step, forward and backward")
    share_legend(figure, panels[0])
    return figure


def _range(times: Series, at_least: int) -> str:
    lengths = [length for length in times if length >= at_least]
    return f"({min(lengths):,} to {max(lengths):,} tokens)"
