"""The command ``seqloom translate``: lines of text in, a line of output for each, as they come."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TextIO

from seqloom.commands.command import Command
from seqloom.commands.shell import reader_may_leave, run
from seqloom.settings.schema import ScoringSettings


@dataclass(kw_only=True)
class Translate(Command):
    """Translates lines of text.

    Sources come from standard input, outputs go to standard output: a line each, as they come.
    """

    name = "translate"
    needs = "the model comes first"
    settings = ScoringSettings
    sections = ("revision", "trust_remote_code", "seed", "generation")
    streams = ("stdin", "stdout")
    examples = """
        seqloom translate runs/mine --num_beams 5 < sources.txt > outputs.txt
        seqloom translate runs/mine --decode_dtype int8 --num_jobs 8 < many.txt > outputs.txt
    """

    model: str
    """A folder or a name on the Hub."""
    num_jobs: int = field(default=1, metadata={"least": 1})
    """Processes that translate side by side, each with the model in its memory; the threads are divided among them."""
    compile: bool = False
    """Compile the model for this machine, once, which takes a C++ compiler and a minute or more; it is kept among the
    assets of the Hugging Face libraries (HF_HOME). For sentences that come one at a time."""
    target_prefix: str = ""
    """A text that every output begins with."""

    def run(self) -> None:
        import torch

        from seqloom.decoding.jobs import translate_by_jobs
        from seqloom.decoding.loading import is_of_ours, open_pair
        from seqloom.decoding.options import check_options, try_options
        from seqloom.export.compiled import compiled
        from seqloom.settings.reading import load_scoring_settings

        settings, generate_kwargs = load_scoring_settings(self.model, self.overrides, self.sections)
        name, revision = self.model, settings.revision
        if self.compile:
            say = partial(print, file=sys.stderr)
            name, revision = str(compiled(name, revision, settings.trust_remote_code, say)), None
        model, tokenizer = open_pair(name, revision, settings.trust_remote_code)
        check_options(model.generation_config, generate_kwargs, several=True, is_own=is_of_ours(model))
        try_options(model, tokenizer, generate_kwargs)
        torch.manual_seed(settings.seed)
        sources = lines_of(sys.stdin)
        told = {"target_prefix": self.target_prefix, **generate_kwargs}
        # Someone who types wants an answer to each line.
        read_ahead = 1 if sys.stdin.isatty() else 10_000
        batch_tokens, dtype = settings.generation.decode_batch_tokens, settings.generation.decode_dtype
        if self.num_jobs > 1:
            del model
            opener = partial(open_pair, name, revision, settings.trust_remote_code)
            outputs = translate_by_jobs(
                opener, sources, self.num_jobs, seed=settings.seed, batch_tokens=batch_tokens, dtype=dtype, **told
            )
        else:
            outputs = translate(
                model, tokenizer, sources, batch_tokens=batch_tokens, read_ahead=read_ahead, dtype=dtype, **told
            )
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(encoding="utf-8", newline="\n")  # whatever the locale says, as they are read
        with reader_may_leave():
            for output in outputs:
                # One line each, or as many as there are hypotheses.
                lines = map(one_line, output if isinstance(output, list) else [output])
                print(*lines, sep="\n", flush=read_ahead == 1)


def main(argv: Sequence[str] | None = None) -> int:
    """The command, by the words after its name; returns its exit status."""
    return run(Translate, argv)


def translate(*args: Any, **options: Any) -> Any:
    """`seqloom.translate`; it and torch are loaded when there is something to translate."""
    from seqloom.decoding.translate import translate

    return translate(*args, **options)


def lines_of(stream: TextIO) -> Iterator[str]:
    """The lines of a stream, read as training reads a file's.

    Raises:
        ValueError: A line is not UTF-8, or too long.
    """
    from seqloom.data.lines import LONGEST_TEXT, bounded, placed, too_long

    # A stream that was put in the place of standard input may hold text alone.
    lines = bounded(stream.buffer) if hasattr(stream, "buffer") else (line.encode() for line in stream)
    for number, line in enumerate(placed(lines, "the input"), start=1):
        if len(line) > LONGEST_TEXT:
            raise too_long(line, f"the input, line {number:,},")
        yield line


def one_line(output: str) -> str:
    """An output without the line ends that it may hold, each now a space: what reads lines counts one."""
    return re.sub(r"\r\n|[\r\n]", " ", output)
