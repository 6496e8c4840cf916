"""A folder in which another process works, and a disk that is full, under every command that writes."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from accelerate.state import AcceleratorState
from helpers.patience import HANGS
from helpers.runs import configure, contents, write_pairs
from helpers.scored import scored_folder

from seqloom import run_folder
from seqloom.__main__ import main
from seqloom.support.locks import Lock, alone_with

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
            "compare": ("compare", model, other, "--output", place, "--measures", "quality"),
            "push": ("push", place, "me/model"),
        }[command]
        with Lock(place / run_folder.LOCK) as lock:
            lock.acquire()
            before = contents(place)
            assert f"{place} is in use: process " in said(capsys, *words)
            assert contents(place) == before


def drawing(tmp_path, name: str) -> dict[str, list[str]]:
    """Commands that make one picture each, of this name for both."""
    model = scored_folder(tmp_path)
    (tmp_path / "a").mkdir()
    lines = [{"step": step, "loss": 1 / step} for step in range(1, 5)]
    (tmp_path / "a" / run_folder.LOG).write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    place = tmp_path / "place"
    place.mkdir()
    return {
        "plot": ["plot", str(tmp_path / "a"), "--output", str(place / name)],
        "attend": ["attend", str(model), "abcd", "--output", str(place / name)],
    }


def at_once(*commands: list[str]) -> list[tuple[int, str]]:
    """Status and words of processes that are started together."""
    begun = [
        subprocess.Popen([sys.executable, "-m", "seqloom", *words], text=True, stdout=subprocess.PIPE,
                         stderr=subprocess.STDOUT, env={**os.environ, "OMP_NUM_THREADS": "1"})
        for words in commands
    ]  # fmt: skip
    said = [process.communicate(timeout=HANGS)[0] for process in begun]
    return [(process.returncode, output) for process, output in zip(begun, said, strict=True)]


class TestPictures:
    """One file, made by one process at a time; a folder may have several."""

    @pytest.mark.parametrize("command", ["plot", "attend"])
    def test_in_use(self, tmp_path, capsys, command):
        words, picture = drawing(tmp_path, "x.png")[command], tmp_path / "place" / "x.png"
        with alone_with([picture]):
            before = contents(tmp_path)
            assert f"{picture} is in use: process " in said(capsys, *words)
            assert contents(tmp_path) == before
        assert main(words) == 0
        with alone_with([picture]):
            assert f"{picture} is in use" in said(capsys, *words, "--overwrite")
        assert [path.name for path in picture.parent.iterdir()] == ["x.png"]

    def test_in_one_folder_at_once(self, tmp_path):
        words = {"plot": drawing(tmp_path, "curves.png")["plot"]}
        words["attend"] = ["attend", str(tmp_path / "model"), "abcd", "--output", str(tmp_path / "place" / "map.png")]
        words["attend"] += ["--html", str(tmp_path / "place" / "map.html")]
        for status, output in at_once(*words.values()):
            assert status == 0, output
        assert sorted(path.name for path in (tmp_path / "place").iterdir()) == ["curves.png", "map.html", "map.png"]
        for name in ("curves.png", "map.png"):
            assert (tmp_path / "place" / name).read_bytes()[-12:-4] == b"\0\0\0\0IEND"

    def test_one_picture_at_once(self, tmp_path):
        """Whoever comes second is told, however the two fall together."""
        words, picture = drawing(tmp_path, "x.png"), tmp_path / "place" / "x.png"
        (first, one), (second, other) = at_once(words["plot"], words["plot"])
        assert sorted((first, second)) == [0, 1], one + other
        told = one if first else other
        assert f"{picture} is in use" in told or f"{picture} is there already" in told
        assert [path.name for path in picture.parent.iterdir()] == ["x.png"]
        assert picture.read_bytes()[-12:-4] == b"\0\0\0\0IEND"


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
            "compare": ("compare", model, other, "--output", place, "--measures", "quality"),
        }[command]
        before = fill()
        line = said(capsys, *words)
        assert "the disk is full" in line or "No space left on device" in line
        assert contents(small_disk) == before
        (small_disk / "ballast").unlink()
        AcceleratorState._reset_state(reset_partial_state=True)
        assert main([*map(str, words)]) == 0  # nothing that was left stands in the way
