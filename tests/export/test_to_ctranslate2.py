"""Every Transformer says as a CTranslate2 model what it says by itself; others are refused."""

import json

import pytest
import torch
from helpers.exports import CHECKED, GRID, exported, name_of, tokenizer_of
from helpers.letters import texts
from helpers.tiny import tiny

from seqloom.decoding.loading import load_exported
from seqloom.export import to_ctranslate2
from seqloom.export.checking import difference, random_sources, written

pytest.importorskip("ctranslate2")


@pytest.mark.parametrize("fields", GRID, ids=name_of)
def test_all_of_the_grid(tmp_path, fields):
    """By the export's own check, which is exact; and token for token here."""
    model = tiny("post-norm", rope_theta=100, **fields)
    about = exported(tmp_path, model, "ctranslate2")
    for entry in about["checked"]["searches"].values():
        assert entry["equal"] + entry["ties"] == entry["outputs"] == CHECKED
        assert entry["ties"] <= 1
    assert about["checked"]["largest_difference"] < 1e-4
    other, sources = load_exported(tmp_path / "exported"), random_sources(tokenizer_of(model))[:20]
    given = {"num_beams": 1, "max_new_tokens": 10}
    assert written(model, sources, given) == written(other, sources, given)


@pytest.mark.parametrize(
    "fields", [{}, {"activation_function": "swiglu", "position_embedding_type": "rotary"}], ids=name_of
)
def test_long_sources_and_outputs(tmp_path, fields):
    """Positions are the model's own far beyond what is usual, padding beside them or not."""
    model = tiny("post-norm", **fields)
    exported(tmp_path, model, "ctranslate2")
    other = load_exported(tmp_path / "exported")
    sources = [[*([5, 9, 13, 7] * 200), 2], [6, 8, 2], [*([11, 4] * 40), 2]]
    given = {"num_beams": 1, "max_new_tokens": 300, "min_new_tokens": 300}
    outputs = written(model, sources, given)
    assert [len(output) for output in outputs] == [300] * 3
    assert difference(model, other, sources, outputs) < 1e-3
    assert other.max_source_positions == (None if fields else to_ctranslate2.POSITIONS)


def test_positions_end_where_it_says(tmp_path):
    model = tiny("post-norm")
    exported(tmp_path, model, "ctranslate2")
    other = load_exported(tmp_path / "exported")
    longest = [*([5] * (to_ctranslate2.POSITIONS - 1)), 2]
    assert written(other, [longest], {"num_beams": 1, "max_new_tokens": 2}) == written(
        model, [longest], {"num_beams": 1, "max_new_tokens": 2}
    )
    import seqloom

    with pytest.raises(ValueError, match="has 4,097 tokens, but ExportedModel has positions for 4,096 only"):
        seqloom.translate(other, tokenizer_of(model), "a" * to_ctranslate2.POSITIONS)


@pytest.mark.parametrize("dtype", [dtype for dtype in to_ctranslate2.DTYPES if dtype != "float32"])
def test_dtypes(tmp_path, dtype):
    """What is stated of them is of the model as it is: writing them leaves it as it was."""
    model = tiny("pre-norm")
    about = exported(tmp_path, model, "ctranslate2", dtype=dtype)
    assert about["dtype"] == dtype
    assert 0 < about["checked"]["largest_difference"] < 0.2
    searches = about["checked"]["searches"]
    assert searches["greedy search"]["equal"] > CHECKED / 2
    assert searches["greedy search"]["ties"] == 0
    other = load_exported(tmp_path / "exported")
    sources = tokenizer_of(model)(texts(CHECKED))["input_ids"]
    given = {"num_beams": 1, "max_new_tokens": 12}
    equal = sum(map(list.__eq__, written(model, sources, given), written(other, sources, given)))
    assert equal == searches["greedy search"]["equal"]


def test_writing_changes_no_weight(tmp_path):
    model = tiny("pre-norm")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for dtype in to_ctranslate2.DTYPES:
        (tmp_path / dtype).mkdir()
        to_ctranslate2.write(model, tokenizer_of(model), tmp_path / dtype, dtype)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("name", "said"),
    [("lstm-luong", r"rnn_seq2seq \(LSTM, Luong"), ("hybrid", r"hybrid_seq2seq \(Transformer encoder, SSRU decoder\)")],
)
def test_a_recurrent_model_is_refused(tmp_path, name, said):
    with pytest.raises(ValueError, match=f"layers of Transformers alone, and this is a {said}"):
        exported(tmp_path, tiny(name), "ctranslate2")
    assert not (tmp_path / "exported").exists()
    assert not (tmp_path / "saving-exported").exists()


def test_relative_positions_are_refused(tmp_path):
    with pytest.raises(ValueError, match="sinusoidal and rotary positions, and this Transformer has relative ones"):
        exported(tmp_path, tiny("relative"), "ctranslate2")
    assert not (tmp_path / "exported").exists()


def test_it_runs_without_seqloom(tmp_path):
    """The folder is one of CTranslate2's, with its own names of ends and starts."""
    import ctranslate2

    model = tiny("post-norm")
    exported(tmp_path, model, "ctranslate2")
    place, tokenizer = tmp_path / "exported" / "ctranslate2", tokenizer_of(model)
    config = json.loads((place / "config.json").read_text())
    assert (config["eos_token"], config["decoder_start_token"], config["layer_norm_epsilon"]) == ("</s>", "<s>", 1e-5)
    sources = random_sources(tokenizer)[:20]
    expected = written(model, sources, {"num_beams": 1, "max_new_tokens": 12})
    translator = ctranslate2.Translator(str(place))
    names = [tokenizer.convert_ids_to_tokens(source) for source in sources]
    found = translator.translate_batch(names, beam_size=1, max_decoding_length=12)
    texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in expected]
    ids = [tokenizer.convert_tokens_to_ids(one.hypotheses[0]) for one in found]
    assert [tokenizer.decode(one, skip_special_tokens=True) for one in ids] == texts
