"""The machine at hand: its hardware and versions, cores, threads and memory."""

from __future__ import annotations

import ctypes.util
import math
import os
import platform
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from seqloom.support.language import say
from seqloom.support.wording import plural

PARENT = "SEQLOOM_PARENT"
"""Environment variable: the number of the process that a training ends with."""


def environment(num_processes: int = 1) -> dict[str, Any]:
    """Hardware and versions, for records and cards."""
    packages = ("torch", "transformers", "accelerate", "datasets", "evaluate", "tokenizers", "sacrebleu", "seqloom")
    if torch.cuda.is_available():
        hardware = f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    else:
        threads = torch.get_num_threads()
        hardware = f"{threads} thread{'' if threads == 1 else 's'} of {cpu_name()}"
    return {
        "hardware": hardware,
        "processes": num_processes,
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }


def hardware_in_words(hardware: str) -> str:
    """What `environment` calls the hardware, in the language that is spoken."""
    found = re.fullmatch(r"(\d+) threads? of (.*)", hardware)
    if found is None:
        return hardware
    return say("{threads} of {machine}", threads=plural(int(found[1]), "thread"), machine=found[2])


def cpu_name() -> str:
    """As the system calls the processor."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def keep_freed_memory() -> None:
    """Tells glibc to keep large freed blocks: it would return every activation to the kernel and ask for it again."""
    if sys.platform == "linux" and not torch.accelerator.is_available() and ctypes.util.find_library("c"):
        libc = ctypes.CDLL(ctypes.util.find_library("c"))
        if hasattr(libc, "mallopt"):
            mmap_threshold, trim_threshold, largest = -3, -1, 2**31 - 1  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
            libc.mallopt(mmap_threshold, largest)
            libc.mallopt(trim_threshold, largest)


def end_with_parent(parent: int | None = None) -> None:
    """Asks Linux to send this process SIGTERM when the one that started it ends.

    Args:
        parent: The starter's number. If that is gone already, this process ends at once.
    """
    if sys.platform != "linux":
        return
    parent_death_signal = 1  # PR_SET_PDEATHSIG
    ctypes.CDLL(None).prctl(parent_death_signal, int(signal.SIGTERM))
    if parent is not None and os.getppid() != parent:
        sys.exit(1)


def peak_memory(device: torch.device) -> float:
    """MiB that the process held at most: on an accelerator the tensors there, else its resident set.

    NaN where the system does not tell (Windows).
    """
    counter = getattr(torch.get_device_module(device), "max_memory_allocated", None)
    if counter is not None:
        return counter(device) / 2**20
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count what the process that started this one held
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 2**10  # KiB
    if sys.platform == "win32":
        return math.nan
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)  # macOS counts bytes, others KiB


def total_memory() -> int | None:
    """Bytes of the machine's memory; None where the system does not tell (Windows)."""
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def default_device() -> torch.device:
    """The machine's accelerator, if it has one that works: a torch built for GPUs names one where there is none."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return accelerator or torch.device("cpu")


def synchronise(device: torch.device) -> None:
    """Waits for the accelerator, which works on after its calls have returned."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


@contextmanager
def cpu_threads(number: int) -> Iterator[None]:
    """So many threads for torch, and afterwards as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def device_name(device: torch.device) -> str:
    """``CPU``, or what the accelerator is called."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return "CPU" if device.type == "cpu" else device.type
