"""Worker processes as many as there is work for."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest

from planloom.transport.nats.crew import CrewRule
from tests.cluster.servers import Nats, comes
from tests.cluster.small_agent import small_agent, value, worker
from tests.transport.workplace import alive, calls

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("here", "coming", "waiting", "expected"),
    [
        (0, 0, 0, 1),  # as many as there are to be at least
        (1, 0, 0, 0),
        (1, 0, 1, 1),
        (1, 0, 3, 2),  # two take two each
        (1, 1, 2, 0),  # whoever is coming takes them
        (1, 1, 3, 1),
        (3, 0, 100, 1),  # no more than there may be
        (4, 0, 100, 0),
    ],
)
def test_one_is_started_for_what_waits_and_for_which_none_is_coming(
    here: int, coming: int, waiting: int, expected: int
) -> None:
    rule = CrewRule(1, 4, capacity=2)

    assert rule.to_start(here=here, coming=coming, waiting=waiting, now=0.0) == expected


def test_after_a_failed_start_the_next_waits_longer_each_time_until_one_comes_to_work() -> None:
    rule = CrewRule(1, 4, capacity=1)

    waits = [rule.failed(now=0.0) for _ in range(3)]
    during = rule.to_start(here=0, coming=0, waiting=5, now=0.5)
    rule.started()

    assert waits == [0.2, 0.4, 0.8]
    assert during == 0
    assert rule.failed(now=0.0) == 0.2


@pytest.mark.slow
def test_a32_eight_programs_of_a_second_have_up_to_four_workers_and_one_when_they_are_done(
    nats: Nats, tmp_path: Path
) -> None:
    async def main() -> list[Any]:
        async with small_agent(nats, lease_s=10.0) as agent, worker(nats, "--processes", "1..4", "--idle", "1") as crew:
            await agent.outcome(await agent.ask_for("w.pid", run="first"))
            began = time.monotonic()
            ats = [
                await agent.ask_for("w.put", {"folder": str(tmp_path), "n": 1, "seconds": 1.0}, run=f"r{number}")
                for number in range(8)
            ]
            for at in ats:
                await agent.outcome(at, within_s=30)
            took_s = time.monotonic() - began
            pids = {int(line[3]) for line in calls(tmp_path)}
            await comes(lambda: sum(map(alive, pids)) == 1, within_s=15)
            again = await agent.outcome(await agent.ask_for("w.pid", run="last"))
            crew.terminate()
            code = await asyncio.wait_for(crew.wait(), 15)
            return [took_s, len(pids), value(again) in pids, code, sum(map(alive, pids))]

    took_s, peak, same, code, left = asyncio.run(main())

    # One worker takes eight seconds; starting the others takes as long as this machine needs.
    assert took_s < 8.0 or peak == 4
    assert 2 <= peak <= 4
    assert same
    assert (code, left) == (0, 0)


@pytest.mark.slow
def test_a_crew_of_none_starts_one_when_there_is_work(nats: Nats) -> None:
    async def main() -> int:
        async with small_agent(nats, lease_s=10.0) as agent, worker(nats, "--processes", "0..2") as crew:
            pid: int = value(await agent.outcome(await agent.ask_for("w.pid"), within_s=30))
            assert pid != crew.pid
            return pid

    assert asyncio.run(main()) > 0


@pytest.mark.slow
def test_workers_of_a_crew_that_is_killed_are_gone_with_it(nats: Nats) -> None:
    async def main() -> bool:
        async with small_agent(nats, lease_s=10.0) as agent, worker(nats, "--processes", "1..2") as crew:
            pid = value(await agent.outcome(await agent.ask_for("w.pid"), within_s=30))
            crew.kill()
            await comes(lambda: not alive(pid))
            return alive(pid)

    assert asyncio.run(main()) is False


@pytest.mark.slow
def test_a_crew_whose_tools_cannot_be_loaded_says_so_and_ends(nats: Nats, tmp_path: Path) -> None:
    async def main() -> tuple[int | None, str]:
        async with small_agent(nats), worker(nats, "--processes", "1..2", tools=str(tmp_path / "none.py")) as crew:
            _, said = await asyncio.wait_for(crew.communicate(), 30)
            return crew.returncode, said.decode()

    code, said = asyncio.run(main())

    assert code != 0
    assert "none.py" in said
