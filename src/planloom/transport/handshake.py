"""How both ends of a connection show that they know the token, without either sending it.

The engine asks with a nonce, the worker answers with a proof and a nonce of its own, the engine proves itself in turn:
a worker takes work from nobody else, and whoever listens in learns nothing he could use.

Rule 1: what a stranger says is checked before anything is done about it, and its frames are short.
Rule 2: an address is a Unix-domain socket, or a port of this machine: nothing here encrypts.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from planloom.errors import ConfigError

Name = Annotated[str, Field(min_length=1, max_length=200)]
WELCOME_S = 10.0
"""Seconds a stranger has to show its token."""


class Hello(BaseModel):
    """What a worker says of itself."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    m: Annotated[str, Field(pattern="^hello$")]
    worker: Name
    nonce: Annotated[str, Field(min_length=32, max_length=128)]
    proof: Annotated[str, Field(max_length=128)]
    pid: int
    labels: dict[str, str] = {}
    capacity: Annotated[int, Field(ge=1, le=1000)] = 1
    kinds: list[str] = []
    """Kinds of step it does."""
    tools: dict[str, str] = {}
    """SHA-256 of the tools it has and may use, by name."""


def new_nonce() -> str:
    return secrets.token_hex(16)


def proof(token: str, who: str, asked: str, answered: str) -> str:
    """Return what only `who` with the token can say to these two nonces."""
    return hmac.new(token.encode(), f"{who}:{asked}:{answered}".encode(), "sha256").hexdigest()


def proves(given: str, token: str, who: str, asked: str, answered: str) -> bool:
    return hmac.compare_digest(given.encode(), proof(token, who, asked, answered).encode())


@dataclass(frozen=True, slots=True)
class Address:
    """Where an engine listens for workers: a socket file, or a host and port of this machine."""

    path: str = ""
    host: str = ""
    port: int = 0

    @classmethod
    def of(cls, text: str) -> Address:
        """Return the address of ``unix:/path/to/socket`` or ``tcp:127.0.0.1:7000``.

        Raises:
            ConfigError: Neither, or a host that is not this machine.
        """
        scheme, _, rest = text.partition(":")
        if scheme == "unix" and rest:
            return cls(path=rest)
        host, _, port = rest.rpartition(":")
        if scheme != "tcp" or not port.isdigit() or not 0 <= int(port) < 65_536:
            raise ConfigError(f"{text!r} is no address", remedy="give unix:/path/to/socket or tcp:127.0.0.1:7000")
        try:
            local = ipaddress.ip_address(host.strip("[]")).is_loopback
        except ValueError:
            local = host == "localhost"
        if not local:
            raise ConfigError(
                f"{host!r} is not this machine, and nothing here encrypts",
                remedy="listen on 127.0.0.1 and reach it through a tunnel, e.g. ssh -L",
            )
        return cls(host=host.strip("[]"), port=int(port))

    def __str__(self) -> str:
        return f"unix:{self.path}" if self.path else f"tcp:{self.host}:{self.port}"
