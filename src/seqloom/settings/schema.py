"""The settings of a run: every key, with its type, its default and its meaning.

Field names are those of transformers' ``TrainingArguments`` and ``GenerationConfig`` wherever these have one.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

DERIVED = {
    "vocab_size", "decoder_vocab_size", "share_encoder_decoder_embeddings", "pad_token_id", "bos_token_id",
    "eos_token_id", "decoder_start_token_id", "label_smoothing",
}  # fmt: skip
"""Fields of the models' configs that follow from other sections."""
ScanSplit = Literal["simple", "length", "addprim_jump", "addprim_turn_left", "length_26"]


@dataclass(frozen=True, kw_only=True)
class MixSettings:
    """A further training set, drawn from beside that of ``data``."""

    weight: float = field(metadata={"missing": "give its share of the training pairs, as data.weight gives ours"})
    """Its share of the training pairs, in proportion to ``data.weight`` and those of the other sets."""
    dataset: str | None = None
    """As in ``data``, as all that follows; either this or ``train_files`` is given."""
    config_name: str | None = None
    """Configuration of the Hub dataset."""
    revision: str | None = None
    """Commit, branch or tag of the Hub dataset."""
    split: ScanSplit | None = None
    """Which split of the built-in task (``dataset: scan`` alone)."""
    train_files: list[str] | None = None
    """Local training data."""
    source: str = "source"
    """Column of the source text."""
    target: str = "target"
    """Column of the target text."""
    train_split: str = "train"
    """Name of the dataset's training split, or a slice of it."""


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
    split: ScanSplit | None = None
    """Which split of the built-in task (``dataset: scan`` alone): Lake and Baroni's four, or ``length_26``, that of
    lengths cut at 26 actions in place of 22."""
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
    mix: list[MixSettings] = field(default_factory=list)
    """Further training sets, drawn from beside this one. Each has a ``weight`` and says where its pairs are:
    ``dataset`` (with ``config_name``, ``revision``, ``split``) or ``train_files``; ``source``, ``target``,
    ``train_split``."""
    weight: float = 1.0
    """This section's own share of the training pairs where others are mixed in; shares are in proportion to the
    weights. 0: none of its training pairs, its validation and test pairs alone."""
    stopping_strategy: Literal["first_exhausted", "all_exhausted"] = "all_exhausted"
    """When an epoch of mixed sets is over: when the first of them is used up, or when all are, the smaller ones being
    read again as often as that takes."""

    def places(self) -> list[str]:
        """Every dataset and file that is named, of mixed sets too."""
        lists = [self.train_files, self.validation_files, self.test_files, *(mixed.train_files for mixed in self.mix)]
        datasets = [self.dataset, *(mixed.dataset for mixed in self.mix)]
        return [*filter(None, datasets), *(name for names in lists for name in names or ())]


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
    r_drop_alpha: float = 0.0
    """R-Drop: weight of the disagreement between two passes with dropout (Wu et al. 2021, who take 5 for translation).
    Every batch is computed twice. 0: one pass."""
    mixed_precision: Literal["no", "bf16", "fp16"] | None = None
    """Precision of the computation; default: what ``accelerate launch`` was told."""
    attn_implementation: Literal["eager", "sdpa", "flash_attention_2", "flex_attention"] | None = None
    """How the Transformer's attention is computed while training; default: transformers' choice. The saved model does
    not depend on it. On a CPU in bf16 the default is ``eager``, the faster one there."""
    num_threads: int | None = None
    """CPU threads of each process; default: the cores, shared out among the machine's processes. (``accelerate launch``
    would give each process one.)"""
    fast_layers: bool = True
    """On a CPU, measure when the run begins which products of its linear layers (in float32) oneDNN computes faster
    than what torch takes, and do so from then on; and draw dropout faster where torch is slow at it. false: always as
    torch does, so that two runs of one seed are the same to the last bit whatever was measured."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    loss_chunk_tokens: int | None = None
    """Compute output scores and loss for so many target tokens at a time (1024, say), so that the scores of a batch
    over a large vocabulary are never held together: less memory in about the same time. null: all at once."""
    eval_steps: int | None = None
    """Updates between validations; default: every epoch."""
    eval_metric: str | None = None
    """Generation metric of the validations, by the names of ``evaluation.metrics``; null: the loss alone."""
    eval_samples: int | None = 500
    """Validation pairs that are decoded for it; null: all."""
    metric_for_best_model: str | None = None
    """``loss`` or ``eval_metric``'s name; default: ``eval_metric``, else ``loss``. Of equal scores that of
    the lower loss is the better one."""
    greater_is_better: bool | None = None
    """Whether more of it is better, where it is a metric of the Hub, which does not say; seqloom's own do."""
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
class DistillationSettings:
    """A teacher's probabilities in the training loss (word-level distillation: Hinton et al. 2015, Kim and Rush 2016).
    What a teacher says as a set of pairs, sequence-level distillation, is made by ``seqloom distill``."""

    teacher: str | None = None
    """Folder or Hub name of the teacher, any seq2seq model of transformers with this run's very vocabulary; null: none.
    None of its own code is run."""
    teacher_revision: str | None = None
    """Commit, branch or tag of a teacher from the Hub."""
    alpha: float = 0.5
    """Share of the teacher in the loss, from 0 to 1: (1 - alpha) x the loss of the labels + alpha x temperature² x the
    divergence of the student's probabilities from the teacher's."""
    temperature: float = 1.0
    """Divides the scores of both before they become probabilities; more than 1 tells more of unlikely tokens."""
    top_k: int | None = None
    """How many of the teacher's likeliest tokens are learnt from at every position, their probabilities made to add up
    to 1; null: all."""


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
    decode_dtype: Literal["float32", "bfloat16", "int8"] | None = None
    """Arithmetic of scoring and translating with a model of seqloom's; null: the model's own. bfloat16 and, on a CPU,
    int8 are faster where the processor has them, and may choose other words."""
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
    """Languages as ISO 639 codes, the source's first: ``[en, de]``. YAML takes ``no`` for false: write ``nb``. Whoever
    gives other training pairs on the command line than the YAML has gives their languages too, or there are none."""
    pipeline_tag: Literal["translation", "summarization", "text-generation", "question-answering"] | None = None
    """The Hub's name of the task; null: ``translation`` where two languages are given, else ``text-generation``."""
    tags: list[str] = field(default_factory=list)
    """Further tags of the model card."""


