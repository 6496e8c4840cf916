"""Runs that go on: bit for bit the unbroken ones, of themselves where `--resume auto` says so."""

import random
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from helpers.runs import (
    SMALL,
    Killed,
    configure,
    kill_in,
    read_log,
    read_losses,
    run,
    same,
    weights,
)
from helpers.unbroken import without_clock

from seqloom.settings.reading import load_settings
from seqloom.training import checkpoints, loop

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("fresh_accelerator")]


ROOT = Path(__file__).parents[2]


class TestResumeAuto:
    def test_starts_and_goes_on_and_says_so(self, tmp_path, data, train):
        config = configure(tmp_path, data, "rnn")
        status, output = train(config, "--resume")
        assert status == 1
        assert "there is no run to resume" in output
        status, output = train(config, "--resume", "auto", "--max_steps", "4")
        assert status == 0, output
        assert "resuming" not in output
        status, output = train(config, "--resume", "auto")
        assert status == 0, output
        assert "step-00000004 after 4 updates" in output
        lines = without_clock(tmp_path)
        status, output = train(config, "--resume", "auto")
        assert status == 0, output
        assert "this run is over already: nothing is left to train" in output
        assert without_clock(tmp_path) == lines
        status, output = train(config, "--resume", "auto", "--overwrite")
        assert status == 1
        assert "give one of them" in output

    def test_does_not_take_over_what_is_no_run(self, tmp_path, data, train):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "thesis.tex").write_text("the only copy")
        status, output = train(configure(tmp_path, data, "rnn"), "--resume", "auto")
        assert status == 1
        assert "is not empty" in output
        assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.tex"]


class TestResuming:
    """A run that was killed and goes on is, bit for bit, the run that was not."""

    OPTIONS = {"max_steps": 11, "eval_steps": 3, "batches_per_update": 2, "gradient_accumulation_steps": 2,
               "lr_scheduler_type": "cosine", "warmup_steps": 2, "average_checkpoints": 2, "weight_decay": 0.01,
               "eval_metric": "exact_match", "metric_for_best_model": "loss"}  # fmt: skip

    @pytest.mark.parametrize(
        ("model", "streaming", "place"),
        [
            ("transformer", True, "update"), ("rnn", False, "update"), ("rnn", False, "start"), ("rnn", False, "save"),
            ("transformer", False, "best"), ("hybrid", False, "update"),
        ],
    )  # fmt: skip
    def test_killed_and_resumed(self, tmp_path, data, monkeypatch, model, streaming, place):
        changes = {
            "model": {**SMALL[model], "dropout": 0.3},
            "data": {"streaming": True, "shuffle_buffer": 25} if streaming else {},
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

    @pytest.mark.parametrize(
        "other", [{"eval_metric": "wer"}, {"eval_metric": None}, {"metric_for_best_model": "loss"}]
    )
    def test_scores_of_two_kinds_are_not_compared(self, tmp_path, data, other):
        options = {"max_steps": 4, "eval_steps": 2, "eval_metric": "exact_match"}
        run(tmp_path, data, training=options)
        before = read_log(tmp_path, timed=True)
        (name,) = other
        with pytest.raises(ValueError, match=rf"training\.{name} was .* until here and is .* now, but scores of two"):
            run(tmp_path, data, resume=True, training=options | {"max_steps": 8} | other)
        assert read_log(tmp_path, timed=True) == before

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
