"""A comparison's folder: cleared of what it wrote and of nothing else, one comparison at a time."""

import json
import os
from pathlib import Path

import pytest

from seqloom import run_folder
from seqloom.comparison.folder import REQUEST, clear, make_folder
from seqloom.comparison.report import write
from seqloom.support.locks import FolderInUse, Lock

ASKED = {"configs": ["a.yaml"], "models": [], "split": "test"}
SETTINGS = "output_dir: x\nmodel: {}\ndata: {}\ntokenizer: {}\ntraining: {}\n"


def make(folder: Path, inputs=(), *, resume: bool = False, overwrite: bool = False) -> None:
    with Lock(folder / run_folder.LOCK) as lock:
        make_folder(folder, ASKED, lock, inputs, resume=resume, overwrite=overwrite)


@pytest.fixture
def compared(tmp_path):
    """As a comparison leaves it."""
    folder = tmp_path / "report"
    make(folder)
    for name in ("models/a-seed-1/checkpoints/best", "measures", "figures", "tables", "predictions/b", "recall/rnn",
                 "memory_tasks", "generalisation/a-length-1"):  # fmt: skip
        (folder / name).mkdir(parents=True)
    for run in ("models/a-seed-1", "recall/rnn", "generalisation/a-length-1"):
        run_folder.mark(folder / run, run_folder.RUN)
        (folder / run / "settings.yaml").write_text(SETTINGS)
        (folder / f"{run}.yaml").write_text(SETTINGS)
        (folder / f"{run}.log").write_text("update 1")
    run_folder.mark(folder / "predictions" / "b", run_folder.SCORED)
    for name in ("report.json", "report.md", "report.html", "measures/quality.json", "figures/quality.png",
                 "predictions/b/predictions.jsonl", "predictions/b/scores.json", "recall/train.csv", "tables/words.csv",
                 "memory_tasks/copy-5-rnn-clipped.safetensors"):  # fmt: skip
        (folder / name).write_text("{}")
    return folder


class TestClearing:
    def test_all_that_it_writes(self, compared):
        assert clear(compared) == []
        assert [path.name for path in compared.iterdir()] == [".seqloom.json"]

    def test_nothing_else(self, compared, capsys):
        others = [
            "thesis.tex",
            "models/a-seed-1/notes",
            "models/notes.yaml",
            "figures/notes",
            "tables/mine.csv",
            "recall/mine.csv",
        ]
        for name in others:
            (compared / name).write_text("the only copy")
        make(compared, overwrite=True)
        found = {path.relative_to(compared).as_posix() for path in compared.rglob("*") if path.is_file()}
        assert found == {*others, ".seqloom.json", REQUEST, "models/a-seed-1/.seqloom.json"}
        assert "left in" in capsys.readouterr().out

    def test_of_an_earlier_version(self, compared, tmp_path):
        (compared / ".seqloom.json").unlink()
        make(compared, overwrite=True)
        (compared / ".seqloom.json").unlink()
        (compared / "thesis.tex").write_text("the only copy")
        with pytest.raises(ValueError, match="holds no comparison"):
            make(compared, overwrite=True)
        assert (compared / "thesis.tex").exists()

    def test_a_link_stays_one(self, compared, tmp_path):
        compared.rename(tmp_path / "elsewhere")
        compared.symlink_to(tmp_path / "elsewhere")
        make(compared, overwrite=True)
        assert compared.is_symlink()
        assert (tmp_path / "elsewhere" / REQUEST).exists()
        assert not (tmp_path / "elsewhere" / "models").exists()

    def test_what_is_compared(self, compared):
        """Nothing is deleted where one of the models lies in the folder."""
        before = sorted(compared.rglob("*"))
        for name in ("models/a-seed-1", "models/a-seed-1.yaml"):
            with pytest.raises(ValueError, match="is read, and it lies in"):
                make(compared, [str(compared / name), "somebody/something"], overwrite=True)
        assert sorted(compared.rglob("*")) == before


class TestOneAtATime:
    def test_the_second_is_told(self, compared):
        with Lock(compared / run_folder.LOCK) as lock:
            lock.acquire()
            for words in ({"resume": True}, {"overwrite": True}, {}):
                with pytest.raises(FolderInUse):
                    make(compared, **words)
        make(compared, resume=True)

    def test_while_a_training_goes_on(self, compared):
        with Lock(compared / "models" / "a-seed-1" / run_folder.LOCK) as lock:
            lock.acquire()
            before = sorted(compared.rglob("*"))
            with pytest.raises(FolderInUse):
                clear(compared)
            assert sorted(compared.rglob("*")) == before


def test_a_full_disk_leaves_the_report(small_disk):
    environment = {"hardware": "x", "python": "3", "seqloom": "0"}
    record = {"candidates": [], "measures": {}, "seconds": {"training": 1.0}, "command": "seqloom compare",
              "commit": None, "date": "2020-01-01", "environment": environment}  # fmt: skip
    write(small_disk, record)
    before = {path.name: path.read_bytes() for path in small_disk.iterdir() if path.is_file()}
    assert record.items() <= json.loads(before["report.json"]).items()
    # Room for two of the three.
    room = sum(-(-len(before[f"report.{suffix}"]) // 4096) for suffix in ("json", "md"))
    with (small_disk / "ballast").open("wb", buffering=0) as file:
        file.write(bytes((os.statvfs(small_disk).f_bavail - room) * 4096))
    with pytest.raises(OSError, match=r"the disk is full: report\.html was not saved"):
        write(small_disk, record | {"date": "2021-01-01"})
    assert {p.name: p.read_bytes() for p in small_disk.iterdir() if p.is_file() and p.name != "ballast"} == before
