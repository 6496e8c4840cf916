"""The report of a comparison: ``report.md``, a self-contained ``report.html`` and ``report.json``.

All three are made from ``report.json``'s values alone: `write` with what it holds gives the same report again.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from seqloom.comparison.conclusion import conclude
from seqloom.comparison.first_screen import FirstScreen
from seqloom.comparison.sections import MEASURES, Examples, Passage, Plot, Section, Table
from seqloom.comparison.traits import in_words
from seqloom.figures.fonts import can_draw
from seqloom.figures.pages import as_address, narrow, themed
from seqloom.figures.style import save
from seqloom.support import disk
from seqloom.support.language import Language, later, say, speaking, spoken
from seqloom.support.machine import hardware_in_words

TITLE = later("RNN or Transformer?")


def sections_of(measures: dict[str, Any]) -> dict[str, Section]:
    """The sections of all measures that were taken."""
    return {
        name: importlib.import_module(f"seqloom.comparison.measures.{name}").section(measures[name])
        for name in MEASURES
        if name in measures
    }


def write(folder: Path, record: dict[str, Any], language: Language = "en") -> None:
    """Writes the report; an earlier one stays until all of the new one is on the disk.

    Args:
        folder: Where it goes; pictures go to ``figures`` in it.
        record: ``candidates`` (name, description, kind, folders, seeds of each), ``measures`` (the results by the names
            of `MEASURES`), ``seconds`` of each of them, ``command``, ``commit``, ``date``, ``environment``. It is of
            no language.
        language: Of the page, the Markdown and the figures; where no installed font has its letters, figures stay
            English and the report says so.
    """
    with speaking(language):
        _write(folder, record)


def _write(folder: Path, record: dict[str, Any]) -> None:
    with speaking("en"):
        record = {**record, "conclusion": conclude(record)}
    sections, screen = contents(record)
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    writes: dict[Path, Callable[[Path], object]] = {
        folder / "figures" / f"{part.name}.png": partial(save, part.figure)
        for part in (screen.plot, *(part for section in sections.values() for part in section.parts))
        if isinstance(part, Plot)
    }
    summary = summary_tables(record["candidates"], sections)
    text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False)
    texts = {
        "json": text,
        "md": markdown(record, screen, summary, sections),
        "html": html(record, screen, summary, sections),
    }
    writes |= {folder / f"report.{suffix}": disk.text(text) for suffix, text in texts.items()}
    disk.write_together(writes)


def contents(record: dict[str, Any]) -> tuple[dict[str, Section], FirstScreen]:
    """Sections and first screen in the language that is spoken; where no font has its letters, figures are English."""
    sections, screen = sections_of(record["measures"]), FirstScreen.of(record)
    if can_draw(spoken()):
        return sections, screen
    with speaking("en"):
        others, other = sections_of(record["measures"]), FirstScreen.of(record)
    sections = {
        name: replace(section, parts=list(map(_with_figure_of, section.parts, others[name].parts)))
        for name, section in sections.items()
    }
    return sections, replace(screen, plot=_with_figure_of(screen.plot, other.plot))


def _with_figure_of(part: Any, other: Any) -> Any:
    return replace(part, figure=other.figure) if isinstance(part, Plot) else part


def summary_tables(candidates: Sequence[dict[str, Any]], sections: dict[str, Section]) -> list[Table]:
    """What the sections put forward, side by side: one table of the candidates, one of the systems of equal width.

    A row that speaks of systems (``GRU, Luong attention``) is for the candidates of that kind too, but for those it was
    not measured with their own weights and sizes; so it stays in a table of its own.
    """
    names = [candidate["name"] for candidate in candidates]
    own: list[list[str]] = []
    others: dict[tuple[str, ...], list[list[str]]] = {}
    titles: dict[tuple[str, ...], list[str]] = {}
    for section in sections.values():
        for row, values in section.headline.items():
            if set(values) <= set(names):
                own.append([row, *(values.get(name, "–") for name in names)])
            else:
                others.setdefault(tuple(values), []).append([row, *values.values()])
                titles.setdefault(tuple(values), []).append(section.title)
    kinds = [say("kind"), *(in_words(candidate["description"]) for candidate in candidates)]
    tables = [Table(["", *names], [kinds, *own], say("The models that were compared."))] if names else []
    for header, rows in others.items():
        sources = "; ".join(f"“{title}”" for title in dict.fromkeys(titles[header]))
        caption = say("The families themselves, small and of equal width, from {sections}.", sections=sources)
        tables.append(Table(["", *map(in_words, header)], rows, caption))
    return tables


def cautions_of(sections: dict[str, Section]) -> list[str]:
    """What a reader of the first table must know, with the section that tells more; the same once."""
    said: dict[str, list[str]] = {}
    for section in sections.values():
        for caution in section.cautions:
            said.setdefault(caution, []).append(section.title)
    cautions = [f"{caution} (“{'”, “'.join(titles)}”)" for caution, titles in said.items()]
    if not can_draw(spoken()):
        cautions.append(
            say(
                "The figures' labels are English, since no installed font has the letters: install one, say Noto Sans "
                "CJK or Nanum, and say the report again with --resume."
            )
        )
    return cautions


def markdown(
    record: dict[str, Any], screen: FirstScreen, summary: Sequence[Table], sections: dict[str, Section]
) -> str:
    """The report as Markdown; its pictures are files in ``figures``."""
    lines = [f"# {say(TITLE)}", "", provenance(record), "", f"    {' '.join(record['command'].split())}", ""]
    lines += [*_markdown_screen(screen, sections), f"## {say('In short')}", ""]
    lines += [*(f"- {plain(caution)}" for caution in cautions_of(sections)), ""] if cautions_of(sections) else []
    for table in summary:
        lines += [*markdown_table(table), ""]
    for name, section in sections.items():
        lines += [f"## {section.title}", "", f"*{section.question}*", ""]
        lines += [*(f"- {plain(finding)}" for finding in section.findings), ""]
        for part in section.parts:
            if isinstance(part, Plot):
                lines += [f"![{plain(part.caption)}](figures/{part.name}.png)", ""]
            elif isinstance(part, Table):
                lines += [*markdown_table(part), ""]
            elif isinstance(part, Examples):
                lines += [say("The page report.html shows sentences, to be filtered and sorted."), ""]
            else:
                lines += [
                    f"### {plain(part.heading)}",
                    "",
                    *(line for text in part.lines for line in (plain(text), "")),
                ]
        lines += [f"**{say('How it was measured.')}** {plain(section.how)}", ""]
        lines += [f"**{say('What it does not show.')}** {plain(section.limits)}", ""]
        lines += [f"({_seconds(record, name)})", ""]
    return "\n".join(lines).rstrip() + "\n"


def _markdown_screen(screen: FirstScreen, sections: dict[str, Section]) -> list[str]:
    """Answers, picture, ranking, and where to read on."""
    lines = [f"## {say('The conclusion')}", ""]
    lines += [part for head, sentence in screen.lines for part in (f"**{head}:** {plain(sentence)}", "")]
    if screen.plot:
        lines += [f"![{plain(screen.plot.caption)}](figures/{screen.plot.name}.png)", ""]
    if screen.ranking:
        lines += [*markdown_table(screen.ranking), ""]
    asked = screen.questions(sections)
    lines += [f"- [{plain(question)}](#{_slug(sections[name].title)})" for name, question in asked.items()]
    return [*lines, ""] if asked else lines


def _slug(title: str) -> str:
    """The address that Markdown's renderers give a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def provenance(record: dict[str, Any]) -> str:
    """Where the numbers come from: commit, day, machine, versions."""
    about = record["environment"]
    versions = ", ".join(f"{name} {about[name]}" for name in ("seqloom", "torch", "transformers") if name in about)
    commit = (
        say("at commit {commit}", commit=record["commit"]) if record["commit"] else say("outside of a git checkout")
    )
    return say(
        "Measured on {date} {commit}: {hardware}, Python {python}, {versions}; {seconds:,.0f} s in all.",
        date=record["date"],
        commit=commit,
        hardware=hardware_in_words(about["hardware"]),
        python=about["python"],
        versions=versions,
        seconds=sum(record["seconds"].values()),
    )


