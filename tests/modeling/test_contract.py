"""What transformers, accelerate, peft and torch expect of a model: both families keep it, each library as it is."""

import copy
import inspect
import json
import pickle

import numpy as np
import peft
import pytest
import torch
import torch.distributed as dist
from accelerate import infer_auto_device_map
from accelerate.utils import FullyShardedDataParallelPlugin, compute_module_sizes
from accelerate.utils.dataclasses import get_module_class_from_name
from helpers.tiny import ONE_LAYER, RNNS, SOURCES, TARGETS, VOCAB, batch, close, gradients, is_rnn, pad, tiny
from safetensors import safe_open
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.export import Dim, export
from torch.nn import functional as F
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoConfig,
    DataCollatorForSeq2Seq,
    DynamicCache,
    EncoderDecoderCache,
    MarianConfig,
    MarianMTModel,
    PreTrainedTokenizerFast,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
)
from transformers.cache_utils import Cache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput

from seqloom import RnnSeq2SeqConfig, TransformerSeq2SeqConfig
from seqloom.modeling.cache_rnn_seq2seq import RecurrentStateLayer
from seqloom.modeling.modeling_rnn_seq2seq import RnnSeq2SeqEncoderOutput

ONE_OF_EACH = ["lstm-luong", "post-norm"]
FEW = ["gru-bahdanau", "lstm-untied", "post-norm", "gelu-separate"]
APART = {"share_encoder_decoder_embeddings": False, "decoder_vocab_size": 23}


def say(model):
    """Tokens of a beam search."""
    inputs = batch()
    inputs.pop("labels")
    return model.generate(**inputs, max_new_tokens=6, num_beams=2)


def assert_same(first, second, tolerance=1e-6):
    """Equal logits, equal tokens."""
    close(second(**batch()).logits, first(**batch()).logits, tolerance)
    assert torch.equal(say(second), say(first))


# Weights


def matrices(model) -> tuple:
    """Source, target and output matrix."""
    modules = (model.get_input_embeddings(), model.get_decoder_input_embeddings(), model.get_output_embeddings())
    return tuple(module.weight for module in modules)


def distinct(model) -> int:
    """How many matrices these are."""
    return len({weight.data_ptr() for weight in matrices(model)})


@pytest.mark.parametrize("name", ONE_OF_EACH)
@pytest.mark.parametrize(
    ("options", "groups", "held"),
    [
        ({}, 1, {"model.shared.weight"}),
        (APART, 2, {"model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight"}),
        (
            {"tie_word_embeddings": False}, 3,
            {"model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight"},
        ),
    ],
    ids=["shared", "separate", "untied"],
)  # fmt: skip
def test_tied_weights_are_saved_once_and_share_storage_ever_after(name, options, groups, held, tmp_path):
    model = tiny(name, **options)
    for round_trip in range(3):
        assert distinct(model) == groups
        source, target, output = matrices(model)
        assert (target.data_ptr() == output.data_ptr()) == (groups < 3)
        assert (source.data_ptr() == target.data_ptr()) == (groups == 1)
        expected = model(**batch()).logits
        model.save_pretrained(tmp_path)
        with safe_open(tmp_path / "model.safetensors", "pt") as file:
            saved = set(file.keys())
        assert {key for key in saved if "embed_tokens" in key or "shared" in key or "lm_head" in key} == held
        tied = model.all_tied_weights_keys
        assert isinstance(tied, dict)
        assert not saved & tied.keys()
        assert set(tied.values()) <= saved
        model = type(model).from_pretrained(tmp_path)
        close(model(**batch()).logits, expected, 1e-6)
        assert distinct(model) == groups
        model.resize_token_embeddings(VOCAB + 3 + round_trip)


@pytest.mark.parametrize("name", FEW)
def test_training_a_tied_matrix_trains_all_its_uses(name):
    model = tiny(name)
    model(**batch()).loss.backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    source, target, output = matrices(model)
    assert torch.equal(target, output) == model.config.tie_word_embeddings
    sides = model.config.tie_word_embeddings and model.config.share_encoder_decoder_embeddings
    assert (source.shape == target.shape and torch.equal(source, target)) == sides


