"""Weights as transformers and accelerate handle them: tied, replaced, in shards, in half, on disk, on other devices."""

import copy
import itertools
import json
import pickle

import peft
import pytest
import torch
import torch.distributed as dist
from accelerate import infer_auto_device_map
from accelerate.utils import FullyShardedDataParallelPlugin, compute_module_sizes
from accelerate.utils.dataclasses import get_module_class_from_name
from helpers.contract import assert_same, distinct, matrices
from helpers.tiny import VOCAB, batch, close, tiny
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import AutoModel, AutoModelForSeq2SeqLM
from transformers.modeling_layers import GradientCheckpointingLayer

pytestmark = pytest.mark.slow  # weights are written, read and moved

ONE_OF_EACH = ["lstm-luong", "hybrid", "post-norm"]


FEW = ["gru-bahdanau", "lstm-untied", "post-norm", "gelu-separate"]


APART = {"share_encoder_decoder_embeddings": False, "decoder_vocab_size": 23}


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


@pytest.mark.parametrize("name", ["lstm-luong", "lstm-bahdanau", "lstm-untied", "post-norm", "gelu-separate"])
@pytest.mark.parametrize("change", ["merged", "target apart", "said to be apart", "tied by hand"])
def test_folder_says_which_matrices_are_one(name, change, tmp_path):
    """Whatever the config said before: what is loaded is what was saved, of the model and of its base."""
    model = tiny(name)
    if change == "merged":  # an adapter of the output matrix, which `peft` calls untied wherever it is not the source's
        model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach() + torch.randn_like(model.lm_head.weight))
        model.config.tie_word_embeddings = False
    elif change == "target apart":
        weight = model.get_decoder_input_embeddings().weight
        model.get_decoder_input_embeddings().weight = nn.Parameter(2 * weight.detach())
    elif change == "said to be apart":
        model.config.tie_word_embeddings = False
    else:
        model.lm_head.weight = model.get_decoder_input_embeddings().weight
    said = model.config.tie_word_embeddings
    kinds = ((model, AutoModelForSeq2SeqLM), (model.base_model, AutoModel))
    for (each, auto), state_dict in itertools.product(kinds, (None, {})):
        given = None if state_dict is None else each.state_dict()
        each.save_pretrained(tmp_path, state_dict=given)
        assert each.config.tie_word_embeddings == said
        for cls in (type(each), auto):
            loaded, info = cls.from_pretrained(tmp_path, output_loading_info=True, trust_remote_code=True)
            assert not any(info.values()), info
            ours, theirs = each.state_dict(), loaded.state_dict()
            assert ours.keys() - theirs.keys() <= {"shared.weight", "model.shared.weight"}
            assert all(torch.equal(ours[key], value) for key, value in theirs.items())
            if each is model:
                assert all(torch.equal(*pair) for pair in zip(matrices(model), matrices(loaded), strict=True))


@pytest.mark.parametrize("name", ["lstm-bahdanau", "gelu-separate"])
@pytest.mark.filterwarnings("ignore")
def test_merged_adapter_is_saved(name, tmp_path):
    """Of a model whose sides have a vocabulary each, which `peft` calls untied."""
    adapted = peft.get_peft_model(
        tiny(name), peft.LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
    )
    merged = adapted.merge_and_unload().eval()
    merged.save_pretrained(tmp_path)
    assert_same(AutoModelForSeq2SeqLM.from_pretrained(tmp_path, trust_remote_code=True).eval(), merged)
