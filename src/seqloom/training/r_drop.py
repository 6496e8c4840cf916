"""R-Drop: two passes through dropout that are held against each other (Wu et al. 2021, arXiv:2106.14448).

Every micro-batch goes through the model twice at once, and each pass drops out units of its own:

    ½ (loss₁ + loss₂) + α/4 · Σ over the target tokens of (KL(p₁ ‖ p₂) + KL(p₂ ‖ p₁)) / their number

This is half of what the paper writes, so that the labels' loss is as large as it is without.
"""

from __future__ import annotations

import torch

from seqloom.modeling.configuration_seq2seq import Seq2SeqConfig
from seqloom.modeling.modeling_seq2seq import IGNORED
from seqloom.modeling.pipeline_seq2seq import at_least_float32


def twice(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A batch as `collate` gives it, and behind it the same once more: (2 · batch, …)."""
    return {name: torch.cat((tensor, tensor)) for name, tensor in inputs.items()}


def disagreement(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """A quarter of the two divergences between the halves of a batch, summed over the labelled positions of a half.

    Args:
        scores: (2 · batch, target, vocab), as of `twice`; computed in float32 or finer, whatever their type.
        labels: (2 · batch, target), -100 where nothing is to be learnt.
    """
    counted = labels != IGNORED
    kept = scores[counted]  # (2 · tokens, vocab)
    first, second = kept.to(at_least_float32(kept)).log_softmax(-1).chunk(2)  # (tokens, vocab) each
    return ((first.exp() - second.exp()) * (first - second)).sum() / 4


def check_dropout(config: Seq2SeqConfig, alpha: float) -> None:
    """Refuses R-Drop where both passes are the same.

    Raises:
        ValueError: The model drops nothing out.
    """
    rates = {name: value for name, value in config.to_dict().items() if name.endswith("dropout")}
    if alpha and not any(rates.values()):
        raise ValueError(
            f"training.r_drop_alpha is {alpha:g}, which holds two passes with dropout against each other, but the "
            "model drops nothing out: set model.dropout (0.1 to 0.3), or leave r_drop_alpha out."
        )
