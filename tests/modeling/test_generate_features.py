"""Every feature of `generate`, for every family: each is held to what it means, written out a second time.

The table in docs/generation.md names these tests; the first one here keeps the two together.
"""

import copy
import itertools
import math
import re
import shutil
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from helpers.generating import END, generate, sentences, trained
from helpers.tiny import SEPARATE, SOURCES, START, TARGETS, VOCAB, close, is_rnn, pad, tiny
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    MarianConfig,
    MarianMTModel,
    PreTrainedTokenizerFast,
    StoppingCriteria,
    StoppingCriteriaList,
    TextIteratorStreamer,
    TextStreamer,
    WatermarkDetector,
    WatermarkingConfig,
)
from transformers.cache_utils import Cache, EncoderDecoderCache
from transformers.generation import (
    CompileConfig,
    GenerateBeamEncoderDecoderOutput,
    GenerateEncoderDecoderOutput,
)

from seqloom.decoding.coverage import SMALLEST, coverage_beam_search

ROOT = Path(__file__).parents[2]
COLUMNS = {
    "RNN without attention": ["lstm-untied"],
    "RNN with attention": ["gru-bahdanau", "lstm-luong", "lstm-luong-fed"],
    "Transformer": ["post-norm", "rotary"],
}
STEPS = 9  # tokens at most, as `generate` of test_generation.py has it
MASKED = -float("inf")


@pytest.fixture(
    params=[
        pytest.param(name, id=f"{column.lower().replace(' ', '-')}:{name}")
        for column, names in COLUMNS.items()
        for name in names
    ]
)
def name(request):
    """Models of every column."""
    return request.param


@pytest.fixture
def model(name):
    """Models of every column, taught; those who change one copy it."""
    return trained(name)


@lru_cache
def marian():
    """A model that is not ours, for what is to work with any."""
    torch.manual_seed(3)
    config = MarianConfig(
        vocab_size=VOCAB, d_model=16, encoder_layers=2, decoder_layers=3, encoder_attention_heads=2,
        decoder_attention_heads=4, encoder_ffn_dim=16, decoder_ffn_dim=16, max_position_embeddings=64, pad_token_id=0,
        eos_token_id=END, bos_token_id=START, decoder_start_token_id=START, forced_eos_token_id=None,
    )  # fmt: skip
    model = MarianMTModel(config).eval()
    with torch.no_grad():
        for parameter in model.model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return model


@lru_cache
def letters():
    """A tokenizer of the tiny vocabulary: id 3 is a space, id 4 is "a", id 5 is "b", …"""
    pieces = ["<pad>", "<s>", "</s>", "▁", *"abcdefghijklmnop"]
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, merges=[]))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


def with_maps(model):
    """The same model on the attention that returns its weights."""
    model = copy.deepcopy(model)
    if not is_rnn(model):
        model.set_attn_implementation("eager")
    return model


@torch.no_grad()
def forced(model, sequences, repeats=1, **options):
    """Teacher forcing: the outputs of one pass over whole sequences, without a cache, the sources padded."""
    input_ids, attention_mask = (tensor.repeat_interleave(repeats, dim=0) for tensor in pad(SOURCES))
    return model(
        input_ids, attention_mask=attention_mask, decoder_input_ids=sequences[:, :-1], use_cache=False, **options
    )


@torch.no_grad()
def next_logits(model, source, prefixes):
    """(prefixes, vocab) scores of what comes after each prefix; one source, without batch mates, padding or cache."""
    rows = torch.tensor([source]).expand(len(prefixes), -1)
    return model(rows, decoder_input_ids=torch.tensor(prefixes), use_cache=False).logits[:, -1]


def said(outputs, ends=(END,)):
    """What was generated, up to each sentence's end; after that comes padding, or in beam search the end again."""
    rows = []
    for row in outputs.sequences[:, 1:].tolist():
        end = min((place + 1 for place, token in enumerate(row) if token in ends), default=len(row))
        assert set(row[end:]) <= {0, END}
        rows.append(row[:end])
    return rows


