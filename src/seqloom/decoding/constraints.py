"""What a search does to scores: the best of many, and what must not come next."""

from __future__ import annotations

import torch


def argmax(scores: torch.Tensor) -> torch.Tensor:
    """`torch.argmax` of (rows, vocab) → (rows, 1), by blocks, since torch looks for maxima faster than for places."""
    rows, vocab = scores.shape
    block = block_of(vocab, 1024, 256)
    if scores.device.type != "cpu" or block == vocab or rows < 8:
        return scores.argmax(-1, keepdim=True)
    blocks = scores.view(rows, vocab // block, block)
    chosen = blocks.amax(-1).argmax(-1)  # (rows,)
    return (chosen * block + blocks[torch.arange(rows), chosen].argmax(-1))[:, None]


def best(
    scores: torch.Tensor, normaliser: torch.Tensor, before: torch.Tensor, k: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The k best continuations of each sentence, by blocks: they lie in the k blocks whose best are the best.

    Args:
        scores: (sentences · beams, vocab)
        normaliser: (sentences · beams, 1), taken from them.
        before: (sentences, beams), added to them.
        k: How many, at most.

    Returns:
        Their totals, beams and tokens (sentences, k), the best first.
    """
    (rows, vocab), (sentences, beams) = scores.shape, before.shape
    block = block_of(vocab, 128, 64)
    num_blocks = vocab // block
    if num_blocks <= 2 * k or scores.device.type != "cpu":
        values, ids = scores.topk(min(k, vocab))
        totals = (values - normaliser + before.view(rows, 1)).view(sentences, -1)
        totals, places = totals.topk(min(k, totals.shape[1]))
        return totals, places // ids.shape[1], ids.view(sentences, -1).gather(1, places)
    blocks = scores.view(rows, num_blocks, block)
    highest = (blocks.amax(-1) - normaliser + before.view(rows, 1)).view(sentences, -1)
    chosen = highest.topk(k).indices  # (sentences, k), of beams · blocks
    from_beams = chosen // num_blocks
    places = (chosen + beams * num_blocks * torch.arange(sentences)[:, None]).flatten()
    values = blocks.flatten(0, 1).index_select(0, places).view(sentences, k, block)
    ours, earlier = (part.view(sentences, beams).gather(1, from_beams)[..., None] for part in (normaliser, before))
    totals, inside = values.sub_(ours).add_(earlier).flatten(1).topk(k)
    places = inside // block
    ids = chosen.gather(1, places) % num_blocks * block + inside % block
    return totals, from_beams.gather(1, places), ids


def block_of(vocab: int, most: int, least: int) -> int:
    """The largest size of blocks that a vocabulary is cut into; itself where there is none."""
    return next((size for size in range(most, least - 1, -1) if vocab % size == 0), vocab)


def log_normaliser(scores: torch.Tensor) -> torch.Tensor:
    """(rows, vocab) → log Σ exp (rows, 1), from the largest of scores and of softmax: cheaper than `logsumexp`."""
    return scores.amax(-1, keepdim=True) - scores.softmax(-1).amax(-1, keepdim=True).log()


def ban_repeated_ngrams(scores: torch.Tensor, tokens: torch.Tensor, last: torch.Tensor, size: int) -> None:
    """Leaves no token that would end an n-gram which is there already (Paulus et al. 2018, arXiv:1705.04304, 2.5).

    Args:
        scores: (rows, vocab), changed in place.
        tokens: (rows, time), written so far.
        last: (rows,) the place of each row's last token.
        size: n.
    """
    if tokens.shape[1] < size:
        return
    windows = tokens.unfold(1, size, 1)  # (rows, time - n + 1, n)
    ends = torch.arange(size - 1, tokens.shape[1], device=tokens.device)  # of each window
    begin = (last - size + 2).clamp(min=0)[:, None]  # of what the next token would end
    context = tokens.gather(1, begin + torch.arange(size - 1, device=tokens.device))  # (rows, n - 1)
    is_same = (windows[..., :-1] == context[:, None]).all(-1) & (ends <= last[:, None])  # (rows, time - n + 1)
    rows, places = is_same.nonzero(as_tuple=True)
    scores[rows, windows[rows, places, -1]] = -torch.inf
