"""Plain values, as YAML and the command line have them → dataclasses whose every key is known and every value typed."""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Sequence
from typing import Any, Literal, TypeGuard, TypeVar

import yaml

from seqloom.support.wording import listing, unknown

T = TypeVar("T")
_hints: Any = functools.cache(typing.get_type_hints)
"""Of a class; every command asks for them again and again."""


class _Twice(ValueError):
    """A key stands twice."""


def field_types(cls: type) -> list[tuple[dataclasses.Field[Any], Any]]:
    """The fields of a dataclass, with their types."""
    return [(f, _hints(cls)[f.name]) for f in dataclasses.fields(cls)]


def is_section(hint: Any) -> TypeGuard[type]:
    """Whether a field of this type is a section of fields."""
    return dataclasses.is_dataclass(hint)


def build(cls: type[T], raw: Any, where: str) -> T:
    """A settings dataclass from plain values; every key known, every value of its field's type."""
    if not isinstance(raw, dict):
        raise ValueError(f"{where or 'the configuration'} must be a section of key: value lines, not {raw!r}.")
    hints = {f.name: hint for f, hint in field_types(cls)}
    values = {}
    for key, value in raw.items():
        name = f"{where}.{key}" if where else str(key)
        if key not in hints:
            raise ValueError(unknown(name, [f"{where}.{known}" if where else known for known in hints]))
        hint = hints[key]
        values[key] = (
            build(hint, {} if value is None else value, name) if is_section(hint) else typed(hint, value, name)
        )
    for f, _ in field_types(cls):
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if required and f.name not in values:
            if remedy := f.metadata.get("missing"):
                raise ValueError(f"{where} has no {f.name}: {remedy}.")
            raise ValueError(f"{where + '.' if where else ''}{f.name} is missing from the configuration.")
    return cls(**values)


def typed(hint: Any, value: Any, name: str) -> Any:
    """The value as the field's type. YAML reads 1e-3 as text; a single value stands for a list of one."""
    options = _options(hint)
    if value is None and type(None) in options:
        return None
    for option in options:
        origin = typing.get_origin(option) or option
        if origin is Literal:
            text = {False: "no"}.get(value, value) if isinstance(value, bool) else value  # YAML reads no as false
            if text in typing.get_args(option):
                return text
            allowed = [*typing.get_args(option), *(["null"] if type(None) in options else [])]
            raise ValueError(f"{name} is {value!r}; allowed are {listing(allowed)}.")
        if origin is list:
            (inner,) = typing.get_args(option)
            if is_section(inner) and isinstance(value, list | dict):
                entries = value if isinstance(value, list) else [value]
                return [build(inner, entry, f"{name}[{number}]") for number, entry in enumerate(entries)]
            if is_section(inner):
                break
            return [typed(inner, item, name) for item in (value if isinstance(value, list) else [value])]
        if origin is dict and isinstance(value, dict):
            if wrong := [key for key in value if not isinstance(key, str)]:
                raise ValueError(
                    f"{name} has the key {wrong[0]!r}; a key must be a name, in quotes if it looks otherwise."
                )
            _, inner = typing.get_args(option)
            return {key: item if inner is Any else typed(inner, item, f"{name}.{key}") for key, item in value.items()}
        if origin is bool and isinstance(value, bool):
            return value
        if origin is str and not isinstance(value, (list, dict, bool, type(None))):
            return str(value)
        if origin in (int, float) and not isinstance(value, bool):
            try:
                number = float(value)
            except (TypeError, ValueError, OverflowError):
                continue
            if math.isfinite(number) and (origin is float or number.is_integer()):
                return value if type(value) is origin else origin(number)
    raise ValueError(f"{name} is {value!r}; it must be {type_name(hint)}.")


def type_name(hint: Any) -> str:
    """A field's type in words: ``int or null``, ``adamw|adam``, ``list of str``."""
    options = _options(hint)
    if len(options) > 1:
        return " or ".join(map(type_name, options))
    origin = typing.get_origin(hint)
    if origin is Literal:
        return "|".join(map(str, typing.get_args(hint)))
    if origin is list:
        inner = typing.get_args(hint)[0]
        return "list of sections" if is_section(inner) else f"list of {type_name(inner)}"
    if origin is dict:
        return "dict"
    return "null" if hint is type(None) else hint.__name__


