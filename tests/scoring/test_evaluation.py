"""Decoding restores the order, scoring takes any seq2seq model, and what is written says how it came about."""

import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import datasets
import evaluate
import pytest
import sacrebleu
import torch
import transformers
from transformers import GPT2Config, GPT2LMHeadModel, MarianConfig, MarianMTModel

from seqloom.commands.score import main
from seqloom.data.pairs import load_pairs
from seqloom.data.tokenization import train_tokenizer
from seqloom.decoding import loading
from seqloom.decoding.loading import load_model
from seqloom.decoding.translate import translate
from seqloom.modeling import CONFIG_CLASSES
from seqloom.scoring import against as against_module
from seqloom.scoring import metrics, significance
from seqloom.scoring import score as score_module
from seqloom.scoring.predictions import read_predictions
from seqloom.scoring.score import evaluate_model
from seqloom.settings.schema import DataSettings, EvaluationSettings, Settings, TokenizerSettings, TrainingSettings

ROOT = Path(__file__).parents[2]
LETTERS = "abcdefgh"
SIZES = {
    "rnn_seq2seq": {"hidden_size": 16, "init_range": 1.5},
    "transformer_seq2seq": {
        "d_model": 16, "encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 2,
        "decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24,
    },
}  # fmt: skip


@pytest.fixture(autouse=True)
def _quiet():
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def sentences(count: int, longest: int = 12) -> list[str]:
    words = random.Random(count)
    return ["".join(words.choices(LETTERS, k=words.randint(1, longest))) for _ in range(count)]


def make_tokenizer(shared: bool = True, letters: str = LETTERS):
    return train_tokenizer([letters], [letters.upper()], TokenizerSettings(kind="char", shared=shared))


def untrained(config, cls, noise: float = 0.6):
    """A model whose outputs differ from source to source: its matrices are far from zero."""
    torch.manual_seed(3)
    model = cls(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=noise if parameter.dim() > 1 else 0)
    return model


def make_model(tokenizer, family: str = "transformer_seq2seq", **fields):
    target = getattr(tokenizer, "target_tokenizer", tokenizer)
    config = CONFIG_CLASSES[family](
        vocab_size=len(tokenizer), decoder_vocab_size=len(target),
        share_encoder_decoder_embeddings=target is tokenizer, **{**SIZES[family], **fields},
    )  # fmt: skip
    model = untrained(config, transformers.AutoModelForSeq2SeqLM.from_config(config).__class__)
    model.generation_config.max_new_tokens = 9
    return model


def write(folder: Path, name: str, sources: list[str], targets: list[str] | None = None) -> list[str]:
    targets = [source[::-1].upper() for source in sources] if targets is None else targets
    paths = [folder / f"{name}.{side}" for side in ("source", "target")]
    for path, texts in zip(paths, (sources, targets), strict=True):
        path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return [str(path) for path in paths]


@pytest.fixture
def folder(tmp_path) -> Path:
    """A model folder as training leaves it, with the settings of its run; validation is cut with the seed 7."""
    tokenizer, place = make_tokenizer(), tmp_path / "model"
    make_model(tokenizer).save_pretrained(place)
    tokenizer.save_pretrained(place)
    data = DataSettings(
        train_files=write(tmp_path, "train", sentences(60)), test_files=write(tmp_path, "test", sentences(11))
    )
    settings = Settings(
        output_dir="runs/x", model={"model_type": "transformer_seq2seq"}, data=data,
        training=TrainingSettings(seed=7, max_steps=1),
        evaluation=EvaluationSettings(metrics=["chrf", "cer"], metric_kwargs={"chrf": {"word_order": 2}}),
    )  # fmt: skip
    settings.save(place / "settings.yaml")
    return place


