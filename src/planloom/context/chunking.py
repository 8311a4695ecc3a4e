"""Where a long text is cut.

Rule 1: every character is in a chunk, no chunk is longer than `size`, and each begins exactly `overlap` characters
before the end of the one before it.
Rule 2: within that, a cut falls where a paragraph, a line, a sentence or a word ends, if one does in the latter half of
what is new.
Rule 3: a position counts characters of the text as Python does (code points), so that it never splits one.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from planloom.errors import ValidationError

_ENDS = (re.compile(r"\n[^\S\n]*\n"), re.compile(r"\n"), re.compile(r"[.!?]\s"), re.compile(r"\s"))
"""What a chunk may end with, best first: a paragraph, a line, a sentence, a word."""
_JOINER = "\u200d"
_TONES = range(0x1F3FB, 0x1F400)
"""Skin tones, which stand behind the sign that they colour."""


def spans(text: str, size: int, overlap: int = 0) -> Iterator[tuple[int, int]]:
    """Return where each chunk of a text begins and ends; none of "".

    Args:
        size: Most characters of a chunk.
        overlap: Characters at the beginning of each but the first that are also the end of the one before.

    Raises:
        ValidationError: `size` is no whole number above 0, or `overlap` none from 0 to below `size`.
    """
    for name, value, least in (("chunk_size", size, 1), ("chunk_overlap", overlap, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValidationError(f"{name} is {value!r}", remedy=f"give a whole number of characters, at least {least}")
    if overlap >= size:
        raise ValidationError(
            f"chunk_overlap {overlap} is not smaller than chunk_size {size}: no chunk would bring anything new",
            remedy="give an overlap that is smaller than the size, e.g. an eighth of it",
        )
    return _spans(text, size, overlap)


def _spans(text: str, size: int, overlap: int) -> Iterator[tuple[int, int]]:
    start = 0
    while start < len(text):
        if start + size >= len(text):
            yield start, len(text)
            return
        end = _cut(text, start + overlap, start + size)
        yield start, end
        start = end - overlap


def _cut(text: str, known: int, most: int) -> int:
    """Return where to cut: above `known`, at most `most`, best where something ends."""
    half = known + (most - known) // 2
    for end in _ENDS:
        found = 0
        for match in end.finditer(text, half, most):
            if not _inside_sign(text, match.end()):
                found = match.end()
        if found > known:
            return found
    return next((place for place in range(most, half, -1) if not _inside_sign(text, place)), most)


def _inside_sign(text: str, place: int) -> bool:
    """Tell whether a cut here would part what is read as one sign: a letter and its accent, an emoji of several."""
    before, after = text[place - 1], text[place]
    if before == "\r" and after == "\n":
        return True
    if after.isascii():
        return False
    joined = _JOINER in (before, after) or ord(after) in _TONES
    return joined or unicodedata.category(after) in ("Mn", "Me", "Mc")
