"""`planloom serve` over a cluster: a real server, agents and workers as processes, and callers over HTTP."""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from planloom.transport.nats.authority import ClusterAuthority
from planloom.transport.nats.server_conf import version_of
from tests.cluster.secured import SecuredNats
from tests.cluster.servers import Nats, Postgres, nats_program, until
from tests.cluster.test_agent_command import agent_process, planloom, project
from tests.cluster.test_cluster_commands import ASKS, said, worker_process

TOOLS = '''
import asyncio, os
from planloom import tool

@tool(effects="none")
def add(n: int) -> int:
    """Add one."""
    return n + 1

@tool(effects="once")
def pay(n: int) -> int:
    """Pay."""
    with open("paid.log", "a") as file:
        file.write(f"{n}\\n")
    return n + 1

@tool(effects="none")
async def until_there(path: str) -> str:
    """Wait for a file."""
    while not os.path.exists(path):
        await asyncio.sleep(0.02)
    return "there"
'''
ADDS = {"inputs": {"n": {"type": "integer"}}, "steps": [{"id": "a", "tool": "add", "with": {"n": "${{ inputs.n }}"}}]}
WAITS = {
    "steps": [
        {"id": "a", "tool": "add", "with": {"n": 1}},
        {"id": "w", "tool": "until_there", "with": {"path": "mark"}, "needs": ["a"]},
        {"id": "b", "tool": "pay", "with": {"n": "${{ steps.a.output }}"}, "needs": ["w"]},
    ]
}
ENDED = ("success", "failed", "cancelled", "partial")


