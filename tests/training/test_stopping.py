"""Which validation is the best: the deciding metric says it, of equal scores the loss; a resume changes nothing."""

import json
from dataclasses import asdict

import pytest

from seqloom.scoring.metrics import Goal
from seqloom.training.state import Progress
from seqloom.training.stopping import note_score


def noted(progress: Progress, goal: Goal, *validations: tuple[float, float]) -> list[bool]:
    """Which of them were the best so far, with a checkpoint saved and loaded before each."""
    best = []
    for score, loss in validations:
        vars(progress).update(vars(Progress(**json.loads(json.dumps(asdict(progress))))))
        progress.step += 1
        best.append(note_score(progress, goal, score, loss))
    return best


@pytest.mark.parametrize("goal", [Goal("exact_match"), Goal("wer"), Goal("theirs", True), Goal("theirs", False)])
def test_of_equal_scores_the_lower_loss_is_the_better(goal):
    progress = Progress()
    assert noted(progress, goal, (0.0, 3.0), (0.0, 2.0), (0.0, 2.5), (0.0, 2.0)) == [True, True, False, False]
    assert (progress.best_step, progress.best_loss, progress.validations_without_best) == (2, 2.0, 2)
    assert noted(progress, goal, (goal.sign * 1.0, 9.0), (0.0, 1.0)) == [True, False]  # the score comes first
    assert (progress.best_step, progress.best_loss) == (5, 9.0)


def test_the_loss_alone():
    assert noted(Progress(), Goal("loss"), (3.0, 3.0), (3.0, 3.0), (2.0, 2.0), (4.0, 4.0)) == [True, False, True, False]


def test_a_checkpoint_that_does_not_know_the_loss_of_the_best():
    kept = {name: value for name, value in asdict(Progress(best_score=0.0, best_step=1)).items() if name != "best_loss"}
    progress = Progress(**kept)
    assert noted(progress, Goal("exact_match"), (0.0, 1.0), (1.0, 2.0), (1.0, 1.0)) == [False, True, True]
