"""References as the model can write them: in the Unicode form and the case of its tokenizer.

A tokenizer that composes characters (NFC, NFKC) or takes capitals away gives outputs of that kind alone. Held against
references of another kind a perfect output would be wrong: decomposed Korean has not one code point of the composed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import normalizers
from transformers import PreTrainedTokenizerBase

from seqloom.data.tokenization import target_tokenizer

STEPS = {"NFC": normalizers.NFC, "NFKC": normalizers.NFKC, "Lowercase": normalizers.Lowercase}
"""Those that decide between spellings of one text. Others take something away (accents, spaces), which a reference may
rightly have."""
NAMES = {"NFC": "nfc", "NFKC": "nfkc", "Lowercase": "lc"}


@dataclass(frozen=True)
class References:
    """What outputs are held against."""

    texts: list[str]
    normalization: str | None
    """``nfc``, ``nfkc``, ``lc`` or several of them with a plus; None where the references are the given ones."""

    def sign(self, result: dict[str, Any]) -> dict[str, Any]:
        """A metric's result, whose signature says so where other references than the given ones were used."""
        return result | {"signature": signed(result["signature"], self.normalization)}


def signed(signature: str, normalization: str | None) -> str:
    """A signature that says how the references were normalised, if they were."""
    return f"{signature}|refs:{normalization}" if normalization else signature


def normalized(references: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> References:
    """The references in the Unicode form and the case that the tokenizer gives the model's outputs.

    Args:
        references: As they were given.
        tokenizer: The model's. Of a pair the target's side counts; one that is not of the tokenizers library changes
            nothing.
    """
    backend = getattr(target_tokenizer(tokenizer), "backend_tokenizer", None)
    steps = [] if backend is None else [*_steps(json.loads(backend.to_str())["normalizer"])]
    normalizer = normalizers.Sequence([STEPS[step]() for step in steps])
    texts = [normalizer.normalize_str(text) for text in references] if steps else list(references)
    is_changed = texts != list(references)
    return References(texts, "+".join(NAMES[step] for step in steps) if is_changed else None)


def as_named(texts: Sequence[str], normalization: str | None) -> list[str]:
    """Texts in the form that a `References.normalization` names."""
    steps = [STEPS[step]() for step, name in NAMES.items() if name in (normalization or "").split("+")]
    normalizer = normalizers.Sequence(steps)
    return [normalizer.normalize_str(text) for text in texts] if steps else list(texts)


def _steps(node: dict[str, Any] | None) -> Iterator[str]:
    """The names of a normaliser's steps that are in `STEPS`, in their order."""
    if node is None:
        return
    if node["type"] in STEPS:
        yield node["type"]
    for part in node.get("normalizers", ()):
        yield from _steps(part)
