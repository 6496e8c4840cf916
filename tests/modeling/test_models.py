"""What every model promises: padding changes nothing, saving loses nothing, the future is hidden, configs are right."""

import copy
import json
from functools import partial

import pytest
import torch
from helpers.tiny import (
    RNNS,
    SEPARATE,
    SOURCES,
    START,
    TARGETS,
    TRANSFORMERS,
    VOCAB,
    batch,
    close,
    gradients,
    is_rnn,
    pad,
    tiny,
)
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM
from transformers.modeling_layers import GradientCheckpointingLayer

from seqloom import RnnSeq2SeqConfig, TransformerSeq2SeqConfig

EVERY = [*RNNS, *TRANSFORMERS]
SIDES = ["left", "right", "inside"]
PAIRS = list(zip(SOURCES, TARGETS, strict=True))


def saved(model, folder):
    """The model after a visit to the disk, and its loading report."""
    model.save_pretrained(folder)
    return type(model).from_pretrained(folder, output_loading_info=True)


def assert_nothing_amiss(info):
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")), info


def assert_same(first, second, tolerance=1e-6):
    """Equal logits for the same batch; the last bit may change with the weights' places in memory."""
    close(first(**batch()).logits, second(**batch()).logits, tolerance)


@pytest.mark.parametrize("extra", [0, 3])
def test_padding_and_batch_mates_change_nothing(model, extra):
    alone = [model(torch.tensor([source]), labels=torch.tensor([target])) for source, target in PAIRS]
    loss = sum(outputs.loss * outputs.logits.shape[1] for outputs in alone) / sum(map(len, TARGETS))
    for side in SIDES:
        inputs = batch(side=side, extra=extra)
        together = model(**inputs)
        close(together.loss, loss)
        for i, outputs in enumerate(alone):
            close(together.logits[i, : len(TARGETS[i])], outputs.logits[0])
            is_token = inputs["attention_mask"][i].bool()
            close(together.encoder_last_hidden_state[i, is_token], outputs.encoder_last_hidden_state[0])


def test_mask_may_have_any_type(model):
    inputs = batch(side="left")
    expected = model(**inputs).logits
    for dtype in (torch.bool, torch.float32, torch.int32):
        inputs["attention_mask"] = inputs["attention_mask"].to(dtype)
        close(model(**inputs).logits, expected)


def test_last_states_are_those_of_the_last_tokens(rnn):
    for side in ("left", "right"):
        input_ids, attention_mask = pad(SOURCES, side, 2)
        together = rnn.get_encoder()(input_ids, attention_mask)
        for i, source in enumerate(SOURCES):
            alone = rnn.get_encoder()(torch.tensor([source]))
            for part in ("final_hidden", "final_cell"):
                if getattr(alone, part) is not None:
                    assert getattr(alone, part).shape == (1, rnn.config.encoder_layers, rnn.config.hidden_size)
                    close(getattr(together, part)[i], getattr(alone, part)[0])
        assert (together.final_cell is not None) == (rnn.config.cell_type == "lstm")


def test_padding_of_the_target_changes_nothing(model):
    input_ids, attention_mask = pad(SOURCES)
    alone = [model(torch.tensor([source]), decoder_input_ids=torch.tensor([target])).logits for source, target in PAIRS]
    for side in SIDES:
        decoder_input_ids, decoder_attention_mask = pad(TARGETS, side, 2)
        for use_cache in (True, False):
            logits = model(
                input_ids,
                attention_mask=attention_mask,
                decoder_input_ids=decoder_input_ids,
                decoder_attention_mask=decoder_attention_mask,
                use_cache=use_cache,
            ).logits
            assert logits.isfinite().all()
            for i, expected in enumerate(alone):
                close(logits[i, decoder_attention_mask[i].bool()], expected[0])


def test_empty_source_is_no_accident(model):
    """A sentence of padding only is nonsense, but it must not spoil numbers or its neighbours."""
    others = [0, 2, 3]
    for implementation in (None,) if is_rnn(model) else ("eager", "sdpa"):
        if implementation:
            model.set_attn_implementation(implementation)
        inputs = batch()
        expected = model(**inputs).logits[others]
        inputs["attention_mask"][1] = 0
        outputs = model(**inputs)
        outputs.loss.backward()
        assert outputs.logits.isfinite().all()
        assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
        close(outputs.logits[others], expected)


