"""Calls made inside the attempts of one step, as its events tell them: what each came to, and what they used.

Rule 1: a call on record is never made again by a later attempt of the step; its answer, or its error, is given instead.
Rule 2: a `once` call that began and did not end makes the whole attempt one that must not be made again.
Rule 3: what calls used counts with their attempt; if that is lost with its machine, here is what is known of it: a call
that began and did not end counts as made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from planloom.core.result import Usage
from planloom.plan.policy import Effects

if TYPE_CHECKING:
    from planloom.core.budget import Claim
    from planloom.core.commands import Grant
    from planloom.core.events import CallEnded, CallStarted


class InnerCalls:
    """The calls of one step so far.

    Attributes:
        ended: What each came to, by key.
        open: Keys of `once` calls that began and have not ended.
        begun: Keys of calls with effects that began in the attempt under way and have not ended.
        usd, usage, tool_calls: What those of the attempt under way used; None where no call said anything.
    """

    __slots__ = ("begun", "ended", "open", "tool_calls", "usage", "usd")

    def __init__(self) -> None:
        self.ended: dict[str, CallEnded] = {}
        self.open: set[str] = set()
        self.forget_use()

    def forget_use(self) -> None:
        """Begin to count anew: the attempt that used it has ended, and it was booked."""
        self.usd: float | None = None
        self.usage: Usage | None = None
        self.tool_calls = 0
        self.begun: set[str] = set()

    def begin(self, event: CallStarted) -> None:
        self.begun.add(event.key)
        if event.effects is Effects.ONCE:
            self.open.add(event.key)

    def end(self, event: CallEnded) -> None:
        self.open.discard(event.key)
        self.begun.discard(event.key)
        self.ended[event.key] = event
        self.tool_calls += event.tool_calls
        if event.cost_usd is not None:
            self.usd = (self.usd or 0.0) + event.cost_usd
        if event.usage is not None:
            self.usage = event.usage if self.usage is None else self.usage + event.usage


def lost_use(calls: InnerCalls | None, grant: Grant, claim: Claim | None) -> tuple[float | None, Usage | None, int]:
    """Return what an attempt is taken to have used that was lost with its machine: dollars, tokens, tool calls.

    Of an attempt whose calls are not on record (`calls` is None) nothing is known, so all that was set aside counts. Of
    any other what they used counts, and what the step needed at least, for the call that was under way.
    """
    if calls is None or claim is None:
        usage = Usage(input_tokens=grant.tokens, estimated_tokens=grant.tokens) if grant.tokens else None
        return grant.usd, usage, grant.calls or 0
    usd, usage = calls.usd, calls.usage
    if grant.usd is not None:
        usd = min(grant.usd, (usd or 0.0) + claim.cost_usd)
    if grant.tokens is not None:
        used = usage.total_tokens if usage is not None else 0
        more = max(0, min(grant.tokens - used, claim.tokens))
        usage = (usage or Usage()) + Usage(input_tokens=more, estimated_tokens=more)
    return usd, usage, calls.tool_calls + len(calls.begun)
