"""The settings of a run: one typed, frozen object, read from YAML and overridden by ``--key value``.

Field names are those of transformers' ``TrainingArguments`` and ``GenerationConfig`` wherever these have one.
Unknown keys are errors that name the nearest right one. The object is written in full beside every trained model.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import re
import types
import typing
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from huggingface_hub.utils import HFValidationError, validate_repo_id

DERIVED = {
    "vocab_size", "decoder_vocab_size", "share_encoder_decoder_embeddings", "pad_token_id", "bos_token_id",
    "eos_token_id", "decoder_start_token_id", "label_smoothing",
}  # fmt: skip
"""Fields of the models' configs that follow from other sections."""
MIX_KEYS = (
    "dataset", "config_name", "revision", "split", "train_files", "source", "target", "train_split",
)  # fmt: skip
"""Fields of ``data`` that an entry of ``data.mix`` may have, its weight apart."""


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Where the pairs come from and which of them are used."""

    dataset: str | None = None
    """Name of a dataset on the Hub, the path of a local dataset folder, or ``scan`` (the built-in task).
    Leave it out when ``train_files`` is given."""
    config_name: str | None = None
    """Configuration of the Hub dataset."""
    revision: str | None = None
    """Commit, branch or tag of the Hub dataset."""
    split: Literal["simple", "length", "addprim_jump", "addprim_turn_left"] | None = None
    """Which published split of the built-in task (``dataset: scan`` alone)."""
    train_files: list[str] | None = None
    """Local training data: two line-aligned text files (source, target), or any number of csv, tsv, json, jsonl or
    parquet files with the columns below. Each may be compressed with gzip."""
    validation_files: list[str] | None = None
    """Local validation data, in the same forms."""
    test_files: list[str] | None = None
    """Local test data, in the same forms."""
    source: str = "source"
    """Column of the source text; a dot reaches into a nested column (``translation.en``)."""
    target: str = "target"
    """Column of the target text; likewise."""
    train_split: str = "train"
    """Name of the dataset's training split; slices such as ``train[:1000]`` are allowed."""
    validation_split: str = "validation"
    """Name of the validation split. Where the dataset has none, one is cut from the training split."""
    test_split: str = "test"
    """Name of the test split."""
    validation_size: int = 1000
    """Pairs to cut from the training split when there is no validation split: drawn with ``training.seed``, at most a
    tenth of it. A streamed set gives its first pairs."""
    max_source_length: int | None = 256
    """Pairs whose source has more tokens are dropped, counted and reported."""
    max_target_length: int | None = 256
    """Pairs whose target has more tokens are dropped, counted and reported."""
    streaming: bool = False
    """Read the training data as a stream, for corpora larger than memory or disk."""
    shuffle_buffer: int = 10_000
    """Pairs held at a time when streaming: they are shuffled and batched by length among themselves."""
    split_stream: bool = False
    """Let each process read, tokenize and plan a part of the stream of its own: whole files where there are as many as
    processes or more, else every n-th row. An update is then ``batches_per_update`` batches of every process."""
    num_workers: int = 0
    """Processes that read and tokenize a stream for each training process, as far as it has files for them; 0: it does
    so itself."""
    num_proc: int | None = None
    """Processes that tokenize."""
    mix: list[dict[str, Any]] = field(default_factory=list)
    """Further training sets, drawn from beside this one. Each has a ``weight`` and says where its pairs are:
    ``dataset`` (with ``config_name``, ``revision``, ``split``) or ``train_files``; ``source``, ``target``,
    ``train_split``."""
    weight: float = 1.0
    """This section's own share of the training pairs where others are mixed in; shares are in proportion to the
    weights."""
    stopping_strategy: Literal["first_exhausted", "all_exhausted"] = "all_exhausted"
    """When an epoch of mixed sets is over: when the first of them is used up, or when all are, the smaller ones being
    read again as often as that takes."""


