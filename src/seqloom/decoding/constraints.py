"""What a search does to scores: the best of many, and what must not come next."""

from __future__ import annotations

import torch


def best(scores: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`torch.topk` of (rows, vocab), by blocks: the k best lie in the k blocks whose best are the best.

    Returns:
        Scores and ids (rows, k), the best first.
    """
    rows, vocab = scores.shape
    block = next((size for size in range(128, 63, -1) if vocab % size == 0), vocab)
    num_blocks = vocab // block
    if num_blocks <= 2 * k or scores.device.type != "cpu":
        return scores.topk(min(k, vocab))
    blocks = scores.view(rows, num_blocks, block)
    chosen = blocks.amax(-1).topk(k).indices  # (rows, k)
    places = (chosen + num_blocks * torch.arange(rows)[:, None]).flatten()
    values, inside = blocks.flatten(0, 1).index_select(0, places).view(rows, k * block).topk(k)
    return values, chosen.gather(1, inside // block) * block + inside % block


def log_normaliser(scores: torch.Tensor) -> torch.Tensor:
    """(rows, vocab) → log Σ exp (rows, 1), from the largest of scores and of softmax: cheaper than `logsumexp`."""
    return scores.amax(-1, keepdim=True) - scores.softmax(-1).amax(-1, keepdim=True).log()


def ban_repeated_ngrams(scores: torch.Tensor, tokens: torch.Tensor, begins: torch.Tensor, size: int) -> None:
    """Leaves no token that would end an n-gram which is there already (Paulus et al. 2018, arXiv:1705.04304, 2.5).

    Args:
        scores: (rows, vocab), changed in place.
        tokens: (rows, time), written so far.
        begins: (rows,) the first column of each row's own.
        size: n.
    """
    time = tokens.shape[1]
    if time < size:
        return
    context = tokens[:, time - size + 1 :]  # (rows, n - 1)
    windows = tokens.unfold(1, size, 1)  # (rows, time - n + 1, n)
    is_same = (windows[..., :-1] == context[:, None]).all(-1)  # (rows, time - n + 1)
    is_same &= torch.arange(windows.shape[1], device=tokens.device) >= begins[:, None]
    rows, places = is_same.nonzero(as_tuple=True)
    scores[rows, windows[rows, places, -1]] = -torch.inf
