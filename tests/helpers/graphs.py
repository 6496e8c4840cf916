"""Searches over a model's two graphs, and what `generate` finds by the model itself."""

import torch
from torch.utils._pytree import tree_leaves, tree_map

from helpers.generating import END
from helpers.tiny import VOCAB
from seqloom.decoding.asked import options_for
from seqloom.decoding.graph_decoder import GraphDecoder
from seqloom.decoding.search import search
from seqloom.export.graphs import graphs

SEARCHES = {
    "greedy": {},
    "beams": {"num_beams": 3},
    "n best": {"num_beams": 4, "num_return_sequences": 3, "length_penalty": 2.0},
    "long": {"num_beams": 2, "max_new_tokens": 36, "min_new_tokens": 34},
}
PREFIXES = [[5, 9], [], [4], [END, 6, 3], [8]]


class Eager:
    """A graph that torch runs as it stands."""

    def __init__(self, graph):
        self.graph, self.input_names, self.output_names = graph, graph.input_names, graph.output_names

    def __call__(self, inputs):
        assert all(part.is_contiguous() for part in inputs)
        parts = iter(inputs)
        return tree_leaves(self.graph.module(*tree_map(lambda _: next(parts), self.graph.inputs)))


def eager(model):
    return GraphDecoder(*map(Eager, graphs(model)))


def sources(count=16, longest=9):
    """Ids of sentences of many lengths, ended; the last two are of one token."""
    generator = torch.Generator().manual_seed(count)
    lengths = torch.randint(1, longest, (count - 2,), generator=generator).tolist()
    rows = [[*torch.randint(3, VOCAB, (length,), generator=generator).tolist(), END] for length in lengths]
    return [*rows, [END], [7]]


def searched(decoder, model, given, batch_tokens=40, prefixes=None, **options):
    """Tokens of every output of every source; by default some wait, join later, and leave before others."""
    with torch.inference_mode():
        decided = options_for(model, {"max_new_tokens": 12, **options})
        found = dict(search(decoder, given, decided, batch_tokens=batch_tokens, prefixes=prefixes))
    return [[candidate.tokens for candidate in found[place]] for place in range(len(given))]


def generated(model, given, prefixes=None, **options):
    """The same, by `generate`, each source alone."""
    return [one(model, source, prefixes[place] if prefixes else [], options) for place, source in enumerate(given)]


def one(model, source, prefix, options):
    options = {"max_new_tokens": 12, **options}
    if prefix:
        options["decoder_input_ids"] = torch.tensor([[model.config.decoder_start_token_id, *prefix]])
    rows = model.generate(torch.tensor([source]), attention_mask=torch.ones(1, len(source), dtype=int), **options)
    found = []
    for row in rows[:, 1:].tolist():
        end = row.index(END, len(prefix)) + 1 if END in row[len(prefix) :] else len(row)
        found.append(row[:end])
    return found


def assert_finds_the_same(decoder, model):
    """By every search, in company and alone, and with prefixes."""
    given = sources(10)
    for name, options in SEARCHES.items():
        expected = generated(model, given, **options)
        assert searched(decoder, model, given, **options) == expected, name
        if name != "long":
            assert searched(decoder, model, given, batch_tokens=10_000, **options) == expected, name
        if name == "greedy":
            assert searched(decoder, model, given, batch_tokens=1) == expected
    for options in ({}, {"num_beams": 3}):
        expected = generated(model, given[:5], PREFIXES, **options)
        assert searched(decoder, model, given[:5], prefixes=PREFIXES, **options) == expected
