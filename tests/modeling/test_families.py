"""What a config answers about its models, held against what they do; and families that are defined elsewhere."""

import dataclasses
import json

import pytest
import torch
from helpers.tiny import EVERY, SOURCES, TRANSFORMERS, VOCAB, batch, close, tiny
from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM, PreTrainedConfig

import seqloom
from seqloom import (
    RnnSeq2SeqConfig,
    RnnSeq2SeqForConditionalGeneration,
    RnnSeq2SeqModel,
    Seq2SeqConfig,
    TransformerSeq2SeqConfig,
    register_family,
)
from seqloom.modeling import CONFIG_CLASSES
from seqloom.modeling.cells_rnn_seq2seq import RecurrentCell
from seqloom.modeling.configuration_seq2seq import QUESTIONS

NAMES_IN_WORDS = {
    "rnn": "tanh-RNN, no attention",
    "gru": "GRU, no attention",
    "lstm-untied": "LSTM, no attention",
    "rnn-bahdanau": "tanh-RNN, Bahdanau attention",
    "gru-bahdanau": "GRU, Bahdanau attention",
    "lstm-bahdanau": "LSTM, Bahdanau attention",
    "lstm-luong": "LSTM, Luong attention",
    "gru-luong-dot": "GRU, Luong attention",
    "lstm-luong-fed": "LSTM, Luong attention",
    "rnn-luong-fed": "tanh-RNN, Luong attention",
    "ssru": "SSRU, no attention",
    "min-gru-luong": "minGRU, Luong attention",
    "min-lstm-bahdanau": "minLSTM, Bahdanau attention",
    "hybrid": "Transformer encoder, SSRU decoder",
    "hybrid-lstm": "Transformer encoder, LSTM decoder",
    **dict.fromkeys(TRANSFORMERS, "Transformer"),
}
TRANSFORMER = "Transformer encoder-decoder (Vaswani et al. 2017): 2+3 layers, 16 wide, 2 and 4 heads, "
DESCRIPTIONS = {
    "rnn": "tanh-RNN encoder-decoder: 2+2 layers, 16 wide, embeddings 12 wide, unidirectional encoder, "
    "no attention (Sutskever et al. 2014)",
    "gru": "GRU encoder-decoder: 3+2 layers, 16 wide, embeddings 10 wide, bidirectional encoder, "
    "no attention (Sutskever et al. 2014)",
    "lstm-untied": "LSTM encoder-decoder: 2+2 layers, 16 wide, embeddings 16 wide, unidirectional encoder, "
    "no attention (Sutskever et al. 2014)",
    "rnn-bahdanau": "tanh-RNN encoder-decoder: 1+2 layers, 16 wide, embeddings 16 wide, unidirectional encoder, "
    "Bahdanau attention",
    "gru-bahdanau": "GRU encoder-decoder: 1+1 layers, 16 wide, embeddings 10 wide, bidirectional encoder, "
    "Bahdanau attention",
    "lstm-bahdanau": "LSTM encoder-decoder: 3+2 layers, 16 wide, embeddings 16 wide, bidirectional encoder, "
    "Bahdanau attention",
    "lstm-luong": "LSTM encoder-decoder: 2+2 layers, 16 wide, embeddings 10 wide, bidirectional encoder, "
    "Luong attention (general)",
    "gru-luong-dot": "GRU encoder-decoder: 1+3 layers, 16 wide, embeddings 16 wide, unidirectional encoder, "
    "Luong attention (dot)",
    "lstm-luong-fed": "LSTM encoder-decoder: 2+3 layers, 16 wide, embeddings 10 wide, bidirectional encoder, "
    "Luong attention (dot, input feeding)",
    "rnn-luong-fed": "tanh-RNN encoder-decoder: 2+2 layers, 16 wide, embeddings 10 wide, unidirectional encoder, "
    "Luong attention (general, input feeding)",
    "ssru": "SSRU encoder-decoder: 2+3 layers, 16 wide, embeddings 10 wide, bidirectional encoder, "
    "no attention (Sutskever et al. 2014)",
    "min-gru-luong": "minGRU encoder-decoder: 2+2 layers, 16 wide, embeddings 16 wide, bidirectional encoder, "
    "Luong attention (general)",
    "min-lstm-bahdanau": "minLSTM encoder-decoder: 1+1 layers, 16 wide, embeddings 16 wide, unidirectional encoder, "
    "Bahdanau attention",
    "hybrid": "Transformer encoder, SSRU decoder (Kim et al. 2019): 2+3 layers, 16 wide, 2 and 4 heads, feed-forward "
    "networks 20 and 24 wide with ReLU, post-norm, sinusoidal positions in the encoder",
    "hybrid-lstm": "Transformer encoder, LSTM decoder (Chen et al. 2018): 2+3 layers, 16 wide, 2 and 4 heads, "
    "feed-forward networks 20 and 24 wide with SwiGLU, pre-norm, rotary positions in the encoder",
    "post-norm": f"{TRANSFORMER}feed-forward networks 20 and 24 wide with ReLU, post-norm, sinusoidal positions",
    "pre-norm": f"{TRANSFORMER}feed-forward networks 20 and 24 wide with ReLU, pre-norm, sinusoidal positions",
    "gelu-separate": f"{TRANSFORMER}feed-forward networks 20 and 24 wide with GELU, post-norm, sinusoidal positions",
    "rotary": f"{TRANSFORMER}feed-forward networks 20 and 24 wide with ReLU, post-norm, rotary positions",
    "relative": f"{TRANSFORMER}feed-forward networks 20 and 24 wide with ReLU, post-norm, relative positions",
    "rotary-swiglu-pre-norm": f"{TRANSFORMER}feed-forward networks 20 and 24 wide with SwiGLU, pre-norm, "
    "rotary positions",
    "untied-unscaled": f"{TRANSFORMER}feed-forward networks 20 and 24 wide with ReLU, post-norm, sinusoidal positions",
}