def greedy(model, source, rule=None, ends=(END,), steps=STEPS, prefix=(START,)):
    """The likeliest token of every step after ``rule(tokens, logits)``; what comes after the start."""
    tokens = list(prefix)
    for _ in range(steps):
        logits = next_logits(model, source, [tokens])[0]
        if rule is not None:
            rule(tokens, logits)
        tokens.append(int(logits.argmax()))
        if tokens[-1] in ends:
            break
    return tokens[1:]


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


def assert_follows(model, rule, ends=(END,), **options):
    """`generate` with ``options`` is greedy search under ``rule``, and that is not what it says without."""
    found = said(generate(model, **options), ends)
    assert found == [greedy(model, source, rule, ends) for source in SOURCES]
    assert found != TARGETS


class TestTable:
    """docs/generation.md says of every feature and family what is tested here, and nothing else."""

    def rows(self):
        lines = (ROOT / "docs" / "generation.md").read_text(encoding="utf-8").splitlines()
        return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]

    def test_columns_are_the_families(self):
        header, rule, *rows = self.rows()
        assert header == ["Feature", "Option", *COLUMNS, "Test"]
        assert all(re.fullmatch("-+", cell) for cell in rule)
        assert all(len(row) == len(header) for row in rows)

    def test_every_test_is_named(self):
        named = [name for row in self.rows()[2:] for name in re.findall(r"`(.*?)`", row[-1])]
        path = f"tests/modeling/{Path(__file__).name}"
        features = [name for name in globals() if name.startswith("test_")]
        assert sorted(named) == sorted(f"{path}::{name}" for name in features)
        assert all(row[-1] for row in self.rows())

    def test_what_is_not_yes_has_a_note(self):
        text = (ROOT / "docs" / "generation.md").read_text(encoding="utf-8")
        notes = set(re.findall(r"^(\d+)\. ", text, flags=re.MULTILINE))
        used = set()
        for row in self.rows()[2:]:
            for cell in row[2:5]:
                found = re.fullmatch(r"yes|(?:yes|refused|nothing|not ours) \((\d+)\)", cell)
                assert found, cell
                used |= set(found.groups()) - {None}
        assert used == notes


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
    if is_rnn(model):
        assert (
            whole.decoder_attentions is whole.encoder_attentions is None
        )  # a recurrence attends to no step of its own
        return
    for step, maps in enumerate(outputs.decoder_attentions):
        for found, expected in zip(maps, whole.decoder_attentions, strict=True):
            close(found[:, :, 0], expected[:, :, step, : step + 1])
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


def test_own_logits_processor(model):
    class OddEven(LogitsProcessor):
        """Even tokens after odd ones, and odd ones after even."""

        def __call__(self, input_ids, scores):
            is_same = torch.arange(scores.shape[1])[None] % 2 == input_ids[:, -1:] % 2
            return scores.masked_fill(is_same, MASKED)

    def rule(tokens, logits):
        logits[tokens[-1] % 2 :: 2] = MASKED

    processors = LogitsProcessorList([OddEven()])
    assert_follows(model, rule, logits_processor=processors)
    for tokens in sentences(generate(model, num_beams=3, num_return_sequences=3, logits_processor=processors)):
        assert all(first % 2 != second % 2 for first, second in zip([START, *tokens], tokens, strict=False))


def test_repetition_penalty(model):
    def rule(tokens, logits):
        for token in set(tokens):
            logits[token] = logits[token] / 3 if logits[token] > 0 else logits[token] * 3

    suppressed = {"suppress_tokens": [END]}  # so that there is something to repeat

    def endless(tokens, logits):
        rule(tokens, logits)
        logits[END] = MASKED

    assert_follows(model, endless, repetition_penalty=3.0, **suppressed)
    assert sentences(generate(model, repetition_penalty=3.0, **suppressed)) != sentences(generate(model, **suppressed))


