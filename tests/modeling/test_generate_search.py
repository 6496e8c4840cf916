"""Greedy search, beams and sampling, for every family: each held to what it means, written out a second time."""

import copy

import pytest
import torch
from helpers.features import EVERY_COLUMN, STEPS, forced, greedy, next_logits, with_maps
from helpers.generating import END, generate, sentences, trained
from helpers.tiny import SOURCES, START, TARGETS, VOCAB, close, has_implementations, is_recurrent, pad
from transformers import (
    GenerationConfig,
)
from transformers.generation import (
    GenerateBeamEncoderDecoderOutput,
    GenerateEncoderDecoderOutput,
)

pytestmark = pytest.mark.slow


@pytest.fixture(params=EVERY_COLUMN)
def name(request):
    """Models of every column."""
    return request.param


@pytest.fixture
def model(name):
    """Models of every column, taught; those who change one copy it."""
    return trained(name)


def beams(model, source, num_beams, length_penalty=1.0, early_stopping=False, steps=STEPS):
    """Beam search as transformers defines it: [(score, tokens)], best first."""
    running, finished = [(0.0, [START])], []
    for length in range(1, steps + 1):
        log_probs = next_logits(model, source, [tokens for _, tokens in running]).log_softmax(-1).tolist()
        every = [
            (score + log_prob, [*tokens, token])
            for (score, tokens), row in zip(running, log_probs, strict=True)
            for token, log_prob in enumerate(row)
        ]
        every = sorted(every, reverse=True)[: 2 * num_beams]
        is_over = [tokens[-1] == END or length == steps for _, tokens in every]
        new = [(score / length**length_penalty, tokens[1:]) for score, tokens in every[:num_beams]]
        finished += [hypothesis for hypothesis, over in zip(new, is_over, strict=False) if over]
        finished = sorted(finished, reverse=True)[:num_beams]
        running = [hypothesis for hypothesis, over in zip(every, is_over, strict=True) if not over][:num_beams]
        if len(finished) == num_beams and running:
            longest = steps if early_stopping == "never" and length_penalty > 0 else length
            if early_stopping is True or running[0][0] / longest**length_penalty <= finished[-1][0]:
                break
    return finished


def assert_beams(model, num_beams=3, **options):
    """`generate` finds what ``beams`` finds, sentence by sentence; returns the tokens."""
    outputs = generate(model, num_beams=num_beams, num_return_sequences=num_beams, **options)
    expected = [hypothesis for source in SOURCES for hypothesis in beams(model, source, num_beams, **options)]
    close(outputs.sequences_scores, torch.tensor([score for score, _ in expected]), 1e-4)
    assert sentences(outputs) == [tokens for _, tokens in expected]
    return sentences(outputs)


def test_greedy(model):
    outputs = generate(model)
    assert sentences(outputs) == [greedy(model, source) for source in SOURCES]
    likeliest = forced(model, outputs.sequences).logits.argmax(-1)
    for row, best, tokens in zip(outputs.sequences[:, 1:], likeliest, sentences(outputs), strict=True):
        assert best[: len(tokens)].tolist() == tokens
        assert (row[len(tokens) :] == model.config.pad_token_id).all()


def test_length_limits(model):
    for length in (1, 4, 12):
        found = generate(model, min_new_tokens=length, max_new_tokens=length).sequences
        assert found.shape == (4, 1 + length)
        assert not (found[:, :-1] == END).any()
        assert torch.equal(found, generate(model, max_new_tokens=None, min_length=length + 1, max_length=length + 1)[0])


def test_generation_config(model):
    config = GenerationConfig(num_beams=3, length_penalty=0.3, max_new_tokens=5, num_return_sequences=2)
    input_ids, attention_mask = pad(SOURCES)
    expected = generate(model, num_beams=3, length_penalty=0.3, max_new_tokens=5, num_return_sequences=2).sequences
    given = model.generate(input_ids, attention_mask=attention_mask, generation_config=config)
    assert torch.equal(given, expected)
    model = copy.deepcopy(model)
    model.generation_config.update(**config.to_diff_dict())
    assert torch.equal(model.generate(input_ids, attention_mask=attention_mask), expected)


def test_return_dict_in_generate(model):
    for options, kind in (
        ({}, GenerateEncoderDecoderOutput),
        ({"num_beams": 2, "num_return_sequences": 2}, GenerateBeamEncoderDecoderOutput),
    ):
        outputs = generate(model, output_scores=None, **options)
        assert type(outputs) is kind
        assert outputs.scores is outputs.logits is outputs.cross_attentions is outputs.decoder_hidden_states is None
        plain = generate(model, return_dict_in_generate=False, output_scores=None, **options)
        assert torch.is_tensor(plain)
        assert torch.equal(plain, outputs.sequences)


def test_beam_search(model):
    for num_beams in (2, 5):
        assert_beams(model, num_beams)


def test_early_stopping(model):
    """All three differ in when they stop; what is found differs for some sentence."""
    found = [
        assert_beams(model, 2, length_penalty=2.0, early_stopping=early_stopping)
        for early_stopping in (True, False, "never")
    ]
    assert found[0] != found[2]


