"""What one watches: the log, the trackers, the console."""

import fcntl
import json
import math
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import GeneralTracker
from helpers.runs import (
    Killed,
    configure,
    read_log,
    run,
    write_pairs,
)
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from seqloom.data.updates import EpochPosition
from seqloom.settings.reading import load_settings
from seqloom.support.console import duration
from seqloom.support.machine import peak_memory
from seqloom.training import loop, tracking
from seqloom.training import update as update_module
from seqloom.training.state import Progress, Run
from seqloom.training.tracking import Console, RunLog, flat_settings

pytestmark = pytest.mark.usefixtures("fresh_accelerator")


ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    sizes = {"few": 60, "validation": 21, "test": 31}
    return {name: write_pairs(folder, name, size) for name, size in sizes.items()}


def spoil(monkeypatch, which):
    """Makes the losses of some updates, numbered from 1, NaN."""
    original = update_module.accumulate_gradients

    def accumulate(run, position):
        return math.nan if run.progress.step + 1 in which else original(run, position)

    monkeypatch.setattr(update_module, "accumulate_gradients", accumulate)


def kill_in(monkeypatch, step):
    """Kills the run in an update."""
    original = loop.make_update

    def update(run, position):
        if run.progress.step + 1 == step:
            raise Killed
        return original(run, position)

    monkeypatch.setattr(loop, "make_update", update)


@pytest.fixture
def bare_run(tmp_path, data):
    """What a log and a console need of a run: nothing is trained."""
    settings = load_settings(configure(tmp_path, data, training={"logging_steps": 2, "max_steps": 8000}))
    (tmp_path / "run").mkdir()
    return Run(settings, tmp_path / "run", Accelerator(cpu=True), *[None] * 7, 8000, Progress())


