"""Two passes with dropout, held against each other."""

import pytest
import torch
from helpers.killed import refused
from helpers.runs import SMALL, read_losses, run, same, weights
from torch.nn import functional

from seqloom.training import update
from seqloom.training.r_drop import disagreement, twice

DROPS = {"dropout": 0.3}


def test_it_is_torchs_divergence():
    torch.manual_seed(0)
    scores, labels = torch.randn(6, 5, 7, dtype=torch.float64), torch.randint(0, 7, (3, 5))
    labels[0, 2:] = labels[2, 4:] = -100
    first, second = (half.log_softmax(-1)[labels != -100] for half in scores.chunk(2))
    expected = sum(
        functional.kl_div(one, other, reduction="sum", log_target=True)
        for one, other in ((first, second), (second, first))
    )
    assert disagreement(scores, labels.repeat(2, 1)) == pytest.approx(float(expected) / 4, rel=1e-12)
    assert disagreement(scores[:3].repeat(2, 1, 1), labels.repeat(2, 1)) == 0


def test_no_answer_of_infinite_surprise():
    """Scores that rule a token out do so in both passes or in neither; what is far off stays a number."""
    scores = torch.zeros(2, 1, 4)
    scores[0, 0, 0] = 1e4
    assert torch.isfinite(disagreement(scores.bfloat16(), torch.zeros(2, 1, dtype=torch.long)))


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_accelerator")
class TestTraining:
    @pytest.mark.parametrize("family", list(SMALL))
    def test_what_an_update_learns(self, tmp_path, data, family, monkeypatch):
        """The mean of both passes' losses, and what they disagree by, of the update's tokens."""
        seen = []
        original = update.disagreement

        def spy(scores, labels):
            half = len(labels) // 2
            assert torch.equal(labels[:half], labels[half:])
            assert not torch.equal(scores[:half], scores[half:])  # each drops out units of its own
            with torch.no_grad():
                passes = functional.cross_entropy(scores.flatten(0, 1).float(), labels.flatten())
                seen.append(float(passes + 3 * original(scores, labels) / (labels[:half] != -100).sum()))
            return original(scores, labels)

        monkeypatch.setattr(update, "disagreement", spy)
        run(tmp_path, data, family, model=DROPS, training={"r_drop_alpha": 3, "max_steps": 3, "logging_steps": 1})
        assert read_losses(tmp_path) == pytest.approx(seen, rel=1e-5)

    def test_resumed_is_unbroken(self, tmp_path, data):
        options = {"r_drop_alpha": 5, "mixed_precision": "bf16", "label_smoothing_factor": 0.1}
        run(tmp_path / "unbroken", data, model=DROPS, training=options)
        run(tmp_path / "broken", data, model=DROPS, training={**options, "max_steps": 3})
        run(tmp_path / "broken", data, model=DROPS, training=options, resume=True)
        assert same(weights(tmp_path / "broken" / "run"), weights(tmp_path / "unbroken" / "run"))
        card = (tmp_path / "unbroken" / "run" / "README.md").read_text()
        assert "| R-Drop | α 5 (Wu et al. 2021) |" in card
        assert "two passes with dropout against each other; the validation loss does not" in card

    def test_refused(self, tmp_path, data):
        refused(tmp_path, data, "r_drop_alpha is 2, .* drops nothing out", training={"r_drop_alpha": 2},
                model={"dropout": 0.0})  # fmt: skip
        refused(tmp_path, data, "r_drop_alpha is -1", training={"r_drop_alpha": -1})
        refused(tmp_path, data, "loss_chunk_tokens is 64, .* training.r_drop_alpha holds scores",
                training={"r_drop_alpha": 2, "loss_chunk_tokens": 64})  # fmt: skip


def test_twice():
    assert twice({"labels": torch.tensor([[1, 2], [3, 4]])})["labels"].tolist() == [[1, 2], [3, 4], [1, 2], [3, 4]]
