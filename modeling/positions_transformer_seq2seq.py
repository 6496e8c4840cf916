"""Where tokens are, for the Transformer: how positions are counted, sinusoids (Vaswani et al. 2017, section 3.5),
rotary positions (Su et al. 2021, arXiv:2104.09864), and relative ones (Dai et al. 2019, arXiv:1901.02860).

Shapes: batch, length (new tokens), keys (all that they may look at), heads, head_dim, d_model.
"""

import torch
from torch import nn
from transformers import initialization as init
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, eager_mask, sdpa_mask

from .configuration_transformer_seq2seq import TransformerSeq2SeqConfig

Angles = tuple[torch.Tensor, ...]
"""What self-attention takes of positions: sines and cosines, or what `encode_distances` gives."""


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


def count_key_positions(attention_mask: torch.Tensor | None, keys: int, states: torch.Tensor) -> torch.Tensor:
    """Positions of everything that new tokens may look at, (batch or 1, keys); arguments as of `count_positions`.

    What lies behind the mask's end, which a static cache has, gets any: nobody sees it.
    """
    if attention_mask is None:
        return torch.arange(keys, device=states.device)[None]
    if attention_mask.dim() == 4:
        is_visible = attention_mask if attention_mask.dtype == torch.bool else attention_mask == 0
        attention_mask = is_visible[:, 0, -1]  # the last token sees all tokens
    positions = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)
    return nn.functional.pad(positions, (0, keys - positions.shape[1]))


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


class RelativePositions(nn.Module):
    """What relative positions add to the scores of a self-attention (Dai et al. 2019, section 3.3).

    Of a token at position i for one at j: (q_i + u) · k_j + (q_i + v) · W R(i - j), scaled as ever: R are the sinusoids
    of the distance, before and behind; W, u and v are each layer's own, as in Csordás et al. 2021 (arXiv:2108.12284).
    Keys and values know nothing of positions, so those of earlier steps stay as they are.

    It takes memory for every pair of tokens, (batch, heads, length, keys) up to three times, whatever the attention
    saves elsewhere; nothing is stored, and no length is too far.
    """

    def __init__(self, d_model: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(d_model, d_model))  # W, (heads · head_dim, d_model)
        self.content_bias = nn.Parameter(torch.empty(d_model))  # u, (heads · head_dim,)
        self.position_bias = nn.Parameter(torch.empty(d_model))  # v

    def init_weights(self) -> None:
        """Glorot's bounds for the matrix, zeros for the biases, as Csordás et al. have them."""
        init.xavier_uniform_(self.weight)
        init.zeros_(self.content_bias)
        init.zeros_(self.position_bias)

    def forward(
        self, query: torch.Tensor, mask: torch.Tensor, encodings: torch.Tensor, index: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The query that meets the keys, and the mask that brings what positions add to their scaled product.

        Args:
            query: (batch, heads, length, head_dim)
            mask: (batch or 1, heads or 1, length, keys); booleans, or added to the scores.
            encodings, index: As `encode_distances` gives them; without an index, the distances are the keys'.

        Returns:
            (batch, heads, length, head_dim), (batch, heads, length, keys)
        """
        heads, length, head_dim = query.shape[-3:]
        u, v = (bias.view(heads, 1, head_dim).to(query.dtype) for bias in (self.content_bias, self.position_bias))
        weight = self.weight.view(heads, head_dim, -1)
        place = (query + v) * head_dim**-0.5
        # One product either way: many queries share what W makes of the distances, a single one is less than they are.
        scores = place @ (weight @ encodings.T) if length > 1 else (place @ weight) @ encodings.T
        if index is not None:  # (batch, heads, length, distances) → (batch, heads, length, keys)
            scores = scores.gather(-1, index.expand(*scores.shape[:-1], -1))
        if mask.dtype == torch.bool:
            return query + u, scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
        return query + u, scores + mask


def encode_distances(
    queries: torch.Tensor, keys: torch.Tensor, is_causal: bool, d_model: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """The sinusoids of all distances, (distances, d_model), and where among them each pair's is, (…, length, keys).

    Args:
        queries, keys: Positions (…, length) and (…, keys).
        is_causal: No key that counts is behind its query: no distance is below 0.
    """
    farthest = keys.shape[-1] - 1
    nearest = 0 if is_causal else -farthest
    distances = torch.arange(nearest, farthest + 1, device=keys.device)
    index = (queries[..., None] - keys[..., None, :]).clamp(nearest, farthest) - nearest
    return torch.cat(sinusoids(distances, d_model), dim=-1).to(dtype), index


def adds_to_scores(config: TransformerSeq2SeqConfig) -> bool:
    """Whether positions are relative, so that attention needs a mask to add them to, even where nothing is masked.

    Raises:
        ValueError: They are, and the attention has no such mask.
    """
    if config.position_embedding_type != "relative":
        return False
    if ALL_MASK_ATTENTION_FUNCTIONS.get(config._attn_implementation) not in (eager_mask, sdpa_mask):
        raise ValueError(
            "position_embedding_type='relative' adds something to every score of an attention, which "
            f"attn_implementation={config._attn_implementation!r} has no place for: use 'eager' or 'sdpa'."
        )
    return True


def place(
    config: TransformerSeq2SeqConfig,
    inputs_embeds: torch.Tensor,
    positions: torch.Tensor,
    head_dim: int,
    attention_mask: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
    is_causal: bool = False,
) -> tuple[torch.Tensor, Angles | None]:
    """What the first layer reads, and what every layer's self-attention takes.

    Args:
        config: Its ``position_embedding_type`` decides.
        inputs_embeds: (batch, length, d_model)
        positions: (batch or 1, length)
        head_dim: Of the self-attention, for rotary positions.
        attention_mask, mask, is_causal: For relative positions: the mask as the model was given it, as it was made for
            the attention, and whether that hides what follows.
    """
    dtype = inputs_embeds.dtype
    if config.position_embedding_type == "rotary":
        sine, cosine = sinusoids(positions, head_dim, config.rope_theta)
        return inputs_embeds, (sine[:, None].to(dtype), cosine[:, None].to(dtype))  # one for all heads
    if config.position_embedding_type == "relative":
        assert mask is not None  # `adds_to_scores` saw to it
        keys = count_key_positions(attention_mask, mask.shape[-1], inputs_embeds)
        encodings, index = encode_distances(positions, keys, is_causal, config.d_model, dtype)
        return inputs_embeds, (encodings, index[:, None])
    # Sines first, then cosines, as in tensor2tensor and Marian; the paper's text interleaves them.
    encoding = torch.cat(sinusoids(positions, config.d_model), dim=-1)  # (batch or 1, length, d_model)
    return inputs_embeds + encoding.to(dtype), None
