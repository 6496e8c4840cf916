"""The command ``seqloom recipes``: which recipes come with seqloom, what each needs and costs, and what each says."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass, field
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from seqloom.commands.command import Command
from seqloom.commands.following import tell_next, typed
from seqloom.commands.help import width
from seqloom.commands.shell import say
from seqloom.settings.recipes import launch_names, names, recipe_text
from seqloom.settings.schema import Settings
from seqloom.settings.typed import from_yaml
from seqloom.support.wording import listing

INDENT = 10


@dataclass(kw_only=True)
class Recipes(Command):
    """Lists the recipes that come with seqloom, or prints one.

    With a name, the recipe itself: redirected to a file, it is yours to change. Parameters, times and scores are those
    of the recipe's model card; a recipe that has none was not measured.
    """

    name = "recipes"
    needs = "the recipe's name is empty"
    needs_models = False
    streams = ("stdout",)
    examples = """
        seqloom recipes
        seqloom recipes scan-rnn > mine.yaml
        seqloom recipes accelerate/8-gpus > 8-gpus.yaml
    """

    recipe: str | None = field(default=None, metadata={"optional": True})
    """The recipe to print, or one of the files for accelerate launch."""

    def run(self) -> None:
        if self.recipe is not None:
            say(recipe_text(self.recipe).removesuffix("\n"))
            return
        say("\n\n".join(map(described, names())))
        say(f"\nfor accelerate launch --config_file: {listing(launch_names())}")
        copied = None if Path("mine.yaml").exists() else f"{typed('recipes', 'scan-rnn')} > mine.yaml"
        tell_next(typed("train", "scan-rnn", "--dry_run"), copied)


def described(name: str) -> str:
    """A recipe in a few lines: what it is of, what it needs, what it costs."""
    text = recipe_text(name)
    raw = from_yaml(text, name, Settings)
    card = card_of(name)
    model, training = raw["model"]["model_type"], raw["training"]
    if "parameters" in card:
        model += f", {card['parameters']} parameters"
    lengths = {"max_steps": "updates", "num_train_epochs": "epochs"}
    cost = [f"{training[key]:,} {unit}" for key, unit in lengths.items() if training.get(key)]
    if "time" in card:
        cost.append(f"{card['time']} on {card['hardware']}, {card['precision']}")
    rows = {"model": model, "data": data_in_words(raw["data"]), "cost": "; ".join(cost), "scores": card.get("scores")}
    wrapped = partial(textwrap.wrap, width=width(), break_on_hyphens=False)
    lines = wrapped(first_sentence(text), initial_indent="  ", subsequent_indent="  ")
    for title, value in rows.items():
        indent = " " * INDENT
        first = f"  {title}".ljust(INDENT)
        lines += wrapped(value or "", initial_indent=first, subsequent_indent=indent)
    return "\n".join([name, *lines])


def first_sentence(text: str) -> str:
    """Of a file's comment."""
    comment = re.match(r"(?:# .*\n)+", text)
    words = " ".join((comment[0] if comment else "").replace("# ", " ").split())
    return re.split(r"(?<=\.) (?=[A-Z])", words)[0]


def data_in_words(data: dict[str, Any]) -> str:
    """Where the pairs come from."""
    if data.get("dataset") == "scan":
        return f"SCAN, built in, its split {data['split']}"
    if data.get("dataset"):
        return f"{data['dataset']}, from the Hub; or your own with --train_files"
    given = data["train_files"]
    return f"your own: --train_files {given if isinstance(given, str) else ' '.join(given)}"


def card_of(name: str) -> dict[str, str]:
    """What the model card says of a recipe's training; nothing where it was not measured."""
    file = files("seqloom.model_cards").joinpath(f"{name}.md")
    if not file.is_file():
        return {}
    text = file.read_text(encoding="utf-8")
    patterns = {
        "parameters": r"([\d,]+) parameters, trained", "time": r"^\| time \| (.*?)(?:, validations included)? \|$",
        "hardware": r"^\| hardware \| (.*?)(?:; 1 process)? \|$", "precision": r"^\| precision \| (.*?) \|$",
    }  # fmt: skip
    found = {key: match[1] for key, pattern in patterns.items() if (match := re.search(pattern, text, re.MULTILINE))}
    results = re.findall(r"^\| (\S[^|]*?) [↑↓] \| ([\d.]+) \|", text, re.MULTILINE)
    return found | {"scores": ", ".join(f"{metric} {score}" for metric, score in results)}
