"""The command ``seqloom attend``: what a model looks at while it writes, as a picture, a page and a table."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from unicodedata import east_asian_width

from seqloom.commands.command import Command
from seqloom.commands.following import opening, tell_next
from seqloom.commands.shell import say
from seqloom.settings.schema import ScoringSettings
from seqloom.support.wording import together

if TYPE_CHECKING:
    from seqloom.attention.maps import AttentionMaps


@dataclass(kw_only=True)
class Attend(Command):
    """Draws what a model looks at while it writes.

    A picture is made, or with --html a page; with both, both.
    """

    name = "attend"
    needs = "a model and a sentence are needed"
    settings = ScoringSettings
    sections = ("revision", "trust_remote_code", "seed", "generation")
    stand_anywhere = True
    examples = """
        seqloom attend runs/mine "a man is standing on a ladder ."
        seqloom attend runs/mine "a man is standing on a ladder ." --html attention.html --num_beams 5
        seqloom attend runs/mine "two dogs run ." --what self --layer 1 --head 2 --output layer1.png
    """

    model: str
    """A folder or a name on the Hub."""
    sentences: list[str]
    """One text or more."""
    output: Path | None = None
    """The picture, FILE.png (attention.png if there is no --html either); of several sentences FILE-1.png, FILE-2.png,
    …"""
    html: Path | None = None
    """A page, FILE.html: point at a word to see what it looked at, or who looked at it."""
    what: Literal["all", "cross", "self"] = "all"
    """Target to source (cross), the encoder of a Transformer to itself (self), or all there is."""
    layer: int | None = field(default=None, metadata={"least": 1})
    """One layer, counted from 1; else the last."""
    head: int | None = field(default=None, metadata={"least": 1})
    """One head, counted from 1; else their mean."""
    tokens: bool = False
    """The model's own tokens on the axes rather than words; those of a single word are shown in any case."""
    target: str | None = None
    """The maps of this output of the one sentence, rather than of the model's own."""
    font: Path | None = None
    """A font file for the labels."""
    overwrite: bool = False
    """Replace files."""

    def check(self) -> None:
        from seqloom.settings.reading import load_scoring_settings

        load_scoring_settings(self.model, self.overrides, self.sections)

    def run(self) -> None:
        if self.target is not None and len(self.sentences) > 1:
            raise ValueError(f"--target is the output of one sentence, but {len(self.sentences)} are given: give one.")
        with warnings.catch_warnings(record=True) as caught:
            self.draw()
        for message in dict.fromkeys(str(warning.message) for warning in caught):
            print(f"warning: {message}", file=sys.stderr)

    def draw(self) -> None:
        """Draws, writes and prints."""
        import torch

        from seqloom.attention.attend import attend, check_choice
        from seqloom.attention.maps import overview
        from seqloom.attention.page import attention_page
        from seqloom.decoding.loading import is_of_ours, load_model, tokenizer_of
        from seqloom.decoding.options import check_options, try_options
        from seqloom.figures.style import save
        from seqloom.settings.reading import load_scoring_settings
        from seqloom.support.disk import check_output, text, write_together
        from seqloom.support.locks import alone_with

        page = self.html
        picture = self.output or (Path("attention.png") if page is None else None)
        images = [] if picture is None else [picture]
        if picture is not None and len(self.sentences) > 1:
            images = [picture.with_stem(f"{picture.stem}-{number}") for number in range(1, len(self.sentences) + 1)]

        def check_outputs() -> None:
            for file in images:
                check_output(file, "--output", (".png",), overwrite=self.overwrite)
            if page is not None:
                check_output(page, "--html", (".html", ".htm"), overwrite=self.overwrite)

        check_outputs()
        settings, generate_kwargs = load_scoring_settings(self.model, self.overrides, self.sections)
        if self.target is not None and generate_kwargs:
            raise ValueError(
                f"--target is an output that needs no search, but {', '.join(generate_kwargs)} is given too: leave one "
                "out."
            )
        model = load_model(self.model, settings.revision, settings.trust_remote_code)
        tokenizer = tokenizer_of(model, self.model, settings.revision, settings.trust_remote_code)
        check_options(model.generation_config, generate_kwargs, several=True, is_own=is_of_ours(model))
        if self.target is None:
            try_options(model, tokenizer, generate_kwargs)
        torch.manual_seed(settings.seed)
        choice: dict[str, Any] = {"layer": self.layer, "head": self.head}
        font = self.font and str(self.font)
        every = []
        for sentence in self.sentences:
            found = attend(model, tokenizer, sentence, target=self.target, words=not self.tokens, **generate_kwargs)
            check_choice(found, self.what, **choice)
            every.append(found)
            say(f"{sentence}\n→ {found.output}   (log p {found.score:.2f})\n")
            if found.by_tokens:
                one = "is one word: its" if len(found.by_tokens) == 1 else "are one word each: their"
                say(f"the {together(found.by_tokens)} {one} tokens are shown\n")
            if self.what != "self":
                say(f"{alignment_table(found, **choice)}\n")
        writes: dict[Path, Callable[[Path], object]] = {}
        for file, found in zip(images, every, strict=False):
            writes[file] = partial(save, overview(found, what=self.what, font=font, **choice))
        if page is not None:
            writes[page] = text(attention_page(every, what=self.what, title=Path(self.model).name, **choice))
        with alone_with(writes):
            check_outputs()  # another may have been first
            write_together(writes)
        files = list(writes)
        say(f"{'maps are' if len(files) > 1 or len(every) > 1 else 'the map is'} in {', '.join(map(str, files))}")
        tell_next(opening(page or files[0]))


def alignment_table(found: AttentionMaps, layer: int | None = None, head: int | None = None) -> str:
    """Target word ← the source word it looked at most (weight), a line each."""
    widths = [sum(1 + (east_asian_width(c) in "WF") for c in label) for label in found.target_labels]
    lines = zip(found.target_labels, widths, found.alignment(layer, head), strict=True)
    return "\n".join(
        f"{label}{' ' * (max(widths) - width)} ← {found.source_labels[best]} ({weight:.2f})"
        for label, width, (best, weight) in lines
    )
