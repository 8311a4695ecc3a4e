"""What every request passes before a route hears of it: whose it is, how many there are, how large it is.

Rule 1: in this order: address, token, rate, size. Whoever is turned away has cost no more than reading the headers.
Rule 2: a body is read whole, within its bounds, before anything is done about it.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any

from planloom.server.limits import RequestRate
from planloom.server.problems import HttpError, response_of

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from planloom.server.auth import Doorkeeper
    from planloom.server.settings import ServerSettings

GUARDED = ("/v1", "/metrics")
"""Where a caller must be known; everything else is the page's files, and whether the server lives."""
_WITHOUT_BODY = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
_ALWAYS = ((b"x-content-type-options", b"nosniff"), (b"cross-origin-resource-policy", b"same-origin"))


class HttpGate:
    """An ASGI app around the real one."""

    def __init__(
        self, app: ASGIApp, *, settings: ServerSettings, doorkeeper: Doorkeeper, rate: RequestRate | None = None
    ) -> None:
        self._app = app
        self._settings = settings
        self._doorkeeper = doorkeeper
        self._rate = rate or RequestRate(settings.requests_per_minute)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_ALWAYS]
            await send(message)

        try:
            self._admit(scope)
            if scope["method"] not in _WITHOUT_BODY:
                receive = _again(await self._body(scope, receive), receive)
        except HttpError as error:
            await response_of(error)(scope, receive, sent)
            return
        await self._app(scope, receive, sent)

    def _admit(self, scope: Scope) -> None:
        headers: dict[bytes, bytes] = {}
        for name, value in scope["headers"]:
            # Sent twice they could mean one thing here and another to whatever stands in front.
            if name in (b"host", b"origin", b"authorization") and name in headers:
                raise HttpError(400, "request.invalid", f"the header {name.decode()} is there twice")
            headers[name] = value
        peer = scope["client"][0] if scope.get("client") else None
        self._doorkeeper.check_address(headers, peer)
        path: str = scope["path"]
        if not any(path == one or path.startswith(f"{one}/") for one in GUARDED):
            return
        try:
            caller = self._doorkeeper.caller(headers)
        except HttpError:
            self._take(f"address {peer}")  # so that guessing is slow
            raise
        self._take(f"token {caller.name}")
        scope.setdefault("state", {})["caller"] = caller

    def _take(self, who: str) -> None:
        wait_s = self._rate.take(who)
        if wait_s:
            raise HttpError(
                429,
                "request.rate",
                f"more than {self._settings.requests_per_minute:g} requests in a minute",
                remedy="wait as long as Retry-After says",
                headers={"retry-after": str(math.ceil(wait_s))},
            )

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        most = self._settings.max_body_bytes
        told = next((value for name, value in scope["headers"] if name == b"content-length"), None)
        if told is not None and told.isdigit() and int(told) > most:
            raise _too_large(most)
        found = bytearray()
        try:
            async with asyncio.timeout(self._settings.body_timeout_s):
                while True:
                    message = await receive()
                    if message["type"] != "http.request":
                        raise HttpError(400, "request.invalid", "the request broke off")
                    found += message.get("body", b"")
                    if len(found) > most:
                        raise _too_large(most)
                    if not message.get("more_body", False):
                        return bytes(found)
        except TimeoutError:
            raise HttpError(408, "request.slow", "the request did not come in time") from None


def _too_large(most: int) -> HttpError:
    return HttpError(
        413,
        "request.too_large",
        f"a request may have {most:,} bytes",
        remedy="put large values where tools can fetch them, or raise max_body_bytes in [server]",
        headers={"connection": "close"},
    )


def _again(body: bytes, receive: Receive) -> Receive:
    """Return what gives the body once more, and then goes on as before."""
    waiting: list[dict[str, Any]] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return waiting.pop() if waiting else await receive()

    return receive_again
