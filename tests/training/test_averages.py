"""Averages of weights: over updates, and over the last or the best checkpoints."""

import math
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from helpers.killed import assert_same_run, kill_and_resume, refused
from helpers.runs import (
    read_log,
    run,
    same,
    weights,
)
from transformers import AutoModelForSeq2SeqLM

from seqloom.data.tokenization import load_tokenizer
from seqloom.settings.reading import load_settings
from seqloom.training import checkpoints, ending, loop, update

pytestmark = pytest.mark.usefixtures("fresh_accelerator")


@pytest.fixture
def seen(monkeypatch):
    """The learning weights after every update, by name."""
    found = []
    original = loop.make_update

    def spy(run, position):
        result = original(run, position)
        model = run.accelerator.unwrap_model(run.model)
        found.append({name: value.detach().double() for name, value in model.named_parameters()})
        return result

    monkeypatch.setattr(loop, "make_update", spy)
    return found


class TestMovingAverage:
    """training.ema_decay"""

    @pytest.mark.slow
    @pytest.mark.parametrize("family", ["rnn", "transformer"])
    def test_is_the_hand_written_one(self, tmp_path, data, seen, family):
        decay = 0.7
        record = run(tmp_path, data, family, training={"ema_decay": decay, "max_steps": 6, "eval_steps": 2})
        best, average = record["progress"]["best_step"], None
        for step, current in enumerate(seen, start=1):
            average = current if average is None else {
                name: decay * average[name] + (1 - decay) * current[name] for name in current
            }  # fmt: skip
            if step == best:
                expected = average
        saved = weights(tmp_path / "run")
        assert saved.keys() == expected.keys()
        for name, tensor in saved.items():
            torch.testing.assert_close(tensor.double(), expected[name], rtol=1e-5, atol=1e-7)
            assert not torch.allclose(tensor.double(), seen[best - 1][name], atol=1e-4)
        assert "moving average with decay 0.7" in record["model"]["weights"]
        assert same(weights(tmp_path / "run" / "checkpoints" / "best"), saved)
        # The learning weights go on in the checkpoint, next to their average.
        raw = weights(tmp_path / "run" / "checkpoints" / "step-00000006")
        for name, tensor in raw.items():
            torch.testing.assert_close(tensor.double(), seen[-1][name])

    @pytest.mark.slow
    def test_is_what_is_validated(self, tmp_path, data):
        """The log's loss is that of the folder it kept as best; the learning is not touched by it."""
        options = {"max_steps": 3, "eval_steps": 3, "learning_rate": 0.1}
        run(tmp_path / "average", data, training={**options, "ema_decay": 0.9})
        run(tmp_path / "raw", data, training=options)
        ours, theirs = (read_log(tmp_path / name) for name in ("average", "raw"))
        assert ours[:-1] == theirs[:-1]
        assert ours[-1]["eval_loss"] != pytest.approx(theirs[-1]["eval_loss"], rel=1e-3)
        model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "average" / "run")
        settings = load_settings(tmp_path / "average" / "run" / "settings.yaml")
        tokenizer = load_tokenizer(tmp_path / "average" / "run")
        sides = [Path(path).read_text().splitlines() for path in settings.data.validation_files]
        total = count = 0
        for source, target in zip(*sides, strict=True):
            encoded = tokenizer(source, text_target=target, return_tensors="pt")
            with torch.no_grad():
                total += model(**encoded).loss.item() * encoded["labels"].numel()
            count += encoded["labels"].numel()
        assert ours[-1]["eval_loss"] == pytest.approx(total / count, rel=1e-5)

    @pytest.mark.slow
    def test_tied_weights_stay_tied(self, tmp_path, data):
        run(tmp_path, data, training={"ema_decay": 0.5})
        saved = weights(tmp_path / "run")
        assert "lm_head.weight" not in saved
        model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "run")
        assert model.lm_head.weight is model.model.shared.weight

    @pytest.mark.slow
    def test_goes_on_after_a_kill(self, tmp_path, data, monkeypatch):
        changes = {"training": {"ema_decay": 0.8, "max_steps": 8}, "model": {"dropout": 0.1}}
        run(tmp_path / "whole", data, **changes)
        AcceleratorState._reset_state(reset_partial_state=True)
        kill_and_resume(monkeypatch, tmp_path / "killed", data, 5, **changes)
        assert_same_run(tmp_path / "killed", tmp_path / "whole")
        with pytest.raises(ValueError, match=r"training.ema_decay is None, but the run .* was started with 0.8"):
            run(tmp_path / "whole", data, resume=True, training={"max_steps": 9}, model=changes["model"])

    @pytest.mark.slow
    def test_an_update_that_is_left_out(self, tmp_path, data, monkeypatch):
        """Weights that did not move are not averaged once more."""
        original = update.accumulate_gradients

        def spoil(run, position):
            loss = original(run, position)
            return math.nan if run.progress.step == 2 else loss

        monkeypatch.setattr(update, "accumulate_gradients", spoil)
        run(tmp_path, data, training={"ema_decay": 0.8, "max_steps": 4, "eval_steps": 4})
        assert torch.load(tmp_path / "run" / "checkpoints" / "step-00000004" / "average.pt")["n_averaged"] == 3

    def test_refusals(self, tmp_path, data, monkeypatch):
        refused(tmp_path, data, "ema_decay is 1.0; it must be", training={"ema_decay": 1.0})
        monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
        monkeypatch.setenv("FSDP_VERSION", "2")
        refused(tmp_path, data, "ema_decay is 0.9, but the launch file shards", training={"ema_decay": 0.9})


