"""The command ``seqloom train``, which is ``train.py`` too."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from seqloom.commands.command import Command
from seqloom.commands.following import after_training, tell_next, typed
from seqloom.commands.shell import run
from seqloom.settings.schema import Settings


@dataclass(kw_only=True)
class Train(Command):
    """Trains a model from scratch, on one device or many.

    With several processes: accelerate launch -m seqloom train CONFIG, with the same words behind it; a --config_file
    (seqloom recipes has some to print) keeps accelerate from guessing, and from saying so.
    """

    name = "train"
    needs = "the configuration file comes first"
    settings = Settings
    is_parallel = True
    interrupted = "ended at once; --resume goes on from the last checkpoint."
    examples = """
        seqloom train scan-rnn
        seqloom train multi30k-en-de-rnn --learning_rate 0.001 --output_dir runs/mine
        seqloom train runs/mine/settings.yaml --resume
        seqloom train multi30k-en-de-rnn --train_files train.en train.de --dry_run
        accelerate launch --config_file 8-gpus.yaml -m seqloom train multi30k-en-de-transformer-tiny
    """

    config: str
    """The recipe: a YAML file (a run's own is its settings.yaml), or the name of one that comes with seqloom, as
    seqloom recipes lists them."""
    resume: bool | Literal["auto"] = False
    """Go on with the run in output_dir from its last checkpoint; auto: or start it, if there is none."""
    overwrite: bool = False
    """Delete what a run wrote into output_dir first, and nothing else."""
    dry_run: bool = False
    """Check settings, data, plan and, with --resume, the checkpoint; make the largest update, and write nothing."""

    def check(self) -> None:
        from seqloom.settings.reading import load_settings

        if self.resume and self.overwrite:
            raise ValueError("--resume goes on with what --overwrite would delete: give one of them.")
        load_settings(self.config, self.overrides, with_model=False)

    def run(self) -> int | None:
        from seqloom.scoring.naming import check_config
        from seqloom.settings.reading import load_settings
        from seqloom.support.machine import PARENT, end_with_parent

        parent = os.environ.pop(PARENT, None)
        if parent is not None:
            end_with_parent(int(parent))
        is_first = os.environ.get("RANK", "0") == "0"
        settings = load_settings(self.config, self.overrides, print if is_first else lambda text: None)
        check_config(self.config, settings, self.overrides)
        status = trained(
            settings, is_told=parent is None, resume=self.resume, overwrite=self.overwrite, dry_run=self.dry_run
        )
        if self.dry_run and not status and int(os.environ.get("WORLD_SIZE", "1")) == 1:
            tell_next(typed("train", *(word for word in self.argv if word != "--dry_run")))
        return status


def trained(settings: Settings, *, is_told: bool = True, dry_run: bool = False, **how: Any) -> int | None:
    """Trains, as `run_training` is told how; returns the exit status, unless that is 0.

    Args:
        is_told: Whether somebody is to be told what comes next.

    Raises:
        ValueError: As for `run_training`; or another process of the run ended.
    """
    from seqloom.training.run import run_training
    from seqloom.training.signals import Stopped

    try:
        record = run_training(settings, dry_run=dry_run, **how)
    except Stopped as stopped:
        if os.environ.get("RANK", "0") == "0":
            print(stopped)
        return 128 + stopped.signal
    except RuntimeError as error:
        if not is_lost_connection(error):
            raise
        raise LostConnection(
            "another process of this run ended, so this one ends too; what happened, its own words say. "
            f"Go on from the last checkpoint with --resume. ({str(error).splitlines()[0]})"
        ) from None
    if is_told and not dry_run and os.environ.get("RANK", "0") == "0":
        tell_next(*after_training(Path(settings.output_dir), record, settings.hub.push_to_hub is not None))
    return None


class LostConnection(ValueError):
    """Another process is gone; each that is left says so."""

    is_own = True


def is_lost_connection(error: RuntimeError) -> bool:
    """Whether a collective failed since another process is gone; torch has no class of its own for gloo's."""
    is_shared = int(os.environ.get("WORLD_SIZE", "1")) > 1
    return is_shared and re.search(r"gloo|NCCL|Connection (closed|reset|refused)|peer", str(error)) is not None


main = partial(run, Train)
"""What ``train.py`` calls."""
