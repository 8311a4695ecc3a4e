"""Errors over HTTP: one form, the right status, the remedy, and nothing that is nobody's business."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from planloom import errors
from planloom.server.bodies import Health
from planloom.server.problems import STATUSES, ProblemValue, problem_of
from planloom.testing.fakes import fake_tool
from tests.server.common import ASK, serving


def test_every_error_of_planloom_has_a_status() -> None:
    kinds = [
        kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.PlanloomError)
    ]

    found = {kind: next(STATUSES[one] for one in kind.__mro__ if one in STATUSES) for kind in kinds}

    assert all(400 <= status <= 503 for status in found.values())
    assert found[errors.RunNotFoundError] == 404
    assert found[errors.UnknownToolError] == 422
    assert found[errors.RunBusyError] == found[errors.JournalConflictError] == 409
    assert found[errors.OverloadedError] == found[errors.JournalWriteError] == 503
    assert found[errors.UnknownModelError] == found[errors.MissingKeyError] == 422


def test_all_problems_of_a_plan_are_told_with_their_places() -> None:
    text = "steps:\n  - {id: a, tool: nope}\n  - {id: b, tool: same, needs: [c]}\n"

    async def main() -> None:
        async with serving() as server:
            for path in ("/runs", "/plans/check"):
                told = await server.post(path, {"plan": text}, status=422)
                ProblemValue.model_validate(told)
                places = {(one["line"], one["step"]) for one in told["problems"]}
                assert places == {(2, "a"), (3, "b")}
                assert all(one["remedy"] for one in told["problems"])

    asyncio.run(main())


def test_a_run_that_is_not_here_is_told_without_the_place_of_the_record(tmp_path: Any) -> None:
    async def main() -> None:
        async with serving(journal=tmp_path / "runs.db") as server:
            for path in ("", "/events", "/questions", "/steps/a", "/record", "/graph.svg"):
                answer = await server.client.get(f"/v1/runs/none{path}")
                assert answer.status_code == 404
                assert answer.json()["code"] == "journal.no_run"
                assert str(tmp_path) not in answer.text
            for path, body in (("cancel", None), ("pause", None), ("resume", None), ("answers", {"step": "a"})):
                await server.post(f"/runs/none/{path}", body, status=404)

    asyncio.run(main())


def test_what_only_the_operator_can_mend_is_logged_and_told_without_particulars(
    caplog: pytest.LogCaptureFixture,
) -> None:
    told, headers = problem_of(errors.JournalWriteError("disk /secret/place is full"))

    assert told["status"] == 503
    assert "retry-after" in headers
    assert "/secret/place" not in str(told)
    assert "/secret/place" in caplog.text


def test_a_bug_is_a_problem_too_and_its_particulars_are_in_the_log_only(caplog: pytest.LogCaptureFixture) -> None:
    async def broken() -> Any:
        raise RuntimeError("inner particulars")

    async def main() -> None:
        async with serving() as server:
            server.app.add_api_route("/v1/broken", broken, response_model=Health)
            answer = await server.client.get("/v1/broken")

        assert answer.status_code == 500
        ProblemValue.model_validate(answer.json())
        assert "inner particulars" not in answer.text

    caplog.set_level(logging.ERROR)
    asyncio.run(main())


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/runs?limit=0", 422),
        ("/v1/runs?limit=x", 422),
        ("/v1/runs?status=nope", 422),
        ("/v1/runs?before=zzz", 422),
        ("/v1/runs?before=1e999:x", 422),
        ("/v1/nothing", 404),
        ("/v1/runs/", 404),
        ("/v1/runs/r/events?after=-1", 422),
        ("/v1/runs/r/events?after=99999999999999999999", 422),
        ("/v1/plans/..%00", 422),
        ("/nothing", 404),
    ],
)
def test_whatever_is_asked_wrongly_is_answered_with_a_problem(path: str, status: int) -> None:
    async def main() -> None:
        async with serving() as server:
            answer = await server.client.get(path)

            assert answer.status_code == status
            assert answer.headers["content-type"] == "application/problem+json"
            ProblemValue.model_validate(answer.json())

    asyncio.run(main())


def test_a_tools_error_is_a_fact_of_the_run_and_no_problem_of_the_request() -> None:
    async def main() -> None:
        async with serving(fake_tool("bad", [ValueError("no such page")])) as server:
            run_id = await server.begun({"steps": [{"id": "a", "tool": "bad"}]})
            found = await server.settled(run_id)

        assert found["status"] == "failed"
        assert "no such page" in found["error"]

    asyncio.run(main())


def test_the_document_says_what_every_route_answers() -> None:
    async def main() -> None:
        async with serving() as server:
            document = await server.get("/openapi.json")

        operations = [one for path in document["paths"].values() for one in path.values()]
        ids = [one["operationId"] for one in operations]
        assert len(set(ids)) == len(ids)
        assert {"submit_run", "list_runs", "get_run", "follow_run", "get_step", "answer_question", "fork_run"} <= set(
            ids
        )
        for operation in operations:
            for status, answer in operation["responses"].items():
                if int(status) >= 400:
                    assert list(answer["content"]) == ["application/problem+json"], operation["operationId"]
        assert "HTTPValidationError" not in document["components"]["schemas"]
        assert document["components"]["schemas"]["SubmitBody"]["properties"]["plan"]["examples"]
        assert document["components"]["securitySchemes"]["token"]["scheme"] == "bearer"

    asyncio.run(main())


def test_the_plan_that_the_document_has_for_an_example_does_what_it_seems_to() -> None:
    async def main() -> None:
        async with serving(fake_tool("greet", lambda who: f"Hello {who}")) as server:
            body = (await server.get("/openapi.json"))["components"]["schemas"]["SubmitBody"]["properties"]
            run_id = await server.begun(body["plan"]["examples"][0], inputs=body["inputs"]["examples"][0])
            found = await server.settled(run_id)

        assert found["result"] == "Hello Ann"

    asyncio.run(main())


def test_answers_to_a_run_that_asks_nothing_are_conflicts() -> None:
    async def main() -> None:
        async with serving() as server:
            run_id = await server.begun(ASK)
            await server.settled(run_id)
            told = await server.post(f"/runs/{run_id}/answers", {"step": "a"}, status=409)
            form = await server.post(f"/runs/{run_id}/answers", {"step": "ok", "output": {"amount": "x"}}, status=422)

        assert told["code"] == "run.state"
        assert form["code"] == "request.invalid"

    asyncio.run(main())
