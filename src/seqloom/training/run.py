"""Training from scratch: settings → devices → data → learner → loop → model, scores and card."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, Literal

from accelerate.utils import set_seed

from seqloom import run_folder
from seqloom.settings.checks import check_settings
from seqloom.settings.schema import Settings
from seqloom.sharing.push import prepare_repository, push
from seqloom.support.console import say
from seqloom.support.locks import Lock
from seqloom.support.machine import keep_freed_memory
from seqloom.training.devices import in_first_process, make_accelerator
from seqloom.training.ending import finish
from seqloom.training.learner import make_learner
from seqloom.training.loop import train
from seqloom.training.material import gather_material
from seqloom.training.refusals import refuse
from seqloom.training.restoring import open_folder, restore
from seqloom.training.update import rehearse


def run_training(
    settings: Settings, *, resume: bool | Literal["auto"] = False, overwrite: bool = False, dry_run: bool = False
) -> dict[str, Any]:
    """Trains, scores and saves one model.

    Args:
        settings: The run.
        resume: Go on from the output folder's last checkpoint; ``auto``: if there is a run in it, else start one.
        overwrite: Delete what an earlier run wrote into the output folder.
        dry_run: Check settings, data, plan and the checkpoint to go on from, make the largest update, and write
            nothing.

    Returns:
        The run's record: data, progress, scores, hardware, versions. The model is in ``settings.output_dir``.

    Raises:
        ValueError: The settings, the data or the output folder do not allow it, where another process may be at work;
            or the loss is no longer a number.
        OSError: The disk is full, or a file cannot be read or written.
        Stopped: SIGINT, SIGTERM or SIGUSR1 came. A checkpoint is saved, to resume from.
    """
    check_settings(settings)
    keep_freed_memory()
    accelerator = make_accelerator(settings)
    folder = Path(settings.output_dir)
    if resume == "auto":
        resume = run_folder.is_run(folder)
    refuse(settings, folder, resume=resume, overwrite=overwrite)
    with Lock(folder / run_folder.LOCK) as lock:
        # A new run's folder is made when all that can be wrong was found right.
        in_first_process(accelerator, lock.acquire if resume and not dry_run else lock.check)
        is_pushing = settings.hub.push_to_hub is not None and accelerator.is_main_process
        if is_pushing and not dry_run:
            prepare_repository(settings.hub)

        set_seed(settings.training.seed)
        material = gather_material(settings, accelerator, folder, resume=resume, dry_run=dry_run)
        run = make_learner(settings, accelerator, folder, material)
        restore(run, material.checkpoint, dry_run=dry_run)
        if dry_run:
            return rehearse(run)
        opening = functools.partial(open_folder, run, material, lock, resume=resume, overwrite=overwrite)
        in_first_process(accelerator, opening)

        train(run)
        record = finish(run, material)
        if is_pushing:
            push(folder, settings.hub, say=functools.partial(say, accelerator), metrics=settings.evaluation.metrics)
        return record
