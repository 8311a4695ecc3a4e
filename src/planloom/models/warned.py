"""Warnings of client libraries, heard by the call that they are about.

Where warnings are errors they would be raised in the middle of a call, and `warnings.catch_warnings` is for the whole
process, not for one task or thread. So the libraries' modules are given another `warnings` here.

Rule 1: outside of `hearing`, a warning is given as it ever was, whoever uses the library.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

MAX_WARNING = 300
"""Characters of a warning that are kept."""
_LIBRARIES = ("pydantic_ai.", "openai.", "anthropic.", "google.genai.")

_heard: ContextVar[list[str] | None] = ContextVar("heard warnings", default=None)


class _Warnings:
    """The module `warnings`, as the libraries see it."""

    def __getattr__(self, name: str) -> Any:
        return getattr(warnings, name)

    def warn(self, message: Any, category: Any = None, stacklevel: int = 1, *rest: Any, **more: Any) -> None:
        heard = _heard.get()
        if heard is None:
            warnings.warn(message, category, stacklevel + 1, *rest, **more)
        elif (text := str(message)[:MAX_WARNING]) not in heard:
            heard.append(text)


_WARNINGS = _Warnings()


def listen() -> None:
    """Have the modules of client libraries that are loaded by now be heard."""
    for name, module in list(sys.modules.items()):
        if name.startswith(_LIBRARIES) and vars(module).get("warnings") is warnings:
            vars(module)["warnings"] = _WARNINGS


@contextmanager
def hearing(heard: list[str]) -> Iterator[None]:
    """Keep in `heard` what libraries warn of in here; enter and leave it in one task, with no `yield` between."""
    token = _heard.set(heard)
    try:
        yield
    finally:
        _heard.reset(token)
