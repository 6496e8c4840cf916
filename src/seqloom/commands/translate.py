"""The command ``seqloom translate``: lines of text in, a line of output for each, as they come."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from typing import TextIO

from seqloom.data.tokenization import load_tokenizer
from seqloom.decoding.loading import load_model
from seqloom.decoding.translate import translate
from seqloom.settings.reading import load_scoring_settings
from seqloom.support.console import quieten_libraries

USAGE = "usage: seqloom translate MODEL [--num_beams 5] [--key value ...] < SOURCES > OUTPUTS"


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit status."""
    words = list(argv)
    if not words or words[0] in ("-h", "--help"):
        print(USAGE, "", "MODEL is a folder or a name on the Hub; keys are those of generation:.", sep="\n")
        return 0 if words else 2
    try:
        quieten_libraries()
        name, *overrides = words
        settings, generate_kwargs = load_scoring_settings(name, overrides)
        model = load_model(name, settings.revision, settings.trust_remote_code)
        tokenizer = load_tokenizer(name, revision=settings.revision, trust_remote_code=settings.trust_remote_code)
        sources = (line.removesuffix("\n") for line in utf8_lines(sys.stdin))
        # Someone who types wants an answer to each line.
        read_ahead = 1 if sys.stdin.isatty() else 10_000
        batch_tokens = settings.generation.decode_batch_tokens
        for output in translate(
            model, tokenizer, sources, batch_tokens=batch_tokens, read_ahead=read_ahead, **generate_kwargs
        ):
            # One line each, or as many as there are hypotheses.
            print(*(output if isinstance(output, list) else [output]), sep="\n", flush=read_ahead == 1)
    except BrokenPipeError:  # whoever read the outputs, as head does, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


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
