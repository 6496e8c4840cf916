"""One model on one split: decodes it once and gives the outputs to `evaluate` metrics."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import GenerationConfig, PreTrainedTokenizerBase

from seqloom import run_folder
from seqloom.data.overlap import overlap_in_words
from seqloom.data.pairs import check_scorable, find_gap, load_pairs, refuse_gap
from seqloom.data.sources import check_columns
from seqloom.decoding.loading import GenerativeModel, is_of_ours, open_model, tokenizer_of
from seqloom.decoding.options import check_options, check_values, limited, outranked, try_options
from seqloom.decoding.translate import translate
from seqloom.decoding.values import SAMPLING
from seqloom.scoring import metrics
from seqloom.scoring.naming import check_names, on_the_line
from seqloom.scoring.normalization import normalized
from seqloom.scoring.predictions import Predictions, alone_in, check_is_ours, keep_predictions, keep_scores
from seqloom.scoring.trials import try_metrics
from seqloom.settings.reading import is_given, load_scoring_settings
from seqloom.settings.schema import DataSettings, EvaluationSettings, ScoringSettings
from seqloom.support import disk
from seqloom.support.console import has_terminal
from seqloom.support.machine import environment

WEIGHTS = (".safetensors", ".bin", ".onnx", ".pt2")
"""What a folder's files of weights end with."""


def evaluate_model(name: str, overrides: Sequence[str] = (), *, overwrite: bool = False) -> dict[str, Any]:
    """Scores a checkpoint, seqloom's or another's, from a folder or the Hub.

    Args:
        name: Folder, or name on the Hub.
        overrides: Words of the command line, ``["--split", "validation", "--num_beams", "5"]``.
        overwrite: Replace earlier scores.

    Returns:
        What was written to ``scores.json``.

    Raises:
        ValueError: Model, data or settings do not allow it; or another process works in the folder.
    """
    settings, generate_kwargs = settings_of(name, overrides)
    check_names(settings.evaluation.metrics, Path(name) / run_folder.SETTINGS, on_the_line(overrides))
    folder = scores_folder(name, settings)
    try_metrics(settings.evaluation)
    check_is_ours(folder, settings.data.places())
    if not overwrite and (folder / run_folder.SCORES).exists():
        raise ValueError(f"{folder} holds scores already; give --overwrite, or another --output_dir.")
    return score_model(name, settings, generate_kwargs)


def settings_of(name: str | Path, overrides: Sequence[str]) -> tuple[ScoringSettings, dict[str, Any]]:
    """`load_scoring_settings`, whose columns are those of tables.

    Raises:
        ValueError: As for `load_scoring_settings` and `check_values`; or a column is given for lines of text, which
            have none.
    """
    settings, generate_kwargs = load_scoring_settings(name, overrides)
    check_values(generate_kwargs)  # as far as that takes no model, nor the data
    if is_given(overrides, "source", "target"):
        data = settings.data
        files = getattr(data, f"{settings.split_to_score()}_files")
        check_columns(DataSettings(test_files=files, source=data.source, target=data.target) if files else data, "data")
    return settings, generate_kwargs


def scores_folder(name: str, settings: ScoringSettings) -> Path:
    """Where a model's predictions and scores go: as told, else into its folder, or ``runs/NAME`` for one of the Hub."""
    default = Path(name) if Path(name).is_dir() else Path("runs") / name.replace("/", "--")
    return (
        Path(settings.output_dir) if settings.output_dir else run_folder.evaluation(default, settings.split_to_score())
    )


def score_model(name: str, settings: ScoringSettings, generate_kwargs: dict[str, Any]) -> dict[str, Any]:
    """Decodes and scores; what was in the folder before is written over."""
    model = open_model(name, settings.revision, settings.trust_remote_code)
    tokenizer = tokenizer_of(model, name, settings.revision, settings.trust_remote_code)
    check_options(model.generation_config, generate_kwargs, is_own=is_of_ours(model))
    try_options(model, tokenizer, generate_kwargs)
    pairs, provenance = load_split(settings)
    folder = scores_folder(name, settings)
    with alone_in(folder):
        return score_split(
            model,
            tokenizer,
            pairs,
            settings.evaluation,
            split=settings.split_to_score(),
            folder=folder,
            batch_tokens=settings.generation.decode_batch_tokens,
            dtype=settings.generation.decode_dtype,
            seed=settings.seed,
            about={"model": name, "revision": settings.revision, "data": provenance}
            | ({"weights": weights} if (weights := weights_of(name)) else {})
            | (
                {}
                if (met := known_overlap(Path(name), settings.split_to_score(), provenance)) is None
                else {"overlap": met}
            ),
            **generate_kwargs,
        )


def known_overlap(folder: Path, split: str, provenance: dict[str, Any]) -> int | None:
    """How many of the scored pairs are in the model's training data, if its run has counted these very pairs.

    Args:
        folder: The model's.
        split: What is scored.
        provenance: Where its pairs are from.
    """
    if not run_folder.is_finished(folder):
        return None
    data = run_folder.read_record(folder)["data"]
    met = (data.get("overlap") or {}).get(split)
    same = all(data[key].get(split) == provenance[key].get(split) for key in ("splits", "pairs"))
    is_file = isinstance(provenance["splits"].get(split), list)  # with a digest; a split is of a set of some revision
    sets = ("dataset", "config_name", "revision", "split", "files")
    return met if same and (is_file or all(data.get(key) == provenance.get(key) for key in sets)) else None


def overlap_sentence(scores: dict[str, Any]) -> str:
    """What is known of scored pairs that are training pairs too; nothing where nothing is."""
    if "overlap" not in scores:
        return ""
    return overlap_in_words({scores["split"]: scores["overlap"]}, {scores["split"]: scores["sentences"]})


