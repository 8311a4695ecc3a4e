"""From the record to the bus: what each entry of a run's journal is to those who listen.

Rule 1: everything said here follows from durable entries alone: telling a run again says the same, with the same ids.
Rule 2: an entry is the event "RUN/SEQ", RUN as a URI spells it; what follows from it besides is "RUN/SEQ/…" and was
caused by it.
Rule 3: each attempt is requested; each step starts at most once, and ends once: completed, failed or skipped.

`planloom.step.requested` is the heart's request for an attempt, `planloom.step.started` its first; a step with items, a
plan, a wait or an approval starts without one.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import fields, is_dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from planloom.core import events as record
from planloom.core.machine import RunMachine
from planloom.core.result import SkipReason, StepStatus
from planloom.plan.model import Plan
from planloom.plan.policy import FailureKind
from planloom.transport.event import SOURCE, Event

if TYPE_CHECKING:
    from planloom.ports import Journal, Recorded
    from planloom.transport.bus import EventBus

STEP = "planloom.step."
RUN = "planloom.run."
ATTEMPT = "planloom.attempt."
DENIED = "planloom.tool.denied"
DEAD_LETTER = "planloom.step.dead_letter"
REFUSED = "planloom.run.refused"
"""Of a submission to a cluster that became no run, and so is on no record."""
AT_ONCE = 50
"""Entries after which others have their turn, so that subscribers can keep up."""

_TOPICS: Mapping[type[Any], str] = {
    record.RunStarted: RUN + "started",
    record.RunResumed: RUN + "resumed",
    record.RunStopping: RUN + "stopping",
    record.RunFinished: RUN + "finished",
    record.CancelRequested: RUN + "cancel_requested",
    record.PauseRequested: RUN + "pause_requested",
    record.WentOn: RUN + "went_on",
    record.StepDispatched: STEP + "requested",
    record.StepExpanded: STEP + "started",
    record.SubPlanStarted: STEP + "started",
    record.WaitStarted: STEP + "started",
    record.ApprovalRequested: STEP + "approval_requested",
    record.ApprovalAnswered: STEP + "approval_answered",
    record.AnswerRefused: STEP + "answer_refused",
    record.TimerFired: STEP + "timer_fired",
    record.OutcomeUnknown: STEP + "outcome_unknown",
    record.StepResolved: STEP + "resolved",
    record.RetryScheduled: STEP + "retry_scheduled",
    record.ReplanRequested: STEP + "replan_requested",
    record.StepReplanned: STEP + "replanned",
    record.StepSpeculated: STEP + "speculated",
    record.SpeculationSettled: STEP + "speculation_settled",
    record.StepSucceeded: STEP + "completed",
    record.StepFailed: STEP + "failed",
    record.StepSkipped: STEP + "skipped",
    record.AttemptSucceeded: ATTEMPT + "succeeded",
    record.AttemptFailed: ATTEMPT + "failed",
    record.AttemptWaiting: ATTEMPT + "waiting",
    record.OutputStreamed: ATTEMPT + "streamed",
    record.SpeculationAnswered: ATTEMPT + "ran_ahead",
    record.ResultRefused: ATTEMPT + "refused",
    record.CallStarted: ATTEMPT + "call_started",
    record.CallEnded: ATTEMPT + "call_ended",
    record.CircuitChanged: "planloom.tool.circuit_changed",
}
"""What an entry is called on the bus; an attempt that completes its step is `planloom.step.completed`."""
_BEGINS = (
    record.StepDispatched,
    record.StepExpanded,
    record.SubPlanStarted,
    record.WaitStarted,
    record.ApprovalRequested,
)
_DENIALS = frozenset({"NotAllowedError", "FlowError"})
"""What a call failed with that was not made because it may not be."""
_MAY_END = (record.AttemptSucceeded, record.StepSucceeded, record.StepFailed, record.StepSkipped)
_PASSING = (record.OutputStreamed, record.AttemptWaiting)
"""What a dead letter leaves out."""
_TOOL_NAMED = re.compile(r"\btool '([^']+)'")
MAX_HISTORY = 50
"""Entries that a dead letter tells, besides the first."""
_ENDS: Mapping[StepStatus, str] = {
    StepStatus.COMPLETED: STEP + "completed",
    StepStatus.SKIPPED: STEP + "skipped",
    StepStatus.FAILED: STEP + "failed",
    StepStatus.TIMED_OUT: STEP + "failed",
    StepStatus.CANCELLED: STEP + "failed",
}


def source_of(run_id: str) -> str:
    """Return who tells a run's events, whichever process says them: within it, ids and sequences are the run's own."""
    return f"{SOURCE}/runs/{quote(run_id, safe='')}"


def topics() -> frozenset[str]:
    """Return the types of all events that follow from a record."""
    return frozenset(_TOPICS.values()) | {STEP + "started", RUN + "timer_fired", DENIED, DEAD_LETTER}


class RunEvents:
    """One run, told entry by entry; hand them in without a gap, from the first.

    Args:
        source: Who says so.
    """

    def __init__(self, run_id: str, *, source: str = SOURCE) -> None:
        self._run_id = run_id
        # A run may be called "a/7"; its entries must not have the names of what follows from those of run "a".
        self._name = quote(run_id, safe="")
        self._source = source
        self._machine = RunMachine(run_id)
        self._ended: set[str] = set()
        self._history: dict[str, list[Recorded]] = {}
        """Of each step that has begun and not ended: its entries, as many as a dead letter tells."""
        self._stopped_by = 0

    def of(self, recorded: Recorded) -> list[Event]:
        """Return what an entry is to those who listen: its own event, and what follows from it."""
        events = self._of(recorded)
        if len(events) == 1:
            return events
        return [replace(event, of_entry=len(events)) for event in events]

    def _of(self, recorded: Recorded) -> list[Event]:
        entry = recorded.event
        self._machine.replay((entry,))
        key: str = getattr(entry, "step", "")
        if key:
            return self._of_step(recorded, key)
        if isinstance(entry, record.RunStopping):
            self._stopped_by = recorded.seq
        topic = RUN + "timer_fired" if isinstance(entry, record.TimerFired) else _TOPICS[type(entry)]
        told = [self._event(recorded, topic, _told(entry))]
        if isinstance(entry, record.RunFinished):
            told += self._ended_with_the_run(recorded)
        return told

    def _of_step(self, recorded: Recorded, key: str) -> list[Event]:
        entry, node = recorded.event, self._machine.state.nodes[key]
        topic, told = _TOPICS[type(entry)], _told(entry)
        ends = node.ended and key not in self._ended and isinstance(entry, _MAY_END)
        if ends:
            topic, told = _ENDS[node.status], told | self._stands(key)
        found = [self._event(recorded, topic, told, key)]
        if isinstance(entry, _BEGINS) and key not in self._history:
            self._history[key] = []
            if topic != STEP + "started":
                found.append(self._derived(recorded, "started", STEP + "started", {}, key))
        denial = self._denial(key, entry)
        if denial is not None:
            found.append(self._derived(recorded, "denied", DENIED, denial, key))
        if not isinstance(entry, _PASSING):
            history = self._history.get(key, [])
            history.append(recorded)
            del history[1:-MAX_HISTORY]
        if ends:
            self._ended.add(key)
            history = self._history.pop(key, [])
            if _is_dead(entry) and node.attempt:
                letter = self._letter(key, history)
                found.append(self._derived(recorded, "dead_letter", DEAD_LETTER, letter, key))
        return found

    def _ended_with_the_run(self, recorded: Recorded) -> list[Event]:
        """Return the ends of steps that have no entry of their own: they ended because their run did."""
        cause = self._stopped_by or recorded.seq
        return [
            self._derived(recorded, key, _ENDS[node.status], self._stands(key), key, cause)
            for key, node in self._machine.state.nodes.items()
            if node.ended and key not in self._ended
        ]

    # --- what is told ---

    def _stands(self, key: str) -> dict[str, Any]:
        """Return how a step ended."""
        node = self._machine.state.nodes[key]
        told: dict[str, Any] = {
            "status": node.status.value,
            "attempts": node.attempt,
            "started_at": node.started_at,
            "ended_at": node.ended_at,
        }
        if node.status is StepStatus.COMPLETED:
            told["output"] = node.output
        else:
            told["error"] = node.error
        if node.reason is not None:
            told |= {"reason": node.reason.value, "because": node.because}
        return told

    def _denial(self, key: str, entry: record.Event) -> dict[str, Any] | None:
        """Return who was denied what and why, if an entry says that somebody was."""
        state = self._machine.state
        assert state.started is not None
        if isinstance(entry, record.AttemptFailed) and entry.kind is FailureKind.NOT_ALLOWED:
            why, named = entry.error, _TOOL_NAMED.search(entry.error)
            # Where a model or a program asked, only the error says for what.
            what = named[1] if named else state.nodes[key].step.tool
        elif isinstance(entry, record.CallEnded) and not _DENIALS.isdisjoint(entry.error_types):
            why, what = entry.error or "", entry.name  # the agent's model was told, and the agent went on
        else:
            return None
        who = {"module": state.started.module, "run": self._run_id, "step": key}
        return {"who": who, "what": what, "why": why}

    def _letter(self, key: str, history: list[Recorded]) -> dict[str, Any]:
        state = self._machine.state
        node = state.nodes[key]
        assert state.started is not None
        return {
            "plan": state.started.plan.name,
            "module": state.started.module,
            "step": key,
            "does": node.step.doer,
            "status": node.status.value,
            "attempts": node.attempt,
            "error": node.error or node.because,
            "error_kind": None if node.error_kind is None else node.error_kind.value,
            "tolerated": node.tolerated or node.status is StepStatus.SKIPPED,
            "history": [
                {"seq": one.seq, "event": type(one.event).__name__, "at": one.event.at, **_told(one.event)}
                for one in history
            ],
        }

    def _event(
        self, recorded: Recorded, topic: str, told: dict[str, Any], subject: str | None = None, suffix: str = ""
    ) -> Event:
        return Event(
            f"{self._name}/{recorded.seq}{suffix}",
            topic,
            self._source,
            recorded.event.at,
            subject,
            self._run_id,
            f"{self._name}/{recorded.cause}" if recorded.cause else None,
            told,
            recorded.seq,
        )

    def _derived(
        self, recorded: Recorded, what: str, topic: str, told: dict[str, Any], subject: str, cause: int | None = None
    ) -> Event:
        own = self._event(recorded, topic, told, subject, f"/{what}")
        return replace(own, causation_id=f"{self._name}/{cause or recorded.seq}")


def _is_dead(entry: record.Event) -> bool:
    """Return whether a step ended because nothing more will be tried."""
    if isinstance(entry, record.StepSkipped):
        return entry.reason is SkipReason.ON_ERROR_SKIP
    return isinstance(entry, record.StepFailed) and entry.status is not StepStatus.CANCELLED


def _told(entry: record.Event) -> dict[str, Any]:
    """Return what an entry says, as JSON; of a plan its name and hash only."""
    if isinstance(entry, record.RunStarted):
        return {
            "plan": entry.plan.name,
            "plan_hash": entry.plan.hash,
            "steps": [step.id for step in entry.plan.steps],
            "inputs": entry.inputs,
            "module": entry.module,
            "allow": None if entry.allow is None else list(entry.allow),
            "engine": entry.engine,
            "from_run": entry.from_run,
        }
    return {one.name: _plain(getattr(entry, one.name)) for one in fields(entry) if one.name not in ("step", "at")}


def _plain(value: Any) -> Any:
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, Plan):
        return {"name": value.name, "hash": value.hash}
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: _plain(getattr(value, one.name)) for one in fields(value)}
    return value


def refused(run_id: str, request: str, told: dict[str, Any], at: float) -> Event:
    """Return the event of a submission that is refused.

    Args:
        request: Which submission, where there are several of one name.
        told: What whoever submitted it is told.
    """
    source = source_of(run_id)
    name = f"{quote(run_id, safe='')}/refused/{request[:16]}"
    return Event(name, REFUSED, source, at, None, run_id, None, {**told, "request": request})


class Retold:
    """A run's events from its record, as far as it goes whenever somebody asks; none left out, none twice.

    Args:
        after: Only what follows from entries with higher numbers.

    Attributes:
        seq: Number of the last entry that was told, or `after`.
        ended: Whether that was the run's end.
    """

    def __init__(self, journal: Journal, run_id: str, *, after: int = 0) -> None:
        self._journal = journal
        self._run_id = run_id
        self._run = RunEvents(run_id, source=source_of(run_id))
        self._read = 0
        self.seq = after
        self.ended = False

    async def more(self) -> list[Event]:
        """Return the events of what is new on record.

        Raises:
            RunNotFoundError: There is no such run.
            JournalError: The record cannot be read; what was told so far stays told.
        """
        told: list[Event] = []
        for recorded in await self._journal.read(self._run_id, after=self._read):
            events = self._run.of(recorded)
            self._read = recorded.seq
            if recorded.seq > self.seq:
                told += events
                self.seq = recorded.seq
            self.ended = self.ended or isinstance(recorded.event, record.RunFinished)
        return told


async def events_of(
    journal: Journal, run_id: str, *, source: str = SOURCE, after: int = 0
) -> AsyncGenerator[Event, None]:
    """Yield a run's events as they become durable, none left out, none twice; ends with the run.

    Args:
        after: Only what follows from entries with higher numbers.

    Raises:
        JournalError: The record cannot be read.
    """
    run = RunEvents(run_id, source=source)
    async with aclosing(_followed(journal, run_id)) as entries:
        async for recorded in entries:
            for event in run.of(recorded):
                if recorded.seq > after:
                    yield event


async def _followed(journal: Journal, run_id: str) -> AsyncGenerator[Recorded, None]:
    async for recorded in journal.follow(run_id):
        yield recorded


async def publish_run(bus: EventBus, journal: Journal, run_id: str, *, source: str = SOURCE) -> None:
    """Publish a run's events, from its first entry to its end. What the bus remembers is not said again.

    Raises:
        JournalError: The record cannot be read.
    """
    published = 0
    async with aclosing(events_of(journal, run_id, source=source)) as events:
        async for event in events:
            bus.publish(event)
            published += 1
            if published % AT_ONCE == 0:
                await asyncio.sleep(0)
