"""Scoring any seq2seq model of transformers: decodes a split once and gives the outputs to `evaluate` metrics.

Two models, or the predictions that were kept of them, are compared on the same sentences by `compare_models`.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import platform
import re
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForSeq2SeqLM, GenerationConfig, PreTrainedModel

from seqloom import metrics
from seqloom.data import load_pairs
from seqloom.decoding import translate
from seqloom.modeling import CONFIG_CLASSES
from seqloom.predictions import (
    Predictions,
    check_same_sentences,
    compare_predictions,
    comparison_text,
    other_signatures,
    read_predictions,
    read_scores,
)
from seqloom.settings import EvaluationSettings, ScoringSettings, load_scoring_settings
from seqloom.tokenization import check_matches, load_tokenizer
from seqloom.tracking import has_terminal

USAGE = "usage: evaluate.py MODEL [--against OTHER] [--split test] [--num_beams 5] [--key value ...] [--overwrite]"
ABOUT = """MODEL is a folder or a name on the Hub; keys are those of data:, generation: and evaluation:.
With --against OTHER, both are scored on the same sentences and tested for a difference. Each of them is a model or a
predictions.jsonl; predictions that are kept of the same sentences and generation settings are not made again."""
DEFAULT_MAX_NEW_TOKENS = 256


def main(argv: Sequence[str] | None = None) -> int:
    """The command ``evaluate.py``; returns its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(USAGE, "", ABOUT, sep="\n")
        return 0 if words else 2
    overwrite = "--overwrite" in words
    words = [word for word in words if word != "--overwrite"]
    try:
        if not words or words[0].startswith("--"):
            raise ValueError(f"the model comes first. {USAGE}")
        other, overrides = _split_off_against(words[1:])
        if other is not None:
            results = compare_models(words[0], other, overrides, overwrite=overwrite)
            print(comparison_text(results))
            return 0
        scores = evaluate_model(words[0], overrides, overwrite=overwrite)
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    print(table(scores["metrics"]))
    print(f"predictions and scores are in {scores['folder']}")
    return 0


def evaluate_model(name: str, overrides: Sequence[str] = (), *, overwrite: bool = False) -> dict[str, Any]:
    """Scores a checkpoint, seqloom's or another's, from a folder or the Hub.

    Args:
        name: Folder, or name on the Hub.
        overrides: Words of the command line, ``["--split", "validation", "--num_beams", "5"]``.
        overwrite: Replace earlier scores.

    Returns:
        What was written to ``scores.json``.

    Raises:
        ValueError: Model, data or settings do not allow it.
    """
    settings, generate_kwargs = load_scoring_settings(name, overrides)
    folder = _scores_folder(name, settings)
    if not overwrite and (folder / "scores.json").exists():
        raise ValueError(f"{folder} holds scores already; give --overwrite, or another --output_dir.")
    return _score_model(name, settings, generate_kwargs)


def _split(settings: ScoringSettings) -> str:
    return settings.split or settings.evaluation.split or "test"


def _scores_folder(name: str, settings: ScoringSettings) -> Path:
    default = Path(name) if Path(name).is_dir() else Path("runs") / name.replace("/", "--")
    return Path(settings.output_dir) if settings.output_dir else default / "evaluation" / _split(settings)


def _score_model(name: str, settings: ScoringSettings, generate_kwargs: dict[str, Any]) -> dict[str, Any]:
    """Decodes and scores; what was in the folder before is written over."""
    model = load_model(name, settings.revision, settings.trust_remote_code)
    tokenizer = load_tokenizer(name, revision=settings.revision, trust_remote_code=settings.trust_remote_code)
    if model.config.model_type in CONFIG_CLASSES:
        check_matches(tokenizer, model.config)
    elif len(tokenizer) > model.get_input_embeddings().num_embeddings:
        raise ValueError(
            f"the tokenizer has {len(tokenizer)} entries, the model {model.get_input_embeddings().num_embeddings} "
            "embeddings: they were not made for each other."
        )
    pairs, provenance = _load_split(settings)
    return score_split(
        model,
        tokenizer,
        pairs,
        settings.evaluation,
        split=_split(settings),
        folder=_scores_folder(name, settings),
        batch_tokens=settings.generation.decode_batch_tokens,
        about={"model": name, "revision": settings.revision, "data": provenance},
        **generate_kwargs,
    )