@dataclass(frozen=True, kw_only=True)
class TokenizerSettings:
    """The tokenizer, trained on the run's own training data or loaded."""

    kind: Literal["byte_bpe", "bpe", "unigram", "word", "char"] = "byte_bpe"
    """Byte-level BPE, BPE, Unigram, whitespace words or characters."""
    vocab_size: int = 8000
    """Entries, the special tokens included (at most, for words and characters)."""
    shared: bool = True
    """One tokenizer for both sides, or one for each (spelling to sound, commands to actions)."""
    target_kind: Literal["byte_bpe", "bpe", "unigram", "word", "char"] | None = None
    """Kind of the target's own tokenizer where not shared; default: ``kind``."""
    target_vocab_size: int | None = None
    """Size of the target's own vocabulary; default: ``vocab_size``."""
    min_frequency: int = 1
    """How often a word, character or merge must occur."""
    normalization: Literal["nfc", "nfkc", "none"] = "nfc"
    """Unicode normalisation of both sides."""
    lowercase: bool = False
    """Lowercase both sides."""
    path: str | None = None
    """Load this tokenizer (folder or Hub name) instead of training one."""
    train_samples: int = 1_000_000
    """Pairs, from the first on, that the tokenizer is trained on."""
    bpe_dropout: float = 0.0
    """Share of merges left out at random while training pairs are encoded, anew every epoch (BPE-dropout, Provilkov et
    al. 2020; 0.1 there); for byte_bpe and bpe."""
    sampling_alpha: float | None = None
    """Draw the segmentation of training pairs anew every epoch, by the tokenizer's own probabilities to the power of
    this (subword regularization, Kudo 2018; 0.1 to 0.5 there); for unigram. null: the likeliest one, always."""


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """The optimisation."""

    seed: int = 42
    """Seeds initialisation, dropout and the order of the data."""
    batch_tokens: int | None = 4096
    """Token budget of a batch: rows x longest row of the larger side, padding included, over all processes."""
    batch_size: int | None = None
    """Rows of a batch; the other choice, with ``batch_tokens: null``."""
    batches_per_update: int = 1
    """Batches, of different lengths, that make one update."""
    gradient_accumulation_steps: int = 1
    """Pieces into which each process cuts a batch to fit its memory. The update stays the same."""
    max_steps: int | None = None
    """Updates to train for."""
    num_train_epochs: int | None = None
    """Epochs to train for; where ``max_steps`` is given too, the first that is reached ends the run."""
    optim: Literal["adamw", "adam"] = "adamw"
    """Optimizer. Weight decay is decoupled in AdamW and an L2 term in Adam."""
    learning_rate: float = 1e-3
    """Peak learning rate."""
    adam_beta1: float = 0.9
    """First moment's decay."""
    adam_beta2: float = 0.98
    """Second moment's decay (0.98 in Vaswani et al. 2017)."""
    adam_epsilon: float = 1e-9
    """Denominator's floor (1e-9 in Vaswani et al. 2017)."""
    weight_decay: float = 0.0
    """Weight decay; biases and normalisation weights are exempt."""
    lr_scheduler_type: Literal["inverse_sqrt", "cosine", "linear", "constant"] = "inverse_sqrt"
    """Schedule after the linear warm-up, counted in updates."""
    warmup_steps: int = 0
    """Updates of linear warm-up."""
    max_grad_norm: float | None = 1.0
    """Clip the gradient to this norm (Pascanu et al. 2013)."""
    max_skipped_updates: int = 5
    """Updates in a row whose loss or gradient is no number (NaN or infinite) that are left out and counted before the
    run ends with an error. With fp16, overflows by which the scale is found come on top."""
    label_smoothing_factor: float = 0.0
    """Label smoothing of the training loss (0.1 in Vaswani et al. 2017). Validation losses are not smoothed."""
    mixed_precision: Literal["no", "bf16", "fp16"] | None = None
    """Precision of the computation; default: what ``accelerate launch`` was told."""
    attn_implementation: Literal["eager", "sdpa", "flash_attention_2", "flex_attention"] | None = None
    """How the Transformer's attention is computed while training; default: transformers' choice. The saved model does
    not depend on it. On a CPU, ``eager`` is the faster one in bf16."""
    num_threads: int | None = None
    """CPU threads of each process; default: the cores, shared out among the machine's processes. (``accelerate launch``
    would give each process one.)"""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    eval_steps: int | None = None
    """Updates between validations; default: every epoch."""
    eval_metric: str | None = None
    """Generation metric of the validations, by the names of ``evaluation.metrics``; null: the loss alone."""
    eval_samples: int | None = 500
    """Validation pairs that are decoded for it; null: all."""
    metric_for_best_model: str | None = None
    """``loss`` or ``eval_metric``'s name; default: ``eval_metric``, else ``loss``."""
    early_stopping_patience: int | None = None
    """Stop after this many validations without a better one."""
    save_steps: int | None = None
    """Updates between checkpoints, besides those that every validation saves."""
    save_total_limit: int = 2
    """Checkpoints to resume from that are kept: the last ones. Of two, one may be damaged and nothing is lost."""
    average_checkpoints: int = 0
    """Average the weights of the last so many validations at the end, and keep them if they score better than the
    best (Vaswani et al. 2017 average the last 5 checkpoints)."""
    average_kind: Literal["last", "best"] = "last"
    """Which validations those are: the last ones, or the best ones by the run's metric."""
    ema_decay: float | None = None
    """Keep an exponential moving average of the weights, decaying by this factor every update (0.999, say): it is what
    is validated and saved in place of the raw weights (Polyak and Juditsky 1992). null: none."""
    freeze: list[str] = field(default_factory=list)
    """Parameters that stay as they are, as shell patterns over their names: ``["model.encoder.*"]``."""
    init_from: str | None = None
    """Start from this model's weights (folder or Hub name) wherever names and shapes, or tokens, are the same."""
    init_parameters: list[str] = field(default_factory=lambda: ["*"])
    """Which parameters ``init_from`` gives, as shell patterns over the names of this run's model."""
    logging_steps: int = 50
    """Updates between lines of the log."""
    report_to: list[str] = field(default_factory=list)
    """Accelerate's trackers: tensorboard, wandb, trackio, …"""


