"""The page in a browser: type, click, see, point, tap, switch the language; what cannot be shown is said in a sentence.

The page is that of a Space's folder, which `python app.py` serves, with models that it takes from the tests' Hub.
"""

import re
import socket
import subprocess
import sys

import pytest

from seqloom.__main__ import main
from seqloom.attention.attend import attend
from seqloom.decoding.translate import translate
from seqloom.demo_page.models import open_models
from seqloom.demo_page.space import write_space
from seqloom.support.language import translations

SENTENCE = "나는 오늘 친구를 만났습니다 !"


@pytest.mark.slow
class TestRefusals:
    """Before any model is loaded."""

    def refused(self, capsys, *words: str) -> str:
        assert main(["demo-page", *words]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        return line

    def test_what_is_asked(self, capsys, tmp_path):
        assert "--share is of no use with --space" in self.refused(capsys, "me/x", "--space", "x", "--share")
        assert "--overwrite belongs to --space" in self.refused(capsys, "me/x", "--overwrite")
        assert "num_beams is 9" in self.refused(capsys, "me/x", "--num_beams", "9")
        assert "holds no model" in self.refused(capsys, str(tmp_path))
        assert "me/x is named twice" in self.refused(capsys, "me/x", "me/x")

    def test_port_in_use(self, capsys):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = str(taken.getsockname()[1])
            assert f"port {port} of 127.0.0.1 cannot be listened on" in self.refused(capsys, "me/x", "--port", port)
        assert "port 99999 of" in self.refused(capsys, "me/x", "--port", "99999")
        assert "port 7999 of nowhere.invalid" in self.refused(
            capsys, "me/x", "--port", "7999", "--host", "nowhere.invalid"
        )

    def test_missing_extra(self, capsys, monkeypatch):
        monkeypatch.setitem(sys.modules, "gradio", None)
        assert self.refused(capsys, "me/x").endswith("the demo page needs gradio: pip install 'seqloom[demo]'")


@pytest.fixture(scope="module")
def address(shared, chromium, tmp_path_factory):
    """Of the page, served by a process of its own."""
    folder = tmp_path_factory.mktemp("page") / "space"
    write_space(folder, list(shared.repositories), num_beams=4)
    server = subprocess.Popen(
        [sys.executable, "app.py"], cwd=folder, env=shared.env(OMP_NUM_THREADS="1", PYTHONUNBUFFERED="1"),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    lines = []
    for line in server.stdout:
        lines.append(line)
        if found := re.search(r"the page is at (\S+)", line):
            yield found[1]
            break
    else:
        pytest.fail("".join(lines))
    server.terminate()
    server.communicate()


@pytest.fixture(scope="module")
def browser(chromium):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def page(browser, address):
    """The page, just opened; it asks nobody else for anything, and no error is left."""
    page = browser.new_page(viewport={"width": 390, "height": 900}, has_touch=True, color_scheme="dark")
    asked, faults = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda fault: faults.append(str(fault)))
    page.goto(address)
    page.locator("#sentence textarea").wait_for()
    yield page
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []
    assert faults == []
    page.close()


def ask(page, sentence: str) -> None:
    page.locator("#sentence textarea").fill(sentence)
    page.locator("#run").click()


@pytest.mark.slow
class TestPage:
    def test_type_and_see(self, page, models):
        ask(page, SENTENCE)
        cards = page.locator(".sl-card")
        cards.nth(2).wait_for()
        for card, shown in zip(cards.all(), open_models([str(folder) for folder in models.values()]), strict=True):
            outputs = translate(
                shown.model, shown.tokenizer, SENTENCE, num_beams=4, num_return_sequences=4, return_hypotheses=True
            )
            assert card.locator("h3").inner_text() == shown.title
            about = card.locator(".sl-about").inner_text()
            assert about.startswith(f"{shown.family} · {shown.parameters:,} parameters")
            assert card.locator(".sl-output").inner_text() == (outputs[0].text.strip() or "It wrote nothing.")
            assert re.fullmatch(
                r"[\d.]+ ms from the sentence .*: 4 beams, CPU, threads: 1", card.locator(".sl-time").inner_text()
            )
            leaves = [text.rpartition(" ")[2] for text in card.locator(".sl-leaves li").all_inner_texts()]
            assert leaves == [f"{output.score:.2f}".replace("-", "−") for output in outputs]
            last = card.locator(".sl-node.sl-best").last  # the best output's end
            assert last.locator("text").last.text_content() == leaves[0]
            assert not card.locator(".sl-note", has_text="does not know").count()
        assert "ko → en" in cards.nth(0).inner_text()
        assert "This model has no attention." in cards.nth(2).inner_text()
        assert page.locator(".sl-note").first.inner_text().startswith(
            "These models read different languages (gru: ko, transformer: de)"
        )  # fmt: skip
        assert page.evaluate("document.documentElement.scrollWidth") <= 390

    def test_point_and_tap(self, page, models):
        (shown,) = open_models([str(models["me/gru"])])
        page.locator("#examples button", has_text=SENTENCE).click()  # of the card's widget
        card = page.locator(".sl-card").first
        card.wait_for()
        assert page.locator("#sentence textarea").input_value() == SENTENCE
        _, ids = translate(shown.model, shown.tokenizer, SENTENCE, num_beams=4, return_tokens=True)
        weights = attend(shown.model, shown.tokenizer, SENTENCE, target=ids).weights()
        words = {side: card.locator(f".sl-words[data-side={side}] button") for side in "st"}
        assert [words["t"].count(), words["s"].count()] == list(weights.shape)
        words["t"].nth(1).hover()
        said = words["s"].locator("small").all_inner_texts()
        assert [float(text) for text in said] == pytest.approx(weights[1].tolist(), abs=0.006)
        words["s"].first.tap()
        words["t"].first.locator("small", has_text=".").wait_for()  # a tap comes when the browser has time
        said = words["t"].locator("small").all_inner_texts()
        assert [float(text) for text in said] == pytest.approx(weights[:, 0].tolist(), abs=0.006)
        card.locator(".sl-node").first.tap()
        card.locator(".sl-said", has_text=re.compile(r" · log p −[\d.]+ · \w+")).wait_for()

    def test_switch_the_language(self, page):
        ask(page, SENTENCE)
        card = page.locator(".sl-card").first
        card.wait_for()
        said = card.locator(".sl-output").inner_text()
        korean = translations("ko")
        page.get_by_text("한국어").click()
        page.locator("h1", has_text=korean["The same sentence, model by model"]).wait_for()
        page.locator("#run", has_text=korean["Go"]).wait_for()
        card.locator("h4", has_text=korean["Where it looked"]).wait_for()
        assert card.locator(".sl-output").inner_text() == said
        assert not re.search("Beams|Sentence|Examples|Output", page.locator("main").inner_text())

    def test_what_cannot_be_shown(self, page):
        problem = page.locator(".sl-problem")
        ask(page, "  ")
        problem.wait_for()
        assert problem.inner_text() == "There is no sentence yet. Type one, or take an example."
        page.get_by_text("한국어").click()
        page.locator(".sl-problem", has_text="예문을 골라").wait_for()
        ask(page, "x " * 300)
        page.locator(".sl-problem", has_text="문장이 599자입니다.").wait_for()
        assert page.locator(".sl-card").count() == 0
        page.get_by_text("English").click()
        ask(page, "나는 <b>☂</b>")
        note = page.locator(".sl-card .sl-note", has_text="does not know").first
        note.wait_for()
        assert note.inner_text() == "This model does not know <, >, ☂, /: it reads that as its unknown token."
