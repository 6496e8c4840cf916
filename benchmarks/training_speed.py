"""Training speed: the Transformer against transformers' MarianMTModel, the fused recurrent decoder against a step loop.

    python benchmarks/training_speed.py
    python benchmarks/training_speed.py --compare tiny --attn_implementation eager --threads 1
    python benchmarks/training_speed.py --padding configs/multi30k-en-de-transformer-tiny.yaml --batch_tokens 4096

README.md beside this file says how to read it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import compare, save, table
from torch import nn
from transformers import AutoModelForSeq2SeqLM, MarianConfig, PreTrainedModel
from transformers.cache_utils import Cache

from seqloom import RnnSeq2SeqConfig, TransformerSeq2SeqConfig
from seqloom.batching import IGNORED, UpdateStream, collate, plan_epoch
from seqloom.data import encode, load_pairs
from seqloom.modeling.cache_rnn_seq2seq import RecurrentStateLayer
from seqloom.settings import TrainingSettings, load_settings
from seqloom.training import keep_freed_memory, make_tokenizer

Batch = dict[str, torch.Tensor]
Step = Callable[[Batch], None]
SHAPES = {
    "tiny": {"d_model": 128, "layers": 4, "attention_heads": 4, "ffn_dim": 512},
    "base": {"d_model": 512, "layers": 6, "attention_heads": 8, "ffn_dim": 2048},
}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}


def caption_batches(batch_tokens: int, vocab_size: int, seed: int, pairs: int = 6000) -> list[Batch]:
    """Random pairs, as long as image captions, in the batches that seqloom plans."""
    random = np.random.default_rng(seed)
    sources = random.lognormal(np.log(12), 0.35, pairs)
    targets = sources * random.lognormal(0, 0.15, pairs)
    lengths = [np.clip(side.round().astype(int), 3, 40) for side in (sources, targets)]
    settings = TrainingSettings(batch_tokens=batch_tokens, batches_per_update=1, max_steps=1, seed=seed)
    batches = []
    for (rows,) in plan_epoch(*lengths, settings, 0):
        sides = [[random.integers(4, vocab_size, length).tolist() for length in side[rows]] for side in lengths]
        batches.append(collate(*sides, SPECIAL["pad_token_id"]))
    return batches


def target_tokens(batch: Batch) -> int:
    """What is counted."""
    return int((batch["labels"] != IGNORED).sum())


def seqloom_loss(model: PreTrainedModel, batch: Batch, label_smoothing: float) -> torch.Tensor:
    """All target tokens in one call."""
    return model(**batch, label_smoothing=label_smoothing, use_cache=False).loss


def marian_loss(model: PreTrainedModel, batch: Batch, label_smoothing: float) -> torch.Tensor:
    """As a training script would: Marian's own loss has no label smoothing."""
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    decoder_input_ids = model.prepare_decoder_input_ids_from_labels(batch["labels"])
    logits = model(**inputs, decoder_input_ids=decoder_input_ids, use_cache=False).logits
    return nn.functional.cross_entropy(
        logits.flatten(0, 1), batch["labels"].flatten(), ignore_index=IGNORED, label_smoothing=label_smoothing
    )


def step_loop_loss(model: PreTrainedModel, batch: Batch, label_smoothing: float) -> torch.Tensor:
    """One target token a call, from the state that the call before it left; then the output matrix, once for all."""
    labels, mask = batch["labels"], batch["attention_mask"]
    encoder_outputs = model.get_encoder()(batch["input_ids"], attention_mask=mask)
    cache = Cache(layers=[RecurrentStateLayer()])
    readouts = [
        model.model(
            attention_mask=mask, encoder_outputs=encoder_outputs, decoder_input_ids=token, past_key_values=cache
        ).last_hidden_state
        for token in model.prepare_decoder_input_ids_from_labels(labels).split(1, dim=1)
    ]
    logits = model.lm_head(torch.cat(readouts, dim=1))
    return model.loss_function(logits, labels, label_smoothing=label_smoothing)


def step_loop_head_loss(model: PreTrainedModel, batch: Batch, label_smoothing: float) -> torch.Tensor:
    labels, mask = batch["labels"], batch["attention_mask"]
    encoder_outputs = model.get_encoder()(batch["input_ids"], attention_mask=mask)
    cache = Cache(layers=[RecurrentStateLayer()])
    n = target_tokens(batch)
    loss = 0
    for token, label in zip(model.prepare_decoder_input_ids_from_labels(labels).split(1, dim=1), labels.split(1, dim=1)):
        loss = loss + model(attention_mask=mask, encoder_outputs=encoder_outputs, decoder_input_ids=token,
            past_key_values=cache, labels=label, num_items_in_batch=n, label_smoothing=label_smoothing).loss
    return loss
