"""What types do not say of the settings: keys that contradict each other, and values that make no sense."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Any

from huggingface_hub.errors import StrictDataclassError
from huggingface_hub.utils import HFValidationError, validate_repo_id

from seqloom.settings.bounds import check_bounds
from seqloom.settings.schema import DERIVED, DataSettings, HubSettings, MixSettings, ScoringSettings, Settings
from seqloom.support.wording import listing, unknown

if TYPE_CHECKING:
    from seqloom.modeling import Seq2SeqConfig

MOST_UNEQUAL = 10_000
"""How many times another's weight a set's may be: until both are used up, as many draws are made."""

BRANCH = r"(?!.*(\.\.|//|\.lock(/|$)|/\.))\w([\w./-]*\w)?"
"""What git takes for a branch's name, and no more than one needs."""
ISO_639_1 = re.findall(
    r"\w+",
    "aa ab ae af ak am an ar as av ay az ba be bg bh bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv dz ee el en "
    "eo es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik io is it iu ja jv "
    "ka kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml mn mr ms mt my na nb nd ne "
    "ng nl nn no nr nv ny oc oj om or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se sg si sk sl sm sn so sq sr ss "
    "st su sv sw ta te tg th ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh zu",
)
"""The codes of two letters: of any other the Hub would refuse the card."""


def model_config_class(model_type: str | None) -> type[Seq2SeqConfig]:
    """The config class of a ``model_type`` of seqloom's."""
    from seqloom.modeling import CONFIG_CLASSES

    if model_type not in CONFIG_CLASSES:
        raise ValueError(f"model.model_type is {model_type!r}; allowed are {listing(CONFIG_CLASSES)}.")
    return CONFIG_CLASSES[model_type]


def check_settings(settings: Settings, *, with_model: bool = True) -> None:
    """What the types do not say; without the section ``model``, no library is loaded."""
    data, training = settings.data, settings.training
    _check_place(data, "data")
    for number, entry in enumerate(data.mix):
        _check_weight(entry.weight, f"data.mix[{number}].weight")
        _check_place(entry, f"data.mix[{number}]")
    _check_own_weight(data)
    weights = [weight for weight in (data.weight, *(entry.weight for entry in data.mix)) if weight]
    if max(weights) > MOST_UNEQUAL * min(weights):
        raise ValueError(
            f"data.weight and the weights of data.mix are {min(weights)} to {max(weights)}: of the smallest hardly "
            f"a pair would be drawn; let none be more than {MOST_UNEQUAL:,} times another."
        )
    if data.split_stream or data.num_workers:
        name = "split_stream" if data.split_stream else "num_workers"
        if not data.streaming:
            raise ValueError(f"data.{name} is about streams: set data.streaming to true, or leave {name} out.")
        if data.mix or "[" in data.train_split:
            raise ValueError(
                f"data.{name} deals out the files of one whole training set, but data.mix or a slice in data."
                "train_split makes something else of it: leave one of them out."
            )
    if (training.batch_tokens is None) == (training.batch_size is None):
        raise ValueError(
            f"training.batch_tokens is {training.batch_tokens} and training.batch_size is {training.batch_size}: "
            "set the one and make the other null."
        )
    if training.max_steps is None and training.num_train_epochs is None:
        raise ValueError("give training.max_steps or training.num_train_epochs, so that the run has an end.")
    check_shared(settings)
    _check_options(settings)
    _check_distillation(settings)
    _check_chunks(settings)
    for name in ("learning_rate", "max_grad_norm", "adam_epsilon"):
        value = getattr(training, name)
        if value is not None and value <= 0:
            raise ValueError(f"training.{name} is {value}; it must be more than 0.")
    for name in ("label_smoothing_factor", "adam_beta1", "adam_beta2"):
        if not 0 <= getattr(training, name) < 1:
            raise ValueError(f"training.{name} is {getattr(training, name)}; it must be at least 0 and less than 1.")
    best = training.metric_for_best_model
    if best not in (None, "loss", training.eval_metric):
        raise ValueError(f"training.metric_for_best_model is {best!r}; allowed are 'loss' and eval_metric's own name.")
    if settings.generation.coverage_penalty:
        if settings.generation.num_beams == 1:
            raise ValueError(
                "generation.coverage_penalty re-ranks beams, but generation.num_beams is 1: set it to 2 or more."
            )
        if settings.model.get("attention") == "none":
            raise ValueError(
                "generation.coverage_penalty asks what the attention covers, but model.attention is none: take one of "
                "them out."
            )
    if with_model:
        _check_model(settings.model)
    _check_hub(settings.hub)


def _check_place(data: DataSettings | MixSettings, where: str) -> None:
    if (data.dataset is None) == (data.train_files is None):
        raise ValueError(
            f"give either {where}.dataset or {where}.train_files: the one or the other says where the pairs are."
        )
    if data.split is not None and data.dataset != "scan":
        raise ValueError(
            f"{where}.split is {data.split!r}, which belongs to dataset: scan; "
            "other datasets name theirs in train_split, validation_split and test_split."
        )


def _check_weight(weight: float, name: str) -> None:
    if weight <= 0:
        raise ValueError(f"{name} is {weight}; it must be more than 0.")


def _check_own_weight(data: DataSettings) -> None:
    """As of every set; but of none of its own pairs one can learn where there are others."""
    if data.weight or not data.mix:
        _check_weight(data.weight, "data.weight")


def _check_distillation(settings: Settings) -> None:
    distillation = settings.distillation
    if distillation.temperature <= 0:
        raise ValueError(
            f"distillation.temperature is {distillation.temperature}; it must be more than 0 (1 or 2, say)."
        )


