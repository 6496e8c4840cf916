"""Quality says whose outputs are better as the metrics and the tests say it, and no more than that."""

import json
import random

import pytest
import yaml

from seqloom.comparison.candidates import Candidate, Options
from seqloom.comparison.measures import quality, quality_examples
from seqloom.comparison.sections import Passage, Plot, Table
from seqloom.modeling import CONFIG_CLASSES
from seqloom.scoring import metrics, significance
from seqloom.scoring.predictions import Predictions, measure_sentences, read_predictions
from seqloom.settings.reading import load_settings
from seqloom.support.wording import p_value, with_interval

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "two", "dogs", "run", "far"]
TEXTS = random.Random(1)
REFERENCES = [" ".join(TEXTS.choices(WORDS, k=TEXTS.randint(4, 12))) for _ in range(60)]
SCORED = ("chrf", "ter")


def outputs(share: float, seed: int) -> list[str]:
    """The references with a share of the words replaced."""
    chance = random.Random(seed)
    return [" ".join(chance.choice(WORDS) if chance.random() < share else w for w in r.split()) for r in REFERENCES]


@pytest.fixture
def candidate(tmp_path):
    """Makes one of its outputs, a list a seed."""

    def _candidate(name, *runs, family="rnn_seq2seq", scored=SCORED, kwargs=None, references=REFERENCES):
        folders = [tmp_path / f"{name}-{seed}" for seed in range(len(runs))]
        for folder, hypotheses in zip(folders, runs, strict=True):
            place = folder / "evaluation" / "test"
            place.mkdir(parents=True)
            CONFIG_CLASSES[family](vocab_size=9).save_pretrained(folder)
            lines = [
                json.dumps({"source": text.upper(), "reference": text, "hypothesis": hypothesis}) + "\n"
                for text, hypothesis in zip(references, hypotheses, strict=True)
            ]
            (place / "predictions.jsonl").write_text("".join(lines), encoding="utf-8")
            scores = {"split": "test", "generation": {"num_beams": 1}, "metrics": {n: {"score": 1.5} for n in scored}}
            (place / "scores.json").write_text(json.dumps(scores), encoding="utf-8")
        settings = None
        if kwargs is not None:
            raw = {
                "output_dir": "x", "model": {"model_type": family}, "data": {"dataset": "scan"},
                "training": {"max_steps": 1}, "evaluation": {"metric_kwargs": kwargs},
            }  # fmt: skip
            (tmp_path / "settings.yaml").write_text(yaml.safe_dump(raw))
            settings = load_settings(tmp_path / "settings.yaml")
        files = tuple(folder / "evaluation" / "test" / "predictions.jsonl" for folder in folders)
        return Candidate(name, tuple(folders), settings, tuple(range(len(runs))), files)

    return _candidate


@pytest.fixture
def ask(tmp_path):
    """Measures, and hands the values on as a file would hold them."""

    def _ask(*candidates, samples=100):
        found = quality.measure(candidates, Options(tmp_path, bootstrap_samples=samples))
        kept = json.loads(json.dumps(found, allow_nan=False))
        assert kept == found
        return kept

    return _ask


def only(section, kind):
    return [part for part in section.parts if isinstance(part, kind)]


