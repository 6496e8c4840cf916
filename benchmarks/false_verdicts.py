"""How often the comparison's findings say more than there is: worlds without any difference, simulated by the thousand.

    python benchmarks/false_verdicts.py
    python benchmarks/false_verdicts.py --worlds 500 --only "several seeds"

In every world two systems (or three) are equal by their making, or stand exactly at the mark that a finding asks for,
and only chance differs: of sentences, of seeds, of timings. A verdict of SEEN or NOT SEEN, or a winner, is then false.
The very functions of the measures decide, on numbers that are drawn. Likewise of intervals: how often they hold what is
true.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from seqloom.comparison import remedies
from seqloom.comparison.conclusion import NOT_CLEAR, conclude
from seqloom.comparison.instruments.budgets import Validations, to_quality
from seqloom.comparison.instruments.clock import CONTROL
from seqloom.comparison.measures import (
    attention,
    attention_findings,
    data_handling,
    data_handling_findings,
    generalisation,
    generation,
    gradient_findings,
    gradients,
    heavier,
    learning_curves,
    memory_tasks,
)
from seqloom.comparison.traits import Traits
from seqloom.scoring.estimates import LEVEL, wilson
from seqloom.scoring.significance import Statistics, compare_systems, holm, interval, system_interval
from seqloom.support.wording import table

Chance = np.random.Generator
RNN = {"is_recurrent": True, "attention": False}
TRANSFORMER = {"is_recurrent": False, "attention": True}
SAMPLES = 200
"""Resamples: fewer than a report's, so that many worlds fit into minutes; the tests are a little blunter for it."""
SEED_SPREAD = 0.5
"""Of the logarithm of the odds of a sentence's being right: some 10 points between seeds at 50 %."""
NOISE = 0.04
"""Of a time's logarithm."""


def decided(text: str) -> bool:
    """Whether a finding says SEEN or NOT SEEN of anything."""
    return bool(re.search(r"\bSEEN\b", text))


def sentences(chance: Chance, number: int, middle: float = 0.0) -> np.ndarray:
    """How easy each sentence of a test set is, for every system alike."""
    return middle + chance.normal(0, 1.5, number)


def run_of(chance: Chance, ease: np.ndarray, spread: float = 0.0) -> Statistics:
    """A training's exact match of these sentences; its own luck is common to all of them."""
    right = chance.random(len(ease)) < 1 / (1 + np.exp(-(ease + chance.normal(0, spread))))
    rows = np.stack([1.0 - right, np.ones(len(ease))], axis=1)
    return Statistics(rows, share, is_share=True)


def tokens_of(chance: Chance, ease: np.ndarray, spread: float = 0.0) -> Statistics:
    """The same of tokens, of which some sentences have more, and which go wrong together."""
    lengths = 4 + (np.arange(len(ease)) * 7) % 13
    shares = 1 / (1 + np.exp(-(ease + chance.normal(0, 1, len(ease)) + chance.normal(0, spread))))
    return Statistics(np.stack([lengths - chance.binomial(lengths, shares), lengths], 1).astype(float), share, True)


def share(sums: np.ndarray) -> float:
    return float(100 * (sums[1] - sums[0]) / max(sums[1], 1))


def quality(make: Callable[..., Statistics], runs: tuple[int, int], spread: float, number: int = 200):
    """Two systems of so many runs each."""

    def world(chance: Chance) -> bool:
        ease = sentences(chance, number)
        a, b = ([make(chance, ease, spread) for _ in range(count)] for count in runs)
        is_binary = make is run_of
        return compare_systems(a, b, samples=SAMPLES, is_binary=is_binary)["better"] is not None

    return world


def nearly_as_good(number: int):
    """A system that loses just the `CLOSE` points against one that has all right: too many to be less than that."""

    def world(chance: Chance) -> bool:
        wrong = (chance.random(number) < remedies.CLOSE / 100).astype(float)
        one, other = (Statistics(np.stack([rows, np.ones(number)], 1), share, True) for rows in (wrong, 0 * wrong))
        pair = compare_systems([one], [other], samples=SAMPLES, is_binary=True)
        pairs, scores = [pair | {"a": "one", "b": "other"}], {"other": {"score": 100.0}}
        entry = {"higher_is_better": True, "pairs": pairs, "scores": scores}
        return remedies.close(entry, "one", "other").verdict() == "SEEN"

    return world


