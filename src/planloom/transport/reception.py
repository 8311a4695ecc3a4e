"""Where workers come in: listens, asks each for its proof, and lets in who has one.

Rule 1: whoever is refused is told so, logged, and disconnected; nothing it said is used.
Rule 2: the socket file lies in a folder of its own that nobody else may enter.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import socket
import stat
import tempfile
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from planloom.errors import ConfigError
from planloom.transport.frames import MAX_FRAME_BYTES, STRANGER_QUOTA_BYTES
from planloom.transport.handshake import WELCOME_S, Address, Hello, new_nonce, proof, proves
from planloom.transport.link import Link

if TYPE_CHECKING:
    from collections.abc import Callable

_log = logging.getLogger("planloom.workers")

MAX_STRANGERS = 64
"""Connections that have not shown a token yet."""


class Reception:
    """Lets workers in.

    Args:
        token_of: Returns the token that a worker of this id must know, or None if there is to be no such worker.
        admit: Takes who has shown its token, with its link.
        refused: Hears of who was not let in: its name, and why.
        lease_s: Seconds of silence after which a worker counts as lost; it is told, and shows itself more often.
    """

    def __init__(
        self,
        token_of: Callable[[str], str | None],
        admit: Callable[[Hello, Link], None],
        refused: Callable[[str, str], None],
        *,
        lease_s: float,
    ) -> None:
        self.token_of = token_of
        self.admit = admit
        self.refused = refused
        self.lease_s = lease_s
        self.strangers: dict[_Visit, None] = {}
        """Whoever came in and is nobody yet, the oldest first."""
        self._folder: str | None = None
        self._server: asyncio.Server | None = None
        self._address: Address | None = None

    @property
    def address(self) -> str:
        """Return where it listens."""
        if self._address is None:
            raise ConfigError("the pool listens nowhere yet", remedy="start it first: async with WorkerPool(...)")
        return str(self._address)

    async def open(self, listen: str | None) -> None:
        """Listen at an address; None: at a socket of its own."""
        loop = asyncio.get_running_loop()
        if listen is None:
            self._folder = tempfile.mkdtemp(prefix="planloom-")
            listen = f"unix:{self._folder}/workers"
        address = Address.of(listen)
        try:
            if address.path:
                self._server = await loop.create_unix_server(self._visited, sock=_socket_file(address.path))
            else:
                self._server = await loop.create_server(self._visited, address.host, address.port)
                address = Address(host=address.host, port=self._server.sockets[0].getsockname()[1])
        except OSError as error:
            self._remove_folder()
            raise ConfigError(f"cannot listen at {listen}: {error}", remedy="give another address") from error
        self._address = address

    def _visited(self) -> asyncio.Protocol:
        return _Visit(self).link.channel

    async def close(self) -> None:
        """Let nobody in any more; who is in stays."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for visit in list(self.strangers):
            visit.link.abort("the engine closes")
        if self._address is not None and self._address.path:
            _remove_socket(self._address.path)
        self._remove_folder()
        await asyncio.sleep(0)  # connections are closed on the next turn of the loop

    def _remove_folder(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None


def _socket_file(path: str) -> socket.socket:
    """Return a socket bound to a file that only this user may connect to."""
    _remove_socket(path)
    listening = socket.socket(socket.AF_UNIX)
    mask = os.umask(0o177)
    try:
        listening.bind(path)
    except OSError:
        listening.close()
        raise
    finally:
        os.umask(mask)
    return listening


def _remove_socket(path: str) -> None:
    with suppress(OSError):
        if stat.S_ISSOCK(os.lstat(path).st_mode):  # left by an engine that was killed
            os.unlink(path)


class _Visit:
    """A connection until it is clear whose it is."""

    def __init__(self, reception: Reception) -> None:
        self._reception = reception
        self._nonce = new_nonce()
        self._patience: asyncio.TimerHandle | None = None
        self.link = Link(self._said, self._left, on_open=self._came)
        self.link.channel.quota_bytes = STRANGER_QUOTA_BYTES

    def _came(self) -> None:
        strangers = self._reception.strangers
        strangers[self] = None
        if len(strangers) > MAX_STRANGERS:  # the oldest goes: whoever has a token shows it at once
            oldest = next(iter(strangers))
            oldest._gone()
            oldest.link.abort("too many connections that show no token")
        self._patience = asyncio.get_running_loop().call_later(WELCOME_S, self._refuse, "?", "it showed no token")
        self.link.send({"m": "challenge", "nonce": self._nonce})

    def _said(self, message: dict[str, Any]) -> None:
        try:
            hello = Hello.model_validate(message)
        except ValidationError:
            self._refuse("?", "it did not say hello as was agreed; it may be of another version of planloom")
            return
        token = self._reception.token_of(hello.worker)
        if token is None:
            self._refuse(hello.worker, "no worker of this name is expected")
        elif not proves(hello.proof, token, "worker", self._nonce, hello.nonce):
            self._refuse(hello.worker, "it does not know the token")
        else:
            self._let_in(hello, token)

    def _let_in(self, hello: Hello, token: str) -> None:
        self._gone()
        self.link.channel.max_bytes, self.link.channel.quota_bytes = MAX_FRAME_BYTES, None
        self.link.send(
            {
                "m": "welcome",
                "proof": proof(token, "engine", self._nonce, hello.nonce),
                "beat_s": self._reception.lease_s / 4,
            }
        )
        self._reception.admit(hello, self.link)

    def _refuse(self, who: str, why: str) -> None:
        self._gone()
        _log.warning("worker.refused worker=%r because=%r", who, why)
        self.link.send({"m": "refused", "why": why})
        self.link.close()
        self._reception.refused(who, why)

    def _left(self, why: str) -> None:
        self._gone()

    def _gone(self) -> None:
        self._reception.strangers.pop(self, None)
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
