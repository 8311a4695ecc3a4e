"""A worker of a cluster: a process that makes the attempts of one capability, with tools and an allowlist of its own.

``planloom worker --nats URL`` starts one; ``python -m planloom.runtime.nats_worker`` is what a crew of them starts:
it reads one line, a `Posting`, and goes to work.

Rule 1: it outlives the broker: what it made is told when there is one again.
Rule 2: a secret that it knows does not leave it, whatever a tool returns.
Rule 3: what comes over the connection names tools, and never brings code.
"""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, ValidationError

from planloom import masking
from planloom.errors import BrokerRefusedError, PlanloomError, WorkerError, field_problems
from planloom.runtime.wire import JsonWire
from planloom.runtime.worker import REFUSED, Outfit, equipped, on_signals, refusal
from planloom.transport.bench import Bench
from planloom.transport.fitting import kind_of_work
from planloom.transport.nats.desk import Assignment
from planloom.transport.nats.link import Broker
from planloom.transport.nats.post import ClusterPost

if TYPE_CHECKING:
    from collections.abc import Callable

    from planloom.core.commands import RunStep
    from planloom.core.events import Fact
    from planloom.runtime.worker import Equipped


AT_WORK = "planloom worker: at work"
"""What one of a crew prints when it takes commands."""


class Posting(Outfit):
    """What a worker of a cluster is started with.

    Attributes:
        servers: Addresses of the broker.
        credentials: Its .creds file.
        capability: Whose work it does.
        ca: A file with the certificates to trust.
        kinds: Kinds of steps that it may do beside tools; None: all.
        idle_s: Seconds without work after which it goes; None: it stays.
    """

    servers: Annotated[tuple[str, ...], Field(min_length=1, repr=False)]
    """An address may hold a password."""
    credentials: Path | None = None
    capability: Annotated[str, Field(min_length=1, max_length=100)] = "main"
    ca: Path | None = None
    kinds: tuple[str, ...] | None = None
    idle_s: Annotated[float, Field(gt=0)] | None = None

    @property
    def broker(self) -> Broker:
        from planloom.transport.nats import subjects

        inbox = subjects.inbox(self.capability, self.worker)
        return Broker(self.servers, self.credentials, name=self.worker, inbox=inbox, ca=self.ca)

    @property
    def assignment(self) -> Assignment:
        return Assignment(self.capability, self.worker, self.labels, self.capacity, self.idle_s)


class StruckWire(JsonWire):
    """Writes facts without the secrets that are known here."""

    def fact_out(self, fact: Fact) -> list[Any]:
        mask = masking.known()
        return super().fact_out(fact if mask is None else mask.fact(fact))


class _Working:
    """One worker from its start to its end."""

    def __init__(self, posting: Posting, own: Equipped, at_work: Callable[[], None]) -> None:
        self.at_work = at_work
        self._loop = asyncio.get_running_loop()
        self.over: asyncio.Future[str] = self._loop.create_future()
        self._told = 0
        wire = StruckWire()
        self.post = ClusterPost(
            posting.broker,
            posting.assignment,
            wire,
            heard=lambda message: self._call(self._hear, message),
            ended=lambda why, refused: self._call(self._ended, why, refused),
            wait_s=posting.wait_s,
        )
        self.bench = Bench(
            own.wired.transport,
            wire,
            own.clock,
            self.post.send,
            capacity=posting.capacity,
            refuses=lambda request: self._refusal(request, posting, own),
            at_rest=lambda: None,
        )

    @staticmethod
    def _refusal(request: RunStep, posting: Posting, own: Equipped) -> str:
        kind = kind_of_work(request)
        if posting.kinds is not None and kind not in ("tool", *posting.kinds):
            return f"a worker of {posting.capability!r} does no {kind} steps"
        return refusal(request, own.registry)

    def drain(self) -> None:
        """Take nothing more, end what was taken, and go; the second time, go at once."""
        self._told += 1
        if self._told == 1:
            self.post.drain()
        elif not self.over.done():
            self.over.set_result("it was told to go twice")

    def _call(self, what: Any, *args: Any) -> None:
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(what, *args)

    def _hear(self, message: dict[str, Any]) -> None:
        if message["m"] == "ready":
            self.at_work()
        elif message["m"] != "bye":
            self.bench.hear(message)
        elif not self.over.done():
            self.over.set_result(str(message["why"]))

    def _ended(self, why: str, refused: bool) -> None:
        if not self.over.done():
            self.over.set_exception(BrokerRefusedError(why) if refused else WorkerError(why))


async def work_in_cluster(posting: Posting, *, at_work: Callable[[], None] = lambda: None) -> str:
    """Make attempts for a cluster until told to go; return why it ended.

    Args:
        at_work: Is called when it takes commands.

    Raises:
        ConfigError: Its tools, settings or credential are wrong.
        BrokerRefusedError: The broker does not let it in, or does not let it work.
        WorkerError: The broker cannot be reached.
    """
    async with equipped(posting) as (own, last):
        working = _Working(posting, own, at_work)
        on_signals(working.drain)
        last.callback(working.post.stop)
        working.post.start()
        try:
            return await working.over
        finally:
            working.post.quit()
            working.bench.stop_all()


def main() -> None:
    """Read the posting from standard input, and work."""
    line = sys.stdin.buffer.readline()
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    try:
        posting = Posting.model_validate_json(line)
        del line
        asyncio.run(work_in_cluster(posting, at_work=lambda: print(AT_WORK, flush=True)))
    except ValidationError as error:
        problems = "; ".join(field_problems(error))
        sys.exit(f"planloom worker: the posting is wrong: {problems}")
    except BrokerRefusedError as error:
        sys.stderr.write(f"planloom worker: {error}\n")
        sys.exit(REFUSED)
    except PlanloomError as error:
        sys.exit(f"planloom worker: {error}")


if __name__ == "__main__":
    main()
