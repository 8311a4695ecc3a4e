"""A pen whose events are told to observers, each once it is durable.

Rule 1: whoever drives the run hears first; what an observer raises is logged, and changes nothing for the run.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from planloom.core.events import Event
    from planloom.ports import OnDurable, Recorded, RunWriter

_log = logging.getLogger("planloom.telemetry")


class Observer(Protocol):
    """Whoever is told of runs that are driven here."""

    def begin(self, run_id: str, record: Iterable[Recorded] = (), *, backlog: Callable[[], int] = int) -> None: ...

    def observe(self, run_id: str, event: Event) -> None: ...

    def flushed(self, seconds: float) -> None: ...

    def let_go(self, run_id: str) -> None: ...


class HeardWriter:
    """The pen of one run, with observers.

    Args:
        on_durable: Whoever drives the run; `on_durable` of this is for the journal.
    """

    def __init__(self, run_id: str, observers: Sequence[Observer], on_durable: OnDurable) -> None:
        self._run_id = run_id
        self._observers = observers
        self._tell_driver = on_durable
        self._inner: RunWriter | None = None
        self._appended = 0
        self._waiting: deque[tuple[int, float, Sequence[Event]]] = deque()

    def holding(self, inner: RunWriter, record: Sequence[Recorded] = ()) -> HeardWriter:
        """Return this pen, which writes with that one; `record` is what is on record already."""
        self._inner = inner
        self._appended = record[-1].seq if record else 0
        for observer in self._observers:
            self._safely(partial(observer.begin, self._run_id, record, backlog=lambda: inner.backlog))
        return self

    @property
    def backlog(self) -> int:
        return self._pen.backlog

    def append(self, events: Sequence[Event], causes: Sequence[int]) -> int:
        """Hand over events; see the port."""
        last = self._appended + len(events)
        if events:
            self._waiting.append((last, time.monotonic(), events))  # first: a journal in memory is durable at once
        try:
            seq = self._pen.append(events, causes)
        except BaseException:
            self._waiting.pop()
            raise
        self._appended = seq
        return seq

    async def flush(self) -> None:
        await self._pen.flush()

    async def close(self) -> None:
        """Flush and give the run up."""
        try:
            await self._pen.close()
        finally:
            for observer in self._observers:
                self._safely(partial(observer.let_go, self._run_id))

    def on_durable(self, seq: int, error: BaseException | None) -> None:
        """Hear from the journal how far the record is durable."""
        try:
            self._tell_driver(seq, error)
        finally:
            self._tell(seq)

    def _tell(self, seq: int) -> None:
        while self._waiting and self._waiting[0][0] <= seq:
            _, since, events = self._waiting.popleft()
            took_s = time.monotonic() - since
            for observer in self._observers:
                self._safely(partial(_told, observer, self._run_id, events, took_s))

    def _safely(self, tell: Callable[[], None]) -> None:
        try:
            tell()
        except Exception as error:  # noqa: BLE001 - rule 1: an instrument raises what it likes
            _log.warning("run %s is not measured: %r", self._run_id, error)

    @property
    def _pen(self) -> RunWriter:
        assert self._inner is not None, "held before it writes"
        return self._inner


def _told(observer: Observer, run_id: str, events: Sequence[Event], took_s: float) -> None:
    observer.flushed(took_s)
    for event in events:
        observer.observe(run_id, event)
