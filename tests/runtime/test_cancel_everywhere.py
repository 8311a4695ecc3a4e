"""Nothing alive two seconds after a cancel: every kind of step, cancelled at every turn of the event loop.

Rule 1: a kind of step is a line of CASES; whoever adds a kind adds a line.
Rule 2: a run is cancelled once through its `Run`, and once by cancelling whoever waits for it.
Rule 3: what is looked at: tasks, threads, child processes, descriptors, what tools are at, and the record, which ends
as cancelled (or as what the run came to before) and grows no more.
"""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from planloom import Engine, MemoryJournal, RunStatus, Settings, Tool, ToolContext
from planloom.core.chat import ModelCall, ToolCall
from planloom.core.events import CancelRequested, RunFinished
from planloom.errors import PlanloomError
from planloom.ports import Journal
from planloom.runtime.replay import diverges, replayed
from planloom.testing.models import FunctionModel

WITHIN_S = 2.0
"""Seconds after a cancel in which everything must be gone."""
MOST_TURNS = 60
"""Turns of the loop at which a run that does not end by itself is cancelled."""
TURN_S = 0.0005
TURNS = 3
"""Turns that whatever waits here takes."""

Steps = list[dict[str, Any]]


class World:
    """The tools and models of these runs; knows which of them are at work.

    Attributes:
        busy: Calls under way.
    """

    def __init__(self) -> None:
        self.busy = 0
        self._lock = threading.Lock()

    def _begin(self, by: int) -> None:
        with self._lock:
            self.busy += by

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        self._begin(1)
        try:
            yield
        finally:
            self._begin(-1)

    async def turns(self) -> None:
        async with self.at_work():
            for _ in range(TURNS):
                await asyncio.sleep(0)

    def tools(self) -> list[Tool]:
        async def soon(n: int = 1) -> int:
            await self.turns()
            return n

        async def tidy(n: int = 1) -> int:
            """Take a while to end when cancelled."""
            try:
                async with self.at_work():
                    await asyncio.Event().wait()
            finally:
                await self.turns()
            return n

        async def bad(n: int = 1) -> int:
            await self.turns()
            raise ConnectionError("down")

        def in_a_thread(context: ToolContext, n: int = 1) -> int:
            self._begin(1)
            try:
                end = time.monotonic() + WITHIN_S * 2
                while not context.cancelled() and time.monotonic() < end:
                    time.sleep(0.0005)
                return n
            finally:
                self._begin(-1)

        def quick(n: int = 1) -> int:
            return n

        declared: dict[str, dict[str, Any]] = {"rated": {"rate_per_second": 1}, "fragile": {"breaker": True}}
        functions = {"soon": soon, "tidy": tidy, "bad": bad, "thread": in_a_thread, "quick": quick}
        functions |= {"rated": soon, "fragile": bad}
        made = [
            Tool.from_function(function, name=name, effects="none", **declared.get(name, {}))
            for name, function in functions.items()
        ]
        return [*made, Tool.from_function(soon, name="pay", effects="once")]

    def models(self) -> dict[str, FunctionModel]:
        async def before(call: ModelCall) -> None:
            await self.turns()

        async def never(call: ModelCall) -> None:
            async with self.at_work():
                await asyncio.Event().wait()

        def answer(call: ModelCall) -> Any:
            if call.tools and call.messages[-1].role != "tool":
                return [ToolCall("1", "soon", {"n": 1}), ToolCall("2", "soon", {"n": 2})]
            return "9 of 9: a long enough answer to be streamed in pieces"

        return {
            "m": FunctionModel(answer, before=before),
            "strong": FunctionModel(answer, before=before),
            "mute": FunctionModel(answer, before=never),
            "says_no": FunctionModel(lambda call: '{"verdict": "no", "score": 0, "reason": "no"}', before=before),
        }

    def agents(self) -> dict[str, Any]:
        from planloom.agents.reasoning import Reasoner

        async def foreign(value: Any) -> str:
            await self.turns()
            return "done"

        def in_a_thread(value: Any) -> str:
            return "done"

        return {"thinks": Reasoner(name="thinks", model="m"), "foreign": foreign, "in_a_thread": in_a_thread}


@dataclass(frozen=True)
class Case:
    """A kind of step.

    Attributes:
        in_real_time: Whether files and processes have a part in it: the record is a file, and a turn takes TURN_S.
        needs: A kind of step that the engine has to know.
    """

    steps: Steps
    in_real_time: bool = False
    needs: str = "tool"
    plan: dict[str, Any] = field(default_factory=dict)


def chain(step: dict[str, Any], length: int = 2) -> Steps:
    return [step | {"id": f"s{n}"} | ({"needs": [f"s{n - 1}"]} if n else {}) for n in range(length)]


def ask(step_id: str = "a", model: str = "m", **fields: Any) -> dict[str, Any]:
    return {"id": step_id, "model": model, "prompt": "p", **fields}


