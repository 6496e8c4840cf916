"""The chapter for students: its numbers come again, its sentences about them are true, and its links lead somewhere."""

import json
import math
import re
import struct
import sys
from pathlib import Path

import chapter
import pytest
import torch
import toys
from drawings import DRAWINGS
from helpers.prose import anchors
from walk import walk

from seqloom.figures.style import save

ROOT = Path(__file__).parents[2]
LANGUAGES = sorted(chapter.PAGES)
TOLERANCE = 2e-3
"""Of numbers that are printed with two decimals or three: a processor rounds the eighth."""
MEASURED = re.compile(r"\d+[.,]\d+|\d+ %|\d{2,}")
"""A number that somebody measured, as opposed to a small one that counts."""


@pytest.fixture(scope="module")
def values():
    return json.loads(chapter.VALUES.read_text(encoding="utf-8"))


def text(language):
    return chapter.PAGES[language].read_text(encoding="utf-8")


def template(language):
    return (chapter.HERE / f"chapter.{language}.md.jinja").read_text(encoding="utf-8")


def figures(language):
    return re.findall(r"!\[.+\]\(how-they-work/figures/(\w+)\.png\)", text(language))


def size(png):
    return struct.unpack(">II", png[16:24])


def check_alike(new, old, place=""):
    """The same words and counts, and numbers that differ by no more than rounding."""
    if isinstance(old, dict):
        assert new.keys() == old.keys(), place
        for name in old:
            check_alike(new[name], old[name], f"{place}.{name}")
    elif isinstance(old, list):
        assert len(new) == len(old), place
        for index, (one, other) in enumerate(zip(new, old, strict=True)):
            check_alike(one, other, f"{place}[{index}]")
    elif isinstance(old, float):
        assert math.isclose(new, old, rel_tol=TOLERANCE, abs_tol=TOLERANCE), f"{place}: {new}, and the page has {old}"
    else:
        assert new == old, place


class TestPage:
    def test_is_made_of_the_values(self, values):
        for page, made in chapter.pages(values).items():
            assert page.read_text(encoding="utf-8") == made, f"python docs/how-they-work/chapter.py writes {page.name}"

    @pytest.mark.parametrize("language", LANGUAGES)
    def test_no_number_is_typed(self, language):
        """But years, the wavelengths' 10000, and the base model's width in its heading."""
        allowed = r"```.*?```|\{\{.*?\}\}|\]\(.*?\)|et al\.\s+\d{4}|Multi30k|^### .*?$"
        typed = re.sub(allowed, "", template(language), flags=re.DOTALL | re.MULTILINE)
        assert set(MEASURED.findall(typed)) == set(), "let the script write it: {{ … }}"

    def test_both_languages_have_the_same_values(self):
        groups = "task|ids|gru|gradient|bottleneck|attention|positions|head|layer|base|decoder"
        of = {
            name: {
                value
                for shown in re.findall(r"\{\{.*?\}\}", template(name), flags=re.DOTALL)
                for value in re.findall(rf"\b(?:{groups})\.[a-z_.]+(?:\[\d+\])*", shown)
            }
            for name in LANGUAGES
        }
        assert of["en"] == of["ko"]
        assert len(of["en"]) > 80

    def test_both_languages_have_the_same_parts(self):
        assert figures("en") == figures("ko") == list(dict.fromkeys(figures("en")))
        levels = [re.findall(r"^(#+) ", text(language), flags=re.MULTILINE) for language in LANGUAGES]
        assert levels[0] == levels[1]

    @pytest.mark.parametrize("language", LANGUAGES)
    def test_links(self, language):
        page = chapter.PAGES[language]
        links = re.findall(r"(?<!!)\[[^\]]+\]\(([^)]+)\)", text(language))
        assert len(links) > 15
        for link in links:
            path, _, anchor = link.partition("#")
            target = page.parent / path if path else page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link

    @pytest.mark.parametrize("page", ["README.md", "README.ko.md", "docs/comparison.md", "docs/comparison.ko.md"])
    def test_is_found(self, page):
        language = "ko" if ".ko." in page else "en"
        assert f"({'docs/' * page.startswith('R')}{chapter.PAGES[language].name})" in (ROOT / page).read_text("utf-8")

    def test_figures_are_small_and_all_shown(self):
        files = {path.stem: path.stat().st_size for path in chapter.FIGURES.iterdir()}
        assert set(files) == set(DRAWINGS) == set(figures("en"))
        assert max(files.values()) <= 100_000


