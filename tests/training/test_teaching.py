"""A teacher in the loss: held against torch's divergence, against the labels' loss, and through kills and processes."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from helpers.killed import assert_same_run, kill_and_resume, refused
from helpers.others import save_other
from helpers.patience import HANGS
from helpers.runs import SMALL, configure, read_log, read_losses, run, same, weights
from torch.nn import functional as F

from seqloom.modeling.modeling_seq2seq import IGNORED
from seqloom.settings.reading import load_settings
from seqloom.training.teaching import distillation_loss

pytestmark = pytest.mark.usefixtures("fresh_accelerator")

ROOT = Path(__file__).parents[2]
VOCABULARY = 11


@pytest.fixture
def batch():
    """Scores of a student and of a teacher, and labels of which some are none; in float64."""
    student, teacher = (3 * torch.randn(4, 5, VOCABULARY, dtype=torch.float64) for _ in range(2))
    labels = torch.randint(VOCABULARY, (4, 5)).masked_fill(torch.rand(4, 5) < 0.3, IGNORED)
    assert 0 < int((labels == IGNORED).sum()) < 20
    return student.requires_grad_(), teacher, labels


def by_torch(student, teacher, labels, temperature, top_k=None):
    """Position by position, with probabilities that are written out."""
    total = torch.zeros((), dtype=torch.float64)
    for row, column in (labels != IGNORED).nonzero().tolist():
        probabilities = F.softmax(teacher[row, column] / temperature, dim=-1)
        if top_k is not None:
            least = probabilities.sort(descending=True).values[top_k - 1]
            probabilities = torch.where(probabilities >= least, probabilities, 0.0)
            probabilities = probabilities / probabilities.sum()
        log_student = F.log_softmax(student[row, column] / temperature, dim=-1)
        total = total + F.kl_div(log_student, probabilities, reduction="sum")
    return temperature**2 * total


class TestLoss:
    @pytest.mark.parametrize("temperature", [1.0, 2.5, 0.5])
    @pytest.mark.parametrize("top_k", [None, 1, 4])
    def test_is_torchs_divergence(self, batch, temperature, top_k):
        """Its value and its gradient."""
        student, teacher, labels = batch
        losses = [
            distillation_loss(student, teacher, labels, temperature=temperature, top_k=top_k),
            by_torch(student, teacher, labels, temperature, top_k),
        ]
        gradients = [torch.autograd.grad(loss, student)[0] for loss in losses]
        torch.testing.assert_close(losses[0], losses[1], rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-10, atol=1e-10)
        assert gradients[0][labels == IGNORED].abs().max() == 0

    def test_the_whole_vocabulary_is_all(self, batch):
        losses = [distillation_loss(*batch, top_k=top_k) for top_k in (None, VOCABULARY, VOCABULARY + 5)]
        assert losses[0] == losses[1] == losses[2]
        assert distillation_loss(*batch, top_k=3) != losses[0]

    def test_gradient_is_as_large_whatever_the_temperature(self, batch):
        """T · (student - teacher), which for a high temperature is the difference of the centred scores / vocabulary
        (Hinton et al. 2015, equation 4)."""
        student, teacher, labels = batch
        (gradient,) = torch.autograd.grad(distillation_loss(student, teacher, labels, temperature=1e5), student)
        centred = [scores - scores.mean(-1, keepdim=True) for scores in (student.detach(), teacher)]
        expected = (centred[0] - centred[1]) / VOCABULARY
        counted = labels != IGNORED
        torch.testing.assert_close(gradient[counted], expected[counted], rtol=1e-3, atol=1e-5)

    def test_nothing_to_learn_from_oneself(self, batch):
        student, _, labels = batch
        loss = distillation_loss(student, student.detach(), labels, temperature=3.0)
        assert abs(loss.item()) < 1e-12

    def test_one_likeliest_token_is_a_label(self, batch):
        """With one token alone the teacher is a label: cross-entropy."""
        student, teacher, labels = batch
        likeliest = teacher.argmax(-1).masked_fill(labels == IGNORED, IGNORED)
        expected = F.cross_entropy(student.flatten(0, 1), likeliest.flatten(), ignore_index=IGNORED, reduction="sum")
        torch.testing.assert_close(distillation_loss(student, teacher, labels, top_k=1), expected)

    def test_what_a_teacher_rules_out_and_what_it_has_more(self, batch):
        """Scores of -inf, and rows behind the vocabulary."""
        student, teacher, labels = batch
        ruled_out = teacher.clone()
        ruled_out[..., 2] = -torch.inf
        loss = distillation_loss(student, ruled_out, labels)
        torch.testing.assert_close(loss, by_torch(student, ruled_out, labels, 1.0))
        (gradient,) = torch.autograd.grad(loss, student)
        assert torch.isfinite(gradient).all()
        wider = torch.cat([teacher, torch.full((4, 5, 3), 9.0, dtype=torch.float64)], dim=-1)
        assert distillation_loss(student, wider, labels) == distillation_loss(student, teacher, labels)

    def test_half_precision_and_no_labels(self, batch):
        student, teacher, labels = batch
        halves = [scores.detach().bfloat16() for scores in (student, teacher)]
        loss = distillation_loss(*halves, labels)
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, distillation_loss(*(half.float() for half in halves), labels))
        nothing = distillation_loss(student, teacher, torch.full_like(labels, IGNORED))
        assert nothing == 0
        assert torch.autograd.grad(nothing, student)[0].abs().max() == 0


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, data):
    """A model of another family that was trained for some updates, with the tokenizer of all runs here."""
    folder = tmp_path_factory.mktemp("teacher")
    run(folder, data, "rnn", training={"max_steps": 30, "eval_steps": 30}, hub={"license": "cc-by-4.0"})
    AcceleratorState._reset_state(reset_partial_state=True)
    return folder / "run"


def taught(teacher: Path, **distillation) -> dict:
    """Sections of a run that it teaches."""
    return {"tokenizer": {"path": str(teacher)}, "distillation": {"teacher": str(teacher), **distillation}}


@pytest.mark.slow
class TestUpdates:
    def test_no_share_is_no_teacher(self, tmp_path, data, teacher):
        """And no draw is taken from the student's dropout; a share is something."""
        options = {"model": {**SMALL["transformer"], "dropout": 0.3}}
        run(tmp_path / "plain", data, tokenizer={"path": str(teacher)}, **options)
        record = run(tmp_path / "none", data, **taught(teacher, alpha=0), **options)
        assert read_losses(tmp_path / "none") == read_losses(tmp_path / "plain")
        assert same(weights(tmp_path / "none" / "run"), weights(tmp_path / "plain" / "run"))
        assert record["teacher"]["teacher"]["name"] == "run"
        run(tmp_path / "some", data, **taught(teacher), **options)
        assert read_losses(tmp_path / "some") != read_losses(tmp_path / "plain")

    def test_a_teacher_has_nothing_to_say_to_itself(self, tmp_path, data, teacher):
        """Positions, decoder inputs and padding are the student's: the divergence is zero, batch by batch."""
        options = {"init_from": str(teacher), "max_steps": 3, "learning_rate": 1e-12}
        run(tmp_path, data, "rnn", training=options, **taught(teacher, alpha=1.0, temperature=2.0))
        assert read_losses(tmp_path) == pytest.approx([0.0] * 3, abs=1e-6)

    def test_mixed_with_the_labels(self, tmp_path, data, teacher):
        """α of the one, 1 - α of the other; validation losses are the labels' alone, unsmoothed."""
        options = {"learning_rate": 1e-12, "label_smoothing_factor": 0.2}
        losses = {}
        for alpha in (0.0, 0.25, 1.0):
            run(tmp_path / str(alpha), data, training=options, **taught(teacher, alpha=alpha, top_k=3))
            losses[alpha] = read_losses(tmp_path / str(alpha))
            validations = [line["eval_loss"] for line in read_log(tmp_path / str(alpha)) if "eval_loss" in line]
            assert validations == pytest.approx(losses.setdefault("eval", validations), rel=1e-6)
        for label, mixed, soft in zip(losses[0.0], losses[0.25], losses[1.0], strict=True):
            assert mixed == pytest.approx(0.75 * label + 0.25 * soft, rel=1e-5)
            assert abs(label - soft) > 1e-3

    def test_with_r_drop(self, tmp_path, data, teacher):
        """Both parts are means over the two passes: where hardly a unit is dropped out, they are those of one."""
        losses = []
        for alpha in (0.0, 5.0):
            options = {"r_drop_alpha": alpha, "label_smoothing_factor": 0.2}
            changes = taught(teacher, alpha=0.6, temperature=2) | {"model": {**SMALL["transformer"], "dropout": 1e-9}}
            run(tmp_path / str(alpha), data, training=options, **changes)
            losses.append(read_losses(tmp_path / str(alpha)))
        assert losses[1] == pytest.approx(losses[0], rel=1e-5)

    def test_accumulation_changes_nothing(self, tmp_path, data, teacher):
        found = []
        for pieces in (1, 3):
            options = {"gradient_accumulation_steps": pieces, "batches_per_update": 2}
            run(tmp_path / str(pieces), data, training=options, **taught(teacher, temperature=2))
            found.append([value for line in read_log(tmp_path / str(pieces)) for value in line.values()])
        assert found[1] == pytest.approx(found[0], rel=1e-4, abs=1e-6)

    def test_resumed_as_unbroken(self, tmp_path, data, teacher, monkeypatch):
        options = {
            "training": {"max_steps": 9, "save_steps": 2, "ema_decay": 0.8, "average_checkpoints": 2},
            "model": {**SMALL["transformer"], "dropout": 0.3}, **taught(teacher, alpha=0.7, top_k=4),
        }  # fmt: skip
        whole = run(tmp_path / "whole", data, **options)
        AcceleratorState._reset_state(reset_partial_state=True)
        resumed = kill_and_resume(monkeypatch, tmp_path / "killed", data, 6, **options)
        assert_same_run(tmp_path / "killed", tmp_path / "whole")
        assert resumed["teacher"] == whole["teacher"]

    def test_in_bfloat16(self, tmp_path, data, teacher):
        for precision in ("no", "bf16"):
            run(tmp_path / precision, data, training={"mixed_precision": precision}, **taught(teacher))
            AcceleratorState._reset_state(reset_partial_state=True)
        assert read_losses(tmp_path / "bf16") == pytest.approx(read_losses(tmp_path / "no"), rel=0.05)
        assert read_losses(tmp_path / "bf16") != read_losses(tmp_path / "no")

    def test_two_processes_learn_the_same(self, tmp_path, data, teacher):
        config = configure(tmp_path / "two", data, **taught(teacher, alpha=0.6, temperature=2))
        launch = [
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc_per_node",
            "2",
            str(ROOT / "train.py"),
            config,
        ]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, *launch], capture_output=True, text=True, env=environment, check=False, timeout=HANGS
        )
        assert done.returncode == 0, done.stderr
        run(tmp_path / "one", data, **taught(teacher, alpha=0.6, temperature=2))
        for ours, theirs in zip(read_log(tmp_path / "one"), read_log(tmp_path / "two"), strict=True):
            assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-5)

    def test_a_teacher_of_transformers(self, tmp_path, data):
        """Marian, whose tokenizer the student takes."""
        folder = save_other("marian", tmp_path / "marian")
        record = run(tmp_path, data, **taught(folder), evaluation={"split": None})
        assert record["teacher"]["teacher"]["model_type"] == "marian"
        card = (tmp_path / "run" / "README.md").read_text()
        assert "distilled from marian (word-level, α 0.5, temperature 1)" in card
        assert "The licence of its teacher marian is not stated by a card of its own" in card

    def test_record_and_card(self, tmp_path, data, teacher):
        record = run(tmp_path, data, **taught(teacher, alpha=0.7, temperature=2, top_k=3))
        told = record["teacher"]
        assert (told["kind"], told["alpha"], told["temperature"], told["top_k"]) == ("word", 0.7, 2.0, 3)
        assert told["teacher"]["license"] == "cc-by-4.0"
        assert len(told["teacher"]["files"]["model.safetensors"]) == 64
        card = (tmp_path / "run" / "README.md").read_text()
        assert "distilled from run (word-level, α 0.7, temperature 2, top 3)" in card
        assert "- distilled\n" in card
        assert "The licence of its teacher run is cc-by-4.0 by its own card" in card
        assert "It was taught by another model" in card
        assert str(teacher) not in card


