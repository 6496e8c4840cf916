"""The command ``seqloom evaluate``, which is ``evaluate.py`` too."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from seqloom.commands.command import Command
from seqloom.commands.shell import run, say
from seqloom.settings.schema import ScoringSettings


@dataclass(kw_only=True)
class Evaluate(Command):
    """Scores a model, or tests two for a difference.

    Predictions that are kept of the same sentences and generation settings are not made again.
    """

    name = "evaluate"
    needs = "the model comes first"
    settings = ScoringSettings
    examples = """
        seqloom evaluate runs/mine --split test --num_beams 5 --output_dir runs/mine-beam5
        seqloom evaluate Helsinki-NLP/opus-mt-en-de --dataset bentrevett/multi30k --source en --target de
        seqloom evaluate runs/mine --against runs/other --metrics chrf ter
    """

    model: str
    """A folder or a name on the Hub; with --against, a predictions.jsonl too."""
    against: str | None = None
    """Another one of these: both are scored on the same sentences and tested for a difference."""
    overwrite: bool = False
    """Make the predictions again, whatever is kept."""

    def run(self) -> None:
        from seqloom.scoring.against import compare_models, comparison_text
        from seqloom.scoring.score import evaluate_model, overlap_sentence, report

        if self.against is not None:
            results = compare_models(self.model, self.against, self.overrides, overwrite=self.overwrite)
            say(comparison_text(results))
            return
        scores = evaluate_model(self.model, self.overrides, overwrite=self.overwrite)
        say(report(scores))
        if sentence := overlap_sentence(scores):
            say(sentence)
        say(f"predictions and scores are in {scores['folder']}")


main = partial(run, Evaluate)
"""What ``evaluate.py`` calls."""