class TestSentences:
    """What the prose says of the numbers; whoever trains the models anew reads here what to look at."""

    def test_a_gates_unit(self, values):
        gru, words = values["gru"], values["ids"]["words"]
        unit, now = gru["of_unit"], words.index("now")
        assert now == 4
        assert words[5] == "</s>"
        assert unit["keep"][now] < 0.05
        assert unit["before"][now] < 0  # `now` is noticed,
        assert unit["after"][now] > 0.9
        assert unit["keep"][5] > 0.95  # and held
        for step in range(len(words)):
            keep = unit["keep"][step]
            mixed = (1 - keep) * unit["new"][step] + keep * unit["before"][step]
            assert mixed == pytest.approx(unit["after"][step], abs=1e-3)

    def test_the_gradient(self, values):
        gradient, far = values["gradient"], chapter.BACK[-1]
        assert gradient["rnn"][far] < 0.05
        assert gradient["gru"][far] > 0.5
        for back in chapter.BACK:  # the slopes alone shrink fastest
            assert gradient["tanh"][back] < gradient["rnn"][back] < gradient["gru"][back]
        assert gradient["gru"][-1] < 0.2 * gradient["gru"][far]  # the first words fade in the GRU too
        nearly_none = sum(slope < 0.05 for slope in gradient["slopes"])
        assert nearly_none > len(gradient["slopes"]) / 10

    def test_the_bottleneck(self, values):
        found = values["bottleneck"]
        assert 2 * values["attention"]["width"] == values["gru"]["width"]
        assert found["gru"][0] == 100
        assert found["gru"][1] < 10
        assert min(found["attention"][:2]) > 95
        assert max(found[name][3] for name in ("gru", "attention", "transformer")) < 5

    def test_where_attention_looks(self, values):
        found, words = values["attention"], values["ids"]["words"]
        looked = {
            word: words[max(range(len(row)), key=row.__getitem__)]
            for word, row in zip(found["written"], found["weights"], strict=True)
        }
        expected = {"le": "now", "chat": "cat", "noir": "black", "dort": "sleeps", "maintenant": "now"}
        assert expected.items() <= looked.items()
        assert found["written"][-2] == "maintenant"  # "the last word"
        assert max(found["weights"][1]) < 0.5  # of chat: spread
        assert (found["read"], found["writes"], words[1]) == ("chat", "noir", "black")
        assert found["of_step"][1] > 0.9

    def test_a_head(self, values):
        head = values["head"]
        assert (head["word"], head["looked"], values["ids"]["words"][2], head["head"]) == ("the", "cat", "cat", 2)
        assert head["weights"][2] > 0.95
        assert head["every"][0][0][0][0] > 0.5
        assert sum(head["one_by_one"]) == pytest.approx(head["products"][2], abs=1e-3)
        assert head["weights"] == head["every"][0][1][0]

    def test_a_layer(self, values):
        layer = values["layer"]
        assert values["ids"]["words"][2] == layer["word"] == "cat"
        assert layer["plain"][0] == pytest.approx((layer["added"][2][0] - layer["mean"]) / layer["deviation"], abs=1e-3)

    def test_beams_beat_greedy(self, values):
        decoder = values["decoder"]
        assert [best[0][0] for best in decoder["steps"]] == [*decoder["greedy"].split(), "</s>"]
        assert decoder["steps"][0][1][0] == "maintenant"
        assert abs(decoder["steps"][0][1][1] - values["task"]["now"][0] / 100) < 0.05
        assert decoder["best"].startswith("maintenant")
        assert decoder["best_probability"] > 1.2 * decoder["product"]
        for weights in decoder["mask"][0]:
            assert all(weight == 0 for row, line in enumerate(weights) for weight in line[row + 1 :])


class TestScript:
    @pytest.mark.slow
    def test_the_numbers_come_again(self, values):
        """`walk` holds each formula against the model meanwhile."""
        check_alike(json.loads(chapter.as_json(walk())), values)

    @pytest.mark.slow
    @pytest.mark.parametrize("name", DRAWINGS)
    def test_pictures(self, name, values, tmp_path):
        save(DRAWINGS[name](values), tmp_path / "new.png")
        new, old = (tmp_path / "new.png").read_bytes(), (chapter.FIGURES / f"{name}.png").read_bytes()
        assert size(new) == size(old)

    @pytest.mark.slow
    def test_a_model_is_trained_again(self):
        """Other processors end with other weights; they learn all the same."""
        model = toys.train("attention", steps=250)
        assert toys.right(model, clauses=1, count=100) > 0.5

    @pytest.mark.slow
    def test_weights_are_kept(self, tmp_path, monkeypatch):
        kept = {kind: toys.load(kind) for kind in toys.WIDTHS}
        monkeypatch.setattr(toys, "WEIGHTS", tmp_path / "weights.safetensors")
        toys.store(kept)
        for kind, model in kept.items():
            for name, parameter in toys.load(kind).named_parameters():
                assert torch.equal(parameter, model.state_dict()[name])

    @pytest.mark.slow
    @pytest.mark.parametrize("language", LANGUAGES)
    def test_do_it_yourself(self, language, monkeypatch, capsys):
        (code,) = re.findall(r"```python\n(.*?)```", text(language), flags=re.DOTALL)
        monkeypatch.chdir(ROOT)
        monkeypatch.setattr(sys, "path", [*sys.path])
        exec(code, {})
        printed = capsys.readouterr().out
        assert printed.startswith("['la souris verte mange ici']")
        assert "tensor(" in printed


def test_held_out_sentences_are_not_trained_on(monkeypatch):
    """Those by which longer sentences are judged."""
    assert not toys.is_held_out("the cat sleeps")
    rng = toys.random.Random(1)
    pairs = [toys.sentence(rng, 2)[0] for _ in range(2000)]
    assert 0.15 < sum(map(toys.is_held_out, pairs)) / len(pairs) < 0.25
    assert toys.decode(toys.encode([pairs[0]], toys.ENGLISH)[0].tolist(), toys.ENGLISH) == pairs[0]
