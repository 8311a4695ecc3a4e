"""What an agent tells of runs that others take turns with, too."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from planloom.core.events import AttemptSucceeded, RunStarted
from planloom.journal.memory import MemoryJournal
from planloom.plan.model import Plan
from planloom.runtime.cluster.inputs import Stated, Submitted
from planloom.runtime.cluster.newsroom import Newsroom
from tests.runtime.shared_world import TOOLS, Cluster, now
from tests.runtime.test_cluster_turns import NO_FAULTS


class Told:
    """Takes down what is published."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    async def publish(self, subject: str, body: bytes, *, headers: dict[str, str]) -> None:
        self.events.append(json.loads(body))


def test_what_another_agent_recorded_is_at_hand_and_not_read_again() -> None:
    cluster = Cluster(2, NO_FAULTS)
    one, other = cluster.agents[:2]
    steps = [{"id": "a", "tool": "t"}, {"id": "b", "tool": "t", "needs": ["a"]}]
    started = RunStarted(Plan.from_dict({"steps": steps}), {}, 1_000.0, tools=TOOLS)
    [work] = now(one.take([Submitted("r", started)])).opened
    outcome = AttemptSucceeded(*work.key, 1, 1_000.0, 1_000.0)

    done = now(other.take([Stated("r", work.key, work.token, outcome, True)]))

    told = Told()

    async def tell() -> None:
        newsroom = Newsroom(told, MemoryJournal())  # type: ignore[arg-type]  # a journal without the run: it is not read
        newsroom.start()
        newsroom.tell("r", done.news["r"], missed=done.missed["r"])
        await newsroom.close()
        assert newsroom.dropped == 0

    asyncio.run(tell())
    assert [recorded.seq for recorded in done.missed["r"]] == [1, 2]
    assert [event["type"].rpartition(".")[2] for event in told.events] == ["completed", "requested", "started"]
