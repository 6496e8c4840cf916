"""Two processes learn what one learns."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.patience import HANGS
from helpers.runs import (
    SMALL,
    configure,
    read_log,
    run,
    weights,
)

pytestmark = pytest.mark.usefixtures("fresh_accelerator")


ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_two_processes_learn_the_same_with_every_option(tmp_path, data):
    """All options together; frozen parameters need nothing of DistributedDataParallel."""
    changes = {
        "data": {"mix": [{"train_files": data["train"], "train_split": "train[:50]", "weight": 0.5}]},
        "tokenizer": {"kind": "byte_bpe", "vocab_size": 290, "bpe_dropout": 0.3},
        "training": {"ema_decay": 0.7, "freeze": ["model.encoder.layers.*"], "average_checkpoints": 2, "max_steps": 12,
                     "average_kind": "best", "batch_tokens": 150, "eval_steps": 3},
    }  # fmt: skip
    config = configure(tmp_path / "two", data, **changes)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(ROOT / "train.py"), config]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *launch], capture_output=True, text=True, env=environment, check=False, timeout=HANGS
    )
    assert done.returncode == 0, done.stderr
    alone = run(tmp_path / "one", data, **changes)
    together = json.loads((tmp_path / "two" / "run" / "record.json").read_text())
    one, two = (read_log(tmp_path / count) for count in ("one", "two"))
    assert len(one) == len(two) > 12
    for ours, theirs in zip(one, two, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-5)
    assert together["environment"]["processes"] == 2
    assert alone["model"] == together["model"]
    assert alone["data"] == together["data"]
    for name, tensor in weights(tmp_path / "one" / "run").items():
        if "k_proj.bias" in name:  # softmax ignores it, so Adam blows up what rounding leaves of its gradient
            continue
        torch.testing.assert_close(weights(tmp_path / "two" / "run")[name], tensor, rtol=1e-4, atol=1e-5)


# As train.py, for one configuration after the other; the processes' group cannot be left and joined again.
RUNS = """
import sys
from accelerate import Accelerator
from seqloom.commands.train import main

*others, last = sys.argv[1:]
end_training = Accelerator.end_training
Accelerator.end_training = lambda accelerator: None
for config in others:
    if status := main([config]):
        sys.exit(status)
Accelerator.end_training = end_training
sys.exit(main([last]))
"""


@pytest.mark.long
def test_two_processes_learn_the_same(tmp_path, data):
    """Losses, norms, validations with decoding, the mean's validation and the final scores; and they end."""
    changes = {
        "tokenizer": {"shared": False},
        "training": {"eval_metric": "cer", "average_checkpoints": 2, "eval_samples": 23, "learning_rate": 0.1,
                     "gradient_accumulation_steps": 2, "max_steps": 12, "eval_steps": 6},
        "evaluation": {"metrics": ["cer"]},
    }  # fmt: skip
    (tmp_path / "runs.py").write_text(RUNS)
    configs = [configure(tmp_path / f"two-{name}", data, name, **changes) for name in SMALL]
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(tmp_path / "runs.py")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *launch, *configs], capture_output=True, text=True, env=environment, check=False, timeout=HANGS
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("plan: ") == len(SMALL)  # the second process says nothing
    for name in SMALL:
        alone = run(tmp_path / f"one-{name}", data, name, **changes)
        one, two = (read_log(tmp_path / f"{count}-{name}") for count in ("one", "two"))
        assert [line.keys() for line in one] == [line.keys() for line in two]
        for ours, theirs in zip(one, two, strict=True):
            assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-5)
        together = json.loads((tmp_path / f"two-{name}" / "run" / "record.json").read_text())
        assert (alone["environment"]["processes"], together["environment"]["processes"]) == (1, 2)
        assert together["evaluation"]["metrics"] == alone["evaluation"]["metrics"]
        predictions = [tmp_path / f"{count}-{name}/run/evaluation/test/predictions.jsonl" for count in ("one", "two")]
        assert predictions[0].read_text() == predictions[1].read_text()
        assert any(json.loads(line)["hypothesis"] for line in predictions[0].read_text().splitlines())
