"""A model's two graphs, run as they stand, find what the model finds; what there are no graphs of is refused."""

import copy

import pytest
import torch
from helpers.graphs import assert_finds_the_same, eager, searched, sources
from helpers.tiny import EVERY, close, pad, tiny
from torch import nn

from seqloom.decoding.engine import decoder_for
from seqloom.export import graphs as graphs_of
from seqloom.export.graphs import check_model, graphs

OFTEN = {
    "lstm-bahdanau", "gru-luong-dot", "rnn-luong-fed", "ssru", "min-lstm-bahdanau", "hybrid-lstm", "pre-norm",
    "gelu-separate", "rotary-swiglu-pre-norm", "relative",
}  # fmt: skip
"""Every cell, attention, position and feed-forward network once."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name if name in OFTEN else pytest.param(name, marks=pytest.mark.long) for name in EVERY]
)
def test_search_finds_what_generate_finds(name):
    model = tiny(name)
    assert_finds_the_same(eager(model), model)


@pytest.mark.parametrize("name", ["lstm-luong-fed", "rotary"])
def test_draws_are_the_lean_decoders(name):
    model, found = tiny(name), []
    for decoder in (eager(model), decoder_for(model)):
        torch.manual_seed(3)
        found.append(searched(decoder, model, sources(), do_sample=True, top_k=5, num_return_sequences=2))
    assert found[0] == found[1]


@pytest.mark.parametrize("name", EVERY)
def test_padding_of_sources_changes_nothing(name):
    encoder = graphs(tiny(name))[0]
    rows = sources(6)
    with torch.no_grad():
        of_source, of_target = encoder.module(*pad(rows, extra=3))
        for place, row in enumerate(rows):
            alone, first = encoder.module(*pad([row]))
            for kept, mine in zip(of_source, alone, strict=True):
                close(kept[place : place + 1, ..., : len(row), :], mine)
            for kept, mine in zip(of_target, first, strict=True):
                close(kept[place : place + 1], mine)


@pytest.mark.parametrize("name", EVERY)
def test_what_the_graphs_give_lies_as_they_take_it(name):
    """Programs that are compiled go by strides: what comes out goes in again as it is."""
    encoder, step = graphs(tiny(name))
    with torch.no_grad():
        of_source, of_target = encoder.module(*encoder.inputs)
        _, kept = step.module(*step.inputs)
    assert all(part.is_contiguous() for part in (*of_source, *of_target, *kept, *step.inputs[2], *step.inputs[3]))


@pytest.mark.parametrize(("name", "layer"), [("post-norm", "q_proj"), ("gru-bahdanau", "key_proj")])
def test_layers_of_others_are_refused(name, layer):
    class Adapted(nn.Linear):
        """It may compute anything."""

    model = copy.deepcopy(tiny(name))
    holder = next(module for module in model.modules() if hasattr(module, layer))
    setattr(holder, layer, Adapted(16, 16))
    with pytest.raises(ValueError, match=r"know the layers of seqloom's own models, but it holds a Adapted\."):
        check_model(model)


def test_older_torch_is_refused(monkeypatch):
    monkeypatch.setattr(graphs_of, "TORCH", "99.0")
    with pytest.raises(ValueError, match=r"need torch 99\.0 or newer, and this is "):
        check_model(tiny("post-norm"))
