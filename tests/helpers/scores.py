"""What a metric's score is made of, sentence by sentence."""

from collections.abc import Sequence

from seqloom.scoring.metrics import METRICS
from seqloom.scoring.significance import Statistics


def statistics(name: str, predictions: Sequence[str], references: Sequence[str | list[str]], **options) -> Statistics:
    """The statistics of the sentences that `METRICS[name]` computes its score from."""
    groups = [[entry] if isinstance(entry, str) else list(entry) for entry in references]
    return METRICS[name]().measure(list(predictions), groups, **options)[1]
