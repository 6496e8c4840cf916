"""Models of any make, ready to decode with."""

from __future__ import annotations

import contextlib
import pickle
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import (
    AutoModelForSeq2SeqLM,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from seqloom import run_folder
from seqloom.data.tokenization import check_matches, load_tokenizer, target_tokenizer
from seqloom.decoding.exported import ExportedModel, open_exported
from seqloom.decoding.values import check_value
from seqloom.modeling import CONFIG_CLASSES
from seqloom.support.hub_files import file_of, is_only_here, out_of_reach
from seqloom.support.machine import default_device
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
AS_IT_WAS = "take the folder as the training left it, or download it anew"
UNREADABLE = (
    OSError, ValueError, TypeError, LookupError, AttributeError, RuntimeError, EOFError,
    SafetensorError, StrictDataclassError, pickle.UnpicklingError,
)  # fmt: skip
"""What transformers raises over files that are damaged, each in its own way."""
IDS = ("pad_token_id", "eos_token_id", "decoder_start_token_id")
FORCED = ("forced_bos_token_id", "forced_eos_token_id")
LISTED = 3
"""Names that a message gives in full."""
LOADING = threading.Lock()
"""While transformers loads a model, functions of its classes and of torch are others. Two that threads load at once
would leave them so: what is made afterwards has no matrix tied."""
ATTENDING = threading.RLock()
"""While a model's attention is switched: the thread that ends first would switch it back under the other one."""


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

    def get_encoder(self) -> Any: ...

    def get_decoder(self) -> Any: ...

    def get_output_embeddings(self) -> Any: ...


def open_model(name: str, revision: str | None = None, trust_remote_code: bool = False) -> Seq2SeqLM | ExportedModel:
    """A model to decode with: one that `load_model` loads, or one that was exported.

    Raises:
        ValueError: As for `load_model`, `open_exported` and `exported_on_hub`.
    """
    folder = Path(name) if Path(name).is_dir() else exported_on_hub(name, revision, trust_remote_code)
    if folder is not None and run_folder.is_exported(folder):
        return load_exported(folder)
    return load_model(name, revision, trust_remote_code)


def exported_on_hub(name: str, revision: str | None = None, trust_remote_code: bool = False) -> Path | None:
    """Where the files lie, here, of an exported model on the Hub, which are fetched; None if it is no such model.

    Raises:
        ValueError: It is compiled code, and ``trust_remote_code`` is not given.
    """
    about = file_of(name, run_folder.EXPORT, revision)
    if about is None or not run_folder.is_exported(about.parent):
        return None
    if run_folder.read_object(about).get("engine") == "torch" and not trust_remote_code:
        raise ValueError(
            f"{name} is compiled code that somebody shared: if you trust whoever compiled it, give --trust_remote_code "
            "(in Python, trust_remote_code=True)."
        )
    commit = about.parent.name
    return Path(snapshot_download(name, revision=commit, local_files_only=is_only_here(name)))


def open_pair(
    name: str, revision: str | None = None, trust_remote_code: bool = False
) -> tuple[Seq2SeqLM | ExportedModel, PreTrainedTokenizerBase]:
    """`open_model`, and the tokenizer that fits.

    Raises:
        ValueError: As for `open_model` and `tokenizer_of`.
    """
    model = open_model(name, revision, trust_remote_code)
    return model, tokenizer_of(model, name, revision, trust_remote_code)


def load_exported(folder: str | Path) -> ExportedModel:
    """A model that ``seqloom export`` wrote for another engine, ready for `seqloom.translate`; its tokenizer is the
    folder's: ``AutoTokenizer.from_pretrained(folder)``.

    Raises:
        ValueError: It holds none, is damaged, or its engine is missing or of a version that does not read it.
    """
    check_exists(str(folder))
    if not run_folder.is_exported(Path(folder)):
        raise ValueError(
            f"{folder} holds no model that was exported to another engine: it has no {run_folder.EXPORT} of one; load "
            "it with AutoModelForSeq2SeqLM.from_pretrained."
        )
    model = open_exported(Path(folder))
    check_generation(str(folder), model)
    return model


def load_model(name: str, revision: str | None = None, trust_remote_code: bool = False) -> Seq2SeqLM:
    """A seq2seq model on the machine's accelerator, if it has one.

    Raises:
        ValueError: There is no such model, it is not an encoder-decoder, or what is there is damaged.
    """
    model = whole_model(name, revision, trust_remote_code)
    return model.to(default_device()).eval()


def whole_model(
    name: str, revision: str | None = None, trust_remote_code: bool = False, dtype: torch.dtype | None = None
) -> Seq2SeqLM:
    """A seq2seq model of which nothing is left random: all its files are read, and fit each other.

    Raises:
        ValueError: As for `load_model`; the message says what is wrong with which file.
    """
    check_exists(name, revision)
    if run_folder.is_exported(Path(name)):
        raise ValueError(
            f"{name} is an exported model, which seqloom translate, seqloom evaluate and seqloom.translate decode "
            "with; nothing else can be done with it: for that, give the model that it was made from."
        )
    check_files(name, revision)
    options: dict[str, Any] = {} if dtype is None else {"dtype": dtype}
    try:
        with LOADING:
            model, info = AutoModelForSeq2SeqLM.from_pretrained(
                name, revision=revision, trust_remote_code=trust_remote_code, output_loading_info=True,
                ignore_mismatched_sizes=True, local_files_only=is_only_here(name), **options,
            )  # fmt: skip
    except UNREADABLE as error:
        raise ValueError(f"no seq2seq model can be loaded from {name!r}: {with_cure(error)}") from None
    check_complete(name, info, is_of_ours(model))
    check_numbers(name, model)
    check_generation(name, model)
    return model


def is_of_ours(model: GenerativeModel) -> bool:
    """Whether a model is of a family of seqloom's, or of one that is registered with it."""
    return model.config.model_type in CONFIG_CLASSES


def check_files(name: str, revision: str | None = None) -> None:
    """Refuses what transformers passes over in silence, or stumbles over without the file's name.

    Raises:
        ValueError: A config is no JSON object, or a file of weights is missing or cut.
    """
    folder = Path(name)
    if folder.is_dir() and not any((folder / file).is_file() for file in (run_folder.CONFIG, "adapter_config.json")):
        raise ValueError(f"{name} holds no model: it has no {run_folder.CONFIG}; give the folder of one that is saved.")
    found = {}
    for file in (run_folder.CONFIG, "generation_config.json", "model.safetensors.index.json"):
        if (path := file_of(name, file, revision)) is not None:  # else it is no name of the Hub's, which loading says
            found[file] = run_folder.read_object(path)
    shards = found.get("model.safetensors.index.json", {"weight_map": {}}).get("weight_map")
    if not isinstance(shards, dict):
        raise ValueError(f"model.safetensors.index.json of {name} has no weight_map: {AS_IT_WAS}.")
    if not folder.is_dir():
        return
    files = [folder / shard for shard in dict.fromkeys(shards.values())]
    for path in files or folder.glob("model.safetensors"):
        if not path.is_file():
            raise ValueError(f"model.safetensors.index.json of {name} names {path.name}, which is absent: {AS_IT_WAS}.")
        try:
            with safe_open(path, "pt") as file:
                file.keys()
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged: {error}; {AS_IT_WAS}.") from None


def check_complete(name: str, info: dict[str, Any], is_own: bool = True) -> None:
    """Refuses weights that do not fit the config, by the ``output_loading_info`` of ``from_pretrained``.

    Args:
        is_own: Of seqloom's own families; of others, older versions may have left tensors that are no longer used.

    Raises:
        ValueError: They do not.
    """
    kinds = {
        "missing": info["missing_keys"],
        "of another shape": [key for key, *_ in info["mismatched_keys"]],
        "unknown to it": info["unexpected_keys"] if is_own or info["missing_keys"] else [],
    }
    faults = [f"{kind}: {_some(keys)}" for kind, keys in kinds.items() if keys]
    if faults:
        raise ValueError(
            f"the weights of {name} are not those of its {run_folder.CONFIG}: ({'; '.join(faults)}), so a part of the "
            f"model would be random or left out; {AS_IT_WAS}."
        )


def check_numbers(name: str, model: nn.Module) -> None:
    """Refuses weights that are no numbers.

    Raises:
        ValueError: Some are NaN or infinite.
    """
    wrong = [key for key, tensor in model.named_parameters() if not torch.isfinite(tensor).all()]
    if wrong:
        raise ValueError(
            f"the weights of {name} are not all finite numbers (NaN or infinite in {_some(wrong)}): the file is "
            "damaged, or the training that left it went astray; take another checkpoint."
        )


def check_generation(name: str, model: Seq2SeqLM | ExportedModel) -> None:
    """Refuses a generation config that nothing can be generated by; ids that it lacks are the config's.

    Raises:
        ValueError: It names tokens outside of the vocabulary, or values that an option cannot have.
    """
    generation = model.generation_config
    for option, value in vars(generation).items():
        check_value(option, value, f"generation_config.json of {name}: ")
    head = model.get_output_embeddings()
    rows = None if head is None else cast(nn.Linear, head).weight.shape[0]
    for key in (*IDS, *FORCED):
        for file, config in (("generation_config.json", generation), (run_folder.CONFIG, model.config)):
            value = getattr(config, key, None)
            for index in value if isinstance(value, list) else [] if value is None else [value]:
                if type(index) is not int or index < 0 or (rows is not None and index >= rows):
                    raise ValueError(
                        f"{file} of {name} has {key} {index!r}, but the model's vocabulary has the ids 0 to "
                        f"{(rows or 0) - 1:,}: {AS_IT_WAS}."
                    )
        if key in IDS and getattr(generation, key) is None:
            setattr(generation, key, getattr(model.config, key, None))
    if generation.decoder_start_token_id is None and generation.bos_token_id is None:
        raise ValueError(
            f"{run_folder.CONFIG} of {name} has no decoder_start_token_id, which its decoder would begin with: set it "
            "to the id that the model was trained with."
        )


def tokenizer_of(
    model: Seq2SeqLM | ExportedModel, name: str, revision: str | None = None, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """The tokenizer that lies with a model and fits it; ends and padding that neither config names are its own.

    Raises:
        ValueError: As for `load_tokenizer`; or it has tokens that the model has not.
    """
    generation, is_own = model.generation_config, is_of_ours(model)
    tokenizer = load_tokenizer(
        name, revision=revision, trust_remote_code=trust_remote_code,
        needs_end=is_own or generation.eos_token_id is None,
    )  # fmt: skip
    if is_own or isinstance(model, ExportedModel):
        check_matches(tokenizer, model.config)
    else:
        head = model.get_output_embeddings() or model.get_input_embeddings()
        sides = ((tokenizer, model.get_input_embeddings()), (target_tokenizer(tokenizer), head))
        for side, matrix in sides:
            rows, most = cast(nn.Linear, matrix).weight.shape[0], max(side.get_vocab().values(), default=-1) + 1
            if most > rows:
                raise ValueError(
                    f"the tokenizer of {name} has {most:,} entries, the model {rows:,} embeddings: they were not made "
                    "for each other; take the tokenizer that the model was trained with."
                )
    if generation.eos_token_id is None:
        generation.eos_token_id = tokenizer.eos_token_id
    if generation.pad_token_id is None:
        generation.pad_token_id = tokenizer.pad_token_id
    return tokenizer


def _some(names: Iterable[str]) -> str:
    first = sorted(names)
    return ", ".join(first[:LISTED]) + (f" and {len(first) - LISTED:,} more" if len(first) > LISTED else "")


def check_exists(name: str, revision: str | None = None) -> None:
    """Refuses what looks like a folder and is none, and what only a Hub that is out of reach could tell more about.

    Raises:
        ValueError: It is such a name.
    """
    if Path(name).exists():
        return
    parent = Path(name).parent
    if name.startswith((".", "/", "~", "\\")) or (parent != Path() and parent.is_dir()):
        raise ValueError(f"there is no folder {name}; give the output folder of a run, or a name on the Hub.")
    why = out_of_reach()
    if why and not any(file_of(name, file, revision) for file in (run_folder.CONFIG, run_folder.EXPORT)):
        raise ValueError(
            f"there is no folder {name} here, and the Hub, which may have a model of that name, is out of reach "
            f"({why}); nor was it fetched before: give the output folder of a run, or try again with a network."
        )


@contextlib.contextmanager
def eager_attention(model: GenerativeModel) -> Iterator[None]:
    """The one implementation of attention that returns its weights, for a while, in one thread at a time."""
    with ATTENDING:
        implementation = model.config._attn_implementation
        is_switched = implementation not in (None, "eager")
        if is_switched:
            model.set_attn_implementation("eager")
        try:
            yield
        finally:
            if is_switched:
                model.set_attn_implementation(implementation)
