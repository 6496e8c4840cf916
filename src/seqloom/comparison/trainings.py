"""Models trained for a comparison, by ``seqloom train`` in processes of their own: so none disturbs another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from seqloom import run_folder
from seqloom.settings.schema import Settings
from seqloom.support.console import has_terminal
from seqloom.support.disk import text, write_aside
from seqloom.support.language import say
from seqloom.support.locks import Lock
from seqloom.support.machine import PARENT

STOPPING = 60.0
"""Seconds that a training may take to save a checkpoint and end."""
BUSY = 0.9
"""Share of a core that a training of one thread has on a quiet machine, at least."""
WATCHED = ".watched.json"
"""Ending of the file beside a training's folder that says what it took of the processor."""


def train_all(runs: Sequence[Settings], num_jobs: int = 1) -> None:
    """Trains what is not trained yet. A run that was killed goes on from its last checkpoint.

    Args:
        runs: Their settings; each has an ``output_dir`` of its own.
        num_jobs: Runs side by side. One is shown as it goes, with its time to be trusted; several take a thread each
            and write to ``OUTPUT_DIR.log``.

    Raises:
        ValueError: A training failed; the message is its own.
    """
    waiting = [settings for settings in runs if not run_folder.is_finished(Path(settings.output_dir))]
    if num_jobs == 1:
        for number, settings in enumerate(waiting, start=1):
            print(f"\ntraining {number} of {len(waiting)}: {settings.output_dir}", flush=True)
            _train(settings, logged=False)
        return
    bar = tqdm(total=len(waiting), desc="trainings", unit=" runs", dynamic_ncols=True, disable=not has_terminal())
    with bar, ThreadPoolExecutor(num_jobs) as pool:
        jobs = [pool.submit(_train, settings, logged=True) for settings in waiting]
        try:
            for job in as_completed(jobs):
                job.result()
                bar.update()
        finally:
            for job in jobs:  # after an error: those that run come to their end, the others are not begun
                job.cancel()


def _train(settings: Settings, *, logged: bool) -> None:
    folder = Path(settings.output_dir)
    folder.parent.mkdir(parents=True, exist_ok=True)
    config = folder.with_name(f"{folder.name}.yaml")
    write_aside(config, settings.save)
    Lock(folder / run_folder.LOCK).wait(STOPPING)  # for what a killed comparison has left to save its state
    command = [sys.executable, "-m", "seqloom", "train", str(config), "--resume", "auto"]
    watch = folder.with_name(f"{folder.name}{WATCHED}")
    earlier = run_folder.read_object(watch) if watch.is_file() else {"cpu_seconds": 0.0, "seconds": 0.0}
    # If this process is killed, the training stops with a checkpoint: left alone, it would write into a folder that the
    # resumed comparison trains in too.
    environment = {**os.environ, PARENT: str(os.getpid())}
    threads = 1 if logged else settings.training.num_threads
    if threads:  # told it from the start, torch's libraries make no pool that is too large
        environment["OMP_NUM_THREADS"] = str(threads)
    log = folder.with_name(f"{folder.name}.log")
    with log.open("w", encoding="utf-8") if logged else nullcontext() as file:
        told = {"stdout": file, "stderr": subprocess.STDOUT} if logged else {}
        status, used = _run_watched(command, env=environment, **told)
    if used is not None and threads:
        spent = {name: earlier[name] + used[name] for name in used}
        write_aside(watch, text(json.dumps({**spent, "threads": threads})))
    if status and not logged:
        raise ValueError(f"the training of {folder} ended with status {status}; its last words are above.")
    if status:
        words = log.read_text(encoding="utf-8").splitlines() or ["no word"]
        raise ValueError(f"the training of {folder} ended with status {status}: {words[-1]} (all of it: {log})")


def _run_watched(command: Sequence[str], **options: Any) -> tuple[int, dict[str, float] | None]:
    """The status that a process ends with, and the seconds of the processors and of the clock that it took; None where
    the system does not tell."""
    started = time.perf_counter()
    process = subprocess.Popen(command, **options)
    if not hasattr(os, "wait4"):
        return process.wait(), None
    try:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)  # which Popen cannot learn any more
    finally:
        if process.returncode is None:  # interrupted
            process.kill()
            process.wait()
    taken = {"cpu_seconds": usage.ru_utime + usage.ru_stime, "seconds": time.perf_counter() - started}
    return process.returncode, taken


def disturbed(shares: Mapping[str, Sequence[float]]) -> list[str]:
    """A sentence, if the machine had other work while models were trained, by the `watched_share` of their runs."""
    poor = [f"{name} {min(of_runs):.0%}" for name, of_runs in shares.items() if of_runs and min(of_runs) < BUSY]
    if not poor:
        return []
    return [
        say(
            "The machine had other work to do while models were trained, and their seconds are too long: of "
            "its thread's time {poor} had only that share. Take seconds of training with caution, or train "
            "again.",
            poor=", ".join(poor),
        )
    ]


def watched_share(folder: Path) -> float | None:
    """How much of its time a comparison's training with one thread was at work: less than 1, if others took the core.

    None where it was not watched. Of several threads it is not told: they wait for each other.
    """
    watch = folder.with_name(f"{folder.name}{WATCHED}")
    if not watch.is_file():
        return None
    found = run_folder.read_object(watch)
    if found["threads"] != 1:
        return None
    return found["cpu_seconds"] / max(found["seconds"], 1e-9)
