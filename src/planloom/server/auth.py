"""Who may ask for what: tokens and their scopes, and who is served where there are none.

Rule 1: a token is held against its SHA-256, in constant time; it is in no log, no error and no answer.
Rule 2: without tokens only this machine is served, and of its browsers only pages of this server: a page of elsewhere
is known by its Origin, a name that was bent to this machine by its Host.
Rule 3: what a route needs stands at the route, as a scope; a route without one is open to everybody.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from fastapi import Request
from fastapi.openapi.models import HTTPBearer as BearerScheme
from fastapi.security import SecurityScopes
from fastapi.security.base import SecurityBase

from planloom.server.problems import HttpError
from planloom.server.settings import ALL_SCOPES, TokenScope, is_loopback, token_in

if TYPE_CHECKING:
    from planloom.server.settings import ServerSettings

_FORWARDED = (b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"via")
_OWN_PAGES = (b"same-origin", b"none")
_CHALLENGE = {"www-authenticate": 'Bearer realm="planloom"'}
Headers = Mapping[bytes, bytes]


@dataclass(frozen=True, slots=True)
class TokenHolder:
    """Who asks.

    Attributes:
        name: Goes on record: the token's name in the settings, or LOCAL.
    """

    name: str
    scopes: frozenset[TokenScope]


LOCAL = TokenHolder("local", ALL_SCOPES)
"""Whoever asks from this machine, where there are no tokens."""


class Doorkeeper:
    """Says who a caller is, and turns away whom nobody may serve.

    Raises:
        MissingKeyError: The variable of a token holds none.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self._tokens: list[tuple[bytes, TokenHolder]] = []
        for name, one in settings.tokens.items():
            digest = one.sha256 or sha256(token_in(name, one).encode()).hexdigest()
            self._tokens.append((bytes.fromhex(digest), TokenHolder(name, frozenset(one.scopes))))
        self._names = frozenset(name.lower() for name in settings.hosts)

    def check_address(self, headers: Headers, peer: str | None) -> None:
        """Refuse what was meant for another server, or comes from another one's page.

        Raises:
            HttpError: 421 for the Host, 403 for the Origin or the sender.
        """
        host = _text(headers.get(b"host"))
        if not self._is_ours(host):
            raise HttpError(
                421,
                "request.host",
                "this server is not known by that name",
                remedy="use its address, or name the host under `hosts` in [server]",
            )
        origin = headers.get(b"origin")
        if origin is not None and _netloc(_text(origin)) != host.lower():
            raise HttpError(403, "request.origin", "pages of other servers are not served")
        if self._tokens:
            return
        if peer is None or not is_loopback(peer) or any(name in headers for name in _FORWARDED):
            raise HttpError(
                403, "request.remote", "without tokens only this machine is served", remedy="set [server.tokens.NAME]"
            )

    def caller(self, headers: Headers) -> TokenHolder:
        """Return who asks.

        Raises:
            HttpError: 401 without a token that is known; 403 for a page of elsewhere, where there are no tokens.
        """
        if not self._tokens:
            if headers.get(b"sec-fetch-site", b"none") not in _OWN_PAGES:
                raise HttpError(403, "request.origin", "pages of other servers are not served")
            return LOCAL
        scheme, _, token = _text(headers.get(b"authorization")).partition(" ")
        given = sha256(token.strip().encode("utf-8", "surrogatepass")).digest()
        found = None
        for digest, caller in self._tokens:
            if hmac.compare_digest(digest, given):
                found = caller
        if found is None or scheme.lower() != "bearer":
            raise HttpError(
                401,
                "request.token",
                "a token is needed, and there is none or one that nobody knows",
                remedy="send Authorization: Bearer TOKEN",
                headers=_CHALLENGE,
            )
        return found

    def _is_ours(self, host: str) -> bool:
        name = _netloc_name(host)
        if name is None:
            return False
        if is_loopback(name):
            return True
        # An address cannot be bent to another machine, as a name can.
        return bool(self._tokens) and (name in self._names or _is_address(name))


class NeedsScope(SecurityBase):
    """A route's scope: checked before anything is done, and told in the OpenAPI document."""

    def __init__(self) -> None:
        self.model = BearerScheme(description="A token of `[server.tokens]`; not needed where there are none.")
        self.scheme_name = "token"

    async def __call__(self, request: Request, scopes: SecurityScopes) -> TokenHolder:
        caller = caller_of(request)
        for scope in scopes.scopes:
            if scope not in caller.scopes:
                raise HttpError(
                    403,
                    "request.scope",
                    f"token {caller.name!r} is not good for {scope!r}",
                    remedy=f"use one with the scope {scope!r}",
                )
        return caller


def caller_of(request: Request) -> TokenHolder:
    """Return who asks, as the gate found it."""
    caller: Any = request.scope.get("state", {}).get("caller")
    if not isinstance(caller, TokenHolder):  # a path that the gate takes for an open one: never serve it by mistake
        raise HttpError(401, "request.token", "a token is needed", headers=_CHALLENGE)
    return caller


def _text(value: bytes | None) -> str:
    return "" if value is None else value.decode("latin-1")


def _netloc(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc.lower() or None
    except ValueError:
        return None


def _netloc_name(host: str) -> str | None:
    """Return the name or address in a Host header, without port; None where it is none."""
    if not host or any(sign in host for sign in "/@?# \t"):
        return None
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
