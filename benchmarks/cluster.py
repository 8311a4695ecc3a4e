"""What a step costs in a cluster of real processes: PostgreSQL and NATS that wait for their disks, agents, workers.

Rule 1: the time of a hop is on record: from one step of a chain being asked for to the next one. Its reference is a
X
Rule 2: CPU seconds are those of every process in the path, the servers' own children among them.
Rule 3: what sleeps is beside what it would take if nothing else took any time.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks import bare_broker
from benchmarks.rows import Budget, Row
from benchmarks.timing import Scale

if TYPE_CHECKING:
    from planloom.runtime.cluster.client import ClusterClient
    from tests.cluster.members import Deployment

TOOLS = """
import asyncio

from planloom import tool


@tool(effects="none")
async def same(n: int) -> int:
    return n


@tool(effects="none")
async def nap(n: int) -> int:
    await asyncio.sleep(NAP_S)
    return n
"""
NAP_S = 0.5
CAPACITY = 8
"""Attempts that a worker makes at a time where they sleep."""
WAVES = 8
"""Sleeping steps one after the other in each slot."""
SETTINGS = "lease_s = 30\n"
HOP = Budget(3.0, 2.0, why="two cores carry two servers, an agent and a worker, and each hop is a commit", front=False)
BARE = "bare JetStream, request and answer"
BARE_COMMIT = "same, each answer committed in PostgreSQL first"
MOST_STEPS = 1_000
"""Of one map."""


def chain(count: int, *, tool: str = "same") -> dict[str, Any]:
    """Return a plan of so many steps, each with what the one before it returned."""
    steps: list[dict[str, Any]] = [{"id": "s0", "tool": tool, "with": {"n": 1}}]
    for number in range(1, count):
        given = f"${{{{ steps.s{number - 1}.output }}}}"
        steps.append({"id": f"s{number}", "tool": tool, "with": {"n": given}})
    return {"name": f"chain_{count}", "steps": steps, "limits": limits(count)}


def fan(count: int, *, tool: str) -> dict[str, Any]:
    """Return a plan that makes so many steps at a time."""
    items = list(range(count))
    step = {"id": "each", "tool": tool, "for_each": items, "with": {"n": "${{ item }}"}}
    return {"name": f"fan_{count}", "steps": [step], "limits": limits(count)}


def limits(count: int) -> dict[str, int]:
    return {"max_concurrent": min(MOST_STEPS, count), "max_tool_calls": 2 * count + 10, "timeout_seconds": 600}


@dataclass(frozen=True, slots=True)
class Ran:
    """What a number of runs came to.

    Attributes:
        steps: Steps made, all of which went well.
        took_s: From the first step's being asked for to the last run's end, as the record has it.
        hops_s: From each step's being asked for to the next one of the same run.
        cpu_ms: CPU milliseconds a step, by process.
    """

    steps: int
    took_s: float
    hops_s: list[float]
    cpu_ms: dict[str, float]

    @property
    def rate(self) -> float:
        return self.steps / self.took_s


class Trial:
    """Submits runs to a cluster that is there, and reads what its record says of them."""

    def __init__(self, cluster: Deployment, client: ClusterClient) -> None:
        self._cluster = cluster
        self._client = client

    async def ran(self, plan: dict[str, Any], *, runs: int = 1) -> Ran:
        from planloom.core.events import AttemptSucceeded, RunFinished, StepDispatched
        from planloom.journal.postgres.journal import PostgresJournal

        before = self._cpu_s()
        names = await asyncio.gather(*(self._client.submit(plan) for _ in range(runs)))
        results = await asyncio.gather(*map(self._client.result, names))
        after = self._cpu_s()
        for result in results:
            assert result.status == "success", result.error
        journal = PostgresJournal(self._cluster.dsn, make=False)
        begun, ended, hops, steps = [], [], [], 0
        try:
            for name in names:
                events = [recorded.event for recorded in await journal.read(name)]
                asked = [event.at for event in events if isinstance(event, StepDispatched)]
                steps += sum(isinstance(event, AttemptSucceeded) for event in events)
                hops += [later - earlier for earlier, later in pairwise(asked)]
                begun.append(asked[0])
                ended += [event.at for event in events if isinstance(event, RunFinished)]
        finally:
            await journal.close()
        cpu_ms = {name: (after[name] - before[name]) * 1e3 / steps for name in after}
        return Ran(steps, max(ended) - min(begun), hops, cpu_ms)

    def _cpu_s(self) -> dict[str, float]:
        """Return the CPU seconds that each kind of process has used."""
        cluster = self._cluster
        return {
            "agents": sum(_cpu_s(one.pid) for one in cluster.agents if one.is_up),
            "workers": sum(_cpu_s(one.pid) for one in cluster.workers if one.is_up),
            "NATS": _cpu_s(cluster.nats.pid),
            "PostgreSQL": _cpu_s(cluster.postgres.pid) + sum(map(_cpu_s, _children(cluster.postgres.pid))),
        }


async def measure(scale: Scale, folder: Path) -> list[Row]:
    """Return the rows; none where a server or what talks with it is missing."""
    from pytest import skip  # noqa: PT013 - it is what the servers of the tests say that they are missing with

    try:
        import nats  # noqa: F401 - only to see that it is there
        import psycopg  # noqa: F401

        from tests.cluster.members import Deployment
        from tests.cluster.servers import Postgres

        postgres = Postgres(durable=True)
    except (ImportError, skip.Exception) as missing:
        print(f"cluster: {missing}", file=sys.stderr)
        return []
    tools = TOOLS.replace("NAP_S", str(NAP_S))
    try:
        postgres.start()
        cluster = Deployment(
            folder, tools=tools, agents=1, workers=1, capacity=CAPACITY, settings=SETTINGS, postgres=postgres
        )
        with cluster.running():
            return await _measured(scale, cluster)
    except skip.Exception as missing:
        print(f"cluster: {missing}", file=sys.stderr)
        return []
    finally:
        await asyncio.to_thread(postgres.remove)


async def _measured(scale: Scale, cluster: Deployment) -> list[Row]:
    from planloom import ClusterClient

    async with ClusterClient(cluster.nats.url, journal=cluster.dsn) as client:
        trial = Trial(cluster, client)
        await trial.ran(chain(3))  # what is done once
        rows = await _hops(scale, cluster, trial)
        one = await _noop(scale, trial)
        rows += await _naps(scale, cluster, trial)
        cluster.agent("another").start()
        cluster.ready()
        two = await _noop(scale, trial)
    for agents, workers, ran in ((1, 1, one), (2, len(cluster.workers), two)):
        what = f"no-op steps, agents: {agents}, workers: {workers}"
        rows.append(Row(f"{what}: steps a second", "steps/s", ran.rate))
        rows += _spent(what, ran.cpu_ms)
    return rows


async def _hops(scale: Scale, cluster: Deployment, trial: Trial) -> list[Row]:
    count, rounds = scale.of(200, least=5), scale.rounds(3)
    ours: list[float] = []
    bare: list[float] = []
    written: list[float] = []
    cpu_ms: list[dict[str, float]] = []
    url = cluster.nats.url
    with _commits(cluster.dsn) as commit:
        async with _bare_worker(url):
            for number in range(rounds + 1):  # the first does not count
                ran = await trial.ran(chain(count))
                alone = await bare_broker.asked(url, count)
                kept = await bare_broker.asked(url, count, commit=commit)
                if number or rounds == 1:
                    ours += ran.hops_s
                    bare += alone
                    written += kept
                    cpu_ms.append(ran.cpu_ms)
    what = f"hop in a chain of {count} no-op steps"
    rows = []
    for beside, reference, budget in ((BARE, bare, HOP), (BARE_COMMIT, written, None)):
        more = "" if reference is bare else " (committed)"
        for name, share in (("p50", 0.5), ("p99", 0.99)):
            one, other = _share(ours, share) * 1e3, _share(reference, share) * 1e3
            rows.append(Row(f"{what}: {name}{more}", "ms", one, other, beside, budget if name == "p50" else None))
    return rows + _spent(what, {name: median(one[name] for one in cpu_ms) for name in cpu_ms[0]})


def _spent(what: str, cpu_ms: dict[str, float]) -> list[Row]:
    parts = [Row(f"{what}: CPU of {name}", "ms/step", spent) for name, spent in cpu_ms.items()]
    return [Row(f"{what}: CPU of all processes", "ms/step", sum(cpu_ms.values())), *parts]


async def _naps(scale: Scale, cluster: Deployment, trial: Trial) -> list[Row]:
    rows = []
    waves = scale.of(WAVES, least=1)
    for workers in (1, 2, 4):
        while len(cluster.workers) < workers:
            cluster.worker(f"worker{len(cluster.workers)}").start()
        cluster.ready()
        steps = waves * workers * CAPACITY
        ran = await trial.ran(fan(steps, tool="nap"))
        ideal = workers * CAPACITY / NAP_S
        what = f"sleeping steps ({NAP_S:g} s), {workers} workers of {CAPACITY} slots"
        rows.append(Row(what, "steps/s", ran.rate, ideal, "all slots always taken"))
    return rows


async def _noop(scale: Scale, trial: Trial) -> Ran:
    """Return the best of some rounds: how busy the machine is with other things differs."""
    runs, length = scale.of(100, least=4), scale.of(20, least=4)
    found = [await trial.ran(chain(length), runs=runs) for _ in range(scale.rounds(3))]
    return max(found, key=lambda ran: ran.rate)


def _share(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


# --- processes --------------------------------------------------------------------------------


@asynccontextmanager
async def _bare_worker(url: str) -> AsyncIterator[None]:
    """Have the worker of the reference at work."""
    import nats

    client = await nats.connect(url)
    await bare_broker.streams(client.jetstream())
    await client.close()
    command = [sys.executable, "-m", "benchmarks.bare_broker", url]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert bare_broker.WORKER_READY.encode() in await process.stdout.readline()
        yield
    finally:
        process.kill()
        await process.wait()


@contextmanager
def _commits(dsn: str) -> Iterator[Callable[[], None]]:
    """Return what writes an answer down, one INSERT and one commit each."""
    import psycopg

    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE bare_answers (number bigserial PRIMARY KEY, body text)")

        def commit() -> None:
            connection.execute("INSERT INTO bare_answers (body) VALUES (%s)", (bare_broker.BODY.decode(),))

        yield commit


def _cpu_s(pid: int) -> float:
    """Return the CPU seconds of a process, with those of its children that have ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(int(field) for field in fields[11:15]) / os.sysconf("SC_CLK_TCK")


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]
