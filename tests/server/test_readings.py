"""Runs that are looked at again: only what came since is read, what is shown is the same, and little is kept."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from planloom import MemoryJournal
from planloom.ports import Recorded
from planloom.runtime.reading import RunOnRecord, read_run
from planloom.server import drawn, readings
from planloom.server.readings import Readings
from planloom.server.showing import run_detail
from planloom.server.view import view_of
from tests.server.common import Gate, serving

WIDE = {
    "steps": [
        {"id": "each", "tool": "same", "for_each": "${{ inputs.many }}", "with": {"n": "${{ item }}"}},
        {"id": "last", "tool": "gate", "needs": ["each"]},
    ]
}


class Counted(MemoryJournal):
    """A journal that counts the events that are read."""

    events = 0

    async def read(self, run_id: str, *, after: int = 0, limit: int | None = None) -> list[Recorded]:
        found = await super().read(run_id, after=after, limit=limit)
        await asyncio.sleep(0)  # as one that reads in a thread
        self.events += len(found)
        return found


def test_what_is_looked_at_again_is_read_from_where_it_was_and_looks_as_if_read_whole() -> None:
    async def main() -> None:
        gate, journal = Gate(), Counted()
        async with serving(gate.tool, journal=journal) as server:
            kept = Readings(journal)
            run_id = await server.begun(WIDE, inputs={"many": list(range(30))})
            await gate.entered.wait()
            before = await kept.read(run_id)
            gate.opened.set()
            await server.settled(run_id)
            journal.events = 0
            after = await kept.read(run_id)
            since = journal.events
            again = await kept.read(run_id)

            assert before.result.status == "running"
            assert since == len(after.records) - len(before.records)
            assert journal.events == since
            assert run_detail(again) == run_detail(after) == run_detail(await read_run(journal, run_id))
            assert after.result.status == "success"

    asyncio.run(main())


def test_many_who_look_at_once_are_told_of_one_reading() -> None:
    async def main() -> None:
        gate, journal = Gate(), Counted()
        gate.opened.set()
        async with serving(gate.tool, journal=journal) as server:
            run_id = await server.begun(WIDE, inputs={"many": list(range(30))})
            events = (await server.settled(run_id))["last_seq"]
            journal.events = 0
            kept = Readings(journal)
            found = await asyncio.gather(*(kept.read(run_id) for _ in range(10)))

        assert journal.events == events
        assert all(run.result == found[0].result for run in found)

    asyncio.run(main())


def test_no_more_is_kept_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        gate, journal = Gate(), Counted()
        gate.opened.set()
        async with serving(gate.tool, journal=journal) as server:
            runs = [await server.begun(WIDE, inputs={"many": list(range(30))}) for _ in range(3)]
            lasts = [(await server.settled(run_id))["last_seq"] for run_id in runs]

            async def cost(kept: Readings, run_id: str) -> int:
                journal.events = 0
                await kept.read(run_id)
                return journal.events

            kept = Readings(journal)
            assert [await cost(kept, run_id) for run_id in runs] == lasts
            assert [await cost(kept, run_id) for run_id in runs] == [0, 0, 0]
            size = sum(len(str(one)) for one in await journal.read(runs[0]))
            monkeypatch.setattr(readings, "KEPT_CHARS", 2 * size // 3)
            small = Readings(journal)
            for run_id in (*runs, runs[1], runs[0]):
                await cost(small, run_id)
            assert await cost(small, runs[0]) == 0
            assert await cost(small, runs[2]) == lasts[2]

    asyncio.run(main())


def test_a_run_too_large_to_keep_drives_out_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        gate, journal = Gate(), Counted()
        gate.opened.set()
        async with serving(gate.tool, journal=journal) as server:
            run_id = await server.begun(WIDE, inputs={"many": list(range(30))})
            large = await server.begun(WIDE, inputs={"many": list(range(100))})
            await server.settled(run_id)
            last = (await server.settled(large))["last_seq"]
            monkeypatch.setattr(readings, "KEPT_CHARS", sum(len(str(one)) for one in await journal.read(run_id)))
            kept = Readings(journal)
            for one in (run_id, large):
                await kept.read(one)
            journal.events = 0
            await kept.read(run_id)
            small_cost = journal.events
            await kept.read(large)

        assert small_cost == 0
        assert journal.events == last

    asyncio.run(main())


def test_a_run_that_is_gone_is_not_shown_any_more() -> None:
    async def main() -> None:
        gate, journal = Gate(), Counted()
        gate.opened.set()
        async with serving(gate.tool, journal=journal) as server:
            run_id = await server.begun(WIDE, inputs={"many": list(range(30))})
            shown = await server.settled(run_id)
            gone: Any = journal._runs.pop(run_id)  # as another program may do to a file
            answer = await server.client.get(f"/v1/runs/{run_id}")
            journal._runs[run_id] = gone

        assert shown["status"] == "success"
        assert answer.status_code == 404

    asyncio.run(main())


def test_many_who_look_at_a_view_are_shown_one_drawing_and_the_next_one_once_more_is_on_record(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawings: list[int] = []

    def counted(run: RunOnRecord) -> dict[str, Any]:
        drawings.append(run.records[-1].seq)
        return view_of(run)

    monkeypatch.setattr(drawn, "view_of", counted)

    async def main() -> None:
        gate = Gate()
        async with serving(gate.tool) as server:
            run_id = await server.begun(WIDE, inputs={"many": [1, 2]})
            await gate.entered.wait()
            views = await asyncio.gather(*(server.get(f"/runs/{run_id}/view") for _ in range(5)))
            gate.opened.set()
            await server.settled(run_id)
            ended = await server.get(f"/runs/{run_id}/view")
            brief = await server.get(f"/runs/{run_id}/view?known={ended['graph']['hash']}")

            assert len(drawings) == 2
            assert {json.dumps(view) for view in views} == {json.dumps(views[0])}
            assert [view["run"]["status"] for view in (views[0], ended)] == ["running", "success"]
            assert ended == json.loads(json.dumps(view_of(await server.service.read(run_id))))
            assert brief == ended | {"graph": ended["graph"] | {"svg": None}}

    asyncio.run(main())


def test_views_are_forgotten_when_there_is_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        gate = Gate()
        gate.opened.set()
        async with serving(gate.tool) as server:
            runs = [await server.begun(WIDE, inputs={"many": [1, 2]}) for _ in range(3)]
            for run_id in runs:
                await server.settled(run_id)
            whole = await server.service.views.view(runs[0])
            monkeypatch.setattr(drawn, "KEPT_BYTES", 2 * len(whole))
            views = drawn.DrawnViews(server.service._readings)
            for run_id in (*runs, *runs):
                assert json.loads(await views.view(run_id))["run"]["run_id"] == run_id
                assert len(views._kept) == 1

    asyncio.run(main())
