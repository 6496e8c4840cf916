"""Generation: what a token and a sentence cost, and what must be kept of a sentence while it is written.

A recurrent decoder without attention has a state of constant size and does the same work at every step; attention looks
back at all of the source (Bahdanau et al. 2015, arXiv:1409.0473), and a Transformer at all that it has written too
(Vaswani et al. 2017, arXiv:1706.03762; the memory that this takes at each step: Shazeer 2019, arXiv:1911.02150). Every
candidate writes outputs of exactly the same length, so that quality and habits of length play no part.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch

from seqloom.comparison.candidates import Candidate, Options
from seqloom.comparison.instruments.clock import (
    CONTROL,
    cpu_share,
    disturbance,
    log_ratios,
    median_seconds,
    spread_in_words,
)
from seqloom.comparison.instruments.generate_calls import ordinary_ids, position_limit, searching, weigh
from seqloom.comparison.measures.generation_figures import PARTS, draw_state, draw_times, has_part, token_milliseconds
from seqloom.comparison.remedies import quicker
from seqloom.comparison.sections import Plot, Section, Table
from seqloom.comparison.traits import in_words, recorded
from seqloom.comparison.verdicts import Case, counted, told, told_apart
from seqloom.scoring.estimates import Estimate
from seqloom.support.language import later, say
from seqloom.support.machine import cpu_threads, device_name
from seqloom.support.wording import digits, plural, together

if TYPE_CHECKING:
    pass


BATCH_SIZES, BATCH_LENGTH = (1, 8, 64), 32
LENGTHS, LENGTH_BATCH = (16, 32, 64, 128), 8
BEAMS = (1, 5)
KINDS = (later("recurrent without attention"), later("recurrent with attention"), "Transformer")
"""Of models, in the order of the findings; others follow by their own names."""
SAME = 0.1
"""A time of a token that differs by less than this share counts as the same."""


def measure(
    candidates: Sequence[Candidate],
    options: Options,
    *,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    batch_length: int = BATCH_LENGTH,
    lengths: Sequence[int] = LENGTHS,
    length_batch: int = LENGTH_BATCH,
    beams: Sequence[int] = BEAMS,
    repeats: int = 3,
) -> dict[str, Any]:
    """Times the decoding of every candidate, all in turn, and weighs what it keeps of a sentence.

    Args:
        candidates: Any encoder-decoders of transformers.
        options: Device, CPU threads, seed.
        batch_sizes: Sentences a call, at ``batch_length`` tokens.
        batch_length: Tokens of source and output where the batch changes.
        lengths: Tokens of source and output, at ``length_batch`` sentences.
        length_batch: Sentences a call where the length changes.
        beams: Numbers of beams.
        repeats: Calls of which the median is taken, at least.

    Returns:
        What was used, and of each candidate seconds a call and bytes a sentence.

    Raises:
        ValueError: A model does not write outputs of the length that it is told.
    """
    batch_sizes, lengths = sorted(batch_sizes), sorted(lengths)
    places = dict.fromkeys([(size, batch_length) for size in batch_sizes] + [(length_batch, n) for n in lengths])
    result: dict[str, Any] = {
        "device": device_name(options.device), "threads": options.num_threads, "repeats": repeats,
        "batch_sizes": batch_sizes, "batch_length": batch_length, "lengths": lengths, "length_batch": length_batch,
        "beams": list(beams), "candidates": {},
    }  # fmt: skip
    generator = torch.Generator().manual_seed(options.seed)
    calls: dict[tuple[str | None, int, int, int], Callable[[], object]] = {}  # of None: the control
    with cpu_threads(options.num_threads):
        for candidate in candidates:
            model, tokenizer = candidate.load()
            again = candidate.load()[0] if candidate is candidates[0] else None
            ids = ordinary_ids(tokenizer, len(model.get_input_embeddings().get_parameter("weight")))
            limit = position_limit(model.config)
            fits = [(size, n) for size, n in places if limit is None or n < limit]  # the start token is one more
            for size, length in fits:
                chosen = torch.randint(len(ids), (size, length), generator=generator)
                sources = ids[chosen].to(model.device)  # (size, length)
                for number in beams:
                    calls[candidate.name, number, size, length] = searching(model, sources, length, number)
                    if again is not None:
                        calls[None, number, size, length] = searching(again, sources, length, number)
            result["candidates"][candidate.name] = {
                "traits": asdict(candidate.traits),
                "parameters": model.num_parameters(),
                "limit": limit,
                "seconds": {},
                **weigh(model, ids, sorted({length for _, length in fits if length in lengths})),
            }
        with cpu_share(result):
            timed = median_seconds(calls, options.device, repeats, title="generating")
    result[CONTROL] = {"seconds": {}}
    for (name, number, size, length), seconds in timed.items():
        timed_one = result[CONTROL] if name is None else result["candidates"][name]
        of_beam = timed_one["seconds"].setdefault(str(number), {})
        of_beam.setdefault(str(size), {})[str(length)] = seconds
    return result


def controls_of(result: dict[str, Any]) -> list[float]:
    """Logarithms of the ratios of the first candidate's times to those of the same model, loaded and timed twice."""
    first, again = next(iter(result["candidates"].values()), None), result.get(CONTROL)
    if first is None or again is None:
        return []
    return log_ratios(
        (first["seconds"].get(beams, {}).get(size, {}).get(length), seconds)
        for beams, of_beams in again["seconds"].items()
        for size, of_size in of_beams.items()
        for length, seconds in of_size.items()
    )


