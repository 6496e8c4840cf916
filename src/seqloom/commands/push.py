"""The command ``seqloom push``: shares a finished run, or a demo page, on the Hub."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from seqloom import run_folder
from seqloom.commands.command import Command
from seqloom.commands.following import example_of, tell_next, translating


@dataclass(kw_only=True)
class Push(Command):
    """Shares a finished run on the Hub.

    A token comes from HF_TOKEN or `hf auth login`.
    """

    name = "push"
    needs = "the folder and the repository's name come first"
    examples = """
        seqloom push runs/scan-rnn me/scan-rnn
        seqloom push runs/scan-rnn me/scan-rnn --hub_private_repo true --hub_revision trial
        seqloom push runs/scan-rnn me/scan-rnn --handler
        seqloom push demo me/demo --space
    """

    folder: Path
    """The output folder of a finished run; or with --space, the folder that seqloom demo-page --space wrote."""
    repository: str
    """Where it goes: USER/MODEL, or USER/SPACE."""
    space: bool = False
    """Share a demo page as a Space, whose models are on the Hub already."""
    handler: bool = False
    """Push handler.py and requirements.txt along, by which a Hugging Face Inference Endpoint runs the model."""
    hub_private_repo: Literal["true", "false"] | None = None
    """Whether a repository that is made now is private; else as the account has it."""
    hub_revision: str | None = None
    """Branch to push to, made if need be; else main."""
    metrics: list[str] = field(default_factory=list)
    """Metrics of the folder's record that are not seqloom's own and whose code may be run."""
    trust_remote_code: bool = False
    """Run code that the folder carries and that is not seqloom's own."""

    def run(self) -> None:
        if self.space:
            for name in ("handler", "hub_revision", "metrics", "trust_remote_code"):
                if getattr(self, name):
                    raise ValueError(f"--{name} is for models, not for a Space: leave it out.")
            from seqloom.demo_page.space import push_space

            private = None if self.hub_private_repo is None else self.hub_private_repo == "true"
            push_space(self.folder, self.repository, private=private)
            return
        if run_folder.SPACE in run_folder.marked(self.folder):
            raise ValueError(
                f"{self.folder} holds a demo page: share it with seqloom push {self.folder} {self.repository} --space"
            )
        if (self.folder / run_folder.EXPORT).is_file():
            raise ValueError(
                f"{self.folder} is an exported model, whose scores no run records: share it as it is, with hf upload "
                f"{self.repository} {self.folder} --exclude {run_folder.SETTINGS} --exclude {run_folder.MARKER}"
            )
        from seqloom.settings.reading import load_run_settings
        from seqloom.sharing.push import push
        from seqloom.support.locks import Lock

        settings = {"push_to_hub": self.repository, "hub_private_repo": self.hub_private_repo,
                    "hub_revision": self.hub_revision}  # fmt: skip
        words = [f"--{key}={value}" for key, value in settings.items() if value is not None]
        hub = load_run_settings(run_folder.finished(self.folder), words).hub
        Lock(self.folder / run_folder.LOCK).check()  # what trains in it would change what is pushed
        push(
            self.folder, hub, metrics=self.metrics, trust_remote_code=self.trust_remote_code, with_handler=self.handler
        )  # fmt: skip
        where = [] if self.hub_revision is None else ["--revision", self.hub_revision]
        tell_next(translating(self.repository, *where, example=example_of(self.folder)))
