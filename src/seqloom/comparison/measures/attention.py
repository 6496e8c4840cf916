"""Attention or none: quality against the length of the source, on the test data and on a task of pure recall.

Without attention one state of fixed size must hold the whole source, and long sentences are lost (Cho et al. 2014b,
arXiv:1409.1259; Bahdanau et al. 2015, figure 2). The recall task asks for nothing else: a row of random letters is to
be repeated.
"""

from __future__ import annotations

import csv
import dataclasses
import itertools
import random
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoConfig

from seqloom import run_folder
from seqloom.attention.attend import cross_attention_map
from seqloom.attention.maps import draw_map
from seqloom.comparison.candidates import Candidate, Options
from seqloom.comparison.measures.attention_findings import data_finding, recall_finding
from seqloom.comparison.sections import Passage, Plot, Section, Table
from seqloom.comparison.trainings import train_all
from seqloom.comparison.traits import Traits, in_words, traits_of
from seqloom.comparison.verdicts import kept
from seqloom.figures.style import as_label, look, new_figure
from seqloom.scoring import metrics
from seqloom.scoring.predictions import check_same_sentences, measure_sentences, read_predictions, read_scores
from seqloom.scoring.significance import Statistics, gap_change, interval, system_score
from seqloom.settings.reading import load_settings
from seqloom.support.disk import write_aside
from seqloom.support.language import later, say

RECIPES = ("scan-rnn-no-attention", "scan-rnn", "scan-transformer")
"""Whose models and optimizers the recall task is learnt with."""
MOST_MAPS = 4
LETTERS = "abcdefghijklmnopqrst"
BATCH_TOKENS = 1024


def measure(
    candidates: Sequence[Candidate],
    options: Options,
    *,
    num_buckets: int = 6,
    longest: int = 40,
    updates: int = 800,
    num_pairs: int = 20_000,
    overrides: Sequence[str] = (),
) -> dict[str, Any]:
    """Scores by source length.

    Args:
        candidates: Their predictions for the test data.
        options: ``seed``, ``num_jobs``, ``bootstrap_samples`` and ``folder`` count.
        num_buckets: Of about as many sentences each, on the test data.
        longest, updates, num_pairs: The recall task's rows have 1 to ``longest`` letters.
        overrides: Words of the command line for the recall task's recipes.
    """
    return {
        "data": by_length(candidates, num_buckets, options.bootstrap_samples) if candidates else None,
        "maps": example_maps(candidates),
        "recall": recall(options, longest, updates, num_pairs, overrides),
    }


def by_length(candidates: Sequence[Candidate], num_buckets: int, bootstrap_samples: int) -> dict[str, Any]:
    """The first metric's score in buckets of source length, on the test data; the first seed's outputs."""
    found = {candidate.name: read_predictions(candidate.predictions[0]) for candidate in candidates}
    check_same_sentences(found)
    scored = read_scores(candidates[0].predictions[0].parent).get("metrics", {})
    name = next((metric for metric in scored if metric in metrics.METRICS), "chrf")
    recipe = next((candidate.settings for candidate in candidates if candidate.settings is not None), None)
    options = recipe.evaluation.metric_kwargs.get(name, {}) if recipe else {}
    sources = next(iter(found.values())).sources
    lengths, unit = np.array([len(source.split()) for source in sources]), later("words")
    if np.median(lengths) <= 1:  # a script without spaces
        lengths, unit = np.array([len(source) for source in sources]), later("characters")
    buckets = cut(lengths, num_buckets)
    statistics = {
        candidate.name: [
            measure_sentences(name, read_predictions(path), **options)[1] for path in candidate.predictions
        ]
        for candidate in candidates
    }
    scores = {system: in_buckets(runs[0], lengths, buckets, bootstrap_samples) for system, runs in statistics.items()}
    counts = [int(((lengths >= low) & (lengths <= high)).sum()) for low, high in buckets]
    traits = {candidate.name: {"traits": asdict(candidate.traits)} for candidate in candidates}
    return {
        "metric": name, "unit": unit, "buckets": [list(bucket) for bucket in buckets], "counts": counts,
        "scores": scores, "kinds": traits, "runs": min(map(len, statistics.values())),
        "gaps": gaps(statistics, {c.name: c.traits for c in candidates}, lengths, buckets, bootstrap_samples,
                     metrics.higher_is_better(name)),
    }  # fmt: skip