def section(result: dict[str, Any]) -> Section:
    """Words, tables and plots of what `measure` returned."""
    batch_length, length_batch = result["batch_length"], result["length_batch"]
    controls = controls_of(result)
    cautions = disturbance(result["cpu_share"], result["threads"]) if result["device"] == "CPU" else []
    findings = [
        *by_length(result, controls), *fastest(result, controls), *quicker(result, controls), *_beams(result),
        *_state(result), *_skipped(result), *cautions,
    ]  # fmt: skip
    on = (
        result["device"]
        if result["device"] != "CPU"
        else say("the CPU, {threads}", threads=plural(result["threads"], "thread"))
    )
    beams = together([str(number) for number in result["beams"]])
    return Section(
        title=say("Generation"),
        question=say("What does a token cost, what does a longer sentence, and what must be kept of it?"),
        findings=findings,
        parts=[
            Plot(
                "generating",
                draw_times(result),
                say(
                    "Milliseconds a token for {beams} beams: against sentences a call ({batch_length} tokens each; "
                    "axes logarithmic), and against length ({length_batch} sentences a call).",
                    beams=beams,
                    batch_length=batch_length,
                    length_batch=length_batch,
                ),
            ),
            _table(result, [(size, batch_length) for size in result["batch_sizes"]], say("sentences a call"), 0),
            _table(result, [(length_batch, length) for length in result["lengths"]], say("length"), 1),
            Plot(
                "generating_state",
                draw_state(result),
                say(
                    "KiB of one sentence against the length of source and output, both axes logarithmic: all that is "
                    "kept for the next token, the decoder's cache, and the encoder's outputs."
                ),
            ),
            _state_table(result),
        ],
        how=(
            say(
                "The trained models on {on}, decoded as seqloom.translate does it: by its own search, models of "
                "other makes by their generate(). Sources are random tokens, as many as are written; the end is "
                "suppressed until the length is reached, so all write equally many. Beams: {beams}; no sampling. "
                "The encoder's pass is part of the time. Each time is a median of {repeats} calls or more after "
                "a warm-up, the candidates in turn. {controls} A token's time is the call's over all tokens of "
                "all sentences, so at one sentence a call it is what a reader waits for. Kept is what the next "
                "token needs: every tensor of past_key_values after a greedy call of generate() with one "
                "sentence (state, keys and values), and the encoder's outputs where the decoder still reads "
                "them, as an attention does whose values they are; tried by spoiling them.",
                on=on,
                beams=beams,
                repeats=result["repeats"],
                controls=spread_in_words(controls),
            )
        ),
        limits=(
            say(
                "At these lengths much of a step is the cost of calling it, whatever it computes; a compiled or "
                "exported model has less of that. generate() holds the encoder's outputs to the end even where "
                "nothing reads them; that is not counted as kept."
            )
        ),
        headline=_headline(result),
        cautions=cautions,
    )