def test_length_penalty(model):
    short, _, long = (assert_beams(model, 3, length_penalty=penalty) for penalty in (-2.0, 0.0, 2.0))
    assert sum(map(len, short)) < sum(map(len, long))


def test_n_best(model):
    three = generate(model, num_beams=4, num_return_sequences=3)
    expected = [hypothesis for source in SOURCES for hypothesis in beams(model, source, 4)[:3]]
    assert sentences(three) == [tokens for _, tokens in expected]
    for i in range(0, 12, 3):
        scores, tokens = three.sequences_scores[i : i + 3].tolist(), sentences(three)[i : i + 3]
        assert scores == sorted(scores, reverse=True)
        assert len(set(map(tuple, tokens))) == 3


def test_num_beams_and_num_return_sequences(model):
    for num_beams in (2, 3, 5):
        every = generate(model, num_beams=num_beams, num_return_sequences=num_beams)
        for number in range(1, num_beams):
            outputs = generate(model, num_beams=num_beams, num_return_sequences=number)
            kept = [row for row in range(4 * num_beams) if row % num_beams < number]
            assert outputs.sequences.shape[0] == outputs.sequences_scores.shape[0] == 4 * number
            assert sentences(outputs) == [sentences(every)[row] for row in kept]
            assert torch.equal(outputs.sequences_scores, every.sequences_scores[kept])
    with pytest.raises(ValueError, match="num_return_sequences"):
        generate(model, num_beams=2, num_return_sequences=3)


def test_beam_scores(model):
    for penalty in (0.0, 0.6, 1.5):
        outputs = generate(model, num_beams=3, num_return_sequences=3, length_penalty=penalty)
        labels, is_token = pad(sentences(outputs))
        logits = forced(model, torch.cat((torch.full((12, 1), START), labels), dim=1), repeats=3).logits
        totals = (logits.log_softmax(-1).gather(-1, labels[..., None]).squeeze(-1) * is_token).sum(-1)
        close(outputs.sequences_scores * is_token.sum(-1) ** penalty, totals, 1e-4)


def test_beam_sampling(model):
    def sample(seed):
        torch.manual_seed(seed)
        input_ids, attention_mask = pad(SOURCES)
        return model.generate(
            input_ids, attention_mask=attention_mask, do_sample=True, num_beams=3, num_return_sequences=3, top_k=0,
            max_new_tokens=STEPS, return_dict_in_generate=True, output_scores=True,
        )  # fmt: skip

    outputs = sample(1)
    assert torch.equal(outputs.sequences, sample(1).sequences)
    assert any(sentences(sample(seed)) != sentences(outputs) for seed in range(2, 6))
    labels, is_token = pad(sentences(outputs))
    logits = forced(model, torch.cat((torch.full((12, 1), START), labels), dim=1), repeats=3).logits
    totals = (logits.log_softmax(-1).gather(-1, labels[..., None]).squeeze(-1) * is_token).sum(-1)
    close(outputs.sequences_scores, totals / is_token.sum(-1), 1e-4)
    ranked = outputs.sequences_scores.view(4, 3)
    assert torch.equal(ranked, ranked.sort(dim=-1, descending=True).values)


def assert_samples(model, allow, **options):
    """Every sampled token is one of ``allow(probabilities)``, and no other had a chance; returns the tokens."""
    options = {"do_sample": True, "top_k": 0, "num_return_sequences": 4, "temperature": 1.5, **options}
    outputs = generate(model, **options)
    probabilities = (forced(model, outputs.sequences, repeats=4).logits / options["temperature"]).softmax(-1)
    steps = torch.stack(outputs.scores, dim=1)
    excluded = 0
    for row, tokens in enumerate(sentences(outputs)):
        for step, token in enumerate(tokens):
            allowed = allow(probabilities[row, step].tolist())
            assert token in allowed
            assert set(steps[row, step].isfinite().nonzero().flatten().tolist()) == allowed
            excluded += VOCAB - len(allowed)
    assert len(set(map(tuple, sentences(outputs)))) > 4  # they are samples
    return excluded


def ranked(probabilities):
    return sorted(range(len(probabilities)), key=lambda token: -probabilities[token])


def test_sampling(model):
    """Without limits every token has its chance, and those drawn first come as often as the model says."""
    assert assert_samples(model, lambda probabilities: set(range(len(probabilities)))) == 0
    drawn = generate(model, SOURCES[:1], do_sample=True, top_k=0, max_new_tokens=1, num_return_sequences=4000)
    found = drawn.sequences[:, 1].bincount(minlength=model.config.decoder_vocab_size) / 4000
    expected = next_logits(model, SOURCES[0], [[START]])[0].softmax(-1)
    deviation = (expected * (1 - expected) / 4000).sqrt()
    assert ((found - expected).abs() <= 5 * deviation + 1e-3).all()


def test_top_k(model):
    assert assert_samples(model, lambda probabilities: set(ranked(probabilities)[:3]), top_k=3)


