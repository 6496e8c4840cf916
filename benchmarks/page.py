"""docs/benchmarks.md and its pictures, made from what the benchmarks wrote, and from nothing else."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import costs
from common import Result
from common import table as training_table
from decoding_speed import case, engines_of, quality_table, threads_of
from engines import STOCK
from layers import layers_table
from pictures import draw_curves, draw_decoding, draw_layers, draw_starts

from seqloom.figures.style import save
from seqloom.support import disk
from seqloom.support.wording import as_code, plural, table, together

PICTURES = "benchmarks"
"""Their folder, beside the page."""

HOW = f"""
- *Side by side.* All engines stand in one process and decode the same sentences in turn, forwards and backwards by
  turns, so that what slows the machine for a while slows all. A round is one turn of all of them; first runs are not
  counted. There are at least six rounds, more where they are short.
- *Times {STOCK}* is the median over rounds of stock `generate`'s seconds over the engine's, with the same number of
  threads: above 1 the engine is faster. In brackets, the interval that holds the true median at 95 % (order
  statistics); where it holds 1, no difference was shown. *Tokens/s* are output tokens, the end included, by the
  median.
- *Equal outputs.* In every round outputs are held against `generate`'s. MarianMTModel, and seqloom's search in
  float32, must write the same: a measurement is refused where more than 5 % of the sentences differ and have a
  lower score. int8 and bfloat16 may write others, and CTranslate2 ends its beams by other rules: how many sentences
  differ is counted.
- *{STOCK}* is transformers' own, called on seqloom's model. *seqloom* is what `seqloom.translate` searches with, its
  decoder made once. MarianMTModel has the same weights. CTranslate2 and onnxruntime run what `seqloom export` wrote;
  CTranslate2 searches by itself, over onnxruntime seqloom's search asks.
- Random weights write outputs of a fixed length from sources of the same length, so that every engine takes the same
  steps: shapes are compared, not habits of length. Trained models read real sentences and end where they end.
"""
ELSEWHERE = """
Ratios are of this processor. Of others:

- *float32.* seqloom lays weights out for oneDNN where there is enough to multiply. torch itself gives such products to
  MKL, which is slower than oneDNN on some of AMD's processors, and there alone: on Intel's, and on the rest of AMD's,
  do not expect this part of the gain.
- *bfloat16* wants a processor that multiplies it (`avx512_bf16`, `amx_bf16`, ARM's `bf16`), *int8* one with VNNI
  (`avx512_vnni`, `avx_vnni`); the first paragraph says what this one has. Elsewhere measure before choosing them.
- *One sentence at a time* is mostly Python's time and not the products': what is gained there comes from fewer calls.
- Memory, lengths and numbers of sentences depend least on the processor.
"""


def write(folder: Path, page: Path) -> None:
    """Writes the page and its pictures; earlier ones stay until all of the new ones are on the disk.

    Args:
        folder: Of the benchmarks' JSON files.
        page: The Markdown file; pictures go into a folder beside it.

    Raises:
        ValueError: There is nothing to write of, or a file is damaged.
    """
    records = {path.stem: read(path) for path in sorted(folder.glob("*.json"))}
    if "bench" not in records:
        raise ValueError(f"{folder} has no bench.json: python benchmarks/bench.py measures it.")
    pictures = {}
    text = markdown(records, pictures, page.parent / PICTURES)
    (page.parent / PICTURES).mkdir(parents=True, exist_ok=True)
    writes: dict[Path, Callable[[Path], object]] = {path: partial(save, figure) for path, figure in pictures.items()}
    disk.write_together(writes | {page: disk.text(text)})


def read(path: Path) -> Result:
    """A benchmark's JSON.

    Raises:
        ValueError: It is none.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): measure again.") from None
    if not isinstance(record, dict):
        raise ValueError(f"{path} is no benchmark's record: measure again.")
    return record