def _load_split(settings: ScoringSettings) -> tuple[Dataset, dict[str, Any]]:
    """The pairs that are scored, and where they are from."""
    split = _split(settings)
    pairs = load_pairs(settings.data, settings.seed, splits=(split,))
    if split not in pairs.splits:
        raise ValueError(f"the data has no {split} split; choose another with --split, or name its files.")
    return pairs.splits[split], pairs.provenance


def load_model(name: str, revision: str | None = None, trust_remote_code: bool = False) -> PreTrainedModel:
    """A seq2seq model on the machine's accelerator, if it has one.

    Raises:
        ValueError: There is no such model, or it is not an encoder-decoder.
    """
    check_exists(name)
    try:
        model = AutoModelForSeq2SeqLM.from_pretrained(name, revision=revision, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise ValueError(f"no seq2seq model can be loaded from {name!r}: {error}") from None
    return model.to(torch.accelerator.current_accelerator() or "cpu").eval()


def check_exists(name: str) -> None:
    """Makes sure that what looks like a folder is one; the Hub knows whether it has the others."""
    parent = Path(name).parent
    is_path = name.startswith((".", "/", "~", "\\")) or (parent != Path() and parent.is_dir())
    if is_path and not Path(name).exists():
        raise ValueError(f"there is no folder {name}; give the output folder of a run, or a name on the Hub.")


def score_split(
    model: PreTrainedModel,
    tokenizer,
    pairs: Dataset,
    settings: EvaluationSettings,
    *,
    split: str,
    folder: Path,
    batch_tokens: int = 4096,
    about: dict[str, Any] | None = None,
    **generate_kwargs: Any,
) -> dict[str, Any]:
    """Decodes a split and scores it; writes ``predictions.jsonl`` and ``scores.json``.

    Args:
        model, tokenizer: Any encoder-decoder and its tokenizer.
        pairs: Columns ``source`` and ``target``.
        settings: The metrics.
        split: The split's name, for the record.
        folder: Where both files go.
        batch_tokens: As for `translate`.
        about: Added to the scores.
        generate_kwargs: As for `translate`.
    """
    for name in settings.metrics:
        metrics.load_metric(name)  # a misspelt name shows before the decoding, not after
    generate_kwargs, generation = _generation(model.generation_config, generate_kwargs)
    sources, references = pairs["source"][:], pairs["target"][:]
    started = time.perf_counter()
    bar = has_terminal()
    outputs = translate(model, tokenizer, sources, batch_tokens=batch_tokens, progress=bar, **generate_kwargs)
    seconds = time.perf_counter() - started
    results = {
        name: metrics.compute(
            name,
            outputs,
            references,
            bootstrap_samples=settings.bootstrap_samples,
            **settings.metric_kwargs.get(name, {}),
        )
        for name in settings.metrics
    }
    scores = {
        **(about or {}),
        "split": split,
        "sentences": len(sources),
        "generation": generation,
        "metrics": results,
        "bootstrap_samples": settings.bootstrap_samples,
        "seconds": round(seconds, 2),
        "sentences_per_second": round(len(sources) / seconds, 2),
        "environment": environment(),
        "folder": str(folder),
    }
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "predictions.jsonl").open("w", encoding="utf-8") as file:
        for source, reference, hypothesis in zip(sources, references, outputs, strict=True):
            line = {"source": source, "reference": reference, "hypothesis": hypothesis}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    (folder / "scores.json").write_text(json.dumps(scores, indent=2, ensure_ascii=False), encoding="utf-8")
    return scores


