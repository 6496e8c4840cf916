"""Who taught a model: the teacher by its name and its digests, what its own card says, and the card's words of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard, try_to_load_from_cache
from transformers import PreTrainedConfig

from seqloom import run_folder
from seqloom.modeling import Seq2SeqConfig
from seqloom.scoring import metrics
from seqloom.sharing.privacy import last_part
from seqloom.support.disk import sha256
from seqloom.support.hub_files import file_of
from seqloom.support.wording import as_code, in_markdown, together

NO_PART = {
    run_folder.SETTINGS, run_folder.DATA, run_folder.LOG, run_folder.RECORD, run_folder.CARD, run_folder.CURVE,
    run_folder.EXPORT, run_folder.TRACKERS, "progress.json", "manifest.json", "checkpoints", "evaluation",
}  # fmt: skip
"""Files and folders beside a model that it does not decode by."""


def describe_teacher(name: str, config: PreTrainedConfig, revision: str | None = None) -> dict[str, Any]:
    """A teacher in plain values, by which it is known again, without where its folder lies.

    Args:
        name: Folder, or name on the Hub.
        config: The loaded model's.
        revision: Of the Hub, as it was asked for.
    """
    folder = Path(name)
    about: dict[str, Any] = {"name": folder.resolve().name if folder.is_dir() else name}
    if folder.is_dir():
        places = {path: path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()}
        about["files"] = {
            place.as_posix(): sha256(path)
            for path, place in places.items()
            if place.parts[0] not in NO_PART and not place.parts[0].startswith(".")
        }
    else:
        about["revision"] = commit_of(name, revision)
    about["model_type"] = config.model_type
    if isinstance(config, Seq2SeqConfig):
        about["architecture"] = config.describe()
    return about | _of_card(name, revision)


def commit_of(name: str, revision: str | None = None) -> str | None:
    """The commit of a model of the Hub that was just loaded, as the cache has it: transformers does not tell."""
    config = try_to_load_from_cache(name, run_folder.CONFIG, revision=revision)
    return Path(config).parent.name if isinstance(config, str) else None


def _of_card(name: str, revision: str | None) -> dict[str, Any]:
    """Licence and languages that a model's own card states."""
    if (path := file_of(name, run_folder.CARD, revision)) is None:
        return {}
    try:
        header = ModelCard.load(path, ignore_metadata_errors=True).data.to_dict()
    except (OSError, ValueError, yaml.YAMLError):  # it is damaged
        return {}
    return {key: header[key] for key in ("license", "language") if header.get(key) not in (None, "unknown", [])}


def is_same_teacher(before: dict[str, Any], now: dict[str, Any]) -> bool:
    """Whether two descriptions are of the same model: the same commit, or a folder's files, wherever it lies now."""
    return all(before.get(key) == now.get(key) for key in ("files", "revision", "model_type"))


def teachings(record: dict[str, Any]) -> list[dict[str, Any]]:
    """All that a run was taught, by its record: ``teacher``, ``kind``, and how."""
    data = record["data"]
    origins = [entry["train"] for entry in data.get("mix", ())] or [data["splits"].get("train")]
    files = [file for origin in origins if isinstance(origin, list) for file in origin]
    found = [file["distilled"] | {"file": file["name"]} for file in files if "distilled" in file]
    return found + ([record["teacher"]] if record.get("teacher") else [])


def in_words(teaching: dict[str, Any]) -> str:
    """``tiny (sequence-level, beam 5)``, ``tiny (word-level, α 0.5, temperature 2)``"""
    if teaching["kind"] == "word":
        how = [f"α {teaching['alpha']:g}", f"temperature {teaching['temperature']:g}"]
        how += [f"top {teaching['top_k']:,}"] if teaching["top_k"] else []
    else:
        decoding = teaching["decoding"]
        beams = decoding.get("num_beams") or 1
        is_drawn = decoding.get("do_sample") is True
        how = ["drawn" if is_drawn else f"beam {beams:,}" if beams > 1 else "greedy"]
        if decoding.get("best_of", 1) > 1:
            how.append(f"best of {decoding['best_of']:,} by {metrics.label(decoding['metric'])}")
    return f"{name_of(teaching)} ({teaching['kind']}-level, {', '.join(how)})"


def name_of(teaching: dict[str, Any]) -> str:
    """The teacher's name as the card shows it."""
    teacher = teaching["teacher"]
    return in_markdown(teacher["name"] if "revision" in teacher else last_part(teacher["name"]))


def distilled_from(record: dict[str, Any]) -> str:
    """``distilled from tiny (sequence-level, beam 5)``; nothing where a run had no teacher."""
    words = list(dict.fromkeys(map(in_words, teachings(record))))
    return f"distilled from {together(words)}" if words else ""


def teachers_section(record: dict[str, Any]) -> list[str]:
    """The card's paragraphs of who taught and what was kept of it."""
    return [_paragraph(teaching) for teaching in teachings(record)]


def _paragraph(teaching: dict[str, Any]) -> str:
    teacher, words = teaching["teacher"], in_words(teaching)
    what = f": {teacher['architecture']}" if teacher.get("architecture") else f", a {as_code(teacher['model_type'])}"
    if teacher.get("language"):
        languages = teacher["language"] if isinstance(teacher["language"], list) else [teacher["language"]]
        what += f"; languages {in_markdown(', '.join(map(str, languages)))}"
    if teacher.get("revision"):
        what += f"; revision {as_code(teacher['revision'])}"
    weights = {
        name: digest
        for name, digest in teacher.get("files", {}).items()
        if name.endswith((".safetensors", ".bin", ".onnx", ".onnx.data", ".pt2"))
    }
    what += "".join(f"; {in_markdown(name)} with sha256 {as_code(digest)}" for name, digest in weights.items())
    if teaching["kind"] == "word":
        return f"Besides the labels, the training loss has the probabilities of a teacher, {words}{what}."
    pairs = teaching["pairs"]
    dropped = pairs["sources"] - pairs["kept"] - pairs["empty"]
    parts = [
        f"The targets of {in_markdown(teaching['file'])} are outputs of a teacher, {words}{what}. Of its outputs for "
        f"{pairs['sources']:,} training sources of {in_markdown(teaching['sources'])}, {pairs['kept']:,} were kept; "
        f"{pairs['empty']:,} were empty and {dropped:,} cut at the limit of length."
    ]
    if kept := pairs["cut"] - dropped:
        parts.append(f"{kept:,} that were cut too are among those kept.")
    if teaching.get("changed_since"):
        parts.append("The file was changed since.")
    return " ".join(parts)


def licence_note(record: dict[str, Any]) -> str:
    """What the licences of the teachers mean for the student; nothing where there is no teacher."""
    notes = {}
    for teaching in teachings(record):
        licence = teaching["teacher"].get("license")
        stated = f"is {in_markdown(str(licence))} by its own card" if licence else "is not stated by a card of its own"
        notes[name_of(teaching)] = f"The licence of its teacher {name_of(teaching)} {stated}"
    if not notes:
        return ""
    return f"{'; '.join(notes.values())}: see whether it lets you use what was learnt from its outputs."
