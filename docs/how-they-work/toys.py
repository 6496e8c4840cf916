"""The toy language of docs/how-they-work.md and the small models that learn it.

English sentences such as ``the black cat sleeps now`` become French ones. Training doubles every difference of rounding
again and again, so that another processor ends with other weights; those of the chapter lie beside this file, and what
is computed from them, in float64, is the same everywhere.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from seqloom import (
    RnnSeq2SeqConfig,
    RnnSeq2SeqForConditionalGeneration,
    TransformerSeq2SeqConfig,
    TransformerSeq2SeqForConditionalGeneration,
)

NOUNS = {"cat": ("chat", "m"), "dog": ("chien", "m"), "cow": ("vache", "f"), "mouse": ("souris", "f")}
ARTICLES = {"m": "le", "f": "la"}
ADJECTIVES = {
    "black": {"m": "noir", "f": "noire"}, "white": {"m": "blanc", "f": "blanche"}, "green": {"m": "vert", "f": "verte"},
}  # fmt: skip
VERBS = {"sleeps": "dort", "eats": "mange", "sings": "chante", "runs": "court"}
NOW = {"front": 17, "maintenant": 13, "actuellement": 10}
"""Ways to say ``now``, and how often of forty: ``maintenant`` in front, or one of two words at the end."""
SPECIAL = ["<pad>", "<s>", "</s>"]
"""Ids 0, 1 and 2: filling, start, end."""
ENGLISH = [*SPECIAL, "the", *ADJECTIVES, *NOUNS, *VERBS, "here", "now", "and"]
FRENCH = [
    *SPECIAL, *ARTICLES.values(), *(form for forms in ADJECTIVES.values() for form in forms.values()),
    *(noun for noun, _ in NOUNS.values()), *VERBS.values(), "ici", "maintenant", "actuellement", "et",
]  # fmt: skip

WIDTHS = {"gru": 32, "rnn": 32, "attention": 16, "transformer": 16}
"""Of the four models: GRU and tanh-RNN without attention, GRU with Luong's, Transformer."""
STEPS = {"gru": 1000, "rnn": 300, "attention": 600, "transformer": 600}
"""Updates."""
RATES = {"gru": 0.02, "rnn": 0.01, "attention": 0.02, "transformer": 0.01}
"""The largest learning rate."""
HEADS, LAYERS, INNER = 2, 2, 32
"""Of the Transformer: heads, layers on each side, inner width of its feed-forward networks."""
CLAUSES = (0.6, 0.3, 0.1)
"""How often a sentence of the training has one, two or three clauses."""
BATCH, SEED = 32, 7

WEIGHTS = Path(__file__).with_name("weights.safetensors")

Model = Any  # a …ForConditionalGeneration


def pick(rng: random.Random, items: Sequence[Any], weights: Sequence[float] | None = None) -> Any:
    """One of the items. Python promises one sequence for random() in all its versions, for nothing else."""
    weights = weights or [1] * len(items)
    place = rng.random() * sum(weights)
    for item, weight in zip(items, weights, strict=True):
        place -= weight
        if place < 0:
            return item
    return items[-1]


def clause(rng: random.Random, adverbs: Sequence[str]) -> tuple[list[str], list[str]]:
    """English and French words: ``the cat``, ``the black cat``; what it does; perhaps where or when."""
    noun, verb = pick(rng, [*NOUNS]), pick(rng, [*VERBS])
    adjective, adverb = pick(rng, [*ADJECTIVES, ""]), pick(rng, adverbs)
    french, gender = NOUNS[noun]
    source = ["the", adjective, noun, verb, adverb]
    target = [ARTICLES[gender], french, ADJECTIVES[adjective][gender] if adjective else "", VERBS[verb]]
    if adverb == "here":
        target.append("ici")
    elif adverb == "now":
        way = pick(rng, [*NOW], [*NOW.values()])
        target = ["maintenant", *target] if way == "front" else [*target, way]
    return [word for word in source if word], [word for word in target if word]


def sentence(rng: random.Random, clauses: int, adverbs: Sequence[str] = ("", "here", "now")) -> tuple[str, str]:
    """A pair of so many clauses, joined by ``and``."""
    sides = zip(*(clause(rng, adverbs) for _ in range(clauses)), strict=True)
    source, target = (
        f" {joint} ".join(" ".join(words) for words in side) for side, joint in zip(sides, ("and", "et"), strict=True)
    )
    return source, target