def html(record: dict[str, Any], screen: FirstScreen, summary: Sequence[Table], sections: dict[str, Section]) -> str:
    """The report as one page that needs no other file."""
    templates = files("seqloom.comparison")
    environment = Environment(
        loader=FunctionLoader(lambda name: templates.joinpath(name).read_text(encoding="utf-8")),
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.tests["table"] = lambda part: isinstance(part, Table)
    environment.tests["plot"] = lambda part: isinstance(part, Plot)
    environment.tests["passage"] = lambda part: isinstance(part, Passage)
    environment.tests["examples"] = lambda part: isinstance(part, Examples)
    environment.filters["example_data"] = example_data
    environment.filters["figure"] = _figure
    environment.filters["numeric"] = _numeric
    environment.globals["say"] = say
    return environment.get_template("report.html.jinja").render(
        language=spoken(),
        title=say(TITLE),
        screen=screen,
        asked=screen.questions(sections),
        command=record["command"],
        provenance=provenance(record),
        summary=summary,
        cautions=cautions_of(sections),
        sections=[(name, section, _seconds(record, name)) for name, section in sections.items()],
    )


def example_data(part: Examples) -> Markup:
    """What the page's script draws sentences of, as JSON that cannot end its element."""
    data = {
        "models": part.models,
        "sign": 1 if part.higher_is_better else -1,
        "source": say("source"),
        "reference": say("reference"),
        "line": say("line {line}", line="{line}"),
        "rows": [[row.line, row.words, row.source, row.reference, row.outputs, row.scores] for row in part.rows],
    }
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return Markup(text.replace("<", r"\u003c").replace(">", r"\u003e").replace("&", r"\u0026"))


def _seconds(record: dict[str, Any], name: str) -> str:
    return say("{seconds:,.0f} s for this section", seconds=record["seconds"].get(name, 0))


def _figure(plot: Plot) -> Markup:
    """The picture for wide and for narrow screens, with its caption."""
    small, large = (as_address(themed(figure)) for figure in (narrow(plot.figure), plot.figure))
    return Markup(
        '<figure><picture><source media="(max-width: 640px)" srcset="{}"><img src="{}" alt="{}"></picture>'
        "<figcaption>{}</figcaption></figure>"
    ).format(small, large, plot.caption, plot.caption)


def _numeric(table: Table) -> list[bool]:
    """Which columns hold numbers, with or without units, and are aligned to the right."""
    if not table.rows:
        return [False] * len(table.header)
    columns = zip(*table.rows, strict=True)
    return [all(re.match(r"[-−+±<≈]?\s?\d|[–-]?$", cell) for cell in column) for column in columns]


def markdown_table(table: Table) -> list[str]:
    """A table's lines, below its caption."""
    numeric = _numeric(table)
    rows = [table.header, *table.rows]
    lines = [f"| {' | '.join(plain(cell) for cell in row)} |" for row in rows]
    lines.insert(1, f"|{'|'.join(' ---: ' if is_number else ' --- ' for is_number in numeric)}|")
    return [plain(table.caption), "", *lines] if table.caption else lines


def plain(text: str) -> str:
    """Text of a test set, say, as Markdown that shows it letter for letter."""
    return re.sub(r"([\\`*_{}\[\]<>|#$&~])", r"\\\1", " ".join(text.split()))