@pytest.mark.parametrize("name", FEW)
def test_replaced_embeddings_are_those_the_forward_uses(name):
    model = tiny(name)
    inputs = batch()
    encoder_outputs = model.get_encoder()(inputs["input_ids"], inputs["attention_mask"])
    rest = {"attention_mask": inputs["attention_mask"], "labels": inputs["labels"]}
    expected = model(**inputs)
    new = nn.Embedding.from_pretrained(torch.randn_like(model.get_input_embeddings().weight), freeze=False)
    shared = model.get_decoder_input_embeddings().weight is model.get_input_embeddings().weight

    model.set_input_embeddings(new)
    assert model.get_input_embeddings() is model.base_model.get_input_embeddings() is new
    assert (model.get_decoder_input_embeddings() is new) == shared
    changed = model.get_encoder()(inputs["input_ids"], inputs["attention_mask"]).last_hidden_state
    assert (changed - expected.encoder_last_hidden_state).abs().max() > 1e-3
    by_decoder = model(encoder_outputs=encoder_outputs, **rest).logits
    assert ((by_decoder - expected.logits).abs().max() > 1e-3) == shared

    head = nn.Linear(model.lm_head.in_features, model.lm_head.out_features, bias=False)
    model.set_output_embeddings(head)
    assert model.get_output_embeddings() is head
    assert model.base_model.get_output_embeddings() is None
    decoder_input_ids = model.prepare_decoder_input_ids_from_labels(inputs.pop("labels"))
    states = model.base_model(**inputs, decoder_input_ids=decoder_input_ids).last_hidden_state
    close(model(**inputs, decoder_input_ids=decoder_input_ids).logits, states @ head.weight.T)


@pytest.mark.parametrize("name", FEW)
def test_large_weights_are_saved_in_shards(name, tmp_path):
    model = tiny(name)
    model.save_pretrained(tmp_path, max_shard_size="6KB")
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert len(shards) > 2
    assert not (tmp_path / "model.safetensors").exists()
    held = {key: shard.name for shard in shards for key in load_file(shard)}
    assert held == index["weight_map"]
    assert index["metadata"]["total_parameters"] == model.num_parameters()
    loaded, info = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"))
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value)
    assert distinct(loaded) == distinct(model)
    assert_same(model, loaded)


@pytest.mark.parametrize("name", FEW)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 0.02), (torch.bfloat16, 0.15)], ids=["fp16", "bf16"])
def test_model_loads_in_half_precision(name, dtype, tolerance, tmp_path):
    model = tiny(name, noise=0.05)
    model.save_pretrained(tmp_path)
    expected = model(**batch()).logits
    for spelling in ({"dtype": dtype}, {"torch_dtype": dtype}, {"dtype": str(dtype).removeprefix("torch.")}):
        loaded = type(model).from_pretrained(tmp_path, **spelling)
        assert {parameter.dtype for parameter in loaded.parameters()} == {dtype}
        assert loaded.dtype == loaded.config.dtype == dtype
    logits = loaded(**batch()).logits
    assert logits.dtype == dtype
    close(logits.float(), expected, tolerance)
    loaded.config.label_smoothing = 0.1
    assert loaded(**batch()).loss.isfinite()
    tokens = loaded.generate(batch()["input_ids"], max_new_tokens=5, output_logits=True, return_dict_in_generate=True)
    assert all(step.isfinite().all() for step in tokens.logits)


