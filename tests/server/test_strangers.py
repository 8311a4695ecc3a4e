"""What strangers get: each route, by each method there is, turns each kind of them away, and nothing has changed.

The routes are those of the app and of its OpenAPI document: a new one is tried without being named here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from planloom import MemoryJournal
from planloom.observe.metrics import Metrics
from planloom.server.app import make_app
from planloom.server.settings import ServerSettings
from planloom.testing.fakes import fake_tool
from tests.server.common import ASK, BODIES, HERE, ONE, TOKENS, Gate, Served, bearing, serving

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "BREW")
UNTOLD = {"/v1/openapi.json": {"get": {"security": [{"token": ["read"]}]}}}
"""Routes that the document does not have."""
OPEN = ("/healthz", "/readyz")
NO_ROUTES = ("/", "/v1", "/v1/nowhere", "/v1/runs/", "/metrics/x")
ALL = {"authorization": "Bearer all-token-0123456789abcdef"}
CHANGES = {
    "submit_run": "",
    "answer_question": "asks",
    "resolve_step": "unknown",
    "cancel_run": "running",
    "pause_run": "asks too",
    "resume_run": "paused",
    "fork_run": "ended",
}
"""Operations that change something, each with a run that it changes."""
Routes = dict[str, dict[str, Any]]


def settings() -> ServerSettings:
    """Return settings with a token of each scope, one of all scopes, and for each scope one of all others."""
    scopes = {name: [name] for name in TOKENS} | {"all": list(TOKENS)}
    scopes |= {f"not-{name}": [other for other in TOKENS if other != name] for name in TOKENS}
    tokens = {
        name: {"sha256": sha256(f"{name}-token-0123456789abcdef".encode()).hexdigest(), "scopes": good_for}
        for name, good_for in scopes.items()
    }
    return ServerSettings.model_validate({"tokens": tokens, "requests_per_minute": 1e9})


@dataclass(frozen=True, slots=True)
class Resting:
    """A server whose runs have come to rest, by how they stand, and a client that has no token."""

    app: FastAPI
    runs: dict[str, str]
    journal: MemoryJournal
    client: httpx.AsyncClient

    async def everything(self) -> list[Any]:
        """Return all that the journal holds."""
        rows = await self.journal.runs(limit=1_000)
        return [(row, await self.journal.read(row.run_id), await self.journal.posted(row.run_id)) for row in rows]

    async def ask(self, method: str, path: str, run_id: str, headers: dict[str, str]) -> httpx.Response:
        real = path.replace("{run_id}", run_id).replace("{name}", "p").replace("{key}", "a")
        return await self.client.request(method, real, json=BODIES.get(path, {}), headers=headers)

    def routes(self) -> Routes:
        """Return the operations of every path by method, in small letters, as the document has them."""
        told: Routes = self.app.openapi()["paths"] | UNTOLD
        # What is checked there is a plan; looked at there is a plan of that name.
        return told | {"/v1/plans/check": told["/v1/plans/check"] | told["/v1/plans/{name}"]}


@asynccontextmanager
async def resting() -> AsyncIterator[Resting]:
    disk, send, hold, metrics = MemoryJournal(), Gate("send", effects="once"), Gate("hold"), Metrics()
    async with serving(send.tool, journal=disk) as killed:
        runs = {"unknown": await killed.begun({"steps": [{"id": "a", "tool": "send"}]})}
        await send.entered.wait()
    tools = [send.tool, hold.tool, fake_tool("broken", [ValueError("no")])]
    async with serving(*tools, journal=disk, settings=settings(), headers=ALL, metrics=metrics) as server:
        plans = {"ended": ONE, "asks": ASK, "asks too": ASK, "paused": ASK}
        plans |= {name: {"steps": [{"id": "a", "tool": tool}]} for name, tool in (("failed", "broken"),)}
        runs |= {name: await server.begun(plan) for name, plan in plans.items()}
        for run_id in runs.values():
            await server.settled(run_id)
        await _pause(server, runs["paused"])
        runs["running"] = await server.begun({"steps": [{"id": "a", "tool": "hold"}]})
        await hold.entered.wait()
        app = make_app(server.service, settings(), metrics=metrics)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url=HERE) as client:
            yield Resting(app, runs, disk, client)
        hold.opened.set()


async def _pause(server: Served, run_id: str) -> None:
    await server.post(f"/runs/{run_id}/pause")
    async for recorded in server.service.journal.follow(run_id):
        if type(recorded.event).__name__ == "PauseRequested":
            return


def needed(operation: dict[str, Any]) -> list[str]:
    """Return the scopes that a route needs; none where it is open."""
    return [scope for one in operation.get("security", ()) for scopes in one.values() for scope in scopes]


def strangers(scopes: list[str]) -> dict[str, tuple[int, dict[str, str]]]:
    """Return who may not do what these scopes are for, each with what they are answered and what they send."""
    found = {
        "nobody": (401, {}),
        "one with an unknown token": (401, {"authorization": "Bearer nobody-knows-this-one"}),
        "one with another scheme": (401, ALL | {"authorization": f"Basic {ALL['authorization'].split()[1]}"}),
        "one who calls another host": (421, ALL | {"host": "evil.example"}),
        "a page of another server": (403, ALL | {"origin": "http://evil.example"}),
        "a page of nowhere": (403, ALL | {"origin": "null"}),
    }
    found |= {f"one who may only {scope}": (403, bearing(scope)) for scope in TOKENS if scope not in scopes}
    lacking = {"authorization": f"Bearer not-{scopes[0]}-token-0123456789abcdef"} if scopes else {}
    return found | ({f"one who may all but {scopes[0]}": (403, lacking)} if scopes else {})


def test_every_route_is_in_the_document_and_none_but_health_is_open() -> None:
    async def main() -> None:
        async with resting() as server:
            routes = server.routes()
            paths = {str(getattr(route, "path", "")).replace(":path}", "}") for route in server.app.routes}
            of_open = {path for path, told in routes.items() for one in told.values() if not needed(one)}
            changing = {
                one["operationId"] for told in routes.values() for one in told.values() if needed(one) != ["read"]
            }

        assert {path for path in paths if path.startswith(("/v1", "/metrics"))} <= set(routes)
        assert of_open == {"/healthz", "/readyz"}
        assert changing - {"healthz", "readyz"} == set(CHANGES)

    asyncio.run(main())


@pytest.mark.slow
def test_no_stranger_changes_or_learns_anything_by_any_method_of_any_route() -> None:
    async def main() -> None:
        async with resting() as server:
            before, calls = await server.everything(), 0
            for path, told in server.routes().items():
                for method in METHODS:
                    operation = told.get(method.lower())
                    runs = server.runs.values() if operation is not None and "{run_id}" in path else ["none"]
                    scopes = needed(operation or {})
                    for who, (refusal, headers) in strangers(scopes).items():
                        for run_id in runs:
                            answer = await server.ask(method, path, run_id, headers)
                            calls += 1
                            of_elsewhere = "host" in headers or "origin" in headers
                            wanted = refusal if operation or not who.startswith("one who may") else 405
                            if path in OPEN and not of_elsewhere:
                                wanted = 405 if operation is None else 200
                            assert answer.status_code == wanted, (who, method, path, run_id, answer.text)
                            assert (wanted == 401) == ("www-authenticate" in answer.headers)
                    assert await server.everything() == before, (method, path)

        assert calls > 2_000

    asyncio.run(main())


def test_what_is_no_route_does_nothing_by_any_method() -> None:
    async def main() -> None:
        async with resting() as server:
            before = await server.everything()
            for path in NO_ROUTES:
                for method in METHODS:
                    answer = await server.ask(method, path, "none", ALL)
                    assert answer.status_code in ((200, 404, 405) if path == "/" else (404, 405)), (method, path)

            assert await server.everything() == before

    asyncio.run(main())


def test_a_method_that_a_route_does_not_have_is_refused_with_those_that_it_has() -> None:
    async def main() -> None:
        async with resting() as server:
            before = await server.everything()
            for path, told in server.routes().items():
                for method in METHODS:
                    if method.lower() not in told:
                        answer = await server.ask(method, path, server.runs["asks"], ALL)
                        assert answer.status_code == 405, (method, path)
                        assert set(answer.headers["allow"].lower().split(", ")) == set(told)

            assert await server.everything() == before

    asyncio.run(main())


def test_with_the_scope_for_it_the_same_calls_do_what_they_say() -> None:
    async def main() -> None:
        async with resting() as server:
            for path, told in server.routes().items():
                for method, operation in told.items():
                    if not needed(operation):
                        continue
                    before = await server.everything()
                    name = operation.get("operationId", "")
                    run_id = server.runs.get(CHANGES.get(name, "ended"), "")
                    answer = await server.ask(method.upper(), path, run_id, bearing(*needed(operation)))
                    assert answer.status_code < 300 or name == "get_plan", (method, path, answer.text)
                    assert (await server.everything() != before) == (name in CHANGES), (method, path)

    asyncio.run(main())
