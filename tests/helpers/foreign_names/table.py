"""The table of names that are not promised to stay: how a row is entered, and what the checks of rows use."""

import functools
import inspect
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass

from tokenizers import Tokenizer, models, pre_tokenizers

import seqloom.modeling as ours
from helpers.tiny import VOCAB, batch


@dataclass(frozen=True)
class Row:
    kind: str
    library: str
    name: str
    where: tuple[str, ...]
    """Our files, without their folders, so that they may move."""
    why: str
    check: Callable[..., None]
    """Its docstring says what the name must do; its parameters are fixtures, and ``name``: the row's last part."""


TABLE: list[Row] = []


def leans_on(kind: str, library: str, names: str, where: str, why: str):
    """Enters a row for each of the names, which one check is for."""

    def enter(check: Callable[..., None]) -> Callable[..., None]:
        TABLE.extend(Row(kind, library, name, tuple(where.split()), why, check) for name in names.split(" | "))
        return check

    return enter


def watch(monkeypatch, owner: type | types.ModuleType, name: str) -> list[str]:
    """Who calls ``owner.name`` from now on, by the first part of the caller's module: ``["transformers", …]``."""
    original, callers = getattr(owner, name), []

    @functools.wraps(original)
    def spy(*args, **kwargs):
        callers.append(sys._getframe(1).f_globals["__name__"].partition(".")[0])
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, staticmethod(spy) if inspect.ismethod(original) else spy)
    return callers


class Read:
    """A class attribute that notes who reads it, as `watch` notes who calls."""

    def __init__(self, value):
        self.value, self.readers = value, []

    def __get__(self, instance, owner):
        self.readers.append(sys._getframe(1).f_globals["__name__"].partition(".")[0])
        return self.value


def watch_reads(monkeypatch, owner: type, name: str) -> list[str]:
    """Who reads ``owner.name``, which must be there, from now on."""
    attribute = Read(vars(owner)[name])
    monkeypatch.setattr(owner, name, attribute)
    return attribute.readers


def generate(model, **options):
    inputs = {name: value for name, value in batch().items() if name != "labels"}
    return model.generate(**inputs, **{"max_new_tokens": 4, "return_dict_in_generate": True} | options)


def words(size: int = VOCAB) -> Tokenizer:
    """A tokenizer of single letters."""
    specials = ["<pad>", "<s>", "</s>", "<unk>"]
    vocabulary = {token: index for index, token in enumerate([*specials, *"abcdefghijklmnopqrstuvwxyz"][:size])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


SPECIAL = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def pair() -> ours.Seq2SeqPairTokenizer:
    return ours.Seq2SeqPairTokenizer(tokenizer_object=words(), target_tokenizer_object=words(10), **SPECIAL)
