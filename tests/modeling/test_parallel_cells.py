"""Cells whose gates read the inputs alone: the whole sequence at once is one step after the other."""

import pytest
import torch
from helpers.tiny import SOURCES, START, batch, close, pad, tiny

from seqloom.modeling import scan_rnn_seq2seq
from seqloom.modeling.cells_rnn_seq2seq import CELLS, MinLstm
from seqloom.modeling.scan_rnn_seq2seq import gated_average, linear_recurrence_

NAMES = ("min_gru", "min_lstm", "ssru")
LENGTHS = (1, 2, 3, 16, 63, 64, 65, 1000, 4096)
MODELS = ("ssru", "min-gru-luong", "min-lstm-bahdanau")


@pytest.fixture(params=["chunks", "steps"])
def way(request, monkeypatch):
    """Both ways that a recurrence may go, whatever its size."""
    fewest = 4 if request.param == "chunks" else 2**60
    monkeypatch.setitem(scan_rnn_seq2seq.CHUNKED, "cpu", (fewest, 2**60))


@pytest.fixture(params=NAMES)
def cell(request):
    return CELLS[request.param]


def layer(cell, bidirectional=False, inputs=7, size=5):
    torch.manual_seed(3)
    module = cell.build(inputs, size, bidirectional)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_()
    return module


def loop(logits, values, first, is_reversed=False):
    """`gated_average`, as it is written."""
    steps = range(logits.shape[1])
    outputs = {}
    for step in reversed(steps) if is_reversed else steps:
        gate = torch.sigmoid(logits[:, step])
        first = gate * first + (1 - gate) * values[:, step]
        outputs[step] = first
    return torch.stack([outputs[step] for step in steps], dim=1), first


def numbers(length, dtype=torch.float32, size=3):
    torch.manual_seed(length)
    parts = torch.randn(2, length, size), torch.randn(2, length, size), 10 * torch.randn(2, size)
    return [part.to(dtype).requires_grad_() for part in parts]


@pytest.mark.parametrize("is_reversed", [False, True])
@pytest.mark.parametrize("length", [*LENGTHS[:-2], 300])
def test_it_is_a_loop(length, is_reversed, way):
    parts = numbers(length)
    found, expected = (average(*parts, is_reversed) for average in (gated_average, loop))
    weights = [torch.randn_like(part) for part in found]
    gradients = [
        torch.autograd.grad(sum((part * weight).sum() for part, weight in zip(result, weights, strict=True)), parts)
        for result in (found, expected)
    ]
    for ours, theirs in ((found, expected), gradients):
        for one, other in zip(ours, theirs, strict=True):
            close(one, other)


@pytest.mark.parametrize("is_reversed", [False, True])
@pytest.mark.parametrize("length", [1, 2, 9, 22])
def test_gradients_are_exact(length, is_reversed, way):
    assert torch.autograd.gradcheck(lambda *parts: gated_average(*parts, is_reversed), numbers(length, torch.float64))


@pytest.mark.parametrize("part", [0, 1])
def test_what_nobody_asks_for_costs_nothing(part):
    """A gradient of the outputs alone, of the last alone, and of some of what went in."""
    for wanted in range(3):
        parts = numbers(9)
        for index, given in enumerate(parts):
            given.requires_grad_(index == wanted)
        gradients = [
            torch.autograd.grad(average(*parts)[part].square().sum(), parts[wanted])[0]
            for average in (gated_average, loop)
        ]
        close(*gradients, 1e-4)


@pytest.mark.parametrize("is_reversed", [False, True])
def test_factors_of_any_size(is_reversed, way):
    torch.manual_seed(0)
    added, factors, first = torch.randn(50, 2, 3), 1.5 * torch.randn(50, 2, 3), torch.randn(2, 3)
    for given in (first, None):
        before, expected = first if given is not None else torch.zeros(2, 3), {}
        for step in reversed(range(50)) if is_reversed else range(50):
            before = expected[step] = factors[step] * before + added[step]
        found = added.clone()
        linear_recurrence_(found, factors, given, is_reversed)
        close(found, torch.stack([expected[step] for step in range(50)]), 1e-4)


