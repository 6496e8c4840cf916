"""The training loop: update, log, validate, save.

The loss of an update is the sum over its target tokens divided by their number, over micro-batches and processes; the
schedule counts updates. So neither accumulation nor the number of processes changes what is learnt.
"""

from __future__ import annotations

import contextlib
import functools
import math
import shlex
import signal
import time
from typing import NoReturn

from seqloom import run_folder
from seqloom.scoring import metrics
from seqloom.sharing.push import push_best
from seqloom.support.console import say
from seqloom.training import checkpoints
from seqloom.training.devices import whole_model
from seqloom.training.signals import Stopped, StopSignals
from seqloom.training.state import Run
from seqloom.training.stopping import is_due, is_over, note_score
from seqloom.training.tracking import Console, RunLog, summary
from seqloom.training.update import make_update
from seqloom.training.validation import validate


def train(run: Run) -> None:
    """Opens the log and a progress bar around the loop."""
    with contextlib.closing(RunLog(run)) as log, Console(run, log) as console, StopSignals() as signals:
        try:
            train_until_over(run, log, console, signals)
        except (ValueError, OSError) as error:
            vars(error)["is_own"] = True  # what befell one process, the others cannot tell
            raise
    say(run.accelerator, summary(run, log))


def train_until_over(run: Run, log: RunLog, console: Console, signals: StopSignals) -> None:
    """The loop: update, log, validate, save; until the steps, the epochs or the patience end, or a signal comes."""
    training, progress = run.settings.training, run.progress
    while True:
        if is_due(training.eval_steps, progress.step) and log.last_validation != progress.step:
            validate_and_save(run, log)  # a signal came before it
        started = time.perf_counter()  # reading the data counts, validating and saving do not
        for position in run.train_stream.epoch(progress.epoch, start=progress.epoch_updates):
            if is_over(run):
                break
            # The schedule's, or what a resumed run was given.
            learning_rate = progress.learning_rate = run.optimizer.param_groups[0]["lr"]
            loss, gradient_norm = make_update(run, position)
            progress.step += 1
            progress.epoch_updates += 1
            seconds = time.perf_counter() - started
            progress.seconds += seconds
            if not progress.skipped_in_a_row:  # else nothing was learnt from it
                progress.target_tokens += position.num_tokens
            log.update(position, loss, gradient_norm, learning_rate, seconds)
            console.update(loss, learning_rate)
            if number := signals.agreed(run.accelerator):
                save(run, log)  # a validation that is due can wait, and a scheduler may not
                stop(run, number)
            if is_due(training.eval_steps, progress.step):
                validate_and_save(run, log)
            elif is_due(training.save_steps, progress.step) and not is_over(run):
                save(run, log)
            started = time.perf_counter()
        else:
            if progress.epoch_updates == 0:
                raise ValueError(
                    "an epoch without a single pair: nothing is left of the training data after filtering."
                )
            progress.epoch += 1
            progress.epoch_updates = 0
            if training.eval_steps is None:
                validate_and_save(run, log)
        if is_over(run):  # asked last, so that an epoch is counted whose last update a checkpoint is of
            break
    if log.last_validation != progress.step:
        validate_and_save(run, log)
    if number := signals.agreed(run.accelerator):
        stop(run, number)


def save(run: Run, log: RunLog) -> None:
    """Saves a checkpoint to resume from."""
    run.progress.log = log.state_dict()
    log.sync()
    limit = run.settings.training.save_total_limit
    checkpoints.save_checkpoint(run.folder, run.accelerator, run.progress, run.optimizer, limit, run.kept)


def stop(run: Run, number: int) -> NoReturn:
    """Ends a run whose checkpoint is saved, as a signal wants it."""
    run.accelerator.end_training()
    raise Stopped(
        number,
        f"stopped by {signal.Signals(number).name} after {run.progress.step:,} updates; go on with: "
        f"{shlex.join(['seqloom', 'train', str(run.folder / run_folder.SETTINGS), '--resume'])}",
    )


def validate_and_save(run: Run, log: RunLog) -> None:
    """Scores the model, keeps it if it is the best so far, and saves a checkpoint."""
    training, progress, started = run.settings.training, run.progress, time.perf_counter()
    scores = validate(run)
    if not math.isfinite(scores["loss"]):
        raise ValueError(
            f"the validation loss after update {progress.step} is {scores['loss']}: the weights are no longer numbers; "
            f"lower training.learning_rate. Checkpoints from before it are in {run_folder.checkpoints(run.folder)}."
        )
    goal = metrics.Goal.of(training)
    is_best = note_score(progress, goal, scores[goal.name], scores["loss"])
    progress.seconds += time.perf_counter() - started
    log.validation(scores, is_best)
    if is_best or training.average_checkpoints:
        whole = whole_model(run.accelerator, run.scored_model)
    if run.accelerator.is_main_process:
        if is_best:
            checkpoints.save_model(whole, run.tokenizer, run_folder.best(run.folder), progress.step)
        if most := training.average_checkpoints:
            rank = goal.sign * scores[goal.name] if training.average_kind == "best" else None
            checkpoints.keep_weights(whole, run.folder, progress.step, most, rank, scores["loss"])
    save(run, log)
    hub = run.settings.hub
    if is_best and hub.push_to_hub and hub.hub_strategy == "best" and run.accelerator.is_main_process:
        best = run_folder.best(run.folder)
        push_best(best, hub, progress.step, functools.partial(say, run.accelerator))
