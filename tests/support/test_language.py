"""The language of reports: templates, their translations, particles."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from string import Formatter

import pytest

from seqloom.comparison.instruments.training_steps import PARTS
from seqloom.comparison.verdicts import VERDICTS
from seqloom.scoring.metrics import METRICS
from seqloom.support.language import say, speaking, translations
from seqloom.support.wording import plural, together

ROOT = Path(__file__).parents[2] / "src" / "seqloom"
SOURCES = [path for path in sorted(ROOT.rglob("*.py")) if "support.language import" in path.read_text(encoding="utf-8")]


class TestSay:
    def test_english_is_the_template(self):
        assert say("{model} needs {ratio:.2f} as long", model="a", ratio=1.5) == "a needs 1.50 as long"

    def test_the_language_ends_with_its_block(self):
        with speaking("ko"):
            assert together(["a", "b"]) == "a, b"
            assert plural(1, "nothing that is translated") == "1 nothing that is translated"
        assert together(["a", "b"]) == "a and b"

    def test_a_field_stays_as_it_is(self, monkeypatch):
        """A test sentence may hold what looks like a particle to be chosen."""
        monkeypatch.setattr("seqloom.support.language._catalogue", lambda language: {"{text}!": "{text}을(를)!"})
        with speaking("ko"):
            assert say("{text}!", text="은(는) 길") == "은(는) 길을!"

    @pytest.mark.parametrize(
        ("word", "said"),
        [
            ("모델", "모델은 모델이 모델을 모델과 모델로"),
            ("문장", "문장은 문장이 문장을 문장과 문장으로"),
            ("GRU", "GRU는 GRU가 GRU를 GRU와 GRU로"),
            ("LSTM", "LSTM은 LSTM이 LSTM을 LSTM과 LSTM으로"),
            ("Transformer", "Transformer는 Transformer가 Transformer를 Transformer와 Transformer로"),
            ("scan-rnn", "scan-rnn은 scan-rnn이 scan-rnn을 scan-rnn과 scan-rnn으로"),
            ("10", "10은 10이 10을 10과 10으로"),
            ("7", "7은 7이 7을 7과 7로"),
            ("37 %", "37 %는 37 %가 37 %를 37 %와 37 %로"),
            ("값 [1.0, 2.0]", "값 [1.0, 2.0]은 값 [1.0, 2.0]이 값 [1.0, 2.0]을 값 [1.0, 2.0]과 값 [1.0, 2.0]으로"),
        ],
    )
    def test_particles_follow_the_sound(self, monkeypatch, word, said):
        template = " ".join(f"{{word}}{particle}" for particle in ("은(는)", "이(가)", "을(를)", "과(와)", "(으)로"))
        monkeypatch.setattr("seqloom.support.language._catalogue", lambda language: {"{word}": template})
        with speaking("ko"):
            assert say("{word}", word=word) == said


def calls(*names: str) -> Iterator[tuple[Path, ast.Call]]:
    """Calls of functions by these names, in all sources."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) in names:
                yield path, node


def choices(node: ast.expr) -> list[str]:
    """The literal, or both of ``a if … else b``."""
    if isinstance(node, ast.IfExp):
        return [*choices(node.body), *choices(node.orelse)]
    return [node.value] if isinstance(node, ast.Constant) and isinstance(node.value, str) else []


def templates() -> set[str]:
    """All that a report may say."""
    found = {text for _, call in calls("say", "later") if call.args for text in choices(call.args[0])}
    counted = [call for path, call in calls("plural") if "comparison" in path.parts]
    found |= {f"{{number:,}} {word}" for call in counted for word in choices(call.args[1])}
    for path in [*(ROOT / "comparison").glob("*.jinja"), *(ROOT / "demo_page").glob("*.jinja")]:
        found |= set(re.findall(r"""\bsay\(\s*"((?:[^"\\]|\\.)*)\"""", path.read_text(encoding="utf-8")))
    return found | {*VERDICTS, *PARTS.values(), *(metric.label for metric in METRICS.values() if " " in metric.label)}


def fields(template: str) -> set[tuple]:
    return {(name, spec) for _, name, spec, _ in Formatter().parse(template) if name is not None}


class TestCatalogue:
    def test_everything_has_a_translation(self):
        assert not templates() - translations("ko").keys()

    def test_the_fields_are_the_same(self):
        for template, translation in translations("ko").items():
            assert fields(template) == fields(translation), template

    def test_no_sentence_is_said_in_english_alone(self):
        """Three words or more of a report's sources are in a template, a refusal, a docstring, or the console's; what
        a process fails with is told as it is."""
        words = re.compile(r"[a-z]{2,} [a-z]{2,} [a-z]{2,}")
        for path in {*(ROOT / "comparison").rglob("*.py")} - {ROOT / "comparison" / "instruments" / "footprint.py"}:
            tree = ast.parse(path.read_text(encoding="utf-8"))
            spared = {
                inner
                for node in ast.walk(tree)
                if (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
                or isinstance(node, ast.Raise)
                or (isinstance(node, ast.Call)
                and getattr(node.func, "id", "") in ("say", "later", "plural", "print", "ValueError", "tqdm"))
                for inner in ast.walk(node)
            }  # fmt: skip
            bare = [
                node.value
                for node in ast.walk(tree)
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in spared
            ]
            assert not [text for text in bare if words.search(text)], path
