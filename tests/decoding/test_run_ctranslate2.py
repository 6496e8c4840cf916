"""CTranslate2 made to search as `generate` does: where beams end, what is refused, what is drawn, the empty source."""

import collections

import pytest
import torch
from helpers.exports import assert_same, lively, tokenizer_of
from helpers.tiny import tiny

from seqloom.decoding.asked import NotOurs, options_for
from seqloom.decoding.exported import ExportedModel
from seqloom.decoding.run_ctranslate2 import open_engine
from seqloom.export import to_ctranslate2
from seqloom.export.checking import padded, random_sources, written

pytest.importorskip("ctranslate2")


def opened(model, folder):
    tokenizer = tokenizer_of(model)
    about = {"engine": "ctranslate2", "dtype": "float32", "model": "m"}
    about |= to_ctranslate2.write(model, tokenizer, folder, "float32")
    return ExportedModel(folder, about, model.config, model.generation_config, open_engine(folder, about)), tokenizer


@pytest.fixture(scope="module", params=["sinusoidal", "rotary"])
def models(request, tmp_path_factory):
    """A model and its export."""
    model = lively(1, position_embedding_type=request.param)
    return model, *opened(model, tmp_path_factory.mktemp("exported"))


def test_outputs_end_anywhere(models):
    """Else the next tests would hold nothing."""
    model, _, tokenizer = models
    outputs = written(model, random_sources(tokenizer)[:40], {"num_beams": 5, "max_new_tokens": 20})
    assert len(set(map(len, outputs))) > 4
    assert len(set(map(tuple, outputs))) > 15


@pytest.mark.parametrize("num_beams", [2, 5])
@pytest.mark.parametrize("length_penalty", [0.0, 0.6, 1.0, 2.0, -0.5])
def test_beams(models, num_beams, length_penalty):
    model, other, tokenizer = models
    for stopping in (False, True, "never"):
        for most in (6, 20):
            given = {"num_beams": num_beams, "length_penalty": length_penalty, "early_stopping": stopping}
            assert_same(model, other, tokenizer, {**given, "max_new_tokens": most}, count=20)


def test_several_outputs_of_each(models):
    model, other, tokenizer = models
    inputs = padded(model, random_sources(tokenizer)[:10])
    for stopping in (False, True, "never"):
        given = {"num_beams": 4, "num_return_sequences": 3, "early_stopping": stopping, "max_new_tokens": 12}
        found = [model_.generate(**inputs, **given)[:, 1:].tolist() for model_ in (model, other)]
        ours, theirs = ([row[: row.index(2) + 1] if 2 in row else row for row in rows] for rows in found)
        assert len(ours) == 30
        assert sum(one == two for one, two in zip(ours, theirs, strict=True)) >= 29


def test_greedy_search_with_constraints(models):
    model, other, tokenizer = models
    for given in (
        {},
        {"no_repeat_ngram_size": 1},
        {"no_repeat_ngram_size": 2},
        {"min_new_tokens": 5},
        {"min_length": 4},
    ):
        assert_same(model, other, tokenizer, {"num_beams": 1, "max_new_tokens": 14, **given})


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"num_beams": 3, "no_repeat_ngram_size": 2}, "no_repeat_ngram_size is 2 with more than one beam"),
        ({"num_beams": 3, "min_new_tokens": 2}, "min_new_tokens is 2 with more than one beam"),
        ({"num_beams": 3, "eos_token_id": [2, 5]}, "eos_token_id has several ids"),
        ({"num_beams": 12}, "num_beams is 12"),
        ({"repetition_penalty": 1.2}, "repetition_penalty is 1.2"),
        ({"coverage_penalty": 0.2, "num_beams": 2}, "coverage_penalty is 0.2"),
        ({"do_sample": True, "no_repeat_ngram_size": 2}, "no_repeat_ngram_size is 2 while outputs are drawn"),
        ({"do_sample": True, "num_beams": 2}, "the mode is beam_sample"),
        ({"suppress_tokens": [5]}, "suppress_tokens is"),
    ],
)
def test_what_it_has_not_is_refused_by_name(models, given, named):
    _, other, _ = models
    with pytest.raises(ValueError, match=named):
        other.generate(torch.tensor([[5, 6, 2]]), max_new_tokens=5, **given)


def test_several_ends_without_beams(models):
    model, other, tokenizer = models
    sources = random_sources(tokenizer)[:40]
    given = {"eos_token_id": [2, 9, 14], "max_new_tokens": 20, "num_beams": 1}
    found = [one.generate(**padded(model, sources), **given).tolist() for one in (model, other)]
    cut = [
        [next((row[: i + 1] for i in range(1, len(row)) if row[i] in (2, 9, 14)), row) for row in rows]
        for rows in found
    ]
    assert cut[0] == cut[1]