def quality_of_four(chance: Chance) -> bool:
    """Six pairs: whether any is found."""
    ease = sentences(chance, 200)
    systems = [[run_of(chance, ease, SEED_SPREAD) for _ in range(3)] for _ in range(4)]
    pairs = [compare_systems(a, b, samples=SAMPLES) for k, a in enumerate(systems) for b in systems[k + 1 :]]
    return min(holm([pair["p"] for pair in pairs])) < LEVEL


def curves(runs: int, seed_spread: float, validated: int | None):
    """Three models of equal curves, whose validations are of so many sentences."""

    def world(chance: Chance) -> bool:
        def one() -> dict[str, Any]:
            luck = chance.normal(0, seed_spread)
            truth = np.clip((np.array([0.2, 0.4, 0.6]) + luck), 0.02, 0.98)
            scores = 100 * chance.binomial(validated or 500, truth) / (validated or 500)
            return {"scores": scores.tolist(), **{budget: [1.0, 2.0, 3.0] for budget in learning_curves.BUDGETS}}

        kinds = {"rnn": RNN, "gru": RNN, "tf": TRANSFORMER}
        found = {
            name: {"number": k, "runs": [one() for _ in range(runs)], "validated": validated, **kind}
            for k, (name, kind) in enumerate(kinds.items())
        }
        equal = {budget: learning_curves.at_equal(found, budget) for budget in learning_curves.BUDGETS}
        result = {"metric": "exact_match", "higher_is_better": True, "curves": found, "equal": equal}
        # The four budgets are one here; the bound is for each of them.
        told = learning_curves.findings_of(result)
        return "ahead of" in told[0] or decided(told[-1])

    return world


def gaps(make: Callable[..., Statistics], runs: int, spread: float, sizes: tuple[int, int]):
    """A model that is behind by as much on long sources as on short ones, against two that are ahead."""

    def world(chance: Chance) -> bool:
        lengths = np.repeat([5, 20], sizes)
        ease = sentences(chance, len(lengths))
        systems = {
            name: [make(chance, ease + lead, spread) for _ in range(runs)]
            for name, lead in (("without", -1.0), ("one", 1.0), ("two", 1.0))
        }
        traits = {name: Traits(name, name, has_cross_attention=name != "without") for name in systems}
        found = attention.gaps(systems, traits, lengths, [(1, 10), (11, 30)], SAMPLES)
        return any(case.verdict(LEVEL / len(found)) != "NOT CLEAR" for case in attention_findings.cases_of(found))

    return world


def times(chance: Chance, names: int, noise: float) -> dict[str, Any]:
    """Timings of models that take as long as each other; the first is timed twice."""

    def seconds(size: int, length: int) -> float:
        return size * length * 1e-3 * math.exp(chance.normal(0, noise))

    places = [(1, 32), (8, 16), (8, 32), (8, 64), (8, 128), (64, 32)]

    def of_one() -> dict[str, Any]:
        found: dict[str, Any] = {}
        for beams in ("1", "5"):
            for size, length in places:
                found.setdefault(beams, {}).setdefault(str(size), {})[str(length)] = seconds(size, length)
        return {"seconds": found}

    candidates = {str(n): {**of_one(), "limit": None, **(RNN if n % 2 else TRANSFORMER)} for n in range(names)}
    return {
        "batch_sizes": [1, 8, 64], "batch_length": 32, "lengths": [16, 32, 64, 128], "length_batch": 8, "beams": [1, 5],
        "candidates": candidates, CONTROL: of_one(),
    }  # fmt: skip


def fastest(chance: Chance) -> bool:
    """Whether any is called the fastest, of one of the two batches: each is a finding."""
    result = times(chance, 3, NOISE)
    return "takes" in generation.fastest(result, generation.controls_of(result))[0]


