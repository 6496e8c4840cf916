"""What a command says of itself, and how its words are read.

A command is a dataclass. A field without a default is a word that stands by itself (a list: one or more of them), one
with a default is an ``--option``: its type says what it may be, its docstring what it means. One whose metadata say
``optional`` stands by itself and may be left out. All other ``--key value`` words are settings. What is done is the
command's method ``run``.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from seqloom.settings.schema import ScoringSettings, Settings
from seqloom.settings.typed import field_types
from seqloom.support.wording import listing, unknown


class Command:
    """The first line of a command's docstring is what ``seqloom --help`` says of it."""

    name: ClassVar[str]
    """The word behind ``seqloom``."""
    needs: ClassVar[str] = ""
    """What is wrong where a word that stands by itself is missing."""
    settings: ClassVar[type[Settings] | type[ScoringSettings] | None] = None
    """Whose keys its other words are; None: there are no others."""
    sections: ClassVar[tuple[str, ...]] = ()
    """The settings' fields that the help explains; none: all."""
    stand_anywhere: ClassVar[bool] = False
    """Words that stand by themselves may come between options, each of which then takes one value alone."""
    is_parallel: ClassVar[bool] = False
    """Several processes may do it together. What all of them find wrong, the first one says."""
    interrupted: ClassVar[str] = "ended at once."
    """What Ctrl-C is answered with."""
    needs_models: ClassVar[bool] = True
    """Whether the libraries of models are loaded before it runs."""
    streams: ClassVar[tuple[str, ...]] = ()
    """Of stdin and stdout, those without which there is nothing to do."""
    examples: ClassVar[str] = ""
    """Lines to type."""

    argv: Sequence[str] = ()
    """All words, as they were typed."""
    overrides: Sequence[str] = ()
    """Those that are for the settings."""

    def check(self) -> None:
        """Refuses what can be seen before the libraries are loaded, which takes seconds."""

    def run(self) -> int | None:
        """Does the work; returns the exit status, unless that is 0."""
        raise NotImplementedError


def fields_of(command: type[Command]) -> tuple[dict[str, tuple[dataclasses.Field, Any]], ...]:
    """Fields and types, by name: the words that stand by themselves, and the options."""
    every = {f.name: (f, hint) for f, hint in field_types(command)}
    alone = {name: (f, hint) for name, (f, hint) in every.items() if is_needed(f) or f.metadata.get("optional")}
    return alone, {name: value for name, value in every.items() if name not in alone}


def is_needed(field: dataclasses.Field) -> bool:
    """Whether nothing stands for it where it is left out."""
    return field.default is field.default_factory is dataclasses.MISSING


def usage(command: type[Command]) -> str:
    """Everything that it takes, in a line."""
    return " ".join(usage_parts(command))


def usage_parts(command: type[Command]) -> list[str]:
    """What stays together where the line is broken."""
    alone, options = fields_of(command)
    words = [shown_alone(f, hint) for f, hint in alone.values()]
    keys = ["[--key value ...]"] if command.settings else []
    optional = [f"[{shown(name, hint)}]" for name, (_, hint) in options.items()]
    return [f"usage: seqloom {command.name}", *words, *keys, *optional]


def shown_alone(field: dataclasses.Field, hint: Any) -> str:
    """``CONFIG``, ``SENTENCE ...``"""
    is_list = typing.get_origin(hint) is list
    name = field.metadata.get("shown", field.name.removesuffix("s" if is_list else "").upper())
    shown = f"{name} ..." if is_list else name
    return shown if is_needed(field) else f"[{shown}]"


def shown(name: str, hint: Any) -> str:
    """``--dry_run``, ``--seeds N ...``, ``--resume [auto]``"""
    kind, choices, is_list = _kind(hint)
    value = "|".join(choices) if 0 < len(choices) < 5 else {int: "N", Path: "PATH", str: "TEXT"}.get(kind, "NAME")
    value = f"[{value}]" if kind is bool and choices else value
    return f"--{name}" if hint is bool else f"--{name} {value}{' ...' if is_list else ''}"


