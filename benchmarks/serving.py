"""A server under load: so many clients at once, every answer held against `translate`'s own, none lost; and full.

    python benchmarks/serving.py --model runs/mine                     # the sentences of its own test split
    python benchmarks/serving.py --model runs/mine --clients 1 16 64 --requests 1000 -- --num_beams 5
    python benchmarks/serving.py --model mine-ct2 --sources FILE

What stands behind ``--`` goes to `seqloom serve`. Clients and server share the machine: each client asks for one
sentence, waits for the answer and asks for the next; refused as the queue is full, it waits as long as it is told to,
and goes on with another. An answer is wrong if it is neither what `translate` says to all sentences together nor what
it says to that one alone (which differ where two tokens are as good as each other).
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from common import Result, end_in_one_sentence, save

from seqloom import run_folder, translate
from seqloom.commands.command import parse as parse_command
from seqloom.commands.serve import Serve
from seqloom.data.lines import lines
from seqloom.decoding.loading import open_pair
from seqloom.scoring.predictions import read_predictions
from seqloom.settings.reading import load_scoring_settings

LOADING = 600.0
"""Seconds that a model may take to load."""


def main() -> None:
    args = parse()
    sources = sources_of(args)
    settings, told = load_scoring_settings(args.model, settings_of(args.serve))
    model, tokenizer = open_pair(str(args.model))
    options: dict[str, Any] = {"batch_tokens": settings.generation.decode_batch_tokens}
    options |= {"dtype": settings.generation.decode_dtype} | told
    right = [{together} for together in translate(model, tokenizer, sources, **options)]
    results: list[Result] = []
    with serving(args.model, args.serve) as address:
        for clients in args.clients:
            results.append(load(address, sources, clients, args.requests))
            results[-1]["wrong"] = wrong(results[-1].pop("answers"), right, sources, (model, tokenizer, options))
            print(in_words(results[-1]), flush=True)
    with serving(args.model, [*args.serve, "--max_queue", str(args.full)]) as address:
        results.append(load(address, sources, max(args.clients), args.requests))
        results[-1] |= {"max_queue": args.full}
        results[-1]["wrong"] = wrong(results[-1].pop("answers"), right, sources, (model, tokenizer, options))
        print(in_words(results[-1]), flush=True)
    save(args.output, results, model=model.config.describe(), serve=args.serve)
    if any(result["wrong"] or result["lost"] for result in results):
        raise ValueError("an answer was wrong or lost.")


def parse() -> argparse.Namespace:
    words = sys.argv[1:]
    place = words.index("--") if "--" in words else len(words)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a folder, of an exported model too")
    parser.add_argument("--sources", type=Path, help="a line each, plain or .gz; default: the model's own test split")
    parser.add_argument("--clients", nargs="+", type=int, default=[1, 8, 64], help="that ask at once")
    parser.add_argument("--requests", type=int, default=1000, help="of all clients together")
    parser.add_argument("--full", type=int, default=4, help="texts that may wait where it is to be full")
    parser.add_argument("--output", type=Path, default=Path("runs/benchmarks/serving.json"))
    args = parser.parse_args(words[:place])
    args.serve = words[place + 1 :]
    for name in ("clients", "requests", "full"):
        value = getattr(args, name)
        if min(value if isinstance(value, list) else [value]) < 1:
            raise ValueError(f"--{name} is {value}; it must be 1 or more.")
    return args


def settings_of(words: Sequence[str]) -> Sequence[str]:
    """Of the words for `seqloom serve`, those that are settings."""
    return parse_command(Serve, ["model", *words]).overrides


def sources_of(args: argparse.Namespace) -> list[str]:
    """The sentences that are asked for, in turn."""
    if args.sources:
        return list(lines(str(args.sources)))
    kept = run_folder.evaluation(args.model, "test") / run_folder.PREDICTIONS
    if not kept.is_file():
        raise ValueError(f"{args.model} has no scored test split: give --sources FILE, a sentence a line.")
    return read_predictions(kept).sources


@contextlib.contextmanager
def serving(model: Path, words: Sequence[str]) -> Iterator[str]:
    """The address of a server in a process of its own, with its model loaded."""
    languages = [] if "--languages" in words else ["--languages", "en", "de"]
    command = [sys.executable, "-m", "seqloom", "serve", str(model), "--port", "0", *languages, *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            first = server.stdout.readline()
            if not first or not server.stdout.readline():  # that the model is ready
                raise ValueError(f"the server has not started: {' '.join(command)}")
            yield first.split()[2].rstrip(";")
        finally:
            server.terminate()


def load(address: str, sources: Sequence[str], clients: int, requests: int) -> Result:
    """What came of so many requests, by so many clients at once."""
    numbers = itertools.count()

    def client(_: int) -> list[tuple[int, int, float, str | None]]:
        """Number of the sentence, status (0: no answer), seconds, answer."""
        mine = []
        connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=LOADING)
        while (number := next(numbers)) < requests:
            place = number % len(sources)
            body = json.dumps({"texts": [sources[place]]})
            started = time.perf_counter()
            try:
                connection.request("POST", "/v1/translate", body, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                told = json.loads(answer.read())
            except OSError:
                connection.close()
                mine.append((place, 0, time.perf_counter() - started, None))
                continue
            took = time.perf_counter() - started
            if answer.status == 503:  # as it is asked to
                time.sleep(float(answer.headers["Retry-After"]))
            text = told["outputs"][0][0]["text"] if answer.status == 200 else None
            mine.append((place, answer.status, took, text))
        connection.close()
        return mine

    began = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        found = [one for mine in pool.map(client, range(clients)) for one in mine]
    seconds = time.perf_counter() - began
    statuses = Counter(str(status) for _, status, _, _ in found)
    taken = sorted(took for _, status, took, _ in found if status == 200)
    refused = sorted(took for _, status, took, _ in found if status == 503)
    result: Result = {
        "clients": clients,
        "requests": requests,
        "statuses": dict(statuses),
        "lost": requests - len(found) + statuses["0"],
        "seconds": seconds,
        "answers_per_second": len(taken) / seconds,
        "answers": [(place, text) for place, _, _, text in found if text is not None],
    }
    for name, values in (("answered", taken), ("refused", refused)):
        if len(values) > 1:
            cuts = statistics.quantiles(values, n=100, method="inclusive")
            result[name] = {"p50": cuts[49], "p95": cuts[94], "p99": cuts[98]}
    return result


def wrong(
    answers: Sequence[tuple[int, str]], right: list[set[str]], sources: Sequence[str], how: tuple[Any, Any, dict]
) -> int:
    """Answers that are none of the right ones; a sentence is decoded alone where it has to be."""
    model, tokenizer, options = how
    number = 0
    for place, text in answers:
        if text not in right[place]:
            right[place].add(translate(model, tokenizer, sources[place], **options))
            number += text not in right[place]
    return number


def in_words(result: Result) -> str:
    """A line of what was measured."""
    words = [
        f"{result['clients']} clients, {result['requests']:,} requests: {result['statuses'].get('200', 0):,} answered"
    ]
    if "max_queue" in result:
        words[0] = f"a queue of {result['max_queue']}, {words[0]}"
    words.append(f"{result['statuses'].get('503', 0):,} refused (503), {result['wrong']} wrong, {result['lost']} lost")
    words.append(f"{result['answers_per_second']:.1f} answers a second")
    for name in ("answered", "refused"):
        if name in result:
            words.append(
                f"{name} in " + ", ".join(f"{key} {1000 * value:.0f} ms" for key, value in result[name].items())
            )
    return "; ".join(words)


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    end_in_one_sentence(main)