def token_times(chance: Chance) -> bool:
    """Whether a token costs more in a longer sentence, where it costs just as much more as counts."""
    result = times(chance, 2, NOISE)
    for one in (*result["candidates"].values(), result[CONTROL]):
        for of_size in one["seconds"].values():
            of_size["8"]["128"] *= 1 + generation.SAME
    return any(decided(text) for text in generation.by_length(result, generation.controls_of(result))[:1])


def steps(chance: Chance, power: float) -> dict[str, Any]:
    """Training steps whose times grow by this power in every part of every system."""
    lengths = data_handling.LENGTHS

    def series() -> dict[str, float]:
        return {str(n): n**power * math.exp(chance.normal(0, NOISE)) for n in lengths}

    names = ("GRU, no attention", "GRU, Luong attention", "Transformer")
    parts = {part: {name: series() for name in names} for part in data_handling.PARTS}
    return {"milliseconds": parts, "control": {part: series() for part in parts}}


def growth(place: int, power: float):
    """One of the findings on exponents, at the exponent where it is as true as not."""

    def world(chance: Chance) -> bool:
        device = steps(chance, power)
        looking = device["milliseconds"]["decoder"]["GRU, Luong attention"]
        for length in looking:  # which the third of them asks to grow by so much more
            looking[length] *= int(length) ** (data_handling_findings.NEAR / 3)
        return decided(
            data_handling_findings.growth(data_handling_findings.series_of(device), data_handling.controls_of(device))[
                place
            ]
        )

    return world


def crossings(chance: Chance) -> bool:
    """Whether one of three parts is called slower, or not slower, where all take as long."""
    device = steps(chance, 1.0)
    told = data_handling_findings.crossings(
        data_handling_findings.series_of(device), data_handling.controls_of(device)
    )[0]
    return bool(re.search(r"(?<!clearly )slower", told))


def concluded(chance: Chance) -> bool:
    """Whether the first screen says who is quicker, at either length, where every training step takes as long."""
    device = {**steps(chance, 1.0), "name": "CPU", "type": "cpu"}
    found = conclude({"candidates": [], "measures": {"data_handling": {"devices": [device]}}})
    return (
        found["sentences"]["data_handling"].count("not clear") != 1 or found["verdicts"]["data_handling"] != NOT_CLEAR
    )


def remedied(chance: Chance) -> bool:
    """Whether recurrence at once is called quicker, or not, than one step after the other that takes as long."""
    device = steps(chance, 1.0)
    times = data_handling_findings.series_of(device)["model"]
    result = {"parallel_training": ["minGRU, Luong attention"]}
    times["minGRU, Luong attention"] = {n: n * math.exp(chance.normal(0, NOISE)) for n in data_handling.LENGTHS}
    return decided(remedies.at_once(result, times, data_handling.controls_of(device))[0])


def speedup(chance: Chance) -> bool:
    """Cores that help the Transformer as much as a recurrent model."""

    def of_two() -> dict[str, list[float]]:
        return {
            name: [math.exp(chance.normal(0, NOISE)), 0.6 * math.exp(chance.normal(0, NOISE))]
            for name in ("GRU, no attention", "GRU, Luong attention", "Transformer")
        }

    measured = {"cores": 2, "length": 512, "milliseconds": of_two(), "again": of_two()}
    return any(decided(text) for text in data_handling_findings.speedup({"speedup": measured}))


def memories(chance: Chance) -> bool:
    """Peak memories that are equal but for what the system does."""
    models = {}
    for name, kind in (("rnn", RNN), ("tf", TRANSFORMER), ("tf2", TRANSFORMER)):
        drawn = {key: [20 * math.exp(chance.normal(0, 0.1)) for _ in range(2)] for key in heavier.MEASURED}
        models[name] = {
            **kind, **{key: pair[0] for key, pair in drawn.items()}, "again": {key: b for key, (_, b) in drawn.items()},
            "update_rows": 10,
        }  # fmt: skip
    found = [heavier.heavier(models, key, key) for key in heavier.MEASURED]
    return any(case is not None and case.verdict() != "NOT CLEAR" for case in found)


