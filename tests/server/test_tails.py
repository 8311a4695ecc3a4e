"""What followers of one run share: nobody misses an event or has one twice, and what is held stays small."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest

from planloom import MemoryJournal, SqliteJournal
from planloom.ports import Recorded
from planloom.server import follow, tails
from planloom.server.tails import RunTails, frame_of
from tests.server.common import ASK, Gate, Served, serving

MANY: dict[str, Any] = {
    "steps": [
        {"id": "first", "tool": "gate"},
        {
            "id": "each",
            "tool": "same",
            "for_each": "${{ inputs.many }}",
            "with": {"n": "${{ item }}"},
            "needs": ["first"],
        },
    ]
}


class Told(MemoryJournal):
    """A journal that counts what it tells followers."""

    told = 0

    async def follow(self, run_id: str, *, after: int = 0) -> AsyncIterator[Recorded]:
        async with aclosing(super().follow(run_id, after=after)) as events:  # type: ignore[type-var]
            async for recorded in events:
                self.told += 1
                yield recorded


@contextmanager
def narrow(patch: pytest.MonkeyPatch, *, room: int = 1_500, chunk: int = 400, page: int = 7) -> Iterator[None]:
    """Have room for a few events only."""
    with patch.context() as here:
        here.setattr(tails, "ROOM_BYTES", room)
        here.setattr(tails, "LEAST_BYTES", 1)
        here.setattr(tails, "CHUNK_BYTES", chunk)
        here.setattr(tails, "PAGE_EVENTS", page)
        yield


async def heard(server: Served, run_id: str, after: int, pauses: Iterator[float] | None = None) -> bytes:
    """Return all that one follower is told after an event, but for when to come again."""
    found = b""
    async for text in follow.stream(server.service, run_id, after):
        if pauses is not None:
            await asyncio.sleep(next(pauses))
        if not text.startswith((b"retry", b":")):
            found += text
    return found


async def on_record(server: Served, run_id: str, after: int) -> bytes:
    return b"".join(map(frame_of, await server.service.journal.read(run_id, after=after)))


async def rest(stream: AsyncIterator[bytes]) -> bytes:
    return b"".join([text async for text in stream])


def numbers(text: bytes) -> list[int]:
    return [json.loads(line[6:])["seq"] for line in text.splitlines() if line.startswith(b"data: ")]


@pytest.mark.parametrize("kind", ["memory", "file"])
@pytest.mark.parametrize("seed", range(3))
def test_early_late_slow_and_come_again_all_are_told_every_event_once(
    kind: str, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        dice, gate = Random(seed), Gate()
        journal = tmp_path / "runs.db" if kind == "file" else None
        async with serving(gate.tool, journal=journal) as server:
            run_id = await server.begun(MANY, inputs={"many": list(range(40))})
            afters = [0, 0, *(dice.randrange(60) for _ in range(8)), 1 << 53]
            dice.shuffle(afters)
            following = []
            for number, after in enumerate(afters):
                slow = iter(lambda: dice.choice((0, 0, 0.002)), None) if number % 3 else None
                following.append(asyncio.create_task(heard(server, run_id, after, slow)))
                if number == len(afters) // 2:
                    gate.opened.set()
                await asyncio.sleep(dice.choice((0, 0.003)))
            found = await asyncio.gather(*following)
            wanted = [await on_record(server, run_id, after) for after in afters]

            assert found == wanted
            assert server.service.followers == 0

    with narrow(monkeypatch):
        asyncio.run(main())


def test_whoever_comes_again_in_the_middle_while_others_are_ahead_goes_on_where_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        gate = Gate()
        async with serving(gate.tool) as server:
            run_id = await server.begun(MANY, inputs={"many": list(range(40))})
            ahead = asyncio.create_task(heard(server, run_id, 0))
            gate.opened.set()
            found, last = b"", 0
            while not found.endswith(b"}\n\n") or b"run_finished" not in found:
                async with aclosing(follow.stream(server.service, run_id, last)) as texts:  # type: ignore[type-var]
                    await anext(texts)
                    found += await anext(texts)  # one piece, and the connection is gone
                last = numbers(found)[-1]
            await ahead

            assert all(later == earlier + 1 for earlier, later in pairwise(numbers(found)))
            assert found == await on_record(server, run_id, 0)

    with narrow(monkeypatch):
        asyncio.run(main())


def test_an_event_is_put_into_words_once_however_many_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    put: list[int] = []

    def counted(recorded: Recorded) -> bytes:
        put.append(recorded.seq)
        return frame_of(recorded)

    monkeypatch.setattr(tails, "frame_of", counted)

    async def main() -> None:
        gate = Gate()
        async with serving(gate.tool) as server:
            run_id = await server.begun(MANY, inputs={"many": [1, 2, 3]})
            following = [asyncio.create_task(heard(server, run_id, 0)) for _ in range(20)]
            await gate.entered.wait()
            gate.opened.set()
            await asyncio.gather(*following)

    asyncio.run(main())

    assert put == list(range(1, len(put) + 1))


def test_what_is_held_for_one_who_takes_nothing_stays_small_and_others_are_told_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        gate, journal = Gate(), Told()
        gate.opened.set()
        async with serving(gate.tool, journal=journal) as server:
            run_id = await server.begun(MANY, inputs={"many": list(range(40))})
            events = (await server.settled(run_id))["last_seq"]
            journal.told = 0
            async with aclosing(follow.stream(server.service, run_id, 0)) as still:  # type: ignore[type-var]
                await anext(still)
                await asyncio.sleep(0.05)  # nothing tells that a tail has stopped reading
                read_ahead = journal.told
                quick = await heard(server, run_id, 0)
                late = await rest(still)

            assert 0 < read_ahead < events / 4
            assert quick == late == await on_record(server, run_id, 0)

    with narrow(monkeypatch):
        asyncio.run(main())


def test_who_says_it_has_seen_more_than_there_is_keeps_nothing_from_others() -> None:
    async def main() -> None:
        gate = Gate()
        async with serving(gate.tool) as server:
            run_id = await server.begun(MANY, inputs={"many": [1, 2, 3]})
            first = asyncio.create_task(heard(server, run_id, 1 << 53))
            await gate.entered.wait()
            other = asyncio.create_task(heard(server, run_id, 0))
            await asyncio.sleep(0.01)
            gate.opened.set()
            async with asyncio.timeout(5):
                found = await asyncio.gather(first, other)

            assert tuple(found) == (b"", await on_record(server, run_id, 0))

    asyncio.run(main())


def test_what_was_read_again_before_the_record_grew_is_read_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        gate = Gate()
        async with serving(gate.tool) as server:
            steps = [*MANY["steps"], {**MANY["steps"][1], "id": "before", "needs": []}]
            steps[0] = {**steps[0], "needs": ["before"]}
            run_id = await server.begun({"steps": steps}, inputs={"many": list(range(20))})
            await gate.entered.wait()
            async with (
                aclosing(follow.stream(server.service, run_id, 0)) as slow,  # type: ignore[type-var]
                aclosing(follow.stream(server.service, run_id, 20)) as quick,  # type: ignore[type-var]
            ):
                await anext(quick)
                await anext(slow)
                told = await anext(slow)
                gate.opened.set()
                last = b"".join([text async for text in quick])
                told += await rest(slow)

            assert told == await on_record(server, run_id, 0)
            assert last == await on_record(server, run_id, 20)

    with narrow(monkeypatch, page=1_000):
        asyncio.run(main())


def test_when_the_server_ends_every_stream_ends_and_nothing_is_left() -> None:
    async def main() -> None:
        async with serving() as server:
            run_id = await server.begun(ASK)
            await server.settled(run_id)
            others = asyncio.all_tasks()
            streams = [follow.stream(server.service, run_id, 0) for _ in range(3)]
            for stream in streams:  # each has been told all there is
                last = 0
                while not last:
                    last = next(iter(numbers(await anext(stream))), 0)
            following = [asyncio.create_task(rest(stream)) for stream in streams]
            await asyncio.sleep(0)
            server.service.end_streams()
            async with asyncio.timeout(5):
                await asyncio.gather(*following)

            assert run_id not in server.service.tails
            assert server.service.followers == 0
            assert not {task for task in asyncio.all_tasks() if task not in others}

    asyncio.run(main())


def test_a_record_that_cannot_be_read_on_ends_the_stream(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(journal=tmp_path / "runs.db") as server:
            run_id = await server.begun(ASK)
            await server.settled(run_id)
            journal = SqliteJournal(tmp_path / "runs.db")
            async with RunTails(journal).following(run_id, 0) as tail:
                told: bytes = b""
                while not told:
                    await tail.news(5)
                    told, last = await tail.after(0)
                await journal.close()
                while not tail.over:
                    await tail.news(5)
                rest: Any = await tail.after(last)

            assert told.startswith(b"id: 1\n")
            assert rest == (b"", last)

    asyncio.run(main())
