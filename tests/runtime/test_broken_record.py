"""What a run does when its record breaks, is slow, or is far behind: output commit, and nothing told too early."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from planloom import Engine, MemoryJournal, RunStatus, SqliteJournal, StepStatus
from planloom.core.events import AttemptSucceeded
from planloom.errors import JournalError, JournalWriteError
from planloom.ports import Recorded
from planloom.testing.clock import ManualClock
from planloom.testing.crash import CrashingJournal, Spoil
from planloom.testing.fakes import CallLog, fake_tool
from tests.runtime.common import leave_yes

CHAIN = {
    "planloom": 1,
    "steps": [{"id": f"s{n}", "tool": "t", "with": {"n": n}, "needs": [f"s{n - 1}"] if n else []} for n in range(10)],
}


async def turns(count: int = 60) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.parametrize("at", [2, 3, 5, 9])
@pytest.mark.parametrize("effects", ["none", "once"])
def test_when_the_disk_breaks_the_owner_is_told_nothing_else_starts_and_the_run_can_be_resumed(
    at: int, effects: str
) -> None:
    log, stopped = CallLog(), []

    async def work(n: int) -> int:
        await asyncio.sleep(0)
        return n

    async def long() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            stopped.append("long")
            raise

    async def main() -> None:
        disk = MemoryJournal()
        journal = CrashingJournal(disk, at=at, how=Spoil.BROKEN)
        tools = [fake_tool("t", work, log=log, effects=effects), fake_tool("long", long)]
        plan = {**CHAIN, "steps": [*CHAIN["steps"], {"id": "long", "tool": "long"}]}
        async with Engine(journal, tools=tools) as engine:
            run = await engine.start(plan, run_id="r")
            with pytest.raises(JournalWriteError, match="broken"):
                await asyncio.wait_for(run.result(), 5)
            await turns()
            called = len(log)
            await turns()
            assert len(log) == called
            assert stopped == ["long"]
            with pytest.raises(JournalWriteError):
                await engine.finish(run)
        mended = [fake_tool("t", work, log=log, effects=effects), fake_tool("long")]
        async with Engine(disk, tools=mended) as engine:
            run = await engine.resume("r")
            result = await run.result()
            for step in result.blocked:
                await run.resolve(step.id, "output", by="me", output=int(step.id[1:]))
                result = await run.result()
        assert result.status is RunStatus.SUCCESS
        assert [step.output for step in result.steps[:10]] == list(range(10))
        if effects == "once":
            assert [args["n"] for args in log.of("t")] == list(range(10))

    asyncio.run(main())


def test_other_runs_go_on_when_the_record_of_one_breaks() -> None:
    class OneBreaks(CrashingJournal):
        async def create(self, run_id: str, on_durable: Any) -> Any:
            return await (
                super().create(run_id, on_durable) if run_id == "bad" else self.inner.create(run_id, on_durable)
            )

    async def main() -> None:
        journal = OneBreaks(MemoryJournal(), at=4, how=Spoil.BROKEN)
        async with Engine(journal, tools=[fake_tool("t")]) as engine:
            runs = [await engine.start(CHAIN, run_id=name) for name in ("one", "bad", "two")]
            results = await asyncio.gather(*(engine.finish(run) for run in runs), return_exceptions=True)
        assert [getattr(result, "status", None) for result in results] == [RunStatus.SUCCESS, None, RunStatus.SUCCESS]
        assert isinstance(results[1], JournalWriteError)

    asyncio.run(main())


def test_an_engine_with_a_broken_record_closes_all_the_same() -> None:
    async def main() -> None:
        journal = CrashingJournal(MemoryJournal(), at=3, how=Spoil.BROKEN)
        engine = Engine(journal, tools=[fake_tool("t")])
        await engine.start(CHAIN)
        await engine.close()
        await engine.close()

    asyncio.run(main())


class FailsOnClose(MemoryJournal):
    """A journal whose pens cannot write the last of it."""

    async def create(self, run_id: str, on_durable: Any) -> Any:
        writer = await super().create(run_id, on_durable)

        async def close() -> None:
            writer.end()
            raise JournalWriteError("the disk broke at the last moment", remedy="mend it")

        writer.close = close  # type: ignore[method-assign]
        return writer


def test_a_record_that_breaks_while_the_engine_closes_leaves_nothing_behind() -> None:
    """The owner may be told, but everything must be let go of."""
    ended: list[str] = []

    async def long() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("long")

    async def main() -> None:
        engine = Engine(FailsOnClose(), tools=[fake_tool("t", long)])
        await engine.start({"planloom": 1, "steps": [{"id": "a", "tool": "t"}]})
        await turns()
        with pytest.raises(JournalWriteError):
            await engine.close()
        await turns(5)
        assert ended == ["long"]
        assert engine._wired.threads._closed
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())


def test_the_start_of_a_once_step_is_in_the_file_before_its_tool_runs(tmp_path: Path) -> None:
    """Looked at from inside the tool, through a connection of its own."""
    path, seen = tmp_path / "runs.db", []

    def look(step: str) -> None:
        connection = sqlite3.connect(path)
        try:
            rows = connection.execute("SELECT kind, body FROM events WHERE run_id = 'r' ORDER BY seq").fetchall()
        finally:
            connection.close()
        starts = [body for kind, body in rows if kind == "step_dispatched" and f'"{step}"' in body]
        results = [body for kind, body in rows if kind == "attempt_succeeded"]
        seen.append((step, len(starts), len(results)))

    async def main() -> None:
        tools = [
            fake_tool("pay", look, effects="once"),
            fake_tool("put", look, effects="idempotent"),
            fake_tool("pure", effects="none"),
        ]
        steps = [
            {"id": "p1", "tool": "pure"},
            {"id": "p2", "tool": "pure", "needs": ["p1"]},
            {"id": "a", "tool": "pay", "needs": ["p2"], "with": {"step": "a"}},
            {"id": "b", "tool": "put", "needs": ["a"], "with": {"step": "b"}},
        ]
        async with Engine(path, tools=tools) as engine:
            assert (await engine.run({"planloom": 1, "steps": steps}, run_id="r")).status is RunStatus.SUCCESS

    asyncio.run(main())

    assert seen == [("a", 1, 2), ("b", 1, 3)]


class CountsCommits(SqliteJournal):
    """Counts how often the file grew durable."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.commits: set[int] = set()

    async def create(self, run_id: str, on_durable: Any) -> Any:
        def told(seq: int, error: BaseException | None) -> None:
            self.commits.add(seq)
            on_durable(seq, error)

        return await super().create(run_id, told)


