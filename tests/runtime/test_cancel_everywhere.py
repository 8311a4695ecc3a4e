"""Nothing alive two seconds after a cancel: every kind of step, cancelled at every turn of the event loop.

Rule 1: a kind of step is a line of CASES; whoever adds a kind adds a line.
Rule 2: a run is cancelled once through its `Run`, and once by cancelling whoever waits for it.
Rule 3: what is looked at: tasks, threads, child processes, descriptors, what tools are at, and the record, which ends
as cancelled (or as what the run came to before) and grows no more.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import re
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
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

FEW = 3
"""Of so many turns, one is tried where the whole would take minutes; `make crash` tries them all."""
WITHIN_S = 2.0
"""Seconds after a cancel in which everything must be gone."""
MOST_TURNS = 60
"""Turns of the loop at which a run that does not end by itself is cancelled."""
TURN_S = 0.0005
TURNS = 3
"""Turns that whatever waits here takes."""

PR_SET_CHILD_SUBREAPER = 36

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
            "plans": FunctionModel(self.planned, before=before),
            "says_no": FunctionModel(lambda call: '{"verdict": "no", "score": 0, "reason": "no"}', before=before),
        }

    def agents(self) -> dict[str, Any]:
        from planloom.agents.reasoning import Reasoner

        async def foreign(value: Any) -> str:
            await self.turns()
            return "done"

        def in_a_thread(value: Any) -> str:
            self._begin(1)
            try:
                time.sleep(TURNS * TURN_S)
                return "done"
            finally:
                self._begin(-1)

        return {
            "thinks": Reasoner(name="thinks", model="plans", max_iterations=3),
            "foreign": foreign,
            "in_a_thread": in_a_thread,
            "with_context": _WithContext(self),
            "heard": _Heard(self),
            "later": _Later(self),
        }

    def planned(self, call: ModelCall) -> Any:
        """Answer as the model of an agent that calls each of its tools once."""
        said = call.messages[-1].content
        if "Plan what is to be done next" in said:
            names = re.findall(r"^- (\w+)\(", said, re.MULTILINE)
            tasks = [{"description": f"call {name}", "tool_name": name} for name in names]
            return {"has_sufficient_info": True, "reasoning": "", "tasks": tasks}
        if "Look at what was done" in said:
            return {"is_complete": True, "reasoning": "", "answer": "done"}
        return {"n": 1}


class _WithContext:
    """An agent of another kind that is told whose attempt it makes."""

    effects = "none"

    def __init__(self, world: World) -> None:
        self.world = world

    async def run_step(self, request: Any, context: dict[str, Any]) -> str:
        await self.world.turns()
        return "done"


class _Heard:
    """An agent of another kind that is heard piece by piece."""

    effects = "idempotent"

    def __init__(self, world: World) -> None:
        self.world = world

    async def stream_step(self, request: Any, context: dict[str, Any]) -> AsyncIterator[str]:
        async with self.world.at_work():
            for piece in "done":
                await asyncio.sleep(0)
                yield piece


class _Later:
    """An agent of another kind with `arun`, and a `run` that nobody should choose."""

    def __init__(self, world: World) -> None:
        self.world = world

    async def arun(self, value: Any) -> str:
        await self.world.turns()
        return "done"

    def run(self, value: Any) -> str:
        raise AssertionError("it has arun")


@dataclass(frozen=True)
class Case:
    """A kind of step.

    Attributes:
        in_real_time: Whether files and processes have a part in it: the record is a file, and a turn takes `turn_s`.
        needs: A kind of step that the engine has to know.
        stride: It is cancelled at every turn whose number is a multiple of this.
    """

    steps: Steps
    in_real_time: bool = False
    needs: str = "tool"
    plan: dict[str, Any] = field(default_factory=dict)
    turn_s: float = TURN_S
    stride: int = 1


def chain(step: dict[str, Any], length: int = 2) -> Steps:
    return [step | {"id": f"s{n}"} | ({"needs": [f"s{n - 1}"]} if n else {}) for n in range(length)]


def ask(step_id: str = "a", model: str = "m", **fields: Any) -> dict[str, Any]:
    return {"id": step_id, "model": model, "prompt": "p", **fields}


def by(agent: str, **fields: Any) -> dict[str, Any]:
    return {"id": "a", "agent": agent, "prompt": "p", **fields}


NEVER = {"type": "object", "required": ["never"]}
RETRY = {"max_attempts": 5, "initial_delay": 30}
GUESS = {"draft": "m", "latency_weight": 1.0}
CALLS = "for n in range(20): soon(n=n)"
BESIDE = "import asyncio\nawait asyncio.gather(soon(n=1), tidy(n=2), soon(n=3))"
FORKS = "import os, time\nfor n in range(3):\n    if os.fork() == 0: os.setsid()\ntime.sleep(60)"


def program(
    source: str, *tools: str, runtime: str = "monty", turn_s: float = 0.002, stride: int = 6, **fields: Any
) -> Case:
    code = {"source": source, "runtime": runtime, "tools": list(tools)}
    return Case([{"id": "a", "code": code, **fields}], in_real_time=True, needs="code", turn_s=turn_s, stride=stride)


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
    "code that goes on for ever": program("while True: pass", turn_s=0.001),
    "code that calls tools": program(CALLS, "soon", "pay", turn_s=0.001, stride=3),
    "code that calls a sync tool": program("for n in range(3): thread(n=n)", "thread", turn_s=0.001),
    "code that calls tools side by side": program(BESIDE, "soon", "tidy", turn_s=0.001),
    "a map of programs": program(CALLS, "soon", turn_s=0.001, for_each=[1, 2, 3], max_parallel=2),
    "a program that goes on for ever": program("while True: pass", runtime="cpython"),
    "a program that calls tools": program(CALLS, "soon", "pay", runtime="cpython", stride=3),
    "a program with programs of its own": program(FORKS, runtime="cpython"),
    "an agent": Case([by("thinks")], needs="agent"),
    "an agent with async tools": Case([by("thinks", tools=["soon", "pay"])], needs="agent"),
    "an agent with sync tools": Case(
        [by("thinks", tools=["quick", "thread"])], in_real_time=True, needs="agent", stride=3
    ),
    "an agent with a tool that takes a while to end": Case([by("thinks", tools=["tidy"])], needs="agent"),
    "an agent within limits": Case(
        [by("thinks", tools=["soon", "pay"], attempt_timeout=60, timeout_seconds=90)],
        plan={"limits": {"max_tool_calls": 9, "max_total_tokens": 10_000_000}},
        needs="agent",
    ),
    "an agent that is tried again": Case([by("thinks", tools=["bad"], output=NEVER, retry=RETRY)], needs="agent"),
    "agents on disk": Case(chain(by("thinks", tools=["pay", "soon"]), 3), in_real_time=True, needs="agent"),
    "a map of agents": Case(
        [by("thinks", tools=["soon"], for_each=[1, 2, 3, 4], max_parallel=2, prompt="p ${{ item }}")], needs="agent"
    ),
    "agents in a sub-plan": Case([{"id": "a", "plan": {"steps": [by("thinks", tools=["pay"])]}}], needs="agent"),
    "samples of an agent": Case(
        [by("thinks", effects="none", verify={"strategy": "self_consistency", "samples": 3})], needs="agent"
    ),
    "an agent of another kind": Case([by("foreign")], needs="agent"),
    "an agent of another kind that is told more": Case([by("with_context")], needs="agent"),
    "an agent of another kind with arun": Case([by("later")], needs="agent"),
    "an agent of another kind that is heard": Case([by("heard", stream=True)], needs="agent"),
    "agents of another kind in a thread": Case(chain(by("in_a_thread"), 3), in_real_time=True, needs="agent"),
    "a map of agents of another kind": Case([by("foreign", for_each=[1, 2, 3, 4], max_parallel=3)], needs="agent"),
}


@dataclass(frozen=True)
class Alive:
    """What a process holds."""

    threads: frozenset[str]
    children: frozenset[str]
    descriptors: int

    @classmethod
    def now(cls) -> Alive:
        return cls(
            frozenset(thread.name for thread in threading.enumerate() if thread.name.startswith("planloom")),
            frozenset(children()),
            len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else 0,
        )

    def is_more_than(self, before: Alive) -> bool:
        return (
            not self.threads <= before.threads
            or not self.children <= before.children
            or self.descriptors > before.descriptors
        )


def children() -> Iterator[str]:
    """Yield this process's children that are alive, whichever of its threads began them."""
    for task in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):
            yield from filter(_is_alive, task.read_text().split())


