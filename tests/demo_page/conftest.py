"""Models of a demo page on the tests' Hub."""

import shutil
from pathlib import Path

import pytest
from helpers.hub_server import File, Hub
from helpers.pushed import make_tokenizer
from helpers.tiny import tiny

SPACES = {"me/gru": ("gru-bahdanau", "ko"), "me/transformer": ("post-norm", "de"), "me/lstm": ("lstm-untied", None)}
CARD = """---
language: [{source}, en]
widget:
- text: 나는 오늘 친구를 만났습니다 !
---
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    """Folders of random models, by their names; the last one has no attention, and its card says nothing."""
    tokenizer, found = make_tokenizer("bpe", shared=True), {}
    for name, (kind, source) in SPACES.items():
        folder = found[name] = tmp_path_factory.mktemp("models") / name.rpartition("/")[2]
        model = tiny(kind, vocab_size=len(tokenizer))
        model.generation_config.max_new_tokens = 12
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        if source:
            (folder / "README.md").write_text(CARD.format(source=source), encoding="utf-8")
    return found


@pytest.fixture(scope="module")
def shared(models):
    """A Hub that has them."""
    with Hub() as hub:
        for name, folder in models.items():
            files = {path.name: File(path.read_bytes(), path.suffix == ".safetensors") for path in folder.iterdir()}
            hub.create(name).add("a model", files)
        yield hub


@pytest.fixture(scope="session")
def chromium() -> str:
    """Where the browser is."""
    found = shutil.which("chromium")
    if found is None:
        pytest.skip("there is no chromium here")
    return found
