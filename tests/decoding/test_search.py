"""The search over lean decoders finds what `generate` finds, whatever company a sentence is in."""

import itertools
import math
import sys
import weakref
from collections import deque

import pytest
import torch
from helpers.generating import END, trained
from helpers.letters import make_tokenizer, texts
from helpers.tiny import EVERY, VOCAB, tiny
from torch import nn
from transformers import GenerationConfig

from seqloom import translate
from seqloom.decoding import search as search_module
from seqloom.decoding.asked import NotOurs, options_for
from seqloom.decoding.constraints import argmax, best, log_normaliser
from seqloom.decoding.engine import decoder_for
from seqloom.decoding.replay import EVEN
from seqloom.decoding.search import Batch, Sentence, recorder_of, search, search_arriving
from seqloom.support.layers import FastLinear, speed_up

MODELS = list(EVERY)
SEARCHES = {
    "greedy": {},
    "greedy, no bigram twice": {"no_repeat_ngram_size": 2, "min_new_tokens": 4},
    "beams": {"num_beams": 3},
    "more beams than half the vocabulary": {"num_beams": 12, "num_return_sequences": 4},
    "n best, long ones": {"num_beams": 4, "num_return_sequences": 3, "length_penalty": 2.0},
    "n best, short ones": {"num_beams": 4, "num_return_sequences": 4, "length_penalty": -0.5},
    "as soon as there are enough": {"num_beams": 3, "early_stopping": True},
    "to the end": {"num_beams": 3, "early_stopping": "never", "length_penalty": 0.7},
    "beams, no bigram twice": {"num_beams": 3, "no_repeat_ngram_size": 2, "min_new_tokens": 3},
    "two ends": {"num_beams": 3, "eos_token_id": [END, 7]},
    "one token": {"num_beams": 2, "max_new_tokens": 1},
}


def sources(count=24, longest=9):
    """Ids of sentences of many lengths, ended."""
    generator = torch.Generator().manual_seed(count)
    lengths = torch.randint(1, longest, (count,), generator=generator).tolist()
    return [[*torch.randint(3, VOCAB, (length,), generator=generator).tolist(), END] for length in lengths]


def searched(model, given, batch_tokens=40, prefixes=None, **options):
    """Tokens of every output of every source."""
    with torch.inference_mode():
        decided = options_for(model, {"max_new_tokens": 12, **options})
        found = dict(search(decoder_for(model), given, decided, batch_tokens=batch_tokens, prefixes=prefixes))
    return [[candidate.tokens for candidate in found[place]] for place in range(len(given))]


def generated(model, source, prefix=(), **options):
    """The same, by `generate`, alone."""
    start = model.config.decoder_start_token_id
    options = {"max_new_tokens": 12, **options}
    if prefix:
        options["decoder_input_ids"] = torch.tensor([[start, *prefix]] * 1)
    outputs = model.generate(torch.tensor([source]), attention_mask=torch.ones(1, len(source), dtype=int), **options)
    ends = options.get("eos_token_id", END)
    ends = ends if isinstance(ends, list) else [ends]
    rows = []
    for row in outputs[:, 1:].tolist():
        written = row[len(prefix) :]
        stop = next((place for place, token in enumerate(written) if token in ends), len(written) - 1)
        rows.append(row[: len(prefix) + stop + 1])
    return rows


FEW = ("greedy", "beams", "n best, long ones", "two ends")
"""Searches of every model; all of them are tried on some."""
ALL_OF = ("rnn", "gru-bahdanau", "lstm-luong-fed", "post-norm", "rotary-swiglu-pre-norm")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kind"), [(name, kind) for name in MODELS for kind in (SEARCHES if name in ALL_OF else FEW)]
)
def test_as_generate(name, kind):
    model, given = tiny(name), sources(6)
    expected = [generated(model, source, **SEARCHES[kind]) for source in given]
    assert searched(model, given, batch_tokens=30, **SEARCHES[kind]) == expected


