"""A run brought back to where it was, and its folder made ready for what comes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list

from seqloom import run_folder
from seqloom.sharing.teachers import is_same_teacher
from seqloom.support import disk
from seqloom.support.console import say
from seqloom.support.locks import Lock
from seqloom.support.wording import value_in_words
from seqloom.training import checkpoints
from seqloom.training.clearing import clear_run, told_of
from seqloom.training.devices import whole_model
from seqloom.training.learner import use_fast_layers
from seqloom.training.material import Material
from seqloom.training.refusals import check_output_folder
from seqloom.training.state import Run
from seqloom.training.stopping import is_over


def restore(run: Run, checkpoint: Path | None, *, dry_run: bool = False) -> None:
    """Goes on from a checkpoint, if there is one.

    Args:
        dry_run: Write nothing.

    Raises:
        ValueError: It is of another engine or teacher than this run's, or was judged by another metric, or reading it
            could run code; or, found by a dry run as by the end of the run, nothing is left to train and the best model
            is damaged.
    """
    if checkpoint is None:
        run.progress.settings = run.settings.to_dict()["training"]
        return
    teacher = run.progress.teacher
    run.progress = checkpoints.load_checkpoint(checkpoint, run.accelerator, run.kept)
    check_teacher(run.progress.teacher, teacher)
    set_hyper_parameters(run)
    say(run.accelerator, f"resuming {checkpoint} after {run.progress.step:,} updates")
    before = run.progress.settings
    check_judge(before, run.settings.to_dict()["training"])
    note_changes(run)
    # A run of an earlier version goes on as it began; one that was told not to, may be told to.
    if run.progress.fast_layers is not None or before.get("fast_layers") is False:
        use_fast_layers(run)
    check_best(run, dry_run=dry_run)
    if is_over(run):
        say(run.accelerator, "this run is over already: nothing is left to train; its model is scored and saved again.")


def check_teacher(before: dict[str, Any] | None, now: dict[str, Any] | None) -> None:
    """Refuses to go on with another teacher than a run began with, by the digests of its files.

    Raises:
        ValueError: It is another.
    """
    if before is not None and now is not None and not is_same_teacher(before["teacher"], now["teacher"]):
        raise ValueError(
            f"the teacher {now['teacher']['name']} changed since the run began: going on would mix what two of them "
            "say; bring back what was there, or train anew into another output_dir."
        )


def set_hyper_parameters(run: Run) -> None:
    """Gives a resumed optimizer and schedule the settings' values, where the checkpoint brought those of before."""
    training, scheduler = run.settings.training, run.scheduler
    scheduler.base_lrs = [training.learning_rate] * len(scheduler.base_lrs)
    rates = [
        base * factor(scheduler.last_epoch)
        for base, factor in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
    ]
    decays = (training.weight_decay, 0.0)  # as make_optimizer has them
    for group, rate, decay in zip(run.optimizer.param_groups, rates, decays, strict=True):
        group["lr"], group["initial_lr"], group["weight_decay"] = rate, training.learning_rate, decay
        group["betas"], group["eps"] = (training.adam_beta1, training.adam_beta2), training.adam_epsilon


JUDGES = ("metric_for_best_model", "eval_metric", "greater_is_better")
"""Settings that say what the scores of validations are scores of."""


def check_judge(before: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuses to hold validations to come against those before, where they are judged by something else.

    Raises:
        ValueError: They are.
    """
    for name in JUDGES:
        if name in before and before[name] != now[name]:
            then = value_in_words(before[name])
            raise ValueError(
                f"training.{name} was {then} until here and is {value_in_words(now[name])} now, but "
                "scores of two kinds cannot be compared, and the best model so far was found by the former: give "
                "that again, or train another run in another output_dir, from this one's model by training.init_from."
            )


def note_changes(run: Run) -> None:
    """Keeps in the run's history, and says, what of its training is set otherwise from now on."""
    progress, now = run.progress, run.settings.to_dict()["training"]
    then, progress.settings = progress.settings, now
    changed = {name: [then[name], value] for name, value in now.items() if name in then and then[name] != value}
    if changed:
        progress.resumed.append({"step": progress.step, "changed": changed})
        told = (f"{name} {value_in_words(old)} → {value_in_words(new)}" for name, (old, new) in changed.items())
        say(run.accelerator, f"from here on with other settings: {', '.join(told)}")


def check_best(run: Run, *, dry_run: bool) -> None:
    """Finds out, before anything more is trained, whether the best model so far is damaged, and mends it if it can; in
    a dry run it says what it would do."""
    best, progress, accelerator = run_folder.best(run.folder), run.progress, run.accelerator
    what = None
    if accelerator.is_main_process and progress.best_score is not None:
        if damage := disk.damage(best):
            what = f"damaged ({damage})"
        elif (step := checkpoints.step_of(best)) != progress.best_step:  # a kill came between it and its checkpoint
            what = f"of update {step:,}, while the best so far is of update {progress.best_step:,}"
    (what,) = broadcast_object_list([what])
    if what is None:
        return
    if progress.best_step == progress.step:
        remedy = "saved again from the checkpoint"
        whole = None if dry_run else whole_model(accelerator, run.scored_model)
        if accelerator.is_main_process and whole is not None:
            checkpoints.save_model(whole, run.tokenizer, best, progress.step)
    elif is_over(run):  # there is no validation to come; finish says so
        if dry_run:
            check_best_is_whole(run)
        return
    else:
        remedy = "the next validation's takes its place"
        progress.best_score = progress.best_loss = None
    say(accelerator, f"{best} is {what}; {remedy}.")


def check_best_is_whole(run: Run) -> None:
    """Refuses a damaged best model where nothing is left to train.

    Raises:
        ValueError: It is damaged.
    """
    best = run_folder.best(run.folder)
    what = disk.damage(best) if run.accelerator.is_main_process else None
    (what,) = broadcast_object_list([what])
    if what is not None:
        raise ValueError(
            f"{best} is damaged ({what}), and no validation is left that could replace it; go on with --resume and "
            "more training.max_steps or num_train_epochs, or train anew with --overwrite."
        )


def open_folder(run: Run, material: Material, lock: Lock, *, resume: bool, overwrite: bool) -> None:
    """Makes the output folder ready: settings, data and tokenizer lie in it before the first update.

    Raises:
        ValueError: Since it was looked at, another process has begun a run in it.
    """
    folder, settings, checkpoint = run.folder, run.settings, material.checkpoint
    Path(os.path.realpath(folder)).mkdir(parents=True, exist_ok=True)
    lock.acquire()
    if checkpoint is not None:
        checkpoints.drop_older(folder, checkpoint.name, settings.training.save_total_limit)  # if a kill came before
    if not resume:
        check_output_folder(folder, settings, False, overwrite)
    if overwrite:  # not before everything that can be wrong with the new run was found right
        left = clear_run(folder)
        if left:
            say(run.accelerator, told_of(folder, left))
    run_folder.mark(folder, run_folder.RUN)
    disk.write_aside(folder / run_folder.SETTINGS, settings.save, disk.RESUME)
    data = json.dumps(material.pairs.provenance, indent=2)
    disk.write_aside(folder / run_folder.DATA, disk.text(data), disk.RESUME)
    if checkpoint is None:
        checkpoints.save_tokenizer(run.tokenizer, folder)
