"""The model card: made from what a run left in its folder, so that it states what was measured and nothing else."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from seqloom import run_folder
from seqloom.data.scan import UNPUBLISHED
from seqloom.figures.curves import training_curve
from seqloom.figures.style import save
from seqloom.modeling import Seq2SeqConfig
from seqloom.scoring import metrics
from seqloom.settings.checks import model_config_class
from seqloom.settings.reading import load_run_settings
from seqloom.settings.schema import HubSettings, Settings
from seqloom.settings.typed import build
from seqloom.sharing.history import base_model, begun, course, curve, hyper_parameters, metric_name, origin_of
from seqloom.sharing.privacy import last_part, shareable_log, shareable_record, shareable_settings, without_places
from seqloom.sharing.sources import data_name_of, data_section, is_on_hub, split_name
from seqloom.sharing.teachers import distilled_from, licence_note, teachings
from seqloom.support import disk
from seqloom.support.wording import as_code, fenced, in_markdown, table

SNIPPET = """from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained({name}, trust_remote_code=True)
model = AutoModelForSeq2SeqLM.from_pretrained({name}, trust_remote_code=True)
outputs = model.generate(**tokenizer([{example}], return_tensors="pt"))
print(tokenizer.batch_decode(outputs, skip_special_tokens=True))"""
PIPELINE_SNIPPET = """from transformers import pipeline

print(pipeline("seq2seq-generation", model={name}, trust_remote_code=True)({example}))"""
TASKS = {
    "translation": "Translation", "summarization": "Summarization", "text-generation": "Text generation",
    "question-answering": "Question answering",
}  # fmt: skip


def write_card(folder: Path) -> None:
    """Writes ``README.md``, unless somebody has edited it, and ``training_curve.png`` into a finished run's folder.

    Raises:
        ValueError: As for `make_card`.
    """
    settings, record, log, _ = _read(folder)
    metric = settings.training.eval_metric
    figure = training_curve(
        log,
        metric,
        higher_is_better=not metric or metrics.higher_is_better(metric, settings.training.greater_is_better),
        metric_label=metric and f"{metric_name(metric)} (%)" if metric in metrics.METRICS else "",
        label_smoothing=settings.training.label_smoothing_factor,
        best_step=record["progress"]["best_step"],
    )
    disk.write_aside(folder / run_folder.CURVE, functools.partial(save, figure), disk.RESUME)
    card = folder / run_folder.CARD
    if not card.is_file() or is_as_made(card.read_text(encoding="utf-8")):
        disk.write_aside(card, disk.text(make_card(folder)), disk.RESUME)


def make_card(
    folder: Path, name: str | None = None, with_scores: bool = True, check: str = "", with_picture: bool = True
) -> str:
    """The text of a finished run's model card.

    Args:
        folder: What `run_training` left. The curve is shown if ``training_curve.png`` lies there, as
            `write_card` leaves it; otherwise a table has its validations.
        name: The model's name, by which it will be loaded (``user/model``); default: the folder's name.
        with_scores: Whether scores, those of the validations too, are in the card. Without them it says that they await
            verification.
        check: How the scores were verified; a sentence below them.
        with_picture: Whether the card lies where the curve does; a table has its validations where it does not.

    Raises:
        ValueError: The folder is that of no finished run.
    """
    settings, record, log, config = _read(folder)
    name = name or folder.resolve().name
    evaluation = record["evaluation"] if with_scores else None
    results = _eval_results(settings, record) if evaluation else []
    start = origin_of(settings, record)
    hub, coverage = settings.hub, settings.generation.coverage_penalty
    data_name, taught = data_name_of(settings, record), distilled_from(record)
    card_data = ModelCardData(
        language=list(dict.fromkeys(hub.language)) or None,
        license=hub.license or "unknown",
        library_name="transformers",
        pipeline_tag=_pipeline_tag(hub),
        tags=list(dict.fromkeys(["seqloom", "seq2seq", config.model_type,
                                 *([] if start else ["trained-from-scratch"]),
                                 *(["distilled"] if teachings(record) else []), "custom_code", *hub.tags])),
        base_model=base_model(start),
        datasets=[settings.data.dataset] if settings.data.dataset and is_on_hub(record) else None,
        metrics=[result.metric_type for result in results] or None,
        model_name=name,
        eval_results=results or None,
    )  # fmt: skip
    words = {
        key: json.dumps(text, ensure_ascii=False) for key, text in (("name", name), ("example", record["example"]))
    }
    card = ModelCard.from_template(
        card_data,
        template_str=files("seqloom.model_cards").joinpath("template.md").read_text(encoding="utf-8"),
        title=in_markdown(name),
        summary=f"{config.describe()}. {record['model']['parameters']:,} parameters, {begun(start)} with "
        f"seqloom on {data_name}{_languages(hub.language)}{f', {taught}' if taught else ''}.",
        snippet=SNIPPET.format(**words),
        decoding="in its generation config"
        if not coverage
        else "in its generation config, but for the coverage penalty: "
        f"for that, `seqloom.translate(model, tokenizer, texts, coverage_penalty={coverage:g})`",
        pipeline_snippet=PIPELINE_SNIPPET.format(**words),
        licence=" ".join(filter(None, (_licence(hub.license), licence_note(record)))),
        scores="\n\n".join(filter(None, (_scores(settings, record), check)))
        if with_scores
        else _unverified(settings, record),
        data=data_section(settings, record, data_name),
        hyper_parameters=hyper_parameters(settings, record, config),
        course=course(settings, record, with_scores),
        curve=curve(folder if with_picture else None, settings, record, log)
        if with_scores
        else "The curve awaits verification with the scores.",
        settings=fenced(
            yaml.safe_dump(_settings(settings, record), sort_keys=False, allow_unicode=True).strip(), "yaml"
        ),
        limits=_limits(settings, record, evaluation, data_name),
    )
    text = f"{str(card).rstrip()}\n"
    return f"{text}\n<!-- made by seqloom from the run's record: {digest(text)} -->\n"


def digest(text: str) -> str:
    """Tells a card that was made from one that was edited."""
    return hashlib.sha256(text.encode()).hexdigest()


def is_as_made(text: str) -> bool:
    """Whether nobody has changed a card since `make_card`, of whatever version, made it."""
    found = re.fullmatch(r"(.*\n)\n<!-- made by seqloom from the run's record: (\w{64}) -->\n", text, flags=re.DOTALL)
    return found is not None and digest(found[1]) == found[2]


def draft_card(hub: HubSettings, text: str) -> ModelCard:
    """A card without a run: the header that the settings give, and a text."""
    data = ModelCardData(
        language=hub.language or None,
        license=hub.license or "unknown",
        library_name="transformers",
        pipeline_tag=_pipeline_tag(hub),
        tags=["seqloom", "seq2seq", "custom_code", *hub.tags],
    )
    return ModelCard(f"---\n{data}\n---\n\n{text}\n")


def _read(folder: Path) -> tuple[Settings, dict[str, Any], list[dict[str, Any]], Seq2SeqConfig]:
    """Settings, record, log and the model's config, without a path of this machine."""
    run_folder.finished(folder)
    record = run_folder.read_record(folder)
    known = record.get("places", ())
    values = without_places(load_run_settings(folder).to_dict(), known)
    log = run_folder.read_log(folder)
    run_folder.check_log_ends(folder, log)
    log = shareable_log(log, known)
    fields = run_folder.read_json(folder / run_folder.CONFIG)
    config = model_config_class(fields.get("model_type")).from_dict(fields)
    return build(Settings, values, where=""), shareable_record(record), log, config