def gaps(
    systems: dict[str, list[Statistics]],
    traits: dict[str, Traits],
    lengths: np.ndarray,
    buckets: Sequence[tuple[int, int]],
    bootstrap_samples: int,
    higher_is_better: bool = True,
) -> list[dict[str, Any]]:
    """How far each system without attention is behind each one with it, on the shortest and on the longest sources, and
    by how much more on the longest.

    Args:
        systems: Statistics of the runs of each.
        lengths, buckets: As for `in_buckets`.

    Returns:
        For each two: ``without``, ``with``, ``short`` and ``long`` in points, and ``change``, the estimate of the
        difference of these two; None without resamples, or where there is one bucket.
    """
    sign, found = 1 if higher_is_better else -1, []
    sides = [[name for name, one in traits.items() if one.has_cross_attention is is_so] for is_so in (False, True)]
    for name, other in itertools.product(*sides):
        short, long = (
            ([_part(run, lengths, bucket) for run in systems[other]],
             [_part(run, lengths, bucket) for run in systems[name]])
            for bucket in (buckets[0], buckets[-1])
        )  # fmt: skip
        behind = [sign * (system_score(ours) - system_score(theirs)) for ours, theirs in (short, long)]
        change = None
        if bootstrap_samples > 1 and len(buckets) > 1:
            estimate = gap_change(short, long, bootstrap_samples)
            change = kept(dataclasses.replace(estimate, value=sign * estimate.value))
        found.append({"without": name, "with": other, "short": behind[0], "long": behind[1], "change": change})
    return found


def _part(statistics: Statistics, lengths: np.ndarray, bucket: tuple[int, int]) -> Statistics:
    """Of the sentences in a bucket alone."""
    low, high = bucket
    return dataclasses.replace(statistics, values=statistics.values[(lengths >= low) & (lengths <= high)])


def cut(lengths: np.ndarray, num_buckets: int) -> list[tuple[int, int]]:
    """Ranges of length (both ends included) that hold about as many sentences each and leave no sentence out.

    Args:
        lengths: (sentences,).
        num_buckets: At most so many; fewer where many sentences are of one length.
    """
    bounds = np.unique(np.quantile(lengths, np.linspace(0, 1, num_buckets + 1), method="inverted_cdf").astype(int))
    if len(bounds) == 1:
        return [(int(bounds[0]), int(bounds[0]))]
    lows = [bounds[0], *(bound + 1 for bound in bounds[1:-1])]
    return [(int(low), int(high)) for low, high in zip(lows, bounds[1:], strict=True)]


def in_buckets(
    statistics: Statistics, lengths: np.ndarray, buckets: Sequence[tuple[int, int]], bootstrap_samples: int
) -> list[dict[str, Any]]:
    """The score of every bucket, with its 95 % bootstrap interval."""
    found = []
    for bucket in buckets:
        part = _part(statistics, lengths, bucket)
        found.append(
            {
                "score": float(part.score(part.values.sum(0))),
                "interval": interval(part, bootstrap_samples) if bootstrap_samples else None,
            }
        )
    return found


