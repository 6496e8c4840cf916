"""The command ``seqloom translate``: lines of text in, a line of output for each, as they come."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TextIO

from seqloom.commands.command import Command
from seqloom.commands.shell import reader_may_leave
from seqloom.settings.schema import ScoringSettings


@dataclass(kw_only=True)
class Translate(Command):
    """Translates lines of text.

    Sources come from standard input, outputs go to standard output: a line each, as they come.
    """

    name = "translate"
    needs = "the model comes first"
    settings = ScoringSettings
    sections = ("revision", "trust_remote_code", "generation")
    examples = """
        seqloom translate runs/mine --num_beams 5 < sources.txt > outputs.txt
    """

    model: str
    """A folder or a name on the Hub."""

    def run(self) -> None:
        from seqloom.data.tokenization import load_tokenizer
        from seqloom.decoding.loading import load_model
        from seqloom.decoding.translate import translate
        from seqloom.settings.reading import load_scoring_settings

        settings, generate_kwargs = load_scoring_settings(self.model, self.overrides)
        model = load_model(self.model, settings.revision, settings.trust_remote_code)
        tokenizer = load_tokenizer(self.model, revision=settings.revision, trust_remote_code=settings.trust_remote_code)
        sources = (line.removesuffix("\n") for line in utf8_lines(sys.stdin))
        # Someone who types wants an answer to each line.
        read_ahead = 1 if sys.stdin.isatty() else 10_000
        batch_tokens = settings.generation.decode_batch_tokens
        with reader_may_leave():
            for output in translate(
                model, tokenizer, sources, batch_tokens=batch_tokens, read_ahead=read_ahead, **generate_kwargs
            ):
                # One line each, or as many as there are hypotheses.
                print(*(output if isinstance(output, list) else [output]), sep="\n", flush=read_ahead == 1)


def utf8_lines(stream: TextIO) -> Iterator[str]:
    """Lines that end with a line feed alone, in UTF-8 whatever the locale says: one output for each.

    Raises:
        ValueError: A line is not UTF-8.
    """
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(encoding="utf-8", errors="strict", newline="\n")
    try:
        yield from stream
    except UnicodeDecodeError as error:
        raise ValueError(f"the input is not UTF-8 ({error.reason} at byte {error.start:,} of a block).") from None
