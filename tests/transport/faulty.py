"""A connection between an engine and a worker that doubles every frame, turns frames around, and loses some for good.

And a worker in this process, whose work is what the test says.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Awaitable, Callable
from typing import Any

from planloom.core.commands import RunStep
from planloom.core.result import StepOutcome
from planloom.executors.attempt import Attempts
from planloom.ports import AttemptContext
from planloom.runtime.clock import LoopClock
from planloom.runtime.wire import JsonWire
from planloom.tools.registry import ToolRegistry
from planloom.transport.bench import Bench
from planloom.transport.frames import MAX_FRAME_BYTES, FrameChannel, json_text
from planloom.transport.handshake import Address
from planloom.transport.local import LocalTransport
from planloom.transport.post import Post

Work = Callable[[RunStep, AttemptContext], Awaitable[Any]]


class FaultyRelay:
    """Listens for workers and passes on what both sides say, badly."""

    def __init__(self, to: str, path: str, *, seed: int, within_s: float = 0.05, lost: float = 0.01) -> None:
        self.address = f"unix:{path}"
        self._to = Address.of(to).path
        self._dice = random.Random(seed)
        self._within_s = within_s
        self._lost = lost
        self.passed = self.dropped = 0

    async def __aenter__(self) -> FaultyRelay:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(self._joined, Address.of(self.address).path)
        self._channels: list[FrameChannel] = []
        self._joining: set[asyncio.Task[Any]] = set()
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._server.close()
        for channel in self._channels:
            channel.abort("the relay ends")
        await asyncio.sleep(0)

    def _joined(self) -> asyncio.Protocol:
        sides: list[FrameChannel] = []
        waiting: list[Any] = []

        def from_worker(frame: Any) -> None:
            if len(sides) == 2:
                self._pass(frame, sides[1])
            else:
                waiting.append(frame)

        def closed(why: str) -> None:
            for side in sides:
                side.abort(why)

        sides.append(FrameChannel(from_worker, closed, max_bytes=MAX_FRAME_BYTES))
        self._channels.extend(sides)

        async def on() -> None:
            engine = FrameChannel(lambda frame: self._pass(frame, sides[0]), closed, max_bytes=MAX_FRAME_BYTES)
            self._channels.append(engine)
            await asyncio.get_running_loop().create_unix_connection(lambda: engine, self._to)
            sides.append(engine)
            for frame in waiting:
                self._pass(frame, engine)

        task = asyncio.get_running_loop().create_task(on())
        self._joining.add(task)
        return sides[0]

    def _pass(self, frame: Any, to: FrameChannel) -> None:
        loop = asyncio.get_running_loop()
        text = json_text(frame)
        for _ in range(2):
            if self._dice.random() < self._lost:
                self.dropped += 1
                continue
            self.passed += 1
            loop.call_later(self._dice.uniform(0, self._within_s), to.write, text)


class WorkerHere:
    """A worker of this process, with a connection of its own: everything but the process is real."""

    def __init__(
        self, address: str, token: str, tools: ToolRegistry, work: Work, *, name: str = "here", capacity: int = 100
    ) -> None:
        self._work = work
        self._loop = asyncio.get_running_loop()
        self.transport = LocalTransport(Attempts(self), LoopClock())
        self.ended: list[str] = []
        self.sent: list[dict[str, Any]] = []
        offer = {"worker": name, "pid": os.getpid(), "capacity": capacity, "kinds": ["tool", "model", "code"]}
        self.post = Post(
            address,
            token,
            offer | {"tools": {one.name: one.digest for one in tools}},
            heard=lambda message: self._loop.call_soon_threadsafe(self._hear, message),
            ended=lambda why, _: self.ended.append(why),
        )
        self.bench = Bench(
            self.transport,
            JsonWire(),
            LoopClock(),
            self._send,
            capacity=capacity,
            refuses=lambda request: "",
            at_rest=lambda: None,
        )

    def _send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)
        self.post.send(message)

    def _hear(self, message: dict[str, Any]) -> None:
        if message["m"] != "bye":
            self.bench.hear(message)

    async def execute(self, request: RunStep, context: AttemptContext) -> StepOutcome:
        return StepOutcome(await self._work(request, context))

    async def __aenter__(self) -> WorkerHere:
        self.post.start()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.transport.close()
        self.post.stop()
