"""What a model can be exported to, and what each form must have.

A form is a file ``to_NAME.py`` of this room, loaded when it is asked for; what runs it is in
`seqloom.decoding.exported.ENGINES`, but for ``marian``, which transformers itself runs.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, Protocol, cast

from transformers import PreTrainedTokenizerBase

FORMS = ("marian", "ctranslate2", "onnx", "torch")
"""What stands behind ``--to``."""
TRACED = ("onnx", "torch")
"""Those that are made from the model's graphs, which takes its time."""


class Form(Protocol):
    """What a module ``to_NAME.py`` has."""

    ENGINE: str
    """What runs it: one of `seqloom.decoding.exported.ENGINES`, or ``transformers``."""
    DTYPES: tuple[str, ...]
    """What weights can be written in, the default first."""
    USE: str
    """How it is run without seqloom: lines of Python for the card, in which {folder} stands for the folder."""

    def check(self, model: Any, tokenizer: PreTrainedTokenizerBase, dtype: str) -> None:
        """Refuses what the form cannot express, before anything is written.

        Raises:
            ValueError: There is something; the message says what would do instead.
        """

    def write(self, model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path, dtype: str) -> dict[str, Any]:
        """Writes the model alone, and no file of the names that the folder has already.

        Args:
            model: Of one of seqloom's families, in evaluation mode, float32, on the CPU.
            tokenizer: Its own.
            folder: Holds config.json, generation_config.json and the tokenizer.
            dtype: One of `DTYPES`.

        Returns:
            For ``export.json``: ``engine_version``; where the form has an end to positions,
            ``max_source_positions`` and ``max_target_positions``; ``notes``, a list of sentences for the card.
        """


def form(name: str) -> Form:
    """The module of a form."""
    return cast(Form, importlib.import_module(f"seqloom.export.to_{name}"))