def test_only_tokens_count(model):
    """Padding may hold any id; every real token reaches every output."""
    inputs = batch(side="left", extra=1)
    expected = model(**inputs).logits
    for position in range(inputs["input_ids"].shape[1]):
        changed = {**inputs, "input_ids": inputs["input_ids"].clone()}
        changed["input_ids"][:, position] = 16
        difference = (model(**changed).logits - expected).abs().amax((1, 2))
        is_token = inputs["attention_mask"][:, position].bool() & (inputs["input_ids"][:, position] != 16)
        assert (difference[is_token] > 1e-6).all()
        assert not difference[~is_token].any()


def test_the_future_is_hidden(model):
    input_ids, attention_mask = pad(SOURCES)
    decoder_input_ids, _ = pad(TARGETS)

    def logits(decoder_input_ids):
        return model(input_ids, attention_mask=attention_mask, decoder_input_ids=decoder_input_ids).logits

    expected = logits(decoder_input_ids)
    for position in range(decoder_input_ids.shape[1]):
        changed = decoder_input_ids.clone()
        changed[:, position] = 13
        found = logits(changed)
        close(found[:, :position], expected[:, :position], 1e-6)
        assert ((found - expected)[:, position].abs().amax(-1) > 1e-6).all()
        assert ((found - expected)[:, -1].abs().amax(-1) > 1e-6).all()


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
        assert torch.equal(value, expected)
    elif config.model_type == "rnn_seq2seq":
        assert 0.8 * config.init_range < value.abs().max() <= config.init_range
    elif "embed" in name or "shared" in name or "lm_head" in name:
        assert 0.8 < value.std() * config.d_model**0.5 < 1.2
    else:
        limit = (6 / sum(value.shape)) ** 0.5  # Glorot and Bengio 2010
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


def test_tuple_is_the_dictionary_without_names(model):
    options = {**batch(), "output_hidden_states": True}
    as_dict = model(**options)
    as_tuple = model(**options, return_dict=False)
    assert isinstance(as_tuple, tuple)
    assert torch.equal(as_tuple[0], as_dict.loss)
    assert torch.equal(as_tuple[1], as_dict.logits)
    assert len(as_tuple) == len(as_dict.to_tuple())


def test_hidden_states(model):
    config = model.config
    outputs = model(**batch(), output_hidden_states=True)
    assert outputs.encoder_attentions is outputs.decoder_attentions is outputs.cross_attentions is None
    assert len(outputs.encoder_hidden_states) == config.encoder_layers + 1
    assert len(outputs.decoder_hidden_states) == config.decoder_layers + 1
    first = getattr(config, "embedding_size", config.hidden_size)
    for states, length in ((outputs.encoder_hidden_states, 7), (outputs.decoder_hidden_states, 6)):
        assert [state.shape for state in states] == [
            (4, length, width) for width in [first] + [config.hidden_size] * (len(states) - 1)
        ]
    assert torch.equal(outputs.encoder_hidden_states[-1], outputs.encoder_last_hidden_state)
    quiet = model(**batch())
    assert quiet.encoder_hidden_states is quiet.decoder_hidden_states is None
    config.output_hidden_states = True
    asked = model(**batch())
    for name in ("encoder_hidden_states", "decoder_hidden_states"):
        for first, second in zip(asked[name], outputs[name], strict=True):
            assert torch.equal(first, second)


def test_hidden_states_have_their_tokens_places(rnn):
    """Left padding is taken away for the recurrence, and put back in every layer's output."""
    input_ids, attention_mask = pad(SOURCES, "left")
    states = rnn.get_encoder()(input_ids, attention_mask, output_hidden_states=True).hidden_states
    assert torch.equal(states[0], rnn.get_input_embeddings()(input_ids))
    alone = rnn.get_encoder()(torch.tensor([SOURCES[1]]), output_hidden_states=True).hidden_states
    for together, single in zip(states, alone, strict=True):
        close(together[1, -len(SOURCES[1]) :], single[0])


