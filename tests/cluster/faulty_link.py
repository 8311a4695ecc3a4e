"""A link to a NATS server that says some things twice, some late, some in another order, and some not at all.

It stands between the server and whoever connects to it, and knows where a message of the protocol begins and ends
(PUB, HPUB, MSG, HMSG). What is no message goes through as it came, at once.

Rule 1: it lives on a thread and an event loop of its own: a test may wait for processes meanwhile.
Rule 2: what it does to a message is drawn from a seed; only messages of the cluster (`pl.…`) are touched.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from urllib.parse import urlsplit

_TO_SERVER, _TO_CLIENT = (b"PUB", b"HPUB"), (b"MSG", b"HMSG")
MOST_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Faults:
    """How often what happens to a message, from 0 to 1.

    Attributes:
        jitter_s: A message that is late comes up to so much later, others overtake it.
        far_s: One that is very late comes so much later.
        drop: Of what the server would send again, or its sender: commands, outcomes and questions.
    """

    duplicate: float = 0.0
    late: float = 0.0
    jitter_s: float = 0.05
    very_late: float = 0.0
    far_s: float = 0.0
    drop: float = 0.0


class FaultyLink:
    """The link; a context manager.

    Attributes:
        url: Where it listens.
        counts: What it did, as "duplicated outcome", by what it did and to what.
        outcomes: Outcomes that came out of it towards agents, by the attempt they are of.
    """

    def __init__(self, upstream: str, faults: Faults, *, seed: int) -> None:
        parts = urlsplit(upstream)
        assert parts.hostname is not None
        self._upstream = parts.hostname, parts.port
        self._faults = faults
        self._dice = Random(seed)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.url = ""
        self.counts: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()

    def __enter__(self) -> FaultyLink:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._open(), self._loop).result(10)
        return self

    def __exit__(self, *exception: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _open(self) -> None:
        self._server = await asyncio.start_server(self._joined, "127.0.0.1", 0, limit=MOST_BYTES)
        self.url = f"nats://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _close(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _joined(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = self._upstream
        try:
            far_reader, far_writer = await asyncio.open_connection(host, port, limit=MOST_BYTES)
        except OSError:
            writer.close()
            return
        ways = [
            asyncio.create_task(self._carry(reader, far_writer, _TO_SERVER)),
            asyncio.create_task(self._carry(far_reader, writer, _TO_CLIENT)),
        ]
        self._tasks |= set(ways)
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for task in ways:
            task.cancel()
            self._tasks.discard(task)
        writer.close()
        far_writer.close()

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, kinds: tuple[bytes, ...]
    ) -> None:
        """Carry frames one way until one end goes."""
        with suppress(OSError, asyncio.IncompleteReadError):
            while line := await reader.readline():
                words = line.split()
                if not words or words[0].upper() not in kinds:
                    writer.write(line)
                else:
                    frame = line + await reader.readexactly(int(words[-1]) + 2)
                    subject = words[1].decode()
                    # Of a delivery it is the stream's, of an answer an inbox: those go through.
                    self._one(subject, frame, kinds is _TO_CLIENT, writer)
                await writer.drain()

    def _one(self, subject: str, frame: bytes, is_delivery: bool, writer: asyncio.StreamWriter) -> None:
        what = _what(subject)
        if what is None:
            writer.write(frame)
            return

        def out() -> None:
            if writer.is_closing():
                return
            writer.write(frame)
            if is_delivery and what == "outcome":
                self.outcomes[_attempt(frame)] += 1

        faults, dice = self._faults, self._dice
        if dice.random() < faults.drop:
            self.counts[f"dropped {what}"] += 1
            return
        self._send(out, what)
        if dice.random() < faults.duplicate:
            self.counts[f"duplicated {what}"] += 1
            self._send(out, what)

    def _send(self, out: Callable[[], None], what: str) -> None:
        draw, faults = self._dice.random(), self._faults
        if draw < faults.very_late:
            self.counts[f"very late {what}"] += 1
            self._loop.call_later(faults.far_s, out)
        elif draw < faults.very_late + faults.late:
            self.counts[f"late {what}"] += 1
            self._loop.call_later(self._dice.random() * faults.jitter_s, out)
        else:
            out()


def _what(subject: str) -> str | None:
    """Return what is said at a subject; None: nothing that is to be touched."""
    parts = subject.split(".")
    if parts[0] != "pl" or len(parts) < 3:
        return None
    if parts[1] == "in":
        return "outcome" if parts[2] not in ("submit", "signal") else None
    return {"cmd": "command", "ask": "question"}.get(parts[1])


def _attempt(frame: bytes) -> str:
    """Return which attempt an outcome is of."""
    told = json.loads(frame[frame.index(b'{"') :])
    return json.dumps(told["at"])