class Server:
    """A server, and where it listens."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process = process
        self.url = url

    @property
    def port(self) -> str:
        return self.url.rpartition(":")[2]

    def ask(self, path: str, body: Any = None, **headers: str) -> httpx.Response:
        method = "GET" if body is None else "POST"
        return httpx.request(method, f"{self.url}/v1{path}", json=body, headers=headers, timeout=30)

    def begun(self, plan: Any, **rest: Any) -> str:
        answer = self.ask("/runs", {"plan": plan, **rest})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["run_id"])

    def comes_to(self, run_id: str, *statuses: str) -> Any:
        def found() -> Any:
            told = self.ask(f"/runs/{run_id}").json()
            return told if told.get("status") in statuses else None

        return until(found, within_s=60, what=f"{run_id}: {statuses}")

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def server_process(folder: Path, *options: str, port: str = "0") -> Iterator[Server]:
    process = planloom("serve", "--port", port, *options, folder=folder)
    said_so_far = ""
    try:
        assert process.stderr is not None
        for line in process.stderr:
            said_so_far += line
            found = re.search(r"listening on (http://\S+)", line)
            if found:
                break
        else:
            raise AssertionError(f"it ended: {said_so_far}")
        server = Server(process, found[1])
        yield server
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


@contextmanager
def ready(folder: Path, *options: str, port: str = "0") -> Iterator[Server]:
    """Have a server that takes runs."""
    with server_process(folder, *options, port=port) as server:
        until(lambda: httpx.get(f"{server.url}/readyz").status_code == 200, within_s=30, what="readiness")
        yield server


@pytest.fixture
def folder(tmp_path: Path, postgres: str, nats: Nats) -> Iterator[Path]:
    with project(tmp_path, postgres, nats) as made:
        (made / "tools.py").write_text(TOOLS)
        (made / "plans").mkdir()
        (made / "plans" / "asks.yaml").write_text(ASKS)
        yield made


async def followed(url: str, run_id: str, *, heard: asyncio.Event | None = None, up_to: int = 0) -> list[Any]:
    """Return all events of a run as a follower is sent them, who comes again whenever it loses its connection.

    Args:
        heard: Set once event `up_to` has come.
    """
    events: list[Any] = []
    async with httpx.AsyncClient(base_url=url, timeout=30) as client, asyncio.timeout(90):
        while not events or events[-1]["event"] != "run_finished":
            last = str(events[-1]["seq"]) if events else "0"
            headers = {"accept": "text/event-stream", "last-event-id": last}
            try:
                async with client.stream("GET", f"/v1/runs/{run_id}/events", headers=headers) as answer:
                    async for line in answer.aiter_lines():
                        if line.startswith("data: "):
                            events.append(json.loads(line.removeprefix("data: ")))
                            if heard is not None and events[-1]["seq"] >= up_to:
                                heard.set()
            except httpx.TransportError:
                await asyncio.sleep(0.05)
    return events


def test_a_run_is_submitted_followed_answered_and_ends_over_http(folder: Path, nats: Nats) -> None:
    async def main(server: Server, run_id: str) -> list[Any]:
        following = asyncio.create_task(followed(server.url, run_id))
        await asyncio.to_thread(server.comes_to, run_id, "waiting")
        asked = (await asyncio.to_thread(server.ask, f"/runs/{run_id}/questions")).json()["questions"]
        answer = await asyncio.to_thread(
            server.ask, f"/runs/{run_id}/answers", {"step": asked[0]["step"], "binding": asked[0]["binding"]}
        )
        assert answer.status_code == 200, answer.text
        assert answer.json()["driven"] is True
        return await following

    with agent_process(folder), worker_process(folder, nats), ready(folder, "--plans", "plans") as server:
        answer = server.ask("/runs", {"name": "asks", "inputs": {"n": 1}})
        events = asyncio.run(main(server, answer.json()["run_id"]))
        run_id = answer.json()["run_id"]
        listed = server.ask("/runs").json()["runs"]
        told = server.ask(f"/runs/{run_id}").json()
        step = server.ask(f"/runs/{run_id}/steps/b").json()
        record = server.ask(f"/runs/{run_id}/record").text.splitlines()
        picture = server.ask(f"/runs/{run_id}/graph.svg")
        view = server.ask(f"/runs/{run_id}/view")
        metrics = httpx.get(f"{server.url}/metrics")
        said("verify", run_id, folder=folder)

    assert answer.status_code == 201
    assert answer.headers["location"] == f"/v1/runs/{run_id}"
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert (told["status"], step["output"]) == ("success", 3)
    assert [(run["run_id"], run["status"]) for run in listed] == [(run_id, "success")]
    assert len(record) == len(events)
    assert (picture.status_code, view.status_code, metrics.status_code) == (200, 200, 200)


def test_a_key_stands_for_one_run_whichever_server_is_asked(folder: Path, nats: Nats) -> None:
    body = {"plan": ADDS, "inputs": {"n": 1}}
    with agent_process(folder), worker_process(folder, nats), ready(folder) as one, ready(folder) as other:
        first = one.ask("/runs", body, **{"Idempotency-Key": "k"})
        again = other.ask("/runs", body, **{"Idempotency-Key": "k"})
        another = one.ask("/runs", body | {"inputs": {"n": 2}}, **{"Idempotency-Key": "k"})
        run = one.comes_to(first.json()["run_id"], "success")
        count = len(one.ask("/runs").json()["runs"])

    assert [answer.status_code for answer in (first, again, another)] == [201, 200, 409]
    assert again.json()["run_id"] == first.json()["run_id"]
    assert run["result"] == 2
    assert count == 1


def test_two_servers_that_are_asked_at_once_under_one_key_begin_one_run(folder: Path, nats: Nats) -> None:
    def both(pool: ThreadPoolExecutor, servers: list[Server], key: str, numbers: tuple[int, int]) -> list[Any]:
        bodies = [{"plan": ADDS, "inputs": {"n": number}} for number in numbers]
        return list(pool.map(lambda one, body: one.ask("/runs", body, **{"Idempotency-Key": key}), servers, bodies))

    with agent_process(folder), ready(folder) as one, ready(folder) as other, ThreadPoolExecutor(2) as pool:
        same = [both(pool, [one, other], f"same{number}", (1, 1)) for number in range(5)]
        differ = [both(pool, [one, other], f"differ{number}", (1, 2)) for number in range(5)]
        count = len(one.ask("/runs").json()["runs"])

    assert all({answer.status_code for answer in answers} <= {200, 201} for answers in same)
    assert all(len({answer.json()["run_id"] for answer in answers}) == 1 for answers in same)
    assert [sorted(answer.status_code for answer in answers) for answers in differ] == [[201, 409]] * 5
    assert count == 10


def test_a_server_that_is_killed_is_missed_by_no_run_and_its_follower_misses_nothing(folder: Path, nats: Nats) -> None:
    async def main(server: Server, run_id: str) -> list[Any]:
        heard = asyncio.Event()
        following = asyncio.create_task(followed(server.url, run_id, heard=heard, up_to=2))
        await heard.wait()
        await asyncio.to_thread(server.kill)
        (folder / "mark").touch()
        with await asyncio.to_thread(started_again, server.port) as again:
            events = await following
            await asyncio.to_thread(again.comes_to, run_id, "success")
        return events

    def started_again(port: str) -> Any:
        return ready(folder, port=port)

    with agent_process(folder), worker_process(folder, nats), ready(folder) as server:
        run_id = server.begun(WAITS)
        events = asyncio.run(main(server, run_id))
        said("verify", run_id, folder=folder)

    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert (folder / "paid.log").read_text() == "2\n"


def test_more_than_the_cluster_takes_is_refused_and_what_it_took_is_run(folder: Path, nats: Nats) -> None:
    with (folder / "planloom.toml").open("a") as settings:
        settings.write("max_submissions = 3\n")

    def submit(server: Server, number: int) -> httpx.Response:
        key = {"Idempotency-Key": f"k{number}"}
        return server.ask("/runs", {"plan": ADDS, "inputs": {"n": number}}, **key)

    with agent_process(folder):
        pass  # it has made the streams, and is killed
    with ready(folder) as server, ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda number: submit(server, number), range(6)))
        taken = [one.json()["run_id"] for one in answers if one.status_code == 202]
        refused = [one for one in answers if one.status_code == 503]
        unbegun = server.ask(f"/runs/{taken[0]}").status_code
        with agent_process(folder), worker_process(folder, nats):
            for run_id in taken:
                server.comes_to(run_id, "success")
            listed = [run["run_id"] for run in server.ask("/runs").json()["runs"]]

    assert sorted(one.status_code for one in answers) == [202] * 3 + [503] * 3
    assert all(one.headers["retry-after"] and one.json()["code"] == "worker.overloaded" for one in refused)
    assert unbegun == 404
    assert sorted(listed) == sorted(taken)


def test_a_run_is_paused_resumed_and_cancelled_over_http(folder: Path, nats: Nats) -> None:
    with agent_process(folder), worker_process(folder, nats), ready(folder) as server:
        run_id = server.begun(WAITS)
        paused = server.ask(f"/runs/{run_id}/pause", {})
        until(lambda: server.ask(f"/runs/{run_id}").json()["paused"], within_s=30)
        (folder / "mark").touch()
        until(lambda: server.ask(f"/runs/{run_id}/steps/w").json()["status"] == "completed", within_s=30)
        resumed = server.ask(f"/runs/{run_id}/resume", {})
        ended = server.comes_to(run_id, *ENDED)
        (folder / "mark").unlink()
        other = server.begun(WAITS)
        until(lambda: server.ask(f"/runs/{other}/steps/w").json().get("status") == "running", within_s=30)
        cancelled = server.ask(f"/runs/{other}/cancel", {"reason": "not needed"})
        stopped = server.comes_to(other, *ENDED)
        too_late = server.ask(f"/runs/{run_id}/cancel", {})

    assert [one.status_code for one in (paused, resumed, cancelled, too_late)] == [200, 200, 200, 409]
    assert paused.json()["recorded"] == "PauseRequested"
    assert (ended["status"], stopped["status"]) == ("success", "cancelled")


def test_a_run_goes_on_from_another_one_in_the_cluster(folder: Path, nats: Nats) -> None:
    plan = {
        "steps": [
            {"id": "a", "tool": "add", "with": {"n": 1}},
            {"id": "b", "tool": "add", "with": {"n": "${{ steps.a.output }}"}},
            {"id": "c", "tool": "until_there", "with": {"path": "mark"}, "timeout_seconds": 1, "needs": ["b"]},
        ]
    }
    with agent_process(folder), worker_process(folder, nats), ready(folder) as server:
        run_id = server.begun(plan)
        failed = server.comes_to(run_id, *ENDED)
        (folder / "mark").touch()
        key = {"Idempotency-Key": "k"}
        forked = [server.ask(f"/runs/{run_id}/fork", {"step": "a", "output": 10}, **key) for _ in range(2)]
        retried = server.ask(f"/runs/{run_id}/resume", {"failed": True})
        fork = server.comes_to(forked[0].json()["run_id"], *ENDED)
        retry = server.comes_to(retried.json()["run_id"], *ENDED)
        unknown = server.ask(f"/runs/{run_id}/fork", {"step": "zzz", "output": 10})
        nowhere = server.ask("/runs/nowhere/fork", {"step": "a", "output": 10})
        steps = {step["id"]: step["output"] for step in fork["steps"]}
        for one in (run_id, fork["run_id"], retry["run_id"]):
            said("verify", one, folder=folder)

    assert [one.status_code for one in (*forked, retried, unknown, nowhere)] == [201, 200, 201, 404, 404]
    assert failed["status"] != "success"
    assert (fork["status"], fork["from_run"], fork["edited"]) == ("success", run_id, "a")
    assert (steps["a"], steps["b"]) == (10, 11)
    assert (retry["status"], retry["from_run"]) == ("success", run_id)


def test_what_only_the_agents_find_wrong_is_told_until_they_know_better(folder: Path, nats: Nats) -> None:
    (folder / "more.py").write_text(TOOLS + "\n@tool(effects='none')\ndef extra() -> int:\n    return 1\n")
    plan = {"steps": [{"id": "x", "tool": "extra"}]}
    key = {"Idempotency-Key": "k"}
    with ready(folder, "--tools", "more.py") as server:
        with agent_process(folder):
            unsound = server.ask("/runs", {"plan": {"steps": [{"id": "x", "tool": "nothing"}]}})
            refused = [server.ask("/runs", {"plan": plan}, **key) for _ in range(2)]
        with agent_process(folder, "--tools", "more.py"):
            taken = server.ask("/runs", {"plan": plan}, **key)

    assert unsound.json()["code"] == "plan.unknown_tool"
    assert [one.status_code for one in refused] == [422, 422]
    assert refused[1].json()["code"] == "worker.submission_refused"
    assert [(one["code"], one["step"]) for one in refused[1].json()["problems"]] == [("plan.unknown_tool", "x")]
    assert taken.status_code == 201


def test_without_its_broker_a_server_shows_what_is_on_record_and_takes_nothing(folder: Path, nats: Nats) -> None:
    with agent_process(folder), worker_process(folder, nats), ready(folder) as server:
        run_id = server.begun(ADDS, inputs={"n": 1})
        server.comes_to(run_id, "success")
        nats.kill()
        with server_process(folder) as late:
            shown = late.ask(f"/runs/{run_id}")
            answers = [one.ask("/runs", {"plan": ADDS, "inputs": {"n": 2}}) for one in (late, server)]
            health = httpx.get(f"{late.url}/readyz").status_code
            nats.start()
            until(lambda: httpx.get(f"{late.url}/readyz").status_code == 200, within_s=30, what="readiness")
            late.comes_to(late.begun(ADDS, inputs={"n": 2}), "success")

    assert shown.json()["status"] == "success"
    assert [one.status_code for one in answers] == [503, 503]
    assert health == 503


def test_a_server_runs_plans_itself_on_a_database_without_a_cluster(folder: Path) -> None:
    with ready(folder, "--no-cluster") as server:
        run_id = server.begun(WAITS)
        until(lambda: server.ask(f"/runs/{run_id}/steps/w").json().get("status") == "running", within_s=30)
        with ready(folder, "--no-cluster") as other:  # the run is somebody's: it stays there
            paused = other.ask(f"/runs/{run_id}/pause", {}).json()
            until(lambda: other.ask(f"/runs/{run_id}").json()["paused"], within_s=30)
        server.kill()
    (folder / "mark").touch()
    with ready(folder, "--no-cluster") as server:
        resumed = server.ask(f"/runs/{run_id}/resume", {})
        server.comes_to(run_id, "success")

    assert paused["driven"] is True
    assert resumed.status_code == 200
    assert (folder / "paid.log").read_text() == "2\n"


def test_a_server_needs_a_submitters_credential_and_a_persons_login_and_no_more(
    folder: Path, nats: Nats, postgres: str, postgres_server: Postgres
) -> None:
    version = ".".join(str(part) for part in version_of(nats_program()) or (2, 12, 0))
    said("cluster", "init", "cluster", "--listen", "127.0.0.1:-1", "--nats-version", version, folder=folder)
    said("cluster", "credential", "--folder", "cluster", "--module", "main", "--worker", "w", folder=folder)
    said("cluster", "database", "--journal", postgres, folder=folder)
    web = f"web_{secrets.token_hex(4)}"
    postgres_server.sql(f"CREATE ROLE {web} LOGIN IN ROLE planloom_person")
    as_web = ("--creds", "cluster/creds/submitter.creds", "--journal", postgres.replace("//postgres@", f"//{web}@"))
    broker = SecuredNats(ClusterAuthority(folder / "cluster"))
    broker.start()
    settings = folder / "planloom.toml"
    settings.write_text(settings.read_text().replace(nats.url, broker.url))
    try:
        with (
            agent_process(folder, "--creds", "cluster/creds/agent.creds"),
            worker_process(folder, broker, "--creds", "cluster/creds/main-w.creds"),
            ready(folder, *as_web, "--plans", "plans") as server,
        ):
            run_id = server.ask("/runs", {"name": "asks", "inputs": {"n": 1}}).json()["run_id"]
            server.comes_to(run_id, "waiting")
            answers = [server.ask(f"/runs/{run_id}/{what}", {}) for what in ("pause", "resume")]
            answers.append(server.ask(f"/runs/{run_id}/answers", {"step": "ask"}))
            server.comes_to(run_id, "success")
            answers.append(server.ask(f"/runs/{run_id}/fork", {"step": "ask", "output": None, "repeat_effects": True}))
            server.comes_to(answers[-1].json()["run_id"], "success")
    finally:
        broker.kill()

    assert [one.status_code for one in answers] == [200, 200, 200, 201]
    assert "Violation" not in broker.log
