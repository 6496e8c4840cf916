"""A model is compiled once, and again when anything changes that it depends on."""

import pytest
import torch
from helpers.letters import make_tokenizer, texts
from helpers.tiny import tiny

from seqloom import translate
from seqloom.decoding.loading import open_pair
from seqloom.export import compiled as module
from seqloom.export.compiled import compiled, digest
from seqloom.export.export import Request


@pytest.fixture
def folder(tmp_path):
    model = tiny("rnn", encoder_layers=1, decoder_layers=1)
    model.generation_config.max_new_tokens = 8
    model.save_pretrained(tmp_path / "model")
    make_tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.slow
def test_once(folder, monkeypatch):
    told = []
    place = compiled(str(folder), None, False, told.append)
    assert "compiling" in told[0]
    model, tokenizer = open_pair(str(place))
    assert translate(model, tokenizer, texts(9)) == translate(*open_pair(str(folder)), texts(9))
    monkeypatch.setattr(module, "export", pytest.fail)
    assert compiled(str(folder), None, False, pytest.fail) == place


def test_what_it_depends_on(folder):
    def found():
        return digest(Request(model=str(folder), to="torch", folder=folder))

    before = found()
    assert found() == before
    model, _ = open_pair(str(folder))
    with torch.no_grad():
        model.lm_head.weight[3] += 1e-3
    model.save_pretrained(folder)
    after = found()
    assert after != before
    model.generation_config.num_beams = 3
    model.save_pretrained(folder)
    assert found() not in (before, after)
