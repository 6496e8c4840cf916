"""Attention or none: quality against the length of the source, on the test data and on a task of pure recall.

Without attention one state of fixed size must hold the whole source, and long sentences are lost (Cho et al. 2014b,
arXiv:1409.1259; Bahdanau et al. 2015, figure 2). The recall task asks for nothing else: a row of random letters is to
be repeated.
"""

from __future__ import annotations

import csv
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
from seqloom.comparison.sections import Passage, Plot, Section, Table
from seqloom.comparison.trainings import train_all
from seqloom.comparison.traits import recorded, traits_of
from seqloom.figures.style import as_label, look, new_figure
from seqloom.scoring import metrics
from seqloom.scoring.predictions import check_same_sentences, measure_sentences, read_predictions, read_scores
from seqloom.scoring.significance import Statistics, interval
from seqloom.settings.reading import load_settings
from seqloom.support.disk import write_aside

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
    kept = read_scores(candidates[0].predictions[0].parent).get("metrics", {})
    name = next((metric for metric in kept if metric in metrics.METRICS), "chrf")
    recipe = next((candidate.settings for candidate in candidates if candidate.settings is not None), None)
    options = recipe.evaluation.metric_kwargs.get(name, {}) if recipe else {}
    sources = next(iter(found.values())).sources
    lengths, unit = np.array([len(source.split()) for source in sources]), "words"
    if np.median(lengths) <= 1:  # a script without spaces
        lengths, unit = np.array([len(source) for source in sources]), "characters"
    buckets = cut(lengths, num_buckets)
    scores = {
        system: in_buckets(measure_sentences(name, predictions, **options)[1], lengths, buckets, bootstrap_samples)
        for system, predictions in found.items()
    }
    counts = [int(((lengths >= low) & (lengths <= high)).sum()) for low, high in buckets]
    traits = {candidate.name: {"traits": asdict(candidate.traits)} for candidate in candidates}
    return {
        "metric": name, "unit": unit, "buckets": [list(bucket) for bucket in buckets], "counts": counts,
        "scores": scores, "kinds": traits,
    }  # fmt: skip


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
    for low, high in buckets:
        values = statistics.values[(lengths >= low) & (lengths <= high)]  # (sentences in it, statistics)
        part = Statistics(values, statistics.score)
        found.append(
            {
                "score": float(part.score(values.sum(0))),
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
    systems = {}
    for settings in runs.values():
        out = Path(settings.output_dir)
        record = run_folder.read_record(out)
        predictions = read_predictions(run_folder.evaluation(out, "test") / run_folder.PREDICTIONS)
        lengths = np.array([len(reference.split()) for reference in predictions.references])
        _, statistics = measure_sentences("token_accuracy", predictions)
        traits = traits_of(AutoConfig.from_pretrained(out))
        systems[traits.name] = {
            "description": traits.description,
            "traits": asdict(traits),
            "parameters": record["model"]["parameters"],
            "scores": [entry["score"] for entry in in_buckets(statistics, lengths, buckets, 0)],
        }
    return {"buckets": [list(bucket) for bucket in buckets], "updates": updates, "pairs": num_pairs, "systems": systems}


def section(result: dict[str, Any]) -> Section:
    """What the scores say."""
    data, probe = result["data"], result["recall"]
    findings = [_finding(data)] if data else []
    findings.append(_recall_finding(probe))
    figure, panels = new_figure(2 if data else 1, height=4.2)
    if data:
        _draw_data(panels[0], data)
    for number, (name, system) in enumerate(probe["systems"].items()):
        places = [(low + high) / 2 for low, high in probe["buckets"]]
        panels[-1].plot(places, system["scores"], label=as_label(name), **look(number))
    panels[-1].set_xlabel("letters to repeat")
    panels[-1].set_ylabel("token accuracy (%)")
    panels[-1].set_title("the recall task", fontsize="medium")
    panels[-1].set_ylim(0, 103)
    panels[-1].set_xlim(left=0)
    for panel in panels:
        panel.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), fontsize="small", frameon=False)
    parts: list[Table | Plot | Passage] = [
        Plot("attention_or_none", figure, "Quality against the length of the source.")
    ]
    headline: dict[str, dict[str, str]] = {}
    if data:
        label = metrics.label(data["metric"])
        header = [f"{low} to {high}" if low != high else f"{low}" for low, high in data["buckets"]]
        rows = [["sentences", *(f"{count:,}" for count in data["counts"])]]
        rows += [[name, *(f"{entry['score']:.2f}" for entry in entries)] for name, entries in data["scores"].items()]
        parts.append(Table([f"source {data['unit']}", *header], rows, f"{label} on the test data by source length."))
        first, last = header[0], header[-1]
        headline[f"attention: {label} on sources of {first} / of {last} {data['unit']}"] = {
            name: f"{entries[0]['score']:.1f} / {entries[-1]['score']:.1f}" for name, entries in data["scores"].items()
        }
    header = [f"{low} to {high}" for low, high in probe["buckets"]]
    rows = [[name, *(f"{score:.1f}" for score in system["scores"])] for name, system in probe["systems"].items()]
    parts.append(Table(["letters", *header], rows, "Token accuracy (%) of repeating rows of random letters."))
    low, high = probe["buckets"][-1]
    headline[f"attention: recall of {low} to {high} letters"] = {
        name: f"{system['scores'][-1]:.1f} %" for name, system in probe["systems"].items()
    }
    if result["maps"]:
        parts.append(_draw_maps(result["maps"]))
    sizes = "; ".join(
        f"{system['description']}, {system['parameters']:,} parameters" for system in probe["systems"].values()
    )
    return Section(
        title="Attention or none",
        question="What is lost when one state of fixed size must hold the whole source?",
        findings=findings,
        parts=parts,
        how="On the test data: the sentences in buckets of source length, each bucket scored by itself (shaded: 95 % "
        f"bootstrap intervals). The recall task: {probe['pairs']:,} rows of 1 to {probe['buckets'][-1][1]} letters out "
        f"of {len(LETTERS)} to be repeated, {probe['updates']:,} updates of {BATCH_TOKENS:,} tokens, Adam at the same "
        f"rate for all ({sizes}), tested on rows not seen in training.",
        limits="Longer sentences are also harder in other ways, so a fall with length on the data is not the missing "
        "attention's alone; compare it with that of the models that have one. In the recall task it is, but a task of "
        "pure memory says little about language.",
        headline=headline,
    )  # fmt: skip


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
    caption = (
        f"Cross-attention for the test sentence of middle length, “{source}”: each row is a word being written, each "
        "column a word of the source, dark where the model looks (last layer, mean over heads), ringed where it looks "
        "most. seqloom attend draws such maps of any sentence."
    )
    return Plot("attention_maps", figure, caption)


