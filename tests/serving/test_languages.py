"""Which languages a model says that it translates."""

import shutil

import pytest
from helpers.runs import configure, write_pairs

from seqloom.serving.languages import name_of, own_pair, pairs_of
from seqloom.settings.reading import load_settings


@pytest.fixture
def carded(folder, tmp_path):
    """A model whose card says something of languages."""

    def _carded(said: str, name="model"):
        place = shutil.copytree(folder, tmp_path / name)
        (place / "README.md").write_text(f"---\n{said}\n---\n# mine\n", encoding="utf-8")
        return str(place)

    return _carded


def test_of_a_card(carded):
    assert own_pair(carded("language: [en, de]")) == ("en", "de")
    for number, said in enumerate(["language: en", "language: [en, de, fr]", "license: mit", "language: [en", "- a"]):
        with pytest.raises(ValueError, match="give their codes, the source's first, such as --languages en de"):
            own_pair(carded(said, str(number)))


def test_of_a_run(carded, tmp_path):
    """Its settings go before its card."""
    folder = carded("language: [en, fr]")
    pairs = {name: write_pairs(tmp_path, name, 9) for name in ("few", "validation", "test")}
    load_settings(configure(tmp_path, pairs, hub={"language": ["ko", "en"]})).save(f"{folder}/settings.yaml")
    assert own_pair(folder) == ("ko", "en")


def test_of_several(carded):
    first, second = carded("language: [en, de]", "first"), carded("language: [de, en]", "second")
    assert pairs_of([first, second], []) == [("en", "de"), ("de", "en")]
    assert pairs_of([first, second], ["a", "b", "zh-Hant", "pt_BR"]) == [("a", "b"), ("zh-Hant", "pt_BR")]


def test_names():
    assert [name_of(code) for code in ("de", "ko", "DE", "commands", "pt-BR")] == [
        "German", "Korean", "German", "commands", "pt-BR",
    ]  # fmt: skip
