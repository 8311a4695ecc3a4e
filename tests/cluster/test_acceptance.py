"""A29 and A31 to A35 over real processes and real servers. A30 is in test_bus_faults.py."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from planloom import RunStatus, parse_plan
from planloom.core.events import AttemptSucceeded, Event, OutcomeUnknown, ResultRefused
from planloom.core.result import RunResult
from planloom.errors import OverloadedError
from planloom.journal.postgres.journal import PostgresJournal
from planloom.journal.postgres.shared import SharedRuns
from planloom.plan.load import load_plan
from planloom.runtime.cluster.client import ClusterClient
from planloom.runtime.reading import read_run
from planloom.testing import check_history
from planloom.transport.nats.authority import ClusterAuthority
from planloom.transport.nats.link import Broker
from planloom.transport.nats.server_conf import ServerConf
from tests.cluster.members import Deployment, Member
from tests.cluster.secured import SecuredNats
from tests.cluster.servers import Postgres, comes
from tests.cluster.small_agent import worker

pytestmark = pytest.mark.slow
T = TypeVar("T")
WITHIN_S = 40.0
SEED_PLAN = """\
a. Get all contacts [contacts.all]
b. Compose Email message: "Hello World!" [mail.compose text="Hello World!"]
c. Send emails (requires steps a and b) [mail.send to=a text=b]
"""
TOOLS = '''
import asyncio
import os
from pathlib import Path

from planloom import ToolContext, tool


def note(name: str, context: ToolContext) -> None:
    log = os.open("calls.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(log, f"{name} {context.run_id} {context.step} {context.attempt} {os.getpid()}\\n".encode())
    finally:
        os.close(log)


async def there(name: str) -> None:
    """Wait for a file."""
    while not Path(name).exists():
        await asyncio.sleep(0.01)


async def meet(name: str, other: str) -> str:
    """Come, and wait for the other one."""
    Path(name).touch()
    await asyncio.wait_for(there(other), 20)
    return name


@tool(name="contacts.all", effects="none")
async def contacts() -> str:
    return await meet("a", "b")


@tool(name="mail.compose", effects="none")
async def compose(text: str) -> str:
    return await meet("b", "a")


@tool(name="mail.send", effects="once")
async def send(to: str, text: str, context: ToolContext) -> list[str]:
    note("send", context)
    return [to, text]


@tool(effects="idempotent")
async def hold(context: ToolContext) -> int:
    """Wait for leave at the first attempt; return which one this is."""
    note("hold", context)
    if context.attempt == 1:
        await there("leave")
    return context.attempt


@tool(effects="once")
async def hold_once(context: ToolContext) -> int:
    note("hold_once", context)
    await there("never")
    return 1


@tool(effects="none")
async def wait_for(name: str) -> str:
    await there(name)
    return name


@tool(effects="none")
async def second(context: ToolContext, seconds: float = 1.0) -> int:
    """Return the process that did this, for a second."""
    note("second", context)
    await asyncio.sleep(seconds)
    return os.getpid()


@tool(effects="idempotent")
async def fail(context: ToolContext) -> None:
    note("fail", context)
    raise ConnectionError("503")
'''


def steps(*told: dict[str, Any]) -> dict[str, Any]:
    return {"planloom": 1, "name": "told", "steps": list(told)}


def deployed(folder: Path, postgres: Postgres, *, lease_s: float = 2.0, more: str = "", **options: Any) -> Deployment:
    settings = f"lease_s = {lease_s:g}\ncheck_s = 2\n{more}"
    return Deployment(folder, tools=TOOLS, settings=settings, postgres=postgres, **options)


class Asking:
    """Whoever asks a cluster for runs."""

    def __init__(self, cluster: Deployment, client: ClusterClient, journal: PostgresJournal) -> None:
        self.cluster = cluster
        self.client = client
        self.journal = journal

    async def result(self, run_id: str) -> RunResult:
        """Return a run's result once it has ended, its record having been held against the laws."""
        async with asyncio.timeout(WITHIN_S):
            result = await self.client.result(run_id)
        assert check_history(await self.journal.read(run_id), run_id=run_id) == []
        return result

    async def events(self, run_id: str) -> list[Event]:
        return [entry.event for entry in await self.journal.read(run_id)]

    def calls(self, name: str) -> list[tuple[str, str, int, int]]:
        """Return who called a tool: run, step, attempt, process."""
        log = self.cluster.folder / "calls.log"
        lines = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
        return [(run, step, int(attempt), int(pid)) for tool, run, step, attempt, pid in lines if tool == name]

    async def called(self, name: str, times: int = 1) -> list[tuple[str, str, int, int]]:
        found: list[tuple[str, str, int, int]] = await comes(
            lambda: self.calls(name) if len(self.calls(name)) >= times else None, what=f"a call of {name}"
        )
        return found

    def member(self, pid: int) -> Member:
        return next(one for one in self.cluster.workers if one.pid == pid)

    def leave(self, name: str) -> None:
        (self.cluster.folder / name).touch()


