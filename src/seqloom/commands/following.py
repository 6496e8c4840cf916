"""What one does next: the end of what a command says to a person, as lines that can be typed as they stand.

They go to standard error, so whoever reads a command's output as data never meets them, and the first process alone
says them.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seqloom import run_folder

MOST = 3
"""Lines."""
LONGEST_EXAMPLE = 120
"""Characters of a sentence in a line."""


def tell_next(*lines: str | None) -> None:
    """Says the first lines of those that there are.

    Args:
        lines: Each begins with ``seqloom``, or has it behind a bar; it becomes what starts seqloom here.
    """
    if int(os.environ.get("RANK", "0")) != 0:
        return
    told = [line.replace("seqloom ", f"{program()} ", 1) for line in lines if line is not None][:MOST]
    for number, line in enumerate(told):
        print(f"{'      ' if number else 'next: '}{line}", file=sys.stderr)


def program() -> str:
    """What starts this seqloom in the shell: its name where that is found, else by the Python that runs it."""
    return "seqloom" if _is_found("seqloom") else f"{python()} -m seqloom"


def python() -> str:
    """What starts this Python in the shell."""
    own, here = Path(sys.executable), Path.cwd()
    if _is_found(own.name):
        return own.name
    return shlex.quote(str(own.relative_to(here) if own.is_relative_to(here) else own))


def _is_found(name: str) -> bool:
    """Whether the shell finds the program of this name that lies beside this Python."""
    found = shutil.which(name)
    return found is not None and Path(found).parent == Path(sys.executable).parent


def typed(*words: object) -> str:
    """A command of seqloom's as one types it."""
    return shlex.join(["seqloom", *map(str, words)])


def without(words: Sequence[str], *options: str) -> list[str]:
    """Words of a command line but for some options and their values."""
    kept: list[str] = []
    is_left_out = False
    for word in words:
        is_left_out = word.partition("=")[0] in options if word.startswith("--") else is_left_out
        if not is_left_out:
            kept.append(word)
    return kept


def example_of(folder: Path | str) -> str | None:
    """A source that a run was scored on, if it has one that can stand in a line."""
    path = Path(folder) / run_folder.RECORD
    example = run_folder.read_object(path).get("example") if path.is_file() else None
    if not isinstance(example, str) or not 0 < len(example) <= LONGEST_EXAMPLE:
        return None
    return example if example.isprintable() and "\\" not in example and not example.startswith("-") else None


def translating(model: Path | str, *words: object, example: str | None) -> str:
    """The line that translates a sentence; where there is none, what is typed."""
    line = typed("translate", model, *words)
    return line if example is None else f"echo {shlex.quote(example)} | {line}"


def attending(model: Path | str, example: str | None, attends: bool) -> str | None:
    """The line that shows what a model looks at; None where it has no attention, or the page is there already."""
    page = Path(f"{Path(model).resolve().name}-attention.html")
    if example is None or not attends or page.exists():
        return None
    return typed("attend", model, example, "--html", page)


def opening(page: Path | str) -> str:
    """The line that shows a page."""
    return f"{python()} -m webbrowser {shlex.quote(str(page))}"


def after_training(folder: Path, record: dict[str, Any], is_pushed: bool = False) -> list[str | None]:
    """Lines for a run that is finished."""
    from transformers import AutoConfig

    config: Any = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    example = example_of(folder)
    scored = record.get("evaluation") is not None
    return [
        None if scored else typed("evaluate", folder, "--split", "validation"),
        translating(folder, example=example),
        attending(folder, example, getattr(config, "has_cross_attention", False)),
        None if is_pushed else typed("push", "--help"),
    ]
