"""Models compiled ahead of time: the same tokens, without seqloom too; a machine without a compiler is told."""

import contextlib
import io

import pytest
from helpers.graphs import assert_finds_the_same
from helpers.letters import make_tokenizer
from helpers.tiny import ONE_LAYER, tiny

from seqloom import translate
from seqloom.decoding.run_torch import open_engine
from seqloom.export import to_torch


@pytest.mark.slow
def test_finds_what_generate_finds(tmp_path):
    """A Transformer; a recurrent one is compiled in test_compiled.py, and the graphs of all are in test_graphs.py."""
    model, tokenizer = tiny("rotary-swiglu-pre-norm", **ONE_LAYER), make_tokenizer()
    about = to_torch.write(model, tokenizer, tmp_path, "float32")
    assert_finds_the_same(open_engine(tmp_path, about), model)

    model.generation_config.max_new_tokens = 12
    model.generation_config.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    code = to_torch.USE.replace("DIR", str(tmp_path)).replace("some text", "abcde").replace("256", "12")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code, {})
    assert printed.getvalue() == translate(model, tokenizer, "abcde", num_beams=1) + "\n"


@pytest.mark.slow
def test_machine_without_a_compiler_is_told():
    from torch._inductor import config

    # By its own means: what pytest's monkeypatch takes back is gone from a part of this module.
    with (
        config.patch({"cpp.cxx": ("no-such-compiler",)}),
        pytest.raises(ValueError, match=r"this machine has none that torch finds: install g\+\+ .* --to onnx needs"),
    ):
        to_torch.check(tiny("post-norm"), make_tokenizer(), "float32")
