"""What transformers and torch expect of a model's classes, outputs and config: all families keep it."""

import inspect
import json
import pickle

import pytest
import torch
from helpers.contract import assert_same
from helpers.tiny import VOCAB, batch, close, gradients, tiny
from torch.nn import functional as F
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoConfig,
    MarianConfig,
    MarianMTModel,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from seqloom import HybridSeq2SeqConfig, RnnSeq2SeqConfig, TransformerSeq2SeqConfig

ONE_OF_EACH = ["lstm-luong", "hybrid", "post-norm"]


FEW = ["gru-bahdanau", "lstm-untied", "post-norm", "gelu-separate"]


@pytest.mark.parametrize("name", FEW)
def test_what_transformers_reads_off_the_classes(name):
    model = tiny(name)
    assert model.base_model_prefix == "model"
    assert model.base_model is model.model
    assert model.model.base_model is model.model
    for each in (model, model.model, model.get_encoder()):
        assert each.main_input_name == "input_ids"
        assert next(iter(inspect.signature(each.forward).parameters)) == "input_ids"
        assert each.supports_gradient_checkpointing
        assert each.config is model.config
    assert model.can_generate()
    assert not model.model.can_generate()
    assert getattr(model, "accepts_loss_kwargs", True)
    names = inspect.signature(model.forward).parameters
    assert {"decoder_input_ids", "labels", "num_items_in_batch"} <= set(names)
    # Trainer drops the columns of a data set that `forward` does not name.
    assert not any(parameter.kind is parameter.VAR_POSITIONAL for parameter in names.values())


# Attention implementations


def test_attention_is_the_function_that_was_chosen(tmp_path):
    model = tiny("post-norm")
    unpadded = {key: batch()[key][:1] for key in ("input_ids", "labels")}  # no mask: is_causal alone decides
    expected, plain = model(**batch()).logits, model(**unpadded).logits
    calls = []

    def counted(module, *args, **kwargs):
        calls.append(module)
        return sdpa_attention_forward(module, *args, **kwargs)

    AttentionInterface.register("counted", counted)
    AttentionMaskInterface.register("counted", sdpa_mask)
    model.save_pretrained(tmp_path)
    modules = model.config.encoder_layers + 2 * model.config.decoder_layers
    at_load = type(model).from_pretrained(tmp_path, attn_implementation="counted")
    close(at_load(**batch()).logits, expected)
    assert len(calls) == len(set(calls)) == modules
    for implementation, count in (("eager", 0), ("counted", modules), ("sdpa", 0), ("counted", modules)):
        calls.clear()
        model.set_attn_implementation(implementation)
        assert model.config._attn_implementation == implementation
        close(model(**batch()).logits, expected)
        close(model(**unpadded).logits, plain)
        assert len(calls) == 2 * count
    built = type(model)._from_config(model.config, attn_implementation="eager")
    assert built.config._attn_implementation == "eager"
    assert "_attn_implementation" not in model.config.to_dict()


def test_eager_attention_gives_its_weights_and_an_unknown_one_is_refused():
    model = tiny("post-norm")
    expected = model(**batch()).logits
    model.set_attn_implementation("eager")
    outputs = model(**batch(), output_attentions=True)
    close(outputs.logits, expected)
    assert len(outputs.encoder_attentions) == model.config.encoder_layers
    with pytest.raises((ValueError, ImportError)):
        model.set_attn_implementation("no_such_attention")


@pytest.mark.parametrize("name", ["lstm-luong", "gru-bahdanau", "gru"])
def test_recurrent_attention_has_one_implementation(name, tmp_path):
    """Written out, so it is eager; asking for that is fine, and asking for another is refused by name."""
    model = tiny(name)
    model.save_pretrained(tmp_path)
    assert_same(model, type(model).from_pretrained(tmp_path, attn_implementation="eager"))
    model.set_attn_implementation("eager")
    assert model.config._attn_implementation == "eager"
    model.set_attn_implementation("sdpa")  # transformers warns and leaves all as it is
    assert model.config._attn_implementation == "eager"
    for implementation in ("sdpa", "flash_attention_2", "flex_attention"):
        with pytest.raises((ValueError, ImportError)):
            type(model).from_pretrained(tmp_path, attn_implementation=implementation)


# Activation checkpointing