@asynccontextmanager
async def asking(cluster: Deployment) -> AsyncIterator[Asking]:
    journal, shared = PostgresJournal(cluster.dsn), SharedRuns(cluster.dsn)
    try:
        async with ClusterClient(Broker((cluster.nats.url,)), journal=journal, shared=shared) as client:
            yield Asking(cluster, client, journal)
    finally:
        await shared.close()
        await journal.close()


def lived(cluster: Deployment, scenario: Callable[[Asking], Awaitable[T]]) -> T:
    async def main() -> T:
        async with asking(cluster) as one:
            return await scenario(one)

    with cluster.running():
        return asyncio.run(main())


@asynccontextmanager
async def hearing(cluster: Deployment, subject: str) -> AsyncIterator[list[dict[str, Any]]]:
    """Hear events as anybody may who is let in, with no library of ours."""
    heard: list[dict[str, Any]] = []

    async def hear(message: Msg) -> None:
        heard.append(json.loads(message.data))

    client = Client()
    await client.connect(cluster.nats.url)
    try:
        await client.subscribe(subject, cb=hear)
        await client.flush(5)
        yield heard
    finally:
        await client.close()


def test_a29_a_and_b_start_together_in_two_processes_and_c_after_both_because_of_one_of_them(
    tmp_path: Path, postgres_server: Postgres
) -> None:
    async def scenario(one: Asking) -> tuple[Any, list[dict[str, Any]]]:
        async with hearing(one.cluster, "pl.evt.r.>") as heard:
            result = await one.result(await one.client.submit(parse_plan(SEED_PLAN), run_id="r"))
            await comes(lambda: heard and heard[-1]["type"] == "planloom.run.finished")
            return result.output, heard

    output, heard = lived(deployed(tmp_path, postgres_server, agents=2, workers=2, capacity=1), scenario)

    assert output == ["a", "b"]
    events = sorted(
        (one for one in heard if one["type"].startswith("planloom.step.")), key=lambda one: str(one["sequence"])
    )
    kinds = [(one["type"].rpartition(".")[2], one["subject"]) for one in events]
    done = {one["subject"]: one for one in events if one["type"] == "planloom.step.completed"}
    requested = next(one for one in events if one["subject"] == "c" and one["type"] == "planloom.step.requested")
    assert kinds.index(("requested", "b")) < kinds.index(("completed", "a"))
    assert kinds.index(("requested", "c")) > max(kinds.index(("completed", "a")), kinds.index(("completed", "b")))
    assert requested["causationid"] in {done["a"]["id"], done["b"]["id"]}
    assert {one["correlationid"] for one in events} == {"r"}
    assert len({one["id"] for one in events}) == len(events)


