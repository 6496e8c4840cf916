"""A model in another form: refused, or written aside, checked, and put into place whole.

1. What cannot be done shows before anything is written: a missing engine, a model that the form cannot express, a
   folder that holds something else.
2. Model, configs, tokenizer and ``export.json`` are written beside the folder.
3. What was written is run, and held against the model that it was made from.
4. It gets its card and takes the folder's place. Whatever fails before that leaves nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from seqloom import run_folder
from seqloom.decoding.exported import ENGINES, FORMAT, require
from seqloom.decoding.loading import Seq2SeqLM, is_of_ours, tokenizer_of, whole_model
from seqloom.export.card import card_of, is_as_made
from seqloom.export.checking import check, sample_of
from seqloom.export.forms import FORMS, TRACED, Form, form
from seqloom.support import disk
from seqloom.support.locks import Lock
from seqloom.support.wording import listing
from seqloom.training.clearing import SCORES
from seqloom.version import __version__

OWN = (run_folder.MARKER, run_folder.LOCK)


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked for."""

    model: str
    """A folder or a name on the Hub."""
    to: str
    """One of `FORMS`."""
    folder: Path
    """Where it goes."""
    dtype: str | None = None
    """Of the weights; None: the form's first."""
    sources: Path | None = None
    """Lines that the check decodes; None: the validation sources of the model's run."""
    revision: str | None = None
    trust_remote_code: bool = False
    overwrite: bool = False


