"""A model folder as training leaves it, and refusals before anything is decoded."""

from pathlib import Path

import datasets
import pytest
from helpers.scored import keep, make_model, make_tokenizer, scored_folder, sentences

from seqloom.commands.score import main
from seqloom.decoding import loading
from seqloom.scoring import against as against_module
from seqloom.scoring import score as score_module


@pytest.fixture(autouse=True)
def _quiet():
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


@pytest.fixture
def folder(tmp_path) -> Path:
    return scored_folder(tmp_path)


@pytest.fixture
def refused(capsys, monkeypatch, tmp_path):
    def never(*_, **__):
        raise AssertionError("decoded")

    def _refused(message: str, *words: str) -> None:
        before = sorted(tmp_path.rglob("*"))
        with monkeypatch.context() as patch:
            patch.setattr(score_module, "translate", never)
            assert main(list(words)) == 1
        captured = capsys.readouterr()
        errors = [line for line in captured.err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1, captured.err
        assert message in errors[0]
        assert "Traceback" not in captured.err + captured.out
        assert sorted(tmp_path.rglob("*")) == before

    return _refused


@pytest.fixture
def files(tmp_path) -> tuple[Path, Path]:
    """Predictions of which the first are nearly all right and the second half wrong."""
    right = [source[::-1].upper() for source in sentences(40)]
    return (
        keep(tmp_path / "a" / "good.jsonl", [*right[:-1], "X"]),
        keep(tmp_path / "b" / "bad.jsonl", [text if number % 2 else text + "X" for number, text in enumerate(right)]),
    )


@pytest.fixture
def other(folder, tmp_path) -> Path:
    """Another model, of which there is no data and no metric known."""
    tokenizer, place = make_tokenizer(), tmp_path / "other"
    make_model(tokenizer, d_model=24).save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


@pytest.fixture
def decoded(monkeypatch) -> list[str]:
    """Grows by every model that is loaded to be decoded."""
    names, load = [], loading.load_model

    def _load(name, *args):
        names.append(Path(name).name)
        return load(name, *args)

    for module in (score_module, against_module):
        monkeypatch.setattr(module, "open_model", _load)
    return names
