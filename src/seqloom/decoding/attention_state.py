"""What attention keeps while a batch is decoded: keys and values of the sources, and of the targets so far.

Shapes: sentences, beams (of each), rows = sentences · beams, source, columns (of target tokens), heads, head_dim.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from seqloom.decoding.targets import FIRST_COLUMNS, NARROWER


class SourceState:
    """Keys and values of the sources, kept once a sentence, for attention by all of its beams."""

    def __init__(self, keys_values: torch.Tensor, mask: torch.Tensor | None, beams: int):
        self.keys_values = keys_values  # (layers, 2, sentences, heads, source, head_dim)
        self.mask = mask  # (sentences, 1, 1, source), added to the scores; None where no source is padded
        self.beams = beams

    def keep(self, sentences: torch.Tensor) -> None:
        """The others leave."""
        self.keys_values = self.keys_values.index_select(2, sentences)
        self.mask = None if self.mask is None else self.mask.index_select(0, sentences)

    def join(self, other: Any) -> None:
        """Others take their place behind these."""
        self.narrow(1.0)
        mask = self.widen(other)
        theirs = with_columns(other.keys_values, 4, self.keys_values.shape[4], 0.0)
        self.keys_values = torch.cat((self.keys_values, theirs), dim=2)
        self.mask = None if mask is None or self.mask is None else torch.cat((self.mask, mask))

    def replace(self, places: torch.Tensor, other: Any, others: torch.Tensor) -> None:
        """Some others take the places of some of these."""
        mask = self.widen(other)
        theirs = other.keys_values.index_select(2, others)
        self.keys_values[..., : theirs.shape[4], :].index_copy_(2, places, theirs)  # beyond them the mask says
        if mask is not None and self.mask is not None:
            self.mask.index_copy_(0, places, mask.index_select(0, others))
            self.narrow(NARROWER)

    def narrow(self, share: float) -> None:
        """Takes the columns away that no source needs, if no more than this share of them is left."""
        if self.mask is None:
            return
        width = int((self.mask[:, 0, 0] == 0).any(0).nonzero().amax()) + 1  # padded at the end
        if width < self.mask.shape[-1] and width <= share * self.mask.shape[-1]:
            self.keys_values, self.mask = self.keys_values[..., :width, :].contiguous(), self.mask[..., :width]

    def widen(self, other: SourceState) -> torch.Tensor | None:
        """Makes this as wide as another; gives the other's mask for that width, if there is to be one."""
        mine, theirs = self.keys_values.shape[4], other.keys_values.shape[4]
        if mine == theirs and self.mask is None and other.mask is None:
            return None
        width = max(mine, theirs)
        self.mask, mask = (widened(state.mask, state.keys_values, width) for state in (self, other))
        self.keys_values = with_columns(self.keys_values, 4, width, 0.0)
        return mask


