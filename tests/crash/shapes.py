"""Plans of every shape, the tools they use, and a log of what those tools really did.

The log is the world: what is in it has happened, whatever a journal says. It outlives every power cut.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from planloom import Effects, RunStatus, Tool, ToolContext
from planloom.core.events import CallStarted, StepDispatched
from planloom.core.result import RunResult
from planloom.ports import Journal
from planloom.runtime.run import Run
from planloom.testing.clock import ManualClock
from tests.crash.answers import ANSWERS, Answer, endless

T = TypeVar("T")
SPINS = 40
"""Turns of the loop after which a run that does nothing waits for time to pass."""
PATIENCE = 4_000
"""Rounds of that after which a run is stuck."""
TURN_S = 0.001
"""How long a round takes where turns of the loop tell nothing."""
PATIENCE_S = 30.0
"""Seconds after which anything else is."""

SHAPES: dict[str, list[dict[str, Any]] | dict[str, Any]] = {
    "chain": [
        {"id": "a", "tool": "pure", "with": {"n": 1}},
        {"id": "b", "tool": "put", "with": {"n": "${{ steps.a.output }}"}},
        {"id": "c", "tool": "pay", "with": {"n": "${{ steps.b.output }}"}},
        {"id": "d", "tool": "pure", "with": {"n": "${{ steps.c.output }}"}},
    ],
    "diamond": [
        {"id": "a", "tool": "pay", "with": {"n": 1}},
        {"id": "b", "tool": "pay", "with": {"n": "${{ steps.a.output }}"}},
        {"id": "c", "tool": "pure", "with": {"n": "${{ steps.a.output }}"}},
        {"id": "d", "tool": "pay", "with": {"n": "${{ steps.b.output }}"}, "needs": ["c"]},
    ],
    "fan": [{"id": f"s{n}", "tool": ("pure", "put", "pay")[n % 3], "with": {"n": n}} for n in range(9)]
    + [{"id": "end", "tool": "pay", "with": {"n": "${{ steps.s0.output }}"}, "needs": [f"s{n}" for n in range(9)]}],
    "map": [
        {"id": "each", "tool": "pay", "for_each": [1, 2, 3, 4], "max_parallel": 2, "with": {"n": "${{ item }}"}},
        {"id": "end", "tool": "pure", "with": {"n": "${{ sum(steps.each.output) }}"}},
    ],
    "map of sub-plans": [
        {
            "id": "each",
            "for_each": [1, 2],
            "plan": {
                "name": "inner",
                "steps": [
                    {"id": "x", "tool": "put", "with": {"n": "${{ inputs.n }}"}},
                    {"id": "y", "tool": "pay", "with": {"n": "${{ steps.x.output }}"}},
                ],
            },
            "with": {"n": "${{ item }}"},
        },
        {"id": "end", "tool": "pure", "with": {"n": "${{ sum(steps.each.output) }}"}},
    ],
    "sub-plan": [
        {"id": "a", "tool": "pure", "with": {"n": 1}},
        {
            "id": "sub",
            "plan": {
                "name": "inner",
                "steps": [
                    {"id": "each", "tool": "put", "for_each": "${{ inputs.list }}", "with": {"n": "${{ item }}"}},
                    {"id": "y", "tool": "pay", "with": {"n": "${{ sum(steps.each.output) }}"}},
                ],
                "outputs": {"y": "${{ steps.y.output }}"},
            },
            "with": {"list": ["${{ steps.a.output }}", 7]},
        },
        {"id": "end", "tool": "pay", "with": {"n": "${{ steps.sub.output.y }}"}},
    ],
    "retries": [
        {"id": "a", "tool": "flaky", "with": {"n": 1}, "retry": {"max_attempts": 9, "initial_delay": 5}},
        {"id": "b", "tool": "not_yet", "with": {"n": 2}, "retry": {"max_attempts": 9, "initial_delay": 5}},
        {"id": "end", "tool": "pay", "with": {"n": "${{ steps.a.output }}"}, "needs": ["b"]},
    ],
    "once": [{"id": f"p{n}", "tool": "pay", "with": {"n": n}} for n in range(4)]
    + [{"id": f"q{n}", "tool": "pay", "with": {"n": f"${{{{ steps.p{n}.output }}}}"}} for n in range(4)],
    "idempotent": [
        {"id": "a", "tool": "put", "with": {"n": 1}},
        {"id": "b", "tool": "put", "with": {"n": "${{ steps.a.output }}"}, "idempotency_key": "key-b"},
        {"id": "c", "tool": "put", "with": {"n": "${{ steps.b.output }}"}},
    ],
    "approvals": [
        {"id": "a", "tool": "pay", "with": {"n": 1}},
        {"id": "ok", "approve": "Send ${{ steps.a.output }}?"},
        {"id": "b", "tool": "pay", "with": {"n": 2}, "needs": ["ok"]},
        {"id": "c", "tool": "pure", "with": {"n": 3}},
    ],
    "waits": [
        {"id": "a", "tool": "pay", "with": {"n": 1}},
        {"id": "w", "wait": 600, "needs": ["a"]},
        {"id": "b", "tool": "pay", "with": {"n": 2}, "needs": ["w"]},
    ],
    "conditions and joins": [
        {"id": "a", "tool": "pure", "with": {"n": 1}},
        {"id": "yes", "tool": "pay", "with": {"n": 1}, "when": "${{ steps.a.output > 1 }}"},
        {"id": "no", "tool": "pay", "with": {"n": 2}, "when": "${{ steps.a.output > 9 }}"},
        {"id": "below", "tool": "pay", "with": {"n": 3}, "needs": ["no"]},
        {
            "id": "end",
            "tool": "pay",
            "needs": ["yes", "no"],
            "join": "none_failed_min_one_success",
            "with": {"n": "${{ default(steps.yes.output, 0) }}"},
        },
        {"id": "clean", "tool": "put", "with": {"n": 0}, "needs": ["end", "below"], "join": "always"},
    ],
    "limits": {
        "limits": {"max_concurrent": 2, "max_tool_calls": 100, "timeout_seconds": 50_000},
        "steps": [{"id": f"s{n}", "tool": ("put", "pay")[n % 2], "with": {"n": n}} for n in range(6)],
    },
    "collect": [
        {
            "id": "each",
            "tool": "picky",
            "for_each": [1, 2, 3],
            "on_item_error": "collect",
            "with": {"n": "${{ item }}"},
        },
        {"id": "end", "tool": "pay", "with": {"n": "${{ len(steps.each.output) }}"}},
    ],
    "tolerated failures": [
        {"id": "bad", "tool": "picky", "with": {"n": 2}, "on_error": "continue"},
        {"id": "worse", "tool": "picky", "with": {"n": 2}, "on_error": "skip"},
        {"id": "b", "tool": "pay", "with": {"n": 1}, "needs": ["bad"]},
        {"id": "c", "tool": "pay", "with": {"n": 1}, "needs": ["worse"]},
    ],
    "failing, with clean-up": [
        {"id": "slow", "tool": "endless", "with": {"n": 1}},
        {"id": "a", "tool": "pay", "with": {"n": 2}},
        {"id": "bad", "tool": "picky", "with": {"n": 2}, "needs": ["a"]},
        {"id": "never", "tool": "pay", "with": {"n": 1}, "needs": ["bad"]},
        {"id": "clean", "tool": "put", "with": {"n": 0}, "needs": ["bad"], "join": "always"},
    ],
    "timeouts": [
        {"id": "a", "tool": "pure", "with": {"n": 1}, "timeout_seconds": 30},
        {"id": "b", "tool": "put", "with": {"n": "${{ steps.a.output }}"}, "timeout_seconds": 30},
        {"id": "ok", "approve": "Go on?", "needs": ["b"]},
        {"id": "c", "tool": "put", "with": {"n": 3}, "needs": ["ok"], "timeout_seconds": 30, "attempt_timeout": 20},
    ],
    "one at a time": {
        "steps": [{"id": f"s{n}", "tool": "pay", "mode": "sequential", "with": {"n": n}} for n in range(3)],
    },
}


def plan_of(shape: str) -> dict[str, Any]:
    """Return the plan of a shape as a document."""
    found = SHAPES[shape]
    return {"planloom": 1, "name": shape} | ({"steps": found} if isinstance(found, list) else found)


@dataclass(frozen=True, slots=True)
class Done:
    """One call of a tool."""

    tool: str
    step: str
    attempt: int
    n: int
    key: str = ""
    """Its idempotency key."""


@dataclass
class World:
    """What the tools did, over all restarts.

    Attributes:
        busy: Calls under way; `peak`: the most there ever were in one process.
        disk: What is on record for good; None while nobody looks.
        unrecorded: Effectful calls whose start was not on record when they began.
        moment_s: Seconds that a call takes.
        in_real_time: Whether other processes have a part in what steps do, so that turns of the loop tell nothing.
    """

    log: list[Done] = field(default_factory=list)
    busy: int = 0
    peak: int = 0
    disk: Journal | None = None
    unrecorded: list[Done] = field(default_factory=list)
    in_real_time: bool = False
    spins: int = SPINS
    moment_s: float = 0.0

    def parts(self) -> dict[str, Any]:
        """Return what an engine is made of that works in this world."""
        return {"tools": self.tools()}

    def called(self, step: str) -> list[Done]:
        return [done for done in self.log if done.step == step]

    def tools(self) -> list[Tool]:
        """Return the tools that act on this world."""

        async def began(name: str, n: int, context: ToolContext, *, effectful: bool) -> None:
            done = Done(name, context.step, context.attempt, n, context.idempotency_key or "")
            self.log.append(done)
            if effectful and self.disk is not None and not await self.is_on_record(done, context.run_id):
                self.unrecorded.append(done)

        def made(name: str, effects: Effects, answer: Answer) -> Tool:
            async def call(n: int, context: ToolContext) -> int:
                self.busy += 1
                self.peak = max(self.peak, self.busy)
                try:
                    await began(name, n, context, effectful=effects is not Effects.NONE)
                    await asyncio.sleep(self.moment_s)
                    return await answer(n, context)
                finally:
                    self.busy -= 1

            return Tool.from_function(call, name=name, effects=effects)

        async def idle_for_ever(n: int, context: ToolContext) -> int:
            self.busy -= 1  # it waits for nothing that time could bring
            try:
                return await endless(n, context)
            finally:
                self.busy += 1

        answers = ANSWERS | {"endless": (Effects.NONE, idle_for_ever)}
        return [made(name, effects, answer) for name, (effects, answer) in answers.items()]

    async def is_on_record(self, done: Done, run_id: str) -> bool:
        """Return whether the start of a call is on record: its attempt's, and, inside an attempt, its own."""
        assert self.disk is not None
        events = [entry.event for entry in await self.disk.read(run_id)]
        inside = done.key.startswith(f"{run_id}/{done.step}/")
        starts = [event for event in events if isinstance(event, CallStarted if inside else StepDispatched)]
        return any(
            (start.step, start.attempt) == (done.step, done.attempt)
            and (isinstance(start, StepDispatched) or done.key == f"{run_id}/{done.step}/{start.key}")
            for start in starts
        )

    async def looked_up(self, step: str) -> Any:
        """Return what somebody who looks would say that a step of unknown outcome came to; None: try it again."""
        return self.outcome(step)

    def outcome(self, step: str) -> int | None:
        """Return what a `once` step came to, as somebody who looks would find out; None if it did not happen."""
        happened = [done for done in self.called(step) if done.tool == "pay"]
        return happened[-1].n + 1 if happened else None