def _generation(config: GenerationConfig, given: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arguments of ``generate``, with a limit where there is none; and all that is decoded by, for the record."""
    if config.max_new_tokens is None and config.max_length is None:
        given = {"max_new_tokens": DEFAULT_MAX_NEW_TOKENS} | given
    names = ("num_beams", "length_penalty", "early_stopping", "max_new_tokens")
    decoding = {name: getattr(config, name) for name in names} | given
    return given, {name: value for name, value in decoding.items() if value is not None}


def environment(num_processes: int = 1) -> dict[str, Any]:
    """Hardware and versions, for records and cards."""
    packages = ("torch", "transformers", "accelerate", "datasets", "evaluate", "tokenizers", "sacrebleu", "seqloom")
    if torch.cuda.is_available():
        hardware = f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    else:
        threads = torch.get_num_threads()
        hardware = f"{threads} thread{'' if threads == 1 else 's'} of {_cpu_name()}"
    return {
        "hardware": hardware,
        "processes": num_processes,
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


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


def compare_models(name: str, other: str, overrides: Sequence[str] = (), *, overwrite: bool = False) -> dict[str, Any]:
    """Scores two models on the same sentences and tests whether they differ: ``evaluate.py MODEL --against OTHER``.

    Predictions that are kept of the same split, sentences and generation settings are taken as they are. The data are
    those of MODEL's run (of OTHER's, where MODEL is a file), or as given; so are the metrics. ``--output_dir`` and
    ``--revision`` are MODEL's; OTHER's scores have their default folder.

    Args:
        name, other: Each a folder, a name on the Hub or a ``predictions.jsonl``.
        overrides: As for `evaluate_model`.
        overwrite: Decode anew, and replace earlier scores and results.

    Returns:
        What was written to ``against-OTHER.json``, in ``--output_dir`` or beside MODEL's predictions; where that file
        is there and says something else, to ``against-OTHER-2.json``.

    Raises:
        ValueError: Model, data, files or settings do not allow it, or the two have not the same sentences.
    """
    files = {system: _is_file(system) for system in (name, other)}
    leading = name if not files[name] or files[other] else other
    settings, generate_kwargs = load_scoring_settings(_home(leading), overrides)
    if files[leading]:
        settings = _with_metrics_beside(leading, settings, overrides)
        if generate_kwargs:
            raise ValueError(
                f"{', '.join(generate_kwargs)} cannot be set for two files of predictions, already decoded: "
                "leave it out, or name models."
            )
    samples = settings.evaluation.bootstrap_samples
    if not samples:
        raise ValueError("bootstrap_samples is 0, which leaves nothing to test with; give --bootstrap_samples 1000.")
    for metric in settings.evaluation.metrics:
        metrics.load_metric(metric)
    of_other = dataclasses.replace(settings, output_dir=None, revision=None)
    each = {name: settings, other: of_other}
    paths = {s: Path(s) if files[s] else _scores_folder(s, each[s]) / "predictions.jsonl" for s in (name, other)}
    if name == other or paths[name].resolve() == paths[other].resolve():
        raise ValueError(f"{name} and {other} are the same predictions; give another model or file to --against.")
    for system in (name, other):
        if not files[system]:
            check_exists(system)
    found = {
        system: read_predictions(paths[system])
        for system in (name, other)
        if files[system] or (not overwrite and _is_kept(system, each[system], generate_kwargs))
    }
    missing = [system for system in (name, other) if system not in found]
    if len(missing) == 1:  # whether its sentences are the other's shows before they are decoded
        pairs, _ = _load_split(settings)
        data = Predictions(pairs["source"][:], pairs["target"][:], [])
        check_same_sentences(found | {f"the data of {missing[0]}": data})
    for system in missing:
        _score_model(system, each[system], generate_kwargs)
        found[system] = read_predictions(paths[system])
    check_same_sentences(found)
    results = {
        "systems": {"a": name, "b": other},
        "sentences": len(found[name].sources),
        "metrics": compare_predictions(found[name], found[other], settings.evaluation),
    }
    results["notes"] = other_signatures(results, {"A": paths[name].parent, "B": paths[other].parent})
    folder = Path(settings.output_dir) if settings.output_dir else paths[name].parent
    folder.mkdir(parents=True, exist_ok=True)
    path = _write_beside(folder, f"against-{_short_name(other)}", results, overwrite)
    return results | {"file": str(path)}


def _split_off_against(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """What stands behind ``--against``, and the other words."""
    at = [number for number, word in enumerate(words) if word.partition("=")[0] == "--against"]
    if not at:
        return None, list(words)
    place = at[0]
    _, equals, other = words[place].partition("=")
    end = place + 1
    while not equals and end < len(words) and not words[end].startswith("--"):
        end += 1
    values = [other] if equals else list(words[place + 1 : end])
    if len(at) > 1 or len(values) != 1 or not values[0]:
        raise ValueError(
            "--against takes one model or predictions file, once: evaluate.py runs/mine --against runs/other."
        )
    return values[0], [*words[:place], *words[end:]]


def _is_file(name: str) -> bool:
    """Whether it names predictions and no model."""
    return name.endswith(".jsonl") or Path(name).is_file()


def _home(name: str) -> Path | str:
    """Where the settings are: the model's folder, that of a model whose predictions these are, else nowhere."""
    folder = Path(name).resolve().parent.parent
    return folder.parent if _is_file(name) and folder.name == "evaluation" else name


