"""Mishaps of a run: losses that are no numbers, too little memory, data that changed, odd locales; and rehearsals."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.state import AcceleratorState
from datasets import Dataset, DatasetDict
from helpers.patience import HANGS
from helpers.runs import SMALL, Killed, configure, kill_in, read_log, read_losses, run, same, weights, write_pairs
from helpers.unbroken import RUNS
from transformers import AutoModelForSeq2SeqLM

from seqloom.commands import train
from seqloom.data.batches import collate, cut
from seqloom.modeling.modeling_seq2seq import IGNORED
from seqloom.settings.reading import load_settings
from seqloom.settings.schema import TrainingSettings
from seqloom.training import loop, update
from seqloom.training.run import run_training
from seqloom.training.state import Progress

pytestmark = pytest.mark.usefixtures("fresh_accelerator")


@pytest.fixture
def data(tmp_path):
    return {name: write_pairs(tmp_path, name, size) for name, size in {"few": 60, "validation": 21, "test": 31}.items()}


def spoil(monkeypatch, which, what):
    """Multiplies the loss of some updates (numbered from 1) by a number that is none."""
    original, calls = update.accumulate_gradients, []

    def accumulate(run, position):
        calls.append(position)
        loss = original(run, position)
        if len(calls) not in which:
            return loss
        for parameter in run.model.parameters():
            parameter.grad.mul_(what)
        return loss * what if what != "gradient" else loss

    monkeypatch.setattr(update, "accumulate_gradients", accumulate)


@pytest.mark.slow
class TestNonFinite:
    """Such an update is left out and counted; the others are what they would have been."""

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_one_is_left_out(self, tmp_path, data, monkeypatch, capsys, value):
        spoil(monkeypatch, {3}, value)
        seen = []
        original = loop.make_update

        def spy(run, position):
            before = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
            result = original(run, position)
            seen.append((same(before, run.model.state_dict()), run.scheduler.get_last_lr()[0]))
            return result

        monkeypatch.setattr(loop, "make_update", spy)
        record = run(tmp_path / "run", data, training={"lr_scheduler_type": "linear"})
        assert [is_same for is_same, _ in seen] == [False, False, True, False, False, False]
        assert len({rate for _, rate in seen}) == 6  # the schedule went on
        assert record["progress"]["skipped_updates"] == 1
        assert record["progress"]["step"] == 6
        said = capsys.readouterr().out
        assert re.search(rf"the loss became {value} with a gradient norm of (nan|inf) in update 3 \(epoch 1, its", said)
        assert "left out (1 so far)" in said
        assert all(parameter.isfinite().all() for parameter in weights(tmp_path / "run" / "run").values())
        for line in (tmp_path / "run" / "run" / "training_log.jsonl").read_text().splitlines():
            assert "NaN" not in line  # which is no JSON
            assert "Infinity" not in line

    def test_gradient_alone(self, tmp_path, data, monkeypatch):
        """A finite loss whose gradient is not would make every weight NaN."""
        original = update.accumulate_gradients

        def accumulate(run, position):
            loss = original(run, position)
            if run.progress.step == 2:
                next(run.model.parameters()).grad[0] = math.inf
            return loss

        monkeypatch.setattr(update, "accumulate_gradients", accumulate)
        record = run(tmp_path / "run", data)
        assert record["progress"]["skipped_updates"] == 1
        assert all(parameter.isfinite().all() for parameter in weights(tmp_path / "run" / "run").values())

    def test_too_many_in_a_row_end_the_run(self, tmp_path, data, monkeypatch, capsys):
        spoil(monkeypatch, {2, 4, 5, 6}, math.nan)
        config = configure(tmp_path / "new", data)
        assert train.main([config, "--max_skipped_updates", "2"]) == 1
        (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
        assert "in update 6" in line
        assert "the 3. such update in a row" in line
        assert "lower training.learning_rate" in line

    def test_none_is_allowed(self, tmp_path, data, monkeypatch, capsys):
        spoil(monkeypatch, {2}, math.nan)
        assert train.main([configure(tmp_path / "new", data), "--max_skipped_updates", "0"]) == 1
        assert "in update 2" in capsys.readouterr().err

    def test_count_survives_a_resume(self, tmp_path, data, monkeypatch):
        spoil(monkeypatch, {2}, math.nan)
        run(tmp_path / "run", data, training={"max_steps": 3})
        record = run(tmp_path / "run", data, resume=True, training={"max_steps": 6})
        assert record["progress"]["skipped_updates"] == 1


class TestMemory:
    """What does not fit is cut finer; the update stays the same."""

    def narrow(self, monkeypatch, rows):
        """A device with room for so many rows."""
        original = AutoModelForSeq2SeqLM.from_config

        def from_config(*args, **kwargs):
            model = original(*args, **kwargs)
            forward = model.forward

            def narrow(*args, **kwargs):
                if model.training and len(kwargs["labels"]) > rows:
                    raise torch.OutOfMemoryError("out of memory")
                return forward(*args, **kwargs)

            model.forward = narrow
            return model

        monkeypatch.setattr(AutoModelForSeq2SeqLM, "from_config", from_config)

    @pytest.mark.slow
    @pytest.mark.parametrize("family", ["rnn", "transformer"])
    def test_update_stays_the_same(self, tmp_path, data, monkeypatch, capsys, family):
        run(tmp_path / "wide", data, family)
        capsys.readouterr()
        self.narrow(monkeypatch, 4)
        run(tmp_path / "narrow", data, family)
        said = capsys.readouterr().out
        assert said.count("did not fit into memory") >= 1
        assert "goes through in 2 pieces" in said
        for wide, narrow in zip(read_losses(tmp_path / "wide"), read_losses(tmp_path / "narrow"), strict=True):
            assert narrow == pytest.approx(wide, rel=1e-5)
        for name, tensor in weights(tmp_path / "wide" / "run").items():
            if name.endswith("k_proj.bias"):
                continue  # softmax cancels it: its gradient is rounding alone, which Adam makes large
            torch.testing.assert_close(weights(tmp_path / "narrow" / "run")[name], tensor, rtol=1e-4, atol=1e-5)

    @pytest.mark.slow
    def test_not_even_one_pair(self, tmp_path, data, monkeypatch, capsys):
        self.narrow(monkeypatch, 0)
        assert train.main([configure(tmp_path / "new", data)]) == 1
        assert "a single pair does not fit" in capsys.readouterr().err

    @pytest.mark.slow
    def test_a_model_that_no_machine_holds(self, tmp_path, data, little_memory, capsys):
        """As the system itself refuses it."""
        wide = {"hidden_size": 345, "embedding_size": 2**20, "bidirectional": False}  # the first matrix is too large
        config = configure(tmp_path / "new", data, "rnn", model=wide)
        assert train.main([config, "--dry_run"]) == 1
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert line.startswith("error: there is not enough memory (")
        assert "take a smaller model, training.batch_tokens or" in line

    def test_a_model_larger_than_this_machine(self, tmp_path, data, capsys):
        """Before the system is asked for anything."""
        config = configure(tmp_path / "new", data, "rnn", model={"hidden_size": 200_000})
        assert train.main([config, "--dry_run"]) == 1
        assert "error: the model would have 580,005,000,000 parameters, 2,161 GiB of weights" in capsys.readouterr().err

    def test_several_processes_must_agree(self):
        """So none of them cuts finer by itself."""
        batch = collate([[5, 2], [8, 2]], [[4, 2], [3, 2]], 0)
        asked = SimpleNamespace(training=TrainingSettings(gradient_accumulation_steps=3))
        two = SimpleNamespace(
            settings=asked, accelerator=SimpleNamespace(num_processes=2), pieces=1, progress=Progress(step=7),
            optimizer=SimpleNamespace(zero_grad=lambda: None),
        )  # fmt: skip
        position = SimpleNamespace(micro_batches=[batch])
        with pytest.raises(
            ValueError, match=r"too little memory for update 8; set training\.gradient_accumulation_steps to 6"
        ):
            update.cut_finer(two, position, torch.OutOfMemoryError("out of memory"))
        assert two.pieces == 1

    def test_pieces_are_the_batch(self):
        batch = collate([[5, 6, 7, 2], [8, 2], [9, 9, 2]], [[4, 2], [4, 5, 6, 7, 2], [3, 2]], 0)
        assert cut(batch, 1) == [batch]
        for pieces in (2, 3, 5):
            parts = cut(batch, pieces)
            assert len(parts) == min(pieces, 3)
            rows = []
            for part in parts:
                for name, tensor in part.items():
                    is_real = part["attention_mask"] == 1 if name != "labels" else tensor != IGNORED
                    assert tensor.shape[1] == is_real.sum(-1).max()  # no more padding than it needs
                rows += [
                    ([token for token, real in zip(ids.tolist(), mask.tolist(), strict=True) if real],
                     [label for label in labels.tolist() if label != IGNORED])
                    for ids, mask, labels in zip(*(part[name] for name in ("input_ids", "attention_mask", "labels")),
                                                 strict=True)
                ]  # fmt: skip
            assert sorted(rows) == sorted([([5, 6, 7, 2], [4, 2]), ([8, 2], [4, 5, 6, 7, 2]), ([9, 9, 2], [3, 2])])


# As train.py, for one command after the other; the processes' group cannot be left and joined again.
@pytest.mark.slow
def test_resumed_with_two_processes_or_another_number(tmp_path, data):
    """Two go on as two, bit for bit; one as two and two as one do the same updates."""
    dropout = {"model": {**SMALL["transformer"], "dropout": 0.3}, "data": {"streaming": True, "shuffle_buffer": 25}}
    options = {"training": {"max_steps": 8, "eval_steps": 4, "eval_metric": "cer", "learning_rate": 0.003}}
    half = ["--max_steps", "4"]
    whole, two = (configure(tmp_path / name, data, **dropout, **options) for name in ("whole", "two"))
    one, two_one, one_two = (
        configure(tmp_path / name, data, "rnn", **options) for name in ("one", "two-one", "one-two")
    )
    assert train.main([one_two, *half]) == 0
    commands = [[whole], [two, *half], [two, "--resume"], [two_one, *half], [one_two, "--resume"]]
    (tmp_path / "runs.py").write_text(RUNS)
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
         str(tmp_path / "runs.py"), json.dumps(commands)],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False, timeout=HANGS,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert read_log(tmp_path / "two") == read_log(tmp_path / "whole")
    assert same(weights(tmp_path / "two" / "run"), weights(tmp_path / "whole" / "run"))

    AcceleratorState._reset_state(reset_partial_state=True)
    assert train.main([two_one, "--resume"]) == 0
    AcceleratorState._reset_state(reset_partial_state=True)
    assert train.main([one]) == 0
    for name in ("two-one", "one-two"):
        for ours, theirs in zip(read_log(tmp_path / name), read_log(tmp_path / "one"), strict=True):
            assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-5)
        for key, tensor in weights(tmp_path / "one" / "run").items():
            torch.testing.assert_close(weights(tmp_path / name / "run")[key], tensor, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_patience_survives_a_resume(tmp_path, data, monkeypatch):
    """Where nothing is learnt the first validation stays the best, and the second after it ends the run."""
    options = {"max_steps": 30, "eval_steps": 3, "eval_metric": "exact_match", "early_stopping_patience": 2,
               "learning_rate": 1e-30}  # fmt: skip
    whole = run(tmp_path / "whole", data, training=options)
    with monkeypatch.context() as patch:
        kill_in(patch, "update")
        with pytest.raises(Killed):
            run(tmp_path / "killed", data, training=options)
    AcceleratorState._reset_state(reset_partial_state=True)
    resumed = run(tmp_path / "killed", data, resume=True, training=options)
    assert whole["progress"]["step"] == resumed["progress"]["step"] == 9
    assert read_log(tmp_path / "killed") == read_log(tmp_path / "whole")
    assert same(weights(tmp_path / "killed" / "run"), weights(tmp_path / "whole" / "run"))


DYING = """
import os, signal, sys
from seqloom.commands.train import main
from seqloom.training import loop