def choices_of(hint: Any) -> tuple[str, ...]:
    """What an option may be, if that is listed."""
    return _kind(hint)[1]


def _kind(hint: Any) -> tuple[Any, tuple[str, ...], bool]:
    """A value's type, the choices there are, and whether there may be several."""
    is_list = typing.get_origin(hint) is list
    inner = typing.get_args(hint)[0] if is_list else hint
    options = [inner] if typing.get_origin(inner) is Literal else [*typing.get_args(inner)] or [inner]
    choices = tuple(choice for option in options if typing.get_origin(option) is Literal
                    for choice in typing.get_args(option))  # fmt: skip
    return options[0], choices, is_list


def parse(command: type[Command], argv: Sequence[str]) -> Command:
    """The call that the words make.

    Raises:
        ValueError: A word is unknown, missing or one too many, or a value is none.
    """
    _, options = fields_of(command)
    words: list[str] = []
    given: dict[str, list[str]] = {}
    overrides: list[str] = []
    taker: list[str] | None = None  # whose value the next word is
    only: tuple[str, ...] = ()  # unless it is none of these
    for word in argv:
        name, equals, value = word[2:].partition("=")
        if not word.startswith("--"):
            if taker is None or (only and word not in only):
                words.append(word)
            else:
                taker.append(word)
            taker = None if command.stand_anywhere or only else taker
        elif name in options:
            kind, choices, _ = _kind(options[name][1])
            if name in given and kind is not bool:
                raise ValueError(f"--{name} is given twice; give it once.")
            given[name] = [value] if equals else []
            only = choices if kind is bool else ()
            taker = None if equals or (kind is bool and not choices) else given[name]
        elif command.settings:
            overrides += [word]
            taker, only = None if equals else overrides, ()
        else:
            raise ValueError(f"{unknown(f'--{name}', [f'--{known}' for known in options])} {usage(command)}")
    values = {name: _value(name, *options[name], texts, command) for name, texts in given.items()}
    call = command(**_alone(command, words), **values)
    call.argv, call.overrides = argv, overrides
    return call


def _alone(command: type[Command], words: Sequence[str]) -> dict[str, Any]:
    """The fields that the words which stand by themselves fill, in their order; a list takes the rest."""
    alone, _ = fields_of(command)
    if len(words) < sum(is_needed(f) for f, _ in alone.values()) or "" in words:
        raise ValueError(f"{command.needs}. {usage(command)}")
    rest, values = list(words), {}
    for name, (_, hint) in alone.items():
        kind, _, is_list = _kind(hint)
        take, rest = (rest, []) if is_list else (rest[:1], rest[1:])
        converted = [kind(word) for word in take]
        if converted:
            values[name] = converted if is_list else converted[0]
    if rest:
        raise ValueError(f"{rest[0]!r} stands where an --option was expected. {usage(command)}")
    return values


def _value(name: str, field: dataclasses.Field, hint: Any, texts: Sequence[str], command: type[Command]) -> Any:
    """The value of an option that is given."""
    kind, choices, is_list = _kind(hint)
    if kind is bool:
        if not texts:
            return True
        if texts[0] not in choices:
            allowed = f"{listing(choices)} or no value" if choices else "no value"
            raise ValueError(f"--{name} takes {allowed}, not {texts[0]!r}.")
        return texts[0]
    if not texts or "" in texts:
        raise ValueError(f"--{name} needs a value. {usage(command)}")
    if len(texts) > 1 and not is_list:
        raise ValueError(f"--{name} has {len(texts)} values; it takes one.")
    values = []
    for text in texts:
        if choices and text not in choices:
            raise ValueError(f"--{name} is {text!r}; it can be {listing(choices)}.")
        least = field.metadata.get("least", 0)
        if kind is int and not (text.isdecimal() and int(text) >= least):
            raise ValueError(f"--{name} is {text!r}; it must be a whole number, {least} or more.")
        values.append(text if choices else kind(text))
    return values if is_list else values[0]
