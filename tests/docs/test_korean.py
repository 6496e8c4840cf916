"""Pages in Korean say what their English twins say: the same commands, tables, figures, numbers and links."""

import re
from pathlib import Path

import pytest
from helpers.prose import BLOCK, anchors, prose

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.ko.md"), *ROOT.glob("docs/**/*.ko.md")])
SPAN = re.compile(r"`[^`\n]+`")
LINK = re.compile(r"(?<!!)\[[^\]]+\]\(([^)\s]+)\)")
NUMBER = re.compile(r"\d[\d,.]*\d|\d")
MEASURED = re.compile(r"\d+(?:[.,]\d+)+|\d+(?= ?%)")
"""A number that nobody writes in words."""


def english(page: Path) -> Path:
    return page.with_name(page.name.removesuffix(".ko.md") + ".md")


def korean(page: Path) -> Path:
    return page.with_name(page.name.removesuffix(".md") + ".ko.md")


def code(page: Path) -> list[tuple[str, list[str]]]:
    """A page's blocks: commands and programs without their comments, of what is `text` the numbers."""
    blocks = []
    for language, block in BLOCK.findall(page.read_text(encoding="utf-8")):
        comment = " *//.*" if language == "cpp" else r"(?:^| +)#.*"
        without = re.sub(comment, "", block, flags=re.MULTILINE)
        blocks.append((language, sorted(NUMBER.findall(block)) if language == "text" else without.splitlines()))
    return blocks


def rows(page: Path) -> list[list[list[str]]]:
    """Of every row of every table, of every cell: what is code, and the numbers beside it."""
    lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in prose(page).splitlines() if line.startswith("|")]
    return [[sorted(SPAN.findall(cell)) + sorted(NUMBER.findall(SPAN.sub("", cell))) for cell in row] for row in lines]


def measured(page: Path) -> set[str]:
    text = re.sub(r"`[^`]+`|\]\([^)]*\)|arXiv:\S+", "", prose(page))
    if page.name.startswith("comparison."):  # a report's sentences, which say 742 thousand as 74.2만
        text = re.sub(r"[\d.,]+(?:[만억]| (?:thousand|million|billion)\b)", "", text)
    return set(MEASURED.findall(text))


def links(page: Path) -> set[str]:
    """Where a page leads, both languages of a page being one place, its headings left out."""
    return {link.partition("#")[0].replace(".ko.md", ".md") for link in LINK.findall(prose(page))} - {""}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
class TestTwins:
    def test_lead_to_each_other(self, page):
        assert english(page).name in LINK.findall(prose(page))
        assert page.name in LINK.findall(prose(english(page)))

    def test_code(self, page):
        assert code(page) == code(english(page))

    def test_tables(self, page):
        here, there = rows(page), rows(english(page))
        assert len(here) == len(there)
        for number, (row, twin) in enumerate(zip(here, there, strict=True)):
            assert row == twin, f"row {number} of the page's tables"

    def test_numbers(self, page):
        assert measured(page) == measured(english(page))

    def test_figures_and_parts(self, page):
        for pattern in (r"!\[[^\]]*\]\(([^)]+)\)", r"^(#+) "):
            here, there = (re.findall(pattern, prose(one), flags=re.MULTILINE) for one in (page, english(page)))
            assert here == there

    def test_links(self, page):
        """The same places, in Korean where there is Korean, and headings that are there."""
        assert links(page) == links(english(page))
        for link in LINK.findall(prose(page)):
            path, _, anchor = link.partition("#")
            target = (page.parent / path).resolve() if path else page
            if "://" in link or target.suffix != ".md":
                continue
            assert target == english(page) or not korean(target).is_file(), f"{link} is there in Korean"
            if anchor and not anchor.startswith("seqloom."):  # those of the reference are made by the site
                assert anchor in anchors(target), link
