"""The least and the most that numbers of the settings may be: less makes no sense, more no machine has."""

from __future__ import annotations

from seqloom.settings.schema import ScoringSettings, Settings
from seqloom.settings.typed import field_types, is_section

LEAST = {
    "data": {
        "max_source_length": 1, "max_target_length": 1, "shuffle_buffer": 1, "validation_size": 1, "num_proc": 1,
        "num_workers": 0,
    },
    "tokenizer": {"vocab_size": 5, "target_vocab_size": 5, "min_frequency": 1, "train_samples": 1},
    "training": {
        "batch_tokens": 1, "batch_size": 1, "batches_per_update": 1, "gradient_accumulation_steps": 1,
        "max_steps": 1, "num_train_epochs": 1, "warmup_steps": 0, "eval_steps": 1, "eval_samples": 1,
        "early_stopping_patience": 1, "num_threads": 1, "average_checkpoints": 0, "logging_steps": 1,
        "save_steps": 1, "save_total_limit": 1, "loss_chunk_tokens": 1,
        "max_skipped_updates": 0,
        "weight_decay": 0, "label_smoothing_factor": 0, "r_drop_alpha": 0, "seed": 0,
    },
    "distillation": {"alpha": 0, "top_k": 1},
    "generation": {"num_beams": 1, "max_new_tokens": 1, "decode_batch_tokens": 1, "coverage_penalty": 0},
    "evaluation": {"bootstrap_samples": 0},
    "": {"seed": 0},
}  # fmt: skip
MOST = {
    "data": {"num_proc": 1024, "num_workers": 1024},
    "tokenizer": {"vocab_size": 2**24, "target_vocab_size": 2**24},
    "training": {
        "gradient_accumulation_steps": 10_000,
        "num_threads": 1024,
        "average_checkpoints": 1000,
        "seed": 2**32 - 1,
    },
    "distillation": {"alpha": 1},
    "generation": {"num_beams": 10_000, "max_new_tokens": 1_000_000},
    "evaluation": {"bootstrap_samples": 1_000_000},
    "": {"seed": 2**32 - 1},
}
"""Of what takes memory or processes as it grows, and of NumPy's seeds."""
LARGEST = 2**31 - 1
"""What every other whole number may be: counters and tensors' sizes end there or not far above."""


def check_bounds(settings: Settings | ScoringSettings) -> None:
    """Refuses numbers that are too small or too large.

    Raises:
        ValueError: One is; the message says what it may be.
    """
    own = [("", settings)]
    sections = [(f.name, getattr(settings, f.name)) for f, hint in field_types(type(settings)) if is_section(hint)]
    for section, values in own + sections:
        for f, _ in field_types(type(values)):
            value = getattr(values, f.name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            name = f"{section}.{f.name}" if section else f.name
            least = LEAST.get(section, {}).get(f.name)
            most = MOST.get(section, {}).get(f.name, LARGEST if isinstance(value, int) else None)
            if least is not None and value < least:
                raise ValueError(f"{name} is {value}; it must be {least} or more.")
            if most is not None and value > most:
                raise ValueError(f"{name} is {value}; it must be {most:,} or less.")
