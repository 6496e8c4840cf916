"""Signals that end a run in good order: after the update it is in, with a checkpoint."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

import torch
from accelerate import Accelerator

from seqloom.support.machine import end_with_parent

SIGNALS = [number for name in ("SIGINT", "SIGTERM", "SIGUSR1") if (number := getattr(signal, name, None)) is not None]
"""Ctrl-C, a scheduler's end, and Slurm's warning before it (Windows has no SIGUSR1)."""


class Stopped(Exception):
    """A signal ended the training; its checkpoint is saved. ``signal`` is which."""

    def __init__(self, number: int, message: str):
        super().__init__(message)
        self.signal = signal.Signals(number)


class StopSignals:
    """While it is entered, the signals are noted rather than obeyed; a second Ctrl-C ends at once."""

    def __init__(self) -> None:
        self.number = 0
        """The first signal that came; 0: none."""
        self._came = 0.0
        self._is_launched = "LOCAL_RANK" in os.environ or any(name.startswith("ACCELERATE_") for name in os.environ)
        self._before: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():  # Python handles signals in no other
            if self._is_launched:
                # A launcher that a signal ends passes on none of them; its end shall be ours, in good order.
                end_with_parent()
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup and a shell's & want it
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None and self._is_launched:
            # A launcher ends those that are left, and one that ends sends a signal for each of its threads; what was
            # wrong, or how to go on, is still to be said.
            return
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _note(self, number: int, frame: object) -> None:
        # torchrun passes on a Ctrl-C that the terminal has sent to all processes already: those two are one.
        is_echo = "LOCAL_RANK" in os.environ and time.monotonic() - self._came < 1
        if number == signal.SIGINT and self.number == signal.SIGINT and not is_echo:
            raise KeyboardInterrupt
        if not self.number:
            self.number, self._came = number, time.monotonic()
            if os.environ.get("RANK", "0") == "0":
                again = "; Ctrl-C once more ends at once" if number == signal.SIGINT else ""
                # Not print, which may be what was interrupted.
                os.write(2, f"\n{signal.Signals(number).name}: stopping after this update{again}\n".encode())

    def agreed(self, accelerator: Accelerator) -> int:
        """The signal, once any process has one: all stop after the same update."""
        if accelerator.num_processes == 1:
            return self.number
        return int(accelerator.gather(torch.tensor([self.number], device=accelerator.device)).max())
