"""seqloom: sequence-to-sequence models, recurrent and Transformer, as ordinary citizens of the Hugging Face world.

Importing the package registers both families with transformers' Auto classes. Its own command line alone loads no more
than a command needs: for help, neither torch nor transformers.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqloom.version import __version__

if TYPE_CHECKING:
    from seqloom.decoding.translate import Hypothesis, stream, translate
    from seqloom.modeling import (
        RnnSeq2SeqConfig,
        RnnSeq2SeqForConditionalGeneration,
        RnnSeq2SeqModel,
        RnnSeq2SeqPreTrainedModel,
        Seq2SeqPairTokenizer,
        Seq2SeqPipeline,
        TransformerSeq2SeqConfig,
        TransformerSeq2SeqForConditionalGeneration,
        TransformerSeq2SeqModel,
        TransformerSeq2SeqPreTrainedModel,
    )

__all__ = [
    "Hypothesis",
    "RnnSeq2SeqConfig",
    "RnnSeq2SeqForConditionalGeneration",
    "RnnSeq2SeqModel",
    "RnnSeq2SeqPreTrainedModel",
    "Seq2SeqPairTokenizer",
    "Seq2SeqPipeline",
    "TransformerSeq2SeqConfig",
    "TransformerSeq2SeqForConditionalGeneration",
    "TransformerSeq2SeqModel",
    "TransformerSeq2SeqPreTrainedModel",
    "__version__",
    "stream",
    "translate",
]


def __getattr__(name: str) -> Any:
    """Loads all public names when one of them is asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from seqloom import modeling
    from seqloom.decoding.translate import Hypothesis, stream, translate

    models = {model: getattr(modeling, model) for model in modeling.__all__}
    globals().update(models, Hypothesis=Hypothesis, stream=stream, translate=translate)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _is_own_command() -> bool:
    """Whether ``seqloom``, ``python -m seqloom``, ``train.py`` or ``evaluate.py`` is what was started."""
    program = getattr(sys, "argv", None) or [""]
    if program[0] == "-m":  # while Python looks for the module
        return sys.orig_argv[-len(program)] in ("seqloom", "-mseqloom")
    return Path(program[0]).stem == "seqloom" or hasattr(sys.modules.get("__main__"), "IS_SEQLOOM")


if not _is_own_command():
    __getattr__("translate")
