"""Runs of the real command in processes of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.patience import HANGS
from helpers.unbroken import SERVER

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    """``train(*words, **where_to_die)`` is train.py in a process of its own: its status and what it printed."""
    output = tmp_path_factory.mktemp("server") / "output"
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip

    def _train(*words: str, **order) -> tuple[int, str]:
        server.stdin.write(json.dumps({"words": words, "output": str(output), **order}) + "\n")
        server.stdin.flush()
        return int(server.stdout.readline()), output.read_text(errors="replace")

    yield _train
    server.stdin.close()
    server.wait(timeout=HANGS)
