"""Scoring any seq2seq model of transformers: decodes a split once and gives the outputs to `evaluate` metrics."""

from __future__ import annotations

import json
import platform
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel

from seqloom import metrics
from seqloom.data import load_pairs
from seqloom.decoding import translate
from seqloom.modeling import CONFIG_CLASSES
from seqloom.settings import EvaluationSettings, load_scoring_settings
from seqloom.tokenization import check_matches, load_tokenizer
from seqloom.tracking import has_terminal

USAGE = "usage: evaluate.py MODEL [--split test] [--num_beams 5] [--key value ...] [--overwrite]"
DEFAULT_MAX_NEW_TOKENS = 256


def main(argv: Sequence[str] | None = None) -> int:
    """The command ``evaluate.py``; returns its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        about = "MODEL is a folder or a name on the Hub; keys are those of data:, generation: and evaluation:."
        print(USAGE, "", about, sep="\n")
        return 0 if words else 2
    overwrite = "--overwrite" in words
    words = [word for word in words if word != "--overwrite"]
    try:
        if not words or words[0].startswith("--"):
            raise ValueError(f"the model comes first. {USAGE}")
        scores = evaluate_model(words[0], words[1:], overwrite=overwrite)
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
    split = settings.split or settings.evaluation.split or "test"
    default = Path(name) if Path(name).is_dir() else Path("runs") / name.replace("/", "--")
    folder = Path(settings.output_dir) if settings.output_dir else default / "evaluation" / split
    if not overwrite and (folder / "scores.json").exists():
        raise ValueError(f"{folder} holds scores already; give --overwrite, or another --output_dir.")
    model = load_model(name, settings.revision, settings.trust_remote_code)
    tokenizer = load_tokenizer(name, revision=settings.revision, trust_remote_code=settings.trust_remote_code)
    if model.config.model_type in CONFIG_CLASSES:
        check_matches(tokenizer, model.config)
    elif len(tokenizer) > model.get_input_embeddings().num_embeddings:
        raise ValueError(
            f"the tokenizer has {len(tokenizer)} entries, the model {model.get_input_embeddings().num_embeddings} "
            "embeddings: they were not made for each other."
        )
    pairs = load_pairs(settings.data, settings.seed, splits=(split,))
    if split not in pairs.splits:
        raise ValueError(f"the data has no {split} split; choose another with --split, or name its files.")
    return score_split(
        model,
        tokenizer,
        pairs.splits[split],
        settings.evaluation,
        split=split,
        folder=folder,
        batch_tokens=settings.generation.decode_batch_tokens,
        about={"model": name, "revision": settings.revision, "data": pairs.provenance},
        **generate_kwargs,
    )


def load_model(name: str, revision: str | None = None, trust_remote_code: bool = False) -> PreTrainedModel:
    """A seq2seq model on the machine's accelerator, if it has one.

    Raises:
        ValueError: There is no such model, or it is not an encoder-decoder.
    """
    parent = Path(name).parent
    is_path = name.startswith((".", "/", "~", "\\")) or (parent != Path() and parent.is_dir())
    if is_path and not Path(name).exists():
        raise ValueError(f"there is no folder {name}; give the output folder of a run, or a name on the Hub.")
    try:
        model = AutoModelForSeq2SeqLM.from_pretrained(name, revision=revision, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise ValueError(f"no seq2seq model can be loaded from {name!r}: {error}") from None
    return model.to(torch.accelerator.current_accelerator() or "cpu").eval()


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
    config = model.generation_config
    if config.max_new_tokens is None and config.max_length is None:
        generate_kwargs.setdefault("max_new_tokens", DEFAULT_MAX_NEW_TOKENS)
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
    decoding = {
        name: getattr(config, name) for name in ("num_beams", "length_penalty", "early_stopping", "max_new_tokens")
    }
    scores = {
        **(about or {}),
        "split": split,
        "sentences": len(sources),
        "generation": {name: value for name, value in (decoding | generate_kwargs).items() if value is not None},
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
