"""What lies beside pushed weights and answers an Inference Endpoint's requests."""

import json
import os
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState
from helpers.endpoint import loaded
from helpers.hub_server import Hub
from helpers.runs import configure, write_pairs
from packaging.requirements import Requirement
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

import seqloom
from seqloom.__main__ import main
from seqloom.sharing.files import handler_files

TEXTS = ["abc", "d", "ha ebg", "f"]
BEAMS = {"num_beams": 3, "num_return_sequences": 2}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    pairs = {name: write_pairs(folder, name, size) for name, size in {"few": 60, "validation": 21, "test": 31}.items()}
    config = configure(
        folder, pairs, "rnn", generation={"max_new_tokens": 9}, hub={"language": ["en", "de"]},
        training={"max_steps": 30, "eval_steps": 30, "learning_rate": 0.03},
    )  # fmt: skip
    assert main(["train", config]) == 0
    AcceleratorState._reset_state(reset_partial_state=True)
    return folder / "run"


@pytest.fixture(scope="module")
def pushed(run, tmp_path_factory):
    """What an Endpoint downloads."""
    folder = tmp_path_factory.mktemp("pushed")
    with Hub() as hub, hub.client(hub.WRITE):
        assert main(["push", str(run), "me/model", "--handler"]) == 0
        for name, data in hub["me/model"].files().items():
            (folder / name).write_bytes(data)
    AcceleratorState._reset_state(reset_partial_state=True)
    return folder


def test_with_seqloom(pushed):
    handler = loaded(str(pushed))
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(pushed), AutoTokenizer.from_pretrained(pushed)
    expected = seqloom.translate(model, tokenizer, TEXTS)
    assert len({*expected}) > 1
    assert handler({"inputs": TEXTS}) == [{"translation_text": text} for text in expected]
    assert handler({"inputs": TEXTS[0], "parameters": None}) == [{"translation_text": expected[0]}]
    several = seqloom.translate(model, tokenizer, TEXTS, **BEAMS)
    assert handler({"inputs": TEXTS, "parameters": BEAMS}) == [
        [{"translation_text": text} for text in found] for found in several
    ]
    assert handler({"inputs": []}) == []
    for data, sentence in (
        ({}, r"inputs must be a text or a list of texts, not None\."),
        ({"inputs": [1]}, r"inputs must be a text or a list of texts, not 1\."),
        ({"inputs": "a", "parameters": [1]}, r"parameters must be names and values, not \[1\]\."),
        ({"inputs": "a", "parameters": {"beams": 1}}, r"parameters has 'beams', which generate does not know\."),
    ):
        with pytest.raises(ValueError, match=sentence):
            handler(data)


def test_without_seqloom(pushed):
    """In a process that has never heard of it: the folder's own code is enough."""
    requests = [{"inputs": TEXTS}, {"inputs": TEXTS, "parameters": BEAMS}]
    done = subprocess.run(
        [sys.executable, "-m", "helpers.endpoint"], input=json.dumps({"folder": str(pushed), "requests": requests}),
        capture_output=True, text=True, check=False, cwd=pushed,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    handler = loaded(str(pushed))
    assert json.loads(done.stdout.splitlines()[-1]) == [handler(request) for request in requests]


def test_files(run, pushed, tmp_path):
    """The folder stays as it is; a handler that somebody wrote there goes up in ours' place."""
    setup = ConfigParser()
    setup.read(Path(seqloom.__file__).parents[2] / "setup.cfg")
    asked = [line for line in setup["options"]["install_requires"].splitlines() if line.startswith("transformers")]
    said = (pushed / "requirements.txt").read_text().splitlines()
    assert [Requirement(line) for line in said] == [Requirement(line) for line in asked]
    assert not (run / "handler.py").exists()
    (tmp_path / "handler.py").write_text("mine", encoding="utf-8")
    assert handler_files(tmp_path)["handler.py"] == tmp_path / "handler.py"