@pytest.mark.slow
def test_a_chain_of_pure_steps_takes_far_fewer_commits_than_steps_and_one_of_once_steps_one_each(
    tmp_path: Path,
) -> None:
    def chain(effects: str) -> dict[str, Any]:
        steps = [{"id": str(n), "tool": effects, "needs": [str(n - 1)] if n else []} for n in range(200)]
        return {"planloom": 1, "steps": steps}

    async def commits(effects: str) -> int:
        journal = CountsCommits(tmp_path / f"{effects}.db")
        async with Engine(journal, tools=[fake_tool(effects, effects=effects)]) as engine:
            assert (await engine.run(chain(effects))).status is RunStatus.SUCCESS
        await journal.close()
        return len(journal.commits)

    assert asyncio.run(commits("none")) < 100
    assert asyncio.run(commits("once")) >= 200


def test_nothing_with_effects_starts_while_the_record_is_behind() -> None:
    """Acknowledgements come 30 turns late: pure steps go on meanwhile, an effect waits for everything before it."""
    log = CallLog()

    async def main() -> None:
        disk = MemoryJournal()
        journal = CrashingJournal(disk, lag=30)
        behind: list[tuple[int, int]] = []

        async def pay(**args: Any) -> None:
            events = [entry.event for entry in await disk.read("r")]
            behind.append((sum(isinstance(event, AttemptSucceeded) for event in events), len(log.of("pure"))))

        tools = [fake_tool("pure", log=log), fake_tool("pay", pay, effects="once")]
        steps = [{"id": f"s{n}", "tool": "pure", "needs": [f"s{n - 1}"] if n else []} for n in range(8)]
        steps.append({"id": "pay", "tool": "pay", "needs": ["s7"]})
        async with Engine(journal, tools=tools) as engine:
            starting = asyncio.create_task(engine.start({"planloom": 1, "steps": steps}, run_id="r"))
            await turns(10)
            assert len(log.of("pure")) == 8, "pure steps do not wait for the record"
            assert behind == []
            await (await starting).result()
        assert behind == [(8, 8)]

    asyncio.run(main())


