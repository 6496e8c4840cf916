"""What is compared: trained models, one or several (a seed each) of every recipe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoConfig, PreTrainedConfig, PreTrainedTokenizerBase

from seqloom.comparison.traits import Traits, traits_of
from seqloom.decoding.loading import Seq2SeqLM, load_model, tokenizer_of
from seqloom.settings.schema import Settings
from seqloom.support.machine import default_device


@dataclass(frozen=True)
class Candidate:
    """One of the compared recipes or models."""

    name: str
    """What it is called in the report: unique, short."""
    folders: tuple[Path, ...]
    """Finished models, one a seed; seqloom's runs have ``settings.yaml``, ``record.json``, ``training_log.jsonl``."""
    settings: Settings | None
    """Of its runs; None for a model that another tool trained."""
    seeds: tuple[int, ...]
    """Of its runs, in the order of the folders."""
    predictions: tuple[Path, ...]
    """``predictions.jsonl`` of the compared split, in the order of the folders; ``scores.json`` lies beside each."""

    @property
    def config(self) -> PreTrainedConfig:
        """The model's config."""
        return AutoConfig.from_pretrained(self.folders[0], trust_remote_code=False)

    @property
    def traits(self) -> Traits:
        """What its model is."""
        return traits_of(self.config)

    def load(self) -> tuple[Seq2SeqLM, PreTrainedTokenizerBase]:
        """The first seed's model, on the machine's accelerator if it has one, and its tokenizer."""
        model = load_model(str(self.folders[0]))
        return model, tokenizer_of(model, str(self.folders[0]))


@dataclass(frozen=True)
class Options:
    """What the measures are told."""

    folder: Path
    """Of the report; a measure may write below it what is too large for a result."""
    seed: int = 42
    num_threads: int = 1
    """CPU threads of what is timed."""
    num_jobs: int = 1
    """Processes of one thread each, side by side, of what is not timed."""
    bootstrap_samples: int = 1000

    @property
    def device(self) -> torch.device:
        """The machine's accelerator if it has one."""
        return default_device()
