"""What is known of a program before it runs, without ever parsing it here: a parser is a target too.

Rule 1: the text is looked through once, with expressions that take time in proportion to its length.
Rule 2: what is said in comments and in strings does not count; what an f-string does counts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from keyword import iskeyword
from typing import TYPE_CHECKING, Any

from planloom.core.code import (
    ErrorType,
    Program,
    ProgramCall,
    SandboxLimits,
    SandboxResult,
    ToolFunction,
)
from planloom.errors import OutputError
from planloom.plan.values import as_json

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["ErrorType", "Program", "ProgramCall", "SandboxLimits", "SandboxResult", "ToolFunction"]

NAMESPACES = ("tools", "functions")
"""Names that a program finds all of its tools under."""
WORK = "/work"
"""The program's own folder, the only place it can write to."""

# A string that nobody closes runs to the end: looking for its end again from every quote would take quadratic time.
_QUIET = re.compile(
    r"""\#[^\n]*
      |(?P<prefix>[A-Za-z]{0,2})
       (?:'''(?:[^'\\]|\\.|'(?!''))*+(?:'''|\Z)
         |\"\"\"(?:[^"\\]|\\.|"(?!""))*+(?:\"\"\"|\Z)
         |'(?:[^'\\\n]|\\.)*+(?:'|(?=\n)|\Z)
         |"(?:[^"\\\n]|\\.)*+(?:"|(?=\n)|\Z))""",
    re.VERBOSE | re.DOTALL,
)
_AWAITS = re.compile(r"\b(?:await|async)\b")
_SPACE = r"(?:[ \t\f]|\\\r?\n|\\\r)"
_DOTTED = rf"\.*+\w++(?:{_SPACE}*+\.{_SPACE}*+\w++){{0,40}}"  # longer would be looked at again from every `from`
_IMPORT = rf"from{_SPACE}++(?P<origin>{_DOTTED}){_SPACE}++import\b|import{_SPACE}++(?P<names>\w(?:[\w.,]|{_SPACE})*+)"
_IMPORTS = re.compile(rf"\b(?:{_IMPORT})")
_STATEMENTS = re.compile(rf"(?:^|[\r\n;:]){_SPACE}*+(?:{_IMPORT})")
_ROUNDABOUT = re.compile(r"\b(?:eval|exec|compile|__import__|importlib|__builtins__|__loader__|__spec__)\b")
_WORTH = 2
"""Bytes of JSON that any value has at least: itself and what parts it from the next."""
_FEW_VALUES = 10_000


def _plain(source: str) -> str:
    """Return the source without its comments and strings."""

    def kept(found: re.Match[str]) -> str:
        prefix = found["prefix"] or ""
        return f" {found[0]} " if not {"f", "t"}.isdisjoint(prefix.lower()) else " "

    return _QUIET.sub(kept, source)


def is_async(source: str) -> bool:
    """Return whether a program says `await` or `async` anywhere: then its tools are to be awaited."""
    return _AWAITS.search(source) is not None and _AWAITS.search(_plain(source)) is not None


def refused_import(source: str, allowed: frozenset[str]) -> str | None:
    """Return the first module that a program imports and may not, or a word that could import any; else None.

    Where an f-string ends only a parser knows: strings may stand in it, with quotes of its own kind. So with one that
    holds an expression, what looks like a statement counts in strings and comments too.
    """
    plain = _plain(source)
    looks = [(plain, _IMPORTS)]
    if any(_holds_code(found) for found in _QUIET.finditer(source)):
        looks.append((source, _STATEMENTS))
    for text, pattern in looks:
        for name in _imported(text, pattern):
            parts = name.split(".")
            if not any(".".join(parts[: count + 1]) in allowed for count in range(len(parts))):
                return name
        roundabout = _ROUNDABOUT.search(text)
        if roundabout is not None:
            return roundabout[0]
    return None


def _holds_code(found: re.Match[str]) -> bool:
    return "{" in found[0] and not {"f", "t"}.isdisjoint((found["prefix"] or "").lower())


def _imported(text: str, pattern: re.Pattern[str]) -> Iterator[str]:
    for found in pattern.finditer(text):
        if found["origin"] is not None:
            yield "".join(found["origin"].replace("\\", " ").split())
            continue
        for name in found["names"].replace("\\", " ").split(","):
            words = name.split()
            if words:
                yield words[0]


def is_variable(name: str) -> bool:
    """Return whether a program can have a variable of this name."""
    return name.isidentifier() and not iskeyword(name) and not name.startswith("__")


def checked_inputs(program: Program) -> dict[str, Any]:
    """Return what a program gets as its variables, as JSON.

    Raises:
        OutputError: The program is too long; or a value that is no JSON, or a name that is none.
    """
    size, most = len(program.source.encode(errors="replace")), program.limits.source_bytes
    if size > most:
        raise OutputError(f"the program is {size:,} bytes long, and {most:,} is the most")
    for name in program.inputs:
        if not isinstance(name, str) or not is_variable(name):
            raise OutputError(f"{name!r:.100} is no name for a variable", remedy="use letters, digits and _")
    copied: dict[str, Any] = as_json(dict(program.inputs), where="variables")
    return copied


def most_values(max_bytes: int) -> int:
    """Return how many values so many bytes of JSON may hold: what takes three to write takes the host sixty-four."""
    return max(_FEW_VALUES, max_bytes // 8)


def bounded(value: object, max_bytes: int) -> tuple[Any, int]:
    """Return a program's value as JSON, and how many bytes of it that is.

    It is counted before it is copied: a few lists that hold one another many times over are small in memory and endless
    when they are written out.

    Raises:
        OutputError: It is no JSON, or more than `max_bytes` of it.
    """
    left, values = max_bytes, most_values(max_bytes)
    waiting: list[Iterator[object]] = [iter((value,))]
    while waiting:
        for item in waiting[-1]:
            left -= _worth(item)
            values -= 1
            if left < 0 or values < 0:
                raise _too_much(max_bytes)
            if isinstance(item, dict):
                waiting.append(_both(item))
                break
            if isinstance(item, list | tuple | set | frozenset):
                waiting.append(iter(item))
                break
        else:
            waiting.pop()
    copied = as_json(value, where="result")
    size = len(json.dumps(copied, ensure_ascii=False).encode())
    if size > max_bytes:
        raise _too_much(max_bytes)
    return copied, size


def _worth(item: object) -> int:
    if isinstance(item, str | bytes):
        return len(item)
    return max(_WORTH, item.bit_length() // 4) if isinstance(item, int) else _WORTH


def _both(entries: dict[Any, Any]) -> Iterator[object]:
    for key, value in entries.items():
        yield key
        yield value


def _too_much(max_bytes: int) -> OutputError:
    return OutputError(
        f"the value is more than {max_bytes:,} bytes of JSON, or {most_values(max_bytes):,} values",
        remedy="return less, or a summary",
    )


def listed(names: Iterable[str]) -> str:
    """Return what a program is told of the tools it has."""
    known = sorted(names)
    return f"; its tools are {', '.join(known)}" if known else ""
