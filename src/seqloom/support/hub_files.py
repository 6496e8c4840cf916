"""Files of models, in a folder here or on the Hub, which is asked first whether it is in reach at all.

Without a network huggingface_hub tries for 23 seconds for each file that is not in its cache, six times over where a
name is mistyped; who knows that there is none says ``local_files_only``.
"""

from __future__ import annotations

import math
import time
from pathlib import Path

from huggingface_hub import constants, hf_hub_download
from huggingface_hub.errors import HTTPError
from huggingface_hub.utils import get_session

PATIENCE = 10.0
"""Seconds that the Hub has to answer."""
REMEMBERED = 60.0
"""Seconds for which its answer, or that there was none, is taken for granted: a network may come and go."""
_answers: dict[str, tuple[float, str | None]] = {}
"""Of every address, when it was asked and why there was no answer."""


def file_of(name: str, file: str, revision: str | None = None) -> Path | None:
    """Where a model's file lies, here, which is fetched if the model is the Hub's.

    None if it has none, there is no such model, or the Hub is out of reach and it was not fetched before.
    """
    if Path(name).is_dir():
        path = Path(name) / file
        return path if path.is_file() else None
    try:
        return Path(hf_hub_download(name, file, revision=revision, local_files_only=is_only_here(name)))
    except (OSError, ValueError):
        return None


def out_of_reach() -> str | None:
    """Why the Hub cannot be asked, if it cannot."""
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    asked, why = _answers.get(constants.ENDPOINT, (-math.inf, None))
    if time.monotonic() - asked > REMEMBERED:
        why = _no_answer(constants.ENDPOINT)
        _answers[constants.ENDPOINT] = time.monotonic(), why
    return why


def is_only_here(name: str | Path) -> bool:
    """Whether a name that is no folder can be found in the cache alone."""
    return not Path(name).is_dir() and out_of_reach() is not None


def _no_answer(endpoint: str) -> str | None:
    """Why its front page says nothing: whatever it says, it is there."""
    try:
        get_session().head(endpoint, timeout=PATIENCE)
    except (HTTPError, OSError) as error:
        return " ".join(str(error).split()) or type(error).__name__
    return None