def to_a_quality(runs: int, seed_spread: float):
    """Models of equal curves: whether one needed less to come to a quality."""

    def world(chance: Chance) -> bool:
        def one() -> Validations:
            pace = math.exp(chance.normal(0, seed_spread))
            spent = np.arange(1, 9, dtype=float)
            truth = 0.9 * (1 - np.exp(-spent * pace / 3))
            scores = 100 * chance.binomial(500, truth) / 500
            return Validations(list(range(1, 9)), spent.tolist(), spent.tolist(), {"chrf": scores.tolist()}, 1.0)

        models = {
            name: {**kind, "to_quality": to_quality([one() for _ in range(runs)], "chrf", 60.0, 1.0), "trained_on": []}
            for name, kind in (("rnn", RNN), ("tf", TRANSFORMER))
        }
        return decided(heavier.to_quality_finding(models, "flops", "60", is_disturbed=False))

    return world


def factors(chance: Chance) -> bool:
    """Gradients that shrink alike in all cells, as draws of weights have it."""
    systems = {
        name: {"initial": {"states": [1.0, 0.9, 0.8, 0.7], "inputs": [1.0], "factors": chance.normal(-0.1, 0.05, 6)}}
        for name in ("rnn", "lstm", "gru")
    }
    for kinds in systems.values():
        kinds["initial"]["factors"] = list(kinds["initial"]["factors"])
    return decided(gradient_findings.falls("rnn", "initial", systems, "Now"))


def explosions(chance: Chance) -> bool:
    """Gradients that neither grow nor shrink."""
    norms = {gain: [1.0, 1.0, 1.0, 1.0] for gain in ("1", "1.5", "2")}
    return decided(
        gradient_findings.explodes(norms, {gain: list(chance.normal(0, 0.05, gradients.DRAWS)) for gain in norms})
    )


def evenness(chance: Chance) -> bool:
    """Gradients that reach the source's positions as evenly with attention as without."""

    def replicates() -> list[float]:
        norms = np.exp(chance.normal(0, 0.4, (gradients.DRAWS, 12)))
        return [math.log(row.min() / row.max()) for row in norms]

    models = {
        name: {"attention": attends, "recurrent": True, "buckets": [{"initial": [0.5, 1.0], "trained": [0.5, 1.0]}],
               "evenness": {"initial": replicates(), "trained": replicates()}}
        for name, attends in (("without", False), ("with", True), ("other", True))
    }  # fmt: skip
    return decided(gradient_findings.candidates_findings(models)[0])


def memory_runs(chance: Chance) -> list[dict[str, Any]]:
    """Trainings that solve their task or not, whichever the system and whether it is clipped."""
    runs = []
    for task, lengths in memory_tasks.LENGTHS.items():
        for place, length in enumerate(lengths):
            for system in memory_tasks.STANDARD:
                for clipping in (1.0, None):
                    is_solved = chance.random() < (0.9, 0.5, 0.1)[place]
                    error = chance.uniform(0, 0.1) if is_solved else min(1.1, 1 - chance.exponential(0.1))
                    runs.append({
                        "task": task, "length": length, "system": system, "clipping": clipping, "error": float(error),
                        "updates": 800, "solved_after": 100 if is_solved else None,
                        "largest_norm": float(np.exp(chance.normal(1, 1))),
                    })  # fmt: skip
    return runs


def memory(name: str):
    """One of the findings on the tasks of memory."""

    def world(chance: Chance) -> bool:
        return decided(getattr(memory_tasks, name)(memory_runs(chance)))

    return world


def other_splits(runs: int, seed_spread: float):
    """Models that are worse on the other splits by just as much as counts."""

    def world(chance: Chance) -> bool:
        truth = {"simple": 0.65, "length": 0.6, "addprim_jump": 0.6}
        sizes = dict.fromkeys(truth, 400)
        scores = {
            name: {
                split: [
                    100 * chance.binomial(sizes[split], min(0.99, max(0.01, p + chance.normal(0, seed_spread))))
                    / sizes[split]
                    for _ in range(runs)
                ]
                for split, p in truth.items()
            }
            for name in ("a", "b")
        }  # fmt: skip
        result = {"scores": scores, "sentences": sizes}
        return decided(generalisation.expected(result, ["length", "addprim_jump"])[0])

    return world


