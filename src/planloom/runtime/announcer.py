"""What an Execution Agent tells on its bus: of runs what their records say, of workers and denials what it sees itself.

Rule 1: of a run, everything that is durable is told once, in order, from its first entry on.
Rule 2: nothing here decides anything, and nothing that goes wrong here touches a run.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from planloom.errors import JournalError
from planloom.transport.event import Event
from planloom.transport.events_out import DENIED, publish_run

if TYPE_CHECKING:
    from planloom.errors import NotAllowedError
    from planloom.ports import Journal
    from planloom.transport.bus import EventBus
    from planloom.transport.staff import PoolEvent

_log = logging.getLogger("planloom.agent")


class Announcer:
    """Tells a bus what happens.

    Args:
        source: Who says so.
    """

    def __init__(self, bus: EventBus, source: str) -> None:
        self._bus = bus
        self._source = source
        self._views: dict[str, asyncio.Task[None]] = {}

    def tell(
        self,
        topic: str,
        told: dict[str, Any],
        *,
        run_id: str | None,
        subject: str | None = None,
        at: float | None = None,
    ) -> None:
        self._bus.publish(Event.new(topic, told, subject=subject, correlation_id=run_id, source=self._source, at=at))

    def denied(self, error: NotAllowedError, module: str, run_id: str) -> None:
        """Tell who was denied what, and why."""
        what = error.facts.get("tool") or error.facts.get("agent")
        _log.warning("tool.denied module=%r step=%r what=%r because=%r", module, error.step, what, error.message)
        who = {"module": module, "run": run_id, "step": error.step}
        self.tell(DENIED, {"who": who, "what": what, "why": error.message}, subject=error.step, run_id=run_id)

    def worker(self, event: PoolEvent) -> None:
        """Tell what happened to a worker; what went wrong is logged, too."""
        facts = {"worker": event.worker, "program": event.program, "why": event.why}
        if event.why:
            _log.warning("worker.%s %s", event.kind, " ".join(f"{name}={value!r}" for name, value in facts.items()))
        topic = f"planloom.worker.{event.kind}"
        self.tell(topic, facts, run_id=event.program or None, subject=event.worker, at=event.at)

    def follow(self, journal: Journal, run_id: str) -> None:
        """Tell of a run from here to its end; a second call is harmless."""
        view = self._views.get(run_id)
        if view is None or view.done() or view.cancelling():
            task = self._views[run_id] = asyncio.get_running_loop().create_task(self._view(journal, run_id))
            task.add_done_callback(lambda ended: self._told(run_id, ended))

    def _told(self, run_id: str, view: asyncio.Task[None]) -> None:
        if self._views.get(run_id) is view:
            del self._views[run_id]
        error = None if view.cancelled() else view.exception()
        if error is not None:
            _log.error("events of run %s are not told: %r", run_id, error, exc_info=error)

    async def told(self, run_id: str) -> None:
        """Wait until everything was told of a run that has ended."""
        view = self._views.get(run_id)
        if view is not None:
            await asyncio.wait([view])

    def drop(self, run_id: str) -> None:
        """Tell no more of a run: its record is broken, or it was let go of."""
        view = self._views.get(run_id)
        if view is not None:
            view.cancel()

    async def close(self) -> None:
        views = list(self._views.values())
        for view in views:
            view.cancel()
        await asyncio.gather(*views, return_exceptions=True)

    async def _view(self, journal: Journal, run_id: str) -> None:
        try:
            await publish_run(self._bus, journal, run_id, source=self._source)
        except JournalError as error:
            _log.warning("events of run %s are not told: %s", run_id, error)
