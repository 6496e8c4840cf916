"""Pages in Korean and in English say the same: their commands, their tables, their figures, their numbers, their links."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [path.relative_to(ROOT).as_posix() for path in sorted([*ROOT.glob("*.ko.md"), *ROOT.glob("docs/**/*.ko.md")])]
BLOCK = re.compile(r"^ *```(\w*)\n(.*?)^ *```", flags=re.DOTALL | re.MULTILINE)
SPAN = re.compile(r"`[^`\n]+`")
LINK = re.compile(r"(?<!!)\[(?:[^\]]|\n)+?\]\(([^)\s]+)\)")
NUMBER = re.compile(r"\d[\d,.]*\d|\d")
MEASURED = re.compile(r"\d+(?:[.,]\d+)+|\d+(?= ?%)")
"""A number that nobody writes in words."""


def english(page: str) -> str:
    return page.removesuffix(".ko.md") + ".md"


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def code(text: str) -> list[tuple[str, object]]:
    """The blocks of a page: commands and programs without their comments, of prose (`text`) the numbers alone."""
    comment = {"cpp": r" *//.*$"}
    return [
        (language, sorted(NUMBER.findall(block)))
        if language == "text"
        else (language, re.sub(comment.get(language, r" *(?<!\S)#.*$"), "", block, flags=re.MULTILINE).split("\n"))
        for language, block in BLOCK.findall(text)
    ]


def prose(text: str) -> str:
    return BLOCK.sub("", text)


def rows(text: str) -> list[list[list[str]]]:
    """Of every row of every table, of every cell: what is code, and the numbers beside it."""
    lines = [line for line in prose(text).splitlines() if line.startswith("|")]
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines]
    return [[sorted(SPAN.findall(cell)) + sorted(NUMBER.findall(SPAN.sub("", cell))) for cell in row] for row in cells]


def measured(text: str) -> set[str]:
    return set(MEASURED.findall(re.sub(r"`[^`]+`|\]\([^)]*\)|arXiv:\S+", "", prose(text))))


def links(text: str) -> set[str]:
    """Where a page leads, both languages of a page being one place, its headings left out."""
    paths = (link.partition("#")[0].replace(".ko.md", ".md") for link in LINK.findall(prose(text)))
    return {path for path in paths if path}


def anchors(text: str) -> set[str]:
    """Of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(text), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
class TestTwins:
    def test_lead_to_each_other(self, page):
        for one, other in ((page, english(page)), (english(page), page)):
            assert f"]({Path(other).name})" in read(one), f"{one} has no link to {other}"

    def test_code(self, page):
        assert code(read(page)) == code(read(english(page)))

    def test_tables(self, page):
        korean, twin = rows(read(page)), rows(read(english(page)))
        assert len(korean) == len(twin)
        for number, (row, other) in enumerate(zip(korean, twin, strict=True)):
            assert row == other, f"row {number} of the tables of {page}"

    def test_numbers(self, page):
        assert measured(read(page)) == measured(read(english(page)))

    def test_figures_and_parts(self, page):
        for pattern in (r"!\[[^\]]*\]\(([^)]+)\)", r"^(#+) "):
            of = [re.findall(pattern, prose(read(name)), flags=re.MULTILINE) for name in (page, english(page))]
            assert of[0] == of[1]

    def test_links(self, page):
        assert links(read(page)) == links(read(english(page)))
        for link in LINK.findall(prose(read(page))):
            path, _, anchor = link.partition("#")
            if "://" in link or link.startswith("mailto:"):
                continue
            target = ((ROOT / page).parent / path).resolve() if path else ROOT / page
            assert target.exists(), link
            korean = target.with_name(target.name.removesuffix(".md") + ".ko.md")
            named = target.name.endswith(".md") and not target.name.endswith(".ko.md") and korean.is_file()
            assert not named or target == ROOT / english(page), f"{link}: there is a Korean page"
            if anchor and not anchor.startswith("seqloom."):  # those of the reference are made by the site
                assert anchor in anchors(target.read_text("utf-8")), link
