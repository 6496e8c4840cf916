"""Quality: which candidate's outputs are better, and whether the difference is more than the choice of sentences.

Scores with 95 % intervals by bootstrap resampling (Koehn 2004); for every pair of candidates the tests of
`seqloom.scoring.significance` (paired bootstrap; approximate randomisation, Riezler & Maxwell 2005; McNemar's exact
test), with the p-values of a metric's pairs adjusted for their number (Holm 1979); and sentences that one of the two
does better.
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
from seqloom.comparison.measures.quality_tables import scores_table, tests_table
from seqloom.comparison.remedies import as_good
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
from seqloom.support.language import later, say
from seqloom.support.wording import p_value, plural, together, with_interval

TESTS = {
    "bootstrap": later("paired bootstrap"),
    "randomisation": later("approximate randomisation"),
    "exact": later("McNemar's exact test"),
    "seeds": later("Welch's test of seeds and sentences"),
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
    said = remarks(result)
    parts: list[Table | Plot | Passage] = [scores_table(result, several, said)]
    parts.append(
        Plot(
            "quality",
            scores_figure(result),
            say(
                "Scores of {names} with their 95 % intervals, and each seed's own score as a small dot."
                if several
                else "Scores of {names} with their 95 % intervals.",
                names=together(names),
            )
            + f" {_in_words(result)}",
        )
    )
    if pairs:
        parts += [
            tests_table(result),
            Plot("quality_differences", differences_figure(result), say(_DIFFERENCES_CAPTION)),
        ]
    signatures = [[metrics.label(name), entry["signature"]] for name, entry in result["metrics"].items()]
    parts.append(Table([say("metric"), say("signature")], signatures, say("How each score was made.")))
    parts += passages(result)
    return Section(
        title=say("Quality"),
        question=say("Whose outputs are better, and is the difference more than the choice of test sentences?"),
        findings=[
            *(finding for name, entry in result["metrics"].items() for finding in _differing(name, entry, result)),
            *said,
            *_expected(result),
            *as_good(result),
        ],
        parts=parts,
        how=(
            say(
                "The {sentences:,} sentences of the {split} split, the same for all. Intervals: the percentiles "
                "2.5 and 97.5 of {samples:,} bootstrap resamples of the sentences (Koehn 2004; seed {seed}, the "
                "same resamples for all); of shares of right sentences or tokens Wilson's (1927). Pairs: paired "
                "bootstrap as sacrebleu has it; approximate randomisation with {samples:,} swaps (Riezler & "
                "Maxwell 2005); for exact match of one run each, McNemar's exact test; for several seeds each, "
                "Welch's test of the difference over its error by the resampled sentences and the spread of the "
                "seeds together. The last of these that applies decides, at p < 0.05, after Holm's adjustment "
                "for the number of pairs of a metric; one run against several is not tested, and the bootstrap "
                "alone decides nothing.",
                sentences=result["sentences"],
                split=result["split"],
                samples=result["samples"],
                seed=SEED,
            )
            + (
                say(" The score of several seeds is the mean of theirs; its interval is of other seeds and sentences.")
                if several
                else ""
            )
        ),
        limits=(
            say(
                "The sentences are taken as independent of each other; where neighbours are of one document, "
                "differences are less certain than the p-values say. No difference found is not the same as no "
                "difference."
            )
            + (
                ""
                if several
                else say(" What other training seeds would give is not in the tests: compare several seeds.")
            )
            + _too_few_samples(result)
            + say(" Automatic metrics compare with one reference each, and are not the judgement of people.")
        ),
        cautions=said,
        headline={
            say("{name} (%) [95 % interval]", name=metrics.label(name)): {
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
    return say(
        " With {pairs} and {samples:,} samples, resampling cannot find a difference after Holm's "
        "adjustment: take more samples or fewer candidates.",
        pairs=plural(pairs, "pair"),
        samples=result["samples"],
    )


_DIFFERENCES_CAPTION = later(
    "Differences of the pairs with their 95 % intervals around the line of no difference; filled "
    "where p is below 0.05 after Holm's adjustment, hollow where no difference was found."
)


def remarks(result: dict[str, Any]) -> list[str]:
    """What is to be known beside the scores: other decoding settings, empty outputs, models of others."""
    candidates, said = result["candidates"], []
    ways: dict[str, list[str]] = {}
    for candidate in candidates:
        ways.setdefault(decoding_in_words(settings_read(candidate["generation"])), []).append(candidate["name"])
    if len(ways) > 1:
        told = "; ".join(say("{names} with {way}", names=together(names), way=way) for way, names in ways.items())
        said.append(
            say(
                "The candidates were not decoded with the same settings ({told}): a difference may be the "
                "decoding's, not the models'.",
                told=told,
            )
        )
    for candidate in candidates:
        if candidate.get("empty"):
            number = result["sentences"] * candidate["runs"]
            said.append(
                say(
                    "{name} wrote nothing for {empty:,} of {number:,} sentences.",
                    name=candidate["name"],
                    empty=candidate["empty"],
                    number=number,
                )
            )
    others = [candidate["name"] for candidate in candidates if not candidate.get("is_run", True)]
    if others:
        said.append(
            say(
                "{others} is no run of seqloom: on what and for how long it was trained is not known here, and "
                "the test sentences may have been among it."
                if len(others) == 1
                else "{others} are no runs of seqloom: on what and for how long each was trained is not known here, "
                "and the test sentences may have been among it.",
                others=together(others),
            )
        )
    return said


def _differing(name: str, entry: dict[str, Any], result: dict[str, Any]) -> list[str]:
    """Which pairs differ on a metric and which do not."""
    pairs = entry["pairs"]
    if not pairs:
        return []
    found = sorted((pair for pair in pairs if pair["better"]), key=lambda pair: -abs(pair["difference"]))
    untested = [say("{a} and {b}", a=pair["a"], b=pair["b"]) for pair in pairs if pair["p"] is None]
    others = [pair for pair in pairs if not pair["better"] and pair["p"] is not None]
    others.sort(key=lambda pair: pair["p_holm"])
    said = []
    for pair in found:
        worse = pair["b"] if pair["better"] == pair["a"] else pair["a"]
        turned = 1 if pair["better"] == pair["a"] else -1
        low, high = sorted(turned * bound for bound in pair["interval"])
        gap = f"{turned * pair['difference']:+.2f} [{low:+.2f}, {high:+.2f}]"
        said.append(
            say(
                "{better} is better than {worse} by {gap} ({test})",
                better=pair["better"],
                worse=worse,
                gap=gap,
                test=_p(pair),
            )
        )
    missing = [
        say(
            "{a} and {b} ({difference:+.2f}, {test})",
            a=pair["a"],
            b=pair["b"],
            difference=pair["difference"],
            test=_p(pair),
        )
        for pair in others
    ]
    direction = "" if entry["higher_is_better"] else say(" (less is better)")
    sentences = f"{metrics.label(name)}{direction}: " + (f"{_some(said)}." if said else "")
    if missing:
        sentences += (
            say(" No difference was found between {missing}.", missing=_some(missing))
            if said
            else (say("no difference was found between {missing}.", missing=_some(missing)))
        )
    if untested:
        sentences += say(" Not tested, one run against several: {untested}.", untested=_some(untested))
    runs = {candidate["name"]: candidate["runs"] for candidate in result["candidates"]}
    if any(runs[pair["a"]] == runs[pair["b"]] == 1 for pair in pairs):
        sentences += f" {say(TRAINED)}"
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
                    cases.append(Case(say("{one} and {other}", one=one, other=other), found))
        if cases:
            of_each = "; ".join(
                say("{verdict} of {texts}", verdict=say(verdict), texts=", ".join(texts))
                for verdict, texts in judged(cases).items()
            )
            said.append(f"{metrics.label(name)}: {of_each}.")
    if not said:
        return []
    return [
        say(
            "Expected after Vaswani et al. (2017), who trained on millions of sentences: Transformers score "
            "better than recurrent models. {said}",
            said=" ".join(said),
        )
    ]


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
            said.append(say("{name} is {best:.2f}", name=metrics.label(name), best=best))
        elif len(top) == len(scores):
            said.append(say("{name} is the same for all, {best:.2f}", name=metrics.label(name), best=best))
        elif len(chosen) == 1:
            said.append(
                say("{name} is best for {model}, {best:.2f}", name=metrics.label(name), model=chosen[0], best=best)
            )
        else:
            values = together([f"{system} {scores[system]:.2f}" for system in chosen])
            said.append(
                say("{name}: at the top, and not told apart, are {values}", name=metrics.label(name), values=values)
            )
    return "; ".join(said) + "."


def _p(pair: dict[str, Any]) -> str:
    adjusted = "" if pair["p_holm"] == pair["p"] else say(", {p_holm} after Holm", p_holm=p_value(pair["p_holm"]))
    return say(
        "p {p} by {test}{adjusted}",
        p=("" if pair["p"] < 0.001 else "= ") + p_value(pair["p"]),
        test=say(TESTS[pair["test"]]),
        adjusted=adjusted,
    )


def _some(items: list[str], limit: int = 6) -> str:
    return "; ".join(items[:limit]) + (
        say("; and {number} more", number=len(items) - limit) if len(items) > limit else ""
    )
