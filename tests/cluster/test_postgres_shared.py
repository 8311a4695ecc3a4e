"""Runs that orchestrators share: one transaction locks, reads, decides and writes."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import psycopg
import pytest

from planloom.errors import JournalConflictError
from planloom.journal.postgres.shared import SharedRuns
from planloom.journal.postgres.work import Decided, LockedRun, Work
from planloom.testing.conformance.journal_place import AT, LARGE, dispatched, finished, started, succeeded
from tests.cluster.servers import comes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

KEY = ("step_1", 1, 0)


@asynccontextmanager
async def shared(address: str, **terms: object) -> AsyncIterator[SharedRuns]:
    runs = SharedRuns(address, **terms)  # type: ignore[arg-type]
    try:
        yield runs
    finally:
        await runs.close()


def work(run_id: str = "run-1", *, token: str = "t1", send_at: float = AT) -> Work:
    return Work(run_id, *KEY, token, "main", "", '{"v":1}', send_at)


async def seen(runs: SharedRuns, run_id: str = "run-1", known: int = 0) -> LockedRun:
    found: list[LockedRun] = []
    await runs.turn({run_id: known}, found.append)
    return found[0]


async def begin(runs: SharedRuns, run_id: str = "run-1") -> None:
    def decide(run: LockedRun) -> Decided:
        return Decided((started(), dispatched(1)), (0, 1), opened=[work(run_id)], wake_at=AT + 5)

    await runs.turn({run_id: 0}, decide)


def test_a_turn_writes_what_was_decided_and_the_next_one_sees_it(postgres: str) -> None:
    async def main() -> tuple[LockedRun, LockedRun, LockedRun]:
        async with shared(postgres) as runs:
            before = await seen(runs)
            await begin(runs)
            await runs.turn(
                {"run-1": 2},
                lambda run: Decided((succeeded(1, LARGE), finished()), (2, 3), closed=[KEY]),
            )
            return before, await seen(runs, known=2), await seen(runs)

    before, after, whole = asyncio.run(main())

    assert (before.last_seq, before.events, before.status) == (0, [], "")
    assert [entry.event for entry in after.events] == [succeeded(1, LARGE), finished()]
    assert [entry.seq for entry in whole.events] == [1, 2, 3, 4]
    assert (whole.last_seq, whole.driver, whole.status, whole.wake_at) == (4, "cluster", "success", None)
    assert whole.work == {}


def test_work_is_replaced_unsent_and_unclaimed(postgres: str) -> None:
    async def main() -> list[list[Work]]:
        found: list[list[Work]] = []
        async with shared(postgres) as runs:
            await begin(runs)
            found.append(await runs.unsent(AT + 1, 10))
            found.append(await runs.unsent(AT + 1, 10))
            await runs.mark_sent(found[0], AT + 2)
            await runs.turn({"run-1": 2}, lambda run: Decided(claimed=[(KEY, "worker-1")], stopped=[(KEY, AT + 9)]))
            found.append(list((await seen(runs)).work.values()))
            found.append(await runs.quiet(AT + 1_000, 10))
            found.append(await runs.quiet(AT + 1_000, 10))
            await runs.turn({"run-1": 2}, lambda run: Decided(opened=[work(token="t2")]))
            await runs.mark_sent(found[0], AT + 3)
            found.append(list((await seen(runs)).work.values()))
        return found

    handed_out, again, claimed, quiet, quiet_again, replaced = asyncio.run(main())

    assert [(one.token, one.sent_at) for one in handed_out] == [("t1", None)]
    assert again == []
    assert [(one.sent_at, one.claimed_by, one.stop_at) for one in claimed] == [(AT + 2, "worker-1", AT + 9)]
    assert [one.token for one in quiet] == ["t1"]
    assert quiet_again == []
    assert [(one.token, one.sent_at, one.claimed_by, one.stop_at) for one in replaced] == [("t2", None, None, None)]


def test_work_that_is_put_off_is_not_handed_out_before_its_moment(postgres: str) -> None:
    async def main() -> list[list[Work]]:
        async with shared(postgres) as runs:
            await begin(runs)
            await runs.postpone([work()], [AT + 60])
            await runs.postpone([work(token="t0")], [AT])
            return [await runs.unsent(AT + moment, 10) for moment in (59, 61)]

    early, late = asyncio.run(main())

    assert early == []
    assert [one.token for one in late] == ["t1"]


def test_marking_work_as_sent_waits_for_no_turn_and_comes_back_for_what_was_locked(postgres: str) -> None:
    async def main() -> list[float | None]:
        async with shared(postgres) as runs:
            await begin(runs)
            await begin(runs, "run-2")
            both = [work(), work("run-2")]
            with psycopg.connect(postgres) as turn:
                turn.execute("SELECT FROM planloom.work WHERE run_id = 'run-2' FOR UPDATE")
                marking = asyncio.ensure_future(runs.mark_sent(both, AT + 1))

                async def first_is_marked() -> bool:
                    with psycopg.connect(postgres) as looking:
                        sent = looking.execute("SELECT sent_at FROM planloom.work WHERE run_id = 'run-1'").fetchall()
                    return sent == [(AT + 1,)]

                await comes(first_is_marked)
            await marking
            return [one.sent_at for name in ("run-1", "run-2") for one in (await seen(runs, name)).work.values()]

    assert asyncio.run(main()) == [AT + 1, AT + 1]


def test_runs_that_are_due_are_found(postgres: str) -> None:
    async def main() -> list[list[str]]:
        async with shared(postgres) as runs:
            await begin(runs)
            await begin(runs, "run-2")
            await runs.turn({"run-2": 2}, lambda run: Decided(wake_at=AT + 3))
            return [await runs.due(AT + moment, 10) for moment in (2, 4, 6)]

    assert asyncio.run(main()) == [[], ["run-2"], ["run-2", "run-1"]]


def test_a_rate_limit_hands_out_moments_evenly(postgres: str) -> None:
    async def main() -> list[list[float]]:
        async with shared(postgres) as runs:
            first = await runs.take_slots("mail", 3, per_minute=60, now=100.0)
            second = await runs.take_slots("mail", 1, per_minute=60, now=100.0)
            later = await runs.take_slots("mail", 2, per_minute=60, now=200.0)
            burst = await runs.take_slots("web", 3, per_minute=60, now=100.0, burst=2)
            return [first, second, later, burst]

    assert asyncio.run(main()) == [[100, 101, 102], [103], [200, 201], [100, 100, 101]]


def test_two_orchestrators_take_turns_on_one_run(postgres: str) -> None:
    async def add(runs: SharedRuns, count: int) -> None:
        for _ in range(count):

            def decide(run: LockedRun) -> Decided:
                assert [entry.seq for entry in run.events] == list(range(1, run.last_seq + 1))
                return Decided((dispatched(run.last_seq),), (1,))

            await runs.turn({"run-1": 0}, decide)

    async def main() -> LockedRun:
        async with shared(postgres) as one, shared(postgres) as other:
            await asyncio.gather(begin(one, "run-0"), begin(one))
            await asyncio.gather(add(one, 10), add(other, 10), add(one, 10))
            return await seen(one)

    assert asyncio.run(main()).last_seq == 32


def test_a_run_that_two_begin_at_once_is_begun_once(postgres: str) -> None:
    def decide(run: LockedRun) -> Decided | None:
        return Decided((started(),), (0,)) if run.last_seq == 0 else None

    async def main() -> list[int]:
        async with shared(postgres) as one, shared(postgres) as other:
            names = {f"run-{number}": 0 for number in range(20)}
            await asyncio.gather(one.turn(names, decide), other.turn(dict(reversed(names.items())), decide))
            return [(await seen(one, name)).last_seq for name in names]

    assert asyncio.run(main()) == [1] * 20


def test_an_attempt_has_one_outcome_whoever_writes_it(postgres: str) -> None:
    async def main() -> LockedRun:
        async with shared(postgres) as runs:
            await begin(runs)
            await runs.turn({"run-1": 2}, lambda run: Decided((succeeded(1),), (2,)))
            with pytest.raises(JournalConflictError):
                await runs.turn({"run-1": 3}, lambda run: Decided((succeeded(1, "another"),), (2,)))
            return await seen(runs)

    assert asyncio.run(main()).last_seq == 3


def test_a_decision_that_raises_leaves_nothing_behind(postgres: str) -> None:
    def decide(run: LockedRun) -> Decided:
        if run.run_id == "run-2":
            raise LookupError("a bug of whoever decides")
        return Decided((started(),), (0,))

    async def main() -> LockedRun:
        async with shared(postgres) as runs:
            with pytest.raises(LookupError):
                await runs.turn({"run-1": 0, "run-2": 0}, decide)
            return await seen(runs)

    assert asyncio.run(main()).last_seq == 0


def test_who_was_refused_finds_out_why_the_last_time(postgres: str) -> None:
    async def main() -> list[str | None]:
        async with shared(postgres) as runs:
            found = [await runs.refusal("run-1")]
            await runs.refuse("run-1", "{}")
            await runs.refuse("run-1", '{"code":"plan.cycle"}')
            return [*found, await runs.refusal("run-1")]

    assert asyncio.run(main()) == [None, '{"code":"plan.cycle"}']
