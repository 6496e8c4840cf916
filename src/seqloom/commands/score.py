"""The command ``seqloom evaluate``, which is ``evaluate.py`` too."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from seqloom import run_folder
from seqloom.commands.command import Command, usage
from seqloom.commands.following import tell_next, typed, without
from seqloom.commands.shell import run, say
from seqloom.settings.schema import ScoringSettings
from seqloom.support.wording import plural


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
        seqloom evaluate runs/mine-beam5 --against runs/mine/evaluation/test
        seqloom evaluate --predictions runs/mine/evaluation/test/predictions.jsonl --metrics chrf
    """

    model: str | None = field(default=None, metadata={"optional": True})
    """A folder or a name on the Hub; with --against also a folder that seqloom evaluate wrote, or its
    predictions.jsonl."""
    against: str | None = None
    """Another one of these: both are scored on the same sentences and tested for a difference."""
    overwrite: bool = False
    """Make the predictions again, whatever is kept."""
    predictions: Path | None = None
    """In the place of a model: a predictions.jsonl, packed by gzip or not, to be scored again; nothing is written."""

    def check(self) -> None:
        if self.model is not None and self.predictions is None and self.against is None:
            from seqloom.settings.reading import load_scoring_settings

            load_scoring_settings(self.model, self.overrides)

    def run(self) -> None:
        if self.predictions is not None:
            self._again(self.predictions)
            return
        if self.model is None:
            raise ValueError(f"{self.needs}. {usage(Evaluate)}")
        from seqloom.scoring.against import compare_models, comparison_text
        from seqloom.scoring.score import evaluate_model, overlap_sentence, report

        if self.against is not None:
            results = compare_models(self.model, self.against, self.overrides, overwrite=self.overwrite)
            say(comparison_text(results))
            are_models = all((Path(name) / run_folder.CONFIG).is_file() for name in (self.model, self.against))
            if are_models and not Path("report").exists():
                split = [] if results["split"] == "test" else ["--split", results["split"]]
                tell_next(typed("compare", self.model, self.against, *split, "--output", "report"))
            return
        scores = evaluate_model(self.model, self.overrides, overwrite=self.overwrite)
        say(report(scores))
        if sentence := overlap_sentence(scores):
            say(sentence)
        say(f"predictions and scores are in {scores['folder']}")
        tell_next(self._with_beams(scores))

    def _again(self, predictions: Path) -> None:
        """Scores what is kept."""
        from seqloom.scoring.rescoring import score_predictions
        from seqloom.scoring.score import report

        if self.model is not None or self.against is not None:
            raise ValueError(
                "--predictions stands in the place of a model, and alone: to hold it against others, give it as the "
                f"model: seqloom evaluate {predictions} --against OTHER."
            )
        scores = score_predictions(predictions, self.overrides)
        say(report(scores))
        say(f"of {plural(scores['sentences'], 'sentence')} in {predictions}")

    def _with_beams(self, scores: dict[str, Any]) -> str | None:
        """Of greedy outputs: whether beams are better."""
        assert self.model is not None
        generation = scores["generation"]
        place = Path(self.model) if Path(self.model).is_dir() else Path(scores["folder"])
        folder = place.with_name(f"{place.resolve().name}-beam5")
        if generation.get("num_beams", 1) > 1 or "do_sample" in generation or folder.exists():
            return None
        words = without(self.argv, "--output_dir", "--num_beams", "--overwrite")
        return typed("evaluate", *words, "--num_beams", 5, "--output_dir", folder, "--against", scores["folder"])


main = partial(run, Evaluate)
"""What ``evaluate.py`` calls."""
