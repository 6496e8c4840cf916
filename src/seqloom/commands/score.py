"""The command ``seqloom evaluate``, which is ``evaluate.py`` too."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from seqloom.scoring.against import compare_models, comparison_text
from seqloom.scoring.score import evaluate_model, table

USAGE = "usage: evaluate.py MODEL [--against OTHER] [--split test] [--num_beams 5] [--key value ...] [--overwrite]"
ABOUT = """MODEL is a folder or a name on the Hub; keys are those of data:, generation: and evaluation:.
With --against OTHER, both are scored on the same sentences and tested for a difference. Each of them is a model or a
predictions.jsonl; predictions that are kept of the same sentences and generation settings are not made again."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command ``evaluate.py``; returns its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(USAGE, "", ABOUT, sep="\n")
        return 0 if words else 2
    overwrite = "--overwrite" in words
    words = [word for word in words if word != "--overwrite"]
    try:
        if not words or words[0].startswith("--"):
            raise ValueError(f"the model comes first. {USAGE}")
        other, overrides = split_off_against(words[1:])
        if other is not None:
            results = compare_models(words[0], other, overrides, overwrite=overwrite)
            print(comparison_text(results))
            return 0
        scores = evaluate_model(words[0], overrides, overwrite=overwrite)
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    print(table(scores["metrics"]))
    print(f"predictions and scores are in {scores['folder']}")
    return 0


def split_off_against(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """What stands behind ``--against``, and the other words."""
    at = [number for number, word in enumerate(words) if word.partition("=")[0] == "--against"]
    if not at:
        return None, list(words)
    place = at[0]
    _, equals, other = words[place].partition("=")
    end = place + 1
    while not equals and end < len(words) and not words[end].startswith("--"):
        end += 1
    values = [other] if equals else list(words[place + 1 : end])
    if len(at) > 1 or len(values) != 1 or not values[0]:
        raise ValueError(
            "--against takes one model or predictions file, once: evaluate.py runs/mine --against runs/other."
        )
    return values[0], [*words[:place], *words[end:]]
