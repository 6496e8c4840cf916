"""What scoring writes is whole or not there, and never in the place of what it did not write."""

import contextlib
import json
import os
from pathlib import Path

import pytest
from helpers.scored import keep, read

from seqloom.commands.score import main
from seqloom.scoring import metrics
from seqloom.scoring.predictions import read_predictions


def fill(disk: Path) -> None:
    """Leaves no room at all."""
    with (disk / "ballast").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "ballast"}


@pytest.fixture
def fails(monkeypatch):
    """The metrics can no longer be computed."""

    def compute(*_, **__):
        raise RuntimeError("in the middle of scoring")

    monkeypatch.setattr(metrics, "compute", compute)


class TestPredictionsBeforeScores:
    def test_the_first_time(self, folder, fails):
        with pytest.raises(RuntimeError, match="in the middle"):
            main([str(folder)])
        place = folder / "evaluation" / "test"
        assert len(read_predictions(place / "predictions.jsonl").hypotheses) == 11
        assert [path.name for path in place.iterdir()] == ["predictions.jsonl"]

    def test_then_it_can_be_scored(self, folder, tmp_path, monkeypatch):
        out = tmp_path / "out"
        with monkeypatch.context() as patch:
            patch.setattr(metrics, "compute", lambda *_, **__: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                main([str(folder), "--output_dir", str(out)])
        assert main([str(folder), "--output_dir", str(out)]) == 0  # its own file is replaced
        assert len(read(out)[1]) == 11
        assert sorted(path.name for path in out.iterdir()) == [".seqloom.json", "predictions.jsonl", "scores.json"]

    def test_an_earlier_pair_stays_one(self, folder, monkeypatch):
        """Until there is another: scores are never beside predictions that they are not of."""
        assert main([str(folder)]) == 0
        place = folder / "evaluation" / "test"
        before = contents(place)
        with monkeypatch.context() as patch:
            patch.setattr(metrics, "compute", lambda *_, **__: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                main([str(folder), "--overwrite", "--max_new_tokens", "3"])
        new = place / "new-predictions.jsonl"
        assert len(read_predictions(new).hypotheses) == 11
        assert {name: data for name, data in contents(place).items() if name != str(new)} == before
        assert main([str(folder), "--overwrite", "--max_new_tokens", "3"]) == 0
        assert sorted(path.name for path in place.iterdir()) == ["predictions.jsonl", "scores.json"]
        assert read(place)[0]["generation"]["max_new_tokens"] == 3
        assert contents(place) != before

    @pytest.mark.parametrize("number", [1, 2])
    def test_killed_while_it_replaces_them(self, folder, monkeypatch, number):
        assert main([str(folder)]) == 0
        place, calls, replace = folder / "evaluation" / "test", [], os.replace

        def dies(source, target):
            if Path(target).name in ("predictions.jsonl", "scores.json"):
                calls.append(target)
                if len(calls) == number:
                    raise KeyboardInterrupt
            replace(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", dies)
            assert main([str(folder), "--overwrite", "--max_new_tokens", "3"]) == 130
        assert not (place / "scores.json").exists()
        assert len(read_predictions(place / "predictions.jsonl").hypotheses) == 11
        assert main([str(folder), "--overwrite"]) == 0


class TestNotItsOwn:
    def test_somebodys_files(self, refused, folder, tmp_path):
        for name in ("predictions.jsonl", "scores.json"):
            out = tmp_path / name.partition(".")[0]
            out.mkdir()
            (out / name).write_text('{"mine": "the only copy"}')
            for words in ([], ["--overwrite"]):
                refused(f"{name} is there already, and no eval", str(folder), "--output_dir", str(out), *words)
            assert (out / name).read_text() == '{"mine": "the only copy"}'

    def test_what_is_read(self, refused, folder, tmp_path):
        path = keep(tmp_path / "out" / "predictions.jsonl", ["a", "b"])
        refused(
            "is read, and would be written over", str(folder), "--test_files", str(path), "--target", "reference",
            "--output_dir", str(path.parent), "--overwrite",
        )  # fmt: skip

    def test_of_an_earlier_version(self, folder, tmp_path):
        """Which marked nothing."""
        out = tmp_path / "out"
        assert main([str(folder), "--output_dir", str(out)]) == 0
        (out / ".seqloom.json").unlink()
        assert main([str(folder), "--output_dir", str(out), "--overwrite"]) == 0

    def test_results_of_a_test(self, files):
        good, bad = map(str, files)
        assert main([good, "--against", bad]) == 0
        (path,) = files[0].parent.glob("against-*.json")
        path.write_text('{"mine": 1}')
        assert main([good, "--against", bad, "--overwrite"]) == 0
        assert path.read_text() == '{"mine": 1}'
        assert len(list(files[0].parent.glob("against-*.json"))) == 2


@pytest.mark.slow
class TestFullDisk:
    """What was there stays; nothing half is there; one line says so."""

    def test_evaluate(self, folder, small_disk, capsys):
        words = [str(folder), "--output_dir", str(small_disk / "out")]
        assert main(words) == 0
        before = contents(small_disk)
        fill(small_disk)
        capsys.readouterr()
        assert main([*words, "--overwrite", "--max_new_tokens", "3"]) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: the disk is full: new-predictions.jsonl was not saved in ")
        assert "make room, and give the command again." in error
        assert contents(small_disk) == before

    def test_against(self, files, small_disk, capsys):
        words = [str(files[0]), "--against", str(files[1]), "--output_dir", str(small_disk / "out")]
        assert main(words) == 0
        before = contents(small_disk)
        fill(small_disk)
        assert main([*words, "--metrics", "cer", "--overwrite"]) == 1
        assert "the disk is full: against-" in capsys.readouterr().err
        assert contents(small_disk) == before
        assert all(json.loads(data) for data in before.values())
