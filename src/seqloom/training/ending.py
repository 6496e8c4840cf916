"""The end of a run: the final weights chosen, scored and saved with their record and card."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from transformers import AutoModelForSeq2SeqLM

from seqloom import run_folder
from seqloom.decoding.loading import Seq2SeqLM
from seqloom.scoring import metrics
from seqloom.scoring.score import report, score_split
from seqloom.sharing.card import write_card
from seqloom.sharing.privacy import places_in
from seqloom.support import disk
from seqloom.support.console import say
from seqloom.support.machine import environment
from seqloom.training import checkpoints
from seqloom.training.initialisation import frozen_parameters
from seqloom.training.material import Material
from seqloom.training.restoring import check_best_is_whole
from seqloom.training.state import Run
from seqloom.training.validation import validate

OF_CHECKPOINTS = {"log", "settings", "start", "teacher", "resumed", "fast_layers"}
"""Of the progress, what the record has elsewhere or needs no more."""


def finish(run: Run, material: Material) -> dict[str, Any]:
    """Chooses the final weights, scores them, and writes the model folder with its record and card.

    Raises:
        ValueError: The best model is damaged, and no validation is left that could replace it.
        OSError: The disk is full.
    """
    settings, accelerator, progress = run.settings, run.accelerator, run.progress
    accelerator.wait_for_everyone()
    model, chosen = choose_weights(run)
    history = dataclasses.asdict(progress)
    split, splits = settings.evaluation.split, material.pairs.splits
    record: dict[str, Any] = {
        "model": {
            "parameters": model.num_parameters(),
            "frozen": frozen_parameters(accelerator.unwrap_model(run.model)),
            "weights": chosen,
        },
        "start": progress.start,
        **({"teacher": progress.teacher} if progress.teacher else {}),
        "resumed": progress.resumed,
        "data": material.record(settings),
        "progress": {name: value for name, value in history.items() if name not in OF_CHECKPOINTS}
        | {"max_steps": run.max_steps},
        "environment": environment(accelerator.num_processes),
        "precision": accelerator.mixed_precision,
        "fast_layers": progress.fast_layers,
        "evaluation": None,
        "places": places_in([settings.to_dict(), progress.start, progress.resumed]),
        "example": splits.get(split or "", splits["validation"])[0]["source"],
    }
    penalty = settings.generation.coverage_penalty
    decoding: dict[str, Any] = {"coverage_penalty": penalty} if penalty else {}  # all else is in the generation config
    if accelerator.is_main_process:
        checkpoints.save_into(run.folder, "model", model.save_pretrained)
        if split in splits:
            record["evaluation"] = score_split(
                model, run.tokenizer, splits[split], settings.evaluation,
                batch_tokens=settings.generation.decode_batch_tokens,
                dtype=settings.generation.decode_dtype, split=split,
                folder=run_folder.evaluation(run.folder, split), seed=settings.training.seed, **decoding,
            )  # fmt: skip
        text = json.dumps(record, indent=2, ensure_ascii=False)
        disk.write_aside(run.folder / run_folder.RECORD, disk.text(text), disk.RESUME)
        write_card(run.folder)
        if record["evaluation"] is not None:
            say(accelerator, report(record["evaluation"]))
        elif split is not None:
            say(accelerator, f"not scored: the data have no {split} split.")
        say(accelerator, f"the model is in {run.folder}")
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return record


def choose_weights(run: Run) -> tuple[Seq2SeqLM, str]:
    """The best validation's model, or the mean of several if that scores as well; and which it is, in words."""
    settings, accelerator, progress, best = run.settings, run.accelerator, run.progress, run_folder.best(run.folder)
    check_best_is_whole(run)
    model = AutoModelForSeq2SeqLM.from_pretrained(best, trust_remote_code=False).to(accelerator.device)
    chosen = f"the best validation's, after update {progress.best_step:,}"
    if run.average is not None:
        chosen += f" (their moving average with decay {settings.training.ema_decay})"
    kept = checkpoints.kept_steps(run.folder) if settings.training.average_checkpoints > 1 else []
    if len(kept) == 1:
        say(accelerator, "average_checkpoints: there was one validation alone, so there is nothing to take a mean of.")
    if len(kept) > 1:
        average = AutoModelForSeq2SeqLM.from_pretrained(best, trust_remote_code=False).to(accelerator.device)
        steps = checkpoints.load_average(average, run.folder)
        goal = metrics.Goal.of(settings.training)
        assert progress.best_score is not None  # a best model has one
        scores = validate(dataclasses.replace(run, model=average, average=None))
        score = scores[goal.name]
        say(
            accelerator,
            f"{goal.name}: average of {len(steps)} checkpoints {score:.4f}, best one {progress.best_score:.4f}",
        )
        if not goal.is_better(progress.best_score, score, progress.best_loss, scores["loss"]):
            model, chosen = average, f"the mean of those after updates {', '.join(f'{step:,}' for step in steps)}"
    return model, chosen