def _finding(data: dict[str, Any]) -> str:
    """Whether models without attention fall behind on long sources, on the test data, and more than on short ones."""
    label = metrics.label(data["metric"])
    sign = 1 if metrics.higher_is_better(data["metric"]) else -1
    attends = {name: recorded(told).has_cross_attention for name, told in data["kinds"].items()}
    without, others = ([name for name, answer in attends.items() if answer is is_so] for is_so in (False, True))
    ends = {name: (entries[0]["score"], entries[-1]["score"]) for name, entries in data["scores"].items()}
    expected = "Expected (Cho et al. 2014b; Bahdanau et al. 2015): without attention, long sources lose the most."
    told = "; ".join(f"{name} {first:.1f} and {last:.1f}" for name, (first, last) in ends.items())
    told = f"{label} on the shortest and on the longest sources: {told}."
    if not without or not others:
        return f"{expected} Not to be seen here, for want of a model with attention and one without. {told}"
    best = max(others, key=lambda name: sign * ends[name][1])
    seen: list[str] = []
    missed: list[str] = []
    for name in without:
        short, long = (sign * (ends[best][end] - ends[name][end]) for end in (0, 1))
        gap = f"{name} is {short:.1f} points behind {best} on the shortest and {long:.1f} on the longest"
        is_behind = _is_behind(data["scores"][name][-1], data["scores"][best][-1], sign)
        (seen if is_behind and long > short else missed).append(gap)
    verdict = [f"SEEN: {'; '.join(seen)}."] * bool(seen) + [f"NOT SEEN: {'; '.join(missed)}."] * bool(missed)
    return f"{expected} {' '.join(verdict)} {told}"


def _is_behind(entry: dict[str, Any], best: dict[str, Any], sign: int) -> bool:
    """Whether a bucket's score is worse, and the intervals do not overlap where there are some."""
    if entry["interval"] is None or best["interval"] is None:
        return sign * entry["score"] < sign * best["score"]
    worse, better = (sorted(sign * bound for bound in part["interval"]) for part in (entry, best))
    return worse[1] < better[0]


def _recall_finding(probe: dict[str, Any]) -> str:
    """Whether the model without attention, and it alone, forgets with the length."""
    ends = {name: (system["scores"][0], system["scores"][-1]) for name, system in probe["systems"].items()}
    (first_low, first_high), (low, high) = probe["buckets"][0], probe["buckets"][-1]
    told = "; ".join(f"{name} {first:.0f} % and {last:.0f} %" for name, (first, last) in ends.items())
    falls = [name for name, (first, last) in ends.items() if last < first - 20]
    attends = {
        name: recorded(system if "traits" in system else name).has_cross_attention
        for name, system in probe["systems"].items()
    }
    without = [name for name in ends if attends[name] is False]
    others = [name for name in falls if name not in without]
    verdict = "SEEN" if without and set(without) <= set(falls) else "NOT SEEN"
    also = f" (but {', '.join(others)} falls too)" if others else ""
    return (
        "Expected: to repeat what was read, a state of fixed size suffices for a few letters, and attention for many. "
        f"{verdict}{also}: token accuracy on {first_low} to {first_high} and on {low} to {high} letters: {told}."
    )


def _draw_data(panel, data: dict[str, Any]) -> None:
    places = [(low + high) / 2 for low, high in data["buckets"]]
    for number, (name, entries) in enumerate(data["scores"].items()):
        panel.plot(places, [entry["score"] for entry in entries], label=as_label(name), **look(number))
        if all(entry["interval"] for entry in entries):
            lows, highs = zip(*(entry["interval"] for entry in entries), strict=True)
            panel.fill_between(places, lows, highs, color=look(number)["color"], alpha=0.12, lw=0)
    label = metrics.label(data["metric"])
    panel.set_xlabel(f"length of the source ({data['unit']})")
    panel.set_ylabel(f"{label} (%)")
    panel.set_title("the test data", fontsize="medium")
