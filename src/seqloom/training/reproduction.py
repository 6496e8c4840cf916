"""A run made again by its settings: does what it states come out here, too?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from seqloom import run_folder
from seqloom.settings.reading import load_run_settings, load_settings
from seqloom.settings.schema import Settings
from seqloom.sharing.proof import Proof, Spread, flat
from seqloom.support import disk
from seqloom.support.wording import listing
from seqloom.training.run import run_training

SPLITS = ("train", "validation", "test")
MAY_DIFFER = {
    "output_dir", "training.seed", "training.num_threads", "training.report_to", "data.dataset", "data.source",
    "data.target", *(f"data.{split}_files" for split in SPLITS),
}  # fmt: skip
"""Settings that say where and on what machine, not what is trained."""


OF_NO_WEIGHT = {"num_threads", "report_to", "logging_steps", "save_steps", "save_total_limit"}
"""Settings of ``training`` that may have changed when a run was resumed."""


class Outcome(NamedTuple):
    """A metric of a run that was made again."""

    metric: str
    stated: float
    found: float
    spread: Spread

    @property
    def holds(self) -> bool:
        """Whether it is as stated; to two decimals, as cards state it."""
        return self.spread.holds(self.found) or round(self.found, 2) == round(self.stated, 2)


def settings_again(proof: Proof, output_dir: str, overrides: Sequence[str] = ()) -> Settings:
    """The settings of a card's run, for this machine.

    Args:
        proof: Of the card.
        output_dir: Where the run goes, unless the words say so.
        overrides: Words of the command line: where its files lie here, another seed, threads.

    Raises:
        ValueError: They would train something else; or a file is missing, or is another one than the run's.
    """
    place = proof.folder / run_folder.SETTINGS
    own = flat(load_settings(place).to_dict())
    settings = load_settings(place, ["--output_dir", output_dir, *overrides])
    now = flat(settings.to_dict())
    changed = sorted(
        key for key, value in now.items() if value != own[key] and key not in MAY_DIFFER and not key.startswith("hub.")
    )
    if changed:
        raise ValueError(
            f"with another {listing(changed)} it would not be {proof.name} that is reproduced; leave that out, or "
            "train it with seqloom train."
        )
    for resumed in proof.record.get("resumed") or ():
        if otherwise := sorted(set(resumed["changed"]) - OF_NO_WEIGHT):
            raise ValueError(
                f"{proof.name} was resumed after update {resumed['step']:,} with another {listing(otherwise)}, so one "
                "training does not make it again: train it in those two parts, with seqloom train."
            )
    for metric in proof.record["evaluation"]["metrics"]:
        proof.spread(metric)  # whether there is one shows before the training
    check_files(proof, settings)
    return settings


def check_files(proof: Proof, settings: Settings) -> None:
    """Refuses data that are not those of the run.

    Raises:
        ValueError: As for `settings_again`.
    """
    for split in SPLITS:
        kept, given = proof.record["data"]["splits"].get(split), getattr(settings.data, f"{split}_files")
        if not isinstance(kept, list) or not all("sha256" in file for file in kept):
            continue
        names = [file["name"] for file in kept]
        if not given or len(given) != len(kept) or not all(Path(path).is_file() for path in given):
            raise ValueError(
                f"{proof.name} has its {split} pairs from {listing(names)}: say where they lie here with "
                f"--{split}_files {' '.join(f'PATH/{name}' for name in names)}."
            )
        for file, path in zip(kept, given, strict=True):
            if disk.sha256(Path(path)) != file["sha256"]:
                raise ValueError(
                    f"{path} is not the {file['name']} of {proof.name}: its sha256 is another one, so its scores would "
                    "be of other data."
                )


def reproduce(proof: Proof, settings: Settings) -> list[Outcome]:
    """Trains and scores by a card's settings, or goes on with what has begun, and holds the scores against the card's.

    Raises:
        ValueError: As for `run_training`; or a metric is now another one.
    """
    folder = Path(settings.output_dir)
    if run_folder.is_finished(folder):
        if load_run_settings(folder).to_dict() != settings.to_dict():
            raise ValueError(f"{folder} holds a run of other settings: choose another --output_dir.")
        record = run_folder.read_record(folder)
    else:
        record = run_training(settings, resume="auto")
    return outcomes(proof, record["evaluation"]["metrics"])


def outcomes(proof: Proof, found: dict[str, dict[str, Any]]) -> list[Outcome]:
    """What came of each metric that a card states.

    Raises:
        ValueError: Its signature is another one: these are scores of two kinds.
    """
    results = []
    for metric, stated in proof.record["evaluation"]["metrics"].items():
        here = found[metric]
        ours, theirs = (without_version(result["signature"]) for result in (here, stated))
        if ours != theirs:
            raise ValueError(f"{metric} is {ours} here, and {theirs} on the card: these cannot be compared.")
        results.append(Outcome(metric, stated["score"], here["score"], proof.spread(metric)))
    return results


def without_version(signature: str) -> str:
    """A metric's signature but for the version of what computes it."""
    return "|".join(part for part in signature.split("|") if not part.startswith("version:"))
