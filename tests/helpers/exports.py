"""Models to export, and what came of it."""

import collections
from pathlib import Path

import torch

from helpers.letters import make_tokenizer, texts
from helpers.tiny import tiny
from seqloom.export.checking import is_tie, random_sources, written
from seqloom.export.export import Request, export

GRID = [
    {"normalize_before": norm, "position_embedding_type": positions, "activation_function": activation, **sharing}
    for norm in (False, True)
    for positions in ("sinusoidal", "rotary")
    for activation in ("relu", "gelu", "swiglu")
    for sharing in (
        {},
        {"tie_word_embeddings": False, "scale_embedding": False},
        {"share_encoder_decoder_embeddings": False, "decoder_vocab_size": 23},
    )
]
"""Every Transformer; the sides' depths, heads and widths differ (see `tiny`)."""


def name_of(fields: dict) -> str:
    return "-".join(str(value) for value in fields.values())


def lively(seed: int, **fields):
    """A Transformer whose outputs differ from source to source and end anywhere."""
    model = tiny("untied-unscaled", noise=0.3, normalize_before=True, **fields)
    torch.manual_seed(seed)
    with torch.no_grad():
        model.lm_head.weight.copy_(torch.randn_like(model.lm_head.weight) * 0.2)
    return model


def tokenizer_of(model):
    return make_tokenizer(shared=model.config.decoder_vocab_size == model.config.vocab_size)


def save(folder: Path, model):
    """A model's folder, its tokenizer in it; gives that back."""
    tokenizer = tokenizer_of(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return tokenizer


CHECKED = 25
"""Sources that the exports of tests are checked with."""


def exported(folder: Path, model, to: str, **fields) -> dict:
    """Exports a model to ``folder/exported``, having saved it to ``folder/model``; gives back what export.json says."""
    (folder / "sources.txt").write_text("".join(f"{text}\n" for text in texts(CHECKED)))
    if model.generation_config.max_new_tokens is None:  # random models seldom end
        model.generation_config.max_new_tokens = 12
    save(folder / "model", model)
    request = Request(
        model=str(folder / "model"), to=to, folder=folder / "exported", **{"sources": folder / "sources.txt"} | fields
    )
    return export(request, say=lambda line: None)


def assert_same(model, other, tokenizer, given: dict, count: int = 60) -> None:
    """Both write the same, but for ties within what float32 rounds."""
    sources = random_sources(tokenizer)[:count]
    expected, found = written(model, sources, given), written(other, sources, given)
    differing = [index for index in range(count) if expected[index] != found[index]]
    assert len(differing) <= count // 20, given
    for index in differing:
        assert is_tie(model, sources[index], given, found[index], 1e-5), (given, expected[index], found[index])


def lengths(outputs: list[list[int]]) -> collections.Counter:
    return collections.Counter(map(len, outputs))
