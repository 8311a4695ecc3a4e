"""Where a journal under test lives, and the words its checks are written in.

Rule: a check uses nothing but the port, and gives up after `PATIENCE_S` where it could hang.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from planloom.core.events import AttemptSucceeded, Event, RunFinished, RunStarted, StepDispatched
from planloom.core.result import RunStatus
from planloom.errors import JournalError
from planloom.plan.model import Plan

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from planloom.ports import Journal, Recorded, RunWriter

PATIENCE_S = 20.0
AT = 1_700_000_000.5
PLAN = Plan.from_dict({"name": "conformance", "steps": [{"id": "fetch", "tool": "web.fetch"}]})
LARGE = "größer als eine Zeile " * 4_000
"""Text of 92 KB, beyond what an event's own row may hold."""


@dataclass(frozen=True, slots=True)
class JournalPlace:
    """Where a journal under test lives.

    Attributes:
        open: Returns the journal; called again, the same record where the journal outlives its object.
        intrude: Appends one event to a run as a second engine would that does not care who owns it.
        spoil: Changes what is on record of a run, as a failing disk would.
    """

    open: Callable[[], Journal]
    intrude: Callable[[str], None] | None = None
    spoil: Callable[[str], None] | None = None


Check = Callable[[JournalPlace], Awaitable[None]]


def run_check(check: Check, place: JournalPlace) -> None:
    """Run one check in an event loop of its own, for no longer than `PATIENCE_S`."""

    async def patiently() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await check(place)

    asyncio.run(patiently())


@dataclass(slots=True)
class Told:
    """What a writer's `on_durable` was told, in order."""

    seqs: list[int] = field(default_factory=list)
    errors: list[BaseException] = field(default_factory=list)

    def __call__(self, seq: int, error: BaseException | None) -> None:
        if error is None:
            self.seqs.append(seq)
        else:
            self.errors.append(error)


def started(at: float = AT) -> RunStarted:
    """Return how a run of the suite begins."""
    return RunStarted(PLAN, {"url": "https://example.org"}, at)


def dispatched(number: int) -> StepDispatched:
    """Return the start of one of many steps."""
    return StepDispatched(f"step_{number}", 1, 0, AT + number)


def succeeded(number: int, output: Any = None) -> AttemptSucceeded:
    """Return the good end of one of many steps."""
    return AttemptSucceeded(f"step_{number}", 1, 0, output, AT, AT + number)


def finished() -> RunFinished:
    """Return how a run of the suite ends."""
    return RunFinished(RunStatus.SUCCESS, {"ok": True}, AT + 100)


def equal(actual: object, expected: object, what: str) -> None:
    """Raise AssertionError unless both are equal."""
    if actual != expected:
        raise AssertionError(f"{what}: got {actual!r:.500}, expected {expected!r:.500}")


async def raises(error: type[BaseException], work: Awaitable[object], what: str) -> None:
    """Raise AssertionError unless the work raises that error."""
    try:
        await work
    except error as problem:
        if isinstance(problem, JournalError) and not problem.remedy:
            raise AssertionError(f"{what}: the error has no remedy: {problem}") from problem
    else:
        raise AssertionError(f"{what}: nothing was raised, expected {error.__name__}")


@asynccontextmanager
async def opened(place: JournalPlace) -> AsyncIterator[Journal]:
    """Open the place's journal and close it at the end of the block."""
    journal = place.open()
    try:
        yield journal
    finally:
        await journal.close()


async def begun(journal: Journal, run_id: str = "run-1", told: Told | None = None) -> RunWriter:
    """Return the writer of a new run whose first event is durable."""
    writer = await journal.create(run_id, told or Told())
    writer.append((started(),), (0,))
    await writer.flush()
    return writer


async def followed(journal: Journal, run_id: str, *, after: int = 0) -> list[Recorded]:
    """Return what following the run gives until it ends."""
    return [recorded async for recorded in journal.follow(run_id, after=after)]


def seqs(recorded: list[Recorded]) -> list[int]:
    return [entry.seq for entry in recorded]


def events(recorded: list[Recorded]) -> list[Event]:
    return [entry.event for entry in recorded]
