"""A model compiled once for this machine, kept among the Hugging Face libraries' assets (``translate --compile``).

It is what ``seqloom export --to torch`` writes, under a name made of all that it depends on: weights, configs and
tokenizer, torch, and the processor's instructions.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from huggingface_hub import cached_assets_path

from seqloom import run_folder
from seqloom.decoding.run_torch import machine
from seqloom.export.export import Request, export, load
from seqloom.version import __version__


def compiled(model: str, revision: str | None, trust_remote_code: bool, say: Callable[[str], None] = print) -> Path:
    """The folder of a compiled model, which is made if it is not there.

    Args:
        model: A folder or a name on the Hub.
        revision, trust_remote_code: As everywhere.
        say: Takes a line for the user.

    Raises:
        ValueError: As for `export`.
    """
    request = Request(
        model=model, to="torch", folder=Path(), revision=revision, trust_remote_code=trust_remote_code
    )  # fmt: skip
    folder = cached_assets_path("seqloom", "compiled", digest(request))
    if not (folder / run_folder.EXPORT).is_file():
        say(f"compiling {model} for this machine, once; it is kept in {folder}")
        export(Request(**{**vars(request), "folder": folder}), say)
    return folder


def digest(request: Request) -> str:
    """Of all that a compiled model depends on."""
    model, tokenizer = load(request)
    told = [
        __version__, machine(), model.config.to_dict(), model.generation_config.to_dict(), repr(tokenizer),
        str(getattr(tokenizer, "backend_tokenizer", None) and tokenizer.backend_tokenizer.to_str()),
    ]  # fmt: skip
    found = hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        found.update(name.encode())
        found.update(tensor.contiguous().numpy().data)
    return found.hexdigest()[:32]
