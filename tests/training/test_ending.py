"""When a run ends, and which weights it leaves: the best, the last, a mean."""

import pytest
import torch
from helpers.runs import (
    read_log,
    run,
    same,
    weights,
)
from transformers import GenerationConfig

from seqloom.training import ending, loop

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("fresh_accelerator")]


class TestTheEnd:
    """Epochs, patience, the best and the mean."""

    @pytest.fixture
    def scripted(self, monkeypatch):
        """Validations that find the given losses; returns the weights that each one saw."""
        seen = []

        def script(*losses: float | tuple[float, float], name: str = "loss"):
            remaining = list(losses)

            def validate(run):
                model = run.accelerator.unwrap_model(run.model)
                seen.append({key: value.detach().clone() for key, value in model.named_parameters()})
                found = remaining.pop(0)
                score, loss = found if isinstance(found, tuple) else (found, 1.0)
                return {"loss": loss, name: score}

            for module in (loop, ending):
                monkeypatch.setattr(module, "validate", validate)
            return seen

        return script

    def test_epochs(self, tmp_path, data):
        record = run(tmp_path, data, training={"max_steps": None, "num_train_epochs": 3, "eval_steps": None})
        updates = record["data"]["plan"]["updates"]
        assert (record["progress"]["step"], record["progress"]["epoch"]) == (3 * updates, 3)
        lines = [line for line in read_log(tmp_path) if "eval_loss" in line]
        assert [line["step"] for line in lines] == [updates, 2 * updates, 3 * updates]

    def test_the_first_of_steps_and_epochs_ends_the_run(self, tmp_path, data):
        for name, steps, epochs in (("steps", 2, 5), ("epochs", 100, 1)):
            record = run(tmp_path / name, data, training={"max_steps": steps, "num_train_epochs": epochs})
            assert record["progress"]["step"] == min(steps, epochs * record["data"]["plan"]["updates"])

    def test_an_end_between_validations_is_validated_too(self, tmp_path, data):
        run(tmp_path, data, training={"max_steps": 5, "eval_steps": 3})
        assert [line["step"] for line in read_log(tmp_path) if "eval_loss" in line] == [3, 5]

    def test_best_beside_last(self, tmp_path, data, scripted):
        seen = scripted(3.0, 1.0, 2.0, 1.0)
        record = run(tmp_path, data, training={"max_steps": 4, "eval_steps": 1})
        saved = tmp_path / "run" / "checkpoints"
        assert same(weights(saved / "best"), seen[1])  # the earlier one of equals
        assert same(weights(tmp_path / "run"), seen[1])
        assert same(weights(saved / "step-00000004"), seen[3])
        assert not same(seen[1], seen[3])
        assert (record["progress"]["best_score"], record["progress"]["best_step"]) == (1.0, 2)
        assert record["model"]["weights"] == "the best validation's, after update 2"
        assert [line["best"] for line in read_log(tmp_path) if "best" in line] == [True, True, False, False]

    @pytest.mark.parametrize(("metric", "best"), [("exact_match", 2), ("ter", 1)])
    def test_more_is_better_or_less(self, tmp_path, data, scripted, metric, best):
        scripted(20.0, 30.0, 25.0, name=metric)
        record = run(tmp_path, data, training={"max_steps": 3, "eval_steps": 1, "eval_metric": metric})
        assert record["progress"]["best_step"] == best

    def test_ties_fall_to_the_loss(self, tmp_path, data, scripted):
        seen = scripted((0.0, 3.0), (0.0, 2.0), (0.0, 2.5), (0.0, 2.0), name="exact_match")
        options = {"max_steps": 4, "eval_steps": 1, "eval_metric": "exact_match"}
        record = run(tmp_path, data, training=options)
        assert (record["progress"]["best_step"], record["progress"]["best_loss"]) == (2, 2.0)
        assert same(weights(tmp_path / "run"), seen[1])

    @pytest.mark.parametrize(("loss", "chosen"), [(1.9, "mean"), (2.0, "mean"), (2.1, "best")])
    def test_ties_with_the_mean_fall_to_the_loss(self, tmp_path, data, scripted, loss, chosen):
        scripted((0.0, 3.0), (0.0, 2.0), (0.0, 2.5), (0.0, loss), name="exact_match")
        options = {"max_steps": 3, "eval_steps": 1, "eval_metric": "exact_match", "average_checkpoints": 2}
        assert chosen in run(tmp_path, data, training=options)["model"]["weights"]

    def test_metric_for_best_model(self, tmp_path, data, scripted):
        scripted(20.0, 30.0, 25.0, name="exact_match")
        options = {"max_steps": 3, "eval_steps": 1, "eval_metric": "exact_match", "metric_for_best_model": "loss"}
        assert run(tmp_path, data, training=options)["progress"]["best_step"] == 1

    def test_patience(self, tmp_path, data, scripted):
        scripted(3.0, 2.0, 2.5, 1.0, 1.5, 1.0)
        record = run(tmp_path, data, training={"max_steps": 50, "eval_steps": 2, "early_stopping_patience": 2})
        assert (record["progress"]["step"], record["progress"]["best_step"]) == (12, 8)

    @pytest.mark.parametrize(("average", "chosen"), [(0.5, "mean"), (1.0, "mean"), (1.5, "best")])
    def test_average(self, tmp_path, data, scripted, average, chosen):
        seen = scripted(3.0, 1.0, 2.0, 2.5, average)
        options = {"max_steps": 4, "eval_steps": 1, "average_checkpoints": 3, "learning_rate": 0.1}
        record = run(tmp_path, data, training=options)
        mean = {name: sum(part[name].double() for part in seen[1:4]) / 3 for name in seen[0]}
        for name, tensor in weights(tmp_path / "run").items():
            expected = mean[name].float() if chosen == "mean" else seen[1][name]
            torch.testing.assert_close(tensor, expected, rtol=1e-6, atol=1e-7)
        assert not torch.allclose(mean["model.shared.weight"].float(), seen[1]["model.shared.weight"])
        assert ("updates 2, 3, 4" in record["model"]["weights"]) == (chosen == "mean")
        assert len(list((tmp_path / "run" / "checkpoints" / "weights").iterdir())) == 3

    def test_greedy_validation_of_a_model_with_beams(self, tmp_path, data):
        beams = {"num_beams": 3, "length_penalty": 0.6, "early_stopping": True}
        options = {"eval_metric": "cer", "learning_rate": 0.1, "max_steps": 12, "eval_steps": 6}
        for name, generation in (("beams", beams), ("greedy", {})):
            run(tmp_path / name, data, training=options, generation=generation)
        assert read_log(tmp_path / "beams") == read_log(tmp_path / "greedy")
        saved = GenerationConfig.from_pretrained(tmp_path / "beams" / "run")
        assert {name: getattr(saved, name) for name in beams} == beams

    def test_nothing_to_score(self, tmp_path, data):
        record = run(tmp_path, data, evaluation={"split": None})
        assert record["evaluation"] is None
        assert "None were measured" in (tmp_path / "run" / "README.md").read_text()
        assert "model-index" not in (tmp_path / "run" / "README.md").read_text()

    @pytest.mark.parametrize("split", ["train", "validation"])
    def test_other_splits_are_scored(self, tmp_path, data, split):
        record = run(tmp_path, data, evaluation={"split": split})
        assert record["evaluation"]["sentences"] == {"train": 60, "validation": 51}[split]
