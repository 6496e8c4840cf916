"""What ``--help`` prints, read from the dataclasses' own docstrings: no model library is imported for it."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import inspect
import itertools
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from seqloom.commands.command import Command, choices_of, fields_of, shown, shown_alone, usage_parts
from seqloom.settings.schema import DERIVED, MixSettings, Settings
from seqloom.settings.typed import field_types, is_section, type_name
from seqloom.settings.unused import scored_keys
from seqloom.support.wording import listing

COLUMN = 26
"""Where meanings begin."""


@dataclasses.dataclass(frozen=True)
class Key:
    """A setting."""

    name: str
    kind: str
    default: str
    meaning: str


@dataclasses.dataclass(frozen=True)
class Section:
    """Settings that stand together."""

    name: str
    meaning: str
    keys: Sequence[Key]


def overview(commands: Iterable[type[Command]]) -> str:
    """What ``seqloom --help`` says."""
    lines = [_entry(command.name, about(command)) for command in commands]
    end = "seqloom COMMAND --help lists everything that a command takes, with examples."
    return "\n".join(["usage: seqloom COMMAND ...", "", *lines, "", *textwrap.wrap(end, width())])


def summary(command: type[Command]) -> str:
    """Of a command that was given no word."""
    return f"{_usage(command)}\n\n{about(command)}\nseqloom {command.name} --help lists everything, with examples."


def describe(command: type[Command]) -> str:
    """Everything that a command takes."""
    docs, (alone, options) = docstrings(command), fields_of(command)
    parts = [_usage(command), "\n\n".join(map(_wrap, (inspect.getdoc(command) or "").split("\n\n")))]
    if alone:
        parts.append("\n".join(_entry(shown_alone(f, hint), docs[name]) for name, (f, hint) in alone.items()))
    if options:
        entries = []
        for name, (f, hint) in options.items():
            text = docs[name]
            if len(choices := choices_of(hint)) > 4:
                text += f" They are {listing(choices)}."
            if f.default not in (None, "", False, dataclasses.MISSING):
                text += f" (default {f.default})"
            entries.append(_entry(shown(name, hint), text))
        parts.append("\n".join(["Options:", *entries]))
    if command.settings:
        parts.append(_wrap(
            "Settings, by section; --SECTION.KEY is right always, and needed where two sections have the same key:"
        ))  # fmt: skip
    for section in sections_of(command):
        lines = [_wrap(f"{section.name}: {section.meaning}".strip())]
        for key in section.keys:
            lines.append(_entry(key.name, f"{key.meaning} ({key.kind}, {key.default})"))
        parts.append("\n".join(lines))
    if command.examples:
        parts.append("\n".join(["Examples:", textwrap.indent(textwrap.dedent(command.examples).strip(), "  ")]))
    return "\n\n".join(parts)


def about(command: type[Command]) -> str:
    """What a command does, in a line: the first of its docstring."""
    return (inspect.getdoc(command) or "").partition("\n")[0]


def known_keys(command: type[Command]) -> set[str]:
    """Of all sections, those of every family's models too."""
    return {key.name.rpartition(".")[2].lstrip("-") for section in sections_of(command, every=True)
            for key in section.keys}  # fmt: skip


def sections_of(command: type[Command], every: bool = False) -> list[Section]:
    """The settings that a command's words reach; a key that means two things is named in full."""
    if command.settings is None:
        return []
    fields = field_types(command.settings)
    own = {f.name for f, hint in fields if not is_section(hint)}
    homes = [f.name for _, hint in fields if is_section(hint) for f in dataclasses.fields(hint)]
    twice = {name for name in homes if homes.count(name) > 1 or name in own or name in fields_of(command)[1]}
    wanted = [(f, hint) for f, hint in fields if every or not command.sections or f.name in command.sections]
    docs = docstrings(command.settings)
    read = set().union(*(scored_keys(split, in_files=False) for split in ("train", "validation", "test")))
    top = [key for key in keys_of(command.settings) if key.name in {f.name for f, _ in wanted} - {"model"}]
    found = [Section("outside of sections", "", [_spelt(key, "") for key in top])] if top else []
    for f, hint in wanted:
        if is_section(hint):
            keys = [_spelt(key, f.name if key.name in twice else "") for key in keys_of(hint)
                    if every or command.settings is Settings or f.name != "data" or key.name in read]  # fmt: skip
            found.append(Section(f.name, docs_of(hint) if command.settings is Settings else docs[f.name], keys))
        if f.name == "model":
            kinds = Key("model_type", "|".join(families()), "required", "The family.")
            found.append(Section("model", docs["model"], [_spelt(kinds, "")]))
            found += [
                Section(f"model, where model_type is {family}", "", [_spelt(key, "") for key in keys])
                for family, keys in families().items()
            ]
        if f.name == "data":
            found.append(Section("each entry of data.mix", docs_of(MixSettings), keys_of(MixSettings)))
    return found


def keys_of(cls: type) -> list[Key]:
    """The fields of a settings dataclass that are no sections."""
    docs, keys = docstrings(cls), []
    for f, hint in field_types(cls):
        default = f.default if f.default_factory is dataclasses.MISSING else f.default_factory()
        if not is_section(hint):
            keys.append(Key(f.name, type_name(hint), _default(default), docs[f.name]))
    return keys