def from_words(hint: Any, words: Sequence[str]) -> Any:
    """The plain value that words of the command line stand for.

    Of a text each word is the value, as it was typed; but an empty one is null, and so is ``null`` where the field may
    be; one in quotes is what they hold. Whatever is no text is read as YAML, as are a list in brackets and a word that
    is none of a choice's.
    """
    options = _options(hint)
    (option, *_) = [o for o in options if o is not type(None)]
    is_list = typing.get_origin(option) is list
    inner = _options(typing.get_args(option)[0])[0] if is_list else option
    parsed = [_yaml(word) for word in words]
    values = list(parsed)
    for number, word in enumerate(words):
        if is_list and len(words) == 1 and isinstance(parsed[0], list) and word.startswith("["):
            return parsed[0]
        is_null = word == "" or (word == "null" and type(None) in options)
        is_quoted = word[:1] in ("'", '"') and word[-1:] == word[:1] and isinstance(parsed[number], str)
        is_text = inner is str or (typing.get_origin(inner) is Literal and word in typing.get_args(inner))
        if is_text and not is_null and not is_quoted:
            values[number] = word
    return values[0] if len(values) == 1 else values


def from_yaml(text: str, name: str, cls: Any = Any) -> Any:
    """The plain value of a YAML text, in which no key of a section stands twice: YAML would keep the last in silence.

    Args:
        text: The YAML.
        name: What it is called in an error.
        cls: The dataclass that it is for. What its fields of type str hold is what is written, 2024_01_02 or 007,
            which YAML reads as other numbers.

    Raises:
        ValueError: It is no YAML, or a key stands twice.
    """
    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            _refuse_twice(node, name, "", set())
            _keep_texts(node, cls)
            return None if node is None else loader.construct_document(node)
        finally:
            loader.dispose()
    except _Twice:
        raise
    except (yaml.YAMLError, ValueError) as error:  # the latter of what looks like a date
        raise ValueError(f"{name} is not YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise ValueError(f"{name} is nested too deeply to be read as YAML; write it flatter.") from None


def _refuse_twice(node: yaml.Node | None, name: str, section: str, seen: set[int]) -> None:
    if id(node) in seen:  # an anchor that is referred to
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_twice(item, name, section, seen)
    lines: dict[tuple[str, str], int] = {}
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        if isinstance(key, yaml.ScalarNode):
            line = key.start_mark.line + 1
            if (key.tag, key.value) in lines:
                raise _Twice(
                    f"{name}, line {line}: {section}{key.value} stands there a second time, after line "
                    f"{lines[key.tag, key.value]}, and only one of them could hold; take the other out."
                )
            lines[key.tag, key.value] = line
        _refuse_twice(value, name, f"{section}{getattr(key, 'value', '')}.", seen)


def _keep_texts(node: yaml.Node | None, hint: Any) -> None:
    """Makes texts of the numbers and dates that stand where the type is one."""
    (option, *_) = (option for option in _options(hint) if option is not type(None))
    is_list = typing.get_origin(option) is list
    inner = typing.get_args(option)[0] if is_list else option
    for item in node.value if is_list and isinstance(node, yaml.SequenceNode) else [node]:
        if is_section(inner) and isinstance(item, yaml.MappingNode):
            hints = {f.name: inner_hint for f, inner_hint in field_types(inner)}
            for key, value in item.value:
                if isinstance(key, yaml.ScalarNode) and key.value in hints:
                    _keep_texts(value, hints[key.value])
        elif inner is str and item is not None and item.tag.rpartition(":")[2] in ("int", "float", "timestamp"):
            item.tag = "tag:yaml.org,2002:str"


def _options(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)


def _yaml(word: str) -> Any:
    try:
        return from_yaml(word, "")
    except ValueError:  # also of what looks like a date
        return word