def markdown(records: dict[str, Result], pictures: dict[Path, Any], place: Path) -> str:
    """The page; ``pictures`` takes in its figures by the files in ``place`` that they are for."""

    def picture(name: str, caption: str, figure: Any) -> str:
        pictures[place / f"{name}.png"] = figure
        return f"![{caption}]({PICTURES}/{name}.png)"

    random, trained = records.get("decoding_speed"), records.get("decoding_trained")
    parts = ["# Benchmarks", provenance(records)]
    parts += [f"## How it was measured\n{HOW}", f"## On another processor\n{ELSEWHERE}"]
    for kind, record, heading in (
        ("shape", random, "Decoding: shapes"),
        ("trained", trained, "Decoding: trained models"),
    ):
        if record is None:
            continue
        parts += [f"## {heading}", ran(record, records["bench"]), decoding_words()]
        for name, results in by_model(record["results"]).items():
            parts.append(f"**{name}**: {results[0]['words']}.")
            if measured := [result for result in results if not result["left_out"]]:
                caption = f"Speed of every engine over stock generate, {name}"
                file = f"{kind}_{re.sub(r'[^A-Za-z0-9-]', '-', name)}"
                parts.append(picture(file, caption, draw_decoding(measured)))
            parts += [decoding_table(measured, threads) for threads in threads_of(measured)]
        if absent := missing(record["results"]):
            parts.append(absent)
        if record["quality"]:
            parts += ["### What int8 and bfloat16 cost in quality", quality_words(record)]
            parts.append(quality_table(record["quality"]))
    for name, heading in (("training_speed", "A training step"), ("whole_run", "A whole run")):
        if (record := records.get(name)) is not None:
            parts += [f"## {heading}", ran(record, records["bench"]), training_table(record["results"])]
    if (record := records.get("layers")) is not None:
        words = (
            f"Milliseconds of forward and backward pass of one layer of {record['width']}, {record['tokens']:,} tokens "
            f"in sequences of so many steps, {plural(record['threads'], 'thread')}; how many times as fast the first "
            "is as the second, with 95 % in brackets. Axes are logarithmic."
        )
        caption = "Milliseconds of a layer against the length of its sequences"
        parts += ["## A layer", ran(record, records["bench"]), words]
        parts += [picture("layers", caption, draw_layers(record["results"])), layers_table(record["results"])]
    if (record := records.get("costs")) is not None:
        parts += ["## Costs", ran(record, records["bench"]), *costs_parts(record, picture)]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def provenance(records: dict[str, Result]) -> str:
    """Machine, commit, command, versions, seconds, and what else ran."""
    record = records["bench"]
    machine, about = record["machine"], record["environment"]
    versions = {name: about[name] for name in ("seqloom", "torch", "transformers")} | record["packages"]
    said = [f"{name} {version}" if version else f"{name} not installed" for name, version in versions.items()]
    commit = f"commit {record['commit']}" if record["commit"] else "outside of a git checkout"
    instructions = f" with {', '.join(machine['instructions'])}" if machine["instructions"] else ""
    memory = f", {machine['memory_gib']:g} GiB" if machine["memory_gib"] else ""
    lines = [
        f"Every number of this page is of `{record['asked']}` ({record['seconds']:,.0f} s) on "
        f"{record['date']}, {commit}: {machine['cpu']}, {plural(machine['cores'], 'core')}{instructions}{memory}, "
        f"{machine['system']}, Python {about['python']}, {', '.join(said)}. The same command makes it anew; "
        "`benchmarks/README.md` says what else can be measured.",
    ]
    if (machine["load"] or 0) > 0.5:
        lines.append(
            f"**The machine was not at rest**: its load was {machine['load']:.1f} when the run began. Take times with "
            "caution, or measure again."
        )
    if share := disturbed(records):
        lines.append(
            f"**Other work ran beside this**: what was timed on one thread had {share:.0%} of a core. Take times with "
            "caution, or measure again."
        )
    failed = [f"{stage['name']} ({stage['said']})" for stage in record["stages"] if stage["status"]]
    if failed:
        lines.append(f"**Not measured**: {'; '.join(failed)}.")
    return "\n\n".join(lines)


def disturbed(records: dict[str, Result]) -> float | None:
    """The middle share of a core that what ran on one thread had, if it was less than most of one."""
    shares = [
        of_threads["1"]["cpu_share"]
        for name in ("decoding_speed", "decoding_trained")
        for result in records.get(name, {"results": []})["results"]
        for of_threads in result["engines"].values()
        if "1" in of_threads
    ]
    share = statistics.median(shares) if shares else 1.0
    return share if share < 0.9 else None


def ran(record: Result, whole: Result) -> str:
    """The command of a part, and where its numbers come from if not from where the page says."""
    names = ("date", "commit")
    other = "" if all(record[name] == whole[name] for name in names) else " (measured on {date}, commit {commit})"
    return f"`{record['command']}`{other.format(**record)}"


