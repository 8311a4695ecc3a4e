"""What a journal must do that outlives its object, or that others than its engine can write to."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from planloom.core.events import CancelRequested
from planloom.errors import JournalConflictError, JournalFormatError, RunBusyError
from planloom.testing.conformance.journal_place import (
    AT,
    LARGE,
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
    seqs,
    started,
    succeeded,
)

if TYPE_CHECKING:
    from planloom.core.events import Event


# --- journals that outlive their object -------------------------------------------------------


async def a_record_survives_reopening(place: JournalPlace) -> None:
    wanted: list[Event] = [started(), succeeded(1, LARGE), succeeded(2, [LARGE, LARGE])]
    async with opened(place) as journal:
        writer = await journal.create("run-1", Told())
        writer.append(wanted, (0, 1, 1))
        await writer.flush()

    async with opened(place) as journal:
        recorded, writer = await journal.take("run-1", Told())
        equal(events(recorded), wanted, "events after reopening")
        equal(writer.append((finished(),), (3,)), 4, "seq that goes on")
        await writer.flush()
        equal((await journal.runs())[0].status, "success", "status of the run")


async def closing_under_load_loses_nothing(place: JournalPlace) -> None:
    told = Told()
    journal = place.open()
    writer = await begun(journal, told=told)

    for number in range(2_000):
        writer.append((dispatched(number),), (1,))
    await journal.close()

    async with opened(place) as journal:
        equal(len(await journal.read("run-1")), 2_001, "events on record")
    equal(told.seqs[-1], 2_001, "last durable seq")


async def posted_facts_survive_reopening(place: JournalPlace) -> None:
    fact = CancelRequested("ann", AT, "too dear")
    async with opened(place) as journal:
        await begun(journal)
        await journal.post("run-1", fact)

    async with opened(place) as journal:
        equal([fact for _, fact in await journal.posted("run-1")], [fact], "facts after reopening")


async def a_follower_goes_on_after_reopening(place: JournalPlace) -> None:
    async with opened(place) as journal:
        writer = await begun(journal)
        writer.append((dispatched(1),), (1,))
        await writer.close()

    async with opened(place) as journal:
        follower = asyncio.create_task(followed(journal, "run-1", after=1))
        _, writer = await journal.take("run-1", Told())
        writer.append((dispatched(2), finished()), (1, 1))
        await writer.close()
        equal(seqs(await follower), [2, 3, 4], "what the follower saw")


async def two_journals_of_one_record_see_each_other(place: JournalPlace) -> None:
    async with opened(place) as writing, opened(place) as reading:
        writer = await begun(writing)
        follower = asyncio.create_task(followed(reading, "run-1"))
        await raises(RunBusyError, reading.take("run-1", Told()), "take of a run the other journal drives")
        await raises(JournalConflictError, reading.create("run-1", Told()), "create of a run the other journal drives")

        await reading.post("run-1", CancelRequested("ann", AT))
        posted = await writing.posted("run-1")
        writer.append((posted[0][1], finished()), (0, 2))
        await writer.flush()

        equal(seqs(await follower), [1, 2, 3], "what the other journal's follower saw")


# --- journals that a second engine can write to -----------------------------------------------


async def a_second_engine_on_one_run_is_a_conflict(place: JournalPlace) -> None:
    told = Told()
    async with opened(place) as journal:
        writer = await begun(journal, told=told)
        _intrude(place, "run-1")

        writer.append((dispatched(1),), (1,))
        await raises(JournalConflictError, writer.flush(), "flush after a conflict")

        equal([type(error) for error in told.errors], [JournalConflictError], "errors told")
        equal(told.seqs, [1], "durable seqs told")
        try:
            writer.append((dispatched(2),), (1,))
        except JournalConflictError:
            pass
        else:
            raise AssertionError("an append after a conflict was accepted")
        await writer.close()
        equal(seqs(await journal.read("run-1")), [1, 2], "seqs on record")


async def a_conflict_stops_that_run_alone(place: JournalPlace) -> None:
    async with opened(place) as journal:
        writers = [await begun(journal, f"run-{number}") for number in range(4)]
        _intrude(place, "run-2")

        for writer in writers:
            writer.append((dispatched(7),), (1,))
        results = await asyncio.gather(*(writer.flush() for writer in writers), return_exceptions=True)

        equal(
            [type(result) for result in results], [type(None), type(None), JournalConflictError, type(None)], "flushes"
        )
        for number in (0, 1, 3):
            equal(events(await journal.read(f"run-{number}")), [started(), dispatched(7)], f"events of run {number}")


def _intrude(place: JournalPlace, run_id: str) -> None:
    if place.intrude is None:
        raise AssertionError("this check needs `JournalPlace.intrude`")
    place.intrude(run_id)


# --- journals that somebody else can damage ---------------------------------------------------


async def a_changed_record_is_refused_and_the_others_go_on(place: JournalPlace) -> None:
    if place.spoil is None:
        raise AssertionError("this check needs `JournalPlace.spoil`")
    async with opened(place) as journal:
        for run_id in ("run-1", "run-2"):
            writer = await begun(journal, run_id)
            writer.append((succeeded(1, {"a": 1}), finished()), (1, 2))
            await writer.close()
    place.spoil("run-1")

    async with opened(place) as journal:
        await raises(JournalFormatError, journal.read("run-1"), "reading a changed record")
        await raises(JournalFormatError, journal.take("run-1", Told()), "taking a run with a changed record")
        await raises(JournalFormatError, followed(journal, "run-1"), "following a run with a changed record")
        equal(seqs(await journal.read("run-2")), [1, 2, 3], "seqs of the other run")


LASTING_CHECKS: tuple[Check, ...] = (
    a_record_survives_reopening,
    closing_under_load_loses_nothing,
    posted_facts_survive_reopening,
    a_follower_goes_on_after_reopening,
    two_journals_of_one_record_see_each_other,
)
RIVAL_CHECKS: tuple[Check, ...] = (
    a_second_engine_on_one_run_is_a_conflict,
    a_conflict_stops_that_run_alone,
)
DAMAGE_CHECKS: tuple[Check, ...] = (a_changed_record_is_refused_and_the_others_go_on,)
