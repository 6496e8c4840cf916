"""A model that was exported, as a search and `generate` see it; and the engines that run such models.

An engine either scores the next tokens, as a `Decoder` that our search asks, or searches by itself, as a `Searcher`.
Each has a file, ``run_NAME.py``, whose ``open_engine(folder, about)`` reads what ``seqloom export`` wrote.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import GenerationConfig
from transformers.generation import GenerationMixin

from seqloom import run_folder
from seqloom.decoding.asked import NotHere, NotOurs, options_for
from seqloom.decoding.search import Decoder, search
from seqloom.decoding.targets import Candidate, SearchOptions
from seqloom.modeling import CONFIG_CLASSES
from seqloom.modeling.modeling_seq2seq import GivenLengthsMixin
from seqloom.support.wording import listing

FORMAT = 1
"""Of ``export.json``; a later one may not be read by this version."""
EDITABLE = ("generation_config.json", run_folder.SETTINGS)
"""Files that may be changed: the search that is the model's own, and where its data are."""
NEEDED = ("seqloom", "format", "engine", "engine_version", "dtype", "model", "model_type", "files")
"""What ``export.json`` says at least."""


@dataclass(frozen=True)
class Engine:
    """What runs an exported model."""

    package: str
    """That Python imports."""
    extra: str | None
    """Of seqloom's, which installs it."""
    module: str
    """Ours, below `seqloom.decoding`, that opens a folder."""


ENGINES = {
    "ctranslate2": Engine("ctranslate2", "ctranslate2", "run_ctranslate2"),
    "onnx": Engine("onnxruntime", "onnx", "run_onnx"),
    "torch": Engine("torch", None, "run_torch"),
}
"""By their names in ``export.json`` and behind ``--to``."""


@runtime_checkable
class Searcher(Protocol):
    """An engine that searches by itself."""

    def check(self, options: SearchOptions) -> None:
        """Raises `NotOurs`, which names it, where something is asked that the engine has not, or has otherwise."""

    def search(
        self, sources: Sequence[list[int]], options: SearchOptions, *, batch_tokens: int
    ) -> Iterator[tuple[int, list[Candidate]]]:
        """As `seqloom.decoding.search.search`."""

    def score(self, sources: Sequence[list[int]], targets: Sequence[list[int]], start_token: int) -> list[list[float]]:
        """log p of every target token, given its source and the tokens before it."""


class ExportedModel(GivenLengthsMixin, GenerationMixin):
    """Takes the place of a model in `seqloom.translate`, and has ``generate``.

    Args:
        folder: Where it lies.
        about: What its ``export.json`` says.
        config: The model's own.
        generation_config: Likewise.
        engine: What runs it.
    """

    training = False
    device = torch.device("cpu")

    def __init__(
        self, folder: Path, about: dict[str, Any], config: Any, generation_config: GenerationConfig,
        engine: Decoder | Searcher,
    ):  # fmt: skip
        self.folder, self.about, self.config, self.generation_config = folder, about, config, generation_config
        self.engine = engine
        self.max_source_positions: int | None = about.get("max_source_positions")
        self.max_target_positions: int | None = about.get("max_target_positions")

    def eval(self) -> ExportedModel:
        """Itself, which is always in evaluation mode."""
        return self

    def train(self, mode: bool = True) -> ExportedModel:
        """Itself: it cannot be trained."""
        return self

    def get_output_embeddings(self) -> Any:
        """None: there are none to be looked at."""
        return None

    def get_encoder(self) -> Any:
        """Refuses, as a call does."""
        return self()

    def get_decoder(self) -> Any:
        """Refuses, as a call does."""
        return self()

    def set_attn_implementation(self, attn_implementation: str) -> Any:
        """Refuses, as a call does."""
        return self()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Refuses: there is no pass of teacher forcing, of attention or of gradients.

        Raises:
            ValueError: Always.
        """
        raise ValueError(self.refusal("give logits, attentions or gradients"))

    def refusal(self, what: str) -> str:
        """The sentence of something that it cannot do."""
        return (
            f"{self.folder} is a model exported to {self.about['engine']}, which cannot {what}: for that, take the "
            f"model that it was made from ({self.about['model']})."
        )

    def asked(self, generate_kwargs: dict[str, Any]) -> SearchOptions:
        """What is to be searched.

        Raises:
            ValueError: Something that the engine has not.
        """
        try:
            if generate_kwargs.get("coverage_penalty"):
                raise NotOurs(f"coverage_penalty is {generate_kwargs['coverage_penalty']}, and needs attentions")
            options = options_for(self, generate_kwargs)
            if isinstance(self.engine, Searcher):
                self.engine.check(options)
        except NotOurs as reason:
            raise ValueError(self.refusal(f"decode so: {reason}")) from None
        return options

    def search(
        self,
        sources: Sequence[list[int]],
        options: SearchOptions,
        *,
        batch_tokens: int = 4096,
        prefixes: Sequence[list[int]] | None = None,
    ) -> Iterator[tuple[int, list[Candidate]]]:
        """Outputs of all sources, as they are done; as `seqloom.decoding.search.search`.

        Raises:
            ValueError: There are prefixes, and the engine searches by itself.
        """
        if not isinstance(self.engine, Searcher):
            return search(self.engine, sources, options, batch_tokens=batch_tokens, prefixes=prefixes)
        if prefixes is not None:
            raise ValueError(self.refusal("begin its outputs with a given text"))
        return self.engine.search(sources, options, batch_tokens=batch_tokens)

    def score(self, sources: Sequence[list[int]], targets: Sequence[list[int]], start_token: int) -> list[list[float]]:
        """log p of every target token, given its source and the tokens before it."""
        if isinstance(self.engine, Searcher):
            return self.engine.score(sources, targets, start_token)
        return forced(self.engine, sources, targets, start_token)

    def generate(  # type: ignore[override]
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **generate_kwargs: Any
    ) -> torch.Tensor:
        """As a model's: ids (batch · returned, 1 + target), which begin with the start token.

        Raises:
            ValueError: Something is asked for that the engine has not.
        """
        options = self.asked(generate_kwargs)
        is_token = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        sources = [ids[mask].tolist() for ids, mask in zip(input_ids, is_token, strict=True)]
        found = dict(self.search(sources, options))
        rows = [[options.start_token, *one.tokens] for index in range(len(sources)) for one in found[index]]
        width = max(map(len, rows))
        return torch.tensor([row + [options.pad_token] * (width - len(row)) for row in rows])


@torch.inference_mode()
def forced(
    decoder: Decoder, sources: Sequence[list[int]], targets: Sequence[list[int]], start_token: int
) -> list[list[float]]:
    """`ExportedModel.score`, by a decoder's own steps; one after the other, since they are of any length."""
    scores = []
    for source, target in zip(sources, targets, strict=True):
        ids = torch.tensor([source], device=decoder.device)
        state = decoder.start(ids, torch.ones_like(ids), 1)
        mine = []
        for last, token in zip([start_token, *target], target, strict=False):
            logits = decoder.step(torch.tensor([last], device=decoder.device), state)  # (1, vocab)
            mine.append(float(nn.functional.log_softmax(logits, -1)[0, token]))
        scores.append(mine)
    return scores