class StuckError(AssertionError):
    """A run neither ends nor waits for anything."""


async def driven(
    starting: Awaitable[Run], clock: ManualClock, world: World, *, until: asyncio.Event | None = None
) -> RunResult | None:
    """Begin a run and drive it to its end: let time pass when nothing else happens, answer what a person is asked.

    Args:
        until: Stop and return None once this is set.
    """
    async with asyncio.timeout(PATIENCE_S):
        begun = asyncio.ensure_future(starting)
        power_cut = asyncio.ensure_future((until or asyncio.Event()).wait())
        await asyncio.wait((begun, power_cut), return_when=asyncio.FIRST_COMPLETED)
        power_cut.cancel()
        if not begun.done():
            begun.add_done_callback(lambda task: task.cancelled() or task.exception())  # it ends with its engine
            return None
        return await _driven(begun.result(), clock, world, until)


async def _driven(run: Run, clock: ManualClock, world: World, until: asyncio.Event | None) -> RunResult | None:
    waiter = asyncio.ensure_future(run.result())
    answering: asyncio.Future[None] = asyncio.ensure_future(asyncio.sleep(0))
    try:
        idle = 0
        for _ in range(PATIENCE):
            for _ in range(world.spins):
                await asyncio.sleep(0)
            if world.in_real_time:
                await asyncio.sleep(TURN_S)
            if until is not None and until.is_set():
                return None
            if not answering.done():
                continue
            answering.result()
            if waiter.done():
                result = waiter.result()
                if result.status is not RunStatus.WAITING:
                    return result
                answering = asyncio.ensure_future(answered(run, result, world))
                waiter = asyncio.ensure_future(run.result())
            elif not world.in_real_time and world.busy == 0 and not clock.advance_to_next():
                state = run.state_now()
                idle += 1
                if not state.blocked and idle > 3:
                    raise StuckError({step.id: (step.status.value, step.waiting) for step in state.steps})
                # Something that never ends is under way beside it.
                answering = asyncio.ensure_future(answered(run, state, world))
        raise StuckError("it goes round and round")
    finally:
        answering.cancel()  # without power no answer is ever taken
        waiter.cancel()


async def answered(run: Run, result: RunResult, world: World) -> None:
    """Do what a person would: approve, and look whether what nobody knows about has happened."""
    for step in result.blocked:
        if step.id not in {blocked.id for blocked in run.state_now().blocked}:
            continue  # somebody cancelled the run meanwhile
        if step.waiting == "approval":
            await run.approve(step.id, by="a person")
            continue
        outcome = await world.looked_up(step.id)
        if outcome is None:
            await run.resolve(step.id, "retry", by="a person")
        else:
            await run.resolve(step.id, "output", by="a person", output=outcome)


def bounded(work: Coroutine[Any, Any, T], *, seconds: float = 300.0) -> T:
    """Run a test's coroutine in a loop of its own; what hangs is a failure, wherever it hangs."""

    async def main() -> T:
        async with asyncio.timeout(seconds):
            return await work

    return asyncio.run(main())