class TestMeasuring:
    def test_scores(self, candidate, ask):
        """The metrics' own, with the arguments of the recipe; of several seeds the mean, each one, the spread."""
        runs = [outputs(0.2, 1), outputs(0.3, 2), outputs(0.25, 3)]
        single = outputs(0.4, 4)
        result = ask(candidate("three", *runs, kwargs={"chrf": {"word_order": 2}}), candidate("one", single))
        assert result["metrics"].keys() == set(SCORED)
        assert (result["sentences"], result["samples"], result["split"]) == (60, 100, "test")
        for name, kwargs in (("chrf", {"word_order": 2}), ("ter", {})):
            entry = result["metrics"][name]
            direct = [metrics.compute(name, texts, REFERENCES, bootstrap_samples=100, **kwargs) for texts in runs]
            scores = [each["score"] for each in direct]
            assert entry["scores"]["three"]["runs"] == pytest.approx(scores)
            assert entry["scores"]["three"]["score"] == pytest.approx(sum(scores) / 3)
            mean = sum(scores) / 3
            spread = (sum((score - mean) ** 2 for score in scores) / 2) ** 0.5
            assert entry["scores"]["three"]["spread"] == pytest.approx(spread)
            one = metrics.compute(name, single, REFERENCES, bootstrap_samples=100, **kwargs)
            assert entry["scores"]["one"]["score"] == pytest.approx(one["score"])
            assert entry["scores"]["one"]["interval"] == pytest.approx(one["interval"])
            assert entry["scores"]["one"]["spread"] is None
            assert entry["signature"] == one["signature"]
            low, high = entry["scores"]["three"]["interval"]
            assert low < entry["scores"]["three"]["score"] < high
            (pair,) = entry["pairs"]
            assert (pair["test"], pair["p"], pair["better"], pair["p_holm"]) == (None,) * 4  # three seeds against one
        findings = quality.section(result).findings
        assert findings[0] == "chrF: Not tested, one run against several: three and one."

    def test_the_first_recipes_arguments_hold_for_all(self, candidate, ask):
        texts = outputs(0.2, 1)
        others = [candidate(f"order-{n}", texts, scored=["chrf"], kwargs={"chrf": {"word_order": n}}) for n in (2, 0)]
        for order, systems in ((2, others), (0, others[::-1])):
            expected = metrics.compute("chrf", texts, REFERENCES, word_order=order)
            entry = ask(*systems)["metrics"]["chrf"]
            assert [score["score"] for score in entry["scores"].values()] == pytest.approx([expected["score"]] * 2)
            assert entry["signature"] == expected["signature"]

    def test_pairs(self, candidate, ask):
        """Every pair, tested as it is alone, and adjusted for the number of pairs."""
        texts = {"good": outputs(0.05, 1), "fair": outputs(0.2, 2), "poor": outputs(0.23, 3)}
        result = ask(*(candidate(name, hypotheses) for name, hypotheses in texts.items()))
        for name in SCORED:
            pairs = result["metrics"][name]["pairs"]
            assert [(pair["a"], pair["b"]) for pair in pairs] == [("good", "fair"), ("good", "poor"), ("fair", "poor")]
            for pair in pairs:
                alone = significance.compare_systems(
                    *([measure_sentences(name, Predictions([], REFERENCES, texts[pair[side]]))[1]] for side in "ab"),
                    samples=100,
                    higher_is_better=name == "chrf",
                )
                for key in alone.keys() - {"better"}:
                    assert pair[key] == alone[key]
            assert [pair["p_holm"] for pair in pairs] == significance.holm([pair["p"] for pair in pairs])
            assert [pair["better"] for pair in pairs] == ["good", "good", None]  # less is better in one of them

    def test_adjusted_p_values_decide(self, candidate, ask, monkeypatch):
        """What is a difference of one pair is none among many."""
        a, b = candidate("a", outputs(0.05, 1)), candidate("b", outputs(0.3, 2))
        assert ask(a, b)["metrics"]["chrf"]["pairs"][0]["better"] == "a"
        monkeypatch.setattr(quality, "holm", lambda p_values: [min(1, 6 * p) for p in p_values])
        (pair,) = ask(a, b)["metrics"]["chrf"]["pairs"]
        assert pair["p"] < 0.05 < pair["p_holm"]
        assert pair["better"] is None

    def test_exact_match(self, candidate, ask):
        """Sentences that one has right and the other wrong, first of all."""
        right = list(REFERENCES)
        a = [*right[:50], *["no"] * 10]
        b = ["no", right[1], *["wrong"] * 20, *right[22:]]
        result = ask(*(candidate(n, t, scored=["wer", "exact_match"]) for n, t in (("a", a), ("b", b))))
        (pair,) = result["metrics"]["exact_match"]["pairs"]
        assert (pair["wins"], pair["losses"], pair["p"]) == (21, 10, significance.mcnemar(21, 10))
        assert result["metrics"]["wer"]["pairs"][0]["p_exact"] is None
        assert result["examples"]["metric"] == "exact_match"
        (pair,) = result["examples"]["pairs"]
        assert [entry["line"] for entry in pair["better_a"]] == [1, 3, 4]
        assert [entry["line"] for entry in pair["better_b"]] == [51, 52, 53]
        first = {
            "line": 1, "source": right[0].upper(), "reference": right[0], "hypotheses": [right[0], "no"],
            "scores": [100, 0],
        }  # fmt: skip
        assert pair["better_a"][0] == first

    @pytest.mark.parametrize("name", ["chrf", "ter"])
    def test_examples(self, candidate, ask, name):
        """Those whose own scores are farthest apart, either way, and none where there is none."""
        texts = [outputs(0.2, 1), outputs(0.25, 2)]
        result = ask(*(candidate(str(number), text, scored=[name]) for number, text in enumerate(texts)))
        (pair,) = result["examples"]["pairs"]
        singly = [
            [metrics.compute(name, [h], [r])["score"] for h, r in zip(text, REFERENCES, strict=True)] for text in texts
        ]
        sign = 1 if name == "chrf" else -1
        margins = [sign * (one - two) for one, two in zip(*singly, strict=True)]
        for key, gains in (("better_0", margins), ("better_1", [-margin for margin in margins])):
            found = pair[{"better_0": "better_a", "better_1": "better_b"}[key]]
            best = sorted(gains, reverse=True)[:3]
            assert [gains[entry["line"] - 1] for entry in found] == pytest.approx(best)
            for entry in found:
                assert entry["hypotheses"] == [text[entry["line"] - 1] for text in texts]
                assert entry["scores"] == pytest.approx([each[entry["line"] - 1] for each in singly])
        noise = [outputs(0.5, 3), outputs(0.5, 4)]  # of other seeds: the sentences shown are those of the first
        several = [
            candidate(f"{number}-several", text, other, scored=[name])
            for number, (text, other) in enumerate(zip(texts, noise, strict=True))
        ]
        (of_several,) = ask(*several)["examples"]["pairs"]
        assert [of_several[key] for key in ("better_a", "better_b")] == [pair[key] for key in ("better_a", "better_b")]
        same = ask(*(candidate(f"{number}-same", texts[0], scored=[name]) for number in range(2)))
        assert same["examples"]["pairs"] == [{"a": "0-same", "b": "1-same", "better_a": [], "better_b": []}]
        assert only(quality.section(same), Passage) == []

    def test_metrics_of_the_hub(self, candidate, ask):
        result = ask(candidate("a", outputs(0.1, 1), scored=["chrf", "comet"]), candidate("b", outputs(0.1, 2)))
        assert result["metrics"].keys() == {"chrf", "ter"}
        assert result["untested"] == {"comet": {"a": 1.5, "b": None}}
        table = only(quality.section(result), Table)[0]
        assert table.header[-1] == "comet"
        assert [row[-1] for row in table.rows] == ["1.50", ""]
        assert "untested" in table.caption
        two = candidate("two", outputs(0.1, 1), outputs(0.1, 2), scored=["chrf", "comet"])
        second = two.predictions[1].with_name("scores.json")
        second.write_text(second.read_text().replace('"comet": {"score": 1.5}', '"comet": {"score": 2.5}'))
        assert ask(two)["untested"] == {"comet": {"two": 2.0}}

    def test_what_cannot_be_compared(self, candidate, ask):
        a = candidate("a", outputs(0.1, 1))
        others = [*REFERENCES[:7], "another", *REFERENCES[8:]]
        for other, message in (
            (candidate("b", outputs(0.1, 2), references=others), r"the sources differ: line 8 of a has .* that of b"),
            (candidate("c", REFERENCES[:9], references=REFERENCES[:9]), "a has 60 sentences and c 9"),
            (candidate("d", outputs(0.1, 2), REFERENCES[:9] + [""] * 51, references=others), "line 8"),
            (candidate("e"), "e has no predictions"),
        ):
            with pytest.raises(ValueError, match=message):
                ask(a, other)
        later = candidate("g", outputs(0.1, 1), outputs(0.1, 2)).predictions[1]
        later.write_text(later.read_text().replace(REFERENCES[4], "another"))
        with pytest.raises(ValueError, match=r"line 5 of .*g \(run 2\)"):
            ask(Candidate("g", (), None, (0, 1), (later.parents[3] / "g-0/evaluation/test/predictions.jsonl", later)))
        with pytest.raises(ValueError, match="no score of the candidates"):
            ask(candidate("f", outputs(0.1, 1), scored=["comet"]))
        a.predictions[0].with_name("scores.json").unlink()
        with pytest.raises(ValueError, match="no score of the candidates"):
            ask(a)
        a.predictions[0].write_text("{\n", encoding="utf-8")
        with pytest.raises(ValueError, match=r"line 1 of .* is not JSON"):
            ask(a)
        a.predictions[0].unlink()
        with pytest.raises(ValueError, match="there is no file"):
            ask(a)