def test_no_repeat_ngram_size(model):
    def rule(tokens, logits):
        logits[END] = MASKED
        for start in range(len(tokens) - 1):
            if tokens[start] == tokens[-1]:
                logits[tokens[start + 1]] = MASKED

    options = {"suppress_tokens": [END], "max_new_tokens": 25}
    found = sentences(generate(model, no_repeat_ngram_size=2, **options))
    assert found == [greedy(model, source, rule, steps=25) for source in SOURCES]
    pairs = [list(itertools.pairwise(row)) for row in found]
    assert all(len(set(row)) == len(row) for row in pairs)
    assert found != sentences(generate(model, **options))


def test_encoder_no_repeat_ngram_size(model):
    def rule(_, logits, source):
        for token in source:
            if token != END:
                logits[token] = MASKED

    sources = [[token for token in source if token != END] for source in SOURCES]  # else no sentence might end
    found = sentences(generate(model, sources, encoder_no_repeat_ngram_size=1))
    padding = 14  # `generate` knows no mask here: the padding of the batch is forbidden too
    for source, row in zip(sources, found, strict=True):
        rows = [*source, *([padding] if len(source) < max(map(len, sources)) else [])]
        assert row == greedy(model, source, lambda tokens, logits, rows=rows: rule(tokens, logits, rows))
        assert not set(row) & set(source)


def test_encoder_repetition_penalty(model):
    """Tokens of the source become likelier."""

    def follow(source):
        def rule(_, logits):
            for token in set(source):
                logits[token] = logits[token] * 4 if logits[token] > 0 else logits[token] / 4

        return rule

    found = [sentences(generate(model, [source], encoder_repetition_penalty=4.0))[0] for source in SOURCES]
    assert found == [greedy(model, source, follow(source)) for source in SOURCES]
    assert found != TARGETS


def test_min_new_tokens(model):
    def rule(tokens, logits):
        if len(tokens) - 1 < 5:
            logits[END] = MASKED

    assert_follows(model, rule, min_new_tokens=5)
    assert all(len(row) > 5 for row in sentences(generate(model, num_beams=3, min_new_tokens=5)))


def test_exponential_decay_length_penalty(model):
    def rule(tokens, logits):
        if len(tokens) - 1 > 1:
            logits[END] += logits[END].abs() * (3.0 ** (len(tokens) - 2) - 1)

    assert_follows(model, rule, exponential_decay_length_penalty=(1, 3.0))


def test_bad_words_ids(model):
    def rule(tokens, logits):
        logits[11] = MASKED
        if tokens[-1] == 16:
            logits[3] = MASKED

    assert_follows(model, rule, bad_words_ids=[[11], [16, 3]])


def test_sequence_bias(model):
    def rule(tokens, logits):
        logits[9] += 50
        if tokens[-1] == 9:
            logits[5] += 100

    assert_follows(model, rule, sequence_bias=[[[9], 50.0], [[9, 5], 100.0]])


def test_prefix_allowed_tokens_fn(model):
    def allowed(row, tokens):
        return [END, 3 + row, 8 + row] if len(tokens) < 5 else [END]

    found = sentences(generate(model, prefix_allowed_tokens_fn=allowed))
    for number, source in enumerate(SOURCES):

        def rule(tokens, logits, number=number):
            kept = logits[allowed(number, tokens)]
            logits.fill_(MASKED)
            logits[allowed(number, tokens)] = kept

        assert found[number] == greedy(model, source, rule)
    for number, row in enumerate(sentences(generate(model, num_beams=2, prefix_allowed_tokens_fn=allowed))):
        assert set(row) <= {END, 3 + number, 8 + number}


def test_forced_tokens(model):
    def rule(tokens, logits):
        only = 13 if len(tokens) == 1 else END if len(tokens) == 5 else None
        if only is not None:
            logits.fill_(MASKED)
            logits[only] = 0

    options = {"forced_bos_token_id": 13, "forced_eos_token_id": END, "max_new_tokens": 5}
    assert_follows(model, rule, **options)
    for row in sentences(generate(model, num_beams=3, num_return_sequences=3, **options)):
        assert row[0] == 13
        assert row[-1] == END


def test_suppressed_tokens(model):
    def never(_, logits):
        logits[[4, 16]] = MASKED

    def not_first(tokens, logits):
        if len(tokens) == 1:
            logits[[4, 9, 11, 15]] = MASKED

    assert_follows(model, never, suppress_tokens=[4, 16])
    assert_follows(model, not_first, begin_suppress_tokens=[4, 9, 11, 15])