def _is_alive(pid: str) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.fixture
def _orphans_are_ours() -> Iterator[None]:
    """Have what children leave behind become children of this process, so that it is seen."""
    if not sys.platform.startswith("linux"):
        yield
        return
    prctl = ctypes.CDLL(None).prctl
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
        with suppress(ChildProcessError):  # orphans that have ended, and that nobody else waits for
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass


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
        run_id: Of the run that is being cancelled.
    """

    def __init__(self, case: Case, folder: Path) -> None:
        self.case = case
        self.cancels = 0
        self.run_id = "r"
        self.noise: list[str] = []
        self._folder = folder
        self._plan = {"planloom": 1, "name": "p", "steps": case.steps, **case.plan}

    async def everywhere(self, *, of: int = 1) -> None:
        """Cancel it at every turn of its stride, or at one of so many of them."""
        asyncio.get_running_loop().set_exception_handler(lambda loop, told: self.noise.append(str(told)))
        await self.once(MOST_TURNS, by_run=True)  # whatever is made once in a process is made here
        self.cancels, before = 0, Alive.now()
        for by_run in (True, False):
            for turns in range(0, MOST_TURNS, self.case.stride * of):
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
        waits = not by_run and bool(record) and replayed(self.run_id, record).waits_for_person
        if events and not waits:
            assert isinstance(events[-1], RunFinished), f"{where}: it did not end"
            was_asked = any(isinstance(event, CancelRequested) for event in events)
            assert not was_asked or events[-1].status is RunStatus.CANCELLED, where
            assert diverges(self.run_id, record) is None, where
        self.cancels += not ended
        return ended

    async def _by_run(self, engine: Engine, turns: int, where: str) -> bool:
        run = await engine.start(self._plan, run_id=self.run_id)
        await self._spin(turns)
        begin = time.monotonic()
        ended = run.status not in (RunStatus.RUNNING, RunStatus.WAITING)
        await run.cancel()
        result = await run.result()
        assert time.monotonic() - begin < WITHIN_S, where
        assert ended or result.status in (RunStatus.CANCELLED, RunStatus.SUCCESS, RunStatus.FAILED), where
        await engine.release(self.run_id)
        return ended

    async def _by_caller(self, engine: Engine, turns: int, where: str) -> bool:
        task = asyncio.ensure_future(engine.run(self._plan, run_id=self.run_id))
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
            await asyncio.sleep(self.case.turn_s if self.case.in_real_time else 0)

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
            return await engine.journal.read(self.run_id)
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
@pytest.mark.usefixtures("_orphans_are_ours")
@pytest.mark.parametrize("name", CASES)
def test_nothing_is_alive_two_seconds_after_a_cancel_at_many_turns(name: str, tmp_path: Path) -> None:
    cancelling = cancelled(name, tmp_path, of=FEW)

    assert cancelling.cancels >= 3


@pytest.mark.crash
@pytest.mark.usefixtures("_orphans_are_ours")
@pytest.mark.parametrize("name", CASES)
def test_nothing_is_alive_two_seconds_after_a_cancel_at_any_turn(name: str, tmp_path: Path) -> None:
    cancelling = cancelled(name, tmp_path, of=1)

    sys.stdout.write(f"{name}: {cancelling.cancels} cancels\n")
    assert cancelling.cancels >= (4 if cancelling.case.in_real_time else 10)


def cancelled(name: str, folder: Path, *, of: int) -> Cancelling:
    """Return what came of cancelling a case at one of so many turns."""
    case = CASES[name]
    if not knows(case.needs):
        pytest.skip(f"this engine does no {case.needs} steps")
    cancelling = Cancelling(case, folder)
    asyncio.run(cancelling.everywhere(of=of))
    return cancelling
