"""Words: counted as compare-mt counts them, and shown to the letter."""

import csv
import json
import random
import re
import shutil

import numpy as np
import pytest
import yaml
from helpers import compare_mt
from helpers.scored import make_tokenizer
from transformers import BartConfig

from seqloom.comparison import report
from seqloom.comparison.candidates import Candidate, Options
from seqloom.comparison.measures import words
from seqloom.comparison.measures.predicted import predicted
from seqloom.comparison.measures.word_counts import (
    BUCKETS,
    as_shares,
    counts_by_frequency,
    is_loop,
    matched_ngrams,
    ratio,
    splitter,
    turns,
)
from seqloom.comparison.measures.words_examples import example_rows, examples, marked
from seqloom.comparison.sections import Examples, Table
from seqloom.modeling import CONFIG_CLASSES
from seqloom.scoring.significance import interval
from seqloom.settings.reading import load_settings

EVIL = "</script><img src=x onerror=alert(1)> & <b>fett</b> {{ 7 }}"


def sentences(seed: int, count: int = 80) -> list[list[str]]:
    chance = random.Random(seed)
    return [chance.choices([*"abcdefgh"], weights=range(1, 9), k=chance.randint(0, 9)) for _ in range(count)]


class TestCounts:
    frequency = dict(zip("abcdefg", (1, 2, 4, 5, 30, 999, 1000), strict=True))  # h is new

    def test_words_by_frequency(self):
        """As an independent implementation of compare-mt's definition has them."""
        outputs, references = sentences(1), sentences(2)
        counts = counts_by_frequency(outputs, references, self.frequency)
        bounds = [low for low, _ in BUCKETS[1:]]
        expected = compare_mt.word_counts(outputs, references, self.frequency, bounds)
        assert counts.sum(0).tolist() == expected
        for place, of_bucket in enumerate(expected):
            share = as_shares([counts[:, place]], "f1")[0]
            assert share.score(share.values.sum(0)) == pytest.approx(compare_mt.f_measure(*of_bucket))

    def test_ngrams(self):
        references, a, b = sentences(1), sentences(2), sentences(3)
        ours, theirs = matched_ngrams(a, references), matched_ngrams(b, references)
        assert ours == compare_mt.right_ngrams(a, references)
        salience = compare_mt.salience(ours, theirs)
        assert {ngram: ratio(ours[ngram], theirs[ngram]) for ngram in salience} == salience
        found = words.salient(ours, theirs)
        best = sorted(salience.values())
        for side, sign in (("better_a", 1), ("better_b", -1)):
            shown = [ratio(entry["a"], entry["b"]) for entry in found[side]]
            assert shown == (best[::-1] if sign > 0 else best)[: len(shown)]
            assert 5 < len(shown) <= words.NGRAMS

    def test_interval(self):
        """Of F1 where the resamples of a few words would all be right: not [100, 100]; and it covers the truth."""
        low, high = interval(*as_shares([np.array([[1.0, 1, 1]] * 20 + [[0.0, 0, 0]] * 80)], "f1"))
        assert 80 < low < 85
        assert high == 100
        chance, truth, covered = np.random.default_rng(1), 100 * 2 * 0.05 / (0.05 + 0.95 * 0.5 + 1), 0
        for _ in range(200):
            reference = chance.poisson(0.3, 200)
            right = chance.binomial(reference, 0.05)
            output = right + chance.binomial(reference - right, 0.5)
            low, high = interval(*as_shares([np.stack([right, output, reference], 1).astype(float)], "f1"))
            covered += low <= truth <= high
        assert covered >= 184  # 190 expected, standard deviation 3

    @pytest.mark.parametrize(
        ("text", "number"),
        [("", 0), ("a", 1), ("a b", 1), ("a a", 2), ("x a b a b a b y", 3), ("a a b a a b", 2), ("a a a a", 4)],
    )
    def test_turns(self, text, number):
        assert turns(text.split()) == number

    def test_loops(self):
        """Over and over is so only where the reference is not."""
        assert is_loop(["and"] * 4, ["and", "so", "on"])
        assert not is_loop(["and"] * 3, ["and", "so", "on"])
        assert not is_loop(["walk"] * 4, ["walk"] * 4)
        assert is_loop(["walk"] * 6, ["walk"] * 4)

    @pytest.mark.parametrize(
        ("metrics", "kwargs", "text", "name", "expected"),
        [
            (["chrf"], {}, "Hi, you.", "13a", ["Hi", ",", "you", "."]),
            (["exact_match"], {}, "I_WALK I_RUN", "none", ["I_WALK", "I_RUN"]),
            (["exact_match", "sacrebleu"], {}, "Hi, you.", "13a", ["Hi", ",", "you", "."]),
            (["sacrebleu"], {"tokenize": "none", "lowercase": True}, "Hi, you.", "none", ["hi,", "you."]),
            (["wer"], {}, "我们走吧", "zh", ["我", "们", "走", "吧"]),
        ],
    )
    def test_tokenizer(self, metrics, kwargs, text, name, expected):
        splitting = splitter(metrics, kwargs, [text])
        assert (splitting.name, splitting.split(text)) == (name, expected)


