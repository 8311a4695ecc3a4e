"""I6: what is used and what is set aside never passes a limit, as far as a record tells it.

Rule 1: every figure here is the least it can have been: what nobody says is taken as nothing, so that nobody is accused
of what cannot be shown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from planloom.core.events import (
    AttemptFailed,
    AttemptSucceeded,
    RunResumed,
    RunStopping,
    SpeculationAnswered,
    SpeculationSettled,
    StepDispatched,
    StepSpeculated,
    TimerFired,
)
from planloom.core.result import RunStatus
from planloom.plan.policy import FailureKind

if TYPE_CHECKING:
    from planloom.core.events import ToolFacts
    from planloom.plan.policy import ResourceLimits
    from planloom.ports import Recorded
    from planloom.testing.history.picture import RunPart, RunPicture
    from planloom.testing.history.violation import Findings

_SLACK = 1e-6


class Spending:
    """Keeps the books of a run, and judges them at each start."""

    def __init__(self, picture: RunPicture, findings: Findings) -> None:
        self.picture = picture
        self.findings = findings
        self.calls = 0
        self.usd = 0.0
        self.tokens = 0
        self.under_way: dict[str, RunPart] = {}
        """Attempts whose share is set aside."""
        self.ahead: dict[tuple[str, str], StepSpeculated] = {}
        """What runs ahead and is not settled; its share is set aside."""
        self.answers: dict[tuple[str, str], SpeculationAnswered] = {}

    @property
    def limits(self) -> ResourceLimits | None:
        return self.picture.started.limits if self.picture.started is not None else None

    def look(self, entry: Recorded) -> bool:
        event = entry.event
        part = self.picture.parts.get(getattr(event, "step", ""))
        match event:
            case RunResumed():
                self._engine_lost()
            case RunStopping():
                self._stops_at(entry, event)
            case TimerFired() if event.step == "":
                self._time(entry)
            case StepDispatched() if part is not None:
                self._judge(entry, part)
                self.under_way[part.key] = part
            case AttemptSucceeded() | AttemptFailed() if part is not None and part.key in self.under_way:
                del self.under_way[part.key]
                self._book(entry, part, event)
            case StepSpeculated() if part is not None:
                self._slot(entry)
                self.ahead[part.key, event.role] = event
            case SpeculationAnswered() if (event.step, event.role) in self.ahead:
                self.answers[event.step, event.role] = event
            case SpeculationSettled() if (event.step, event.role) in self.ahead:
                self._settle((event.step, event.role), confirmed=event.outcome == "confirmed")
            case _:
                pass
        return True

    def _accuse(self, entry: Recorded, what: str) -> None:
        self.findings.accuse("I6", entry.seq, getattr(entry.event, "step", ""), what)

    # --- the books ---

    def _facts(self, part: RunPart) -> ToolFacts | None:
        """Return what is known of the tool that an attempt of this step calls; None if it calls none itself."""
        started = self.picture.started
        if started is None or part.step.tool is None or part.replan == "asked":
            return None
        return started.tools.get(part.step.tool)

    def _price(self, part: RunPart) -> float:
        facts = self._facts(part)
        return (facts.cost_per_call_usd or 0.0) if facts is not None else 0.0

    def _book(self, entry: Recorded, part: RunPart, event: AttemptSucceeded | AttemptFailed) -> None:
        self.calls += _calls_tool(part)
        if isinstance(event, AttemptFailed) and event.kind is FailureKind.LOST:
            self.usd += self._price(part)
            return
        self.calls += event.tool_calls
        self.usd += event.cost_usd if event.cost_usd is not None else self._price(part)
        self.tokens += event.usage.total_tokens if event.usage is not None else 0
        most = self.limits.max_tool_calls if self.limits is not None else None
        if event.tool_calls and most is not None and self.calls > most:
            self._accuse(entry, f"{self.calls} tool calls were made, and `max_tool_calls` is {most}")

    def _settle(self, lane: tuple[str, str], *, confirmed: bool) -> None:
        event, answer = self.ahead.pop(lane), self.answers.pop(lane, None)
        if confirmed or answer is None:
            return  # it counts with its step's own attempt, or nobody knows yet what it used
        self.calls += event.calls + answer.tool_calls if event.calls else answer.tool_calls
        self.usd += answer.cost_usd or 0.0
        self.tokens += answer.usage.total_tokens if answer.usage is not None else 0

    def _engine_lost(self) -> None:
        for part in self.under_way.values():
            self.calls += _calls_tool(part)
            self.usd += self._price(part)
        self.under_way.clear()
        for lane in list(self.ahead):
            self._settle(lane, confirmed=False)

    # --- the limits ---

    def _slot(self, entry: Recorded) -> None:
        started = self.picture.started
        most = self.limits.max_concurrent if self.limits is not None else None
        if started is not None and not started.parallel:
            most = 1
        running = len(self.picture.open) + sum(not lane.answered for lane in self.picture.lanes.values())
        if most is not None:
            self.findings.count("I6", "starts within `max_concurrent`")
            if running >= most:
                self._accuse(entry, f"{running} attempts are under way, and there is room for {most}")

    def _judge(self, entry: Recorded, part: RunPart) -> None:
        self._slot(entry)
        limits = self.limits
        if limits is None:
            return
        calls, price = _calls_tool(part), self._price(part)
        self.findings.count("I6", "starts within limits")
        if calls and limits.max_tool_calls is not None:
            reserved = sum(map(_calls_tool, self.under_way.values())) + sum(one.calls for one in self.ahead.values())
            if self.calls + reserved + calls > limits.max_tool_calls:
                self._accuse(
                    entry,
                    f"{self.calls} tool calls were made and {reserved} are set aside, and `max_tool_calls` is "
                    f"{limits.max_tool_calls}",
                )
        if limits.max_total_cost_usd is not None and (price or self._asks_for_money(part)):
            set_aside = sum(map(self._price, self.under_way.values())) + sum(
                one.cost_usd for one in self.ahead.values()
            )
            if self.usd + set_aside + price > limits.max_total_cost_usd + _SLACK:
                self._accuse(
                    entry,
                    f"${self.usd:.6f} are spent, ${set_aside:.6f} are set aside and it costs ${price:.6f}, and "
                    f"`max_total_cost_usd` is {limits.max_total_cost_usd}",
                )
        if limits.max_total_tokens is not None and _asks_model(part):
            tokens = self.tokens + sum(one.tokens for one in self.ahead.values())
            if tokens + 1 > limits.max_total_tokens:
                self._accuse(entry, f"{tokens} tokens are used, and `max_total_tokens` is {limits.max_total_tokens}")
        self._gauges(entry, part, limits)

    def _asks_for_money(self, part: RunPart) -> bool:
        started = self.picture.started
        facts = started.models.get(part.step.model or "") if started is not None else None
        return facts is not None and facts.price is not None and facts.price.ceiling_usd(1, 1) > 0

    def _gauges(self, entry: Recorded, part: RunPart, limits: ResourceLimits) -> None:
        for name, most in (("memory_mb", limits.max_memory_mb), ("cpu_percent", limits.max_cpu_percent)):
            own = _declared(self._facts(part), name)
            taken = sum(_declared(self._facts(one), name) for one in self.under_way.values())
            if most is not None and own and taken + own > most + _SLACK:
                self._accuse(
                    entry, f"what is under way takes {taken:g} and it takes {own:g}, and `max_{name}` is {most:g}"
                )

    def _time(self, entry: Recorded) -> None:
        started, limits = self.picture.started, self.limits
        if started is None or limits is None or limits.timeout_seconds is None:
            self._accuse(entry, "the run's time is said to be over, and it has no limit")
        elif entry.event.at < started.at + limits.timeout_seconds - _SLACK:
            self._accuse(entry, "the run's time is said to be over before it was")

    def _stops_at(self, entry: Recorded, event: RunStopping) -> None:
        if event.status is not RunStatus.LIMIT_EXCEEDED:
            return
        self.findings.count("I6", "stops at a limit")
        limits = self.limits
        missing = [name for name in event.limits if getattr(limits, name, None) is None]
        if missing or not event.limits:
            self._accuse(entry, f"the run stops at limits that it does not have: {', '.join(missing) or 'none'}")


def _calls_tool(part: RunPart) -> int:
    return int(part.step.tool is not None and part.replan != "asked")


def _asks_model(part: RunPart) -> bool:
    step = part.step
    return part.replan == "asked" or step.model is not None or step.agent is not None or step.task is not None


def _declared(facts: Any, name: str) -> float:
    return getattr(facts, name, None) or 0.0
