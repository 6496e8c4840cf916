"""Paired tests say what sacrebleu's say, what a count of all cases says, and nothing where there is nothing."""

import dataclasses
import itertools
import json
import math
import random
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
from helpers.scores import statistics
from sacrebleu.metrics import BLEU, CHRF, TER
from sacrebleu.significance import PairedTest

from seqloom.scoring import metrics, significance
from seqloom.scoring.estimates import student_quantile, student_tail, wilson
from seqloom.scoring.significance import Statistics, compare_systems, gap_change, holm, mcnemar

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "two", "dogs", "run", "far"]
TEXTS = random.Random(1)
REFERENCES = [" ".join(TEXTS.choices(WORDS, k=TEXTS.randint(4, 15))) for _ in range(70)]


def outputs(share: float, seed: int) -> list[str]:
    """The references with a share of the words replaced."""
    chance = random.Random(seed)
    return [" ".join(chance.choice(WORDS) if chance.random() < share else w for w in r.split()) for r in REFERENCES]


def errors(wrong) -> Statistics:
    """Exact match of sentences that are wrong or not."""
    rows = np.stack([np.asarray(wrong, dtype=np.float64), np.ones(len(wrong))], axis=1)
    return Statistics(rows, lambda sums: 100 * (sums[1] - sums[0]) / sums[1])


GOOD, BAD = outputs(0.2, 2), outputs(0.22, 15)


class TestSacrebleu:
    """The same seed gives its very resamples and swaps."""

    @pytest.fixture(autouse=True)
    def _seed(self, monkeypatch):
        monkeypatch.delenv("SACREBLEU_SEED", raising=False)

    @pytest.mark.parametrize(("name", "scorer"), [("sacrebleu", BLEU), ("chrf", CHRF), ("ter", TER)])
    @pytest.mark.parametrize(("kind", "ours"), [("bs", "p_bootstrap"), ("ar", "p_randomisation")])
    @pytest.mark.parametrize("samples", [100, 333])  # 333 is not a whole number of words of bits
    def test_p_values(self, name, scorer, kind, ours, samples):
        systems = [("good", GOOD), ("bad", BAD)]
        _, found = PairedTest(systems, {name: scorer()}, [REFERENCES], test_type=kind, n_samples=samples)()
        (theirs,) = [results[1].p_value for key, results in found.items() if key != "System"]
        a, b = (statistics(name, texts, REFERENCES) for _, texts in systems)
        assert 0.02 < theirs < 0.98  # there is something to agree on
        found = compare_systems([a], [b], samples=samples)
        if (name, kind) == ("ter", "ar"):  # whole edits: equal scores, which sacrebleu does not count, are many
            distances = significance._swapped_distances([a], [b], samples)
            equal = int((abs(distances - abs(found["difference"])) < 1e-9).sum())
            assert equal > 0
            theirs += equal / (samples + 1)
        assert found[ours] == pytest.approx(theirs, abs=1e-12)

    def test_swaps(self):
        for shape in ((70, 7), (64, 32), (33, 100), (1, 65)):
            expected = np.random.default_rng(12345).integers(2, size=(shape[1], shape[0]), dtype=bool)
            assert (np.array(list(significance.swaps(*shape))) == expected).all()

    def test_an_equal_score_counts_here(self):
        """As Riezler and Maxwell have it: a swap that separates the systems as far as they are is evidence too."""
        a, b = errors([0] * 12), errors([1, 1] + [0] * 10)
        found = compare_systems([a], [b], samples=2000)["p_randomisation"]
        assert found == pytest.approx(0.5, abs=0.05)  # of the four ways to swap two sentences, two are as far apart


