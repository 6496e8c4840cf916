"""What a run's record, card and console tell of how its model came to be."""

import json
import re
from pathlib import Path

import pytest
import yaml
from accelerate.state import AcceleratorState
from helpers.runs import run
from transformers import AutoModelForSeq2SeqLM

from seqloom.commands.score import main as evaluate
from seqloom.data.tokenization import load_tokenizer
from seqloom.sharing.card import make_card

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("fresh_accelerator")]


def told(folder: Path) -> tuple[dict, str, dict]:
    """The record, the card, and the card's header."""
    card = (folder / "run" / "README.md").read_text(encoding="utf-8")
    assert card == make_card(folder / "run")
    return json.loads((folder / "run" / "record.json").read_text()), card, yaml.safe_load(card.split("---\n")[1])


def anew() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)


class TestBegunWithAnother:
    def test_a_folder(self, tmp_path, data, capsys):
        run(tmp_path / "first", data)
        record, card, header = told(tmp_path / "first")
        assert (record["start"], record["model"]["frozen"]) == (None, 0)
        assert "trained from scratch with seqloom" in card
        assert "trained-from-scratch" in header["tags"]
        anew()
        folder = tmp_path / "first" / "run"
        capsys.readouterr()
        run(tmp_path / "second", data, tokenizer={"kind": "bpe", "vocab_size": 22},
            training={"init_from": str(folder), "freeze": ["model.shared.*"]})  # fmt: skip
        said = capsys.readouterr().out
        record, card, header = told(tmp_path / "second")
        start, total = record["start"], record["model"]["parameters"]
        assert start["new"] == 10 * 8  # rows of the merges, which the letters' vocabulary had not
        assert start["parameters"] == total - 80
        assert record["model"]["frozen"] == 22 * 8
        assert "warning: training.freeze keeps what was not taken over as it was drawn at random" in said
        assert "model.shared.weight (10 rows)" in said
        assert "begun with the weights of run and trained on with seqloom on few.source" in card
        assert (
            f"| begun with | the weights of run, model.safetensors with sha256 `{start['files'][0]['sha256']}`" in card
        )
        assert f"176 of {total:,} parameters stayed as they began; drawn at random and never learnt: " in card
        assert "from scratch" not in card
        assert "trained-from-scratch" not in header["tags"]
        assert "base_model" not in header  # it is none of the Hub
        assert "and knows nothing beyond these but what it was begun with" in card
        assert str(tmp_path) not in card

    def test_one_of_the_hub(self, tmp_path, data, hub):
        run(tmp_path / "first", data)
        with hub.client(hub.WRITE):
            AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "first" / "run").push_to_hub("me/model")
            load_tokenizer(tmp_path / "first" / "run").push_to_hub("me/model")
            anew()
            run(tmp_path / "second", data, training={"init_from": "me/model", "freeze": ["model.encoder.*"]})
            anew()
            # A resumed run has not forgotten it.
            run(tmp_path / "second", data, resume=True,
                training={"init_from": "me/model", "freeze": ["model.encoder.*"], "max_steps": 7})  # fmt: skip
        record, card, header = told(tmp_path / "second")
        assert record["start"]["revision"] == hub["me/model"].head
        assert record["start"]["new"] == 0
        assert header["base_model"] == "me/model"
        assert f"the weights of me/model, revision `{hub['me/model'].head}`" in card
        assert "drawn at random" not in card

    def test_frozen_from_scratch(self, tmp_path, data):
        run(tmp_path, data, training={"freeze": ["model.encoder.*"]})
        assert "parameters stayed as they began, which is drawn at random" in told(tmp_path)[1]


class TestResumed:
    def test_with_other_settings(self, tmp_path, data, capsys):
        run(tmp_path, data, training={"max_steps": 3, "label_smoothing_factor": 0.1})
        assert json.loads((tmp_path / "run" / "record.json").read_text())["resumed"] == []
        anew()
        run(tmp_path, data, resume=True, training={"max_steps": 6, "label_smoothing_factor": 0.1})
        anew()
        run(tmp_path, data, resume=True, training={"max_steps": 6, "label_smoothing_factor": 0.1})
        anew()
        run(tmp_path, data, resume=True, training={"max_steps": 9, "learning_rate": 0.001})
        assert capsys.readouterr().out.count("from here on with other settings: ") == 2
        record, card, _ = told(tmp_path)
        assert [(entry["step"], set(entry["changed"])) for entry in record["resumed"]] == [
            (3, {"max_steps"}),
            (6, {"max_steps", "learning_rate", "label_smoothing_factor"}),
        ]
        assert record["resumed"][1]["changed"]["learning_rate"] == [0.01, 0.001]
        (row,) = [line for line in card.splitlines() if line.startswith("| other settings |")]
        assert "after update 3 with max_steps `3 → 6`; after update 6 with" in row
        assert "learning_rate `0.01 → 0.001`" in row


