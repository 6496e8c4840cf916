"""The command ``seqloom reproduce``: whether what a model card states comes out here, too."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from seqloom.commands.command import Command
from seqloom.commands.shell import say
from seqloom.settings.schema import Settings


@dataclass(kw_only=True)
class Reproduce(Command):
    """Trains a model card's run again and holds its scores against the card's.

    Whatever is off by more than the card's spread makes the exit status 1. The spread is that of the seeds it was
    trained with, from three on; else the interval of its scores. A run that was stopped goes on when the same words are
    given again.
    """

    name = "reproduce"
    needs = "the card's name comes first"
    settings = Settings
    is_parallel = True
    interrupted = "ended at once; the same words again go on from the last checkpoint."
    examples = """
        seqloom reproduce scan-rnn
        seqloom reproduce runs/mine --seed 43 --output_dir runs/mine-again
    """

    card: str
    """The name of a card that comes with seqloom and has its run's record beside it, or a finished run's folder."""

    def run(self) -> int | None:
        from seqloom.sharing.proof import find_proof
        from seqloom.support.wording import listing
        from seqloom.training.reproduction import reproduce, settings_again
        from seqloom.training.signals import Stopped

        proof = find_proof(self.card)
        settings = settings_again(proof, str(Path("runs") / "reproduced" / proof.name), self.overrides)
        is_first = os.environ.get("RANK", "0") == "0"
        try:
            results = reproduce(proof, settings)
        except Stopped as stopped:
            if is_first:
                print(stopped)
            return 128 + stopped.signal
        if not is_first:
            return None
        for found in results:
            spread = f"{found.spread.low:.2f} to {found.spread.high:.2f}, {found.spread.source}"
            verdict = "as stated" if found.holds else "NOT as stated"
            say(f"{found.metric}: {found.stated:.2f} on the card, {found.found:.2f} here ({spread}): {verdict}")
        off = [found.metric for found in results if not found.holds]
        say(f"{proof.name} is not reproduced: {listing(off)}" if off else f"{proof.name} is reproduced")
        return 1 if off else None
