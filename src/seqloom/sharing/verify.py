"""Whether a record's scores are those of the predictions that were kept, and whether the pushed model gives them."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Container
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from seqloom import run_folder
from seqloom.decoding.loading import GenerativeModel, Seq2SeqLM
from seqloom.decoding.translate import translate
from seqloom.modeling import CONFIG_CLASSES
from seqloom.scoring import metrics
from seqloom.scoring.naming import check_names
from seqloom.scoring.predictions import Predictions, read_predictions
from seqloom.settings.schema import Settings
from seqloom.sharing.code import CONFIGS, check_code, named_classes

SAMPLE_SIZE = 100
LEAST_SAME = 0.95
"""Share of the sample's outputs that must come out again letter for letter. Near ties may fall otherwise on another
machine, in another precision or batch."""


def load_pushed(name: str, revision: str, trust_remote_code: bool = False) -> tuple[Seq2SeqLM, PreTrainedTokenizerBase]:
    """The model as strangers get it: downloaded anew, and run by the code that was pushed with it.

    Raises:
        ValueError: Some of that is not seqloom's own, be it from another push, and nobody said that it may be run.
    """
    with tempfile.TemporaryDirectory() as cache:
        options: dict[str, Any] = {"revision": revision, "cache_dir": cache}
        snapshot = HfApi().snapshot_download(name, allow_patterns=["*.py", *CONFIGS], **options)
        check_code(Path(snapshot), f"{name} at {revision}", trust_remote_code)
        options["trust_remote_code"] = trust_remote_code

        def pushed_class(config: str, auto_class: str) -> Any:
            path = Path(snapshot, config)
            if not path.is_file():
                return None
            reference = named_classes(path).get(auto_class)
            reference = next(filter(None, reference)) if isinstance(reference, list) else reference
            return None if reference is None else get_class_from_dynamic_module(reference, name, **options)

        model_class = pushed_class("config.json", "AutoModelForSeq2SeqLM")
        if model_class is None:
            raise ValueError(
                f"config.json of {name} at {revision} names no class for AutoModelForSeq2SeqLM in its auto_map, so "
                "that nobody without seqloom can load the model: push it again."
            )
        model = model_class.from_pretrained(name, **options)
        tokenizer_class = pushed_class("tokenizer_config.json", "AutoTokenizer") or AutoTokenizer
        return model, tokenizer_class.from_pretrained(name, **options)


def predictions(folder: Path, record: dict[str, Any]) -> Predictions:
    """Those of the scored split, as they were kept.

    Raises:
        ValueError: They were not.
    """
    split = record["evaluation"]["split"]
    path = run_folder.evaluation(folder, split) / run_folder.PREDICTIONS
    if not path.is_file():
        raise ValueError(
            f"not pushed: {path} is gone, against which the scores are checked; {as_it_was(folder, split)}."
        )
    return read_predictions(path)


def as_it_was(folder: Path, split: str) -> str:
    """What mends predictions that are others than the record's."""
    return f"score the model again as it was: seqloom evaluate {folder} --split {split} --overwrite"


def check_record(
    folder: Path,
    record: dict[str, Any],
    settings: Settings,
    given: Container[str] = (),
    trust_remote_code: bool = False,
) -> None:
    """Holds the scores that a record claims against the predictions that were kept.

    Args:
        folder: The run's.
        record: What came of it.
        settings: The run's.
        given: Metrics that are computed though they are not seqloom's own.
        trust_remote_code: Whether the decoding that is recorded may name code.

    Raises:
        ValueError: They give another score, or the record names code that nobody allowed.
    """
    check_names(record["evaluation"]["metrics"], folder / run_folder.RECORD, given)
    running = {"custom_generate", "trust_remote_code"} & set(record["evaluation"]["generation"])
    if running and not trust_remote_code:
        raise ValueError(
            f"{folder / run_folder.RECORD} decodes by {', '.join(sorted(running))}, which runs code: if you trust it, "
            "give --trust_remote_code."
        )
    kept = predictions(folder, record)
    for name, result in record["evaluation"]["metrics"].items():
        options = settings.evaluation.metric_kwargs.get(name, {})
        options = metrics.as_signed(name, options, result["signature"])
        texts = (kept.hypotheses, kept.scored_references)
        score = metrics.compute(name, *texts, sources=kept.sources, **options)["score"]
        if abs(score - result["score"]) > 0.005:  # what a card shows: two decimals
            split = record["evaluation"]["split"]
            raise ValueError(
                f"not pushed: the record claims {name} {result['score']:.2f}, but the predictions in "
                f"{run_folder.evaluation(folder, split)} give {score:.2f}; {as_it_was(folder, split)}."
            )


def reproduce(
    folder: Path,
    record: dict[str, Any],
    settings: Settings,
    model: GenerativeModel,
    tokenizer: PreTrainedTokenizerBase,
    sample_size: int = SAMPLE_SIZE,
) -> tuple[int, int]:
    """Lets a model decode a random sample of what was scored, as it was decoded then; all of it where outputs were
    drawn, since what is drawn for one follows from what was drawn for those before it.

    Returns:
        How many of the sampled outputs came out again, and how many were sampled.

    Raises:
        ValueError: Too many are others.
    """
    kept = predictions(folder, record)
    sources, outputs = kept.sources, kept.hypotheses
    options = {"batch_tokens": settings.generation.decode_batch_tokens, **record["evaluation"]["generation"]}
    if {"seed", "dtype"} & set(options):
        model = as_own(model)
    if (seed := options.pop("seed", None)) is not None:
        torch.manual_seed(seed)
        sample_size = len(sources)
    chosen = sorted(random.Random(settings.training.seed).sample(range(len(sources)), min(sample_size, len(sources))))
    again = translate(model, tokenizer, [sources[index] for index in chosen], **options)
    same = sum(outputs[index] == text for index, text in zip(chosen, again, strict=True))
    if same < LEAST_SAME * len(chosen):
        raise ValueError(
            f"pushed, but without scores: loaded again, the model gives only {same} of {len(chosen)} sampled outputs "
            f"as they were scored; is the model in {folder} the one that was scored?"
        )
    return same, len(chosen)


def as_own(model: GenerativeModel) -> GenerativeModel:
    """The weights in the class that seqloom itself has for them: what is drawn, and what is coarser than the weights,
    comes out again only from the search that it came from."""
    if (family := CONFIG_CLASSES.get(model.config.model_type)) is None:
        return model
    loaded: Any = model  # a module
    own = AutoModelForSeq2SeqLM.from_config(family.from_dict(model.config.to_dict()), trust_remote_code=False)
    own.load_state_dict(loaded.state_dict())
    own.generation_config = model.generation_config
    return own.to(model.device).eval()
