"""What proves a card of ``model_cards/``: what its run left, beside it.

    model_cards/NAME.md                       the card, as `make_card` makes it
    model_cards/NAME/record.json              what came of the run: scores, data and their checksums, hardware, versions
    model_cards/NAME/settings.yaml            all settings of it
    model_cards/NAME/training_log.jsonl.gz    what was watched of it
    model_cards/NAME/predictions.jsonl.gz     what the model said of the scored split, to be scored again
    model_cards/NAME/seeds.json               of the same settings but for the seed: {seed: {metric: score}}

``python -m seqloom.sharing.proof RUN MODEL_CARDS [RUN_OF_ANOTHER_SEED …]`` makes all of it. Weights are not kept.
"""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from seqloom import run_folder
from seqloom.scoring.estimates import LEVEL, student_quantile
from seqloom.settings.reading import load_run_settings
from seqloom.sharing.card import make_card
from seqloom.sharing.privacy import shareable_log, shareable_record, shareable_settings
from seqloom.support import disk
from seqloom.support.wording import listing, nearest, plural

SEEDS = "seeds.json"
FEWEST = 3
"""Seeds from which a spread is told."""
SAME_BUT_FOR = {"output_dir", "training.seed"}
"""Settings in which runs of several seeds differ."""


def keep_proof(run: Path, cards: Path, others: Sequence[Path] = ()) -> Path:
    """Writes a card and its proof.

    Args:
        run: The finished run.
        cards: Where cards are.
        others: Finished runs of the same settings but for the seed.

    Returns:
        The folder of the proof.

    Raises:
        ValueError: A run is not finished or not scored, or another one differs in more than its seed.
    """
    settings, record = load_run_settings(run_folder.finished(run)), run_folder.read_record(run)
    if record["evaluation"] is None:
        raise ValueError(f"{run} was scored on no split: there is nothing to prove.")
    values, seeds = flat(settings.to_dict()), {str(settings.training.seed): scores_of(record)}
    for other in others:
        theirs = load_run_settings(run_folder.finished(other))
        differing = sorted(key for key, value in flat(theirs.to_dict()).items() if values.get(key) != value)
        if set(differing) - SAME_BUT_FOR or "training.seed" not in differing:
            raise ValueError(f"{other} differs from {run} in {listing(differing)}, not in the seed alone.")
        seeds[str(theirs.training.seed)] = scores_of(run_folder.read_record(other))
    known = record.get("places", ())
    name = run.resolve().name
    folder = cards / name
    split = record["evaluation"]["split"]
    log = shareable_log(run_folder.read_log(run), known)
    shared = shareable_record(record) | {"commit": commit()}
    contents = {
        run_folder.RECORD: json.dumps(shared, indent=2, ensure_ascii=False) + "\n",
        run_folder.SETTINGS: yaml.safe_dump(shareable_settings(settings, known), sort_keys=False, allow_unicode=True),
        f"{run_folder.LOG}.gz": "".join(json.dumps(line) + "\n" for line in log),
        f"{run_folder.PREDICTIONS}.gz": (run_folder.evaluation(run, split) / run_folder.PREDICTIONS).read_text("utf-8"),
    } | ({SEEDS: json.dumps(seeds, indent=2) + "\n"} if len(seeds) > 1 else {})
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in contents.items():
        disk.write_aside(folder / file, partial(_write, text=text, is_packed=file.endswith(".gz")))
    disk.write_aside(cards / f"{name}.md", disk.text(make_card(run, name, with_picture=False)))
    return folder


def _write(path: Path, text: str, is_packed: bool) -> None:
    content = text.encode()
    path.write_bytes(gzip.compress(content, mtime=0) if is_packed else content)


def flat(values: dict[str, Any], before: str = "") -> dict[str, Any]:
    """``{"training.seed": 42, …}``"""
    found: dict[str, Any] = {}
    for key, value in values.items():
        is_section = not before and isinstance(value, dict)
        found |= flat(value, f"{key}.") if is_section else {f"{before}{key}": value}
    return found


def scores_of(record: dict[str, Any]) -> dict[str, float]:
    """Of each metric."""
    return {name: result["score"] for name, result in record["evaluation"]["metrics"].items()}


def commit() -> str | None:
    """The commit of the checkout that this is; None where it is none, or changed since."""
    here = Path(__file__).parent
    try:
        said = [
            subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True).stdout.strip()
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no", "."])
        ]
    except (OSError, subprocess.CalledProcessError):
        return None
    return None if said[1] else said[0]


@dataclass(frozen=True)
class Spread:
    """Between which scores a run of the same settings is as stated."""

    low: float
    high: float
    source: str
    """What it is known from."""

    def holds(self, score: float) -> bool:
        return self.low <= score <= self.high


@dataclass(frozen=True)
class Proof:
    """A card's run."""

    name: str
    folder: Path
    """Where its settings are."""
    record: dict[str, Any]
    seeds: dict[str, dict[str, float]]

    def spread(self, metric: str) -> Spread:
        """From three seeds on, where 95 of 100 further seeds are to be expected (Student's t); else the interval of the
        score, which knows of other test sentences, not of other seeds.

        Raises:
            ValueError: Neither is known.
        """
        scores = [each[metric] for each in self.seeds.values() if metric in each]
        number = len(scores)
        if number >= FEWEST:
            mean = sum(scores) / number
            deviation = (sum((score - mean) ** 2 for score in scores) / (number - 1)) ** 0.5
            reach = student_quantile(LEVEL, number - 1) * deviation * (1 + 1 / number) ** 0.5
            return Spread(mean - reach, mean + reach, f"where a further seed is expected, from {number} seeds")
        bounds = self.record["evaluation"]["metrics"][metric].get("interval")
        if not bounds:
            raise ValueError(f"the record of {self.name} states no spread of {metric}: nothing says how near is near.")
        low, high = bounds
        return Spread(low, high, "the 95 % interval over test sentences, for no other seeds are known")


def find_proof(name: str) -> Proof:
    """What proves a card.

    Args:
        name: A card's name, a folder like those of ``model_cards/``, or a finished run's.

    Raises:
        ValueError: There is none; or it is damaged.
    """
    cards = Path(str(files("seqloom.model_cards")))
    folder = Path(name) if (Path(name) / run_folder.RECORD).is_file() else cards / name
    if not (folder / run_folder.RECORD).is_file():
        known = sorted(path.parent.name for path in cards.glob(f"*/{run_folder.RECORD}"))
        near = nearest(name, known)
        said = (
            f"did you mean {near}?" if near else f"there are {listing(known)}." if known else "seqloom comes with none."
        )
        raise ValueError(f"no card with its run's record is called {name}, and there is no such run's folder; {said}")
    record = run_folder.read_record(folder)
    if record["evaluation"] is None:
        raise ValueError(f"{folder} states no scores: there is nothing to reproduce.")
    seeds = run_folder.read_object(folder / SEEDS) if (folder / SEEDS).is_file() else {}
    return Proof(Path(name).resolve().name if folder == Path(name) else name, folder, record, seeds)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit("usage: python -m seqloom.sharing.proof RUN MODEL_CARDS [RUN_OF_ANOTHER_SEED ...]")
    made = keep_proof(Path(sys.argv[1]), Path(sys.argv[2]), [Path(other) for other in sys.argv[3:]])
    print(f"the proof is in {made}, of {plural(len(sys.argv) - 2, 'seed')}")
