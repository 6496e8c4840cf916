"""seqloom: sequence-to-sequence models, recurrent and Transformer, as ordinary citizens of the Hugging Face world.

Importing the package registers all families with transformers' Auto classes. Its own command line alone loads no more
than a command needs: for help, neither torch nor transformers.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqloom.support.starting import garbage_left
from seqloom.version import __version__ as __version__

if TYPE_CHECKING:
    from seqloom.decoding.coverage import coverage_beam_search as coverage_beam_search
    from seqloom.decoding.engine import decoder_for as decoder_for
    from seqloom.decoding.loading import load_exported as load_exported
    from seqloom.decoding.streaming import stream as stream
    from seqloom.decoding.translate import Hypothesis as Hypothesis
    from seqloom.decoding.translate import translate as translate
    from seqloom.modeling import *  # noqa: F403


def __getattr__(name: str) -> Any:
    """Loads all public names when one of them is asked for."""
    is_public = name == "__all__" or not (name.startswith("__") or importlib.util.find_spec(f"{__name__}.{name}"))
    if is_public:
        _load()
    if name not in globals():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return globals()[name]


def _load() -> None:
    """Makes the public names, those of every family among them, which registers these."""
    with garbage_left():
        models = importlib.import_module(f"{__name__}.modeling")
        from seqloom.decoding.coverage import coverage_beam_search
        from seqloom.decoding.engine import decoder_for
        from seqloom.decoding.loading import load_exported
        from seqloom.decoding.streaming import stream
        from seqloom.decoding.translate import Hypothesis, translate

    public = (Hypothesis, coverage_beam_search, decoder_for, load_exported, stream, translate)
    names = {name: getattr(models, name) for name in models.__all__}
    names |= {thing.__name__: thing for thing in public}
    globals().update(names, __all__=["__version__", *names])


def __dir__() -> list[str]:
    _load()
    return sorted(globals())


def _is_own_command() -> bool:
    """Whether ``seqloom``, ``python -m seqloom``, ``train.py`` or ``evaluate.py`` is what was started."""
    program = getattr(sys, "argv", None) or [""]
    if program[0] == "-m":  # while Python looks for the module
        return sys.orig_argv[-len(program)] in ("seqloom", "-mseqloom")
    return Path(program[0]).stem == "seqloom" or hasattr(sys.modules.get("__main__"), "IS_SEQLOOM")


if not _is_own_command():
    _load()