class TestSaying:
    def test_findings_follow_the_numbers(self, candidate, ask):
        """The same recipes with their outputs exchanged: what was said of one is said of the other."""
        good, poor = outputs(0.05, 1), outputs(0.4, 2)
        for ahead, verdict in (("transformer", "SEEN"), ("rnn", "NOT SEEN")):
            texts = {"transformer": good, "rnn": poor} if ahead == "transformer" else {"transformer": poor, "rnn": good}
            pair = [
                candidate(f"{name}-{ahead}", hypotheses, family=f"{name}_seq2seq") for name, hypotheses in texts.items()
            ]
            result = ask(*pair)
            findings = quality.section(result).findings
            tested = result["metrics"]["chrf"]["pairs"][0]
            turned = 1 if ahead == "transformer" else -1  # the numbers are the better one's minus the other's
            low, high = tested["interval"][::turned]
            gap = f"{turned * tested['difference']:+.2f} [{turned * low:+.2f}, {turned * high:+.2f}]"
            assert f" by {gap} (p" in findings[0]
            behind = ({"transformer", "rnn"} - {ahead}).pop()
            assert findings[0].startswith(f"chrF: {ahead}-{ahead} is better than {behind}-{ahead} by +")
            assert findings[1].startswith(f"TER (less is better): {ahead}-{ahead} is better than {behind}-{ahead} by -")
            assert "No difference" not in findings[0]
            assert all("Said of these trained models" in finding for finding in findings[:2])
            assert findings[-1].startswith("Expected after Vaswani et al. (2017)")
            for label in ("chrF", "TER"):
                assert f" {label}: {verdict} of transformer-{ahead} and rnn-{ahead}." in findings[-1]
            assert ("NOT SEEN" in findings[-1]) == (ahead == "rnn")

    def test_expected_of_every_pair_of_the_two_kinds(self, candidate, ask):
        """Each by itself: one Transformer that is worse than one recurrent model, and three that are better."""
        shares = {"transformer_seq2seq": (0.02, 0.5), "rnn_seq2seq": (0.25, 0.8)}
        every = [
            candidate(f"{family[0]}{share}", outputs(share, 1), family=family, scored=["chrf"])
            for family, each in shares.items()
            for share in each
        ]
        finding = quality.section(ask(*every, samples=300)).findings[-1]
        assert "chrF: SEEN of t0.02 and r0.25, t0.02 and r0.8, t0.5 and r0.8; NOT SEEN of t0.5 and r0.25." in finding

    def test_p_values_as_they_are(self):
        assert [p_value(p) for p in (0.0009, 0.001, 0.0049, 1.0, None)] == [
            "< 0.001", "0.001", "0.005", "1.000", "",
        ]  # fmt: skip

    def test_no_difference(self, candidate, ask):
        texts = outputs(0.2, 1)
        pair = [candidate(family, texts, family=f"{family}_seq2seq") for family in ("rnn", "transformer")]
        findings = quality.section(ask(*pair)).findings
        assert findings[0].startswith("chrF: no difference was found between rnn and transformer (+0.00, p = 1.000")
        assert "chrF: NOT CLEAR of transformer and rnn." in findings[-1]
        assert "SEEN" not in findings[-1]
        assert "is better than" not in " ".join(findings)

    def test_of_one_kind_nothing_is_expected(self, candidate, ask):
        findings = quality.section(ask(*(candidate(str(k), outputs(0.2, k), kwargs={}) for k in range(3)))).findings
        assert len(findings) == len(SCORED)
        assert "Expected" not in " ".join(findings)

    def test_everything_is_there(self, candidate, ask, tmp_path):
        """Scores of all, tests of every pair and metric, pictures, sentences; a row of headlines for each metric."""
        texts = {"good": [outputs(0.05, 1), outputs(0.06, 2)], "poor": [outputs(0.4, 3), outputs(0.4, 4)]}
        texts["long-name-of-a-candidate"] = [outputs(0.2, 5), outputs(0.2, 6)]
        result = ask(*(candidate(name, *runs) for name, runs in texts.items()))
        section = quality.section(result)
        scores, tests, signatures = only(section, Table)
        assert [row[0] for row in scores.rows] == list(texts)
        assert scores.header == ["candidate", "seeds", "chrF", "TER"]
        first = result["metrics"]["chrf"]["scores"]["good"]
        low, high = first["interval"]
        assert scores.rows[0][2] == f"{first['score']:.2f} ± {first['spread']:.2f} [{low:.2f}, {high:.2f}]"
        assert len(tests.rows) == 2 * 3
        for row, pair in zip(tests.rows, result["metrics"]["chrf"]["pairs"], strict=False):
            assert row[1:3] == [
                f"{pair['a']} − {pair['b']}",
                with_interval(pair["difference"], pair["interval"], "+"),
            ]
            assert row[-2:] == [f"{pair['wins']} / {pair['losses']} / {pair['ties']}", pair["better"] or "not found"]
            assert pair["wins"] != pair["losses"]
        assert all(len(row) == len(tests.header) for row in tests.rows)
        assert [row[0] for row in signatures.rows] == ["chrF", "TER"]
        assert section.headline == {
            f"{label} (%) [95 % interval]": {
                name: "{score:.2f} [{interval[0]:.2f}, {interval[1]:.2f}]".format(
                    **result["metrics"][key]["scores"][name]
                )
                for name in texts
            }
            for key, label in (("chrf", "chrF"), ("ter", "TER"))
        }
        plots = only(section, Plot)
        assert [plot.name for plot in plots] == ["quality", "quality_differences"]
        for plot in plots:
            plot.figure.savefig(tmp_path / f"{plot.name}.png")
        assert plots[0].caption.endswith(
            f"chrF is best for good, {first['score']:.2f}; TER is best for good, "
            f"{result['metrics']['ter']['scores']['good']['score']:.2f}."
        )
        marks = [line.get_xdata().tolist() for line in plots[0].figure.axes[0].lines]
        assert marks[:3] == [first["interval"], [first["score"]], first["runs"]]  # the seeds as dots
        assert all(len(panel.lines) == 1 + 2 * 3 for panel in plots[1].figure.axes)  # the line of no difference
        labels = [[panel.get_xlabel() for panel in plot.figure.axes] for plot in plots]
        assert labels[0] == ["chrF (%; more is better)", "TER (%; less is better)"]
        assert [label.rpartition("\n")[2] for label in labels[1]] == ["first better →", "← first better"]
        result["metrics"]["chrf"]["pairs"][1]["better"] = None
        figure = only(quality.section(result), Plot)[1].figure
        marks = [line.get_markerfacecolor() for line in figure.axes[0].lines if line.get_marker() == "o"]
        assert [mark == "white" for mark in marks] == [False, True, False]  # hollow where no difference was found
        passages = only(section, Passage)
        assert passages[0].heading == "Where good is farthest ahead of poor (chrF of the sentence), first seeds"
        assert "mean of theirs" in section.how

    def test_different_decoding_is_told(self, candidate, ask):
        a, b = candidate("a", outputs(0.1, 1)), candidate("b", outputs(0.1, 2))
        assert "not decoded with the same" not in " ".join(quality.section(ask(a, b)).findings)
        path = b.predictions[0].with_name("scores.json")
        before = path.read_text()
        path.write_text(before.replace('"num_beams": 1', '"num_beams": 1, "length_penalty": 2.0'))  # of beams alone
        assert "not decoded with the same" not in " ".join(quality.section(ask(a, b)).findings)
        path.write_text(before.replace('"num_beams": 1', '"num_beams": 5'))
        section = quality.section(ask(a, b))
        told = "not decoded with the same settings (a with num_beams 1; b with num_beams 5)"
        assert told in " ".join(section.findings)
        assert told in section.cautions[0]

    def test_what_is_to_be_known_beside_a_score(self, candidate, ask):
        """Empty outputs, and models that somebody else trained; nothing of our own runs that write."""
        texts = outputs(0.1, 1)
        ours = candidate("ours", texts, kwargs={})
        assert quality.section(ask(ours)).cautions == []
        poor = candidate("poor", ["", " ", *texts[2:]], [*texts[:59], ""], kwargs={})
        marian = candidate("marian", outputs(0.2, 2))
        section = quality.section(ask(ours, poor, marian))
        (empty, other) = section.cautions
        assert only(section, Table)[0].caption.endswith(f"{empty} {other}")  # where the scores stand
        assert empty == "poor wrote nothing for 3 of 120 sentences."
        assert other.startswith("marian is no run of seqloom: on what and for how long it was trained is not known")

    def test_several_seeds_are_of_recipes(self, candidate, ask):
        """Equal recipes whose seeds differ more than sentences do: the sentences alone would decide."""
        a = candidate("a", outputs(0.1, 1), outputs(0.4, 2), kwargs={})
        b = candidate("b", outputs(0.2, 3), outputs(0.5, 4), kwargs={})
        result = ask(a, b, samples=300)
        (pair,) = result["metrics"]["chrf"]["pairs"]
        assert pair["p_randomisation"] < 0.05 < pair["p_seeds"] == pair["p"]
        (finding,) = quality.section(result).findings[:1]
        assert "no difference was found between a and b" in finding
        assert "Welch's test of seeds and sentences" in finding
        assert "Said of these trained models" not in finding
        low, high = result["metrics"]["chrf"]["scores"]["a"]["interval"]
        assert high - low > 40  # of two seeds that are 25 points apart, little follows

    def test_too_few_samples_are_told(self, candidate, ask):
        pair = [candidate("a", outputs(0.05, 1)), candidate("b", outputs(0.6, 2))]
        assert "cannot find a difference" not in quality.section(ask(*pair)).limits
        section = quality.section(ask(*pair, samples=19))  # p is 1/20 at the least
        assert "With 1 pair and 19 samples, resampling cannot find a difference" in section.limits
        assert all("no difference was found" in finding for finding in section.findings[: len(SCORED)])

    def test_one_candidate(self, candidate, ask):
        section = quality.section(ask(candidate("only", outputs(0.2, 1), kwargs={})))
        assert section.findings == []
        (plot,) = only(section, Plot)
        assert plot.name == "quality"
        assert "best" not in plot.caption

    def test_of_equals_none_is_called_the_best(self, candidate, ask):
        names, texts = ("one", "two", "three"), (outputs(0.9, 1), outputs(0.2, 1), outputs(0.2, 1))
        result = ask(*map(candidate, names, texts))
        scores = {name: f"{name} {result['metrics']['chrf']['scores'][name]['score']:.2f}" for name in names}
        caption = only(quality.section(result), Plot)[0].caption
        assert f"chrF: at the top, and not told apart, are {scores['two']} and {scores['three']}" in caption
        equal = ask(*map(candidate, ("four", "five"), (texts[0], texts[0])))
        assert "chrF is the same for all, " in only(quality.section(equal), Plot)[0].caption

    def test_long_texts_are_cut_to_where_they_differ(self):
        same = "x" * 1000
        reference, one, two = quality_examples._excerpts([same + "abc", same + "abd", same + "abc" + same])
        assert reference.startswith("…x")
        assert reference.endswith("abc")
        assert one.endswith("abd")
        assert two.endswith("…")
        assert len(two) == quality_examples.LONGEST + 2
        assert quality_examples._excerpts(["short", "shirt"]) == ["short", "shirt"]
        assert quality_examples._excerpts([same]) == ["x" * quality_examples.LONGEST + "…"]

    def test_the_files_are_the_ones_given(self, candidate):
        """The fixture writes what `read_predictions` reads."""
        one = candidate("a", outputs(0.1, 1))
        assert read_predictions(one.predictions[0]).references == REFERENCES
