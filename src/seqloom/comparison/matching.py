"""Recipes of equal weight: the widths of the others are scaled until all have as many parameters as the first."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import AutoModelForSeq2SeqLM, PreTrainedConfig

from seqloom.data.pairs import load_pairs
from seqloom.settings.schema import Settings
from seqloom.support.language import later, say
from seqloom.support.wording import listing
from seqloom.training.learner import make_config
from seqloom.training.material import make_tokenizer

SHARE = 0.05
"""Of the first's parameters, by which another may differ."""
INNER = ("embedding_size", "encoder_ffn_dim", "decoder_ffn_dim")
"""Fields that are scaled with the width."""
TUNED = ("encoder_ffn_dim", "decoder_ffn_dim")
"""Those that are bent where no width comes near enough: widths go in steps, of the number of heads."""
MOST_BENT = 2.0
"""Times as wide or as narrow, at most."""
CHOSEN = later("{name}: {parameters} parameters ({changes})")
KEPT = later("{name}: {parameters} parameters, as its recipe has it")
WIDEST = 2**14


def match(runs: dict[str, list[Settings]]) -> tuple[dict[str, list[Settings]], list[dict[str, Any]]]:
    """Scales the recipes behind the first.

    Args:
        runs: Settings of every training, by candidate.

    Returns:
        The same with the chosen widths, and of each candidate ``name``, ``parameters`` and ``changed``: field → what it
        was and what it is.

    Raises:
        ValueError: No width of a recipe comes within 5 % of the first's parameters.
    """
    found: dict[str, list[Settings]] = {}
    told: list[dict[str, Any]] = []
    sizes: dict[str, Any] = {}
    for name, per_seed in runs.items():
        first = per_seed[0]
        cut = repr((first.data, first.tokenizer))
        if cut not in sizes:
            sizes[cut] = make_tokenizer(first, load_pairs(first.data, first.training.seed), None)
        tokenizer = sizes[cut]

        def config_with(fields: dict[str, Any], first=first, tokenizer=tokenizer) -> PreTrainedConfig:
            return make_config(dataclasses.replace(first, model={**first.model, **fields}), tokenizer)

        fields = scaled(name, config_with, told[0]["parameters"]) if told else {}
        before, now = config_with({}), config_with(fields)
        changed = {field: [getattr(before, field), value] for field, value in fields.items()}
        told.append({"name": name, "parameters": count(now), "changed": changed})
        found[name] = [dataclasses.replace(one, model={**one.model, **fields}) for one in per_seed]
    return found, told


def scaled(name: str, config_with: Callable[[dict[str, Any]], PreTrainedConfig], wanted: int) -> dict[str, int]:
    """The fields of a recipe that make it as heavy as wanted; none where it is so already.

    Args:
        name: Of the recipe, for the message.
        config_with: Its config, with other fields.
        wanted: Parameters.
    """
    base = config_with({})
    if _is_near(count(base), wanted):
        return {}
    width = base.attribute_map.get("hidden_size", "hidden_size")
    inner = [field for field in INNER if getattr(base, field, None)]
    start = getattr(base, width)

    def fields_of(new: int) -> dict[str, int]:
        return {width: new, **{field: max(1, round(getattr(base, field) * new / start)) for field in inner}}

    step = next((step for step in range(1, 2 * start + 1) if _is_allowed(config_with, fields_of(start + step))), start)
    low, high = 0, 1  # in steps from the narrowest on
    narrowest = start % step or step
    while count(config_with(fields_of(narrowest + high * step))) < wanted:
        low, high = high, 2 * high
        if narrowest + high * step > WIDEST:
            break
    while high - low > 1:
        middle = (low + high) // 2
        if count(config_with(fields_of(narrowest + middle * step))) < wanted:
            low = middle
        else:
            high = middle
    widths = [fields_of(narrowest + place * step) for place in (low, high)]
    weights = [count(config_with(fields)) for fields in widths]
    bent = [fields for one in widths if (fields := _bent(config_with, one, wanted))]
    for choices in (widths, bent):  # a width alone, if it comes near enough
        nearest = min(choices, key=lambda fields: abs(count(config_with(fields)) - wanted), default=None)
        if nearest and _is_near(count(config_with(nearest)), wanted):
            return nearest
    raise ValueError(
        f"{name} cannot be given {wanted:,} parameters, the first recipe's, to within {SHARE:.0%}: the nearest "
        f"widths have {listing(f'{weight:,}' for weight in weights)}; leave --match out, or begin with a recipe of "
        "another size."
    )


def _bent(
    config_with: Callable[[dict[str, Any]], PreTrainedConfig], fields: dict[str, int], wanted: int
) -> dict[str, int] | None:
    """With wider or narrower feed-forward networks, in whose widths the parameters are linear; None: too far."""
    tuned = [field for field in TUNED if field in fields]
    if not tuned:
        return None
    weight = count(config_with(fields))
    inner = count(config_with(fields | {field: 2 * fields[field] for field in tuned})) - weight
    factor = 1 + (wanted - weight) / inner
    if not 1 / MOST_BENT <= factor <= MOST_BENT:
        return None
    return fields | {field: round(factor * fields[field]) for field in tuned}


def _is_allowed(config_with: Callable[[dict[str, Any]], PreTrainedConfig], fields: dict[str, int]) -> bool:
    """Whether a family takes such widths, which heads must divide."""
    try:
        config_with(fields)
    except ValueError:
        return False
    return True


def _is_near(weight: int, wanted: int) -> bool:
    return abs(weight - wanted) <= SHARE * wanted


def count(config: PreTrainedConfig) -> int:
    """Parameters of a model, which is not made."""
    with torch.device("meta"):
        return sum(part.numel() for part in AutoModelForSeq2SeqLM.from_config(config).parameters())


def in_words(matched: Sequence[dict[str, Any]]) -> list[str]:
    """What was chosen, a sentence each candidate."""
    said = []
    for one in matched:
        changes = [f"{field} {before:,} → {now:,}" for field, (before, now) in one["changed"].items()]
        values = {"name": one["name"], "parameters": f"{one['parameters']:,}", "changes": ", ".join(changes)}
        said.append(say(CHOSEN if changes else KEPT, **values))
    return said


def check_matchable(configs: Sequence[str], models: Sequence[str]) -> None:
    """Refuses what has no width to choose.

    Raises:
        ValueError: Models are taken as they are, or a recipe is alone.
    """
    if models:
        raise ValueError(
            f"--match chooses the widths of what is trained, and {listing(models)} "
            f"{'is' if len(models) == 1 else 'are'} taken as trained: give configurations alone, or leave --match out."
        )
    if len(configs) < 2:
        raise ValueError("--match has nothing to match: give two configurations or more.")
