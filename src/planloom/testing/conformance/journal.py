"""What every journal must do: the suite behind the port `Journal`, for whoever writes an adapter.

Each check is an async function that takes a `JournalPlace` and raises AssertionError when the journal breaks its word:

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    def test_my_journal(check, tmp_path):
        run_check(check, JournalPlace(lambda: MyJournal(tmp_path / "runs")))

Rule 1: a check opens its own journals and closes them.
Rule 2: `CHECKS` fit every journal; `LASTING_CHECKS` one that outlives its object; `RIVAL_CHECKS` need `intrude`,
`DAMAGE_CHECKS` need `spoil`.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from planloom.core.events import ApprovalAnswered, CancelRequested
from planloom.errors import JournalConflictError, JournalError, RunBusyError, RunNotFoundError
from planloom.testing.conformance.journal_lasting import DAMAGE_CHECKS, LASTING_CHECKS, RIVAL_CHECKS
from planloom.testing.conformance.journal_place import (
    AT,
    LARGE,
    PLAN,
    Check,
    JournalPlace,
    Told,
    begun,
    dispatched,
    equal,
    events,
    finished,
    followed,
    opened,
    raises,
    run_check,
    seqs,
    started,
    succeeded,
)

if TYPE_CHECKING:
    from planloom.core.events import Event
    from planloom.ports import Recorded

__all__ = ["CHECKS", "DAMAGE_CHECKS", "LASTING_CHECKS", "RIVAL_CHECKS", "Check", "JournalPlace", "run_check"]


async def events_come_back_in_order_numbered_without_gaps(place: JournalPlace) -> None:
    wanted: list[Event] = [started(), dispatched(1), succeeded(1, {"a": [1, 2.5, None, "ü"]}), finished()]
    async with opened(place) as journal:
        writer = await journal.create("run-1", Told())

        last = [writer.append((event,), (cause,)) for cause, event in enumerate(wanted)]
        await writer.flush()

        recorded = await journal.read("run-1")
        equal(last, [1, 2, 3, 4], "seqs that append returned")
        equal(seqs(recorded), [1, 2, 3, 4], "seqs on record")
        equal([entry.cause for entry in recorded], [0, 1, 2, 3], "causes on record")
        equal(events(recorded), wanted, "events on record")


async def one_append_is_recorded_whole_or_not_at_all(place: JournalPlace) -> None:
    async with opened(place) as journal:
        writer = await begun(journal)

        try:
            writer.append((dispatched(1), dispatched(2)), (1,))
        except ValueError:
            pass
        else:
            raise AssertionError("an append with too few causes was accepted")
        last = writer.append((dispatched(3), dispatched(4)), (1, 1))
        await writer.flush()

        equal(last, 3, "seq after the refused append")
        equal(events(await journal.read("run-1")), [started(), dispatched(3), dispatched(4)], "events on record")


async def an_empty_append_changes_nothing(place: JournalPlace) -> None:
    async with opened(place) as journal:
        writer = await begun(journal)

        equal(writer.append((), ()), 1, "seq that append returned")
        await writer.flush()

        equal(seqs(await journal.read("run-1")), [1], "seqs on record")


async def a_run_begins_with_its_plan(place: JournalPlace) -> None:
    async with opened(place) as journal:
        writer = await journal.create("run-1", Told())

        try:
            writer.append((dispatched(1),), (0,))
        except JournalError:
            pass
        else:
            raise AssertionError("a run was begun without RunStarted")
        await writer.close()

        await raises(RunNotFoundError, journal.read("run-1"), "reading a run that never began")


async def durable_callbacks_come_in_order_and_reach_the_end(place: JournalPlace) -> None:
    told = Told()
    async with opened(place) as journal:
        writer = await begun(journal, told=told)

        for number in range(300):
            writer.append((dispatched(number),), (1,))
            if number % 50 == 0:
                await asyncio.sleep(0)
        await writer.flush()

        equal(told.seqs, sorted(set(told.seqs)), "durable seqs as they were told")
        equal(told.seqs[-1], 301, "last durable seq")
        equal(told.errors, [], "errors told")
        equal(writer.backlog, 0, "backlog after a flush")


async def nothing_is_told_before_it_can_be_read(place: JournalPlace) -> None:
    async with opened(place) as journal:
        ahead: list[tuple[int, int]] = []
        reads: list[asyncio.Task[None]] = []

        async def look(told: int) -> None:
            on_record = len(await journal.read("run-1"))
            if on_record < told:
                ahead.append((told, on_record))

        def on_durable(seq: int, error: BaseException | None) -> None:
            reads.append(asyncio.ensure_future(look(seq)))

        writer = await journal.create("run-1", on_durable)
        writer.append((started(),), (0,))
        for number in range(20):
            writer.append((dispatched(number),), (1,))
            await asyncio.sleep(0)
        await writer.flush()
        await asyncio.gather(*reads)

        equal(ahead, [], "seqs told before they were on record")


async def a_callback_that_raises_keeps_nobody_else_from_hearing(place: JournalPlace) -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _loop, _context: None)
    told = Told()

    def broken(seq: int, error: BaseException | None) -> None:
        raise LookupError("a callback with a bug")

    async with opened(place) as journal:
        first = await journal.create("run-1", broken)
        second = await journal.create("run-2", told)

        with suppress(LookupError):
            first.append((started(),), (0,))
        second.append((started(),), (0,))
        await second.flush()
        await first.flush()

        equal(told.seqs, [1], "what the second run was told")


async def runs_do_not_see_each_other(place: JournalPlace) -> None:
    async with opened(place) as journal:
        writers = [await begun(journal, f"run-{number}") for number in range(5)]

        for number in range(20):
            for place_, writer in enumerate(writers):
                writer.append((succeeded(number, place_),), (1,))
        await asyncio.gather(*(writer.flush() for writer in writers))

        for place_ in range(5):
            expected = [started(), *(succeeded(number, place_) for number in range(20))]
            equal(events(await journal.read(f"run-{place_}")), expected, f"events of run {place_}")


async def reading_can_begin_and_stop_anywhere(place: JournalPlace) -> None:
    async with opened(place) as journal:
        writer = await begun(journal)
        writer.append([dispatched(number) for number in range(9)], [1] * 9)
        await writer.flush()

        equal(seqs(await journal.read("run-1", after=7)), [8, 9, 10], "after 7")
        equal(seqs(await journal.read("run-1", after=2, limit=3)), [3, 4, 5], "three after 2")
        equal(seqs(await journal.read("run-1", after=10)), [], "after the last")
        equal(seqs(await journal.read("run-1", limit=0)), [], "none at all")


async def an_unknown_run_is_an_error(place: JournalPlace) -> None:
    async with opened(place) as journal:
        await raises(RunNotFoundError, journal.read("nobody"), "read")
        await raises(RunNotFoundError, journal.take("nobody", Told()), "take")
        await raises(RunNotFoundError, followed(journal, "nobody"), "follow")
        await raises(RunNotFoundError, journal.post("nobody", CancelRequested("ann", AT)), "post")
        equal(await journal.posted("nobody"), [], "posted")
        writer = await journal.create("nobody", Told())
        await writer.close()


async def a_run_is_created_once(place: JournalPlace) -> None:
    async with opened(place) as journal:
        writer = await begun(journal)

        await raises(JournalConflictError, journal.create("run-1", Told()), "create of a run that is driven")
        await writer.close()
        await raises(JournalConflictError, journal.create("run-1", Told()), "create of a run on record")


async def a_run_has_one_owner_at_a_time(place: JournalPlace) -> None:
    async with opened(place) as journal:
        writer = await begun(journal)
        await raises(RunBusyError, journal.take("run-1", Told()), "take of a run that is driven")

        await writer.close()
        await writer.close()
        recorded, second = await journal.take("run-1", Told())
        last = second.append((dispatched(1),), (1,))
        await second.flush()

        equal(seqs(recorded), [1], "what take returned")
        equal(last, 2, "seq of the new owner's first event")
        equal(seqs(await journal.read("run-1")), [1, 2], "seqs on record")


async def a_closed_writer_writes_no_more(place: JournalPlace) -> None:
    async with opened(place) as journal:
        writer = await begun(journal)
        await writer.close()

        try:
            writer.append((dispatched(1),), (1,))
        except JournalError:
            pass
        else:
            raise AssertionError("a closed writer took an event")
        equal(seqs(await journal.read("run-1")), [1], "seqs on record")


async def closing_a_writer_flushes_it(place: JournalPlace) -> None:
    async with opened(place) as journal:
        writer = await begun(journal)

        writer.append([dispatched(number) for number in range(100)], [1] * 100)
        await writer.close()

        equal(len(await journal.read("run-1")), 101, "events on record")


async def large_values_come_back_whole(place: JournalPlace) -> None:
    output = {"text": LARGE, "like a mark": {"output@blob": "0" * 64}}
    async with opened(place) as journal:
        writer = await begun(journal)

        writer.append((succeeded(1, output), succeeded(2, {"output@blob": "f" * 64})), (1, 1))
        await writer.flush()

        recorded = await journal.read("run-1")
        equal(events(recorded)[1:], [succeeded(1, output), succeeded(2, {"output@blob": "f" * 64})], "events on record")


async def runs_are_listed_newest_first(place: JournalPlace) -> None:
    async with opened(place) as journal:
        for number in range(4):
            writer = await journal.create(f"run-{number}", Told())
            writer.append((started(AT + number), dispatched(1)), (0, 1))
            if number == 1:
                writer.append((finished(),), (2,))
            await writer.close()

        rows = await journal.runs()
        equal([row.run_id for row in rows], ["run-3", "run-2", "run-1", "run-0"], "ids")
        equal([row.status for row in rows], ["running", "running", "success", "running"], "statuses")
        equal([row.last_seq for row in rows], [2, 2, 3, 2], "last seqs")
        equal((rows[2].started_at, rows[2].updated_at), (AT + 1, AT + 100), "times of the ended run")
        equal((rows[0].plan, rows[0].plan_hash), (PLAN.name, PLAN.hash), "plan of the newest")
        equal([row.run_id for row in await journal.runs(limit=2)], ["run-3", "run-2"], "two of them")
        equal([row.run_id for row in await journal.runs(status="success")], ["run-1"], "those with success")
        older = await journal.runs(before=(rows[1].started_at, rows[1].run_id), plan=PLAN.name)
        equal([row.run_id for row in older], ["run-1", "run-0"], "those after the second")
        equal(await journal.runs(plan="another"), [], "those of another plan")


async def a_follower_sees_every_event_once(place: JournalPlace) -> None:
    async with opened(place) as journal:
        writer = await begun(journal)
        early = asyncio.create_task(followed(journal, "run-1"))
        joined: list[asyncio.Task[list[Recorded]]] = []

        for number in range(400):
            writer.append((dispatched(number),), (1,))
            if number % 40 == 0:
                await writer.flush()
                joined.append(asyncio.create_task(followed(journal, "run-1", after=number)))
            await asyncio.sleep(0)
        writer.append((finished(),), (1,))
        await writer.flush()

        equal(seqs(await early), list(range(1, 403)), "what the first follower saw")
        for place_, task in enumerate(joined):
            equal(seqs(await task), list(range(place_ * 40 + 1, 403)), f"what follower {place_} saw")


async def a_slow_follower_sees_what_came_while_it_was_busy(place: JournalPlace) -> None:
    async with opened(place) as journal:
        writer = await begun(journal)
        seen = []
        async for recorded in journal.follow("run-1"):
            seen.append(recorded.seq)
            if recorded.seq <= 3:
                writer.append((dispatched(recorded.seq),), (1,))
                if recorded.seq == 3:
                    writer.append((finished(),), (1,))
                await writer.flush()

        equal(seen, [1, 2, 3, 4, 5], "what it saw")


async def following_an_ended_run_ends(place: JournalPlace) -> None:
    async with opened(place) as journal:
        writer = await begun(journal)
        writer.append((finished(),), (1,))
        await writer.close()

        equal(seqs(await followed(journal, "run-1")), [1, 2], "from the start")
        equal(seqs(await followed(journal, "run-1", after=2)), [], "from the end")


async def a_run_can_be_followed_before_its_first_event(place: JournalPlace) -> None:
    async with opened(place) as journal:
        writer = await journal.create("run-1", Told())
        follower = asyncio.create_task(followed(journal, "run-1"))
        await asyncio.sleep(0)

        writer.append((started(), finished()), (0, 1))
        await writer.close()

        equal(seqs(await follower), [1, 2], "what the follower saw")


async def closing_the_journal_ends_its_followers(place: JournalPlace) -> None:
    journal = place.open()
    await begun(journal)
    follower = asyncio.create_task(followed(journal, "run-1"))
    await asyncio.sleep(0.05)

    await journal.close()
    await journal.close()

    await raises(JournalError, follower, "following a journal that was closed")
    await raises(JournalError, journal.read("run-1"), "reading a closed journal")
    await raises(JournalError, journal.create("run-2", Told()), "creating a run in a closed journal")


async def posted_facts_wait_in_order_until_they_are_taken(place: JournalPlace) -> None:
    facts = (ApprovalAnswered("ask", True, "ann", AT, {"note": LARGE}), CancelRequested("bob", AT, "enough"))
    async with opened(place) as journal:
        await begun(journal, "run-1")
        await begun(journal, "run-2")

        await journal.post("run-2", facts[1])
        for fact in facts:
            await journal.post("run-1", fact)

        posted = await journal.posted("run-1")
        equal([fact for _, fact in posted], list(facts), "facts left for the run")
        equal(await journal.posted_runs(), {"run-1", "run-2"}, "runs with facts")
        await journal.taken("run-1", posted[0][0])
        equal(await journal.posted("run-1"), posted[1:], "facts after the first was taken")
        await journal.taken("run-1", posted[1][0])
        equal(await journal.posted_runs(), {"run-2"}, "runs with facts after both were taken")
        await journal.post("run-1", facts[0])
        equal((await journal.posted("run-1"))[0][0] > posted[1][0], True, "a number is never used again")


CHECKS: tuple[Check, ...] = (
    events_come_back_in_order_numbered_without_gaps,
    one_append_is_recorded_whole_or_not_at_all,
    an_empty_append_changes_nothing,
    a_run_begins_with_its_plan,
    durable_callbacks_come_in_order_and_reach_the_end,
    nothing_is_told_before_it_can_be_read,
    a_callback_that_raises_keeps_nobody_else_from_hearing,
    runs_do_not_see_each_other,
    reading_can_begin_and_stop_anywhere,
    an_unknown_run_is_an_error,
    a_run_is_created_once,
    a_run_has_one_owner_at_a_time,
    a_closed_writer_writes_no_more,
    closing_a_writer_flushes_it,
    large_values_come_back_whole,
    runs_are_listed_newest_first,
    a_follower_sees_every_event_once,
    a_slow_follower_sees_what_came_while_it_was_busy,
    following_an_ended_run_ends,
    a_run_can_be_followed_before_its_first_event,
    closing_the_journal_ends_its_followers,
    posted_facts_wait_in_order_until_they_are_taken,
)
