"""The command ``seqloom compare``."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from seqloom.comparison.compare import Request, compare
from seqloom.comparison.report import MEASURES
from seqloom.support.console import quieten_libraries

USAGE = (
    "usage: seqloom compare CONFIG.yaml|MODEL ... [--output report] [--seeds 1 2 3] [--measures NAME ...] "
    "[--split test] [--num_threads 1] [--num_jobs N] [--key value ...] [--resume | --overwrite]"
)


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit status."""
    words = list(argv)
    if not words or words[0] in ("-h", "--help"):
        print(USAGE, "", f"Measures: {', '.join(MEASURES)}; default: all.", sep="\n")
        print("A CONFIG is trained on this machine; a MODEL is a folder or a name on the Hub and is taken as it is.")
        print("Keys are the settings of configs/*.yaml; for a MODEL those of data:, generation: and evaluation:.")
        return 0 if words else 2
    flags = {flag: f"--{flag}" in words for flag in ("resume", "overwrite")}
    words = [word for word in words if word not in ("--resume", "--overwrite")]
    try:
        request = read_words(words)
        if flags["resume"] and flags["overwrite"]:
            raise ValueError("--resume goes on with what --overwrite would delete: give one of them.")
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ValueError(
                "a comparison is one process: what it times must not be shared. Train large models with accelerate "
                "launch train.py, and compare their output folders."
            )
        quieten_libraries()
        compare(request, command=shlex.join(["seqloom", "compare", *argv]), **flags)
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("ended at once; --resume goes on with what is done.", file=sys.stderr)
        return 130
    print(f"\nthe report is in {request.output / 'report.html'} (and report.md, report.json)")
    return 0


def read_words(words: Sequence[str]) -> Request:
    """The request that the command line makes.

    Raises:
        ValueError: A word is unknown or a value is missing or wrong.
    """
    subjects, own, overrides, name = [], {}, [], ""
    for word in words:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            if name in ("output", "seeds", "measures", "split", "num_threads", "num_jobs"):
                if name in own:
                    raise ValueError(f"--{name} is given twice; give it once.")
                own[name] = [value] if equals else []
            else:
                overrides.append(word)
        elif name in own:
            own[name].append(word)
        elif name:
            overrides.append(word)
        else:
            subjects.append(word)
    for name, values in own.items():
        if not values or (len(values) > 1 and name not in ("seeds", "measures")):
            raise ValueError(f"--{name} has {len(values)} values. {USAGE}")
    if not subjects:
        raise ValueError(f"nothing to compare is given. {USAGE}")
    numbers = {}
    for name, least in (("seeds", 0), ("num_threads", 1), ("num_jobs", 1)):
        for value in own.get(name, []):
            if not value.isdecimal() or int(value) < least:
                raise ValueError(f"--{name} is {value!r}; it must be a whole number, {least} or more.")
        numbers[name] = tuple(map(int, own.get(name, [])))
    if len(set(numbers["seeds"])) < len(numbers["seeds"]):
        raise ValueError("a seed is given twice in --seeds; give each once.")
    unknown = [name for name in own.get("measures", []) if name not in MEASURES]
    if unknown:
        raise ValueError(f"--measures has {unknown[0]!r}; there are {', '.join(MEASURES)}.")
    is_config = [word.endswith((".yaml", ".yml")) for word in subjects]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Request(
        configs=tuple(word for word, config in zip(subjects, is_config, strict=True) if config),
        models=tuple(word for word, config in zip(subjects, is_config, strict=True) if not config),
        output=Path(own.get("output", ["report"])[0]),
        overrides=tuple(overrides),
        seeds=numbers["seeds"],
        measures=tuple(name for name in MEASURES if name in own.get("measures", MEASURES)),
        split=own.get("split", ["test"])[0],
        num_threads=(numbers["num_threads"] or (1,))[0],
        num_jobs=(numbers["num_jobs"] or (cores,))[0],
    )
