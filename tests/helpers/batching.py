"""Settings of batches."""

from seqloom.settings.schema import TrainingSettings


def settings(**fields) -> TrainingSettings:
    return TrainingSettings(**{"batch_tokens": 200, "max_steps": 1, **fields})