@pytest.mark.parametrize("side", ["left", "right"])
def test_recurrent_attention_maps(rnn, side):
    inputs = batch(side=side)
    outputs = rnn(**inputs, output_attentions=True)
    assert outputs.encoder_attentions is outputs.decoder_attentions is None
    if rnn.config.attention == "none":
        assert outputs.cross_attentions is None
    else:
        (weights,) = outputs.cross_attentions
        assert weights.shape == (4, 1, 6, 7)
        assert not weights[(inputs["attention_mask"] == 0)[:, None, None].expand_as(weights)].any()
        close(weights.sum(-1), torch.ones(4, 1, 6))
        assert weights.std(-1).max() > 0.01
        assert rnn(**inputs).cross_attentions is None
        rnn.config.output_attentions = True
        assert torch.equal(rnn(**inputs).cross_attentions[0], weights)


def test_transformer_attention_maps(transformer):
    transformer.set_attn_implementation("eager")
    inputs, config = batch(side="left"), transformer.config
    outputs = transformer(**inputs, output_attentions=True)
    heads, decoder_heads = config.encoder_attention_heads, config.decoder_attention_heads
    is_padding = (inputs["attention_mask"] == 0)[:, None, None]
    for maps, layers, shape in (
        (outputs.encoder_attentions, config.encoder_layers, (4, heads, 7, 7)),
        (outputs.decoder_attentions, config.decoder_layers, (4, decoder_heads, 6, 6)),
        (outputs.cross_attentions, config.decoder_layers, (4, decoder_heads, 6, 7)),
    ):
        assert [weights.shape for weights in maps] == [shape] * layers
        for weights in maps:
            close(weights.sum(-1), torch.ones(shape[:-1]))
            if maps is outputs.decoder_attentions:
                assert not weights.triu(1).any()
            else:
                assert not weights[is_padding.expand_as(weights)].any()


def test_embeddings_in_place_of_ids(model):
    inputs = batch()
    expected = model(**inputs).logits
    decoder_input_ids = model.prepare_decoder_input_ids_from_labels(inputs["labels"])
    assert decoder_input_ids[:, 0].eq(START).all()
    assert torch.equal(decoder_input_ids[:, 1:], inputs["labels"][:, :-1].clamp(min=model.config.pad_token_id))
    embeds = model.get_input_embeddings()(inputs.pop("input_ids"))
    decoder_embeds = model.get_decoder_input_embeddings()(decoder_input_ids)
    assert torch.equal(model(**inputs, inputs_embeds=embeds).logits, expected)
    outputs = model(**inputs, inputs_embeds=embeds, decoder_inputs_embeds=decoder_embeds)
    assert torch.equal(outputs.logits, expected)
    assert outputs.loss.isfinite()


def test_encoder_outputs_in_place_of_the_source(model):
    inputs = batch()
    expected = model(**inputs)
    input_ids, attention_mask = inputs.pop("input_ids"), inputs["attention_mask"]
    for return_dict in (True, False):
        for hidden in (True, False):
            encoder_outputs = model.get_encoder()(
                input_ids, attention_mask, output_hidden_states=hidden, return_dict=return_dict
            )
            assert isinstance(encoder_outputs, tuple) != return_dict
            outputs = model(**inputs, encoder_outputs=encoder_outputs)
            assert torch.equal(outputs.logits, expected.logits)
            assert torch.equal(outputs.encoder_last_hidden_state, expected.encoder_last_hidden_state)


def test_inputs_are_either_ids_or_embeddings(model):
    inputs = batch()
    embeds = model.get_input_embeddings()(inputs["input_ids"])
    with pytest.raises(ValueError, match="either"):
        model(**inputs, inputs_embeds=embeds)
    with pytest.raises(ValueError, match="either"):
        model(labels=inputs["labels"])
    with pytest.raises(ValueError, match="either"):
        model(inputs["input_ids"])


