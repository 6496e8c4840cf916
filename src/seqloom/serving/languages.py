"""Which languages a model translates, and what they are called."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import yaml
from huggingface_hub import ModelCard
from huggingface_hub.errors import HfHubHTTPError

from seqloom import run_folder
from seqloom.decoding.loading import check_exists
from seqloom.settings.reading import load_run_settings
from seqloom.support.hub_files import file_of
from seqloom.support.wording import plural


def pairs_of(models: Sequence[str], languages: Sequence[str], revision: str | None = None) -> list[tuple[str, str]]:
    """Source and target of each model.

    Args:
        models: Folders and names on the Hub.
        languages: Codes that are given, two for each model; none: what the models say of themselves.
        revision: Of those on the Hub.

    Raises:
        ValueError: A model says nothing of them, there are too few or too many, or two models have the same.
    """
    if languages and len(languages) != 2 * len(models):
        raise ValueError(
            f"--languages has {plural(len(languages), 'code')} for {plural(len(models), 'model')}: give two for each, "
            "the source's first, such as --languages en de."
        )
    for code in languages:
        if not re.fullmatch(r"[A-Za-z0-9]+([-_][A-Za-z0-9]+)*", code) or code == "auto":
            raise ValueError(f"--languages has {code!r}, which is no code of a language: write en, de, pt-BR, …")
    said = [*zip(languages[::2], languages[1::2], strict=True)] or [own_pair(model, revision) for model in models]
    for number, pair in enumerate(said):
        if pair in said[:number]:
            raise ValueError(
                f"{models[said.index(pair)]} and {models[number]} both translate {pair[0]} to {pair[1]}: serve one of "
                "them, or give their codes with --languages."
            )
    return said


def own_pair(model: str, revision: str | None = None) -> tuple[str, str]:
    """What a model says of itself: its run's ``hub.language``, or the languages of its card.

    Raises:
        ValueError: Nothing, or something else than two.
    """
    check_exists(model)
    folder = Path(model)
    said: list[str] = []
    if (folder / run_folder.SETTINGS).is_file():
        said = load_run_settings(folder).hub.language
    if not said:
        said = of_card(model, revision)
    if len(said) != 2:
        told = f"says that its languages are {', '.join(said)}, of which one is read and one is written" if said else \
            "does not say which language it reads and which it writes"  # fmt: skip
        raise ValueError(
            f"{model} {told}: give their codes, the source's first, such as --languages en de; any two words will do "
            "where they are no languages, such as --languages commands actions."
        )
    return said[0], said[1]


def of_card(model: str, revision: str | None = None) -> list[str]:
    """The languages in the header of a model's card; none where it has none."""
    try:
        if (path := file_of(model, run_folder.CARD, revision)) is None:
            return []
        card = ModelCard.load(path, ignore_metadata_errors=True)
    except (OSError, ValueError, HfHubHTTPError, yaml.YAMLError):
        return []
    said = card.data.to_dict().get("language") or []
    return [said] if isinstance(said, str) else [str(code) for code in said]


def name_of(code: str) -> str:
    """``German`` for ``de``; the code where its name is not known."""
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    return LANGUAGES.get(code.lower(), code).title() if code.lower() in LANGUAGES else code
