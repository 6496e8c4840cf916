"""Texts in, texts out, for any seq2seq model of transformers: sorted by length, batched by tokens, order restored."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase


@torch.inference_mode()
def translate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sources: Sequence[str],
    *,
    batch_tokens: int = 4096,
    progress: bool = False,
    **generate_kwargs: Any,
) -> list[str]:
    """The model's output for every source, in the sources' order, whatever batch each was decoded in.

    Args:
        model: Any encoder-decoder with ``generate``; its mode (train or eval) is left as it was.
        tokenizer: Its tokenizer.
        sources: Texts of any lengths.
        batch_tokens: Padded source tokens decoded together, each counted once for every beam.
        progress: Show a bar.
        generate_kwargs: For `generate`, beyond the model's own generation config.
    """
    encoded = tokenizer(list(sources))["input_ids"] if len(sources) else []
    order = sorted(range(len(encoded)), key=lambda index: len(encoded[index]), reverse=True)  # the largest batch first
    num_beams = generate_kwargs.get("num_beams") or model.generation_config.num_beams or 1
    outputs: list[str | None] = [None] * len(encoded)
    was_training = model.training
    model.eval()
    bar = tqdm(total=len(encoded), desc="decoding", unit=" sentences", disable=not progress, dynamic_ncols=True)
    for batch in _batches(order, encoded, max(1, batch_tokens // num_beams)):
        inputs = tokenizer.pad({"input_ids": [encoded[index] for index in batch]}, return_tensors="pt").to(model.device)
        attention_mask = inputs["attention_mask"]
        ids = model.generate(input_ids=inputs["input_ids"], attention_mask=attention_mask, **generate_kwargs)
        for index, text in zip(batch, tokenizer.batch_decode(ids, skip_special_tokens=True), strict=True):
            outputs[index] = text
        bar.update(len(batch))
    bar.close()
    model.train(was_training)
    return outputs


def _batches(order: list[int], encoded: list[list[int]], budget: int):
    """Cuts sources, longest first, into batches of at most ``budget`` padded tokens."""
    rest = iter(order)
    for first in rest:
        rows = max(1, budget // max(1, len(encoded[first])))
        yield [first, *itertools.islice(rest, rows - 1)]
