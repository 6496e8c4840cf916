"""What README and docs/ tell one to type, to open, to set and to import is there.

Every block of code is looked at. Of commands, the words are read by the options that there are, and nothing is begun:
most of them train for minutes, push, or want files of the reader's; tutorial and notebooks are run (tests/docs). Of
YAML, the keys are those of settings. Of Python, all is compiled, and what it imports is there. What is shown and not
typed (a console, C++) has its name behind the fence.
"""

import ast
import dataclasses
import importlib
import re
from pathlib import Path

import pytest
import yaml
from helpers.imports import imports
from helpers.pages import blocks, commands

import seqloom
from seqloom.__main__ import COMMANDS
from seqloom.commands.command import parse
from seqloom.settings import recipes
from seqloom.settings.reading import load_scoring_settings, load_settings
from seqloom.settings.schema import ScoringSettings, Settings

ROOT = Path(__file__).parents[1]
READMES = sorted(ROOT.glob("README*.md"))
PAGES = [*READMES, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "benchmarks" / "README.md"]
PROGRAMS = {"seqloom", "train.py", "evaluate.py"}


def of_ours(words: list[str]) -> tuple[str, list[str]] | None:
    """The name of the command of seqloom's that a line begins, and the words behind it."""
    start = next((place for place, word in enumerate(words) if word in PROGRAMS), None)
    if start is None or (start and words[start] == "seqloom" and words[start - 1] not in ("-m", "&&")):
        return None
    name = {"train.py": "train", "evaluate.py": "evaluate"}.get(words[start])
    name, *rest = [name, *words[start + 1 :]] if name else words[start + 1 :]
    end = next((place for place, word in enumerate(rest) if word in ("<", ">", "|", "&&", "&")), len(rest))
    return name, rest[:end]


def student(overrides: list[str]) -> list[str]:
    """Of the words of ``distill``, those that are not the teacher's: each option has one value here."""
    pairs = zip(overrides[::2], overrides[1::2], strict=False)
    has_teachers = any(word.startswith("--teacher.") for word in overrides)
    own = [word for pair in pairs if not pair[0].startswith("--teacher.") for word in pair]
    return own if has_teachers else overrides


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
class TestPages:
    def test_targets_of_make(self, path):
        asked = {words[1] for words in commands(path) if words[0] == "make"}
        asked |= set(re.findall(r"`make ([\w-]+)`", path.read_text(encoding="utf-8")))
        assert asked or path not in READMES
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        assert asked <= set(re.findall(r"^([\w-]+):", makefile, flags=re.MULTILINE))

    def test_commands(self, path, tmp_path):
        """Commands and configurations exist, their words are understood, and every override is known."""
        checked = set()
        for words in commands(path):
            for word in words:
                assert not re.fullmatch(r"configs/.+\.yaml", word) or (ROOT / word).is_file(), word
            if (ours := of_ours(words)) is None:
                continue
            name, rest = ours
            call = parse(COMMANDS[name], rest)
            if call.settings is Settings:
                configs = [word for word in rest if word.startswith("configs/") or word in recipes.names()]
                config = (configs or ["scan-rnn"])[0]
                load_settings(ROOT / config if "/" in config else config, student(call.overrides))
            elif call.settings is ScoringSettings:
                load_scoring_settings(tmp_path, call.overrides)
            checked.add(name)
        assert path not in READMES or checked >= {"train", "evaluate", "compare", "attend", "push"}

    def test_links(self, path):
        for link in re.findall(r"(?<!\\)\]\(([^)#:]+)[)#]", path.read_text(encoding="utf-8")):
            assert (path.parent / link).exists(), link

    def test_settings(self, path):
        """Keys of YAML are keys of settings."""
        sections = {field.name: field.default_factory for field in dataclasses.fields(Settings)}
        for block in blocks(path, "yaml"):
            raw = yaml.safe_load(block)
            assert raw.keys() <= sections.keys(), block
            for name, section in raw.items():
                if dataclasses.is_dataclass(sections[name]):
                    assert section.keys() <= {field.name for field in dataclasses.fields(sections[name])}, block

    def test_code(self, path):
        """Python compiles, and what it imports and asks of seqloom is there."""
        for block in blocks(path, "python"):
            for module, _, names in imports(block):
                imported = importlib.import_module(module)
                assert all(hasattr(imported, name) for name in names), block
            asked = [node for node in ast.walk(ast.parse(block)) if isinstance(node, ast.Attribute)]
            asked = [node.attr for node in asked if isinstance(node.value, ast.Name) and node.value.id == "seqloom"]
            assert all(hasattr(seqloom, name) for name in asked), asked
