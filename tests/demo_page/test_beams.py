"""The tree of a search is that of the search: its outputs, and every prefix with the model's own score."""

import pytest
import torch
from helpers.tiny import SOURCES, START, tiny

from seqloom.decoding.engine import decoder_for
from seqloom.decoding.search import search
from seqloom.decoding.targets import SearchOptions
from seqloom.demo_page.beams import of_outputs, watched


def options(**changes) -> SearchOptions:
    given = {"num_beams": 4, "num_return_sequences": 4, "max_new_tokens": 9, **changes}
    return SearchOptions(start_token=START, eos_tokens=(2,), pad_token=0, **given)


@torch.no_grad()
def log_probability(model, source, tokens) -> float:
    """Of all tokens, by the model itself."""
    inputs = {"input_ids": torch.tensor([source]), "decoder_input_ids": torch.tensor([[START, *tokens[:-1]]])}
    logits = model(**inputs).logits[0].log_softmax(-1)
    return float(logits.gather(1, torch.tensor(tokens)[:, None]).sum())


@pytest.mark.parametrize("name", ["gru-bahdanau", "hybrid", "post-norm"])
@pytest.mark.parametrize("changes", [{}, {"length_penalty": 0.5, "early_stopping": True}, {"num_beams": 2,
                                     "num_return_sequences": 2, "max_new_tokens": 3}], ids=str)  # fmt: skip
@torch.no_grad()
def test_watched(name, changes):
    model = tiny(name)
    decoder, asked = decoder_for(model), options(**changes)
    for source in SOURCES[:2]:
        tree = watched(decoder, source, asked)
        ((_, outputs),) = search(decoder, [source], asked)
        ranked = sorted((node for node in tree.nodes if node.rank), key=lambda node: node.rank)
        assert [list(node.tokens) for node in ranked] == [output.tokens for output in outputs]
        for place, node in enumerate(tree.nodes):
            assert node.score == pytest.approx(log_probability(model, source, node.tokens), abs=1e-4)
            assert (node.parent is None) == (len(node.tokens) == 1)
            assert node.parent is None or tree.nodes[node.parent].tokens == node.tokens[:-1]
            assert node.parent is None or node.parent < place
        of_step = [[node for node in tree.nodes if node.step == step] for step in range(asked.max_new_tokens)]
        assert all(asked.num_beams <= len(nodes) <= 2 * asked.num_beams for nodes in of_step[:1])
        assert any(node.rank is None for node in tree.nodes)
        for nodes in of_step:
            assert [node.score for node in nodes] == sorted((node.score for node in nodes), reverse=True)


def test_fewer_words_than_beams():
    """Beams that there are not are none of the tree's."""
    model = tiny("post-norm", vocab_size=5)
    tree = watched(decoder_for(model), [3, 4, 2], options(num_beams=8, num_return_sequences=8, max_new_tokens=1))
    assert len(tree.nodes) == 5
    assert sorted(node.rank for node in tree.nodes) == [1, 2, 3, 4, 5]


def test_of_outputs():
    tree = of_outputs([((5, 7, 2), (-0.1, -0.2, -0.3)), ((5, 2), (-0.1, -2.0)), ((6,), (-3.0,))])
    assert [(node.tokens, node.parent, node.rank) for node in tree.nodes] == [
        ((5,), None, None), ((6,), None, 3), ((5, 7), 0, None), ((5, 2), 0, 2), ((5, 7, 2), 2, 1),
    ]  # fmt: skip
    assert [node.score for node in tree.nodes] == pytest.approx([-0.1, -3.0, -0.3, -2.1, -0.6])
    assert of_outputs([((), ())]).nodes == []
