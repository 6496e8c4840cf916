"""Which errors are one sentence for whoever typed a command, and which one. Any other is a mistake of ours."""

from __future__ import annotations

import json
import os
import re
import sys
import time

PIP_NAMES = {"google": "protobuf", "sklearn": "scikit-learn", "yaml": "PyYAML"}
"""Packages that pip knows by another name than Python."""
LONGEST = 1200
"""Characters of a sentence."""
TOO_LARGE = r"out of memory|can't allocate memory|storage size calculation overflow|numel.*overflow|invalid buffer size"
"""How torch says that a tensor is larger than what there is; on a CPU it has no class of its own for that."""


def sentence(error: BaseException) -> str | None:
    """What there is to say of it; None: its traceback is wanted."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    said = shortened(" ".join(str(error).split()))
    if isinstance(error, ImportError):
        return missing_package(error)
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and re.search(TOO_LARGE, said, re.I)):
        return (
            f"there is not enough memory ({said or 'the system gave none'}); take a smaller model, "
            "training.batch_tokens or generation.decode_batch_tokens, or a larger machine."
        )
    if isinstance(error, OverflowError):
        return f"a number is larger than what can be reckoned with ({said}); look at the largest ones that you gave."
    if isinstance(error, (ValueError, OSError, StrictDataclassError, SafetensorError)):
        return said or f"{type(error).__name__}, without a word of why"
    return None


def shortened(text: str) -> str:
    """Its beginning and its end, where somebody's value made it longer than one reads."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} … {text[-LONGEST // 3 :]}"


def missing_package(error: ImportError) -> str | None:
    """The package to install; None where it is ours, or there but without what was looked for."""
    if error.name is None and "install" in str(error):  # of transformers and evaluate, which say it themselves
        return " ".join(str(error).split())
    package = (error.name or "seqloom").partition(".")[0]
    if not isinstance(error, ModuleNotFoundError) or package in ("seqloom", "modeling"):
        return None
    if package in sys.modules and error.name != package:  # it is there: it is its version that is wrong, or we are
        return None
    return f"the package {package} is needed for this and not installed: pip install {PIP_NAMES.get(package, package)}"


def tell_launcher(text: str) -> None:
    """Leaves the sentence where torchrun and ``accelerate launch`` look for it: their own report, which comes after it,
    ends with it then."""
    if path := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        message = {"message": text, "extraInfo": {"timestamp": str(int(time.time()))}}
        with open(path, "w", encoding="utf-8") as file:
            json.dump({"message": message}, file)
