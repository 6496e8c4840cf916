"""Fresh recurrent weights: by the width or, as a config may say, in a range; every gate a matrix of its own."""

import itertools
import json

import pytest
import torch
from helpers.tiny import VOCAB
from torch import nn

from seqloom import RnnSeq2SeqConfig, RnnSeq2SeqForConditionalGeneration

CELLS, ATTENTIONS = ("rnn", "lstm", "gru"), ("none", "luong", "bahdanau")
ONE_LAYER = {"encoder_layers": 1, "decoder_layers": 1, "dropout": 0.0}


def fresh(**fields):
    torch.manual_seed(5)
    return RnnSeq2SeqForConditionalGeneration(RnnSeq2SeqConfig(**{"vocab_size": VOCAB, **ONE_LAYER, **fields})).eval()


@torch.no_grad()
def norms(**fields):
    """Mean norms of a fresh model's vectors: embeddings, encoder outputs, readouts."""
    model = fresh(**fields)
    ids = torch.randint(3, VOCAB, (16, 12))
    outputs = model.model(input_ids=ids, decoder_input_ids=ids.flip(0))
    vectors = (model.model.shared.weight, outputs.encoder_last_hidden_state, outputs.last_hidden_state)
    return [states.norm(dim=-1).mean().item() for states in vectors]


@pytest.mark.parametrize(
    ("cell", "attention", "width"),
    [
        *itertools.product(CELLS, ATTENTIONS, [128]),
        *(pytest.param(cell, "luong", 1024, marks=pytest.mark.slow) for cell in CELLS),
    ],
)
def test_vectors_are_as_long_whatever_the_width(cell, attention, width):
    """The tanh-RNN's, which saturate, are somewhat longer where there are more units; started in ± 0.1, its readouts
    are more than 100 times as long at 1,024 as at 32."""
    narrow, wide = (norms(hidden_size=size, cell_type=cell, attention=attention) for size in (32, width))
    for short, long in zip(narrow, wide, strict=True):
        assert 0.5 * short < long < 3 * short


def test_every_gate_is_a_matrix_of_its_own():
    """Its bound is of its own shape (Glorot & Bengio 2010), not of all gates stacked."""
    for cell, gates in (("rnn", 1), ("lstm", 4), ("gru", 3)):
        model = fresh(hidden_size=64, embedding_size=40, cell_type=cell, bidirectional=False)
        weight = model.model.encoder.layers[0].rnn.weight_ih_l0
        assert weight.shape == (gates * 64, 40)
        for gate in weight.split(64):
            limit = (6 / (64 + 40)) ** 0.5
            assert 0.98 * limit < gate.abs().max() <= limit
        for gate in model.model.encoder.layers[0].rnn.weight_hh_l0.split(64):
            torch.testing.assert_close(gate @ gate.T, torch.eye(64), rtol=0, atol=1e-5)


@pytest.mark.parametrize("limit", [0.1, 1])
def test_a_number_stays_possible(limit):
    model = fresh(hidden_size=64, init_range=limit, attention="bahdanau", tie_word_embeddings=False)
    for name, value in model.named_parameters():
        if "bias" not in name and "weight_hh" not in name:
            assert 0.9 * limit < value.abs().max() <= limit, name


def test_configs_of_before_keep_their_range(tmp_path):
    """They say ``init_range: 0.1``, and what is built of them starts as it did."""
    RnnSeq2SeqConfig(vocab_size=VOCAB, hidden_size=32).save_pretrained(tmp_path)
    told = json.loads((tmp_path / "config.json").read_text())
    assert told["init_range"] is None
    (tmp_path / "config.json").write_text(json.dumps(told | {"init_range": 0.1}))
    config = RnnSeq2SeqConfig.from_pretrained(tmp_path)
    assert config.init_range == 0.1
    shared = RnnSeq2SeqForConditionalGeneration(config).model.shared.weight
    assert 0.09 < shared.abs().max() <= 0.1


@pytest.mark.slow
def test_a_narrow_model_learns_a_batch_by_heart():
    """As transformers' own test of overfitting asks, in half its updates: 1 to 19 over and over."""
    model = fresh(hidden_size=48, vocab_size=99, cell_type="gru").train()
    ids = torch.arange(1, 20).repeat(4)[:64].expand(2, -1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
    losses = []
    for _ in range(200):
        optimizer.zero_grad()
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append((loss.item(), norm.item()))
    for first, last in zip(losses[0], losses[-1], strict=True):
        assert last < 0.1 * first, losses[::20]