@pytest.mark.parametrize("name", FEW)
def test_model_may_be_copied_pickled_and_converted(name, tmp_path):
    model = tiny(name)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert twin.get_input_embeddings().weight.data_ptr() != model.get_input_embeddings().weight.data_ptr()
        assert distinct(twin) == distinct(model)
        assert_same(model, twin)
        assert {parameter.dtype for parameter in twin.half().parameters()} == {torch.float16}
        assert twin(**batch()).logits.isfinite().all()
    torch.save(model, tmp_path / "model.pt")
    assert_same(model, torch.load(tmp_path / "model.pt", weights_only=False))
    double = copy.deepcopy(model).to(torch.float64)
    close(double(**batch()).logits.float(), model(**batch()).logits, 1e-4)
    assert distinct(double) == distinct(model)


# Places


@pytest.mark.parametrize("name", FEW)
@pytest.mark.parametrize("device_map", ["cpu", {"": "cpu"}, "auto"], ids=str)
def test_device_map_changes_nothing(name, device_map, tmp_path):
    model = tiny(name)
    model.save_pretrained(tmp_path)
    assert_same(model, type(model).from_pretrained(tmp_path, device_map=device_map))


@pytest.mark.parametrize("name", FEW)
def test_what_does_not_fit_stays_on_the_disk(name, tmp_path):
    model = tiny(name)
    model.save_pretrained(tmp_path / "model")
    memory = {"cpu": int(0.7 * compute_module_sizes(model)[""])}
    loaded = type(model).from_pretrained(
        tmp_path / "model", device_map="auto", max_memory=memory, offload_folder=tmp_path / "rest"
    )
    assert set(loaded.hf_device_map.values()) == {"cpu", "disk"}
    assert any(parameter.is_meta for parameter in loaded.parameters())
    assert_same(model, loaded)


@pytest.mark.parametrize("name", FEW)
def test_parts_may_be_put_in_places_by_name(name, tmp_path):
    model = tiny(name)
    model.save_pretrained(tmp_path / "model")
    places = {path: "cpu" for path, part in model.named_modules() if path and not list(part.children())}
    places = {path: place for path, place in places.items() if "decoder.layers" not in path}
    loaded = type(model).from_pretrained(
        tmp_path / "model", device_map={**places, "model.decoder.layers": "disk"}, offload_folder=tmp_path / "rest"
    )
    is_away = {path for path, parameter in loaded.named_parameters() if parameter.is_meta}
    assert is_away == {path for path, _ in model.named_parameters() if path.startswith("model.decoder.layers")}
    assert_same(model, loaded)


