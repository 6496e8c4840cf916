"""What bends a search and what ends it, for every family: each held to what it means, written out a second time."""

import copy
import itertools
from functools import lru_cache

import pytest
import torch
from helpers.features import EVERY_COLUMN, STEPS, greedy
from helpers.generating import END, generate, sentences, trained
from helpers.tiny import SOURCES, START, TARGETS, close, pad
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedTokenizerFast,
    StoppingCriteria,
    StoppingCriteriaList,
    TextIteratorStreamer,
    TextStreamer,
)

pytestmark = pytest.mark.slow

MASKED = -float("inf")


@pytest.fixture(params=EVERY_COLUMN)
def name(request):
    """Models of every column."""
    return request.param


@pytest.fixture
def model(name):
    """Models of every column, taught; those who change one copy it."""
    return trained(name)


@lru_cache
def letters():
    """A tokenizer of the tiny vocabulary: id 3 is a space, id 4 is "a", id 5 is "b", …"""
    pieces = ["<pad>", "<s>", "</s>", "▁", *"abcdefghijklmnop"]
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, merges=[]))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


def said(outputs, ends=(END,)):
    """What was generated, up to each sentence's end; after that comes padding, or in beam search the end again."""
    rows = []
    for row in outputs.sequences[:, 1:].tolist():
        end = min((place + 1 for place, token in enumerate(row) if token in ends), default=len(row))
        assert set(row[end:]) <= {0, END}
        rows.append(row[:end])
    return rows


def assert_follows(model, rule, ends=(END,), **options):
    """`generate` with ``options`` is greedy search under ``rule``, and that is not what it says without."""
    found = said(generate(model, **options), ends)
    assert found == [greedy(model, source, rule, ends) for source in SOURCES]
    assert found != TARGETS


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


@pytest.mark.parametrize(("total", "new"), [("max_length", "max_new_tokens"), ("min_length", "min_new_tokens")])
def test_lengths_of_a_call_go_before_the_models_own(model, total, new):
    """However each of them counts, the decoder's start included or not; as words, or as a config."""
    model = copy.deepcopy(model)
    setattr(model.generation_config, new, 9)
    least = {} if total == "min_length" else {"suppress_tokens": [END]}
    most = {"max_new_tokens": 30} if total == "min_length" else {}

    def length(**options):
        found = model.generate(torch.tensor(SOURCES[:1]), **least, **most, **options)
        return found.shape[1]

    own = length()
    for option, number in ((total, 6), (new, 5)):
        bare = copy.deepcopy(model)
        setattr(bare.generation_config, new, None)
        expected = bare.generate(torch.tensor(SOURCES[:1]), **least, **most, **{option: number}).shape[1]
        assert length(**{option: number}) == expected
        assert length(generation_config=GenerationConfig(**{option: number})) == expected
        if total == "max_length":
            assert expected == 6 < own == 10
    both = length(**{total: 3, new: 7})
    assert both == length(**{new: 7})


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