@dataclass(frozen=True, kw_only=True)
class GenerationSettings:
    """Decoding; written into the model's generation config."""

    num_beams: int = 1
    """Beams; 1 is greedy."""
    length_penalty: float = 1.0
    """Exponent of the length by which a beam's score is divided."""
    early_stopping: bool = False
    """Stop when there are as many finished beams as beams."""
    max_new_tokens: int | None = None
    """Longest output in tokens; default: twice the longest training target, 32 at least."""
    coverage_penalty: float = 0.0
    """β of Wu et al. 2016, by which the beams of scoring are re-ranked; 0: not. `generate` has no such option, so the
    saved model does not hold it."""
    decode_batch_tokens: int = 4096
    """Source tokens decoded together, each counted once for every beam."""
    generate_kwargs: dict[str, Any] = field(default_factory=dict)
    """Further arguments of transformers' ``generate``: ``{forced_bos_token_id: 5}``."""


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """What the finished model is scored on."""

    metrics: list[str] = field(default_factory=lambda: ["sacrebleu", "chrf"])
    """seqloom's own (sacrebleu, chrf, ter, exact_match, token_accuracy, wer, cer, per, rouge) or any name that
    ``evaluate.load`` finds."""
    metric_kwargs: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Arguments of a metric's ``compute``, by its name: ``{sacrebleu: {tokenize: none}}``."""
    split: Literal["train", "validation", "test"] | None = "test"
    """Which one is scored when training ends; null: none."""
    bootstrap_samples: int = 1000
    """Resamples of the scored sentences for the 95 % interval of each score (Koehn 2004); 0: no intervals."""


@dataclass(frozen=True, kw_only=True)
class HubSettings:
    """What is shared on the Hub, and what the model card says for the Hub to read."""

    push_to_hub: str | None = None
    """Repository, ``user/model``, that the model is pushed to; null: none. A token is taken from ``HF_TOKEN`` or from
    ``hf auth login``."""
    hub_private_repo: bool | None = None
    """Whether a repository that is made now is private; null: as the account has it."""
    hub_strategy: Literal["end", "best"] = "end"
    """Push when the training is over, or after every best validation too."""
    hub_revision: str | None = None
    """Branch to push to, made if need be; null: main."""
    license: str | None = None
    """Licence of the model, as the Hub spells it: ``apache-2.0``, ``cc-by-4.0``, …"""
    language: list[str] = field(default_factory=list)
    """Languages as ISO 639 codes, the source's first: ``[en, de]``. YAML takes ``no`` for false: write ``nb``."""
    pipeline_tag: Literal["translation", "summarization", "text-generation", "question-answering"] | None = None
    """The Hub's name of the task; null: ``translation`` where two languages are given, else ``text-generation``."""
    tags: list[str] = field(default_factory=list)
    """Further tags of the model card."""


