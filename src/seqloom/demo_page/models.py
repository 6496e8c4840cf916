"""The models of a demo page: loaded, and what is said of each."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard
from transformers import PreTrainedTokenizerBase

from seqloom import run_folder
from seqloom.decoding.asked import NotOurs
from seqloom.decoding.engine import decoder_for
from seqloom.decoding.loading import Seq2SeqLM, load_model, tokenizer_of
from seqloom.decoding.search import Decoder
from seqloom.decoding.translate import translate
from seqloom.support.hub_files import file_of

MOST_EXAMPLES = 6


@dataclass(frozen=True)
class Shown:
    """A model of the page."""

    name: str
    """As it was given."""
    title: str
    """Its own name: a folder's, or what stands behind the user's."""
    family: str
    parameters: int
    languages: list[str]
    """Of its card: where there are two or more, the first is the source's."""
    examples: list[str]
    """Sentences that its card or its run shows."""
    model: Seq2SeqLM
    tokenizer: PreTrainedTokenizerBase
    decoder: Decoder | None
    """None: a model of another make, which decodes by itself."""

    def say(self, ids: Sequence[int]) -> str:
        """The text of an output."""
        text = self.tokenizer.decode(list(ids), skip_special_tokens=True)
        assert isinstance(text, str)  # of several outputs it would be a list
        return text


def open_models(names: Sequence[str], revision: str | None = None, trust_remote_code: bool = False) -> list[Shown]:
    """Loads the models.

    Raises:
        ValueError: As for `load_model` and `tokenizer_of`; or one is named twice.
    """
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise ValueError(f"{twice[0]} is named twice: name each model once.")
    return [open_one(name, revision, trust_remote_code) for name in names]


def open_one(name: str, revision: str | None, trust_remote_code: bool) -> Shown:
    """Loads one."""
    model = load_model(name, revision, trust_remote_code)
    tokenizer = tokenizer_of(model, name, revision, trust_remote_code)
    decoder = None
    with contextlib.suppress(NotOurs):
        decoder = decoder_for(model)
    # The first call of any is slower, and its time would be shown.
    translate(model, tokenizer, "a", decoder=decoder, max_new_tokens=4, num_beams=2, do_sample=False)
    header = header_of(name, revision)
    return Shown(
        name=name,
        title=Path(name).resolve().name if Path(name).is_dir() else name.rpartition("/")[2],
        family=getattr(model.config, "name_in_words", type(model).__name__),
        parameters=model.num_parameters(),
        languages=texts_of(header.get("language")),
        examples=examples_of(name, revision, header),
        model=model,
        tokenizer=tokenizer,
        decoder=decoder,
    )


def header_of(name: str, revision: str | None) -> dict[str, Any]:
    """What stands above a model's card; nothing where it has none that can be read."""
    try:
        path = file_of(name, run_folder.CARD, revision)
        return {} if path is None else ModelCard.load(path, ignore_metadata_errors=True).data.to_dict()
    except (ValueError, yaml.YAMLError):  # somebody's own, which is no matter of the page's
        return {}


def examples_of(name: str, revision: str | None, header: dict[str, Any]) -> list[str]:
    """The texts of the card's widget, or the example of the model's run."""
    widget = header.get("widget")
    entries = widget if isinstance(widget, list) else []
    if found := texts_of([entry.get("text") for entry in entries if isinstance(entry, dict)]):
        return found[:MOST_EXAMPLES]
    try:
        record = file_of(name, run_folder.RECORD, revision)
        return [] if record is None else texts_of(run_folder.read_object(record).get("example"))
    except ValueError:
        return []


def texts_of(value: Any) -> list[str]:
    """A text, or those of a list."""
    return [text for text in (value if isinstance(value, list) else [value]) if isinstance(text, str) and text.strip()]


def sources_differ(models: Sequence[Shown]) -> dict[str, str]:
    """Source language by title, if the models that name theirs do not all name the same; else nothing."""
    told = {model.title: model.languages[0] for model in models if len(model.languages) > 1}
    return told if len(set(told.values())) > 1 else {}
