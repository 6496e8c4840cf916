"""Recipes by name: from the installed package, whatever lies in the folder that one is in."""

from pathlib import Path

import pytest

from seqloom.settings import recipes
from seqloom.settings.reading import load_settings

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_by_name():
    assert {path.stem for path in (ROOT / "configs").glob("*.yaml")} == set(recipes.names())
    for name in recipes.names():
        assert load_settings(name) == load_settings(ROOT / "configs" / f"{name}.yaml")
        assert recipes.recipe_text(name) == (ROOT / "configs" / f"{name}.yaml").read_text(encoding="utf-8")
    assert load_settings("scan-rnn", ["--hidden_size", "64"]).model["hidden_size"] == 64


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("scan-rn", "there is no configuration file scan-rn; did you mean the recipe scan-rnn?"),
        (
            "scan-rnn.yaml",
            "the recipe that comes with seqloom is called by its name alone, scan-rnn",
        ),
        ("configs/scan-rnn.yaml", "is called by its name alone, scan-rnn"),
        ("zzz", r"the recipes that come with seqloom are bible-en-ko, .* \(seqloom recipes says more"),
    ],
)
def test_no_such_recipe(word, message):
    with pytest.raises(ValueError, match=message):
        load_settings(word)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("number.yaml", r"there is no configuration file number\.yaml; did you mean numbers\.yaml\?"),
        ("deep/mien.yml", r"did you mean deep/mine\.yml\?"),
        ("pairs.csv", r"pairs\.csv is a file of data, and a configuration was expected: .* --train_files pairs\.csv"),
        ("long.yaml", r"must hold sections such as .*, but holds 'word word [word ]* …\.$"),
    ],
)
def test_something_else_of_ones_own(word, message):
    Path("deep").mkdir()
    for name in ("numbers.yaml", "deep/mine.yml"):
        Path(name).touch()
    Path("pairs.csv").write_text("english,german\n", encoding="utf-8")
    Path("long.yaml").write_text("word " * 1000, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        load_settings(word)


def test_a_file_of_the_name(tmp_path):
    """The same recipe is no question; another one is; a file is always called by its whole name."""
    Path("scan-rnn.yaml").write_text(recipes.recipe_text("scan-rnn"), encoding="utf-8")
    assert load_settings("scan-rnn") == load_settings("scan-rnn.yaml")
    text = recipes.recipe_text("scan-rnn").replace("hidden_size: 128", "hidden_size: 64")
    Path("scan-rnn.yaml").write_text(text, encoding="utf-8")
    assert load_settings("scan-rnn.yaml").model["hidden_size"] == 64
    with pytest.raises(ValueError, match=r"scan-rnn is the name of a recipe .*, and scan-rnn\.yaml, which lies"):
        load_settings("scan-rnn")


def test_the_folder_of_a_run(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "settings.yaml").touch()
    with pytest.raises(ValueError, match=r"mine is the folder of a run, whose .* is mine/settings\.yaml: give"):
        load_settings("mine")


def test_a_folder_of_the_name(tmp_path):
    assert recipes.is_recipe("scan-rnn")
    (tmp_path / "scan-rnn").mkdir()
    with pytest.raises(ValueError, match=r"write \./scan-rnn for the folder"):
        recipes.is_recipe("scan-rnn")
    assert not recipes.is_recipe("./scan-rnn")


def test_files_for_launching():
    assert "accelerate/1-gpu" in recipes.launch_names()
    assert "num_processes: 1" in recipes.recipe_text("accelerate/1-gpu")
    with pytest.raises(ValueError, match="no recipe is called accelerate/2-gpu; did you mean accelerate/1-gpu"):
        recipes.recipe_text("accelerate/2-gpu")