class TestLog:
    @pytest.mark.slow
    def test_columns(self, tmp_path, data):
        """An epoch a line: its padding is the plan's, its tokens are the progress's."""
        plan = run(tmp_path / "plan", data, training={"max_steps": 1})["data"]["plan"]
        options = {"logging_steps": plan["updates"], "max_steps": None, "num_train_epochs": 1, "eval_steps": None}
        record = run(tmp_path / "one", data, training=options)
        line, validation = read_log(tmp_path / "one", timed=True)
        assert list(line) == ["step", "epoch", "loss", "learning_rate", "gradient_norm", "tokens_per_second", "padding",
                              "target_tokens", "memory_mib", "seconds"]  # fmt: skip
        assert list(validation) == ["step", "epoch", "eval_loss", "best", "target_tokens", "memory_mib", "seconds"]
        assert line["padding"] == pytest.approx(plan["padding"])
        assert 0.01 < line["padding"] < 0.6
        assert line["target_tokens"] == record["progress"]["target_tokens"] > 100
        peak = peak_memory(torch.device("cpu"))
        assert 0.5 * peak < line["memory_mib"] <= peak + 0.1  # it is rounded

    @pytest.mark.slow
    def test_padding_is_not_of_how_the_work_is_cut(self, tmp_path, data):
        found = []
        for pieces in (1, 3):
            options = {"gradient_accumulation_steps": pieces, "batches_per_update": 2, "max_steps": 2}
            run(tmp_path / str(pieces), data, training=options)
            found.append([line["padding"] for line in read_log(tmp_path / str(pieces)) if "loss" in line])
        assert found[0] == found[1]
        assert len(set(found[0])) == 2

    @pytest.mark.slow
    def test_peak_memory(self):
        """In MiB, and it stays when the memory is given back."""
        before = peak_memory(torch.device("cpu"))
        block = np.ones(2**27 // 8 + int(before) * 2**17)  # 128 MiB more than ever
        during = peak_memory(torch.device("cpu"))
        assert during - before > 100
        assert during < before * 2 + 160
        del block
        assert peak_memory(torch.device("cpu")) > during - 1  # the kernel adds up its pages now and then

    @pytest.mark.slow
    def test_an_interval_cut_by_a_kill(self, tmp_path, data, monkeypatch):
        """Lines every fourth update, checkpoints every third: a line that a checkpoint cuts through is whole again."""
        options = {"training": {"logging_steps": 4, "eval_steps": 3, "max_steps": 9}}
        run(tmp_path / "whole", data, **options)
        with monkeypatch.context() as patch:
            kill_in(patch, 8)
            with pytest.raises(Killed):
                run(tmp_path / "killed", data, **options)
        AcceleratorState._reset_state(reset_partial_state=True)
        run(tmp_path / "killed", data, **options, resume=True)
        assert read_log(tmp_path / "killed") == read_log(tmp_path / "whole")
        assert [line["step"] for line in read_log(tmp_path / "whole")] == [3, 4, 6, 8, 9]

    def test_state(self, bare_run, tmp_path):
        """Half of the updates in one log and half in another, through JSON, are all of them in one."""
        tokens = [7, 11, 2, 5]
        found = []
        for splits in ((), (1, 3)):
            bare_run.progress, bare_run.settings.training.__dict__["logging_steps"] = Progress(), 4
            log = RunLog(bare_run)
            for index, count in enumerate(tokens):
                if index in splits:
                    state = json.loads(json.dumps(log.state_dict(), allow_nan=False))
                    log = RunLog(bare_run)
                    log.load_state_dict(state)
                bare_run.progress.step += 1
                log.update(EpochPosition(0, index, count, [], 3 * count, 2 * count + index), index + 0.5, 1.0, 0.1, 2.0)
            log.close()
            found.append(read_log(tmp_path, timed=True)[-1])
        assert found[0] == found[1]
        assert found[0]["loss"] == pytest.approx((0.5 * 7 + 1.5 * 11 + 2.5 * 2 + 3.5 * 5) / 25)
        assert found[0]["padding"] == pytest.approx(1 - 56 / 75)
        assert found[0]["tokens_per_second"] == 3.1

    @pytest.mark.slow
    def test_updates_left_out(self, tmp_path, data, monkeypatch):
        """Their lines stand, but what is no number is neither in the file nor in its mean."""
        spoil(monkeypatch, {2, 3, 4})
        run(tmp_path, data, training={"logging_steps": 2, "report_to": ["tensorboard"]})
        text = (tmp_path / "run" / "training_log.jsonl").read_text()
        lines = [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]
        lines = [line for line in lines if "best" not in line]
        assert [line["step"] for line in lines] == [2, 4, 6]
        assert ["loss" in line for line in lines] == [True, False, True]
        assert all(line["tokens_per_second"] > 0 for line in lines)
        assert [event.step for event in scalars(tmp_path / "run")["train/loss"]] == [2, 6]


def scalars(folder):
    events = EventAccumulator(str(folder / "trackers" / "seqloom")).Reload()
    return {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}


class Notebook(GeneralTracker):
    """A tracker that keeps what it is told."""

    name = "notebook"
    requires_logging_directory = False

    def __init__(self, seen):
        self.seen = seen

    @property
    def tracker(self):
        return self.seen

    def log(self, values, step=None, **_):
        assert all(type(value) is float and math.isfinite(value) for value in values.values())
        self.seen.append((step, *(name for name in values if name.endswith("/loss"))))


class TestTrackers:
    OPTIONS = {"training": {"report_to": ["tensorboard"], "max_steps": 9, "eval_metric": "chrf", "logging_steps": 2}}

    def check(self, folder, expected):
        """TensorBoard's files hold the log's numbers, and nothing else."""
        found = scalars(folder)
        log = [json.loads(line) for line in (folder / "training_log.jsonl").read_text().splitlines()]
        columns = {}
        for line in log:
            group = "eval" if "best" in line else "train"
            for name, value in line.items():
                if name != "step":
                    columns.setdefault(f"{group}/{name.removeprefix('eval_')}", []).append((line["step"], float(value)))
        assert found.keys() == columns.keys()
        for name, pairs in columns.items():
            assert [event.step for event in found[name]] == [step for step, _ in pairs], name
            assert [event.value for event in found[name]] == pytest.approx([value for _, value in pairs], rel=1e-6)
        assert [event.step for event in found["train/loss"]] == expected

    @pytest.mark.slow
    def test_tensorboard(self, tmp_path, data):
        run(tmp_path, data, **self.OPTIONS)
        self.check(tmp_path / "run", [2, 4, 6, 8])
        found = scalars(tmp_path / "run")
        names = {"loss", "learning_rate", "gradient_norm", "tokens_per_second", "padding", "memory_mib", "epoch"}
        assert {f"train/{name}" for name in names} <= found.keys()
        assert {"eval/loss", "eval/chrf", "eval/best"} <= found.keys()
        (settings,) = (tmp_path / "run" / "trackers").rglob("hparams.yml")
        assert "training.learning_rate: 0.01\n" in settings.read_text()

    @pytest.mark.slow
    def test_goes_on_where_it_was(self, tmp_path, data, monkeypatch):
        """Killed two updates after a checkpoint: no number twice, no second set of hyper-parameters."""
        with monkeypatch.context() as patch:
            kill_in(patch, 6)
            with pytest.raises(Killed):
                run(tmp_path, data, **self.OPTIONS)
        assert [event.step for event in scalars(tmp_path / "run")["train/loss"]] == [2, 4]
        AcceleratorState._reset_state(reset_partial_state=True)
        identity = (tmp_path / "run" / "trackers" / "run_id").read_text()
        run(tmp_path, data, **self.OPTIONS, resume=True)
        self.check(tmp_path / "run", [2, 4, 6, 8])
        assert len(list((tmp_path / "run" / "trackers").rglob("hparams.yml"))) == 1
        assert (tmp_path / "run" / "trackers" / "run_id").read_text() == identity

    @pytest.mark.slow
    def test_others_are_not_told_twice(self, tmp_path, data, monkeypatch):
        """Those that cannot forget get each line once, across a kill."""
        seen = []
        ours = Notebook(seen)
        original = tracking.start_trackers

        def start(run):
            original(run)
            run.accelerator.trackers.append(ours)

        monkeypatch.setattr(tracking, "start_trackers", start)
        with monkeypatch.context() as patch:
            kill_in(patch, 6)
            with pytest.raises(Killed):
                run(tmp_path, data, **self.OPTIONS)
        AcceleratorState._reset_state(reset_partial_state=True)
        run(tmp_path, data, **self.OPTIONS, resume=True)
        assert seen == [
            (line["step"], "eval/loss" if "best" in line else "train/loss") for line in read_log(tmp_path, timed=True)
        ]

    def test_settings_as_trackers_take_them(self):
        flat = flat_settings({"output_dir": "x", "model": {"d_model": 8, "dropout": 0.1, "normalize_before": True},
                              "training": {"max_steps": None, "report_to": ["wandb"]}, "mix": {}})  # fmt: skip
        assert flat == {"output_dir": "x", "model.d_model": 8, "model.dropout": 0.1, "model.normalize_before": True,
                        "training.max_steps": "null", "training.report_to": '["wandb"]'}  # fmt: skip


LINE = re.compile(
    r"update [\d,]+(/[\d,]+)?, epoch \d+: loss \d+\.\d{3}, learning rate \d\.\de-\d\d, [\d,]+ tokens/s, "
    r".*(left|so far)"
)


class TestConsole:
    def test_lines(self, bare_run, capsys):
        """The first, then at most one every ten seconds and only where the log has one, then the last."""
        now = [100.0]
        log = RunLog(bare_run)
        with Console(bare_run, log, clock=lambda: now[0]) as console:
            for index in range(15):
                now[0] += 3
                bare_run.progress.step += 1
                bare_run.progress.epoch_updates += 1
                log.update(EpochPosition(0, index, 100, []), index + 0.25, 1.0, 0.1, 0.05)
                console.update(99.0, 0.00071)
        log.close()
        lines = capsys.readouterr().err.splitlines()
        assert all(LINE.fullmatch(line) for line in lines)
        steps = [int(re.match(r"update (\d+)/8,000, epoch 1", line)[1]) for line in lines]
        assert steps == [1, 6, 10, 14, 15]
        # Update 6 closes a line of the log with update 5: (4.25 + 5.25) / 2; update 15 stands alone in its own.
        assert "loss 4.750, learning rate 7.1e-04, 2,000 tokens/s, 6 h 40 min left" in lines[1]
        assert "loss 14.250" in lines[-1]

    def test_without_an_end(self, bare_run, capsys):
        bare_run.max_steps = None
        with Console(bare_run, RunLog(bare_run), clock=lambda: 0.0) as console:
            bare_run.progress.step = 1
            console.update(1.0, 0.1)
        assert re.match(r"update 1, epoch 1: .*, 0 s so far\n$", capsys.readouterr().err)

    def test_other_processes_are_silent(self, bare_run, capsys):
        with Console(bare_run, RunLog(bare_run)) as console:
            console.is_main = False
            bare_run.progress.step = 1
            console.update(1.0, 0.1)
        assert capsys.readouterr().err == ""

    def test_durations(self):
        seconds = (0.2, 59.4, 59.6, 1380, 3570, 3599, 7500, 86399, 3 * 86400 + 4 * 3600)
        expected = ["0 s", "59 s", "1 min", "23 min", "1 h 00 min", "1 h 00 min", "2 h 05 min", "1 d 0 h", "3 d 4 h"]
        assert [duration(value) for value in seconds] == expected

    @pytest.mark.slow
    def test_in_a_file_and_in_a_terminal(self, tmp_path, data):
        """The real command. A file holds plain lines, a terminal shows a bar."""
        command = [sys.executable, "-m", "seqloom", "train"]
        configs = [configure(tmp_path / name, data) for name in ("file", "terminal")]
        with (tmp_path / "err").open("w") as file:
            done = subprocess.run(
                [*command, configs[0]], stdout=subprocess.PIPE, stderr=file, cwd=ROOT, check=False, text=True
            )
        text = (tmp_path / "err").read_text()
        assert done.returncode == 0, text
        assert not re.search(r"[\r\x1b]|\d%\|", text + done.stdout)
        lines = [line for line in text.splitlines() if LINE.fullmatch(line)]
        assert [re.match(r"update (\d+)/6, epoch \d", line)[1] for line in lines] == ["1", "6"]
        table = dict(re.findall(r"^(\w+(?: \w+)?)  +(.*)$", done.stdout, flags=re.MULTILINE))
        record = json.loads((tmp_path / "file" / "run" / "record.json").read_text())["progress"]
        assert table["updates"] == "6"
        assert table["target tokens"] == f"{record['target_tokens']:,}"
        assert table["best"] == f"loss {record['best_score']:.4f} after update {record['best_step']}"
        assert re.fullmatch(r"[\d,]+ MiB of the process", table["peak memory"])
        assert float(re.match(r"[\d,]+", table["peak memory"])[0].replace(",", "")) > 100
        assert table["folder"] == str(tmp_path / "file" / "run")
        assert {"epochs", "time", "speed"} <= table.keys()

        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))  # rows and columns
        with subprocess.Popen([*command, configs[1]], stdout=theirs, stderr=theirs, cwd=ROOT) as process:
            os.close(theirs)
            seen = b""
            while part := read(ours):
                seen += part
        os.close(ours)
        assert process.returncode == 0
        assert re.search(rb"\rtraining: 100%\|.*\| 6/6 \[.* updates/s, epoch \d, loss", seen)
        assert b"update 6/6" not in seen


def read(terminal):
    try:
        return os.read(terminal, 65536)
    except OSError:  # the other end is closed
        return b""