@cache
def families() -> dict[str, list[Key]]:
    """The fields of every family's config by its ``model_type``, read from the sources."""
    spec = importlib.util.find_spec("seqloom.modeling")
    folders = spec.submodule_search_locations if spec else None
    configs: dict[str, ast.ClassDef] = {}
    aliases: dict[str, str] = {}  # names of types: ``DerivedInt = int | None``
    for path in sorted(path for folder in folders or () for path in Path(folder).glob("configuration_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                configs[node.name] = node
            elif isinstance(node, ast.Assign) and isinstance(node.value, ast.BinOp):
                aliases[ast.unparse(node.targets[0])] = ast.unparse(node.value)
    return {
        family: _config_keys(config, configs, aliases) for config in configs.values() if (family := _model_type(config))
    }


def _model_type(config: ast.ClassDef) -> str | None:
    for line in config.body:
        if isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == "model_type":
            return ast.literal_eval(line.value)
    return None


def _config_keys(config: ast.ClassDef, configs: dict[str, ast.ClassDef], aliases: dict[str, str]) -> list[Key]:
    """The fields that its docstring explains, or one that it is derived from, but those that follow from other
    settings; its own first."""
    meanings: dict[str, str] = {}
    fields: dict[str, ast.AnnAssign] = {}
    for cls in _lineage(config, configs):
        meanings = meanings | {k: v for k, v in _arguments(ast.get_docstring(cls)).items() if k not in meanings}
        own = {ast.unparse(line.target): line for line in cls.body if isinstance(line, ast.AnnAssign)}
        fields = own | fields
    keys = []
    for name, meaning in meanings.items():
        if name in fields and name not in DERIVED and (value := fields[name].value) is not None:
            annotation = ast.unparse(fields[name].annotation)
            kinds = aliases.get(annotation, annotation).replace("float | int", "float").split(" | ")
            kinds = ["null" if one == "None" else one for one in kinds]
            default = None if isinstance(value, ast.Name) else ast.literal_eval(value)  # a name stands for: derived
            keys.append(Key(name, " or ".join(kinds), _default(default), meaning))
    return keys


def _lineage(config: ast.ClassDef, configs: dict[str, ast.ClassDef]) -> list[ast.ClassDef]:
    """A config's class and those that it is derived from, the nearest first."""
    bases = [configs[base] for base in map(ast.unparse, config.bases) if base in configs]
    return [config, *(cls for base in bases for cls in _lineage(base, configs))]


def _arguments(doc: str | None) -> dict[str, str]:
    """The entries of a docstring's ``Args:``, whose names may share one (``encoder_layers, decoder_layers: …``)."""
    block = re.search(r"^Args:\n((?:    .*\n|\n)*)", f"{doc}\n", flags=re.MULTILINE)
    entries = re.findall(r"^    (\w[\w, ]*): (.*\n(?: {8}.*\n)*)", block[1] if block else "", flags=re.MULTILINE)
    return {name: _plain(meaning) for names, meaning in entries for name in names.split(", ")}


def docstrings(cls: type) -> dict[str, str]:
    """The docstring below each field of a class, in one line."""
    return {
        ast.unparse(field.target): _plain(str(after.value.value))
        for field, after in itertools.pairwise(_node(cls).body)
        if isinstance(field, ast.AnnAssign) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
    }


def docs_of(cls: type) -> str:
    """A class's own docstring, in one line; nothing where it has none."""
    return _plain(ast.get_docstring(_node(cls)) or "")


def _node(cls: type) -> ast.ClassDef:
    return next(
        node for node in _tree(cls.__module__).body if isinstance(node, ast.ClassDef) and node.name == cls.__name__
    )


@cache
def _tree(module: str) -> ast.Module:
    return ast.parse(inspect.getsource(sys.modules[module]))


def _spelt(key: Key, section: str) -> Key:
    """As it is typed."""
    return dataclasses.replace(key, name=f"--{section}.{key.name}" if section else f"--{key.name}")


def _plain(text: str) -> str:
    return " ".join(text.replace("`", "").split())


def _default(value: Any) -> str:
    if value is dataclasses.MISSING:
        return "required"
    words = [str(item) for item in value] if isinstance(value, list) and value else [str(value)]
    text = {"None": "null", "True": "true", "False": "false"}.get(words[0], " ".join(words))
    return f"default {text}"


def _usage(command: type[Command]) -> str:
    first, *rest = usage_parts(command)
    lines, indent = [first], " " * len("usage:")
    for word in rest:
        if len(lines[-1]) + 1 + len(word) > width():
            lines.append(indent)
        lines[-1] += f" {word}"
    return "\n".join(lines)


class _Wrapper(textwrap.TextWrapper):
    """Breaks a list of choices, written a|b, between them alone."""

    wordsep_simple_re = re.compile(r"(\s+|(?<=\|))")


def _entry(name: str, meaning: str) -> str:
    """A name, and beside it what it means; a long name has a line of its own."""
    indent = " " * COLUMN
    lines = _Wrapper(width(), initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False).wrap(meaning)
    if len(name) + 4 <= COLUMN:
        return "\n".join([f"  {name}".ljust(COLUMN) + lines[0].lstrip(), *lines[1:]])
    return "\n".join([f"  {name}", *lines])


def _wrap(text: str) -> str:
    return "\n".join(textwrap.wrap(_plain(text), width()))


def width() -> int:
    """Of the terminal; 80 where there is none."""
    return min(max(shutil.get_terminal_size((80, 24)).columns, 50), 120)