class TestCheckpointsAveraged:
    """training.average_checkpoints with training.average_kind"""

    @pytest.fixture
    def scripted(self, monkeypatch):
        """Validations that find the given scores; returns the weights that each one saw."""
        states = []

        def script(*scores: float, name: str = "loss"):
            remaining = list(scores)

            def validate(run):
                states.append({key: value.detach().clone() for key, value in run.scored_model.named_parameters()})
                return {"loss": 1.0, name: remaining.pop(0)}

            for module in (loop, ending):
                monkeypatch.setattr(module, "validate", validate)
            return states

        return script

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("kind", "name", "scores", "steps"),
        [
            ("last", "loss", (3.0, 1.0, 2.0, 2.5, 4.0), (3, 4, 5)),
            ("best", "loss", (3.0, 1.0, 2.0, 2.5, 4.0), (2, 3, 4)),
            ("best", "loss", (1.0, 2.0, 2.0, 2.0, 1.5), (1, 2, 5)),  # the earlier one of equals
            ("best", "exact_match", (3.0, 1.0, 2.0, 2.5, 4.0), (1, 4, 5)),
        ],
    )
    def test_is_the_mean_by_hand(self, tmp_path, data, scripted, kind, name, scores, steps):
        seen = scripted(*scores, 0.0 if name == "loss" else 100.0, name=name)
        options = {
            "max_steps": 5, "eval_steps": 1, "average_checkpoints": 3, "average_kind": kind, "learning_rate": 0.1,
        }  # fmt: skip
        metric = {} if name == "loss" else {"eval_metric": name}
        record = run(tmp_path, data, training={**options, **metric})
        for key, tensor in weights(tmp_path / "run").items():
            mean = sum(seen[step - 1][key].double() for step in steps) / 3
            torch.testing.assert_close(tensor, mean.float(), rtol=1e-6, atol=1e-7)
        assert f"updates {', '.join(map(str, steps))}" in record["model"]["weights"]
        kept = sorted(path.name for path in (tmp_path / "run" / "checkpoints" / "weights").iterdir())
        assert kept == [f"step-{step:08d}.safetensors" for step in steps]

    @pytest.mark.slow
    @pytest.mark.parametrize("kind", ["last", "best"])
    def test_goes_on_after_a_kill(self, tmp_path, data, monkeypatch, kind):
        options = {
            "max_steps": 8, "eval_steps": 2, "average_checkpoints": 2, "average_kind": kind, "learning_rate": 0.3,
        }  # fmt: skip
        records = [run(tmp_path / "whole", data, training=options)]
        AcceleratorState._reset_state(reset_partial_state=True)
        records.append(kill_and_resume(monkeypatch, tmp_path / "killed", data, 6, training=options))
        assert_same_run(tmp_path / "killed", tmp_path / "whole")
        assert records[0]["model"] == records[1]["model"]

    def test_of_equal_scores_the_lower_loss_is_kept_then_the_earlier(self, tmp_path):
        model = torch.nn.Linear(1, 1)
        for step, loss in ((1, 3.0), (2, 2.0), (3, 2.5), (4, 2.5), (5, 1.0)):
            checkpoints.keep_weights(model, tmp_path, step, 3, 0.0, loss)
        assert checkpoints.load_average(model, tmp_path) == [2, 3, 5]

    def test_kept_weights_of_a_future_that_did_not_come(self, tmp_path, data, monkeypatch):
        """They were kept, then the run was killed before its checkpoint and resumed with other validations."""
        model = torch.nn.Linear(1, 1)
        for step, score in ((2, 1.0), (4, 5.0), (6, 9.0)):
            checkpoints.keep_weights(model, tmp_path, step, 3, score)
        checkpoints.keep_weights(model, tmp_path, 5, 3, 0.0)
        assert checkpoints.load_average(model, tmp_path) == [2, 4, 5]
