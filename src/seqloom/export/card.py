"""The README.md of an exported model: what it is, how it is run, where it came from, what was checked, what is lost."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.errors import HfHubHTTPError

from seqloom import run_folder
from seqloom.decoding.exported import ENGINES
from seqloom.export.checking import in_words
from seqloom.sharing.card import digest
from seqloom.support.wording import fenced, in_markdown

END = "made by seqloom from the export's record"


def card_of(model: Path, to: str, about: dict[str, Any], use: str) -> str:
    """The text of the card.

    Args:
        model: The folder of the model that was exported, or its name on the Hub.
        to: The form.
        about: What ``export.json`` says.
        use: How it is run without seqloom.
    """
    origin, checked = origin_of(model), about["checked"]
    data = ModelCardData(
        language=origin.get("language"),
        license=origin.get("license", "unknown"),
        library_name="transformers" if about["engine"] == "transformers" else about["engine"],
        tags=["seqloom", "seq2seq", about["model_type"], to],
        base_model=about["model"] if "/" in about["model"] else None,
        pipeline_tag=origin.get("pipeline_tag"),
    )
    engine = "transformers" if about["engine"] == "transformers" else ENGINES[about["engine"]].package
    parts = [
        f"# {in_markdown(about['model'])}, exported to {to}",
        f"{in_markdown(about['model'])}, a `{about['model_type']}` trained with seqloom, in {about['dtype']}, written "
        f"for {engine} {about['engine_version']} by seqloom {about['seqloom']}.",
        "## Use",
        "With seqloom:",
        fenced("seqloom translate DIR < sources.txt > outputs.txt\nseqloom evaluate DIR", "sh"),
        "Without it:",
        fenced(use.strip(), "python"),
        "`DIR` is this folder.",
        "## Where it came from",
        f"Exported from {in_markdown(about['model'])}; its own card tells of its data, training and limits. "
        f"Licence of the weights: {in_markdown(str(origin.get('license', 'not stated')))}.",
        "## What was checked",
        f"Decoded by both, the model and this export of it: {checked['sources']}.",
        "\n".join(f"- {in_words(name, entry)}" for name, entry in checked["searches"].items()),
        "The log probability of a token of what the model wrote differs by "
        f"{checked['largest_difference']:.2g} nats at most.",
        "## Differences and loss",
        "\n".join(f"- {note}" for note in notes_of(about)),
    ]  # fmt: skip
    text = f"---\n{data}\n---\n\n" + "\n\n".join(parts) + "\n"
    return f"{text}\n<!-- {END}: {digest(text)} -->\n"


def notes_of(about: dict[str, Any]) -> list[str]:
    """What the form does not have."""
    notes = [*about.get("notes", [])]
    for side in ("source", "target"):
        if (most := about.get(f"max_{side}_positions")) is not None:
            notes.append(f"It {'reads' if side == 'source' else 'writes'} {most:,} tokens at most.")
    if about["dtype"] == "float32":
        notes.append("The weights are those of the model.")
    else:
        notes.append(f"The weights are rounded to {about['dtype']}: outputs may be others than the model's.")
    return notes


def is_as_made(text: str) -> bool:
    """Whether nobody has changed a card since `card_of` made it."""
    found = re.fullmatch(rf"(.*\n)\n<!-- {END}: (\w{{64}}) -->\n", text, flags=re.DOTALL)
    return found is not None and digest(found[1]) == found[2]


def origin_of(model: Path) -> dict[str, Any]:
    """The header of the model's own card; empty where it has none."""
    try:
        path = model / run_folder.CARD
        card = ModelCard.load(path if model.is_dir() else str(model))
    except (OSError, ValueError, HfHubHTTPError):
        return {}
    return {name: value for name, value in card.data.to_dict().items() if value}
