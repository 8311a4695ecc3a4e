"""Stands between a client and PostgreSQL, on a unix socket of its own, and cuts the line around a COMMIT."""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import suppress
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_SOCKET = ".s.PGSQL.5432"


class Cut(StrEnum):
    """When the line is cut."""

    BEFORE = "before the server gets the COMMIT"
    AFTER = "after the server committed, before the client hears of it"
    LATE = "before the client hears, and the server gets the COMMIT later"


class PostgresProxy:
    """Forwards everything until it is told to cut.

    Args:
        folder: Where the socket it listens on goes.
        server: Folder of PostgreSQL's own socket.

    Attributes:
        next_cut: What to do at the next COMMIT; None: forward it.
        cuts: How often it has cut.
    """

    def __init__(self, folder: Path, server: Path) -> None:
        self._server = str(server / _SOCKET)
        self.folder = folder
        self.next_cut: Cut | None = None
        self.cuts = 0
        self.commits = 0
        self.released = threading.Event()
        """LATE: set, the server gets the COMMIT."""
        self._open: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / _SOCKET))
        self._listener.listen(50)
        threading.Thread(target=self._accept, daemon=True).start()

    def dsn(self, real: str) -> str:
        """Return the address that leads through here."""
        return real.split("?", maxsplit=1)[0] + f"?host={self.folder}"

    def cut_all(self) -> None:
        """Cut every line there is."""
        for end in self._open:
            _close(end)
        self._open.clear()

    def close(self) -> None:
        self.released.set()
        _close(self._listener)
        self.cut_all()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            try:
                server.connect(self._server)
            except OSError:
                _close(client)
                continue
            self._open += [client, server]
            muted = threading.Event()
            threading.Thread(target=self._upwards, args=(client, server, muted), daemon=True).start()
            threading.Thread(target=_downwards, args=(server, client, muted), daemon=True).start()

    def _upwards(self, client: socket.socket, server: socket.socket, muted: threading.Event) -> None:
        with suppress(OSError):
            begin = _exactly(client, 4)
            server.sendall(begin + _exactly(client, struct.unpack("!I", begin)[0] - 4))
            while True:
                head = _exactly(client, 5)
                message = head + _exactly(client, struct.unpack("!I", head[1:])[0] - 4)
                if head[:1] in b"QP" and b"COMMIT" in message[:64]:
                    self.commits += 1
                    if self.next_cut is not None:
                        self._cut(client, server, muted, message)
                        return
                server.sendall(message)
        _close(client)
        _close(server)

    def _cut(self, client: socket.socket, server: socket.socket, muted: threading.Event, message: bytes) -> None:
        how, self.next_cut = self.next_cut, None
        muted.set()
        if message[:1] == b"P":  # in a pipeline: what the client sends with it belongs to it
            message += _up_to_sync(client)
        if how is Cut.AFTER:
            server.sendall(message)
            threading.Event().wait(0.2)  # it has answered by then, to nobody
        self.cuts += 1
        _close(client)
        if how is Cut.LATE:
            self.released.wait(20)
            with suppress(OSError):
                server.sendall(message)
                threading.Event().wait(0.2)
        _close(server)


def _downwards(server: socket.socket, client: socket.socket, muted: threading.Event) -> None:
    with suppress(OSError):
        while found := server.recv(65536):
            if not muted.is_set():
                client.sendall(found)
    if not muted.is_set():
        _close(client)


def _up_to_sync(end: socket.socket) -> bytes:
    found = b""
    while True:
        head = _exactly(end, 5)
        found += head + _exactly(end, struct.unpack("!I", head[1:])[0] - 4)
        if head[:1] == b"S":
            return found


def _exactly(end: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        more = end.recv(size - len(found))
        if not more:
            raise OSError("the other end is gone")
        found += more
    return found


def _close(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()
