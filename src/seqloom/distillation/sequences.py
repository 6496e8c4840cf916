"""Sequence-level distillation (Kim and Rush 2016, arXiv:1606.07947, section 3.2): what a teacher says to the training
sources, as a set of pairs.

1. What cannot come to a good end shows before anything is decoded: options, metrics, a folder of something else.
2. What was asked for is written down with the digests of the teacher and of the pairs. A folder that holds the
   beginnings of a set goes on if these are the same, and is refused if they are not.
3. Outputs are written as they come, some hundred sources at a time, each source a line, kept or not.
4. What is kept becomes ``train.jsonl``, what is known of it ``distillation.json``.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from seqloom import run_folder
from seqloom.data.pairs import Pairs, load_pairs
from seqloom.data.sources import Data
from seqloom.decoding.jobs import translate_by_jobs
from seqloom.decoding.limits import source_positions
from seqloom.decoding.loading import GenerativeModel, is_of_ours, open_pair
from seqloom.decoding.options import check_options, try_options
from seqloom.distillation.choosing import Choice, Ends
from seqloom.distillation.folder import (
    AGAIN,
    CHUNK,
    WORK,
    as_json,
    begun,
    check_folder,
    clear,
    whole_chunks,
    written,
)
from seqloom.scoring.normalization import normalized
from seqloom.scoring.score import decoding_of
from seqloom.settings.schema import GenerationSettings, Settings
from seqloom.sharing.privacy import last_part
from seqloom.sharing.teachers import describe_teacher
from seqloom.support import disk
from seqloom.support.console import duration, has_terminal
from seqloom.support.foreign import from_json
from seqloom.support.locks import Lock
from seqloom.support.machine import environment
from seqloom.training.clearing import check_inputs
from seqloom.version import __version__

SECONDS_BETWEEN_LINES = 30
"""On a console that is no terminal."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked for."""

    teacher: str
    """A folder or a name on the Hub."""
    folder: Path
    """Where the set goes."""
    generation: GenerationSettings = field(default_factory=GenerationSettings)
    """How much is decoded together, and in which dtype."""
    generate_kwargs: dict[str, Any] = field(default_factory=dict)
    """For ``generate``, beyond the teacher's own generation config."""
    best_of: int = 1
    """Candidates of each source, of which the one that scores best against the reference is kept."""
    metric: str = "chrf"
    """By which they are scored, one of seqloom's own."""
    keep_cut: bool = False
    """Keep outputs that were cut at the limit of length."""
    num_jobs: int = 1
    revision: str | None = None
    trust_remote_code: bool = False
    overwrite: bool = False


def distil_sequences(request: Request, settings: Settings, say: Callable[[str], object] = print) -> dict[str, Any]:
    """Makes the set, or goes on with it, or finds it made.

    Args:
        request: What is asked for.
        settings: The student's; its training pairs give the sources.
        say: Takes a line for the user.

    Returns:
        What was written to ``distillation.json``.

    Raises:
        ValueError: Teacher, options, pairs or folder do not allow it; or the set was begun with others.
        OSError: The disk is full.
    """
    folder = request.folder
    check_folder(folder, request.overwrite)
    if request.overwrite:
        check_inputs(folder, [request.teacher, *settings.data.places()])
    if settings.data.mix:
        raise ValueError(
            "data.mix has sets, and a teacher is asked for one at a time: distil each with --only_data and a "
            "--data_dir of its own, and mix what comes of them."
        )
    opener = partial(open_pair, request.teacher, request.revision, request.trust_remote_code)
    model, tokenizer = opener()
    given = _generate_kwargs(request, model)
    check_options(model.generation_config, given, several=request.best_of > 1, is_own=is_of_ours(model))
    try_options(model, tokenizer, given)
    pairs = load_pairs(settings.data, settings.training.seed, splits=["train"])
    longest = _longest(model, settings)
    choice = Choice.of(request.best_of, request.metric, settings.evaluation.metric_kwargs, _head(pairs, tokenizer))
    about = {
        "seqloom": __version__,
        "kind": "sequence",
        "teacher": describe_teacher(request.teacher, model.config, request.revision),
        "decoding": _decoding(request, model, given, settings.training.seed, choice, longest),
        "data": describe_pairs(pairs, settings),
    }
    folder.mkdir(parents=True, exist_ok=True)
    with Lock(folder / run_folder.LOCK) as lock:
        lock.acquire()
        check_folder(folder, request.overwrite)  # which may have changed meanwhile
        run_folder.mark(folder, run_folder.DISTILLED)
        if request.overwrite:
            clear(folder)
        if (made := begun(folder, about)) is not None:
            say(f"{folder / run_folder.DISTILLED_PAIRS} is made already: {counts_in_words(made['pairs'])}.")
            return made
        rows = Rows(pairs.splits["train"], tokenizer, longest, needs_target=choice.needs_references)
        ends = Ends.of(model, given)
        options = {"seed": settings.training.seed, "batch_tokens": request.generation.decode_batch_tokens,
                   "dtype": request.generation.decode_dtype, **given}  # fmt: skip
        if request.num_jobs == 1:
            opener = partial(_as_it_is, model, tokenizer)
        else:
            del model
        outputs = partial(
            translate_by_jobs, opener, num_jobs=request.num_jobs, chunk=CHUNK, return_tokens=True, **options
        )
        decode(folder / WORK, rows, outputs, partial(choice.best, ends, request.keep_cut), tokenizer, say)
        return finish(folder, about, rows, say)