def test_a_source_that_is_only_its_end(models):
    """CTranslate2 takes it for empty, and gives the empty output."""
    model, other, _ = models
    for given in ({"num_beams": 1}, {"num_beams": 4}):
        for sources in ([[2]], [[2], [5, 6, 2]], [[2, 2]], [[2, 7]]):
            expected = written(model, sources, {"max_new_tokens": 8, **given})
            assert written(other, sources, {"max_new_tokens": 8, **given}) == expected
            assert all(expected)


def test_scores_are_the_models(models):
    from seqloom.modeling.pipeline_seq2seq import teacher_forced

    model, other, _ = models
    sources, targets = [[5, 6, 2], [2], [7, 8, 9, 10, 11, 2]], [[4, 5, 2], [6, 6, 6], [2]]
    with torch.inference_mode():
        for source, target, found in zip(sources, targets, other.score(sources, targets, 1), strict=True):
            expected, _ = teacher_forced(model, torch.tensor([[1, *target]]), torch.tensor([source]))
            assert found == pytest.approx(expected[0].tolist(), abs=1e-5)


class TestSampling:
    """What is drawn is drawn by the model's probabilities, bent as `generate` bends them."""

    @pytest.mark.parametrize(
        "given",
        [
            {"top_k": 0}, {"top_k": 4}, {"top_k": 0, "top_p": 0.6}, {"top_k": 5, "top_p": 0.7, "temperature": 0.5},
            {"top_k": 0, "temperature": 2.0}, {"top_k": 1000},
        ],
        ids=str,
    )  # fmt: skip
    def test_first_tokens(self, models, given):
        model, other, _ = models
        source, number = [5, 9, 13, 2], 4000
        options = options_for(model, {"do_sample": True, "max_new_tokens": 1, "num_return_sequences": number, **given})
        torch.manual_seed(0)
        [(_, found)] = other.search([source], options)
        drawn = collections.Counter(one.tokens[0] for one in found)
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([[1]])).logits[:, -1]
        from seqloom.decoding.targets import warpers

        for warp in warpers(options):
            logits = warp(torch.tensor([[1]]), logits)
        for token, probability in enumerate(logits.softmax(-1)[0].tolist()):
            assert drawn[token] / number == pytest.approx(probability, abs=0.03), token
            assert probability or not drawn[token]

    def test_a_seed_repeats_them(self, models):
        _, other, tokenizer = models
        sources = random_sources(tokenizer)[:5]
        options = options_for(other, {"do_sample": True, "max_new_tokens": 12, "num_return_sequences": 3})

        def drawn(seed):
            torch.manual_seed(seed)
            return {index: [one.tokens for one in found] for index, found in other.search(sources, options)}

        assert drawn(1) == drawn(1)
        assert drawn(1) != drawn(2)

    def test_the_likeliest_alone(self, models):
        model, other, tokenizer = models
        sources = random_sources(tokenizer)[:10]
        greedy = written(model, sources, {"num_beams": 1, "max_new_tokens": 9})
        for given in ({"top_k": 1}, {"top_p": 0.0, "top_k": 0}):
            options = options_for(model, {"do_sample": True, "max_new_tokens": 9, "num_return_sequences": 2, **given})
            found = dict(other.search(sources, options))
            assert [[one.tokens for one in found[index]] for index in range(10)] == [[one, one] for one in greedy]


def test_batches_change_nothing(models):
    model, other, tokenizer = models
    sources = random_sources(tokenizer)[:30]
    options = options_for(model, {"num_beams": 3, "max_new_tokens": 12})
    every = [dict(other.search(sources, options, batch_tokens=budget)) for budget in (1, 100, 10_000)]
    tokens = [[[one.tokens for one in found[index]] for index in range(30)] for found in every]
    assert tokens[0] == tokens[1] == tokens[2]


def test_own_start_and_ends_of_a_call(tmp_path):
    model = tiny("post-norm")
    other, tokenizer = opened(model, tmp_path)
    assert_same(model, other, tokenizer, {"decoder_start_token_id": 7, "max_new_tokens": 8, "num_beams": 1})
    assert_same(model, other, tokenizer, {"eos_token_id": 17, "max_new_tokens": 8, "num_beams": 3})


def test_no_end_is_refused(tmp_path):
    other, _ = opened(tiny("post-norm"), tmp_path)
    other.generation_config.eos_token_id = None
    with pytest.raises(NotOurs, match="eos_token_id is null"):
        other.engine.check(options_for(other, {"max_new_tokens": 3}))