class TransformerState(SourceState):
    """What is kept of the targets as they are written, and of their sources.

    Every sentence writes at the place that its own length says, each beam into a slot of it; what is beyond, or not an
    ancestor's, is masked. So sentences of any age go side by side, and one takes the place of another.
    """

    def __init__(
        self, keys_values: torch.Tensor, mask: torch.Tensor | None, beams: int, num_layers: int, is_fixed: bool
    ):
        _, _, sentences, heads, _, head_dim = keys_values.shape
        super().__init__(keys_values, mask, beams)
        # There is no room before the first step, which those that are ready for a place elsewhere never come to.
        columns = FIRST_COLUMNS if is_fixed else 0
        self.own = keys_values.new_zeros(num_layers, 2, sentences, heads, columns, beams, head_dim)
        self.lengths = torch.zeros(sentences, dtype=torch.long, device=keys_values.device)
        self.longest = 0  # of them, the next step's token counted
        self.is_even = True  # all have one length
        # The slot of each column that a beam comes from (sentences, beams, columns); -1 where it comes from none.
        self.ancestors = self.lengths.new_full((sentences, beams, columns), -1) if beams > 1 else None
        self.is_fixed = is_fixed  # a step goes over all columns, and nothing in it depends on the host

    @property
    def num_columns(self) -> int:
        """The room."""
        return self.own.shape[4]

    def room(self) -> None:
        """Makes sure that the next step has a place to write into."""
        if self.longest == self.num_columns:
            columns = max(FIRST_COLUMNS, 2 * self.num_columns)
            self.own = with_columns(self.own, 4, columns, 0.0)
            if self.ancestors is not None:
                self.ancestors = with_columns(self.ancestors, 2, columns, -1)
        self.longest += 1

    @property
    def num_used(self) -> int:
        """Columns that a step goes over."""
        return self.num_columns if self.is_fixed else self.longest

    def open_column(self) -> torch.Tensor | None:
        """What each beam does not see of what is written, the next token too (sentences, 1, beams, columns · beams)."""
        if self.ancestors is not None:
            slots = torch.arange(self.beams, device=self.lengths.device)
            new = self.lengths[:, None, None].expand(-1, self.beams, 1)
            self.ancestors.scatter_(2, new, slots.view(1, -1, 1).expand(len(self.lengths), -1, 1))
            is_seen = (self.ancestors[..., : self.num_used, None] == slots).flatten(2)[:, None]
        elif self.is_even and not self.is_fixed:
            return None
        else:
            columns = torch.arange(self.num_used, device=self.lengths.device)
            is_seen = (columns <= self.lengths[:, None])[:, None, None]  # (sentences, 1, 1, columns)
        mask = torch.zeros(is_seen.shape, dtype=self.own.dtype, device=is_seen.device)
        return mask.masked_fill_(~is_seen, -math.inf)

    def write(self, layer: int, new: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Puts keys and values (2, sentences, heads, beams, head_dim) where they belong, and gives all of a layer."""
        own = self.own[layer]  # (2, sentences, heads, columns, beams, head_dim)
        if self.is_even and not self.is_fixed:
            own[:, :, :, self.longest - 1] = new
        else:
            own[:, torch.arange(len(self.lengths), device=own.device), :, self.lengths] = new.transpose(0, 1)
        key, value = own[:, :, :, : self.num_used].flatten(3, 4)
        return key, value

    def reorder(self, rows: torch.Tensor) -> None:
        """Every beam takes what the one has that it continues, of the same sentence: its ancestors."""
        assert self.ancestors is not None
        self.ancestors.copy_(self.ancestors.flatten(0, 1).index_select(0, rows).view_as(self.ancestors))

    def keep(self, sentences: torch.Tensor) -> None:
        """The others leave."""
        super().keep(sentences)
        self.lengths = self.lengths.index_select(0, sentences)
        self.own = self.own.index_select(2, sentences)
        self.ancestors = None if self.ancestors is None else self.ancestors.index_select(0, sentences)
        self.count()

    def join(self, other: TransformerState) -> None:
        """Others take their place behind these."""
        super().join(other)
        columns = max(self.num_columns, other.num_columns)
        self.own = torch.cat([with_columns(one.own, 4, columns, 0.0) for one in (self, other)], dim=2)
        if self.ancestors is not None and other.ancestors is not None:
            both = (self.ancestors, other.ancestors)
            self.ancestors = torch.cat([with_columns(ancestors, 2, columns, -1) for ancestors in both])
        self.lengths = torch.cat((self.lengths, other.lengths))
        self.count()

    def replace(self, places: torch.Tensor, other: TransformerState, others: torch.Tensor) -> None:
        """Some others that have not written yet take the places of some of these."""
        super().replace(places, other, others)
        if self.ancestors is not None:
            self.ancestors.index_fill_(0, places, -1)
        self.lengths.index_fill_(0, places, 0)
        self.count()

    def count(self) -> None:
        """After others came or went."""
        self.longest = int(self.lengths.max())
        self.is_even = int(self.lengths.min()) == self.longest


def with_columns(kept: torch.Tensor, dim: int, columns: int, value: float) -> torch.Tensor:
    """With room for so many, filled with a value where there was none."""
    lacking = columns - kept.shape[dim]
    more = kept.new_full((*kept.shape[:dim], lacking, *kept.shape[dim + 1 :]), value)
    return torch.cat((kept, more), dim=dim) if lacking else kept


def widened(mask: torch.Tensor | None, keys_values: torch.Tensor, width: int) -> torch.Tensor:
    """A mask (sentences, 1, 1, width), for sources that are padded to a width."""
    if mask is None:
        mask = keys_values.new_zeros(keys_values.shape[2], 1, 1, keys_values.shape[4])
    return nn.functional.pad(mask, (0, width - mask.shape[-1]), value=torch.finfo(mask.dtype).min)
