"""Quality: which candidate's outputs are better, and whether the difference is more than the choice of sentences.

Scores with 95 % intervals by bootstrap resampling (Koehn 2004); for every pair of candidates the tests of
`seqloom.significance` (paired bootstrap; approximate randomisation, Riezler & Maxwell 2005; McNemar's exact test), with
the p-values of a metric's pairs adjusted for their number (Holm 1979); and sentences that one of the two does better.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict
from statistics import fmean, stdev
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from seqloom.comparison.candidates import Candidate, Options
from seqloom.comparison.measures.quality_figures import differences_figure, scores_figure
from seqloom.comparison.sections import Passage, Plot, Section, Table
from seqloom.comparison.traits import recorded
from seqloom.scoring import metrics
from seqloom.scoring.against import paired_tests
from seqloom.scoring.normalization import signed
from seqloom.scoring.predictions import (
    Predictions,
    check_same_sentences,
    measure_sentences,
    normalizations,
    read_predictions,
    read_scores,
)
from seqloom.scoring.significance import (
    LEVEL,
    ROUNDING,
    SEED,
    Statistics,
    holm,
    sentence_scores,
    system_resamples,
    system_score,
)
from seqloom.support.console import has_terminal
from seqloom.support.wording import p_value, plural, together, with_interval

EXAMPLES = 3
"""Sentences of a pair that are shown for each of the two."""
EXAMPLE_PAIRS = 3
"""Pairs of which sentences are shown: the first in the order of the candidates."""
LONGEST = 300
"""Letters of a sentence that are shown."""
TESTS = {
    "bootstrap": "paired bootstrap",
    "randomisation": "approximate randomisation",
    "exact": "McNemar's exact test",
}


def measure(candidates: Sequence[Candidate], options: Options) -> dict[str, Any]:
    """Scores, paired tests and sentences, from the predictions that the candidates' runs left.

    Args:
        candidates: One or more, with predictions of the same sentences.
        options: ``bootstrap_samples`` counts.

    Raises:
        ValueError: Predictions are missing or damaged, not of the same sentences, or without a score.
    """
    predictions = {
        candidate.name: [read_predictions(path) for path in candidate.predictions] for candidate in candidates
    }
    for name, runs in predictions.items():
        if not runs:
            raise ValueError(f"{name} has no predictions to compare: score it with seqloom evaluate first.")
    check_same_sentences(
        {
            name if len(runs) == 1 else f"{name} (run {number})": run
            for name, runs in predictions.items()
            for number, run in enumerate(runs, start=1)
        }
    )
    kept = {candidate.name: [read_scores(path.parent) for path in candidate.predictions] for candidate in candidates}
    asked = list(dict.fromkeys(name for runs in kept.values() for run in runs for name in run.get("metrics", {})))
    kwargs: dict[str, dict[str, Any]] = {}
    for candidate in reversed(candidates):  # where recipes differ, the first one's hold for all
        if candidate.settings is not None:
            kwargs |= candidate.settings.evaluation.metric_kwargs
    results, statistics = {}, {}
    for name in tqdm([name for name in asked if name in metrics.METRICS], desc="quality", disable=not has_terminal()):
        measured = {
            system: [measure_sentences(name, run, **kwargs.get(name, {})) for run in runs]
            for system, runs in predictions.items()
        }
        statistics[name] = {system: [part for _, part in runs] for system, runs in measured.items()}
        every = (run for runs in predictions.values() for run in runs)
        signature = signed(next(iter(measured.values()))[0][0], normalizations(*every))
        results[name] = _results(name, statistics[name], signature, options.bootstrap_samples)
    if not results:
        raise ValueError("no score of the candidates is one of seqloom's own metrics; add chrf to evaluation.metrics.")
    shown = next(name for name in ("exact_match", "chrf", *results) if name in results)
    return {
        "candidates": [
            {
                "name": candidate.name,
                "traits": asdict(candidate.traits),
                "runs": len(candidate.predictions),
                "seeds": list(candidate.seeds),
                "generation": kept[candidate.name][0].get("generation", {}),
            }
            for candidate in candidates
        ],
        "split": kept[candidates[0].name][0].get("split"),
        "sentences": len(predictions[candidates[0].name][0].sources),
        "samples": options.bootstrap_samples,
        "metrics": results,
        "untested": _untested(kept, [name for name in asked if name not in metrics.METRICS]),
        "examples": {"metric": shown, "pairs": _examples(shown, predictions, statistics[shown])},
    }


def _results(name: str, systems: dict[str, list[Statistics]], signature: str, samples: int) -> dict[str, Any]:
    """Scores and tests of one metric."""
    scores = {}
    for system, runs in systems.items():
        each = [system_score([run]) for run in runs]
        scores[system] = {
            "score": system_score(runs),
            "interval": np.quantile(system_resamples(runs, samples), (0.025, 0.975)).tolist(),
            "runs": each,
            "spread": stdev(each) if len(each) > 1 else None,
        }
    pairs = [
        {"a": a, "b": b, **paired_tests(name, systems[a], systems[b], samples)}
        for a, b in itertools.combinations(systems, 2)
    ]
    for pair, adjusted in zip(pairs, holm([pair["p"] for pair in pairs]), strict=True):
        pair["p_holm"] = adjusted
        pair["better"] = pair["better"] and (pair[pair["better"]] if adjusted < LEVEL else None)
    return {
        "higher_is_better": metrics.higher_is_better(name),
        "signature": signature,
        "scores": scores,
        "pairs": pairs,
    }


def _untested(kept: dict[str, list[dict[str, Any]]], names: list[str]) -> dict[str, dict[str, float | None]]:
    """Mean scores of the Hub's metrics, as the runs' own scoring has them."""
    scores = {}
    for name in names:
        of_runs = {
            system: [run.get("metrics", {}).get(name, {}).get("score") for run in runs] for system, runs in kept.items()
        }
        scores[name] = {system: None if None in values else fmean(values) for system, values in of_runs.items()}
    return scores


def _examples(
    metric: str, predictions: dict[str, list[Predictions]], statistics: dict[str, list[Statistics]]
) -> list[dict[str, Any]]:
    """For each pair, sentences on which the first runs' own scores are farthest apart, either way."""
    sign = 1 if metrics.higher_is_better(metric) else -1
    scores = {name: sentence_scores(runs[:1]) for name, runs in statistics.items()}
    pairs = []
    for a, b in list(itertools.combinations(predictions, 2))[:EXAMPLE_PAIRS]:
        margins = sign * (scores[a] - scores[b])
        entry: dict[str, Any] = {"a": a, "b": b}
        for better, gains in (("a", margins), ("b", -margins)):
            order = np.argsort(-gains, kind="stable")[:EXAMPLES]  # of equals, the first in the data
            entry[f"better_{better}"] = [
                {
                    "line": int(index) + 1,
                    "source": predictions[a][0].sources[index],
                    "reference": predictions[a][0].references[index],
                    "hypotheses": [predictions[name][0].hypotheses[index] for name in (a, b)],
                    "scores": [float(scores[name][index]) for name in (a, b)],
                }
                for index in order
                if gains[index] > ROUNDING
            ]
        pairs.append(entry)
    return pairs


