"""A run and where it stands."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from datasets import Dataset
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel
from transformers import PreTrainedTokenizerBase

from seqloom.data.updates import UpdateStream
from seqloom.decoding.loading import Seq2SeqLM
from seqloom.settings.schema import Settings
from seqloom.support.layers import Choice
from seqloom.training.states import Stateful
from seqloom.training.teaching import Teacher


@dataclass
class Progress:
    """Where a run stands."""

    step: int = 0
    """Updates made."""
    epoch: int = 0
    epoch_updates: int = 0
    """Updates made in this epoch."""
    seconds: float = 0.0
    """Of training, validations included."""
    target_tokens: int = 0
    """Target tokens learnt from."""
    best_score: float | None = None
    best_loss: float | None = None
    """The validation loss beside it; unknown where a run goes on that was begun without it."""
    best_step: int = 0
    validations_without_best: int = 0
    skipped_updates: int = 0
    """Updates left out, as their loss or gradient was no number."""
    skipped_in_a_row: int = 0
    learning_rate: float | None = None
    """Of the last update."""
    fast_layers: Choice | None = None
    """How layers compute, as `seqloom.support.layers.measure` found it when the run began; None: as torch does."""
    start: dict[str, Any] | None = None
    """What ``training.init_from`` gave it, as `initialise` tells; None where it began from nothing."""
    teacher: dict[str, Any] | None = None
    """Whose probabilities are in its loss, as `make_teacher` tells; None where nobody's are."""
    settings: dict[str, Any] = field(default_factory=dict)
    """``training`` as the last start had it, so that the next one sees what is other."""
    resumed: list[dict[str, Any]] = field(default_factory=list)
    """Every start with other settings: after which update (``step``), and what ``changed``, a pair of values each."""
    log: dict[str, float] = field(default_factory=dict)
    """The log's sums since its last line."""


@dataclass
class Run:
    """What the loop works with."""

    settings: Settings
    folder: Path
    accelerator: Accelerator
    model: nn.Module
    """As Accelerate wraps it; ``accelerator.unwrap_model(run.model)`` is the model itself."""
    optimizer: torch.optim.Optimizer
    scheduler: LambdaLR
    tokenizer: PreTrainedTokenizerBase
    train_stream: UpdateStream
    validation_stream: UpdateStream
    validation_pairs: Dataset
    """The texts that are decoded in validations."""
    max_steps: int | None
    progress: Progress
    pieces: int = 1
    """Into which every batch is cut further, since it did not fit into memory."""
    average: AveragedModel | None = None
    """The weights' exponential moving average, with ``training.ema_decay``."""
    teacher: Teacher | None = None
    """With ``distillation.teacher``."""

    @property
    def kept(self) -> dict[str, Stateful]:
        """What a checkpoint holds of it besides model, optimizer and random states."""
        parts: dict[str, Stateful] = {"schedule": self.scheduler}
        if self.average is not None:
            parts["average"] = self.average
        if self.settings.data.split_stream:
            parts["stream"] = self.train_stream  # which resumes with as many processes only
        return parts

    @property
    def loss_options(self) -> dict[str, int]:
        """Arguments of the model's forward by which its loss is computed."""
        chunk = self.settings.training.loss_chunk_tokens
        return {} if chunk is None else {"loss_chunk_tokens": chunk}

    @property
    def scored_model(self) -> Seq2SeqLM:
        """The model that is validated and saved: the moving average where there is one, else the one that learns."""
        if self.average is None:
            return self.accelerator.unwrap_model(self.model)
        return cast(Seq2SeqLM, self.average.module)
