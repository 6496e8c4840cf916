"""Nothing lost in a hundred kills at random moments."""

import json
import random
import signal
import time
from pathlib import Path

import pytest
from helpers.runs import (
    SMALL,
    configure,
)
from helpers.unbroken import assert_same_run

pytestmark = pytest.mark.usefixtures("fresh_accelerator")


ROOT = Path(__file__).parents[2]


@pytest.mark.faults
def test_a_hundred_kills(tmp_path, data, train, capsys):
    """SIGKILL at random moments, half of them in the middle of a write, a renaming or a deletion, until all is over."""
    started, dice = time.perf_counter(), random.Random(0)
    tried = survived = losses = tokens = runs = 0
    places = {}
    while tried < 100:
        family = ("rnn", "transformer")[runs % 2]
        options = {"max_steps": 120, "eval_steps": 20, "save_steps": 3, "logging_steps": 1 + runs % 4, "seed": runs,
                   "average_checkpoints": 3 * (runs // 2 % 2), "save_total_limit": 1 + runs % 3}  # fmt: skip
        changes = {"model": {**SMALL[family], "dropout": 0.3}, "training": options,
                   "data": {"streaming": True, "shuffle_buffer": 25} if runs % 3 == 1 else {}}  # fmt: skip
        whole, killed = (tmp_path / f"{name}-{runs}" for name in ("whole", "killed"))
        status, output = train(configure(whole, data, family, **changes))
        assert status == 0, output
        config, status, kills = configure(killed, data, family, **changes), None, 0
        begun = time.perf_counter()
        while status != 0:
            if kills == 25:
                order = {}
            elif dice.random() < 0.6:
                order = {"event": dice.randint(1, 150)}
            else:
                order = {"after": dice.uniform(0.05, 3)}
            status, output = train(config, "--resume", "auto", **order)
            assert status in (0, -signal.SIGKILL), output
            if status:
                kills += 1
                place = output.rsplit("dies in ", 1)[1].split("(")[0] if "event" in order else "at a random moment"
                places[place] = places.get(place, 0) + 1
        losses += assert_same_run(killed, whole)
        tokens += json.loads((killed / "run" / "record.json").read_text())["progress"]["target_tokens"]
        tried, survived, runs = tried + kills, survived + kills, runs + 1
        with capsys.disabled():
            print(f"\n{family}, run {runs}: {kills} kills, {time.perf_counter() - begun:.0f} s", flush=True)
    with capsys.disabled():
        print(
            f"kills survived {survived} of {tried} in {runs} runs; {losses} losses and {tokens} target tokens equal to "
            f"those of unbroken runs; {time.perf_counter() - started:.0f} s\n{places}"
        )
