"""What computes is chosen when a run begins, recorded, and the same to the last bit when it is resumed."""

import json

import pytest
import torch
from helpers.runs import SMALL, read_log, read_losses, run, same, weights
from helpers.unbroken import without_clock

from seqloom.settings.schema import TrainingSettings
from seqloom.support import disk, layers
from seqloom.support.layers import NOTHING, PRODUCTS, has_onednn
from seqloom.training import loop
from seqloom.training.learner import short_of_warmup, slow_in_bfloat16

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("fresh_accelerator")]

WIDE = {**SMALL["transformer"], "d_model": 128, "dropout": 0.1}
"""Its layers are large enough to be measured, and its batches have rows enough."""
STEPS = {"batch_tokens": 1000, "max_steps": 6, "eval_steps": 3, "eval_metric": "exact_match"}
FOUND = {"linear": {"128x128": [*PRODUCTS], "64x128": ["forward"]}, "dropout": True}


def measuring(monkeypatch, found: dict) -> None:
    """Lets the next runs find this, whatever the machine."""
    monkeypatch.setattr(layers, "measure", lambda model, rows, **_: found)


def progress_of(folder) -> dict:
    return json.loads(sorted(folder.glob("run/checkpoints/step-*/progress.json"))[-1].read_text())


@pytest.mark.skipif(not has_onednn(torch.device("cpu")), reason="torch is built without oneDNN")
class TestFastLayers:
    def test_resumed_as_begun_whatever_is_measured_now(self, tmp_path, data, monkeypatch):
        measuring(monkeypatch, FOUND)
        unbroken = run(tmp_path / "unbroken", data, model=WIDE, training=STEPS)
        assert unbroken["fast_layers"] == FOUND == progress_of(tmp_path / "unbroken")["fast_layers"]
        run(tmp_path / "broken", data, model=WIDE, training={**STEPS, "max_steps": 3})
        measuring(monkeypatch, NOTHING)
        resumed = run(tmp_path / "broken", data, model=WIDE, training=STEPS, resume=True)
        assert resumed["fast_layers"] == FOUND
        assert without_clock(tmp_path / "broken") == without_clock(tmp_path / "unbroken")
        assert same(weights(tmp_path / "broken" / "run"), weights(tmp_path / "unbroken" / "run"))
        run(tmp_path / "plain", data, model=WIDE, training=STEPS)
        assert read_losses(tmp_path / "plain") != read_losses(tmp_path / "unbroken")

    def test_off_and_on_again(self, tmp_path, data, monkeypatch):
        measuring(monkeypatch, FOUND)
        plain = {**WIDE, "dropout": 0.0}
        record = run(tmp_path, data, model=plain, training={**STEPS, "max_steps": 3, "fast_layers": False})
        assert record["fast_layers"] is None
        record = run(tmp_path, data, model=plain, training=STEPS, resume=True)  # told to: measured now
        assert record["fast_layers"] == FOUND
        run(tmp_path / "fast", data, model=plain, training=STEPS)
        assert read_losses(tmp_path) == pytest.approx(read_losses(tmp_path / "fast"), rel=1e-5)

    def test_a_run_of_before_goes_on_as_torch_has_it(self, tmp_path, data, monkeypatch):
        run(tmp_path, data, model=WIDE, training={**STEPS, "max_steps": 3, "fast_layers": False})
        path = sorted(tmp_path.glob("run/checkpoints/step-*"))[-1]
        progress = json.loads((path / "progress.json").read_text())
        del progress["fast_layers"], progress["settings"]["fast_layers"]
        (path / "progress.json").write_text(json.dumps(progress))
        (path / disk.MANIFEST).unlink()
        disk.seal(path)  # as if it had been saved so
        measuring(monkeypatch, FOUND)
        record = run(tmp_path, data, model=WIDE, training=STEPS, resume=True)
        assert record["fast_layers"] is None

    def test_the_average_is_validated_and_saved(self, tmp_path, data, monkeypatch):
        """A copy of the model: of plain layers."""
        measuring(monkeypatch, FOUND)
        record = run(tmp_path, data, model=WIDE, training={**STEPS, "ema_decay": 0.5})
        assert record["fast_layers"] == FOUND


