"""How long tests wait for what must come: for events, never for a time. Only what hangs takes this long."""

import subprocess
import time
from pathlib import Path

HANGS = 1800
"""Seconds after which no machine is merely slow."""


def wait_for_lines(folder: Path, process: subprocess.Popen, lines: int) -> None:
    """Until the log has so many, or the process is gone."""
    path = folder / "run" / "training_log.jsonl"
    while process.poll() is None and not (path.exists() and len(path.read_text().splitlines()) >= lines):
        time.sleep(0.02)