def test_recurrent_decoder_needs_the_encoders_last_state(rnn):
    states = rnn.get_encoder()(torch.tensor(SOURCES[:1])).last_hidden_state
    with pytest.raises(ValueError, match="final_hidden"):
        rnn(encoder_outputs=(states,), decoder_input_ids=torch.tensor(TARGETS[:1]))


def test_loss_is_that_of_the_logits(model):
    inputs = batch()
    for smoothing in (0.0, 0.1):
        model.config.label_smoothing = smoothing
        outputs = model(**inputs)
        labels = inputs["labels"].flatten()
        close(outputs.loss, F.cross_entropy(outputs.logits.flatten(0, 1), labels, label_smoothing=smoothing))
    close(model(**inputs, label_smoothing=0.1).loss, outputs.loss)
    model.config.label_smoothing = 0.0
    close(model(**inputs, label_smoothing=0.1).loss, outputs.loss)
    model.config.label_smoothing = 0.3
    plain = F.cross_entropy(outputs.logits.flatten(0, 1), inputs["labels"].flatten())
    close(model(**inputs, label_smoothing=0.0).loss, plain)  # an explicit zero is not "default"


def test_every_parameter_gets_gradient(model):
    model(**batch()).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        if not name.endswith("k_proj.bias"):  # softmax does not see what is added to all scores
            assert parameter.grad.abs().max() > 1e-7, name


def test_accumulated_gradients_are_those_of_one_batch(model):
    sources, targets = SOURCES + SOURCES[::-1], TARGETS + TARGETS[::-1]
    targets[5] = targets[5] * 2
    inputs = batch(sources, targets)
    items = (inputs["labels"] != -100).sum()
    model(**inputs).loss.backward()
    expected = gradients(model)
    model.zero_grad()
    losses = []
    for start in range(0, 8, 2):
        part = batch(sources[start : start + 2], targets[start : start + 2])
        losses.append(model(**part, num_items_in_batch=items).loss)
        losses[-1].backward()
    close(sum(losses), model(**inputs).loss)
    for name, gradient in gradients(model).items():
        close(gradient, expected[name])


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated")
def test_gradient_checkpointing_changes_nothing(model):
    model.train()
    layers = [layer for layer in model.modules() if isinstance(layer, GradientCheckpointingLayer)]
    assert len(layers) == model.config.encoder_layers + model.config.decoder_layers
    calls, results = [], []

    def counted(checkpoint, *args):
        calls.append(args)
        return checkpoint(*args)

    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable()
            for layer in layers:
                layer._gradient_checkpointing_func = partial(counted, layer._gradient_checkpointing_func)
        model.zero_grad()
        torch.manual_seed(5)  # for dropout
        loss = model(**batch()).loss
        loss.backward()
        results.append((loss.detach(), gradients(model)))
        assert (len(calls) >= len(layers)) == checkpointing
    assert torch.equal(results[0][0], results[1][0])
    for name, gradient in results[0][1].items():
        close(results[1][1][name], gradient, 1e-6)


@pytest.mark.parametrize(
    ("name", "option"),
    [(name, "dropout") for name in EVERY]
    + [("post-norm", "attention_dropout"), ("post-norm", "activation_dropout"), ("pre-norm", "activation_dropout")],
)
def test_dropout_is_for_training_only(name, option):
    off = {"dropout": 0.0}
    model, still = tiny(name, **{**off, option: 0.4}), tiny(name, **off)
    for implementation in ("eager", "sdpa") if name in TRANSFORMERS else (None,):
        if implementation:
            model.set_attn_implementation(implementation)
        expected = still(**batch()).logits
        close(model.eval()(**batch()).logits, expected)
        first, second = (model.train()(**batch()).logits for _ in range(2))
        assert (first - second).abs().max() > 1e-3
        close(still.train()(**batch()).logits, expected)


