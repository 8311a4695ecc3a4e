"""Agents of a cluster over real servers: from a submission to a result on record."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from planloom import RunStatus
from planloom.errors import SubmissionRefusedError
from planloom.journal.postgres.journal import PostgresJournal
from planloom.journal.postgres.shared import SharedRuns
from planloom.runtime.cluster.client import ClusterClient
from planloom.testing import check_history
from planloom.testing.fakes import fake_tool
from planloom.transport.nats.link import Broker
from tests.cluster.hands import Hand, agent
from tests.cluster.servers import Nats

TOOLS = [fake_tool("add", [0]), fake_tool("pay", ["paid"], effects="once"), fake_tool("look", [1], effects="none")]


def diamond(tool: str = "add") -> dict[str, Any]:
    return {
        "planloom": 1,
        "name": "diamond",
        "steps": [
            {"id": "a", "tool": tool, "with": {"n": "${{ inputs.n }}"}},
            {"id": "b", "tool": tool, "with": {"n": "${{ steps.a.output }}"}},
            {"id": "c", "tool": tool, "with": {"n": "${{ steps.a.output }}"}},
            {"id": "d", "tool": "pay", "with": {"n": "${{ steps.b.output }}"}, "needs": ["c"]},
        ],
        "inputs": {"n": {}},
    }


def adds(request: Any) -> Any:
    return request.args["n"] + 1


def test_a_submission_becomes_a_run_that_two_workers_make(postgres: str, nats: Nats) -> None:
    async def main() -> None:
        journal, shared = PostgresJournal(postgres), SharedRuns(postgres)
        async with (
            agent(postgres, nats.url, tools=TOOLS),
            Hand(nats.url, adds) as one,
            Hand(nats.url, adds) as other,
            ClusterClient(Broker((nats.url,)), journal=journal, shared=shared) as client,
        ):
            run_id = await client.submit(diamond(), {"n": 1})
            async with asyncio.timeout(20):
                result = await client.result(run_id)

            assert result.status is RunStatus.SUCCESS
            assert result.output == 4
            assert sum((one.made + other.made).values()) == 4
            assert check_history(await journal.read(run_id), run_id=run_id) == []
        await shared.close()
        await journal.close()

    asyncio.run(main())


def test_a_plan_that_cannot_run_there_is_refused_and_whoever_submitted_it_is_told_why(
    postgres: str, nats: Nats
) -> None:
    async def main() -> None:
        journal, shared = PostgresJournal(postgres), SharedRuns(postgres)
        async with (
            agent(postgres, nats.url, tools=TOOLS),
            ClusterClient(Broker((nats.url,)), journal=journal, shared=shared) as client,
        ):
            run_id = await client.submit({"planloom": 1, "steps": [{"id": "a", "tool": "nothing"}]})
            async with asyncio.timeout(20):
                with pytest.raises(SubmissionRefusedError, match="nothing"):
                    await client.result(run_id)
        await shared.close()
        await journal.close()

    asyncio.run(main())
