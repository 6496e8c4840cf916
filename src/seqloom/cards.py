"""The model card: made from the run's own record, so that it states what was measured and nothing else."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from seqloom.settings import Settings

SNIPPET = """import seqloom
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{name}")
model = AutoModelForSeq2SeqLM.from_pretrained("{name}")
outputs = model.generate(**tokenizer([{example}], return_tensors="pt"))
print(tokenizer.batch_decode(outputs, skip_special_tokens=True))"""


def write_card(folder: Path, settings: Settings, record: dict[str, Any], example: str = "…") -> None:
    """Writes ``README.md`` into a model folder.

    Args:
        folder: The model folder; its name is the model's.
        settings: The run.
        record: What `seqloom.training.run_training` returns.
        example: A source text for the usage snippet.
    """
    evaluation, progress = record["evaluation"], record["progress"]
    data = data_name(settings)
    is_hub_data = settings.data.dataset not in (None, "scan") and not Path(settings.data.dataset).exists()
    kind = settings.data.dataset if is_hub_data or settings.data.dataset == "scan" else "local"
    results = [
        EvalResult(
            task_type="text-generation",
            task_name="Sequence to sequence",
            dataset_type=kind,
            dataset_name=data,
            dataset_split=evaluation["split"],
            metric_type=name,
            metric_value=round(result["score"], 2),
            metric_config=result["signature"],
        )
        for name, result in (evaluation["metrics"] if evaluation else {}).items()
    ]
    card_data = ModelCardData(
        library_name="seqloom",
        tags=["seq2seq", settings.model["model_type"], "trained-from-scratch"],
        datasets=[settings.data.dataset] if is_hub_data else None,
        metrics=[result.metric_type for result in results] or None,
        model_name=folder.name,
        eval_results=results or None,
    )
    card = ModelCard.from_template(
        card_data,
        template_str=files("seqloom.model_cards").joinpath("template.md").read_text(encoding="utf-8"),
        title=folder.name,
        model_type=settings.model["model_type"],
        parameters=f"{record['model']['parameters']:,}",
        snippet=SNIPPET.format(name=folder.name, example=json.dumps(example, ensure_ascii=False)),
        scores=_scores(evaluation),
        scores_note=_scores_note(evaluation, data),
        training=_training(settings, record, progress, data),
        settings=yaml.safe_dump(_without_folders(settings), sort_keys=False, allow_unicode=True).strip(),
        limits=_limits(evaluation),
    )
    (folder / "README.md").write_text(str(card), encoding="utf-8")


def _without_folders(settings: Settings) -> dict[str, Any]:
    """The settings as plain values, files by their names alone: where they lay is nobody else's business."""
    values = settings.to_dict()
    values["output_dir"] = Path(settings.output_dir).name
    for section, name in (("data", "dataset"), ("tokenizer", "path")):
        if (path := values[section][name]) and Path(path).exists():
            values[section][name] = Path(path).name
    for split in ("train", "validation", "test"):
        paths = values["data"][f"{split}_files"]
        values["data"][f"{split}_files"] = paths and [Path(path).name for path in paths]
    return values


def data_name(settings: Settings) -> str:
    """The training data in a word or two."""
    if settings.data.dataset == "scan":
        split = settings.data.split or "simple"
        return f"SCAN, split {split}" + (" (seqloom's own draw, of the published sizes)" if split == "simple" else "")
    if settings.data.dataset:
        is_folder = Path(settings.data.dataset).exists()
        return Path(settings.data.dataset).name if is_folder else settings.data.dataset
    return ", ".join(Path(path).name for path in settings.data.train_files)


def _scores(evaluation: dict[str, Any] | None) -> str:
    if evaluation is None:
        return "None were measured."

    def row(name: str, result: dict[str, Any]) -> str:
        signature = result["signature"].replace("|", r"\|")  # a bar would end the cell
        return f"| {name} | {result['score']:.2f} | `{signature}` |"

    rows = [row(name, result) for name, result in evaluation["metrics"].items()]
    return "\n".join(["| metric | score | signature |", "| --- | ---: | --- |", *rows])


def _scores_note(evaluation: dict[str, Any] | None, data: str) -> str:
    if evaluation is None:
        return ""
    decoding = ", ".join(f"{name} {value}" for name, value in evaluation["generation"].items())
    return (
        f"On the {evaluation['sentences']:,} pairs of the {evaluation['split']} split of {data}; {decoding}; decoded "
        f"in {evaluation['seconds']:,.1f} s ({evaluation['sentences_per_second']:,.1f} sentences/s)."
    )


def _training(settings: Settings, record: dict[str, Any], progress: dict[str, Any], data: str) -> str:
    provenance, plan, env = record["data"], record["data"]["plan"], record["environment"]
    versions = ", ".join(f"{name} {env[name]}" for name in ("python", "torch", "transformers", "accelerate", "seqloom"))
    revision = f", revision {settings.data.revision}" if settings.data.revision else ""
    counts = ", ".join(f"{split} {count}" for split, count in provenance["pairs"].items())
    rows = {
        "data": f"{data}{revision} ({counts} pairs; {provenance['train']})",
        "batches": f"{plan['target_tokens_per_update']:,.0f} target tokens an update, {plan['padding']:.1%} padding",
        "training": f"{progress['step']:,} updates, {progress['epoch']:,} epochs, "
        f"{progress['target_tokens']:,} target tokens, {progress['seconds']:,.0f} s",
        "weights": record["model"]["weights"],
        "best validation": "none" if progress["best_score"] is None else f"{progress['best_score']:.4f}",
        "hardware": f"{env['hardware']}, {env['processes']} process(es)",
        "software": versions,
    }
    return "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows.items())])


def _limits(evaluation: dict[str, Any] | None) -> str:
    measured = "The scores hold for that split alone." if evaluation else "Nothing was measured on held-out data."
    return (
        f"{measured} The model knows what its training data shows and nothing else: expect other domains, longer "
        "inputs and other spellings to score lower, and check its outputs before they matter."
    )
