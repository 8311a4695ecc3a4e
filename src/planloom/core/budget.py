"""Use so far against the run's limits: reserve before a step starts, settle when it has ended.

Rule 1: what does not fit is not started; what was reserved and used is never lost, whatever the attempt came to.
Rule 2: counters (calls, money, tokens) only grow; gauges (slots, memory, CPU, named limits) are given back.
"""

from __future__ import annotations

from dataclasses import dataclass

from planloom.core.asking import ROUND_TASKS
from planloom.core.commands import NO_LIMIT, Grant
from planloom.core.events import ToolFacts
from planloom.core.result import Usage
from planloom.plan.policy import ResourceLimits


@dataclass(frozen=True, slots=True, eq=False)
class Claim:
    """What one attempt needs. Steps with the same claim (the same object) wait in one queue.

    Attributes:
        calls: Tool calls, 0 or 1.
        cost_usd: Estimate; the ceiling where one is known.
        tokens: Most tokens it may use.
        memory_mb, cpu_percent: What it declares to take while it runs.
        names: Named limits it counts against while it runs.
        slot: False for what no executor does: it is not counted as under way.
        metered: True for what is granted its share and told how much that is; then `spare_calls`, `spare_usd` and
            `spare_tokens` are what it could use beyond its needs, and it is granted what is left of that.
        share: Of what is left of a limit, how much of it may be granted as spare.
        unknown_usd: What is booked where nobody says what it cost; None: `cost_usd`.
    """

    calls: int = 0
    cost_usd: float = 0.0
    tokens: int = 0
    memory_mb: float = 0.0
    cpu_percent: float = 0.0
    names: tuple[str, ...] = ()
    slot: bool = True
    metered: bool = False
    spare_calls: int = 0
    spare_usd: float = 0.0
    spare_tokens: int = 0
    unknown_usd: float | None = None
    share: float = 1.0

    @property
    def estimate_usd(self) -> float:
        """Return what is booked where nobody says what it cost."""
        return self.cost_usd if self.unknown_usd is None else self.unknown_usd


NO_CLAIM = Claim()
FREE = Claim(slot=False)
"""Of containers, waits and approvals."""
ONE_CALL = Claim(calls=1)


def tool_claim(facts: ToolFacts | None) -> Claim:
    """Return what a call of this tool needs; a tool that declares no cost is free."""
    if facts is None:
        return ONE_CALL
    wants = (facts.cost_per_call_usd or 0.0, 0, facts.memory_mb or 0.0, facts.cpu_percent or 0.0)
    return Claim(1, *wants) if any(wants) else ONE_CALL