class TestChunkedLoss:
    @pytest.mark.parametrize("family", list(SMALL))
    def test_it_is_the_same_training(self, tmp_path, data, family):
        for name, options in (("all", {}), ("chunks", {"loss_chunk_tokens": 7})):
            training = {**options, "label_smoothing_factor": 0.1, "eval_metric": "exact_match"}
            run(tmp_path / name, data, family, training=training)
        logs = [[v for line in read_log(tmp_path / name) for v in line.values()] for name in ("all", "chunks")]
        assert logs[1] == pytest.approx(logs[0], rel=1e-4, abs=1e-6)

    def test_resumed_is_unbroken(self, tmp_path, data):
        training = {"loss_chunk_tokens": 7, "mixed_precision": "bf16"}
        run(tmp_path / "unbroken", data, training=training)
        run(tmp_path / "broken", data, training={**training, "max_steps": 3})
        run(tmp_path / "broken", data, training=training, resume=True)
        assert same(weights(tmp_path / "broken" / "run"), weights(tmp_path / "unbroken" / "run"))


class TestAttention:
    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            ({"mixed_precision": "bf16"}, "eager"),
            ({"mixed_precision": "bf16", "attn_implementation": "sdpa"}, "sdpa"),
            ({"mixed_precision": "no"}, "sdpa"),
        ],
    )
    @pytest.mark.skipif(torch.accelerator.is_available(), reason="a CPU's")
    def test_eager_in_bf16_on_a_cpu_unless_chosen(self, tmp_path, data, monkeypatch, capsys, options, expected):
        seen = []
        original = loop.make_update

        def spy(run, position):
            seen.append(run.model.config._attn_implementation)
            return original(run, position)

        monkeypatch.setattr(loop, "make_update", spy)
        run(tmp_path, data, training={**options, "max_steps": 1})
        assert seen == [expected]
        is_said = "attention: eager, which on a CPU in bf16 is faster than sdpa" in capsys.readouterr().out
        assert is_said == (options == {"mixed_precision": "bf16"})


@pytest.mark.parametrize(
    ("warmup", "max_steps", "is_short"),
    [(80, 60, True), (60, 60, True), (59, 60, False), (0, 1, False), (9, None, False)],
)
def test_a_warmup_that_is_longer_than_the_run(warmup, max_steps, is_short):
    said = short_of_warmup(TrainingSettings(warmup_steps=warmup, max_steps=max_steps or 1), max_steps)
    assert (said is not None) == is_short
    if said:
        assert said.startswith(f"training.warmup_steps is {warmup}, but the run ends after {max_steps} updates")
        assert "(--warmup_steps 6, say)" in said


@pytest.mark.parametrize(("gain", "expected"), [(1.7, None), (0.9, None), (0.5, "2 times"), (0.126, "7.9 times")])
def test_a_processor_that_is_slow_in_bfloat16(gain, expected):
    said = slow_in_bfloat16(gain)
    assert (said is None) == (expected is None)
    if said:
        assert f"multiplies {expected} slower than in float32" in said
        assert "--mixed_precision no" in said


@pytest.mark.skipif(torch.accelerator.is_available(), reason="a CPU's")
@pytest.mark.parametrize(("precision", "is_measured"), [("bf16", True), ("no", False)])
def test_a_run_in_bf16_says_so(tmp_path, data, monkeypatch, capsys, precision, is_measured):
    monkeypatch.setattr(layers, "gain_of_bfloat16", lambda: 0.1)
    run(tmp_path, data, training={"mixed_precision": precision, "max_steps": 1})
    told = "warning: training.mixed_precision is bf16, in which this processor multiplies 10 times slower"
    assert (told in capsys.readouterr().out) == is_measured
