"""A model's tokens as people read them: text for each, and which of them make up a word.

Nothing is assumed about how a tokenizer spells: what a token says is what it adds to the decoded text, so ``Ġ``, ``▁``
and ``##`` never show. A byte-level token may hold a part of a character (a Hangul syllable has three bytes); it shows
that character, with ``…`` on the side where the rest is missing.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from seqloom.data.tokenization import target_tokenizer

REPLACED = str.maketrans({" ": "␣", "\t": "⇥", "\n": "⏎", "\r": "⏎"})
SPECIAL_NAMES = {"bos_token": "start", "eos_token": "end", "pad_token": "padding", "unk_token": "unknown"}
UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")
"""Scripts without spaces between words, as Unicode's names of characters begin; tokens stand for words there."""


@dataclass(frozen=True)
class Token:
    """What a token says, and where in the text it stands."""

    start: int
    end: int
    """Characters of the text from start to end, those of which it holds only a part included."""
    starts_inside: bool
    ends_inside: bool
    """Whether it begins or ends in the middle of a character."""
    special: str | None
    """The name of a special token, which has no text: ``end``."""


def read_tokens(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], *, is_target: bool) -> tuple[str, list[Token]]:
    """The text of ids, special tokens left out, and what each of them adds to it.

    Args:
        tokenizer: Any of transformers, or a pair.
        ids: Of one text.
        is_target: Whether they are the target's; matters for a pair.
    """
    has_sides = target_tokenizer(tokenizer) is not tokenizer
    options = {"use_source_tokenizer": True} if has_sides and not is_target else {}
    options |= {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}

    def decode(some: Sequence[int]) -> str:
        said = tokenizer.decode(list(some), **options)
        assert isinstance(said, str)  # of several texts it would be a list
        return said

    text, names, tokens = decode(ids), _special_names(tokenizer), []
    place, is_inside = 0, False  # how far the tokens so far go, and whether a character is begun there
    for number, index in enumerate(ids, start=1):
        if index in names:
            tokens.append(Token(place, place, False, False, names[index]))
            continue
        prefix = decode(ids[:number])
        common = max(place, len(os.path.commonprefix([prefix, text])))  # noqa: RUF071 - by characters is meant
        # What an unfinished character decodes to is no part of the text, which has the character there.
        goes_on = common < len(text) and len(prefix) > common and set(prefix[common:]) == {"\ufffd"}
        tokens.append(Token(place, common + goes_on, is_inside, goes_on, None))
        place, is_inside = common, goes_on
    return text, tokens


def _special_names(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """Id → name of every special token: ``end``, or what stands between its brackets."""
    names = dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
    names = {index: str(token).strip("<>[]|/ ") or str(token) for index, token in names.items()}
    for attribute, name in reversed(SPECIAL_NAMES.items()):  # where one token has two roles, the first name counts
        if (index := getattr(tokenizer, f"{attribute}_id", None)) is not None:
            names[index] = name
    if (index := tokenizer.eos_token_id) is not None:
        names[index] = "end"
    return names


def word_labels(text: str, tokens: Sequence[Token], groups: Sequence[Sequence[int]]) -> list[str]:
    """What to write beside each group of tokens."""
    return [_label(text, [tokens[index] for index in group]) for group in groups]


def _label(text: str, tokens: Sequence[Token]) -> str:
    first, last = tokens[0], tokens[-1]
    if first.special is not None:
        return f"⟨{first.special}⟩"
    said = text[first.start : last.end]
    said = said.strip() or said.translate(REPLACED) or "␣"  # the space before the first word is left out of the text
    said = "".join(c if c.isprintable() else "\ufffd" for c in said.translate(REPLACED))
    return "…" * first.starts_inside + said + "…" * last.ends_inside


def group_words(text: str, tokens: Sequence[Token]) -> list[list[int]]:
    """Indices of tokens, word by word; a special token stands alone, and so do signs.

    A token is never divided, and tokens that share a character stay together. Where a script has no spaces every
    token is a word.
    """
    groups: list[list[int]] = []
    for index, token in enumerate(tokens):
        if groups and not _is_boundary(text, tokens[index - 1], token):
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def says_more_by_words(text: str, tokens: Sequence[Token]) -> bool:
    """Whether words are something to look at: more than one of them, or one of a single token."""
    groups = [group for group in group_words(text, tokens) if tokens[group[0]].special is None]
    return len(groups) != 1 or len(groups[0]) == 1


def _is_boundary(text: str, before: Token, after: Token) -> bool:
    """Whether a word ends between two tokens."""
    if before.special is not None or after.special is not None:
        return True
    place = after.start
    if after.starts_inside or before.start == before.end or not 0 < place < len(text):
        return False  # in a character, or after a token that adds nothing
    left, right = text[place - 1], text[place]
    if left.isspace():
        return bool(text[before.start : before.end].strip())  # a space that stands alone belongs to what follows
    if right.isspace():
        return True
    if _joins(left, right, text[place + 1 : place + 2]) or _joins(text[max(0, place - 2) : place - 1], left, right):
        return False
    kinds = _kind(left), _kind(right)
    if kinds[1] == "letter":
        return kinds[0] == "sign" or _is_unspaced(left) or _is_unspaced(right)
    return kinds[1] == "sign" and kinds[0] != "sign"  # a mark belongs to what is before it, signs stay together


def _joins(left: str, middle: str, right: str) -> bool:
    """Whether a sign holds what is around it together: ``don't``, ``3.5``."""
    is_apostrophe = middle in "'’" and _kind(left) == _kind(right) == "letter"
    return is_apostrophe or (middle in ".," and left.isdigit() and right.isdigit())


def _kind(character: str) -> str:
    """``letter`` (digits and the underscore included), ``mark`` (which goes with the letter before it) or ``sign``."""
    category = unicodedata.category(character) if character else "Zs"
    if category[0] == "M" or category == "Cf":
        return "mark"
    return "letter" if category[0] in "LN" or category == "Pc" else "sign"


def _is_unspaced(character: str) -> bool:
    return unicodedata.name(character, "").startswith(UNSPACED)


def merge(weights: torch.Tensor, rows: Sequence[Sequence[int]], columns: Sequence[Sequence[int]]) -> torch.Tensor:
    """(…, rows, columns) weights of tokens → of words: rows are averaged, columns added up, so that what a row adds up
    to stays as it was.

    Args:
        weights: As attention gives them.
        rows, columns: Indices of tokens, word by word, as `group_words` gives them.
    """
    averaged = torch.stack([weights[..., group, :].mean(-2) for group in rows], dim=-2)  # (…, words, columns)
    return torch.stack([averaged[..., group].sum(-1) for group in columns], dim=-1)  # (…, words, words)
