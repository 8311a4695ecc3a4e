"""What people say over HTTP: approvals with a form, and what came of a step that nobody knows about."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from planloom import Engine, MemoryJournal
from planloom.server.bodies import QuestionValue, ToldRun
from planloom.testing.fakes import CallLog, fake_tool
from tests.server.common import ASK, Gate, bearing, serving, token_settings


def test_a_question_comes_with_the_schema_of_its_form_and_an_answer_makes_the_run_go_on() -> None:
    async def main() -> None:
        async with serving() as server:
            run_id = await server.begun(ASK)
            await server.settled(run_id)
            [question] = (await server.get(f"/runs/{run_id}/questions"))["questions"]
            QuestionValue.model_validate(question)
            body = {"step": "ok", "output": {"amount": 12}, "binding": question["binding"], "by": "ann"}
            told = await server.post(f"/runs/{run_id}/answers", body)
            found = await server.settled(run_id, at={"success"})
            events = (await server.get(f"/runs/{run_id}/events"))["events"]

        ToldRun.model_validate(told)
        assert question["form"]["required"] == ["amount"]
        assert question["message"] == "How much?"
        assert found["result"] == 12
        assert [event["by"] for event in events if event["event"] == "approval_answered"] == ["ann (local)"]

    asyncio.run(main())


def test_a_denied_step_fails() -> None:
    async def main() -> None:
        async with serving() as server:
            run_id = await server.begun(ASK)
            await server.settled(run_id)
            await server.post(f"/runs/{run_id}/answers", {"step": "ok", "approved": False})
            found = await server.settled(run_id, at={"failed"})

        assert found["failed_step"] == "ok"

    asyncio.run(main())


def test_an_answer_counts_once_and_only_for_what_was_shown() -> None:
    async def main() -> None:
        async with serving() as server:
            run_id = await server.begun(ASK)
            await server.settled(run_id)
            other = await server.post(f"/runs/{run_id}/answers", {"step": "ok", "binding": "0" * 64}, status=409)
            body = {"step": "ok", "output": {"amount": 1}}
            answers = await asyncio.gather(
                *(server.client.post(f"/v1/runs/{run_id}/answers", json=body) for _ in range(5))
            )

        assert other["code"] == "run.state"
        assert sorted(answer.status_code for answer in answers) == [200, 409, 409, 409, 409]

    asyncio.run(main())


def test_whose_token_it_was_goes_on_record() -> None:
    async def main() -> None:
        async with serving(settings=token_settings()) as server:
            run_id = (await server.post("/runs", {"plan": ASK}, status=201, headers=bearing("submit")))["run_id"]
            async for recorded in server.service.journal.follow(run_id):
                if type(recorded.event).__name__ == "ApprovalRequested":
                    break
            body = {"step": "ok", "output": {"amount": 1}, "by": "root"}
            await server.post(f"/runs/{run_id}/answers", body, headers=bearing("answer"))
            record = await server.service.journal.read(run_id)

        assert [one.event.by for one in record if type(one.event).__name__ == "ApprovalAnswered"] == ["root (answer)"]

    asyncio.run(main())


@pytest.mark.parametrize(
    ("how", "status"),
    [
        ({"how": "output", "output": "sent"}, "success"),
        ({"how": "retry"}, "success"),
        ({"how": "fail", "error": "lost"}, "failed"),
    ],
    ids=["output", "retry", "fail"],
)
def test_a_step_nobody_knows_about_waits_for_a_word_and_then_goes_on(how: dict[str, Any], status: str) -> None:
    disk, log = MemoryJournal(), CallLog()

    async def main() -> None:
        gate = Gate("send", effects="once", log=log)
        plan = {"steps": [{"id": "a", "tool": "send"}]}
        async with serving(gate.tool, journal=disk) as server:
            run_id = await server.begun(plan)
            await gate.entered.wait()
        gate.opened.set()
        async with serving(gate.tool, journal=disk) as server:
            await server.settled(run_id)
            [question] = (await server.get(f"/runs/{run_id}/questions"))["questions"]
            await server.post(f"/runs/{run_id}/resolutions", {"step": "b", **how}, status=409)
            await server.post(f"/runs/{run_id}/resolutions", {"step": "a", **how})
            found = await server.settled(run_id, at={"success", "failed"})

        assert question["kind"] == "unknown"
        assert question["ways"] == ["output", "retry", "fail"]
        assert found["status"] == status
        assert len(log) == (2 if how["how"] == "retry" else 1)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("answers", {"step": "ok", "output": {"amount": 1}, "approved": "yes"}),
        ("answers", {"step": "ok", "output": {"amount": 1}, "approved": 1}),
        ("resume", {"failed": 0}),
        ("fork", {"step": "a", "output": 2, "repeat_effects": "on"}),
    ],
    ids=["a-word", "a-number", "nought", "on"],
)
def test_what_only_looks_like_true_or_false_is_refused(path: str, body: Any) -> None:
    async def main() -> None:
        async with serving() as server:
            run_id = await server.begun(ASK)
            await server.settled(run_id)
            before = await server.service.journal.read(run_id)
            await server.post(f"/runs/{run_id}/{path}", body, status=422)

            assert await server.service.journal.read(run_id) == before
            assert len(await server.service.journal.runs()) == 1

    asyncio.run(main())


def test_a_run_that_nobody_drives_is_taken_up_when_it_is_answered() -> None:
    disk = MemoryJournal()

    async def main() -> None:
        async with serving(journal=disk) as server:
            same = fake_tool("same", lambda n: n)
            async with Engine(disk, tools=[same]) as other:  # as `planloom run` does
                run = await other.start(ASK, run_id="r")
                await run.result()
                await other.release("r")
            told = await server.post("/runs/r/answers", {"step": "ok", "output": {"amount": 3}})
            found = await server.settled("r", at={"success"})

        assert told["driven"] is True
        assert found["result"] == 3

    asyncio.run(main())


def test_an_answer_is_left_for_a_run_that_cannot_go_on_here() -> None:
    disk = MemoryJournal()

    async def main() -> None:
        async with Engine(disk, tools=[fake_tool("same", lambda n: n), fake_tool("other")]) as first:
            plan = {"steps": [*ASK["steps"], {"id": "c", "tool": "other", "needs": ["b"]}]}
            await (await first.start(plan, run_id="r")).result()
        async with serving(journal=disk) as server:
            told = await server.post("/runs/r/answers", {"step": "ok", "output": {"amount": 3}})
            left = await disk.posted("r")

        assert told["driven"] is False
        assert told["status"] == "waiting"
        assert len(left) == 1

    asyncio.run(main())


def test_a_paused_run_that_nobody_drives_ends_when_it_is_cancelled() -> None:
    disk = MemoryJournal()

    async def main() -> None:
        async with serving(journal=disk) as server:
            run_id = await server.begun(ASK)
            await server.settled(run_id)
            await server.post(f"/runs/{run_id}/pause")
            while server.service.held:
                await asyncio.sleep(0)
            await server.post(f"/runs/{run_id}/cancel")
            found = await server.settled(run_id, at={"cancelled"})

        assert found["status"] == "cancelled"

    asyncio.run(main())
