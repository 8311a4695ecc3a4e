"""Keys of NATS (nkeys) and what is signed with them: JSON Web Tokens of operators, accounts and users.

Rule 1: a seed is secret: it is in no repr, no error and no log.
Rule 2: reading a token needs no key and no library, and proves nothing: only a server checks signatures.
Rule 3: a user without permissions of its own may do nothing: its account says so.

Source: nats-io/jwt, version 2 of the claims.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass, field
from enum import Enum
from hashlib import sha256
from secrets import token_bytes
from typing import TYPE_CHECKING, Any

from planloom.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

_HEADER = {"typ": "JWT", "alg": "ed25519-nkey"}
EXTRA = "pip install 'planloom[cluster]'"


class KeyKind(Enum):
    """Whose key it is: the first letter of its public form."""

    OPERATOR = "O"
    ACCOUNT = "A"
    USER = "U"


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A key of one of the three kinds.

    Attributes:
        public: Its name, e.g. "UAB3…"; no secret.
        seed: What it is made from, e.g. "SUAB3…".
    """

    public: str
    seed: str = field(repr=False)

    def signature(self, signed: bytes) -> bytes:
        """Return the signature of these bytes, 64 bytes."""
        pair = _nkeys().from_seed(self.seed.encode())
        written: bytes = pair.sign(signed)
        return written


def new_key(kind: KeyKind) -> KeyPair:
    """Return a key that nobody else has.

    Raises:
        ConfigError: What signs is not installed.
    """
    nkeys = _nkeys()
    prefix = {
        KeyKind.OPERATOR: nkeys.PREFIX_BYTE_OPERATOR,
        KeyKind.ACCOUNT: nkeys.PREFIX_BYTE_ACCOUNT,
        KeyKind.USER: nkeys.PREFIX_BYTE_USER,
    }[kind]
    return key_of_seed(nkeys.encode_seed(token_bytes(32), prefix).decode(), kind)


def key_of_seed(seed: str, kind: KeyKind, *, where: str = "") -> KeyPair:
    """Return the key of a seed.

    Args:
        where: Where the seed was found, for the error.

    Raises:
        ConfigError: It is no seed of this kind, or what signs is not installed.
    """
    nkeys = _nkeys()
    try:
        public = nkeys.from_seed(seed.strip().encode()).public_key.decode()
    except (nkeys.NkeysError, ValueError, UnicodeError):
        public = ""
    if not public.startswith(kind.value):
        raise ConfigError(
            f"there is no {kind.name.lower()} seed in {where or 'what was given'}",
            remedy=f"it is one line that begins with S{kind.value}; make a cluster's keys with `planloom cluster init`",
        ) from None
    return KeyPair(public, seed.strip())


def signed(key: KeyPair, claims: Mapping[str, Any]) -> str:
    """Return claims as a token, signed with this key; `iss` and `jti` are set here."""
    body = {**claims, "iss": key.public}
    body["jti"] = base64.b32encode(sha256(_json(body)).digest()).decode().rstrip("=")
    text = f"{_base64(_json(_HEADER))}.{_base64(_json(body))}"
    return f"{text}.{_base64(key.signature(text.encode()))}"


def claims_in(token: str, *, where: str) -> dict[str, Any]:
    """Return what a token says; its signature is not looked at.

    Raises:
        ConfigError: It is no token.
    """
    try:
        _, body, _ = token.strip().split(".")
        found = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        if not isinstance(found, dict) or not isinstance(found.get("nats"), dict):
            raise TypeError
    except (ValueError, TypeError, binascii.Error):
        raise ConfigError(
            f"{where} holds no token of NATS", remedy="make it anew with `planloom cluster credential`"
        ) from None
    return found


def operator_claims(key: str, system: str, *, now: float) -> dict[str, Any]:
    """Return what a server is told of its operator: whose word counts, and which account is the system's."""
    return {
        "iat": int(now),
        "name": "planloom",
        "sub": key,
        "nats": {"system_account": system, "type": "operator", "version": 2},
    }


def account_claims(
    name: str,
    key: str,
    signing: list[str],
    *,
    now: float,
    streams: bool,
    exports: list[dict[str, Any]] | None = None,
    imports: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Return what a server is told of an account.

    Args:
        signing: Keys whose users are this account's.
        streams: Whether it may have JetStream streams.
        exports: What other accounts may hear of it.
        imports: What it hears of other accounts.
    """
    without_end = -1 if streams else 0
    limits = {
        **dict.fromkeys(("subs", "data", "payload", "imports", "exports", "conn"), -1),
        **dict.fromkeys(("mem_storage", "disk_storage", "streams", "consumer"), without_end),
        "leaf": 0,
        "wildcards": True,
    }
    nothing = {"deny": [">"]}
    about = {
        "limits": limits,
        "signing_keys": signing,
        "default_permissions": {"pub": nothing, "sub": nothing},
        "exports": exports or [],
        "imports": imports or [],
        "type": "account",
        "version": 2,
    }
    return {"iat": int(now), "name": name, "sub": key, "nats": about}


def user_claims(
    key: str, account: str, *, name: str, publish: list[str], subscribe: list[str], now: float, expires_at: float | None
) -> dict[str, Any]:
    """Return what a server is told of a user: exactly these subjects, until then."""
    assert publish, "an empty list would allow everything"
    assert subscribe, "an empty list would allow everything"
    about = {
        "pub": {"allow": publish},
        "sub": {"allow": subscribe},
        **dict.fromkeys(("subs", "data", "payload"), -1),
        "issuer_account": account,
        "allowed_connection_types": ["STANDARD"],
        "type": "user",
        "version": 2,
    }
    end = {} if expires_at is None else {"exp": int(expires_at)}
    return {"iat": int(now), **end, "name": name, "sub": key, "nats": about}


def _nkeys() -> Any:
    try:
        import nkeys  # type: ignore[import-untyped]  # it says nothing of its types
    except ImportError:
        raise ConfigError("what signs the keys of NATS is not installed", remedy=EXTRA) from None
    return nkeys


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


def _base64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")
