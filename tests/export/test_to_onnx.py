"""Models as ONNX: the same tokens by ONNX Runtime, without seqloom too; int8; nothing of the machine in the files."""

import contextlib
import importlib.util
import io
from pathlib import Path

import pytest
import torch
from helpers.graphs import assert_finds_the_same, searched, sources
from helpers.letters import make_tokenizer
from helpers.tiny import ONE_LAYER, tiny

from seqloom import translate
from seqloom.decoding.loading import open_model, tokenizer_of
from seqloom.decoding.run_onnx import open_engine
from seqloom.export import to_onnx
from seqloom.export.export import Request, export

onnx = pytest.importorskip("onnx")
pytestmark = pytest.mark.slow
TRIED = (
    "lstm-bahdanau", "relative",
    *(pytest.param(name, marks=pytest.mark.long) for name in ("min-gru-luong", "rotary-swiglu-pre-norm")),
)  # fmt: skip
"""One of each family; the graphs themselves are tried over all models."""


def exported(folder: Path, name: str, dtype: str = "float32") -> tuple:
    """A model, and what ``seqloom export`` made of it."""
    model = tiny(name, **ONE_LAYER)
    model.generation_config.max_new_tokens = 12
    model.save_pretrained(folder / "model")
    make_tokenizer(shared=model.config.decoder_vocab_size == model.config.vocab_size).save_pretrained(folder / "model")
    request = Request(model=str(folder / "model"), to="onnx", folder=folder / "made", dtype=dtype)
    return model, export(request, say=lambda line: None)


@pytest.mark.parametrize("name", TRIED)
def test_finds_what_generate_finds(name, tmp_path):
    model = tiny(name, **ONE_LAYER)
    about = to_onnx.write(model, make_tokenizer(), tmp_path, "float32")
    assert_finds_the_same(open_engine(tmp_path, about), model)
    for path in tmp_path.iterdir():
        found = onnx.load(path)
        onnx.checker.check_model(found)
        assert found.opset_import[0].version == about["opset"] == to_onnx.OPSET
        assert str(Path(__file__).parents[2]).encode() not in path.read_bytes()


@pytest.mark.parametrize("name", ["gru-bahdanau"])
def test_int8_is_near(name, tmp_path):
    model = tiny(name, **ONE_LAYER)
    decoders, sizes = [], []
    for dtype in to_onnx.DTYPES:
        (tmp_path / dtype).mkdir()
        decoders.append(open_engine(tmp_path / dtype, to_onnx.write(model, make_tokenizer(), tmp_path / dtype, dtype)))
        found = onnx.load(tmp_path / dtype / "decoder.onnx")
        sizes.append(sum(len(tensor.raw_data) for tensor in found.graph.initializer))
    assert len(list((tmp_path / "int8").iterdir())) == 2
    assert sizes[1] < 0.7 * sizes[0]
    with torch.inference_mode():
        ids = torch.tensor([[5, 9, 3, 17, 4, 2]])
        logits = []
        for decoder in decoders:
            state = decoder.start(ids, torch.ones_like(ids), 2)
            logits.append(torch.cat([decoder.step(torch.tensor(tokens), state) for tokens in ([1, 1], [4, 9])]))
    difference = (logits[1] - logits[0]).abs().amax()
    assert 0 < difference < 0.1 * logits[0].abs().amax()
    assert len(searched(decoders[1], model, sources(), num_beams=3)) == len(sources())


@pytest.mark.parametrize(
    "name", ["hybrid", *(pytest.param(name, marks=pytest.mark.long) for name in ("lstm-luong", "gelu-separate"))]
)
def test_card_says_how_to_run_it_without_seqloom(name, tmp_path):
    """And a folder that was damaged since says so."""
    model, about = exported(tmp_path, name)
    assert about["checked"]["largest_difference"] < 1e-4
    code = (tmp_path / "made" / "README.md").read_text().split("```python\n")[1].split("```")[0]
    assert "seqloom" not in code
    assert len(code.strip().splitlines()) <= 22
    code = code.replace("DIR", str(tmp_path / "made")).replace("some text", "abcde").replace("256", "12")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code, {})
    tokenizer = tokenizer_of(model, str(tmp_path / "made"))
    assert printed.getvalue() == translate(model, tokenizer, "abcde", num_beams=1) + "\n"
    assert translate(open_model(str(tmp_path / "made")), tokenizer, ["abcde", "b"], num_beams=3) == translate(
        model, tokenizer, ["abcde", "b"], num_beams=3
    )
    path = tmp_path / "made" / "decoder.onnx"
    path.write_bytes(b"x" * path.stat().st_size)
    with pytest.raises(ValueError, match=r"onnxruntime cannot read .*made \(decoder\.onnx: .*; the files are damaged"):
        open_model(str(tmp_path / "made"))


def test_package_that_is_missing_is_named(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else find(name))
    with pytest.raises(ValueError, match=r"^--to onnx needs onnxscript: pip install 'seqloom\[onnx\]'$"):
        to_onnx.check(tiny("post-norm"), make_tokenizer(), "float32")
