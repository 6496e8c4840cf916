"""What a command tells the person at the terminal: lines, bars, durations."""

from __future__ import annotations

import logging
import os
import sys

import datasets
from accelerate import Accelerator
from tqdm.auto import tqdm
from transformers.utils.logging import disable_progress_bar


def has_terminal() -> bool:
    """Whether a bar can be drawn: standard error is a terminal, or a notebook has a bar of its own."""
    is_notebook = any(base.__module__ == "tqdm.notebook" for base in tqdm.__mro__)
    # A terminal without columns (of a container, say) would show empty lines.
    return is_notebook or (sys.stderr.isatty() and os.get_terminal_size(sys.stderr.fileno()).columns > 0)


def duration(seconds: float) -> str:
    """``45 s``, ``23 min``, ``2 h 05 min`` or ``3 d 4 h``."""
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes:02} min"
    return f"{hours // 24} d {hours % 24} h"


def quieten_libraries() -> None:
    """For the commands: no bars for saving and loading across the run's own, no word of tied matrices at every save;
    no bars at all where there is no terminal."""
    disable_progress_bar()
    if not has_terminal():
        datasets.disable_progress_bars()
    logging.getLogger("accelerate.utils.other").setLevel(logging.ERROR)


def say(accelerator: Accelerator, text: str) -> None:
    """Prints a line once, above the progress bar."""
    if accelerator.is_main_process:
        tqdm.write(text, file=sys.stdout)
        sys.stdout.flush()