@dataclass(frozen=True, kw_only=True)
class ScoringSettings:
    """One run of ``seqloom evaluate``."""

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
    """Draws the outputs where ``do_sample`` asks for it, and the validation pairs where the data has no such split;
    default: ``training.seed`` of the model's run."""
    data: DataSettings = field(default_factory=DataSettings)
    """The pairs; default: those that the model was trained with."""
    generation: GenerationSettings = field(default_factory=GenerationSettings)
    """The decoding. What is not given is taken from the model's generation config."""
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    """The scores."""

    def split_to_score(self) -> str:
        """The command's, else the run's, else test."""
        return self.split or self.evaluation.split or "test"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One run."""

    output_dir: str
    """Folder of the trained model."""
    model: dict[str, Any]
    """``model_type`` (``rnn_seq2seq``, ``transformer_seq2seq``, ``hybrid_seq2seq``) and fields of its config."""
    data: DataSettings = field(default_factory=DataSettings)
    """The pairs."""
    tokenizer: TokenizerSettings = field(default_factory=TokenizerSettings)
    """The tokenizer."""
    training: TrainingSettings = field(default_factory=TrainingSettings)
    """The optimisation."""
    distillation: DistillationSettings = field(default_factory=DistillationSettings)
    """A teacher in the loss."""
    generation: GenerationSettings = field(default_factory=GenerationSettings)
    """The decoding."""
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    """The scores."""
    hub: HubSettings = field(default_factory=HubSettings)
    """Sharing."""

    def to_dict(self) -> dict[str, Any]:
        """All settings as plain values, the defaults included (but for the sets of ``data.mix``)."""
        values = dataclasses.asdict(self)
        unsaid = {f.name: f.default for f in dataclasses.fields(MixSettings)}
        for entry in values["data"]["mix"]:
            for key in [key for key, value in entry.items() if value == unsaid[key]]:
                del entry[key]
        return values

    def save(self, path: str | Path) -> None:
        """Writes the settings as YAML that `load_settings` reads."""
        Path(path).write_text(yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True), encoding="utf-8")
