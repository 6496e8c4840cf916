"""Settings read from YAML and overridden by ``--key value``.

Unknown keys are errors that name the nearest right one.
"""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from seqloom import run_folder
from seqloom.settings.checks import check_settings, check_shared, model_fields
from seqloom.settings.recipes import find_recipe
from seqloom.settings.replaced import kind_of, leave_out, pairs_of, take_place
from seqloom.settings.schema import DERIVED, EvaluationSettings, ScoringSettings, Settings
from seqloom.settings.typed import build, field_types, from_words, from_yaml, is_section
from seqloom.settings.unused import check_generate_kwargs, check_metric_kwargs, check_place, check_scored
from seqloom.support.wording import listing, unknown


def load_settings(
    path: str | Path,
    overrides: Sequence[str] = (),
    say: Callable[[str], object] = lambda text: None,
    *,
    with_model: bool = True,
) -> Settings:
    """Reads a YAML file and applies ``--key value`` overrides.

    Where these give other training pairs, what the file says of its own is left out unless it is given along: where
    they are (files take the place of a dataset, and the other way round), ``hub.language``, and the names of columns
    where the others are lines of text.

    Args:
        path: The YAML file, or the name of a recipe that comes with seqloom.
        overrides: Words of the command line: ``["--learning_rate", "0.001", "--train_files", "a.en", "a.de"]``. A key
            is a section's field (``training.learning_rate``), or the field alone where only one section has it.
        say: Is told what is left out.
        with_model: Whether the section ``model`` is read, too; without it, no library is loaded, and keys of no other
            section are taken for its own.

    Raises:
        ValueError: The file is missing, is not YAML or could be one of two; a key is unknown or stands twice; a value
            has the wrong type or makes no sense.
    """
    raw = read_recipe(path)
    told = list(_parse_overrides(overrides))
    if not with_model and isinstance(raw.get("model"), dict):
        raw["model"] = {}
        told = [(key, words) for key, words in told if _is_of_another(key)]
    given = [(_resolve(key, raw if with_model else {}, Settings), words) for key, words in told]
    before = pairs_of(raw)
    for key, words in given:
        _set(raw, key, words, Settings)
    keys = [key for key, _ in given]
    if ("evaluation", "metrics") in keys:
        _leave_out_unused(raw, keys)
    take_place(raw, before, keys, Path(path), say)
    leave_out(raw, before, keys, Path(path), say)
    settings = build(Settings, raw, where="")
    check_settings(settings, with_model=with_model)
    return settings


def load_run_settings(folder: Path, overrides: Sequence[str] = ()) -> Settings:
    """`load_settings` of what a run wrote down.

    Raises:
        ValueError: As for `load_settings`; or the file is another tool's.
    """
    _of_run(folder / run_folder.SETTINGS)
    return load_settings(folder / run_folder.SETTINGS, overrides)


def load_scoring_settings(
    model: str | Path, overrides: Sequence[str] = (), used: Collection[str] = ()
) -> tuple[ScoringSettings, dict[str, Any]]:
    """The settings of ``seqloom evaluate``: the model folder's own ``settings.yaml``, if there is one, then overrides.

    Args:
        model: Its folder; or its name on the Hub, where there is no such file.
        overrides: Words of the command line.
        used: The fields and sections that the command uses; none: all.

    Returns:
        The settings, and the arguments of ``generate`` that were given, which go before the model's generation config.

    Raises:
        ValueError: As for `load_settings`; or an override is of no use to the command, or to the metrics.
    """
    raw: dict[str, Any] = {}
    path = Path(model) / run_folder.SETTINGS
    if path.is_file():
        written = _of_run(path)
        raw = {"seed": written["training"]["seed"], **{name: written[name] for name in ("data", "evaluation")}}
    given = list(_parse_overrides(overrides))
    keys = [_resolve(key, raw, ScoringSettings) for key, _ in given]
    for key in keys:
        if used and key[0] not in used:
            raise ValueError(
                f"--{'.'.join(key)} is of no use here, where the settings are {listing(used)}: leave it out."
            )
    if ("data", "dataset") in keys or ("data", "train_files") in keys or ("data", "test_files") in keys:
        columns = {name: raw["data"][name] for name in ("source", "target") if name in raw["data"]} if raw else {}
        raw["data"] = columns  # other data: nothing else of the old place holds
    for key, (_, words) in zip(keys, given, strict=True):
        _set(raw, key, words, ScoringSettings)
    _leave_out_unused(raw, keys)
    settings = build(ScoringSettings, raw, where="")
    check_shared(settings)
    of_data = [key[-1] for key in keys if key[0] == "data"]
    check_place(settings.data, "data", of_data)
    check_scored(settings.data, of_data, settings.split_to_score())
    if settings.revision is not None and Path(model).is_dir():
        raise ValueError(
            f"revision is {settings.revision!r}, but {model} is a folder, which has one state: leave it out."
        )
    check_generate_kwargs(settings.generation)
    check_metric_kwargs(settings.evaluation, settings.evaluation.metrics)
    generate_kwargs = {
        name: getattr(settings.generation, name)
        for name in raw.get("generation") or {}
        if name not in ("decode_batch_tokens", "decode_dtype", "generate_kwargs")
    }
    return settings, generate_kwargs | settings.generation.generate_kwargs


