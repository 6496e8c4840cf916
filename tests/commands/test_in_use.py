"""A folder in which another process works, and a disk that is full, under every command that writes."""

import shutil

import pytest
from accelerate.state import AcceleratorState
from helpers.runs import configure, contents, write_pairs
from helpers.scored import scored_folder

from seqloom import run_folder
from seqloom.__main__ import main
from seqloom.support.locks import Lock

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("fresh_accelerator")]


@pytest.fixture
def config(tmp_path):
    pairs = {name: write_pairs(tmp_path, name, 40) for name in ("few", "validation", "test")}
    return configure(tmp_path / "config", pairs, "rnn")


def said(capsys, *words: object) -> str:
    """The one sentence that a command ends with."""
    AcceleratorState._reset_state(reset_partial_state=True)
    capsys.readouterr()
    assert main([*map(str, words)]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line


class TestInUse:
    """By whoever holds the folder's lock; nothing in it changes."""

    @pytest.mark.parametrize("command", ["train", "resume", "overwrite", "evaluate", "against", "compare", "push"])
    def test_command(self, tmp_path, config, capsys, command):
        model, place = scored_folder(tmp_path), tmp_path / "place"
        other = shutil.copytree(model, tmp_path / "other")
        if command in ("resume", "overwrite", "push"):
            assert main(["train", config, "--output_dir", str(place)]) == 0
        place.mkdir(exist_ok=True)
        words = {
            "train": ("train", config, "--output_dir", place),
            "resume": ("train", config, "--output_dir", place, "--resume"),
            "overwrite": ("train", config, "--output_dir", place, "--overwrite"),
            "evaluate": ("evaluate", model, "--output_dir", place),
            "against": ("evaluate", model, "--against", other, "--output_dir", place),
            "compare": ("compare", model, other, "--output", place, "--measures", "weight"),
            "push": ("push", place, "me/model"),
        }[command]
        with Lock(place / run_folder.LOCK) as lock:
            lock.acquire()
            before = contents(place)
            assert f"{place} is in use: process " in said(capsys, *words)
            assert contents(place) == before


class TestFullDisk:
    """One sentence; what was there is as it was. (Pictures and pages: test_full_disk.py.)"""

    @pytest.mark.parametrize("command", ["train", "evaluate", "against", "compare"])
    def test_command(self, tmp_path, small_disk, fill, config, capsys, command):
        model = scored_folder(tmp_path)
        other = shutil.copytree(model, tmp_path / "other")
        place = small_disk / "place"
        words = {
            "train": ("train", config, "--output_dir", place),
            "evaluate": ("evaluate", model, "--output_dir", place),
            "against": ("evaluate", model, "--against", other, "--output_dir", place),
            "compare": ("compare", model, other, "--output", place, "--measures", "weight"),
        }[command]
        before = fill()
        line = said(capsys, *words)
        assert "the disk is full" in line or "No space left on device" in line
        assert contents(small_disk) == before
        (small_disk / "ballast").unlink()
        AcceleratorState._reset_state(reset_partial_state=True)
        assert main([*map(str, words)]) == 0  # nothing that was left stands in the way
