"""What a cluster's settings and its news promise: limits, modules, dead letters, overload."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from planloom import RunStatus
from planloom.core.events import AttemptFailed
from planloom.errors import OverloadedError, SubmissionRefusedError
from planloom.plan.policy import FailureKind
from planloom.runtime.cluster.settings import ClusterSettings, ModuleSetting
from planloom.testing.fakes import fake_tool
from planloom.transport.nats.link import Broker, BrokerLink
from planloom.transport.nats.streams import StreamTerms, ensure_streams
from tests.cluster.hands import Hand, agent
from tests.cluster.servers import Nats, comes
from tests.cluster.test_orchestrator_faults import TOOLS, asking, chain, lawful, result_of


def test_a33_overload_is_signalled_and_nothing_that_was_taken_is_lost(postgres: str, nats: Nats) -> None:
    async def main() -> None:
        settings = ClusterSettings(max_submissions=10, lease_s=2, check_s=2)
        link = BrokerLink(Broker((nats.url,)))
        await link.open(wait_s=5)
        await ensure_streams(link, StreamTerms(max_submissions=10, lease_s=2))
        async with asking(postgres, nats) as (client, _):
            taken, refused = [], 0
            for number in range(100):
                try:
                    taken.append(await client.submit(chain("add"), run_id=f"r{number}"))
                except OverloadedError:
                    refused += 1
            async with (
                agent(postgres, nats.url, tools=TOOLS, settings=settings),
                Hand(nats.url, lambda request: 1),
            ):
                results = [await result_of(client, run_id) for run_id in taken]
        await link.close()

        assert (len(taken), refused) == (10, 90)
        assert [result.error for result in results] == [None] * 10
        assert {result.status for result in results} == {RunStatus.SUCCESS}

    asyncio.run(main())


def test_a33_a_step_that_fails_for_good_is_one_dead_letter_that_others_hear_of(postgres: str, nats: Nats) -> None:
    async def main() -> None:
        heard: list[dict[str, Any]] = []
        link = BrokerLink(Broker((nats.url,)))
        await link.open(wait_s=5)

        async def hear(message: Any) -> None:
            heard.append(json.loads(message.data))

        await link.subscribe("pl.evt.*.planloom.step.dead_letter", hear)

        def fails(request: Any) -> Any:
            now = 0.0
            return AttemptFailed(
                request.key, request.attempt, request.epoch, FailureKind.ERROR, "no", now, now, ("OSError", "Exception")
            )

        retry = {"max_attempts": 3, "initial_delay": 0.01, "jitter": False}
        async with (
            agent(postgres, nats.url, tools=TOOLS),
            Hand(nats.url, fails) as hand,
            asking(postgres, nats) as (client, journal),
        ):
            run_id = await client.submit(chain("add", retry=retry))
            result = await result_of(client, run_id)
            await comes(lambda: heard)
            await lawful(journal, run_id)

            assert result.status is RunStatus.FAILED
            assert hand.made[run_id, "s0"] == 3
        await link.close()

        [letter] = heard
        assert letter["data"]["attempts"] == 3
        assert letter["data"]["error"] == "no"
        assert sum(one["event"] == "AttemptFailed" for one in letter["data"]["history"]) == 3

    asyncio.run(main())


def test_news_of_a_run_come_in_order_and_name_what_led_to_them(postgres: str, nats: Nats) -> None:
    async def main() -> None:
        heard: list[dict[str, Any]] = []
        link = BrokerLink(Broker((nats.url,)))
        await link.open(wait_s=5)

        async def hear(message: Any) -> None:
            heard.append(json.loads(message.data))

        await link.subscribe("pl.evt.r.>", hear)
        async with (
            agent(postgres, nats.url, tools=TOOLS),
            Hand(nats.url, lambda request: 1),
            asking(postgres, nats) as (client, _),
        ):
            await result_of(client, await client.submit(chain("add", "pay"), run_id="r"))
            await comes(lambda: heard and heard[-1]["type"] == "planloom.run.finished")
        await link.close()

        numbers = [one["sequence"] for one in heard if "sequence" in one]
        assert [one["type"] for one in heard[:3]] == [
            "planloom.run.started",
            "planloom.step.requested",
            "planloom.step.started",
        ]
        assert numbers == sorted(numbers)

    asyncio.run(main())


def test_commands_for_which_there_is_no_room_wait_in_the_outbox_and_are_counted(postgres: str, nats: Nats) -> None:
    async def main() -> None:
        settings = ClusterSettings(max_queued=5, lease_s=5, check_s=5)
        async with (
            agent(postgres, nats.url, tools=TOOLS, settings=settings) as one,
            asking(postgres, nats) as (client, journal),
        ):
            steps = [{"id": f"s{n}", "tool": "pay", "with": {"n": n}} for n in range(20)]
            run_id = await client.submit({"planloom": 1, "steps": steps})
            await comes(lambda: one.counts().get("commands_full", 0) >= 15)
            async with Hand(nats.url, lambda request: 1) as hand:
                result = await result_of(client, run_id)

            assert result.status is RunStatus.SUCCESS
            assert set(hand.made.values()) == {1}
            await lawful(journal, run_id)

    asyncio.run(main())


MODULES = {"mail": ModuleSetting(allow=("pay",)), "sums": ModuleSetting(allow=("add",), max_in_flight=2)}


def test_each_module_makes_its_own_steps_and_no_more_at_a_time_than_it_may(postgres: str, nats: Nats) -> None:
    async def main() -> None:
        at_once, most = 0, 0

        async def counts(request: Any) -> Any:
            nonlocal at_once, most
            at_once += 1
            most = max(most, at_once)
            await asyncio.sleep(0.02)
            at_once -= 1
            return 1

        settings = ClusterSettings(modules=MODULES, lease_s=5, check_s=5)
        async with (
            agent(postgres, nats.url, tools=TOOLS, settings=settings),
            Hand(nats.url, counts, capability="sums") as sums,
            Hand(nats.url, lambda request: "paid", capability="mail") as mail,
            asking(postgres, nats) as (client, _),
        ):
            steps = [{"id": f"s{n}", "tool": "add", "with": {"n": n}} for n in range(12)]
            last = {"id": "last", "tool": "pay", "with": {"n": 1}, "needs": [step["id"] for step in steps]}
            result = await result_of(client, await client.submit({"planloom": 1, "steps": [*steps, last]}))

            assert result.output == "paid"
            assert len(sums.made) == 12
            assert len(mail.made) == 1
        assert most == 2

    asyncio.run(main())


def test_a_step_that_no_module_or_that_two_may_make_is_refused_with_all_the_others(postgres: str, nats: Nats) -> None:
    async def main() -> None:
        modules = MODULES | {"more": ModuleSetting(allow=("add",))}
        tools = [*TOOLS, fake_tool("nobodys", [1])]
        async with (
            agent(postgres, nats.url, tools=tools, settings=ClusterSettings(modules=modules)),
            asking(postgres, nats) as (client, _),
        ):
            run_id = await client.submit(
                {
                    "planloom": 1,
                    "steps": [
                        {"id": "none", "tool": "nobodys"},
                        {"id": "two", "tool": "add"},
                        {"id": "one", "tool": "pay"},
                        {"id": "model", "model": "scripted://echo", "prompt": "x"},
                    ],
                }
            )
            async with asyncio.timeout(20):
                with pytest.raises(SubmissionRefusedError) as caught:
                    await client.started(run_id)

        problems = caught.value.facts["refusal"]["problems"]
        assert [problem["step"] for problem in problems] == ["none", "two", "model"]

    asyncio.run(main())


def test_what_is_too_large_for_the_broker_fails_its_attempt_and_says_so(postgres: str, nats: Nats) -> None:
    async def main() -> None:
        async with (
            agent(postgres, nats.url, tools=TOOLS),
            Hand(nats.url, lambda request: "x" * 7_000_000 if request.key == "a" else 1),
            asking(postgres, nats) as (client, journal),
        ):
            steps = [
                {"id": "a", "tool": "add", "with": {"n": 1}},
                {"id": "b", "tool": "add", "with": {"n": ["${{ steps.a.output }}", "${{ steps.a.output }}"]}},
            ]
            result = await result_of(client, await client.submit({"planloom": 1, "steps": steps}))
            await lawful(journal, result.run_id)

        assert result.status is RunStatus.FAILED
        assert "bytes" in (result.error or "")

    asyncio.run(main())


def test_a_name_that_another_run_has_is_refused_and_the_same_submission_twice_is_one_run(
    postgres: str, nats: Nats
) -> None:
    async def main() -> None:
        async with (
            agent(postgres, nats.url, tools=TOOLS),
            Hand(nats.url, lambda request: 1) as hand,
            asking(postgres, nats) as (client, journal),
            asking(postgres, nats) as (other, _),
        ):
            for _ in range(2):
                await client.submit(chain("add"), run_id="r")
            assert (await result_of(client, "r")).status is RunStatus.SUCCESS
            await other.submit(chain("add", "add"), run_id="r")

            async def refused() -> bool:
                return await other._shared.refusal("r") is not None

            await comes(refused)
            assert hand.made == {("r", "s0"): 1}
            assert len(await journal.runs()) == 1

    asyncio.run(main())
