"""A cell of the recurrent family that torch has not: a module of a few lines and its entry in the table.

The cells defined here are gated averages, c_t = a_t · c_{t-1} + (1 - a_t) · b_t, in plain torch; one gives c itself and
carries it, the other gives h = tanh(c), carries both, and adds h_{t-1} to b_t.
"""

import pytest
import torch
from helpers.tiny import SOURCES, START, TARGETS, VOCAB, batch, close, gradients, pad
from torch import nn
from transformers import initialization as init

from seqloom import RnnSeq2SeqConfig, RnnSeq2SeqForConditionalGeneration
from seqloom.modeling.cells_rnn_seq2seq import CELLS, RecurrentCell


class Average(nn.Module):
    """Whole padded sequences in one or both directions, as `RecurrentCell` asks."""

    num_states = 1

    def __init__(self, input_size, hidden_size, bidirectional=False):
        super().__init__()
        self.proj = nn.ModuleList(nn.Linear(input_size, 2 * hidden_size) for _ in range(1 + bidirectional))
        self.gate_bias = nn.Parameter(torch.empty(hidden_size))

    def init_weights(self, limit):
        init.constant_(self.gate_bias, 10 * limit)

    def forward(self, inputs, lengths, *state):
        steps = torch.arange(inputs.shape[1]).expand(inputs.shape[:2])
        is_token = steps >= 0 if lengths is None else steps < lengths[:, None]
        outputs, lasts = [], []
        for proj, order in zip(self.proj, (steps[0], steps[0].flip(0)), strict=False):
            gates, values = proj(inputs).chunk(2, dim=-1)
            gates = torch.sigmoid(gates + self.gate_bias)
            before = state or (inputs.new_zeros(len(inputs), gates.shape[-1]),) * self.num_states
            rows = {}
            for step in order.tolist():
                after = self.step(gates[:, step], values[:, step], *before)
                here = is_token[:, step, None]
                before = tuple(torch.where(here, new, old) for new, old in zip(after, before, strict=True))
                rows[step] = before[0].masked_fill(~here, 0.0)
            outputs.append(torch.stack([rows[step] for step in sorted(rows)], dim=1))
            lasts.append(before)
        return torch.cat(outputs, dim=-1), *(torch.cat(parts, dim=-1) for parts in zip(*lasts, strict=True))

    def step(self, gate, value, average):
        return (gate * average + (1 - gate) * value,)


class BoundedAverage(Average):
    num_states = 2

    def step(self, gate, value, output, average):
        average = gate * average + (1 - gate) * (value + output)
        return torch.tanh(average), average


ATTENTIONS = {
    "none": {"attention": "none"},
    "bahdanau": {"attention": "bahdanau"},
    "luong": {"attention": "luong", "bidirectional": False, "bridge": "copy"},
    "luong-fed": {"attention": "luong", "input_feeding": True},
}


@pytest.fixture(params=[Average, BoundedAverage])
def cell(request, monkeypatch):
    """The name of a cell that is known for the length of a test."""
    name = request.param.__name__
    monkeypatch.setitem(CELLS, name, RecurrentCell(f"gated {name}", request.param, request.param.num_states))
    return name


@pytest.fixture(params=list(ATTENTIONS))
def model(request, cell):
    fields = {"hidden_size": 16, "init_range": 0.3, "decoder_layers": 3, "dropout": 0.0, **ATTENTIONS[request.param]}
    torch.manual_seed(1)
    return RnnSeq2SeqForConditionalGeneration(RnnSeq2SeqConfig(vocab_size=VOCAB, cell_type=cell, **fields)).eval()


def test_padding_changes_nothing(model):
    for side, extra in (("right", 3), ("left", 2)):
        together = model(**batch(side=side, extra=extra))
        for i, (source, target) in enumerate(zip(SOURCES, TARGETS, strict=True)):
            alone = model(torch.tensor([source]), labels=torch.tensor([target])).logits[0]
            close(together.logits[i, : len(target)], alone)


def test_cached_is_uncached(model):
    input_ids, attention_mask = pad(SOURCES)
    for beams in (1, 3):
        told = [
            model.generate(
                input_ids, attention_mask=attention_mask, num_beams=beams, max_new_tokens=8, use_cache=cached
            )
            for cached in (True, False)
        ]
        assert torch.equal(*told)
    target = torch.tensor([[START, 4, 18, 6]]).expand(len(SOURCES), -1)
    whole = model(input_ids, attention_mask=attention_mask, decoder_input_ids=target).logits
    cache = None
    for step in range(4):
        outputs = model(
            input_ids,
            attention_mask=attention_mask,
            decoder_input_ids=target[:, step : step + 1],
            past_key_values=cache,
            use_cache=True,
        )
        cache = outputs.past_key_values
        close(outputs.logits[:, 0], whole[:, step])


def test_it_learns(model):
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(3):
        loss = model(**batch()).loss
        loss.backward()
        assert all(gradient.abs().sum() > 0 for gradient in gradients(model).values())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[2] < losses[1] < losses[0]


def test_it_is_initialised_saved_and_loaded(model, tmp_path):
    state = model.state_dict()
    cells = {name: value for name, value in state.items() if name.endswith("gate_bias")}
    assert len(cells) == 2 + 3
    assert all((value == 3.0).all() for value in cells.values())
    projections = [value for name, value in state.items() if ".rnn.proj." in name and name.endswith("weight")]
    assert all(0.2 < value.abs().max() <= 0.3 for value in projections)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    close(loaded(**batch()).logits, model(**batch()).logits)
    with torch.no_grad():
        model.model.decoder.layers[0].rnn.gate_bias.fill_(-1.0)
    state = {name: value for name, value in model.state_dict().items() if "encoder.layers" not in name}
    model.save_pretrained(tmp_path, state_dict=state)  # without the encoder's cells
    loaded = type(model).from_pretrained(tmp_path)
    assert (loaded.model.encoder.layers[0].rnn.gate_bias == 3.0).all()
    assert (loaded.model.decoder.layers[0].rnn.gate_bias == -1.0).all()


def test_it_is_known_by_its_name(model, cell):
    attention = {"none": "no attention", "bahdanau": "Bahdanau attention", "luong": "Luong attention"}
    assert model.config.name_in_words == f"gated {cell}, {attention[model.config.attention]}"
    assert model.config.describe().startswith(f"gated {cell} encoder-decoder: 2+3 layers, 16 wide")
    assert model.get_decoder().num_states == CELLS[cell].num_states
    assert model.config.has_recurrent_decoder


def test_an_unknown_cell_is_refused_with_all_that_are_known(cell):
    with pytest.raises(ValueError, match=f"cell_type='lsmt' is unknown: use one of rnn, lstm, gru, .*{cell}"):
        RnnSeq2SeqConfig(cell_type="lsmt")
