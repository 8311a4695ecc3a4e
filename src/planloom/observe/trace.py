"""A run's spans to OpenTelemetry, while it goes on: read from its record, by nobody it would have to wait for.

Rule 1: this file is imported only where telemetry is switched on.
Rule 2: what is told is durable; telemetry that breaks is logged, and changes nothing for the run.
Rule 3: the tracer is called in a thread of its own: an exporter may send each span before it returns, or never return.
Rule 4: a resumed run goes on in the same trace, in the same span, where the tracer lets us name them (the SDK's does):
only what was not told before is told.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from planloom.errors import ConfigError, JournalError
from planloom.observe import genai
from planloom.observe.naming import span_id_of, trace_id_of
from planloom.observe.otel import trace as otel
from planloom.observe.otel_metrics import metrics_of
from planloom.observe.spans import Began, Ended, Spans
from planloom.observe.steps import RUN

if TYPE_CHECKING:
    from opentelemetry.metrics import Meter
    from opentelemetry.trace import Span, Tracer

    from planloom.ports import Recorded

_log = logging.getLogger("planloom.telemetry")
CLOSE_S = 5.0
"""Seconds that closing waits for the last spans of runs that have ended."""


class Tracing:
    """Tells runs as spans.

    Args:
        tracer: None: that of the provider that this process has set up.
        content: Whether spans tell what was answered and what errors say; None: as the environment says.
        meter: What metrics are told to; None: that of the provider that this process has set up.
    """

    def __init__(
        self, tracer: Tracer | None = None, *, content: bool | None = None, meter: Meter | None = None
    ) -> None:
        from planloom import __version__

        given = tracer or otel.get_tracer("planloom", __version__)
        self._ids = _Ids()
        self._tracer = _naming(given, self._ids)
        asked = os.environ.get(genai.CAPTURE_CONTENT, "").lower() == "true"
        self._content = asked if content is None else content
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._aside = _Aside()
        self.metrics = metrics_of(meter)

    @classmethod
    def of(cls, telemetry: bool | Tracer | Tracing | None) -> Tracing | None:
        """Return what an engine's `telemetry` means; None: nothing is told.

        Raises:
            ConfigError: It is none of these.
        """
        if telemetry is None or telemetry is False:
            return None
        if isinstance(telemetry, Tracing):
            return telemetry
        if telemetry is True:
            return cls()
        if isinstance(telemetry, otel.Tracer):
            return cls(telemetry)
        raise ConfigError(f"telemetry={telemetry!r} is no tracer", remedy="give True, a Tracer or a Tracing")

    def begin(self, run_id: str, records: AsyncIterator[Recorded], *, after: int = 0) -> None:
        """Tell a run from here on, in a task of its own, whose spans are inside the caller's.

        Args:
            records: All of its record, from the start, as it comes.
            after: Number of the last event that was told before, by whoever drove the run then.
        """
        task = asyncio.get_running_loop().create_task(self.trace(run_id, records, after=after))
        self._tasks[run_id] = task
        task.add_done_callback(lambda done: self._done(run_id, done))

    def _done(self, run_id: str, task: asyncio.Task[None]) -> None:
        if self._tasks.get(run_id) is task:
            del self._tasks[run_id]
        if not task.cancelled() and task.exception() is not None:
            _log.warning("run %s is told no further: %r", run_id, task.exception())

    def let_go(self, run_id: str) -> None:
        """Stop telling a run that has not ended: spans that are open are left to whoever resumes it."""
        task = self._tasks.pop(run_id, None)
        if task is not None:
            task.cancel()

    async def close(self) -> None:
        """Wait until everything that is durable was told, for CLOSE_S at most. The tracer's provider is not ours."""
        tasks = list(self._tasks.values())
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=CLOSE_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if not self._tasks:  # else another engine tells its runs with it, too
            self._aside.end()

    async def trace(self, run_id: str, records: AsyncIterator[Recorded], *, after: int = 0) -> None:
        """Tell a run; returns when its record ends. Arguments as for `begin`."""
        spans = Spans(run_id, content=self._content)
        told_before: dict[str, Began] = {}
        live: dict[str, Span] = {}
        try:
            async for recorded in records:
                signals = list(spans.read(recorded.event))
                if recorded.seq <= after:
                    _remember(told_before, signals)
                    continue
                if told_before:  # their ends are still to come
                    signals = [*told_before.values(), *signals]
                    told_before = {}
                if signals:
                    await self._aside.do(partial(self._tell, run_id, signals, live))
        except JournalError as error:
            _log.warning("run %s is told no further: %s", run_id, error)

    def _tell(self, run_id: str, signals: Iterable[Began | Ended], live: dict[str, Span]) -> None:
        for signal in signals:
            if isinstance(signal, Began):
                self._begin(run_id, signal, live)
            else:
                _end(live.pop(signal.path), signal)

    def _begin(self, run_id: str, began: Began, live: dict[str, Span]) -> None:
        self._ids.set(run_id, began.path)
        live[began.path] = self._tracer.start_span(
            began.name,
            context=None if began.parent is None else otel.set_span_in_context(live[began.parent]),
            kind=otel.SpanKind.CLIENT if began.is_client else otel.SpanKind.INTERNAL,
            attributes=began.attributes,
            start_time=_ns(began.at),
        )


