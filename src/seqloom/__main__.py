"""The command ``seqloom``: ``seqloom train CONFIG``, ``seqloom evaluate MODEL``, ``seqloom push FOLDER NAME``, …"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from seqloom.commands.attend import Attend
from seqloom.commands.command import Command
from seqloom.commands.compare import Compare
from seqloom.commands.demo import Demo
from seqloom.commands.demo_page import DemoPage
from seqloom.commands.distill import Distill
from seqloom.commands.doctor import Doctor
from seqloom.commands.export import Export
from seqloom.commands.help import overview
from seqloom.commands.plot import Plot
from seqloom.commands.push import Push
from seqloom.commands.recipes import Recipes
from seqloom.commands.reproduce import Reproduce
from seqloom.commands.score import Evaluate
from seqloom.commands.serve import Serve
from seqloom.commands.shell import run, say
from seqloom.commands.train import Train
from seqloom.commands.translate import Translate
from seqloom.support.wording import listing, nearest

COMMANDS: dict[str, type[Command]] = {
    command.name: command
    for command in (
        Train,
        Recipes,
        Reproduce,
        Distill,
        Evaluate,
        Translate,
        Compare,
        Attend,
        Plot,
        Export,
        Serve,
        DemoPage,
        Push,
        Demo,
        Doctor,
    )
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command that the first word names; returns its exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv[:1] in ([], ["-h"], ["--help"]):
        say(overview(COMMANDS.values()))
        return 0 if argv else 2
    name, *rest = argv
    if name not in COMMANDS:
        near = nearest(name, COMMANDS)
        told = f"did you mean {near}?" if near else f"there are {listing(COMMANDS)}."
        print(f"error: {name!r} is no command of seqloom's; {told}", file=sys.stderr)
        return 2
    return run(COMMANDS[name], rest)


if __name__ == "__main__":
    sys.exit(main())
