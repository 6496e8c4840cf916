"""Fonts that have the letters of a text: among those that are installed, or one that is named.

matplotlib's own font has Latin, Greek, Cyrillic, Arabic and Hebrew letters, but no Hangul, Han or kana, and its list of
installed fonts is from its first start on. So the files themselves are asked which characters they have.
"""

from __future__ import annotations

import functools
import unicodedata
import warnings
from collections.abc import Iterable
from pathlib import Path

from seqloom.support.language import LETTERS, Language

MISSING = "□"
SCRIPTS = {"HANGUL": "Hangul", "CJK": "Han characters", "HIRAGANA": "kana", "KATAKANA": "kana", "THAI": "Thai letters"}


def font_families(
    text: str, *, font: str | Path | None = None, files: Iterable[str] | None = None
) -> tuple[list[str], str]:
    """Families that have all characters of a text, and the characters that none of them has.

    matplotlib's own font is the first; others are taken where it lacks something, the fewer the better.

    Args:
        text: What is to be written.
        font: A font file that goes before all others.
        files: Font files to choose from; default: all that are installed, those too that matplotlib has not met yet.

    Returns:
        Names for matplotlib's ``fontfamily``, and the missing characters in the order of the text.

    Raises:
        ValueError: The font file cannot be read.
    """
    from matplotlib import font_manager

    families: list[str] = []
    missing = dict.fromkeys(c for c in text if c.isprintable() and not c.isspace())
    if font is not None:
        if not Path(font).is_file() or not _characters(str(font)):
            raise ValueError(f"{font} is no font that can be read: give the file of a TrueType or OpenType font.")
        families.append(_register(str(font)))
        missing = {c: None for c in missing if ord(c) not in _characters(str(font))}
    own = font_manager.findfont("DejaVu Sans")
    families.append("DejaVu Sans")
    missing = {c: None for c in missing if ord(c) not in _characters(own)}
    if missing:
        candidates = sorted(font_manager.findSystemFonts() if files is None else files, key=_preference)
    while missing:
        found = max(candidates, key=lambda file: sum(ord(c) in _characters(file) for c in missing), default=None)
        rest = {c: None for c in missing if found is None or ord(c) not in _characters(found)}
        if found is None or len(rest) == len(missing):
            break
        families.append(_register(found))
        missing = rest
    return families, "".join(missing)


def can_draw(language: Language) -> bool:
    """Whether an installed font has the letters of a language."""
    return not font_families(LETTERS[language])[1]


@functools.cache
def _characters(file: str) -> frozenset[int]:
    """Code points of a font; none if it cannot be read or is made of bitmaps."""
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(file)
        return frozenset(font.get_charmap()) if font.scalable else frozenset()
    except (RuntimeError, OSError):
        return frozenset()


def _preference(file: str) -> tuple[bool, bool, int, str]:
    """Upright, regular, plain letters first; the path makes the choice the same every time."""
    name = Path(file).stem.lower()
    is_plain = not any(word in name for word in ("bold", "light", "thin", "black", "italic", "oblique", "heavy"))
    return not is_plain, not any(word in name for word in ("sans", "gothic")), len(name), file


def _register(file: str) -> str:
    """The font's family, which matplotlib then knows."""
    from matplotlib import font_manager
    from matplotlib.ft2font import FT2Font

    if not any(entry.fname == file for entry in font_manager.fontManager.ttflist):
        font_manager.fontManager.addfont(file)
    return FT2Font(file).family_name


def missing_font(characters: str, way_out: str = ", or name a font's file with --font") -> str:
    """The sentence for characters that no font has.

    Args:
        characters: They.
        way_out: What else helps than a font that is installed.
    """
    shown = characters[:12] + ("…" if len(characters) > 12 else "")
    scripts = (unicodedata.name(c, "").replace("-", " ").split(" ")[0] for c in characters)
    names = sorted({SCRIPTS.get(script, "these characters") for script in scripts})
    return (
        f"no installed font has {' and '.join(names)} ({shown}), drawn as {MISSING}: install one, say Noto Sans CJK or "
        f"Nanum for Korean and Noto Sans for other scripts{way_out}."
    )


def choose_fonts(
    labels: Iterable[str], font: str | Path | None, files: Iterable[str] | None, **words: str
) -> tuple[list[str], dict[int, str]]:
    """Families, and a table for `str.translate` that writes `MISSING` for what they lack; warns if there is any, in the
    `words` of `missing_font`."""
    families, missing = font_families("".join(labels), font=font, files=files)
    if missing:
        warnings.warn(missing_font(missing, **words), UserWarning, stacklevel=3)
    return families, str.maketrans(dict.fromkeys(missing, MISSING))