def read_recipe(word: str | Path) -> dict[str, Any]:
    """The sections of a YAML file or of a recipe by its name, as plain values.

    Raises:
        ValueError: There is none, or it holds something else.
    """
    return _read(find_recipe(word))


def _of_run(path: Path) -> dict[str, Any]:
    """What a file holds, where that is a run's settings and not another tool's of that name."""
    written = _read(path)
    lacking = [name for name in ("training", "data", "evaluation") if not isinstance(written.get(name), dict)]
    if lacking or "seed" not in written["training"]:
        raise ValueError(
            f"{path} is not the settings of a run of seqloom's, as it would be beside a model: it has no "
            f"{f'section {listing(lacking)}' if lacking else 'training.seed'}; take the folder as the training left "
            "it, or move the file elsewhere if it is another tool's."
        )
    return written


def _read(path: Path) -> dict[str, Any]:
    """The sections of a file of settings, as plain values.

    Raises:
        ValueError: It is no YAML, or no sections.
    """
    if kind_of(str(path)) is not None and path.suffix != ".json":  # which YAML reads
        raise ValueError(
            f"{path} is a file of data, and a configuration was expected: take a recipe (seqloom recipes lists some) "
            f"and name the data in it or behind it: --train_files {path} --source COLUMN --target COLUMN."
        )
    try:
        raw = from_yaml(path.read_text(encoding="utf-8"), str(path), Settings)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        held = textwrap.shorten(repr(raw), 100, placeholder=" …")
        raise ValueError(f"{path} must hold sections such as model:, data: and training:, but holds {held}.")
    return raw


def _leave_out_unused(raw: dict[str, Any], given: Iterable[tuple[str, ...]]) -> None:
    """Takes out a file's arguments of metrics that are not asked for: other metrics than its own are. Those that the
    command's line itself gives stay, to be refused."""
    evaluation = raw.get("evaluation")
    if not isinstance(evaluation, dict) or not isinstance(evaluation.get("metric_kwargs"), dict):
        return
    on_the_line = [key for key in given if key[:2] == ("evaluation", "metric_kwargs")]
    if ("evaluation", "metric_kwargs") in on_the_line:
        return
    asked = evaluation.get("metrics", EvaluationSettings().metrics)
    validation = (raw.get("training") or {}).get("eval_metric") if isinstance(raw.get("training"), dict) else None
    names = {*(asked if isinstance(asked, list) else [asked]), validation, *(key[2] for key in on_the_line)}
    evaluation["metric_kwargs"] = {
        name: options for name, options in evaluation["metric_kwargs"].items() if name in names
    }


def is_given(overrides: Sequence[str], *names: str) -> bool:
    """Whether words of the command line give one of the fields of these names, whatever its value."""
    return any(key.rpartition(".")[2] in names for key, _ in _parse_overrides(overrides))


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


def _sections(cls: type) -> dict[str, set[str]]:
    """The sections and their fields."""
    return {
        f.name: {inner.name for inner in dataclasses.fields(hint)} for f, hint in field_types(cls) if is_section(hint)
    }


def _is_of_another(key: str) -> bool:
    """Whether a key is not of the section ``model``, and cannot be."""
    section, dot, _ = key.partition(".")
    if dot:
        return section != "model"
    return key in {f.name for f in dataclasses.fields(Settings)}.union(*_sections(Settings).values())


def _resolve(key: str, raw: dict[str, Any], cls: type) -> tuple[str, ...]:
    """``learning_rate`` → ``("training", "learning_rate")``."""
    if "." in key:
        section, _, rest = key.partition(".")
        return (section, *rest.split(".")) if section == "evaluation" else (section, rest)
    sections = _sections(cls)
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