RETRY = {"max_attempts": 5, "initial_delay": 30}
GUESS = {"draft": "m", "latency_weight": 1.0}
CALLS = "for n in range(20): soon(n=n)"
CASES: dict[str, Case] = {
    "async tools": Case(chain({"tool": "soon"}, 4)),
    "an async tool that takes a while to end": Case([{"id": "a", "tool": "tidy"}]),
    "a tool that must not run twice": Case(chain({"tool": "pay"}, 3)),
    "sync tools": Case(chain({"tool": "quick"}, 3)),
    "a sync tool that asks whether to go on": Case([{"id": f"s{n}", "tool": "thread"} for n in range(3)]),
    "a tool in time": Case([{"id": "a", "tool": "tidy", "attempt_timeout": 60, "timeout_seconds": 90}]),
    "the wait before a retry": Case([{"id": "a", "tool": "bad", "retry": RETRY}]),
    "a rate": Case([{"id": f"s{n}", "tool": "rated"} for n in range(3)]),
    "a breaker": Case([{"id": f"s{n}", "tool": "fragile", "retry": RETRY} for n in range(4)]),
    "equal cached steps": Case([{"id": f"s{n}", "tool": "soon", "cache": True} for n in range(4)]),
    "many at once": Case([{"id": f"s{n}", "tool": "soon"} for n in range(30)], plan={"limits": {"max_concurrent": 7}}),
    "on disk": Case(chain({"tool": "pay"}, 4), in_real_time=True),
    "a model": Case([ask(), ask("b", needs=["a"])]),
    "a model that never answers": Case([ask(model="mute")]),
    "a model that streams": Case([ask(stream=True)]),
    "a model with tools": Case([ask(tools=["soon"])]),
    "a map": Case([{"id": "a", "tool": "soon", "for_each": [1, 2, 3, 4, 5], "max_parallel": 2}]),
    "a sub-plan": Case([{"id": "a", "plan": {"steps": chain({"tool": "soon"}, 3)}}]),
    "a map of sub-plans": Case([{"id": "a", "for_each": [1, 2, 3], "plan": {"steps": chain({"tool": "soon"})}}]),
    "a wait": Case([{"id": "w", "wait": 600}, {"id": "a", "tool": "soon"}]),
    "an approval": Case([{"id": "a", "tool": "soon"}, {"id": "ok", "approve": "May I?", "needs": ["a"]}]),
    "clean-up": Case([{"id": "a", "tool": "soon"}, {"id": "clean", "tool": "soon", "needs": ["a"], "join": "always"}]),
    "a judge": Case([ask(verify={"strategy": "model", "model": "says_no", "refinement": "retry"})]),
    "several samples": Case([ask(verify={"strategy": "self_consistency", "samples": 4})]),
    "drafts that others run ahead on": Case(
        [ask("a", "strong", speculate=GUESS), ask("b", "strong", prompt="${{ steps.a.output }}", speculate=GUESS)]
    ),
    "a hedged draft": Case([ask("a", "mute", speculate=GUESS | {"policy": "hedged", "judge": "says_no"})]),
    "a cascade": Case([ask("a", "strong", speculate=GUESS | {"policy": "cascade", "judge": "m"})]),
    "a plan in place of a failed step": Case([{"id": "a", "tool": "bad", "replan": {"model": "m"}}]),
    "code that goes on for ever": Case([{"id": "a", "code": {"source": "while True: pass"}}], needs="code"),
    "code that calls tools": Case([{"id": "a", "code": {"source": CALLS, "tools": ["soon"]}}], needs="code"),
    "a program that goes on for ever": Case(
        [{"id": "a", "code": {"source": "while True: pass", "runtime": "cpython"}}], in_real_time=True, needs="code"
    ),
    "a program that calls tools": Case(
        [{"id": "a", "code": {"source": CALLS, "runtime": "cpython", "tools": ["soon"]}}],
        in_real_time=True,
        needs="code",
    ),
    "an agent": Case([{"id": "a", "agent": "thinks", "prompt": "p"}], needs="agent"),
    "an agent of another kind": Case([{"id": "a", "agent": "foreign", "prompt": "p"}], needs="agent"),
    "an agent in a thread": Case([{"id": "a", "agent": "in_a_thread", "prompt": "p"}], needs="agent"),
}


@dataclass(frozen=True)
class Alive:
    """What a process holds."""

    threads: frozenset[str]
    children: frozenset[str]
    descriptors: int

    @classmethod
    def now(cls) -> Alive:
        children = Path(f"/proc/self/task/{os.getpid()}/children")
        return cls(
            frozenset(thread.name for thread in threading.enumerate() if thread.name.startswith("planloom")),
            frozenset(children.read_text().split()) if children.is_file() else frozenset(),
            len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else 0,
        )

    def is_more_than(self, before: Alive) -> bool:
        return (
            not self.threads <= before.threads
            or not self.children <= before.children
            or self.descriptors > before.descriptors
        )