class TestMarking:
    def test_what_differs(self):
        assert marked("ein Hund rennt.", "ein Mann rennt.") == ["ein ", "Hund", " rennt."]
        assert marked("Hund", "Mann") == ["", "Hund"]
        assert marked("", "Mann") == [""]
        assert marked("我们跑", "我们走", by_letters=True) == ["我们", "跑"]

    def test_to_the_letter(self):
        for seed in range(5):
            one, two = (" ".join(words) + EVIL[: 9 * seed] for words in (sentences(seed, 1)[0], sentences(9, 1)[0]))
            assert "".join(marked(one, two)) == one


SOURCES = ["a small dog", "two men", EVIL, "the end"]
REFERENCES = ["ein kleiner Hund", "zwei Männer", EVIL, "das Ende"]
OUTPUTS = {
    "good": ["ein kleiner Hund", "zwei Männer", EVIL, '=Ende ,\u2028 "\n'],
    "bad": ["ein ein ein ein ein", "", "<i>nichts</i>", "das Ende"],
}


def candidate(folder, name, *runs, scored=("chrf",), settings=None, extra=None) -> Candidate:
    files = []
    for seed, outputs in enumerate(runs):
        place = folder / f"{name}-{seed}"
        place.mkdir(parents=True)
        CONFIG_CLASSES["rnn_seq2seq"](vocab_size=9).save_pretrained(place)
        lines = [
            {"source": source, "reference": reference, "hypothesis": output, **(extra or {})}
            for source, reference, output in zip(SOURCES, REFERENCES, outputs, strict=True)
        ]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (place / "predictions.jsonl").write_text(text, encoding="utf-8")
        metrics = {metric: {"score": 1.5} for metric in scored} | {
            "comet": {"mean": 0.5, "scores": [0.1, 0.2, 0.3, 0.4]}
        }
        scores = {"split": "test", "generation": {"max_new_tokens": 9}, "metrics": metrics}
        (place / "scores.json").write_text(json.dumps(scores))
        files.append(place / "predictions.jsonl")
    return Candidate(name, tuple(path.parent for path in files), settings, tuple(range(len(runs))), tuple(files))


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A report of two models; its folder and the measure's result."""
    folder = tmp_path_factory.mktemp("words")
    candidates = [candidate(folder, name, outputs) for name, outputs in OUTPUTS.items()]
    result = words.measure(candidates, Options(folder, bootstrap_samples=50))
    entries = [{"name": name, "kind": "RNN", "description": "RNN"} for name in OUTPUTS]
    about = {"hardware": "1 thread", "python": "3"}
    record = {"candidates": entries, "measures": {"words": result}, "seconds": {}, "command": "seqloom compare",
              "commit": None, "date": "2026-01-01", "environment": about}  # fmt: skip
    report.write(folder, record)
    return folder, result