def export(request: Request, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Exports a model.

    Args:
        request: What is asked for.
        say: Takes a line for the user.

    Returns:
        What was written to ``export.json``.

    Raises:
        ValueError: It cannot be done, or what was written does not give what the model gives. Nothing is left then.
    """
    place = request.folder.resolve()
    aside = place.with_name(f"saving-{place.name}")
    chosen = check_request(request, place)
    dtype = request.dtype or chosen.DTYPES[0]
    model, tokenizer = load(request)
    chosen.check(model, tokenizer, dtype)
    sample = sample_of(request.model, model, tokenizer, request.sources)
    check_aside(aside)
    place.parent.mkdir(parents=True, exist_ok=True)
    aside.mkdir(exist_ok=True)
    lock = Lock(aside / run_folder.LOCK)
    lock.acquire()
    is_there = False
    try:
        with disk.explained_when_full(aside, removes=False, advice=disk.AGAIN):
            clear_aside(aside)
            run_folder.mark(aside, run_folder.EXPORTED)
            keep_settings(Path(request.model), aside)
            model.config.save_pretrained(aside)
            model.generation_config.save_pretrained(aside)
            tokenizer.save_pretrained(aside)
            traced = ": its graphs are traced, which takes from some seconds to minutes" if request.to in TRACED else ""
            say(f"writing the model for {request.to} in {dtype}{traced}")
            about = {
                "seqloom": __version__,
                "format": FORMAT,
                "engine": chosen.ENGINE,
                "dtype": dtype,
                "model": place_less(request.model),
                "model_type": model.config.model_type,
                **chosen.write(model, tokenizer, aside, dtype),
            }
            about["files"] = sizes(aside)
            write_about(aside, about)
            about["checked"] = check(aside, model, tokenizer, sample, dtype, say)
            (aside / run_folder.CARD).write_text(card_of(Path(request.model), request.to, about, chosen.USE), "utf-8")
            write_about(aside, about)
            for path in aside.rglob("*"):
                disk.sync(path)
        check_place(place, request.overwrite)  # which may have changed meanwhile
        lock.release()
        disk.replace_folder(aside, place)
        is_there = True
    finally:
        lock.release()
        if not is_there:
            disk.remove(aside)
    return about


def check_request(request: Request, place: Path) -> Form:
    """Refuses what can be seen without loading the model; gives the form back."""
    if request.to not in FORMS:
        raise ValueError(f"--to is {request.to!r}; it can be {listing(FORMS)}.")
    recover(place)
    check_place(place, request.overwrite)
    source = Path(request.model)
    for path, what in ((source, "the model"), (request.sources, "the file of --sources")):
        if path is not None and path.exists() and path.resolve().is_relative_to(place):
            raise ValueError(f"{path}, {what}, lies in {request.folder}: choose another --output_dir.")
    chosen = form(request.to)
    if chosen.ENGINE in ENGINES:
        require(chosen.ENGINE, f"--to {request.to}")
    if request.dtype is not None and request.dtype not in chosen.DTYPES:
        raise ValueError(f"--dtype is {request.dtype!r}; --to {request.to} has {listing(chosen.DTYPES)}.")
    return chosen


def load(request: Request) -> tuple[Seq2SeqLM, PreTrainedTokenizerBase]:
    """The model, whole, in float32 and on the CPU, and its tokenizer.

    Raises:
        ValueError: There is none, or it is of no family of seqloom's.
    """
    model = whole_model(request.model, request.revision, request.trust_remote_code, torch.float32).eval()
    if not is_of_ours(model):
        raise ValueError(
            f"{request.model} is a {model.config.model_type}, of no family of seqloom's: export it with the engine's "
            "own converter (ct2-transformers-converter, optimum)."
        )
    return model, tokenizer_of(model, request.model, request.revision, request.trust_remote_code)


def check_place(place: Path, overwrite: bool) -> None:
    """Refuses to write over anything but what an export wrote.

    Raises:
        ValueError: There is something else.
    """
    if not place.exists() or (place.is_dir() and not any(place.iterdir())):
        return
    if not overwrite:
        raise ValueError(
            f"{place} is there already; give --overwrite to replace what was exported, or another --output_dir."
        )
    if not place.is_dir() or run_folder.EXPORTED not in run_folder.marked(place):
        raise ValueError(
            f"{place} holds no exported model, so --overwrite will not delete it; choose another --output_dir."
        )
    Lock(place / run_folder.LOCK).check()
    if others := foreign(place):
        raise ValueError(
            f"{place} holds more than what was exported ({listing(others[:5])}), which --overwrite would delete: move "
            "it, or choose another --output_dir."
        )


def foreign(place: Path) -> list[str]:
    """What is in an exported folder that no command of seqloom's wrote, or that was changed since."""
    try:
        own = {*run_folder.read_object(place / run_folder.EXPORT)["files"], run_folder.EXPORT}
    except (OSError, KeyError, TypeError):
        own = set()
    found = []
    for path in sorted(path for path in place.rglob("*") if not path.is_dir() or path.is_symlink()):
        name = path.relative_to(place).as_posix()
        is_score = path.parent.parent == place / "evaluation" and SCORES.fullmatch(path.name)
        is_card = name == run_folder.CARD and is_as_made(path.read_text(encoding="utf-8", errors="replace"))
        if name not in own and name not in OWN and not is_score and not is_card:
            found.append(name)
    return found


def check_aside(aside: Path) -> None:
    """Refuses to write where somebody else's files are.

    Raises:
        ValueError: There are, or another process exports to the same folder.
    """
    if not aside.exists():
        return
    early = {run_folder.LOCK, f"saving-{run_folder.MARKER}"}
    if not aside.is_dir() or (run_folder.EXPORTED not in run_folder.marked(aside)
                              and any(path.name not in early for path in aside.iterdir())):  # fmt: skip
        raise ValueError(f"{aside}, where the export would be written first, is something else: move it.")
    Lock(aside / run_folder.LOCK).check()


def clear_aside(aside: Path) -> None:
    """Deletes what a killed export left."""
    for path in aside.iterdir():
        if path.name not in OWN:
            disk.remove(path)


def recover(place: Path) -> None:
    """Brings back, or deletes, the older export that a kill left aside while the new one took its place."""
    old = place.with_name(f"old-{place.name}")
    if not old.is_dir() or run_folder.EXPORTED not in run_folder.marked(old):
        return
    if place.exists():
        disk.remove(old)
    else:
        os.replace(old, place)


def keep_settings(model: Path, aside: Path) -> None:
    """The settings of the model's run, by which ``seqloom evaluate`` finds its data, if it has them."""
    if (model / run_folder.SETTINGS).is_file():
        (aside / run_folder.SETTINGS).write_bytes((model / run_folder.SETTINGS).read_bytes())


def place_less(model: str) -> str:
    """A model's name without where its folder lies."""
    return Path(model).resolve().name if Path(model).is_dir() else model


def sizes(folder: Path) -> dict[str, int]:
    """Bytes of every file, but for the marker and the lock."""
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: path.stat().st_size for name, path in files.items() if name not in OWN}


def write_about(folder: Path, about: dict[str, Any]) -> None:
    """Writes ``export.json``."""
    (folder / run_folder.EXPORT).write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
