"""One output while it is being written, piece by piece."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase, StoppingCriteriaList, TextIteratorStreamer

from seqloom.decoding.exported import ExportedModel
from seqloom.decoding.limits import check_sources, within_positions
from seqloom.decoding.loading import GenerativeModel
from seqloom.decoding.options import limited, told_of_strings
from seqloom.decoding.translate import GREEDY


def stream(
    model: GenerativeModel, tokenizer: PreTrainedTokenizerBase, source: str, **generate_kwargs: Any
) -> Iterator[str]:
    """One output, piece by piece, while it is being written. The pieces joined are the whole text.

    One model serves one call at a time: it is put into evaluation mode until the last piece is read.

    Args:
        model, tokenizer: As for `translate`.
        source: A text.
        generate_kwargs: For `generate`. The search is greedy unless ``do_sample=True``.

    Raises:
        ValueError: The source is no text, or longer than the model's positions reach; or ``num_beams`` is above 1: the
            best beam is not known before the end.
    """
    if not isinstance(source, str):
        raise ValueError(f"stream takes one text, but is given {source!r}: call it for each, or translate for many.")
    if (num_beams := generate_kwargs.get("num_beams") or 1) > 1:
        raise ValueError(
            f"num_beams is {num_beams}, but an output can only be streamed with one beam, since the best of several is "
            "not known before the end: leave num_beams out, or call translate."
        )
    if isinstance(model, ExportedModel):
        raise ValueError(model.refusal("stream what it writes"))
    inputs = tokenizer([source], return_tensors="pt").to(model.device)
    check_sources(model, inputs["input_ids"].tolist(), None)
    streamer = TextIteratorStreamer(tokenizer, skip_special_tokens=True)
    closed = threading.Event()

    def is_closed(ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        return torch.full(ids.shape[:1], closed.is_set(), device=ids.device)

    def run() -> None:
        try:
            given = generate_kwargs.pop("stopping_criteria", None) or []
            criteria = StoppingCriteriaList([*(given if isinstance(given, list) else [given]), is_closed])
            asked = told_of_strings(model, tokenizer, limited(model.generation_config, generate_kwargs))
            model.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                streamer=streamer,
                stopping_criteria=criteria,
                **GREEDY | within_positions(model, asked),
            )
        finally:
            streamer.end()  # also after an error, for which the reader would wait in vain

    def pieces() -> Iterator[str]:
        was_training = model.training
        model.eval()
        with ThreadPoolExecutor(max_workers=1) as pool:  # whose end waits for the model's
            writing = pool.submit(run)
            try:
                yield from (piece for piece in streamer if piece)
                writing.result()  # raises what went wrong
            finally:
                closed.set()  # the reader may have gone
                writing.exception()
                model.train(was_training)

    return pieces()
