"""Two models, or what is kept of them, on the same sentences: which is better, and is it chance?"""

import json
import re
from pathlib import Path

import datasets
import evaluate
import pytest
import yaml
from helpers.scored import keep, read, sentences, write
from safetensors.torch import load_file, save_file

from seqloom.commands.score import main
from seqloom.scoring import metrics, significance
from seqloom.scoring.predictions import read_predictions


def against(*words) -> dict:
    """What the command wrote."""
    assert main([str(word) for word in words]) == 0
    written = sorted(Path(words[0]).parent.parent.rglob("against-*.json"), key=lambda path: path.stat().st_mtime_ns)
    return json.loads(written[-1].read_text(encoding="utf-8"))


class TestAgainst:
    def test_two_files(self, files, capsys):
        good, bad = files
        results = against(good, "--against", bad, "--metrics", "exact_match", "cer", "--bootstrap_samples", "200")
        assert results["systems"] == {"a": str(good), "b": str(bad)}
        assert results["metrics"].keys() == {"exact_match", "cer"}
        for name, result in results["metrics"].items():
            for number, path in enumerate(files):
                predictions = read_predictions(path)
                direct = metrics.compute(name, predictions.hypotheses, predictions.references, bootstrap_samples=200)
                assert result["scores"][number] == pytest.approx(direct["score"])
                assert result["intervals"][number] == direct["interval"]
            assert result["signature"] == direct["signature"]
            assert result["tests"]["better"] == "a"  # though less is better in one of them
        exact = results["metrics"]["exact_match"]["tests"]
        assert (exact["wins"], exact["losses"]) == (20, 1)
        assert exact["p_exact"] == exact["p"] == significance.mcnemar(20, 1)
        assert results["metrics"]["cer"]["tests"]["p_exact"] is None

        printed = capsys.readouterr().out
        lines = printed.splitlines()
        assert lines[:3] == [f"A: {good}", f"B: {bad}", "40 sentences"]
        assert any(re.match(r"exact_match  97\.50 \[[\d., ]+\]  50\.00 .* \+47\.50 \[\+", line) for line in lines)
        assert "p bootstrap  p randomisation  p exact" in printed
        assert "exact_match: A is better (p < 0.001, exact; 20 sentences better in A, 1 in B, 19 the same)." in lines
        assert "bs:200|ar:200|seed:12345" in printed
        assert "independent of each other" in printed
        assert lines[-1] == f"the results are in {next(good.parent.glob('against-*-b-bad.json'))}"

    def test_a_folder_that_evaluate_wrote(self, files, tmp_path, capsys):
        """Is its predictions, with what lies beside them; a folder of several is asked which."""
        for split, path in zip(("one", "two"), files, strict=True):
            (tmp_path / "kept" / split).mkdir(parents=True)
            (tmp_path / "kept" / split / "predictions.jsonl").write_bytes(path.read_bytes())
        words = ("--metrics", "exact_match", "--bootstrap_samples", "20")
        one, two = tmp_path / "kept" / "one", tmp_path / "kept" / "two"
        found = against(one, "--against", two, *words)
        expected = against(files[0], "--against", files[1], *words)
        assert found["metrics"] == expected["metrics"]
        assert found["systems"] == {"a": f"{one / 'predictions.jsonl'}", "b": f"{two / 'predictions.jsonl'}"}
        capsys.readouterr()
        assert main([str(one), "--against", str(tmp_path / "kept")]) == 1
        assert "kept holds the predictions of one, two: give the folder of one of them." in capsys.readouterr().err

    def test_no_difference(self, files, tmp_path, capsys):
        same = tmp_path / "same.jsonl"
        same.write_bytes(files[0].read_bytes())
        results = against(files[0], "--against", same)
        assert results["metrics"].keys() == {"sacrebleu", "chrf"}  # the defaults
        assert all(result["tests"]["p"] == 1 for result in results["metrics"].values())
        printed = capsys.readouterr().out
        assert "chrf: no difference was found at p < 0.05 (p = 1.000" in printed
        assert "is better" not in printed

    def test_which_metrics(self, files, folder, tmp_path):
        """Those of the command, else of the run that the file lies in, else of the scores beside it."""
        (files[0].parent / "scores.json").write_text(json.dumps({"metrics": {"wer": {"signature": "old"}}}))
        results = against(files[0], f"--against={files[1]}")
        assert results["metrics"].keys() == {"wer"}
        assert "has another signature, old" in results["notes"][0]
        assert against(files[0], "--against", files[1], "--metrics", "cer")["metrics"].keys() == {"cer"}
        assert main([str(folder)]) == 0
        kept = folder / "evaluation" / "test" / "predictions.jsonl"
        copy = keep(tmp_path / "copy.jsonl", [""] * 11)
        results = against(kept, "--against", copy)
        assert results["metrics"].keys() == {"chrf", "cer"}
        assert results["metrics"]["chrf"]["scores"][0] == read(kept.parent)[0]["metrics"]["chrf"]["score"]
        assert "nw:2" in results["metrics"]["chrf"]["signature"]  # its arguments too
        assert results["notes"] == [f"{copy}: 11 of 11 outputs are empty."]

    def test_nothing_is_written_over(self, files, tmp_path):
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        words = [str(files[0]), "--against", str(files[1]), "--metrics"]
        for metric in ("cer", "wer", "cer"):
            assert main([*words, metric]) == 0
        first, second = sorted(set(files[0].parent.glob("*.json")))  # -2.json stands before .json
        assert json.loads(second.read_text())["metrics"].keys() == {"cer"}
        assert json.loads(first.read_text())["metrics"].keys() == {"wer"}
        assert main([*words, "ter", "--overwrite"]) == 0
        assert json.loads(second.read_text())["metrics"].keys() == {"ter"}
        assert main([*words, "cer", "--output_dir", str(tmp_path / "out")]) == 0
        assert len(list((tmp_path / "out").iterdir())) == 1
        assert all(path.read_bytes() == content for path, content in before.items())

    @pytest.mark.slow
    def test_two_models(self, folder, other, decoded, capsys):
        """The other one is scored on the first one's data, in its own folder; then both are kept."""
        results = against(folder, "--against", other)
        assert decoded == ["model", "other"]
        assert read(other / "evaluation" / "test")[0]["sentences"] == 11
        assert read(other / "evaluation" / "test")[0]["model"] == str(other)
        for number, place in enumerate((folder, other)):
            scores, predictions = read(place / "evaluation" / "test")
            assert [line["source"] for line in predictions] == sentences(11)
            for name, result in results["metrics"].items():
                assert result["scores"][number] == scores["metrics"][name]["score"]
        assert (folder / "evaluation" / "test" / "against-other.json").is_file()
        before = {path: path.read_bytes() for path in folder.parent.rglob("*") if path.is_file()}
        assert against(folder, "--against", other) == results
        assert decoded == ["model", "other"]
        assert {path: path.read_bytes() for path in folder.parent.rglob("*") if path.is_file()} == before
        assert against(folder, "--against", other, "--overwrite") == results
        assert decoded == ["model", "other"] * 2
        assert "B: " + str(other) in capsys.readouterr().out

    @pytest.mark.slow
    def test_what_both_were_decoded_with(self, folder, other, files, capsys):
        """It is said, and a difference too."""
        data = yaml.safe_load((folder / "settings.yaml").read_text())["data"]
        words = [str(other), "--test_files", *data["test_files"], "--overwrite"]
        assert main([*words, "--num_beams", "2", "--max_new_tokens", "5"]) == 0
        kept = other / "evaluation" / "test" / "predictions.jsonl"
        capsys.readouterr()
        assert main([str(folder), "--against", str(kept)]) == 0
        printed = capsys.readouterr().out
        assert "A was decoded with num_beams 1, max_new_tokens 9\n" in printed
        assert "B was decoded with num_beams 2, max_new_tokens 5\n" in printed
        assert "The two were decoded differently (num_beams, max_new_tokens): a difference may be the decod" in printed
        assert main(words) == 0
        results = against(folder, "--against", kept)
        assert results["decoding"] == {side: {"num_beams": 1, "max_new_tokens": 9} for side in "ab"}
        assert "decoded differently" not in capsys.readouterr().out
        assert main([str(files[0]), "--against", str(files[1])]) == 0
        assert "Whether both were decoded alike is not known" in capsys.readouterr().out

    @pytest.mark.slow
    def test_generation_settings_are_for_both(self, folder, other, decoded, capsys):
        assert main([str(folder), "--against", str(other), "--max_new_tokens", "3"]) == 0
        for place in (folder, other):
            assert read(place / "evaluation" / "test")[0]["generation"]["max_new_tokens"] == 3
        before = (other / "evaluation" / "test" / "scores.json").read_bytes()
        assert main([str(folder), "--against", str(other)]) == 1  # what is kept was made otherwise
        assert "holds scores already, with generation {'max_new_tokens': 3}" in capsys.readouterr().err
        assert (other / "evaluation" / "test" / "scores.json").read_bytes() == before
        assert main([str(folder), "--against", str(other), "--overwrite"]) == 0
        assert read(other / "evaluation" / "test")[0]["generation"]["max_new_tokens"] == 9
        assert len(decoded) == 4

    def test_what_is_kept_elsewhere_must_be_the_same_models(self, folder, other, tmp_path, capsys):
        out = tmp_path / "out"
        assert main([str(folder), "--output_dir", str(out)]) == 0
        assert main([str(other), "--against", str(folder), "--output_dir", str(out), "--test_files", "x", "y"]) == 1
        assert "holds scores already, with model" in capsys.readouterr().err
        assert main([str(folder), "--against", str(other), "--output_dir", str(out)]) == 0
        assert (out / "against-other.json").is_file()
        assert not (folder / "evaluation").exists()

    def test_kept_predictions_of_other_sentences(self, folder, other, tmp_path, decoded, capsys):
        assert main([str(folder)]) == 0
        words = ["--test_files", *write(tmp_path, "new", sentences(6))]
        assert main([str(folder), "--against", str(other), *words]) == 1
        assert "holds scores already, of other sentences" in capsys.readouterr().err
        assert decoded == ["model"]

    @pytest.mark.slow
    def test_kept_predictions_of_other_weights(self, folder, other, capsys):
        """As where the run went on."""
        assert main([str(folder)]) == 0
        weights = load_file(folder / "model.safetensors")
        save_file({name: 2 * values for name, values in weights.items()}, folder / "model.safetensors")
        assert main([str(folder), "--against", str(other)]) == 1
        assert "holds scores already, of other weights than the model has now" in capsys.readouterr().err
        assert main([str(folder), "--against", str(other), "--overwrite"]) == 0

    @pytest.mark.slow
    def test_kept_predictions_of_another_arithmetic(self, folder, other, decoded, capsys):
        words = [str(folder), "--against", str(other), "--decode_dtype", "bfloat16"]
        assert main([str(folder)]) == 0
        assert main(words) == 1
        assert "holds scores already, with generation" in capsys.readouterr().err
        assert main([*words, "--overwrite"]) == 0
        number = len(decoded)
        assert main(words) == 0
        assert len(decoded) == number

    def test_a_model_and_a_file(self, folder, tmp_path, decoded):
        """In either order; greedy search of a model can be compared with its beams."""
        assert main([str(folder), "--num_beams", "3", "--output_dir", str(tmp_path / "beams")]) == 0
        beams = tmp_path / "beams" / "predictions.jsonl"
        there = against(folder, "--against", beams)
        back = against(beams, "--against", folder)
        assert decoded == ["model", "model"]
        for name in ("chrf", "cer"):
            assert there["metrics"][name]["difference"] == -back["metrics"][name]["difference"]
            assert there["metrics"][name]["tests"]["p"] == back["metrics"][name]["tests"]["p"]

    def test_metrics_of_the_hub(self, files, monkeypatch, capsys):
        class Foreign(evaluate.Metric):
            def _info(self):
                features = datasets.Features({name: datasets.Value("string") for name in ("predictions", "references")})
                return evaluate.MetricInfo(description="", citation="", features=features)

            def _compute(self, predictions, references):
                return {"foreign": float(sum(map(len, predictions)))}

        monkeypatch.setattr(metrics.evaluate, "load", lambda _: Foreign(keep_in_memory=True))
        result = against(files[0], "--against", files[1], "--metrics", "foreign")["metrics"]["foreign"]
        assert result["tests"] is None
        assert result["difference"] == result["scores"][0] - result["scores"][1] != 0
        assert "foreign: not tested, since a metric of the Hub" in capsys.readouterr().out

    def test_lines_end_at_line_feeds_alone(self, tmp_path):
        path = keep(tmp_path / "x.jsonl", ["a\u2028b", "c\nd\x85", ""])
        assert read_predictions(path).hypotheses == ["a\u2028b", "c\nd\x85", ""]