@dataclass(frozen=True, kw_only=True)
class ScoringSettings:
    """One run of ``evaluate.py``."""

    output_dir: str | None = None
    """Folder for predictions and scores; default: ``evaluation/SPLIT`` in the model's folder, or in ``runs/NAME`` for a
    model from the Hub."""
    revision: str | None = None
    """Commit, branch or tag of a model from the Hub."""
    trust_remote_code: bool = False
    """Run code that comes with the model. seqloom's own models need none."""
    split: Literal["train", "validation", "test"] | None = None
    """The split to score; default: ``evaluation.split``, else test. (Of SCAN's, ``--data.split`` chooses.)"""
    seed: int = 42
    """Draws the validation pairs where the data has no such split; default: ``training.seed`` of the model's run."""
    data: DataSettings = field(default_factory=DataSettings)
    """The pairs; default: those that the model was trained with."""
    generation: GenerationSettings = field(default_factory=GenerationSettings)
    """The decoding. What is not given is taken from the model's generation config."""
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    """The scores."""

    def __post_init__(self):
        _check_shared(self)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One run."""

    output_dir: str
    """Folder of the trained model."""
    model: dict[str, Any]
    """``model_type`` (``rnn_seq2seq`` or ``transformer_seq2seq``) and fields of that model's config."""
    data: DataSettings = field(default_factory=DataSettings)
    """The pairs."""
    tokenizer: TokenizerSettings = field(default_factory=TokenizerSettings)
    """The tokenizer."""
    training: TrainingSettings = field(default_factory=TrainingSettings)
    """The optimisation."""
    generation: GenerationSettings = field(default_factory=GenerationSettings)
    """The decoding."""
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    """The scores."""
    hub: HubSettings = field(default_factory=HubSettings)
    """Sharing."""

    def __post_init__(self):
        _check(self)

    def to_dict(self) -> dict[str, Any]:
        """All settings, the defaults included, as plain values."""
        return dataclasses.asdict(self)

    def shareable(self) -> dict[str, Any]:
        """All settings, but files by their names alone and no word of the repository: where things lay and who pushed
        them is nobody else's business."""
        values = without_places(self.to_dict())
        values["output_dir"] = last_part(self.output_dir)
        for split in ("train", "validation", "test"):
            paths = values["data"][f"{split}_files"]
            values["data"][f"{split}_files"] = paths and [last_part(path) for path in paths]
        for entry in values["data"]["mix"]:
            if entry.get("train_files"):
                files = entry["train_files"]
                entry["train_files"] = [last_part(path) for path in (files if isinstance(files, list) else [files])]
        values["hub"] = dataclasses.asdict(self.hub) | {
            "push_to_hub": None,
            "hub_private_repo": None,
            "hub_revision": None,
        }
        return values

    def save(self, path: str | Path) -> None:
        """Writes the settings as YAML that `load_settings` reads."""
        Path(path).write_text(yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True), encoding="utf-8")


def last_part(path: str) -> str:
    """A file's name without its folders, whichever system they are on."""
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1]