def _pipeline_tag(hub: HubSettings) -> str:
    return hub.pipeline_tag or ("translation" if len(set(hub.language)) > 1 else "text-generation")


def _settings(settings: Settings, record: dict[str, Any]) -> dict[str, Any]:
    """The settings as plain values, with no word of where things lay."""
    values = shareable_settings(settings)
    if values["data"]["dataset"] and not is_on_hub(record):
        values["data"]["dataset"] = last_part(values["data"]["dataset"])
    return values


def _languages(languages: list[str]) -> str:
    return f" ({(' → ' if len(languages) == 2 else ', ').join(languages)})" if len(languages) > 1 else ""


def _licence(licence: str | None) -> str:
    code = "The files of code beside the weights are Apache-2.0."
    if licence is None:
        return f"No licence was stated for the weights: ask whoever trained them before you use them. {code}"
    return f"Licence of the weights: {in_markdown(licence)}. {code}"


def _eval_results(settings: Settings, record: dict[str, Any]) -> list[EvalResult]:
    data, evaluation, tag = record["data"], record["evaluation"], _pipeline_tag(settings.hub)
    split = evaluation["split"]
    on_hub, origin = is_on_hub(record), data["splits"][split]
    from_files = isinstance(origin, list)
    dataset = settings.data.dataset or "local"
    kind = dataset if on_hub or dataset == "scan" else "local"
    is_own = settings.data.dataset == "scan" and (settings.data.split or "simple") in UNPUBLISHED
    return [
        EvalResult(
            task_type=tag,
            task_name=TASKS[tag],
            # Of SCAN's splits the Hub may have another under this name, or none.
            dataset_type="local" if from_files or is_own else kind,
            dataset_name=split_name(settings, record, split, data_name_of(settings, record)),
            dataset_config=data["config_name"] if on_hub and not from_files else None,
            dataset_split=origin if origin == getattr(settings.data, f"{split}_split") else split,
            dataset_revision=data["revision"] if on_hub and not from_files else None,
            metric_type=without_places(name),
            metric_name=metric_name(name),
            metric_value=round(result["score"], 2),
            metric_config=_signature(name, result),
        )
        for name, result in evaluation["metrics"].items()
    ]