@pytest.mark.filterwarnings("ignore:`.*gradient_checkpointing")
@pytest.mark.parametrize("name", ["lstm-luong-fed", "rotary-swiglu-pre-norm"])
@pytest.mark.parametrize("word", ["activation", "gradient"])
@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpointing_under_both_names(name, word, use_reentrant):
    model = tiny(name).train()
    if not hasattr(model, f"{word}_checkpointing_enable"):
        pytest.skip("this transformers has the old name alone")
    switch_on, switch_off = (getattr(model, f"{word}_checkpointing_{end}able") for end in ("en", "dis"))
    states = []
    if use_reentrant:
        model.enable_input_require_grads()

    def results():
        names = ("is_activation_checkpointing", "is_gradient_checkpointing")
        states.append(tuple(getattr(model, name, model.is_gradient_checkpointing) for name in names))
        model.zero_grad()
        torch.manual_seed(7)
        loss = model(**batch()).loss
        loss.backward()
        return loss.detach(), gradients(model)

    calls = []
    layer = model.get_decoder().layers[0]
    inner = layer.fc1 if hasattr(layer, "fc1") else layer.rnn
    inner.register_forward_pre_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    plain, counts = results(), [len(calls)]
    options = {f"{word}_checkpointing_kwargs": {"use_reentrant": use_reentrant}}
    if word == "gradient" and hasattr(model, "activation_checkpointing_enable"):  # there the old name warns
        with pytest.warns(FutureWarning, match="activation_checkpointing_enable"):
            switch_on(**options)
    else:
        switch_on(**options)
    checkpointed, counts = results(), [*counts, len(calls)]
    switch_off()
    after = results()
    assert states == [(False, False), (True, True), (False, False)]
    assert counts[1] - counts[0] == 2 * counts[0]  # each forward runs once more in the backward
    assert len(calls) - counts[1] == counts[0]
    for other in (checkpointed, after):
        close(other[0], plain[0], 1e-6)
        for path, gradient in plain[1].items():
            close(other[1][path], gradient, 1e-6)


# Outputs


def test_outputs_have_marians_names_and_shapes():
    ours = tiny("post-norm")
    config = MarianConfig(
        vocab_size=VOCAB, d_model=16, encoder_layers=2, decoder_layers=3, encoder_attention_heads=2,
        decoder_attention_heads=4, encoder_ffn_dim=24, decoder_ffn_dim=20, pad_token_id=0, eos_token_id=2,
        decoder_start_token_id=1,
    )  # fmt: skip
    marian = MarianMTModel._from_config(config, attn_implementation="eager").eval()
    ours.set_attn_implementation("eager")

    def form(value):
        if torch.is_tensor(value):
            return tuple(value.shape)
        return [form(each) for each in value] if isinstance(value, tuple) else type(value)

    inputs = batch()
    ids = {"input_ids": inputs["input_ids"], "decoder_input_ids": inputs["labels"].clamp(min=0)}
    for options in (
        inputs,
        {**inputs, "output_hidden_states": True},
        {**inputs, "output_attentions": True},
        {**inputs, "output_hidden_states": True, "output_attentions": True},
        {**ids, "output_hidden_states": True, "output_attentions": True, "use_cache": True},
        {**ids, "use_cache": False},
    ):
        mine, theirs = ours(**options), marian(**options)
        assert list(mine.keys()) == list(theirs.keys())
        assert {key: form(value) for key, value in mine.items()} == {key: form(value) for key, value in theirs.items()}
        mine, theirs = ours(**options, return_dict=False), marian(**options, return_dict=False)
        assert isinstance(mine, tuple)
        assert form(mine) == form(theirs)
    base, marian_base = ours.model(**ids, output_attentions=True), marian.model(**ids, output_attentions=True)
    assert list(base.keys()) == list(marian_base.keys())
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "return_dict_in_generate": True, "output_attentions": True}
    mine, theirs = (each.generate(inputs["input_ids"], output_hidden_states=True, **options) for each in (ours, marian))
    for key in ("encoder_hidden_states", "encoder_attentions", "decoder_hidden_states", "cross_attentions"):
        assert form(mine[key]) == form(theirs[key])
    assert form(mine.decoder_attentions) == form(theirs.decoder_attentions)