@pytest.mark.parametrize("name", MODELS)
class TestSameTokens:
    @pytest.mark.slow
    @pytest.mark.parametrize("kind", ["greedy", "beams", "n best, long ones"])
    def test_as_generate_when_trained(self, name, kind):
        model, given = trained(name), sources(7)
        assert searched(model, given, **SEARCHES[kind]) == [
            generated(model, source, **SEARCHES[kind]) for source in given
        ]

    def test_company_does_not_matter(self, name):
        model, given = tiny(name), sources(9)
        for kind in ("greedy", "beams"):
            together = searched(model, given, batch_tokens=10_000, **SEARCHES[kind])
            assert searched(model, given, batch_tokens=1, **SEARCHES[kind]) == together
            assert searched(model, given, batch_tokens=50, **SEARCHES[kind]) == together
            assert searched(model, given[::-1], batch_tokens=50, **SEARCHES[kind]) == together[::-1]

    def test_prefix(self, name):
        """It is part of the output, costs nothing, and the rest is what `generate` goes on with."""
        model, given = tiny(name), sources(6)
        prefixes = [[5, 9], [], [4], [END, 6, 3], [8], []]
        for kind in ("greedy", "beams", "n best, long ones"):
            expected = [
                generated(model, source, prefix, **SEARCHES[kind])
                for source, prefix in zip(given, prefixes, strict=True)
            ]
            assert searched(model, given, prefixes=prefixes, **SEARCHES[kind]) == expected


class TestLong:
    @pytest.mark.parametrize("name", ["rotary", "pre-norm", "lstm-luong-fed", "hybrid-lstm"])
    def test_beyond_the_first_memory(self, name):
        """Caches and tables of positions grow, with rows of all ages side by side."""
        model, given = tiny(name), sources(7, longest=60)
        options = {"max_new_tokens": 90, "min_new_tokens": 40, "num_beams": 2}
        assert searched(model, given, batch_tokens=150, **options) == [
            generated(model, source, **options) for source in given
        ]


class TestBatch:
    @pytest.mark.parametrize("num_beams", [1, 3])
    def test_budget(self, num_beams):
        """Of source tokens with padding, counted for every beam; places that get free are taken."""
        decoder, rows = decoder_for(tiny("post-norm")), []

        class Watched:
            device = decoder.device

            def start(self, input_ids, attention_mask, beams):
                assert attention_mask.any(0).all()
                return decoder.start(input_ids, attention_mask, beams)

            def step(self, tokens, state):
                assert len(tokens) * state.keys_values.shape[4] <= 120
                rows.append(len(tokens))
                return decoder.step(tokens, state)

        given = sources(40)
        options = options_for(tiny("post-norm"), {"max_new_tokens": 9, "num_beams": num_beams})
        with torch.inference_mode():
            found = dict(search(Watched(), given, options, batch_tokens=120))
        assert sorted(found) == list(range(40))
        assert max(rows) > num_beams
        assert all(count % num_beams == 0 for count in rows)

    @pytest.mark.parametrize("name", ["post-norm", "rotary", "lstm-luong-fed", "gru", "hybrid"])
    @pytest.mark.parametrize("num_beams", [1, 3])
    def test_those_that_write_on_are_set_aside(self, monkeypatch, name, num_beams):
        """While others wait; they are finished together, and nothing that they wrote is lost."""
        original, places = Batch.set_aside, []
        monkeypatch.setattr(search_module, "LONGER", -50)  # whoever is not done when the first are
        monkeypatch.setattr(
            Batch, "set_aside", lambda self, targets: places.append(original(self, targets)) or places[-1]
        )
        model, given = tiny(name), sources(14)
        prefixes = [[4, 9, 6, 8] * (place % 5) for place in range(len(given))]  # so they end one after the other
        options = {"max_new_tokens": 9, "num_beams": num_beams}
        found = searched(model, given, batch_tokens=40 * num_beams, prefixes=prefixes, **options)
        assert found == [
            generated(model, source, prefix, **options) for source, prefix in zip(given, prefixes, strict=True)
        ]
        assert sum(map(len, places)) > 3

    def test_no_sources(self):
        assert searched(tiny("gru"), []) == []


