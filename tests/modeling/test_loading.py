"""Saving loses nothing: models, bases and configs come back, in any type, with vocabularies that grow and shrink."""

import copy
import json

import pytest
import torch
from helpers.tiny import (
    EVERY,
    SEPARATE,
    SOURCES,
    TARGETS,
    VOCAB,
    batch,
    close,
    pad,
    tiny,
)
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM

pytestmark = pytest.mark.slow  # every model is written and read again


def saved(model, folder):
    """The model after a visit to the disk, and its loading report."""
    model.save_pretrained(folder)
    return type(model).from_pretrained(folder, output_loading_info=True)


def assert_nothing_amiss(info):
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")), info


def assert_same(first, second, tolerance=1e-6):
    """Equal logits for the same batch; the last bit may change with the weights' places in memory."""
    close(first(**batch()).logits, second(**batch()).logits, tolerance)


def test_saved_model_comes_back(model, tmp_path):
    loaded, info = saved(model, tmp_path)
    assert_nothing_amiss(info)
    assert not loaded.training
    assert_same(model, loaded)
    matrices = [loaded.get_input_embeddings(), loaded.get_decoder_input_embeddings(), loaded.get_output_embeddings()]
    source, target, output = (matrix.weight for matrix in matrices)
    assert (output is target) == model.config.tie_word_embeddings
    assert (source is target) == (model.config.tie_word_embeddings and model.config.share_encoder_decoder_embeddings)
    held = load_file(tmp_path / "model.safetensors")
    assert sum(value.numel() for value in held.values()) == model.num_parameters()  # every tied matrix once
    assert {path.name for path in tmp_path.iterdir() if path.suffix != ".py"} == {
        "config.json", "generation_config.json", "model.safetensors",
    }  # fmt: skip


def test_auto_classes_know_the_model(model, tmp_path):
    model.save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    assert type(config) is type(model.config)
    loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    assert type(loaded) is type(model)
    assert_same(model, loaded)
    base, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert type(base) is type(model.model)
    assert not info["missing_keys"]
    input_ids, attention_mask = pad(SOURCES)
    inputs = {"attention_mask": attention_mask, "decoder_input_ids": pad(TARGETS)[0]}
    states = base(input_ids, **inputs).last_hidden_state
    close(model.lm_head(states), model(input_ids, **inputs).logits, 1e-6)
    assert type(AutoModelForSeq2SeqLM.from_config(config)) is type(model)


def test_base_model_and_head_load_each_others_weights(model, tmp_path):
    model.model.save_pretrained(tmp_path)
    base, info = type(model.model).from_pretrained(tmp_path, output_loading_info=True)
    assert_nothing_amiss(info)
    whole, info = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert info["missing_keys"] == (set() if model.config.tie_word_embeddings else {"lm_head.weight"})
    ours = dict(model.named_parameters())
    for name, value in whole.named_parameters():
        assert torch.equal(value, ours[name]) == (name not in info["missing_keys"])
    for name, value in base.named_parameters():
        assert torch.equal(value, ours[f"model.{name}"])


def test_half_of_the_weights_may_be_missing(model, tmp_path):
    """What a checkpoint lacks starts as in a fresh model; what it has stays as it is."""
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    for first in (0, 1):  # each weight is once among the missing
        kept = dict(sorted(weights.items())[first::2])
        save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
        loaded, info = type(model).from_pretrained(tmp_path, output_loading_info=True)
        assert info["missing_keys"] & weights.keys() == weights.keys() - kept.keys()
        for name, value in loaded.state_dict().items():
            if name in kept:
                assert torch.equal(value, kept[name])
            elif name in weights:
                assert_is_fresh(model.config, name, value)


def assert_is_fresh(config, name, value):
    """A parameter as initialisation leaves it."""
    assert value.isfinite().all()
    if "norm" in name:
        assert (value == (1 if name.endswith("weight") else 0)).all()
    elif ".weight_hh" in name:
        for gate in value.split(value.shape[1]):
            close(gate @ gate.T, torch.eye(len(gate)))
    elif "bias" in name:
        expected = torch.zeros_like(value)
        if "bias_ih" in name and config.cell_type == "lstm":
            expected.view(4, -1)[1] = 1  # the forget gate
        elif name.endswith("rnn.bias") and config.cell_type == "min_lstm":
            expected[0] = 1
        assert torch.equal(value, expected)
    elif config.model_type == "hybrid_seq2seq" and ".rnn." in name:  # as Glorot's, of a gate's square matrix
        assert 0.8 < value.std() * config.d_model**0.5 < 1.2
    elif getattr(config, "init_range", None) is not None:
        assert 0.8 * config.init_range < value.abs().max() <= config.init_range
    elif "embed" in name or "shared" in name or ("lm_head" in name and config.model_type != "rnn_seq2seq"):
        length = 2 if config.model_type == "rnn_seq2seq" else 1  # of a row
        assert 0.8 * length < value.std() * value.shape[1] ** 0.5 < 1.2 * length
    else:
        gates = {"lstm": 4, "gru": 3}[config.cell_type] if "weight_ih" in name else 1
        limit = (6 / (value.shape[0] / gates + value.shape[1])) ** 0.5  # Glorot and Bengio 2010
        assert 0.9 * limit < value.abs().max() <= limit


