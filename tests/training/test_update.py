"""An update is the mean over all its tokens, however it is cut, clipped and scheduled."""

import math

import pytest
import torch
from accelerate.state import AcceleratorState
from helpers.runs import (
    SMALL,
    configure,
    read_log,
    read_losses,
    run,
    weights,
)
from torch import nn
from transformers import AutoModelForSeq2SeqLM

from seqloom.settings.reading import load_settings
from seqloom.training import learner, loop
from seqloom.training.learner import make_optimizer

pytestmark = pytest.mark.usefixtures("fresh_accelerator")


class TestTheUpdate:
    """What an update computes does not depend on how its work is cut."""

    @pytest.mark.slow
    @pytest.mark.parametrize("model", list(SMALL))
    def test_accumulation_changes_nothing(self, tmp_path, data, model):
        found = []
        for pieces in (1, 2, 5):
            folder = tmp_path / str(pieces)
            options = {"gradient_accumulation_steps": pieces, "batches_per_update": 2, "eval_metric": "exact_match"}
            run(folder, data, model, training=options)
            found.append([value for line in read_log(folder) for value in line.values()])
        assert len(found[0]) > 30
        for other in found[1:]:
            assert other == pytest.approx(found[0], rel=1e-4, abs=1e-6)
        assert found[0] != found[1]  # the sums were in fact taken otherwise

    @pytest.mark.slow
    def test_log_is_the_mean_over_tokens(self, tmp_path, data, monkeypatch):
        updates = []
        original = loop.make_update

        def spy(run, position):
            loss, norm = original(run, position)
            updates.append((loss, position.num_tokens, norm, run.scheduler.get_last_lr()[0]))
            return loss, norm

        monkeypatch.setattr(loop, "make_update", spy)
        record = run(tmp_path, data, training={"logging_steps": 3, "max_steps": 6})
        for line, part in zip(
            (line for line in read_log(tmp_path) if "loss" in line), (updates[:3], updates[3:]), strict=True
        ):
            assert line["loss"] == pytest.approx(sum(loss * n for loss, n, *_ in part) / sum(n for _, n, *_ in part))
            assert line["gradient_norm"] == part[-1][2]
        assert record["progress"]["target_tokens"] == sum(n for _, n, *_ in updates)

    @pytest.mark.slow
    def test_smoothing_is_of_the_training_loss_alone(self, tmp_path, data):
        found = {}
        for smoothing in (0.0, 0.3):
            folder = tmp_path / str(smoothing)
            options = {"label_smoothing_factor": smoothing, "learning_rate": 1e-12, "max_steps": 3}
            run(folder, data, training=options, model={"dropout": 0.0})
            found[smoothing] = read_log(folder)
        for plain, smoothed in zip(found[0.0], found[0.3], strict=True):
            if "loss" in plain:
                assert abs(plain["loss"] - smoothed["loss"]) > 1e-3
            else:
                assert plain["eval_loss"] == pytest.approx(smoothed["eval_loss"], rel=1e-6)
        assert AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "0.3" / "run").config.label_smoothing == 0.3

    @pytest.mark.slow
    def test_the_norm_is_clipped_and_need_not_be(self, tmp_path, data):
        for limit in (1e-6, None):
            options = {"max_grad_norm": limit, "max_steps": 2, "optim": "adam", "adam_epsilon": 1.0, "eval_steps": 1}
            run(tmp_path / str(limit), data, training=options)
        clipped, free = (read_log(tmp_path / name) for name in ("1e-06", "None"))
        assert clipped[0] == free[0]  # the norm in the log is the one before clipping
        assert clipped[0]["gradient_norm"] > 0.1
        # With so large an epsilon the step is as long as the gradient: clipped, nothing moves.
        assert clipped[1]["eval_loss"] == pytest.approx(clipped[3]["eval_loss"], abs=1e-6)
        assert abs(free[1]["eval_loss"] - free[3]["eval_loss"]) > 1e-5

    @pytest.mark.parametrize(
        ("name", "formula"),
        [
            ("constant", lambda step: 1),
            ("linear", lambda step: (12 - step) / 8),
            ("cosine", lambda step: (1 + math.cos(math.pi * (step - 4) / 8)) / 2),
            ("inverse_sqrt", lambda step: (4 / step) ** 0.5),
        ],
    )
    def test_schedules(self, tmp_path, data, name, formula):
        options = {"lr_scheduler_type": name, "warmup_steps": 4, "max_steps": 12, "learning_rate": 0.5}
        settings = load_settings(configure(tmp_path, data, training=options))
        optimizer, scheduler = make_optimizer(nn.Linear(2, 2), settings, 12)
        for step in range(12):
            expected = 0.5 * (step / 4 if step < 4 else formula(step))
            assert scheduler.get_last_lr() == pytest.approx([expected, expected])
            optimizer.step()
            scheduler.step()

    @pytest.mark.slow
    def test_learning_rates_in_the_log_are_the_schedules(self, tmp_path, data):
        options = {"lr_scheduler_type": "linear", "warmup_steps": 2, "max_steps": 6, "gradient_accumulation_steps": 2}
        run(tmp_path, data, training=options)
        rates = [line["learning_rate"] for line in read_log(tmp_path) if "loss" in line]
        assert rates == pytest.approx([0, 0.005, 0.01, 0.0075, 0.005, 0.0025])

    @pytest.mark.slow
    def test_schedules_end_with_the_epochs(self, tmp_path, data):
        options = {"lr_scheduler_type": "linear", "max_steps": None, "num_train_epochs": 2, "eval_steps": None}
        record = run(tmp_path, data, training=options)
        updates = 2 * record["data"]["plan"]["updates"]
        rates = [line["learning_rate"] for line in read_log(tmp_path) if "loss" in line]
        assert rates == pytest.approx([0.01 * (1 - step / updates) for step in range(updates)])

    def test_biases_and_norms_do_not_decay(self, tmp_path, data):
        settings = load_settings(configure(tmp_path, data, training={"weight_decay": 0.1}))
        model = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2), nn.Embedding(5, 2))
        optimizer, _ = make_optimizer(model, settings, 6)
        decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
        assert {name: decays[id(parameter)] for name, parameter in model.named_parameters()} == {
            "0.weight": 0.1, "0.bias": 0.0, "1.weight": 0.0, "1.bias": 0.0, "2.weight": 0.1,
        }  # fmt: skip

    @pytest.mark.slow
    def test_bf16(self, tmp_path, data):
        run(tmp_path / "bf16", data, training={"mixed_precision": "bf16", "eval_metric": "exact_match"})
        AcceleratorState._reset_state(reset_partial_state=True)
        run(tmp_path / "no", data, training={"mixed_precision": "no"})
        half, full = read_losses(tmp_path / "bf16"), read_losses(tmp_path / "no")
        assert half != full
        assert half == pytest.approx(full, rel=0.02)
        assert {tensor.dtype for tensor in weights(tmp_path / "bf16" / "run").values()} == {torch.float32}

    @pytest.mark.slow
    def test_checkpointed_activations_change_nothing(self, tmp_path, data):
        for name, is_on in (("on", True), ("off", False)):
            run(tmp_path / name, data, training={"gradient_checkpointing": is_on})
        assert read_losses(tmp_path / "on") == pytest.approx(read_losses(tmp_path / "off"), rel=1e-5)

    @pytest.mark.slow
    @pytest.mark.parametrize("attention", ["eager", "sdpa"])
    def test_attention_of_the_training_is_not_the_models(self, tmp_path, data, attention, monkeypatch):
        used = []
        original = learner.make_model
        monkeypatch.setattr(learner, "make_model", lambda *words: used.append(original(*words)) or used[0])
        run(tmp_path, data, training={"attn_implementation": attention, "max_steps": 2})
        assert used[0].config._attn_implementation == attention
        assert attention not in (tmp_path / "run" / "config.json").read_text()
