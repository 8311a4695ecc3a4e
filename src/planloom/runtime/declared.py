"""Which secrets an operator's settings name: declared before anything is read, run or logged.

Rule 1: settings name variables and files, never values; what stands in them then is what is struck out.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json

from planloom import masking
from planloom.errors import SecretGivenError
from planloom.models.terms import KEY_VARIABLES, LEAST_KEY

if TYPE_CHECKING:
    from planloom.core.events import RunStarted
    from planloom.runtime.settings import Settings


def declare_secrets(settings: Settings) -> None:
    """Have everything that these settings, or this process's environment, name as a secret struck out from here on."""
    named = [*settings.secrets, *_listed()]
    masking.declare({name: os.environ.get(name) for name in named}, variables=named)
    own = list(_own(settings))
    masking.declare({name: _long(os.environ.get(name)) for name in own}, variables=own)
    if settings.journal_key_file is not None:
        with suppress(OSError, UnicodeDecodeError):  # whoever needs the key says what is wrong with it
            key = Path(settings.journal_key_file).read_text(encoding="utf-8")
            masking.declare({"the journal's key": _long(key)})


def without_secrets(run_id: str, started: RunStarted) -> RunStarted:
    """Return a run's beginning, without secrets in what it takes over from an earlier one.

    Raises:
        SecretGivenError: One is in its plan, its inputs or its name. Struck out there, the run would do something else
            than what was asked for.
    """
    mask = masking.known()
    if mask is None:
        return started
    given = [
        ("plan", from_json(started.plan.canonical_json)),
        ("run's id", [run_id, started.module]),
        *((f"input {mask.text(name)!r}", {name: value}) for name, value in started.inputs.items()),
    ]
    for where, value in given:
        name = mask.name_in(value)
        if name is not None:
            raise SecretGivenError(
                f"the {where} holds the value of {name}, which is declared a secret and must be on no record",
                remedy=f"have the tool that needs it read {name} from its environment",
                secret=name,
            )
    return mask.fact(started)


def _listed() -> Iterator[str]:
    for name in os.environ.get(masking.VARIABLE, "").split(","):
        if name.strip():
            yield name.strip()


def _own(settings: Settings) -> Iterator[str]:
    """Yield variables that planloom itself reads keys from."""
    yield from KEY_VARIABLES
    if settings.journal_key_env is not None:
        yield settings.journal_key_env
    tokens: Any = settings.server.get("tokens")
    for token in tokens.values() if isinstance(tokens, dict) else ():
        if isinstance(token, dict) and isinstance(token.get("env"), str):
            yield token["env"]


def _long(value: str | None) -> str | None:
    """Return a key, or None for what only stands in for one, as a local server takes it: "not-needed"."""
    return value if value is not None and len(value.strip()) >= LEAST_KEY else None