def test_the_end_of_a_run_and_its_status_are_told_only_when_they_are_durable() -> None:
    async def main() -> None:
        gate = asyncio.Event()
        disk = MemoryJournal()
        journal = CrashingJournal(disk, lag=40)
        async with Engine(journal, tools=[fake_tool("t", behind(gate))]) as engine:
            run = await engine.start({"planloom": 1, "steps": [{"id": "a", "tool": "t"}]}, run_id="r")
            waiter = asyncio.create_task(run.result())
            gate.set()
            await turns(15)
            assert not waiter.done()
            assert run.status is RunStatus.RUNNING, "a status is shown only when it is durable"
            assert (await run.snapshot()).step("a").status is not StepStatus.COMPLETED
            result = await waiter
            assert (await run.snapshot()).to_dict() == result.to_dict()
            assert result.status is RunStatus.SUCCESS
            assert len(await disk.read("r")) == 4

    asyncio.run(main())


def behind(gate: asyncio.Event) -> Any:
    async def wait(**args: Any) -> dict[str, Any]:
        await gate.wait()
        return args

    return wait


def test_that_a_run_waits_for_a_person_is_told_only_when_it_is_durable() -> None:
    async def main() -> None:
        gate = asyncio.Event()
        journal = CrashingJournal(MemoryJournal(), lag=40)
        steps = [{"id": "a", "tool": "t"}, {"id": "ok", "approve": "?", "needs": ["a"]}]
        async with Engine(journal, tools=[fake_tool("t", behind(gate))]) as engine:
            run = await engine.start({"planloom": 1, "steps": steps})
            waiter = asyncio.create_task(run.result())
            gate.set()
            await turns(15)
            assert not waiter.done()
            assert (await waiter).status is RunStatus.WAITING
            approving = asyncio.create_task(run.approve("ok", by="me"))
            await turns(1)
            again = asyncio.create_task(run.result())
            await turns(15)
            assert not approving.done()
            assert not again.done()
            assert (await again).status is RunStatus.SUCCESS
            await approving

    asyncio.run(main())


def test_a_run_with_a_timer_does_not_wait_for_a_person_alone() -> None:
    async def main() -> None:
        clock = ManualClock()
        plan = {"planloom": 1, "steps": [{"id": "ok", "approve": "?"}, {"id": "w", "wait": 10}]}
        async with Engine(tools=[], clock=clock) as engine:
            run = await engine.start(plan)
            waiter = asyncio.create_task(run.result())
            await turns()
            assert not waiter.done()
            clock.advance(10)
            assert (await waiter).status is RunStatus.WAITING

    asyncio.run(main())


def test_an_approval_that_expires_while_the_run_waits_times_out() -> None:
    async def main() -> None:
        clock = ManualClock()
        plan = {"planloom": 1, "steps": [{"id": "ok", "approve": {"message": "?", "expires_seconds": 60}}]}
        async with Engine(tools=[], clock=clock) as engine:
            run = await engine.start(plan)
            assert (await run.result()).status is RunStatus.WAITING
            clock.advance(61)
            result = await run.result()
            assert result.status is RunStatus.FAILED
            assert result.step("ok").status is StepStatus.TIMED_OUT

    asyncio.run(main())