def _as_it_is(model: Any, tokenizer: Any) -> tuple[Any, Any]:
    return model, tokenizer


def _generate_kwargs(request: Request, model: GenerativeModel) -> dict[str, Any]:
    """What ``generate`` is given: as many outputs as candidates, and where that is left open as many beams."""
    given = dict(request.generate_kwargs)
    if "num_return_sequences" in given:
        raise ValueError("num_return_sequences is what --best_of says here: leave it out.")
    if request.best_of > 1 or (model.generation_config.num_return_sequences or 1) > 1:
        given["num_return_sequences"] = request.best_of
    if request.best_of > 1:
        is_drawn = given.get("do_sample", model.generation_config.do_sample) is True
        beams = given.get("num_beams") or model.generation_config.num_beams or 1
        if not is_drawn and beams < request.best_of:
            if "num_beams" in given:
                raise ValueError(
                    f"--best_of is {request.best_of}, but --teacher.num_beams {beams}, and there are no more "
                    "candidates than beams: raise the one, lower the other, or draw with --teacher.generate_kwargs "
                    "'{do_sample: true}'."
                )
            given["num_beams"] = request.best_of
    return given


def _decoding(
    request: Request, model: GenerativeModel, given: dict[str, Any], seed: int, choice: Choice, longest: int | None
) -> dict[str, Any]:
    """All that the outputs depend on besides teacher and pairs."""
    decoding = decoding_of(model.generation_config, given, seed) | choice.record()
    decoding |= {"dtype": request.generation.decode_dtype} if request.generation.decode_dtype else {}
    decoding |= {"keep_cut": True} if request.keep_cut else {}
    return from_json(json.dumps(decoding | {"longest_source": longest, "chunk": CHUNK}, default=str))


def _longest(model: GenerativeModel, settings: Settings) -> int | None:
    """Tokens of a source that the teacher can read and the student may."""
    limits = [limit for limit in (source_positions(model), settings.data.max_source_length) if limit is not None]
    return min(limits, default=None)


