"""Runs that are stopped: the update is finished, a checkpoint saved, and the status tells."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState
from helpers.patience import HANGS, wait_for_lines
from helpers.runs import (
    configure,
    read_log,
    run,
)
from helpers.unbroken import RUNS, assert_same_run, last, without_clock

from seqloom.training import checkpoints, loop
from seqloom.training.signals import SIGNALS, Stopped, StopSignals
from seqloom.training.state import Progress

pytestmark = pytest.mark.usefixtures("fresh_accelerator")


ROOT = Path(__file__).parents[2]


class TestStopping:
    """The update is finished, a checkpoint saved, and the status is what a scheduler understands."""

    @pytest.mark.slow
    def test_the_real_command(self, tmp_path, data):
        config = configure(tmp_path, data, "rnn", training={"max_steps": 100_000, "eval_steps": 1000})
        process = subprocess.Popen(
            [sys.executable, "train.py", config], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        wait_for_lines(tmp_path, process, 5)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=HANGS)
        assert process.returncode == 143, output
        step = Progress(**json.loads((last(tmp_path) / "progress.json").read_text())).step
        assert "SIGTERM: stopping after this update" in output
        assert (
            f"stopped by SIGTERM after {step:,} updates; go on with: seqloom train {tmp_path}/run/settings.yaml"
            in output
        )
        assert without_clock(tmp_path)[-1]["step"] == step
        assert not (tmp_path / "run" / "model.safetensors").exists()

    @pytest.mark.slow
    @pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process does not learn that its launcher ended")
    def test_launcher_that_passes_nothing_on(self, tmp_path, data):
        """The scheduler ends `accelerate launch`; the training under it saves and ends, and is no orphan."""
        config = configure(tmp_path, data, "rnn", training={"max_steps": 100_000, "eval_steps": 1000})
        launch = [sys.executable, "-m", "accelerate.commands.launch", "train.py", config]
        process = subprocess.Popen(launch, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        wait_for_lines(tmp_path, process, 5)
        process.send_signal(signal.SIGUSR1)
        output, _ = process.communicate(timeout=HANGS)  # until the last that could write there has ended
        assert process.returncode == -signal.SIGUSR1
        assert "stopped by SIGTERM after" in output, output
        step = Progress(**json.loads((last(tmp_path) / "progress.json").read_text())).step
        assert without_clock(tmp_path)[-1]["step"] == step

    @pytest.mark.slow
    @pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGUSR1", 128 + signal.SIGUSR1)])
    def test_stopped_and_gone_on(self, tmp_path, data, train, name, status):
        """Wherever it stops, before a validation or between two lines of the log: the log is the unbroken one's."""
        options = {"max_steps": 300, "eval_steps": 50, "logging_steps": 7, "save_total_limit": 1}
        changes = {"training": options, "model": {"dropout": 0.2}}
        whole, stopped = (configure(tmp_path / name, data, "rnn", **changes) for name in ("whole", "stopped"))
        assert train(whole)[0] == 0
        log = str(tmp_path / "stopped/run/training_log.jsonl")
        found, output = train(stopped, signal=[name, log, 5])
        assert found == status, output
        assert f"stopped by {name} after" in output
        found, output = train(stopped, "--resume")
        assert found == 0, output
        assert_same_run(tmp_path / "stopped", tmp_path / "whole")

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("end", "step"),
        [(end, step) for end, steps in (("3 of 9", (1, 3, 4, 6, 9)), ("4 of 8", (3, 4, 8)), ("epochs", (1, 4, 8)))
         for step in steps],
    )  # fmt: skip
    def test_every_update(self, tmp_path, data, monkeypatch, ends, end, step):
        """After a chosen update: the first or last of an epoch, one with a validation due, the last."""
        whole, changes = ends[end]
        original = loop.make_update

        def update(run, position):
            found = original(run, position)
            if run.progress.step + 1 == step:
                signal.raise_signal(signal.SIGTERM)
            return found

        with monkeypatch.context() as patch:
            patch.setattr(loop, "make_update", update)
            before = [signal.getsignal(number) for number in SIGNALS]
            with pytest.raises(Stopped) as caught:
                run(tmp_path, data, "rnn", **changes)
            assert caught.value.signal == signal.SIGTERM
            assert [signal.getsignal(number) for number in SIGNALS] == before
        assert last(tmp_path).name == f"step-{step:08d}"
        AcceleratorState._reset_state(reset_partial_state=True)
        run(tmp_path, data, "rnn", resume=True, **changes)
        assert_same_run(tmp_path, whole)

    @pytest.fixture(scope="class")
    def ends(self, data, tmp_path_factory):
        """Runs without a signal, which validate every so many updates or every epoch (of four updates)."""
        found = {}
        for end, eval_steps, max_steps in (("3 of 9", 3, 9), ("4 of 8", 4, 8), ("epochs", None, 8)):
            folder = tmp_path_factory.mktemp("whole")
            options = {"max_steps": max_steps, "eval_steps": eval_steps, "logging_steps": 2, "batches_per_update": 1,
                       "batch_size": 15, "batch_tokens": None, "save_total_limit": 1}  # fmt: skip
            changes = {"training": options, "model": {"dropout": 0.3}}
            record = run(folder, data, "rnn", **changes)
            assert record["data"]["plan"]["updates"] == 4
            AcceleratorState._reset_state(reset_partial_state=True)
            found[end] = folder, changes
        return found

    @pytest.mark.slow
    def test_killed_after_the_validation_that_followed_a_save(self, tmp_path, data, train, monkeypatch, ends):
        """A line of the log that is ahead of the checkpoint of the same update is not there twice."""
        whole, changes = ends["epochs"]
        changes = {**changes, "training": {**changes["training"], "save_steps": 4}}
        with monkeypatch.context() as patch:
            patch.setattr(checkpoints, "save_model", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                run(tmp_path, data, "rnn", **changes)
        assert last(tmp_path).name == "step-00000004"
        assert "best" in read_log(tmp_path)[-1]
        AcceleratorState._reset_state(reset_partial_state=True)
        run(tmp_path, data, "rnn", resume=True, **changes)
        assert without_clock(tmp_path) == without_clock(whole)

    def test_a_second_interrupt_ends_at_once(self):
        with StopSignals() as signals:
            assert signals.number == 0
            signal.raise_signal(signal.SIGINT)
            assert signals.number == signal.SIGINT
            signal.raise_signal(signal.SIGTERM)  # no second Ctrl-C
            assert signals.number == signal.SIGINT
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)

    def test_torchruns_echo_is_no_second_one(self, monkeypatch):
        monkeypatch.setenv("LOCAL_RANK", "0")
        with StopSignals() as signals:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            signals._came -= 2  # seconds
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)

    @pytest.mark.parametrize("variable", ["LOCAL_RANK", "ACCELERATE_MIXED_PRECISION"])
    def test_a_launcher_that_ends_in_several_signals(self, monkeypatch, variable):
        """The second comes while the run that the first has stopped says how to go on: it is not ended by it."""
        before = {number: signal.getsignal(number) for number in SIGNALS}
        monkeypatch.setenv(variable, "0")
        try:
            with pytest.raises(Stopped), StopSignals():
                raise Stopped(signal.SIGTERM, "stopped")
            signal.raise_signal(signal.SIGTERM)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def test_what_is_ignored_stays_ignored(self):
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as nohup has it
        try:
            with StopSignals() as signals:
                signal.raise_signal(signal.SIGINT)
                assert signals.number == 0
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        finally:
            signal.signal(signal.SIGINT, before)

    def test_in_another_thread(self):
        found = []

        def work():
            with StopSignals() as signals:
                found.append(signals.number)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert found == [0]

    @pytest.mark.slow
    def test_two_processes_stop_after_the_same_update(self, tmp_path, data, train):
        changes = {"training": {"max_steps": 101, "eval_steps": 50, "logging_steps": 3, "save_total_limit": 1}}
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        options = {"cwd": ROOT, "env": {**os.environ, "OMP_NUM_THREADS": "1"}, "text": True}
        whole, stopped = (configure(tmp_path / name, data, "rnn", **changes) for name in ("whole", "stopped"))
        command = [*launch, "train.py", stopped]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)
        wait_for_lines(tmp_path / "stopped", process, 2)
        process.terminate()
        output, _ = process.communicate(timeout=HANGS)
        assert process.returncode not in (0, None)
        assert "stopped by SIGTERM after" in output
        checkpoint = last(tmp_path / "stopped")
        assert sorted(path.name for path in checkpoint.glob("random_states_*")) == [
            "random_states_0.pkl", "random_states_1.pkl",
        ]  # fmt: skip
        (tmp_path / "runs.py").write_text(RUNS)
        both = [*launch, str(tmp_path / "runs.py"), json.dumps([[stopped, "--resume"], [whole]])]
        done = subprocess.run(both, capture_output=True, check=False, timeout=HANGS, **options)
        assert done.returncode == 0, done.stderr
        assert "resuming" in done.stdout
        assert_same_run(tmp_path / "stopped", tmp_path / "whole")
