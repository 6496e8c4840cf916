"""Data handling: sequential or parallel. Time of forward and backward pass against sequence length.

A recurrent layer needs n steps, one after the other, for n tokens, unless its gates ask nothing of the state (Feng et
al. 2024, arXiv:2410.01201); self-attention sees all at once, but compares every token with every other (Vaswani et al.
2017, arXiv:1706.03762, section 4 and table 1). So time is expected to
grow with n for the one and with n² for the other, and more cores to help the other more. The families are built anew at
equal width and depth: the candidates' weights play no part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from seqloom.comparison.candidates import Candidate, Options
from seqloom.comparison.instruments.clock import (
    CONTROL,
    Series,
    disturbance,
    exponent,
    local_exponent,
    log_ratios,
    spread_in_words,
)
from seqloom.comparison.instruments.training_steps import (
    NUM_HEADS,
    PARTS,
    TRANSFORMER,
    build,
    common_width,
    config_of,
    systems,
    time_lengths,
    time_threads,
)
from seqloom.comparison.measures.data_handling_findings import (
    LONG_SEQUENCE,
    accelerator,
    crossings,
    growth,
    left_out,
    series_of,
    speedup,
)
from seqloom.comparison.remedies import at_once
from seqloom.comparison.sections import Passage, Plot, Section, Table
from seqloom.comparison.traits import in_words
from seqloom.figures.style import as_label, log_scale, look, new_figure, share_legend
from seqloom.modeling.cells_rnn_seq2seq import CELLS
from seqloom.support.language import say
from seqloom.support.machine import cpu_threads, device_name
from seqloom.support.wording import digits, plural

if TYPE_CHECKING:
    from matplotlib.figure import Figure


LENGTHS = (16, 32, 64, 128, 256, 512, 1024, 2048)


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
    """Names of recurrent systems whose cells compute all steps together, of those whose training does, and of the
    hybrids among them."""
    recurrent = {name: config_of(recipe) for name, recipe in recipes.items() if recipe}
    return {
        "parallel_cells": [name for name, config in recurrent.items() if CELLS[config.cell_type].is_parallel],
        "parallel_training": [name for name, config in recurrent.items() if config.has_parallel_training],
        "hybrids": [name for name, recipe in recipes.items() if "model_type" in recipe],
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
        said = growth(times, controls, result.get("parallel_cells", ()), result.get("hybrids", ()))
        findings += [
            where + sentence
            for sentence in (
                *said,
                *crossings(times, controls),
                *at_once(result, times["model"], controls),
                *left_out(device),
            )
        ]
        findings += disturbed
        cautions += disturbed
        spreads.append(where + spread_in_words(controls))
        parts += _pictures(result, device, times)
    findings += speedup(result) + accelerator(result)
    on = " and ".join(
        say("the CPU ({threads})", threads=plural(device["threads"], "thread"))
        if device["type"] == "cpu"
        else device["name"]
        for device in result["devices"]
    )
    sizes = ", ".join(f"{in_words(name)} {number:,}" for name, number in result["parameters"].items())
    return Section(
        title=say("Data handling: sequential or parallel"),
        question=say("How does the time of a training step grow with the length of the sequences?"),
        findings=findings,
        parts=parts,
        how=(
            say(
                "Untrained models of equal width and depth, {layers}+{layers} layers of {width}, {heads} heads "
                "and feed-forward networks of {feed_forward} in the Transformer, bidirectional recurrent encoders, on "
                "{on}. A step is forward and backward pass of {batch_size} pairs of random tokens, source and "
                "target of the same length, no padding, no dropout, no optimizer, float32. The vocabulary is "
                "small ({vocab_size}), so that the output matrix does not hide the layers. The decoder alone "
                "reads a fixed encoder output of the same length, by teacher forcing. Each time is a median of "
                "{repeats} steps or more after a warm-up, the systems in turn. {spreads} Exponents are least "
                "squares on logarithms. Parameters: {sizes}.",
                layers=result["layers"],
                width=result["width"],
                heads=result["heads"],
                feed_forward=4 * result["width"],
                on=on,
                batch_size=result["batch_size"],
                vocab_size=result["vocab_size"],
                repeats=result["repeats"],
                spreads=" ".join(spreads),
                sizes=sizes,
            )
        ),
        limits=(
            say(
                "Equal width is not an equal number of parameters. The length at which lines cross depends on "
                "the machine, the width and the batch: larger batches help the recurrent models more. Other "
                "implementations grow otherwise."
            )
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


def _headline(result: dict[str, Any]) -> dict[str, dict[str, str]]:
    rows: dict[str, dict[str, str]] = {}
    for device in result["devices"]:
        of_model = series_of(device)["model"]
        shared = set.intersection(*(set(series) for series in of_model.values()))
        length = max((length for length in shared if length <= 512), default=max(shared, default=None))
        if length is None:
            continue
        step = say("step of {batch_size} × {length:,} tokens", batch_size=result["batch_size"], length=length)
        row = say("data handling: {step}, growth with length n ({name})", step=step, name=device["name"])
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
            rows.append([say(words), in_words(name), *("" if value is None else digits(value) for value in known)])
            found = (exponent(series), exponent(series, LONG_SEQUENCE), local_exponent(series))
            powers.append([say(words), in_words(name), *("" if value is None else f"{value:.2f}" for value in found)])
    name = "data_handling" + ("" if device["type"] == "cpu" else f"_{device['type']}")
    caption = say(
        "Milliseconds of a training step ({batch_size} sequences) against sequence length, both axes "
        "logarithmic, {place}. A straight line is a power of the length, its slope the exponent; dotted: "
        "n and n².",
        batch_size=result["batch_size"],
        place=place,
    )
    return [
        Plot(name, _draw(result["lengths"], times), caption),
        Table(
            [say("part"), say("system"), *(f"{length:,}" for length in result["lengths"])],
            rows,
            say("Milliseconds of forward and backward pass by length in tokens, {place}.", place=place),
        ),
        Table(
            [
                say("part"),
                say("system"),
                say("all lengths"),
                say("{length} tokens and more", length=LONG_SEQUENCE),
                say("the two longest"),
            ],
            powers,
            say("Exponent k of time ∝ length^k, {place}.", place=place),
        ),
    ]


def _draw(lengths: Sequence[int], times: dict[str, dict[str, Series]]) -> Figure:
    """Time against length, a panel each for encoder, decoder and both."""
    figure, panels = new_figure(3)
    values = [value for of_part in times.values() for series in of_part.values() for value in series.values()]
    low, high = (min(values), max(values)) if values else (1.0, 10.0)
    for panel, (part, words) in zip(panels, PARTS.items(), strict=True):
        for number, (name, series) in enumerate(times[part].items()):
            panel.plot(list(series), list(series.values()), label=as_label(in_words(name)), **look(number))
        for power, label in ((1, "n"), (2, "n²")):  # slopes to compare with, below the lines, where there is room
            ends, height = (lengths[-1] / 8, lengths[-1]), low / 1.5
            panel.plot(ends, (height, height * 8**power), color="0.45", lw=1, ls=":")
            panel.annotate(
                label, (ends[1], height * 8**power), (4, 0), textcoords="offset points", va="center", color="0.35"
            )
        log_scale(panel, lengths[::2] if len(lengths) > 5 else lengths)
        log_scale(panel, [10.0**power for power in range(-3, 7)], "y")
        panel.set_ylim(low / 2, high * 1.6)
        panel.set_title(say(words), fontsize="medium")
        panel.set_xlabel(say("length (tokens)"))
    panels[0].set_ylabel(say("ms a step, forward and backward"))
    share_legend(figure, panels[0])
    return figure
