"""The command ``seqloom translate``: lines of text in, a line of output for each, as they come."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from seqloom.decoding import translate
from seqloom.evaluation import load_model
from seqloom.settings import load_scoring_settings
from seqloom.tokenization import load_tokenizer

USAGE = "usage: seqloom translate MODEL [--num_beams 5] [--key value ...] < SOURCES > OUTPUTS"


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit status."""
    words = list(argv)
    if not words or words[0] in ("-h", "--help"):
        print(USAGE, "", "MODEL is a folder or a name on the Hub; keys are those of generation:.", sep="\n")
        return 0 if words else 2
    try:
        name, *overrides = words
        settings, generate_kwargs = load_scoring_settings(name, overrides)
        model = load_model(name, settings.revision, settings.trust_remote_code)
        tokenizer = load_tokenizer(name, revision=settings.revision, trust_remote_code=settings.trust_remote_code)
        sources = (line.rstrip("\n") for line in sys.stdin)
        # Someone who types wants an answer to each line.
        read_ahead = 1 if sys.stdin.isatty() else 10_000
        batch_tokens = settings.generation.decode_batch_tokens
        for output in translate(
            model, tokenizer, sources, batch_tokens=batch_tokens, read_ahead=read_ahead, **generate_kwargs
        ):
            # One line each, or as many as there are hypotheses.
            print(*(output if isinstance(output, list) else [output]), sep="\n", flush=read_ahead == 1)
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0
