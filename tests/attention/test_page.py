"""The page of attention holds the maps, needs nothing from elsewhere, and texts stay texts."""

import json
import re
import shutil
import subprocess

import pytest
import torch
from helpers.attention import Page, made_maps
from helpers.patience import HANGS
from helpers.tiny import close

from seqloom.attention.page import SCALE, attention_page

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(1)> & <!-- {title} \u2028"


class TestPage:
    def test_holds_the_maps(self):
        maps = made_maps(layers=2, heads=3, encoder_self=torch.rand(2, 3, 3, 3).softmax(-1))
        page = Page(attention_page([maps, made_maps(source=("more", "⟨end⟩"))], title="a model"))
        data = json.loads(page.texts["script application/json"])
        assert [one["source"] for one in data["sentences"]] == ["one two ⟨end⟩", "more ⟨end⟩"]
        first = data["sentences"][0]
        assert (first["sourceLabels"], first["targetLabels"]) == (maps.source_labels, maps.target_labels)
        close(torch.tensor(first["cross"]) / SCALE, maps.cross, 1e-4)
        close(torch.tensor(first["self"]) / SCALE, maps.encoder_self, 1e-4)
        assert data["sentences"][1]["self"] is None
        assert page.texts["title"] == "Attention of a model"

    def test_texts_stay_texts(self):
        maps = made_maps(source=(EVIL, "⟨end⟩"), target=(EVIL,))
        plain, evil = attention_page([made_maps()]), attention_page([maps], title=EVIL)
        page = Page(evil)
        assert page.tags == Page(plain).tags  # not one more
        assert json.loads(page.texts["script application/json"])["sentences"][0]["output"] == EVIL
        assert page.texts["title"] == f"Attention of {EVIL}"

    def test_needs_nothing_from_elsewhere(self):
        text = attention_page([made_maps()])
        page = Page(text)
        assert not re.search(r"https?:|//[a-z]|url\(|@import|\bfetch\(|innerHTML", text)
        assert not {"link", "img", "iframe"} & {tag for tag, _ in page.tags}
        assert not any("src" in attributes or "href" in attributes for _, attributes in page.tags)
        assert ("html", {"lang": "en"}) in page.tags
        assert ("meta", {"charset": "utf-8"}) in page.tags
        assert "prefers-color-scheme: dark" in text

    def test_what_is_asked_for(self):
        maps = made_maps(encoder_self=torch.rand(1, 1, 3, 3))
        for what, has in (("all", (True, True)), ("cross", (True, False)), ("self", (False, True))):
            data = json.loads(Page(attention_page([maps], what=what)).texts["script application/json"])
            assert tuple(data["sentences"][0][kind] is not None for kind in ("cross", "self")) == has

    @pytest.mark.slow
    def test_in_a_browser(self, tmp_path):
        """The second target is chosen by the address; what it looked at is shaded and says its weight."""
        browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
        if browser is None:
            pytest.skip("there is no Chromium")
        maps = made_maps(source=("one", EVIL, "⟨end⟩"), target=("eins", "zwei", "⟨end⟩"), layers=2, heads=2)
        (tmp_path / "page.html").write_text(attention_page([maps]), encoding="utf-8")
        words = [
            browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
            "--dump-dom", f"file://{tmp_path}/page.html#t2",
        ]  # fmt: skip
        dom = subprocess.run(words, capture_output=True, text=True, timeout=HANGS, check=True).stdout
        shown = re.findall(r'<button[^>]*data-key="(\w+)"[^>]*>.*?<small>(.*?)</small>', dom, flags=re.DOTALL)
        weights = [f"{weight:.2f}" for weight in maps.weights()[1].tolist()]
        assert shown == [*((f"s{i}", weight) for i, weight in enumerate(weights)), *((f"t{i}", "") for i in range(3))]
        assert re.findall(r'data-key="(t\d)" aria-pressed="true" class="chosen"', dom) == ["t1"]
        assert "<img" not in dom
        assert dom.count("<td") == 1 + 9
