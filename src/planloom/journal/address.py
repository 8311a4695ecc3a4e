"""Addresses of databases, as users write them.

Rule 1: a password is never part of one: an address stands in files, in histories of shells and in lists of processes.
"""

from __future__ import annotations

import os
import re
from typing import TypeGuard
from urllib.parse import parse_qs, quote, urlsplit

from planloom.errors import ConfigError

_ADDRESS = re.compile(r"postgres(?:ql)?://")
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def is_address(target: object) -> TypeGuard[str]:
    """Return whether it is the address of a database, and not a path."""
    return isinstance(target, str) and _ADDRESS.match(target) is not None


def spelled_out(address: str) -> str:
    """Return the address with the values of its variables; raises ConfigError for a password, or a variable not set."""
    parts = urlsplit(address)
    written = [parts.password or "", *parse_qs(parts.query).get("password", ())]
    if any(text and not _VARIABLE.fullmatch(text) for text in written):
        raise ConfigError(
            "there is a password in the address of the journal",
            remedy="write ${NAME} in its place, or leave it to PGPASSWORD, ~/.pgpass or a service file",
        )

    def value(found: re.Match[str]) -> str:
        name = found[1]
        if name not in os.environ:
            raise ConfigError(
                f"the variable {name}, which the address of the journal names, is not set", remedy=f"set {name}"
            )
        return quote(os.environ[name], safe="")

    return _VARIABLE.sub(value, address)
