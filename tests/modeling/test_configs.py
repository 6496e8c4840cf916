"""Configs refuse what no model can be, and know their sizes by transformers' names."""

import pytest
from huggingface_hub.errors import StrictDataclassFieldValidationError

from seqloom import HybridSeq2SeqConfig, RnnSeq2SeqConfig, TransformerSeq2SeqConfig


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"cell_type": "lsmt"}, ["cell_type='lsmt'", "rnn, lstm, gru"]),
        ({"attention": "lunog"}, ["attention='lunog'", "none, bahdanau, luong"]),
        ({"attention_score": "concat"}, ["attention_score='concat'", "general, dot"]),
        ({"bridge": "linear"}, ["bridge='linear'", "dense, copy, zeros"]),
        ({"hidden_size": 15}, ["hidden_size=15", "even", "bidirectional=False"]),
        ({"input_feeding": True, "attention": "bahdanau"}, ["input_feeding=True", "'luong'", "'bahdanau'"]),
        ({"input_feeding": True, "attention": "none"}, ["input_feeding=True", "'luong'", "'none'"]),
        ({"attention": "none", "bridge": "zeros"}, ["bridge='zeros'", "attention='none'", "'dense' or 'copy'"]),
        ({"encoder_layers": 0}, ["encoder_layers=0", "1 or more"]),
        ({"hidden_size": 2**40}, ["hidden_size=1099511627776", "or less"]),
        ({"decoder_layers": 0}, ["decoder_layers=0", "1 or more"]),
        ({"embedding_size": 0}, ["embedding_size=0", "1 or more"]),
        ({"vocab_size": -3}, ["vocab_size=-3", "1 or more"]),
        ({"dropout": 1.0}, ["dropout=1.0", "less than 1"]),
        ({"dropout": -0.1}, ["dropout=-0.1", "at least 0"]),
        ({"label_smoothing": 1}, ["label_smoothing=1", "less than 1"]),
        ({"init_range": 0}, ["init_range=0", "more than 0", "None"]),
        ({"decoder_vocab_size": 9}, ["decoder_vocab_size=9", "vocab_size=32000", "share_encoder_decoder_embeddings"]),
    ],
)
def test_recurrent_config_refuses(fields, words):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the words are checked below
        RnnSeq2SeqConfig(**fields)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("value", ["wide", True, [0.1]])
def test_range_of_weights_is_a_number_or_none(value):
    with pytest.raises(StrictDataclassFieldValidationError, match="init_range"):
        RnnSeq2SeqConfig(init_range=value)
    assert RnnSeq2SeqConfig().init_range is None
    assert RnnSeq2SeqConfig(init_range=1).init_range == 1


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"d_model": 500}, ["d_model=500", "encoder_attention_heads=8", "d_model=496"]),
        ({"decoder_attention_heads": 7}, ["d_model=512", "decoder_attention_heads=7", "d_model=511"]),
        (
            {"d_model": 15, "encoder_attention_heads": 3, "decoder_attention_heads": 3},
            ["d_model=15", "odd", "even"],
        ),
        (
            {"d_model": 24, "decoder_attention_heads": 8, "position_embedding_type": "rotary"},
            ["rotary", "d_model=24", "encoder_attention_heads=8", "odd size 3", "even"],
        ),
        ({"activation_function": "tanh"}, ["activation_function='tanh'", "relu, gelu, swiglu"]),
        ({"position_embedding_type": "learned"}, ["position_embedding_type='learned'", "sinusoidal, rotary, relative"]),
        ({"encoder_layers": 0}, ["encoder_layers=0", "1 or more"]),
        ({"decoder_ffn_dim": 0}, ["decoder_ffn_dim=0", "1 or more"]),
        ({"encoder_attention_heads": 0}, ["encoder_attention_heads=0", "1 or more"]),
        ({"dropout": 1}, ["dropout=1", "less than 1"]),
        ({"rope_theta": -1}, ["rope_theta=-1", "more than 0"]),
        ({"decoder_ffn_dim": 10**400}, ["decoder_ffn_dim=1000", "or less"]),
        ({"attention_dropout": 1.5}, ["attention_dropout=1.5", "less than 1"]),
        ({"activation_dropout": -1}, ["activation_dropout=-1", "at least 0"]),
        ({"label_smoothing": 1.0}, ["label_smoothing=1.0", "less than 1"]),
        ({"decoder_vocab_size": 9}, ["decoder_vocab_size=9", "vocab_size=37000", "share_encoder_decoder_embeddings"]),
    ],
)
def test_transformer_config_refuses(fields, words):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the words are checked below
        TransformerSeq2SeqConfig(**fields)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("config", [RnnSeq2SeqConfig, TransformerSeq2SeqConfig, HybridSeq2SeqConfig])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("encoder_layers", "2"),
        ("encoder_layers", 2.0),
        ("dropout", "0.1"),
        ("tie_word_embeddings", 1),
        ("vocab_size", None),
    ],
)
def test_config_refuses_another_type(config, field, value):
    with pytest.raises(Exception, match=field):
        config(**{field: value})


def test_widths_and_parts_are_known_by_their_general_names(model):
    config = model.config
    assert model.get_encoder() is model.model.encoder
    assert model.get_decoder() is model.model.decoder
    assert model.can_generate()
    assert config.hidden_size == 16
    assert config.num_hidden_layers == config.encoder_layers
    assert config.is_encoder_decoder
    assert config.get_text_config(decoder=True).num_hidden_layers == config.decoder_layers
