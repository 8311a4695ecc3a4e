"""Credentials: who may connect to the servers of a cluster, as what, and until when.

Rule 1: a credential's file is whole, and its owner's alone (0600).
Rule 2: what a file says of itself is for people and for finding one's own subjects: only servers check it.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from planloom.errors import ConfigError
from planloom.transport.nats import claims
from planloom.transport.nats.claims import KeyKind
from planloom.transport.nats.permissions import Role, inbox_of
from planloom.whole_file import make_private, write_whole

_JWT = re.compile(r"-----BEGIN NATS USER JWT-----\s+(\S+)\s+-+END NATS USER JWT-+")
_SEED = re.compile(r"-----BEGIN USER NKEY SEED-----\s+(\S+)\s+-+END USER NKEY SEED-+")
_TEXT = """-----BEGIN NATS USER JWT-----
{token}
------END NATS USER JWT------

************************* IMPORTANT *************************
NKEY Seed printed below can be used to sign and prove identity.
NKEYs are sensitive and should be treated as secrets.

-----BEGIN USER NKEY SEED-----
{seed}
------END USER NKEY SEED------

*************************************************************
"""


@dataclass(frozen=True, slots=True)
class Credential:
    """One user of a cluster's servers.

    Attributes:
        role: What it is for.
        name: Of the worker, the agent or the submitter.
        module: Whose worker it is; "" for all others.
        labels: Of the worker: it may take work of these places.
        public_key: What it is revoked by.
        issued_at: Seconds since 1970; so are all moments here.
        expires_at: When the servers cut it off; None: never.
        text: The file: token and seed.
    """

    role: Role
    name: str
    module: str
    labels: Mapping[str, str]
    public_key: str
    issued_at: float
    expires_at: float | None
    text: str = field(repr=False)

    @property
    def inbox(self) -> str:
        """Return where its answers come in: the `inbox_prefix` of its connection."""
        return inbox_of(self.role, self.name, module=self.module)

    def facts(self) -> dict[str, Any]:
        """Return all that is no secret."""
        return {
            "key": self.public_key,
            "role": self.role.value,
            "name": self.name,
            "module": self.module,
            "labels": dict(self.labels),
            "issued_at": self.issued_at,
            "expires_at": self.expires_at,
        }

    def write(self, path: Path) -> None:
        """Write its file, which only its owner may read.

        Raises:
            ConfigError: It cannot be written.
        """
        try:
            make_private(path)
            path.chmod(0o600)
            write_whole(path, self.text)
        except OSError as error:
            raise ConfigError(
                f"{path} cannot be written: {error.strerror}", remedy="name a file in a folder that you may write to"
            ) from error


def credential_text(token: str, seed: str) -> str:
    """Return the text of a credential's file."""
    return _TEXT.format(token=token, seed=seed)


def read_credential(path: Path) -> Credential:
    """Return the credential of a file.

    Raises:
        ConfigError: It cannot be read, or is none.
    """
    try:
        text = path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        why = "not ASCII" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise ConfigError(
            f"the credential {path} cannot be read: {why}", remedy="make one with `planloom cluster credential`"
        ) from None
    return credential_in(text, where=str(path))


def credential_in(text: str, *, where: str) -> Credential:
    """Return the credential of a text, whoever made it; one not made here has the role of an agent and no labels.

    Raises:
        ConfigError: It is none.
    """
    found = _JWT.search(text)
    body = claims.claims_in(found[1] if found else "", where=where)
    told = body.get("planloom")
    told = told if isinstance(told, dict) else {}
    try:
        return Credential(
            role=Role(told.get("role", Role.AGENT)),
            name=str(body.get("name", "")),
            module=str(told.get("module", "")),
            labels={str(name): str(value) for name, value in dict(told.get("labels", {})).items()},
            public_key=str(body["sub"]),
            issued_at=float(body.get("iat", 0)),
            expires_at=float(body["exp"]) if body.get("exp") else None,
            text=text,
        )
    except (KeyError, TypeError, ValueError):
        raise ConfigError(
            f"{where} holds no credential", remedy="make one with `planloom cluster credential`"
        ) from None


class CredentialFile:
    """A credential's file as a connection uses it: read again, whole, whenever it connects.

    `jwt` and `sign` are what nats-py calls `user_jwt_cb` and `signature_cb`. It asks for the signature first; the
    token that follows is of the same reading, also when the file is replaced in between.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.used = read_credential(path)
        """That of the last connection."""

    def sign(self, nonce: str) -> bytes:
        """Sign what the server asks, as base64.

        Raises:
            ConfigError: The file cannot be read, or is no credential.
        """
        self.used = read_credential(self.path)
        found = _SEED.search(self.used.text)
        key = claims.key_of_seed(found[1] if found else "", KeyKind.USER, where=str(self.path))
        return base64.b64encode(key.signature(nonce.encode()))

    def jwt(self) -> bytearray:
        """Return the token that belongs to the last signature."""
        found = _JWT.search(self.used.text)
        assert found is not None, "what was read is a credential"
        return bytearray(found[1].encode())

    def newer(self) -> bool:
        """Return whether the file holds another credential than that of the last connection: time to reconnect."""
        try:
            return read_credential(self.path).public_key != self.used.public_key
        except ConfigError:
            return False  # it comes back, or the connection ends with what it has


def is_private(path: Path) -> bool:
    """Return whether nobody but its owner may read a file; true where files have no such rights."""
    return os.name == "nt" or not path.stat().st_mode & 0o077