def test_several_ends(model):
    assert_follows(model, None, ends=(END, 6, 16), eos_token_id=[END, 6, 16])
    outputs = generate(model, eos_token_id=[END, 6, 16], num_beams=3, num_return_sequences=3)
    assert {row[-1] for row in said(outputs, (END, 6, 16))} > {6, 16}


def test_stopping_criteria(model):
    class AfterThree(StoppingCriteria):
        """Stops a sentence, and that one only, once it has said 3 or 5."""

        def __call__(self, input_ids, scores, **kwargs):
            return (input_ids[:, -1] == 3) | (input_ids[:, -1] == 5)

    criteria = StoppingCriteriaList([AfterThree()])
    assert_follows(model, None, ends=(END, 3, 5), stopping_criteria=criteria)
    found = said(generate(model, stopping_criteria=criteria, num_beams=2), (END, 3, 5))
    assert 3 in {row[-1] for row in found}
    # Any time is more than none: it ends with the first token. A day is enough for all.
    assert generate(model, max_time=1e-9).sequences.shape == (4, 2)
    assert sentences(generate(model, max_time=86400.0)) == TARGETS


def test_stop_strings(model):
    found = generate(model, stop_strings=["m d", "o"], tokenizer=letters()).sequences
    texts = letters().batch_decode(found, skip_special_tokens=True)
    expected = []
    for text in letters().batch_decode([greedy(model, source) for source in SOURCES], skip_special_tokens=True):
        ends = [text.index(stop) + len(stop) for stop in ("m d", "o") if stop in text]
        expected.append(text[: min(ends, default=len(text))])
    assert texts == expected
    assert texts[:2] == ["ao", "fm d"]


def test_streamers(model, capsys):
    expected = letters().decode(TARGETS[1], skip_special_tokens=True)
    generate(model, SOURCES[1:2], streamer=TextStreamer(letters(), skip_prompt=True, skip_special_tokens=True))
    assert capsys.readouterr().out == expected + "\n"
    streamer = TextIteratorStreamer(letters(), skip_prompt=True, skip_special_tokens=True)
    generate(model, SOURCES[1:2], streamer=streamer)
    pieces = list(streamer)
    assert "".join(pieces) == expected
    assert len([piece for piece in pieces if piece]) > 1
    with pytest.raises(ValueError, match="`streamer` cannot be used with beam search"):
        generate(model, SOURCES[:1], num_beams=2, streamer=streamer)


def test_prefix(model):
    for prefix in ([START, 9], [START, 7, 7, 3]):
        starts = torch.tensor([prefix] * 4)
        found = sentences(generate(model, decoder_input_ids=starts))
        assert found == [greedy(model, source, prefix=prefix) for source in SOURCES]
        assert all(row[: len(prefix) - 1] == prefix[1:] for row in found)
        found = sentences(generate(model, decoder_input_ids=starts[:, 1:], num_beams=2))  # the start comes by itself
        assert found == sentences(generate(model, decoder_input_ids=starts, num_beams=2))


def test_prefixes_of_different_lengths(model):
    prefixes = [[START, 4, 18], [START, 9], [START], [START, 7, 7, 3]]
    ids, mask = pad(prefixes, "left")
    found = generate(model, decoder_input_ids=ids, decoder_attention_mask=mask).sequences
    for row, source, prefix in zip(found, SOURCES, prefixes, strict=True):
        alone = [START, *greedy(model, source, prefix=prefix)]
        assert row[4 - len(prefix) :][: len(alone)].tolist() == alone
    options = {"num_beams": 3, "num_return_sequences": 3, "decoder_input_ids": ids, "decoder_attention_mask": mask}
    together = generate(model, **options)
    for i, (source, prefix) in enumerate(zip(SOURCES, prefixes, strict=True)):
        alone = generate(model, [source], **{**options, "decoder_input_ids": torch.tensor([prefix]),
                                             "decoder_attention_mask": None})  # fmt: skip
        close(together.sequences_scores[3 * i : 3 * i + 3], alone.sequences_scores, 1e-4)


