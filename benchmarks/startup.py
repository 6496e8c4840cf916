"""One engine in a process of its own, which has held nothing before: what it takes to start, and its peak memory.

Started by costs.py, with what to do as JSON; prints what it measured as JSON. It imports nothing but the standard
library before the clock runs.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
import time
from pathlib import Path


def peak_mib() -> float | None:
    """The highest resident set so far; None where the system does not tell. (What seqloom has for this needs torch.)"""
    status = Path("/proc/self/status")
    return int(re.findall(r"VmHWM:\s+(\d+)", status.read_text())[0]) / 2**10 if status.is_file() else None


def main() -> None:
    """Imports, loads, decodes a sentence, decodes it again, decodes many."""
    moments = [time.time()]
    work = json.loads(sys.argv[1])
    from engines import ENGINES, Search, load_engine

    for module in ENGINES[work["engine"]].imports:
        importlib.import_module(module)
    moments.append(time.time())
    decode = load_engine(work["engine"], Path(work["folder"]), Path(work["scratch"]), [work["threads"]])
    moments.append(time.time())
    few, many = work["sources"][:1], work["sources"]
    found: dict[str, float | None] = {}
    for _ in ("first_output", "next_output"):
        decode(few, Search(1, 1, **work["limits"]), work["threads"])
        moments.append(time.time())
    found["memory_one_mib"] = peak_mib()
    decode(many, Search(work["beams"], len(many), **work["limits"]), work["threads"])
    found["memory_many_mib"] = peak_mib()
    names = ("interpreter", "import", "load", "first_output", "next_output")
    starts = [work["spawned"], *moments[:-1]]
    found |= {name: end - start for name, start, end in zip(names, starts, moments, strict=True)}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