class TestArriving:
    """Sources that come one after another, some steps apart."""

    @pytest.mark.parametrize("name", ["rotary", "lstm-luong-fed", "hybrid-lstm"])
    @pytest.mark.parametrize(("kind", "batch_tokens"), [("greedy", 40), ("n best, long ones", 100)])
    def test_as_all_at_once(self, name, kind, batch_tokens):
        model, given = tiny(name), sources(16, longest=14)
        some, places = itertools.cycle([3, 0, 1, 0, 0, 1, 0]), iter(range(len(given)))
        left = next(some)

        def arrivals(room):
            nonlocal left, place
            assert room > 0
            if place is None or left == 0 or len(given[place]) > room:
                left = next(some)
                return None
            left, arrived, place = left - 1, place, next(places, None)
            return arrived, given[arrived]

        decided, found, place = options_for(model, {"max_new_tokens": 12, **SEARCHES[kind]}), {}, next(places)
        with torch.inference_mode():
            while place is not None:  # whenever all that have come are done, the search is over
                found |= dict(search_arriving(decoder_for(model), decided, arrivals, batch_tokens=batch_tokens))
        tokens = [[candidate.tokens for candidate in found[place]] for place in range(len(given))]
        assert tokens == searched(model, given, **SEARCHES[kind])

    def test_recorded(self, monkeypatch):
        """As on a GPU, where those of a batch come and go together."""
        model, given = tiny("rotary"), sources(14)
        decoder, decided = decoder_for(model), options_for(model, {"max_new_tokens": 12, "num_beams": 3})
        decoder.is_fixed = True
        recorder = recorder_of(decoder, decided)
        recorder.record = lambda step: step

        class Recorded(Batch):
            def __init__(self, *arguments, **options):
                super().__init__(*arguments, **options)
                self.recorder, self.even = recorder, EVEN

        monkeypatch.setattr(search_module, "Batch", Recorded)
        coming, found = list(enumerate(given)), {}
        with torch.inference_mode():
            while coming:
                some, coming = iter(coming[:3]), coming[3:]
                found |= dict(search_arriving(decoder, decided, lambda room, some=some: next(some, None)))
        monkeypatch.undo()
        tokens = [[candidate.tokens for candidate in found[place]] for place in range(len(given))]
        assert tokens == searched(model, given, num_beams=3)

    def test_nobody_waits_for_others(self):
        """Of those that come together, the shortest output is out first."""
        model, coming = tiny("rotary"), list(enumerate(sources(12)))
        decided = options_for(model, {"max_new_tokens": 12, "eos_token_id": [*range(2, 14)]})
        with torch.inference_mode():
            done = [
                len(found[0].tokens)
                for _, found in search_arriving(
                    decoder_for(model), decided, lambda room: coming.pop() if coming else None, batch_tokens=1000
                )
            ]
        assert done == sorted(done)
        assert done[0] < done[-1]

    def test_what_has_no_room_has_its_turn(self):
        """A source that is longer than the rest of the batch allows goes before those that come later."""
        model, coming, rooms = tiny("rotary"), [(0, [5] * 2), (1, [5] * 30), (2, [5] * 2)], []

        def arrivals(room):
            rooms.append(room)
            return coming.pop(0) if coming and len(coming[0][1]) <= room else None

        decided = options_for(model, {"max_new_tokens": 3, "min_new_tokens": 3})
        with torch.inference_mode():
            found = search_arriving(decoder_for(model), decided, arrivals, batch_tokens=20)
            assert [number for number, _ in found] == [0, 1, 2]
        assert rooms[:2] == [sys.maxsize, 10]
        assert rooms.count(sys.maxsize) >= 3


class TestRecorded:
    """As on a GPU: a step depends on tensors alone, which stay where they are, and is what was recorded before."""

    @staticmethod
    def searched(model, given, recorder=None, **options):
        options = options_for(model, {"max_new_tokens": 12, **options})
        decoder = decoder_for(model)
        decoder.is_fixed = True
        batch, waiting, found = Batch(decoder, options, 60 * options.rows), deque(), {}
        batch.recorder, batch.even = recorder_of(decoder, options), EVEN
        batch.recorder.record = lambda step: step
        for _ in range(2):  # the second time everything is there
            waiting.extend(Sentence(index, source, []) for index, source in enumerate(given))
            with torch.inference_mode():
                while waiting or batch.sentences:
                    found |= dict(batch.turn_over(waiting))
                    if batch.sentences:
                        batch.step()
        assert all(recording.replay is not None for recording in batch.recorder.recordings.values())
        return [[candidate.tokens for candidate in found[place]] for place in range(len(given))]

    @pytest.mark.parametrize("name", ["post-norm", "rotary-swiglu-pre-norm", "lstm-luong-fed", "gru-bahdanau", "rnn"])
    @pytest.mark.parametrize("kind", ["greedy", "beams", "n best, long ones", "to the end", "two ends"])
    def test_as_step_by_step(self, name, kind):
        model, given = tiny(name), sources(14)
        assert self.searched(model, given, **SEARCHES[kind]) == searched(model, given, **SEARCHES[kind])

    @pytest.mark.parametrize("name", ["rotary", "lstm-luong-fed"])
    def test_beyond_the_first_memory(self, name):
        model, given = tiny(name), sources(5, longest=40)
        options = {"max_new_tokens": 90, "min_new_tokens": 40, "num_beams": 2}
        assert self.searched(model, given, **options) == searched(model, given, **options)

    def test_a_decoder_goes_with_its_recordings(self):
        decoder = decoder_for(tiny("gru"))
        options = options_for(tiny("gru"), {})
        assert recorder_of(decoder, options) is recorder_of(decoder, options)
        gone = weakref.ref(decoder)
        del decoder
        assert gone() is None


