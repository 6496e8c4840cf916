"""The shell of all commands: words of the command line → one call → an exit status, or one sentence of error."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from seqloom.commands.command import Command, fields_of, parse
from seqloom.commands.help import describe, known_keys, summary
from seqloom.support.wording import nearest, unknown


def run(command: type[Command], argv: Sequence[str] | None = None) -> int:
    """Reads the words, does the work and says what went wrong; returns the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    alone, _ = fields_of(command)
    if asks_for_help(argv) or (alone and not argv):
        say(describe(command) if argv else summary(command))
        return 0 if argv else 2
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # what its encoding lacks ends no command
    is_main = not command.is_parallel or int(os.environ.get("RANK", "0")) == 0
    try:
        call = parse(command, argv)
        check_keys(command, call.overrides)
        import seqloom.modeling  # noqa: F401  registers the families
        from seqloom.support.console import quieten_libraries

        quieten_libraries()
        return call.run() or 0
    except KeyboardInterrupt:
        if is_main:
            print(command.interrupted, file=sys.stderr)
        return 128 + signal.SIGINT
    except sentences() as error:
        if is_main or getattr(error, "is_own", False):
            process = "" if is_main else f"process {os.environ['RANK']}: "
            print(f"error: {process}{' '.join(str(error).split())}", file=sys.stderr)
        return 1


def sentences() -> tuple[type[Exception], ...]:
    """The errors that are one sentence for whoever typed the command; any other is a mistake of ours."""
    from huggingface_hub.errors import StrictDataclassError

    return ValueError, OSError, StrictDataclassError


def check_keys(command: type[Command], overrides: Sequence[str]) -> None:
    """Refuses a word that looks like a misspelt option; the settings refuse what is no key of theirs."""
    own = {f"--{name}" for name in fields_of(command)[1]}
    known = own | {f"--{key}" for key in known_keys(command)}
    for word in overrides:
        name = word.partition("=")[0]
        if name.startswith("--") and "." not in name and name not in known and nearest(name, known) in own:
            raise ValueError(unknown(name, known))


def asks_for_help(argv: Sequence[str]) -> bool:
    """Whether help is wanted, wherever among the words it is asked for."""
    return "--help" in argv or "-h" in argv


def say(text: str) -> None:
    """Prints a text, as much of it as is wanted."""
    with reader_may_leave():
        print(text)


@contextmanager
def reader_may_leave() -> Iterator[None]:
    """Whoever reads what is printed, as ``head`` does, may have enough of it."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
