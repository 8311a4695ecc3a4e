"""Events of a cluster for whoever follows: in CloudEvents' form, and without a gap or a double whatever breaks."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from importlib import resources
from pathlib import Path
from threading import Timer
from typing import Any

import nats as nats_py
import pytest
from nats.aio.msg import Msg

from planloom.journal.postgres.journal import PostgresJournal
from planloom.runtime.cluster.client import ClusterClient
from planloom.testing.fakes import fake_tool
from planloom.transport.event import Event, read_event
from planloom.transport.events_out import Retold
from planloom.transport.in_order import Unheard
from planloom.transport.nats import subjects
from planloom.transport.nats.authority import AGENT_FILE, SUBMITTER_FILE, ClusterAuthority
from planloom.transport.nats.link import Broker
from planloom.transport.nats.news import NewsFeed
from planloom.transport.nats.streams import EVT
from tests.cluster.hands import Hand, agent, ended
from tests.cluster.links import linked
from tests.cluster.secured import SecuredNats
from tests.cluster.servers import Nats, Postgres, comes, until
from tests.cluster.test_agent_command import agent_process, planloom
from tests.cluster.test_secured_processes import project, told, worker_process

pytestmark = pytest.mark.slow

WITHIN_S = 90.0
TOOLS = [fake_tool("add", [0], effects="none")]
FOLLOW = Path(__file__).parent.parent.parent / "examples/cluster_events/follow.py"


def chain(steps: int) -> dict[str, Any]:
    wired = [
        {"id": f"s{n}", "tool": "add", "with": {"n": n}} | ({"needs": [f"s{n - 1}"]} if n else {}) for n in range(steps)
    ]
    return {"planloom": 1, "name": "chain", "steps": wired}


class Gate:
    """Lets the steps of runs through up to a number."""

    def __init__(self, first: int) -> None:
        self._open = first
        self._changed = asyncio.Event()

    def open(self, number: int) -> None:
        self._open = number
        self._changed.set()

    async def __call__(self, request: Any) -> Any:
        while int(request.args["n"]) >= self._open:
            self._changed.clear()
            await self._changed.wait()
        return request.args["n"]


@asynccontextmanager
async def client_of(nats: Nats) -> AsyncIterator[ClusterClient]:
    async with ClusterClient(Broker((nats.url,))) as client:
        yield client


@contextmanager
def command(*args: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    process = planloom(*args, folder=folder)
    late = Timer(WITHIN_S, process.kill)  # whoever waits for its words waits no longer
    late.start()
    try:
        yield process
    finally:
        late.cancel()
        process.kill()
        process.communicate()


async def on_record(journal: PostgresJournal, run_id: str) -> list[Event]:
    return await Retold(journal, run_id).more()


def dicts(events: list[Event]) -> list[dict[str, Any]]:
    """Return events as they are told: moments are to a microsecond there."""
    return [event.to_dict() for event in events]


def test_an_agent_tells_every_event_in_the_form_of_cloudevents_at_its_own_subject(postgres: str, nats: Nats) -> None:
    async def main() -> None:
        journal = PostgresJournal(postgres)
        heard: list[Msg] = []

        async def hear(message: Msg) -> None:
            heard.append(message)

        connection = await nats_py.connect(nats.url)
        await connection.subscribe(f"{subjects.ROOT}.evt.>", cb=hear)
        await connection.flush()
        async with (
            agent(postgres, nats.url, tools=TOOLS),
            Hand(nats.url, lambda request: 1),
            client_of(nats) as client,
        ):
            await client.submit(chain(1), run_id="a.b*1")
            await ended(journal, "a.b*1")
            events = await on_record(journal, "a.b*1")
            await comes(lambda: len(heard) == len(events), what="all that is on record")
            await client.submit({"planloom": 1, "steps": [{"id": "a", "tool": "nobody_has_it"}]}, run_id="refused")
            await comes(lambda: len(heard) == len(events) + 1, what="the refusal")
        await connection.close()
        await journal.close()

        assert [json.loads(one.data) for one in heard[:-1]] == dicts(events)
        assert [one.subject for one in heard[:-1]] == [f"pl.evt.a=2Eb=2A1.{event.type}" for event in events]
        assert {(one.headers or {}).get("Content-Type") for one in heard} == {"application/cloudevents+json"}
        for message in heard:
            is_cloudevent(json.loads(message.data))
        refusal = read_event(heard[-1].data)
        assert (refusal.type, refusal.seq) == ("planloom.run.refused", None)
        assert "nobody_has_it" in refusal.data["message"]

    asyncio.run(main())


def is_cloudevent(one: dict[str, Any]) -> None:
    """Hold an event against version 1.0 of CloudEvents: its attributes, their names and their forms."""
    assert one["specversion"] == "1.0"
    assert all(re.fullmatch(r"[a-z0-9]{1,20}", name) for name in one)
    assert all(isinstance(value, str) and value for name, value in one.items() if name not in ("data", "entryevents"))
    assert {"id", "source", "type"} <= one.keys()
    assert re.fullmatch(r"/planloom/runs/[A-Za-z0-9._~%-]+", one["source"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", one["time"])
    assert one["datacontenttype"] == "application/json"


def test_a_followed_run_has_no_gap_and_no_double_though_the_broker_and_the_database_go_down(
    tmp_path: Path, nats: Nats
) -> None:
    async def main(server: Postgres, dsn: str) -> None:
        gate = Gate(1)
        journal = PostgresJournal(dsn)
        async with agent(dsn, nats.url, tools=TOOLS), Hand(nats.url, gate) as hand, client_of(nats) as client:
            await client.submit(chain(8), run_id="r")
            await comes(lambda: hand.made["r", "s1"])
            with command("tail", "r", "--json", "--journal", dsn, folder=tmp_path) as tail:
                assert tail.stdout is not None
                first = await asyncio.to_thread(tail.stdout.readline)  # it reads: what restarts now is waited for
                reading = asyncio.create_task(asyncio.to_thread(tail.communicate, timeout=90))
                nats.restart(empty=True)
                gate.open(4)
                await comes(lambda: hand.made["r", "s4"])
                await asyncio.to_thread(server.restart)
                gate.open(8)
                rest, err = await reading
            await ended(journal, "r")
            events = await on_record(journal, "r")

            assert tail.returncode == 0, err
            assert [json.loads(line) for line in (first + rest).splitlines()] == dicts(events)
            assert len({event.id for event in events}) == len(events)
        await journal.close()

    server = Postgres().start()
    try:
        asyncio.run(main(server, server.database()))
    finally:
        server.remove()


def test_of_all_runs_what_is_not_heard_is_told_as_missed(postgres: str, nats: Nats) -> None:
    async def main() -> None:
        gate, troubles = Gate(1), list[str]()
        journal = PostgresJournal(postgres)
        found: list[Event | Unheard] = []
        async with (
            agent(postgres, nats.url, tools=TOOLS),
            agent(postgres, nats.url, tools=TOOLS),
            Hand(nats.url, gate) as hand,
            client_of(nats) as client,
            NewsFeed(Broker((nats.url,)), on_trouble=troubles.append) as feed,
        ):

            async def follow() -> None:
                async for one in feed:
                    found.append(one)

            following = asyncio.create_task(follow())
            for name in "ab":
                await client.submit(chain(6), run_id=name)
            await comes(lambda: hand.made["a", "s1"] and hand.made["b", "s1"])
            async with linked(nats, terms=None) as link:
                await link.api(f"STREAM.PURGE.{EVT}")
            nats.kill()
            gate.open(3)
            nats.start()
            await comes(lambda: hand.made["a", "s3"] and hand.made["b", "s3"])
            gate.open(6)
            for name in "ab":
                await ended(journal, name)
                last = (await on_record(journal, name))[-1]
                await comes(lambda last=last: last.id in [one.id for one in found if isinstance(one, Event)])
            following.cancel()

        assert troubles
        for name in "ab":
            whole = await on_record(journal, name)
            events = [one for one in found if isinstance(one, Event) and one.correlation_id == name]
            missed = [one for one in found if isinstance(one, Unheard) and one.run_id == name]
            numbers = {seq for one in missed for seq in range(one.first, one.last + 1)}
            # Of an entry that was heard in part, its first events came and are told.
            assert set(map(str, dicts(events))) <= set(map(str, dicts(whole)))
            heard = [event for event in events if event.seq not in numbers]
            assert dicts(heard) == dicts([event for event in whole if event.seq not in numbers])
        await journal.close()

    asyncio.run(main())


def test_the_command_follows_all_runs_and_says_which_entries_it_did_not_hear(
    tmp_path: Path, postgres: str, nats: Nats
) -> None:
    def lines(process: subprocess.Popen[str], until_type: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        assert process.stdout is not None
        for line in process.stdout:
            found.append(json.loads(line))
            if found[-1]["type"] == until_type:
                return found
        raise AssertionError(f"{until_type} never came: {found}")

    async def main(process: subprocess.Popen[str]) -> None:
        journal = PostgresJournal(postgres)
        async with (
            agent(postgres, nats.url, tools=TOOLS),
            Hand(nats.url, lambda request: 1),
            client_of(nats) as client,
        ):
            await client.submit(chain(1), run_id="r")
            heard = await asyncio.to_thread(lines, process, "planloom.run.finished")
            assert heard == dicts(await on_record(journal, "r"))

            late = Event("x/5", "planloom.run.resumed", "/planloom/runs/x", 1.0, None, "x", None, {}, 5)
            async with linked(nats, terms=None) as link:
                await link.publish(subjects.news("y", late.type), json.dumps(late.to_dict()).encode())
                await link.publish(subjects.news("x", late.type), b"noise")
                await link.publish(subjects.news("x", late.type), json.dumps(late.to_dict()).encode())
            missed, event = await asyncio.to_thread(lines, process, late.type)

            assert (missed["type"], missed["correlationid"]) == ("planloom.news.missed", "x")
            assert missed["data"] == {"first": 1, "last": 4}
            assert event == late.to_dict()
        await journal.close()

    with command("tail", "--all", "--json", "--nats", nats.url, folder=tmp_path) as process:
        assert process.stderr is not None
        assert "listening" in process.stderr.readline()
        asyncio.run(main(process))


class Following:
    """The example, as a process that may be killed and started again."""

    def __init__(self, folder: Path, url: str, dsn: str) -> None:
        creds = str(folder / "cluster" / SUBMITTER_FILE)
        self._command = [sys.executable, str(FOLLOW), "--nats", url, "--creds", creds, "--journal", dsn]
        self._folder = folder
        self._out = folder / "followed.jsonl"

    def start(self) -> None:
        with self._out.open("ab") as out, (self._folder / "followed.err").open("ab") as err:
            self.process = subprocess.Popen(self._command, cwd=self._folder, stdout=out, stderr=err)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def told(self) -> list[Event]:
        assert self.process.poll() is None, (self._folder / "followed.err").read_text()
        return [read_event(line) for line in self._out.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]

    def done(self) -> dict[str, int]:
        state = self._folder / "follow.json"
        found: dict[str, int] = json.loads(state.read_text()) if state.exists() else {}
        return found


def test_another_program_hears_all_of_every_run_once_with_rights_to_look_only(
    tmp_path: Path, postgres_server: Postgres, postgres: str
) -> None:
    """The example: killed in between, and the broker's whole store lost."""
    project(tmp_path, postgres, "nats://127.0.0.1:1")
    submit = ("submit", "plan.yaml", "--creds", f"cluster/{SUBMITTER_FILE}", "--wait", "--input", "n=1", "--run-id")
    database = re.findall(r"/(test_\w+)", postgres)[0]
    reader = f"reader_{secrets.token_hex(4)}"
    told("cluster", "init", "cluster", "--listen", "127.0.0.1:-1", folder=tmp_path)
    server = SecuredNats(ClusterAuthority(tmp_path / "cluster"))
    server.start()
    with ExitStack() as ending:
        ending.callback(server.kill)
        project(tmp_path, postgres, server.url)
        for module in ("counting", "money"):
            where = ("--folder", "cluster", "--module", module)
            told("cluster", "credential", *where, "--worker", "w", folder=tmp_path)
        ending.enter_context(agent_process(tmp_path, "--creds", f"cluster/{AGENT_FILE}"))
        for module in ("counting", "money"):
            ending.enter_context(worker_process(tmp_path, server.url, f"{module}-w"))
        roles = (resources.files("planloom.journal.postgres") / "roles.sql").read_text()
        postgres_server.sql(roles, database=database)
        postgres_server.sql(f"CREATE ROLE {reader} LOGIN IN ROLE planloom_reader")
        following = Following(tmp_path, server.url, postgres_server.dsn(database, user=reader))
        following.start()
        ending.callback(lambda: following.kill())

        told(*submit, "r1", folder=tmp_path)
        until(lambda: following.told()[-1:] and following.told()[-1].type == "planloom.run.finished")
        until(lambda: following.done().get("r1") == following.told()[-1].seq)
        following.kill()
        told(*submit, "r2", folder=tmp_path)
        server.restart(empty=True)
        following.start()
        told(*submit, "r3", folder=tmp_path)
        until(lambda: [event.type for event in following.told()].count("planloom.run.finished") == 3)

        assert "Violation" not in server.log
        for name in ("r1", "r2", "r3"):
            heard = [event for event in following.told() if event.correlation_id == name]
            assert dicts(heard) == dicts(asyncio.run(recorded(postgres, name)))


async def recorded(dsn: str, run_id: str) -> list[Event]:
    journal = PostgresJournal(dsn)
    try:
        return await on_record(journal, run_id)
    finally:
        await journal.close()
