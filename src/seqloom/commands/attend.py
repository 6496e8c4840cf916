"""The command ``seqloom attend``: what a model looks at while it writes, as a picture, a page and a table."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unicodedata import east_asian_width

from seqloom.attention.attend import WHAT, attend, check_choice
from seqloom.attention.maps import AttentionMaps, overview
from seqloom.attention.page import attention_page
from seqloom.data.tokenization import load_tokenizer
from seqloom.decoding.loading import load_model
from seqloom.figures.style import save_png
from seqloom.settings.reading import load_scoring_settings
from seqloom.support.console import quieten_libraries
from seqloom.support.disk import check_output, write_aside

USAGE = 'usage: seqloom attend MODEL "sentence" [more sentences] [--output attention.png] [--html attention.html]'
ABOUT = """
MODEL is a folder or a name on the Hub. A picture is made, or with --html a page; with both, both.

  --output FILE.png     the picture; of several sentences FILE-1.png, FILE-2.png, …
  --html FILE.html      a page: point at a word to see what it looked at, or who looked at it
  --what KIND           cross (target to source), self (the encoder, of a Transformer) or all; default: all there is
  --layer N, --head N   one layer, one head, counted from 1; default: the last layer, the mean over its heads
  --tokens              the model's own tokens on the axes rather than words
  --target "TEXT"       the maps of this output of the one sentence, rather than of the model's own
  --font FILE           a font for the labels
  --overwrite           replace files
  --num_beams N, …      any key of generation:
"""
VALUES = ("output", "html", "what", "layer", "head", "target", "font")
FLAGS = ("tokens", "overwrite")


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit status."""
    arguments = list(argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE, ABOUT.rstrip(), sep="\n")
        return 0 if arguments else 2
    try:
        quieten_libraries()
        with warnings.catch_warnings(record=True) as caught:
            _attend(*read_words(arguments))
        for message in dict.fromkeys(str(warning.message) for warning in caught):
            print(f"warning: {message}", file=sys.stderr)
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


def read_words(arguments: Sequence[str]) -> tuple[list[str], dict[str, Any], list[str]]:
    """Model and sentences, options, and what is left for the generation."""
    texts, overrides, rest = [], [], iter(arguments)
    options: dict[str, Any] = dict.fromkeys(VALUES) | dict.fromkeys(FLAGS, False)
    for word in rest:
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--"):
            texts.append(word)
        elif name in FLAGS and not equals:
            options[name] = True
        else:
            value = value if equals else next(rest, None)
            if value is None or value.startswith("--"):
                raise ValueError(f"--{name} needs a value. {USAGE}")
            if name in VALUES:
                options[name] = value
            else:
                overrides += [f"--{name}", value]
    if len(texts) < 2:
        raise ValueError(f"a model and a sentence are needed. {USAGE}")
    for name in ("layer", "head"):
        if options[name] is not None:
            if not options[name].isdecimal():
                raise ValueError(f"--{name} is {options[name]!r}; it is a number, counted from 1.")
            options[name] = int(options[name])
    options["what"] = options["what"] or "all"
    if options["what"] not in WHAT:
        raise ValueError(f"--what is {options['what']!r}; it can be {', '.join(WHAT)}.")
    if options["target"] is not None and len(texts) > 2:
        raise ValueError(f"--target is the output of one sentence, but {len(texts) - 1} are given: give one.")
    return texts, options, overrides


def _attend(texts: list[str], options: dict[str, Any], overrides: list[str]) -> None:
    """Draws, writes and prints."""
    name, *sentences = texts
    page = None if options["html"] is None else Path(options["html"])
    picture = Path(options["output"] or "attention.png") if options["output"] or page is None else None
    images = [] if picture is None else [picture]
    if picture is not None and len(sentences) > 1:
        images = [picture.with_stem(f"{picture.stem}-{number}") for number in range(1, len(sentences) + 1)]
    for option, suffixes, files in (("output", (".png",), images), ("html", (".html", ".htm"), [page] if page else [])):
        for file in files:
            check_output(file, f"--{option}", suffixes, overwrite=options["overwrite"])

    settings, generate_kwargs = load_scoring_settings(name, overrides)
    if options["target"] is not None and generate_kwargs:
        raise ValueError(
            f"--target is an output that needs no search, but {', '.join(generate_kwargs)} is given too: leave one out."
        )
    model = load_model(name, settings.revision, settings.trust_remote_code)
    tokenizer = load_tokenizer(name, revision=settings.revision, trust_remote_code=settings.trust_remote_code)
    choice = {key: options[key] for key in ("layer", "head")}
    every = []
    for sentence in sentences:
        found = attend(
            model, tokenizer, sentence, target=options["target"], words=not options["tokens"], **generate_kwargs
        )
        check_choice(found, options["what"], **choice)
        every.append(found)
        print(f"{sentence}\n→ {found.output}   (log p {found.score:.2f})", end="\n\n")
        if options["what"] != "self":
            print(alignment_table(found, **choice), end="\n\n")
    for file, found in zip(images, every, strict=False):
        figure = overview(found, what=options["what"], font=options["font"], **choice)
        write_aside(file, lambda aside, figure=figure: save_png(figure, aside))
    if page is not None:
        text = attention_page(every, what=options["what"], title=Path(name).name, **choice)
        write_aside(page, lambda aside: aside.write_text(text, encoding="utf-8"))
    files = [*images, *([page] if page else [])]
    print(f"{'maps are' if len(files) > 1 or len(every) > 1 else 'the map is'} in {', '.join(map(str, files))}")


def alignment_table(found: AttentionMaps, layer: int | None = None, head: int | None = None) -> str:
    """Target word ← the source word it looked at most (weight), a line each."""
    widths = [sum(1 + (east_asian_width(c) in "WF") for c in label) for label in found.target_labels]
    lines = zip(found.target_labels, widths, found.alignment(layer, head), strict=True)
    return "\n".join(
        f"{label}{' ' * (max(widths) - width)} ← {found.source_labels[best]} ({weight:.2f})"
        for label, width, (best, weight) in lines
    )
