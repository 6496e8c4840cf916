"""The page says what the records say: every number, every engine that is missing, and where they come from."""

import importlib
import json
from pathlib import Path

import bench
import costs
import decoding_speed
import page
import pytest
from decoding_speed import measure_case
from engines import STOCK, Search

ORIGIN = {
    "command": "python benchmarks/x.py", "commit": "abc", "date": "2026-01-02",
    "environment": {"python": "3.11", "torch": "2.13.0", "transformers": "5.23.0", "seqloom": "0.1.0"},
    "machine": {"cpu": "A Processor", "cores": 2, "instructions": ["avx2"], "memory_gib": 16.0, "system": "Linux",
                "load": 0.1},
}  # fmt: skip
STAGE = {"name": "costs", "seconds": 5.0, "status": 0, "said": ""}
BENCH = {
    **ORIGIN, "asked": "make bench", "seconds": 61.0, "stages": [STAGE],
    "packages": {"ctranslate2": "4.8.5", "onnxruntime": None},
}  # fmt: skip
SCORE = {"score": 40.0, "difference": 0.0, "interval": [0.0, 0.0], "p": 1.0, "other_outputs": 0}
QUALITY = {
    "model": "mine", "metric": "sacrebleu", "signature": "nrefs:1", "beams": 5, "sentences": 9,
    "scores": {STOCK: SCORE, "seqloom int8": {**SCORE, "score": 39.5, "difference": -0.5, "interval": [-0.9, -0.1]}},
}  # fmt: skip
CURVES = [
    {"axis": axis, "work": work, "family": family, "values": [8, 16], "milliseconds": [3.0, 7.25],
     "intervals": [[2.0, 4.0], [6.0, 8.0]], "parameters": [10, 10], "exponent": 1.27}
    for axis in costs.AXES for work in costs.WORKS for family in costs.FAMILIES
]  # fmt: skip
START = {
    "model": "tiny", "engine": STOCK, "missing": None, "interpreter": 0.25, "import": 2.5, "load": 0.5,
    "first_output": 0.125, "next_output": 0.0625, "memory_one_mib": 321.0, "memory_many_mib": None,
}  # fmt: skip
COSTS = {
    **ORIGIN, "threads": 1, "at": costs.AT, "layers": 2, "curves": CURVES,
    "memory": [
        {"family": "GRU", "length": 32, "rows": 16, "training_memory_mib": 77.0, "generation_memory_mib": None}
    ],
    "starts": [START, {"model": "gru", "engine": "onnxruntime float32", "missing": "onnxruntime is not installed"}],
}  # fmt: skip


def copy(sources, search, threads):
    return [list(ids) for ids in sources]


@pytest.fixture
def decoded():
    """A record of decoding, measured."""
    args = decoding_speed.argparse.Namespace(threads=[1, 2], seconds=0.01, most_seconds=60.0, most_rounds=6)
    engines = {STOCK: copy, "seqloom float32": copy, "seqloom int8": lambda ids, *_: [[9]] * len(ids)}
    case = {"model": "tiny one", "words": "a Transformer", "batch": 2, "beams": 5, "length": "short",
            "limits": {"max_new_tokens": 12},
            "missing": {"CTranslate2 int8": "ctranslate2 is not installed"}}  # fmt: skip
    measured = measure_case(
        Path("no model is asked"),
        {name: lambda ids, search, threads, run=run: run(ids, search, threads) for name, run in engines.items()},
        [[[5, 2], [6, 2]]], Search(5, 2, 12), args,
    )  # fmt: skip
    left = {**case, "batch": 64, "rounds": 0, "engines": {}, "left_out": "it took too long"}
    return {**ORIGIN, "results": [case | measured, left], "quality": [QUALITY]}


def written(tmp_path, **records):
    folder = tmp_path / "records"
    folder.mkdir()
    for name, record in {"bench": BENCH, **records}.items():
        (folder / f"{name}.json").write_text(json.dumps(record))
    page.write(folder, tmp_path / "docs.md")
    return (tmp_path / "docs.md").read_text()


