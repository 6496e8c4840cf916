"""The language of reports: templates, their translations, particles."""

import pytest

from seqloom.support.language import say, speaking
from seqloom.support.wording import plural, together


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
