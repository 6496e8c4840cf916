"""The end of a run: the final weights chosen, scored and saved with their record and card."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from accelerate.utils import broadcast_object_list
from transformers import AutoModelForSeq2SeqLM

from seqloom.data.encoding import EncodingReport
from seqloom.data.pairs import Pairs
from seqloom.scoring import metrics
from seqloom.scoring.score import score_split, table
from seqloom.settings.schema import Settings
from seqloom.sharing.card import write_card
from seqloom.support import disk
from seqloom.support.console import say
from seqloom.support.machine import environment
from seqloom.training import checkpoints
from seqloom.training.loop import validate
from seqloom.training.state import Run


def counted(settings: Settings, is_streaming: bool, report: EncodingReport) -> str:
    """What was kept and dropped, in words: of a stream only what this process has read."""
    if settings.data.num_workers:
        return "a stream, read by processes of its own"  # which counted apart
    if settings.data.split_stream:
        return f"a stream; of what the first process read, {report}"
    return f"a stream; of everything read, {report}" if is_streaming else str(report)


def finish(run: Run, pairs: Pairs, data_record: dict[str, Any]) -> dict[str, Any]:
    """Chooses the final weights, scores them, and writes the model folder with its record and card."""
    settings, accelerator, progress = run.settings, run.accelerator, run.progress
    accelerator.wait_for_everyone()
    what = disk.damage(run.folder / "checkpoints" / "best") if accelerator.is_main_process else None
    (what,) = broadcast_object_list([what])
    if what is not None:
        raise ValueError(
            f"{run.folder / 'checkpoints' / 'best'} is damaged ({what}), and no validation is left that could replace "
            "it; go on with --resume and more training.max_steps or num_train_epochs, or train anew with --overwrite."
        )
    model = AutoModelForSeq2SeqLM.from_pretrained(run.folder / "checkpoints" / "best").to(accelerator.device)
    chosen = f"the best validation's, after update {progress.best_step:,}"
    if run.average is not None:
        chosen += f" (their moving average with decay {settings.training.ema_decay})"
    if settings.training.average_checkpoints > 1 and checkpoints.has_kept_weights(run.folder):
        average = AutoModelForSeq2SeqLM.from_pretrained(run.folder / "checkpoints" / "best").to(accelerator.device)
        steps = checkpoints.load_average(average, run.folder)
        name = settings.training.metric_for_best_model or settings.training.eval_metric or "loss"
        score = validate(dataclasses.replace(run, model=average, average=None))[name]
        sign = 1 if name != "loss" and metrics.higher_is_better(name) else -1
        say(accelerator, f"{name}: average of {len(steps)} checkpoints {score:.4f}, best one {progress.best_score:.4f}")
        if sign * score >= sign * progress.best_score:
            model, chosen = average, f"the mean of those after updates {', '.join(f'{step:,}' for step in steps)}"
    split = settings.evaluation.split
    record = {
        "model": {"parameters": model.num_parameters(), "weights": chosen},
        "data": {**pairs.provenance, **data_record},
        "progress": {name: value for name, value in dataclasses.asdict(progress).items() if name != "log"},
        "environment": environment(accelerator.num_processes),
        "precision": accelerator.mixed_precision,
        "evaluation": None,
        "example": pairs.splits.get(split or "", pairs.splits["validation"])[0]["source"],
    }
    penalty = settings.generation.coverage_penalty
    decoding = {"coverage_penalty": penalty} if penalty else {}  # all else is in the generation config
    if accelerator.is_main_process:
        with disk.explained_when_full(run.folder / "saving-model"):
            model.save_pretrained(run.folder)
        if split in pairs.splits:
            record["evaluation"] = score_split(
                model, run.tokenizer, pairs.splits[split], settings.evaluation,
                batch_tokens=settings.generation.decode_batch_tokens, split=split,
                folder=run.folder / "evaluation" / split, **decoding,
            )  # fmt: skip
        (run.folder / "record.json").write_text(json.dumps(record, indent=2, ensure_ascii=False), encoding="utf-8")
        write_card(run.folder)
        if record["evaluation"] is not None:
            say(accelerator, table(record["evaluation"]["metrics"]))
        say(accelerator, f"the model is in {run.folder}")
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return record
