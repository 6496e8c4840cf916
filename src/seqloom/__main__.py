"""The command ``seqloom``: ``seqloom train CONFIG``, ``seqloom evaluate MODEL``, ``seqloom push FOLDER NAME``, …"""

import importlib
import sys
from collections.abc import Sequence

COMMANDS = {
    "train": ("train", "trains a model, as train.py does"),
    "evaluate": ("score", "scores a model, as evaluate.py does"),
    "translate": ("translate", "translates lines of text"),
    "compare": ("compare", "compares models: RNN or Transformer?"),
    "attend": ("attend", "draws what a model looks at while it writes"),
    "plot": ("plot", "draws the curves of runs"),
    "push": ("push", "shares a finished run on the Hub"),
}
"""Command: its module in seqloom.commands, and what it does."""


def main(argv: Sequence[str] | None = None) -> int:
    """Calls the command's own ``main``; returns its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] in ([], ["-h"], ["--help"]):
        print("usage: seqloom COMMAND ...", "", sep="\n")
        for name, (_, about) in COMMANDS.items():
            print(f"  {name:<10} {about}")
        return 0 if words else 2
    if words[0] not in COMMANDS:
        print(f"error: {words[0]!r} is no command of seqloom's; there are {', '.join(COMMANDS)}.", file=sys.stderr)
        return 2
    module, _ = COMMANDS[words[0]]
    return importlib.import_module(f"seqloom.commands.{module}").main(words[1:])


if __name__ == "__main__":
    sys.exit(main())