@pytest.mark.parametrize("name", EVERY)
def test_names_and_descriptions(name):
    config = tiny(name).config
    assert config.name_in_words == NAMES_IN_WORDS[name]
    assert config.describe() == DESCRIPTIONS[name]


def test_sides_that_are_alike_are_described_once():
    assert "6+6 layers, 512 wide, 8 heads, feed-forward networks 2048 wide" in TransformerSeq2SeqConfig().describe()


def test_answers_are_what_the_model_does(model):
    config, inputs = model.config, batch()
    if config.has_encoder_self_attention:
        model.set_attn_implementation("eager")  # the one that gives its weights
    outputs = model(**inputs, output_attentions=True)
    assert config.has_encoder_self_attention == bool(outputs.encoder_attentions)
    assert config.has_decoder_self_attention == bool(outputs.decoder_attentions)
    assert config.has_cross_attention == bool(outputs.cross_attentions)
    recurrent = [
        any(isinstance(getattr(module, "cell", None), RecurrentCell) for module in part.modules())
        for part in (model.get_encoder(), model.get_decoder())
    ]
    assert [config.has_recurrent_encoder, config.has_recurrent_decoder] == recurrent

    def kept(length: int) -> int:
        cache = model(torch.tensor(SOURCES[:1]), decoder_input_ids=torch.full((1, length), 5), use_cache=True)
        cache = getattr(cache.past_key_values, "self_attention_cache", cache.past_key_values)
        found = [value for layer in cache.layers for value in vars(layer).values()]
        tensors = [part for value in found for part in (value if isinstance(value, tuple) else (value,))]
        return sum(part.numel() for part in tensors if torch.is_tensor(part))

    assert kept(4) > 0
    assert config.has_constant_state == (kept(4) == kept(9))


def test_answers_are_not_in_the_file(model):
    """``config.json`` holds what a model is made from; what follows from it cannot contradict it there."""
    config = model.config
    for held in (config.to_dict(), json.loads(config.to_json_string(use_diff=False))):
        assert not held.keys() & {*QUESTIONS, "describe"}
    assert not {field.name for field in dataclasses.fields(config)} & {*QUESTIONS, "describe"}
    for question in QUESTIONS:
        assert not hasattr(PreTrainedConfig, question), "transformers has a name of its own here"
        with pytest.raises(AttributeError):
            setattr(config, question, True)


def test_every_family_has_its_public_names():
    for config_class in CONFIG_CLASSES.values():
        family = config_class.__name__.removesuffix("Config")
        for part in ("Config", "PreTrainedModel", "Model", "ForConditionalGeneration"):
            assert f"{family}{part}" in seqloom.__all__
        config = config_class()
        assert config.encoder_layers == config.num_hidden_layers >= 1
        assert config.decoder_layers >= 1
        assert config.hidden_size >= 1


def test_shared_fields_are_checked_by_the_familys_names():
    with pytest.raises(ValueError, match=r"^d_model=0: it must be 1 or more\."):
        TransformerSeq2SeqConfig(d_model=0)
    with pytest.raises(ValueError, match=r"^hidden_size=0: it must be 1 or more\."):
        RnnSeq2SeqConfig(hidden_size=0)


def family_that_answers(*answered: str, model_type: str = "reticent_seq2seq") -> type[Seq2SeqConfig]:
    """A config class that answers these questions alone."""
    answers = {name: property(lambda self: True) for name in answered if name != "describe"}
    if "describe" in answered:
        answers["describe"] = lambda self: "Reticent encoder-decoder"
    body = {"model_type": model_type, "hidden_size": 8, "__annotations__": {"hidden_size": int}, **answers}
    return strict(type("ReticentConfig", (Seq2SeqConfig,), {**body, "__module__": __name__}))


