"""How requests reach the app: uvicorn, with a bound on the time that a client may take over its part of it.

Rule 1: a request's head has HEAD_S seconds to come, from the first byte or from the connection on: each byte more buys
no time. The same goes for what is left of a body that nobody waits for. A body that is waited for is the gate's.
Rule 2: an answer of which nothing is taken for UNTAKEN_S seconds is dropped, with its connection.
Rule 3: what is refused here is told as a problem, like everything else.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from planloom.server.problems import problem

HEAD_S = 10.0
HEAD_BYTES = 16 * 1024
KEEP_ALIVE_S = 5
"""Seconds that a connection is kept on which nothing more is asked."""
UNTAKEN_S = 60.0


def server_of(app: Any, *, end_s: float) -> uvicorn.Server:
    """Return what serves an app on sockets that `serve` is given.

    Args:
        end_s: Seconds that requests under way have to end, once it is told to.
    """
    return _Server(
        uvicorn.Config(
            app,
            http=_Connection,
            log_config=None,
            access_log=False,
            proxy_headers=False,  # whoever asks must not say where from
            server_header=False,
            timeout_graceful_shutdown=int(end_s),
            timeout_keep_alive=KEEP_ALIVE_S,
            h11_max_incomplete_event_size=HEAD_BYTES,
            ws="none",
            lifespan="on",
        )
    )


class _Server(uvicorn.Server):
    """Leaves signals to us: its own way ends the process before the engine has let go of its runs."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # elsewhere the system's own, longer time counts
            for one in sockets or ():  # each connection takes it over
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(UNTAKEN_S * 1000))
        await super().startup(sockets)


class _Connection(H11Protocol):
    """A connection whose client is waited for in vain only so long."""

    _awaited: asyncio.TimerHandle | None = None
    """Runs while it is the client who has to go on."""
    _has_begun = False
    """Whether anything came."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await()

    def data_received(self, data: bytes) -> None:
        self._has_begun = True
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_awaiting()
        elif self._awaited is None and not self.transport.is_closing():
            self._await()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_awaiting()
        super().connection_lost(exc)

    def _await(self) -> None:
        self._awaited = self.loop.call_later(HEAD_S, self._too_slow)

    def _stop_awaiting(self) -> None:
        if self._awaited is not None:
            self._awaited.cancel()
            self._awaited = None

    def _too_slow(self) -> None:
        if self._has_begun:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, "request.slow", "the request did not come in time")
        self.transport.close()

    def send_400_response(self, msg: str) -> None:
        self._refuse(HTTPStatus.BAD_REQUEST, "request.invalid", "this is not HTTP, or its head is too large")
        self.transport.close()

    def _refuse(self, status: HTTPStatus, code: str, detail: str) -> None:
        """Answer before there is a request, if nothing is being answered."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE) or self.transport.is_closing():
            return
        body = json.dumps(problem(status, code, detail)).encode()
        headers = [("content-type", "application/problem+json"), ("content-length", str(len(body)))]
        headers += [("cache-control", "no-store"), ("connection", "close")]
        told = (
            h11.Response(status_code=status, headers=headers, reason=status.phrase),
            h11.Data(data=body),
            h11.EndOfMessage(),
        )
        for event in told:
            self.transport.write(self.conn.send(event) or b"")
