"""A record that was changed is noticed before anybody acts on it: the links between a run's events."""

from __future__ import annotations

import asyncio
import sqlite3
import struct
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from planloom import Engine, SqliteJournal
from planloom.core.events import AttemptSucceeded, CancelRequested, RunFinished, RunStarted, StepDispatched
from planloom.core.result import RunStatus
from planloom.errors import JournalDamagedError, JournalKeyError
from planloom.journal.chain import Chains
from planloom.journal.schema import reading_connection
from planloom.journal.tails import Tails
from planloom.plan.model import Plan
from planloom.testing.clock import ManualClock
from tests.crash.shapes import World, driven
from tests.journal.damage import Outcome, compared, read, read_file, written

KEY = b"a key of thirty-two bytes, or so"
OTHER_KEY = b"another key, quite as long as it"
PLAN = Plan.from_dict({"name": "p", "steps": [{"id": "a", "tool": "t"}]})


def ignore(seq: int, error: BaseException | None) -> None:
    pass


def in_journal(
    path: Path, work: Callable[[SqliteJournal], Coroutine[Any, Any, Any]], *, key: bytes | None = None
) -> Any:
    async def main() -> Any:
        journal = SqliteJournal(path, key=key)
        try:
            return await work(journal)
        finally:
            await journal.close()

    return asyncio.run(main())


