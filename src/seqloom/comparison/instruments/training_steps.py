"""Training steps that are timed against the sequence length: whose, of what, and which last too long to be run."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import PreTrainedConfig, PreTrainedModel

from seqloom.comparison.instruments.clock import CONTROL, Series, cpu_share, local_exponent, median_seconds, seconds_of
from seqloom.comparison.traits import hybrid_recipe, recurrent_recipe
from seqloom.decoding.loading import Seq2SeqLM
from seqloom.modeling import (
    HybridSeq2SeqConfig,
    HybridSeq2SeqForConditionalGeneration,
    RnnSeq2SeqConfig,
    RnnSeq2SeqForConditionalGeneration,
    Seq2SeqConfig,
    TransformerSeq2SeqConfig,
    TransformerSeq2SeqForConditionalGeneration,
)
from seqloom.support.console import has_terminal
from seqloom.support.machine import available_cores, cpu_threads

PARTS = {"encoder": "encoder", "decoder": "decoder", "model": "whole model"}
TRANSFORMER = "Transformer"
DEFAULT_WIDTH, LARGEST_WIDTH = 128, 256
NUM_HEADS = 4
LARGEST_GIB = 4.0
"""Of what a step may keep for its backward pass; Bahdanau's attention keeps target × source × width values."""


def systems(configs: Iterable[PreTrainedConfig]) -> dict[str, dict[str, Any]]:
    """What is compared: GRU without and with attention, the candidates' other cells and attentions, Transformer, and
    the candidates' hybrids.

    Returns:
        Name → fields of `RnnSeq2SeqConfig`; none for the Transformer; with their ``model_type``, those of
        `HybridSeq2SeqConfig`.
    """
    configs = list(configs)
    recipes: list[dict[str, Any]] = [
        {"cell_type": "gru", "attention": "none"},
        {"cell_type": "gru", "attention": "luong"},
    ]
    for config in configs:
        if (recipe := recurrent_recipe(config)) is not None:
            recipes.append(recipe)
    named = {
        RnnSeq2SeqConfig(**recipe).name_in_words + (", input feeding" if "input_feeding" in recipe else ""): recipe
        for recipe in recipes
    }
    hybrids = [recipe for config in configs if (recipe := hybrid_recipe(config)) is not None]
    return {**named, TRANSFORMER: {}, **{config_of(recipe).name_in_words: recipe for recipe in hybrids}}


def config_of(recipe: dict[str, Any], width: int = DEFAULT_WIDTH, **common: Any) -> Seq2SeqConfig:
    """Of a system, at a width."""
    if recipe and "model_type" not in recipe:
        return RnnSeq2SeqConfig(hidden_size=width, **common, **recipe)
    sizes: dict[str, Any] = {
        "d_model": width, "encoder_attention_heads": NUM_HEADS, "decoder_attention_heads": NUM_HEADS,
        "encoder_ffn_dim": 4 * width, "decoder_ffn_dim": 4 * width,
    }  # fmt: skip
    if recipe:
        return HybridSeq2SeqConfig(cell_type=recipe["cell_type"], **sizes, **common)
    return TransformerSeq2SeqConfig(**sizes, **common)


MODELS = {
    RnnSeq2SeqConfig: RnnSeq2SeqForConditionalGeneration,
    HybridSeq2SeqConfig: HybridSeq2SeqForConditionalGeneration,
    TransformerSeq2SeqConfig: TransformerSeq2SeqForConditionalGeneration,
}


