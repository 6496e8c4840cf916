"""Blocks of code of a Markdown page, and the words of its commands."""

import re
import shlex
from pathlib import Path

SHELL = ("", "bash", "sh")
SHOWN = ("text", "cpp", "json", "csv", "html")
"""What is shown and not typed: outputs, files, a program of C++."""


def blocks(path: Path, *languages: str) -> list[str]:
    """Those in one of these languages, which stands behind the fence."""
    found = re.findall(r"^```(\w*)\n(.*?)^```", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    assert {language for language, _ in found} <= {*SHELL, *SHOWN, "python", "yaml"}
    return [block for language, block in found if language in languages]


def commands(path: Path) -> list[list[str]]:
    """The words of every command, continuation lines joined."""
    lines = "\n".join(blocks(path, *SHELL)).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]
