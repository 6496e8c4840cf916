"""The command ``seqloom distill``: a student that learns what a teacher says."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from seqloom.commands.command import Command
from seqloom.commands.following import tell_next, typed
from seqloom.commands.shell import say
from seqloom.commands.train import trained
from seqloom.settings.schema import Settings

OF_TEACHER = "--teacher."
"""How words begin that say how the teacher decodes."""


@dataclass(kw_only=True)
class Distill(Command):
    """Trains a student on what a teacher says.

    The teacher translates the training sources of CONFIG; what it says becomes a data set, and CONFIG's model is
    trained on that. The same command goes on where it was ended, whether in the decoding or in the training.

    The teacher decodes as its own generation config says; --teacher.KEY VALUE gives it other values of the keys of
    generation below: --teacher.num_beams 5. All other keys are the student's.
    """

    name = "distill"
    needs = "the teacher and the student's configuration file come first"
    settings = Settings
    interrupted = "ended at once; the same command goes on."
    examples = """
        seqloom distill runs/teacher multi30k-en-de-rnn --output_dir runs/student
        seqloom distill runs/teacher student.yaml --teacher.num_beams 5 --num_jobs 4 --only_data
        seqloom distill Helsinki-NLP/opus-mt-en-de student.yaml --best_of 8 --metric sacrebleu --weight 1
        seqloom distill runs/teacher student.yaml --level word --alpha 0.7 --temperature 2
    """

    teacher: str
    """A folder or a name on the Hub: any seq2seq model of transformers, an exported one too."""
    config: str
    """The student's recipe, a YAML file or a name, as for seqloom train."""
    level: Literal["sequence", "word"] = "sequence"
    """Learn from the teacher's outputs, or from its probabilities of every token of CONFIG's own targets (the section
    distillation of the settings), for which the student gets the teacher's tokenizer."""
    data_dir: Path | None = None
    """The folder of the data set; else OUTPUT_DIR-distilled."""
    only_data: bool = False
    """Make the data set and the student's settings, and say by which command it is trained."""
    best_of: int = field(default=1, metadata={"least": 1})
    """Candidates for each source, of which the best by the metric against the reference is kept."""
    metric: str | None = None
    """By which candidates are scored, a sentence alone: sacrebleu, or another of seqloom's own; else chrf."""
    keep_cut: bool = False
    """Keep outputs that were cut at the limit of length; they are dropped otherwise, as empty ones always are."""
    num_jobs: int = field(default=1, metadata={"least": 1})
    """Processes that decode side by side, each with the teacher in its memory; the threads are divided among them."""
    revision: str | None = None
    """Commit, branch or tag of a teacher from the Hub."""
    trust_remote_code: bool = False
    """Run code that comes with the teacher. seqloom's own models need none."""
    overwrite: bool = False
    """Delete the data set and the student's run first, and nothing else."""

    def check(self) -> None:
        from seqloom.settings.reading import load_settings

        load_settings(self.config, divided(self.overrides)[0], with_model=False)

    def run(self) -> int | None:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ValueError(
                "seqloom distill is one process, which starts others with --num_jobs: make the data set with "
                "--only_data, and launch train.py with the settings that it writes."
            )
        from seqloom.distillation.students import taught_by_words
        from seqloom.scoring.naming import check_config
        from seqloom.settings.reading import load_settings

        words, of_teacher = divided(self.overrides)
        settings = load_settings(self.config, words, print)
        check_config(self.config, settings, words)
        if settings.distillation.teacher is not None and self.level == "word":
            raise ValueError(
                f"distillation.teacher is {settings.distillation.teacher!r}, but the teacher is {self.teacher!r}, the "
                "first word: leave the former out."
            )
        if self.level == "word":
            self._refuse_of_sequences(of_teacher)
            return trained(taught_by_words(settings, self.teacher, self.revision), **self._how(settings.output_dir))
        return self._sequences(settings, words, of_teacher)

    def _sequences(self, settings: Settings, words: list[str], of_teacher: list[str]) -> int | None:
        from seqloom import run_folder
        from seqloom.distillation.sequences import Request, distil_sequences
        from seqloom.distillation.students import taught_by_sequences
        from seqloom.settings.reading import is_given, load_scoring_settings
        from seqloom.support import disk
        from seqloom.training.refusals import refuse

        if self.metric is not None and self.best_of == 1:
            raise ValueError("--metric chooses among candidates, but --best_of is 1: give both, or leave it out.")
        output = Path(settings.output_dir)
        folder = self.data_dir or output.with_name(f"{output.name}-distilled")
        generation, generate_kwargs = load_scoring_settings(self.teacher, of_teacher, ("generation",))
        weight = settings.data.weight if is_given(words, "weight") else 0.0
        student = taught_by_sequences(settings, folder / run_folder.DISTILLED_PAIRS, weight)
        if not self.only_data:
            refuse(student, output, **self._how(settings.output_dir))  # now, and not when all is decoded
        request = Request(
            teacher=self.teacher, folder=folder, generation=generation.generation, generate_kwargs=generate_kwargs,
            best_of=self.best_of, metric=self.metric or "chrf", keep_cut=self.keep_cut, num_jobs=self.num_jobs,
            revision=self.revision, trust_remote_code=self.trust_remote_code, overwrite=self.overwrite,
        )  # fmt: skip
        distil_sequences(request, settings, say)
        disk.write_aside(folder / run_folder.STUDENT, student.save)
        if self.only_data:
            say(f"the pairs and the student's settings are in {folder}")
            tell_next(typed("train", folder / run_folder.STUDENT))
            return None
        return trained(student, **self._how(settings.output_dir))

    def _how(self, output_dir: str) -> dict[str, bool]:
        """Whether the student's run goes on or begins."""
        from seqloom import run_folder

        return {"resume": run_folder.is_run(Path(output_dir)) and not self.overwrite, "overwrite": self.overwrite}

    def _refuse_of_sequences(self, of_teacher: list[str]) -> None:
        """Refuses what has no meaning where nothing is decoded."""
        given = {
            "--data_dir": self.data_dir is not None, "--only_data": self.only_data, "--best_of": self.best_of > 1,
            "--keep_cut": self.keep_cut, "--num_jobs": self.num_jobs > 1, "--trust_remote_code": self.trust_remote_code,
            "--metric": self.metric is not None, f"{OF_TEACHER}…": bool(of_teacher),
        }  # fmt: skip
        for name, is_asked in given.items():
            if is_asked:
                raise ValueError(f"{name} is about the teacher's outputs, but --level is word: leave one of them out.")


def divided(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Words for the student's settings, and for how the teacher decodes, as `load_scoring_settings` reads these."""
    words: list[str] = []
    of_teacher: list[str] = []
    taker = words
    for word in overrides:
        if word.startswith("--"):
            taker = of_teacher if word.startswith(OF_TEACHER) else words
        taker.append(word.replace(OF_TEACHER, "--generation.", 1) if taker is of_teacher else word)
    return words, of_teacher
