"""Plain values, as YAML and the command line have them → dataclasses whose every key is known and every value typed."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from typing import Any, Literal

from seqloom.support.wording import listing, unknown


def field_types(cls: type) -> list[tuple[dataclasses.Field, Any]]:
    hints = typing.get_type_hints(cls)
    return [(f, hints[f.name]) for f in dataclasses.fields(cls)]


def build(cls: type, raw: Any, where: str):
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
        values[key] = build(hint, value or {}, name) if dataclasses.is_dataclass(hint) else typed(hint, value, name)
    for f in dataclasses.fields(cls):
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if required and f.name not in values:
            raise ValueError(f"{where + '.' if where else ''}{f.name} is missing from the configuration.")
    return cls(**values)


def typed(hint: Any, value: Any, name: str) -> Any:
    """The value as the field's type. YAML reads 1e-3 as text; a single value stands for a list of one."""
    options = typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
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
            return [typed(inner, item, name) for item in (value if isinstance(value, list) else [value])]
        if origin is dict and isinstance(value, dict):
            return value
        if origin is bool and isinstance(value, bool):
            return value
        if origin is str and not isinstance(value, (list, dict, bool, type(None))):
            return str(value)
        if origin in (int, float) and not isinstance(value, bool):
            try:
                number = float(value)
            except (TypeError, ValueError):
                continue
            if math.isfinite(number) and (origin is float or number.is_integer()):
                return origin(number)
    kinds = " or ".join("null" if o is type(None) else getattr(o, "__name__", str(o)) for o in options)
    raise ValueError(f"{name} is {value!r}; it must be {kinds}.")
