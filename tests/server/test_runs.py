"""Runs over HTTP: lists, how one stands, its steps, its record, and what stops and resumes it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from planloom import MemoryJournal
from planloom.server import bodies
from planloom.testing.fakes import CallLog, fake_tool
from tests.server.common import ASK, ONE, Gate, Served, serving

CHAIN = {
    "name": "chain",
    "steps": [
        {"id": "a", "tool": "same", "with": {"n": 1}},
        {"id": "b", "tool": "same", "with": {"n": "${{ steps.a.output }}"}},
    ],
}
GATED = {"steps": [{"id": "a", "tool": "gate"}, {"id": "b", "tool": "same", "with": {"n": 2}, "needs": ["a"]}]}


async def in_pages(server: Served, **wanted: Any) -> list[str]:
    """Return the ids of a list, read page by page."""
    found: list[str] = []
    before = None
    while True:
        page = await server.get("/runs", params=wanted | ({} if before is None else {"before": before}))
        bodies.RunList.model_validate(page)
        found += [row["run_id"] for row in page["runs"]]
        before = page["next"]
        if before is None:
            return found


@pytest.mark.parametrize("lasting", [False, True], ids=["memory", "sqlite"])
def test_runs_are_listed_newest_first_page_by_page_each_once(lasting: bool, tmp_path: Any) -> None:
    async def main() -> None:
        async with serving(journal=tmp_path / "runs.db" if lasting else None) as server:
            begun = [await server.begun(CHAIN if number % 2 else ONE) for number in range(7)]
            for run_id in begun:
                await server.settled(run_id)
            everything = await in_pages(server, limit=3)
            chains = await in_pages(server, limit=2, plan="chain")

        assert sorted(everything) == sorted(begun)
        assert sorted(chains) == sorted(begun[1::2])

    asyncio.run(main())


def test_runs_are_listed_by_how_they_stand_now() -> None:
    async def main() -> None:
        gate = Gate()
        async with serving(gate.tool) as server:
            done, waits, runs = await server.begun(ONE), await server.begun(ASK), await server.begun(GATED)
            await server.settled(done)
            await server.settled(waits)
            found = {
                status: await in_pages(server, status=status) for status in ("success", "waiting", "running", "failed")
            }
            gate.opened.set()

        assert found == {"success": [done], "waiting": [waits], "running": [runs], "failed": []}

    asyncio.run(main())


def test_runs_that_nobody_drives_here_are_listed_as_they_stand() -> None:
    disk = MemoryJournal()

    async def main() -> None:
        async with serving(journal=disk) as server:
            run_id = await server.begun(ASK)
            await server.settled(run_id)
            await server.post(f"/runs/{run_id}/pause")
            await server.settled(run_id)
        async with serving(journal=disk) as server:
            listed = await server.get("/runs", params={"status": "waiting"})
            found = await server.get(f"/runs/{run_id}")

        assert [row["run_id"] for row in listed["runs"]] == [run_id]
        assert found["paused"]

    asyncio.run(main())


def test_a_run_is_shown_with_its_steps_and_every_answer_is_as_the_document_says() -> None:
    async def main() -> None:
        async with serving() as server:
            run_id = await server.begun(CHAIN)
            found = await server.settled(run_id)
            bodies.RunDetail.model_validate(found)
            bodies.StepDetail.model_validate(await server.get(f"/runs/{run_id}/steps/b"))
            bodies.EventPage.model_validate(await server.get(f"/runs/{run_id}/events"))
            bodies.QuestionList.model_validate(await server.get(f"/runs/{run_id}/questions"))
            picture = await server.client.get(f"/v1/runs/{run_id}/graph.svg")

        assert [step["status"] for step in found["steps"]] == ["completed", "completed"]
        assert found["plan"] == "chain"
        assert picture.headers["content-type"].startswith("image/svg+xml")
        assert "sandbox" in picture.headers["content-security-policy"]

    asyncio.run(main())


def test_a_step_is_shown_with_each_attempt_what_it_was_given_and_why() -> None:
    plan = {
        "steps": [
            {"id": "a", "tool": "same", "with": {"n": "x"}},
            {
                "id": "b",
                "tool": "flaky",
                "with": {"n": "${{ steps.a.output }}"},
                "retry": {"max_attempts": 2, "initial_delay": 0.001},
            },
        ]
    }

    async def main() -> None:
        async with serving(fake_tool("flaky", [ValueError("no"), "yes"])) as server:
            run_id = await server.begun(plan)
            await server.settled(run_id)
            step = await server.get(f"/runs/{run_id}/steps/b")
            await server.get(f"/runs/{run_id}/steps/c", status=404)

        assert [(one["number"], one["status"], one["error"]) for one in step["tries"]] == [
            (1, "failed", "ValueError: no"),
            (2, "completed", None),
        ]
        assert step["tries"][0]["retry_at"] is not None
        assert step["inputs"] == {"n": "x"}
        assert step["needs"] == ["a"]
        assert step["output"] == "yes"
        assert step["chain"][-1]["event"] == "run_started"

    asyncio.run(main())


def test_items_and_steps_of_sub_plans_have_pages_of_their_own() -> None:
    plan = {
        "steps": [
            {"id": "each", "tool": "same", "for_each": "${{ [1, 2] }}", "with": {"n": "${{ item }}"}},
            {"id": "sub", "plan": {"steps": [{"id": "x", "tool": "same", "with": {"n": 3}}]}},
        ]
    }

    async def main() -> None:
        async with serving() as server:
            run_id = await server.begun(plan)
            await server.settled(run_id)
            item = await server.get(f"/runs/{run_id}/steps/each[1]")
            inner = await server.get(f"/runs/{run_id}/steps/sub/x")

        assert (item["output"], item["inputs"]) == (2, {"n": 2})
        assert inner["output"] == 3

    asyncio.run(main())


def test_a_secret_is_not_shown_where_labels_say_it_is_one_and_all_else_is() -> None:
    plan = {
        "steps": [{"id": "a", "tool": "vault"}, {"id": "b", "tool": "same", "with": {"n": 7}, "needs": ["a"]}],
        "outputs": "${{ steps.b.output }}",
    }

    async def main() -> None:
        async with serving(fake_tool("vault", ["hunter2!"], secret=True)) as server:
            alone = await server.settled(await server.begun({"steps": plan["steps"][:1]}))
            run_id = await server.begun(plan)
            shown = [alone, await server.settled(run_id), await server.get(f"/runs/{run_id}/steps/a")]

        assert "hunter2!" not in json.dumps(shown)
        assert (alone["hidden"], alone["result"]) == (["result"], None)
        assert (shown[1]["hidden"], shown[1]["result"]) == ([], 7)
        assert shown[2]["hidden"] == ["output"]
        assert shown[2]["labels"] == ["secret"]

    asyncio.run(main())


def test_an_error_that_may_tell_a_secret_is_not_shown() -> None:
    async def main() -> None:
        async with serving(fake_tool("vault", [ValueError("hunter2! is wrong")], secret=True)) as server:
            run_id = await server.begun({"steps": [{"id": "a", "tool": "vault"}]})
            shown = [await server.settled(run_id), await server.get(f"/runs/{run_id}/steps/a")]
            picture = await server.client.get(f"/v1/runs/{run_id}/graph.svg")

        assert shown[0]["status"] == "failed"
        assert "hunter2!" not in json.dumps(shown)
        assert "not shown, for it is secret" in picture.text
        assert "hunter2!" not in picture.text

    asyncio.run(main())


def test_events_come_in_pages_without_gap() -> None:
    async def main() -> None:
        async with serving() as server:
            run_id = await server.begun(CHAIN)
            await server.settled(run_id)
            seqs, after, ended = [], 0, False
            while not ended:
                page = await server.get(f"/runs/{run_id}/events", params={"after": after, "limit": 2})
                seqs += [event["seq"] for event in page["events"]]
                after, ended = page["last"], page["ended"]
            past = await server.get(f"/runs/{run_id}/events", params={"after": after})

        assert seqs == list(range(1, len(seqs) + 1))
        assert past["events"] == []

    asyncio.run(main())


def test_a_run_is_cancelled_on_record_and_what_was_under_way_is_stopped() -> None:
    async def main() -> None:
        gate = Gate()
        async with serving(gate.tool) as server:
            run_id = await server.begun(GATED)
            await gate.entered.wait()
            told = await server.post(f"/runs/{run_id}/cancel", {"reason": "enough", "by": "ann"})
            found = await server.settled(run_id)
            again = await server.post(f"/runs/{run_id}/cancel")
            await server.post(f"/runs/{run_id}/pause", status=409)
            events = (await server.get(f"/runs/{run_id}/events"))["events"]

        bodies.ToldRun.model_validate(told)
        assert found["status"] == again["status"] == "cancelled"
        asked = next(event for event in events if event["event"] == "cancel_requested")
        assert (asked["by"], asked["reason"]) == ("ann (local)", "enough")

    asyncio.run(main())


def test_a_run_that_ended_well_cannot_be_cancelled() -> None:
    async def main() -> None:
        async with serving() as server:
            run_id = await server.begun(ONE)
            await server.settled(run_id)
            await server.post(f"/runs/{run_id}/cancel", status=409)

    asyncio.run(main())


def test_a_paused_run_rests_until_it_is_resumed() -> None:
    log = CallLog()

    async def main() -> None:
        gate = Gate()
        async with serving(gate.tool, fake_tool("after", log=log)) as server:
            run_id = await server.begun(
                {"steps": [{"id": "a", "tool": "gate"}, {"id": "b", "tool": "after", "needs": ["a"]}]}
            )
            await gate.entered.wait()
            await server.post(f"/runs/{run_id}/pause", {"by": "ann"})
            early = await server.post(f"/runs/{run_id}/resume", status=409)
            gate.opened.set()
            rests = await server.settled(run_id)
            assert len(log) == 0
            await server.post(f"/runs/{run_id}/resume")
            ended = await server.settled(run_id, at={"success"})
            over = await server.post(f"/runs/{run_id}/resume")

        assert early["code"] == "run.state"
        assert (rests["status"], rests["paused"]) == ("waiting", True)
        assert (ended["status"], over["status"]) == ("success", "success")
        assert len(log) == 1

    asyncio.run(main())


def test_the_rest_of_a_failed_run_is_run_as_a_new_one() -> None:
    log = CallLog()
    plan = {
        "fail_fast": False,
        "steps": [{"id": "a", "tool": "good"}, {"id": "b", "tool": "flaky"}],
    }

    async def main() -> None:
        tools = fake_tool("good", log=log), fake_tool("flaky", [ValueError("no"), "mended"])
        async with serving(*tools) as server:
            run_id = await server.begun(plan)
            assert (await server.settled(run_id))["status"] == "failed"
            told = await server.post(f"/runs/{run_id}/resume", {"failed": True}, status=201)
            found = await server.settled(told["run_id"])
            await server.post(f"/runs/{told['run_id']}/resume", {"failed": True}, status=409)

        assert told["from_run"] == run_id
        assert found["status"] == "success"
        assert len(log) == 1

    asyncio.run(main())


def test_a_key_makes_one_new_run_of_the_rest_of_a_failed_one() -> None:
    log = CallLog()
    key = {"Idempotency-Key": "again"}

    async def main() -> None:
        flaky = fake_tool("flaky", [ValueError("no"), ValueError("no"), "mended"], log=log)
        async with serving(flaky) as server:
            plan = {"steps": [{"id": "a", "tool": "flaky"}]}
            one, other = await server.begun(plan), await server.begun(plan)
            await server.settled(one)
            await server.settled(other)
            path, body = f"/v1/runs/{one}/resume", {"failed": True}
            answers = await asyncio.gather(*(server.client.post(path, json=body, headers=key) for _ in range(5)))
            await server.settled(answers[0].json()["run_id"])
            late = await server.post(f"/runs/{one}/resume", body, headers=key)
            conflict = await server.post(f"/runs/{other}/resume", body, headers=key, status=409)

        assert sorted(answer.status_code for answer in answers) == [200] * 4 + [201]
        assert {answer.json()["run_id"] for answer in answers} == {late["run_id"]}
        assert late["from_run"] == one
        assert conflict["code"] == "journal.conflict"
        assert len(log) == 3

    asyncio.run(main())


def test_what_was_under_way_when_a_server_ended_goes_on_with_the_next(tmp_path: Any) -> None:
    async def main() -> None:
        gate = Gate()
        async with serving(gate.tool, journal=tmp_path / "runs.db") as server:
            run_id = await server.begun(GATED)
            await gate.entered.wait()
        gate.opened.set()
        async with serving(gate.tool, journal=tmp_path / "runs.db") as server:
            found = await server.settled(run_id)

        assert found["status"] == "success"
        assert found["steps"][0]["attempts"] == 2

    asyncio.run(main())
