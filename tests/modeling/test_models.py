"""What every model promises: padding changes nothing, the future is hidden, every parameter learns."""

import copy
from functools import partial

import pytest
import torch
from helpers.tiny import (
    EVERY,
    RNNS,
    SOURCES,
    START,
    TARGETS,
    TRANSFORMERS,
    batch,
    close,
    gradients,
    has_implementations,
    pad,
    tiny,
)
from torch import nn
from torch.nn import functional as F
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from seqloom.modeling.positions_transformer_seq2seq import encode_distances

SIDES = ["left", "right", "inside"]


PAIRS = list(zip(SOURCES, TARGETS, strict=True))


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
    for implementation in ("eager", "sdpa") if has_implementations(model) else (None,):
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
    for implementation in ("eager", "sdpa") if has_implementations(model) else (None,):
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


@pytest.mark.parametrize("implementation", ["flex_attention", "by itself"])
def test_an_attention_that_takes_no_bias_refuses_relative_positions(implementation, monkeypatch):
    model = tiny("relative")
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "by itself", lambda *args, **kwargs: None)  # with no mask of its own
    model.set_attn_implementation(implementation)
    with pytest.raises(ValueError, match=f"attn_implementation='{implementation}' has no place for: use 'eager' or"):
        model(**batch())
    with pytest.raises(ValueError, match="attn_implementation='flex_attention' has no place for"):
        type(model)._from_config(model.config, attn_implementation="flex_attention")


def test_a_distance_is_counted_in_tokens_and_has_no_end():
    """The score between two tokens is the same wherever they stand, be they padded in between or thousands on."""
    relative = tiny("relative").model.encoder.layers[0].self_attn.relative
    query, mask = torch.randn(1, 2, 1, 8), torch.zeros(1, 1, 1, 3)

    def added(queries, keys):
        given = encode_distances(torch.tensor([queries]), torch.tensor([keys]), False, 16, torch.float32)
        return relative(query.expand(1, 2, len(queries), 8), mask, given[0], given[1][:, None])[1]

    close(added([2, 2], [0, 2, 1])[:, :, :1], added([2], [0, 2, 1]))
    close(added([1], [0, 2, 1]), added([0], [-1, 1, 0]))
    assert (added([1], [0, 2, 1]) - added([1], [2, 0, 1])).abs().max() > 1e-3  # before is not behind


@pytest.mark.slow
def test_relative_positions_reach_any_length():
    model = tiny("relative")
    source = torch.arange(3000)[None] % 15 + 3
    with torch.no_grad():
        memory = model.get_encoder()(source).last_hidden_state
        turned = model.get_encoder()(source, torch.ones_like(source)).last_hidden_state
    close(memory, turned)
    assert memory.isfinite().all()


@pytest.mark.parametrize("token", [2, -1, 0.5, True])
def test_every_number_but_zero_is_a_token(model, token):
    """As in transformers' own masks, whatever its type."""
    for side in SIDES:
        inputs = batch(side=side, extra=2)
        target = pad(TARGETS, "left", value=14)
        inputs |= {"decoder_input_ids": target[0], "decoder_attention_mask": target[1], "labels": None}
        expected = model(**inputs).logits
        for name in ("attention_mask", "decoder_attention_mask"):
            inputs[name] = inputs[name] * torch.tensor(token)
        assert torch.equal(model(**inputs).logits, expected)


def test_double_precision_stays_double(model):
    """Attention, loss and scores: nothing in between is rounded to float32."""
    model = copy.deepcopy(model).double()
    implementations = ["eager", "sdpa"] if has_implementations(model) else ["eager"]
    found = []
    for implementation in implementations:
        if has_implementations(model):
            model.set_attn_implementation(implementation)
        found.append(model(**batch(side="left")))
    exact = found[-1].logits.log_softmax(-1).gather(2, batch()["labels"].clamp(min=0)[..., None]).squeeze(2)
    counted = batch()["labels"] != -100
    for outputs in found:
        assert outputs.logits.dtype == outputs.loss.dtype == torch.float64
        close(outputs.logits, found[0].logits, 1e-12)
        close(outputs.loss, -exact[counted].mean(), 1e-12)


@pytest.mark.parametrize("name", ["gru-bahdanau", "lstm-luong", "post-norm"])
def test_weights_of_attention_in_double_add_up_to_one(name):
    model = tiny(name).double()
    if has_implementations(model):
        model.set_attn_implementation("eager")
    for weights in model(**batch(), output_attentions=True).cross_attentions:
        close(weights.sum(-1), torch.ones_like(weights[..., 0]), 1e-14)


def test_copy_of_a_model_is_a_model(model):
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.lm_head.weight.mul_(2)
    assert torch.equal(twin.lm_head.weight, 2 * model.lm_head.weight)
    if model.config.tie_word_embeddings:
        assert twin.lm_head.weight is twin.get_decoder_input_embeddings().weight
