"""The site of docs/: its navs hold every page, and its reference every command. That it builds, with no link that leads
nowhere, `make docs` sees."""

import re
from pathlib import Path

import pytest
import yaml

from seqloom.__main__ import COMMANDS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
CONFIGS = {"en": ROOT / "mkdocs.yml", "ko": ROOT / "mkdocs.ko.yml"}


def pages(nav: list | dict | str) -> list[str]:
    """The pages of a nav, however deep its sections are."""
    if isinstance(nav, str):
        return [nav]
    return [page for entry in (nav.values() if isinstance(nav, dict) else nav) for page in pages(entry)]


@pytest.mark.parametrize("language", CONFIGS)
def test_nav(language):
    """Every page of a language stands in its nav, once."""
    shown = pages(yaml.safe_load(CONFIGS[language].read_text(encoding="utf-8"))["nav"])
    there = [path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")]
    assert sorted(shown) == sorted(page for page in there if page.endswith(".ko.md") == (language == "ko"))


def test_links():
    """No page leads out of docs/, where the site has nothing: there a file is named, not linked."""
    outside = [
        f"{path.name}: {link}"
        for path in DOCS.rglob("*.md")
        for link in re.findall(r"(?<!\\)\]\(([^)#:]+)[)#]", path.read_text(encoding="utf-8"))
        if not (path.parent / link).resolve().is_relative_to(DOCS) or not (path.parent / link).is_file()
    ]
    assert not outside


def test_commands():
    """The reference has each command, from the class that is run."""
    text = (DOCS / "reference" / "commands.md").read_text(encoding="utf-8")
    found = re.findall(r"^## seqloom (\S+)\n\n::: (\S+)$", text, flags=re.MULTILINE)
    assert dict(found) == {name: f"{command.__module__}.{command.__name__}" for name, command in COMMANDS.items()}
