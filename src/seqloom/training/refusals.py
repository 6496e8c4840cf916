"""What a run refuses before anything is read or trained: another run's folder, metrics that there are not, a Hub that
says no.
"""

from __future__ import annotations

from pathlib import Path

from transformers import GenerationConfig

from seqloom import run_folder
from seqloom.data.sources import check_columns
from seqloom.decoding.options import check_options, options_of
from seqloom.scoring import metrics
from seqloom.scoring.trials import try_metrics
from seqloom.settings.reading import load_settings
from seqloom.settings.schema import Settings, TrainingSettings
from seqloom.settings.unused import check_used
from seqloom.training.clearing import check_inputs, inputs_of, is_ours


def refuse(settings: Settings, folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Refuses what cannot come to a good end.

    Raises:
        ValueError: The output folder holds something else; a setting is of no use beside the others; a metric does not
            work, or it is unknown which of its scores is better; ``generate`` has not such options.
    """
    check_output_folder(folder, settings, resume, overwrite)
    if not resume:  # what a run was begun with is its own
        check_used(settings)
        check_columns(settings.data, "data")
        for number, entry in enumerate(settings.data.mix):
            check_columns(entry, f"data.mix[{number}]")
    check_options(GenerationConfig(), options_of(settings.generation))
    deciding = settings.training.eval_metric
    for name in (*([] if deciding is None else [deciding]), *settings.evaluation.metrics):
        metrics.load_metric(name)  # a misspelt name shows now, not after the training
    check_direction(settings.training)
    try_metrics(settings.evaluation, filter(None, [settings.training.eval_metric]))


def check_direction(training: TrainingSettings) -> None:
    """Refuses a deciding metric of which it is not known, or wrongly told, whether more of it is better."""
    goal = metrics.Goal.of(training)
    is_known, told = goal.name == "loss" or goal.name in metrics.METRICS, training.greater_is_better
    if not is_known and told is None:
        raise ValueError(
            f"{goal.name} decides which model is the best, but a metric of the Hub does not say whether more of it is "
            "better: set training.greater_is_better to true or false."
        )
    if is_known and told is not None and told != metrics.higher_is_better(goal.name):
        raise ValueError(
            f"training.greater_is_better is {str(told).lower()}, but of {goal.name}, which decides, "
            f"{'less' if told else 'more'} is better: leave it out."
        )


def check_output_folder(folder: Path, settings: Settings, resume: bool, overwrite: bool) -> None:
    """Refuses to write over anything unless told to, and to resume another run."""
    is_run = run_folder.is_run(folder)
    if not overwrite:
        run_folder.check_marker(folder)
    if resume and is_run:
        earlier = load_settings(folder / run_folder.SETTINGS)
        for section in ("model", "data", "tokenizer", "distillation"):
            then, now = (values.to_dict()[section] for values in (earlier, settings))
            others = [name for name in {**then, **now} if then.get(name) != now.get(name) and name != "num_proc"]
            if others:
                raise ValueError(
                    f"the run in {folder} was started with another {section} section than the one given "
                    f"({', '.join(others)}); resume with {folder / run_folder.SETTINGS}, or train into "
                    "another output_dir."
                )
        for name in ("seed", "batch_tokens", "batch_size", "batches_per_update"):
            if getattr(earlier.training, name) != getattr(settings.training, name):
                raise ValueError(
                    f"training.{name} is {getattr(settings.training, name)}, but the run in {folder} was started with "
                    f"{getattr(earlier.training, name)}: resuming would mix two orders of the data; keep it."
                )
        for name in ("freeze", "ema_decay", "optim"):
            if getattr(earlier.training, name) != getattr(settings.training, name):
                raise ValueError(
                    f"training.{name} is {getattr(settings.training, name)}, but the run in {folder} was started with "
                    f"{getattr(earlier.training, name)}, and its checkpoints hold what belongs to that: keep it."
                )
    elif resume:
        raise ValueError(
            f"there is no run to resume in {folder}: it has no {run_folder.SETTINGS}; start it without --resume."
        )
    elif folder.exists() and not (folder.is_dir() and run_folder.is_untouched(folder)):
        if not overwrite:
            raise ValueError(
                f"the output folder {folder} is not empty; give --resume to go on, --overwrite to start anew, or "
                "another --output_dir."
            )
        if not folder.is_dir() or not is_ours(folder):
            raise ValueError(
                f"{folder} holds no run of seqloom's, so --overwrite will not delete it; choose another one."
                + (" (One of an earlier version must hold nothing else.)" if is_run else "")
            )
    if overwrite:
        check_inputs(folder, inputs_of(settings))