def section(result: dict[str, Any]) -> Section:
    """What the numbers say."""
    names = [candidate["name"] for candidate in result["candidates"]]
    pairs = [pair for entry in result["metrics"].values() for pair in entry["pairs"]]
    several = any(candidate["runs"] > 1 for candidate in result["candidates"])
    parts: list[Table | Plot | Passage] = [_scores_table(result, several)]
    parts.append(
        Plot(
            "quality",
            scores_figure(result),
            f"Scores of {together(names)} with their 95 % intervals"
            + (", and each seed's own score as a small dot. " if several else ". ")
            + _in_words(result),
        )
    )
    if pairs:
        parts += [_tests_table(result), Plot("quality_differences", differences_figure(result), _DIFFERENCES_CAPTION)]
    signatures = [[metrics.label(name), entry["signature"]] for name, entry in result["metrics"].items()]
    parts.append(Table(["metric", "signature"], signatures, "How each score was made."))
    parts += _passages(result)
    decoding = {json.dumps(candidate["generation"], sort_keys=True) for candidate in result["candidates"]}
    return Section(
        title="Quality",
        question="Whose outputs are better, and is the difference more than the choice of test sentences?",
        findings=[
            *(finding for name, entry in result["metrics"].items() for finding in _differing(name, entry)),
            *_expected(result),
        ],
        parts=parts,
        how=(
            f"The {result['sentences']:,} sentences of the {result['split']} split, the same for all. Intervals: the "
            f"percentiles 2.5 and 97.5 of {result['samples']:,} bootstrap resamples of the sentences (Koehn 2004; seed "
            f"{SEED}, the same resamples for all). Pairs: paired bootstrap as sacrebleu has it; approximate "
            f"randomisation with {result['samples']:,} swaps (Riezler & Maxwell 2005); for exact match of one run "
            "each, McNemar's exact test. The last of these that applies decides, at p < 0.05, after Holm's adjustment "
            "for the number of pairs of a metric."
            + (" The score of several seeds is the mean of theirs." if several else "")
            + (" The candidates were not decoded with the same settings." if len(decoding) > 1 else "")
        ),
        limits=(
            "The sentences are taken as independent of each other; where neighbours are of one document, differences "
            "are less certain than the p-values say. No difference found is not the same as no difference. The tests "
            "do not know what other training seeds would give"
            + ("; the spread over the seeds shows some of it." if several else ": compare several seeds to see it.")
            + _too_few_samples(result)
            + " Automatic metrics compare with one reference each, and are not the judgement of people."
        ),
        headline={
            f"{metrics.label(name)} (%) [95 % interval]": {
                system: with_interval(score["score"], score["interval"]) for system, score in entry["scores"].items()
            }
            for name, entry in result["metrics"].items()
        },
    )