@pytest.mark.slow
class TestRefused:
    def test_settings(self, tmp_path, data, teacher):
        for changes, message in (
            ({"teacher": str(teacher), "alpha": 1.5}, r"distillation.alpha is 1.5; it must be 1 or less"),
            ({"teacher": str(teacher), "alpha": -1}, r"distillation.alpha is -1.0; it must be 0 or more"),
            ({"teacher": str(teacher), "top_k": 0}, r"distillation.top_k is 0; it must be 1 or more"),
            ({"teacher": str(teacher), "temperature": 0}, r"distillation.temperature is 0.0; it must be more than 0"),
            (
                {"temperature": 2},
                r"distillation.temperature is 2.0, which belongs to distillation.teacher, which is null",
            ),
            ({"teachers": 2}, r"distillation.teachers is unknown; did you mean distillation.teacher"),
            ({"teacher": "nowhere/there/x"}, r"distillation.teacher is 'nowhere/there/x', which cannot teach: "),
        ):
            refused(tmp_path, data, message, distillation=changes)
        chunked = {"training": {"loss_chunk_tokens": 64}, **taught(teacher)}
        refused(tmp_path, data, "training.loss_chunk_tokens is 64, which keeps no scores, but", **chunked)

    def test_another_vocabulary(self, tmp_path, data, teacher):
        changes = taught(teacher) | {"tokenizer": {"kind": "byte_bpe", "vocab_size": 262}}
        refused(tmp_path, data, r"whose source vocabulary of 12 tokens is not this run's of 262", **changes)

    def test_other_tokens_of_the_same_vocabulary(self, tmp_path, data, teacher):
        """One that lower-cases, say."""
        other = Path(shutil.copytree(teacher, tmp_path / "other", ignore=shutil.ignore_patterns("checkpoints")))
        tokenizer = json.loads((other / "tokenizer.json").read_text())
        tokenizer["normalizer"] = {"type": "Prepend", "prepend": "a"}
        (other / "tokenizer.json").write_text(json.dumps(tokenizer))
        changes = taught(other) | {"tokenizer": {"path": str(teacher)}}
        refused(tmp_path, data, "has this run's vocabulary but makes other tokens of validation pair 1", **changes)

    def test_more_tokens_than_it_has_positions_for(self, tmp_path, data):
        folder = save_other("bart", tmp_path / "bart")
        words = [f"{' '.join('abcdefgh' * 4)}\n" for _ in range(40)]
        for side in ("source", "target"):
            (tmp_path / f"long.{side}").write_text("".join(words))
        pairs = {name: [str(tmp_path / f"long.{side}") for side in ("source", "target")]
                 for name in ("few", "validation", "test")}  # fmt: skip
        message = (
            "which has positions for 24 source tokens, but training pairs have up to 33: set data.max_source_length"
        )
        refused(tmp_path, pairs, message, **taught(folder))

    def test_another_teacher_at_resume(self, tmp_path, data, teacher):
        mine = Path(shutil.copytree(teacher, tmp_path / "mine", ignore=shutil.ignore_patterns("checkpoints")))
        run(tmp_path, data, training={"max_steps": 3}, **taught(mine))
        with pytest.raises(ValueError, match=r"was started with another distillation section .* \(alpha\)"):
            run(tmp_path, data, resume=True, **taught(mine, alpha=0.1))
        config = json.loads((mine / "config.json").read_text())
        (mine / "config.json").write_text(json.dumps(config | {"dropout": 0.2}))
        with pytest.raises(ValueError, match="the teacher mine changed since the run began"):
            run(tmp_path, data, resume=True, **taught(mine))


def test_words_of_the_command_line(tmp_path, data):
    config = configure(tmp_path, data)
    words = ["--teacher", "runs/mine", "--alpha", "0.25", "--temperature", "2", "--distillation.top_k", "8"]
    settings = load_settings(config, words)
    assert (settings.distillation.teacher, settings.distillation.top_k) == ("runs/mine", 8)
    assert (settings.distillation.alpha, settings.distillation.temperature) == (0.25, 2.0)
