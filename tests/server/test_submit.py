"""Runs that are submitted: plans brought along and plans by name, keys, bounds."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from planloom.core.events import RunStarted
from planloom.server.bodies import SubmitBody
from planloom.server.settings import ServerSettings
from planloom.testing.fakes import CallLog, fake_tool
from tests.server.common import ASK, ONE, Gate, bearing, serving, token_settings

GREET = """
name: greeting
inputs: {who: {type: string, description: whom to greet}}
steps:
  - {id: a, tool: same, with: {n: "${{ inputs.who }}"}}
"""


def test_a_plan_that_is_brought_along_runs_whether_or_not_anybody_listens() -> None:
    async def main() -> None:
        async with serving() as server:
            told = await server.post("/runs", {"plan": ONE}, status=201)
            found = await server.settled(told["run_id"])

        assert found["status"] == "success"
        assert found["result"] == 1

    asyncio.run(main())


def test_a_plan_may_be_text_with_inputs_and_limits() -> None:
    async def main() -> None:
        async with serving() as server:
            run_id = await server.begun(GREET, inputs={"who": "Ann"}, limits={"max_tool_calls": 5})
            found = await server.settled(run_id)
            bad = await server.post("/runs", {"plan": GREET, "inputs": {"wo": "Ann"}}, status=422)

        assert found["result"] == "Ann"
        assert found["limits"]["max_tool_calls"] == 5
        assert found["limits"]["timeout_seconds"] is None
        assert [one["path"] for one in bad["problems"]] == [["inputs", "who"], ["inputs", "wo"]]

    asyncio.run(main())


def test_a_plan_of_a_folder_is_run_by_name_and_read_again_when_it_changed(tmp_path: Path) -> None:
    file = tmp_path / "greet.yaml"
    file.write_text(GREET)

    async def main() -> None:
        async with serving(folders=[tmp_path]) as server:
            first = await server.settled(
                (await server.post("/runs", {"name": "greet", "inputs": {"who": "Ann"}}, status=201))["run_id"]
            )
            file.write_text(GREET.replace("inputs.who", "upper(inputs.who)"))
            second = await server.settled(
                (await server.post("/runs", {"name": "greet", "inputs": {"who": "Ann"}}, status=201))["run_id"]
            )
            listed = await server.get("/plans")
            whole = await server.get("/plans/greet")

        assert (first["result"], second["result"]) == ("Ann", "ANN")
        assert [one["name"] for one in listed["plans"]] == ["greet"]
        assert whole["inputs"]["required"] == ["who"]

    asyncio.run(main())


@pytest.mark.parametrize(
    "name", ["..", "../secret", "%2e%2e%2fsecret", "linked", "loop", "secret.yaml", ".hidden", "a/b"]
)
def test_a_name_never_leaves_the_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret.yaml").write_text(GREET)
    folder = tmp_path / "plans"
    folder.mkdir()
    (folder / "linked.yaml").symlink_to(tmp_path / "secret.yaml")
    (folder / "loop.yaml").symlink_to(folder / "loop.yaml")
    (folder / ".hidden.yaml").write_text(GREET)

    async def main() -> None:
        async with serving(folders=[folder]) as server:
            assert (await server.client.get(f"/v1/plans/{name}")).status_code in (404, 422)
            told = await server.client.post("/v1/runs", json={"name": name})
            assert told.status_code in (404, 422)
            assert (await server.get("/plans"))["plans"] == []
            assert (await server.get("/runs"))["runs"] == []

    asyncio.run(main())


def test_no_file_is_read_for_a_plan_that_a_caller_brings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "inner.yaml").write_text(GREET)
    monkeypatch.chdir(tmp_path)
    by_path = {"steps": [{"id": "a", "plan": "inner.yaml"}]}

    async def main() -> None:
        async with serving() as server:
            for plan in (by_path, "inner.yaml", str(tmp_path / "inner.yaml"), "steps:\n - {id: a, plan: inner.yaml}\n"):
                told = await server.post("/runs", {"plan": plan}, status=422)
                assert "greeting" not in str(told)
                await server.post("/plans/check", {"plan": plan}, status=422)

    asyncio.run(main())


def test_what_the_engine_does_not_allow_no_caller_may_use() -> None:
    async def main() -> None:
        async with serving(fake_tool("rm"), allow=["same"]) as server:
            told = await server.post(
                "/runs", {"plan": {"allow": ["rm"], "steps": [{"id": "a", "tool": "rm"}]}}, status=422
            )
            assert told["problems"][0]["code"] == "plan.not_allowed"

    asyncio.run(main())


def test_a_server_may_run_its_own_plans_only(tmp_path: Path) -> None:
    (tmp_path / "greet.yaml").write_text(GREET)

    async def main() -> None:
        async with serving(folders=[tmp_path], settings=ServerSettings(named_only=True)) as server:
            await server.post("/runs", {"plan": ONE}, status=422)
            await server.post("/runs", {"name": "greet", "inputs": {"who": "Ann"}}, status=201)

    asyncio.run(main())


def test_the_same_key_and_request_are_the_same_run_and_another_request_is_refused() -> None:
    log = CallLog()

    async def main() -> None:
        async with serving(fake_tool("t", log=log)) as server:
            body, key = {"plan": {"steps": [{"id": "a", "tool": "t"}]}}, {"Idempotency-Key": "order-7"}
            answers = await asyncio.gather(*(server.client.post("/v1/runs", json=body, headers=key) for _ in range(8)))
            await server.settled(answers[0].json()["run_id"])
            late = await server.post("/runs", body, headers=key)
            other = await server.post("/runs", {"plan": ONE}, headers=key, status=409)

        assert sorted(answer.status_code for answer in answers) == [200] * 7 + [201]
        assert {answer.json()["run_id"] for answer in answers} == {late["run_id"]}
        assert len(log) == 1
        assert other["code"] == "journal.conflict"

    asyncio.run(main())


def test_keys_of_two_callers_are_two_keys() -> None:
    async def main() -> None:
        async with serving() as server:
            first, _ = await server.service.submit(_body(), by="a", key="k")
            second, _ = await server.service.submit(_body(), by="b", key="k")

        assert first != second

    asyncio.run(main())


def _body() -> SubmitBody:
    return SubmitBody(plan=ONE)


def test_a_key_is_known_to_the_next_server_on_the_same_record(tmp_path: Path) -> None:
    log = CallLog()
    body, key = {"plan": {"steps": [{"id": "a", "tool": "slow"}]}}, {"Idempotency-Key": "k"}

    async def main() -> None:
        gate = Gate()
        async with serving(gate.tool, journal=tmp_path / "runs.db") as server:
            first = await server.post(
                "/runs", {"plan": {"steps": [{"id": "a", "tool": "gate"}]}}, status=201, headers=key
            )
            await gate.entered.wait()
        gate.opened.set()
        async with serving(gate.tool, fake_tool("slow", log=log), journal=tmp_path / "runs.db") as server:
            again = await server.post("/runs", {"plan": {"steps": [{"id": "a", "tool": "gate"}]}}, headers=key)
            await server.post("/runs", body, status=409, headers=key)
            ended = await server.settled(again["run_id"])

        assert again["run_id"] == first["run_id"]
        assert ended["status"] == "success"
        assert len(log) == 0

    asyncio.run(main())


def test_a_caller_that_goes_away_while_its_run_begins_leaves_it_running() -> None:
    async def main() -> None:
        async with serving() as server:
            body = _body()
            asked = asyncio.create_task(server.service.submit(body, by="local", key="k"))
            await asyncio.sleep(0)
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)
            run_id, is_new = await server.service.submit(body, by="local", key="k")

            assert not is_new
            assert (await server.settled(run_id))["status"] == "success"

    asyncio.run(main())


def test_too_many_runs_are_refused_with_retry_after_and_none_that_was_taken_is_lost() -> None:
    async def main() -> None:
        gate = Gate()
        plan = {"steps": [{"id": "a", "tool": "gate"}]}
        async with serving(gate.tool, settings=ServerSettings(max_active_runs=3)) as server:
            key = {"Idempotency-Key": "k"}
            first = await server.post("/runs", {"plan": plan}, status=201, headers=key)
            taken = [first["run_id"], *[await server.begun(plan) for _ in range(2)]]
            refused = await server.client.post("/v1/runs", json={"plan": plan})
            again = await server.post("/runs", {"plan": plan}, headers=key)
            gate.opened.set()
            ended = [(await server.settled(run_id))["status"] for run_id in taken]
            while server.service.active:
                await asyncio.sleep(0)
            await server.begun(plan)

        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) >= 1
        assert again["run_id"] == first["run_id"]
        assert ended == ["success"] * 3

    asyncio.run(main())


def test_runs_that_wait_for_a_person_leave_room_for_others() -> None:
    async def main() -> None:
        async with serving(settings=ServerSettings(max_active_runs=1)) as server:
            for _ in range(3):
                run_id = await server.begun(ASK)
                assert (await server.settled(run_id))["status"] == "waiting"
                while server.service.active:
                    await asyncio.sleep(0)

    asyncio.run(main())


def test_the_record_says_whose_run_it_is() -> None:
    async def main() -> None:
        async with serving(settings=token_settings()) as server:
            run_id = (await server.post("/runs", {"plan": ONE}, status=201, headers=bearing("submit")))["run_id"]
            first = (await server.service.journal.read(run_id, limit=1))[0].event

        assert isinstance(first, RunStarted)
        assert first.module == "submit"

    asyncio.run(main())
