"""What the READMEs tell one to type, to open and to import is there."""

import importlib
import re
import shlex
from pathlib import Path

import pytest
from helpers.imports import imports

from seqloom.__main__ import COMMANDS
from seqloom.commands.command import parse
from seqloom.settings.reading import load_scoring_settings, load_settings
from seqloom.settings.schema import ScoringSettings, Settings

ROOT = Path(__file__).parents[1]
READMES = [path for path in sorted(ROOT.glob("README*.md")) if path.stat().st_size]


def commands(path: Path) -> list[list[str]]:
    """The words of every command in a README's blocks of code, continuation lines joined."""
    blocks = re.findall(r"```(\w*)\n(.*?)```", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    lines = (
        "\n".join(block for language, block in blocks if language in ("", "bash", "sh"))
        .replace("\\\n", " ")
        .splitlines()
    )
    return [words for line in lines if (words := shlex.split(line, comments=True))]


@pytest.mark.skipif(not READMES, reason="there is no README yet")
@pytest.mark.parametrize("path", READMES, ids=lambda path: path.name)
class TestReadme:
    """Commands that the README gives are commands that there are."""

    def test_targets_of_make(self, path):
        asked = {words[1] for words in commands(path) if words[0] == "make"}
        asked |= set(re.findall(r"`make (\w+)`", path.read_text(encoding="utf-8")))
        assert asked
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        assert asked <= set(re.findall(r"^([\w-]+):", makefile, flags=re.MULTILINE))

    def test_commands(self, path, tmp_path):
        """Commands and configurations exist, their words are understood, and every override is known."""
        checked = set()
        for words in commands(path):
            for word in words:
                assert not word.startswith("configs/") or (ROOT / word).is_file(), word
            start = next((place for place, word in enumerate(words) if word in ("seqloom", "train.py")), None)
            if start is None:
                continue
            name, *rest = ["train", *words[start + 1 :]] if words[start] == "train.py" else words[start + 1 :]
            rest = rest[: rest.index("<")] if "<" in rest else rest
            call = parse(COMMANDS[name], rest)
            if call.settings is Settings:
                configs = [word for word in rest if word.startswith("configs/")] or ["configs/scan-rnn.yaml"]
                load_settings(ROOT / configs[0], call.overrides)
            elif call.settings is ScoringSettings:
                load_scoring_settings(tmp_path, call.overrides)
            checked.add(name)
        assert checked >= {"train", "evaluate", "compare", "attend", "push"}

    def test_links(self, path):
        for link in re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8")):
            assert (ROOT / link).exists(), link

    def test_code(self, path):
        blocks = re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        for block in blocks:
            for module, _, names in imports(block):
                imported = importlib.import_module(module)
                assert all(hasattr(imported, name) for name in names)