make_update = loop.make_update

def dying(run, position):
    if run.progress.step == 3 and run.accelerator.process_index == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return make_update(run, position)

loop.make_update = dying
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_process_that_dies_takes_the_others_along(tmp_path, data):
    """With a word, and without hanging; what was saved is whole."""
    config = configure(tmp_path / "new", data, training={"eval_steps": 2})
    (tmp_path / "dying.py").write_text(DYING)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*launch, str(tmp_path / "dying.py"), config],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False, timeout=HANGS,
    )  # fmt: skip
    assert done.returncode == 1
    assert "error: another process of this run ended" in done.stderr
    assert train.main([config, "--resume"]) == 0


@pytest.mark.slow
class TestData:
    @pytest.mark.parametrize("split", ["few", "validation"])
    def test_changed_file_is_named(self, tmp_path, data, capsys, split):
        config = configure(tmp_path / "new", data)
        assert train.main([config, "--max_steps", "3"]) == 0
        path = Path(data[split][1])
        text = path.read_text()
        path.write_text(text.replace("a", "b"))  # as many bytes
        assert train.main([config, "--resume"]) == 1
        error = capsys.readouterr().err
        assert f"{path.name} changed since the run began" in error
        path.write_text(text)
        assert train.main([config, "--resume"]) == 0

    def test_changed_data_set_of_save_to_disk(self, tmp_path, data, capsys):
        def write(letter: str) -> None:
            texts = {split: [[f"{letter}b"] * 20, ["c"] * 20] for split in ("train", "validation", "test")}
            sets = {split: Dataset.from_dict({"source": a, "target": b}) for split, (a, b) in texts.items()}
            shutil.rmtree(tmp_path / "kept", ignore_errors=True)
            DatasetDict(sets).save_to_disk(tmp_path / "kept")

        write("a")
        place = {"dataset": str(tmp_path / "kept"), "train_files": None, "validation_files": None, "test_files": None}
        config = configure(tmp_path / "new", data, data=place)
        assert train.main([config, "--max_steps", "3"]) == 0
        write("a")
        assert train.main([config, "--resume", "--max_steps", "4"]) == 0
        capsys.readouterr()
        write("d")
        assert train.main([config, "--resume", "--max_steps", "5"]) == 1
        assert "changed since the run began" in capsys.readouterr().err

    def test_changed_stream(self, tmp_path, data, capsys):
        config = configure(tmp_path / "new", data, data={"streaming": True})
        assert train.main([config, "--max_steps", "3"]) == 0
        path = Path(data["few"][0])
        path.write_text(path.read_text() + "abc\n")
        assert train.main([config, "--resume"]) == 1
        assert "few.source changed since the run began" in capsys.readouterr().err