class TestRandomisation:
    def test_all_swaps(self):
        """Of ten sentences all 1,024 swaps can be counted; the metric is a ratio of sums, not a mean."""
        chance = np.random.default_rng(5)
        a, b = (
            Statistics(np.stack([chance.integers(0, 6, 10), chance.integers(3, 9, 10)], 1).astype(float), ratio)
            for _ in range(2)
        )
        observed = abs(ratio(a.values.sum(0)) - ratio(b.values.sum(0)))
        reached = 0
        for mask in itertools.product([False, True], repeat=10):
            swapped = np.array(mask)[:, None]
            one, two = np.where(swapped, b.values, a.values), np.where(swapped, a.values, b.values)
            reached += abs(ratio(one.sum(0)) - ratio(two.sum(0))) >= observed - 1e-9
        expected = reached / 1024
        assert 0.05 < expected < 0.95
        found = compare_systems([a], [b], samples=8000)["p_randomisation"]
        assert found == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / 8000))

    def test_runs_are_swapped_together(self):
        """Three times the same run is that run: its p-values, not those of three times as many sentences."""
        a, b = (statistics("chrf", texts, REFERENCES) for texts in (GOOD, BAD))
        one, three = compare_systems([a], [b], samples=200), compare_systems([a] * 3, [b] * 3, samples=200)
        for name in ("p_bootstrap", "p_randomisation", "wins", "losses", "ties"):
            assert one[name] == three[name]
        ours, theirs = (np.subtract(*found["interval"]) for found in (three, one))
        assert ours == pytest.approx(theirs, rel=0.1)  # seeds that do not differ add nothing to the sentences' chance
        assert three["signature"] == "bs:200|ar:200|seeds:welch|seed:12345|runs:3,3"


def ratio(sums) -> float:
    return 100 * sums[0] / sums[1]


class TestMcnemar:
    def test_all_cases(self):
        """Every way in which so many coins can fall."""
        for wins, losses in itertools.product(range(7), range(6)):
            total = wins + losses
            far = abs(wins - losses)
            falls = [sum(coins) for coins in itertools.product([0, 1], repeat=total)]
            expected = sum(abs(2 * heads - total) >= far for heads in falls) / 2**total
            assert mcnemar(wins, losses) == pytest.approx(expected, rel=1e-12)

    @pytest.mark.parametrize(("wins", "losses"), [(18, 9), (400, 350), (2, 1500), (1000, 1001), (0, 60)])
    def test_in_whole_numbers(self, wins, losses):
        total, fewer = wins + losses, min(wins, losses)
        expected = min(Fraction(1), Fraction(2 * sum(math.comb(total, k) for k in range(fewer + 1)), 2**total))
        assert mcnemar(wins, losses) == pytest.approx(float(expected), rel=1e-9)
        assert mcnemar(losses, wins) == mcnemar(wins, losses)

    def test_large_numbers(self):
        """Where the normal distribution is close, and where nothing but 0 is left; neither overflows."""
        total, far = 2_000_000, 2_000
        wins = (total + far) // 2
        assert mcnemar(wins, total - wins) == pytest.approx(math.erfc((far - 1) / math.sqrt(2 * total)), rel=1e-3)
        assert mcnemar(2_000_000, 10) == 0.0
        assert mcnemar(1_000_000, 1_000_000) == 1.0
        assert mcnemar(0, 0) == 1.0

    def test_of_exact_match(self):
        a, b = errors([0] * 15 + [1] * 5 + [0] * 10), errors([1] * 15 + [0] * 5 + [0] * 10)
        found = compare_systems([a], [b], samples=50, is_binary=True)
        assert (found["wins"], found["losses"], found["ties"]) == (15, 5, 10)
        assert found["p"] == found["p_exact"] == mcnemar(15, 5) < 0.05
        assert (found["test"], found["better"]) == ("exact", "a")
        assert found["signature"] == "bs:50|ar:50|mcnemar:exact|seed:12345|runs:1,1"