def solved(chance: Chance) -> bool:
    """A split of which just as much is right as counts for solved: whether it is called so."""
    score = 100 * chance.binomial(300, generalisation.SOLVED / 100) / 300
    low, _ = generalisation.bounds_of(
        {"scores": {"a": {"simple": [score]}}, "sentences": {"simple": 300}}, "a", "simple"
    )
    return low >= generalisation.SOLVED


KINDS: dict[str, Callable[[Chance], bool]] = {
    "quality, one run each, exact match": quality(run_of, (1, 1), 0.0),
    "quality, one run each, tokens": quality(tokens_of, (1, 1), 0.0),
    "quality, several seeds: 2 and 2": quality(run_of, (2, 2), SEED_SPREAD),
    "quality, several seeds: 3 and 3": quality(run_of, (3, 3), SEED_SPREAD),
    "quality, several seeds: 3 and 5": quality(tokens_of, (3, 5), SEED_SPREAD),
    "quality, several seeds that do not differ: 3 and 2": quality(tokens_of, (3, 2), 0.0),
    "quality, one run against three": quality(run_of, (1, 3), SEED_SPREAD),
    "quality, four systems of three seeds": quality_of_four,
    "nearly as good, 30 sentences": nearly_as_good(30),
    "nearly as good, 300 sentences": nearly_as_good(300),
    "nearly as good, 3,000 sentences": nearly_as_good(3000),
    "curves, one run each": curves(1, 0.0, 300),
    "curves, three seeds": curves(3, 0.05, 300),
    "curves, one run each, sentences not known": curves(1, 0.05, None),
    "long sources, one run, few sentences": gaps(run_of, 1, 0.0, (20, 25)),
    "long sources, one run, many sentences": gaps(run_of, 1, 0.0, (200, 150)),
    "long sources, one run, tokens": gaps(tokens_of, 1, 0.0, (60, 40)),
    "long sources, three seeds": gaps(run_of, 3, SEED_SPREAD, (100, 80)),
    "the fastest": fastest,
    "a longer sentence's token": token_times,
    "growth of recurrent encoders": growth(0, 1 + data_handling_findings.NEAR),
    "growth of self-attention": growth(1, 1 + data_handling_findings.NEAR),
    "growth with attention": growth(2, 1.0),
    "lines that cross": crossings,
    "more cores": speedup,
    "the conclusion on data handling": concluded,
    "recurrence at once": remedied,
    "peak memory": memories,
    "spent to a quality, one run each": to_a_quality(1, 0.0),
    "spent to a quality, three seeds": to_a_quality(3, 0.3),
    "gradients that fall": factors,
    "gradients that explode": explosions,
    "gradients that are even": evenness,
    "memory: gates": memory("gates"),
    "memory: clipping": memory("clipping"),
    "memory: norms": memory("norms"),
    "other splits, one run": other_splits(1, 0.0),
    "other splits, three seeds": other_splits(3, 0.05),
    "a solved split": solved,
}
"""Worlds without a difference, by what is found; each tells whether the finding is false."""


def held(truth: Callable[[Chance], tuple[float, Any]]) -> Callable[[Chance], bool]:
    """Whether an interval holds what is true."""

    def world(chance: Chance) -> bool:
        value, (low, high) = truth(chance)
        return low <= value <= high

    return world


def proportion(number: int, share_: float):
    """Exact match of so many sentences."""

    def world(chance: Chance):
        wrong = chance.random(number) >= share_
        run = Statistics(np.stack([wrong, np.ones(number)], 1).astype(float), share, is_share=True)
        return 100 * share_, interval(run)

    return held(world)