class Budget:
    """The ledger of one run.

    Attributes:
        calls, cost_usd, usage: Settled use.
        running: Attempts under way; `peak`: the most there ever were.
    """

    def __init__(self, limits: ResourceLimits | None, *, parallel: bool = True) -> None:
        self.limits = limits
        self.slots = limits.max_concurrent if limits is not None else None
        if not parallel:
            self.slots = 1
        self.named: dict[str, int] = {}
        self.calls = 0
        self.cost_usd = 0.0
        self.usage = Usage()
        self.running = 0
        self.peak = 0
        self._reserved_calls = 0
        self._reserved_cost = 0.0
        self._reserved_tokens = 0
        self._memory_mb = 0.0
        self._cpu_percent = 0.0
        self._names: dict[str, int] = {}

    def fits(self, claim: Claim) -> bool:
        if self.slots is not None and self.running >= self.slots:
            return not claim.slot and not self.in_the_way(claim)
        if self.limits is None and not claim.names:
            return True
        return not self.in_the_way(claim)

    def in_the_way(self, claim: Claim, *, names: bool = True) -> tuple[str, ...]:
        """Return the limits that this claim would break now; without `names`, only those of `ResourceLimits`."""
        found = [name for name in claim.names if names and self._names.get(name, 0) >= self.named.get(name, 1)]
        limits = self.limits
        if limits is None:
            return tuple(found)
        slack = 1e-9  # dollars are floats: 5 × 0.1 must fit into 0.5
        tokens = self.usage.total_tokens + self._reserved_tokens + claim.tokens
        for name, limit, wanted in (
            ("max_tool_calls", limits.max_tool_calls, self._calls_with(claim)),
            ("max_total_cost_usd", limits.max_total_cost_usd, self._cost_with(claim) - slack),
            ("max_total_tokens", limits.max_total_tokens, claim.tokens and tokens),
            ("max_memory_mb", limits.max_memory_mb, claim.memory_mb and self._memory_mb + claim.memory_mb),
            ("max_cpu_percent", limits.max_cpu_percent, claim.cpu_percent and self._cpu_percent + claim.cpu_percent),
        ):
            if limit is not None and wanted > limit:
                found.append(name)
        return tuple(found)

    def _calls_with(self, claim: Claim) -> int:
        if claim.calls:
            return self.calls + self._reserved_calls + claim.calls
        if claim.spare_calls and self._reserved_calls and self.running:
            # What others at work do not need they give back: it waits rather than begin with next to nothing.
            return self.calls + self._reserved_calls + min(claim.spare_calls, ROUND_TASKS)
        return 0

    def _cost_with(self, claim: Claim) -> float:
        return self.cost_usd + self._reserved_cost + claim.cost_usd if claim.cost_usd else 0.0

    def hold(self, claim: Claim) -> None:
        """Take the names of what needs no slot."""
        self._reserve(claim, 1)

    def let_go(self, claim: Claim) -> None:
        self._reserve(claim, -1)

    def take(self, claim: Claim) -> Grant:
        """Reserve what an attempt needs, and for what is metered what it might; return what it may use."""
        self.running += 1
        if self.running > self.peak:
            self.peak = self.running
        self._reserved_calls += claim.calls
        if claim is not ONE_CALL:
            self._reserve(claim, 1)
        return self._granted(claim) if claim.metered else NO_LIMIT

    def _granted(self, claim: Claim) -> Grant:
        limits = self.limits
        if limits is None:
            return NO_LIMIT
        usd = tokens = calls = None
        if limits.max_total_cost_usd is not None:
            left_usd = limits.max_total_cost_usd - self.cost_usd - self._reserved_cost
            more_usd = max(0.0, min(claim.spare_usd, left_usd * claim.share))
            self._reserved_cost += more_usd
            usd = claim.cost_usd + more_usd
        if limits.max_total_tokens is not None:
            left_tokens = limits.max_total_tokens - self.usage.total_tokens - self._reserved_tokens
            more_tokens = max(0, min(claim.spare_tokens, int(left_tokens * claim.share)))
            self._reserved_tokens += more_tokens
            tokens = claim.tokens + more_tokens
        if limits.max_tool_calls is not None:
            calls = max(0, min(claim.spare_calls, limits.max_tool_calls - self.calls - self._reserved_calls))
            self._reserved_calls += calls
        return Grant(usd, tokens, calls, limits.max_memory_mb, limits.max_cpu_percent)

    def settle(
        self,
        claim: Claim,
        *,
        cost_usd: float | None,
        usage: Usage | None,
        grant: Grant = NO_LIMIT,
        tool_calls: int = 0,
    ) -> None:
        """Give back what was reserved, book what was used; a cost nobody knows is booked as the estimate."""
        self.running -= 1
        self._reserved_calls -= claim.calls
        self.calls += claim.calls + tool_calls
        if claim is not ONE_CALL:
            self._reserve(claim, -1)
            if grant is not NO_LIMIT:
                self._reserved_cost -= (grant.usd or claim.cost_usd) - claim.cost_usd
                self._reserved_tokens -= (grant.tokens or claim.tokens) - claim.tokens
                self._reserved_calls -= grant.calls or 0
        elif cost_usd is None and usage is None:
            return
        self.cost_usd += cost_usd if cost_usd is not None else claim.estimate_usd
        if usage is not None:
            self.usage += usage

    def end_ahead(self) -> None:
        """Give back the slot of an attempt that ran ahead; what was set aside for it stays so until it is settled."""
        self.running -= 1

    def settle_ahead(self, claim: Claim, *, cost_usd: float, usage: Usage | None, calls: int) -> None:
        """Give back what was set aside for it, and book what it used: nothing, if the step's own attempt will."""
        self._reserved_calls -= claim.calls
        self._reserve(claim, -1)
        self.calls += calls
        self.cost_usd += cost_usd
        if usage is not None:
            self.usage += usage

    def _reserve(self, claim: Claim, sign: int) -> None:
        self._reserved_cost += sign * claim.cost_usd
        self._reserved_tokens += sign * claim.tokens
        self._memory_mb += sign * claim.memory_mb
        self._cpu_percent += sign * claim.cpu_percent
        for name in claim.names:
            self._names[name] = self._names.get(name, 0) + sign

    @property
    def reserved(self) -> tuple[int, float, int]:
        """Return the tool calls, US dollars and tokens that are set aside for what is under way."""
        return self._reserved_calls, max(0.0, self._reserved_cost), self._reserved_tokens

    @property
    def exceeded(self) -> tuple[str, ...]:
        """Return the limits that settled use has passed, because an estimate was too low."""
        if self.limits is None:
            return ()
        cost, tokens = self.limits.max_total_cost_usd, self.limits.max_total_tokens
        found = []
        if cost is not None and self.cost_usd > cost + 1e-9:
            found.append("max_total_cost_usd")
        if tokens is not None and self.usage.total_tokens > tokens:
            found.append("max_total_tokens")
        return tuple(found)
