"""What a student learns from: settings with a teacher in them, or with the set of what one says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from seqloom.settings.checks import check_settings
from seqloom.settings.schema import MixSettings, Settings, TokenizerSettings


def taught_by_sequences(settings: Settings, pairs: Path, weight: float) -> Settings:
    """The settings of a student that learns from a distilled set.

    Args:
        settings: Without it.
        pairs: The set's file.
        weight: Share of the settings' own training pairs beside it; 0: none.

    Raises:
        ValueError: Something in the settings cannot be with ``data.mix``.
    """
    mix = [MixSettings(weight=1.0, train_files=[str(pairs)])]
    student = replace(settings, data=replace(settings.data, mix=mix, weight=weight))
    check_settings(student)
    return student


def taught_by_words(settings: Settings, teacher: str, revision: str | None) -> Settings:
    """The settings of a student with a teacher in its loss, whose tokenizer it takes unless they name one.

    Raises:
        ValueError: Something in the settings cannot be with it.
    """
    tokenizer = settings.tokenizer
    if tokenizer.path is None:
        tokenizer = TokenizerSettings(
            path=teacher, bpe_dropout=tokenizer.bpe_dropout, sampling_alpha=tokenizer.sampling_alpha
        )
    distillation = replace(settings.distillation, teacher=teacher, teacher_revision=revision)
    student = replace(settings, tokenizer=tokenizer, distillation=distillation)
    check_settings(student)
    return student
