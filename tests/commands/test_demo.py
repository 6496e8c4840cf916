"""The demo goes on where it was stopped."""

import os
import re
import shlex
import signal

import pytest
from helpers.runs import configure, write_pairs

from seqloom.__main__ import COMMANDS, main
from seqloom.commands import demo
from seqloom.commands.command import parse
from seqloom.commands.following import program
from seqloom.training import loop


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_accelerator")
def test_goes_on(tmp_path, monkeypatch, capsys):
    """Ctrl-C within the second training; then the first is kept, the second goes on; and a third time both are."""
    pairs = {name: write_pairs(tmp_path, name, 40) for name in ("few", "validation", "test")}
    metrics = {"evaluation": {"metrics": ["exact_match", "token_accuracy"]}}
    configs = {family: configure(tmp_path / family, pairs, family, **metrics) for family in ("rnn", "transformer")}
    monkeypatch.setattr(demo, "FAMILIES", {"RNN": configs["rnn"], "Transformer": configs["transformer"]})
    monkeypatch.setattr(demo, "INPUTS", ("abc",))
    original, made = loop.make_update, []

    def make_update(run, position):
        made.append(run.progress.step)
        if len(made) == 8:
            os.kill(os.getpid(), signal.SIGINT)
        return original(run, position)

    monkeypatch.setattr(loop, "make_update", make_update)
    assert main(["demo"]) == 128 + signal.SIGINT
    assert capsys.readouterr().out.endswith("stopped with a checkpoint; the same command goes on from it.\n")
    assert made == [0, 1, 2, 3, 4, 5, 0, 1]
    assert main(["demo"]) == 0
    assert made[8:] == [2, 3, 4, 5]
    said = capsys.readouterr().out
    assert said.count("it is trained already") == 1
    assert re.search(r"updates +6 +6\n", said)
    assert main(["demo"]) == 0
    assert len(made) == 12
    said = capsys.readouterr()
    assert said.out.count("it is trained already") == 2
    _, _, following = said.err.rpartition("next: ")
    lines = [line.strip().removeprefix(program()) for line in following.splitlines()]
    calls = [parse(COMMANDS[name], words) for name, *words in map(shlex.split, lines)]
    assert [call.name for call in calls] == ["attend", "compare", "recipes"]