def sql(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


# --- the links --------------------------------------------------------------------------------


def test_the_links_of_released_journals_never_change() -> None:
    plain, keyed = Chains().links("run-1"), Chains(KEY).links("run-1")
    row = (1, 0, "run_started", 1, 1_700_000_000.125, '{"größe":"ü"}')

    assert plain.first.hex() == "b50373d5466cfdbb153a262ea65ffa50"
    assert plain.after(plain.first, *row).hex() == "165489c95c8adaa9b041696ce90d074c"
    assert plain.of_posted(7, "cancel_requested", 1, "{}").hex() == "978274312d346e59c08cb8bfb092a2d9"
    assert keyed.after(keyed.first, *row).hex() == "78f30d0d80193d117952f3dd92568ad0"


@pytest.mark.parametrize("place", range(6))
def test_a_link_depends_on_every_column_on_the_run_and_on_the_link_before(place: int) -> None:
    row: list[Any] = [2, 1, "step_dispatched", 1, 1.5, "{}"]
    changed: list[Any] = [3, 2, "step_dispatche", 2, 1.5000000000000002, '{"a":1}']
    links = Chains().links("run-1")
    link = links.after(links.first, *row)

    other = [*row[:place], changed[place], *row[place + 1 :]]

    assert links.after(links.first, *other) != link
    assert links.after(link, *row) != link
    assert Chains().links("run-2").after(links.first, *row) != link


def test_no_text_can_move_from_one_column_into_another() -> None:
    links = Chains().links("run-1")

    one = links.after(links.first, 1, 0, "ab", 1, 1.5, "c{}")
    other = links.after(links.first, 1, 0, "a", 1, 1.5, "bc{}")

    assert one != other


# --- every bit --------------------------------------------------------------------------------


def flips(value: Any) -> Iterator[Any]:
    """Yield the value as it would be with one bit the other way."""
    if isinstance(value, int):
        yield from (value ^ (1 << bit) for bit in range(63))
        yield value - 2**63
    elif isinstance(value, float):
        [bits] = struct.unpack("<q", struct.pack("<d", value))
        yield from (struct.unpack("<d", struct.pack("<q", flipped))[0] for flipped in flips(bits))
    else:
        raw = value.encode() if isinstance(value, str) else value
        for place in range(len(raw)):
            for bit in range(8):
                yield raw[:place] + bytes([raw[place] ^ (1 << bit)]) + raw[place + 1 :]


def flip_columns(path: Path, run_id: str) -> Counter[Outcome]:
    """Flip each bit of each column of each event of a run, one at a time; return what reading came to."""
    found: Counter[Outcome] = Counter()
    wanted = read_file(path, run_id)
    assert isinstance(wanted, list)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        rows = connection.execute("SELECT rowid, * FROM events WHERE run_id = ?", (run_id,)).fetchall()
        names = [column[1] for column in connection.execute("PRAGMA table_info(events)")]
        for number, *values in rows:
            for name, value in zip(names, values, strict=True):
                column = f"UPDATE OR IGNORE events SET {name} = "
                as_text = f"{column} CAST(? AS TEXT) WHERE rowid = {number}"
                as_it_is = f"{column} ? WHERE rowid = {number}"
                for flipped in flips(value):
                    if (
                        flipped != flipped
                    ):  # SQLite knows no NaN: it takes it for NULL, which no column but `link` may be
                        continue
                    change = as_text if isinstance(value, str) else as_it_is
                    changed = connection.execute(change, (flipped,)).rowcount
                    if changed:  # else another event has that number
                        found[compared(read(connection, run_id), wanted)] += 1
                    connection.execute(as_it_is, (value,))
    return found


def told(what: str, found: Counter[Outcome], capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f"\n{what}: {', '.join(f'{outcome} {count:,}' for outcome, count in sorted(found.items()))}")


@pytest.mark.slow
def test_a59_every_bit_of_every_column_of_a_run_is_guarded(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    events = (
        RunStarted(PLAN, {}, 1.5),
        StepDispatched("a", 1, 0, 1.5),
        AttemptSucceeded("a", 1, 0, {"größe": 1}, 1.5, 2.5),
        RunFinished(RunStatus.SUCCESS, None, 2.5),
    )

    async def write(journal: SqliteJournal) -> None:
        writer = await journal.create("r", ignore)
        writer.append(events, (0, 1, 2, 3))
        await writer.close()

    in_journal(path, write)

    found = flip_columns(path, "r")

    told("bits of the stored columns of an ended run", found, capsys)
    assert found.keys() == {Outcome.REFUSED}
    assert found[Outcome.REFUSED] > 4_000


@pytest.mark.crash
@pytest.mark.slow
def test_a59_every_bit_of_every_column_of_longer_runs_is_guarded(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written(path)

    ended, cut = flip_columns(path, "ended"), flip_columns(path, "cut")

    told("bits of the stored columns of an ended run", ended, capsys)
    told("of one that has not ended", cut, capsys)
    assert ended.keys() == {Outcome.REFUSED}
    assert cut.keys() == {Outcome.REFUSED, Outcome.SHORTER}
    # Its last row may pass to a run of another name, or to a number below 1: it is then as if it had been deleted.
    assert cut[Outcome.SHORTER] == len("cut") * 8 + 1


# --- rows that are moved, dropped, doubled, forged ---------------------------------------------

ALL = "run_id, seq, cause, kind, version, at, body, link"
DAMAGE = {
    "deleted from the middle": ("DELETE FROM events WHERE run_id = 'cut' AND seq = 4", 4),
    "deleted and closed up": (
        "DELETE FROM events WHERE run_id = 'cut' AND seq = 4;"
        "UPDATE events SET seq = seq - 1 WHERE run_id = 'cut' AND seq > 4",
        4,
    ),
    "doubled": (
        "INSERT INTO events SELECT run_id, seq + 1, cause, kind, version, at, body, link FROM events"
        " WHERE run_id = 'cut' AND seq = (SELECT max(seq) FROM events WHERE run_id = 'cut')",
        13,
    ),
    "two rows exchanged": (
        "UPDATE events SET seq = 99 WHERE run_id = 'cut' AND seq = 4;"
        "UPDATE events SET seq = 4 WHERE run_id = 'cut' AND seq = 5;"
        "UPDATE events SET seq = 5 WHERE run_id = 'cut' AND seq = 99",
        4,
    ),
    "taken from another run": (
        "DELETE FROM events WHERE run_id = 'cut' AND seq = 4;"
        f"INSERT INTO events SELECT 'cut', {ALL[8:]} FROM events WHERE run_id = 'cut-in-a-map' AND seq = 4",
        4,
    ),
    "a whole other run under this name": (
        "DELETE FROM events WHERE run_id = 'cut';"
        f"INSERT INTO events SELECT 'cut', {ALL[8:]} FROM events WHERE run_id = 'cut-in-a-map'",
        1,
    ),
    "a link dropped": ("UPDATE events SET link = NULL WHERE run_id = 'cut' AND seq = 4", 4),
    "every link dropped": ("UPDATE events SET link = NULL WHERE run_id = 'cut'", 1),
    "a link of another type": ("UPDATE events SET link = 17 WHERE run_id = 'cut' AND seq = 4", 4),
    "a number as text": ("UPDATE events SET version = 'one' WHERE run_id = 'cut' AND seq = 4", 4),
    "the status of its row": ("UPDATE runs SET status = 'success' WHERE run_id = 'cut'", 13),
    "the plan of its row": ("UPDATE runs SET plan = 'harmless' WHERE run_id = 'cut'", 1),
    "the link of its row": ("UPDATE runs SET first_link = x'00' WHERE run_id = 'cut'", 1),
    "a large value": ("UPDATE blobs SET body = replace(body, 'pay', 'pry')", 1),
    "a large value of another type": ("UPDATE blobs SET body = CAST(body AS BLOB)", 1),
    "a large value gone": ("DELETE FROM blobs", 1),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a59_a_changed_record_is_refused_by_whoever_reads_takes_or_follows_it(path: Path, name: str) -> None:
    written(path, runs=("cut", "cut-in-a-map"))
    statements, seq = DAMAGE[name]
    sql(path, *statements.split(";"))

    async def look(journal: SqliteJournal) -> None:
        async def follow() -> None:
            async for _ in journal.follow("cut"):
                pass

        for reading in (journal.read("cut"), journal.take("cut", ignore), follow(), journal.chain_of("cut")):
            with pytest.raises(JournalDamagedError, match="run 'cut' is damaged") as caught:
                await reading
            assert (caught.value.facts["run_id"], caught.value.facts["seq"]) == ("cut", seq)
            assert caught.value.remedy

    in_journal(path, look)


def test_a_run_of_which_nothing_is_left_but_its_events_is_damaged(path: Path) -> None:
    written(path, runs=("cut",))
    sql(path, "DELETE FROM runs")

    found = read_file(path, "cut")

    assert isinstance(found, JournalDamagedError)


@pytest.mark.parametrize("name", ["ended", "ended-badly"])
def test_the_end_of_an_ended_run_cannot_be_cut_off(path: Path, name: str) -> None:
    written(path, runs=(name,))
    sql(path, "DELETE FROM events WHERE seq = (SELECT max(seq) FROM events)")

    found = read_file(path, name)

    assert isinstance(found, JournalDamagedError)
    assert "its last event does not" in found.message


@pytest.mark.parametrize("status", ["running", "failed"])
def test_an_ended_run_cannot_be_listed_as_anything_else_and_read(path: Path, status: str) -> None:
    written(path, runs=("ended",))
    sql(path, f"UPDATE runs SET status = '{status}'")

    found = read_file(path, "ended")

    assert isinstance(found, JournalDamagedError)
    assert f"its row says '{status}'" in found.message


def test_the_end_of_a_run_that_has_not_ended_shows_in_its_last_link_alone(path: Path) -> None:
    written(path, runs=("cut",))
    whole = in_journal(path, lambda journal: journal.chain_of("cut"))
    sql(path, "DELETE FROM events WHERE seq = (SELECT max(seq) FROM events)")

    shorter = in_journal(path, lambda journal: journal.chain_of("cut"))

    assert (whole.events, whole.chained, shorter.events) == (12, 12, 11)
    assert shorter.head != whole.head


def test_damage_is_found_wherever_a_reading_begins(path: Path) -> None:
    async def write(journal: SqliteJournal) -> None:
        writer = await journal.create("long", ignore)
        writer.append((RunStarted(PLAN, {}, 1.5),), (0,))
        for number in range(1_200):
            writer.append((StepDispatched("a", 1, number, 1.5),), (1,))
        await writer.close()

    async def look(journal: SqliteJournal) -> None:
        assert len(await journal.read("long", after=0, limit=699)) == 699
        assert len(await journal.read("long", after=750, limit=10)) == 10
        with pytest.raises(JournalDamagedError, match="event 700"):
            await journal.read("long", after=690, limit=20)
        with pytest.raises(JournalDamagedError, match="event 701"):
            await journal.read("long", after=700)  # what is on record of event 700 itself is not looked at
        following = journal.follow("long")
        assert [(await anext(following)).seq for _ in range(500)] == list(range(1, 501))
        with pytest.raises(JournalDamagedError, match="event 700"):
            await anext(following)

    in_journal(path, write)
    sql(path, "UPDATE events SET link = x'00112233445566778899aabbccddeeff' WHERE seq = 700")
    in_journal(path, look)


def test_a_damaged_run_is_not_resumed_and_the_others_are(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    written(path, runs=("cut", "cut-in-a-map"))
    sql(path, "UPDATE events SET at = at + 1 WHERE run_id = 'cut' AND seq = 3")
    clock, world = ManualClock(), World(in_real_time=True)

    async def main() -> list[str]:
        clock.advance(60)
        async with Engine(path, tools=world.tools(), clock=clock) as engine:
            recovered = await engine.recover()
            for run in recovered:
                await driven(asyncio.sleep(0, run), clock, world)
            with pytest.raises(JournalDamagedError):
                await engine.resume("cut")
            return [run.run_id for run in recovered]

    assert asyncio.run(main()) == ["cut-in-a-map"]
    assert "run cut is not recovered: run 'cut' is damaged at event 3" in caplog.text
    assert all(done.step.startswith(("each", "end")) for done in world.log)


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
def test_whichever_run_is_taken_first_the_hidden_end_of_each_is_found(order: tuple[str, str]) -> None:
    tails, seen = Tails(), {}
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript("CREATE TABLE runs (run_id, status); CREATE TABLE events (run_id, seq);")
        connection.executemany("INSERT INTO runs VALUES (?, 'running')", [("a",), ("b",), ("c",)])
        rows = [("a", 1), ("b", 1), ("a", 2), ("c", 1), ("b", 2), ("a", 3), ("b", 3)]
        connection.executemany("INSERT INTO events VALUES (?, ?)", rows)

        for run_id in order:
            seen[run_id] = [tails.is_last(connection, run_id, seq) for seq in (3, 2, 1)]

        assert seen == {"a": [True, False, False], "b": [True, False, False]}
        assert tails.is_last(connection, "c", 1)
        assert not tails.is_last(connection, "c", 7)


# --- keys -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("began", "opened", "what"),
    [
        (None, KEY, "was not written with the key that is given"),
        (KEY, None, "was written with a key, and none is given"),
        (KEY, OTHER_KEY, "was not written with the key that is given"),
    ],
)
def test_a_run_is_read_with_the_key_it_began_with_and_no_other(
    path: Path, began: bytes | None, opened: bytes | None, what: str
) -> None:
    written(path, key=began, runs=("cut",))

    async def look(journal: SqliteJournal) -> None:
        for reading in (journal.read("cut"), journal.take("cut", ignore), journal.read("cut", after=5)):
            with pytest.raises(JournalKeyError, match=what) as caught:
                await reading
            text = f"{caught.value} {caught.value.to_dict()}"
            assert not any(key.decode() in text for key in (KEY, OTHER_KEY))
            assert "key" in caught.value.remedy
        assert [row.run_id for row in await journal.runs()] == ["cut"]

    in_journal(path, look, key=opened)
    assert isinstance(read_file(path, "cut", key=began), list)


def test_with_the_right_key_damage_is_called_damage(path: Path) -> None:
    written(path, key=KEY, runs=("cut",))
    sql(path, "UPDATE events SET cause = 2 WHERE seq = 1")

    assert isinstance(read_file(path, "cut", key=KEY), JournalDamagedError)
    assert isinstance(read_file(path, "cut"), JournalKeyError)


def test_links_made_without_the_key_do_not_pass_for_links_made_with_it(path: Path) -> None:
    written(path, key=KEY, runs=("cut",))
    links = Chains().links("cut")
    link = links.first
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE events SET body = replace(body, '\"n\":1', '\"n\":2')")
        rows = connection.execute("SELECT seq, cause, kind, version, at, body FROM events ORDER BY seq").fetchall()
        for row in rows:
            link = links.after(link, *row)
            connection.execute("UPDATE events SET link = ? WHERE seq = ?", (link, row[0]))
        connection.execute("UPDATE runs SET first_link = ?", (links.first,))

    assert isinstance(read_file(path, "cut"), list)  # with no key asked for, a forgery is a record like any other
    assert isinstance(read_file(path, "cut", key=KEY), JournalKeyError)


def test_runs_with_and_without_a_key_share_a_file(path: Path) -> None:
    written(path, runs=("cut",))
    written(path, key=KEY, runs=("ended",))

    assert isinstance(read_file(path, "cut"), list)
    assert isinstance(read_file(path, "ended", key=KEY), list)
    chain = in_journal(path, lambda journal: journal.chain_of("ended"), key=KEY)
    assert (chain.keyed, chain.events, chain.chained) == (True, 18, 18)


# --- what people leave ------------------------------------------------------------------------

LEFT = "run_id, kind, version, body"
POSTED = {
    "changed": "UPDATE posted SET body = replace(body, 'ann', 'bob')",
    "copied": f"INSERT INTO posted ({LEFT}, link) SELECT {LEFT}, link FROM posted",
    "moved": "UPDATE posted SET run_id = 'cut-in-a-map'",
    "made by hand": f"INSERT INTO posted ({LEFT}) SELECT {LEFT} FROM posted",
}


@pytest.mark.parametrize("name", POSTED)
def test_what_is_left_for_a_run_with_a_key_is_taken_from_holders_of_the_key_only(path: Path, name: str) -> None:
    written(path, key=KEY, runs=("cut", "cut-in-a-map"))
    fact = CancelRequested("ann", 1.5)

    async def post(journal: SqliteJournal) -> None:
        await journal.post("cut", fact)
        assert [found for _, found in await journal.posted("cut")] == [fact]

    async def look(journal: SqliteJournal) -> None:
        with pytest.raises(JournalDamagedError if name != "made by hand" else JournalKeyError) as caught:
            await journal.posted("cut-in-a-map" if name == "moved" else "cut")
        assert caught.value.remedy

    in_journal(path, post, key=KEY)
    sql(path, POSTED[name])
    in_journal(path, look, key=KEY)


def test_nobody_can_leave_anything_for_a_run_of_another_key_by_mistake(path: Path) -> None:
    written(path, key=KEY, runs=("cut",))

    async def post(journal: SqliteJournal) -> None:
        with pytest.raises(JournalKeyError, match="was written with a key, and none is given"):
            await journal.post("cut", CancelRequested("ann", 1.5))
        assert await journal.posted_runs() == set()

    in_journal(path, post)


# --- a list of runs ---------------------------------------------------------------------------


def test_a_list_of_runs_can_be_had_whatever_their_records_are_like(path: Path) -> None:
    written(path)
    sql(path, "UPDATE events SET body = 'x'")

    rows = in_journal(path, lambda journal: journal.runs())

    assert len(rows) == 3
    with closing(reading_connection(path)) as connection:
        assert all(isinstance(read(connection, row.run_id), JournalDamagedError) for row in rows)