class TestLearningRate:
    @pytest.mark.parametrize(
        ("training", "expected"),
        [
            ({"max_steps": 6}, r"0\.01 at its peak, constant after 0 updates of warm-up"),
            (
                {"max_steps": 6, "warmup_steps": 10},
                r"planned: .*; the run ended after update 6, within its warm-up, at 0\.005",
            ),
            (
                {"max_steps": 40, "eval_steps": 2, "learning_rate": 1e-9, "early_stopping_patience": 1,
                 "eval_metric": "exact_match"},
                r"planned: 1e-09 at its peak, .*; the run ended after update \d+ of 40, at 1e-09",
            ),
        ],
        ids=["whole", "warm-up", "patience"],
    )  # fmt: skip
    def test_the_one_that_was_reached(self, tmp_path, data, training, expected):
        run(tmp_path, data, training=training)
        (row,) = [line for line in told(tmp_path)[1].splitlines() if line.startswith("| learning rate |")]
        assert re.fullmatch(rf"\| learning rate \| {expected} \|", row), row


class TestData:
    def test_streams_buffers_and_cuts(self, tmp_path, data, capsys):
        """What is held at a time is not called the data; where validation is from, and that nothing is scored."""
        files = {
            "validation_files": None,
            "test_files": None,
            "streaming": True,
            "shuffle_buffer": 16,
            "validation_size": 9,
        }
        run(tmp_path, data, data=files)
        said, (record, card, _) = capsys.readouterr().out, told(tmp_path)
        assert record["data"]["plan"]["of"] == "buffer"
        assert record["data"]["plan"]["pairs"] == 16
        assert "plan: the stream's first 16 pairs, as many as are held at a time, in" in said
        assert "updates an epoch" not in said
        assert "padding (of the stream's first 16 pairs)" in card
        assert "It learnt from a stream of pairs" in card
        assert "validation data: cut from the training data, the first 9 pairs of the training stream" in said
        assert "The validation pairs were cut from the training data: the first 9 pairs of the training stream." in card
        assert record["data"]["cut"] == "the first 9 pairs of the training stream"
        assert record["data"]["overlap"] is None
        assert "was not counted, since these are a stream" in said
        assert "was not counted, since these are a stream" in card
        assert "not scored: the data have no test split." in said
        assert "None were measured. There was no test split" in card

    def test_test_pairs_that_are_training_pairs(self, tmp_path, data, capsys):
        run(tmp_path, data, data={"test_files": data["few"], "validation_files": data["few"]})
        said, (record, card, _) = capsys.readouterr().out, told(tmp_path)
        assert record["data"]["overlap"] == {"validation": 60, "test": 60}
        sentence = "60 of 60 validation pairs and 60 of 60 test pairs are also in the training data, word for word"
        assert f"held-out data: {sentence}" in said
        assert sentence in card
        assert "60 of these pairs are in the training data too" in card
        folder = str(tmp_path / "run")
        for words, is_known in (
            ([], True),
            (["--test_files", *data["few"]], True),
            (["--test_files", *data["test"]], False),
        ):
            assert evaluate([folder, *words, "--output_dir", str(tmp_path / f"scores{len(words)}"), "--overwrite"]) == 0
            assert ("60 of 60 test pairs are also" in capsys.readouterr().out) == is_known

    def test_a_mean_of_one(self, tmp_path, data, capsys):
        run(tmp_path, data, training={"average_checkpoints": 3, "max_steps": 3, "eval_steps": 3})
        assert "there was one validation alone, so there is nothing to take a mean of" in capsys.readouterr().out
        assert told(tmp_path)[0]["model"]["weights"] == "the best validation's, after update 3"