def example_maps(candidates: Sequence[Candidate]) -> dict[str, Any]:
    """Where each candidate with attention looks while it writes the output for one test sentence."""
    maps = {}
    for candidate in candidates:
        sources = read_predictions(candidate.predictions[0]).sources
        sources = sorted(sources, key=lambda source: (len(source), source))
        model, tokenizer = candidate.load()
        if traits_of(model.config).has_cross_attention:
            maps[candidate.name] = cross_attention_map(model, tokenizer, sources[len(sources) // 2])
        if len(maps) == MOST_MAPS:
            break
    return maps


def write_table(rows: Sequence[str], path: Path) -> None:
    """Rows that are to be repeated, as a csv file."""
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["source", "target"])
        table.writerows([row, row] for row in rows)


def recall(
    options: Options, longest: int, updates: int, num_pairs: int, overrides: Sequence[str] = ()
) -> dict[str, Any]:
    """Trains RNN without, RNN with attention and Transformer to repeat rows of letters; accuracy by their length."""
    folder = options.folder / "recall"
    folder.mkdir(parents=True, exist_ok=True)
    sizes = {"train": num_pairs, "validation": max(10, num_pairs // 80), "test": max(20, num_pairs // 20)}
    letters = random.Random(options.seed)
    paths = {}
    for split, size in sizes.items():
        paths[split] = folder / f"{split}.csv"
        rows = [" ".join(letters.choices(LETTERS, k=letters.randint(1, longest))) for _ in range(size)]
        write_aside(paths[split], partial(write_table, rows))
    common = [
        "--dataset", "null", "--data.split", "null", "--source", "source", "--target", "target",
        *(word for split, path in paths.items() for word in (f"--{split}_files", str(path))),
        "--batch_tokens", str(BATCH_TOKENS), "--max_steps", str(updates), "--eval_steps", str(updates),
        "--learning_rate", "0.001", "--encoder_layers", "1", "--decoder_layers", "1",
        "--seed", str(options.seed), "--num_threads", "1", "--eval_metric", "null",
        "--metrics", "token_accuracy", "--bootstrap_samples", "0",
    ]  # fmt: skip
    runs = {}
    for recipe in RECIPES:
        config = str(files("seqloom.configs").joinpath(f"{recipe}.yaml"))
        settings = load_settings(config, [*common, *overrides, "--output_dir", str(folder / recipe)])
        runs[recipe] = settings
    train_all(list(runs.values()), options.num_jobs)
    width = max(1, longest // 8)
    buckets = [(low, min(low + width - 1, longest)) for low in range(1, longest + 1, width)]
    systems, statistics, of_rows = {}, {}, np.array([])
    for settings in runs.values():
        out = Path(settings.output_dir)
        record = run_folder.read_record(out)
        predictions = read_predictions(run_folder.evaluation(out, "test") / run_folder.PREDICTIONS)
        of_rows = np.array([len(reference.split()) for reference in predictions.references])
        traits = traits_of(AutoConfig.from_pretrained(out))
        statistics[traits.name] = [measure_sentences("token_accuracy", predictions)[1]]
        systems[traits.name] = {
            "description": traits.description,
            "traits": asdict(traits),
            "parameters": record["model"]["parameters"],
            "scores": [entry["score"] for entry in in_buckets(statistics[traits.name][0], of_rows, buckets, 0)],
        }
    traits_of_systems = {name: Traits(**system["traits"]) for name, system in systems.items()}
    return {
        "buckets": [list(bucket) for bucket in buckets], "updates": updates, "pairs": num_pairs, "systems": systems,
        "gaps": gaps(statistics, traits_of_systems, of_rows, buckets, max(2, options.bootstrap_samples)),
    }  # fmt: skip


def section(result: dict[str, Any]) -> Section:
    """What the scores say."""
    data, probe = result["data"], result["recall"]
    findings = [data_finding(data)] if data else []
    findings.append(recall_finding(probe))
    figure, panels = new_figure(2 if data else 1, height=4.2)
    if data:
        _draw_data(panels[0], data)
    for number, (name, system) in enumerate(probe["systems"].items()):
        places = [(low + high) / 2 for low, high in probe["buckets"]]
        panels[-1].plot(places, system["scores"], label=as_label(in_words(name)), **look(number))
    panels[-1].set_xlabel(say("letters to repeat"))
    panels[-1].set_ylabel(say("token accuracy (%)"))
    panels[-1].set_title(say("the recall task"), fontsize="medium")
    panels[-1].set_ylim(0, 103)
    panels[-1].set_xlim(left=0)
    for panel in panels:
        panel.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), fontsize="small", frameon=False)
    parts: list[Table | Plot | Passage] = [
        Plot("attention_or_none", figure, say("Quality against the length of the source."))
    ]
    headline: dict[str, dict[str, str]] = {}
    if data:
        label = metrics.label(data["metric"])
        header = [
            say("{low} to {high}", low=low, high=high) if low != high else f"{low}" for low, high in data["buckets"]
        ]
        rows = [[say("sentences"), *(f"{count:,}" for count in data["counts"])]]
        rows += [[name, *(f"{entry['score']:.2f}" for entry in entries)] for name, entries in data["scores"].items()]
        parts.append(
            Table(
                [say("source {unit}", unit=say(data["unit"])), *header],
                rows,
                say("{label} on the test data by source length.", label=label),
            )
        )
        first, last = header[0], header[-1]
        row = say(
            "attention: {label} on sources of {first} / of {last} {unit}",
            label=label,
            first=first,
            last=last,
            unit=say(data["unit"]),
        )
        headline[row] = {
            name: f"{entries[0]['score']:.1f} / {entries[-1]['score']:.1f}" for name, entries in data["scores"].items()
        }
    header = [say("{low} to {high}", low=low, high=high) for low, high in probe["buckets"]]
    rows = [
        [in_words(name), *(f"{score:.1f}" for score in system["scores"])] for name, system in probe["systems"].items()
    ]
    parts.append(Table([say("letters"), *header], rows, say("Token accuracy (%) of repeating rows of random letters.")))
    low, high = probe["buckets"][-1]
    headline[say("attention: recall of {low} to {high} letters", low=low, high=high)] = {
        name: f"{system['scores'][-1]:.1f} %" for name, system in probe["systems"].items()
    }
    if result["maps"]:
        parts.append(_draw_maps(result["maps"]))
    sizes = "; ".join(
        say(
            "{description}, {parameters:,} parameters",
            description=in_words(system["description"]),
            parameters=system["parameters"],
        )
        for system in probe["systems"].values()
    )
    return Section(
        title=say("Attention or none"),
        question=say("What is lost when one state of fixed size must hold the whole source?"),
        findings=findings,
        parts=parts,
        how=say(
            "On the test data: the sentences in buckets of source length, each bucket scored by itself "
            "(shaded: 95 % intervals). That long sources lose the most is tested by how much the gap between "
            "two models grows from the shortest sources to the longest, with the chance of sentences (and "
            "seeds, where there are several) in its error. The recall task: {pairs:,} rows of 1 to "
            "{longest} letters out of {letters} to be repeated, {updates:,} updates of "
            "{batch_tokens:,} tokens, Adam at the same rate for all ({sizes}), tested on rows not seen in "
            "training.",
            pairs=probe["pairs"],
            longest=probe["buckets"][-1][1],
            letters=len(LETTERS),
            updates=probe["updates"],
            batch_tokens=BATCH_TOKENS,
            sizes=sizes,
        ),
        limits=say(
            "Longer sentences are also harder in other ways, so a fall with length on the data is not the "
            "missing attention's alone; compare it with that of the models that have one. In the recall task "
            "it is, but a task of pure memory says little about language."
        ),
        headline=headline,
    )


def _draw_maps(maps: dict[str, Any]) -> Plot:
    """The maps of one sentence, side by side."""
    columns = min(2, len(maps))
    rows = -(-len(maps) // columns)
    longest = max(len(found["target_labels"]) for found in maps.values())
    figure, panels = new_figure(columns, rows, height=min(9.0, 1.6 + 0.25 * max(8, longest)))
    for panel in panels[len(maps) :]:
        panel.set_axis_off()
    for panel, (name, found) in zip(panels, maps.items(), strict=False):
        panel.grid(visible=False)
        draw_map(panel, found["source_labels"], found["target_labels"], found["weights"])
        panel.set_title(name, fontsize="medium")
    source = next(iter(maps.values()))["source"]
    caption = say(
        "Cross-attention for the test sentence of middle length, “{source}”: each row is a word being "
        "written, each column a word of the source, dark where the model looks (last layer, mean over "
        "heads), ringed where it looks most. seqloom attend draws such maps of any sentence.",
        source=source,
    )
    return Plot("attention_maps", figure, caption)


def _draw_data(panel, data: dict[str, Any]) -> None:
    places = [(low + high) / 2 for low, high in data["buckets"]]
    for number, (name, entries) in enumerate(data["scores"].items()):
        panel.plot(places, [entry["score"] for entry in entries], label=as_label(name), **look(number))
        if all(entry["interval"] for entry in entries):
            lows, highs = zip(*(entry["interval"] for entry in entries), strict=True)
            panel.fill_between(places, lows, highs, color=look(number)["color"], alpha=0.12, lw=0)
    label = metrics.label(data["metric"])
    panel.set_xlabel(say("length of the source ({unit})", unit=say(data["unit"])))
    panel.set_ylabel(f"{label} (%)")
    panel.set_title(say("the test data"), fontsize="medium")