class TestPage:
    def test_where_it_comes_from(self, tmp_path):
        text = written(tmp_path)
        for words in ("`make bench` (61 s) on 2026-01-02, commit abc", "A Processor, 2 cores with avx2, 16 GiB, Linux",
                      "Python 3.11", "torch 2.13.0", "ctranslate2 4.8.5", "onnxruntime not installed"):  # fmt: skip
            assert words in text
        assert "**" not in text.split("## ")[0]  # nothing to be warned of

    @pytest.mark.slow
    def test_decoding(self, tmp_path, decoded):
        text = written(tmp_path, decoding_trained=decoded)
        side = decoded["results"][0]["engines"]["seqloom int8"]["2"]
        assert f"**{side['ratio']:.2f}** ({side['interval'][0]:.2f}–{side['interval'][1]:.2f}) ≠ 12/12" in text
        assert "- tiny one: CTranslate2 int8: ctranslate2 is not installed." in text
        assert "- tiny one: 64 together, beam 5, 12 tokens: it took too long." in text
        assert "| mine | beam 5 | seqloom int8 | 39.50 | -0.50 [-0.90, -0.10] | 0 of 9 |" in text
        picture = tmp_path / "benchmarks" / "trained_tiny-one.png"
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert "(benchmarks/trained_tiny-one.png)" in text

    @pytest.mark.slow
    def test_costs(self, tmp_path):
        text = written(tmp_path, costs=COSTS)
        assert "| length 8 to 16 | training step | GRU | 3.0 | 7.2 | 2.4 | 1.27 |" in text
        assert "| GRU | 32 | 77 | – |" in text
        assert "| tiny | generate | 3.38 | 2.75 | 0.50 | 125 | 62 | 321 | – |" in text
        assert "| gru | onnxruntime float32 | onnxruntime is not installed |" in text
        names = {path.name for path in (tmp_path / "benchmarks").iterdir()}
        assert names == {"costs_training.png", "costs_decoding.png", "starts.png"}

    def test_training(self, tmp_path):
        result = {"what": "tiny", "tokens_per_second": {"seqloom": 10.0, "other": 5.0}, "ratio": 2.0,
                  "interval": [1.9, 2.1]}  # fmt: skip
        text = written(tmp_path, training_speed={**ORIGIN, "results": [result]})
        assert "| tiny | seqloom | other | 10 | 5 | **2.00** | 1.90 to 2.10 |" in text
        assert "measured on" not in text

    def test_parts_of_other_days_say_so(self, tmp_path):
        text = written(tmp_path, training_speed={**ORIGIN, "commit": "def", "results": []})
        assert "(measured on 2026-01-02, commit def)" in text

    def test_warnings(self, tmp_path, decoded):
        busy = {**ORIGIN["machine"], "load": 1.5}
        failed = {**STAGE, "status": 1, "said": "it broke"}
        for side in decoded["results"][0]["engines"].values():
            side["1"]["cpu_share"] = 0.5
        record = {"bench": {**BENCH, "machine": busy, "stages": [failed]}, "decoding_speed": decoded}
        text = page.provenance(record)
        for words in ("its load was 1.5", "had 50% of a core", "**Not measured**: costs (it broke)."):
            assert words in text


class TestRefusals:
    def test_nothing_measured(self, tmp_path):
        with pytest.raises(ValueError, match=r"has no bench\.json: python benchmarks/bench\.py measures it"):
            page.write(tmp_path, tmp_path / "docs.md")

    @pytest.mark.parametrize(("text", "said"), [("{", r"is damaged"), ("[]", r"is no benchmark's record")])
    def test_damaged(self, text, said, tmp_path):
        (tmp_path / "bench.json").write_text(text)
        with pytest.raises(ValueError, match=said):
            page.write(tmp_path, tmp_path / "docs.md")


class TestBench:
    @pytest.mark.parametrize("path", sorted(bench.HERE.glob("*.py")), ids=lambda path: path.stem)
    def test_every_script_finds_what_it_imports(self, path):
        assert importlib.import_module(path.stem).__doc__

    def test_every_part_has_its_script_and_its_words(self, monkeypatch):
        parsers = {"decoding_speed.py": decoding_speed.parse, "costs.py": costs.parse}
        absent = {stage.script for stage in bench.STAGES if not (bench.HERE / stage.script).is_file()}
        assert absent <= {"seqloom", "whole_run.py"}
        for stage in bench.STAGES:
            for words in (stage.words, stage.quick) if stage.script in parsers else ():
                monkeypatch.setattr("sys.argv", [stage.script, *words])
                assert parsers[stage.script]().output

    @pytest.mark.slow
    def test_a_part_that_fails_is_told_of(self, tmp_path):
        stage = bench.Stage("it", "decoding_speed.py", ("--beams", "0"), (), 1)
        (tmp_path / "it.json").write_text("{}")
        found = bench.run_stage(stage, tmp_path, quick=False)
        assert found["status"] == 1
        assert found["said"] == "--beams has 0; they are 1 or more."
        assert not (tmp_path / "it.json").exists()  # older numbers are not taken for new ones

    def test_a_script_that_is_not_there(self, tmp_path):
        found = bench.run_stage(bench.Stage("it", "no_such.py", (), (), 1), tmp_path, quick=False)
        assert found["said"] == "there is no benchmarks/no_such.py"
