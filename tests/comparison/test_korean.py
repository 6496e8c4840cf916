"""The report in Korean, and its page on a telephone and in the dark."""

import io
import json
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image, ImageStat

from seqloom.comparison import report
from seqloom.comparison.sections import Plot, Table
from seqloom.support.language import speaking

RECORD = json.loads((Path(__file__).parents[2] / "docs" / "comparison" / "report.json").read_text(encoding="utf-8"))
SENTENCE = re.compile(r"[A-Za-z]*[a-z]{2,} [a-z]{2,} [a-z]{2,}")
"""Three words of English or more, of which names and terms are fewer."""


@pytest.fixture(scope="module")
def korean(tmp_path_factory) -> Path:
    """The folder of the shipped record, said in Korean."""
    folder = tmp_path_factory.mktemp("korean")
    report.write(folder, RECORD, "ko")
    return folder


@pytest.fixture
def page(korean):
    """Opens the page in a browser of a width and a colour scheme."""
    api = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("there is no chromium")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])

        def opened(width: int, scheme: str):
            shown = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
            shown.goto((korean / "report.html").as_uri())
            return shown

        yield opened
        browser.close()


def lightness(picture: bytes) -> float:
    """Of a PNG picture, from 0 to 255."""
    return ImageStat.Stat(Image.open(io.BytesIO(picture)).convert("L")).mean[0]


class TestKorean:
    def test_the_record_is_of_no_language(self, korean):
        written = json.loads((korean / "report.json").read_text(encoding="utf-8"))
        assert {**RECORD, "conclusion": written["conclusion"]} == written
        assert not re.search("[가-힣]", json.dumps(written, ensure_ascii=False))

    def test_no_english_sentence(self, korean):
        text = (korean / "report.md").read_text(encoding="utf-8").replace(" et al", "")
        pairs = RECORD["measures"]["quality"]["examples"]["pairs"]
        examples = [one for pair in pairs for one in (*pair["better_a"], *pair["better_b"])]
        maps = RECORD["measures"]["attention"]["maps"].values()
        for given in {one["source"] for one in (*examples, *maps)}:
            text = text.replace(given, "")
        told = [line for line in text.splitlines() if not line.startswith("    ")]  # but the command
        assert not [line for line in told if SENTENCE.search(line)]

    def test_figures_speak_it_too(self):
        with speaking("ko"):
            sections = report.sections_of(RECORD["measures"])
        plots = [part for section in sections.values() for part in section.parts if isinstance(part, Plot)]
        texts = {
            text.get_text() for plot in plots for text in plot.figure.findobj(lambda part: hasattr(part, "get_text"))
        }
        assert not [text for text in texts if SENTENCE.search(text)]
        assert {"되풀이할 글자 수", "학습 시간(초)", "길이(토큰)", "어텐션 없는 GRU"} <= texts

    def test_without_a_font_figures_are_english_and_it_is_said(self, tmp_path, monkeypatch):
        monkeypatch.setattr(report, "can_draw", lambda language: language == "en")
        few = {**RECORD, "measures": {"generalisation": RECORD["measures"]["generalisation"]}}
        with speaking("ko"):
            sections = report.contents(few)[0]
            assert "글꼴" in report.cautions_of(sections)[-1]
        plot, table = sections["generalisation"].parts
        assert isinstance(plot, Plot)
        assert plot.figure.axes[0].get_ylabel() == "exact match on test (%)"
        assert isinstance(table, Table)
        assert table.header[0] == "모델"


class TestPage:
    def test_it_says_its_language(self, page):
        assert page(390, "light").evaluate("document.documentElement.lang") == "ko"

    @pytest.mark.parametrize("width", [390, 1200])
    def test_nothing_is_off_the_screen(self, page, width):
        """What is wider lies in a part of its own that is moved sideways, and a figure is as wide as the screen."""
        shown = page(width, "light")
        assert shown.evaluate("document.documentElement.scrollWidth") <= width
        assert shown.evaluate("[...document.querySelectorAll('table')].every(table => table.closest('.scroll'))")
        assert shown.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")

    def test_a_telephone_has_figures_of_its_own(self, page):
        """Of one panel a row: higher than wide."""
        shape = "[...document.images].map(image => image.naturalHeight / image.naturalWidth)"
        small, large = page(390, "light").evaluate(shape), page(1200, "light").evaluate(shape)
        assert all(one > other for one, other in zip(small, large, strict=True))

    def test_dark_where_the_screen_is(self, page):
        colour = "getComputedStyle(document.body).backgroundColor"
        assert page(390, "light").evaluate(colour) == "rgb(255, 255, 255)"
        dark = page(390, "dark")
        assert dark.evaluate(colour) == "rgb(21, 25, 30)"
        figure = dark.locator("figure").first
        assert lightness(figure.screenshot()) < 100
        dark.emulate_media(media="print")
        assert dark.evaluate(colour) == "rgb(255, 255, 255)"
        assert lightness(figure.screenshot()) > 200