def by_length(result: dict[str, Any], controls: Sequence[float]) -> list[str]:
    """How the time of a token changes from the shortest to the longest sentence."""
    steady, growing = [], []
    for name, candidate in result["candidates"].items():
        for beams in result["beams"]:
            found = {n: token_milliseconds(candidate, beams, result["length_batch"], n) for n in result["lengths"]}
            times = {length: value for length, value in found.items() if value is not None}
            if len(times) < 2:
                continue
            short, long = min(times), max(times)
            ratio = times[long] / times[short]
            text = say(
                "{name} × {ratio:.2f} with {beams} ({short:,} → {long:,} tokens)",
                name=name,
                ratio=ratio,
                beams=plural(beams, "beam"),
                short=short,
                long=long,
            )
            looks_back, known = recorded(candidate).looks_back, Estimate.by_control(math.log(ratio), controls)
            if looks_back:
                growing.append(Case(text, known, (math.log1p(SAME), math.inf)))
            elif looks_back is False:
                steady.append(Case(text, known, (-math.inf, math.log1p(SAME))))
    return [
        *told(say("Without attention a token should cost no more in a longer sentence."), steady),
        *told(
            say("With attention every token looks back at more in a longer sentence, so it should cost more."), growing
        ),
    ]


def fastest(result: dict[str, Any], controls: Sequence[float]) -> list[str]:
    """Who is fastest for one sentence, and for many, as far as the control tells them apart."""
    sentences = []
    sizes = result["batch_sizes"]
    for size in dict.fromkeys((sizes[0], sizes[-1])):
        said = []
        for beams in result["beams"]:
            times = {
                name: token_milliseconds(candidate, beams, size, result["batch_length"])
                for name, candidate in result["candidates"].items()
            }
            known = {name: value for name, value in times.items() if value is not None}
            if len(known) < 2:
                continue
            first, behind = told_apart(known, controls, len(result["beams"]))
            others = "; ".join(
                say("{name} takes {ratio:.2f} times as long", name=name, ratio=ratio)
                for name, ratio in sorted(behind.items(), key=lambda x: x[1])
            )
            winners = ", ".join(say("{name} {time} ms a token", name=name, time=digits(known[name])) for name in first)
            if len(first) == 1:
                said.append(
                    say(
                        "{first} with {beams} ({time} ms a token; {others})",
                        first=first[0],
                        beams=plural(beams, "beam"),
                        time=digits(known[first[0]]),
                        others=others,
                    )
                )
            else:
                rest = f"; {others}" if others else ""
                said.append(
                    say(
                        "not clear with {beams} (not told apart: {winners}{rest})",
                        beams=plural(beams, "beam"),
                        winners=winners,
                        rest=rest,
                    )
                )
        if said:
            sentences.append(
                say(
                    "Fastest with {sentences} a call: {said}.", sentences=plural(size, "sentence"), said="; ".join(said)
                )
            )
    return sentences


def _beams(result: dict[str, Any]) -> list[str]:
    """What beams cost."""
    few, many = min(result["beams"]), max(result["beams"])
    said = []
    for name, candidate in result["candidates"].items():
        ratios = []
        for size in dict.fromkeys((result["batch_sizes"][0], result["batch_sizes"][-1])):
            short, long = (token_milliseconds(candidate, beams, size, result["batch_length"]) for beams in (few, many))
            if short is not None and long is not None:
                ratios.append(
                    say(
                        "{ratio:.2f} times as long with {sentences} a call",
                        ratio=long / short,
                        sentences=plural(size, "sentence"),
                    )
                )
        if ratios:
            said.append(f"{name} {', '.join(ratios)}")
    return (
        [say("{many} beams instead of {few} take: {said}.", many=many, few=few, said="; ".join(said))]
        if said and many > few
        else []
    )


def _state(result: dict[str, Any]) -> list[str]:
    """Whether what is kept of a sentence grows as each kind should."""
    words = {
        (False, False): say("it should stay the same"),
        (True, False): say("it should grow with the source (the attention's keys and values) and not with the output"),
        (False, True): say("it should grow with the output and not with the source"),
        (True, True): say("it should grow with the source and with the output (keys and values of both)"),
    }
    of_kinds: dict[tuple[str, tuple[bool, bool]], list[str]] = {}  # kind; growth with the source, with the output
    for name, candidate in result["candidates"].items():
        traits = recorded(candidate)
        if traits.has_cross_attention is not None and traits.has_constant_state is not None:
            growth = (traits.has_cross_attention, not traits.has_constant_state)
            of_kinds.setdefault((traits.kind, growth), []).append(name)
    order = [*KINDS, *(kind for kind, *_ in of_kinds)]
    sentences = []
    for (kind, growth), names in sorted(of_kinds.items(), key=lambda item: order.index(item[0][0])):
        cases = []
        for name in names:
            kept = result["candidates"][name]["bytes"]
            whole = kept.get("kept", kept["cache"])
            lengths = sorted(map(int, whole))
            if len(lengths) < 2 or None in whole.values():
                continue
            base = whole[str(lengths[0])]
            grows = [counted(kept[end] / base, least=0.0)[0] > 0 for end in ("longer_source", "longer_output")]
            text = say(
                "{name}, {base} KiB at {shortest:,} tokens, × {longer_source:.2f} with a source of {longest:,}, "
                "× {longer_output:.2f} with an output of {longest:,}, × {both:.2f} with both",
                name=name,
                base=_kib(base),
                shortest=lengths[0],
                longer_source=kept["longer_source"] / base,
                longest=lengths[-1],
                longer_output=kept["longer_output"] / base,
                both=whole[str(lengths[-1])] / base,
            )
            cases.append(Case(text, "SEEN" if tuple(grows) == growth else "NOT SEEN"))  # bytes are counted
        sentences += told(say("Kept of a sentence, {kind}: {grow}.", kind=in_words(kind), grow=words[growth]), cases)
    return sentences


