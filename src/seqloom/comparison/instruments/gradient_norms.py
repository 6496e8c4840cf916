"""The norm of a gradient after so many steps back: of states, of inputs, of a model's source tokens; and its rate.

Bengio et al. 1994 and Pascanu et al. 2013 (arXiv:1211.5063): over a distance, a recurrent network's gradient is a
product of as many Jacobians, which shrinks or grows geometrically.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from seqloom.comparison.instruments.memory_networks import loss_of
from seqloom.modeling.modeling_rnn_seq2seq import RnnSeq2SeqLayer

SMALLEST = 1e-280
"""Of a norm in float64 that is a number to count on."""
BATCH_SIZE = 32


def state_norms(layer: RnnSeq2SeqLayer, inputs: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
    """How long vectors v are after the way back through a recurrent layer, ‖Jᵀv‖ with J = ∂state_T / ∂state_t.

    The root of the mean square over random unit vectors is ‖J‖ / √n of the n by n Jacobian (Frobenius), which is 1 for
    an orthogonal one.

    Args:
        layer: One-directional.
        inputs: (batch, length, input_size).
        directions: v (batch, n): n is the hidden size times the cell's states (the LSTM's: hidden and cell).

    Returns:
        (batch, length + 1), by distance T - t from 0 on.
    """
    count = layer.cell.num_states
    size = directions.shape[1] // count
    state = [inputs.new_zeros(len(inputs), size, requires_grad=True) for _ in range(count)]
    states = [state]
    for step in range(inputs.shape[1]):
        _, *state = layer(inputs[:, step : step + 1], None, *state)  # (batch, hidden) each
        states.append(state)
    end = (torch.cat(state, dim=-1) * directions).sum()
    gradients = torch.autograd.grad(end, [part for state in states for part in state])
    squares = torch.stack([gradient.square().sum(-1) for gradient in gradients])  # (parts · (length + 1), batch)
    return squares.view(len(states), -1, len(inputs)).sum(1).sqrt().T.flip(1)


def input_norms(network: nn.Module, inputs: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Norms of the gradient of each sequence's loss, which is of its last answer, with respect to its inputs.

    Returns:
        (batch, length), by distance from the last input, 0, on.
    """
    inputs = inputs.detach().requires_grad_()
    loss = loss_of("adding", network, inputs, wanted) * len(inputs)  # the mean's share of one sequence is 1 / batch
    return torch.autograd.grad(loss, inputs)[0].norm(dim=-1).flip(1)


def factor_per_step(norms: Sequence[float], start: int = 1) -> float | None:
    """The geometric rate that fits norms by distance best (least squares of the logarithms); None: too few of them.

    Args:
        norms: From distance 0 on. What follows the first that is too small for a float is left out.
        start: The first distance that counts.
    """
    end = next((i for i, norm in enumerate(norms) if norm < SMALLEST), len(norms))
    if end - start < 3:
        return None
    slope = np.polyfit(np.arange(start, end), np.log(norms[start:end]), 1)[0]
    return math.exp(slope)


def fallen_at(norms: Sequence[float], share: float = 0.01) -> int | None:
    """The first distance at which the norm is below that share of the norm at distance 1; None: nowhere."""
    return next((i for i, norm in enumerate(norms) if i and norm < share * norms[1]), None)


def source_norms(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, sources: Sequence[str], targets: Sequence[str]
) -> list[torch.Tensor]:
    """Norms of the gradient of the first target token's loss with respect to the source's embeddings.

    Args:
        model, tokenizer: Any encoder-decoder of transformers, in evaluation mode.

    Returns:
        One a sentence, (tokens,), without padding.
    """
    embeddings = model.get_encoder().get_input_embeddings()
    norms: list[torch.Tensor] = []
    for start in range(0, len(sources), BATCH_SIZE):
        batch = tokenizer(list(sources[start : start + BATCH_SIZE]), padding=True, return_tensors="pt")
        answers = tokenizer(text_target=list(targets[start : start + BATCH_SIZE])).input_ids
        first = torch.tensor([answer[:1] for answer in answers], device=model.device)  # (batch, 1)
        found: list[torch.Tensor] = []

        def watch(module, args, output, found=found):
            if found:
                return None  # the decoder's, where both sides share one module
            found.append(output.detach().requires_grad_())
            return found[0]

        handle = embeddings.register_forward_hook(watch)
        try:  # cuDNN has no backward pass for a recurrent layer in evaluation mode
            with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
                inputs = {name: batch[name].to(model.device) for name in ("input_ids", "attention_mask")}
                logits = model(**inputs, labels=first).logits  # (batch, 1, vocab)
                loss = nn.functional.cross_entropy(logits[:, 0].float(), first[:, 0], reduction="sum")
                gradient = torch.autograd.grad(loss, found[0])[0]  # (batch, source, width)
        finally:
            handle.remove()
        for row, mask in zip(gradient.float().norm(dim=-1).cpu(), batch["attention_mask"].bool(), strict=True):
            norms.append(row[mask])
    return norms