@pytest.mark.parametrize("name", ["lstm-luong", "gru-bahdanau", "lstm-luong-fed"])
def test_recurrent_outputs_have_their_documented_shapes(name):
    model = tiny(name)
    config, inputs = model.config, batch()
    config.output_hidden_states = config.output_attentions = True
    outputs = model(**inputs)
    assert list(outputs.keys()) == [
        "loss", "logits", "decoder_hidden_states", "cross_attentions", "encoder_last_hidden_state",
        "encoder_hidden_states",
    ]  # fmt: skip
    assert outputs.logits.shape == (4, 6, VOCAB)
    assert [tuple(states.shape) for states in outputs.decoder_hidden_states] == [
        (4, 6, config.embedding_size), *[(4, 6, 16)] * config.decoder_layers,
    ]  # fmt: skip
    assert [tuple(states.shape) for states in outputs.encoder_hidden_states] == [
        (4, 7, config.embedding_size), *[(4, 7, 16)] * config.encoder_layers,
    ]  # fmt: skip
    assert [tuple(weights.shape) for weights in outputs.cross_attentions] == [(4, 1, 6, 7)]
    base = model.model(inputs["input_ids"], decoder_input_ids=inputs["labels"].clamp(min=0))
    assert base.last_hidden_state.shape == (4, 6, config.embedding_size)
    encoded = model.get_encoder()(inputs["input_ids"], inputs["attention_mask"], return_dict=False)
    assert tuple(encoded[0].shape) == (4, 7, 16)
    parts = 2 if config.cell_type == "lstm" else 1
    assert [tuple(part.shape) for part in encoded[2:]] == [(4, config.encoder_layers, 16)] * parts
    config.return_dict = False
    as_tuple = model(**inputs)
    assert isinstance(as_tuple, tuple)
    assert torch.equal(as_tuple[1], outputs.logits)


# Loss


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_loss_is_the_models_loss_function(name):
    model = tiny(name, label_smoothing=0.1)
    inputs = batch()
    outputs = model(**inputs)
    labels = inputs["labels"]
    close(model.loss_function(outputs.logits, labels, label_smoothing=0.1), outputs.loss)
    # Labels stand where their logits are: nothing is shifted.
    close(outputs.loss, F.cross_entropy(outputs.logits.flatten(0, 1), labels.flatten(), label_smoothing=0.1))
    tokens = (labels != -100).sum()
    for items in (7, torch.tensor(7)):
        close(model(**inputs, num_items_in_batch=items).loss * 7, outputs.loss * tokens)
    seen = {}

    def squared(logits, labels, **kwargs):
        seen.update(kwargs, labels=labels)
        return logits.square().mean()

    model.loss_function = squared
    changed = model(**inputs, num_items_in_batch=5)
    close(changed.loss, outputs.logits.square().mean())
    assert seen["labels"] is labels
    assert (seen["num_items_in_batch"], seen["label_smoothing"]) == (5, 0.1)


# Configurations


@pytest.mark.parametrize("name", FEW)
def test_config_goes_through_every_door(name, tmp_path):
    config = tiny(name).config
    expected = config.to_dict()
    extra = {"a_note": "kept", "a_table": {"3": [1, 2]}}
    twin = type(config).from_dict({**expected, **extra})
    assert (twin.a_note, twin.a_table) == ("kept", extra["a_table"])
    twin.save_pretrained(tmp_path)
    for read in (AutoConfig.from_pretrained(tmp_path), type(config).from_json_file(tmp_path / "config.json")):
        assert type(read) is type(config)
        assert {**read.to_dict(), "_name_or_path": ""} == {**twin.to_dict(), "_name_or_path": ""}
        assert read.a_table == extra["a_table"]
    made = AutoConfig.for_model(**expected)
    assert type(made) is type(config)
    assert made.to_dict() == expected
    assert json.loads(config.to_json_string(use_diff=False)) == json.loads(json.dumps(expected))
    assert type(config)(**config.to_diff_dict()).to_dict() == expected
    pickled = pickle.loads(pickle.dumps(config))
    assert pickled.to_dict() == expected
    changed, unused = type(config).from_pretrained(tmp_path, dropout=0.3, no_field=1, return_unused_kwargs=True)
    assert changed.dropout == 0.3
    assert unused == {"no_field": 1}


@pytest.mark.parametrize("config", [RnnSeq2SeqConfig, TransformerSeq2SeqConfig, HybridSeq2SeqConfig])
def test_config_knows_old_and_new_spellings(config, tmp_path):
    for spelling in ("dtype", "torch_dtype"):
        made = config(**{spelling: "bfloat16"})
        assert made.dtype == torch.bfloat16
        held = json.loads(made.to_json_string())
        assert held["dtype"] == "bfloat16"
        assert "torch_dtype" not in held
        (tmp_path / "config.json").write_text(json.dumps({"model_type": config.model_type, spelling: "float16"}))
        assert AutoConfig.from_pretrained(tmp_path).dtype == torch.float16
    assert config().use_return_dict is config().return_dict is True
    assert config(return_dict=False).use_return_dict is False
    assert config(num_hidden_layers=5).encoder_layers == 5
    if config is not RnnSeq2SeqConfig:
        assert config(hidden_size=64, num_attention_heads=4).d_model == 64
    assert (config().num_labels, config(num_labels=3).num_labels) == (2, 3)