def common_width(configs: Iterable[PreTrainedConfig]) -> int:
    """The candidates' largest width, at most 256, as a multiple of 8: heads and directions divide it."""
    widths = [getattr(config, "hidden_size", None) or getattr(config, "d_model", None) for config in configs]
    widest = max((width for width in widths if width), default=DEFAULT_WIDTH)
    return min(LARGEST_WIDTH, 8 * -(-widest // 8))


def build(recipe: dict[str, Any], width: int, layers: int, vocab_size: int) -> Seq2SeqLM:
    """An untrained system in training mode, without dropout."""
    config = config_of(recipe, width, vocab_size=vocab_size, encoder_layers=layers, decoder_layers=layers, dropout=0.0)
    return MODELS[type(config)](config).train()


def training_step(model: PreTrainedModel, part: str, length: int, batch_size: int) -> Callable[[], None]:
    """Forward and backward pass of a part of the model; gradients stay until the next call.

    The encoder's output meets a fixed random gradient, as a decoder would send it. The decoder reads a fixed encoder
    output of as many steps as it has targets, and its gradient is computed as well.

    Args:
        part: ``encoder``, ``decoder`` (teacher forcing, output matrix and loss included) or ``model``.
        length: Tokens of source and target; none is padding.
    """
    ids = torch.randint(3, model.config.vocab_size, (batch_size, length), device=model.device)  # 0 to 2 are special
    with torch.no_grad():
        encoded = model.get_encoder()(input_ids=ids)
    gradient = torch.randn_like(encoded.last_hidden_state)
    for name, value in encoded.items():
        encoded[name] = value.detach().requires_grad_()

    def step() -> None:
        model.zero_grad()
        if part == "encoder":
            model.get_encoder()(input_ids=ids).last_hidden_state.backward(gradient)
        elif part == "decoder":
            for value in encoded.values():
                value.grad = None
            model(encoder_outputs=encoded, labels=ids).loss.backward()
        else:
            model(input_ids=ids, labels=ids).loss.backward()

    return step


def time_lengths(
    models: Mapping[str, PreTrainedModel],
    recipes: dict[str, dict[str, Any]],
    lengths: Sequence[int],
    batch_size: int,
    repeats: int,
    longest_step: float,
) -> dict[str, Any]:
    """Milliseconds a step, part → system → length; and what was not run, with what was expected of it.

    Every length is run once, from the shortest to the longest that can be paid; then all of them in rounds. A model
    called `CONTROL` is kept apart, as ``control``.
    """
    device = next(iter(models.values())).device
    first: dict[str, dict[str, Series]] = {part: {name: {} for name in models} for part in PARTS}
    skipped: dict[str, dict[str, dict[str, Any]]] = {part: {name: {} for name in models} for part in PARTS}
    steps = {}
    shown = {"unit": " lengths", "disable": not has_terminal(), "dynamic_ncols": True}
    bar = tqdm(desc="data handling, first runs", total=len(lengths), **shown)
    for length in lengths:
        for part, (name, model) in itertools.product(PARTS, models.items()):
            why = too_much(first[part][name], length, longest_step)
            if part != "encoder" and recipes[name].get("attention") == "bahdanau":
                gib = 4 * batch_size * length**2 * model.config.hidden_size / 2**30  # float32, for the tanh alone
                why = why or ({"gib": gib} if gib > LARGEST_GIB else None)
            if why or skipped[part][name]:
                skipped[part][name][str(length)] = why or {}
                continue
            step = steps[part, name, length] = training_step(model, part, length, batch_size)
            if not first[part][name]:
                step()  # the very first one prepares libraries and memory: nothing follows from its time
            first[part][name][length] = 1000 * seconds_of(step, device)
        bar.update()
    bar.close()
    warmed = {(part, name, length): first[part][name][length] / 1000 for part, name, length in steps}
    milliseconds: dict[str, dict[str, dict[str, float]]] = {part: {name: {} for name in models} for part in PARTS}
    result: dict[str, Any] = {"milliseconds": milliseconds, "skipped": skipped}
    with cpu_share(result):
        medians = median_seconds(steps, device, repeats, first=warmed, title="data handling")
    for (part, name, length), seconds in medians.items():
        milliseconds[part][name][str(length)] = 1000 * seconds
    if CONTROL in models:
        result["control"] = {part: of_part.pop(CONTROL) for part, of_part in milliseconds.items()}
        for of_part in skipped.values():
            del of_part[CONTROL]
    return result


def too_much(known: Series, length: int, longest_step: float) -> dict[str, float] | None:
    """The seconds that a step of this length is expected to last, if that is too long; else None.

    Expected from the last length that was timed and the growth before it, which is taken as linear at least and as
    quadratic at most.
    """
    if not known:
        return None
    last = max(known)
    growth = min(2.0, max(1.0, local_exponent(known) or 1.0))
    seconds = known[last] / 1000 * (length / last) ** growth
    return {"seconds": seconds} if seconds > longest_step else None


def time_threads(models: Mapping[str, PreTrainedModel], length: int, batch_size: int, repeats: int) -> dict[str, Any]:
    """A step of the whole model with one CPU thread and with all cores; everything twice, since several threads scatter
    more than one does and the time is short."""
    cores = available_cores()
    steps = {
        (name, number): training_step(model, "model", length, batch_size)
        for name, model in models.items()
        for number in range(2)
    }
    milliseconds: dict[str, list[float]] = {name: [] for name in models}
    again: dict[str, list[float]] = {name: [] for name in models}
    for threads in (1, cores) if cores > 1 else ():
        with cpu_threads(threads):
            for (name, number), seconds in median_seconds(steps, torch.device("cpu"), repeats).items():
                (again if number else milliseconds)[name].append(1000 * seconds)
    return {"length": length, "cores": cores, "milliseconds": milliseconds, "again": again}
