"""The command ``seqloom demo-page``: a page in the browser on which a sentence goes through several models."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from seqloom.commands.command import Command
from seqloom.commands.following import tell_next, typed


@dataclass(kw_only=True)
class DemoPage(Command):
    """Opens a page on which a sentence goes through several models.

    Their outputs stand side by side, with the milliseconds that they took, the words that each looked at, and the tree
    of its beam search. It needs pip install 'seqloom[demo]'.
    """

    name = "demo-page"
    needs = "a model is needed"
    stand_anywhere = True
    examples = """
        seqloom demo-page runs/demo/scan-rnn runs/demo/scan-transformer
        seqloom demo-page runs/rnn runs/transformer runs/hybrid --language ko --port 7900
        seqloom demo-page me/rnn me/transformer --space demo
    """

    models: list[str]
    """Folders, or names on the Hub; one or more."""
    sentences: Path | None = None
    """A file of examples to choose from, a line each; else those that the models' cards show."""
    language: Literal["en", "ko"] = "en"
    """What the page says first; it has a switch."""
    num_beams: int = field(default=4, metadata={"least": 1})
    """What its slider begins with, 1 to 8."""
    host: str | None = None
    """The address that it listens on; else this machine alone. 0.0.0.0 is every one."""
    port: int | None = field(default=None, metadata={"least": 1})
    """Else the first free one from 7860 on."""
    share: bool = False
    """Let gradio's servers pass it on to the internet, for as long as it runs."""
    space: Path | None = None
    """Instead of opening the page, write a folder of it (app.py, requirements.txt, README.md), which seqloom push
    --space shares as a Space; the models are then names on the Hub."""
    requirement: str | None = None
    """What the Space's pip installs seqloom from; else this version from PyPI."""
    overwrite: bool = False
    """Replace the files of an earlier --space."""
    revision: str | None = None
    """Commit, branch or tag of models from the Hub."""
    trust_remote_code: bool = False
    """Run code that comes with a model. seqloom's own models need none."""

    def run(self) -> None:
        for name in ("requirement", "overwrite") if self.space is None else ("host", "port", "share"):
            if getattr(self, name) not in (None, False):
                needed = "belongs to --space" if self.space is None else "is of no use with --space"
                raise ValueError(f"--{name} {needed}: leave it out.")
        from seqloom.data.lines import lines
        from seqloom.demo_page.page import build_page, check_choices, check_port, gradio, launch

        examples = [] if self.sentences is None else [line for line in lines(str(self.sentences)) if line.strip()]
        if self.space is not None:
            from seqloom.demo_page.space import write_space

            write_space(
                self.space, self.models, examples=examples, language=self.language, num_beams=self.num_beams,
                requirement=self.requirement, revision=self.revision, trust_remote_code=self.trust_remote_code,
                overwrite=self.overwrite,
            )  # fmt: skip
            print(f"the Space is in {self.space}; to try it: python {self.space / 'app.py'}")
            tell_next(typed("push", self.space, "USER/SPACE", "--space"))
            return
        gradio()  # what is missing shows before models are loaded
        check_choices(self.language, self.num_beams)
        check_port(self.host, self.port)
        from seqloom.demo_page.models import open_models, sources_differ

        models = open_models(self.models, self.revision, self.trust_remote_code)
        if told := sources_differ(models):
            said = ", ".join(f"{title} {language}" for title, language in told.items())
            print(f"these models read different languages ({said}): each takes a sentence for its own", flush=True)
        page = build_page(models, examples=examples, language=self.language, num_beams=self.num_beams)
        launch(page, host=self.host, port=self.port, share=self.share)
