"""The searches of `generate` written out a second time, and the models whose features are tested."""

import copy
from functools import lru_cache

import pytest
import torch
from transformers import (
    MarianConfig,
    MarianMTModel,
)

from helpers.generating import END
from helpers.tiny import SOURCES, START, VOCAB, has_implementations, pad

COLUMNS = {
    "RNN without attention": ["lstm-untied"],
    "RNN with attention": ["gru-bahdanau", "lstm-luong", "lstm-luong-fed"],
    "Hybrid": ["hybrid"],
    "Transformer": ["post-norm", "rotary"],
}
EVERY_COLUMN = [
    pytest.param(name, id=f"{column.lower().replace(' ', '-')}:{name}")
    for column, names in COLUMNS.items()
    for name in names
]


STEPS = 9  # tokens at most, as `generate` of test_generation.py has it


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


def with_maps(model):
    """The same model on the attention that returns its weights."""
    model = copy.deepcopy(model)
    if has_implementations(model):
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