REQUIRED = [
    *(question for question in QUESTIONS if question not in ("has_constant_state", "has_parallel_training")),
    "describe",
]


@pytest.mark.parametrize("left_out", REQUIRED)
def test_a_family_that_leaves_a_question_open_is_refused(left_out):
    config_class = family_that_answers(*(name for name in REQUIRED if name != left_out))
    config = config_class()
    with pytest.raises(NotImplementedError, match=f"ReticentConfig does not answer `{left_out}`"):
        config.describe() if left_out == "describe" else getattr(config, left_out)
    with pytest.raises(NotImplementedError, match=f"ReticentConfig does not answer `{left_out}`"):
        register_family(config_class, RnnSeq2SeqModel, RnnSeq2SeqForConditionalGeneration)
    assert config_class.model_type not in CONFIG_CLASSES


@pytest.mark.parametrize("grows", [True, False])
def test_a_state_is_constant_unless_the_decoder_looks_at_its_own_tokens(grows):
    config_class = family_that_answers(*REQUIRED)
    config_class.has_decoder_self_attention = property(lambda self: grows)
    assert config_class().has_constant_state is not grows


@pytest.mark.parametrize("side", ["encoder", "decoder", None])
def test_training_is_parallel_unless_a_side_is_recurrent(side):
    config_class = family_that_answers(*REQUIRED)
    for name in ("encoder", "decoder"):
        setattr(config_class, f"has_recurrent_{name}", property(lambda self, answer=name == side: answer))
    assert config_class().has_parallel_training is (side is None)


@pytest.mark.parametrize(
    ("cell", "fields", "is_parallel"),
    [
        ("ssru", {"attention": "none"}, True), ("min_gru", {"attention": "luong"}, True),
        ("min_lstm", {"attention": "bahdanau"}, False), ("min_gru", {"input_feeding": True}, False),
        ("gru", {"attention": "none"}, False), ("lstm", {}, False),
    ],
)  # fmt: skip
def test_training_is_parallel_where_the_cell_is_and_nothing_is_fed(cell, fields, is_parallel):
    assert RnnSeq2SeqConfig(cell_type=cell, **fields).has_parallel_training is is_parallel


@pytest.mark.parametrize(
    ("model_type", "words"),
    [("rnn_seq2seq", "'rnn_seq2seq', which is RnnSeq2SeqConfig's: give it one"), ("", "'', which names nothing")],
)
def test_a_family_needs_a_model_type_of_its_own(model_type, words):
    config_class = family_that_answers(*REQUIRED, model_type=model_type)
    with pytest.raises(ValueError, match=words):
        register_family(config_class, RnnSeq2SeqModel, RnnSeq2SeqForConditionalGeneration)
    assert CONFIG_CLASSES["rnn_seq2seq"] is RnnSeq2SeqConfig


@strict
class GuestConfig(RnnSeq2SeqConfig):
    """A family that is defined outside: here, another name for the recurrent one."""

    model_type = "guest_seq2seq"

    @property
    def name_in_words(self) -> str:
        return "guest"


class GuestModel(RnnSeq2SeqModel):
    config: GuestConfig
    _auto_map = {"AutoModel": "test_families.GuestModel"}


class GuestForConditionalGeneration(RnnSeq2SeqForConditionalGeneration):
    config: GuestConfig
    _auto_map = {"AutoModel": "test_families.GuestModel"}


@pytest.fixture
def guest():
    """Registered for the length of a test."""
    register_family(GuestConfig, GuestModel, GuestForConditionalGeneration)
    yield
    del CONFIG_CLASSES["guest_seq2seq"]
    for mapping in (AutoModel._model_mapping, AutoModelForSeq2SeqLM._model_mapping):
        del mapping._extra_content[GuestConfig]
    del AutoConfig.for_model.__globals__["CONFIG_MAPPING"]._extra_content["guest_seq2seq"]


@pytest.mark.usefixtures("guest")
def test_a_family_defined_elsewhere_is_a_family(tmp_path):
    assert CONFIG_CLASSES["guest_seq2seq"] is GuestConfig
    register_family(GuestConfig, GuestModel, GuestForConditionalGeneration)  # again changes nothing
    config = AutoConfig.for_model("guest_seq2seq", vocab_size=VOCAB, hidden_size=8)
    assert (type(config), config.name_in_words) == (GuestConfig, "guest")
    model = AutoModelForSeq2SeqLM.from_config(config).eval()
    assert type(model) is GuestForConditionalGeneration
    model.save_pretrained(tmp_path)
    for auto, kind in ((AutoModel, GuestModel), (AutoModelForSeq2SeqLM, GuestForConditionalGeneration)):
        assert type(auto.from_pretrained(tmp_path)) is kind
    close(AutoModelForSeq2SeqLM.from_pretrained(tmp_path)(**batch()).logits, model(**batch()).logits)
    assert (tmp_path / "test_families.py").is_file()  # its code goes along
