"""Quality: which candidate's outputs are better, and whether the difference is more than the choice of sentences.

Scores with 95 % intervals by bootstrap resampling (Koehn 2004); for every pair of candidates the tests of
`seqloom.significance` (paired bootstrap; approximate randomisation, Riezler & Maxwell 2005; McNemar's exact test), with
the p-values of a metric's pairs adjusted for their number (Holm 1979); and sentences that one of the two does better.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict
from statistics import fmean, stdev
from typing import Any

from seqloom.comparison.candidates import Candidate, Options
from seqloom.comparison.measures.predicted import metric_of_examples, predicted
from seqloom.comparison.measures.quality_examples import examples, passages
from seqloom.comparison.measures.quality_figures import differences_figure, scores_figure
from seqloom.comparison.sections import Passage, Plot, Section, Table
from seqloom.comparison.traits import recorded
from seqloom.comparison.verdicts import TRAINED, Case, Verdict, judged
from seqloom.scoring import metrics
from seqloom.scoring.against import decoding_in_words, paired_tests, settings_read
from seqloom.scoring.normalization import signed
from seqloom.scoring.predictions import normalizations
from seqloom.scoring.significance import (
    LEVEL,
    ROUNDING,
    SEED,
    Statistics,
    holm,
    system_interval,
    system_score,
)
from seqloom.support.wording import p_value, plural, together, with_interval

TESTS = {
    "bootstrap": "paired bootstrap",
    "randomisation": "approximate randomisation",
    "exact": "McNemar's exact test",
    "seeds": "Welch's test of seeds and sentences",
}


def measure(candidates: Sequence[Candidate], options: Options) -> dict[str, Any]:
    """Scores, paired tests and sentences, from the predictions that the candidates' runs left.

    Args:
        candidates: One or more, with predictions of the same sentences.
        options: ``bootstrap_samples`` counts.

    Raises:
        ValueError: Predictions are missing or damaged, not of the same sentences, or without a score.
    """
    read = predicted(candidates)
    predictions, kept = read.outputs, read.scores
    every = [run for runs in predictions.values() for run in runs]
    results, statistics = {}, {}
    for name, (signature, systems) in read.statistics().items():
        statistics[name] = systems
        results[name] = _results(name, systems, signed(signature, normalizations(*every)), options.bootstrap_samples)
    shown = metric_of_examples(list(results))
    return {
        "candidates": [
            {
                "name": candidate.name,
                "traits": asdict(candidate.traits),
                "runs": len(candidate.predictions),
                "seeds": list(candidate.seeds),
                "generation": kept[candidate.name][0].get("generation", {}),
                "is_run": candidate.settings is not None,
                "empty": sum(not text.strip() for run in predictions[candidate.name] for text in run.hypotheses),
            }
            for candidate in candidates
        ],
        "split": kept[candidates[0].name][0].get("split"),
        "sentences": len(predictions[candidates[0].name][0].sources),
        "samples": options.bootstrap_samples,
        "metrics": results,
        "untested": _untested(kept, [name for name in read.asked if name not in metrics.METRICS]),
        "examples": {"metric": shown, "pairs": examples(shown, predictions, statistics[shown])},
    }


def _results(name: str, systems: dict[str, list[Statistics]], signature: str, samples: int) -> dict[str, Any]:
    """Scores and tests of one metric."""
    scores = {}
    for system, runs in systems.items():
        each = [system_score([run]) for run in runs]
        scores[system] = {
            "score": system_score(runs),
            "interval": system_interval(runs, samples),
            "runs": each,
            "spread": stdev(each) if len(each) > 1 else None,
        }
    pairs = [
        {"a": a, "b": b, **paired_tests(name, systems[a], systems[b], samples)}
        for a, b in itertools.combinations(systems, 2)
    ]
    tested = [pair for pair in pairs if pair["p"] is not None]
    for pair in pairs:
        pair["p_holm"] = None
    for pair, adjusted in zip(tested, holm([pair["p"] for pair in tested]), strict=True):
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
    parts += passages(result)
    said = remarks(result)
    return Section(
        title="Quality",
        question="Whose outputs are better, and is the difference more than the choice of test sentences?",
        findings=[
            *(finding for name, entry in result["metrics"].items() for finding in _differing(name, entry, result)),
            *said,
            *_expected(result),
        ],
        parts=parts,
        how=(
            f"The {result['sentences']:,} sentences of the {result['split']} split, the same for all. Intervals: the "
            f"percentiles 2.5 and 97.5 of {result['samples']:,} bootstrap resamples of the sentences (Koehn 2004; seed "
            f"{SEED}, the same resamples for all); of shares of right sentences or tokens Wilson's (1927). "
            "Pairs: paired bootstrap as sacrebleu has it; approximate "
            f"randomisation with {result['samples']:,} swaps (Riezler & Maxwell 2005); for exact match of one run "
            "each, McNemar's exact test; for several seeds each, Welch's test of the difference over its error by the "
            "resampled sentences and the spread of the seeds together. The last of these that applies decides, at p < "
            "0.05, after Holm's adjustment for the number of pairs of a metric; one run against several is not tested, "
            "and the bootstrap alone decides nothing."
            + (
                " The score of several seeds is the mean of theirs; its interval is of other seeds and sentences."
                if several
                else ""
            )
        ),
        limits=(
            "The sentences are taken as independent of each other; where neighbours are of one document, differences "
            "are less certain than the p-values say. No difference found is not the same as no difference."
            + ("" if several else " What other training seeds would give is not in the tests: compare several seeds.")
            + _too_few_samples(result)
            + " Automatic metrics compare with one reference each, and are not the judgement of people."
        ),
        cautions=said,
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


def remarks(result: dict[str, Any]) -> list[str]:
    """What is to be known beside the scores: other decoding settings, empty outputs, models of others."""
    candidates, said = result["candidates"], []
    ways: dict[str, list[str]] = {}
    for candidate in candidates:
        ways.setdefault(decoding_in_words(settings_read(candidate["generation"])), []).append(candidate["name"])
    if len(ways) > 1:
        told = "; ".join(f"{together(names)} with {way}" for way, names in ways.items())
        said.append(
            f"The candidates were not decoded with the same settings ({told}): a difference may be the decoding's, not "
            "the models'."
        )
    for candidate in candidates:
        if candidate.get("empty"):
            number = result["sentences"] * candidate["runs"]
            said.append(f"{candidate['name']} wrote nothing for {candidate['empty']:,} of {number:,} sentences.")
    others = [candidate["name"] for candidate in candidates if not candidate.get("is_run", True)]
    if others:
        said.append(
            f"{together(others)} {'is no run' if len(others) == 1 else 'are no runs'} of seqloom: what training it "
            "had is not known here, and the test sentences may have been part of it."
        )
    return said


def _differing(name: str, entry: dict[str, Any], result: dict[str, Any]) -> list[str]:
    """Which pairs differ on a metric and which do not."""
    pairs = entry["pairs"]
    if not pairs:
        return []
    found = sorted((pair for pair in pairs if pair["better"]), key=lambda pair: -abs(pair["difference"]))
    untested = [f"{pair['a']} and {pair['b']}" for pair in pairs if pair["p"] is None]
    others = [pair for pair in pairs if not pair["better"] and pair["p"] is not None]
    others.sort(key=lambda pair: pair["p_holm"])
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
    if untested:
        sentences += f" Not tested, one run against several: {_some(untested)}."
    runs = {candidate["name"]: candidate["runs"] for candidate in result["candidates"]}
    if any(runs[pair["a"]] == runs[pair["b"]] == 1 for pair in pairs):
        sentences += f" {TRAINED}"
    return [" ".join(sentences.split())]


def _expected(result: dict[str, Any]) -> list[str]:
    """Whether Transformers are better than recurrent models, pair by pair as the tests have it."""
    traits = {candidate["name"]: recorded(candidate) for candidate in result["candidates"]}
    said = []
    for name, entry in result["metrics"].items():
        cases = []
        for pair in entry["pairs"]:
            for one, other in itertools.permutations((pair["a"], pair["b"])):
                if traits[one].is_transformer and traits[other].is_recurrent:
                    found: Verdict = "SEEN" if pair["better"] == one else "NOT SEEN" if pair["better"] else "NOT CLEAR"
                    cases.append(Case(f"{one} and {other}", found))
        if cases:
            of_each = "; ".join(f"{verdict} of {', '.join(texts)}" for verdict, texts in judged(cases).items())
            said.append(f"{metrics.label(name)}: {of_each}.")
    if not said:
        return []
    return [
        "Expected after Vaswani et al. (2017), who trained on millions of sentences: Transformers score better than "
        f"recurrent models. {' '.join(said)}"
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
    return Table(header, rows, " ".join([caption, *remarks(result)]))


def _tests_table(result: dict[str, Any]) -> Table:
    rows = [
        [
            metrics.label(name),
            f"{pair['a']} − {pair['b']}",
            with_interval(pair["difference"], pair["interval"], "+"),
            *(p_value(pair.get(f"p_{test}")) for test in ("bootstrap", "randomisation", "exact", "seeds", "holm")),
            f"{pair['wins']:,} / {pair['losses']:,} / {pair['ties']:,}",
            pair["better"] or ("not tested" if pair["p"] is None else "not found"),
        ]
        for name, entry in result["metrics"].items()
        for pair in entry["pairs"]
    ]
    header = ["metric", "pair", "difference", "p bootstrap", "p randomisation", "p exact", "p seeds"]
    header += ["p Holm"]
    header += ["wins / losses / ties", "better"]
    caption = (
        "Paired tests: differences in points with 95 % intervals; p Holm is the last p before it, adjusted for the "
        "number of pairs of the metric. Wins are sentences on which the first of the pair scores better by itself."
    )
    used = [number for number in range(len(header)) if number not in (5, 6) or any(row[number] for row in rows)]
    return Table([header[n] for n in used], [[row[n] for n in used] for row in rows], caption)


def _in_words(result: dict[str, Any]) -> str:
    """The highest of each metric, with those that no test tells from it; of equals, all."""
    said = []
    for name, entry in result["metrics"].items():
        scores = {system: score["score"] for system, score in entry["scores"].items()}
        best = (max if entry["higher_is_better"] else min)(scores.values())
        top = {system for system, score in scores.items() if abs(score - best) <= ROUNDING}
        apart = {
            frozenset((pair["a"], pair["b"])) for pair in entry["pairs"] if pair["better"]
        }  # fmt: skip
        chosen = [s for s in scores if s in top or any(frozenset((s, one)) not in apart for one in top)]
        if len(scores) == 1:
            said.append(f"{metrics.label(name)} is {best:.2f}")
        elif len(top) == len(scores):
            said.append(f"{metrics.label(name)} is the same for all, {best:.2f}")
        elif len(chosen) == 1:
            said.append(f"{metrics.label(name)} is best for {chosen[0]}, {best:.2f}")
        else:
            values = together([f"{system} {scores[system]:.2f}" for system in chosen])
            said.append(f"{metrics.label(name)}: at the top, and not told apart, are {values}")
    return "; ".join(said) + "."


def _p(pair: dict[str, Any]) -> str:
    adjusted = "" if pair["p_holm"] == pair["p"] else f", {p_value(pair['p_holm'])} after Holm"
    return f"p {'' if pair['p'] < 0.001 else '= '}{p_value(pair['p'])} by {TESTS[pair['test']]}{adjusted}"


def _some(items: list[str], limit: int = 6) -> str:
    return "; ".join(items[:limit]) + (f"; and {len(items) - limit} more" if len(items) > limit else "")
