"""Pictures and pages on a disk that is full: those that were there stay, all of them."""

import json
from pathlib import Path

import pytest
from helpers.runs import contents
from helpers.scored import scored_folder

from seqloom.__main__ import main

pytestmark = pytest.mark.slow


def test_plot(tmp_path, small_disk, fill, capsys):
    for name, scale in (("a", 1), ("b", 2)):
        (tmp_path / name).mkdir()
        lines = [{"step": step, "loss": scale / step} for step in range(1, 5)]
        (tmp_path / name / "training_log.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    picture = str(small_disk / "curves.png")
    assert main(["plot", str(tmp_path / "a"), "--output", picture]) == 0
    before = fill()
    assert main(["plot", str(tmp_path / "b"), "--output", picture, "--overwrite"]) == 1
    assert "the disk is full: curves.png was not saved" in capsys.readouterr().err
    assert contents(small_disk) == before


def test_attend(tmp_path, small_disk, fill, capsys):
    """Two files: both or neither."""
    words = ["attend", str(scored_folder(tmp_path)), "--output", f"{small_disk}/map.png", "--html"]
    words += [f"{small_disk}/map.html"]
    assert main([*words, "abcd efgh"]) == 0
    before = fill()
    assert main([*words, "ab", "--overwrite"]) == 1
    assert "the disk is full: map.png was not saved" in capsys.readouterr().err
    assert contents(small_disk) == before
    assert {Path(name).name for name in before} == {"map.png", "map.html"}


def test_a_link_stays_one(tmp_path):
    """And what it names is replaced."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "training_log.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    (tmp_path / "real.png").write_bytes(b"as before")
    (tmp_path / "curves.png").symlink_to(tmp_path / "real.png")
    assert main(["plot", str(tmp_path / "a"), "--output", str(tmp_path / "curves.png"), "--overwrite"]) == 0
    assert (tmp_path / "curves.png").is_symlink()
    assert (tmp_path / "real.png").read_bytes()[:4] == b"\x89PNG"
