"""The language that a report is written in: English templates, and their translations in ``korean/*.yaml``.

The English template is the key of its translation: `say` looks it up and fills both alike.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.resources import files
from string import Formatter
from typing import Any, Literal, get_args

import yaml

Language = Literal["en", "ko"]
LANGUAGES: tuple[Language, ...] = get_args(Language)
CATALOGUES = {"ko": "korean"}
"""Folders beside this file."""
LETTERS = {"en": "", "ko": "가힣ㄱㅎ"}
"""A few that a font must have to write the language."""
_SPOKEN: ContextVar[Language] = ContextVar("language", default="en")

PARTICLES = {
    "은(는)": ("은", "는"), "이(가)": ("이", "가"), "을(를)": ("을", "를"), "과(와)": ("과", "와"), "(이)": ("이", ""),
    "(으)": ("으", ""),
}  # fmt: skip
"""After a consonant, after a vowel."""
PARTICLE = re.compile("|".join(map(re.escape, PARTICLES)))
CLOSED_DIGITS = "013678"
"""Whose Korean names end in a consonant: 영, 일, 삼, 육, 칠, 팔."""
CLOSED_LETTERS = "LMNR"
"""Likewise: 엘, 엠, 엔, 알."""


def spoken() -> Language:
    """The language of what is being written."""
    return _SPOKEN.get()


@contextmanager
def speaking(language: Language) -> Iterator[None]:
    """Within it, `say` speaks the language."""
    token = _SPOKEN.set(language)
    try:
        yield
    finally:
        _SPOKEN.reset(token)


def say(template: str, /, **fields: Any) -> str:
    """A sentence in the language that is spoken.

    Args:
        template: In English, with named fields as `str.format` has them; what has no translation stays English.
        fields: Their values.
    """
    language = _SPOKEN.get()
    if language == "en":
        return template.format(**fields)
    return _filled(_catalogue(language).get(template, template), fields)


def term(word: str) -> str:
    """What a word of the results, which are kept in English, is called in the language that is spoken."""
    language = _SPOKEN.get()
    return word if language == "en" else _catalogue(language).get(word, word)


def later(template: str) -> str:
    """A template that `say` is given elsewhere: a constant's, which is made before the language is known."""
    return template


def translations(language: Language) -> dict[str, str]:
    """Templates and what they are in a language."""
    return dict(entries(language))


def entries(language: Language) -> Iterator[tuple[str, str]]:
    """The same, one after another, as the catalogue's files have them."""
    folder = files("seqloom.support").joinpath(CATALOGUES[language])
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        for entry in yaml.safe_load(file.read_text(encoding="utf-8")):
            yield entry["en"], entry["ko"]


_catalogue = functools.cache(translations)


def _filled(template: str, fields: dict[str, Any]) -> str:
    """With each ``은(는)`` of the template, and the like, chosen by the sound before it; a field stays as it is."""
    text = ""
    for literal, name, spec, conversion in Formatter().parse(template):
        end = 0
        for match in PARTICLE.finditer(literal):
            text += literal[end : match.start()]
            text += PARTICLES[match[0]][0 if _is_closed(text, match[0]) else 1]
            end = match.end()
        text += literal[end:]
        if name is not None:
            text += f"{{{name}{'!' + conversion if conversion else ''}{':' + spec if spec else ''}}}".format(**fields)
    return text


def _is_closed(before: str, particle: str) -> bool:
    """Whether a Korean reader ends a text with a consonant; with (으)로, ㄹ counts as none.

    What stands in brackets at the end is not read; of Latin words their last letters tell, and of some wrongly.
    """
    text = re.sub(r"\s*(\([^()]*\)|\[[^\[\]]*\])$", "", before).rstrip("”’\"'`*")
    last = text[-1:]
    if "가" <= last <= "힣":
        final = (ord(last) - ord("가")) % 28
        return final not in ((0, 8) if particle == "(으)" else (0,))
    if last.isdigit():
        return last in (CLOSED_DIGITS.translate({ord(d): None for d in "178"}) if particle == "(으)" else CLOSED_DIGITS)
    word = re.search(r"[A-Za-z]+$", text)
    if word is None:
        return False  # ``%`` and the like end in a vowel
    letters = word[0]
    if letters.isupper() or len(letters) == 1:
        closed = letters[-1].upper() in CLOSED_LETTERS
        return closed and not (particle == "(으)" and letters[-1].upper() in "LR")
    if particle == "(으)" and letters.endswith("l"):
        return False
    return re.search(r"[lmn]$|ng$|(^|[^aeiou])[aeiou][bckpt]$", letters.lower()) is not None
