"""A run from settings to model folder: what it learns, what it leaves behind, and what it refuses."""

import json
import math
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from helpers.runs import (
    MODELS,
    SMALL,
    Killed,
    configure,
    kill_in,
    read_log,
    read_losses,
    run,
    same,
    weights,
    write_pairs,
)
from torch import nn
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, GenerationConfig

from seqloom.commands.train import main
from seqloom.settings.reading import load_settings
from seqloom.training import checkpoints, ending, learner, loop
from seqloom.training.learner import make_optimizer

ROOT = Path(__file__).parents[2]


pytestmark = pytest.mark.usefixtures("fresh_accelerator")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Training data large enough to learn the task from, and a handful for all else."""
    folder = tmp_path_factory.mktemp("data")
    sizes = {"train": 1500, "few": 60, "validation": 51, "test": 31}
    return {name: write_pairs(folder, name, size) for name, size in sizes.items()}


class TestLearning:
    """Both families learn to spell words backwards, and leave a folder that transformers loads."""

    @pytest.fixture(scope="class", params=list(MODELS))
    def learnt(self, request, data, tmp_path_factory):
        folder = tmp_path_factory.mktemp(request.param)
        record = run(
            folder, data, request.param, model={**MODELS[request.param], "dropout": 0.0},
            data={"train_files": data["train"]},
            training={"batch_tokens": 400, "max_steps": 180, "warmup_steps": 10, "lr_scheduler_type": "linear",
                      "logging_steps": 10, "eval_steps": 90, "eval_metric": "exact_match"},
            generation={"num_beams": 2, "max_new_tokens": 9},
        )  # fmt: skip
        return folder, record

    def test_learns(self, learnt):
        folder, record = learnt
        losses = read_losses(folder)
        assert losses[0] > 1.5
        assert losses[-1] < 0.2
        assert record["evaluation"]["metrics"]["exact_match"]["score"] > 90
        assert record["progress"]["best_score"] > 90

    def test_transformers_loads_it(self, learnt):
        folder, _ = learnt
        tokenizer = AutoTokenizer.from_pretrained(folder / "run")
        model = AutoModelForSeq2SeqLM.from_pretrained(folder / "run")
        sources = ["abc", "d", "hf"]
        outputs = model.generate(**tokenizer(sources, return_tensors="pt", padding=True))
        texts = tokenizer.batch_decode(outputs, skip_special_tokens=True)
        assert texts == [source[::-1] for source in sources]

    def test_what_is_written(self, learnt):
        folder, record = learnt
        assert load_settings(folder / "run" / "settings.yaml") == load_settings(folder / "config.yaml")
        assert json.loads((folder / "run" / "record.json").read_text()) == json.loads(json.dumps(record))
        assert sorted(path.name for path in (folder / "run" / "checkpoints").iterdir()) == [
            "best", "step-00000090", "step-00000180",
        ]  # fmt: skip
        generation = GenerationConfig.from_pretrained(folder / "run")
        assert (generation.num_beams, generation.max_new_tokens) == (2, 9)
        scores = json.loads((folder / "run" / "evaluation" / "test" / "scores.json").read_text())
        assert scores == json.loads(json.dumps(record["evaluation"]))
        log = read_log(folder, timed=True)
        assert [line["step"] for line in log if "loss" in line] == list(range(10, 181, 10))
        assert [line["step"] for line in log if "eval_loss" in line] == [90, 180]
        assert all(line["tokens_per_second"] > 0 for line in log if "loss" in line)

    def test_validation_is_the_mean_over_all_tokens(self, learnt):
        """One pair at a time, without padding or batches, gives the loss and the greedy score of the log."""
        folder, record = learnt
        best = folder / "run" / "checkpoints" / "best"
        model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(best), AutoTokenizer.from_pretrained(best)
        settings = load_settings(folder / "run" / "settings.yaml")
        sides = [Path(path).read_text().splitlines() for path in settings.data.validation_files]
        total = count = right = 0
        for source, target in zip(*sides, strict=True):
            encoded = tokenizer(source, text_target=target, return_tensors="pt")
            with torch.no_grad():
                total += model(**encoded).loss.item() * encoded["labels"].numel()
            count += encoded["labels"].numel()
            del encoded["labels"]
            right += tokenizer.decode(model.generate(**encoded, num_beams=1)[0], skip_special_tokens=True) == target
        (line,) = [
            line for line in read_log(folder) if line["step"] == record["progress"]["best_step"] and "best" in line
        ]
        assert line["eval_loss"] == pytest.approx(total / count, rel=1e-5)
        assert line["eval_exact_match"] == pytest.approx(100 * right / len(sides[0]))


class TestTheUpdate:
    """What an update computes does not depend on how its work is cut."""

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

    def test_learning_rates_in_the_log_are_the_schedules(self, tmp_path, data):
        options = {"lr_scheduler_type": "linear", "warmup_steps": 2, "max_steps": 6, "gradient_accumulation_steps": 2}
        run(tmp_path, data, training=options)
        rates = [line["learning_rate"] for line in read_log(tmp_path) if "loss" in line]
        assert rates == pytest.approx([0, 0.005, 0.01, 0.0075, 0.005, 0.0025])

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

    def test_bf16(self, tmp_path, data):
        run(tmp_path / "bf16", data, training={"mixed_precision": "bf16", "eval_metric": "exact_match"})
        AcceleratorState._reset_state(reset_partial_state=True)
        run(tmp_path / "no", data, training={"mixed_precision": "no"})
        half, full = read_losses(tmp_path / "bf16"), read_losses(tmp_path / "no")
        assert half != full
        assert half == pytest.approx(full, rel=0.02)
        assert {tensor.dtype for tensor in weights(tmp_path / "bf16" / "run").values()} == {torch.float32}

    def test_checkpointed_activations_change_nothing(self, tmp_path, data):
        for name, is_on in (("on", True), ("off", False)):
            run(tmp_path / name, data, training={"gradient_checkpointing": is_on})
        assert read_losses(tmp_path / "on") == pytest.approx(read_losses(tmp_path / "off"), rel=1e-5)

    @pytest.mark.parametrize("attention", ["eager", "sdpa"])
    def test_attention_of_the_training_is_not_the_models(self, tmp_path, data, attention, monkeypatch):
        used = []
        original = learner.make_model
        monkeypatch.setattr(learner, "make_model", lambda *words: used.append(original(*words)) or used[0])
        run(tmp_path, data, training={"attn_implementation": attention, "max_steps": 2})
        assert used[0].config._attn_implementation == attention
        assert attention not in (tmp_path / "run" / "config.json").read_text()


class TestTheEnd:
    """Epochs, patience, the best and the mean."""

    @pytest.fixture
    def scripted(self, monkeypatch):
        """Validations that find the given losses; returns the weights that each one saw."""
        seen = []

        def script(*losses: float, name: str = "loss"):
            remaining = list(losses)

            def validate(run):
                model = run.accelerator.unwrap_model(run.model)
                seen.append({key: value.detach().clone() for key, value in model.named_parameters()})
                return {"loss": 1.0, name: remaining.pop(0)}

            for module in (loop, ending):
                monkeypatch.setattr(module, "validate", validate)
            return seen

        return script

    def test_epochs(self, tmp_path, data):
        record = run(tmp_path, data, training={"max_steps": None, "num_train_epochs": 3, "eval_steps": None})
        updates = record["data"]["plan"]["updates"]
        assert (record["progress"]["step"], record["progress"]["epoch"]) == (3 * updates, 3)
        lines = [line for line in read_log(tmp_path) if "eval_loss" in line]
        assert [line["step"] for line in lines] == [updates, 2 * updates, 3 * updates]

    def test_the_first_of_steps_and_epochs_ends_the_run(self, tmp_path, data):
        for name, steps, epochs in (("steps", 2, 5), ("epochs", 100, 1)):
            record = run(tmp_path / name, data, training={"max_steps": steps, "num_train_epochs": epochs})
            assert record["progress"]["step"] == min(steps, epochs * record["data"]["plan"]["updates"])

    def test_an_end_between_validations_is_validated_too(self, tmp_path, data):
        run(tmp_path, data, training={"max_steps": 5, "eval_steps": 3})
        assert [line["step"] for line in read_log(tmp_path) if "eval_loss" in line] == [3, 5]

    def test_best_beside_last(self, tmp_path, data, scripted):
        seen = scripted(3.0, 1.0, 2.0, 1.0)
        record = run(tmp_path, data, training={"max_steps": 4, "eval_steps": 1})
        saved = tmp_path / "run" / "checkpoints"
        assert same(weights(saved / "best"), seen[1])  # the earlier one of equals
        assert same(weights(tmp_path / "run"), seen[1])
        assert same(weights(saved / "step-00000004"), seen[3])
        assert not same(seen[1], seen[3])
        assert (record["progress"]["best_score"], record["progress"]["best_step"]) == (1.0, 2)
        assert record["model"]["weights"] == "the best validation's, after update 2"
        assert [line["best"] for line in read_log(tmp_path) if "best" in line] == [True, True, False, False]

    @pytest.mark.parametrize(("metric", "best"), [("exact_match", 2), ("ter", 1)])
    def test_more_is_better_or_less(self, tmp_path, data, scripted, metric, best):
        scripted(20.0, 30.0, 25.0, name=metric)
        record = run(tmp_path, data, training={"max_steps": 3, "eval_steps": 1, "eval_metric": metric})
        assert record["progress"]["best_step"] == best

    def test_metric_for_best_model(self, tmp_path, data, scripted):
        scripted(20.0, 30.0, 25.0, name="exact_match")
        options = {"max_steps": 3, "eval_steps": 1, "eval_metric": "exact_match", "metric_for_best_model": "loss"}
        assert run(tmp_path, data, training=options)["progress"]["best_step"] == 1

    def test_patience(self, tmp_path, data, scripted):
        scripted(3.0, 2.0, 2.5, 1.0, 1.5, 1.0)
        record = run(tmp_path, data, training={"max_steps": 50, "eval_steps": 2, "early_stopping_patience": 2})
        assert (record["progress"]["step"], record["progress"]["best_step"]) == (12, 8)

    @pytest.mark.parametrize(("average", "chosen"), [(0.5, "mean"), (1.0, "mean"), (1.5, "best")])
    def test_average(self, tmp_path, data, scripted, average, chosen):
        seen = scripted(3.0, 1.0, 2.0, 2.5, average)
        options = {"max_steps": 4, "eval_steps": 1, "average_checkpoints": 3, "learning_rate": 0.1}
        record = run(tmp_path, data, training=options)
        mean = {name: sum(part[name].double() for part in seen[1:4]) / 3 for name in seen[0]}
        for name, tensor in weights(tmp_path / "run").items():
            expected = mean[name].float() if chosen == "mean" else seen[1][name]
            torch.testing.assert_close(tensor, expected, rtol=1e-6, atol=1e-7)
        assert not torch.allclose(mean["model.shared.weight"].float(), seen[1]["model.shared.weight"])
        assert ("updates 2, 3, 4" in record["model"]["weights"]) == (chosen == "mean")
        assert len(list((tmp_path / "run" / "checkpoints" / "weights").iterdir())) == 3

    def test_greedy_validation_of_a_model_with_beams(self, tmp_path, data):
        beams = {"num_beams": 3, "length_penalty": 0.6, "early_stopping": True}
        options = {"eval_metric": "cer", "learning_rate": 0.1, "max_steps": 12, "eval_steps": 6}
        for name, generation in (("beams", beams), ("greedy", {})):
            run(tmp_path / name, data, training=options, generation=generation)
        assert read_log(tmp_path / "beams") == read_log(tmp_path / "greedy")
        saved = GenerationConfig.from_pretrained(tmp_path / "beams" / "run")
        assert {name: getattr(saved, name) for name in beams} == beams

    def test_nothing_to_score(self, tmp_path, data):
        record = run(tmp_path, data, evaluation={"split": None})
        assert record["evaluation"] is None
        assert "None were measured" in (tmp_path / "run" / "README.md").read_text()
        assert "model-index" not in (tmp_path / "run" / "README.md").read_text()

    @pytest.mark.parametrize("split", ["train", "validation"])
    def test_other_splits_are_scored(self, tmp_path, data, split):
        record = run(tmp_path, data, evaluation={"split": split})
        assert record["evaluation"]["sentences"] == {"train": 60, "validation": 51}[split]


class TestTokenizers:
    """Every kind, shared and not, runs."""

    @pytest.mark.parametrize("kind", ["byte_bpe", "bpe", "unigram", "word", "char"])
    @pytest.mark.parametrize("shared", [True, False])
    def test_kinds(self, tmp_path, data, kind, shared):
        sizes = {"byte_bpe": 263, "bpe": 17, "unigram": 17, "word": 40, "char": 20}
        tokenizer = {"kind": kind, "vocab_size": sizes[kind], "shared": shared}
        if not shared:
            tokenizer["target_vocab_size"] = sizes[kind] - 1
        record = run(
            tmp_path, data, "rnn", tokenizer=tokenizer, training={"max_steps": 2, "eval_metric": "exact_match"}
        )
        assert all(map(math.isfinite, read_losses(tmp_path)))
        assert record["evaluation"]["sentences"] == 31
        config = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "run").config
        loaded = AutoTokenizer.from_pretrained(tmp_path / "run")
        assert config.vocab_size == len(loaded)
        assert config.share_encoder_decoder_embeddings == shared
        if not shared:
            assert config.decoder_vocab_size == len(loaded.target_tokenizer)
        assert (config.pad_token_id, config.eos_token_id) == (loaded.pad_token_id, loaded.eos_token_id)

    def test_one_that_is_there(self, tmp_path, data):
        run(tmp_path / "first", data, training={"max_steps": 1})
        path = str(tmp_path / "first" / "run")
        run(tmp_path / "second", data, training={"max_steps": 1}, tokenizer={"path": path})
        first, second = (tmp_path / name / "run" for name in ("first", "second"))
        assert (first / "tokenizer.json").read_text() == (second / "tokenizer.json").read_text()
        assert same(weights(first), weights(second))


class TestGenerationConfig:
    def test_longest_output(self, tmp_path, data):
        run(tmp_path / "short", data, training={"max_steps": 1})
        assert GenerationConfig.from_pretrained(tmp_path / "short" / "run").max_new_tokens == 32
        run(tmp_path / "given", data, training={"max_steps": 1}, generation={"max_new_tokens": 5})
        assert GenerationConfig.from_pretrained(tmp_path / "given" / "run").max_new_tokens == 5

    def test_further_arguments(self, tmp_path, data):
        options = {"no_repeat_ngram_size": 2, "bad_words_ids": [[4]]}
        run(tmp_path, data, training={"max_steps": 1}, generation={"generate_kwargs": options})
        saved = GenerationConfig.from_pretrained(tmp_path / "run")
        assert (saved.no_repeat_ngram_size, saved.bad_words_ids) == (2, [[4]])


class TestResuming:
    """A run that was killed and goes on is, bit for bit, the run that was not."""

    OPTIONS = {"max_steps": 11, "eval_steps": 3, "batches_per_update": 2, "gradient_accumulation_steps": 2,
               "lr_scheduler_type": "cosine", "warmup_steps": 2, "average_checkpoints": 2, "weight_decay": 0.01,
               "eval_metric": "exact_match", "metric_for_best_model": "loss"}  # fmt: skip

    @pytest.mark.parametrize(
        ("model", "streaming", "place"),
        [
            ("transformer", True, "update"), ("rnn", False, "update"), ("rnn", False, "start"), ("rnn", False, "save"),
            ("transformer", False, "best"),
        ],
    )  # fmt: skip
    def test_killed_and_resumed(self, tmp_path, data, monkeypatch, model, streaming, place):
        changes = {
            "model": {**SMALL[model], "dropout": 0.3},
            "data": {"streaming": streaming, "shuffle_buffer": 25},
            "training": self.OPTIONS,
        }
        whole = run(tmp_path / "whole", data, model, **changes)
        assert whole["progress"]["epoch"] >= 2  # into the third
        with monkeypatch.context() as patch:
            kill_in(patch, place)
            with pytest.raises(Killed):
                run(tmp_path / "killed", data, model, **changes)
        left = checkpoints.last_checkpoint(tmp_path / "killed" / "run")
        assert (left and left.name) == {"update": "step-00000006", "start": None}.get(place, "step-00000003")
        AcceleratorState._reset_state(reset_partial_state=True)
        random.seed(5)
        torch.manual_seed(5)
        resumed = run(tmp_path / "killed", data, model, resume=True, **changes)

        assert read_log(tmp_path / "killed") == read_log(tmp_path / "whole")
        assert len(read_losses(tmp_path / "whole")) == 11
        ours, theirs = (
            weights(tmp_path / name / "run" / "checkpoints" / "step-00000011") for name in ("killed", "whole")
        )
        assert same(ours, theirs)
        assert same(weights(tmp_path / "killed" / "run"), weights(tmp_path / "whole" / "run"))
        for record in (whole, resumed):
            for clock in ("seconds", "sentences_per_second", "folder"):
                record["evaluation"].pop(clock)
            record["progress"].pop("seconds")
        assert resumed["progress"] == whole["progress"]
        assert resumed["evaluation"] == whole["evaluation"]
        assert resumed["model"] == whole["model"]
        leftovers = [path.name for path in (tmp_path / "killed" / "run" / "checkpoints").iterdir()]
        assert sorted(leftovers) == ["best", "step-00000009", "step-00000011", "weights"]

    def test_a_finished_run_stays_as_it_is(self, tmp_path, data):
        before = run(tmp_path, data)
        log, saved = read_log(tmp_path, timed=True), weights(tmp_path / "run")
        after = run(tmp_path, data, resume=True)
        assert read_log(tmp_path, timed=True) == log
        assert same(weights(tmp_path / "run"), saved)
        assert after["progress"] == before["progress"]

    def test_goes_on_longer_with_other_training_settings(self, tmp_path, data):
        run(tmp_path, data)
        record = run(tmp_path, data, resume=True, training={"max_steps": 8, "learning_rate": 0.005})
        assert record["progress"]["step"] == 8
        assert load_settings(tmp_path / "run" / "settings.yaml").training.max_steps == 8
        assert [line["step"] for line in read_log(tmp_path)] == [1, 2, 3, 3, 4, 5, 6, 6, 7, 8, 8]
        rates = [line["learning_rate"] for line in read_log(tmp_path) if "learning_rate" in line]
        assert rates == [0.01] * 6 + [0.005] * 2

    def test_what_the_optimizer_is_told_anew(self, tmp_path, data, monkeypatch):
        """All that the settings say of it, and the schedule's place as it was."""
        options = {"lr_scheduler_type": "inverse_sqrt", "warmup_steps": 2, "weight_decay": 0.0}
        run(tmp_path, data, training=options)
        seen = []
        original = loop.make_update

        def spy(run, position):
            seen.append([dict(group, params=None) for group in run.optimizer.param_groups])
            return original(run, position)

        monkeypatch.setattr(loop, "make_update", spy)
        new = {"learning_rate": 0.02, "weight_decay": 0.1, "adam_beta2": 0.9, "adam_epsilon": 1e-6, "max_steps": 7}
        run(tmp_path, data, resume=True, training=options | new)
        (decaying, others) = seen[0]
        assert (decaying["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
        assert decaying["lr"] == others["lr"] == pytest.approx(0.02 * (2 / 6) ** 0.5)
        assert (decaying["betas"], decaying["eps"]) == ((0.9, 0.9), 1e-6)

    def test_an_edited_card_stays(self, tmp_path, data):
        run(tmp_path, data)
        card = tmp_path / "run" / "README.md"
        card.write_text(card.read_text() + "Thanks.\n")
        run(tmp_path, data, resume=True)
        assert card.read_text().endswith("Thanks.\n")

    def test_a_damaged_line_in_the_log(self, tmp_path, data, capsys):
        run(tmp_path, data)
        path = tmp_path / "run" / "training_log.jsonl"
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join([*lines[:4], "\0" * 30 + "\n", *lines[5:]]))
        run(tmp_path, data, resume=True, training={"max_steps": 7})
        assert "training_log.jsonl is damaged from line 5 on" in capsys.readouterr().out
        assert [line["step"] for line in read_log(tmp_path)] == [1, 2, 3, 3, 7, 7]

    def test_a_line_cut_short_in_the_log(self, tmp_path, data):
        run(tmp_path, data)
        with (tmp_path / "run" / "training_log.jsonl").open("a") as file:
            file.write('{"step": 6, "lo')
        run(tmp_path, data, resume=True, training={"max_steps": 7})
        assert [line["step"] for line in read_log(tmp_path)] == [1, 2, 3, 3, 4, 5, 6, 6, 7, 7]


class TestRefusals:
    """One line that says what is wrong, and nothing is written."""

    @pytest.fixture
    def refused(self, tmp_path, data, capsys):
        def _refused(message: str, *words: str, **changes) -> None:
            config = configure(tmp_path, data, **changes)
            before = {path: path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*"))}
            assert main([config, *words]) == 1
            captured = capsys.readouterr()
            errors = [line for line in captured.err.splitlines() if line.startswith("error: ")]
            assert len(errors) == 1, captured.err
            assert message in errors[0]
            assert "Traceback" not in captured.err + captured.out
            assert {path: path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*"))} == before

        return _refused

    @pytest.fixture
    def file(self, tmp_path):
        def _file(name: str, content: str | bytes) -> str:
            path = tmp_path / name
            path.write_bytes(content.encode() if isinstance(content, str) else content)
            return str(path)

        return _file

    def test_columns_and_files(self, refused, file, data):
        table = file("t.csv", "source,target\n" + "a,b\n" * 20)
        refused("data.target is 'de', but the columns", data={"train_files": [table], "target": "de"})
        refused("there is no file nowhere.csv", data={"train_files": ["nowhere.csv"]})
        refused("is empty", data={"train_files": [file("empty.csv", "")]})
        refused("there is no file nowhere.csv", data={"test_files": ["nowhere.csv"]})

    def test_lines(self, refused, file, data):
        source = data["few"][0]
        refused("has 3 lines and", data={"train_files": [source, file("short", "a\nb\nc\n")]})
        refused("line 2: byte 2 (0xff) is not UTF-8", data={"train_files": [source, file("latin", b"a\nb\xff\nc\n")]})
        blank = file("blank", "\n" * 60)
        refused("0 of 60 pairs kept", data={"train_files": [source, blank]}, tokenizer={"kind": "char"})
        refused("0 of 60 pairs kept", data={"max_source_length": 1})

    def test_an_empty_stream(self, refused, file, data):
        blank = file("blank", "\n" * 60)
        refused("no pair", data={"train_files": [data["few"][0], blank], "streaming": True})

    def test_splits(self, refused):
        refused("data.train_split is 'tarin', but there is no tarin", data={"train_split": "tarin"})
        scan = {"dataset": "scan", "train_files": None, "validation_files": None, "test_files": None}
        refused("data.validation_split is 'valid', but there is no", data={**scan, "validation_split": "valid"})

    def test_tokenizers(self, refused, tmp_path):
        refused("tokenizer.vocab_size is 900", tokenizer={"kind": "bpe", "vocab_size": 900})
        refused("byte_bpe needs 260", tokenizer={"kind": "byte_bpe", "vocab_size": 200})
        refused("a tokenizer that can be read", tokenizer={"path": str(tmp_path)})

    def test_lengths(self, refused):
        refused("training.batch_tokens is 3: raise it", training={"batch_tokens": 3})

    def test_models(self, refused):
        refused("d_model=9", model={"d_model": 9})
        refused("dropout", model={"dropout": "much"})
        refused("model.hidden_layers is unknown", model={"hidden_layers": 1})

    def test_settings(self, refused):
        refused("--lerning_rate is unknown; did you mean --learning_rate?", "--lerning_rate", "1")
        refused("report_to has 'nonsense', which is not installed", training={"report_to": ["nonsense"]})
        refused("fp16, which needs a GPU", training={"mixed_precision": "fp16"})
        refused("must know its end", data={"streaming": True},
                training={"max_steps": None, "num_train_epochs": 1, "lr_scheduler_type": "cosine"})  # fmt: skip
        refused("num_beamz, which generate does not know", generation={"generate_kwargs": {"num_beamz": 3}})
        refused("temperature", generation={"generate_kwargs": {"temperature": 0.5}})
        refused("give one of them", "--resume", "--overwrite")

    def test_metrics_before_anything_is_trained(self, refused):
        refused("did you mean sacrebleu?", evaluation={"metrics": ["exact_match", "sacrebleau"]})
        refused("did you mean exact_match?", training={"eval_metric": "exact_mtach"})

    def test_words_of_the_command_line(self, capsys, tmp_path):
        assert main([]) == 2
        assert main(["--help"]) == 0
        assert capsys.readouterr().out.count("usage: seqloom train CONFIG") == 2
        for words in (["--resume"], ["--learning_rate", "1"]):
            assert main(words) == 1
            assert capsys.readouterr().err.startswith("error: the configuration file comes first")
        assert main([str(tmp_path / "nowhere.yaml")]) == 1
        assert "there is no configuration file" in capsys.readouterr().err

    def test_folders(self, refused, tmp_path, data):
        other = tmp_path / "run"
        other.mkdir()
        (other / "thesis.tex").write_text("the only copy")
        refused("is not empty; give --resume")
        refused("holds no run of seqloom's, so --overwrite will not delete it", "--overwrite")
        refused("there is no run to resume", "--resume")
        (tmp_path / "a file").write_text("x")
        refused("is not empty", "--output_dir", str(tmp_path / "a file"))
        refused("Not a directory", "--output_dir", str(tmp_path / "a file" / "run"))

    def test_runs(self, refused, tmp_path, data):
        run(tmp_path, data, training={"max_steps": 2})
        refused("is not empty; give --resume")
        refused("another model section", "--resume", model={"d_model": 16})
        refused("another data section", "--resume", "--max_source_length", "9")
        refused("another tokenizer section", "--resume", "--vocab_size", "19")
        # What can be found wrong with the new run is found before the old one is deleted.
        refused("there is no file nowhere", "--overwrite", "--test_files", "nowhere", "nowhere")
        refused("d_model=9", "--overwrite", model={"d_model": 9})

    def test_overwrite(self, tmp_path, data):
        run(tmp_path, data, training={"max_steps": 2, "average_checkpoints": 2})
        (tmp_path / "run" / "notes").write_text("mine")
        assert main([configure(tmp_path, data, training={"max_steps": 3}), "--overwrite"]) == 0
        assert not (tmp_path / "run" / "notes").exists()
        assert [path.name for path in (tmp_path / "run" / "checkpoints").glob("step-*")] == ["step-00000003"]
        shutil.rmtree(tmp_path / "run")
        assert main([configure(tmp_path, data, training={"max_steps": 1}), "--overwrite"]) == 0  # nothing to delete

    def test_a_loss_that_is_no_number(self, tmp_path, data, capsys):
        options = {"learning_rate": 1e30, "eval_steps": 50, "max_steps": 50}
        assert main([configure(tmp_path, data, training=options)]) == 1
        (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert "the loss became" in error
        # The first one spoilt the weights; that no update works any more shows by the sixth in a row.
        assert "in update 7 (epoch 2, its update 3, with the pair of '" in error
        assert "the 6. such update in a row; lower training.learning_rate" in error
        assert not (tmp_path / "run" / "model.safetensors").exists()

    @pytest.mark.slow
    def test_the_real_command(self, tmp_path, data):
        config = configure(tmp_path, data, data={"train_files": ["nowhere.en", "nowhere.de"]})
        command = [sys.executable, "train.py", config]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert line.startswith("error: there is no file nowhere.en")
        assert not (tmp_path / "run").exists()


# As train.py, for one configuration after the other; the processes' group cannot be left and joined again.
TWO_RUNS = """
import sys
from accelerate import Accelerator
from seqloom.commands.train import main

first, second = sys.argv[1:]
end_training = Accelerator.end_training
Accelerator.end_training = lambda accelerator: None
if status := main([first]):
    sys.exit(status)
Accelerator.end_training = end_training
sys.exit(main([second]))
"""


@pytest.mark.slow
def test_two_processes_learn_the_same(tmp_path, data):
    """Losses, norms, validations with decoding, the mean's validation and the final scores; and they end."""
    changes = {
        "tokenizer": {"shared": False},
        "training": {"eval_metric": "cer", "average_checkpoints": 2, "eval_samples": 23, "learning_rate": 0.1,
                     "gradient_accumulation_steps": 2, "max_steps": 12, "eval_steps": 6},
        "evaluation": {"metrics": ["cer"]},
    }  # fmt: skip
    (tmp_path / "two_runs.py").write_text(TWO_RUNS)
    configs = [configure(tmp_path / f"two-{name}", data, name, **changes) for name in SMALL]
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(tmp_path / "two_runs.py")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *launch, *configs], capture_output=True, text=True, env=environment, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("plan: ") == 2  # the second process says nothing
    for name in SMALL:
        alone = run(tmp_path / f"one-{name}", data, name, **changes)
        one, two = (read_log(tmp_path / f"{count}-{name}") for count in ("one", "two"))
        assert [line.keys() for line in one] == [line.keys() for line in two]
        for ours, theirs in zip(one, two, strict=True):
            assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-5)
        together = json.loads((tmp_path / f"two-{name}" / "run" / "record.json").read_text())
        assert (alone["environment"]["processes"], together["environment"]["processes"]) == (1, 2)
        assert together["evaluation"]["metrics"] == alone["evaluation"]["metrics"]
        predictions = [tmp_path / f"{count}-{name}/run/evaluation/test/predictions.jsonl" for count in ("one", "two")]
        assert predictions[0].read_text() == predictions[1].read_text()
        assert any(json.loads(line)["hypothesis"] for line in predictions[0].read_text().splitlines())
