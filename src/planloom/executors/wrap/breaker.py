"""A circuit breaker around one tool: after some failures in a row it is left alone for a while, then tried once.

Rule 1: what counts is whether the tool works: its errors and its timeouts. A wrong argument, a refusal by whoever
limits the caller, or a cancellation says nothing about that; an answer does, also one like "404 not found".
Rule 2: of half-open, exactly one call goes through. One that never answers makes way after the same time for another.
Rule 3: what was begun before the breaker moved changes nothing when it ends after.
Rule 4: every move is on record, with the attempt that caused it. The state itself is this process's own: a new one
begins closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from enum import Enum, StrEnum, auto
from typing import TYPE_CHECKING, Any

from planloom.core.events import CircuitChanged
from planloom.errors import CircuitOpenError
from planloom.executors.classify import RETRYABLE_STATUS, http_status, kind_of
from planloom.plan.policy import FailureKind

if TYPE_CHECKING:
    from planloom.core.commands import RunStep
    from planloom.ports import AttemptContext, Clock
    from planloom.tools.sparing import BreakerPolicy

EARLY_S = 0.01
"""Seconds that a timer may fire early: a retry that was told when to come is not sent away again for that."""
_SAYS_NOTHING = frozenset({FailureKind.CANCELLED, FailureKind.INPUT, FailureKind.NOT_ALLOWED, FailureKind.LIMIT})
"""Kinds of failure that are not the tool's."""


class CircuitState(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class _Told(Enum):
    """What the end of a call says about its tool."""

    WORKS = auto()
    FAILS = auto()
    NOTHING = auto()


class CircuitBreaker:
    """The breaker of one tool. Used on one event loop at a time.

    Attributes:
        state: Where it stands.
        failures: Of the tool, in a row.
        until: Seconds since the epoch up to which nothing is let through, where it is open.
    """

    def __init__(self, tool: str, policy: BreakerPolicy, clock: Clock) -> None:
        self.state = CircuitState.CLOSED
        self.failures = 0
        self.until: float | None = None
        self._tool = tool
        self._policy = policy
        self._clock = clock
        self._moves = 0
        """Times it moved: a call belongs to the last move before it began."""
        self._probe_at: float | None = None
        """When the call that tries a half-open breaker was let through; None: there is none."""

    def refuse_if_open(self) -> None:
        """Return if a call would be let through now.

        Raises:
            CircuitOpenError: It would not.
        """
        if self.state is CircuitState.CLOSED:
            return
        now = self._clock.now()
        if self.state is CircuitState.OPEN and self.until is not None and now < self.until - EARLY_S:
            raise self._refused(self.until, max(0.0, self.until - now))
        if self._probe_at is not None and now < self._probe_at + self._policy.open_seconds:
            raise self._refused(None, None)

    async def around(
        self, begin: Callable[[], Awaitable[Any]], request: RunStep, context: AttemptContext, *, is_whole: bool
    ) -> Any:
        """Make the call if it is let through, and learn from what it comes to.

        Args:
            is_whole: The call is all of its attempt, whose time is the tool's then.

        Raises:
            CircuitOpenError: It was not let through.
        """
        move = self._let_through(request, context)
        try:
            result = await begin()
        except BaseException as error:
            self._learn(_told_by(error, request, context, is_whole=is_whole), move, request, context)
            raise
        self._learn(_Told.WORKS, move, request, context)
        return result

    def _let_through(self, request: RunStep, context: AttemptContext) -> int:
        """Return the number of the last move, which this call belongs to."""
        self.refuse_if_open()
        if self.state is not CircuitState.CLOSED:
            self._probe_at = self._clock.now()
            self._move(CircuitState.HALF_OPEN, request, context)
        return self._moves

    def _learn(self, told: _Told, move: int, request: RunStep, context: AttemptContext) -> None:
        if move != self._moves:
            return  # rule 3
        self._probe_at = None
        if told is _Told.WORKS:
            self.failures = 0
            if self.state is not CircuitState.CLOSED:
                self._move(CircuitState.CLOSED, request, context)
        elif told is _Told.FAILS:
            self.failures += 1
            if self.state is not CircuitState.CLOSED or self.failures >= self._policy.failures:
                until = self._clock.now() + self._policy.open_seconds
                self._move(CircuitState.OPEN, request, context, until=until)

    def _move(
        self, state: CircuitState, request: RunStep, context: AttemptContext, *, until: float | None = None
    ) -> None:
        self.state = state
        self.until = until
        self._moves += 1
        now = self._clock.now()
        context.note(
            CircuitChanged(
                request.key, request.attempt, request.epoch, self._tool, state.value, now, self.failures, until
            )
        )

    def _refused(self, until: float | None, retry_after_s: float | None) -> CircuitOpenError:
        when = "one call is trying it now" if retry_after_s is None else f"it is tried again in {retry_after_s:.1f} s"
        return CircuitOpenError(
            f"tool {self._tool!r} failed {self.failures} times in a row and was not called; {when}",
            remedy="give the step `retry`, which waits for that, or see why the tool fails",
            tool=self._tool,
            until=until,
            retry_after_s=retry_after_s,
        )


def _told_by(error: BaseException, request: RunStep, context: AttemptContext, *, is_whole: bool) -> _Told:
    """Return what an error says about the tool."""
    if isinstance(error, asyncio.CancelledError):
        # The attempt's own time limit cancels it, too; then the tool is what was slow.
        is_late = request.deadline_at is not None and context.clock.now() >= request.deadline_at - EARLY_S
        is_asked_to_stop = context.stopping or context.closing
        return _Told.FAILS if is_whole and is_late and not is_asked_to_stop else _Told.NOTHING
    if not isinstance(error, Exception | SystemExit) or kind_of(error) in _SAYS_NOTHING:
        return _Told.NOTHING
    status = http_status(error)
    is_answer = status is not None and 400 <= status < 500 and status not in RETRYABLE_STATUS
    return _Told.WORKS if is_answer else _Told.FAILS
