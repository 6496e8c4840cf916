"""`seqloom doctor`: what it finds here, what it says of what is missing, and when its exit status is another one."""

import json
import sys
import threading

import pytest
from huggingface_hub import constants
from transformers import GenerationMixin

from seqloom.__main__ import main
from seqloom.commands import checkup
from seqloom.commands.checkup import BROKEN, OK, OPTIONAL, TO_MEND, Finding
from seqloom.commands.doctor import in_a_line
from seqloom.modeling.modeling_seq2seq import CACHE


@pytest.mark.slow
def test_here(capsys, monkeypatch):
    """All of this installation; what is to be mended has a command, and nothing is broken."""
    monkeypatch.setattr(checkup, "DEADLINE", 60.0)  # machines of tests are busy
    assert main(["doctor", "--json"]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert found["ok"] is True
    by_name = {one["name"]: one for one in found["findings"]}
    assert len(by_name) == len(found["findings"])
    assert {
        "seqloom",
        "packages",
        "command",
        "models",
        "processor",
        "its speed",
        "fonts",
        "Hub",
        "disk here",
        "cache",
        "compiler",
        "extra demo",
        "extra serve",
        "extra onnx",
        "extra ctranslate2",
        "extra trackers",
    } <= {*by_name}
    for one in found["findings"]:
        assert one["status"] in (OK, OPTIONAL, TO_MEND)
        assert (one["mend"] is None) == (one["status"] == OK), one
    assert "GFLOP/s in float32" in by_name["its speed"]["says"]
    assert by_name["Hub"] == {"name": "Hub", "status": OK, "mend": None, "says": by_name["Hub"]["says"]}
    assert by_name["Hub"]["says"].startswith("offline, as HF_HUB_OFFLINE has it")
    assert "extra dev" not in by_name
    assert by_name["extra onnx"]["says"].startswith("onnx ")


@pytest.mark.slow
def test_broken(capsys, monkeypatch):
    """A package that cannot be imported: the exit status says so, and what mends it is told."""
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    assert main(["doctor"]) == 1
    said = capsys.readouterr()
    assert "broken   packages: sacrebleu cannot be imported (" in said.out
    assert f"         mend: {checkup.pip('--force-reinstall', 'sacrebleu')}\n" in said.out
    assert "seqloom cannot work so" in said.out
    assert "next: " not in said.err


def test_models_that_decode_otherwise(monkeypatch):
    """As a version of transformers would make them that calls the cache by another name."""
    assert checkup.models().status == OK
    whole = GenerationMixin.prepare_inputs_for_generation

    def without_cache(self, input_ids, **kwargs):
        return whole(self, input_ids, **kwargs) | {CACHE: None}

    monkeypatch.setattr(GenerationMixin, "prepare_inputs_for_generation", without_cache)
    found = checkup.models()
    assert found.status == BROKEN
    assert "by transformers' generate" in found.says


def test_lines():
    assert in_a_line(Finding("fonts", OK, "all")) == "ok       fonts: all"
    assert in_a_line(Finding("x", TO_MEND, "y", "do z")) == "to mend  x: y\n         mend: do z"
    assert in_a_line(Finding("x", OPTIONAL, "y", "get z")) == "optional x: y\n         to have it: get z"
    assert in_a_line(Finding("x", BROKEN, "y")).startswith("broken   x")


def test_requirements():
    assert checkup.lacking() == []
    names = {one.name for one in checkup.requirements()}
    assert {"torch", "transformers", "matplotlib"} <= names
    assert not names & {"gradio", "pytest", "onnx"}
    assert {one.name for one in checkup.requirements("serve")} == {"starlette", "uvicorn"}


class TestHub:
    """What the Hub answers, from one of the test's own; and one that does not."""

    @pytest.fixture
    def asked(self, monkeypatch):
        def ask(endpoint: str, token: str | None) -> Finding:
            monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
            monkeypatch.setattr(constants, "ENDPOINT", endpoint)
            monkeypatch.setenv("HF_TOKEN", token or "")
            return checkup.hub(checkup.ask_hub())

        return ask

    def test_answers(self, hub, asked):
        found = asked(hub.url, hub.WRITE)
        assert (found.status, found.says) == (OK, f"{hub.url} knows you as me")
        found = asked(hub.url, "hf_gone")
        assert (found.status, found.mend) == (TO_MEND, "hf auth login --force")

    def test_without_a_token(self, hub, asked):
        found = asked(hub.url, None)
        assert (found.status, found.mend) == (OPTIONAL, "hf auth login")

    def test_does_not_answer(self, asked):
        found = asked("http://127.0.0.1:9", None)
        assert found.status == TO_MEND
        assert "http://127.0.0.1:9 is not reached (" in found.says
        assert found.mend == "export HF_HUB_OFFLINE=1"

    def test_is_silent(self, asked, monkeypatch):
        """Nobody waits longer than that, whatever the name server does."""
        monkeypatch.setattr(checkup, "PATIENCE", 0.01)
        silent = threading.Thread(target=threading.Event().wait, daemon=True)
        silent.start()
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        assert "no answer within" in checkup.hub([[], silent, 0.0]).says
