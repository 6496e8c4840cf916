"""Any seq2seq model is scored on any split, and what is written says how it came about."""

import json

import datasets
import pytest
import sacrebleu
from helpers.scored import LETTERS, make_tokenizer, read, sentences, untrained, write
from transformers import GPT2Config, GPT2LMHeadModel, MarianConfig, MarianMTModel

from seqloom.commands.score import main
from seqloom.data.pairs import load_pairs
from seqloom.decoding.loading import load_model
from seqloom.decoding.translate import translate
from seqloom.scoring import score as score_module
from seqloom.scoring.score import evaluate_model
from seqloom.settings.schema import DataSettings, EvaluationSettings


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

    def test_a_length_that_counts_the_start(self, folder, tmp_path):
        """It goes before the model's own limit, and the record says by which of them was decoded."""
        scores = [
            evaluate_model(str(folder), [*words, "--output_dir", str(tmp_path / str(number))])
            for number, words in enumerate((["--generate_kwargs", "{max_length: 5}"], ["--max_new_tokens", "4"], []))
        ]
        assert scores[0]["generation"] == {"max_length": 5}
        total, new, own = (read(tmp_path / str(number))[1] for number in range(3))
        assert total == new != own

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

    def test_seed_of_drawn_outputs(self, folder, tmp_path):
        """Of two evaluations, and of their record."""
        outputs = {}
        for name, seed in (("one", 1), ("same", 1), ("other", 2)):
            place = tmp_path / name
            words = ["--generate_kwargs", "{do_sample: true, temperature: 2.0}", "--seed", str(seed)]
            assert main([str(folder), *words, "--split", "test", "--output_dir", str(place)]) == 0
            outputs[name] = (place / "predictions.jsonl").read_text(encoding="utf-8")
            assert json.loads((place / "scores.json").read_text())["generation"]["seed"] == seed
        assert outputs["one"] == outputs["same"] != outputs["other"]

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


class TestRefusals:
    """One line that says what is wrong, before anything is decoded or written."""

    @pytest.mark.slow
    def test_options_of_generate(self, refused, folder):
        refused("outputs are not drawn", str(folder), "--generate_kwargs", "{temperature: 0.5}")
        both = "{max_length: 3, max_new_tokens: 4}"
        refused("max_new_tokens, which is a setting", str(folder), "--generate_kwargs", both)
        words = ["--max_new_tokens", "4", "--generate_kwargs", "{max_length: 3}"]
        refused("which goes before it, is 4 (given too)", str(folder), *words)
        refused("arguments of ter", str(folder), "--metric_kwargs", "{ter: {}}")
        refused("ids of the model's tokens are", str(folder), "--generate_kwargs", "{forced_bos_token_id: 9999}")

    def test_settings(self, refused, folder, tmp_path):
        refused("--num_beam is unknown; did you mean --num_beams?", str(folder), "--num_beam", "3")
        refused("split is 'tset'; allowed are", str(folder), "--split", "tset")
        refused("num_beams is 0", str(folder), "--num_beams", "0")
        refused("did you mean sacrebleu?", str(folder), "--metrics", "sacrebleau")
        refused("data.revision is 'v1', which belongs to data.dataset", str(folder), "--data.revision", "v1")
        refused("data.config_name is 'x', which belongs to", str(folder), "--config_name", "x")
        refused("data.weight is -1.0; it must be more than 0", str(folder), "--weight", "-1")
        refused("data.source is 'en', a column of tables, but", str(folder), "--source", "en")
        refused("data.target is '[]', a column of tables, but", str(folder), "--data.target", "[]")
        table = tmp_path / "train.csv"  # which is not what is scored
        table.write_text("en,de\na,b\n")
        words = ["--dataset", str(table), "--test_files", *write(tmp_path, "x", sentences(3)), "--source", "en"]
        refused("data.dataset is of no use here", str(folder), *words)
        refused("data.source is 'en', a column of tables, but", str(folder), *words[2:])

    def test_data(self, refused, folder, tmp_path):
        short = write(tmp_path, "short", ["a", "b"], ["A"])
        refused("has 1 lines and", str(folder), "--test_files", *short)
        refused("there is no file nowhere", str(folder), "--test_files", "nowhere", "nowhere")
        refused("has no pairs", str(folder), "--test_files", *write(tmp_path, "one", ["a"]), "--test_split", "test[5:]")
        files = write(tmp_path, "only", ["a"])
        refused("or score that split with --split test", str(folder), "--test_files", *files, "--split", "validation")
        (tmp_path / "cells.tsv").write_text("source\ttarget\na b\tA B\nc d\n")
        (tmp_path / "cells.jsonl").write_text('{"source": "a", "target": "A"}\n\n{"target": "B"}\n')
        for name, gap in (("cells.tsv", "line 3 has no target"), ("cells.jsonl", "line 3 has no source")):
            refused(f"{name}, {gap}", str(folder), "--test_files", str(tmp_path / name))

    def test_without_settings_the_data_must_be_named(self, refused, folder):
        (folder / "settings.yaml").unlink()
        refused("the data has no test split", str(folder))

    def test_models(self, refused, folder, tmp_path):
        refused("there is no folder someone/something here, and the Hub, which may have", "someone/something")
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
