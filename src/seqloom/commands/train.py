"""The command ``seqloom train``, which is ``train.py`` too."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Sequence

from huggingface_hub.errors import StrictDataclassError

from seqloom.settings.reading import load_settings
from seqloom.support.console import quieten_libraries
from seqloom.training.run import run_training
from seqloom.training.signals import Stopped

USAGE = "usage: train.py CONFIG.yaml [--key value ...] [--resume [auto] | --overwrite] [--dry_run]"


def main(argv: Sequence[str] | None = None) -> int:
    """The command ``train.py``; returns its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(USAGE, "", "Keys are the settings of configs/*.yaml; src/seqloom/settings.py explains each.", sep="\n")
        print("--resume goes on with the run in output_dir; --resume auto starts it if there is none.")
        return 0 if words else 2
    flags = {flag: f"--{flag}" in words for flag in ("resume", "overwrite", "dry_run")}
    if flags["resume"] and words[words.index("--resume") + 1 :][:1] == ["auto"]:
        flags["resume"] = words.pop(words.index("--resume") + 1)
    words = [word for word in words if word not in ("--resume", "--overwrite", "--dry_run")]
    is_main = int(os.environ.get("RANK", "0")) == 0
    try:
        if not words or words[0].startswith("--"):
            raise ValueError(f"the configuration file comes first. {USAGE}")
        if flags["resume"] and flags["overwrite"]:
            raise ValueError("--resume goes on with what --overwrite would delete: give one of them.")
        quieten_libraries()
        run_training(load_settings(words[0], words[1:]), **flags)
    except Stopped as stopped:
        if is_main:
            print(stopped)
        return 128 + stopped.signal
    except KeyboardInterrupt:
        if is_main:
            print("ended at once; --resume goes on from the last checkpoint.", file=sys.stderr)
        return 128 + signal.SIGINT
    except (ValueError, OSError, StrictDataclassError) as error:
        if is_main or getattr(error, "is_own", False):
            process = "" if is_main else f"process {os.environ['RANK']}: "
            print(f"error: {process}{' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except RuntimeError as error:
        if not is_lost_connection(error):
            raise
        print(
            "error: another process of this run ended, so this one ends too; what happened, its own words say. "
            f"Go on from the last checkpoint with --resume. ({str(error).splitlines()[0]})",
            file=sys.stderr,
        )
        return 1
    return 0


def is_lost_connection(error: RuntimeError) -> bool:
    """Whether a collective failed since another process is gone; torch has no class of its own for gloo's."""
    is_shared = int(os.environ.get("WORLD_SIZE", "1")) > 1
    return is_shared and re.search(r"gloo|NCCL|Connection (closed|reset|refused)|peer", str(error)) is not None