def test_encoder_outputs(model):
    input_ids, attention_mask = pad(SOURCES)
    for options in ({}, {"num_beams": 3, "num_return_sequences": 2}):
        encoder_outputs = model.get_encoder()(input_ids, attention_mask)
        found = model.generate(
            encoder_outputs=encoder_outputs, attention_mask=attention_mask, max_new_tokens=STEPS, **options
        )
        assert torch.equal(found, generate(model, **options).sequences)


def test_inputs_embeds(model):
    input_ids, attention_mask = pad(SOURCES)
    embeds = model.get_input_embeddings()(input_ids)
    for options in ({}, {"num_beams": 3, "num_return_sequences": 2}):
        found = model.generate(inputs_embeds=embeds, attention_mask=attention_mask, max_new_tokens=STEPS, **options)
        assert torch.equal(found, generate(model, **options).sequences)
    flipped = model.generate(inputs_embeds=embeds.flip(0), attention_mask=attention_mask.flip(0), max_new_tokens=STEPS)
    assert sentences(flipped) == TARGETS[::-1]


def test_watermarking(model):
    """Each token chooses the 5 of 20 that the next one may well be; another model is marked just so."""
    options = {"do_sample": True, "top_k": 0, "min_new_tokens": 30, "max_new_tokens": 30}
    mark = WatermarkingConfig(bias=12.0, greenlist_ratio=0.25)
    for marked in (model, marian()):
        outputs = generate(marked, watermarking_config=mark, output_logits=True, **options)
        favourites = {}
        for step, (scores, logits) in enumerate(zip(outputs.scores, outputs.logits, strict=True)):
            for row in range(4):
                bias = (scores[row] - logits[row]).nan_to_num(0.0)
                favoured = set((bias > 6).nonzero().flatten().tolist())
                assert favourites.setdefault(int(outputs.sequences[row, step]), favoured) - {END} == favoured - {END}
                assert len(favoured) in (4, 5)  # the end may be one and is forbidden here
        assert len(set(map(tuple, favourites.values()))) > 1
        detector = WatermarkDetector(model_config=marked.config, device="cpu", watermarking_config=mark)
        found, plain = detector(outputs.sequences, return_dict=True), generate(marked, **options).sequences
        assert found.prediction.all()
        assert (found.z_score > detector(plain, return_dict=True).z_score).all()


def test_dynamic_cache(model):
    for options in ({"min_new_tokens": 12, "max_new_tokens": 12}, {"num_beams": 4, "num_return_sequences": 4}):
        cached, plain = (generate(model, use_cache=use_cache, **options) for use_cache in (True, False))
        assert isinstance(cached.past_key_values, Cache if is_rnn(model) else EncoderDecoderCache)
        assert plain.past_key_values is None
        assert torch.equal(cached.sequences, plain.sequences)
        for first, second in zip(cached.scores, plain.scores, strict=True):
            close(first, second, 1e-4)


def test_static_cache(model):
    options = {"cache_implementation": "static", "disable_compile": True}
    if is_rnn(model):
        with pytest.raises(ValueError, match=r"cache_implementation='static'.*leave cache_implementation out"):
            generate(model, **options)
        return
    for more in ({}, {"num_beams": 3, "num_return_sequences": 3}):
        expected, found = generate(model, **more), generate(model, **more, **options)
        assert torch.equal(found.sequences, expected.sequences)
        for first, second in zip(found.scores, expected.scores, strict=True):
            close(first, second, 1e-4)


def test_quantized_cache(model):
    with pytest.raises(ValueError, match="quantized"):
        generate(model, cache_implementation="quantized")
    with pytest.raises(ValueError, match="quantized"):
        generate(marian(), cache_implementation="quantized")


@pytest.mark.slow
def test_compile(model):
    """A compiled forward gives the same tokens; a Transformer's is one graph."""
    torch._dynamo.reset()
    expected, compiled = generate(model), copy.deepcopy(model)
    try:
        compiled.forward = torch.compile(compiled.forward, backend="eager", fullgraph=not is_rnn(model))
        assert torch.equal(generate(compiled).sequences, expected.sequences)
    finally:
        torch._dynamo.reset()