def _head(pairs: Pairs, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """References of the first pairs, from which a metric tells what language they are."""
    rows = itertools.islice(pairs.splits["train"], 1000)
    return normalized([row["target"] for row in rows if row["target"]], tokenizer).texts


def describe_pairs(pairs: Pairs, settings: Settings) -> dict[str, Any]:
    """Which pairs those are, by a digest of all their texts; of a stream, by what its files or data set are."""
    data = pairs.splits["train"]
    places = settings.data.train_files or [settings.data.dataset or ""]
    is_local = settings.data.train_files is not None or Path(places[0]).exists()
    about = {"name": ", ".join(map(last_part, places)) if is_local else places[0], **pairs.provenance}
    if not isinstance(data, Dataset):
        return about
    digest = hashlib.sha256()
    for part in data.iter(batch_size=10_000):
        digest.update(json.dumps([part["source"], part["target"]]).encode())
    return {**about, "sha256": digest.hexdigest()}


class Rows:
    """The pairs that a teacher is asked about, and how many it is not.

    Args:
        data: Columns ``source`` and ``target``.
        tokenizer: The teacher's.
        longest: Tokens that a source may have; None: any number.
        needs_target: Whether a pair without a reference is of no use.
    """

    def __init__(self, data: Data, tokenizer: PreTrainedTokenizerBase, longest: int | None, *, needs_target: bool):
        self.data, self.tokenizer, self.longest, self.needs_target = data, tokenizer, longest, needs_target
        self.incomplete = self.too_long = self.given = 0

    def __iter__(self) -> Iterator[tuple[str, str]]:
        self.incomplete = self.too_long = self.given = 0
        rows = iter(self.data)
        while some := list(itertools.islice(rows, 1000)):
            whole = [
                (row["source"], row["target"] or "")
                for row in some
                if (row["source"] or "").strip() and (not self.needs_target or (row["target"] or "").strip())
            ]
            self.incomplete += len(some) - len(whole)
            ids = self.tokenizer([source for source, _ in whole], verbose=False)["input_ids"] if whole else []
            for pair, tokens in zip(whole, ids, strict=True):
                if self.longest is not None and len(tokens) > self.longest:
                    self.too_long += 1
                else:
                    self.given += 1
                    yield pair

    def __len__(self) -> int:
        """Rows of the data, those that are left out too; of a stream it is not known.

        Raises:
            TypeError: It is a stream.
        """
        return len(self.data)


def decode(
    work: Path,
    rows: Rows,
    outputs: Callable[..., Iterator[Any]],
    best: Callable[[Any, str], dict[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    say: Callable[[str], object],
) -> None:
    """Gives the teacher every source that has no line yet, and writes a line for each.

    Args:
        work: The file of lines.
        rows: The pairs.
        outputs: `translate_by_jobs`, but for the sources and the number of the first chunk.
        best: The output that is kept of a source's, and what became of it.
        tokenizer: As which the references are normalised.
        say: Takes a line for the user.
    """
    done = whole_chunks(work)
    if done:
        say(f"going on after {done:,} sources")
    held: deque[str] = deque()  # references of the sources that are being decoded

    def sources() -> Iterator[str]:
        for source, reference in itertools.islice(rows, done, None):
            held.append(source)
            held.append(reference)
            yield source

    total = len(rows) if isinstance(rows.data, Dataset) else None
    bar = tqdm(
        total=total, initial=done, desc="distilling", unit=" sources", disable=not has_terminal(), dynamic_ncols=True
    )
    started = told = time.perf_counter()
    found = outputs(sources=sources(), first=done // CHUNK)
    with bar, work.open("a", encoding="utf-8") as file, disk.explained_when_full(work, removes=False, advice=AGAIN):
        while some := list(itertools.islice(found, CHUNK)):
            pairs = [(held.popleft(), held.popleft()) for _ in some]
            references = normalized([reference for _, reference in pairs], tokenizer).texts
            lines = [
                {"source": source, **best(output, reference)}
                for (source, _), output, reference in zip(pairs, some, references, strict=True)
            ]
            now = time.perf_counter()
            lines[-1]["seconds"], started = round(now - started, 3), now
            file.write("".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines))
            file.flush()
            disk.sync(work)
            done += len(some)
            bar.update(len(some))
            if bar.disable and now - told > SECONDS_BETWEEN_LINES:
                told = now
                say(f"{done:,}{f' of {total:,}' if total else ''} sources")


def finish(folder: Path, about: dict[str, Any], rows: Rows, say: Callable[[str], object]) -> dict[str, Any]:
    """Writes the set and what is known of it; what was decoded is deleted then.

    Raises:
        ValueError: Nothing is left.
    """
    states: dict[str, int] = {"kept": 0, "empty": 0, "cut": 0, "kept_cut": 0}
    seconds = 0.0
    for line in written(folder / WORK):
        states[line["state"]] += 1
        seconds += line.get("seconds", 0.0)
    kept = states["kept"] + states["kept_cut"]
    counts = {
        "sources": sum(states.values()), "kept": kept, "empty": states["empty"],
        "cut": states["cut"] + states["kept_cut"], "too_long": rows.too_long, "incomplete": rows.incomplete,
    }  # fmt: skip
    if not kept:
        raise ValueError(
            f"nothing is left of what the teacher said: {counts_in_words(counts)}; look at its outputs with seqloom "
            "translate, and at --teacher.max_new_tokens."
        )

    def pairs(path: Path) -> None:
        with path.open("w", encoding="utf-8") as file:
            file.writelines(
                f"{json.dumps({side: line[side] for side in ('source', 'target')}, ensure_ascii=False)}\n"
                for line in written(folder / WORK)
                if line["state"] in ("kept", "kept_cut")
            )

    place = folder / run_folder.DISTILLED_PAIRS
    disk.write_aside(place, pairs, AGAIN)
    file = {"name": place.name, "bytes": place.stat().st_size, "sha256": disk.sha256(place)}
    made = about | {"pairs": counts, "seconds": round(seconds, 2), "environment": environment(), "file": file}
    disk.write_aside(folder / run_folder.DISTILLATION, disk.text(as_json(made)), AGAIN)
    disk.remove(folder / WORK)
    say(f"{place}: {counts_in_words(counts)}, in {duration(seconds)}.")
    return made


def counts_in_words(counts: dict[str, Any]) -> str:
    """``1,990 of 2,000 outputs kept; dropped 3 empty ones and 7 cut at the limit of length``"""
    dropped = counts["sources"] - counts["kept"] - counts["empty"]
    words = f"{counts['kept']:,} of {counts['sources']:,} outputs kept"
    words += f"; dropped {counts['empty']:,} empty ones and {dropped:,} that were cut at the limit of length"
    if kept := counts["cut"] - dropped:
        words += f"; {kept:,} that were cut are kept"
    left_out = {"too long": counts["too_long"], "without a side": counts["incomplete"]}
    if told := [f"{number:,} {what}" for what, number in left_out.items() if number]:
        words += f"; pairs left out: {', '.join(told)}"
    return words