def read_about(folder: Path) -> dict[str, Any]:
    """What a folder's ``export.json`` says.

    Raises:
        ValueError: It is damaged, of a later version of seqloom, or not of all that lies there.
    """
    path = folder / run_folder.EXPORT
    about = run_folder.read_object(path)
    if isinstance(about.get("format"), int) and about["format"] > FORMAT:
        raise ValueError(
            f"{path} was written by seqloom {about.get('seqloom')}, which has a later form of it than this version "
            f"reads ({about['format']}, {FORMAT}): pip install --upgrade seqloom, or export the model again."
        )
    lacking = [name for name in NEEDED if name not in about]
    if lacking or not isinstance(about["files"], dict):
        raise ValueError(f"{path} is damaged: it lacks {listing(lacking or ['files'])}; export the model again.")
    for name, size in about["files"].items():
        if name in EDITABLE:
            continue
        file = folder / name
        if not file.is_file() or file.stat().st_size != size:
            found = f"has {file.stat().st_size:,} bytes of {size:,}" if file.is_file() else "is missing"
            raise ValueError(f"{folder} is not as it was exported: {name} {found}; export the model again.")
    return about


def require(engine: str, what: str) -> None:
    """Makes sure that an engine is installed.

    Args:
        engine: One of `ENGINES`.
        what: That needs it.

    Raises:
        ValueError: It is not.
    """
    needed = ENGINES[engine]
    if importlib.util.find_spec(needed.package) is None:
        raise ValueError(f"{what} needs {needed.package}: pip install 'seqloom[{needed.extra}]'")


def open_exported(folder: Path) -> ExportedModel:
    """An exported model, ready to decode with.

    Raises:
        ValueError: The folder is damaged, or its engine is missing or of a version that does not read it.
    """
    about = read_about(folder)
    name = about["engine"]
    if name not in ENGINES:
        raise ValueError(f"{folder} was exported to {name!r}; this version of seqloom runs {listing(ENGINES)}.")
    require(name, f"{folder}, a model exported to {name},")
    try:
        fields = run_folder.read_object(folder / run_folder.CONFIG)
        config = CONFIG_CLASSES[about["model_type"]].from_dict(fields)
        generation_config = GenerationConfig.from_dict(run_folder.read_object(folder / "generation_config.json"))
    except (KeyError, TypeError, OSError, StrictDataclassError) as error:
        raise ValueError(f"{folder} is not as it was exported: {error}; export the model again.") from None
    module: Any = importlib.import_module(f"seqloom.decoding.{ENGINES[name].module}")
    package: Any = importlib.import_module(ENGINES[name].package)
    try:
        engine = module.open_engine(folder, about)
    except NotHere:
        raise
    except (RuntimeError, ValueError, OSError) as error:  # each engine says in its own way what it cannot read
        said, cause = " ".join(str(error).split()).rstrip("."), "the files are damaged: export the model again."
        here = getattr(package, "__version__", "of another version")
        if here != about["engine_version"]:
            cause = (
                f"it was written for {ENGINES[name].package} {about['engine_version']}, and {here} is installed: take "
                "the former, or export the model again."
            )
        raise ValueError(f"{ENGINES[name].package} cannot read {folder} ({said}); {cause}") from None
    return ExportedModel(folder, about, config, generation_config, engine)