@pytest.mark.slow
def test_compile_config(model):
    """`generate` compiles by itself where a static cache lets it."""
    if is_rnn(model):
        with pytest.raises(ValueError, match=r"cache_implementation='static'"):
            generate(model, cache_implementation="static", compile_config=CompileConfig())
        return
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    expected = generate(model).sequences
    own = trained("post-norm") is model and shutil.which("g++")
    for kind in (backend, "inductor") if own else (backend,):  # inductor writes C++
        torch._dynamo.reset()
        config = CompileConfig(backend=kind, fullgraph=True, mode=None)
        config._compile_all_devices = True  # else on a GPU alone
        outputs = generate(copy.deepcopy(model), cache_implementation="static", compile_config=config)
        assert torch.equal(outputs.sequences, expected)
    assert graphs
    torch._dynamo.reset()


def passes(model, **options):
    """Sequences of the first source, and how often the model was run for them."""
    runs = []
    handle = model.register_forward_pre_hook(lambda *_: runs.append(1))
    try:
        return generate(model, SOURCES[:1], **options).sequences, len(runs)
    finally:
        handle.remove()


def test_prompt_lookup_decoding(model):
    """Tokens said before are proposed again: the result is the greedy one, in fewer passes."""
    options = {"suppress_tokens": [END], "max_new_tokens": 40}  # whoever may not stop repeats itself
    expected, number = passes(model, **options)
    assert number == 40
    found, number = passes(model, prompt_lookup_num_tokens=3, **options)
    assert torch.equal(found, expected)
    assert number < 40


def test_prompt_lookup_decoding_of_two_vocabularies(name):
    """The target's may be the larger."""
    model = tiny(name, **SEPARATE)
    prefix = {"decoder_input_ids": torch.tensor([[START, 21, 22, 21, 22, 21]])}
    expected, _ = passes(model, **prefix)
    found, _ = passes(model, prompt_lookup_num_tokens=3, **prefix)
    assert torch.equal(found, expected)


def test_assisted_decoding(model):
    options = {"min_new_tokens": 12, "max_new_tokens": 12}
    expected, number = passes(model, **options)
    assert number == 12
    for assistant, is_good in ((copy.deepcopy(model), True), (tiny("gru-bahdanau"), False), (tiny("rotary"), False)):
        found, number = passes(model, assistant_model=assistant, **options)
        assert torch.equal(found, expected)
        assert number < 12 if is_good else number <= 12
        sampled, _ = passes(model, assistant_model=assistant, do_sample=True, top_k=1, **options)
        assert torch.equal(sampled, expected)
    with pytest.raises(ValueError, match="batch_size = 1"):
        generate(model, assistant_model=model)


def test_classifier_free_guidance(model):
    """`generate` would run the unconditional text as a decoder-only model's input: no encoder-decoder can take it."""
    for refusing in (model, marian()):
        with pytest.raises(ValueError, match="decoder"):
            generate(refusing, guidance_scale=1.5)


def test_strategies_moved_to_the_hub(model):
    for options in (
        {"penalty_alpha": 0.6, "top_k": 4},
        {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
        {"num_beams": 2, "force_words_ids": [[5]]},
        {"dola_layers": "low"},
    ):
        with pytest.raises(ValueError, match="requires `trust_remote_code=True`"):
            generate(model, **options)


def test_half_precision(model):
    for dtype in (torch.bfloat16, torch.float16):
        half = copy.deepcopy(model).to(dtype)
        for num_beams in (1, 2):
            outputs = generate(half, num_beams=num_beams, output_logits=True)
            assert torch.stack(outputs.scores).isnan().sum() == 0
            expected = forced(model, outputs.sequences).logits
            if num_beams == 1:
                for row, tokens in enumerate(sentences(outputs)):
                    found = torch.stack([logits[row] for logits in outputs.logits[: len(tokens)]])
                    close(found, expected[row, : len(tokens)], 0.25)


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
