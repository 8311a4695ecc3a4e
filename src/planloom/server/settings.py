"""What `planloom serve` goes by: the table `[server]` of `planloom.toml`.

Rule 1: no token stands here, only where it is to be found or its SHA-256.
Rule 2: every bound has a default that holds on one machine; none is off by default.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from planloom.errors import ConfigError, MissingKeyError, field_problems

SHORTEST_TOKEN = 16
"""Characters."""
_NAME = r"^[A-Za-z0-9_.-]{1,64}$"


class TokenScope(StrEnum):
    """What a token is good for. None of them includes another."""

    READ = "read"
    """Look at plans and runs, all that is on record included."""
    SUBMIT = "submit"
    """Start runs: submit, resume, fork."""
    ANSWER = "answer"
    """Answer for people: approve, deny, resolve."""
    CANCEL = "cancel"
    """Stop runs: cancel, pause."""


ALL_SCOPES = frozenset(TokenScope)


class TokenSetting(BaseModel):
    """One token: where it is, and what it is good for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    env: str | None = None
    """Name of the variable that holds it."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-fA-F]{64}$")] | None = None
    """Its SHA-256 in hex, e.g. of `printf %s "$TOKEN" | sha256sum`."""
    scopes: Annotated[tuple[TokenScope, ...], Field(min_length=1)]
    """What it is good for; none of them includes another."""

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.env is None) == (self.sha256 is None):
            raise ValueError("give one of `env` and `sha256`")
        return self


class ServerSettings(BaseModel):
    """The table `[server]`: what `planloom serve` goes by."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = "127.0.0.1"
    """Address to listen on. One that other machines can reach needs tokens."""
    port: Annotated[int, Field(ge=0, le=65_535)] = 8765
    """0: any that is free."""
    hosts: tuple[str, ...] = ()
    """Names, without port, under which others reach it, e.g. `planloom.example.org`. Addresses and localhost need no
    mention."""
    tokens: dict[Annotated[str, Field(pattern=_NAME)], TokenSetting] = {}
    """By the name that goes on record for whoever uses it. Without any, programs and browsers of this machine are
    served."""
    plans: tuple[str, ...] = ()
    """Folders of plans that may be run by name, relative to the settings file."""
    named_only: bool = False
    """Whether only plans of these folders may be run, and none that a caller brings along."""
    max_body_bytes: Annotated[int, Field(ge=1_024, le=1 << 30)] = 1 << 20
    """Bytes of the largest request that is read."""
    body_timeout_s: Annotated[float, Field(gt=0, le=3_600, allow_inf_nan=False)] = 30.0
    """Seconds in which all of a request must have come."""
    requests_per_minute: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 3_000.0
    """By each token, and by each address where there is none; a tenth of it may come at once."""
    max_active_runs: Annotated[int, Field(ge=1)] = 1_000
    """Runs under way at the same time; those that wait for a person do not count."""
    max_followers: Annotated[int, Field(ge=1)] = 5_000
    """Streams of events that are open at the same time."""

    @property
    def is_public(self) -> bool:
        """Return whether other machines can reach the address that it listens on."""
        return not is_loopback(self.host)


def server_settings(given: Mapping[str, Any], *, folder: Path, **over: Any) -> ServerSettings:
    """Return the settings of a table, folders of plans found from `folder`.

    Args:
        over: What the command line says, in place of the table.

    Raises:
        ConfigError: A key or a value that is wrong.
    """
    try:
        read = ServerSettings.model_validate({**given, **over})
    except ValidationError as error:
        told = "; ".join(field_problems(error))
        raise ConfigError(
            f"[server]: {told}", remedy=f"the keys are {', '.join(ServerSettings.model_fields)}"
        ) from None
    return read.model_copy(update={"plans": tuple(str(folder / one) for one in read.plans)})


def is_loopback(host: str) -> bool:
    """Return whether an address or name is this machine's own and no other machine can reach it."""
    host = host.strip("[]").lower()
    return host in ("localhost", "::1") or re.fullmatch(r"127(\.\d{1,3}){3}", host) is not None


def token_in(name: str, setting: TokenSetting) -> str:
    """Return the token that a variable holds.

    Raises:
        MissingKeyError: It holds none, or one that could be guessed.
    """
    assert setting.env is not None
    token = os.environ.get(setting.env, "").strip()
    if len(token) < SHORTEST_TOKEN or not token.isascii():
        raise MissingKeyError(
            f"{setting.env}, the variable of token {name!r}, holds no token of at least {SHORTEST_TOKEN} signs",
            remedy=f'export {setting.env}="$(openssl rand -hex 32)", and give it to whoever may call',
        )
    return token
