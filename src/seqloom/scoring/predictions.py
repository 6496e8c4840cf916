"""Predictions and scores, kept and read again."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from seqloom import run_folder
from seqloom.scoring import metrics
from seqloom.scoring.significance import Statistics
from seqloom.support import disk
from seqloom.support.foreign import from_json
from seqloom.support.locks import Lock


class Predictions(NamedTuple):
    """What ``predictions.jsonl`` holds, in the order of its lines."""

    sources: list[str]
    references: list[str]
    """As they were given."""
    hypotheses: list[str]
    scored: list[str] | None = None
    """What the hypotheses were held against: the references as the model's tokenizer normalises them; None: as they
    were given."""
    normalization: str | None = None
    """How they were normalised."""

    @property
    def scored_references(self) -> list[str]:
        return self.references if self.scored is None else self.scored


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """The folder is there, and no other process works in it; one that was made and stays empty goes again.

    Raises:
        FolderInUse: One does.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with Lock(folder / run_folder.LOCK) as lock:
            lock.acquire()
            yield
    finally:
        for path in made:
            with contextlib.suppress(OSError):  # it holds something
                path.rmdir()


def keep_predictions(folder: Path, predictions: Predictions) -> Path:
    """Writes ``predictions.jsonl``; where an earlier one has its scores, beside that pair, which stays until
    `keep_scores`.

    Returns:
        The file.
    """
    lines = []
    columns = (predictions.sources, predictions.references, predictions.hypotheses, predictions.scored_references)
    for source, reference, hypothesis, scored in zip(*columns, strict=True):
        line = {"source": source, "reference": reference, "hypothesis": hypothesis}
        if scored != reference:
            line |= {"scored_reference": scored, "normalization": predictions.normalization or ""}
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    folder.mkdir(parents=True, exist_ok=True)
    if not is_of_run(folder):
        run_folder.mark(folder, run_folder.SCORED)
    is_new = not (folder / run_folder.SCORES).exists()
    path = folder / (run_folder.PREDICTIONS if is_new else f"new-{run_folder.PREDICTIONS}")
    disk.write_aside(path, disk.text("".join(lines)))
    return path


def keep_scores(folder: Path, scores: dict[str, Any], predictions: Path) -> None:
    """Writes ``scores.json`` for what `keep_predictions` wrote: at no moment are they of other predictions than those
    beside them."""
    text, path = json.dumps(scores, indent=2, ensure_ascii=False), folder / run_folder.SCORES
    if predictions.name == run_folder.PREDICTIONS:
        disk.write_aside(path, disk.text(text))
        return
    new = folder / f"new-{run_folder.SCORES}"
    disk.write_aside(new, disk.text(text))
    path.unlink(missing_ok=True)
    os.replace(predictions, folder / run_folder.PREDICTIONS)
    os.replace(new, path)
    disk.sync(folder)


def check_is_ours(folder: Path, inputs: Sequence[str] = ()) -> None:
    """Refuses to put predictions and scores in the place of files that are something else.

    Args:
        folder: Where they would go.
        inputs: Files that are read.

    Raises:
        ValueError: There are such files, or one of them is read.
    """
    files = [folder / run_folder.PREDICTIONS, folder / run_folder.SCORES]
    for name in inputs:
        if Path(name).resolve() in [file.resolve() for file in files]:
            raise ValueError(f"{name} is read, and would be written over: choose another --output_dir.")
    if is_of_run(folder) or run_folder.SCORED in run_folder.marked(folder) or _is_scores(files[1]):
        return
    for file in files:
        if file.exists():
            raise ValueError(
                f"{file} is there already, and no evaluation of seqloom's is known to have written it: move it, or "
                "choose another --output_dir."
            )


def is_of_run(folder: Path) -> bool:
    """Whether it is a run's own folder of a split, which needs no marker."""
    return folder.parent.name == "evaluation" and run_folder.is_run(folder.parent.parent)


def _is_scores(path: Path) -> bool:
    """Whether a file is one of scores, as seqloom writes them."""
    try:
        scores = from_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(scores, dict) and {"split", "sentences", "generation", "metrics"} <= set(scores)