def _signature(name: str, result: dict[str, Any]) -> str:
    return result["signature"].replace(name, without_places(name))


def _unscored(settings: Settings) -> str:
    split = settings.evaluation.split
    reason = f"There was no {split} split" if split else "The run was told to score no split (`evaluation.split: null`)"
    return f"None were measured. {reason}: how good the model is on held-out pairs is not known."


def _unverified(settings: Settings, record: dict[str, Any]) -> str:
    if record["evaluation"] is None:
        return _unscored(settings)
    return "The scores of this model await verification; they are left out until then."


def _scores(settings: Settings, record: dict[str, Any]) -> str:
    evaluation = record["evaluation"]
    if evaluation is None:
        return _unscored(settings)
    has_intervals = any(result.get("interval") for result in evaluation["metrics"].values())
    rows = []
    for name, result in evaluation["metrics"].items():
        told = settings.training.greater_is_better if name == settings.training.eval_metric else None
        direction = "↑" if metrics.higher_is_better(name, told) else "↓"
        bounds = result.get("interval")
        interval = [f"{bounds[0]:.2f} to {bounds[1]:.2f}" if bounds else "none"] if has_intervals else []
        rows.append([f"{metric_name(name)} {direction}", f"{result['score']:.2f}", *interval,
                     as_code(_signature(name, result))])  # fmt: skip
    headers = ["metric", "score:", *(["95 % interval:"] if has_intervals else []), "signature"]
    decoding = ", ".join(f"{name} {value}" for name, value in evaluation["generation"].items())
    split = evaluation["split"]
    where = split_name(settings, record, split, data_name_of(settings, record))
    note = (
        f"On the {evaluation['sentences']:,} pairs of the {split} split of {where}; {decoding}; decoded in "
        f"{evaluation['seconds']:,.1f} s ({evaluation['sentences_per_second']:,.1f} sentences/s) on "
        f"{evaluation['environment']['hardware']}. ↑: more is better; ↓: less is."
    )
    if met := (record["data"].get("overlap") or {}).get(split):
        note += f" {met:,} of these pairs {'is' if met == 1 else 'are'} in the training data too, word for word."
    if has_intervals:
        note += (
            f" Intervals are the percentiles 2.5 and 97.5 of {evaluation['bootstrap_samples']:,} bootstrap resamples "
            "of these pairs (Koehn 2004), of shares of right outputs or tokens Wilson's (1927): they tell how far "
            "the choice of the test sentences matters, not the seed of the training."
        )
    notes = [note, *(in_markdown(without_places(said)) for said in evaluation.get("notes", []))]
    return "\n\n".join([table(headers, rows), *notes])


def _limits(settings: Settings, record: dict[str, Any], evaluation: dict[str, Any] | None, data_name: str) -> str:
    data, tokenizer, longest = settings.data, settings.tokenizer, (record["evaluation"] or {}).get("generation", {})
    lines = []
    if evaluation:
        lines.append(
            f"The scores hold for {evaluation['sentences']:,} pairs of one source ({evaluation['split']} split), and "
            "for one training with one seed."
        )
    elif record["evaluation"] is None:
        lines.append("Nothing was measured on held-out pairs but the validations that chose the weights.")
    number = "a stream of pairs" if settings.data.streaming else f"{record['data']['plan']['pairs']:,} pairs"
    start = origin_of(settings, record)
    beyond = "nothing else" if start is None else "nothing beyond these but what it was begun with"
    lines.append(
        f"It learnt from {number} of {data_name} and knows {beyond}: expect other domains and other spellings to "
        "fare worse."
    )
    if teachings(record):
        lines.append("It was taught by another model, whose mistakes are in what it learnt.")
    sides = [("source", data.max_source_length), ("target", data.max_target_length)]
    bounds = " or ".join(f"{limit:,} {side} tokens" for side, limit in sides if limit is not None)
    if bounds:
        lines.append(f"It has seen no pair of more than {bounds}; longer texts are beyond what it learnt.")
    if "max_new_tokens" in longest:
        lines.append(f"Outputs end after {longest['max_new_tokens']:,} tokens, finished or not.")
    if not tokenizer.path:
        kinds = {tokenizer.kind} | ({tokenizer.target_kind} - {None} if not tokenizer.shared else set())
        if "word" in kinds:
            lines.append("Words that the training data lack become `<unk>`.")
        if kinds & {"bpe", "unigram", "char"}:
            lines.append("Characters that the training data lack become `<unk>`.")
        if tokenizer.lowercase:
            lines.append("Texts are lower-cased: it neither reads nor writes capitals.")
    lines.append("Nobody examined it for bias or harm; check its outputs before they matter.")
    return "\n".join(f"- {line}" for line in lines)