def test_top_p(model):
    def nucleus(probabilities):
        """The fewest likeliest tokens that hold 0.8 of the probability."""
        kept, total = set(), 0.0
        for token in ranked(probabilities):
            if total >= 0.8:
                break
            kept.add(token)
            total += probabilities[token]
        return kept

    assert assert_samples(model, nucleus, top_p=0.8)


def test_min_p(model):
    def likely(probabilities):
        return {token for token, p in enumerate(probabilities) if p >= 0.15 * max(probabilities)}

    assert assert_samples(model, likely, min_p=0.15)


def test_epsilon_cutoff(model):
    def likely(probabilities):
        return {token for token, p in enumerate(probabilities) if p >= 0.02 or p == max(probabilities)}

    assert assert_samples(model, likely, epsilon_cutoff=0.02)


def test_temperature(model):
    for temperature in (0.5, 3.0):
        outputs = generate(model, do_sample=True, top_k=0, temperature=temperature, output_logits=True)
        for scores, logits in zip(outputs.scores, outputs.logits, strict=True):
            close(scores, logits / temperature)
    cold = generate(model, do_sample=True, top_k=0, temperature=1e-3, num_return_sequences=3)
    assert sentences(cold) == [target for target in TARGETS for _ in range(3)]
    hot = generate(model, do_sample=True, top_k=0, temperature=5.0, num_return_sequences=3)
    assert sentences(hot) != sentences(cold)


def test_output_scores_and_logits(model):
    def rule(_, logits):
        logits[4] -= 1.5

    outputs = generate(model, output_logits=True, sequence_bias=[[[4], -1.5]])
    logits = forced(model, outputs.sequences).logits
    assert len(outputs.logits) == len(outputs.scores) == logits.shape[1]
    for row, tokens in enumerate(sentences(outputs)):
        for step in range(len(tokens)):
            close(outputs.logits[step][row], logits[row, step], 1e-4)
            rule(tokens, logits[row, step])
            close(outputs.scores[step][row], logits[row, step], 1e-4)


def test_compute_transition_scores(model):
    for num_beams in (1, 3):
        outputs = generate(model, num_beams=num_beams, num_return_sequences=num_beams)
        indices = outputs.beam_indices if num_beams > 1 else None
        found = model.compute_transition_scores(
            outputs.sequences, outputs.scores, indices, normalize_logits=num_beams == 1
        )
        labels, is_token = pad(sentences(outputs), value=0)
        logits = forced(model, torch.cat((torch.full((len(labels), 1), START), labels), dim=1), num_beams).logits
        expected = logits.log_softmax(-1).gather(-1, labels[..., None]).squeeze(-1) * is_token
        close(found * is_token, expected, 1e-4)
        if num_beams > 1:
            close(found.sum(-1) / is_token.sum(-1), outputs.sequences_scores, 1e-4)


def test_output_attentions(model):
    model = with_maps(model)
    options = {"output_attentions": True, "min_new_tokens": 6, "max_new_tokens": 6}
    outputs = generate(model, **options)
    whole = forced(model, outputs.sequences, output_attentions=True)
    if getattr(model.config, "attention", None) == "none":
        assert not any(outputs.cross_attentions)
        assert whole.cross_attentions is None
        return
    for layer, expected in enumerate(whole.cross_attentions):  # (batch, heads, target, source)
        close(torch.cat([maps[layer] for maps in outputs.cross_attentions], dim=2), expected)
        close(expected.sum(-1), torch.ones(expected.shape[:3]))
        assert (expected.transpose(1, 3)[pad(SOURCES)[1] == 0] == 0).all()  # none to padding
    if is_recurrent(model):
        assert whole.decoder_attentions is None  # a recurrence attends to no step of its own
    else:
        for step, maps in enumerate(outputs.decoder_attentions):
            for found, expected in zip(maps, whole.decoder_attentions, strict=True):
                close(found[:, :, 0], expected[:, :, step, : step + 1])
    if not has_implementations(model):
        assert whole.encoder_attentions is None
        return
    for found, expected in zip(outputs.encoder_attentions, whole.encoder_attentions, strict=True):
        close(found, expected)
    num_beams = generate(model, num_beams=2, **options)
    assert all(weights.shape[0] == 8 for maps in num_beams.cross_attentions for weights in maps)


def test_output_hidden_states(model):
    outputs = generate(model, output_hidden_states=True, min_new_tokens=6, max_new_tokens=6)
    whole = forced(model, outputs.sequences, output_hidden_states=True)
    assert len(whole.decoder_hidden_states) == model.config.decoder_layers + 1
    for layer, expected in enumerate(whole.decoder_hidden_states):
        close(torch.cat([states[layer] for states in outputs.decoder_hidden_states], dim=1), expected)
    assert len(whole.encoder_hidden_states) == model.config.encoder_layers + 1
    for found, expected in zip(outputs.encoder_hidden_states, whole.encoder_hidden_states, strict=True):
        close(found, expected)
