"""Runs that are killed and go on, compared bit for bit; runs that are refused."""

import random
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState

from helpers.runs import (
    Killed,
    read_log,
    run,
    same,
)
from seqloom.training import checkpoints, loop


def kill_and_resume(monkeypatch, folder: Path, pairs: dict, number: int, family: str = "transformer", /, **changes):
    """A run that dies in its update `number`, then another process's worth of it."""
    calls, original = [], loop.make_update

    def dies(*words):
        calls.append(words)
        if len(calls) == number:
            raise Killed
        return original(*words)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "make_update", dies)
        with pytest.raises(Killed):
            run(folder, pairs, family, **changes)
    AcceleratorState._reset_state(reset_partial_state=True)
    random.seed(5)
    torch.manual_seed(5)
    return run(folder, pairs, family, resume=True, **changes)


def assert_same_run(one: Path, other: Path) -> None:
    """Logs, last checkpoint's weights, kept weights and final model are the same, bit for bit."""
    assert read_log(one) == read_log(other)
    files = [sorted(path.relative_to(folder) for path in folder.rglob("*.safetensors")) for folder in (one, other)]
    assert files[0] == files[1]
    assert len(files[0]) >= 3
    for name in files[0]:
        assert same(checkpoints.load_file(one / name), checkpoints.load_file(other / name)), name


def refused(folder: Path, pairs: dict, message: str, **changes) -> None:
    with pytest.raises(ValueError, match=message):
        run(folder, pairs, **changes)
    assert not (folder / "run").exists()
