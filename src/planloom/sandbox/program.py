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
    from collections.abc import Iterable, Mapping

__all__ = ["ErrorType", "Program", "ProgramCall", "SandboxLimits", "SandboxResult", "ToolFunction"]

NAMESPACES = ("tools", "functions")
"""Names that a program finds all of its tools under."""

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
_IMPORTS = re.compile(
    r"\bfrom[ \t\\\n]+(?P<origin>[.\w]+)[ \t\\\n]+import\b|\bimport[ \t\\\n]+(?P<names>\w[\w.,\\ \t]*)"
)
_ROUNDABOUT = re.compile(r"\b(?:eval|exec|compile|__import__|importlib|__builtins__|__loader__|__spec__)\b")
_ALIAS = re.compile(r"\s+as\s+\w+\s*$")
_WORTH = 2
"""Bytes of JSON that any value has at least: itself and what parts it from the next."""


def _plain(source: str) -> str:
    """Return the source without its comments and strings."""

    def kept(found: re.Match[str]) -> str:
        prefix = found["prefix"] or ""
        return f" {found[0]} " if "f" in prefix.lower() else " "

    return _QUIET.sub(kept, source)


def is_async(source: str) -> bool:
    """Return whether a program says `await` or `async` anywhere: then its tools are to be awaited."""
    return _AWAITS.search(source) is not None and _AWAITS.search(_plain(source)) is not None


def refused_import(source: str, allowed: frozenset[str]) -> str | None:
    """Return the first module that a program imports and may not, or a word that could import any; else None."""
    text = _plain(source)
    for name in _imported(text):
        parts = name.split(".")
        if not any(".".join(parts[: count + 1]) in allowed for count in range(len(parts))):
            return name
    roundabout = _ROUNDABOUT.search(text)
    return None if roundabout is None else roundabout[0]


def _imported(text: str) -> Iterator[str]:
    for found in _IMPORTS.finditer(text):
        if found["origin"] is not None:
            yield found["origin"]
            continue
        for name in found["names"].replace("\\", " ").split(","):
            bare = _ALIAS.sub("", name).strip()
            if bare:
                yield bare


def is_variable(name: str) -> bool:
    """Return whether a program can have a variable of this name."""
    return name.isidentifier() and not iskeyword(name) and not name.startswith("__")


def checked_inputs(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a program gets as its variables, as JSON.

    Raises:
        OutputError: A value that is no JSON, or a name that is none.
    """
    for name in inputs:
        if not isinstance(name, str) or not is_variable(name):
            raise OutputError(f"{name!r:.100} is no name for a variable", remedy="use letters, digits and _")
    copied: dict[str, Any] = as_json(dict(inputs), where="variables")
    return copied


def bounded(value: object, max_bytes: int) -> Any:
    """Return a program's value as JSON.

    It is counted before it is copied: a few lists that hold one another many times over are small in memory and endless
    when they are written out.

    Raises:
        OutputError: It is no JSON, or more than `max_bytes` of it.
    """
    left = max_bytes
    waiting: list[Iterator[object]] = [iter((value,))]
    while waiting:
        for item in waiting[-1]:
            left -= len(item) if isinstance(item, str | bytes) else _WORTH
            if left < 0:
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
    if len(json.dumps(copied, ensure_ascii=False).encode()) > max_bytes:
        raise _too_much(max_bytes)
    return copied


def _both(entries: dict[Any, Any]) -> Iterator[object]:
    for key, value in entries.items():
        yield key
        yield value


def _too_much(max_bytes: int) -> OutputError:
    return OutputError(f"the value is more than {max_bytes:,} bytes of JSON", remedy="return less, or a summary")


def listed(names: Iterable[str]) -> str:
    """Return what a program is told of the tools it has."""
    known = sorted(names)
    return f"; its tools are {', '.join(known)}" if known else ""