def read(folder: Path) -> tuple[dict, list[dict]]:
    """Scores and predictions."""
    scores = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    lines = (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    return scores, [json.loads(line) for line in lines]


class TestScoring:
    def test_a_model_of_ours(self, folder, capsys):
        assert main([str(folder)]) == 0
        scores, predictions = read(folder / "evaluation" / "test")
        sources = sentences(11)
        assert [line["source"] for line in predictions] == sources
        assert [line["reference"] for line in predictions] == [source[::-1].upper() for source in sources]
        model, tokenizer = load_model(str(folder)), make_tokenizer()
        assert [line["hypothesis"] for line in predictions] == translate(model, tokenizer, sources)

        hypotheses, references = ([line[name] for line in predictions] for name in ("hypothesis", "reference"))
        chrf = sacrebleu.CHRF(word_order=2)
        assert scores["metrics"].keys() == {"chrf", "cer"}
        assert scores["metrics"]["chrf"]["score"] == chrf.corpus_score(hypotheses, [references]).score
        assert scores["metrics"]["chrf"]["signature"] == str(chrf.get_signature())
        assert scores["metrics"]["chrf"]["score"] > 0
        assert (scores["split"], scores["sentences"], scores["model"]) == ("test", 11, str(folder))
        assert scores["generation"] == {"max_new_tokens": 9}
        assert scores["sentences_per_second"] > 0
        assert {"hardware", "torch", "transformers", "seqloom"} <= scores["environment"].keys()
        assert [file["name"] for file in scores["data"]["splits"]["test"]] == ["test.source", "test.target"]
        printed = capsys.readouterr().out
        for name, result in scores["metrics"].items():
            (line,) = [line for line in printed.splitlines() if line.startswith(name)]
            low, high = result["interval"]
            assert low <= result["score"] <= high
            interval = [f"[{low:.1f},", f"{high:.1f}]"]
            assert line.split() == [name, f"{result['score']:.2f}", *interval, result["signature"]]
        assert scores["bootstrap_samples"] == 1000
        assert str(folder / "evaluation" / "test") in printed

    def test_as_training_does(self, folder):
        """The function that `finish` calls and the command give the same."""
        command = evaluate_model(str(folder), ["--output_dir", str(folder / "command")])
        settings = EvaluationSettings(metrics=["chrf", "cer"], metric_kwargs={"chrf": {"word_order": 2}})
        pairs = datasets.Dataset.from_list(read(folder / "command")[1]).rename_column("reference", "target")
        score_module.score_split(
            load_model(str(folder)), make_tokenizer(), pairs, settings, split="test", folder=folder / "function"
        )
        assert read(folder / "function")[1] == read(folder / "command")[1]
        assert read(folder / "function")[0]["metrics"] == command["metrics"]

    def test_without_intervals(self, folder, capsys):
        assert main([str(folder), "--bootstrap_samples", "0"]) == 0
        scores, _ = read(folder / "evaluation" / "test")
        line = capsys.readouterr().out.splitlines()[0]
        assert line.split() == [
            "chrf",
            f"{scores['metrics']['chrf']['score']:.2f}",
            scores["metrics"]["chrf"]["signature"],
        ]
        assert scores["bootstrap_samples"] == 0
        assert all("interval" not in result for result in scores["metrics"].values())

    def test_table(self):
        """A metric without an interval leaves a gap; nothing at all is an empty table."""
        results = {
            "a": {"score": 5, "interval": [1.25, 10], "signature": "s"},
            "bcd": {"score": 7.126, "signature": "t"},
        }
        assert score_module.table(results).splitlines() == ["a    5.00  [1.2, 10.0]  s", "bcd  7.13               t"]
        assert score_module.table({}) == ""

    def test_overrides(self, folder, tmp_path):
        files = write(tmp_path, "other", sentences(5))
        words = ["--num_beams", "3", "--max_new_tokens", "4", "--metrics", "exact_match", "--test_files", *files]
        scores = evaluate_model(str(folder), [*words, "--output_dir", str(tmp_path / "out")])
        written, predictions = read(tmp_path / "out")
        assert written == json.loads(json.dumps(scores))
        assert scores["generation"] == {"num_beams": 3, "max_new_tokens": 4}
        assert scores["metrics"].keys() == {"exact_match"}
        model, tokenizer = load_model(str(folder)), make_tokenizer()
        expected = translate(model, tokenizer, sentences(5), num_beams=3, max_new_tokens=4)
        assert [line["hypothesis"] for line in predictions] == expected
        assert expected != translate(model, tokenizer, sentences(5), max_new_tokens=4)

    def test_greedy_of_a_model_with_beams(self, folder):
        model = load_model(str(folder))
        model.generation_config.update(num_beams=4, length_penalty=0.6, early_stopping=True)
        model.save_pretrained(folder)
        beams = evaluate_model(str(folder), ["--output_dir", str(folder / "beams")])
        assert beams["generation"] == {
            "num_beams": 4, "length_penalty": 0.6, "early_stopping": True, "max_new_tokens": 9,
        }  # fmt: skip
        greedy = evaluate_model(str(folder), ["--num_beams", "1", "--output_dir", str(folder / "greedy")])
        assert greedy["generation"]["num_beams"] == 1
        plain = load_model(str(folder))
        plain.generation_config.update(num_beams=1, length_penalty=None, early_stopping=None)
        hypotheses = [line["hypothesis"] for line in read(folder / "greedy")[1]]
        assert hypotheses == translate(plain, make_tokenizer(), sentences(11))
        assert hypotheses != [line["hypothesis"] for line in read(folder / "beams")[1]]

    def test_validation_is_what_training_cut(self, folder, tmp_path):
        """With the run's own seed: with another one, pairs that the model was trained on would be among them."""
        scores = evaluate_model(str(folder), ["--split", "validation"])
        data = DataSettings(train_files=[str(tmp_path / f"train.{side}") for side in ("source", "target")])
        cut, others = (load_pairs(data, seed).splits["validation"]["source"][:] for seed in (7, 42))
        assert [line["source"] for line in read(folder / "evaluation" / "validation")[1]] == cut != others
        assert scores["sentences"] == 6

    def test_scores_are_not_written_over(self, folder, capsys):
        assert main([str(folder)]) == 0
        before = (folder / "evaluation" / "test" / "scores.json").read_bytes()
        capsys.readouterr()
        assert main([str(folder), "--max_new_tokens", "3"]) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert "holds scores already; give --overwrite" in error
        assert (folder / "evaluation" / "test" / "scores.json").read_bytes() == before
        assert main([str(folder), "--max_new_tokens", "3", "--overwrite"]) == 0
        assert read(folder / "evaluation" / "test")[0]["generation"]["max_new_tokens"] == 3

    def test_another_librarys_model(self, tmp_path):
        tokenizer = make_tokenizer()
        config = MarianConfig(
            vocab_size=len(tokenizer), d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
            decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, max_position_embeddings=300,
            pad_token_id=0, eos_token_id=2, decoder_start_token_id=0,
        )  # fmt: skip
        untrained(config, MarianMTModel, noise=2).save_pretrained(tmp_path / "marian")
        tokenizer.save_pretrained(tmp_path / "marian")
        files = write(tmp_path, "data", sentences(5))
        scores = evaluate_model(str(tmp_path / "marian"), ["--test_files", *files, "--metrics", "chrf"])
        assert scores["generation"]["max_new_tokens"] == 256  # its generation config has no limit of its own
        _, predictions = read(tmp_path / "marian" / "evaluation" / "test")
        model = MarianMTModel.from_pretrained(tmp_path / "marian")  # positions are computed, not saved
        expected = translate(model, tokenizer, sentences(5), max_new_tokens=256)
        assert [line["hypothesis"] for line in predictions] == expected
        assert any(expected)

    @pytest.mark.slow
    def test_the_real_command(self, folder):
        """From the root, where `import evaluate` inside must find the library and not the command."""
        command = [sys.executable, "evaluate.py", str(folder), "--num_beams", "2"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("chrf ")
        assert read(folder / "evaluation" / "test")[0]["generation"]["num_beams"] == 2


@pytest.fixture
def refused(capsys, monkeypatch, tmp_path):
    def never(*_, **__):
        raise AssertionError("decoded")

    def _refused(message: str, *words: str) -> None:
        before = sorted(tmp_path.rglob("*"))
        with monkeypatch.context() as patch:
            patch.setattr(score_module, "translate", never)
            assert main(list(words)) == 1
        captured = capsys.readouterr()
        errors = [line for line in captured.err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1, captured.err
        assert message in errors[0]
        assert "Traceback" not in captured.err + captured.out
        assert sorted(tmp_path.rglob("*")) == before

    return _refused


class TestRefusals:
    """One line that says what is wrong, before anything is decoded or written."""

    def test_settings(self, refused, folder):
        refused("--num_beam is unknown; did you mean --num_beams?", str(folder), "--num_beam", "3")
        refused("split is 'tset'; allowed are", str(folder), "--split", "tset")
        refused("num_beams is 0", str(folder), "--num_beams", "0")
        refused("did you mean sacrebleu?", str(folder), "--metrics", "sacrebleau")

    def test_data(self, refused, folder, tmp_path):
        short = write(tmp_path, "short", ["a", "b"], ["A"])
        refused("has 1 lines and", str(folder), "--test_files", *short)
        refused("there is no file nowhere", str(folder), "--test_files", "nowhere", "nowhere")
        refused("has no pairs", str(folder), "--test_files", *write(tmp_path, "one", ["a"]), "--test_split", "test[5:]")
        files = write(tmp_path, "only", ["a"])
        refused("there is no split 'train'", str(folder), "--test_files", *files, "--split", "validation")

    def test_without_settings_the_data_must_be_named(self, refused, folder):
        (folder / "settings.yaml").unlink()
        refused("the data has no test split", str(folder))

    def test_models(self, refused, folder, tmp_path):
        refused("no seq2seq model can be loaded from 'someone/something'", "someone/something")
        refused(f"there is no folder {tmp_path / 'nowhere'}", str(tmp_path / "nowhere"))
        config = GPT2Config(vocab_size=12, n_embd=8, n_layer=1, n_head=1)
        GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
        refused("no seq2seq model can be loaded from", str(tmp_path / "gpt2"))

    def test_tokenizers(self, refused, folder):
        for path in folder.glob("tokenizer*"):
            path.rename(folder / f"hidden-{path.name}")
        refused("a tokenizer that can be read", str(folder))
        make_tokenizer(letters=LETTERS[:-2]).save_pretrained(folder)
        refused("which were not made for each other", str(folder))
        make_tokenizer(shared=False).save_pretrained(folder)
        refused("which were not made for each other", str(folder))

    def test_tokenizers_of_other_models(self, refused, tmp_path):
        tokenizer = make_tokenizer()
        config = MarianConfig(
            vocab_size=len(tokenizer) - 3, d_model=8, encoder_layers=1, decoder_layers=1, encoder_attention_heads=1,
            decoder_attention_heads=1, encoder_ffn_dim=8, decoder_ffn_dim=8, pad_token_id=0, eos_token_id=2,
            decoder_start_token_id=0, max_position_embeddings=9,
        )  # fmt: skip
        MarianMTModel(config).save_pretrained(tmp_path / "marian")
        tokenizer.save_pretrained(tmp_path / "marian")
        refused("they were not made for each other", str(tmp_path / "marian"))

    def test_words_of_the_command_line(self, capsys):
        assert main([]) == 2
        assert main(["--help"]) == 0
        assert capsys.readouterr().out.count("usage: seqloom evaluate MODEL") == 2
        for words in (["--overwrite"], ["--split", "test"]):
            assert main(words) == 1
            assert capsys.readouterr().err.startswith("error: the model comes first")


def keep(path: Path, hypotheses: list[str], sources: list[str] | None = None) -> Path:
    """A file of predictions."""
    sources = sentences(len(hypotheses)) if sources is None else sources
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        {"source": source, "reference": source[::-1].upper(), "hypothesis": hypothesis}
        for source, hypothesis in zip(sources, hypotheses, strict=True)
    ]
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture
def files(tmp_path) -> tuple[Path, Path]:
    """Predictions of which the first are nearly all right and the second half wrong."""
    right = [source[::-1].upper() for source in sentences(40)]
    return (
        keep(tmp_path / "a" / "good.jsonl", [*right[:-1], "X"]),
        keep(tmp_path / "b" / "bad.jsonl", [text if number % 2 else text + "X" for number, text in enumerate(right)]),
    )


@pytest.fixture
def other(folder, tmp_path) -> Path:
    """Another model, of which there is no data and no metric known."""
    tokenizer, place = make_tokenizer(), tmp_path / "other"
    make_model(tokenizer, d_model=24).save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


@pytest.fixture
def decoded(monkeypatch) -> list[str]:
    """Grows by every model that is loaded to be decoded."""
    names, load = [], loading.load_model

    def _load(name, *args):
        names.append(Path(name).name)
        return load(name, *args)

    for module in (score_module, against_module):
        monkeypatch.setattr(module, "load_model", _load)
    return names


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
        assert results["notes"] == []

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