@pytest.mark.parametrize("name", FEW)
def test_layers_are_never_split(name):
    model = tiny(name)
    layers = [path for path, part in model.named_modules() if isinstance(part, GradientCheckpointingLayer)]
    whole = {get_module_class_from_name(model, name) for name in model._no_split_modules}
    assert {type(model.get_submodule(path)) for path in layers} == whole
    total = compute_module_sizes(model)[""]
    splits = 0
    for share in range(10, 100, 5):
        places = infer_auto_device_map(
            model, {"cpu": total * share // 100, "disk": 10 * total}, no_split_module_classes=model._no_split_modules
        )
        inside = [path for path in places for layer in layers if path.startswith(f"{layer}.")]
        assert not inside
        splits += len(set(places.values())) > 1
    assert splits


@pytest.mark.parametrize("name", FEW)
def test_accelerate_finds_the_layers_to_shard(name):
    model = tiny(name)
    layers = {type(part) for part in model.modules() if isinstance(part, GradientCheckpointingLayer)}
    given = [layer.__name__ for layer in layers]
    for options in ({}, {"transformer_cls_names_to_wrap": given}):
        plugin = FullyShardedDataParallelPlugin(auto_wrap_policy="transformer_based_wrap", **options)
        plugin.set_auto_wrap_policy(model)
        assert plugin.auto_wrap_policy.keywords["transformer_layer_cls"] == layers


@pytest.fixture
def mesh(tmp_path):
    """One process that thinks it is many."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore:FSDP2-wrapped module")
@pytest.mark.filterwarnings("ignore:`.*gradient_checkpointing")
@pytest.mark.parametrize("name", FEW)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_sharded_model_learns_the_same(name, checkpointing, mesh):
    model = tiny(name, dropout=0.0).train()
    sharded = copy.deepcopy(model)
    if checkpointing:
        sharded.gradient_checkpointing_enable()
    for layer in [part for part in sharded.modules() if type(part).__name__ in sharded._no_split_modules]:
        fully_shard(layer, mesh=mesh)
    fully_shard(sharded, mesh=mesh)
    for each in (model, sharded):
        loss = each(**batch()).loss
        loss.backward()
        torch.optim.SGD(each.parameters(), lr=0.1).step()
    ours = dict(model.named_parameters())
    assert {name for name, _ in sharded.named_parameters()} == ours.keys()
    for path, parameter in sharded.named_parameters():
        assert isinstance(parameter, dist.tensor.DTensor)
        close(parameter.full_tensor(), ours[path])
    close(sharded(**batch()).logits, model(**batch()).logits)


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
    inner = layer.rnn if is_rnn(model) else layer.fc1
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


@pytest.mark.parametrize("config", [RnnSeq2SeqConfig, TransformerSeq2SeqConfig])
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
    if config is TransformerSeq2SeqConfig:
        assert config(hidden_size=64, num_attention_heads=4).d_model == 64
    assert (config().num_labels, config(num_labels=3).num_labels) == (2, 3)


# Seq2SeqTrainer


WORDS = [f"w{number}" for number in range(17)]


@pytest.fixture(scope="module")
def tokenizer():
    vocabulary = {word: index for index, word in enumerate(["<pad>", "<s>", "</s>", *WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<pad>"
    )


@pytest.fixture(scope="module")
def pairs(tokenizer):
    """Sentences and the same backwards."""
    draw = np.random.default_rng(3)
    sources = [list(draw.choice(WORDS[:4], size=1 + index % 2)) for index in range(32)]
    texts = [" ".join(words) for words in sources]
    encoded = tokenizer(texts, text_target=[" ".join(reversed(words)) for words in sources])
    return [
        {key: encoded[key][index] for key in ("input_ids", "attention_mask", "labels")} for index in range(len(texts))
    ]


def learner(name):
    """A fresh model, somewhat wider, without dropout."""
    recurrent = {"hidden_size": 32, "embedding_size": 32, "init_range": 0.2}
    wider = recurrent if name in RNNS else {"d_model": 32}
    return tiny(name, noise=0.0, dropout=0.0, **wider)


def trainer_for(model, tokenizer, pairs, folder, **options):
    metrics = options.pop("compute_metrics", None)
    arguments = {
        "learning_rate": 0.01, "lr_scheduler_type": "constant", "per_device_train_batch_size": 8, "save_strategy": "no",
        "logging_steps": 1, "disable_tqdm": True, "use_cpu": True, "report_to": [], "dataloader_pin_memory": False,
        **options,
    }  # fmt: skip
    return Seq2SeqTrainer(
        model=model,
        args=Seq2SeqTrainingArguments(output_dir=str(folder), **arguments),
        train_dataset=pairs,
        eval_dataset=pairs,
        processing_class=tokenizer,
        data_collator=DataCollatorForSeq2Seq(tokenizer, model=model),
        compute_metrics=metrics,
    )


def losses(trainer) -> list:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("name", ONE_OF_EACH)
@pytest.mark.filterwarnings("ignore:`.*gradient_checkpointing")
@pytest.mark.parametrize("precision", [{}, {"bf16": True, "gradient_checkpointing": True}], ids=["fp32", "bf16"])
def test_trainer_trains_and_evaluates_by_generating(name, precision, tokenizer, pairs, tmp_path):
    model = learner(name)

    def exact(prediction):
        found = np.where(prediction.predictions == -100, tokenizer.pad_token_id, prediction.predictions)
        labels = np.where(prediction.label_ids == -100, tokenizer.pad_token_id, prediction.label_ids)
        texts = tokenizer.batch_decode(found, skip_special_tokens=True)
        return {"exact": np.mean([a == b for a, b in zip(texts, tokenizer.batch_decode(labels, True), strict=True)])}

    trainer = trainer_for(
        model, tokenizer, pairs, tmp_path, max_steps=60, predict_with_generate=True, generation_max_length=6,
        generation_num_beams=2, compute_metrics=exact, lr_scheduler_type="linear",
        learning_rate=0.03 if is_rnn(model) else 0.005, **precision,
    )  # fmt: skip
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    assert losses(trainer)[-1] < 0.25 * losses(trainer)[0]
    assert after["eval_loss"] < 0.25 * before["eval_loss"]
    assert before["eval_exact"] < 0.2
    assert after["eval_exact"] > 0.6


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_trainer_smooths_labels_as_the_model_does(name, tokenizer, pairs, tmp_path):
    model = learner(name)
    trainer = trainer_for(model, tokenizer, pairs, tmp_path, label_smoothing_factor=0.1, max_steps=12)
    inputs = trainer.data_collator(pairs[:7])
    assert "decoder_input_ids" in inputs
    expected = model.eval()(**{**inputs, "label_smoothing": 0.1}).loss
    assert expected != model(**inputs).loss
    close(trainer.compute_loss(model, dict(inputs)), expected)
    trainer.train()
    assert losses(trainer)[-1] < 0.9 * losses(trainer)[0]


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_trainers_accumulated_batches_are_one_large_batch(name, tokenizer, pairs, tmp_path):
    results = []
    for size, steps in ((4, 1), (2, 2), (1, 4)):
        model = learner(name)
        trainer = trainer_for(
            model, tokenizer, pairs, tmp_path, per_device_train_batch_size=size, gradient_accumulation_steps=steps,
            max_steps=3, optim="sgd", learning_rate=0.5, max_grad_norm=0.0,
        )  # fmt: skip
        trainer.train()
        results.append((torch.tensor(losses(trainer)), model.state_dict()))
    fresh = learner(name).state_dict()
    for loss, weights in results[1:]:
        close(loss, results[0][0], 2e-4)  # the log is rounded
        for key, value in results[0][1].items():
            close(weights[key], value)
    assert any((value - fresh[key]).abs().max() > 1e-2 for key, value in results[0][1].items())


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_resumed_trainer_is_the_unbroken_one(name, tokenizer, pairs, tmp_path):
    options = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3}
    unbroken = trainer_for(learner(name), tokenizer, pairs, tmp_path, **options)
    unbroken.train()
    resumed = trainer_for(learner(name), tokenizer, pairs, tmp_path, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert losses(resumed) == losses(unbroken)
    for key, value in unbroken.model.state_dict().items():
        close(resumed.model.state_dict()[key], value, 1e-6)
    saved = type(resumed.model).from_pretrained(tmp_path / "checkpoint-6")
    assert distinct(saved) == 1
    assert_same(unbroken.model.eval(), saved)


# LoRA


RECURRENT_LINEAR = ["key_proj", "query_proj", "readout"]


def train_a_little(model):
    chosen = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(chosen, lr=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        model(**batch()).loss.backward()
        optimizer.step()


@pytest.mark.parametrize(
    ("name", "targets"),
    [
        ("post-norm", {"target_modules": ["q_proj", "v_proj"]}),
        ("rotary-swiglu-pre-norm", {"target_modules": "all-linear"}),
        ("untied-unscaled", {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]}),
        ("gru-bahdanau", {"target_modules": RECURRENT_LINEAR}),
        ("gru", {"target_modules": r".*\.bridge\.\d+"}),
        ("lstm-luong", {"target_modules": "all-linear"}),
        ("lstm-untied", {"target_modules": ["lm_head"]}),
        ("lstm-luong", {"target_parameters": ["rnn.weight_ih_l0", "rnn.weight_hh_l0"]}),
        ("gru-bahdanau", {"target_modules": ["key_proj"], "target_parameters": ["rnn.weight_hh_l0"]}),
        ("lstm-luong", {"target_modules": ["readout"], "modules_to_save": ["rnn"]}),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_lora_trains_saves_reloads_and_merges(name, targets, tmp_path):
    base = tiny(name)
    frozen = {path: value.clone() for path, value in base.state_dict().items()}
    expected = base(**batch()).logits.detach()
    config = peft.LoraConfig(task_type="SEQ_2_SEQ_LM", r=2, lora_alpha=8, **targets)
    adapted = peft.get_peft_model(base, config).eval()
    close(adapted(**batch()).logits, expected)
    before = {path: value.clone() for path, value in adapted.named_parameters()}
    train_a_little(adapted)
    changed = {path for path, value in adapted.named_parameters() if not torch.equal(value, before[path])}
    assert changed == {path for path, value in adapted.named_parameters() if value.requires_grad}
    assert changed
    assert all("lora_" in path or "modules_to_save" in path for path in changed)
    logits, tokens = adapted(**batch()).logits.detach(), say(adapted)
    assert (logits - expected).abs().max() > 1e-2
    with adapted.disable_adapter():
        close(adapted(**batch()).logits, expected)

    adapted.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "README.md", "adapter_config.json", "adapter_model.safetensors",
    }  # fmt: skip
    reloaded = peft.PeftModel.from_pretrained(tiny(name), tmp_path).eval()
    close(reloaded(**batch()).logits, logits)
    assert torch.equal(say(reloaded), tokens)
    merged = reloaded.merge_and_unload()
    assert type(merged) is type(base)
    assert merged.state_dict().keys() == frozen.keys()
    close(merged(**batch()).logits, logits, 1e-4)
    assert torch.equal(say(merged), tokens)


@pytest.mark.parametrize("name", ["lstm-luong", "gru"])
def test_lora_says_that_recurrent_modules_are_no_targets(name):
    with pytest.raises(ValueError, match="not supported"):
        peft.get_peft_model(tiny(name), peft.LoraConfig(target_modules=["rnn"]))


@pytest.mark.parametrize(
    ("name", "target"), [("lstm-luong", ["key_proj", "readout"]), ("post-norm", ["q_proj", "v_proj"])]
)
def test_adapters_are_added_and_loaded_by_the_model_itself(name, target, tmp_path):
    model = tiny(name)
    expected, tokens = model(**batch()).logits, say(model)
    model.add_adapter(peft.LoraConfig(r=2, lora_alpha=8, target_modules=target), adapter_name="mine")
    assert model.active_adapters() == ["mine"]
    for path, parameter in model.named_parameters():
        assert parameter.requires_grad == ("lora_" in path)
    train_a_little(model)
    logits = model(**batch()).logits
    assert (logits - expected).abs().max() > 1e-2
    model.save_pretrained(tmp_path)
    assert (tmp_path / "adapter_model.safetensors").exists()
    assert not (tmp_path / "model.safetensors").exists()
    other = tiny(name)
    other.load_adapter(str(tmp_path), adapter_name="theirs")
    close(other(**batch()).logits, logits)
    assert torch.equal(say(other), say(model))
    other.disable_adapters()
    close(other(**batch()).logits, expected)
    assert torch.equal(say(other), tokens)
    other.enable_adapters()
    close(other(**batch()).logits, logits)


# torch.export and torch.compile


BATCH, SOURCE, TARGET, PAST = Dim("batch", max=64), Dim("source", max=128), Dim("target", max=128), Dim("past", max=128)


class Encoder(nn.Module):
    """Ids and mask → the encoder's tensors."""

    def __init__(self, model):
        super().__init__()
        self.encoder = model.get_encoder()

    def forward(self, input_ids, attention_mask):
        return self.encoder(input_ids, attention_mask, return_dict=False)


class Decoder(nn.Module):
    """All target ids so far and the encoder's tensors → logits."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, decoder_input_ids, attention_mask, encoder_outputs):
        return self.model(
            encoder_outputs=encoder_outputs,
            attention_mask=attention_mask,
            decoder_input_ids=decoder_input_ids,
            use_cache=False,
        ).logits


class CachedStep(nn.Module):
    """One target id, the encoder's output, and keys and values of the ids before → logits, and what is kept now."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, decoder_input_ids, attention_mask, memory, keys, values):
        past, layers = DynamicCache(), len(keys)
        for index in range(layers):
            past.update(keys[index], values[index], index)
        outputs = self.model(
            encoder_outputs=BaseModelOutput(memory),
            attention_mask=attention_mask,
            decoder_input_ids=decoder_input_ids,
            past_key_values=EncoderDecoderCache(past, DynamicCache()),
            use_cache=True,
        )
        kept = outputs.past_key_values.self_attention_cache.layers
        return outputs.logits, [layer.keys for layer in kept], [layer.values for layer in kept]


class RecurrentStep(nn.Module):
    """One target id, the encoder's output, and the decoder's state → logits and the next state."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, decoder_input_ids, attention_mask, memory, keys, state):
        feeds = self.model.config.input_feeding
        layer = RecurrentStateLayer()
        layer.update((*state, *(() if feeds else (None,))), keys)
        outputs = self.model(
            encoder_outputs=RnnSeq2SeqEncoderOutput(memory, final_hidden=state[0]),
            attention_mask=attention_mask,
            decoder_input_ids=decoder_input_ids,
            past_key_values=Cache(layers=[layer]),
            use_cache=True,
        )
        return outputs.logits, [part for part in layer.tensors if part is not None]


def exported_program(module, inputs, shapes):
    """Traced afresh: what was compiled before would leave its own guards in the program."""
    torch.compiler.reset()
    return export(module, inputs, dynamic_shapes=shapes, strict=False)


def sources(side, repeats=1, extra=0):
    return pad(SOURCES * repeats, side, extra)


@torch.no_grad()
@pytest.mark.parametrize("name", ["lstm-luong", "gru-bahdanau", "rnn", "post-norm"])
def test_exported_encoder_reads_other_batches_and_lengths(name):
    encoder = Encoder(tiny(name))
    shapes = ({0: BATCH, 1: SOURCE},) * 2
    exported = exported_program(encoder, sources("left"), shapes).module()
    others = [sources(side, repeats, extra) for side, repeats, extra in
              (("right", 1, 0), ("left", 2, 5), ("inside", 3, 1))]  # fmt: skip
    one = torch.tensor([SOURCES[0] * 3])
    for input_ids, attention_mask in [*others, (one, torch.ones_like(one))]:
        found, expected = exported(input_ids, attention_mask), encoder(input_ids, attention_mask)
        assert len(found) == len(expected)
        for mine, theirs in zip(found, expected, strict=True):
            close(mine, theirs)
    together, alone = exported(*sources("left", 1, 3))[0], encoder(torch.tensor(SOURCES[2:3]), torch.ones(1, 2).long())
    close(together[2, -2:], alone[0][0])  # a short sentence among long ones


@torch.no_grad()
@pytest.mark.parametrize("name", ["lstm-luong", "gru", "post-norm"])
def test_exported_decoder_reads_other_batches_and_lengths(name):
    model = tiny(name)
    encoder, decoder = Encoder(model), Decoder(model)
    input_ids, attention_mask = sources("left")
    memory = encoder(input_ids, attention_mask)
    of_memory = [{0: BATCH, 1: SOURCE}] + [{0: BATCH}] * (len(memory) - 1)
    exported = exported_program(
        decoder,
        (pad(TARGETS)[0], attention_mask, memory),
        ({0: BATCH, 1: TARGET}, {0: BATCH, 1: SOURCE}, tuple(of_memory)),
    ).module()
    input_ids, attention_mask = sources("right", 2, 4)
    memory = encoder(input_ids, attention_mask)
    for length in (2, 9):
        ids = torch.randint(3, VOCAB, (len(input_ids), length))
        close(exported(ids, attention_mask, memory), decoder(ids, attention_mask, memory))


@torch.no_grad()
@pytest.mark.parametrize("name", ["rotary-swiglu-pre-norm"])
def test_exported_step_with_a_cache_goes_on_and_on(name):
    model = tiny(name)
    step, config = CachedStep(model), model.config
    heads = config.decoder_attention_heads

    def empty(size, length):
        return [torch.randn(size, heads, length, config.d_model // heads) for _ in range(config.decoder_layers)]

    input_ids, attention_mask = sources("left")
    memory = Encoder(model)(input_ids, attention_mask)[0]
    kept = [{0: BATCH, 2: PAST}] * config.decoder_layers
    exported = exported_program(
        step,
        (torch.tensor([[3]] * 4), attention_mask, memory, empty(4, 3), empty(4, 3)),
        ({0: BATCH}, {0: BATCH, 1: SOURCE}, {0: BATCH, 1: SOURCE}, kept, kept),
    ).module()
    input_ids, attention_mask = sources("right", 2, 2)
    memory = Encoder(model)(input_ids, attention_mask)[0]
    ids = torch.randint(3, VOCAB, (8, 7))
    expected = Decoder(model)(ids, attention_mask, (memory,))
    first = model(
        encoder_outputs=(memory,), attention_mask=attention_mask, decoder_input_ids=ids[:, :2], use_cache=True
    ).past_key_values.self_attention_cache.layers
    keys, values = [layer.keys for layer in first], [layer.values for layer in first]
    for position in range(2, 7):
        logits, keys, values = exported(ids[:, position : position + 1], attention_mask, memory, keys, values)
        close(logits[:, 0], expected[:, position])


@torch.no_grad()
@pytest.mark.parametrize("name", ["lstm-luong-fed", "gru-bahdanau", "lstm-luong"])
def test_exported_recurrent_step_goes_on_and_on(name):
    model = tiny(name)
    encoder, step, decoder = Encoder(model), RecurrentStep(model), model.get_decoder()

    def start(*options):
        input_ids, attention_mask = sources(*options)
        encoded = encoder(input_ids, attention_mask)
        state, feed, keys = decoder.recall(None, RnnSeq2SeqEncoderOutput.from_any(encoded))
        return encoded, (attention_mask, encoded[0], keys), [*state, *([] if feed is None else [feed])]

    _, source, state = start("left")
    of_source = {0: BATCH, 1: SOURCE}
    exported = exported_program(
        step,
        (torch.tensor([[3]] * 4), *source, state),
        (
            {0: BATCH}, of_source, of_source, of_source if torch.is_tensor(source[2]) else None,
            [{0: BATCH}] * len(state),
        ),
    ).module()  # fmt: skip
    encoded, source, state = start("right", 2, 3)
    ids = torch.randint(3, VOCAB, (8, 6))
    expected = Decoder(model)(ids, source[0], encoded)
    for position in range(6):
        logits, state = exported(ids[:, position : position + 1], *source, state)
        close(logits[:, 0], expected[:, position])


@torch.no_grad()
def test_exported_program_survives_the_disk(tmp_path):
    encoder = Encoder(tiny("gru-bahdanau"))
    program = exported_program(encoder, sources("left"), ({0: BATCH, 1: SOURCE},) * 2)
    torch.export.save(program, tmp_path / "encoder.pt2")
    loaded = torch.export.load(tmp_path / "encoder.pt2").module()
    for found, expected in zip(loaded(*sources("right", 2, 2)), encoder(*sources("right", 2, 2)), strict=True):
        close(found, expected)


@torch.no_grad()
def test_compiled_transformer_is_the_same():
    model = tiny("post-norm", **ONE_LAYER)
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(model.forward, backend=backend, dynamic=True)
    for options in ({}, {"extra": 3}, {"side": "left"}):
        close(compiled(**batch(**options)).logits, model(**batch(**options)).logits)
    assert graphs
    torch._dynamo.reset()
