"""The founding documents and the programs in them, where they can be read; they lie outside this repository.

Rule 1: of a program only what it imports from is changed: the module becomes `planloom`.
Rule 2: where the documents cannot be read, a program of our own to the same effect takes each one's place.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
from collections.abc import Coroutine, Mapping
from pathlib import Path
from textwrap import dedent
from typing import Any

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "seeds"
_FENCE = re.compile(r"^[ \t]*```(?P<language>\w*)\n(?P<text>.*?)^[ \t]*```[ \t]*$", re.MULTILINE | re.DOTALL)
_IMPORT = re.compile(r"^(?P<indent>[ \t]*)from (?:saplings|orchestrator|linus)[\w.]* import ", re.MULTILINE)


def document(number: str) -> str | None:
    """Return the text of a founding document, None where it is not there."""
    found = sorted(FOLDER.glob(f"{number}_*.txt"))
    return found[0].read_text(encoding="utf-8") if found else None


def blocks(number: str, language: str = "python") -> dict[int, str]:
    """Return a document's blocks in a language, by their place among all its blocks; none where it is not there."""
    fences = enumerate(_FENCE.finditer(document(number) or ""))
    return {place: dedent(found["text"]) for place, found in fences if found["language"] == language}


def program(number: str, place: int, ours: Mapping[int, str]) -> str:
    """Return a block of a document, else our own to the same effect."""
    found = blocks(number)
    return found[place] if found else dedent(ours[place])


def plain(text: str) -> str:
    """Return a program without what is no difference: its indentation as a whole, and space at the ends of lines."""
    return "\n".join(line.rstrip() for line in dedent(text).strip().splitlines())


def run(text: str, /, **names: Any) -> dict[str, Any]:
    """Run a program, awaiting what it awaits at its top in a loop of its own; return its names."""
    running = _begun(text, names)
    if running is not None:
        asyncio.run(_ended(running))
    return names


async def arun(text: str, /, **names: Any) -> dict[str, Any]:
    """Do the same in the loop that runs already."""
    running = _begun(text, names)
    if running is not None:
        await running
    return names


def _begun(text: str, names: dict[str, Any]) -> Coroutine[Any, Any, None] | None:
    names.setdefault("__name__", "__main__")
    moved = _IMPORT.sub(r"\g<indent>from planloom import ", dedent(text))
    running = eval(compile(moved, "<a founding document>", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)
    return running if inspect.iscoroutine(running) else None


async def _ended(running: Coroutine[Any, Any, None]) -> None:
    await running  # `asyncio.run` takes coroutines of functions only


def pieces(text: str) -> list[str]:
    """Return the parts of a program that a blank line sets apart: the page shows them as ways to do one thing."""
    return [piece for piece in re.split(r"\n\s*\n(?=\S)", dedent(text).strip()) if piece]


def parameters(text: str, name: str) -> tuple[list[str], bool]:
    """Return the parameters of a function that a program defines, and whether it is async."""
    for node in ast.walk(ast.parse(dedent(text))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name:
            told = node.args
            return [one.arg for one in (*told.args, *told.kwonlyargs)], isinstance(node, ast.AsyncFunctionDef)
    raise AssertionError(f"there is no {name} in it")


def takes(function: Any, wanted: list[str]) -> None:
    """See that a function can be called as the page calls it: its parameters come first, in that order."""
    ours = list(inspect.signature(function).parameters)
    assert ours[: len(wanted)] == wanted, (ours, wanted)