def _skipped(result: dict[str, Any]) -> list[str]:
    """Lengths that a model has no positions for."""
    wanted = sorted({*result["lengths"], result["batch_length"]})
    said = []
    for name, candidate in result["candidates"].items():
        limit = candidate["limit"]
        if limit is not None and (missing := [length for length in wanted if length >= limit]):
            shown = ", ".join(f"{length:,}" for length in missing)
            said.append(
                say("{name} at {shown} tokens (it has {limit:,} positions)", name=name, shown=shown, limit=limit)
            )
    return [say("Not measured: {said}.", said="; ".join(said))] if said else []


def _table(result: dict[str, Any], places: Sequence[tuple[int, int]], column: str, varied: int) -> Table:
    header = [say("candidate"), say("beams"), *(f"{place[varied]:,}" for place in places)]
    rows = []
    for name, candidate in result["candidates"].items():
        for beams in result["beams"]:
            values = [token_milliseconds(candidate, beams, *place) for place in places]
            cells = [
                "" if value is None else f"{digits(value)} ms, {digits(1000 / (value * length))}/s"
                for value, (_, length) in zip(values, places, strict=True)
            ]
            rows.append([name, str(beams), *cells])
    number = places[0][1 - varied]
    fixed = (
        say("{sentences} a call", sentences=plural(number, "sentence"))
        if varied
        else say("{number} tokens each", number=number)
    )
    return Table(
        header,
        rows,
        say("Milliseconds a token and sentences a second by {column}, {fixed}.", column=column, fixed=fixed),
    )


def _state_table(result: dict[str, Any]) -> Table:
    rows = []
    for name, candidate in result["candidates"].items():
        for part, words in PARTS.items():
            if not has_part(result, part):
                continue
            kept = candidate["bytes"][part]
            rows.append([name, say(words), *(_kib(kept.get(str(length))) for length in result["lengths"])])
    header = [say("candidate"), say("what"), *(f"{length:,}" for length in result["lengths"])]
    return Table(header, rows, say("KiB kept of one sentence by length of source and output in tokens."))


def _headline(result: dict[str, Any]) -> dict[str, dict[str, str]]:
    sizes, length, longest = result["batch_sizes"], result["batch_length"], str(result["lengths"][-1])
    few = result["beams"][0]
    greedy = say("greedy") if few == 1 else plural(few, "beam")
    first, last = (
        say("{sentences} a call", sentences=plural(sizes[0], "sentence")),
        say("{sentences} a call", sentences=plural(sizes[-1], "sentence")),
    )
    rows: dict[str, dict[str, str]] = {}
    for name, candidate in result["candidates"].items():
        alone, many = (token_milliseconds(candidate, few, size, length) for size in (sizes[0], sizes[-1]))
        if alone is not None:
            rows.setdefault(say("generation: time a token, {greedy}, {first}", greedy=greedy, first=first), {})[
                name
            ] = f"{digits(alone)} ms"
        if many is not None:
            speed = say("{number} sentences/s", number=digits(1000 / (many * length)))
            rows.setdefault(
                say("generation: speed, {greedy}, {last} of {length} tokens", greedy=greedy, last=last, length=length),
                {},
            )[name] = speed
        part = "kept" if "kept" in candidate["bytes"] else "cache"
        if (kept := candidate["bytes"][part].get(longest)) is not None:
            what = say("kept") if part == "kept" else say("kept in the cache")
            rows.setdefault(
                say("generation: {what} of a sentence of {longest} tokens", what=what, longest=longest), {}
            )[name] = f"{_kib(kept)} KiB"
    return rows


def _kib(number: int | None) -> str:
    return "" if number is None else f"{number / 1024:,.1f}"