def test_a31_a_killed_or_stopped_workers_step_is_made_by_another_and_what_it_says_later_is_refused(
    tmp_path: Path, postgres_server: Postgres
) -> None:
    held = steps({"id": "h", "tool": "hold"})
    held_once = steps({"id": "h", "tool": "hold_once"})
    goes_on = steps(
        {"id": "h", "tool": "hold"}, {"id": "end", "tool": "wait_for", "with": {"name": "end"}, "needs": ["h"]}
    )

    async def killed(one: Asking) -> None:
        run_id = await one.client.submit(held)
        [(_, _, _, pid)] = await one.called("hold")
        victim, at = one.member(pid), time.monotonic()
        victim.kill()
        result = await one.result(run_id)
        took_s = time.monotonic() - at
        victim.start()

        assert result.output == result.steps[0].attempts == 2
        assert sum(isinstance(event, AttemptSucceeded) for event in await one.events(run_id)) == 1
        assert took_s < 3.0

    async def stopped(one: Asking) -> None:
        run_id = await one.client.submit(goes_on)
        *_, (_, _, _, pid) = await one.called("hold", 3)
        zombie = one.member(pid)
        zombie.stop()
        await one.called("hold", 4)
        one.leave("leave")
        zombie.go_on()

        async def refused() -> bool:
            return any(isinstance(event, ResultRefused) for event in await one.events(run_id))

        await comes(refused)
        one.leave("end")
        assert (await one.result(run_id)).steps[0].output == 2
        assert one.cluster.metrics()["planloom_cluster_inputs_stale_total"] >= 1

    async def unknown(one: Asking) -> None:
        run_id = await one.client.submit(held_once)
        [(_, _, _, pid)] = await one.called("hold_once")
        one.member(pid).kill()

        async def is_unknown() -> bool:
            return any(isinstance(event, OutcomeUnknown) for event in await one.events(run_id))

        await comes(is_unknown)
        assert (await read_run(one.journal, run_id)).result.status is RunStatus.WAITING
        assert len(one.calls("hold_once")) == 1

    async def scenario(one: Asking) -> None:
        await killed(one)
        await asyncio.to_thread(one.cluster.ready)
        await stopped(one)
        await unknown(one)

    lived(deployed(tmp_path, postgres_server, lease_s=1.0, agents=1, workers=2, capacity=1), scenario)