def test_fresh_model_is_initialised(model):
    torch.manual_seed(3)
    for name, value in type(model)(model.config).named_parameters():
        assert_is_fresh(model.config, name, value)


def test_model_may_be_made_on_the_meta_device(model):
    """Nothing is computed in a constructor, nothing is held outside the state dictionary."""
    with torch.device("meta"):
        built = type(model)(model.config)
    assert all(value.is_meta for value in [*built.parameters(), *built.buffers()])
    assert not dict(built.named_buffers())
    built.load_state_dict(model.state_dict(), assign=True)
    built.tie_weights()
    assert_same(model, built.eval())


def test_config_survives_every_round_trip(model, tmp_path):
    config = model.config
    config.label_smoothing = 0.1
    for twin in (type(config).from_dict(config.to_dict()), type(config)(**json.loads(config.to_json_string()))):
        assert twin.to_dict() == config.to_dict()
    config.save_pretrained(tmp_path)
    assert type(config).from_pretrained(tmp_path).to_dict() == config.to_dict()
    held = json.loads((tmp_path / "config.json").read_text())
    assert held["model_type"] == config.model_type
    assert held["label_smoothing"] == 0.1
    assert copy.deepcopy(config).to_dict() == config.to_dict()


def test_bfloat16(model):
    expected = model(**batch())
    outputs = model.to(torch.bfloat16)(**batch())
    assert outputs.logits.dtype == torch.bfloat16
    assert outputs.loss.dtype == torch.float32
    close(outputs.loss, expected.loss, 0.15)
    outputs.loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_checkpoint_of_another_type_keeps_it(model, tmp_path):
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    assert loaded.dtype == torch.bfloat16
    assert_same(model, loaded)
    assert type(model).from_pretrained(tmp_path, dtype=torch.float32).dtype == torch.float32


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_attention_may_be_chosen_when_loading(transformer, implementation, tmp_path):
    transformer.save_pretrained(tmp_path)
    loaded = type(transformer).from_pretrained(tmp_path, attn_implementation=implementation)
    assert loaded.config._attn_implementation == implementation
    assert_same(transformer, loaded, 1e-5)


def test_mixed_precision_trains(model):
    expected = model(**batch())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model(**batch())
    assert outputs.logits.dtype == torch.bfloat16
    close(outputs.loss, expected.loss, 0.05)
    outputs.loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_vocabulary_of_both_sides_grows_and_shrinks(model, tmp_path):
    config = model.config
    expected = model(**batch()).logits
    for size in (VOCAB + 5, VOCAB):
        model.resize_token_embeddings(size)
        assert model.get_input_embeddings().weight.shape[0] == config.vocab_size == size
        if config.share_encoder_decoder_embeddings:
            assert config.decoder_vocab_size == size
            assert model.get_decoder_input_embeddings().weight.shape[0] == model.lm_head.weight.shape[0] == size
        logits = model(**batch()).logits
        assert logits.shape[-1] == config.decoder_vocab_size
        assert torch.equal(logits[..., : expected.shape[-1]], expected)
        output, target, source = (
            matrix.weight
            for matrix in (model.lm_head, model.get_decoder_input_embeddings(), model.get_input_embeddings())
        )
        assert (output is target) == config.tie_word_embeddings
        assert (source is target) == (config.tie_word_embeddings and config.share_encoder_decoder_embeddings)
        loaded, info = saved(model, tmp_path)
        assert_nothing_amiss(info)
        assert_same(model, loaded)


@pytest.mark.parametrize("name", [name for name in EVERY if SEPARATE.items() <= EVERY[name].items()])
@pytest.mark.parametrize("tie", [True, False])
def test_target_vocabulary_grows_alone(name, tie, tmp_path):
    model = tiny(name, tie_word_embeddings=tie)
    expected = model(**batch()).logits
    embeddings = model.resize_decoder_token_embeddings(27)
    assert embeddings is model.get_decoder_input_embeddings()
    assert (model.config.vocab_size, model.config.decoder_vocab_size) == (VOCAB, 27)
    assert (model.lm_head.weight is embeddings.weight) == tie
    assert torch.equal(model(**batch()).logits[..., :23], expected)
    loaded, info = saved(model, tmp_path)
    assert_nothing_amiss(info)
    assert_same(model, loaded)


def test_one_vocabulary_is_resized_as_one():
    with pytest.raises(ValueError, match="call resize_token_embeddings"):
        tiny("lstm-luong").resize_decoder_token_embeddings(27)


def test_input_embeddings_may_be_replaced(model):
    new = nn.Embedding(VOCAB, model.get_input_embeddings().embedding_dim)
    expected = model(**batch()).logits
    model.set_input_embeddings(new)
    assert model.get_input_embeddings() is new
    assert (model(**batch()).logits - expected).abs().max() > 1e-3