class TestMeasuring:
    def test_outputs(self, compared):
        _, result = compared
        assert result["outputs"] == {
            "good": {"outputs": 4, "empty": 0, "loops": 0, "limit": None},
            "bad": {"outputs": 4, "empty": 1, "loops": 1, "limit": None},
        }
        section = words.section(result)
        assert section.cautions == ["Outputs that repeat themselves: bad 1 of 4."]
        assert section.headline["outputs that are empty / repeat themselves / are cut"] == {
            "good": "0 / 0 / –", "bad": "1 / 1 / –",
        }  # fmt: skip
        assert "No model's training data were to be had" in section.how

    def test_of_several_seeds(self, tmp_path):
        """Scores are means, outputs sums."""
        both = words.measure([candidate(tmp_path, "a", *OUTPUTS.values())], Options(tmp_path, bootstrap_samples=50))
        singly = [
            words.measure([candidate(tmp_path / name, name, run)], Options(tmp_path / name, bootstrap_samples=50))
            for name, run in OUTPUTS.items()
        ]
        assert both["outputs"]["a"]["outputs"] == 8
        for key in ("ratios", "scores"):
            for place in range(len(both["lengths"]["buckets"])):
                each = [next(iter(one["lengths"][key].values()))[place]["value"] for one in singly]
                assert both["lengths"][key]["a"][place]["value"] == pytest.approx(sum(each) / 2)

    def test_cut(self, tmp_path):
        """As many tokens as there may be, or more."""
        one = candidate(tmp_path, "a", OUTPUTS["good"])
        run = predicted([one]).outputs["a"][0]

        def letters(text_target, add_special_tokens):
            assert not add_special_tokens
            return {"input_ids": [list(text) for text in text_target]}

        found = words.flagged(run, [[]] * 4, [[]] * 4, (letters, 14))
        assert found["cut"] == [True, False, True, False]

    def test_the_limit(self, tmp_path):
        """What was recorded, or the positions of a model of another make."""
        one = candidate(tmp_path, "a", OUTPUTS["good"])
        assert words.limit_of(one, predicted([one])) is None  # no tokenizer
        make_tokenizer().save_pretrained(one.folders[0])
        assert words.limit_of(one, predicted([one]))[1] == 9
        BartConfig(max_position_embeddings=5).save_pretrained(one.folders[0])
        assert words.limit_of(one, predicted([one]))[1] == 5

    def test_frequencies(self, tmp_path):
        """Of the training data, in the form that the references are scored in; else of the references."""
        texts = {"source": ["x"] * 20, "target": ["Ein Hund", "ein Mann", "und ein Hund", "EIN"] * 5}
        for side, lines in texts.items():
            (tmp_path / side).write_text("".join(f"{line}\n" for line in lines))
        raw = {
            "output_dir": "x", "model": {"model_type": "rnn_seq2seq"}, "training": {"max_steps": 1},
            "data": {"train_files": [str(tmp_path / side) for side in texts], "validation_size": 1},
        }  # fmt: skip
        (tmp_path / "settings.yaml").write_text(yaml.safe_dump(raw))
        settings = load_settings(tmp_path / "settings.yaml")
        form = {"scored_reference": "klein", "normalization": "lc"}
        one = candidate(tmp_path, "a", OUTPUTS["good"], settings=settings, extra=form)
        read, splitting = predicted([one]), splitter([], {}, REFERENCES)
        counts, source = words.word_frequencies([one], read, splitting)
        assert source == {"of": "a", "texts": 19, "is_whole": True, "is_shared": True, "why": None}
        assert counts["lc"]["ein"] == 19
        assert set(counts["lc"]) <= {"ein", "hund", "mann", "und"}
        (tmp_path / "target").unlink()
        counts, source = words.word_frequencies([one], read, splitting)  # the data are gone
        assert "target" in source.pop("why")
        assert source == {"of": None, "texts": 4, "is_whole": True, "is_shared": False}
        assert counts == {"lc": {"klein": 4}}

    def test_rows(self, compared, tmp_path, monkeypatch):
        """The largest differences first, as many as a page holds."""
        _, result = compared
        gaps = [max(row["scores"]) - min(row["scores"]) for row in result["examples"]]
        assert gaps == sorted(gaps, reverse=True)
        assert {row["line"] for row in result["examples"]} == {1, 2, 3, 4}
        read = predicted([candidate(tmp_path, name, outputs) for name, outputs in OUTPUTS.items()])
        statistics = read.statistics()["chrf"][1]
        monkeypatch.setattr("seqloom.comparison.measures.words_examples.LEAST", 1)
        monkeypatch.setattr("seqloom.comparison.measures.words_examples.MOST_LETTERS", 200)
        assert 1 <= len(example_rows(read, statistics, [1] * 4)) < 4


