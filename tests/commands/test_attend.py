"""`seqloom attend`: what it draws, prints and refuses."""

import json
import re

import pytest
from helpers.attention import OPTIONS, SENTENCE, Page, letters
from helpers.tiny import tiny
from matplotlib import font_manager

from seqloom import translate
from seqloom.__main__ import main
from seqloom.attention.attend import attend
from seqloom.commands.attend import Attend
from seqloom.commands.command import usage


class TestCommand:
    @pytest.fixture(scope="class")
    def folders(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp("models")
        for name in ("lstm-luong", "post-norm", "gru"):
            model = tiny(name)
            model.generation_config.update(**OPTIONS)
            model.save_pretrained(folder / name)
            letters().save_pretrained(folder / name)
        return folder

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["lstm-luong", "post-norm"])
    def test_draws_and_prints(self, folders, name, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        assert main(["attend", str(folders / name), SENTENCE, "--html", "map.html", "--output=map.png"]) == 0
        assert sorted(path.name for path in tmp_path.iterdir()) == ["map.html", "map.png"]
        found = attend(tiny(name), letters(), SENTENCE, **OPTIONS)
        printed = capsys.readouterr().out
        assert f"{SENTENCE}\n→ {found.output} " in printed
        for label, (best, weight) in zip(found.target_labels, found.alignment(), strict=True):
            assert re.search(
                rf"^{re.escape(label)} *← {found.source_labels[best]} \({weight:.2f}\)$", printed, re.MULTILINE
            )
        assert printed.endswith("maps are in map.png, map.html\n")

    def test_without_options(self, folders, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert main(["attend", str(folders / "lstm-luong"), SENTENCE]) == 0
        assert [path.name for path in tmp_path.iterdir()] == ["attention.png"]
        assert main(["attend", str(folders / "lstm-luong"), SENTENCE, "--html", "a.html"]) == 0
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.html", "attention.png"]

    def test_several_sentences(self, folders, tmp_path):
        words = ["attend", str(folders / "lstm-luong"), "abc", "de", "--output", f"{tmp_path}/map.png"]
        assert main([*words, "--html", f"{tmp_path}/map.html"]) == 0
        assert sorted(path.name for path in tmp_path.iterdir()) == ["map-1.png", "map-2.png", "map.html"]
        data = json.loads(Page((tmp_path / "map.html").read_text("utf-8")).texts["script application/json"])
        assert [one["source"] for one in data["sentences"]] == ["abc", "de"]

    @pytest.mark.slow
    def test_options_reach_the_model(self, folders, tmp_path):
        words = ["attend", str(folders / "post-norm"), SENTENCE, "--html", f"{tmp_path}/map.html", "--overwrite"]

        def data(*more):
            assert main([*words, *more]) == 0
            return json.loads(Page((tmp_path / "map.html").read_text("utf-8")).texts["script application/json"])

        assert data("--target", "ca b")["sentences"][0]["targetLabels"] == ["ca", "b", "⟨end⟩"]
        assert data("--target", "ca b", "--tokens")["sentences"][0]["targetLabels"] == [*"ca␣b", "⟨end⟩"]
        assert data("--what", "self")["sentences"][0]["cross"] is None
        assert (data("--layer", "2", "--head", "1")["layer"], data("--head=2")["head"]) == (2, 2)
        beams = translate(tiny("post-norm"), letters(), SENTENCE, num_beams=3, **OPTIONS)
        assert data("--num_beams", "3")["sentences"][0]["output"] == beams
        assert len(data("--max_new_tokens", "2", "--tokens")["sentences"][0]["targetLabels"]) == 2

    @pytest.mark.slow
    def test_the_seed_draws(self, folders, tmp_path, capsys):
        """The same one draws the same outputs, another one others, none is the usual one."""
        drawn = "{do_sample: true, temperature: 3.0, top_k: 0}"

        def said(*words):
            call = ["attend", str(folders / "lstm-luong"), SENTENCE, "abc", "--output", f"{tmp_path}/map.png"]
            assert main([*call, "--overwrite", "--generate_kwargs", drawn, *words]) == 0
            return capsys.readouterr().out

        assert said("--seed", "5") == said("--seed", "5")
        assert said("--seed", "5") != said("--seed", "6")
        assert said() == said("--seed", "42")

    @pytest.mark.slow
    def test_never_overwrites_unasked(self, folders, tmp_path, capsys):
        for option, name in (("--output", "map.png"), ("--html", "map.html")):
            file = tmp_path / name
            words = ["attend", str(folders / "lstm-luong"), SENTENCE, option, str(file)]
            file.write_text("mine")
            assert main(words) == 1
            assert file.read_text() == "mine"
            assert f"{name} is there already; give --overwrite" in capsys.readouterr().err
            assert main([*words, "--overwrite"]) == 0
            assert file.read_bytes() != b"mine"
        (tmp_path / "map-2.png").write_text("mine")  # the second of two: nothing is written
        assert main(["attend", str(folders / "gru"), "a", "b", "--output", f"{tmp_path}/map.png"]) == 1
        assert "map-2.png is there already" in capsys.readouterr().err
        assert not (tmp_path / "map-1.png").exists()

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["{gru}", "ab"], "no attention, so there is no map"),
            (["{luong}"], "a model and a sentence are needed"),
            (["{luong}", " "], "nothing to look at"),
            (["{luong}", "ab", "--output", "map.jpg"], "--output is map.jpg: give a name that ends in .png."),
            (["{luong}", "ab", "--html", "map.pdf"], "ends in .html"),
            (["{luong}", "ab", "--output", "none/map.png"], "no folder none to write map.png to; make it first"),
            (["{luong}", "ab", "--what", "every"], "--what is 'every'; it can be all, cross, self"),
            (["{luong}", "ab", "--what", "self"], "no self-attention"),
            (["{luong}", "ab", "--layer", "two"], "--layer is 'two'; it must be a whole number, 1 or more"),
            (["{luong}", "ab", "--layer", "2"], "there are layers 1 to 1"),
            (["{luong}", "ab", "cd", "--target", "a"], "--target is the output of one sentence, but 2 are given"),
            (["{luong}", "ab", "--target", "a", "--num_beams", "2"], "needs no search, but num_beams is given too"),
            (["{luong}", "ab", "--output"], "--output needs a value"),
            (["{luong}", "ab", "--font", "none.ttf"], "none.ttf is no font that can be read"),
            (["{luong}", "ab", "--beams", "3"], "beams"),
            (["./none", "ab"], "there is no folder ./none"),
        ],
    )
    def test_refuses(self, folders, words, message, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        paths = {"gru": folders / "gru", "luong": folders / "lstm-luong"}
        assert main(["attend", *(word.format(**paths) for word in words)]) == 1
        printed = capsys.readouterr().err
        assert message in printed
        assert printed.startswith("error: ")
        assert printed.count("\n") == 1
        assert not list(tmp_path.iterdir())

    def test_help(self, capsys):
        assert main(["attend", "--help"]) == 0
        assert "usage: seqloom attend MODEL" in capsys.readouterr().out
        assert main(["attend"]) == 2
        assert usage(Attend) in " ".join(capsys.readouterr().out.split())

    def test_says_what_cannot_be_drawn(self, folders, tmp_path, monkeypatch, capsys):
        """Once, and draws the rest."""
        monkeypatch.setattr(font_manager, "findSystemFonts", lambda *_, **__: [])
        words = ["attend", str(folders / "lstm-luong"), "ab 한글 c", "de 한글", "--output", f"{tmp_path}/map.png"]
        assert main(words) == 0
        assert capsys.readouterr().err.count("warning: no installed font has Hangul (한글)") == 1
        assert len(list(tmp_path.iterdir())) == 2