class TestComparing:
    @pytest.mark.parametrize("name", metrics.METRICS)
    def test_a_system_and_itself(self, name):
        a = statistics(name, GOOD, REFERENCES)
        found = compare_systems([a], [a], samples=100, is_binary=name == "exact_match")
        assert (found["difference"], found["interval"]) == (0, [0, 0])
        assert found["p_bootstrap"] == found["p_randomisation"] == found["p"] == 1
        assert found["p_exact"] == (1 if name == "exact_match" else None)
        assert found["better"] is None
        assert (found["wins"], found["losses"], found["ties"]) == (0, 0, 70)

    @pytest.mark.parametrize("name", metrics.METRICS)
    def test_the_other_way_round(self, name):
        a, b = (statistics(name, texts, REFERENCES) for texts in (GOOD, BAD))
        options = {"samples": 200, "higher_is_better": metrics.higher_is_better(name)}
        there, back = compare_systems([a], [b], **options), compare_systems([b], [a], **options)
        assert back["difference"] == -there["difference"] != 0
        assert back["interval"] == pytest.approx([-bound for bound in reversed(there["interval"])])
        for p in ("p_bootstrap", "p_randomisation", "p_exact", "p"):
            assert back[p] == there[p]
        assert (back["wins"], back["losses"]) == (there["losses"], there["wins"])
        assert back["scores"] == there["scores"][::-1]

    @pytest.mark.parametrize("name", metrics.METRICS)
    def test_the_better_one(self, name):
        """Named whichever way the metric points, and wherever it stands."""
        a, b = (statistics(name, texts, REFERENCES) for texts in (outputs(0.02, 4), outputs(0.5, 5)))
        options = {"samples": 100, "higher_is_better": metrics.higher_is_better(name)}
        assert compare_systems([a], [b], **options)["better"] == "a"
        assert compare_systems([b], [a], **options)["better"] == "b"
        assert compare_systems([a], [b], **options)["wins"] > 35

    def test_plain_values_the_same_every_time(self):
        a, b = (statistics("rouge", texts, REFERENCES) for texts in (GOOD, BAD))
        found = compare_systems([a], [b], samples=60)
        assert json.loads(json.dumps(found, allow_nan=False)) == found == compare_systems([a], [b], samples=60)

    @pytest.mark.slow
    def test_the_parts(self):
        """The scores are the metric's, the resampled differences those of the resampled scores."""
        a, b = (statistics("wer", texts, REFERENCES) for texts in (GOOD, BAD))
        found = compare_systems([a], [b], samples=80, higher_is_better=False)
        scores = [metrics.compute("wer", texts, REFERENCES)["score"] for texts in (GOOD, BAD)]
        assert found["scores"] == pytest.approx(scores)
        assert found["difference"] == pytest.approx(scores[0] - scores[1])
        differences = significance.resampled_scores(a, 80) - significance.resampled_scores(b, 80)
        assert found["interval"] == np.quantile(differences, [0.025, 0.975]).tolist()
        singly = [
            [
                metrics.compute("wer", [text], [reference])["score"]
                for text, reference in zip(texts, REFERENCES, strict=True)
            ]
            for texts in (GOOD, BAD)
        ]
        assert significance.sentence_scores([a]) == pytest.approx(singly[0])
        margins = np.subtract(*singly)
        assert (found["wins"], found["losses"]) == ((margins < 0).sum(), (margins > 0).sum())

    def test_one_run_against_several(self):
        """The score is the mean of the runs'; what one run would be with another seed is not known: no verdict."""
        many = [statistics("chrf", outputs(0.2, seed), REFERENCES) for seed in (6, 7, 8)]
        one = statistics("chrf", outputs(0.4, 9), REFERENCES)
        found = compare_systems(many, [one], samples=100, is_binary=True)
        scores = [run.score(run.values.sum(axis=0)) for run in many]
        assert found["scores"][0] == pytest.approx(np.mean(scores))
        resampled = np.mean([significance.resampled_scores(run, 100) for run in many], axis=0)
        resampled -= significance.resampled_scores(one, 100)
        assert found["interval"] == pytest.approx(np.quantile(resampled, [0.025, 0.975]))
        assert found["p_randomisation"] is found["p_exact"] is None
        assert found["p_bootstrap"] < 0.05
        assert (found["test"], found["better"], found["p"], found["p_seeds"]) == (None, None, None, None)
        assert found["signature"] == "bs:100|seed:12345|runs:3,1"

    def test_several_runs_each(self):
        """Seeds and sentences together: Welch's t of the runs' scores, whose error has the sentences' in it too."""
        a = [statistics("chrf", outputs(share, seed), REFERENCES) for share, seed in ((0.2, 1), (0.3, 2), (0.25, 3))]
        b = [statistics("chrf", outputs(share, seed), REFERENCES) for share, seed in ((0.5, 4), (0.4, 5))]
        found = compare_systems(a, b, samples=300)
        scores = [[run.score(run.values.sum(axis=0)) for run in runs] for runs in (a, b)]
        of_seeds = [np.var(values, ddof=1) / len(values) for values in scores]
        resampled = significance.system_resamples(a, 300) - significance.system_resamples(b, 300)
        parts = [(resampled.var(ddof=1) * 70 / 69, 69), (of_seeds[0], 2), (of_seeds[1], 1)]
        error = math.sqrt(sum(variance for variance, _ in parts))
        freedom = error**4 / sum(variance**2 / number for variance, number in parts)
        half = student_quantile(0.05, freedom) * error
        assert found["interval"] == pytest.approx([found["difference"] - half, found["difference"] + half])
        assert found["test"] == "seeds"
        assert found["p"] == found["p_seeds"] == pytest.approx(student_tail(found["difference"] / error, freedom))

    def test_seeds_that_differ_are_no_finding(self):
        """Recipes that are equal, whose seeds are points apart: the sentences alone would tell them apart."""
        chance, found = np.random.default_rng(0), []
        for _ in range(60):
            a, b = ([errors(chance.random(400) < 0.5 + chance.normal(0, 0.08)) for _ in range(3)] for _ in range(2))
            found.append(compare_systems(a, b, samples=100))
        assert sum(one["p_randomisation"] < 0.05 for one in found) > 12
        assert sum(one["better"] is not None for one in found) <= 6  # of 60: 3, and twice the chance of more

    @pytest.mark.slow
    def test_false_alarms(self):
        """Where there is no difference, randomisation and the exact test cry out in one case of twenty at most."""
        chance = np.random.default_rng(1)
        alarms = {"randomisation": 0, "exact": 0}
        for _ in range(200):
            a, b = (errors(chance.random(80) < 0.4) for _ in range(2))
            found = compare_systems([a], [b], samples=99, is_binary=True)
            for name in alarms:
                alarms[name] += found[f"p_{name}"] <= 0.05
        assert max(alarms.values()) <= 10 + 3 * math.sqrt(200 * 0.05 * 0.95)

    def test_what_cannot_be_compared(self):
        a, b = errors([0, 1]), errors([0, 1, 1])
        none = Statistics(np.zeros((0, 2)), ratio)
        for systems, samples in ((([a], [b]), 9), (([], [a]), 9), (([a], [a]), 0), (([none], [none]), 9)):
            with pytest.raises(ValueError, match="cannot be compared"):
                compare_systems(*systems, samples=samples)