async def until(what: Callable[[], bool]) -> bool:
    """Return whether it came true within WITHIN_S."""
    end = time.monotonic() + WITHIN_S
    while not what():
        if time.monotonic() > end:
            return False
        await asyncio.sleep(0.001)
    return True


class Cancelling:
    """Cancels runs of one case, and looks at what is left of them.

    Attributes:
        cancels: How many were cancelled on their way.
    """

    def __init__(self, case: Case, folder: Path) -> None:
        self.case = case
        self.cancels = 0
        self.noise: list[str] = []
        self._folder = folder
        self._plan = {"planloom": 1, "name": "p", "steps": case.steps, **case.plan}

    async def everywhere(self) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, told: self.noise.append(str(told)))
        await self.once(MOST_TURNS, by_run=True)  # whatever is made once in a process is made here
        self.cancels, before = 0, Alive.now()
        for by_run in (True, False):
            for turns in range(MOST_TURNS):
                if await self.once(turns, by_run=by_run):
                    break
            await self._gone(before)
        gc.collect()
        await asyncio.sleep(0)
        assert self.noise == []

    async def once(self, turns: int, *, by_run: bool) -> bool:
        """Cancel a run after so many turns; return whether it had ended by then."""
        where = f"cancelled after {turns} turns, {'by its run' if by_run else 'by its caller'}"
        world = World()
        journal: Journal | str = self._journal()
        async with Engine(journal, **self._parts(world)) as engine:
            ended = await (self._by_run if by_run else self._by_caller)(engine, turns, where)
            assert await until(lambda: world.busy == 0), f"{where}: a tool or a model is still at work"
            record = await self._record(engine)
            await self._spin(5)
            assert await self._record(engine) == record, f"{where}: something was recorded after the end"
        others = asyncio.all_tasks() - {asyncio.current_task()}
        assert await until(lambda: all(task.done() for task in others)), f"{where}: {others}"
        events = [entry.event for entry in record]
        # Whoever waits for a run that waits for a person has had his answer, and leaves it as it is.
        waits = not by_run and bool(record) and replayed("r", record).waits_for_person
        if events and not waits:
            assert isinstance(events[-1], RunFinished), f"{where}: it did not end"
            was_asked = any(isinstance(event, CancelRequested) for event in events)
            assert not was_asked or events[-1].status is RunStatus.CANCELLED, where
            assert diverges("r", record) is None, where
        self.cancels += not ended
        return ended

    async def _by_run(self, engine: Engine, turns: int, where: str) -> bool:
        run = await engine.start(self._plan, run_id="r")
        await self._spin(turns)
        begin = time.monotonic()
        ended = run.status not in (RunStatus.RUNNING, RunStatus.WAITING)
        await run.cancel()
        result = await run.result()
        assert time.monotonic() - begin < WITHIN_S, where
        assert ended or result.status in (RunStatus.CANCELLED, RunStatus.SUCCESS, RunStatus.FAILED), where
        await engine.release("r")
        return ended

    async def _by_caller(self, engine: Engine, turns: int, where: str) -> bool:
        task = asyncio.ensure_future(engine.run(self._plan, run_id="r"))
        await self._spin(turns)
        ended = task.done()
        task.cancel()
        begin = time.monotonic()
        with suppress(asyncio.CancelledError):
            await task
        assert time.monotonic() - begin < WITHIN_S, where
        return ended

    async def _spin(self, turns: int) -> None:
        for _ in range(turns):
            await asyncio.sleep(TURN_S if self.case.in_real_time else 0)

    def _parts(self, world: World) -> dict[str, Any]:
        agents = {"agents": world.agents()} if self.case.needs == "agent" else {}
        return {"tools": world.tools(), "models": world.models(), "settings": Settings(max_threads=4), **agents}

    def _journal(self) -> Any:
        if not self.case.in_real_time:
            return MemoryJournal()
        for path in self._folder.glob("runs.db*"):
            path.unlink()
        return str(self._folder / "runs.db")

    async def _record(self, engine: Engine) -> list[Any]:
        try:
            return await engine.journal.read("r")
        except PlanloomError:
            return []  # it was cancelled before there was a run

    async def _gone(self, before: Alive) -> None:
        left = await until(lambda: not Alive.now().is_more_than(before))
        assert left, f"left: {Alive.now()}, before: {before}"


def knows(kind: str) -> bool:
    async def main() -> bool:
        async with Engine() as engine:
            return kind in engine._wired.kinds

    return asyncio.run(main())


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_nothing_is_alive_two_seconds_after_a_cancel_at_any_turn(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    if not knows(case.needs):
        pytest.skip(f"this engine does no {case.needs} steps")
    cancelling = Cancelling(case, tmp_path)

    asyncio.run(cancelling.everywhere())

    print(f"{name}: {cancelling.cancels} cancels")
    assert cancelling.cancels >= 10
