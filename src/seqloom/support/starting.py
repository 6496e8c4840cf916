"""Imports that do not look for garbage.

What is made while a library is imported stays. Python looks through it for cycles again and again meanwhile, which is a
fifth of what importing torch and transformers takes.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def garbage_left() -> Iterator[None]:
    """Within it Python's cyclic garbage collection rests."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
