"""What a test must be marked ``slow`` for: child processes and trainings fail in all others: no mark is forgotten.

A fixture of a module or class counts for the test that asks for it first.
"""

import functools
import os
import subprocess

import pytest

from seqloom.training import run

is_slow = True
"""Whether the test that runs may take its time."""


def enter(item: pytest.Item) -> None:
    global is_slow  # noqa: PLW0603
    is_slow = any(item.get_closest_marker(name) for name in ("slow", "long", "faults"))


def leave() -> None:
    global is_slow  # noqa: PLW0603
    is_slow = True


def refuse(deed: str) -> None:
    """Fails a test that is not marked."""
    if not is_slow:
        pytest.fail(f"this test {deed}: mark it with @pytest.mark.slow")


def reserve(owner: object, name: str, deed: str) -> None:
    """Lets slow tests alone call ``owner.name``."""
    original = getattr(owner, name)

    @functools.wraps(original)
    def reserved(*args, **kwargs):
        if ["/sbin/ldconfig", "-p"] not in args:  # ctypes.util.find_library, a few milliseconds
            refuse(deed)
        return original(*args, **kwargs)

    setattr(owner, name, reserved)


def reserve_all() -> None:
    """Everything that takes time."""
    reserve(subprocess.Popen, "__init__", "starts a child process")
    reserve(os, "fork", "forks")
    reserve(run, "train", "trains a model")
