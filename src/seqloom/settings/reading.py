"""Settings read from YAML and overridden by ``--key value``.

Unknown keys are errors that name the nearest right one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from seqloom import run_folder
from seqloom.settings.checks import check_settings, check_shared, model_fields
from seqloom.settings.schema import DERIVED, ScoringSettings, Settings
from seqloom.settings.typed import build, field_types, from_words, from_yaml, is_section
from seqloom.support.wording import unknown


def load_settings(path: str | Path, overrides: Sequence[str] = ()) -> Settings:
    """Reads a YAML file and applies ``--key value`` overrides.

    Where these give other training pairs, ``hub.language``, which the file says of its own, is left out unless it is
    given along.

    Args:
        path: The YAML file.
        overrides: Words of the command line: ``["--learning_rate", "0.001", "--train_files", "a.en", "a.de"]``. A key
            is a section's field (``training.learning_rate``), or the field alone where only one section has it.

    Raises:
        ValueError: The file is missing or is not YAML; a key is unknown or stands twice; a value has the wrong type or
            makes no sense.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no configuration file {path}; the ones that come with seqloom are in configs/.")
    try:
        raw = from_yaml(path.read_text(encoding="utf-8"), str(path), Settings)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise ValueError(f"{path} must hold sections such as model:, data: and training:, but holds {raw!r}.")
    given = [(_resolve(key, raw, Settings), words) for key, words in _parse_overrides(overrides)]
    before = _pairs_of(raw)
    for key, words in given:
        _set(raw, key, words, Settings)
    is_given = any(key == ("hub", "language") for key, _ in given)
    if _pairs_of(raw) != before and not is_given and isinstance(hub := raw.get("hub"), dict):
        hub.pop("language", None)
    settings = build(Settings, raw, where="")
    check_settings(settings)
    return settings


PAIRS = ("dataset", "config_name", "train_files", "source", "target", "mix")
"""What decides which languages the pairs are of."""


def _pairs_of(raw: dict[str, Any]) -> list[Any]:
    """Where the pairs are that settings in the making learn from."""
    data = raw.get("data")
    return [data.get(key) for key in PAIRS] if isinstance(data, dict) else []


def load_scoring_settings(model: str | Path, overrides: Sequence[str] = ()) -> tuple[ScoringSettings, dict[str, Any]]:
    """The settings of ``seqloom evaluate``: the model folder's own ``settings.yaml``, if there is one, then overrides.

    Returns:
        The settings, and the arguments of ``generate`` that were given, which go before the model's generation config.

    Raises:
        ValueError: As for `load_settings`.
    """
    raw: dict[str, Any] = {}
    path = Path(model) / run_folder.SETTINGS
    if path.is_file():
        written = from_yaml(path.read_text(encoding="utf-8"), str(path), Settings)
        raw = {"seed": written["training"]["seed"], **{name: written[name] for name in ("data", "evaluation")}}
    given = list(_parse_overrides(overrides))
    keys = [_resolve(key, raw, ScoringSettings) for key, _ in given]
    if ("data", "dataset") in keys or ("data", "train_files") in keys or ("data", "test_files") in keys:
        columns = {name: raw["data"][name] for name in ("source", "target")} if raw else {}
        raw["data"] = columns  # other data: nothing else of the old place holds
    for key, (_, words) in zip(keys, given, strict=True):
        _set(raw, key, words, ScoringSettings)
    settings = build(ScoringSettings, raw, where="")
    check_shared(settings)
    generate_kwargs = {
        name: getattr(settings.generation, name)
        for name in raw.get("generation", {})
        if name not in ("decode_batch_tokens", "generate_kwargs")
    }
    return settings, generate_kwargs | settings.generation.generate_kwargs


def given_values(overrides: Sequence[str], *names: str) -> list[str]:
    """The texts that words of the command line give to the fields of these names, in whatever section."""
    found: list[str] = []
    for key, words in _parse_overrides(overrides):
        if key.rpartition(".")[2] in names:
            value = from_words(list[str], words)
            found += value if isinstance(value, list) else [value]
    return found


def _parse_overrides(words: Sequence[str]) -> Iterable[tuple[str, list[str]]]:
    """Keys, and the words behind each."""
    position = 0
    while position < len(words):
        word = words[position]
        if not word.startswith("--"):
            raise ValueError(f"{word!r} stands where a --key was expected; overrides are written --key value.")
        key, equals, inline = word[2:].partition("=")
        values = [inline] if equals else []
        position += 1
        while position < len(words) and not words[position].startswith("--") and not equals:
            values.append(words[position])
            position += 1
        if not values:
            raise ValueError(f"--{key} has no value; write --{key} VALUE.")
        yield key, values


def _resolve(key: str, raw: dict[str, Any], cls: type) -> tuple[str, ...]:
    """``learning_rate`` → ``("training", "learning_rate")``."""
    if "." in key:
        section, _, rest = key.partition(".")
        return (section, *rest.split(".")) if section == "evaluation" else (section, rest)
    sections = {
        f.name: {inner.name for inner in dataclasses.fields(hint)} for f, hint in field_types(cls) if is_section(hint)
    }
    if cls is Settings and isinstance(raw.get("model"), dict):
        sections["model"] = {"model_type"} | model_fields(raw["model"].get("model_type")) - DERIVED
    own = {f.name for f in dataclasses.fields(cls)}
    if key in own:
        return (key,)
    homes = [section for section, names in sections.items() if key in names]
    if len(homes) > 1:
        raise ValueError(
            f"--{key} could be {' or '.join(f'--{home}.{key}' for home in homes)}; write the one you mean."
        )
    if not homes:
        known = [*own, *(name for names in sections.values() for name in names)]
        raise ValueError(unknown(f"--{key}", [f"--{name}" for name in known]))
    return homes[0], key


def _set(raw: dict[str, Any], keys: tuple[str, ...], words: Sequence[str], cls: type) -> None:
    hint: Any = cls
    for key in keys:  # what no field is named stays Any; `build` says so
        hint = {f.name: inner for f, inner in field_types(hint)}.get(key, Any) if is_section(hint) else Any
    for position, key in enumerate(keys[:-1], start=1):
        if raw.get(key) is None:
            raw[key] = {}
        raw = raw[key]
        if not isinstance(raw, dict):
            section, whole = ".".join(keys[:position]), ".".join(keys)
            raise ValueError(f"--{whole} reaches into {section}, which is no section of key: value lines but {raw!r}.")
    raw[keys[-1]] = from_words(hint, words)
