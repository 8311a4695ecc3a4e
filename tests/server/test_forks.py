"""Forks over HTTP: a run that goes on from another one as if a step had come to another output."""

from __future__ import annotations

import asyncio

from planloom.server.bodies import RunSummary
from planloom.testing.fakes import CallLog, fake_tool
from tests.server.common import serving

PLAN = {
    "steps": [
        {"id": "a", "tool": "same", "with": {"n": 1}},
        {"id": "send", "tool": "send", "with": {"n": "${{ steps.a.output }}"}},
    ]
}


def test_a_fork_is_a_new_run_and_says_where_it_comes_from() -> None:
    async def main() -> None:
        async with serving(fake_tool("send", lambda n: n)) as server:
            run_id = await server.begun(PLAN)
            await server.settled(run_id)
            told = await server.post(f"/runs/{run_id}/fork", {"step": "a", "output": 5}, status=201)
            found = await server.settled(told["run_id"])
            before = await server.get(f"/runs/{run_id}")

        RunSummary.model_validate(told)
        assert (told["from_run"], told["edited"]) == (run_id, "a")
        assert (found["result"], before["result"]) == (5, 1)

    asyncio.run(main())


def test_effects_are_repeated_only_if_asked_for_and_a_key_makes_one_fork() -> None:
    log = CallLog()

    async def main() -> None:
        async with serving(fake_tool("send", log=log, effects="once")) as server:
            run_id = await server.begun(PLAN)
            await server.settled(run_id)
            body = {"step": "a", "output": 5}
            refused = await server.post(f"/runs/{run_id}/fork", body, status=409)
            body["repeat_effects"] = True
            key = {"Idempotency-Key": "again"}
            first = await server.post(f"/runs/{run_id}/fork", body, status=201, headers=key)
            second = await server.post(f"/runs/{run_id}/fork", body, headers=key)
            await server.post(f"/runs/{run_id}/fork", body | {"output": 6}, status=409, headers=key)
            await server.settled(first["run_id"])

        assert "send" in refused["detail"]
        assert first["run_id"] == second["run_id"]
        assert log.of("send") == [{"n": 1}, {"n": 5}]

    asyncio.run(main())


def test_what_cannot_be_forked_is_told() -> None:
    async def main() -> None:
        async with serving(fake_tool("send")) as server:
            run_id = await server.begun(PLAN)
            await server.settled(run_id)
            await server.post(f"/runs/{run_id}/fork", {"step": "zzz", "output": 5}, status=404)
            await server.post("/runs/none/fork", {"step": "a", "output": 5}, status=404)
            await server.post(f"/runs/{run_id}/fork", {"step": "a"}, status=422)

    asyncio.run(main())
