"""Whose code a model's folder carries: seqloom's own is run, any other only when somebody says so.

Own are files that equal, byte for byte, those of the installed models, those of a released version
(``released_code.yaml``), or those that a family which this process has registered was imported from: running these
again does nothing that was not done. ``python -m seqloom.sharing.code`` prints the entry of this version.
"""

from __future__ import annotations

import functools
import re
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from transformers.dynamic_module_utils import get_relative_imports

import seqloom.modeling
from seqloom import run_folder
from seqloom.modeling import CONFIG_CLASSES
from seqloom.support.disk import sha256
from seqloom.version import __version__

CONFIGS = ("config.json", "tokenizer_config.json")
"""Files that name code."""
GENERATE = "custom_generate"
"""A folder of code that stands for ``generate``."""


def references(folder: Path) -> list[str]:
    """The classes and functions that a folder's configs name: ``file.Class``."""
    found: list[str] = []
    for name in CONFIGS:
        if (folder / name).is_file():
            values = [*named_classes(folder / name).values()]
            pipelines = named_classes(folder / name, "custom_pipelines").values()
            values += [pipeline.get("impl") if isinstance(pipeline, dict) else pipeline for pipeline in pipelines]
            flat = [part for value in values for part in (value if isinstance(value, list) else [value])]
            found += [str(reference) for reference in flat if reference]
    return found


def named_classes(path: Path, key: str = "auto_map") -> dict[str, Any]:
    """What a config says of classes of its own.

    Raises:
        ValueError: The file is damaged, or says something else there than names and values.
    """
    named = run_folder.read_object(path).get(key) or {}
    if not isinstance(named, dict):
        raise ValueError(f"{path} has {key} {named!r}; it must hold names and values: take the file as it was saved.")
    return named


def code_files(folder: Path) -> set[str]:
    """The files that hold them and what those import from beside them, whether they are there or not.

    A reference to somewhere else (``user/model--file.Class``) stands for itself.
    """
    waiting = [
        f"{reference.partition('.')[0]}.py" if re.fullmatch(r"\w+\.\w+", reference) else reference
        for reference in references(folder)
    ]
    code: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name not in code and is_beside(folder, name):
            waiting += [f"{module}.py" for module in get_relative_imports(folder / name)]
        code.add(name)
    return code


def is_beside(folder: Path, name: str) -> bool:
    """Whether a file of that name, and no path, is in the folder."""
    return Path(name).name == name and (folder / name).is_file()


def foreign_code(folder: Path) -> list[str]:
    """What loading a folder by its own code would run that is not seqloom's: names of files."""
    own = own_digests()
    # What is not there may be in the repository, or in another one.
    foreign = {name for name in code_files(folder) if not is_beside(folder, name) or sha256(folder / name) not in own}
    replaced = {path for path in (folder / GENERATE).rglob("*.py") if sha256(path) not in own}
    return sorted(foreign | {path.relative_to(folder).as_posix() for path in replaced})


def check_code(folder: Path, what: str, trust_remote_code: bool) -> None:
    """Refuses a folder whose loading would run another's code.

    Args:
        folder: Of a model, with its configs and code.
        what: Which one it is, in words.
        trust_remote_code: Whether that is wanted.

    Raises:
        ValueError: It would, and is not.
    """
    foreign = [] if trust_remote_code else foreign_code(folder)
    if foreign:
        raise ValueError(
            f"{what} names code that is not seqloom's own ({', '.join(foreign)}), and to check the pushed model is to "
            "run it: read it, and if you trust it, give --trust_remote_code."
        )


def own_digests() -> frozenset[str]:
    """SHA-256 of every file of code that is seqloom's own or runs here already."""
    elsewhere = {path for config in CONFIG_CLASSES.values() for path in _sources(config.__module__)}
    return _installed_and_released() | {sha256(path) for path in elsewhere}


@functools.cache
def _installed_and_released() -> frozenset[str]:
    released = yaml.safe_load(files("seqloom.sharing").joinpath("released_code.yaml").read_text(encoding="utf-8")) or {}
    return frozenset([*_installed().values(), *(digest for entry in released.values() for digest in entry.values())])


def _installed() -> dict[str, str]:
    folder = Path(str(seqloom.modeling.__file__)).parent
    return {path.name: sha256(path) for path in sorted(folder.glob("*.py"))}


def _sources(module: str) -> set[Path]:
    """The files of an imported module and of those imported from beside it."""
    package = module.rpartition(".")[0]
    beside = [name for name in sys.modules if name == module or (package and name.rpartition(".")[0] == package)]
    places: list[Any] = [getattr(sys.modules[name], "__file__", None) for name in beside if name in sys.modules]
    return {Path(place) for place in places if place and Path(place).is_file()}


if __name__ == "__main__":
    print(yaml.safe_dump({__version__: _installed()}), end="")
