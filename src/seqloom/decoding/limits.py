"""How many tokens a model of another make can read and write: some have a table of positions, which ends."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from seqloom.decoding.exported import ExportedModel
from seqloom.decoding.loading import GenerativeModel


def positions(stack: nn.Module) -> int | None:
    """Tokens that an encoder or a decoder has positions for; None where there is no end to them."""
    counts = []
    for name, module in stack.named_modules():
        # A table that grows when it must has a way to make a longer one.
        if "position" not in name or not isinstance(module, nn.Embedding) or hasattr(module, "make_weight"):
            continue
        unused = getattr(module, "offset", 0)  # BART's first rows
        if type(module) is nn.Embedding and module.padding_idx is not None:  # RoBERTa counts from behind the padding's
            unused = module.padding_idx + 1
        counts.append(module.num_embeddings - unused)
    return min(counts, default=None)


def source_positions(model: GenerativeModel | ExportedModel) -> int | None:
    """Tokens of a source that a model can read; None: any number."""
    return model.max_source_positions if isinstance(model, ExportedModel) else positions(model.get_encoder())


def target_positions(model: GenerativeModel | ExportedModel) -> int | None:
    """Tokens that a model can write; None: any number."""
    return model.max_target_positions if isinstance(model, ExportedModel) else positions(model.get_decoder())


def check_sources(model: GenerativeModel, encoded: Iterable[Sequence[int]], first: int | None = 1) -> None:
    """Refuses sources that a model has no positions for.

    Args:
        encoded: The ids of each.
        first: The number of the first one; None where there is only one, which needs none.

    Raises:
        ValueError: One is too long; the message has its number.
    """
    most = source_positions(model)
    for number, ids in enumerate(encoded, start=first or 1):
        if most is not None and len(ids) > most:
            which = "the source" if first is None else f"source {number:,} (counted from 1)"
            raise ValueError(
                f"{which} has {len(ids):,} tokens, but {type(model).__name__} has positions for {most:,} only: shorten "
                "or split it, leave it out, or take a model that reads longer ones."
            )


def check_target(model: GenerativeModel, ids: Sequence[int]) -> None:
    """Refuses a given output that a model has no positions for.

    Raises:
        ValueError: It is too long.
    """
    most = target_positions(model)
    if most is not None and len(ids) > most:
        raise ValueError(
            f"the target has {len(ids):,} tokens, but {type(model).__name__} has positions for {most:,} only: shorten "
            "it, or take a model that writes longer ones."
        )


def within_positions(model: GenerativeModel, generate_kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of ``generate``, which stops where the decoder's positions end, whatever limit is asked for."""
    most = target_positions(model)
    if most is None:
        return generate_kwargs
    own, among_them = model.generation_config, generate_kwargs.get("generation_config")
    configs = [vars(own), {} if among_them is None else vars(among_them), generate_kwargs]
    for name, longest in (("max_new_tokens", most), ("max_length", most + 1)):  # that counts the decoder's start too
        asked = [config[name] for config in configs if config.get(name) is not None]
        if asked and asked[-1] > longest:
            generate_kwargs = generate_kwargs | {name: longest}
    return generate_kwargs