def test_holm():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])  # 3 x 0.01, then 2 x 0.03, then no less
    assert holm([0.5, 0.9, 0.2]) == pytest.approx([1, 1, 0.6])
    assert holm([0.02]) == [0.02]
    assert holm([]) == []
    p_values = np.random.default_rng(2).random(20) ** 3
    by_definition = [
        max(min(1, sum(p_values >= p_values[k]) * p_values[k]) for k in range(20) if p_values[k] <= p) for p in p_values
    ]
    assert holm(p_values.tolist()) == pytest.approx(by_definition)


def closed(p_values: Sequence[float]) -> list[float]:
    """By the closure principle (Marcus, Peritz & Gabriel 1976), of which Holm's is the shortcut: a hypothesis falls
    where every set that it is in does, of which Bonferroni is the test."""
    places = range(len(p_values))
    sets = [chosen for size in places for chosen in itertools.combinations(places, size + 1)]
    fallen = {chosen: min(1.0, len(chosen) * min(p_values[place] for place in chosen)) for chosen in sets}
    return [max(p for chosen, p in fallen.items() if place in chosen) for place in places]


def test_holm_is_the_closed_test():
    chance = np.random.default_rng(4)
    for number in range(1, 9):
        for p_values in (
            chance.random(number),
            chance.random(number) ** 4,
            np.repeat(chance.random(number), 2)[:number],
        ):
            assert holm(p_values.tolist()) == pytest.approx(closed(p_values.tolist()))