def test_a32_eight_programs_of_a_second_have_up_to_four_processes_and_one_when_they_are_done(
    tmp_path: Path, postgres_server: Postgres
) -> None:
    def is_alive(pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            return False

    async def scenario(one: Asking) -> tuple[int, int]:
        plan = steps({"id": "s", "tool": "second"})
        runs = [await one.client.submit(plan) for _ in range(8)]
        pids = {(await one.result(run_id)).output for run_id in runs}
        await comes(lambda: sum(map(is_alive, pids)) == 1, what="the others' end")
        last = (await one.result(await one.client.submit(plan))).output
        return len(pids), last in pids

    cluster = deployed(
        tmp_path,
        postgres_server,
        agents=1,
        workers=1,
        capacity=1,
        worker_options=("--processes", "1..4", "--idle", "1"),
    )
    peak, is_same = lived(cluster, scenario)

    assert 2 <= peak <= 4
    assert is_same


def test_a33_overload_is_signalled_nothing_is_lost_and_a_dead_letter_is_heard_by_whoever_listens(
    tmp_path: Path, postgres_server: Postgres
) -> None:
    plan = load_plan(steps({"id": "s", "tool": "second", "with": {"seconds": 0}}))
    fails = steps({"id": "f", "tool": "fail", "retry": {"max_attempts": 3, "initial_delay": 0.05}})

    async def overloaded(one: Asking) -> None:
        agent = one.cluster.agents[0]
        agent.kill()
        refused = Counter[str]()

        async def taken(run_id: str) -> None:
            while True:
                try:
                    await one.client.submit(plan, run_id=run_id)
                except OverloadedError:
                    refused[run_id] += 1
                    await asyncio.sleep(0.2)
                else:
                    return

        submitting = [asyncio.create_task(taken(f"r{number}")) for number in range(100)]
        await comes(lambda: len(refused) == 90)
        assert sum(task.done() for task in submitting) == 10
        agent.start()
        await asyncio.gather(*submitting)
        results = [await one.result(f"r{number}") for number in range(100)]
        assert {result.status for result in results} == {RunStatus.SUCCESS}
        assert len(one.calls("second")) == 100

    async def dead(one: Asking) -> list[dict[str, Any]]:
        listening = hearing(one.cluster, "pl.evt.*.planloom.step.dead_letter")
        async with listening as first, hearing(one.cluster, "pl.evt.>") as second:
            assert (await one.result(await one.client.submit(fails))).status is RunStatus.FAILED
            await comes(lambda: second and second[-1]["type"] == "planloom.run.finished")
            assert [told for told in second if told["type"] == "planloom.step.dead_letter"] == first
            return first

    async def scenario(one: Asking) -> list[dict[str, Any]]:
        letters = await dead(one)
        await overloaded(one)
        return letters

    cluster = deployed(tmp_path, postgres_server, more="max_submissions = 10\n", agents=1, workers=1, capacity=8)
    [letter] = lived(cluster, scenario)

    assert letter["data"]["attempts"] == 3
    assert sum(one["event"] == "AttemptFailed" for one in letter["data"]["history"]) == 3


def test_a34_a_step_that_prefers_eu_runs_there_and_elsewhere_when_eu_is_gone(
    tmp_path: Path, postgres_server: Postgres
) -> None:
    def plan(label: str, value: str) -> dict[str, Any]:
        return steps({"id": "s", "tool": "second", "with": {"seconds": 0}, "labels": {label: value}})

    async def scenario(one: Asking) -> None:
        eu = one.cluster.worker("eu", "--label", "region=eu")
        us = one.cluster.worker("us", "--label", "region=us")
        eu.start()
        us.start()
        await asyncio.to_thread(one.cluster.ready)
        near = [await one.client.submit(plan("prefer.region", "eu")) for _ in range(5)]
        assert {(await one.result(run_id)).output for run_id in near} == {eu.pid}
        at_home = eu.pid
        eu.kill()
        one.cluster.workers.remove(eu)
        began = time.monotonic()
        far = await one.result(await one.client.submit(plan("prefer.region", "eu")))
        assert far.output == us.pid != at_home
        assert 1.0 <= time.monotonic() - began < 10.0
        nowhere = await one.result(await one.client.submit(plan("require.region", "mars")))
        assert nowhere.status is RunStatus.FAILED
        assert "cannot be scheduled" in (nowhere.error or "")

    lived(deployed(tmp_path, postgres_server, more="patience_s = 1\n", agents=1, workers=0), scenario)


def test_a35_an_agent_is_killed_and_another_goes_on_with_three_worker_processes_repeating_nothing(
    tmp_path: Path, postgres_server: Postgres
) -> None:
    plan = steps(
        {"id": "each", "tool": "second", "with": {"seconds": 1.0}, "for_each": [1, 2, 3]},
        {"id": "last", "tool": "wait_for", "with": {"name": "end"}, "needs": ["each"]},
        {"id": "more", "tool": "second", "with": {"seconds": 0}, "needs": ["last"]},
    )

    async def scenario(one: Asking) -> None:
        first = one.cluster.agents[0]
        run_id = await one.client.submit(plan)
        await one.called("second", 3)

        async def all_done() -> bool:
            return sum(isinstance(event, AttemptSucceeded) for event in await one.events(run_id)) == 3

        await comes(all_done)
        first.kill()
        one.cluster.agents.remove(first)
        one.cluster.agent("another").start()
        one.leave("end")
        result = await one.result(run_id)

        assert result.status is RunStatus.SUCCESS
        assert len({pid for _, _, _, pid in one.calls("second")[:3]}) == 3
        assert len(one.calls("second")) == 4

    lived(deployed(tmp_path, postgres_server, agents=1, workers=3, capacity=1), scenario)


def test_a35_a_worker_with_a_credential_of_another_cluster_is_refused(tmp_path: Path) -> None:
    ours, theirs = (
        ClusterAuthority.made(tmp_path / name, ServerConf(port=-1), modules=["main"]) for name in ("ours", "theirs")
    )
    path = tmp_path / "theirs.creds"
    theirs.mint.worker("main", "w").write(path)

    async def main(url: str) -> tuple[int | None, str]:
        async with worker(url, "--creds", str(path)) as process:
            _, said = await asyncio.wait_for(process.communicate(), 30)
            return process.returncode, said.decode()

    server = SecuredNats(ours)
    with started(server):
        code, said = asyncio.run(main(server.url))

    assert code
    assert "the broker does not let this credential in" in said


@contextmanager
def started(server: SecuredNats) -> Iterator[None]:
    server.start()
    try:
        yield
    finally:
        server.kill()