@torch.no_grad()
def test_the_whole_sequence_is_step_by_step(cell):
    """From 1 to 4,096 steps, from any first state; a step is also what lean decoding takes."""
    module = layer(cell)
    inputs, first = torch.randn(3, LENGTHS[-1], 7), 5 * torch.randn(3, 5)
    outputs, states, state = [], [], first
    for projected in module.proj(inputs).unbind(1):
        output, state = module.step(projected, state)
        outputs.append(output)
        states.append(state)
    for length in LENGTHS:
        found, last = cell.run(module, inputs[:, :length], None, (first,))
        close(found, torch.stack(outputs[:length], dim=1))
        close(last, states[length - 1])
    middle = cell.run(module, inputs[:, :100], None, (first,))[1]
    close(cell.run(module, inputs[:, 100:1000], None, (middle,))[0], torch.stack(outputs[100:1000], dim=1))


def test_both_directions_read_each_sequence_alone(cell):
    """Whatever stands behind its end, in what they give and in every gradient; behind it the outputs are zero."""
    module = layer(cell, bidirectional=True)
    lengths = [70, 1, 33]
    inputs = torch.randn(3, 70, 7)
    for row, length in enumerate(lengths):
        inputs[row, length:] = 100.0
    weights = torch.randn(3, 70, 10), torch.randn(3, 10)

    def gradients(results):
        module.zero_grad()
        sum((part * weight).sum() for part, weight in results).backward()
        return [parameter.grad for parameter in module.parameters()]

    outputs, last = cell.run(module, inputs, torch.tensor(lengths), ())
    alone = [cell.run(module, inputs[row, None, :length], None, ()) for row, length in enumerate(lengths)]
    for row, (length, (of_row, last_of_row)) in enumerate(zip(lengths, alone, strict=True)):
        close(outputs[row, :length], of_row[0])
        close(last[row], last_of_row[0])
        assert (outputs[row, length:] == 0).all()
    together = gradients([(outputs, weights[0]), (last, weights[1])])
    pairs = [
        (part[0], weight[row, : len(part[0])] if part.dim() == 3 else weight[row])
        for row, results in enumerate(alone)
        for part, weight in zip(results, weights, strict=True)
    ]
    for ours, theirs in zip(together, gradients(pairs), strict=True):
        close(ours, theirs, 1e-4)


def test_the_state_keeps_its_digits_in_half_precision():
    """A slow gate adds less, a step, than bfloat16 can tell; what comes in is rounded, the sum is not."""
    logits, values = torch.full((1, 2000, 4), 7.0, dtype=torch.bfloat16), torch.ones(1, 2000, 4, dtype=torch.bfloat16)
    outputs, last = gated_average(logits, values)
    expected = loop(logits.double(), values.double(), torch.zeros(1, 4).double())
    assert outputs.dtype == last.dtype == torch.float32
    close(last.double(), expected[1], 1e-4)
    assert 0.8 < last.min() < 0.9


@torch.no_grad()
def test_autocast_carries_the_state_in_float32(cell):
    module, inputs = layer(cell), torch.randn(2, 300, 7)
    with torch.autocast("cpu", torch.bfloat16):
        outputs, last = module(inputs, None)
        state, steps = torch.zeros(2, 5), []
        for here in inputs.unbind(1):
            output, state = module(here[:, None], None, state)
            steps.append(output)
    assert (outputs.dtype, last.dtype, state.dtype) == (torch.bfloat16, torch.float32, torch.float32)
    close(last, state)
    close(outputs, torch.cat(steps, dim=1), 1e-2)