def _remember(open_then: dict[str, Began], signals: Iterable[Began | Ended]) -> None:
    for signal in signals:
        if isinstance(signal, Began):
            open_then[signal.path] = signal
        else:
            open_then.pop(signal.path, None)


def _end(span: Span, ended: Ended) -> None:
    for happened in ended.happened:
        span.add_event(happened.name, happened.attributes, _ns(happened.at))
    span.set_attributes(ended.attributes)
    if ended.error is not None:
        span.set_attribute(genai.ERROR_TYPE, ended.error)
        span.set_status(otel.Status(otel.StatusCode.ERROR, ended.told or ended.error))
    span.end(_ns(ended.at))


def _ns(at: float) -> int:
    return round(at * 1_000_000_000)


class _Aside:
    """A thread that does one thing after the other; what it hangs in ends with the process."""

    def __init__(self) -> None:
        self._waiting: SimpleQueue[Callable[[], None] | None] | None = None

    async def do(self, what: Callable[[], None]) -> None:
        """Return when it is done; raises what it raises."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        context = copy_context()  # of whose span the run belongs to

        def do_it() -> None:
            error = None
            try:
                context.run(what)
            except Exception as raised:  # noqa: BLE001 - a tracer raises what it likes; who waits here is told
                error = raised
            with suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(_settle, done, error)

        if self._waiting is None:
            self._waiting = SimpleQueue()
            threading.Thread(target=_do_all, args=(self._waiting,), name="planloom telemetry", daemon=True).start()
        self._waiting.put(do_it)
        await done

    def end(self) -> None:
        """Have the thread end when it has done what it was given."""
        if self._waiting is not None:
            self._waiting.put(None)
            self._waiting = None


def _do_all(waiting: SimpleQueue[Callable[[], None] | None]) -> None:
    while (do_it := waiting.get()) is not None:
        do_it()


def _settle(done: asyncio.Future[None], error: Exception | None) -> None:
    if done.done():
        return
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)


class _Ids:
    """Names the next span as its run and its path say; what an SDK's tracer asks for names."""

    def __init__(self) -> None:
        self._run_id = ""
        self._path = RUN

    def set(self, run_id: str, path: str) -> None:
        self._run_id, self._path = run_id, path

    def generate_trace_id(self) -> int:
        return trace_id_of(self._run_id)

    def generate_span_id(self) -> int:
        return span_id_of(self._run_id, self._path)

    def is_trace_id_random(self) -> bool:
        return False


def _naming(tracer: Any, ids: _Ids) -> Tracer:
    """Return the tracer, which asks us for names where it asks anybody."""
    if not hasattr(tracer, "id_generator"):
        return tracer  # type: ignore[no-any-return]
    mine = copy.copy(tracer)
    mine.id_generator = ids
    return mine  # type: ignore[no-any-return]
