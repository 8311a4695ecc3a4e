"""`text.*`: small work on text.

Rule 1: what comes out is bounded by `MAX_LENGTH`; a short plan must not be able to make an endless text.
"""

from __future__ import annotations

from planloom.errors import ArgumentsError
from planloom.tools.standard.regex import regex_tool
from planloom.tools.tool import Tool

MAX_LENGTH = 10_000_000
"""Characters of a result."""


def split(text: str, separator: str | None = None, max_parts: int | None = None) -> list[str]:
    """Split a text into parts.

    Args:
        text: The text.
        separator: What stands between the parts; by default any run of white space.
        max_parts: At most this many parts, the last of which holds the rest.
    """
    if separator == "":
        raise ArgumentsError("the separator is empty", remedy="leave it out to split at white space")
    if max_parts is not None and max_parts < 1:
        raise ArgumentsError(f"max_parts={max_parts} leaves no part", remedy="give 1 or more")
    return text.split(separator, -1 if max_parts is None else max_parts - 1)


def join(parts: list[str], separator: str = "") -> str:
    """Join texts into one.

    Args:
        parts: The texts.
        separator: What to put between them.
    """
    _check_length(sum(map(len, parts)) + len(separator) * len(parts))
    return separator.join(parts)


def replace(text: str, old: str, new: str) -> str:
    """Replace every occurrence of a text in another; upper and lower case differ.

    Args:
        text: The text to change.
        old: What to look for.
        new: What to put in its place.
    """
    if not old:
        raise ArgumentsError("there is nothing to look for: `old` is empty", remedy="give the text to replace")
    _check_length(len(text) + text.count(old) * (len(new) - len(old)))
    return text.replace(old, new)


def truncate(text: str, max_length: int, ending: str = "…") -> str:
    """Cut a text to at most so many characters.

    Args:
        text: The text.
        max_length: Characters of the result, the ending included.
        ending: What marks a cut; left out where it does not fit.
    """
    if max_length < 0:
        raise ArgumentsError(f"max_length={max_length} is below 0", remedy="give 0 or more")
    if len(text) <= max_length:
        return text
    return text[: max_length - len(ending)] + ending if len(ending) < max_length else text[:max_length]


def count_words(text: str) -> int:
    """Count the words of a text: what stands between white space."""
    return len(text.split())


def _check_length(length: int) -> None:
    if length > MAX_LENGTH:
        raise ArgumentsError(
            f"the result would have more than {MAX_LENGTH:,} characters", remedy="work on smaller texts"
        )


def text_tools() -> list[Tool]:
    """Return `text.split`, `text.join`, `text.replace`, `text.truncate`, `text.count_words` and `text.regex`."""
    functions = (split, join, replace, truncate, count_words)
    return [
        *(Tool.from_function(one, name=f"text.{one.__name__}", effects="none") for one in functions),
        regex_tool(),
    ]
