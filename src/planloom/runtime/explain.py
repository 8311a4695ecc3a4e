"""Why a step stands as it does: the chain of entries that led there, from the record alone, back to the submission.

Rule 1: nothing is known here but the record; whoever has that can explain a run on any machine, long after.
Rule 2: a step is there because of what it waited for, not because of what freed its slot: the chain follows the plan.
Rule 3: every chain ends in the entry that submitted the run.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from planloom.core import events as record
from planloom.core.result import SkipReason, StepStatus
from planloom.errors import ConfigError, RunNotFoundError, suggestion
from planloom.observe.looks import counted, printable
from planloom.plan.policy import FailureKind
from planloom.runtime.replay import replayed

if TYPE_CHECKING:
    from planloom.core.state import Node
    from planloom.ports import Journal, Recorded

_IN_PASSING = (record.OutputStreamed, record.AttemptWaiting, record.CallStarted, record.CallEnded, record.ResultRefused)
"""What a step says of itself that nothing follows from."""


@dataclass(frozen=True, slots=True)
class CausalLink:
    """One entry of a run's record.

    Attributes:
        cause: Number of the entry that the record says led to it; 0 for what came from outside.
        event: Kind of the entry, e.g. "step_dispatched".
        step: Key of the step it is about; "" for the run.
        text: What happened, in words.
    """

    seq: int
    cause: int
    at: float
    event: str
    step: str
    text: str

    def to_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class StepExplanation:
    """Why a step stands as it does.

    Attributes:
        status: A `StepStatus`.
        needs: Each step it waits for, and how that stands.
        chain: What led here, the last first, the submission of the run last.
    """

    run_id: str
    step: str
    status: str
    attempts: int
    started_at: float | None
    ended_at: float | None
    error: str | None
    needs: dict[str, str]
    chain: tuple[CausalLink, ...]

    def to_dict(self) -> dict[str, Any]:
        told = {name: getattr(self, name) for name in self.__slots__}
        return told | {"chain": [link.to_dict() for link in self.chain]}

    def __str__(self) -> str:
        about = f" after {counted(self.attempts, 'attempt')}" if self.attempts > 1 else ""
        lines = [f"step {self.step} of run {self.run_id}: {self.status.replace('_', ' ')}{about}"]
        if self.needs:
            lines.append(f"it needs {', '.join(f'{name} ({status})' for name, status in self.needs.items())}")
        width = len(str(self.chain[0].seq)) if self.chain else 1
        for link in self.chain:
            moment = datetime.fromtimestamp(link.at).astimezone().strftime("%H:%M:%S.%f")[:-3]
            lines.append(f"  {link.seq:>{width}} {moment} {link.text}")
        return "\n".join(printable(line) for line in lines)


async def explain(journal: Journal, run_id: str, step: str) -> StepExplanation:
    """Return why a step of a run on record stands as it does.

    Args:
        step: Its key: `extract`, `check[3]` for an item, `sub/extract` inside a sub-plan.

    Raises:
        RunNotFoundError: No such run.
        ConfigError: No such step in it, or not yet.
    """
    return explained(run_id, await journal.read(run_id), step)


def explained(run_id: str, entries: Sequence[Recorded], step: str) -> StepExplanation:
    """Return why a step stands as these entries leave it. Raises as `explain`."""
    if not entries:
        raise RunNotFoundError(f"run {run_id!r} has no entries", remedy="`planloom list` shows the runs of a journal")
    return _Chain(run_id, entries).explain(step)


class _Chain:
    """The record of one run, by step."""

    def __init__(self, run_id: str, entries: Sequence[Recorded]) -> None:
        self._entries = entries
        self._state = replayed(run_id, entries).state
        self._of: dict[str, list[Recorded]] = defaultdict(list)
        self._stopping: Recorded | None = None
        for recorded in entries:
            key = getattr(recorded.event, "step", "")
            if key and not isinstance(recorded.event, _IN_PASSING):
                self._of[key].append(recorded)
            elif isinstance(recorded.event, record.RunStopping) and self._stopping is None:
                self._stopping = recorded

    def explain(self, key: str) -> StepExplanation:
        node = self._state.nodes.get(key)
        if node is None:
            raise ConfigError(
                f"run {self._state.run_id} has no step {key!r}", remedy=suggestion(key, self._state.nodes), step=key
            )
        found = self._found(node)
        chain = tuple(self._link(self._entries[seq - 1]) for seq in sorted(found, reverse=True))
        above = () if node.parent is not None else (node.scope.nodes[place] for place in node.entry.upstream)
        return StepExplanation(
            self._state.run_id,
            key,
            node.status.value,
            node.attempt,
            node.started_at,
            node.ended_at,
            node.error or node.because or None,
            {one.key: one.status.value for one in above},
            chain,
        )

    def _found(self, start: Node) -> set[int]:
        """Return the numbers of the entries that led to where a step stands."""
        found = {1}
        steps: list[tuple[Node, int]] = [(start, len(self._entries) + 1)]
        seen: set[str] = set()
        while steps:
            node, before = steps.pop()
            if node.key in seen:
                continue
            seen.add(node.key)
            own = [one for one in self._of[node.key] if one.seq < before]
            found.update(one.seq for one in own)
            for one in own:
                cause = self._entries[one.cause - 1] if one.cause else None
                if cause is not None and isinstance(cause.event, record.RunResumed):
                    found.add(cause.seq)
            if self._was_stopped(node, own):
                steps += self._stop(node, found)
            first = own[0].seq if own else before
            above = self._before(node, own, first)
            if above is not None:
                steps.append((above, first))
        return found

    def _before(self, node: Node, own: Sequence[Recorded], first: int) -> Node | None:
        """Return the step that this one began, or ended, because of; None: the submission of the run."""
        if node.parent is not None:
            return node.parent
        ended = [
            (self._of[above.key][-1].seq, above)
            for above in (node.scope.nodes[place] for place in node.entry.upstream)
            if above.ended and self._of[above.key] and self._of[above.key][0].seq < first
        ]
        last = own[-1].event if own else None
        if isinstance(last, record.StepSkipped):
            named = [above for _, above in ended if last.because in (above.key, above.step.id)]
            if named:
                return named[0]
        in_time = [pair for pair in ended if pair[0] < first]
        if in_time:
            return max(in_time, key=lambda pair: pair[0])[1]
        return node.scope.owner

    def _was_stopped(self, node: Node, own: Sequence[Recorded]) -> bool:
        if node.status is StepStatus.SKIPPED:
            return node.reason is SkipReason.NOT_STARTED
        return node.status is StepStatus.CANCELLED or (
            bool(own) and getattr(own[-1].event, "kind", None) is FailureKind.CANCELLED
        )

    def _stop(self, node: Node, found: set[int]) -> list[tuple[Node, int]]:
        """Add what stopped a step; return the steps behind that."""
        stop = self._stopping
        if node.scope.owner is not None:
            culprit = next((one for one in node.scope.nodes if one.status is StepStatus.FAILED), None)
            if culprit is not None and culprit is not node:
                return [(culprit, len(self._entries) + 1)]
        if stop is None:
            return []
        found.add(stop.seq)
        if stop.cause:
            found.add(stop.cause)
        assert isinstance(stop.event, record.RunStopping)
        behind = self._state.nodes.get(stop.event.because)
        return [] if behind is None or behind is node else [(behind, stop.seq)]

    def _link(self, recorded: Recorded) -> CausalLink:
        event = recorded.event
        kind = re.sub(r"(?<!^)(?=[A-Z])", "_", type(event).__name__).lower()
        return CausalLink(recorded.seq, recorded.cause, event.at, kind, getattr(event, "step", ""), _text(event, kind))


def _text(event: record.Event, kind: str) -> str:  # noqa: PLR0912 - a sentence for each kind of entry
    match event:
        case record.RunStarted():
            who = f" by module {event.module}" if event.module else ""
            return f"the run was submitted{who}: plan {event.plan.name}"
        case record.RunResumed():
            return "an engine took the run up again"
        case record.RunStopping():
            return f"the run began to stop{_because(event.because)}"
        case record.CancelRequested():
            return f"{event.by} asked to cancel the run{_because(event.reason)}"
        case record.StepDispatched():
            return f"{event.step} started, attempt {event.attempt}"
        case record.AttemptSucceeded():
            return f"{event.step} was done, attempt {event.attempt}"
        case record.AttemptFailed():
            return f"{event.step} failed, attempt {event.attempt}: {event.kind.value}: {event.error}"
        case record.RetryScheduled():
            return f"{event.step} is to be tried again, attempt {event.attempt}"
        case record.TimerFired():
            return f"{event.step or 'the run'}: the wait was over"
        case record.StepSucceeded():
            return f"{event.step} completed{', with the output of an earlier run' if event.reused else ''}"
        case record.StepFailed():
            return f"{event.step} {event.status.value.replace('_', ' ')} for good: {event.error}"
        case record.StepSkipped():
            return f"{event.step} was skipped: {event.reason.value.replace('_', ' ')}{_because(event.because)}"
        case record.StepExpanded():
            return f"{event.step} began with {counted(len(event.items), 'item')}"
        case record.SubPlanStarted():
            return f"{event.step} began its plan"
        case record.WaitStarted():
            return f"{event.step} began to wait"
        case record.ApprovalRequested():
            return f"{event.step} asked a person: {event.message}"
        case record.ApprovalAnswered():
            return f"{event.by} {'approved' if event.approved else 'denied'} {event.step}"
        case record.AnswerRefused():
            return f"an answer of {event.by} to {event.step} was refused: {event.why}"
        case record.OutcomeUnknown():
            return f"{event.step} was under way when its engine or worker died; nobody knows whether it was done"
        case record.StepResolved():
            return f"{event.by} said what came of {event.step}: {event.how}"
        case record.ReplanRequested():
            return f"{event.step} asked for another plan"
        case record.StepReplanned():
            return f"{event.step} began another plan in its place"
        case record.CircuitChanged():
            return f"{event.step}: tool {event.tool} is {event.state.replace('_', ' ')} from here on"
        case _:
            return f"{getattr(event, 'step', '')} {kind.replace('_', ' ')}".strip()


def _because(why: str) -> str:
    return f", because of {why}" if why else ""


def steps_of(entries: Iterable[Recorded]) -> list[str]:
    """Return the keys of the steps that a record speaks of, in the order they come."""
    return list(dict.fromkeys(key for one in entries if (key := getattr(one.event, "step", ""))))
