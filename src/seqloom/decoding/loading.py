"""Models of any make, ready to decode with."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from transformers import AutoModelForSeq2SeqLM, GenerationConfig, PreTrainedConfig, PreTrainedModel

from seqloom.support.xet import with_cure

if TYPE_CHECKING:
    from transformers import GenerationMixin

    class Seq2SeqLM(PreTrainedModel, GenerationMixin):
        """What ``AutoModelForSeq2SeqLM`` loads, of whatever family: no class of transformers says both."""

        # Theirs is declared as the function that it wraps.
        def to(self, *args: Any, **kwargs: Any) -> Seq2SeqLM: ...  # type: ignore[override]

else:
    Seq2SeqLM = PreTrainedModel

DEFAULT_MAX_NEW_TOKENS = 256


class GenerativeModel(Protocol):
    """What decoding needs of a model, and every encoder-decoder of transformers that has ``generate`` gives."""

    training: bool

    @property
    def config(self) -> PreTrainedConfig: ...

    @property
    def generation_config(self) -> GenerationConfig: ...

    @property
    def device(self) -> torch.device: ...

    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...

    def generate(self, *args: Any, **kwargs: Any) -> Any: ...

    def eval(self) -> Any: ...

    def train(self, mode: bool = True) -> Any: ...

    def set_attn_implementation(self, attn_implementation: str) -> Any: ...


def load_model(name: str, revision: str | None = None, trust_remote_code: bool = False) -> Seq2SeqLM:
    """A seq2seq model on the machine's accelerator, if it has one.

    Raises:
        ValueError: There is no such model, or it is not an encoder-decoder.
    """
    check_exists(name)
    try:
        model = AutoModelForSeq2SeqLM.from_pretrained(name, revision=revision, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise ValueError(f"no seq2seq model can be loaded from {name!r}: {with_cure(error)}") from None
    return model.to(torch.accelerator.current_accelerator() or "cpu").eval()


def check_exists(name: str) -> None:
    """Makes sure that what looks like a folder is one; the Hub knows whether it has the others."""
    parent = Path(name).parent
    is_path = name.startswith((".", "/", "~", "\\")) or (parent != Path() and parent.is_dir())
    if is_path and not Path(name).exists():
        raise ValueError(f"there is no folder {name}; give the output folder of a run, or a name on the Hub.")


@contextlib.contextmanager
def eager_attention(model: GenerativeModel) -> Iterator[None]:
    """The one implementation of attention that returns its weights, for a while."""
    implementation = model.config._attn_implementation
    is_switched = implementation not in (None, "eager")
    if is_switched:
        model.set_attn_implementation("eager")
    try:
        yield
    finally:
        if is_switched:
            model.set_attn_implementation(implementation)
