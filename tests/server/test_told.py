"""What the server tells of runs besides the runs themselves: metrics; and that no secret is in any answer."""

from __future__ import annotations

import asyncio
import io
import logging

import httpx
import pytest

from planloom import masking
from planloom.cli.serve import LOGGERS
from planloom.observe.logs import configure
from planloom.observe.metrics import Metrics
from planloom.observe.prometheus import CONTENT_TYPE
from planloom.server.app import make_app
from planloom.tools.load import load_tools
from tests.observe.exposition import parsed
from tests.runtime.canary import leaks, new_secret
from tests.runtime.test_secret_canary import PLACES, TOOLS
from tests.server.common import HERE, ONE, TOKENS, bearing, serving, token_settings
from tests.server.wired import wired


def test_metrics_are_told_to_who_may_read_and_to_nobody_else() -> None:
    async def main() -> list[httpx.Response]:
        metrics = Metrics()
        async with serving(metrics=metrics, settings=token_settings(), headers=bearing("read")) as served:
            submitted = await served.client.post("/v1/runs", json={"plan": ONE}, headers=bearing("submit"))
            await served.settled(submitted.json()["run_id"])
            app = make_app(served.service, token_settings(), metrics=metrics)
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=HERE) as client:
                asked = [bearing("read"), {}, *(bearing(scope) for scope in TOKENS if scope != "read")]
                return [await client.get("/metrics", headers=headers) for headers in asked]

    told, *refused = asyncio.run(main())

    assert told.headers["content-type"] == CONTENT_TYPE
    assert parsed(told.text)["planloom_runs_ended_total"].value(status="success") == 1
    assert [one.status_code for one in refused] == [401, 403, 403, 403]
    assert all("planloom_runs" not in one.text for one in refused)


def test_what_goes_wrong_in_the_server_is_logged_without_secrets() -> None:
    loggers = list(map(logging.getLogger, LOGGERS))
    before = [(logger.level, logger.propagate, list(logger.handlers)) for logger in loggers]
    secret, stream = new_secret(), io.StringIO()

    async def main() -> int:
        async with wired() as server:

            async def broken() -> None:
                asyncio.get_running_loop().call_exception_handler({"message": f"loop: {secret}"})
                raise RuntimeError(f"app: {secret}")

            server.served.app.add_api_route("/healthz/broken", broken)
            return (await server.served.client.get("/healthz/broken")).status_code

    with masking.forgetting():
        masking.declare({"SOME": secret})
        try:
            configure(stream=stream, loggers=LOGGERS)
            status = asyncio.run(main())
        finally:
            for logger, (level, propagate, handlers) in zip(loggers, before, strict=True):
                logger.setLevel(level)
                logger.propagate, logger.handlers[:] = propagate, handlers

    told = stream.getvalue()
    assert status == 500
    assert "RuntimeError: app: ***" in told
    assert "loop: ***" in told
    assert secret not in told


@pytest.mark.slow
def test_no_answer_of_the_server_holds_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    canaries = {f"CANARY_{place}": new_secret() for place in PLACES}
    for name, value in canaries.items():
        monkeypatch.setenv(name, value)
    masking.declare(canaries)
    undeclared = new_secret()
    monkeypatch.setenv("CANARY_OPEN", undeclared)
    steps = [
        {"id": "spill", "tool": "c.spill"},
        {"id": "fail", "tool": "c.fail", "on_error": "skip"},
        {"id": "ask", "approve": "Is it ${{ steps.spill.output.CANARY_PROMPT.plain }}?"},
        {"id": "last", "tool": "c.say", "with": {"text": "${{ steps.ask.output }}"}},
    ]

    async def main() -> list[tuple[str, bytes]]:
        metrics, told = Metrics(), []
        async with serving(*load_tools(TOOLS), metrics=metrics) as served:

            async def ask(method: str, path: str, **options: object) -> httpx.Response:
                answer = await served.client.request(method, f"/v1{path}", **options)  # type: ignore[arg-type]
                told.append((f"{method} {path}", f"{dict(answer.headers)}".encode() + answer.content))
                return answer

            run_id = await served.begun({"fail_fast": False, "steps": steps})
            await served.settled(run_id)
            run = f"/runs/{run_id}"
            questions = (await ask("GET", f"{run}/questions")).json()["questions"]
            answer = {"step": "ask", "approved": True, "output": {"is": canaries["CANARY_ANSWER"]}}
            answer |= {"binding": questions[0]["binding"]}
            assert (await ask("POST", f"{run}/answers", json=answer)).status_code == 200
            await served.settled(run_id, at={"success", "partial", "failed"})
            for path in ("", "/events", "/questions", "/record", "/graph.svg", "/view", "/steps/spill", "/steps/fail"):
                assert (await ask("GET", f"{run}{path}")).status_code == 200, path
            assert (await ask("GET", f"{run}/events", headers={"accept": "application/json"})).status_code == 200
            await ask("GET", "/runs")
            literal = {"steps": [{"id": "a", "tool": "c.say", "with": {"text": canaries["CANARY_PROMPT"]}}]}
            refused = await ask("POST", "/runs", json={"plan": literal})
            assert (refused.status_code, refused.json()["code"]) == (422, "plan.secret")
            unknown = {"steps": [{"id": "a", "tool": canaries["CANARY_PROMPT"]}]}
            assert (await ask("POST", "/runs", json={"plan": unknown})).status_code == 422
            told.append(("metrics", metrics.text().encode()))
        return told

    told = asyncio.run(main())

    assert leaks(told, canaries) == []
    assert leaks(told, {"open": undeclared}), "the search finds what nobody hides"