class TestSampling:
    def test_frequencies(self):
        """Of the first token, they are the model's probabilities, after temperature and top-k."""
        model = tiny("pre-norm")
        given, count = [5, 9, END], 4000
        torch.manual_seed(3)
        options = {"do_sample": True, "temperature": 0.7, "top_k": 6, "max_new_tokens": 1}
        outputs = searched(model, [given] * count, batch_tokens=100_000, **options)
        frequencies = torch.tensor([tokens[0] for (tokens,) in outputs]).bincount(minlength=VOCAB) / count
        start = torch.tensor([[model.config.decoder_start_token_id]])
        scores = model(torch.tensor([given]), decoder_input_ids=start).logits[0, 0] / 0.7
        kept = scores.topk(6).indices
        expected = torch.zeros(VOCAB).scatter(0, kept, scores[kept].softmax(-1))
        torch.testing.assert_close(frequencies, expected, atol=0.04, rtol=0)

    def test_seed(self):
        model, given = tiny("gru"), sources(8)
        options = {"do_sample": True, "top_k": 0, "num_return_sequences": 3}
        runs = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            runs.append(searched(model, given, **options))
        assert runs[0] == runs[1] != runs[2]
        assert all(len(outputs) == 3 for outputs in runs[0])


class TestEngine:
    def test_what_is_not_ours_is_left_to_generate(self):
        model = tiny("post-norm")
        for options in (
            {"repetition_penalty": 1.3}, {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.1},
            {"num_beams": 2, "do_sample": True}, {"decoder_input_ids": torch.tensor([[1, 4]])},
            {"suppress_tokens": [4]}, {"logits_processor": []},
        ):  # fmt: skip
            with pytest.raises(NotOurs):
                options_for(model, options)
        assert options_for(model, {"generation_config": GenerationConfig(num_beams=3)}).num_beams == 3

    def test_changed_models(self):
        class Other(nn.Linear):
            pass

        class Adapter(nn.Module):
            """As those of PEFT: it shows the weight of the layer that it changes the outputs of."""

            def __init__(self, layer):
                super().__init__()
                self.layer, self.weight, self.bias = layer, layer.weight, layer.bias
                self.out_features = layer.out_features

            def forward(self, states):
                return self.layer(states) + 5

        hooked, other, double, adapted, embedded = (tiny("post-norm") for _ in range(5))
        adapted.model.decoder.layers[0].fc1 = Adapter(adapted.model.decoder.layers[0].fc1)
        embedded.model.decoder.embed_tokens = type("Embedding", (nn.Embedding,), {})(VOCAB, 16)
        hooked.model.decoder.layers[0].register_forward_hook(lambda *given: None)
        other.lm_head = Other(16, VOCAB, bias=False)
        for model in (hooked, other, double.double(), adapted, embedded, nn.Linear(2, 2)):
            with pytest.raises(NotOurs):
                decoder_for(model)

    def test_asking_for_attentions_leaves_a_model_as_it_was(self):
        model, tokenizer = tiny("rotary"), make_tokenizer()
        translate(model, tokenizer, ["abc"], output_attentions=True, max_new_tokens=3)
        assert decoder_for(model).device == model.device

    def test_faster_layers_are_plain_ones(self):
        """Those of a model that is validated while it learns."""
        model = tiny("post-norm")
        shapes = {"x".join(map(str, part.weight.shape)) for part in model.modules() if isinstance(part, nn.Linear)}
        speed_up(model, {"linear": {key: ["forward"] for key in shapes}, "dropout": True})
        assert FastLinear in map(type, model.modules())
        assert decoder_for(model).device == model.device

    def test_generate_takes_over(self):
        """The outputs are the same but for what is asked."""
        tokenizer = make_tokenizer()
        model, given = tiny("post-norm"), texts(9)
        plain = translate(model, tokenizer, given, max_new_tokens=8)
        model.lm_head.register_forward_hook(lambda *_: None)
        assert translate(model, tokenizer, given, max_new_tokens=8) == plain

    @pytest.mark.parametrize("name", ["rotary", "lstm-luong-fed", "gru-bahdanau"])
    @pytest.mark.parametrize("returned", [1, 3])
    def test_coverage(self, name, returned):
        """The beams are ranked as `generate` has them ranked."""
        tokenizer, model, given = make_tokenizer(), tiny(name), texts(20)
        options = {"num_beams": 4, "max_new_tokens": 9, "num_return_sequences": returned}
        ranked = translate(model, tokenizer, given, batch_tokens=90, coverage_penalty=2.0, **options)
        assert ranked != translate(model, tokenizer, given, **options)
        model.lm_head.register_forward_hook(lambda *_: None)  # `generate` decodes
        assert translate(model, tokenizer, given, coverage_penalty=2.0, **options) == ranked

    def test_weights_are_those_of_the_call(self):
        model, tokenizer = tiny("lstm-luong"), make_tokenizer()
        before = translate(model, tokenizer, texts(5), max_new_tokens=8)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.data = -parameter.data
        after = translate(model, tokenizer, texts(5), max_new_tokens=8)
        assert after != before
        assert after == [
            tokenizer.decode(
                generated(model, tokenizer(text)["input_ids"], max_new_tokens=8)[0], skip_special_tokens=True
            )
            for text in texts(5)
        ]

    @pytest.mark.parametrize("name", ["pre-norm", "rotary-swiglu-pre-norm", "lstm-luong", "gru-bahdanau", "ssru"])
    @pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
    def test_precision(self, name, dtype):
        """Coarser scores are close to the exact ones."""
        model, given = tiny(name), torch.tensor([[5, 9, 3, END], [8, 6, END, 0]])
        with torch.inference_mode():
            tokens, scores = torch.tensor([1, 1]), []
            for kind in (None, dtype):
                decoder = decoder_for(model, kind)
                state = decoder.start(given, (given != 0).long(), 1)
                scores.append(decoder.step(tokens, state).log_softmax(-1))
        exact, coarse = scores
        assert not torch.equal(exact, coarse)
        assert (exact.exp() * (exact - coarse)).sum(-1).abs().max() < 0.05

    def test_bad_dtype(self):
        tokenizer, model = make_tokenizer(), tiny("post-norm")
        with pytest.raises(ValueError, match="choose float32, bfloat16, int8"):
            translate(model, tokenizer, ["ab"], dtype="int4")
        with pytest.raises(ValueError, match=r"dtype='int8' is for seqloom's own search, but suppress_tokens"):
            translate(model, tokenizer, ["ab"], dtype="int8", suppress_tokens=[3])


class TestBest:
    @pytest.mark.parametrize("vocab", [20, 127, 1000, 5500, 8000, 10007])
    def test_as_topk(self, vocab):
        scores, before = torch.randn(6, vocab), torch.randn(2, 3)
        normaliser = log_normaliser(scores)
        totals = (scores - normaliser + before.view(6, 1)).view(2, -1)
        for k in (1, 4, 10):
            expected = totals.topk(k)
            found, beams, ids = best(scores, normaliser, before, k)
            assert torch.equal(found, expected.values)
            assert torch.equal(beams * vocab + ids, expected.indices)

    @pytest.mark.parametrize("vocab", [20, 127, 1000, 5500, 8000, 10007])
    def test_argmax(self, vocab):
        scores = torch.randint(0, 50, (200, vocab)).float()  # of equals, the first
        assert torch.equal(argmax(scores), scores.argmax(-1, keepdim=True))

    def test_normaliser(self):
        scores = torch.randn(5, 300) * 20
        scores[0, 4] = -math.inf
        torch.testing.assert_close(log_normaliser(scores), scores.logsumexp(-1, keepdim=True))
