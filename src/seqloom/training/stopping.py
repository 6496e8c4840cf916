"""When a run is over: its updates, its epochs or its patience are spent (early stopping)."""

from __future__ import annotations

from seqloom.scoring.metrics import Goal
from seqloom.training.state import Progress, Run


def is_over(run: Run) -> bool:
    """Whether the updates, the epochs or the patience are spent."""
    training, progress = run.settings.training, run.progress
    patience = training.early_stopping_patience
    return (
        (run.max_steps is not None and progress.step >= run.max_steps)
        or (training.num_train_epochs is not None and progress.epoch >= training.num_train_epochs)
        or (patience is not None and progress.validations_without_best >= patience)
    )


def note_score(progress: Progress, goal: Goal, score: float, loss: float) -> bool:
    """Counts a validation, and whether it is the best so far: early stopping has patience with those that are not.

    Of equal scores the lower loss is the better one: a metric that is 0 at first tells nothing of what is learnt.
    """
    is_best = goal.is_better(score, progress.best_score, loss, progress.best_loss)
    if is_best:
        progress.best_score, progress.best_loss = score, loss
        progress.best_step, progress.validations_without_best = progress.step, 0
    else:
        progress.validations_without_best += 1
    return is_best


def is_due(every: int | None, step: int) -> bool:
    """Whether what is done every so many updates is to be done after update ``step``."""
    return every is not None and step > 0 and step % every == 0