def _with_metrics_beside(name: str, settings: ScoringSettings, overrides: Sequence[str]) -> ScoringSettings:
    """Where neither the command nor a run names metrics, those of the scores beside the file."""
    is_given = {word.partition("=")[0] for word in overrides} & {"--metrics", "--evaluation.metrics"}
    scores = read_scores(Path(name).parent)
    if is_given or (Path(_home(name)) / "settings.yaml").is_file() or not scores.get("metrics"):
        return settings
    return dataclasses.replace(
        settings, evaluation=dataclasses.replace(settings.evaluation, metrics=list(scores["metrics"]))
    )


def _is_kept(name: str, settings: ScoringSettings, generate_kwargs: dict[str, Any]) -> bool:
    """Whether the predictions of a model that would be made now are there already.

    Raises:
        ValueError: Others are in their place.
    """
    folder = _scores_folder(name, settings)
    if not (folder / "scores.json").exists():
        return False
    scores = read_scores(folder)
    try:
        config = GenerationConfig.from_pretrained(name, revision=settings.revision)
    except OSError:  # only the model itself tells
        config = load_model(name, settings.revision, settings.trust_remote_code).generation_config
    _, generation = _generation(config, generate_kwargs)
    now = {"split": _split(settings), "revision": settings.revision, "generation": generation}
    if settings.output_dir:  # which may hold another model's
        now["model"] = name
    kept = {key: scores.get(key) for key in now}
    if kept == now:
        found, (pairs, _) = read_predictions(folder / "predictions.jsonl"), _load_split(settings)
        if found[:2] == (pairs["source"][:], pairs["target"][:]):
            return True
        differing = "of other sentences"
    else:
        key = next(key for key in now if kept[key] != now[key])
        differing = f"with {key} {kept[key]!r} rather than {now[key]!r}"
    raise ValueError(
        f"{folder} holds scores already, {differing}: give --overwrite to make them anew, another --output_dir (for "
        "the first model), or its predictions.jsonl in the model's stead."
    )


def _short_name(name: str) -> str:
    """For a file's name: a folder's own name, a Hub name with dashes, the last parts of a file's path."""
    path = Path(name)
    if _is_file(name):
        words = "-".join(path.resolve().with_suffix("").parts[-4:])
    else:
        words = path.resolve().name if path.is_dir() else name.replace("/", "--")
    return re.sub(r"[^\w.-]+", "-", words).strip("-.")[-80:]


def _write_beside(folder: Path, stem: str, results: dict[str, Any], overwrite: bool) -> Path:
    """Writes the results as JSON, beside earlier ones that say something else rather than over them."""
    text = json.dumps(results, indent=2, ensure_ascii=False)
    for number in itertools.count(1):
        path = folder / (f"{stem}.json" if number == 1 else f"{stem}-{number}.json")
        if overwrite or not path.exists() or path.read_text(encoding="utf-8") == text:
            path.write_text(text, encoding="utf-8")
            return path
    raise AssertionError("numbers have no end")