def read_predictions(path: str | Path) -> Predictions:
    """Reads ``predictions.jsonl``, or one that gzip packed.

    Raises:
        ValueError: It is missing, damaged or empty, or a line is not an object with the texts ``source``, ``reference``
            and ``hypothesis``; or one that has ``scored_reference`` or ``normalization`` has no text there.
    """
    path, names = Path(path), ("source", "reference", "hypothesis")
    if not path.is_file():
        raise ValueError(f"there is no file {path}; seqloom evaluate writes predictions.jsonl beside a model's scores.")
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        lines = content.decode().removesuffix("\n").split("\n")  # U+2028 ends no line of JSON
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} cannot be unpacked ({error}): is it damaged?") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error.reason} at byte {error.start:,}).") from None
    if lines == [""]:
        raise ValueError(f"{path} has no predictions: it is empty.")
    columns: list[list[str]] = [[], [], []]
    scored, normalization = [], None
    for number, line in enumerate(lines, start=1):
        try:
            entry = from_json(line)
        except ValueError as error:
            said = getattr(error, "msg", error)
            raise ValueError(f"line {number:,} of {path} is not JSON ({said}): is the file damaged?") from None
        texts = [entry.get(name) if isinstance(entry, dict) else None for name in names]
        for name, text, column in zip(names, texts, columns, strict=True):
            if not isinstance(text, str):
                raise ValueError(f"line {number:,} of {path} has no text {name!r}; it needs {', '.join(names)}.")
            column.append(text)
        if "scored_reference" in entry:
            normalization = entry.get("normalization")
            if not isinstance(entry["scored_reference"], str) or not isinstance(normalization, str):
                raise ValueError(f"line {number:,} of {path} has a scored_reference or normalization that is no text.")
        scored.append(entry.get("scored_reference", entry["reference"]))
    sources, references, hypotheses = columns
    return Predictions(sources, references, hypotheses, scored if normalization else None, normalization)


def read_scores(folder: Path) -> dict[str, Any]:
    """``scores.json``; nothing where there is none.

    Raises:
        ValueError: It is damaged.
    """
    path = folder / run_folder.SCORES
    if not path.is_file():
        return {}
    try:
        scores = from_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}): is it damaged? --overwrite makes it anew.") from None
    return scores if isinstance(scores, dict) else {}


def check_same_sentences(systems: dict[str, Predictions]) -> None:
    """Makes sure that predictions, by their systems' names, are of the same sources and references in the same order.

    Raises:
        ValueError: They are not; the message has the first line that differs. Or every reference is empty.
    """
    (first, expected), *others = systems.items()
    if not any(reference.strip() for reference in expected.references):
        raise ValueError(
            f"every reference of {first} is empty, so saying nothing would be all right: compare on others."
        )
    for name, found in others:
        for column in ("sources", "references"):
            ours, theirs = getattr(expected, column), getattr(found, column)
            for number, (one, two) in enumerate(zip(ours, theirs, strict=False), start=1):
                if one != two:
                    raise ValueError(
                        f"the {column} differ: line {number:,} of {first} has {_clip(one)!r}, that of {name} "
                        f"{_clip(two)!r}; systems are compared on the same sentences in the same order."
                    )
        if len(expected.sources) != len(found.sources):
            raise ValueError(
                f"{first} has {len(expected.sources):,} sentences and {name} {len(found.sources):,}; systems are "
                "compared on the same sentences in the same order."
            )


def _clip(text: str, limit: int = 60) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def measure_sentences(name: str, predictions: Predictions, **options: Any) -> tuple[str, Statistics]:
    """The signature of one of seqloom's metrics, but for `normalizations`, and the statistics that its score is made
    of."""
    references = [[reference] for reference in predictions.scored_references]
    result, statistics = metrics.METRICS[name]().measure(predictions.hypotheses, references, **options)
    return result["signature"], statistics


def normalizations(*systems: Predictions) -> str | None:
    """How the references were normalised for each; None where they are everywhere as they were given."""
    found = list(dict.fromkeys(system.normalization or "as given" for system in systems))
    return None if found == ["as given"] else " and ".join(found)
