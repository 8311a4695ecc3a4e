"""Agents whose broker, database or workers misbehave: nothing is lost, and nothing with effects is done twice."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from planloom import RunStatus
from planloom.core.events import AttemptFailed, CancelRequested, OutcomeUnknown, ResultRefused, StepResolved
from planloom.core.result import RunResult
from planloom.journal.postgres.journal import PostgresJournal
from planloom.journal.postgres.shared import SharedRuns
from planloom.plan.policy import FailureKind
from planloom.runtime.cluster.client import ClusterClient
from planloom.runtime.cluster.settings import ClusterSettings, ModuleSetting
from planloom.runtime.reading import read_run
from planloom.testing import check_history
from planloom.testing.fakes import fake_tool
from planloom.transport.nats.link import Broker
from tests.cluster.hands import Hand, agent
from tests.cluster.links import linked
from tests.cluster.servers import Nats, Postgres, comes

TOOLS = [fake_tool("add", [0], effects="none"), fake_tool("pay", ["paid"], effects="once")]
WITHIN_S = 40.0


def chain(*tools: str, **fields: Any) -> dict[str, Any]:
    steps = [
        {"id": f"s{n}", "tool": tool, "with": {"n": n}} | ({"needs": [f"s{n - 1}"]} if n else {}) | fields
        for n, tool in enumerate(tools)
    ]
    return {"planloom": 1, "name": "chain", "steps": steps}


@asynccontextmanager
async def asking(dsn: str, nats: Nats) -> AsyncIterator[tuple[ClusterClient, PostgresJournal]]:
    journal, shared = PostgresJournal(dsn), SharedRuns(dsn)
    async with ClusterClient(Broker((nats.url,)), journal=journal, shared=shared) as client:
        yield client, journal
    await shared.close()
    await journal.close()


async def result_of(client: ClusterClient, run_id: str) -> RunResult:
    async with asyncio.timeout(WITHIN_S):
        return await client.result(run_id)


async def lawful(journal: PostgresJournal, run_id: str) -> None:
    assert check_history(await journal.read(run_id), run_id=run_id) == []


def test_a_broker_that_loses_all_it_has_in_the_middle_costs_no_run(postgres: str, nats: Nats) -> None:
    async def main() -> None:
        gate = asyncio.Event()

        async def waits(request: Any) -> Any:
            await gate.wait()
            return request.args["n"]

        async with (
            agent(postgres, nats.url, tools=TOOLS) as one,
            Hand(nats.url, waits) as hand,
            asking(postgres, nats) as (client, journal),
        ):
            runs = [await client.submit(chain("add", "pay", "add"), run_id=f"r{n}") for n in range(5)]
            await comes(lambda: len(hand.made) == 5)
            nats.restart(empty=True)
            gate.set()
            results = [await result_of(client, run_id) for run_id in runs]

            assert {result.status for result in results} == {RunStatus.SUCCESS}
            assert all(hand.made[run_id, "s1"] == 1 for run_id in runs)
            assert one.counts()["broker_losses"] >= 1
            for run_id in runs:
                await lawful(journal, run_id)

    asyncio.run(main())


def test_a_submission_that_the_broker_lost_before_anybody_read_it_is_made_again_while_it_is_waited_for(
    postgres: str, nats: Nats
) -> None:
    async def main() -> None:
        async with linked(nats), asking(postgres, nats) as (client, _):
            run_id = await client.submit(chain("pay"))
            nats.restart(empty=True)
            async with (
                agent(postgres, nats.url, tools=TOOLS),
                Hand(nats.url, lambda request: 1) as hand,
            ):
                result = await result_of(client, run_id)

            assert result.status is RunStatus.SUCCESS
            assert hand.made == {(run_id, "s0"): 1}

    asyncio.run(main())


def test_a31_a_worker_that_dies_with_a_step_that_may_run_again_has_it_made_by_another(
    postgres: str, nats: Nats
) -> None:
    async def main() -> None:
        calls = []

        def dies_once(request: Any) -> Any:
            calls.append(request.attempt)
            return None if len(calls) == 1 else "made"

        async with (
            agent(postgres, nats.url, tools=TOOLS),
            Hand(nats.url, dies_once),
            asking(postgres, nats) as (client, journal),
        ):
            run_id = await client.submit(chain("add"))
            result = await result_of(client, run_id)

            assert result.output == "made"
            assert result.steps[0].attempts == 2
            await lawful(journal, run_id)

    asyncio.run(main())


def test_a31_a_worker_that_dies_with_a_step_that_may_run_once_leaves_it_to_a_person(postgres: str, nats: Nats) -> None:
    async def main() -> None:
        async with (
            agent(postgres, nats.url, tools=TOOLS),
            Hand(nats.url, lambda request: None) as hand,
            asking(postgres, nats) as (client, journal),
        ):
            run_id = await client.submit(chain("pay"))
            await client.started(run_id)

            async def unknown() -> bool:
                return any(isinstance(one.event, OutcomeUnknown) for one in await journal.read(run_id))

            await comes(unknown)
            on_record = await read_run(journal, run_id)
            await journal.post(run_id, StepResolved("s0", "output", "Ann", 0.0, "it was paid", None, 1))
            result = await result_of(client, run_id)

            assert on_record.result.status is RunStatus.WAITING
            assert result.output == "it was paid"
            assert hand.made[run_id, "s0"] == 1
            await lawful(journal, run_id)

    asyncio.run(main())


def test_an_outcome_without_the_token_or_too_late_is_refused_and_counted(postgres: str, nats: Nats) -> None:
    async def main() -> None:
        seen: list[dict[str, Any]] = []
        gate = asyncio.Event()

        async def waits(request: Any) -> Any:
            await gate.wait()
            return "right"

        async with (
            agent(postgres, nats.url, tools=TOOLS) as one,
            Hand(nats.url, waits) as hand,
            asking(postgres, nats) as (client, journal),
        ):
            run_id = await client.submit(chain("add", "add"))
            await comes(lambda: hand.made[run_id, "s0"] == 1)
            told = {"at": [run_id, "s0", 1, 1], "token": "x"}
            forged = AttemptFailed("s0", 1, 1, FailureKind.ERROR, "forged", 0.0, 0.0)
            await hand.say(told, forged)
            await comes(lambda: one.counts().get("inputs_stale") == 1)
            gate.set()
            result = await result_of(client, run_id)
            await hand.say(told, forged)
            await comes(lambda: one.counts().get("inputs_stale") == 2)

            assert seen == []
            assert result.output == "right"
            await lawful(journal, run_id)

    asyncio.run(main())


def test_a31_what_comes_too_late_for_a_run_that_goes_on_is_refused_on_record(postgres: str, nats: Nats) -> None:
    async def main() -> None:
        gate = asyncio.Event()

        async def waits(request: Any) -> Any:
            if request.key == "s1":
                await gate.wait()
            return "right"

        async with (
            agent(postgres, nats.url, tools=TOOLS),
            Hand(nats.url, waits) as hand,
            asking(postgres, nats) as (client, journal),
        ):
            run_id = await client.submit(chain("add", "add"))
            await comes(lambda: hand.made[run_id, "s1"] == 1)
            late = AttemptFailed("s0", 1, 1, FailureKind.ERROR, "late", 0.0, 0.0)
            await hand.say({"at": [run_id, "s0", 1, 1], "token": "x"}, late)

            async def refused() -> bool:
                return any(isinstance(one.event, ResultRefused) for one in await journal.read(run_id))

            await comes(refused)
            gate.set()
            assert (await result_of(client, run_id)).status is RunStatus.SUCCESS
            await lawful(journal, run_id)

    asyncio.run(main())


def test_a_run_that_is_cancelled_stops_what_is_under_way_and_ends(postgres: str, nats: Nats) -> None:
    async def main() -> None:
        async with (
            agent(postgres, nats.url, tools=TOOLS),
            Hand(nats.url, lambda request: asyncio.sleep(60)) as hand,
            asking(postgres, nats) as (client, journal),
        ):
            run_id = await client.submit(chain("add", "add"))
            await comes(lambda: hand.made[run_id, "s0"] == 1)
            await journal.post(run_id, CancelRequested("Ann", 0.0, "enough"))
            result = await result_of(client, run_id)

            assert result.status is RunStatus.CANCELLED
            assert hand.made[run_id, "s1"] == 0
            await lawful(journal, run_id)

    asyncio.run(main())


def test_a_run_that_is_paused_rests_and_goes_on_where_it_was(postgres: str, nats: Nats) -> None:
    async def main() -> None:
        gate = asyncio.Event()

        async def waits(request: Any) -> Any:
            await gate.wait()
            return 1

        async with (
            agent(postgres, nats.url, tools=TOOLS),
            Hand(nats.url, waits) as hand,
            asking(postgres, nats) as (client, journal),
        ):
            run_id = await client.submit(chain("pay", "pay"))
            await comes(lambda: hand.made[run_id, "s0"] == 1)
            await client.pause(run_id)

            async def paused() -> bool:
                return (await read_run(journal, run_id)).state.paused

            await comes(paused)
            await client.resume(run_id)  # while s0 is under way: it waits for that
            gate.set()
            result = await result_of(client, run_id)

            assert result.status is RunStatus.SUCCESS
            assert hand.made == {(run_id, "s0"): 1, (run_id, "s1"): 1}
            await lawful(journal, run_id)

    asyncio.run(main())


def test_a_database_that_is_killed_and_comes_back_costs_no_run(postgres_server: Postgres, nats: Nats) -> None:
    async def main() -> None:
        dsn = postgres_server.database()
        gate = asyncio.Event()

        async def waits(request: Any) -> Any:
            await gate.wait()
            return 1

        async with (
            agent(dsn, nats.url, tools=TOOLS),
            Hand(nats.url, waits) as hand,
            asking(dsn, nats) as (client, journal),
        ):
            runs = [await client.submit(chain("pay", "add"), run_id=f"r{n}") for n in range(5)]
            await comes(lambda: len(hand.made) == 5)
            postgres_server.kill()
            gate.set()
            await asyncio.to_thread(postgres_server.start)
            results = [await result_of(client, run_id) for run_id in runs]

            assert {result.status for result in results} == {RunStatus.SUCCESS}
            assert all(times == 1 for times in hand.made.values())
            for run_id in runs:
                await lawful(journal, run_id)

    asyncio.run(main())


def test_a34_work_for_preferred_workers_goes_to_others_when_those_do_not_come(postgres: str, nats: Nats) -> None:
    async def main() -> None:
        async with (
            agent(postgres, nats.url, tools=TOOLS),
            Hand(nats.url, lambda request: "here"),
            asking(postgres, nats) as (client, journal),
        ):
            run_id = await client.submit(chain("add", labels={"prefer.region": "eu"}))
            result = await result_of(client, run_id)

            assert result.output == "here"
            assert result.steps[0].attempts == 1
            await lawful(journal, run_id)

    asyncio.run(main())


def test_a34_work_that_requires_workers_there_are_none_of_is_said_to_be_unschedulable(
    postgres: str, nats: Nats
) -> None:
    async def main() -> None:
        async with (
            agent(postgres, nats.url, tools=TOOLS),
            Hand(nats.url, lambda request: "here") as hand,
            asking(postgres, nats) as (client, journal),
        ):
            run_id = await client.submit(chain("add", labels={"require.region": "eu"}))
            result = await result_of(client, run_id)

            assert result.status is RunStatus.FAILED
            assert "cannot be scheduled" in (result.error or "")
            assert hand.made == {}
            await lawful(journal, run_id)

    asyncio.run(main())


def test_a_module_begins_no_more_attempts_in_a_minute_than_its_rate(postgres: str, nats: Nats) -> None:
    async def main() -> None:
        settings = ClusterSettings(
            lease_s=5, check_s=30, modules={"main": ModuleSetting(allow=("add",), rate_per_minute=600)}
        )
        moments: list[float] = []

        def when(request: Any) -> Any:
            moments.append(asyncio.get_running_loop().time())
            return 1

        async with (
            agent(postgres, nats.url, tools=TOOLS, settings=settings),
            Hand(nats.url, when),
            asking(postgres, nats) as (client, _),
        ):
            steps = [{"id": f"s{n}", "tool": "add", "with": {"n": n}} for n in range(10)]
            run_id = await client.submit({"planloom": 1, "steps": steps})
            result = await result_of(client, run_id)

            assert result.status is RunStatus.SUCCESS
            assert moments[-1] - moments[0] >= 0.8  # ten in a tenth of a second each

    asyncio.run(main())


def test_three_agents_take_turns_with_the_same_runs_and_none_decides_twice(postgres: str, nats: Nats) -> None:
    async def main() -> None:
        async with (
            agent(postgres, nats.url, tools=TOOLS) as one,
            agent(postgres, nats.url, tools=TOOLS) as two,
            agent(postgres, nats.url, tools=TOOLS) as three,
            Hand(nats.url, lambda request: 1) as hand,
            asking(postgres, nats) as (client, journal),
        ):
            runs = [await client.submit(chain("add", "pay", "add", "pay"), run_id=f"r{n}") for n in range(25)]
            results = [await result_of(client, run_id) for run_id in runs]

            assert {result.status for result in results} == {RunStatus.SUCCESS}
            assert set(hand.made.values()) == {1}
            assert len(hand.made) == 100
            took = [each.counts()["inputs_taken"] for each in (one, two, three)]
            assert min(took) > 0
            for run_id in runs:
                await lawful(journal, run_id)

    asyncio.run(main())


def test_noise_is_counted_and_stops_nobody(postgres: str, nats: Nats) -> None:
    async def main() -> None:
        async with (
            agent(postgres, nats.url, tools=TOOLS) as one,
            Hand(nats.url, lambda request: 1) as hand,
            asking(postgres, nats) as (client, _),
        ):
            for body in (b"", b"{}", b"[1", b'{"v":1,"at":["r","s",1,1]}', json.dumps({"v": 1, "run_id": 3}).encode()):
                for subject in ("pl.in.main.r.s.1-1", "pl.in.submit.r", "pl.in.signal.r.cancel", "pl.in.main"):
                    await hand._link.store(subject, body)
            await comes(lambda: one.counts().get("inputs_unreadable") == 20)
            run_id = await client.submit(chain("add"))

            assert (await result_of(client, run_id)).status is RunStatus.SUCCESS

    asyncio.run(main())
