"""A MarianMTModel with a Transformer's weights says the same, and is loaded where seqloom is not."""

import json
import os
import subprocess
import sys

import pytest
from helpers.exports import CHECKED, exported, save, tokenizer_of
from helpers.tiny import tiny
from transformers import AutoModelForSeq2SeqLM, MarianMTModel

from seqloom.export.checking import random_sources, written

OWN = [
    {"activation_function": activation, **sharing}
    for activation in ("relu", "gelu")
    for sharing in (
        {},
        {"scale_embedding": False},
        {"tie_word_embeddings": False},
        {"share_encoder_decoder_embeddings": False},
        {"share_encoder_decoder_embeddings": False, "decoder_vocab_size": 23},
        {"share_encoder_decoder_embeddings": False, "decoder_vocab_size": 23, "tie_word_embeddings": False},
    )
]


@pytest.mark.parametrize("fields", OWN, ids=str)
def test_same_tokens(tmp_path, fields):
    model = tiny("post-norm", **fields)
    about = exported(tmp_path, model, "marian")
    assert all(entry["equal"] == CHECKED for entry in about["checked"]["searches"].values())
    other = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "exported")
    assert type(other) is MarianMTModel
    sources = random_sources(tokenizer_of(model))[:30]
    for given in ({"num_beams": 1}, {"num_beams": 4}, {"num_beams": 3, "length_penalty": 0.5}):
        given["max_new_tokens"] = 15
        assert written(model, sources, given) == written(other, sources, given)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"normalize_before": True}, "normalize_before"),
        ({"position_embedding_type": "rotary"}, "rotary positions"),
        ({"activation_function": "swiglu"}, "activation_function swiglu"),
        ({"normalize_before": True, "activation_function": "swiglu"}, "post-norm.*, no activation_function swiglu"),
    ],
)
def test_what_marian_has_not_is_refused(tmp_path, fields, named):
    with pytest.raises(ValueError, match=f"a MarianMTModel has no .*{named}.*--to ctranslate2"):
        exported(tmp_path, tiny("post-norm", **fields), "marian")
    assert {path.name for path in tmp_path.iterdir()} == {"model", "sources.txt"}


def test_what_ctranslate2_has_not_either_is_not_sent_there(tmp_path):
    with pytest.raises(ValueError, match=r"no relative positions \(its are sinusoidal\): export it with --to onnx or"):
        exported(tmp_path, tiny("relative"), "marian")


@pytest.mark.parametrize(("name", "family"), [("gru", "rnn_seq2seq"), ("hybrid", "hybrid_seq2seq")])
def test_a_recurrent_model_is_refused(tmp_path, name, family):
    with pytest.raises(ValueError, match=f"this is a {family}"):
        exported(tmp_path, tiny(name), "marian")


def test_the_folder_is_no_code(tmp_path):
    exported(tmp_path, tiny("post-norm"), "marian")
    names = {path.name for path in (tmp_path / "exported").iterdir()}
    assert not any(name.endswith(".py") for name in names)
    assert {"model.safetensors", "config.json", "generation_config.json", "tokenizer.json", "README.md"} <= names
    config = json.loads((tmp_path / "exported" / "config.json").read_text())
    assert "auto_map" not in config
    assert config["model_type"] == "marian"


@pytest.mark.slow
@pytest.mark.parametrize("shared", [True, False])
def test_loads_without_seqloom(tmp_path, shared):
    """In a process that cannot import seqloom, and allows no code of the folder's: text in, text out."""
    fields = {} if shared else {"share_encoder_decoder_embeddings": False, "decoder_vocab_size": 23}
    model = tiny("post-norm", **fields)
    exported(tmp_path, model, "marian")
    tokenizer = tokenizer_of(model)
    texts = ["abc", "hgfedcba", "a", "ponm"]
    ids = written(model, tokenizer(texts)["input_ids"], {"num_beams": 3, "max_new_tokens": 12})
    expected = tokenizer.batch_decode(ids, skip_special_tokens=True)
    source, target = ("", "") if shared else ("source_tokenizer", "target_tokenizer")
    code = f"""
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "seqloom":
            raise ModuleNotFoundError("No module named 'seqloom'", name="seqloom")
sys.meta_path.insert(0, Blocked())
import json
from pathlib import Path
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
folder = Path({str(tmp_path / "exported")!r})
source = AutoTokenizer.from_pretrained(folder / {source!r})
target = AutoTokenizer.from_pretrained(folder / {target!r})
model = AutoModelForSeq2SeqLM.from_pretrained(folder)
inputs = source({texts!r}, return_tensors="pt", padding=True)
inputs = {{name: inputs[name] for name in ("input_ids", "attention_mask")}}
outputs = model.generate(**inputs, num_beams=3, max_new_tokens=12)
print(json.dumps(target.batch_decode(outputs, skip_special_tokens=True)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env={**os.environ}, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == expected


def test_half_precision_is_stated(tmp_path):
    about = exported(tmp_path, tiny("post-norm"), "marian", dtype="bfloat16")
    assert about["dtype"] == "bfloat16"
    assert str(AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "exported").dtype) == "torch.bfloat16"


def test_the_models_own_search_goes_along(tmp_path):
    model = tiny("post-norm")
    model.generation_config.num_beams, model.generation_config.length_penalty = 3, 0.6
    model.generation_config.max_new_tokens = 11
    save(tmp_path / "model", model)
    about = exported(tmp_path, model, "marian")
    assert list(about["checked"]["searches"])[-1] == "the model's own generation config"
    other = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "exported")
    assert (other.generation_config.num_beams, other.generation_config.length_penalty) == (3, 0.6)
    sources = random_sources(tokenizer_of(model))[:10]
    assert written(model, sources, {}) == written(other, sources, {})