class TestAgainstRefuses:
    """Likewise."""

    @pytest.mark.slow
    def test_words(self, refused, folder, files):
        for words in (["--against"], ["--against", "--split", "test"], ["--against="]):
            refused("--against needs a value", str(folder), *words)
        refused("--against has 2 values; it takes one", str(folder), "--against", "a", "b")
        refused("--against is given twice", str(folder), "--against", "a", "--against", "b")
        refused("are the same predictions", str(folder), "--against", str(folder))
        refused("are the same predictions", str(folder), "--against", str(folder) + "/")
        refused("are the same predictions", str(files[0]), "--against", str(files[0]))
        refused("bootstrap_samples is 0", *map(str, (files[0], "--against", files[1], "--bootstrap_samples", 0)))
        refused("num_beams cannot be set", *map(str, (files[0], "--against", files[1], "--num_beams", 3)))
        refused("did you mean sacrebleu?", *map(str, (files[0], "--against", files[1], "--metrics", "sacrebleau")))
        refused("--num_beam is unknown", *map(str, (files[0], "--against", files[1], "--num_beam", 3)))

    def test_missing(self, refused, folder, files, tmp_path):
        nowhere = str(tmp_path / "nowhere")
        refused(f"there is no folder {nowhere}", str(folder), "--against", nowhere)
        refused(f"there is no file {nowhere}.jsonl", str(folder), "--against", f"{nowhere}.jsonl")
        refused(f"there is no file {nowhere}.jsonl", f"{nowhere}.jsonl", "--against", str(files[0]))

    def test_damaged_files(self, refused, files):
        good, bad = map(str, files)
        whole = files[1].read_text(encoding="utf-8")
        lines = whole.splitlines(keepends=True)
        for content, message in (
            (whole[:-9], "line 40 of"),
            ("".join([*lines[:2], "{'source': 1}\n", *lines[3:]]), "line 3 of"),
            ("".join([lines[0], "\n", *lines[2:]]), "line 2 of"),
            ("".join([lines[0], "[1]\n"]), "line 2 of {} has no text 'source'"),
            ("".join([lines[0], lines[1].replace("hypothesis", "output")]), "line 2 of {} has no text 'hypothesis'"),
            ("".join([lines[0].replace(': "', ': 3, "x": "', 1)]), "line 1 of {} has no text 'source'"),
            ("", "has no predictions: it is empty"),
        ):
            files[1].write_text(content, encoding="utf-8")
            refused(message.format(bad), good, "--against", bad)
        files[1].write_bytes(b"\xff\xfe")
        refused("is not UTF-8", good, "--against", bad)

    def test_damaged_scores(self, refused, folder, files):
        place = folder / "evaluation" / "test"
        place.mkdir(parents=True)
        (place / "scores.json").write_text("{", encoding="utf-8")
        refused("scores.json is not JSON", str(folder), "--against", str(files[0]))

    def test_other_sentences(self, refused, folder, files, tmp_path):
        shorter = keep(tmp_path / "shorter.jsonl", [""] * 39, sentences(40)[:39])
        refused(f"{files[0]} has 40 sentences and {shorter} 39", str(files[0]), "--against", str(shorter))
        changed = keep(tmp_path / "changed.jsonl", [""] * 40, [*sentences(40)[:4], "zzz", *sentences(40)[5:]])
        refused("the sources differ: line 5 of", str(files[0]), "--against", str(changed))
        text = files[1].read_text(encoding="utf-8").splitlines(keepends=True)
        text[6] = text[6].replace('"reference": "', '"reference": "Z')
        files[1].write_text("".join(text), encoding="utf-8")
        refused("the references differ: line 7 of", str(files[0]), "--against", str(files[1]))
        refused("the sources differ: line 1 of", str(folder), "--against", str(files[0]))  # before it is decoded