@pytest.mark.parametrize("name", list(RNNS))
def test_recurrent_dropout_is_on_every_layers_input(name):
    model = tiny(name, dropout=0.4).train()
    shares = []
    layers = [*model.model.encoder.layers, *model.model.decoder.layers, model.lm_head]
    for layer in layers:
        layer.register_forward_pre_hook(lambda _, inputs: shares.append((inputs[0] == 0).float().mean().item()))
    model(**batch())
    assert len(shares) >= len(layers)
    assert min(shares) > 0.1


@pytest.mark.parametrize("name", list(TRANSFORMERS))
def test_transformer_dropout_is_on_every_sublayer(name):
    """Section 5.4 of the paper: each sublayer's output, and the sums of embeddings and positions."""
    model = tiny(name, dropout=0.4, activation_dropout=0.3).train()
    calls = []
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.register_forward_hook(lambda module, _, output: calls.append((module.p, bool((output == 0).any()))))
    model(**batch())
    encoder, decoder = model.config.encoder_layers, model.config.decoder_layers
    assert calls.count((0.4, True)) == (1 + 2 * encoder) + (1 + 3 * decoder)
    assert calls.count((0.3, True)) == encoder + decoder


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


def test_eager_is_sdpa(transformer, monkeypatch):
    calls = []
    original = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *a, **k: (calls.append(1), original(*a, **k))[1])
    layers = transformer.config.encoder_layers + 2 * transformer.config.decoder_layers
    results = {}
    for implementation in ("sdpa", "eager", "sdpa"):
        calls.clear()
        transformer.set_attn_implementation(implementation)
        assert transformer.config._attn_implementation == implementation
        assert transformer.model.encoder.layers[0].self_attn.config._attn_implementation == implementation
        transformer.zero_grad()
        padded, plain = (
            transformer(**batch(side="left")),
            transformer(input_ids=batch()["input_ids"], labels=batch()["labels"]),
        )
        assert len(calls) == (2 * layers if implementation == "sdpa" else 0)
        padded.loss.backward()
        results[implementation] = (padded.logits, plain.logits, gradients(transformer))
    close(results["eager"][0], results["sdpa"][0])
    close(results["eager"][1], results["sdpa"][1])
    for name, gradient in results["eager"][2].items():
        close(gradient, results["sdpa"][2][name])


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


@pytest.mark.parametrize("name", [name for name in EVERY if SEPARATE.items() <= {**RNNS, **TRANSFORMERS}[name].items()])
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


def test_copy_of_a_model_is_a_model(model):
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.lm_head.weight.mul_(2)
    assert torch.equal(twin.lm_head.weight, 2 * model.lm_head.weight)
    if model.config.tie_word_embeddings:
        assert twin.lm_head.weight is twin.get_decoder_input_embeddings().weight


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
        ({"decoder_layers": 0}, ["decoder_layers=0", "1 or more"]),
        ({"embedding_size": 0}, ["embedding_size=0", "1 or more"]),
        ({"vocab_size": -3}, ["vocab_size=-3", "1 or more"]),
        ({"dropout": 1.0}, ["dropout=1.0", "less than 1"]),
        ({"dropout": -0.1}, ["dropout=-0.1", "at least 0"]),
        ({"label_smoothing": 1}, ["label_smoothing=1", "less than 1"]),
        ({"init_range": 0}, ["init_range=0", "more than 0"]),
        ({"decoder_vocab_size": 9}, ["decoder_vocab_size=9", "vocab_size=32000", "share_encoder_decoder_embeddings"]),
    ],
)
def test_recurrent_config_refuses(fields, words):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the words are checked below
        RnnSeq2SeqConfig(**fields)
    for word in words:
        assert word in str(caught.value)


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
        ({"position_embedding_type": "learned"}, ["position_embedding_type='learned'", "sinusoidal, rotary"]),
        ({"encoder_layers": 0}, ["encoder_layers=0", "1 or more"]),
        ({"decoder_ffn_dim": 0}, ["decoder_ffn_dim=0", "1 or more"]),
        ({"encoder_attention_heads": 0}, ["encoder_attention_heads=0", "1 or more"]),
        ({"dropout": 1}, ["dropout=1", "less than 1"]),
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


@pytest.mark.parametrize("config", [RnnSeq2SeqConfig, TransformerSeq2SeqConfig])
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