def load_split(settings: ScoringSettings) -> tuple[Dataset, dict[str, Any]]:
    """The pairs that are scored, and where they are from."""
    split = settings.split_to_score()
    pairs = load_pairs(settings.data, settings.seed, splits=(split,))
    if split not in pairs.splits:
        raise ValueError(f"the data has no {split} split; choose another with --split, or name its files.")
    check_scorable(pairs.splits[split], split)
    return pairs.splits[split], pairs.provenance


def weights_of(name: str) -> dict[str, str]:
    """The checksums of the weights in a folder; of a model on the Hub, its revision tells."""
    return {path.name: disk.sha256(path) for path in sorted(Path(name).glob("*")) if path.suffix in WEIGHTS}


def score_split(
    model: GenerativeModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Dataset,
    settings: EvaluationSettings,
    *,
    split: str,
    folder: Path,
    batch_tokens: int = 4096,
    dtype: str | None = None,
    seed: int = 42,
    about: dict[str, Any] | None = None,
    **generate_kwargs: Any,
) -> dict[str, Any]:
    """Decodes a split and scores it; writes ``predictions.jsonl``, before it scores them, and ``scores.json``.

    References are normalised as the tokenizer normalises what the model learns (see `seqloom.scoring.normalization`);
    where that changes one, both files and the metrics' signatures say so.

    Args:
        model, tokenizer: Any encoder-decoder and its tokenizer.
        pairs: Columns ``source`` and ``target``.
        settings: The metrics.
        split: The split's name, for the record.
        folder: Where both files go.
        batch_tokens, dtype: As for `translate`.
        seed: Of outputs that are drawn.
        about: Added to the scores.
        generate_kwargs: As for `translate`.

    Raises:
        ValueError: There is no such metric; a pair lacks a side.
    """
    if gap := find_gap(pairs):
        refuse_gap(f"the {split} split: {gap}")
    for name in settings.metrics:
        metrics.load_metric(name)  # a misspelt name shows before the decoding, not after
    generation = decoding_of(model.generation_config, generate_kwargs, seed, dtype)
    sources, references = pairs["source"][:], pairs["target"][:]
    torch.manual_seed(seed)
    started = time.perf_counter()
    bar = has_terminal()
    told = {"batch_tokens": batch_tokens, "dtype": dtype, "progress": bar, **generate_kwargs}
    outputs = translate(model, tokenizer, sources, **told)
    seconds = time.perf_counter() - started
    scored = normalized(references, tokenizer)
    changed = scored.texts if scored.normalization else None
    ready = keep_predictions(folder, Predictions(sources, references, outputs, changed, scored.normalization))
    results = {
        name: scored.sign(
            metrics.compute(
                name,
                outputs,
                scored.texts,
                sources=sources,
                bootstrap_samples=settings.bootstrap_samples,
                **settings.metric_kwargs.get(name, {}),
            )
        )
        for name in settings.metrics
    }
    notes = empties(references, outputs)
    said = (metrics.note(name, scored.texts, settings.metric_kwargs.get(name, {})) for name in settings.metrics)
    notes += filter(None, said)
    scores = {
        **(about or {}),
        "split": split,
        "sentences": len(sources),
        "generation": generation,
        **({"normalization": scored.normalization} if scored.normalization else {}),
        "metrics": results,
        **({"notes": notes} if notes else {}),
        "bootstrap_samples": settings.bootstrap_samples,
        "seconds": round(seconds, 2),
        "sentences_per_second": round(len(sources) / seconds, 2),
        "environment": environment(),
        "folder": str(folder),
    }
    keep_scores(folder, scores, ready)
    return scores


def decoding_of(config: GenerationConfig, given: dict[str, Any], seed: int, dtype: str | None = None) -> dict[str, Any]:
    """All that is decoded by, for the record."""
    names = ["num_beams", "length_penalty", "early_stopping", "max_new_tokens"]
    is_drawn = given.get("do_sample", config.do_sample) is True
    if is_drawn:
        names += ["do_sample", *SAMPLING]
    of_model = {name: getattr(config, name, None) for name in names if name not in outranked(given)}
    decoding = of_model | limited(config, given) | {"seed": seed if is_drawn else None, "dtype": dtype}
    return {name: value for name, value in decoding.items() if value is not None}


def empties(references: Sequence[str], outputs: Sequence[str]) -> list[str]:
    """What is to be said of empty texts: an empty output for an empty reference is all right to every metric."""
    notes = []
    for what, texts in (("references", references), ("outputs", outputs)):
        number = sum(not text.strip() for text in texts)
        if number:
            notes.append(f"{number:,} of {len(texts):,} {what} {'is' if number == 1 else 'are'} empty.")
    return notes


def report(scores: dict[str, Any]) -> str:
    """The table of the scores, and below it what is to be said of them."""
    return "\n".join([table(scores["metrics"]), *scores.get("notes", [])])


def table(results: dict[str, dict[str, Any]]) -> str:
    """Metric, score, its interval where there is one, and signature, a line each."""
    rows = []
    for name, result in results.items():
        low_high = result.get("interval")
        interval = "[" + ", ".join(f"{bound:.1f}" for bound in low_high) + "]" if low_high else ""
        rows.append((name, f"{result['score']:.2f}", interval, result["signature"]))
    names, scores, intervals = (max((len(row[column]) for row in rows), default=0) for column in range(3))
    return "\n".join(
        f"{name:<{names}}  {score:>{scores}}  " + (f"{interval:<{intervals}}  " if intervals else "") + signature
        for name, score, interval, signature in rows
    )
