"""The command ``seqloom compare``: RNN or Transformer?"""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from seqloom.commands.command import Command
from seqloom.commands.following import opening, tell_next
from seqloom.commands.shell import run
from seqloom.comparison.sections import MEASURES, Measure
from seqloom.settings.schema import Settings
from seqloom.support.language import Language

if TYPE_CHECKING:
    from seqloom.comparison.compare import Request


@dataclass(kw_only=True)
class Compare(Command):
    """Compares models: RNN or Transformer?

    Trains the recipes, scores and measures everything alike, and writes a report.
    """

    name = "compare"
    needs = "nothing to compare is given"
    settings = Settings
    sections = ("model", "data", "tokenizer", "training", "generation", "evaluation")
    interrupted = "ended at once; --resume goes on with what is done."
    examples = """
        seqloom compare scan-rnn scan-transformer
        seqloom compare runs/mine runs/other user/model-on-the-hub --output report --measures quality weight
        seqloom compare mine.yaml scan-transformer --seeds 1 2 3 --max_steps 1500
    """

    subjects: list[str] = field(metadata={"shown": "CONFIG|MODEL"})
    """A CONFIG, a YAML file or the name of a recipe (see seqloom recipes), is trained on this machine; a MODEL is a
    folder or a name on the Hub and is taken as it is: of the settings, only those of data, generation and evaluation
    say something about it."""
    output: Path = Path("report")
    """Folder of the report."""
    seeds: list[int] = field(default_factory=list)
    """Each CONFIG is trained with each of them; else with its own."""
    measures: list[Measure] = field(default_factory=list)
    """What is measured; else everything."""
    split: Literal["train", "validation", "test"] = "test"
    """The split that is scored."""
    num_threads: int = field(default=1, metadata={"least": 1})
    """CPU threads of what is timed, the trainings among it."""
    num_jobs: int | None = field(default=None, metadata={"least": 1})
    """Trainings side by side where several are short; else as many as there are cores."""
    match: Literal["parameters"] | None = None
    """What every CONFIG is to have as many of as the first: their widths are scaled until it is so to within 5 %."""
    language: Language = "en"
    """Of the report. A finished comparison is said in another one by --resume, and nothing is measured anew."""
    resume: bool = False
    """Go on with the comparison in the output folder."""
    overwrite: bool = False
    """Delete what a comparison wrote into it first, and nothing else."""

    def run(self) -> None:
        from seqloom.comparison.compare import compare

        if self.resume and self.overwrite:
            raise ValueError("--resume goes on with what --overwrite would delete: give one of them.")
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ValueError(
                "a comparison is one process: what it times must not be shared. Train large models with accelerate "
                "launch train.py, and compare their output folders."
            )
        command = shlex.join(["seqloom", "compare", *self.argv])
        compare(self.request(), command=command, resume=self.resume, overwrite=self.overwrite, language=self.language)
        print(f"\nthe report is in {self.output / 'report.html'} (and report.md, report.json)")
        tell_next(opening(self.output / "report.html"))

    def request(self) -> Request:
        """What is asked for.

        Raises:
            ValueError: A seed is given twice; or a name could be a recipe's and a folder's, or is neither's.
        """
        from seqloom.comparison.compare import Request
        from seqloom.support.machine import available_cores

        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("a seed is given twice in --seeds; give each once.")
        is_config = [self.is_config(word) for word in self.subjects]
        return Request(
            configs=tuple(word for word, config in zip(self.subjects, is_config, strict=True) if config),
            models=tuple(word for word, config in zip(self.subjects, is_config, strict=True) if not config),
            output=self.output,
            overrides=tuple(self.overrides),
            seeds=tuple(self.seeds),
            measures=tuple(name for name in MEASURES if name in (self.measures or MEASURES)),
            split=self.split,
            num_threads=self.num_threads,
            num_jobs=self.num_jobs or available_cores(),
            match=self.match,
        )

    def is_config(self, word: str) -> bool:
        """Whether a word is a recipe to be trained."""
        from seqloom.settings.recipes import YAML, is_name, is_recipe, names
        from seqloom.support.wording import nearest

        if word.endswith(YAML) or is_recipe(word):
            return True
        if is_name(word) and not Path(word).exists() and (near := nearest(word, names(), cutoff=0.85)):
            raise ValueError(f"there is neither a recipe nor a folder {word}; did you mean the recipe {near}?")
        return False


main = partial(run, Compare)
"""The command by itself."""