def _too_few_samples(result: dict[str, Any]) -> str:
    """Where the smallest p-value that there can be, adjusted for the number of pairs, is no small one."""
    pairs = len(next(iter(result["metrics"].values()))["pairs"])
    if pairs / (result["samples"] + 1) < LEVEL:
        return ""
    return (
        f" With {plural(pairs, 'pair')} and {result['samples']:,} samples, resampling cannot find a difference after "
        "Holm's adjustment: take more samples or fewer candidates."
    )


_DIFFERENCES_CAPTION = (
    "Differences of the pairs with their 95 % intervals around the line of no difference; filled where p is below 0.05 "
    "after Holm's adjustment, hollow where no difference was found."
)


def _differing(name: str, entry: dict[str, Any]) -> list[str]:
    """Which pairs differ on a metric and which do not."""
    pairs = entry["pairs"]
    if not pairs:
        return []
    found = sorted((pair for pair in pairs if pair["better"]), key=lambda pair: -abs(pair["difference"]))
    others = sorted((pair for pair in pairs if not pair["better"]), key=lambda pair: pair["p_holm"])
    said = []
    for pair in found:
        worse = pair["b"] if pair["better"] == pair["a"] else pair["a"]
        turned = 1 if pair["better"] == pair["a"] else -1
        low, high = sorted(turned * bound for bound in pair["interval"])
        gap = f"{turned * pair['difference']:+.2f} [{low:+.2f}, {high:+.2f}]"
        said.append(f"{pair['better']} is better than {worse} by {gap} ({_p(pair)})")
    missing = [f"{pair['a']} and {pair['b']} ({pair['difference']:+.2f}, {_p(pair)})" for pair in others]
    direction = "" if entry["higher_is_better"] else " (less is better)"
    sentences = f"{metrics.label(name)}{direction}: " + (f"{_some(said)}." if said else "")
    if missing:
        sentences += (
            f" No difference was found between {_some(missing)}."
            if said
            else (f"no difference was found between {_some(missing)}.")
        )
    return [sentences]


def _expected(result: dict[str, Any]) -> list[str]:
    """Whether Transformers are better than recurrent models."""
    traits = {candidate["name"]: recorded(candidate) for candidate in result["candidates"]}
    verdicts = []
    for name, entry in result["metrics"].items():
        crossed = [
            pair
            for pair in entry["pairs"]
            for one, other in itertools.permutations((traits[pair["a"]], traits[pair["b"]]))
            if one.is_recurrent and other.is_transformer
        ]
        winners = [traits[pair["better"]].is_transformer for pair in crossed if pair["better"]]
        ahead, behind = winners.count(True), winners.count(False)
        if crossed:
            verdict = "SEEN" if ahead > 0 == behind else "NOT SEEN"
            verdicts.append(
                f"{verdict} in {metrics.label(name)} (better in {ahead} of {plural(len(crossed), 'pair')} of the two "
                f"kinds, worse in {behind})"
            )
    if not verdicts:
        return []
    return [
        "Expected after Vaswani et al. (2017), who trained on millions of sentences: Transformers score better than "
        f"recurrent models. {'; '.join(verdicts)}."
    ]