def by_model(results: Iterable[Result]) -> dict[str, list[Result]]:
    """In the order in which they were measured."""
    found: dict[str, list[Result]] = {}
    for result in results:
        found.setdefault(result["model"], []).append(result)
    return found


def decoding_words() -> str:
    """How to read what follows."""
    return f"Times {STOCK}, with 95 % in brackets; behind ≠ stand the outputs that differ from {STOCK}'s, of all."


def decoding_table(results: Sequence[Result], threads: str) -> str:
    """A model's cases with a number of threads, an engine a column."""
    engines = engines_of(results)
    rows = []
    for result in results:
        row = [case(result), f"{result['engines'][STOCK][threads]['tokens_per_second']:,.0f}"]
        for name in engines[1:]:
            side = result["engines"].get(name, {}).get(threads)
            row.append("–" if side is None else cell(side, result["sentences"]))
        rows.append(row)
    headers = ["sentences, search, output", f"{STOCK}, tokens/s:", *(f"{name}:" for name in engines[1:])]
    return f"{plural(int(threads), 'thread')}:\n\n{table(headers, rows)}"


def cell(side: Result, sentences: int) -> str:
    """``**2.10** (1.98–2.25)``, and how many outputs differ."""
    low, high = side["interval"]
    other = f" ≠ {side['other_outputs']:,}/{sentences:,}" if side["other_outputs"] else ""
    return f"**{side['ratio']:.2f}** ({low:.2f}–{high:.2f}){other}"


def missing(results: Sequence[Result]) -> str:
    """Engines and cases that are not in the tables, and why."""
    lines = []
    for name, mine in by_model(results).items():
        reasons: dict[str, list[str]] = {}
        for engine, reason in mine[0]["missing"].items():
            reasons.setdefault(reason, []).append(engine)
        lines += [f"- {name}: {together(engines)}: {reason.rstrip('.')}." for reason, engines in reasons.items()]
        lines += [f"- {name}: {case(result)}: {result['left_out']}." for result in mine if result["left_out"]]
    return "\n".join(["Not in the tables:", "", *lines]) if lines else ""


def quality_words(record: Result) -> str:
    """Of which metric, and how the difference is tested."""
    signatures = {f"{result['metric']}, {as_code(result['signature'])}" for result in record["quality"]}
    return (
        f"Scores of all sentences ({together(sorted(signatures))}) and how far they are from that of {STOCK}'s "
        "outputs, with 95 % by paired bootstrap; where that holds 0, no loss was found with these sentences."
    )


def costs_parts(record: Result, picture: Callable[[str, str, Any], str]) -> list[str]:
    """The chapter of costs."""
    at = record["at"]
    parts = []
    if "curves" in record:
        where = f"{at['length']} tokens, {at['batch']} sentences, vocabulary {at['vocabulary']:,}, width {at['width']}"
        parts += [
            f"Time against one thing at a time, the others at {where}, {record['layers']} layers on each side; "
            f"{plural(record['threads'], 'thread')}. A training step is forward and backward pass, without optimizer; "
            "decoding is greedy, outputs as long as sources; seqloom's search in float32. Axes are logarithmic, bars "
            "hold the median at 95 %.",
            picture("costs_training", "Milliseconds of a training step against length, batch, vocabulary and width",
                    draw_curves(record["curves"], costs.WORKS[:1])),
            picture("costs_decoding", "Milliseconds of decoding against length, batch, vocabulary and width",
                    draw_curves(record["curves"], costs.WORKS[1:])),
            costs.curves_table(record["curves"]),
        ]  # fmt: skip
    if "memory" in record:
        rows = record["memory"][0]["rows"]
        parts += [
            f"### Memory\n\nMiB by which a process grows from before the model is made, at most: {rows} pairs of "
            "so many tokens on either side, three updates with AdamW, and greedy decoding by `generate`. Each has a "
            "process of its own.",
            costs.memory_table(record["memory"]),
        ]
    if "starts" in record:
        caption = "Seconds to the first output and peak memory of every engine"
        parts += [
            "### To the first output\n\nA fresh process: Python and what is imported, the model's folder, the first "
            f"sentence of {costs.LENGTH} tokens, the next one; and the most memory that the whole process held "
            f"until then and after {costs.MANY} sentences with {costs.BEAMS} beams. Medians of processes "
            "that start one by one.",
            picture("starts", caption, draw_starts(record["starts"])),
            costs.starts_table(record["starts"]),
        ]  # fmt: skip
    return parts
