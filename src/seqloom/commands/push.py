"""The command ``seqloom push``: shares a finished run on the Hub."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from seqloom.settings.reading import load_settings
from seqloom.sharing.push import finished_run, push
from seqloom.support.console import quieten_libraries

USAGE = "usage: seqloom push FOLDER USER/MODEL [--hub_private_repo true] [--hub_revision BRANCH]"


def main(argv: Sequence[str]) -> int:
    """The command ``seqloom push``; returns its exit status."""
    words = list(argv)
    if not words or words[0] in ("-h", "--help"):
        about = "FOLDER is the output folder of a finished run. A token comes from HF_TOKEN or `hf auth login`."
        print(USAGE, "", about, sep="\n")
        return 0 if words else 2
    try:
        if len(words) < 2 or words[0].startswith("--") or words[1].startswith("--"):
            raise ValueError(f"the folder and the repository's name come first. {USAGE}")
        folder, name, *options = words
        for position, option in enumerate(options):
            is_key = position % 2 == 0
            if is_key and option not in ("--hub_private_repo", "--hub_revision"):
                raise ValueError(f"{option} is unknown. {USAGE}")
        quieten_libraries()
        path = finished_run(Path(folder)) / "settings.yaml"
        push(Path(folder), load_settings(path, ["--push_to_hub", name, *options]).hub)
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0