class TestTables:
    def test_sentences(self, compared):
        """To the letter, with every score: those of the Hub too where it gives one a sentence."""
        folder, _ = compared
        with (folder / "tables" / "sentences.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["output"] for row in rows] == [*OUTPUTS["good"], *OUTPUTS["bad"]]
        assert [row["line"] for row in rows] == [*"1234"] * 2
        assert [float(row["comet"]) for row in rows] == [0.1, 0.2, 0.3, 0.4] * 2
        assert [row["chrf"] for row in rows[:3]] == ["100.0000"] * 3
        assert [row["loop"] for row in rows[4:]] == [*"1000"]

    def test_others(self, compared):
        folder, result = compared
        tables = {}
        for name in ("words", "lengths", "outputs", "ngrams"):
            with (folder / "tables" / f"{name}.csv").open(encoding="utf-8", newline="") as file:
                tables[name] = list(csv.DictReader(file))
        assert [float(row["f1"]) for row in tables["words"] if row["f1"]] == [
            one["f1"] for of_system in result["accuracy"].values() for one in of_system if one["f1"] is not None
        ]
        assert sum(int(row["sentences"]) for row in tables["lengths"] if row["model"] == "good") == 4
        assert {row["ngram"] for row in tables["ngrams"]} >= {"zwei Männer", "das Ende"}


class TestPage:
    def test_nothing_is_markup(self, compared):
        folder, result = compared
        page = (folder / "report.html").read_text(encoding="utf-8")
        assert "<img src=x" not in page
        assert "<i>nichts" not in page
        data = json.loads(re.search(r'<script type="application/json">(.*?)</script>', page, re.DOTALL)[1])
        outputs = {row[0]: ["".join(parts) for parts in row[4]] for row in data["rows"]}
        assert outputs == {line: [OUTPUTS[n][line - 1] for n in OUTPUTS] for line in range(1, 5)}
        assert page.count("<li><p>line ") == 4
        assert isinstance(words.section(result).parts[-1], Examples)

    def test_a_single_model(self, tmp_path):
        result = words.measure([candidate(tmp_path, "a", OUTPUTS["bad"])], Options(tmp_path, bootstrap_samples=50))
        assert result["ngrams"] == []
        assert examples(result).models == ["a"]
        assert all(
            isinstance(part, Table) is not isinstance(part, Examples) for part in words.section(result).parts[-2:]
        )

    @pytest.mark.slow
    def test_in_a_browser(self, compared):
        """Filtered, sorted and searched; nothing runs over the edge of a phone."""
        api = pytest.importorskip("playwright.sync_api")
        chromium = shutil.which("chromium")
        if chromium is None:
            pytest.skip("there is no chromium")
        folder, _ = compared
        with api.sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 390, "height": 800})
            faults = []
            page.on("pageerror", lambda error: faults.append(str(error)))
            page.goto((folder / "report.html").as_uri())
            page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")

            def lines(**chosen):
                for name, value in chosen.items():
                    place = page.locator(f".examples [name={name}]")
                    place.fill(value) if name in ("text", "least", "most") else place.select_option(value)
                found = page.locator(".examples li p").all_inner_texts()
                page.click(".examples button[type=reset]")
                page.wait_for_function("document.querySelectorAll('.examples li').length === 4")
                return [int(text.split()[-1]) for text in found]

            assert lines(order="line") == [1, 2, 3, 4]
            assert lines(order="line", which="worse") == [4]
            assert sorted(lines(which="better")) == [1, 2, 3]
            assert lines(text="NICHTS") == [3]
            assert lines(order="line", most="2") == [2, 4]
            assert lines(text="not there") == []
            assert page.evaluate("document.documentElement.scrollWidth") <= 390
            assert page.locator(".examples img").count() == 0
            assert faults == []
            browser.close()