class Stumbles(MemoryJournal):
    """Cannot say for a moment what people left."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    async def posted_runs(self) -> set[str]:
        self.asked += 1
        if self.asked == 1:
            raise JournalError("locked", remedy="wait")
        return await super().posted_runs()


@pytest.mark.slow
def test_people_are_still_heard_after_the_journal_stumbled_once() -> None:
    async def main() -> None:
        journal = Stumbles()
        async with Engine(journal, tools=[]) as engine:
            run = await engine.start({"planloom": 1, "steps": [{"id": "ok", "approve": "?"}]}, run_id="r")
            await run.result()
            while journal.asked < 1:
                await asyncio.sleep(0.05)
            await leave_yes(journal, "r")
            async with asyncio.timeout(3):
                while run.status is not RunStatus.SUCCESS:
                    await asyncio.sleep(0.05)

    asyncio.run(main())


class Reads(MemoryJournal):
    """Tells when it is asked for a run's posted facts, and answers when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()
        self.go_on = asyncio.Event()

    async def posted(self, run_id: str) -> Any:
        found = await super().posted(run_id)
        if found:
            self.asked.set()
            await self.go_on.wait()
        return found


@pytest.mark.slow
def test_an_answer_is_not_lost_when_its_run_is_let_go_of_while_it_is_being_fetched() -> None:
    async def main() -> None:
        journal = Reads()
        async with Engine(journal, tools=[]) as engine:
            await (await engine.start({"planloom": 1, "steps": [{"id": "ok", "approve": "?"}]}, run_id="r")).result()
            await leave_yes(journal, "r")
            await asyncio.wait_for(journal.asked.wait(), 5)
            await engine.release("r")
            journal.go_on.set()
            await turns()
            assert await MemoryJournal.posted(journal, "r") != [], "forgotten, and never delivered"
            result = await engine.finish(await engine.resume("r"))
            assert result.status is RunStatus.SUCCESS

    asyncio.run(main())


@pytest.mark.slow
def test_letting_go_of_one_run_while_people_are_being_heard_does_not_deafen_the_engine() -> None:
    async def main() -> None:
        journal = Reads()
        plan = {"planloom": 1, "steps": [{"id": "ok", "approve": "?"}]}
        async with Engine(journal, tools=[]) as engine:
            runs = {name: await engine.start(plan, run_id=name) for name in ("a", "b", "c")}
            for run in runs.values():
                await run.result()
            for name in ("a", "b"):
                await leave_yes(journal, name)
            await asyncio.wait_for(journal.asked.wait(), 5)
            await engine.release("a")
            await engine.release("b")
            journal.go_on.set()
            await leave_yes(journal, "c")
            async with asyncio.timeout(3):
                while runs["c"].status is not RunStatus.SUCCESS:
                    await asyncio.sleep(0.05)

    asyncio.run(main())


def test_followers_get_nothing_that_could_still_be_lost() -> None:
    async def main() -> None:
        disk = MemoryJournal()
        journal = CrashingJournal(disk, at=4, how=Spoil.BEFORE, lag=2)
        seen: list[Recorded] = []

        async def follow(engine: Engine) -> None:
            async for entry in engine.follow("r"):
                seen.append(entry)

        async def work(n: int) -> None:
            await turns(10)

        async with Engine(journal, tools=[fake_tool("t", work)]) as engine:
            await engine.start(CHAIN, run_id="r")
            follower = asyncio.create_task(follow(engine))
            await journal.stopped.wait()
            await turns()
            follower.cancel()
        assert len(seen) > 2
        assert seen == (await disk.read("r"))[: len(seen)]

    asyncio.run(main())
