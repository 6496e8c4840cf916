"""FLOPs and parameters of an encoder-decoder: counted while it computes, with a multiply-add as two operations.

torch's `FlopCounterMode` sees matrix products, as published counts do (Kaplan et al. 2020, arXiv:2001.08361, section
2.1): activations, norms and softmax, which add a few percent, are not in them. On a CPU it does not see oneDNN's LSTM
nor the fused attention, so both are computed here by the plain products that they stand for; the tests hold the counts
equal to the closed forms.
"""

from __future__ import annotations

import contextlib
import itertools
import statistics
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedTokenizerBase

from seqloom.comparison.candidates import Candidate
from seqloom.decoding.loading import GenerativeModel, Seq2SeqLM
from seqloom.decoding.translate import GREEDY
from seqloom.scoring.predictions import read_predictions

MOST_SENTENCES = 10_000
"""Of the test data, whose lengths are looked at."""


def costs(candidate: Candidate) -> dict[str, Any]:
    """What a candidate's first model computes for a typical pair.

    Returns:
        ``source_length`` and ``target_length`` in tokens, the end token included: medians of the test data;
        ``training_flops`` and ``generation_flops`` a target token; ``parameters``, ``embedding_parameters``.
    """
    model, tokenizer = candidate.load()
    source_length, target_length = typical_lengths(candidate, tokenizer)
    model = model.cpu().float()
    return {
        "source_length": source_length,
        "target_length": target_length,
        "training_flops": training_flops(model, source_length, target_length) / target_length,
        "generation_flops": generation_flops(model, source_length, target_length) / target_length,
        **parameters(model),
    }


def typical_lengths(candidate: Candidate, tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """Median tokens of the test data's sources and references, as the candidate's tokenizer cuts them."""
    predictions = read_predictions(candidate.predictions[0])
    sources = tokenizer(predictions.sources[:MOST_SENTENCES])["input_ids"]
    targets = tokenizer(text_target=predictions.references[:MOST_SENTENCES])["input_ids"]
    source, target = (max(1, statistics.median_low(map(len, side))) for side in (sources, targets))
    return source, target


def parameters(model: Seq2SeqLM) -> dict[str, int]:
    """``parameters``, tied ones once; and ``embedding_parameters``, those of tables and of the output matrix."""
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    if (output := model.get_output_embeddings()) is not None:
        tables.append(output)
    embeddings = {id(part): part.numel() for table in tables for part in table.parameters()}
    return {
        "parameters": sum(part.numel() for part in model.parameters()),
        "embedding_parameters": sum(embeddings.values()),
    }


def typical_batch(model: Seq2SeqLM, rows: int, source_length: int, target_length: int) -> dict[str, torch.Tensor]:
    """Pairs without padding: ``input_ids``, ``attention_mask`` (rows, source), ``labels`` (rows, target)."""
    special = {getattr(model.config, f"{name}_token_id", None) for name in ("pad", "bos", "eos")}
    token = next(number for number in itertools.count() if number not in special)  # models treat those apart
    sources = torch.full((rows, source_length), token, device=model.device)
    return {
        "input_ids": sources,
        "attention_mask": torch.ones_like(sources),
        "labels": torch.full((rows, target_length), token, device=model.device),
    }


def training_flops(model: Seq2SeqLM, source_length: int, target_length: int, rows: int = 1) -> int:
    """FLOPs of forward and backward pass.

    Args:
        model: On the CPU. It is left as it was, but for its gradients, which are gone.
    """
    model.eval()  # no dropout, and no layers left out at random; neither changes what is multiplied
    batch = typical_batch(model, rows, source_length, target_length)
    with visible_products(), torch.enable_grad(), FlopCounterMode(display=False) as counter:
        model(**batch, use_cache=False).loss.backward()
    model.zero_grad(set_to_none=True)
    return counter.get_total_flops()


def generation_flops(model: Seq2SeqLM, source_length: int, target_length: int, rows: int = 1) -> int:
    """FLOPs of writing ``target_length`` tokens greedily with the cache, the encoder's included."""
    model.eval()
    batch = typical_batch(model, rows, source_length, target_length)
    with visible_products(), FlopCounterMode(display=False) as counter:
        generate(model, batch)
    return counter.get_total_flops()


def generate(model: GenerativeModel, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """As many tokens as the labels have, greedily: (rows, 1 + target) ids."""
    length = batch["labels"].shape[1]
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    options = {"max_new_tokens": length, "min_new_tokens": length, "do_sample": False, "use_cache": True}
    return model.generate(**inputs, **GREEDY | options)


@contextlib.contextmanager
def visible_products() -> Iterator[None]:
    """Without the fused kernels of the CPU that `FlopCounterMode` has no formula for."""
    with (
        warnings.catch_warnings(),
        contextlib.ExitStack() as stack,
    ):
        warnings.simplefilter("ignore", UserWarning)  # torch 2.13 has one about TF32 on every use of these flags
        stack.enter_context(torch.backends.mkldnn.flags(enabled=False))
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield
