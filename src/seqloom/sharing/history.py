"""The card's words of how a model came to be: what it began with, how it was trained, and what was seen of that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from seqloom import run_folder
from seqloom.modeling import Seq2SeqConfig
from seqloom.scoring import metrics
from seqloom.settings.schema import Settings
from seqloom.sharing.privacy import last_part, without_places
from seqloom.sharing.teachers import distilled_from
from seqloom.support.wording import as_code, in_markdown, plural, table, value_in_words

KINDS = {
    "byte_bpe": "byte-level BPE", "bpe": "BPE", "unigram": "Unigram", "word": "whitespace words", "char": "characters",
}  # fmt: skip
PRECISIONS = {"no": "float32", "bf16": "bfloat16, mixed", "fp16": "float16, mixed"}


def metric_name(name: str) -> str:
    """A metric's name as the card shows it."""
    return in_markdown(without_places(metrics.label(name)))


def origin_of(settings: Settings, record: dict[str, Any]) -> dict[str, Any] | None:
    """What the model began with; None where it was trained from scratch."""
    told = settings.training.init_from
    return record.get("start", {"name": told} if told else None)


def base_model(start: dict[str, Any] | None) -> str | None:
    """The model that it began with, if that is one of the Hub: only such a model was loaded with a revision."""
    return start["name"] if start and start.get("revision") else None


def begun(start: dict[str, Any] | None) -> str:
    """How the training began, for the card's first sentence."""
    if start is None:
        return "trained from scratch"
    return f"begun with the weights of {in_markdown(last_part_of(start))} and trained on"


def last_part_of(start: dict[str, Any]) -> str:
    """A name of the Hub as it is, a folder's without where it lay."""
    return start["name"] if base_model(start) else last_part(start["name"])


def _start(start: dict[str, Any]) -> str:
    """Which weights it began with, and how much of them."""
    words = f"the weights of {in_markdown(last_part_of(start))}"
    if start.get("revision"):
        words += f", revision {as_code(start['revision'])}"
    for file in start.get("files", ()):
        words += f", {in_markdown(file['name'])} with sha256 {as_code(file['sha256'])}"
    if "new" in start:
        words += f"; {start['parameters']:,} parameters were taken over, {start['new']:,} began anew"
    return words


def _frozen(start: dict[str, Any] | None, model: dict[str, Any]) -> str:
    """How many parameters never learnt, and which of them never meant anything."""
    words = f"{model['frozen']:,} of {model['parameters']:,} parameters stayed as they began"
    if start is None:
        return f"{words}, which is drawn at random"
    new = ", ".join(map(as_code, start.get("frozen_new", ())))
    return words + (f"; drawn at random and never learnt: {new}" if new else "")


def _learning_rate(settings: Settings, progress: dict[str, Any]) -> str:
    """What was planned, and where that ended if it ended early."""
    training, step = settings.training, progress["step"]
    planned = f"{training.learning_rate:g} at its peak, {training.lr_scheduler_type} after "
    planned += f"{plural(training.warmup_steps, 'update')} of warm-up"
    reached, end = progress.get("learning_rate"), progress.get("max_steps")
    in_warmup, is_early = step <= training.warmup_steps, end is not None and step < end
    if reached is None or not (in_warmup or is_early):
        return planned
    of = f" of {end:,}" if is_early else ""
    where = ", within its warm-up" if in_warmup else ""
    return f"planned: {planned}; the run ended after update {step:,}{of}{where}, at {reached:g}"


def _resumed(resumed: list[dict[str, Any]]) -> str:
    """After which updates the run went on with other settings."""
    starts = []
    for start in resumed:
        changes = (
            f"{name} {as_code(f'{value_in_words(old)} → {value_in_words(new)}')}"
            for name, (old, new) in start["changed"].items()
        )
        starts.append(f"after update {start['step']:,} with {', '.join(changes)}")
    return "; ".join(starts)


def _tokenizer(settings: Settings, config: Seq2SeqConfig) -> str:
    tokenizer = settings.tokenizer
    source, target = config.vocab_size, config.decoder_vocab_size
    sizes = f"{source:,} entries for both sides"
    if not config.share_encoder_decoder_embeddings:
        sizes = f"{source:,} entries for the source and {target:,} for the target"
    if tokenizer.path:
        return f"{in_markdown(without_places(tokenizer.path))}, {sizes}"
    kinds = [KINDS[tokenizer.kind]]
    if not tokenizer.shared and tokenizer.target_kind not in (None, tokenizer.kind):
        kinds.append(KINDS[tokenizer.target_kind])
    normal = "" if tokenizer.normalization == "none" else f", Unicode {tokenizer.normalization.upper()}"
    return f"{' and '.join(kinds)}, {sizes}{normal}{', lower case' * tokenizer.lowercase}; trained on the training data"


def hyper_parameters(settings: Settings, record: dict[str, Any], config: Seq2SeqConfig) -> str:
    """What the training was set to, and what it began with."""
    training, plan = settings.training, record["data"]["plan"]
    if training.batch_size is not None:
        batch = f"{plural(training.batch_size, 'pair')}"
    elif training.batch_tokens is not None:
        batch = f"{plural(training.batch_tokens, 'token')}, padding included"
    decay = f"; weight decay {training.weight_decay:g}" if training.weight_decay else ""
    name = {"adamw": "AdamW", "adam": "Adam"}[training.optim]
    start, model = origin_of(settings, record), record["model"]
    of_buffer = f" (of the stream's first {plan['pairs']:,} pairs)" if plan.get("of") == "buffer" else ""
    rows = {
        **({"begun with": _start(start)} if start else {}),
        **({"taught": distilled_from(record)} if distilled_from(record) else {}),
        **({"frozen": _frozen(start, model)} if model.get("frozen") else {}),
        "tokenizer": _tokenizer(settings, config),
        "optimizer": f"{name}, β {training.adam_beta1:g} and {training.adam_beta2:g}, ε {training.adam_epsilon:g}"
        + decay,
        "learning rate": _learning_rate(settings, record["progress"]),
        "gradient": "not clipped" if training.max_grad_norm is None else f"clipped at norm {training.max_grad_norm:g}",
        "batch": f"{batch}; {plural(training.batches_per_update, 'batch').replace('batchs', 'batches')} an update; "
        f"{plan['target_tokens_per_update']:,.0f} target tokens an update, {plan['padding']:.1%} padding{of_buffer}",
        "dropout": f"{config.dropout:g}",
        "label smoothing": f"{training.label_smoothing_factor:g}",
        **({"R-Drop": f"α {training.r_drop_alpha:g} (Wu et al. 2021)"} if training.r_drop_alpha else {}),
        "precision": PRECISIONS.get(record["precision"], record["precision"]),
        "seed": str(training.seed),
    }
    return table(["", ""], [[key, value] for key, value in rows.items()])


def course(settings: Settings, record: dict[str, Any], with_scores: bool) -> str:
    """How long it took, what changed on the way, and what came of it."""
    progress, environment = record["progress"], record["environment"]
    best = metrics.Goal.of(settings.training).name
    names = ("python", "torch", "transformers", "accelerate", "datasets", "tokenizers", "sacrebleu", "seqloom")
    rows = {
        "length": f"{plural(progress['step'], 'update')}, {plural(progress['epoch'], 'whole epoch')}, "
        f"{progress['target_tokens']:,} target tokens",
        "time": f"{progress['seconds']:,.0f} s, validations included",
        **({"other settings": _resumed(record["resumed"])} if record.get("resumed") else {}),
        "weights": record["model"]["weights"],
        "best validation": f"{metric_name(best)} {progress['best_score']:.4f}, after update {progress['best_step']:,}",
        "hardware": f"{environment['hardware']}; {environment['processes']} "
        f"{'process' if environment['processes'] == 1 else 'processes'}",
        "software": ", ".join(f"{name} {environment[name]}" for name in names),
    }
    if not with_scores:
        del rows["best validation"]
    return table(["", ""], [[key, value] for key, value in rows.items()])


def curve(folder: Path | None, settings: Settings, record: dict[str, Any], log: list[dict[str, Any]]) -> str:
    """The picture where there is one, else a table of ten validations; and what its numbers are."""
    metric, smoothing = settings.training.eval_metric, settings.training.label_smoothing_factor
    notes = ["Losses are nats per target token."]
    if smoothing:
        notes.append(f"The training loss is taken with label smoothing {smoothing:g}, the validation loss without.")
    if settings.training.r_drop_alpha:
        notes.append(
            "The training loss holds two passes with dropout against each other; the validation loss does not."
        )
    if settings.distillation.teacher:
        notes.append("The training loss is that of the labels mixed with the teacher's; the validation loss is not.")
    if metric:
        decoded = min(settings.training.eval_samples or 10**9, record["data"]["pairs"]["validation"])
        notes.append(f"{metric_name(metric)} is of greedy outputs for {plural(decoded, 'validation pair')}.")
    note = " ".join(notes)
    if folder is not None and (folder / run_folder.CURVE).is_file():
        also = f", and {metric_name(metric)} of the validations" if metric else ""
        return f"![Training and validation loss against updates{also}]({run_folder.CURVE})\n\n{note}"
    validations = [line for line in log if "eval_loss" in line]
    stride = -(-len(validations) // 10)  # ten rows or fewer, the last validation among them
    best = record["progress"]["best_step"]
    rows = []
    for line in validations[::-stride][::-1]:
        losses = [entry["loss"] for entry in log if "loss" in entry and entry["step"] <= line["step"]]
        values = [f"{losses[-1]:.3g}" if losses else "", f"{line['eval_loss']:.3g}"]
        values += [f"{line[f'eval_{metric}']:.2f}"] if metric else []
        rows.append([f"{line['step']:,}{' (best)' if line['step'] == best else ''}", *values])
    headers = ["update:", "training loss:", "validation loss:", *([f"{metric_name(metric)}:"] if metric else [])]
    return f"{table(headers, rows)}\n\n{note}"
