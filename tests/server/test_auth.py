"""Who is served: tokens, scopes, hosts and origins. What strangers get, by every method, is in test_strangers.py."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute

from planloom.errors import ConfigError, MissingKeyError
from planloom.server.auth import Doorkeeper
from planloom.server.settings import ServerSettings, server_settings
from planloom.testing.fakes import fake_tool
from tests.server.common import ASK, BODIES, HERE, TOKENS, Gate, Served, bearing, serving, token_settings

SCOPES = {
    ("GET", "/v1/plans"): "read",
    ("GET", "/v1/plans/{name}"): "read",
    ("POST", "/v1/plans/check"): "read",
    ("POST", "/v1/runs"): "submit",
    ("GET", "/v1/runs"): "read",
    ("GET", "/v1/runs/{run_id}"): "read",
    ("GET", "/v1/runs/{run_id}/events"): "read",
    ("GET", "/v1/runs/{run_id}/questions"): "read",
    ("GET", "/v1/runs/{run_id}/steps/{key:path}"): "read",
    ("GET", "/v1/runs/{run_id}/record"): "read",
    ("GET", "/v1/runs/{run_id}/graph.svg"): "read",
    ("GET", "/v1/runs/{run_id}/view"): "read",
    ("POST", "/v1/runs/{run_id}/answers"): "answer",
    ("POST", "/v1/runs/{run_id}/resolutions"): "answer",
    ("POST", "/v1/runs/{run_id}/cancel"): "cancel",
    ("POST", "/v1/runs/{run_id}/pause"): "cancel",
    ("POST", "/v1/runs/{run_id}/resume"): "submit",
    ("POST", "/v1/runs/{run_id}/fork"): "submit",
    ("GET", "/v1/openapi.json"): "read",
    ("GET", "/metrics"): "read",
}
"""What every route behind the gate needs."""


def guarded(server: Served) -> list[tuple[str, str]]:
    """Return method and path of every route that is not open to everybody."""
    return [
        (method, route.path)
        for route in server.app.routes
        if isinstance(route, APIRoute) and route.path.startswith(("/v1", "/metrics"))
        for method in sorted(route.methods or ())
    ]


async def asked(server: Served, method: str, path: str, run_id: str, **options: Any) -> httpx.Response:
    real = path.replace("{run_id}", run_id).replace("{name}", "p").replace("{key:path}", "a")
    body = BODIES.get(path) if method == "GET" else BODIES.get(path, {})
    return await server.client.request(method, real, json=body, **options)


def test_every_route_behind_the_gate_is_in_the_table_of_scopes() -> None:
    async def main() -> None:
        async with serving() as server:
            found = set(guarded(server))
            everything = {getattr(route, "path", "") for route in server.app.routes}

        assert found <= set(SCOPES)
        assert set(SCOPES) - found <= {("GET", "/metrics"), ("GET", "/v1/runs/{run_id}/view")}
        assert {"/healthz", "/readyz"} <= everything

    asyncio.run(main())


def test_with_the_token_for_it_every_route_can_be_reached() -> None:
    async def main() -> None:
        async with serving(settings=token_settings()) as server:
            begun = await server.post("/runs", {"plan": ASK}, status=201, headers=bearing("submit"))
            for method, path in guarded(server):
                answer = await asked(server, method, path, begun["run_id"], headers=bearing(SCOPES[method, path]))
                assert answer.status_code not in (401, 403, 405, 500), (method, path)

    asyncio.run(main())


def test_health_needs_no_token() -> None:
    async def main() -> None:
        async with serving(settings=token_settings()) as server:
            for path in ("/healthz", "/readyz"):
                assert (await server.client.get(path)).json() == {"status": "ok"}
            await server.service.close()
            assert (await server.client.get("/readyz")).status_code == 503
            assert (await server.client.get("/healthz")).status_code == 200

    asyncio.run(main())


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8765", "", "a@127.0.0.1", "10.0.0.7"]
)
def test_a_name_that_was_bent_to_this_machine_is_not_served(host: str) -> None:
    async def main() -> None:
        async with serving() as server:
            for path in ("/v1/runs", "/healthz"):
                answer = await server.client.get(path, headers={"host": host})
                assert answer.status_code == 421

    asyncio.run(main())


@pytest.mark.parametrize("host", ["localhost", "localhost:8765", "127.0.0.1:1", "[::1]:8765"])
def test_this_machine_is_served_under_its_own_names(host: str) -> None:
    async def main() -> None:
        async with serving() as server:
            assert (await server.client.get("/v1/runs", headers={"host": host})).status_code == 200

    asyncio.run(main())


def test_with_tokens_other_names_are_served_if_they_are_known() -> None:
    async def main() -> None:
        async with serving(settings=token_settings(hosts=["plans.example"])) as server:
            for host, status in (
                ("plans.example", 200),
                ("PLANS.example:443", 200),
                ("10.0.0.7:80", 200),
                ("evil.example", 421),
            ):
                headers = {"host": host, **bearing("read")}
                assert (await server.client.get("/v1/runs", headers=headers)).status_code == status

    asyncio.run(main())


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9999"},
        {"origin": "http://localhost:8765"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"x-forwarded-for": "8.8.8.8"},
        {"forwarded": "for=8.8.8.8"},
    ],
    ids=lambda headers: "=".join(*headers.items()),
)
def test_pages_and_senders_of_elsewhere_start_nothing(headers: dict[str, str]) -> None:
    async def main() -> None:
        async with serving() as server:
            answer = await server.client.post("/v1/runs", json={"plan": ASK}, headers=headers)

            assert answer.status_code == 403
            assert await server.service.journal.runs() == []

    asyncio.run(main())


def test_pages_of_this_server_are_served() -> None:
    async def main() -> None:
        async with serving() as server:
            headers = {"origin": HERE, "sec-fetch-site": "same-origin"}
            assert (await server.client.post("/v1/runs", json={"plan": ASK}, headers=headers)).status_code == 201

    asyncio.run(main())


def test_another_machine_is_not_served_without_tokens() -> None:
    async def main() -> None:
        async with serving() as server:
            transport = httpx.ASGITransport(server.app, client=("10.0.0.9", 4711))
            async with httpx.AsyncClient(transport=transport, base_url=HERE) as client:
                assert (await client.get("/v1/runs")).status_code == 403

    asyncio.run(main())


def test_a_header_that_is_there_twice_is_refused() -> None:
    async def main() -> None:
        async with serving(settings=token_settings()) as server:
            twice = [("authorization", "Bearer x"), ("authorization", f"Bearer {TOKENS['read']}")]
            assert (await server.client.get("/v1/runs", headers=twice)).status_code == 400

    asyncio.run(main())


def test_a_token_is_in_no_answer_no_log_and_no_record(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    token = "wrong-token-that-must-not-be-told"

    async def main() -> None:
        async with serving(fake_tool("t", [ValueError("no")]), settings=token_settings()) as server:
            texts = []
            for header in ({"authorization": f"Bearer {token}"}, bearing("submit"), bearing("read")):
                for answer in (
                    await server.client.post("/v1/runs", json={"plan": ASK}, headers=header),
                    await server.client.get("/v1/runs/none", headers=header),
                ):
                    texts.append(answer.text + str(answer.headers))
            run_id = (await server.service.journal.runs())[0].run_id
            texts.append(str(await server.service.journal.read(run_id)))

        everything = "\n".join([*texts, caplog.text])
        assert not any(one in everything for one in (token, *TOKENS.values()))
        assert not any(one in repr(Doorkeeper(token_settings()).__dict__) for one in TOKENS.values())

    asyncio.run(main())


def test_a_token_in_a_variable_must_be_there_and_long_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ServerSettings.model_validate({"tokens": {"ops": {"env": "OPS_TOKEN", "scopes": ["read"]}}})
    for value in (None, "", "short"):
        if value is None:
            monkeypatch.delenv("OPS_TOKEN", raising=False)
        else:
            monkeypatch.setenv("OPS_TOKEN", value)
        with pytest.raises(MissingKeyError, match="OPS_TOKEN"):
            Doorkeeper(settings)
    monkeypatch.setenv("OPS_TOKEN", "long-enough-to-be-one")

    found = Doorkeeper(settings).caller({b"authorization": b"Bearer long-enough-to-be-one"})

    assert found.name == "ops"


@pytest.mark.parametrize(
    "table",
    [
        {"ports": 1},
        {"port": 70_000},
        {"tokens": {"a": {"scopes": ["read"]}}},
        {"tokens": {"a": {"env": "A", "scopes": []}}},
        {"tokens": {"a": {"env": "A", "scopes": ["root"]}}},
        {"tokens": {"a": {"env": "A", "sha256": "0" * 64, "scopes": ["read"]}}},
        {"tokens": {"a b": {"env": "A", "scopes": ["read"]}}},
    ],
)
def test_wrong_settings_are_named(table: dict[str, Any], tmp_path: Any) -> None:
    with pytest.raises(ConfigError, match=r"\[server\]"):
        server_settings(table, folder=tmp_path)


def test_a_page_of_elsewhere_cannot_cancel_what_runs() -> None:
    async def main() -> None:
        gate = Gate()
        async with serving(gate.tool) as server:
            run_id = await server.begun({"steps": [{"id": "a", "tool": "gate"}]})
            # A form needs no leave of the server to be sent from another site; it says where it comes from.
            answer = await server.client.post(
                f"/v1/runs/{run_id}/cancel",
                content=b"a=b",
                headers={"origin": "http://evil.example", "content-type": "text/plain"},
            )

            assert answer.status_code == 403
            assert (await server.get(f"/runs/{run_id}"))["status"] == "running"
            gate.opened.set()

    asyncio.run(main())