@pytest.mark.slow
def test_odd_locale_and_clock(tmp_path):
    """Texts are UTF-8 whatever the locale says; a clock that jumps changes nothing."""
    pairs = {}
    for name, size in {"few": 30, "validation": 11, "test": 11}.items():
        pairs[name] = [str(tmp_path / f"{name}.{side}") for side in ("ko", "en")]
        lines = [("안녕 세계 " * (1 + i % 3)).strip() for i in range(size)]
        Path(pairs[name][0]).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        Path(pairs[name][1]).write_text("".join(f"überall {len(line)}\n" for line in lines), encoding="utf-8")
    config = configure(tmp_path / "new", pairs)
    code = (
        "import sys, time, random\n"
        "time.time = lambda: random.choice([0.0, 4e9, -1.0])\n"
        "from seqloom.commands.train import main\n"
        f"sys.exit(main([{config!r}]))\n"
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("LC_", "LANG", "PYTHONUTF8"))}
    environment |= {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "TZ": "Asia/Kathmandu"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    run(tmp_path / "again", pairs)
    assert same(weights(tmp_path / "new" / "run"), weights(tmp_path / "again" / "run"))
    assert read_log(tmp_path / "new") == read_log(tmp_path / "again")


class TestRehearsal:
    def test_writes_nothing(self, tmp_path, data, capsys):
        config = configure(tmp_path / "new", data)
        before = sorted(path for path in tmp_path.rglob("*"))
        assert train.main([config, "--dry_run"]) == 0
        assert sorted(path for path in tmp_path.rglob("*")) == before
        said = capsys.readouterr().out
        assert "dry run: nothing was written." in said
        assert re.search(r"memory, MiB: weights \d+, gradients \d+, optimizer \d+, peak of the process [\d,]+", said)
        assert re.search(r"at most [1-9]\d* (s|min) for 6 updates", said)

    @pytest.mark.slow
    def test_finds_the_largest_update(self, tmp_path, data, monkeypatch):
        """By positions: in a real run no batch is larger."""
        shapes = []
        original = update.accumulate_gradients

        def spy(run, position):
            shapes.append(max(tensor.numel() for batch in position.micro_batches for tensor in batch.values()))
            return original(run, position)

        monkeypatch.setattr(update, "accumulate_gradients", spy)
        run_training(load_settings(configure(tmp_path / "dry", data)), dry_run=True)
        assert len(shapes) == 2
        largest = shapes[0]
        shapes.clear()
        run(tmp_path / "real", data, training={"max_steps": None, "num_train_epochs": 1})
        assert max(shapes) == largest

    def test_says_what_is_wrong(self, tmp_path, data, capsys):
        config = configure(tmp_path / "new", data)
        assert train.main([config, "--dry_run", "--max_target_length", "1"]) == 1
        assert "error: " in capsys.readouterr().err
        (tmp_path / "new" / "run").mkdir()
        shutil.copy(config, tmp_path / "new" / "run" / "x")
        assert train.main([config, "--dry_run"]) == 1
        assert "is not empty" in capsys.readouterr().err

    def test_of_a_stream(self, tmp_path, data):
        settings = load_settings(configure(tmp_path / "new", data, "rnn", data={"streaming": True}))
        result = run_training(settings, dry_run=True)
        assert math.isfinite(result["loss"])
        assert json.dumps(result)
