"""A server in this process, and plans and tools that its tests share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI

from planloom import Engine, MemoryJournal
from planloom.core.result import RUN_ENDED
from planloom.server.app import make_app
from planloom.server.limits import RequestRate
from planloom.server.plans import NamedPlans
from planloom.server.service import RunService
from planloom.server.settings import ServerSettings
from planloom.testing.fakes import fake_tool

HERE = "http://127.0.0.1:8765"
ONE = {"steps": [{"id": "a", "tool": "same", "with": {"n": 1}}]}
ASK = {
    "steps": [
        {"id": "a", "tool": "same", "with": {"n": 1}},
        {
            "id": "ok",
            "approve": {
                "message": "How much?",
                "form": {"type": "object", "properties": {"amount": {"type": "integer"}}, "required": ["amount"]},
            },
            "needs": ["a"],
        },
        {"id": "b", "tool": "same", "with": {"n": "${{ steps.ok.output.amount }}"}},
    ]
}
BODIES: dict[str, Any] = {
    "/v1/plans/check": {"plan": ASK},
    "/v1/runs": {"plan": ASK},
    "/v1/runs/{run_id}/answers": {"step": "ok", "output": {"amount": 1}},
    "/v1/runs/{run_id}/resolutions": {"step": "a", "how": "fail"},
    "/v1/runs/{run_id}/fork": {"step": "a", "output": 2},
}
"""What is sent to a route that reads a body, so that it does something."""
ENDED = {status.value for status in RUN_ENDED}
TOKENS = {scope: f"{scope}-token-0123456789abcdef" for scope in ("read", "submit", "answer", "cancel")}


def token_settings(**over: Any) -> ServerSettings:
    """Return settings with a token for each scope, named after it."""
    tokens = {
        scope: {"sha256": sha256(token.encode()).hexdigest(), "scopes": [scope]} for scope, token in TOKENS.items()
    }
    return ServerSettings.model_validate({"tokens": tokens, **over})


def bearing(scope: str) -> dict[str, str]:
    return {"authorization": f"Bearer {TOKENS[scope]}"}


@dataclass(frozen=True, slots=True)
class Served:
    """A server in this process, and a client of it on this machine."""

    app: FastAPI
    service: RunService
    client: httpx.AsyncClient

    @property
    def engine(self) -> Engine:
        return self.service.engine

    async def post(self, path: str, body: Any = None, *, status: int = 200, **options: Any) -> Any:
        """Return what is answered, which must have this status."""
        answer = await self.client.post(f"/v1{path}", json=body, **options)
        assert answer.status_code == status, answer.text
        return answer.json()

    async def get(self, path: str, *, status: int = 200, **options: Any) -> Any:
        answer = await self.client.get(f"/v1{path}", **options)
        assert answer.status_code == status, answer.text
        return answer.json()

    async def begun(self, plan: Any, **rest: Any) -> str:
        """Submit a plan and return the run's id."""
        run_id: str = (await self.post("/runs", {"plan": plan, **rest}, status=201))["run_id"]
        return run_id

    async def settled(self, run_id: str, *, at: frozenset[str] | set[str] = frozenset({*ENDED, "waiting"})) -> Any:
        """Return the run once it has ended or waits for a person."""
        async for _ in self.service.journal.follow(run_id):
            found = await self.get(f"/runs/{run_id}")
            if found["status"] in at:
                return found
        return await self.get(f"/runs/{run_id}")


@asynccontextmanager
async def serving(
    *tools: Any,
    settings: ServerSettings | None = None,
    folders: Sequence[Path] = (),
    journal: Any = None,
    rate: RequestRate | None = None,
    headers: dict[str, str] | None = None,
    **engine_options: Any,
) -> AsyncIterator[Served]:
    """Serve the tools `same` (its `n`) and those given."""
    same = fake_tool("same", lambda n: n)
    settings = settings or ServerSettings()
    journal = MemoryJournal() if journal is None else journal
    async with Engine(journal, tools=[same, *tools], **engine_options) as engine:
        service = RunService(engine, NamedPlans(folders), settings)
        app = make_app(service, settings, rate=rate)
        await service.open()
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url=HERE, headers=headers) as client:
            yield Served(app, service, client)
        await service.close()


class Gate:
    """A tool that waits until it is opened."""

    def __init__(self, name: str = "gate", **declared: Any) -> None:
        self.opened = asyncio.Event()
        self.entered = asyncio.Event()
        self.tool = fake_tool(name, self._wait, **declared)

    async def _wait(self, **_: Any) -> str:
        self.entered.set()
        await self.opened.wait()
        return "open"
