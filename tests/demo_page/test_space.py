"""A demo page's folder becomes a Space of the Hub."""

import ast

import pytest
import yaml
from helpers.runs import contents

from seqloom import run_folder
from seqloom.__main__ import main
from seqloom.demo_page.space import FILES, push_space, write_space

MODELS = ["me/gru", "me/transformer"]


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "demo"
    write_space(place, MODELS, examples=['a "b"', "다"], language="ko", num_beams=3, requirement="seqloom @ file:x")
    return place


def test_what_is_written(folder):
    assert {path.name for path in folder.iterdir()} == {*FILES, run_folder.MARKER}
    header = yaml.safe_load((folder / "README.md").read_text().split("---")[1])
    assert header["sdk"] == "gradio"
    assert header["app_file"] == "app.py"
    assert header["models"] == MODELS
    values = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in ast.parse((folder / "app.py").read_text(encoding="utf-8")).body
        if isinstance(node, ast.Assign)
    }
    assert values == {"MODELS": MODELS, "EXAMPLES": ['a "b"', "다"]}
    assert (folder / "requirements.txt").read_text().splitlines()[-1] == "seqloom @ file:x"


def test_nothing_is_overwritten(folder, tmp_path, capsys):
    before = contents(folder)
    words = ["demo-page", "me/other", "--space"]
    assert main([*words, str(folder)]) == 1
    assert "give --overwrite" in capsys.readouterr().err
    assert contents(folder) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "app.py").write_text("mine")
    assert main([*words, str(tmp_path / "mine"), "--overwrite"]) == 1
    assert "holds no Space of seqloom's" in capsys.readouterr().err
    assert main([*words, str(folder), "--overwrite"]) == 0
    assert "me/other" in (folder / "app.py").read_text()
    for model in (str(folder), "./me", "runs/me/gru", "~/gru"):
        assert main(["demo-page", model, "--space", str(tmp_path / "new")]) == 1
        assert "is not a name on the Hub (USER/MODEL)" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_push(folder, hub, capsys):
    (folder / "notes.txt").write_text("mine")
    said = []
    with hub.client(hub.WRITE):
        hub.create(MODELS[0])
        with pytest.raises(ValueError, match="model me/transformer cannot be found: there is no such user"):
            push_space(folder, "me/demo")
        assert "spaces/me/demo" not in hub.repositories
        hub.create(MODELS[1], private=True)
        assert main(["push", str(folder), "me/demo"]) == 1
        assert "holds a demo page: share it with" in capsys.readouterr().err
        address = push_space(folder, "me/demo", private=True, say=said.append)
        assert main(["push", str(folder), "me/demo", "--space", "--hub_revision", "trial"]) == 1
        with pytest.raises(ValueError, match="me/demo: the token may not write there"), hub.client(hub.READ):
            push_space(folder, "me/demo")
        with pytest.raises(ValueError, match="holds no Space of seqloom's"):
            push_space(folder.parent, "me/demo")
    assert address == f"{hub.url}/spaces/me/demo"
    space = hub["spaces/me/demo"]
    assert space.private
    assert {name: text for name, text in space.files().items() if name != ".gitattributes"} == {
        name: (folder / name).read_bytes() for name in FILES
    }
    assert said == [
        "me/transformer is private: give the Space a secret HF_TOKEN that may read it, in its settings",
        "left out, as no part of the Space: notes.txt",
        f"the Space is at {address}; it takes some minutes to be built",
    ]