def is_held_out(source: str) -> bool:
    """A fifth of the sentences of more than one clause is never trained on."""
    return " and " in source and zlib.crc32(source.encode()) % 5 == 0


def encode(texts: Sequence[str], vocabulary: Sequence[str]) -> torch.Tensor:
    """(batch, length) ids, each text with its end, the shorter filled up."""
    ids = {word: index for index, word in enumerate(vocabulary)}
    rows = [[ids[word] for word in text.split()] + [2] for text in texts]
    return torch.tensor([row + [0] * (max(map(len, rows)) - len(row)) for row in rows])


def decode(ids: Sequence[int], vocabulary: Sequence[str]) -> str:
    """The words of ids, without start, end and filling."""
    return " ".join(vocabulary[index] for index in ids if index >= len(SPECIAL))


def build(kind: str) -> Model:
    """An untrained model of seqloom, with its own initial weights."""
    torch.manual_seed(SEED)
    width = WIDTHS[kind]
    shared: dict[str, Any] = {
        "vocab_size": len(ENGLISH), "decoder_vocab_size": len(FRENCH), "share_encoder_decoder_embeddings": False,
        "dropout": 0.0,
    }  # fmt: skip
    model: Model
    if kind == "transformer":
        config = TransformerSeq2SeqConfig(
            **shared, d_model=width, encoder_layers=LAYERS, decoder_layers=LAYERS, encoder_attention_heads=HEADS,
            decoder_attention_heads=HEADS, encoder_ffn_dim=INNER, decoder_ffn_dim=INNER,
        )  # fmt: skip
        model = TransformerSeq2SeqForConditionalGeneration(config)
        model.set_attn_implementation("eager")  # the one that returns its weights
    else:
        rnn = RnnSeq2SeqConfig(
            **shared, hidden_size=width, encoder_layers=1, decoder_layers=1, bidirectional=False, bridge="copy",
            cell_type="rnn" if kind == "rnn" else "gru", attention="luong" if kind == "attention" else "none",
            attention_score="dot", init_range=0.5,
        )  # fmt: skip
        model = RnnSeq2SeqForConditionalGeneration(rnn)
    return model.double()


def train(kind: str, steps: int | None = None) -> Model:
    """A trained model, in evaluation mode: Adam, gradients of a norm of at most 1, a rate that rises and falls."""
    model, rng = build(kind), random.Random(SEED)
    rate = RATES[kind]
    steps = steps or STEPS[kind]
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * min(1, (step + 1) / 50) * (1 - step / steps)
        pairs: list[tuple[str, str]] = []
        while len(pairs) < BATCH:
            pair = sentence(rng, pick(rng, [1, 2, 3], CLAUSES))
            if not is_held_out(pair[0]):
                pairs.append(pair)
        input_ids, target = encode([pair[0] for pair in pairs], ENGLISH), encode([pair[1] for pair in pairs], FRENCH)
        labels = target.masked_fill(target == 0, -100)
        loss = model(input_ids=input_ids, attention_mask=(input_ids != 0).long(), labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval()


def store(models: dict[str, Model]) -> None:
    """Writes the weights of all models into one file, in float32."""
    save_file(
        {
            f"{kind}.{name}": parameter.detach().float().contiguous()
            for kind, model in models.items()
            for name, parameter in model.named_parameters()  # a matrix that serves twice comes once
        },
        WEIGHTS,
    )


def load(kind: str) -> Model:
    """A trained model as the chapter has it."""
    model, weights = build(kind), load_file(WEIGHTS)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[f"{kind}.{name}"])
    return model.eval()


def translated(model: Model, sources: Sequence[str], **options: Any) -> list[str]:
    """What ``generate`` writes."""
    input_ids = encode(sources, ENGLISH)
    mask = (input_ids != 0).long()
    with torch.no_grad():
        outputs = model.generate(input_ids, attention_mask=mask, max_new_tokens=40, do_sample=False, **options)
    return [decode(row, FRENCH) for row in outputs.tolist()]


def right(model: Model, clauses: int, count: int) -> float:
    """The share of sentences that are translated without a fault, without ``now``, which has no single answer.

    Those of more than one clause were never trained on.
    """
    rng = random.Random(SEED + clauses)
    pairs: list[tuple[str, str]] = []
    while len(pairs) < count:
        pair = sentence(rng, clauses, ("", "here"))
        if clauses == 1 or is_held_out(pair[0]):
            pairs.append(pair)
    outputs = translated(model, [source for source, _ in pairs])
    return sum(output == target for output, (_, target) in zip(outputs, pairs, strict=True)) / count
