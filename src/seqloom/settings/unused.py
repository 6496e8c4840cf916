"""Settings that would change nothing beside the others: what is set is meant, so they are refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Iterable
from typing import Any

from seqloom.settings.schema import DataSettings, EvaluationSettings, GenerationSettings, MixSettings, Settings
from seqloom.support.wording import listing, nearest


def check_used(settings: Settings) -> None:
    """Refuses settings of something that the run has not, where they are not at their defaults.

    Raises:
        ValueError: There is one; the message says what it needs.
    """
    data, tokenizer, training, hub = settings.data, settings.tokenizer, settings.training, settings.hub
    check_place(data, "data")
    for number, entry in enumerate(data.mix):
        check_place(entry, f"data.mix[{number}]")
    if not data.streaming:
        _refuse("data", data, ("shuffle_buffer",), "data.streaming, which is off")
    if not data.mix:
        _refuse("data", data, ("weight", "stopping_strategy"), "data.mix, which is empty")
    if tokenizer.path is not None:
        # Kind and size stay: --path may take the place of a recipe's tokenizer, and they claim nothing of the texts.
        claims = ("normalization", "lowercase")
        _refuse("tokenizer", tokenizer, claims, "a tokenizer that is trained, but tokenizer.path loads one")
    elif tokenizer.shared:
        _refuse("tokenizer", tokenizer, ("target_kind", "target_vocab_size"), "tokenizer.shared: false")
    if training.average_checkpoints == 1:
        raise ValueError(
            "training.average_checkpoints is 1, of which the mean is itself: give 2 or more, or 0 for none."
        )
    if not training.average_checkpoints:
        _refuse("training", training, ("average_kind",), "training.average_checkpoints, which is 0")
    if training.eval_metric is None:
        _refuse("training", training, ("eval_samples",), "training.eval_metric, which is null")
    if settings.distillation.teacher is None:
        names = ("teacher_revision", "alpha", "temperature", "top_k")
        _refuse("distillation", settings.distillation, names, "distillation.teacher, which is null")
    if hub.push_to_hub is None:
        _refuse("hub", hub, ("hub_private_repo", "hub_revision", "hub_strategy"), "hub.push_to_hub, which is null")
    if settings.generation.num_beams == 1:
        _refuse("generation", settings.generation, ("length_penalty", "early_stopping"), "beams, but num_beams is 1")
    _check_model(settings.model)
    check_generate_kwargs(settings.generation)
    if settings.generation.generate_kwargs.get("max_length") is not None:
        raise ValueError(
            "generation.generate_kwargs has max_length, but what limits a run's outputs, and goes before it, is "
            "generation.max_new_tokens, which does not count the token that they begin with: give that."
        )
    used = [*settings.evaluation.metrics, *filter(None, [training.eval_metric])]
    check_metric_kwargs(settings.evaluation, used)


def check_place(data: DataSettings | MixSettings, where: str, among: Container[str] | None = None) -> None:
    """Refuses what says which data set of the Hub is meant where local files are.

    Args:
        where: The section is, in the settings.
        among: The keys that are judged; None: all.

    Raises:
        ValueError: There is such a key.
    """
    if data.dataset is None:
        names = [name for name in ("config_name", "revision", "split") if among is None or name in among]
        _refuse(where, data, names, f"{where}.dataset, but the pairs are in files")


def scored_keys(split: str, *, in_files: bool) -> set[str]:
    """The keys of ``data`` that a scoring reads: where the pairs of its split are, and no word of how one trains.

    Args:
        split: Is scored.
        in_files: Whether the split has files of its own, so that no data set is asked for it.
    """
    columns, place = {"source", "target"}, {"dataset", "config_name", "revision", "split", "streaming"}
    train, cut = {"train_files", "train_split"}, {"validation_size"}
    if split == "train":  # what is left of it where the validation pairs are cut from it
        of_mix = {"mix", "weight", "stopping_strategy"}
        return columns | place | train | cut | {"validation_files", "validation_split"} | of_mix
    own = columns | {f"{split}_files", f"{split}_split"}
    if in_files:
        return own
    return own | place | (train | cut if split == "validation" else set())


def check_scored(data: DataSettings, keys: Iterable[str], split: str) -> None:
    """Refuses keys of ``data`` on a scoring's line that it does not read. A place that is null is none.

    Raises:
        ValueError: There is one; the message has those that are read.
    """
    read = scored_keys(split, in_files=bool(getattr(data, f"{split}_files")))
    places = {"dataset", "config_name", "revision", "split", "train_files", "validation_files", "test_files"}
    for key in keys:
        if key in read or (key in places and getattr(data, key) is None):
            continue
        other = key.partition("_")[0]
        hint = f", or score that split with --split {other}" if key in (f"{other}_files", f"{other}_split") else ""
        raise ValueError(
            f"--data.{key} is of no use here: of data, scoring the {split} split reads {listing(sorted(read))} alone; "
            f"leave it out{hint}."
        )


def _refuse(section: str, values: Any, names: Iterable[str], of: str) -> None:
    defaults = {f.name: f.default for f in dataclasses.fields(values)}
    for name in names:
        value = getattr(values, name)
        if value != defaults[name]:
            shown = str(value).lower() if isinstance(value, bool) else repr(value)
            raise ValueError(f"{section}.{name} is {shown}, which belongs to {of}: leave it out, or change that.")


def _check_model(model: dict[str, Any]) -> None:
    """Fields of the model's config that belong to a choice that is not made."""
    if model.get("attention", "luong") != "luong" and model.get("attention_score", "general") != "general":
        raise ValueError(
            f"model.attention_score is {model['attention_score']!r}, which belongs to attention: luong, but "
            f"model.attention is {model['attention']!r}: leave it out, or change that."
        )
    positions = model.get("position_embedding_type", "sinusoidal")
    if positions in ("sinusoidal", "relative") and model.get("rope_theta", 1e4) != 1e4:
        raise ValueError(
            f"model.rope_theta is {model['rope_theta']!r}, which belongs to position_embedding_type: rotary, but the "
            f"positions are {positions}: leave it out, or change that."
        )


def check_generate_kwargs(generation: GenerationSettings) -> None:
    """Refuses further arguments of ``generate`` that are settings of their own, which would be written twice.

    Raises:
        ValueError: There is one.
    """
    for name in generation.generate_kwargs:
        if name in {f.name for f in dataclasses.fields(generation)}:
            raise ValueError(
                f"generation.generate_kwargs has {name}, which is a setting: give it as generation.{name}."
            )


def check_metric_kwargs(evaluation: EvaluationSettings, used: Iterable[str]) -> None:
    """Refuses arguments of a metric that is not computed.

    Raises:
        ValueError: There are some; or they are no ``key: value`` lines.
    """
    used = list(dict.fromkeys(used))
    for name, options in evaluation.metric_kwargs.items():
        if name not in used:
            near = nearest(name, used)
            hint = f"did you mean {near}?" if near else "name it there too, or take its arguments out."
            raise ValueError(
                f"evaluation.metric_kwargs has arguments of {name}, but the metrics are {listing(used)}: {hint}"
            )
        if not isinstance(options, dict):
            raise ValueError(
                f"evaluation.metric_kwargs.{name} is {options!r}; it must be key: value lines, {{tokenize: none}}, say."
            )
        if "bootstrap_samples" in options:
            raise ValueError(
                f"evaluation.metric_kwargs.{name} has bootstrap_samples, which all metrics have in common: give "
                "evaluation.bootstrap_samples instead."
            )
        if "sources" in options:
            raise ValueError(f"evaluation.metric_kwargs.{name} has sources, which come from the data: take them out.")