def without_places(value: Any) -> Any:
    """Plain values in which paths are cut to their last parts.

    A path is a text that starts at a root, a drive, a home or a folder's dots, or that has a slash and exists here; any
    other text with a slash may be a name on the Hub.
    """
    if isinstance(value, dict):
        return {without_places(key): without_places(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_places(item) for item in value]
    if not isinstance(value, str):
        return value
    starts_like_one = re.match(r"[/\\~]|\.{1,2}[/\\]|[A-Za-z]:[/\\]", value)
    return last_part(value) if starts_like_one or (re.search(r"[/\\]", value) and os.path.exists(value)) else value


def load_settings(path: str | Path, overrides: Sequence[str] = ()) -> Settings:
    """Reads a YAML file and applies ``--key value`` overrides.

    Args:
        path: The YAML file.
        overrides: Words of the command line: ``["--learning_rate", "0.001", "--train_files", "a.en", "a.de"]``. A key
            is a section's field (``training.learning_rate``), or the field alone where only one section has it.

    Raises:
        ValueError: The file is missing or is not YAML; a key is unknown; a value has the wrong type or makes no sense.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no configuration file {path}; the ones that come with seqloom are in configs/.")
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise ValueError(f"{path} must hold sections such as model:, data: and training:, but holds {raw!r}.")
    for key, value in _parse_overrides(overrides):
        _set(raw, _resolve(key, raw, Settings), value)
    return _build(Settings, raw, where="")


def load_scoring_settings(model: str | Path, overrides: Sequence[str] = ()) -> tuple[ScoringSettings, dict[str, Any]]:
    """The settings of ``evaluate.py``: the model folder's own ``settings.yaml``, if it has one, then the overrides.

    Returns:
        The settings, and the arguments of ``generate`` that were given, which go before the model's generation config.

    Raises:
        ValueError: As for `load_settings`.
    """
    raw: dict[str, Any] = {}
    path = Path(model) / "settings.yaml"
    if path.is_file():
        written = yaml.safe_load(path.read_text(encoding="utf-8"))
        raw = {"seed": written["training"]["seed"], **{name: written[name] for name in ("data", "evaluation")}}
    words = list(_parse_overrides(overrides))
    keys = [_resolve(key, raw, ScoringSettings) for key, _ in words]
    if ("data", "dataset") in keys or ("data", "train_files") in keys or ("data", "test_files") in keys:
        columns = {name: raw["data"][name] for name in ("source", "target")} if raw else {}
        raw["data"] = columns  # other data: nothing else of the old place holds
    for key, (_, value) in zip(keys, words, strict=True):
        _set(raw, key, value)
    settings = _build(ScoringSettings, raw, where="")
    generate_kwargs = {
        name: getattr(settings.generation, name)
        for name in raw.get("generation", {})
        if name not in ("decode_batch_tokens", "generate_kwargs")
    }
    return settings, generate_kwargs | settings.generation.generate_kwargs


def model_config_class(model_type: str | None):
    """The config class of a ``model_type`` of seqloom's."""
    from seqloom.modeling import CONFIG_CLASSES

    if model_type not in CONFIG_CLASSES:
        raise ValueError(f"model.model_type is {model_type!r}; allowed are {_listing(CONFIG_CLASSES)}.")
    return CONFIG_CLASSES[model_type]


def _check(settings: Settings) -> None:
    """What the types do not say."""
    data, training = settings.data, settings.training
    _check_place(data, "data")
    mix_sources(data)
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
    _check_shared(settings)
    _check_options(settings)
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
    _check_model(settings.model)
    _check_hub(settings.hub)


def mix_sources(data: DataSettings) -> list[tuple[float, DataSettings]]:
    """The weights and places of the sets that ``data.mix`` adds; how they are read is as ``data`` says.

    Raises:
        ValueError: An entry has an unknown key, no weight or no place.
    """
    sources, hints = [], {f.name: hint for f, hint in _hints(DataSettings)}
    for number, entry in enumerate(data.mix):
        where = f"data.mix[{number}]"
        for key in entry:
            if key not in ("weight", *MIX_KEYS):
                raise ValueError(_unknown(f"{where}.{key}", [f"{where}.{known}" for known in ("weight", *MIX_KEYS)]))
        if "weight" not in entry:
            raise ValueError(f"{where} has no weight: give its share of the training pairs, as data.weight gives ours.")
        values = {key: _typed(hints[key], value, f"{where}.{key}") for key, value in entry.items()}
        _check_weight(weight := values.pop("weight"), f"{where}.weight")
        source = DataSettings(**values, streaming=data.streaming)
        _check_place(source, where)
        sources.append((weight, source))
    return sources


def _check_place(data: DataSettings, where: str) -> None:
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


def _check_options(settings: Settings) -> None:
    """Averages, beginnings and segmentations that contradict themselves."""
    training, tokenizer = settings.training, settings.tokenizer
    _check_weight(settings.data.weight, "data.weight")
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
                    f"tokenizer.{name} is {getattr(tokenizer, name)}, but tokenizer.kind is {_listing(sorted(kinds))}, "
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
    for code in hub.language:
        if not re.fullmatch(r"[a-z]{2,3}|multilingual|code", code):
            raise ValueError(
                f"hub.language has {code!r}; languages are ISO 639 codes of two or three letters: [en, de]."
            )


def _check_shared(settings: Settings | ScoringSettings) -> None:
    if settings.data.streaming and "train" in (settings.evaluation.split, getattr(settings, "split", None)):
        raise ValueError("the split to score is train, which data.streaming reads as a stream: score another one.")
    at_least = {
        "data": {
            "max_source_length": 1, "max_target_length": 1, "shuffle_buffer": 1, "validation_size": 1, "num_proc": 1,
            "num_workers": 0,
        },
        "tokenizer": {"vocab_size": 5, "target_vocab_size": 5, "min_frequency": 1, "train_samples": 1},
        "training": {
            "batch_tokens": 1, "batch_size": 1, "batches_per_update": 1, "gradient_accumulation_steps": 1,
            "max_steps": 1, "num_train_epochs": 1, "warmup_steps": 0, "eval_steps": 1, "eval_samples": 1,
            "early_stopping_patience": 1, "num_threads": 1, "average_checkpoints": 0, "logging_steps": 1,
            "save_steps": 1, "save_total_limit": 1,
            "max_skipped_updates": 0,
            "weight_decay": 0, "label_smoothing_factor": 0, "seed": 0,
        },
        "generation": {"num_beams": 1, "max_new_tokens": 1, "decode_batch_tokens": 1, "coverage_penalty": 0},
        "evaluation": {"bootstrap_samples": 0},
    }  # fmt: skip
    for section, floors in at_least.items():
        for name, floor in floors.items() if hasattr(settings, section) else ():
            value = getattr(getattr(settings, section), name)
            if value is not None and value < floor:
                raise ValueError(f"{section}.{name} is {value}; it must be {floor} or more.")


def _check_model(model: dict[str, Any]) -> None:
    fields = _model_fields(model.get("model_type"))
    for name in model:
        if name in DERIVED:
            source = "training.label_smoothing_factor" if name == "label_smoothing" else "the tokenizer section"
            raise ValueError(f"model.{name} follows from {source}; take it out of the model section.")
        if name != "model_type" and name not in fields:
            raise ValueError(_unknown(f"model.{name}", [f"model.{known}" for known in fields]))


def _model_fields(model_type: str | None) -> set[str]:
    """The fields that a config class adds to those of every PreTrainedConfig."""
    from transformers import PreTrainedConfig

    common = {f.name for f in dataclasses.fields(PreTrainedConfig)}
    return {f.name for f in dataclasses.fields(model_config_class(model_type))} - common


def _parse_overrides(words: Sequence[str]) -> Iterable[tuple[str, Any]]:
    position = 0
    while position < len(words):
        word = words[position]
        if not word.startswith("--"):
            raise ValueError(f"{word!r} stands where a --key was expected; overrides are written --key value.")
        key, equals, inline = word[2:].partition("=")
        values = [inline] if equals else []
        position += 1
        while position < len(words) and not words[position].startswith("--") and not equals:
            values.append(words[position])
            position += 1
        if not values:
            raise ValueError(f"--{key} has no value; write --{key} VALUE.")
        try:
            parsed = [yaml.safe_load(value) for value in values]
        except yaml.YAMLError:
            parsed = list(values)
        yield key, parsed[0] if len(parsed) == 1 else parsed


def _resolve(key: str, raw: dict[str, Any], cls: type) -> tuple[str, ...]:
    """``learning_rate`` → ``("training", "learning_rate")``."""
    if "." in key:
        section, _, rest = key.partition(".")
        return (section, *rest.split(".")) if section == "evaluation" else (section, rest)
    sections = {
        f.name: {inner.name for inner in dataclasses.fields(hint)}
        for f, hint in _hints(cls)
        if dataclasses.is_dataclass(hint)
    }
    if cls is Settings and isinstance(raw.get("model"), dict):
        sections["model"] = {"model_type"} | _model_fields(raw["model"].get("model_type")) - DERIVED
    own = {f.name for f in dataclasses.fields(cls)}
    if key in own:
        return (key,)
    homes = [section for section, names in sections.items() if key in names]
    if len(homes) > 1:
        raise ValueError(
            f"--{key} could be {' or '.join(f'--{home}.{key}' for home in homes)}; write the one you mean."
        )
    if not homes:
        known = [*own, *(name for names in sections.values() for name in names)]
        raise ValueError(_unknown(f"--{key}", [f"--{name}" for name in known]))
    return homes[0], key


def _set(raw: dict[str, Any], keys: tuple[str, ...], value: Any) -> None:
    for position, key in enumerate(keys[:-1], start=1):
        if raw.get(key) is None:
            raw[key] = {}
        raw = raw[key]
        if not isinstance(raw, dict):
            section, whole = ".".join(keys[:position]), ".".join(keys)
            raise ValueError(f"--{whole} reaches into {section}, which is no section of key: value lines but {raw!r}.")
    raw[keys[-1]] = value


def _hints(cls: type) -> list[tuple[dataclasses.Field, Any]]:
    hints = typing.get_type_hints(cls)
    return [(f, hints[f.name]) for f in dataclasses.fields(cls)]


def _build(cls: type, raw: Any, where: str):
    """A settings dataclass from plain values; every key known, every value of its field's type."""
    if not isinstance(raw, dict):
        raise ValueError(f"{where or 'the configuration'} must be a section of key: value lines, not {raw!r}.")
    hints = {f.name: hint for f, hint in _hints(cls)}
    values = {}
    for key, value in raw.items():
        name = f"{where}.{key}" if where else str(key)
        if key not in hints:
            raise ValueError(_unknown(name, [f"{where}.{known}" if where else known for known in hints]))
        hint = hints[key]
        values[key] = _build(hint, value or {}, name) if dataclasses.is_dataclass(hint) else _typed(hint, value, name)
    for f in dataclasses.fields(cls):
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if required and f.name not in values:
            raise ValueError(f"{where + '.' if where else ''}{f.name} is missing from the configuration.")
    return cls(**values)


def _typed(hint: Any, value: Any, name: str) -> Any:
    """The value as the field's type. YAML reads 1e-3 as text; a single value stands for a list of one."""
    options = typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
    if value is None and type(None) in options:
        return None
    for option in options:
        origin = typing.get_origin(option) or option
        if origin is Literal:
            text = {False: "no"}.get(value, value) if isinstance(value, bool) else value  # YAML reads no as false
            if text in typing.get_args(option):
                return text
            allowed = [*typing.get_args(option), *(["null"] if type(None) in options else [])]
            raise ValueError(f"{name} is {value!r}; allowed are {_listing(allowed)}.")
        if origin is list:
            (inner,) = typing.get_args(option)
            return [_typed(inner, item, name) for item in (value if isinstance(value, list) else [value])]
        if origin is dict and isinstance(value, dict):
            return value
        if origin is bool and isinstance(value, bool):
            return value
        if origin is str and not isinstance(value, (list, dict, bool, type(None))):
            return str(value)
        if origin in (int, float) and not isinstance(value, bool):
            try:
                number = float(value)
            except (TypeError, ValueError):
                continue
            if math.isfinite(number) and (origin is float or number.is_integer()):
                return origin(number)
    kinds = " or ".join("null" if o is type(None) else getattr(o, "__name__", str(o)) for o in options)
    raise ValueError(f"{name} is {value!r}; it must be {kinds}.")


def _unknown(name: str, known: Iterable[str]) -> str:
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"{name} is unknown; " + (f"did you mean {near[0]}?" if near else f"known are {_listing(known)}.")


def _listing(values: Iterable[Any]) -> str:
    return ", ".join(str(value) for value in values)
