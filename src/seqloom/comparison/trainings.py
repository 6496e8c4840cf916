"""Models trained for a comparison, by ``seqloom train`` in processes of their own: so none disturbs another."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from tqdm.auto import tqdm

from seqloom import run_folder
from seqloom.settings.schema import Settings
from seqloom.support.console import has_terminal
from seqloom.support.disk import write_aside
from seqloom.support.locks import Lock
from seqloom.support.machine import PARENT

STOPPING = 60.0
"""Seconds that a training may take to save a checkpoint and end."""


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
    # If this process is killed, the training stops with a checkpoint: left alone, it would write into a folder that the
    # resumed comparison trains in too.
    environment = {**os.environ, PARENT: str(os.getpid())}
    if not logged:
        done = subprocess.run(command, check=False, env=environment)
        if done.returncode:
            raise ValueError(f"the training of {folder} ended with status {done.returncode}; its last words are above.")
        return
    log = folder.with_name(f"{folder.name}.log")
    with log.open("w", encoding="utf-8") as file:
        # Told the number of threads from the start, torch's libraries make no pool that is too large.
        environment["OMP_NUM_THREADS"] = "1"
        done = subprocess.run(command, check=False, stdout=file, stderr=subprocess.STDOUT, env=environment)
    if done.returncode:
        words = log.read_text(encoding="utf-8").splitlines() or ["no word"]
        raise ValueError(
            f"the training of {folder} ended with status {done.returncode}: {words[-1]} (all of it: {log})"
        )
