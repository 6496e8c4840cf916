"""The command ``seqloom export``: a model in a form that other programs run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from seqloom.commands.command import Command
from seqloom.commands.following import example_of, tell_next, translating
from seqloom.commands.shell import say


@dataclass(kw_only=True)
class Export(Command):
    """Writes a model in a form that other programs run, and checks that it says the same.

    seqloom translate and seqloom evaluate take the folder as they take a model's.
    """

    name = "export"
    needs = "the model comes first"
    interrupted = "ended at once; nothing was written."
    examples = """
        seqloom export runs/mine --to ctranslate2 --output_dir mine-ct2
        seqloom export runs/mine --to ctranslate2 --dtype int8 --output_dir mine-int8
        seqloom export runs/mine --to marian --output_dir mine-marian
        seqloom export runs/mine --to onnx --output_dir mine-onnx
    """

    model: str
    """A folder or a name on the Hub."""
    to: Literal["marian", "ctranslate2", "onnx", "torch"] | None = None
    """What will run it: transformers alone, as a MarianMTModel; CTranslate2; ONNX Runtime; or torch, as
    programs that are compiled here, for Python and C++."""
    output_dir: Path | None = None
    """The folder that is made."""
    dtype: str | None = None
    """Of the weights, as far as the form has it: float32, float16, int8, int8_float32, …; else float32."""
    sources: Path | None = None
    """Lines to check with, rather than the validation sources of the model's run."""
    revision: str | None = None
    """Commit, branch or tag of a model from the Hub."""
    trust_remote_code: bool = False
    """Run code that comes with the model. seqloom's own models need none."""
    overwrite: bool = False
    """Replace what an earlier export wrote into the folder, and nothing else."""

    def run(self) -> None:
        if self.to is None or self.output_dir is None:
            missing = "--to" if self.to is None else "--output_dir"
            usage = "seqloom export MODEL --to marian|ctranslate2|onnx|torch --output_dir DIR"
            raise ValueError(f"{missing} is missing: {usage}.")
        from seqloom.export.export import Request, export

        request = Request(
            model=self.model, to=self.to, folder=self.output_dir, dtype=self.dtype, sources=self.sources,
            revision=self.revision, trust_remote_code=self.trust_remote_code, overwrite=self.overwrite,
        )  # fmt: skip
        export(request, say)
        say(f"exported to {self.output_dir}; its README.md says how to run it")
        tell_next(translating(self.output_dir, example=example_of(self.model)))
