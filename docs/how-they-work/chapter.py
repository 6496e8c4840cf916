"""Writes docs/how-they-work.md, its Korean sister and their pictures: ``python docs/how-they-work/chapter.py``.

The texts are chapter.en.md.jinja and chapter.ko.md.jinja beside this file; every number in them is a value of `walk`,
by its name. With ``--train`` the models are trained anew first, and then whatever the texts say of the numbers is to be
read again.
"""

from __future__ import annotations

import argparse
import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import torch
import toys
from drawings import DRAWINGS
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from walk import SHOWN, Values, walk

from seqloom.figures.style import save
from seqloom.support import disk
from seqloom.support.wording import table

HERE = Path(__file__).parent
VALUES = HERE / "values.json"
FIGURES = HERE / "figures"
PAGES = {"en": HERE.parent / "how-they-work.md", "ko": HERE.parent / "how-they-work.ko.md"}
BACK = (1, 2, 4, 8, 12)
"""Steps that the table of gradients has."""


def number(value: float, places: int = 2) -> str:
    """With so many decimals, and no minus before nothing."""
    text = f"{value:,.{places}f}"
    return text.removeprefix("-") if not text.strip("-0.") else text


def vector(values: list[float], shown: int | None = None) -> str:
    """``0.52, -0.01, …``: the first numbers of a vector."""
    more = ["…"] if shown and len(values) > shown else []
    return ", ".join([*(number(value) for value in values[:shown]), *more])


def code(word: str) -> str:
    """A word as code: ``<s>`` would be markup."""
    return f"`{word}`"


def codes(words: list[str]) -> list[str]:
    """Words as a table's headers."""
    return [code(word) for word in words]


def right(headers: list[str]) -> list[str]:
    """Headers of columns of numbers."""
    return [f"{header}:" for header in headers]


def row(label: str, values: list[float]) -> list[str]:
    """A table's row of numbers."""
    return [label, *map(number, values)]


def rows(words: list[str], ids: list[int], vectors: list[list[float]]) -> list[list[str]]:
    """Words with their ids and the beginnings of their vectors."""
    return [[code(word), str(index), vector(row, SHOWN)] for word, index, row in zip(words, ids, vectors, strict=True)]


def columns(words: list[str], *series: list[float]) -> list[list[str]]:
    """A row for each word, a column for each series."""
    return [row(code(word), list(values)) for word, *values in zip(words, *series, strict=True)]


def far(gradient: Values) -> list[list[str]]:
    """What is left of a change after some steps back."""
    series = (gradient[name] for name in ("tanh", "rnn", "gru"))
    left = list(zip(*series, strict=True))
    return [[str(back), *(number(value, 4) for value in left[back])] for back in BACK]


def likeliest(decoder: Values) -> list[list[str]]:
    """The two likeliest words after each word."""
    return [
        [code(read), *(f"{code(word)} {number(chance)}" for word, chance in best[:2])]
        for read, best in zip(decoder["read"], decoder["steps"], strict=True)
    ]


def pages(values: Values) -> dict[Path, str]:
    """Both texts with their numbers."""
    environment = Environment(
        loader=FileSystemLoader(HERE), undefined=StrictUndefined, keep_trailing_newline=True, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.globals |= {
        "table": table, "row": row, "rows": rows, "columns": columns, "far": far, "likeliest": likeliest,
        "log": math.log, "far_at": BACK[-1],
    }  # fmt: skip
    environment.filters |= {"n": number, "v": vector, "c": code, "all": codes, "right": right}
    return {page: environment.get_template(f"chapter.{name}.md.jinja").render(values) for name, page in PAGES.items()}


def as_json(values: Values) -> str:
    """A line for each value, so that changes can be read."""
    groups = (
        f' "{name}": {{\n'
        + ",\n".join(f'  "{key}": {json.dumps(value, ensure_ascii=False)}' for key, value in group.items())
        + "\n }"
        for name, group in values.items()
    )
    return "{\n" + ",\n".join(groups) + "\n}\n"


def main() -> None:
    """Reads the command line and writes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--train", action="store_true", help="train the four models anew; a minute")
    torch.set_num_threads(1)
    if parser.parse_args().train:
        toys.store({kind: toys.train(kind) for kind in toys.WIDTHS})
    values = walk()
    FIGURES.mkdir(exist_ok=True)
    writes: dict[Path, Any] = {page: disk.text(text) for page, text in pages(values).items()}
    writes |= {FIGURES / f"{name}.png": partial(save, draw(values)) for name, draw in DRAWINGS.items()}
    disk.write_together(writes | {VALUES: disk.text(as_json(values))})


if __name__ == "__main__":
    main()
