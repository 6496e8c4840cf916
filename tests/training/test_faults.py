"""Nothing lost: runs that are killed, stopped, resumed; checkpoints that are damaged; disks that are full."""

import gc
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from helpers.runs import (
    SMALL,
    configure,
    read_log,
    run,
    same,
    weights,
    write_pairs,
)
from torch import nn

from seqloom.settings.reading import load_settings
from seqloom.support import disk
from seqloom.training import checkpoints, loop
from seqloom.training.signals import SIGNALS, Stopped, StopSignals
from seqloom.training.state import Progress

pytestmark = pytest.mark.usefixtures("fresh_accelerator")

ROOT = Path(__file__).parents[2]

# One process that has imported everything and forks: a start takes five seconds else. It reads orders, one JSON a line
# (the words of train.py, where to die), and answers each with the child's exit status (below zero: the signal).
SERVER = """
import json, os, pathlib, resource, shutil, signal, sys, time
import accelerate.utils.other, safetensors.torch, torch, transformers.modeling_utils
from seqloom.commands.train import main
from seqloom.training import checkpoints

torch.set_num_threads(1)


def die_at(number):
    '''Kills this process in the middle of its n-th renaming, writing, deleting or syncing.'''
    calls = []

    def patch(module, name, half):
        if not hasattr(module, name):
            return
        original = getattr(module, name)

        def patched(*args, **kwargs):
            calls.append(name)
            if len(calls) == number:
                half(original, *args, **kwargs)
                print(f"dies in {name}({', '.join(str(arg)[:90] for arg in args[-1:])})", flush=True)
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **kwargs)

        setattr(module, name, patched)

    def cut(original, *args, **kwargs):
        original(*args, **kwargs)
        for path in args:
            if isinstance(path, (str, pathlib.Path)) and os.path.isfile(path):
                os.truncate(path, os.path.getsize(path) // 2)

    def before_or_after(original, *args, **kwargs):
        if number % 2:
            original(*args, **kwargs)

    def one_file(original, path, *args, **kwargs):
        for file in sorted(pathlib.Path(path).rglob('*'), reverse=True):
            if file.is_file():
                file.unlink()
                break

    patch(os, 'replace', before_or_after)
    patch(os, 'fsync', before_or_after)
    patch(shutil, 'rmtree', one_file)
    patch(torch, 'save', cut)
    patch(accelerate.utils.other, 'safe_save_file', cut)
    patch(transformers.modeling_utils, 'safe_save_file', cut)
    patch(checkpoints, 'save_file', cut)
    patch(pathlib.Path, 'write_text', cut)


def smallest_disk(limit):
    '''From the second checkpoint on no file can be longer than so many bytes.'''
    original, calls = checkpoints.save_checkpoint, []

    def save_checkpoint(*args, **kwargs):
        calls.append(args)
        if len(calls) == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        return original(*args, **kwargs)

    checkpoints.save_checkpoint = save_checkpoint


for line in sys.stdin:
    order = json.loads(line)
    child = os.fork()
    if child == 0:
        output = os.open(order['output'], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if order.get('event'):
            die_at(order['event'])
        if order.get('limit'):
            smallest_disk(order['limit'])
        try:
            status = main(order['words'])
        except BaseException:
            import traceback
            traceback.print_exc()
            status = 70
        sys.stdout.flush()
        os._exit(status)
    if order.get('after') is not None:
        time.sleep(order['after'])
        os.kill(child, signal.SIGKILL)
    if order.get('signal'):
        name, path, lines = order['signal']
        while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            if os.path.exists(path) and len(open(path).readlines()) >= lines:
                os.kill(child, getattr(signal, name))
                break
            time.sleep(0.005)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    """``train(*words, **where_to_die)`` is train.py in a process of its own: its status and what it printed."""
    output = tmp_path_factory.mktemp("server") / "output"
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip

    def _train(*words: str, **order) -> tuple[int, str]:
        server.stdin.write(json.dumps({"words": words, "output": str(output), **order}) + "\n")
        server.stdin.flush()
        return int(server.stdout.readline()), output.read_text(errors="replace")

    yield _train
    server.stdin.close()
    server.wait(timeout=60)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return {name: write_pairs(folder, name, size) for name, size in {"few": 60, "validation": 21, "test": 5}.items()}


@pytest.fixture(scope="module")
def two_checkpoints(data, tmp_path_factory):
    """A run of six updates with checkpoints of its third and its sixth."""
    folder = tmp_path_factory.mktemp("two")
    run(folder, data, "rnn", model={"dropout": 0.3})
    AcceleratorState._reset_state(reset_partial_state=True)
    return folder


def without_clock(folder: Path) -> list[dict]:
    """The log's lines, without what depends on the machine's hour and memory."""
    return [{name: value for name, value in line.items() if name != "memory_mib"} for line in read_log(folder)]


def assert_same_run(ours: Path, theirs: Path) -> int:
    """Weights, log and record of two runs are equal bit for bit; returns the number of losses compared."""
    assert same(weights(ours / "run"), weights(theirs / "run"))
    last = [checkpoints.last_checkpoint(folder / "run", say=pytest.fail) for folder in (ours, theirs)]
    assert last[0].name == last[1].name
    assert same(*(weights(checkpoint) for checkpoint in last))
    assert without_clock(ours) == without_clock(theirs)
    records = [json.loads((folder / "run" / "record.json").read_text()) for folder in (ours, theirs)]
    for record in records:
        record["progress"].pop("seconds")
        for clock in ("seconds", "sentences_per_second", "folder"):
            record["evaluation"].pop(clock, None)
    for part in ("progress", "evaluation", "model"):
        assert records[0][part] == records[1][part]
    names = [{path.name for path in (folder / "run" / "checkpoints").iterdir()} for folder in (ours, theirs)]
    assert names[0] == names[1]
    assert not [path for path in (ours / "run").rglob("*") if path.name.startswith(("saving", "old-", "deleting-"))]
    return sum("loss" in line for line in without_clock(ours))


def damaging(path: Path) -> dict:
    """Ways to damage a file."""
    content = path.read_bytes()
    place = random.Random(path.name).randrange(8 * len(content))
    flipped = bytearray(content)
    flipped[place // 8] ^= 1 << place % 8
    return {
        "cut": lambda: path.write_bytes(content[: len(content) // 2]),
        "emptied": lambda: path.write_bytes(b""),
        "flipped": lambda: path.write_bytes(flipped),
        "longer": lambda: path.write_bytes(content + b"\0"),
        "deleted": path.unlink,
        "restored": lambda: path.write_bytes(content),
    }


class TestDamage:
    """A file that is not what was written is found and named, and the checkpoint before it is used."""

    def test_every_file_and_every_way(self, two_checkpoints, tmp_path):
        shutil.copytree(two_checkpoints / "run", tmp_path / "run")
        before, last = checkpoints.step_folders(tmp_path / "run")
        files = sorted(path for path in last.rglob("*") if path.is_file())
        assert len(files) >= 6
        for path in files:
            ways = damaging(path)
            restore = ways.pop("restored")
            for way, harm in ways.items():
                harm()
                told = []
                assert checkpoints.last_checkpoint(tmp_path / "run", told.append) == before, (path, way)
                restore()
                (line,) = told
                # A manifest's flipped bit shows in what it vouches for.
                assert (
                    f"{last} is damaged ({'' if (path.name, way) == ('manifest.json', 'flipped') else path.name}"
                    in line
                )
                assert "going on from step-00000003, the one before" in line
                assert ("it is missing" in line) == (way == "deleted")
        assert checkpoints.last_checkpoint(tmp_path / "run", pytest.fail) == last

    def test_every_bit_of_the_manifest(self, two_checkpoints, tmp_path):
        """It cannot vouch for itself, so each of its bits must matter."""
        shutil.copytree(two_checkpoints / "run", tmp_path / "run")
        _, last = checkpoints.step_folders(tmp_path / "run")
        path = last / disk.MANIFEST
        content = path.read_bytes()
        for place in range(0, 8 * len(content), 3):
            flipped = bytearray(content)
            flipped[place // 8] ^= 1 << place % 8
            path.write_bytes(flipped)
            # White space between the values says nothing.
            assert disk.damage(last) is not None or json.loads(flipped) == json.loads(content)
        path.write_bytes(content)
        for nothing in (b"[]", b"{}", b"null", b'{"model.safetensors": 3}', b"\xff"):
            path.write_bytes(nothing)
            assert disk.damage(last) is not None, nothing
        path.write_bytes(content)
        assert disk.damage(last) is None

    def test_goes_on_from_the_one_before(self, two_checkpoints, tmp_path, data, train):
        shutil.copytree(two_checkpoints / "run", tmp_path / "run")
        config = configure(tmp_path, data, "rnn", model={"dropout": 0.3})
        damaging(tmp_path / "run/checkpoints/step-00000006/optimizer.bin")["flipped"]()
        status, output = train(config, "--resume")
        assert status == 0, output
        assert "step-00000006 is damaged (optimizer.bin: its content is not what was written); going on from" in output
        assert_same_run(tmp_path, two_checkpoints)

    def test_none_is_whole(self, two_checkpoints, tmp_path, data, train):
        shutil.copytree(two_checkpoints / "run", tmp_path / "run")
        for folder in checkpoints.step_folders(tmp_path / "run"):
            (folder / "model.safetensors").unlink()
        status, output = train(configure(tmp_path, data, "rnn", model={"dropout": 0.3}), "--resume")
        assert status == 1
        (line,) = [line for line in output.splitlines() if line.startswith("error: ")]
        assert "no checkpoint to go on from is whole" in line
        assert "step-00000006 is damaged (model.safetensors: it is missing)" in line
        assert "step-00000003 is damaged" in line

    def test_best_is_saved_again_from_its_checkpoint(self, two_checkpoints, tmp_path, data, train):
        shutil.copytree(two_checkpoints / "run", tmp_path / "run")
        config = configure(tmp_path, data, "rnn", model={"dropout": 0.3})
        damaging(tmp_path / "run/checkpoints/best/model.safetensors")["flipped"]()
        status, output = train(config, "--resume")
        assert status == 0, output
        assert (
            "best is damaged (model.safetensors: its content is not what was written); saved again from the" in output
        )
        assert_same_run(tmp_path, two_checkpoints)

    def test_best_of_earlier_is_replaced_or_told_of(self, tmp_path, data, train):
        worse = {"learning_rate": 1.0, "warmup_steps": 0, "eval_steps": 2, "max_steps": 4}
        config = configure(tmp_path, data, "rnn", training=worse)
        assert train(config)[0] == 0
        progress = json.loads((tmp_path / "run/checkpoints/step-00000004/progress.json").read_text())
        assert progress["best_step"] == 2
        damaging(tmp_path / "run/checkpoints/best/model.safetensors")["cut"]()
        status, output = train(config, "--resume")
        assert status == 1
        assert "best is damaged (model.safetensors: " in output
        assert "no validation is left that could replace it" in output
        status, output = train(config, "--resume", "--max_steps", "6")
        assert status == 0, output
        assert "the next validation's takes its place" in output
        assert json.loads((tmp_path / "run/record.json").read_text())["progress"]["best_step"] == 6

    def test_what_is_kept(self, tmp_path, data, train):
        for limit, kept in ((1, ["step-00000007"]), (3, ["step-00000004", "step-00000006", "step-00000007"])):
            options = {"max_steps": 7, "eval_steps": 5, "save_steps": 2, "save_total_limit": limit}
            config = configure(tmp_path, data, "rnn", training=options)
            assert train(config, "--overwrite")[0] == 0
            found = [path.name for path in checkpoints.step_folders(tmp_path / "run")]
            assert found == (kept if limit == 1 else ["step-00000005", "step-00000006", "step-00000007"])
        for name in ("save_steps", "save_total_limit"):
            with pytest.raises(ValueError, match=f"training.{name} is 0; it must be 1 or more"):
                load_settings(config, [f"--{name}", "0"])

    def test_a_damaged_one_does_not_push_out_a_whole_one(self, tmp_path, monkeypatch):
        accelerator, progress = state(tmp_path)
        for step in (3, 6, 9):
            progress.step = step
            checkpoints.save_checkpoint(tmp_path, accelerator, progress)
        (tmp_path / "checkpoints/step-00000009/model.safetensors").unlink()
        progress.step = 7  # gone on from the sixth
        checkpoints.save_checkpoint(tmp_path, accelerator, progress)
        assert [path.name for path in checkpoints.step_folders(tmp_path)] == ["step-00000006", "step-00000007"]

    def test_is_on_the_disk_before_it_has_its_name(self, tmp_path, monkeypatch):
        """Else a power cut leaves a name without content."""
        accelerator, progress = state(tmp_path)
        events = []
        replace, fsync = os.replace, os.fsync
        monkeypatch.setattr(
            os, "replace", lambda *paths: events.append(("replace", *map(str, paths))) or replace(*paths)
        )
        monkeypatch.setattr(
            os, "fsync", lambda n: events.append(("sync", os.readlink(f"/proc/self/fd/{n}"))) or fsync(n)
        )
        checkpoints.save_checkpoint(tmp_path, accelerator, progress)
        place = tmp_path / "checkpoints" / "step-00000003"
        aside = place.with_name("saving-step-00000003")
        moment = events.index(("replace", str(aside), str(place)))
        names = {aside / path.name for path in place.iterdir()}
        assert {("sync", str(path)) for path in (*names, aside)} <= set(events[:moment])
        assert ("sync", str(tmp_path / "checkpoints")) in events[moment:]


def state(folder: Path, width: int = 100) -> tuple[Accelerator, Progress]:
    """Something to save."""
    accelerator = Accelerator(cpu=True)
    model = nn.Linear(width, width)
    optimizer = torch.optim.AdamW(model.parameters())
    model, optimizer = accelerator.prepare(model, optimizer)
    model(torch.ones(width)).sum().backward()
    optimizer.step()
    accelerator._optimizer_of_the_test = optimizer
    return accelerator, Progress(step=3)


class TestRecovery:
    """What a kill leaves behind, in every order of events."""

    def test_between_the_two_renamings(self, tmp_path):
        folder = tmp_path / "checkpoints"
        (folder / "old-best").mkdir(parents=True)
        (folder / "old-best" / "one").touch()
        (folder / "saving-best").mkdir()
        checkpoints.recover(tmp_path)
        assert [path.name for path in folder.rglob("*")] == ["best", "one"]

    def test_after_them(self, tmp_path):
        folder = tmp_path / "checkpoints"
        for name in ("old-best", "best", "deleting-step-00000003", "saving-step-00000006", "weights"):
            (folder / name).mkdir(parents=True)
            (folder / name / name).touch()
        (folder / "weights" / "saving").touch()
        (tmp_path / "saving-settings.yaml").touch()
        (tmp_path / "saving-tokenizer").mkdir()
        (tmp_path / "thesis.tex").touch()
        checkpoints.recover(tmp_path)
        found = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
        assert found == {"checkpoints/best/best", "checkpoints/weights/weights", "thesis.tex"}

    def test_at_the_resume(self, two_checkpoints, tmp_path, data, train):
        """Killed between the two renamings of the best model and of the last checkpoint, and while one was deleted."""
        shutil.copytree(two_checkpoints / "run", tmp_path / "run")
        folder = tmp_path / "run" / "checkpoints"
        for name in ("best", "step-00000006"):
            os.replace(folder / name, folder / f"old-{name}")
        (folder / "deleting-step-00000001").mkdir()
        (tmp_path / "run" / "saving-training_log.jsonl").touch()
        status, output = train(configure(tmp_path, data, "rnn", model={"dropout": 0.3}), "--resume")
        assert status == 0, output
        assert "step-00000006 after 6 updates" in output
        assert_same_run(tmp_path, two_checkpoints)

    def test_nothing_to_recover(self, tmp_path):
        checkpoints.recover(tmp_path / "nowhere")
        assert not (tmp_path / "nowhere").exists()

    @pytest.mark.parametrize(("family", "events"), [("rnn", (5, 31, 50, 62)), ("transformer", (18, 41, 53, 70))])
    def test_a_few_kills(self, tmp_path, data, train, family, events):
        """Killed while it renames, writes, deletes, syncs, and resumed: in the end as if nothing had been."""
        options = {"max_steps": 14, "eval_steps": 4, "save_steps": 3, "logging_steps": 3, "average_checkpoints": 2}
        changes = {"model": {**SMALL[family], "dropout": 0.3}, "training": options,
                   "data": {"streaming": family == "rnn", "shuffle_buffer": 25}}  # fmt: skip
        whole, killed = (configure(tmp_path / name, data, family, **changes) for name in ("whole", "killed"))
        status, output = train(whole)
        assert status == 0, output
        for event in events:
            status, output = train(killed, "--resume", "auto", event=event)
            assert status == -signal.SIGKILL, output
            assert "dies in" in output
        status, output = train(killed, "--resume", "auto")
        assert status == 0, output
        assert_same_run(tmp_path / "killed", tmp_path / "whole")

    def test_overwriting_killed(self, tmp_path, data, train):
        config = configure(tmp_path, data, "rnn")
        assert train(config)[0] == 0
        for event in (1, 4, 7):
            status, output = train(config, "--overwrite", event=event)
            assert status == -signal.SIGKILL, output  # not refused
        status, output = train(config, "--overwrite")
        assert status == 0, output


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


class TestFullDisk:
    """One sentence, nothing half-written, and what was there before is whole."""

    @pytest.fixture
    def small_disk(self, tmp_path):
        """A file system of two megabytes."""
        place = tmp_path / "disk"
        place.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(place)], capture_output=True, check=False
        )
        if done.returncode:
            pytest.skip(f"no small file system can be mounted here: {done.stderr.decode().strip()}")
        yield place
        subprocess.run(["umount", "-l", str(place)], check=True)

    def test_wherever_it_ends(self, small_disk):
        """The disk ends within each file in turn: torch, safetensors, json and Python each say it in their own way."""
        accelerator, progress = state(small_disk)
        checkpoints.save_checkpoint(small_disk, accelerator, progress)
        (first,) = checkpoints.step_folders(small_disk)
        files = sorted(first.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        assert {"model.safetensors", "optimizer.bin", "random_states_0.pkl", "progress.json"} < {f.name for f in files}
        pages = {path: -(-path.stat().st_size // 4096) for path in files}
        said = set()
        for number, path in enumerate(files):
            room = sum(pages[earlier] for earlier in files[:number]) + pages[path] // 2
            ballast = small_disk / "ballast"
            with ballast.open("wb") as file:
                file.write(bytes((os.statvfs(small_disk).f_bavail - room) * 4096))
            progress.step = 6
            with pytest.raises(OSError, match="the disk is full: step-00000006 was not saved in ") as caught:
                checkpoints.save_checkpoint(
                    small_disk, accelerator, progress, accelerator._optimizer_of_the_test
                )  # fmt: skip
            assert "about 0.1 MB are needed and 0." in str(caught.value)
            said.add(type(caught.value.__cause__).__name__)
            assert [entry.name for entry in (small_disk / "checkpoints").iterdir()] == ["step-00000003"]
            assert checkpoints.last_checkpoint(small_disk, pytest.fail) == first
            del caught  # torch's writer, and with it the deleted file, lives as long as its error
            gc.collect()
            ballast.unlink()
        assert {"RuntimeError", "OSError", "SafetensorError"} <= said
        checkpoints.save_checkpoint(small_disk, accelerator, progress)
        assert checkpoints.last_checkpoint(small_disk, pytest.fail).name == "step-00000006"

    def test_settings_and_tokenizer(self, small_disk):
        (small_disk / "settings.yaml").write_text("as before")
        (small_disk / "ballast").write_bytes(bytes((os.statvfs(small_disk).f_bavail - 1) * 4096))
        with pytest.raises(OSError, match=r"the disk is full: settings\.yaml was not saved"):
            disk.write_aside(small_disk / "settings.yaml", lambda aside: aside.write_bytes(bytes(9000)))
        assert (small_disk / "settings.yaml").read_text() == "as before"
        assert sorted(path.name for path in small_disk.iterdir()) == ["ballast", "settings.yaml"]

    def test_other_errors_are_not_hidden(self, tmp_path):
        for error in (RuntimeError("shape mismatch"), PermissionError(13, "Permission denied")):
            aside = disk.explained_when_full(tmp_path / "saving-x")
            with pytest.raises(type(error), match=r"shape mismatch|Permission denied"), aside:
                raise error
        assert not disk.is_full(None)

    def test_the_command(self, tmp_path, data, train):
        """With a limit for files in the place of a full disk, which needs no rights."""
        options = {"max_steps": 6, "eval_steps": 3, "logging_steps": 1}
        config = configure(tmp_path, data, "rnn", model={"hidden_size": 40}, training=options)
        status, output = train(config, limit=60_000)
        assert status == 1, output
        (line,) = [line for line in output.splitlines() if line.startswith("error: ")]
        assert "the disk is full: step-00000006 was not saved in " in line
        assert "MB are needed and" in line
        assert "Traceback" not in output
        assert checkpoints.last_checkpoint(tmp_path / "run", pytest.fail).name == "step-00000003"
        assert not list((tmp_path / "run" / "checkpoints").glob("saving-*"))
        status, output = train(config, "--resume")
        assert status == 0, output


class TestStopping:
    """The update is finished, a checkpoint saved, and the status is what a scheduler understands."""

    def test_the_real_command(self, tmp_path, data):
        config = configure(tmp_path, data, "rnn", training={"max_steps": 100_000, "eval_steps": 1000})
        process = subprocess.Popen(
            [sys.executable, "train.py", config], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        wait_for_lines(tmp_path, process, 5)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 143, output
        step = Progress(**json.loads((last(tmp_path) / "progress.json").read_text())).step
        assert "SIGTERM: stopping after this update" in output
        assert (
            f"stopped by SIGTERM after {step:,} updates; go on with: seqloom train {tmp_path}/run/settings.yaml"
            in output
        )
        assert without_clock(tmp_path)[-1]["step"] == step
        assert not (tmp_path / "run" / "model.safetensors").exists()

    @pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process does not learn that its launcher ended")
    def test_launcher_that_passes_nothing_on(self, tmp_path, data):
        """The scheduler ends `accelerate launch`; the training under it saves and ends, and is no orphan."""
        config = configure(tmp_path, data, "rnn", training={"max_steps": 100_000, "eval_steps": 1000})
        launch = [sys.executable, "-m", "accelerate.commands.launch", "train.py", config]
        with (tmp_path / "output").open("w") as output:
            process = subprocess.Popen(launch, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
        wait_for_lines(tmp_path, process, 5)
        process.send_signal(signal.SIGUSR1)
        assert process.wait(60) == -signal.SIGUSR1
        deadline = time.monotonic() + 60
        while "stopped by SIGTERM after" not in (tmp_path / "output").read_text():
            assert time.monotonic() < deadline, (tmp_path / "output").read_text()
            time.sleep(0.1)
        step = Progress(**json.loads((last(tmp_path) / "progress.json").read_text())).step
        assert without_clock(tmp_path)[-1]["step"] == step

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
        changes = {"training": {"max_steps": 201, "eval_steps": 100, "logging_steps": 3, "save_total_limit": 1}}
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "train.py"]
        options = {"cwd": ROOT, "env": {**os.environ, "OMP_NUM_THREADS": "1"}, "text": True}
        whole, stopped = (configure(tmp_path / name, data, "rnn", **changes) for name in ("whole", "stopped"))
        done = subprocess.run([*launch, whole], capture_output=True, check=False, timeout=300, **options)
        assert done.returncode == 0, done.stderr
        process = subprocess.Popen([*launch, stopped], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)
        wait_for_lines(tmp_path / "stopped", process, 2)
        process.terminate()
        output, _ = process.communicate(timeout=120)
        assert process.returncode not in (0, None)
        assert "stopped by SIGTERM after" in output
        checkpoint = last(tmp_path / "stopped")
        assert sorted(path.name for path in checkpoint.glob("random_states_*")) == [
            "random_states_0.pkl", "random_states_1.pkl",
        ]  # fmt: skip
        done = subprocess.run([*launch, stopped, "--resume"], capture_output=True, check=False, timeout=300, **options)
        assert done.returncode == 0, done.stderr
        assert "resuming" in done.stdout
        assert_same_run(tmp_path / "stopped", tmp_path / "whole")


def last(folder: Path) -> Path:
    return checkpoints.last_checkpoint(folder / "run", pytest.fail)


def wait_for_lines(folder: Path, process: subprocess.Popen, lines: int) -> None:
    """Until the log has so many, or the process is gone."""
    path = folder / "run" / "training_log.jsonl"
    while process.poll() is None and not (path.exists() and len(path.read_text().splitlines()) >= lines):
        time.sleep(0.02)


@pytest.mark.faults
def test_a_hundred_kills(tmp_path, data, train, capsys):
    """SIGKILL at random moments, half of them in the middle of a write, a renaming or a deletion, until all is over."""
    started, dice = time.perf_counter(), random.Random(0)
    tried = survived = losses = tokens = runs = 0
    places = {}
    while tried < 100:
        family = ("rnn", "transformer")[runs % 2]
        options = {"max_steps": 120, "eval_steps": 20, "save_steps": 3, "logging_steps": 1 + runs % 4, "seed": runs,
                   "average_checkpoints": 3 * (runs // 2 % 2), "save_total_limit": 1 + runs % 3}  # fmt: skip
        changes = {"model": {**SMALL[family], "dropout": 0.3}, "training": options,
                   "data": {"streaming": runs % 3 == 1, "shuffle_buffer": 25}}  # fmt: skip
        whole, killed = (tmp_path / f"{name}-{runs}" for name in ("whole", "killed"))
        status, output = train(configure(whole, data, family, **changes))
        assert status == 0, output
        config, status, kills = configure(killed, data, family, **changes), None, 0
        begun = time.perf_counter()
        while status != 0:
            if kills == 25:
                order = {}
            elif dice.random() < 0.6:
                order = {"event": dice.randint(1, 150)}
            else:
                order = {"after": dice.uniform(0.05, 3)}
            status, output = train(config, "--resume", "auto", **order)
            assert status in (0, -signal.SIGKILL), output
            if status:
                kills += 1
                place = output.rsplit("dies in ", 1)[1].split("(")[0] if "event" in order else "at a random moment"
                places[place] = places.get(place, 0) + 1
        losses += assert_same_run(killed, whole)
        tokens += json.loads((killed / "run" / "record.json").read_text())["progress"]["target_tokens"]
        tried, survived, runs = tried + kills, survived + kills, runs + 1
        with capsys.disabled():
            print(f"\n{family}, run {runs}: {kills} kills, {time.perf_counter() - begun:.0f} s", flush=True)
    with capsys.disabled():
        print(
            f"kills survived {survived} of {tried} in {runs} runs; {losses} losses and {tokens} target tokens equal to "
            f"those of unbroken runs; {time.perf_counter() - started:.0f} s\n{places}"
        )
