"""Callers of a server on this machine: so many at once, and listeners to a stream of events.

Rule 1: written on bare sockets: a client library costs more than the server that is measured, on the same two cores.
Rule 2: what is answered is looked at; of a stream every event's number: none may be missing, none be there twice.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

_EVENT = re.compile(rb'id: (\d+)\nevent: [^\n]*\ndata: \{"seq":\d+,"cause":[^,]*,"event":"[^"]*","at":([0-9.e+]+)')
_FRAME = re.compile(rb"id: \d+\nevent: [^\n]*\ndata: [^\n]*\n\n")
_FRAME_END = b"\n\n"
GIVE_UP_S = 120.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Caller:
    """One connection that is kept."""

    def __init__(self, host: str, port: int) -> None:
        self._place = host, port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """Return the answer to one request.

        Raises:
            OSError, EOFError: The server went away.
        """
        if self._streams is None:
            self._streams = await asyncio.open_connection(*self._place)
        reader, writer = self._streams
        text = b"" if body is None else json.dumps(body).encode()
        lines = [f"{method} {path} HTTP/1.1", f"host: {self._place[0]}:{self._place[1]}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        if body is not None:
            lines += ["content-type: application/json", f"content-length: {len(text)}"]
        writer.write("\r\n".join([*lines, "", ""]).encode() + text)
        first, *rest = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").strip().split("\r\n")
        told = {name.lower(): value for name, _, value in (line.partition(": ") for line in rest)}
        found = await reader.readexactly(int(told.get("content-length", 0)))
        if told.get("connection") == "close":
            self.close()
        return Answer(int(first.split(" ")[1]), told, found)

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


@dataclass
class Load:
    """What so many callers at once were answered."""

    answers: list[Answer] = field(default_factory=list)
    latencies_s: list[float] = field(default_factory=list)
    took_s: float = 0.0

    def share_s(self, share: float) -> float:
        """Return the latency that this share of the requests stayed below."""
        return share_of(self.latencies_s, share)

    def statuses(self) -> set[int]:
        return {answer.status for answer in self.answers}


async def posted(place: tuple[str, int], path: str, body: Any, *, count: int, at_once: int) -> Load:
    """Send the same request `count` times over `at_once` connections."""
    load, left = Load(), iter(range(count))
    callers = [Caller(*place) for _ in range(at_once)]
    began = time.perf_counter()
    await asyncio.gather(*(_posting(caller, path, body, left, load) for caller in callers))
    load.took_s = time.perf_counter() - began
    for caller in callers:
        caller.close()
    return load


async def _posting(caller: Caller, path: str, body: Any, left: Iterator[int], load: Load) -> None:
    for _ in left:
        sent = time.perf_counter()
        load.answers.append(await caller.ask("POST", path, body))
        load.latencies_s.append(time.perf_counter() - sent)


class Listener(asyncio.Protocol):
    """One follower of a stream of events: every number in its turn, and how long after its moment it came.

    Attributes:
        last: Number of the last event.
        lags_s: Seconds from each event's moment until it was here.
        broken: What was wrong, if anything was.
        keep: Where the frames go, if they are kept.
    """

    def __init__(self, path: str, host: str) -> None:
        self._asking = f"GET {path} HTTP/1.1\r\nhost: {host}\r\naccept: text/event-stream\r\n\r\n".encode()
        self._rest = b""
        self.last = 0
        self.lags_s = array("d")
        self.broken = ""
        self.keep: list[bytes] | None = None
        self.answered = asyncio.get_running_loop().create_future()
        self.ended = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(self._asking)

    def data_received(self, data: bytes) -> None:
        now = time.time()
        if not self.answered.done() and b"retry: " in data:
            self.answered.set_result(None)
        data = self._rest + data
        whole = data.rfind(_FRAME_END) + 2
        self._rest = data[whole:] if whole > 1 else data
        for number, at in _EVENT.findall(data, 0, max(whole, 0)) if whole > 1 else ():
            if int(number) != self.last + 1:
                self.broken = self.broken or f"event {int(number)} after {self.last}"
            self.last = int(number)
            self.lags_s.append(now - float(at))
        if self.keep is not None and whole > 1:
            self.keep += _FRAME.findall(data, 0, whole)
        if self._rest.endswith(b"0\r\n\r\n") or data.endswith(b"\r\n0\r\n\r\n"):
            self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()

    def _end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(time.perf_counter())
        if not self.answered.done():
            self.answered.set_result(None)
        self._transport.close()


async def listening(place: tuple[str, int], path: str, count: int, *, wait: bool = True) -> list[Listener]:
    """Return so many listeners; with `wait`, each one's stream has begun."""
    loop, made = asyncio.get_running_loop(), []
    for _ in range(count):
        _, listener = await loop.create_connection(lambda: Listener(path, f"{place[0]}:{place[1]}"), *place)
        made.append(listener)
    if wait:
        async with asyncio.timeout(GIVE_UP_S):
            await asyncio.gather(*(listener.answered for listener in made))
    return made


async def all_heard(listeners: Sequence[Listener], *, last: int) -> float:
    """Wait until every stream has ended; return when the last one did, by `perf_counter`.

    Raises:
        AssertionError: One of them missed an event or was told of one twice.
    """
    async with asyncio.timeout(GIVE_UP_S):
        ends = await asyncio.gather(*(listener.ended for listener in listeners))
    wrong = [listener.broken or f"ended after {listener.last}" for listener in listeners if listener.last != last]
    wrong += [listener.broken for listener in listeners if listener.broken]
    assert not wrong, f"{len(wrong)} followers: {wrong[0]}"
    return max(map(float, ends))


def share_of(values: Sequence[float], share: float) -> float:
    """Return the value that this share of all stays below or at."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
