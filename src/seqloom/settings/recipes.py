"""The recipes that are installed with seqloom, by name: ``scan-rnn`` is a file of `seqloom.configs`, with no checkout.

A word is a path where a file lies there. A name is a recipe's; where the folder that one is in has a YAML file of the
same name that says something else, it could be either, and is refused.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from seqloom import run_folder
from seqloom.support.wording import listing, nearest

YAML = (".yaml", ".yml")
LAUNCH = "accelerate/"
"""How the names of files begin that are for ``accelerate launch --config_file``."""


def installed() -> Path:
    """Where they lie."""
    return Path(str(files("seqloom.configs")))


def names() -> list[str]:
    """Of all recipes."""
    return sorted(path.stem for path in installed().glob("*.yaml"))


def launch_names() -> list[str]:
    """Of the files for ``accelerate launch``: ``accelerate/1-gpu``, …"""
    return sorted(f"{LAUNCH}{path.stem}" for path in (installed() / LAUNCH).glob("*.yaml"))


def is_name(word: str) -> bool:
    """Whether a word could be a recipe's name: no file's ending, no folder before it."""
    return bool(word) and Path(word).name == word and "\\" not in word and not word.endswith(YAML)


def is_recipe(word: str) -> bool:
    """Whether a recipe is called so.

    Raises:
        ValueError: A folder is called so too.
    """
    if not is_name(word) or word not in names():
        return False
    if Path(word).is_dir():
        raise ValueError(
            f"{word} is the name of a recipe that comes with seqloom, and of a folder here: write ./{word} for the "
            f"folder, or call the recipe from elsewhere (seqloom recipes {word} prints it)."
        )
    return True


def find_recipe(word: str | Path) -> Path:
    """The file that a word of the command line means.

    Raises:
        ValueError: There is none, the message has the nearest name; or there are two.
    """
    path, text = Path(word), str(word)
    if path.is_file():
        return path
    if run_folder.is_run(path):
        raise ValueError(
            f"{word} is the folder of a run, whose configuration is {path / run_folder.SETTINGS}: give that."
        )
    if is_name(text) and text in names():
        found = installed() / f"{text}.yaml"
        for own in (Path(f"{text}{ending}") for ending in YAML):
            if own.is_file() and own.read_bytes() != found.read_bytes():
                raise ValueError(
                    f"{text} is the name of a recipe that comes with seqloom, and {own}, which lies here, says "
                    f"something else: write {own} for the file, or give it another name to mean the recipe."
                )
        return found
    name = path.stem if text.endswith(YAML) else path.name
    if name in names():
        raise ValueError(
            f"there is no configuration file {word}; the recipe that comes with seqloom is called by its name alone, "
            f"{name}."
        )
    here = [str(own) for ending in YAML for own in path.parent.glob(f"*{ending}")]
    if near := nearest(text, here, cutoff=0.8):
        raise ValueError(f"there is no configuration file {word}; did you mean {near}?")
    if near := nearest(name, names()):
        raise ValueError(f"there is no configuration file {word}; did you mean the recipe {near}?")
    raise ValueError(
        f"there is no configuration file {word}; the recipes that come with seqloom are {listing(names())} (seqloom "
        "recipes says more of each)."
    )


def recipe_text(name: str) -> str:
    """What a recipe, or a file for ``accelerate launch``, says.

    Raises:
        ValueError: There is none of this name; the message has the nearest one.
    """
    known = [*names(), *launch_names()]
    name = name.removesuffix(".yaml")
    if name not in known:
        near = nearest(name, known)
        told = f"did you mean {near}?" if near else f"there are {listing(known)}."
        raise ValueError(f"no recipe is called {name}; {told}")
    return (installed() / f"{name}.yaml").read_text(encoding="utf-8")
