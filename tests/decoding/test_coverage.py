"""Beam search with a coverage penalty, held to the penalty's formula and to all beams there are."""

import math
from functools import lru_cache

import pytest
import torch
from helpers.features import EVERY_COLUMN, marian, with_maps
from helpers.generating import END, generate, sentences, trained
from helpers.tiny import SOURCES, START, close, pad

from seqloom.decoding.coverage import SMALLEST, coverage_beam_search

pytestmark = pytest.mark.slow


@pytest.fixture(params=EVERY_COLUMN)
def name(request):
    """Models of every column."""
    return request.param


@pytest.fixture
def model(name):
    """Models of every column, taught; those who change one copy it."""
    return trained(name)


# The coverage penalty.


@lru_cache
def shown(model):
    """The same model with its maps, made once."""
    return with_maps(model)


@torch.no_grad()
def covered(model, source, tokens) -> float:
    """Σᵢ log(min(Σⱼ pᵢⱼ, 1)), with loops; of the sentence alone, its end not counted."""
    maps = shown(model)(
        torch.tensor([source]), decoder_input_ids=torch.tensor([[START, *tokens]]), output_attentions=True
    ).cross_attentions
    heads = [head for layer in maps for head in layer[0].tolist()]  # of all layers: (target, source) each
    total = 0.0
    for i in range(len(source)):
        attention = 0.0
        for j, token in enumerate(tokens):
            if token != END:
                attention += sum(head[j][i] for head in heads) / len(heads)
        total += math.log(min(max(attention, SMALLEST), 1.0))
    return total


def attends(model) -> bool:
    return getattr(model.config, "attention", "yes") != "none"


def cover(model, sources=SOURCES, penalty=0.7, num_beams=4, **options):
    return generate(
        model, sources, num_beams=num_beams, custom_generate=coverage_beam_search, coverage_penalty=penalty, **options
    )


def assert_refused(model):
    with pytest.raises(ValueError, match=r"needs attention over the source.*choose a model with attention"):
        cover(model)


def test_coverage_penalty(model):
    """Hypotheses of plain beam search, ordered by their score and the penalty of each, computed by hand."""
    if not attends(model):
        return assert_refused(model)
    for ranking in (model, marian()):
        for penalty in (0.2, 5.0):
            options = {"length_penalty": 0.6}
            plain = generate(ranking, num_beams=4, num_return_sequences=4, **options)
            expected = []
            for i, source in enumerate(SOURCES):
                scores, rows = plain.sequences_scores[4 * i :][:4].tolist(), sentences(plain)[4 * i :][:4]
                new = [s + penalty * covered(ranking, source, row) for s, row in zip(scores, rows, strict=True)]
                expected += sorted(zip(new, rows, strict=True), reverse=True)[:3]
            outputs = cover(ranking, penalty=penalty, num_return_sequences=3, **options)
            close(outputs.sequences_scores, torch.tensor([score for score, _ in expected]), 1e-4)
            assert sentences(outputs) == [row for _, row in expected]
            tokens = cover(ranking, penalty=penalty, num_return_sequences=3, return_dict_in_generate=False, **options)
            assert torch.equal(tokens, outputs.sequences)
        if ranking is model:
            assert sentences(outputs) != sentences(generate(model, num_beams=4, num_return_sequences=3, **options))


def test_no_coverage_penalty_is_plain_beam_search(model):
    if not attends(model):
        return assert_refused(model)
    for options in ({}, {"num_return_sequences": 3, "output_attentions": True}, {"do_sample": True, "top_k": 0}):
        for ranking in (model, marian()):
            found, plain = cover(ranking, penalty=0, **options), generate(ranking, num_beams=4, **options)
            assert torch.equal(found.sequences, plain.sequences)
            close(found.sequences_scores, plain.sequences_scores)
            assert torch.equal(found.beam_indices, plain.beam_indices)
            assert len(found.scores) == len(plain.scores)
            assert cover(ranking, penalty=0, output_scores=False).scores is None


def test_coverage_of_batch_mates_and_padding(model):
    if not attends(model):
        return assert_refused(model)
    alone = [cover(model, [source], num_return_sequences=4) for source in SOURCES]
    for side in ("left", "right"):
        together = cover(model, side=side, extra=3, num_return_sequences=4)
        for i, outputs in enumerate(alone):
            close(outputs.sequences_scores, together.sequences_scores[4 * i : 4 * i + 4], 1e-4)
            assert sentences(outputs) == sentences(together)[4 * i : 4 * i + 4]


def test_coverage_with_prefixes(model):
    """Those tokens cover too; their padding does not."""
    if not attends(model):
        return assert_refused(model)
    prefixes = [[START, 4, 18], [START, 9], [START], [START, 7, 7, 3]]
    ids, mask = pad(prefixes, "left")
    options = {"num_return_sequences": 4, "penalty": 2.0}
    together = cover(model, decoder_input_ids=ids, decoder_attention_mask=mask, **options)
    for i, (source, prefix) in enumerate(zip(SOURCES, prefixes, strict=True)):
        starts = {"decoder_input_ids": torch.tensor([prefix])}
        alone = cover(model, [source], **starts, **options)
        close(together.sequences_scores[4 * i : 4 * i + 4], alone.sequences_scores, 1e-4)
        plain = generate(model, [source], num_beams=4, num_return_sequences=4, **starts)
        rows = zip(plain.sequences_scores.tolist(), sentences(plain), strict=True)
        expected = sorted((score + 2 * covered(model, source, row) for score, row in rows), reverse=True)
        close(alone.sequences_scores, torch.tensor(expected), 1e-4)


def test_a_large_coverage_penalty_prefers_what_covers(model):
    """With it coverage alone decides: of all beams the first covers most, the last least."""
    if not attends(model):
        return assert_refused(model)
    found = sentences(cover(model, penalty=1e5, num_return_sequences=4))
    improved = 0
    for i, source in enumerate(SOURCES):
        coverages = [covered(model, source, row) for row in found[4 * i : 4 * i + 4]]
        assert coverages == sorted(coverages, reverse=True)
        best = sentences(generate(model, [source], num_beams=4))[0]
        improved += coverages[0] > covered(model, source, best)
    assert improved


def test_coverage_penalty_refuses(model):
    before = model.config._attn_implementation
    with pytest.raises(ValueError, match="num_beams=1: set num_beams to 2 or more"):
        cover(model, num_beams=1)
    with pytest.raises(ValueError, match=r"coverage_penalty=-0\.1: it must be 0 .* or more"):
        cover(model, penalty=-0.1)
    with pytest.raises(ValueError, match="coverage_penalty"):  # without custom_generate nothing would read it
        generate(model, num_beams=2, coverage_penalty=0.2)
    if not attends(model):
        assert_refused(model)
    else:
        cover(model)
    assert model.config._attn_implementation == before
