"""Generalisation: what a model does with commands that are put together in ways it was not trained on (SCAN).

Lake and Baroni 2018 (https://arxiv.org/abs/1711.00350). ``simple``: a random fifth of the commands is held out.
``length``: the test commands ask for longer action sequences than any in training. ``addprim_jump``: ``jump`` is known
alone and is tested in company. ``addprim_turn_left``: likewise ``turn left``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from seqloom import run_folder
from seqloom.comparison.candidates import Candidate, Options
from seqloom.comparison.sections import Plot, Section, Table
from seqloom.comparison.trainings import train_all
from seqloom.comparison.verdicts import TRAINED, Case, Interval, told
from seqloom.data.scan import SPLITS
from seqloom.figures.style import as_label, look, new_figure, share_legend
from seqloom.scoring import metrics
from seqloom.scoring.estimates import Estimate, wilson
from seqloom.scoring.predictions import read_predictions, read_scores
from seqloom.settings.reading import load_settings
from seqloom.settings.schema import Settings
from seqloom.support.language import say

RECIPES = ("scan-rnn-no-attention", "scan-rnn", "scan-transformer")
"""What is trained where the candidates are not of this task."""
SOLVED, FAILED = 95.0, 50.0
"""Exact match in percent from which on a split counts as solved, and below which as failed."""
CLEAR = 5.0
"""A smaller difference, in points, is not called one."""


def measure(
    candidates: Sequence[Candidate], options: Options, *, splits: Sequence[str] = SPLITS, overrides: Sequence[str] = ()
) -> dict[str, Any]:
    """Exact match on the test commands of every split, each by a model trained on that split's other commands.

    Args:
        candidates: Where all of them were trained on SCAN, their own recipes are; else the recipes of ``configs/``.
        options: ``seed``, ``num_jobs`` and ``folder`` count.
        splits: Of SCAN.
        overrides: Words of the command line for the recipes of ``configs/``.
    """
    own = {candidate.name: candidate.settings for candidate in candidates if candidate.settings is not None}
    is_own = len(own) == len(candidates) and all(recipe.data.dataset == "scan" for recipe in own.values())
    recipes = own
    if not (candidates and is_own):
        configs = files("seqloom.configs")
        recipes = {name: load_settings(str(configs.joinpath(f"{name}.yaml")), overrides) for name in RECIPES}
    runs: dict[tuple[str, str, int], Settings] = {}
    done: dict[tuple[str, str, int], Path] = {}
    for name, recipe in recipes.items():
        candidate = next((candidate for candidate in candidates if is_own and candidate.name == name), None)
        for split in splits:
            for number, seed in enumerate(candidate.seeds if candidate else (options.seed,)):
                key = (name, split, seed)
                if candidate and recipe.data.split == split and _is_of_test(candidate.predictions[number]):
                    done[key] = candidate.predictions[number]
                    continue
                folder = options.folder / "generalisation" / f"{name}-{split}-{seed}"
                done[key] = run_folder.evaluation(folder, "test") / run_folder.PREDICTIONS
                runs[key] = _on_split(recipe, split, seed, folder)
    train_all(list(runs.values()), options.num_jobs)
    scores: dict[str, dict[str, list[float]]] = {}
    sentences: dict[str, int] = {}
    for (name, split, _), path in done.items():
        predictions = read_predictions(path)
        score = metrics.compute("exact_match", predictions.hypotheses, predictions.scored_references)["score"]
        sentences[split] = len(predictions.hypotheses)
        scores.setdefault(name, {}).setdefault(split, []).append(score)
    updates = {name: recipe.training.max_steps for name, recipe in recipes.items()}
    return {"scores": scores, "sentences": sentences, "updates": updates, "is_own": is_own}


def _is_of_test(predictions: Path) -> bool:
    return read_scores(predictions.parent).get("split") == "test"


def _on_split(recipe: Settings, split: Any, seed: int, folder: Path) -> Settings:
    """The recipe for one split, of which exact match on the test commands is wanted and nothing else."""
    data = dataclasses.replace(recipe.data, dataset="scan", split=split)
    evaluation = dataclasses.replace(recipe.evaluation, split="test", metrics=["exact_match"], bootstrap_samples=0)
    hub = dataclasses.replace(recipe.hub, push_to_hub=None, hub_private_repo=None, hub_revision=None)
    training = dataclasses.replace(recipe.training, seed=seed, num_threads=1)
    return dataclasses.replace(
        recipe, data=data, training=training, evaluation=evaluation, hub=hub, output_dir=str(folder)
    )


def _runs(result: dict[str, Any]) -> int:
    """The fewest that a score is of."""
    return min(len(values) for by in result["scores"].values() for values in by.values())


def _variances(result: dict[str, Any], name: str, split: str) -> list[tuple[float, float]] | None:
    """Of a mean score in points, with their degrees of freedom: that of the commands tested, of at least one right and
    one wrong (Agresti & Coull 1998), and that of the seeds."""
    scores, number = result["scores"][name][split], result.get("sentences", {}).get(split)
    if not number:
        return None
    share = (fmean(scores) / 100 * number + 2) / (number + 4)
    found = [(100**2 * share * (1 - share) / (number + 4), float(number))]
    if len(scores) > 1:
        found.append((stdev(scores) ** 2 / len(scores), len(scores) - 1.0))
    return found


def bounds_of(result: dict[str, Any], name: str, split: str) -> Interval | None:
    """The 95 % interval of a score in percent; None where an earlier version kept no number of commands."""
    variances, mean = _variances(result, name, split), fmean(result["scores"][name][split])
    if variances is None:
        return None
    low, high = (100 * bound for bound in wilson(mean / 100, result["sentences"][split]))
    seeds = Estimate.sum(mean, variances[1:]).interval()
    return mean - math.hypot(mean - low, mean - seeds[0]), mean + math.hypot(high - mean, seeds[1] - mean)


def _gap(result: dict[str, Any], name: str, others: Sequence[str]) -> Estimate | None:
    """How much better a model is on the simple split than in the mean of others, whose commands are others."""
    parts = [(_variances(result, name, split), weight) for split, weight in
             (("simple", 1.0), *((split, -1 / len(others)) for split in others))]  # fmt: skip
    if any(variances is None for variances, _ in parts):
        return None
    means = {split: fmean(values) for split, values in result["scores"][name].items()}
    return Estimate.sum(
        means["simple"] - fmean(means[split] for split in others),
        [(weight**2 * variance, freedom) for variances, weight in parts for variance, freedom in variances or ()],
    )


def expected(result: dict[str, Any], others: Sequence[str]) -> list[str]:
    """Whether models are worse on the other splits."""
    cases = []
    for name, by in result["scores"].items():
        gap = fmean(by["simple"]) - fmean(fmean(by[split]) for split in others)
        cases.append(
            Case(say("{name} {gap:.1f} points", name=name, gap=gap), _gap(result, name, others), (CLEAR, math.inf))
        )
    return told(
        say(
            "Expected (Lake and Baroni 2018): models are worse on commands put together in new ways than on "
            "held-out commands of the known kind; on the other splits, in the mean, by more than {clear:.0f} "
            "points.",
            clear=CLEAR,
        )
        + ("" if _runs(result) > 1 else f" {say(TRAINED)}"),
        cases,
    )


def section(result: dict[str, Any]) -> Section:
    """What the scores say."""
    scores = {name: {split: fmean(values) for split, values in by.items()} for name, by in result["scores"].items()}
    splits = list(next(iter(scores.values())))
    findings = []
    for split in splits:
        said = ", ".join(f"{name} {by[split]:.1f} %" for name, by in scores.items())
        bounds = {name: bounds_of(result, name, split) for name in scores}
        solved = [name for name, known in bounds.items() if known is not None and known[0] >= SOLVED]
        failed = [name for name, known in bounds.items() if known is not None and known[1] < FAILED]
        ends = [say("solved by {solved}", solved=", ".join(solved))] * bool(solved) + [
            say("failed by {failed}", failed=", ".join(failed))
        ] * bool(failed)
        findings.append(
            say("Split {split}: {said}", split=split, said=said) + (f" ({'; '.join(ends)})." if ends else ".")
        )
    others = [split for split in splits if split != "simple"]
    if "simple" in splits and others:
        findings += expected(result, others)
    figure, (panel,) = new_figure()
    width = 0.8 / len(scores)
    for number, (name, by) in enumerate(scores.items()):
        places = [index + (number - (len(scores) - 1) / 2) * width for index in range(len(splits))]
        panel.bar(
            places, [by[split] for split in splits], width * 0.92, color=look(number)["color"], label=as_label(name)
        )
        for place, split in zip(places, splits, strict=True):
            panel.annotate(
                f"{by[split]:.1f}",
                (place, by[split]),
                (0, 2),
                textcoords="offset points",
                ha="center",
                fontsize="small",
            )
            values = result["scores"][name][split]
            if len(values) > 1:
                panel.plot([place] * len(values), values, ls="", marker=".", color="0.15")
    panel.set_xticks(range(len(splits)), splits)
    panel.set_ylim(0, 108)
    panel.set_ylabel(say("exact match on test (%)"))
    share_legend(figure, panel)
    seeds = max(len(values) for by in result["scores"].values() for values in by.values())
    several = say("the mean of {seeds} seeds (dots: each of them)", seeds=seeds) if seeds > 1 else say("one seed")
    table = Table(
        [say("model"), *splits],
        [[name, *(f"{by[split]:.2f}" for split in splits)] for name, by in scores.items()],
        say("Exact match on the test commands of each split, in percent; {seeds}.", seeds=several),
    )
    updates = ", ".join(f"{name} {count:,}" for name, count in result["updates"].items() if count)
    return Section(
        title=say("Generalisation"),
        question=say("What becomes of commands that are put together in ways which training did not show?"),
        findings=findings,
        parts=[
            Plot("generalisation", figure, say("Exact match on the four splits of SCAN, {seeds}.", seeds=several)),
            table,
        ],
        how=say(
            "Every model was trained anew on each split's training commands, {recipes}{updates}; its best validation "
            "on commands held out of the training split was kept, and it was scored on the split's test commands with "
            "the recipe's own decoding.",
            recipes=say("by its own recipe" if result["is_own"] else "by the recipes of SCAN that come with seqloom"),
            updates=say(" (updates: {updates})", updates=updates) if updates else "",
        ),
        limits=say(
            "Solved means at least {solved:.0f} % exact match, failed less than {failed:.0f} %, each with "
            "all of the score's 95 % interval (Wilson's, and of several seeds their spread with it). SCAN is "
            "a small artificial language. Scores on length and addprim differ much from seed to seed (Lake "
            "and Baroni report so too), so one seed is an example, not an estimate.",
            solved=SOLVED,
            failed=FAILED,
        ),
        headline={
            say("SCAN {split}, exact match", split=split): {name: f"{by[split]:.1f} %" for name, by in scores.items()}
            for split in splits
        },
    )
