"""What a tool may be called.

Rule 1: a name is letters, digits and `. _ - / :`; what models put before names is no part of any.
"""

from __future__ import annotations

import re

from planloom.errors import ConfigError

NAMESPACES = ("functions.", "tools.")
"""Prefixes that models put before a tool's name; no tool's own name begins with one."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./:-]{0,199}")


def check_name(name: object) -> None:
    """Refuse what is no name for a tool.

    Raises:
        ConfigError: Wrong characters, too long, or a prefix that models put before names.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} is no name for a tool",
            remedy="use letters, digits and . _ - / :, at most 200 of them, beginning with a letter, a digit or _",
        )
    if name.startswith(NAMESPACES):
        raise ConfigError(
            f"a tool cannot be called {name!r}: models put that prefix before any name",
            remedy=f"call it {name.partition('.')[2]!r}",
        )
