"""Writes docs/comparison.md and its Korean sister from report.json: ``python docs/comparison/comparison_chapter.py``.

The texts are chapter.en.md.jinja and chapter.ko.md.jinja beside this file. They explain; what was found is said by the
report's own sentences, tables and verdicts, so that a report that is made anew is told anew.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from seqloom.comparison.report import contents, markdown_table, plain, provenance, summary_tables
from seqloom.support import disk
from seqloom.support.language import Language, speaking

HERE = Path(__file__).parent
RECORD = HERE / "report.json"
PAGES: dict[Language, Path] = {"en": HERE.parent / "comparison.md", "ko": HERE.parent / "comparison.ko.md"}


def page(record: dict[str, Any], language: Language) -> str:
    """The chapter in a language."""
    environment = Environment(
        loader=FileSystemLoader(HERE), undefined=StrictUndefined, keep_trailing_newline=True, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    with speaking(language):
        sections, screen = contents(record)
        assert screen.ranking is not None  # of models that were scored
        own, *_ = summary_tables(record["candidates"], sections)
        return environment.get_template(f"chapter.{language}.md.jinja").render(
            command=record["command"], provenance=provenance(record),
            conclusion="\n\n".join(f"**{heading}:** {plain(said)}" for heading, said in screen.lines),
            ranking="\n".join(markdown_table(screen.ranking)), summary="\n".join(markdown_table(own)),
            found={name: "\n".join(f"- {plain(one)}" for one in part.findings) for name, part in sections.items()},
            limits={name: plain(part.limits) for name, part in sections.items()},
        )  # fmt: skip


def main() -> None:
    """Writes both."""
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    disk.write_together({path: disk.text(page(record, language)) for language, path in PAGES.items()})


if __name__ == "__main__":
    main()
