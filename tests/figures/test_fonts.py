"""A font for every character, or a sentence that says which are missing."""

import re
import warnings

import pytest
from helpers.attention import made_maps
from matplotlib import font_manager

from seqloom.attention.maps import overview
from seqloom.figures import fonts
from seqloom.figures.style import save

DEJAVU = font_manager.findfont("DejaVu Sans")


class TestFonts:
    def test_own_font_where_it_has_everything(self):
        assert fonts.font_families("Größe ⟨end⟩ ж", files=[]) == (["DejaVu Sans"], "")

    def test_none_has_it(self):
        families, missing = fonts.font_families("a 한 b 글", files=[DEJAVU])
        assert (families, missing) == (["DejaVu Sans"], "한글")
        sentence = fonts.missing_font(missing)
        assert re.search(r"no installed font has Hangul \(한글\).*install .*Nanum.*--font", sentence)
        assert "these characters (🦜)" in fonts.missing_font("🦜")

    def test_the_picture_is_made_all_the_same(self, tmp_path):
        """With one warning, ours, and boxes for what is missing."""
        maps = made_maps(target=("한국어", "⟨end⟩"))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            figure = overview(maps, files=[])
            save(figure, tmp_path / "map.png")
        assert [str(warning.message)[:35] for warning in caught] == ["no installed font has Hangul (한국어), d"[:35]]
        assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["□□□", "⟨end⟩"]

    @pytest.mark.slow
    def test_finds_one(self):
        """Among files of which matplotlib's own list of fonts need not know."""
        file = next((file for file in font_manager.findSystemFonts() if ord("한") in fonts._characters(file)), None)
        if file is None:
            pytest.skip("no font with Hangul is installed")
        families, missing = fonts.font_families("a 한", files=[DEJAVU, file])
        assert missing == ""
        assert families[0] == "DejaVu Sans"
        assert len(families) == 2
        found = font_manager.findfont(families[1], fallback_to_default=False)
        assert ord("한") in fonts._characters(found)
        named = fonts.font_families("a", font=file)[0]
        assert named == [families[1], "DejaVu Sans"]

    def test_the_least_that_covers(self, monkeypatch):
        """Of fonts with some letters each."""
        have = {"x": "αβ", "y": "αβγ", "z": "δ", DEJAVU: "a"}
        monkeypatch.setattr(fonts, "_characters", lambda file: frozenset(map(ord, have[file])))
        monkeypatch.setattr(fonts, "_register", lambda file: f"family {file}")
        assert fonts.font_families("aβγδε", files=["x", "y", "z"]) == (["DejaVu Sans", "family y", "family z"], "ε")

    def test_no_font(self, tmp_path):
        (tmp_path / "font.ttf").write_text("no font")
        for file in (tmp_path / "font.ttf", tmp_path / "none.ttf"):
            with pytest.raises(ValueError, match="no font that can be read: give the file"):
                fonts.font_families("a", font=file)