def clustered(number: int, middle: float):
    """Right tokens, that go wrong together; the truth is that of very many sentences."""
    many = tokens_of(np.random.default_rng(0), sentences(np.random.default_rng(1), 400_000, middle))
    truth = share(many.values.sum(axis=0))

    def world(chance: Chance):
        return truth, interval(tokens_of(chance, sentences(chance, number, middle)))

    return held(world)


def of_seeds(runs: int):
    """The mean over seeds and sentences of a recipe; the truth is that of very many of both."""
    chance = np.random.default_rng(2)
    truth = np.mean([
        share(run_of(chance, sentences(chance, 4000), SEED_SPREAD).values.sum(axis=0)) for _ in range(4000)
    ])  # fmt: skip

    def world(chance: Chance):
        ease = sentences(chance, 200)
        return truth, system_interval([run_of(chance, ease, SEED_SPREAD) for _ in range(runs)], SAMPLES)

    return held(world)


def difference(runs: tuple[int, int], spread: float):
    """Of two systems that are equal."""

    def world(chance: Chance):
        ease = sentences(chance, 200)
        a, b = ([run_of(chance, ease, spread) for _ in range(count)] for count in runs)
        return 0.0, compare_systems(a, b, samples=SAMPLES)["interval"]

    return held(world)


def split_bounds(chance: Chance):
    """Of a recipe's score on a split, over seeds."""
    scores = [100 * chance.binomial(300, min(1, max(0, 0.6 + chance.normal(0, 0.1)))) / 300 for _ in range(3)]
    return 60.0, generalisation.bounds_of({"scores": {"a": {"s": scores}}, "sentences": {"s": 300}}, "a", "s")


INTERVALS: dict[str, Callable[[Chance], bool]] = {
    "exact match, 50 sentences, half right": proportion(50, 0.5),
    "exact match, 50 sentences, 95 % right": proportion(50, 0.95),
    "exact match, 50 sentences, 98 % right": proportion(50, 0.98),
    "exact match, 1,000 sentences, 99.8 % right": proportion(1000, 0.998),
    "right tokens, 50 sentences": clustered(50, 0.5),
    "right tokens, 50 sentences, nearly all right": clustered(50, 5.0),
    "right tokens, 300 sentences, nearly all right": clustered(300, 5.0),
    "a recipe of two seeds": of_seeds(2),
    "a recipe of three seeds": of_seeds(3),
    "a difference, one run each": difference((1, 1), 0.0),
    "a difference, three seeds each": difference((3, 3), SEED_SPREAD),
    "a split's score, three seeds": held(split_bounds),
}
"""Worlds by the interval that is taken; each tells whether it holds what is true."""


def count(worlds: dict[str, Callable[[Chance], bool]], number: int, only: str = "") -> dict[str, int]:
    """Of so many worlds each, in how many it is so; the same ones every time."""
    found = {}
    for name, world in worlds.items():
        if only in name:
            started = time.perf_counter()
            found[name] = sum(world(np.random.default_rng([7, place])) for place in range(number))
            print(f"{name}: {found[name]:,} of {number:,} ({time.perf_counter() - started:.0f} s)", flush=True)
    return found


def rows_of(counts: dict[str, int], number: int) -> list[list[str]]:
    """Share and its interval, for a table."""
    return [
        [name, f"{found:,}", f"{found / number:.1%}", "{:.1%} to {:.1%}".format(*wilson(found / number, number))]
        for name, found in counts.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=2000, help="of every kind (default: 2000)")
    parser.add_argument("--only", default="", help="kinds whose name has this in it")
    parser.add_argument("--output", type=Path, help="a JSON file for the counts")
    options = parser.parse_args()
    false, right = (count(kinds, options.worlds, options.only) for kinds in (KINDS, INTERVALS))
    print()
    print(table(["finding", "false:", "share:", "95 %:"], rows_of(false, options.worlds)))
    print()
    print(table(["interval", "holds:", "share:", "95 %:"], rows_of(right, options.worlds)))
    if options.output:
        options.output.write_text(json.dumps({"worlds": options.worlds, "false": false, "held": right}, indent=2))


if __name__ == "__main__":
    main()
