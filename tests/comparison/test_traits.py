"""What a comparison knows of a model by its config, and what it leaves open."""

import dataclasses
import json

import pytest
from helpers.tiny import EVERY, RNNS, TRANSFORMERS, tiny
from transformers import BartConfig, BertConfig, EncoderDecoderConfig, MambaConfig, PreTrainedConfig, T5Config

from seqloom import RnnSeq2SeqConfig, Seq2SeqConfig
from seqloom.comparison.traits import Traits, hybrid_recipe, recorded, recurrent_recipe, traits_of
from seqloom.modeling.configuration_seq2seq import QUESTIONS

ANSWERS = [question for question in QUESTIONS if question.startswith("has_")]


def parts(encoder, decoder) -> EncoderDecoderConfig:
    return EncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)


class Unknown(PreTrainedConfig):
    model_type = "unknown_to_all"


@pytest.mark.parametrize("name", EVERY)
def test_ours_say_it_themselves(name):
    config = tiny(name).config
    traits = traits_of(config)
    assert traits.name == config.name_in_words
    sizes = f"{config.encoder_layers}+{config.decoder_layers} layers of 16"
    assert traits.description == f"{config.name_in_words}, {sizes}"
    assert [getattr(traits, question) for question in ANSWERS] == [getattr(config, question) for question in ANSWERS]
    assert (traits.is_recurrent, traits.is_transformer) == (name in RNNS, name in TRANSFORMERS)
    attends = getattr(config, "attention", None) != "none"
    assert traits.looks_back is attends
    kind = f"recurrent with{'' if attends else 'out'} attention" if name in RNNS else config.name_in_words
    assert traits.kind == kind
    assert traits.is_hybrid == (hybrid_recipe(config) is not None) == (name not in RNNS and name not in TRANSFORMERS)
    recipe = recurrent_recipe(config)
    assert (recipe is not None) == (name in RNNS)
    assert recipe is None or RnnSeq2SeqConfig(**recipe).name_in_words == traits.name


@pytest.mark.parametrize("config", [BartConfig(), T5Config(), parts(BertConfig(), BertConfig())], ids=type)
def test_encoder_decoders_of_transformers(config):
    traits = traits_of(config)
    assert (traits.name, traits.kind) == (config.model_type, "Transformer")
    assert (traits.is_recurrent, traits.is_transformer, traits.has_constant_state) == (False, True, False)


def test_configs_of_older_models_are_believed(monkeypatch):
    monkeypatch.delattr(Seq2SeqConfig, "has_parallel_training")
    monkeypatch.delattr(RnnSeq2SeqConfig, "has_parallel_training")
    traits = traits_of(RnnSeq2SeqConfig())
    assert (traits.is_recurrent, traits.has_parallel_training) == (True, None)


def test_sides_are_looked_at():
    traits = traits_of(parts(MambaConfig(), BertConfig()))
    assert (traits.has_recurrent_encoder, traits.has_recurrent_decoder) == (True, False)
    assert (traits.has_encoder_self_attention, traits.has_decoder_self_attention) == (False, True)
    assert (traits.is_transformer, traits.kind) == (False, "encoder-decoder")


def test_what_is_unknown_is_not_claimed():
    traits = traits_of(Unknown())
    assert (traits.name, traits.description, traits.kind) == ("unknown_to_all",) * 3
    assert {getattr(traits, question) for question in ANSWERS} == {None}
    assert (traits.is_recurrent, traits.is_transformer, traits.looks_back, traits.is_hybrid) == (None,) * 4


def test_a_question_that_is_left_open(monkeypatch):
    monkeypatch.setattr(RnnSeq2SeqConfig, "has_cross_attention", Seq2SeqConfig.has_cross_attention)
    traits = traits_of(RnnSeq2SeqConfig())
    assert (traits.has_cross_attention, traits.is_recurrent, traits.looks_back) == (None, True, None)
    assert traits.kind == traits.name


def test_recorded():
    traits = traits_of(tiny("gru").config)
    assert recorded(json.loads(json.dumps({"traits": dataclasses.asdict(traits)}))) == traits


@pytest.mark.parametrize(
    ("entry", "answers"),
    [
        ({"family": "rnn_seq2seq"}, (True, False, True)), ({"family": "transformer_seq2seq"}, (False, True, True)),
        ({"kind": "rnn"}, (True, False, False)), ({"kind": "rnn with attention"}, (True, False, True)),
        ({"kind": "transformer"}, (False, True, True)), ({"is_recurrent": True}, (True, False, True)),
        ({"recurrent": True, "attention": False}, (True, False, False)),
    ],
)  # fmt: skip
def test_recorded_by_earlier_versions(entry, answers):
    found = recorded(entry)
    assert isinstance(found, Traits)
    assert (found.is_recurrent, found.is_transformer, found.looks_back) == answers
    assert recorded("GRU, no attention, 1+1 layers of 8").has_cross_attention is False
    assert recorded("Transformer, 1+1 layers of 8").has_cross_attention is True
