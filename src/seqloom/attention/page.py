"""A page of attention maps: one file without anything from elsewhere, to point at words in. ``page.html`` is its frame.

Texts reach the page as JSON, in which ``<``, ``>`` and ``&`` are written as escapes, and its script puts them there as
text, never as markup.
"""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import torch

from seqloom.attention.maps import AttentionMaps

SCALE = 10_000
"""Weights are whole numbers of ten-thousandths, which are short to write."""


def attention_page(
    sentences: Sequence[AttentionMaps],
    *,
    what: str = "all",
    layer: int | None = None,
    head: int | None = None,
    title: str = "",
) -> str:
    """HTML of sentences and their maps.

    Args:
        sentences: The maps of each.
        what: ``cross``, ``self`` or ``all``: which maps there are to choose from.
        layer, head: What is shown first, counted from 1; default: the last layer, the mean over its heads.
        title: The model's name.
    """
    data = {
        "scale": SCALE,
        "layer": layer,
        "head": head,
        "sentences": [
            {
                "source": maps.source,
                "output": maps.output,
                "score": round(maps.score, 4),
                "sourceLabels": maps.source_labels,
                "targetLabels": maps.target_labels,
                "cross": _whole(maps.cross) if what != "self" else None,
                "self": _whole(maps.encoder_self) if what != "cross" else None,
            }
            for maps in sentences
        ],
    }
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    name = html.escape(f"Attention of {title}" if title else "Attention")
    page = files("seqloom.attention").joinpath("page.html").read_text(encoding="utf-8")
    return page.replace("{title}", name).replace("{data}", text)


def _whole(weights: torch.Tensor | None) -> list[Any] | None:
    return None if weights is None else (weights * SCALE).round().int().tolist()