def test_min_lstms_gates_do_not_vanish():
    """f / (f + i) where both are too small for float32."""
    module = MinLstm(1, 1)
    with torch.no_grad():
        module.proj.weight.zero_()
        module.bias.copy_(torch.tensor([-200.0, -201.0, 1.0]).view(3, 1, 1))
    outputs, last = module(torch.zeros(1, 2, 1), None)
    share = 1 / (1 + torch.e)  # of i
    close(last, torch.tensor([[1 - (1 - share) ** 2]]))
    outputs.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in module.parameters())


@pytest.mark.parametrize("name", ["ssru", "min-gru-luong"])
def test_a_decoder_reads_the_whole_target_at_once(name):
    model, calls = tiny(name).train(), []
    for place in model.get_decoder().layers:
        place.register_forward_hook(lambda _, inputs, output: calls.append(inputs[0].shape[1]))
    inputs = batch()
    model(**inputs).loss.backward()
    assert calls == [inputs["labels"].shape[1]] * model.config.decoder_layers


@pytest.mark.parametrize("name", MODELS)
def test_long_padded_sentences_go_as_they_go_alone(name):
    """On either side, with sentences long enough for chunks; and token by token."""
    model = tiny(name)
    torch.manual_seed(5)
    sources = [torch.randint(3, 20, (length,)).tolist() for length in (150, 9, 80)]
    target = torch.cat((torch.full((3, 1), START), torch.randint(3, 20, (3, 90))), dim=1)
    for side in ("right", "left"):
        input_ids, attention_mask = pad(sources, side, extra=5)
        with torch.no_grad():
            together = model(input_ids, attention_mask, decoder_input_ids=target).logits
            for row, source in enumerate(sources):
                alone = model(torch.tensor([source]), decoder_input_ids=target[row, None]).logits
                close(together[row], alone[0], 2e-5)
            encoded, cache = model.get_encoder()(input_ids, attention_mask), None
            for step in range(target.shape[1]):
                outputs = model(
                    attention_mask=attention_mask, encoder_outputs=encoded, past_key_values=cache, use_cache=True,
                    decoder_input_ids=target[:, step, None],
                )  # fmt: skip
                cache = outputs.past_key_values
                close(outputs.logits[:, 0], together[:, step], 2e-5)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_fresh_matrices_each_go_by_their_own_shape(cell, bidirectional):
    module = cell.build(40, 64, bidirectional)
    cell.init_weights(module, None)
    limit = (6 / (40 + 64)) ** 0.5  # Glorot and Bengio 2010
    for matrix in module.proj.weight.split(64):
        assert 0.98 * limit < matrix.abs().max() <= limit
    cell.init_weights(module, 0.1)
    assert 0.099 < module.proj.weight.abs().max() <= 0.1


def test_a_forget_gate_starts_open():
    module = tiny("min-lstm-bahdanau", noise=0.0).get_decoder().layers[0].rnn
    assert module.bias[:, 0].tolist() == [[1.0] * 16, [0.0] * 16, [0.0] * 16]


def test_second_derivatives_are_refused():
    parts = numbers(5)
    with pytest.raises(ValueError, match=r"create_graph=True asks for second derivatives, .*cell_type='gru' or 'lstm'"):
        torch.autograd.grad(gated_average(*parts)[0].sum(), parts, create_graph=True)


def test_a_state_of_another_width_is_refused(cell):
    module = layer(cell)
    for shape in ((2, 6), (1, 5)):
        with pytest.raises(ValueError, match=rf"state is {shape[0]} × {shape[1]}, but there are 2 .* 5 wide.*2 × 5"):
            module(torch.randn(2, 4, 7), None, torch.zeros(shape))


@pytest.mark.parametrize(("name", "other"), [("lstm-luong", "gru"), ("ssru", "gru"), ("gru", "rnn")])
def test_the_states_of_another_model_are_refused(name, other):
    encoded = tiny(other, hidden_size=24 if other == "gru" else 16, encoder_layers=1).get_encoder()(pad(SOURCES)[0])
    with pytest.raises(ValueError, match=r"last states of 1×(24|16).*(layers × width).*this model's own encoder"):
        tiny(name)(encoder_outputs=encoded, decoder_input_ids=torch.full((4, 1), START))
