"""The shell of all commands: words of the command line → one call → an exit status, or one sentence of error."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from seqloom.commands.command import Command, fields_of, is_needed, parse
from seqloom.commands.help import describe, known_keys, summary
from seqloom.commands.sentences import sentence, tell_launcher
from seqloom.support.starting import garbage_left
from seqloom.support.wording import nearest, unknown


def run(command: type[Command], argv: Sequence[str] | None = None) -> int:
    """Reads the words, does the work and says what went wrong; returns the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    alone, _ = fields_of(command)
    closed = open_streams()
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # what its encoding lacks ends no command
    is_main = not command.is_parallel or int(os.environ.get("RANK", "0")) == 0
    try:
        is_needy = command.settings is not None or any(is_needed(f) for f, _ in alone.values())
        if asks_for_help(argv) or (not argv and is_needy):
            say(describe(command) if argv else summary(command))
            return 0 if argv else 2
        if lacking := [name for name in command.streams if name in closed]:
            raise ValueError(f"{' and '.join(lacking)} cannot be used: closed by whoever started this; leave it open.")
        call = parse(command, argv)
        check_keys(command, call.overrides)
        call.check()
        if command.needs_models:
            load_libraries()
        status = call.run() or 0
        sys.stdout.flush()  # a full disk shows now
        return status
    except KeyboardInterrupt:
        if is_main:
            print(command.interrupted, file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:
        if is_main:
            print(f"whatever read the output has left: {command.interrupted}", file=sys.stderr)
        return 128 + getattr(signal, "SIGPIPE", 13)
    except Exception as error:
        text = sentence(error)
        if text is None:
            raise
        is_own = getattr(error, "is_own", False) and not is_main
        process = f"process {os.environ['RANK']}: " if is_own else ""
        said = f"error: {process}{text}"
        if is_main or is_own:
            print(said, file=sys.stderr)
        tell_launcher(said)  # each, for a launcher repeats what the first to end has left it
        return 1
    finally:
        drop_unwritable()


def load_libraries() -> None:
    """Imports the models and what they stand on, which registers the families."""
    is_loaded = "seqloom.modeling" in sys.modules
    with garbage_left():
        from seqloom.support.console import quieten_libraries
    if not is_loaded:
        gc.freeze()  # the libraries stay as long as the process: nobody need look through them again
    quieten_libraries()


def check_keys(command: type[Command], overrides: Sequence[str]) -> None:
    """Refuses a word that looks like a misspelt option or key; whatever else is no key, the settings refuse."""
    known = {f"--{name}" for name in (*fields_of(command)[1], *known_keys(command))}
    for word in overrides:
        name = word.partition("=")[0]
        if name.startswith("--") and "." not in name and name not in known and nearest(name, known):
            raise ValueError(unknown(name, known))


def asks_for_help(argv: Sequence[str]) -> bool:
    """Whether help is wanted, wherever among the words it is asked for."""
    return "--help" in argv or "-h" in argv


def open_streams() -> list[str]:
    """Puts the null device where whoever started this has closed a stream (``<&-``): else the next file that is opened
    would have its number, and what is printed would land in it. Gives back which."""
    closed = [name for name in ("stdin", "stdout", "stderr") if getattr(sys, name) is None]
    for name in closed:  # each gets the lowest number that is free: its own
        setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w", encoding="utf-8"))  # noqa: SIM115
    return closed


def drop_unwritable() -> None:
    """Drops what standard output does not take: Python would complain of it once more when it ends."""
    try:
        sys.stdout.flush()
    except OSError:
        leave_output()


def leave_output() -> None:
    """From now on, what is printed goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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
        leave_output()
