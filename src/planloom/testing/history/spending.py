"""I6: what is used and what is set aside never passes a limit, as far as a record tells it.

Rule 1: every figure here is the least it can have been: what nobody says is taken as nothing, so that nobody is accused
of what cannot be shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

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
    from planloom.plan.policy import ResourceLimits
    from planloom.ports import Recorded
    from planloom.testing.history.picture import RunPart, RunPicture
    from planloom.testing.history.violation import Findings

_SLACK = 1e-6


@dataclass(slots=True)
class _Share:
    """What is set aside for one attempt, or for all of them."""

    calls: int = 0
    usd: float = 0.0
    tokens: int = 0
    memory_mb: float = 0.0
    cpu_percent: float = 0.0

    def add(self, other: _Share, sign: int = 1) -> None:
        self.calls += sign * other.calls
        self.usd += sign * other.usd
        self.tokens += sign * other.tokens
        self.memory_mb += sign * other.memory_mb
        self.cpu_percent += sign * other.cpu_percent


class Spending:
    """Keeps the books of a run, and judges them at each start."""

    def __init__(self, picture: RunPicture, findings: Findings) -> None:
        self.picture = picture
        self.findings = findings
        self.calls = 0
        self.usd = 0.0
        self.tokens = 0
        self.under_way: dict[str, _Share] = {}
        """Of attempts by step: what is set aside for them; `aside`: for all, those ahead of their time included."""
        self.aside = _Share()
        self.ahead: dict[tuple[str, str], StepSpeculated] = {}
        """What runs ahead and is not settled."""
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
                share = self._share(part)
                self._judge(entry, part, share)
                self._give_back(part.key)
                self.under_way[part.key] = share
                self.aside.add(share)
            case AttemptSucceeded() | AttemptFailed() if part is not None and part.key in self.under_way:
                self._book(entry, self._give_back(part.key), event)
            case StepSpeculated() if part is not None and (part.key, event.role) not in self.ahead:
                self._slot(entry)
                self.ahead[part.key, event.role] = event
                self.aside.add(_share_ahead(event))
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

    def _share(self, part: RunPart) -> _Share:
        """Return what an attempt of this step that starts now takes, at least."""
        started = self.picture.started
        if started is None or part.step.tool is None or part.replan == "asked":
            return _Share()
        facts = started.tools.get(part.step.tool)
        if facts is None:
            return _Share(calls=1)
        return _Share(1, facts.cost_per_call_usd or 0.0, 0, facts.memory_mb or 0.0, facts.cpu_percent or 0.0)

    def _give_back(self, key: str) -> _Share:
        share = self.under_way.pop(key, None)
        if share is None:
            return _Share()
        self.aside.add(share, -1)
        return share

    def _book(self, entry: Recorded, share: _Share, event: AttemptSucceeded | AttemptFailed) -> None:
        self.calls += share.calls
        if isinstance(event, AttemptFailed) and event.kind is FailureKind.LOST:
            self.usd += share.usd
            return
        self.calls += event.tool_calls
        self.usd += event.cost_usd if event.cost_usd is not None else share.usd
        self.tokens += event.usage.total_tokens if event.usage is not None else 0
        most = self.limits.max_tool_calls if self.limits is not None else None
        if event.tool_calls and most is not None and self.calls > most:
            self._accuse(entry, f"{self.calls} tool calls were made, and `max_tool_calls` is {most}")

    def _settle(self, lane: tuple[str, str], *, confirmed: bool) -> None:
        event, answer = self.ahead.pop(lane), self.answers.pop(lane, None)
        self.aside.add(_share_ahead(event), -1)
        if confirmed or answer is None:
            return  # it counts with its step's own attempt, or nobody knows yet what it used
        self.calls += event.calls + answer.tool_calls if event.calls else answer.tool_calls
        self.usd += answer.cost_usd or 0.0
        self.tokens += answer.usage.total_tokens if answer.usage is not None else 0

    def _engine_lost(self) -> None:
        for key in list(self.under_way):
            share = self._give_back(key)
            self.calls += share.calls
            self.usd += share.usd
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

    def _judge(self, entry: Recorded, part: RunPart, share: _Share) -> None:
        self._slot(entry)
        limits, aside = self.limits, self.aside
        if limits is None:
            return
        self.findings.count("I6", "starts within limits")
        asks_for_money = share.usd > 0 or self._asks_for_money(part)
        for name, most, wants, used, set_aside, own in (
            ("max_tool_calls", limits.max_tool_calls, share.calls, self.calls, aside.calls, share.calls),
            ("max_total_cost_usd", limits.max_total_cost_usd, asks_for_money, self.usd, aside.usd, share.usd),
            ("max_total_tokens", limits.max_total_tokens, _asks_model(part), self.tokens, aside.tokens, 1),
            ("max_memory_mb", limits.max_memory_mb, share.memory_mb, 0, aside.memory_mb, share.memory_mb),
            ("max_cpu_percent", limits.max_cpu_percent, share.cpu_percent, 0, aside.cpu_percent, share.cpu_percent),
        ):
            if most is not None and wants and used + set_aside + own > most + _SLACK:
                what = f"{used:g} used, {set_aside:g} set aside and {own:g} more pass `{name}`, which is {most:g}"
                self._accuse(entry, what)

    def _asks_for_money(self, part: RunPart) -> bool:
        started = self.picture.started
        facts = started.models.get(part.step.model or "") if started is not None else None
        return facts is not None and facts.price is not None and facts.price.ceiling_usd(1, 1) > 0

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


def _share_ahead(event: StepSpeculated) -> _Share:
    return _Share(event.calls, event.cost_usd, event.tokens)


def _asks_model(part: RunPart) -> bool:
    step = part.step
    return part.replan == "asked" or step.model is not None or step.agent is not None or step.task is not None
