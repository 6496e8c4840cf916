"""Models trained for a comparison: each as by ``train.py``, in a process of its own, so that none disturbs another."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from tqdm.auto import tqdm

from seqloom.commands.train import main as train_command
from seqloom.settings.schema import Settings
from seqloom.support.console import has_terminal


def is_finished(folder: Path) -> bool:
    """Whether the training in this output folder has come to its end."""
    return (folder / "record.json").is_file()


def train_all(runs: Sequence[Settings], num_jobs: int = 1) -> None:
    """Trains what is not trained yet. A run that was killed goes on from its last checkpoint.

    Args:
        runs: Their settings; each has an ``output_dir`` of its own.
        num_jobs: Runs side by side. One is shown as it goes, with its time to be trusted; several take a thread each
            and write to ``OUTPUT_DIR.log``.

    Raises:
        ValueError: A training failed; the message is its own.
    """
    waiting = [settings for settings in runs if not is_finished(Path(settings.output_dir))]
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
    settings.save(config)
    command = [sys.executable, "-m", "seqloom.comparison.trainings", str(os.getpid()), str(config)]
    if not logged:
        done = subprocess.run(command, check=False)
        if done.returncode:
            raise ValueError(f"the training of {folder} ended with status {done.returncode}; its last words are above.")
        return
    log = folder.with_name(f"{folder.name}.log")
    with log.open("w", encoding="utf-8") as file:
        # Told the number of threads from the start, torch's libraries make no pool that is too large.
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, check=False, stdout=file, stderr=subprocess.STDOUT, env=environment)
    if done.returncode:
        words = log.read_text(encoding="utf-8").splitlines() or ["no word"]
        raise ValueError(
            f"the training of {folder} ended with status {done.returncode}: {words[-1]} (all of it: {log})"
        )


def main(parent: int, config: str) -> int:
    """What the child process does: it trains, and stops with a checkpoint if the comparison is killed.

    Left alone, it would write into a folder that the resumed comparison trains in too.
    """
    if sys.platform == "linux":
        end_with_parent = 1  # PR_SET_PDEATHSIG
        ctypes.CDLL(None).prctl(end_with_parent, signal.SIGTERM)
        if os.getppid() != parent:  # it was gone before
            return 1
    return train_command([config, "--resume", "auto"])


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2]))
