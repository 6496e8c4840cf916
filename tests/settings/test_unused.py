"""What is set and would change nothing is refused; so are sizes that no machine has."""

import pytest

from seqloom.settings.bounds import check_bounds
from seqloom.settings.checks import check_settings
from seqloom.settings.schema import Settings
from seqloom.settings.typed import build
from seqloom.settings.unused import check_used

RAW = {"output_dir": "x", "model": {"model_type": "rnn_seq2seq"}, "data": {"train_files": ["a.csv"]},
       "training": {"max_steps": 1}}  # fmt: skip


def settings(**changes) -> Settings:
    return build(Settings, {**RAW, **{name: {**RAW.get(name, {}), **fields} for name, fields in changes.items()}}, "")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data": {"revision": "v1"}}, "data.revision is 'v1', which belongs to data.dataset"),
        (
            {"data": {"mix": [{"weight": 1, "train_files": ["b.csv"], "config_name": "x"}]}},
            r"data.mix\[0\].config_name is 'x', which belongs to data.mix\[0\].dataset, but the pairs are in files",
        ),
        ({"data": {"shuffle_buffer": 9}}, "data.shuffle_buffer is 9, which belongs to data.streaming"),
        ({"data": {"weight": 2}}, "data.weight is 2.0, which belongs to data.mix"),
        ({"tokenizer": {"target_kind": "char"}}, "target_kind is 'char', which belongs to tokenizer.shared: false"),
        ({"tokenizer": {"path": "t", "lowercase": True}}, "lowercase is true, which belongs to a tokenizer that is"),
        ({"training": {"average_kind": "best"}}, "average_kind is 'best', which belongs to training.average_checkp"),
        ({"training": {"average_checkpoints": 1}}, "average_checkpoints is 1, of which the mean is itself"),
        ({"training": {"eval_samples": 9}}, "eval_samples is 9, which belongs to training.eval_metric"),
        ({"hub": {"hub_strategy": "best"}}, "hub_strategy is 'best', which belongs to hub.push_to_hub"),
        ({"generation": {"length_penalty": 0.5}}, "length_penalty is 0.5, which belongs to beams"),
        ({"generation": {"generate_kwargs": {"num_beams": 2}}}, "generate_kwargs has num_beams"),
        ({"generation": {"generate_kwargs": {"max_length": 2}}}, "generate_kwargs has max_length"),
        ({"model": {"attention": "none", "attention_score": "dot"}}, "attention_score is 'dot', which belongs to"),
        ({"evaluation": {"metric_kwargs": {"wer": {}}}}, "arguments of wer, but the metrics are sacrebleu, chrf"),
        ({"evaluation": {"metric_kwargs": {"chrf": {"bootstrap_samples": 9}}}}, "which all metrics have in common"),
        ({"evaluation": {"metric_kwargs": {"chrf": {"sources": ["a"]}}}}, "sources, which come from the data"),
        ({"evaluation": {"metric_kwargs": {"sacreblue": {}}}}, r"did you mean sacrebleu\?"),
    ],
)
def test_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        check_used(settings(**changes))


@pytest.mark.parametrize("positions", ["sinusoidal", "relative"])
def test_wavelengths_of_other_positions_are_refused(positions):
    model = {"model_type": "transformer_seq2seq", "position_embedding_type": positions, "rope_theta": 500}
    said = f"rope_theta is 500, which belongs to position_embedding_type: rotary, but the positions are {positions}"
    with pytest.raises(ValueError, match=said):
        check_used(settings(model=model))


def test_allowed():
    used = settings(
        training={"eval_metric": "wer", "eval_samples": 9, "average_checkpoints": 3, "average_kind": "best"},
        generation={"num_beams": 3, "length_penalty": 0.5}, evaluation={"metric_kwargs": {"wer": {}, "chrf": {}}},
    )  # fmt: skip
    assert check_used(used) is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"generation": {"num_beams": "1e30"}}, "generation.num_beams is 1.*; it must be 10,000 or less"),
        ({"training": {"max_steps": 1e30}}, "training.max_steps is 1.*; it must be 2,147,483,647 or less"),
        ({"training": {"batch_tokens": 10**30}}, "training.batch_tokens is 1.*; it must be 2,147,483,647 or less"),
        ({"tokenizer": {"vocab_size": 10**18}}, "tokenizer.vocab_size is 1.*; it must be 16,777,216 or less"),
        ({"data": {"num_proc": 10**6}}, "data.num_proc is 1000000; it must be 1,024 or less"),
    ],
)
def test_bounds(changes, said):
    with pytest.raises(ValueError, match=said):
        check_bounds(settings(**changes))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 10**400, "many"])
def test_no_numbers(value):
    for section, name in (("training", "learning_rate"), ("training", "label_smoothing_factor"), ("data", "weight")):
        with pytest.raises(ValueError, match=f"{section}.{name} is .*; it must be float"):
            settings(**{section: {name: value}})


TRANSFORMER = {"model_type": "transformer_seq2seq"}


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"hidden_size": 10**12}, "hidden_size=1000000000000: it must be 1,048,576 or less"),
        ({"encoder_layers": 10**5}, "encoder_layers=100000: it must be 1,000 or less"),
        ({"hidden_size": 0}, "hidden_size=0: it must be 1 or more"),
        ({"hidden_size": "wide"}, "hidden_size"),
        ({"dropout": float("nan")}, "dropout=nan: it must be at least 0"),
        ({"init_range": float("inf")}, "init_range=inf: it must be a number"),
        ({**TRANSFORMER, "rope_theta": float("nan")}, "rope_theta=nan: it must be a number"),
        ({**TRANSFORMER, "d_model": 9}, "d_model=9"),
    ],
)
def test_models(model, said):
    with pytest.raises(ValueError, match=said):
        check_settings(settings(model=model))