def _scores_table(result: dict[str, Any], several: bool) -> Table:
    rows = []
    for candidate in result["candidates"]:
        cells = []
        for entry in result["metrics"].values():
            score = entry["scores"][candidate["name"]]
            spread = f" ± {score['spread']:.2f}" if score["spread"] is not None else ""
            cells.append(f"{score['score']:.2f}{spread} [{score['interval'][0]:.2f}, {score['interval'][1]:.2f}]")
        hub = (scores[candidate["name"]] for scores in result["untested"].values())
        runs = [str(candidate["runs"])] if several else []
        rows.append([candidate["name"], *runs, *cells, *("" if score is None else f"{score:.2f}" for score in hub)])
    header = ["candidate", *(["seeds"] if several else []), *map(metrics.label, result["metrics"]), *result["untested"]]
    caption = "Scores in percent with 95 % intervals"
    caption += "; behind ±, the standard deviation of the seeds' scores." if several else "."
    if result["untested"]:
        caption += (
            f" {together(list(result['untested']))} of the Hub: in its own unit and untested, since such a metric does "
            "not tell what its score is made of."
        )
    return Table(header, rows, caption)


def _tests_table(result: dict[str, Any]) -> Table:
    rows = [
        [
            metrics.label(name),
            f"{pair['a']} − {pair['b']}",
            with_interval(pair["difference"], pair["interval"], "+"),
            *(p_value(pair[f"p_{test}"]) for test in ("bootstrap", "randomisation", "exact", "holm")),
            f"{pair['wins']:,} / {pair['losses']:,} / {pair['ties']:,}",
            pair["better"] or "not found",
        ]
        for name, entry in result["metrics"].items()
        for pair in entry["pairs"]
    ]
    header = ["metric", "pair", "difference", "p bootstrap", "p randomisation", "p exact", "p Holm"]
    header += ["wins / losses / ties", "better"]
    caption = (
        "Paired tests: differences in points with 95 % intervals; p Holm is the last p before it, adjusted for the "
        "number of pairs of the metric. Wins are sentences on which the first of the pair scores better by itself."
    )
    used = [number for number in range(len(header)) if number != 5 or any(row[number] for row in rows)]
    return Table([header[n] for n in used], [[row[n] for n in used] for row in rows], caption)


def _passages(result: dict[str, Any]) -> list[Passage]:
    """Sentences that one of a pair does better than the other."""
    metric, passages = result["examples"]["metric"], []
    several = any(candidate["runs"] > 1 for candidate in result["candidates"])
    for pair in result["examples"]["pairs"]:
        for better, worse in (("a", "b"), ("b", "a")):
            found = pair[f"better_{better}"]
            if not found:
                continue
            what = (
                f"{pair[better]} is right and {pair[worse]} wrong"
                if metric == "exact_match"
                else f"{pair[better]} is farthest ahead of {pair[worse]} ({metrics.label(metric)} of the sentence)"
            )
            lines = []
            for entry in found:
                texts = _excerpts([entry["source"]]) + _excerpts([entry["reference"], *entry["hypotheses"]])
                scores = ["", ""] if metric == "exact_match" else [f" ({score:.1f})" for score in entry["scores"]]
                lines += [
                    f"Line {entry['line']:,}. Source: {texts[0]}",
                    f"Reference: {texts[1]}",
                    *(f"{pair[k]}{s}: {text}" for k, s, text in zip("ab", scores, texts[2:], strict=True)),
                ]
            passages.append(Passage(f"Where {what}" + (", first seeds" if several else ""), lines))
    return passages


def _excerpts(texts: list[str]) -> list[str]:
    """Long texts cut to where they begin to differ."""
    same = next((n for n, letters in enumerate(itertools.zip_longest(*texts)) if len(set(letters)) > 1), 0)
    start = max(0, same - LONGEST // 3) if max(map(len, texts)) > LONGEST else 0
    return [
        ("…" if start else "") + text[start : start + LONGEST] + ("…" if len(text) > start + LONGEST else "")
        for text in texts
    ]


def _in_words(result: dict[str, Any]) -> str:
    """The best of each metric; of equals, all."""
    said = []
    for name, entry in result["metrics"].items():
        scores = {system: score["score"] for system, score in entry["scores"].items()}
        best = (max if entry["higher_is_better"] else min)(scores.values())
        chosen = [system for system, score in scores.items() if abs(score - best) <= ROUNDING]
        whose = f"best for {together(chosen)}" if len(chosen) < len(scores) else "the same for all"
        said.append(f"{metrics.label(name)} is {f'{whose}, ' if len(scores) > 1 else ''}{best:.2f}")
    return "; ".join(said) + "."


def _p(pair: dict[str, Any]) -> str:
    adjusted = "" if pair["p_holm"] == pair["p"] else f", {p_value(pair['p_holm'])} after Holm"
    return f"p {'' if pair['p'] < 0.001 else '= '}{p_value(pair['p'])} by {TESTS[pair['test']]}{adjusted}"


def _some(items: list[str], limit: int = 6) -> str:
    return "; ".join(items[:limit]) + (f"; and {len(items) - limit} more" if len(items) > limit else "")
