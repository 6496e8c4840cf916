"""A case is measured, left out or refused; outputs are compared; bad words end in one sentence."""

import argparse
import json
import sys
from pathlib import Path

import decoding_speed
import pytest
from decoding_speed import measure, measure_case, measure_quality, parse, speed_table, trained_subject
from engines import STOCK, Search, load_engine
from helpers.tiny import tiny

SEARCH = Search(1, 2, max_new_tokens=3)
NONE = Path("no model is asked")
INPUTS = [[[5, 2], [6, 7, 2]], [[8, 2], [9, 2]]]
ARGS = {"threads": [1], "seconds": 1e6, "most_seconds": 60.0, "most_rounds": 8, "batches": [2], "beams": [1]}


def args(**changes):
    return argparse.Namespace(**ARGS | changes)


def copy(sources, search, threads):
    """An engine that writes its sources."""
    return [list(ids) for ids in sources]


def backwards(sources, search, threads):
    return [ids[::-1] for ids in sources]


def nines(sources, search, threads):
    return [[9, 9, 9]] * len(sources)


def parsed(monkeypatch, words):
    monkeypatch.setattr(sys, "argv", ["decoding_speed.py", *words.split()])
    return parse()


class TestCases:
    def test_every_side_is_measured(self):
        found = measure_case(NONE, {STOCK: copy, "seqloom float32": copy}, INPUTS, SEARCH, args(threads=[1, 2]))
        assert found["rounds"] == 8
        assert found["sentences"] == 16
        for of_threads in found["engines"].values():
            assert set(of_threads) == {"1", "2"}
            assert {side["other_outputs"] for side in of_threads.values()} == {0}
        assert found["engines"][STOCK]["2"]["ratio"] == 1

    def test_other_outputs_are_counted(self):
        found = measure_case(NONE, {STOCK: copy, "seqloom int8": backwards}, INPUTS, SEARCH, args())
        assert found["engines"]["seqloom int8"]["1"]["other_outputs"] == 16

    def test_what_must_be_the_same_is_refused(self, tmp_path):
        """But where its scores are not lower: two beams were all but equal, and it went on with the other."""
        decoding_speed.save_random(small(), tmp_path)
        greedy = load_engine(STOCK, tmp_path, tmp_path, [1])
        with pytest.raises(ValueError, match=r"float32, 1 thread: 16 of 16 outputs .* and 16 have a lower score"):
            measure_case(tmp_path, {STOCK: greedy, "seqloom float32": nines}, INPUTS, SEARCH, args())
        found = measure_case(tmp_path, {STOCK: nines, "seqloom float32": greedy}, INPUTS, SEARCH, args())
        assert found["engines"]["seqloom float32"]["1"]["other_outputs"] == 16

    def test_what_takes_too_long_is_left_out(self):
        found = measure_case(NONE, {STOCK: copy}, INPUTS, SEARCH, args(most_seconds=0.0))
        assert found["engines"] == {}
        assert "more than --most_seconds 0" in found["left_out"]
        assert speed_table({**found, "missing": {}}).startswith("Left out: 1 run of 1")


class TestSubjects:
    def test_of_a_run(self, tmp_path, monkeypatch):
        """Sources and references are those of its test split, else of the files that are given."""
        folder = tmp_path / "model"
        decoding_speed.save_random(small(), folder)
        with pytest.raises(ValueError, match=r"has no scored test split: give --sources"):
            trained_subject(folder, words(monkeypatch, folder))
        kept = folder / "evaluation" / "test"
        kept.mkdir(parents=True)
        lines = [{"source": f"w{n} w5", "reference": f"w{n}", "hypothesis": "?"} for n in range(4)]
        (kept / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        subject, given = trained_subject(folder, words(monkeypatch, folder, "--batches 2"))
        assert given.references == ["w0", "w1", "w2", "w3"]
        assert [len(ids) for ids in subject.rounds[2, "real"][0]] == [3, 3]
        assert len(subject.rounds[2, "real"]) == 2

    def test_is_measured_and_scored(self, tmp_path, monkeypatch):
        folder = tmp_path / "model"
        decoding_speed.save_random(small(), folder)
        (tmp_path / "sources").write_text("w1 w2\nw3\nw4 w5 w6\n")
        (tmp_path / "references").write_text("w1\nw2\nw3\n")
        files = f"--sources {tmp_path / 'sources'} --references {tmp_path / 'references'} --metric exact_match"
        told = words(monkeypatch, folder, f"{files} --batches 3 --beams 1 --threads 1 --most_rounds 6 --seconds 0.01")
        subject, given = trained_subject(folder, told)
        engines = {STOCK: copy, "seqloom int8": backwards}
        (result,) = measure(subject, engines, {"onnxruntime float32": "onnxruntime is not installed"}, told)
        assert result["model"] == "model"
        assert "onnxruntime is not installed" in speed_table(result)
        (quality,) = measure_quality(subject, engines, given, told)
        assert quality["sentences"] == 3
        assert quality["scores"]["seqloom int8"]["other_outputs"] == 3
        assert decoding_speed.quality_table([quality]).count("seqloom int8") == 1


class TestRefusals:
    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ("--beams 0", r"--beams has 0; they are 1 or more"),
            ("--threads 1 -1", r"--threads has -1"),
            ("--most_rounds 5", r"rounds is 5; it must be 6 or more"),
            ("--engines MarianMTModel", r"--engines lacks generate"),
            ("--sources some.txt", r"give --model FOLDER too"),
            ("--model m --references some.txt", r"give --sources FILE too"),
            ("--model a/m b/m", r"two models are called m"),
            ("--metric_kwargs 7", r"--metric_kwargs is '7'; give a mapping"),
            ("--model /no/such/folder", r"there is no folder /no/such/folder"),
        ],
    )
    def test_words(self, given, said, monkeypatch, tmp_path):
        with pytest.raises(ValueError, match=said):
            decoding_speed.subjects(parsed(monkeypatch, given), tmp_path)

    def test_a_metric_that_does_not_take_its_options(self, tmp_path, monkeypatch):
        """Before anything is measured."""
        folder = tmp_path / "model"
        decoding_speed.save_random(small(), folder)
        (tmp_path / "one").write_text("w1\n")
        told = words(monkeypatch, folder, f"--sources {tmp_path / 'one'} --references {tmp_path / 'one'}")
        told.metric_kwargs = {"no_such_option": 1}
        with pytest.raises(ValueError, match=r"does not take"):
            trained_subject(folder, told)

    def test_files(self, tmp_path, monkeypatch):
        folder = tmp_path / "model"
        decoding_speed.save_random(small(), folder)
        (tmp_path / "two").write_text("w1\nw2\n")
        (tmp_path / "one").write_text("w1\n")
        (tmp_path / "none").write_text("")
        for given, said in (
            (f"--sources {tmp_path / 'absent'}", r"there is no file"),
            (f"--sources {tmp_path / 'two'} --references {tmp_path / 'one'}", r"one has 1 lines, .*two has 2: a line"),
            (f"--sources {tmp_path / 'none'}", r"holds no sentence"),
        ):
            with pytest.raises(ValueError, match=said):
                trained_subject(folder, words(monkeypatch, folder, given))


def small():
    """The configuration of a model of 20 words."""
    return tiny("post-norm").config


def words(monkeypatch, folder, more=""):
    return parsed(monkeypatch, f"--model {folder} {more}")
