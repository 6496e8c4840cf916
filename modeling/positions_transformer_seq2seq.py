"""Where tokens are, for the Transformer: how positions are counted, sinusoids (Vaswani et al. 2017, section 3.5), and
rotary positions (Su et al. 2021, arXiv:2104.09864).

Shapes: batch, length (new tokens), heads, head_dim.
"""

import torch


def count_positions(attention_mask: torch.Tensor | None, states: torch.Tensor, past_length: int = 0) -> torch.Tensor:
    """Positions of new tokens, counted from the first real one on, so that padding on either side changes nothing.

    Args:
        attention_mask: (batch, past + length) of booleans; or of four dimensions (batch, 1, length, cache), True or
            0.0 where a token sees, from `generate` with a static cache; None: all are tokens.
        states: (batch, length, …) of the new tokens.
        past_length: How many were there before.

    Returns:
        (batch or 1, length)
    """
    length = states.shape[1]
    if attention_mask is None:
        return past_length + torch.arange(length, device=states.device)[None]
    if attention_mask.dim() == 4:
        is_visible = attention_mask if attention_mask.dtype == torch.bool else attention_mask == 0
        return (is_visible[:, 0].sum(-1) - 1).clamp(min=0)  # a token sees itself and what is before it
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, -length:]


def sinusoids(positions: torch.Tensor, width: int, base: float = 10000.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Sines and cosines of the positions at width / 2 wavelengths from 2π to base·2π (section 3.5 of the paper).

    Computed where they are needed, in float32: they reach any length, and no table is stored or loaded.
    """
    wavelengths = torch.arange(0, width, 2, dtype=torch.float32, device=positions.device) / width
    angles = positions[..., None].float() / base**wavelengths  # (…, length, width / 2)
    return angles.sin(), angles.cos()


def rotate(states: torch.Tensor, sine: torch.Tensor, cosine: torch.Tensor) -> torch.Tensor:
    """Rotary positions: turns dimension i and i + head_dim / 2 of every head by the position's angle."""
    first, second = states.chunk(2, dim=-1)  # (batch, heads, length, head_dim / 2) each
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1)
