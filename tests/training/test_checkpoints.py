"""Checkpoints that are damaged, half renamed or on a disk that is full: nothing is lost."""

import gc
import json
import os
import random
import shutil
import signal
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from helpers.runs import (
    SMALL,
    configure,
    contents,
    run,
)
from helpers.unbroken import assert_same_run
from torch import nn

from seqloom.settings.reading import load_settings
from seqloom.support import disk
from seqloom.training import checkpoints
from seqloom.training.state import Progress

pytestmark = pytest.mark.usefixtures("fresh_accelerator")


ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def two_checkpoints(data, tmp_path_factory):
    """A run of six updates with checkpoints of its third and its sixth."""
    folder = tmp_path_factory.mktemp("two")
    run(folder, data, "rnn", model={"dropout": 0.3})
    AcceleratorState._reset_state(reset_partial_state=True)
    return folder


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

    @pytest.mark.slow
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

    @pytest.mark.slow
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
        for name in json.loads(content):  # what it says nothing of may be anything
            path.write_text(json.dumps({key: entry for key, entry in json.loads(content).items() if key != name}))
            assert disk.damage(last) == f"{name}: manifest.json has no word of it"
        path.write_bytes(content)
        (last / ".DS_Store").write_bytes(b"")
        assert disk.damage(last) is None

    @pytest.mark.slow
    def test_goes_on_from_the_one_before(self, two_checkpoints, tmp_path, data, train):
        shutil.copytree(two_checkpoints / "run", tmp_path / "run")
        config = configure(tmp_path, data, "rnn", model={"dropout": 0.3})
        damaging(tmp_path / "run/checkpoints/step-00000006/optimizer.bin")["flipped"]()
        status, output = train(config, "--resume")
        assert status == 0, output
        assert "step-00000006 is damaged (optimizer.bin: its content is not what was written); going on from" in output
        assert_same_run(tmp_path, two_checkpoints)

    @pytest.mark.slow
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

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("harmed", "said"),
        [
            (["checkpoints/step-00000006/optimizer.bin"], "going on from step-00000003, the one before"),
            (["checkpoints/step-00000003/schedule.pt", "checkpoints/step-00000006/model.safetensors"],
             "no checkpoint to go on from is whole"),
            (["checkpoints/best/config.json"], "saved again from the checkpoint"),
            (["tokenizer.json"], "a folder without a tokenizer that can be read"),
            ([".seqloom.json"], "is no marker of seqloom's"),
            ([], "resuming"),
        ],
        ids=["last", "both", "best", "tokenizer", "marker", "none"],
    )  # fmt: skip
    def test_a_dry_run_finds_it_too(self, two_checkpoints, tmp_path, data, train, harmed, said):
        """In the same words as the run itself, and it writes nothing."""
        shutil.copytree(two_checkpoints / "run", tmp_path / "run")
        config = configure(tmp_path, data, "rnn", model={"dropout": 0.3}, training={"max_steps": 8})
        for name in harmed:
            damaging(tmp_path / "run" / name)["cut"]()
        before = contents(tmp_path)
        told = []
        for words in (["--dry_run"], []):
            status, output = train(config, "--resume", *words)
            lines = [line for line in output.splitlines() if said in line]
            assert len(lines) == 1, output
            told.append((status, lines))
            assert words == [] or contents(tmp_path) == before
        assert told[0] == told[1]

    @pytest.mark.slow
    def test_a_dry_run_of_one_that_is_over(self, tmp_path, data, train):
        worse = {"learning_rate": 1.0, "eval_steps": 2, "max_steps": 4}
        config = configure(tmp_path, data, "rnn", model={"init_range": 0.1}, training=worse)
        assert train(config)[0] == 0
        status, output = train(config, "--resume", "--dry_run")
        assert status == 0
        assert "this run is over already" in output
        assert "at most" not in output
        damaging(tmp_path / "run/checkpoints/best/model.safetensors")["cut"]()
        (dry, first), (real, second) = train(config, "--resume", "--dry_run"), train(config, "--resume")
        assert dry == real == 1
        assert "no validation is left that could replace it" in first
        assert first.splitlines()[-1] == second.splitlines()[-1]

    @pytest.mark.slow
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

    @pytest.mark.slow
    def test_best_of_earlier_is_replaced_or_told_of(self, tmp_path, data, train):
        worse = {"learning_rate": 1.0, "warmup_steps": 0, "eval_steps": 2, "max_steps": 4}
        config = configure(tmp_path, data, "rnn", model={"init_range": 0.1}, training=worse)
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

    @pytest.mark.slow
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

    @pytest.mark.slow
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

    @pytest.mark.slow
    @pytest.mark.parametrize(("family", "events"), [("rnn", (5, 31, 50, 62)), ("transformer", (18, 41, 53, 70))])
    def test_a_few_kills(self, tmp_path, data, train, family, events):
        """Killed while it renames, writes, deletes, syncs, and resumed: in the end as if nothing had been."""
        options = {"max_steps": 14, "eval_steps": 4, "save_steps": 3, "logging_steps": 3, "average_checkpoints": 2}
        changes = {"model": {**SMALL[family], "dropout": 0.3}, "training": options,
                   "data": {"streaming": True, "shuffle_buffer": 25} if family == "rnn" else {}}  # fmt: skip
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

    @pytest.mark.slow
    def test_overwriting_killed(self, tmp_path, data, train):
        config = configure(tmp_path, data, "rnn")
        assert train(config)[0] == 0
        for event in (1, 4, 7):
            status, output = train(config, "--overwrite", event=event)
            assert status == -signal.SIGKILL, output  # not refused
        status, output = train(config, "--overwrite")
        assert status == 0, output


@pytest.mark.slow
class TestFullDisk:
    """One sentence, nothing half-written, and what was there before is whole."""

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


@pytest.mark.parametrize("content", [b"\xff", b"[" * 100_000, b"[]", b'{"stride": 1}'])
def test_a_progress_that_is_none(tmp_path, content):
    """Whatever it holds, the file is named."""
    (tmp_path / checkpoints.STATE_FILE).write_bytes(content)
    for read in (checkpoints.read_progress, checkpoints.step_of):
        with pytest.raises(ValueError, match=r"progress\.json"):
            read(tmp_path)