class TestShares:
    """Wilson's interval of what is right or wrong, by sentence or by token."""

    @pytest.mark.parametrize(("right", "number"), [(50, 50), (0, 50), (49, 50), (17, 80)])
    def test_is_where_the_score_test_does_not_reject(self, right, number):
        """Its bounds are the shares that so many right ones are 1.96 standard errors away from."""
        wrong = np.arange(number) >= right
        run = Statistics(np.stack([wrong, np.ones(number)], 1).astype(float), lambda s: 100 * (1 - s[0] / s[1]), True)
        for bound, side in zip(significance.interval(run), (1, -1), strict=True):
            p = bound / 100
            if (right, side) not in ((number, -1), (0, 1)):
                assert right / number - p == pytest.approx(side * 1.959964 * math.sqrt(p * (1 - p) / number), rel=1e-5)
            else:
                assert p == pytest.approx(right / number)

    def test_tokens_that_go_wrong_together(self):
        """Of sentences that are wholly right or wholly wrong, each is one unit; of single tokens, each is."""
        right = np.arange(40) < 30
        whole = Statistics(np.stack([10 * ~right, np.full(40, 10)], 1).astype(float), errors([0]).score, True)
        low, high = significance.interval(whole)
        effective = 40 * 39 / 40  # an unbiased variance is of one sentence less
        assert [low / 100, high / 100] == pytest.approx(wilson(0.75, effective))
        chance = np.random.default_rng(0)
        apart = Statistics(
            np.stack([chance.binomial(10, 0.25, 4000), np.full(4000, 10)], 1) * 1.0, errors([0]).score, True
        )
        low, high = significance.interval(apart)
        assert high - low == pytest.approx(2 * 1.96 * 100 * math.sqrt(0.75 * 0.25 / 40_000), rel=0.05)

    def test_of_several_runs(self):
        """Other seeds are in it: wider than of the sentences alone, and [100, 100] of none."""
        chance = np.random.default_rng(1)
        runs = [shares(chance.random(300) < p) for p in (0.1, 0.2, 0.15)]
        low, high = significance.system_interval(runs)
        alone = significance.share_interval(runs)
        assert low < alone[0] < significance.system_score(runs) < alone[1] < high
        perfect = [shares([0] * 30)] * 3
        assert significance.system_interval(perfect) == pytest.approx([100 * bound for bound in wilson(1, 30)])


def shares(wrong) -> Statistics:
    return dataclasses.replace(errors(wrong), is_share=True)


class TestGapChange:
    def test_of_what_is_right_or_wrong_is_bonetts(self):
        """Bonett & Price (2012): two sentences more in each set, one for either system."""
        chance = np.random.default_rng(3)
        sets = [tuple([errors(chance.random(number) < p)] for p in (0.3, 0.5)) for number in (30, 50)]
        found = gap_change(*sets, samples=4000)
        variance, change = 0.0, 0.0
        for sign, (a, b), number in zip((-1, 1), sets, (30, 50), strict=True):
            ours, theirs = (system[0].values[:, 0] for system in (a, b))
            change += sign * 100 * (theirs.mean() - ours.mean())
            only_a, only_b = ((theirs > ours).sum() + 1) / (number + 2), ((ours > theirs).sum() + 1) / (number + 2)
            variance += 100**2 * (only_a + only_b - (only_a - only_b) ** 2) / (number + 2)
        assert found.value == pytest.approx(change)
        assert found.error == pytest.approx(1.04 * math.sqrt(variance), rel=0.05)

    def test_all_alike_is_not_sure(self):
        """Ten sentences that both have right say little of the hundredth."""
        perfect = ([errors([0] * 10)], [errors([0] * 10)])
        found = gap_change(perfect, perfect, 50)
        assert found.value == 0
        assert found.interval()[1] > 20