def _check_chunks(settings: Settings) -> None:
    """Refuses chunks where the scores of a batch are held together."""
    training = settings.training
    held = {
        "distillation.teacher is held against the student's scores": settings.distillation.teacher is not None,
        "training.r_drop_alpha holds scores against each other": training.r_drop_alpha > 0,
    }
    for what, is_so in held.items():
        if is_so and training.loss_chunk_tokens is not None:
            raise ValueError(
                f"training.loss_chunk_tokens is {training.loss_chunk_tokens}, which keeps no scores, but {what}: leave "
                "one of them out."
            )


def _check_options(settings: Settings) -> None:
    """Averages, beginnings and segmentations that contradict themselves."""
    training, tokenizer = settings.training, settings.tokenizer
    if training.ema_decay is not None and not 0 < training.ema_decay < 1:
        raise ValueError(
            f"training.ema_decay is {training.ema_decay}; it must be more than 0 and less than 1 (0.999, say), or null."
        )
    if training.init_from is None and training.init_parameters != ["*"]:
        raise ValueError("training.init_parameters says what training.init_from gives, but that is null: give both.")
    if not 0 <= tokenizer.bpe_dropout <= 1:
        raise ValueError(f"tokenizer.bpe_dropout is {tokenizer.bpe_dropout}; it must be between 0 and 1 (0.1, say).")
    if tokenizer.sampling_alpha is not None and tokenizer.sampling_alpha <= 0:
        raise ValueError(f"tokenizer.sampling_alpha is {tokenizer.sampling_alpha}; it must be more than 0, or null.")
    if tokenizer.path is None:  # else its own model tells, when it is there
        kinds = {tokenizer.kind, tokenizer.kind if tokenizer.shared else tokenizer.target_kind or tokenizer.kind}
        for name, is_on, suited in (
            ("bpe_dropout", tokenizer.bpe_dropout > 0, {"byte_bpe", "bpe"}),
            ("sampling_alpha", tokenizer.sampling_alpha is not None, {"unigram"}),
        ):
            if is_on and not kinds & suited:
                raise ValueError(
                    f"tokenizer.{name} is {getattr(tokenizer, name)}, but tokenizer.kind is {listing(sorted(kinds))}, "
                    f"which it is not for: take kind {' or '.join(sorted(suited))}, or leave it out."
                )


def _check_hub(hub: HubSettings) -> None:
    if hub.push_to_hub is not None:
        try:
            validate_repo_id(hub.push_to_hub)
            if "/" not in hub.push_to_hub:
                raise HFValidationError("the user or the organisation is missing.")
        except HFValidationError as error:
            raise ValueError(
                f"hub.push_to_hub is {hub.push_to_hub!r}, not the name of a repository (user/model): {error}"
            ) from None
    for name in ("hub_private_repo", "hub_revision"):
        if getattr(hub, name) is not None and hub.push_to_hub is None:
            raise ValueError(
                f"hub.{name} is {getattr(hub, name)!r}, but hub.push_to_hub names no repository: give both."
            )
    if hub.license is not None and not re.fullmatch(r"[a-z][a-z0-9.+-]{0,63}", hub.license):
        raise ValueError(
            f"hub.license is {hub.license!r}; give it as the Hub spells it, in small letters, digits, dots and "
            "hyphens: apache-2.0, cc-by-4.0, other."
        )
    if hub.hub_revision is not None and not re.fullmatch(BRANCH, hub.hub_revision):
        raise ValueError(
            f"hub.hub_revision is {hub.hub_revision!r}; a branch has a name of letters, digits, dots, hyphens and "
            "slashes: main, v1.0."
        )
    for tag in hub.tags:
        if not re.fullmatch(r"\w([\w .:/@+-]{0,98}[\w+])?", tag):
            raise ValueError(
                f"hub.tags has {tag!r}; a tag is a word or some, of letters, digits, spaces and .:/@+- alone, at most "
                "a hundred characters: speech, arxiv:1706.03762."
            )
    for code in hub.language:
        if not re.fullmatch(r"[a-z]{2,3}|multilingual|code", code) or (len(code) == 2 and code not in ISO_639_1):
            raise ValueError(
                f"hub.language has {code!r}; languages are ISO 639 codes of two or three letters: [en, de]."
            )


def check_shared(settings: Settings | ScoringSettings) -> None:
    """What runs and scorings have in common: the split that is scored, and the bounds of numbers."""
    if settings.data.streaming and "train" in (settings.evaluation.split, getattr(settings, "split", None)):
        raise ValueError("the split to score is train, which data.streaming reads as a stream: score another one.")
    _check_own_weight(settings.data)
    check_bounds(settings)


def _check_model(model: dict[str, Any]) -> None:
    fields = model_fields(model.get("model_type"))
    for name in model:
        if name in DERIVED:
            source = "training.label_smoothing_factor" if name == "label_smoothing" else "the tokenizer section"
            raise ValueError(f"model.{name} follows from {source}; take it out of the model section.")
        if name != "model_type" and name not in fields:
            raise ValueError(unknown(f"model.{name}", [f"model.{known}" for known in fields]))
    # What one of them cannot be, or two of them together, shows now and not when the data are read.
    try:
        model_config_class(model["model_type"])(**{key: value for key, value in model.items() if key != "model_type"})
    except (ValueError, TypeError, OverflowError, StrictDataclassError) as error:
        said = " ".join(str(error).split())
        raise ValueError(said if said.startswith("model") else f"model: {said}") from None


def model_fields(model_type: str | None) -> set[str]:
    """The fields that a config class adds to those of every PreTrainedConfig."""
    from transformers import PreTrainedConfig

    common = {f.name for f in dataclasses.fields(PreTrainedConfig)}
    return {f.name for f in dataclasses.fields(model_config_class(model_type))} - common
