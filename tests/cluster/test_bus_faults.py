"""A bus that says things twice, late, in another order or not at all, between real processes: nothing comes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from planloom.core.events import AttemptFailed, AttemptSucceeded
from planloom.journal.postgres.journal import PostgresJournal
from tests.cluster.faulty_link import Faults, FaultyLink
from tests.cluster.kill_shapes import TOOLS
from tests.cluster.kills import Told, Trial, table
from tests.cluster.members import Deployment
from tests.cluster.servers import Postgres

pytestmark = pytest.mark.slow
LEASE_S = 2.0
SETTINGS = f"lease_s = {LEASE_S:g}\ncheck_s = 3\n"


def lived(folder: Path, postgres: Postgres, faults: Faults, *, runs: int, seed: int) -> tuple[Told, FaultyLink, int]:
    """Live a trial over a faulty link; return what it came to, the link, and how many outcomes are on record."""
    links: list[FaultyLink] = []

    @contextmanager
    def between(url: str) -> Iterator[str]:
        with FaultyLink(url, faults, seed=seed) as link:
            links.append(link)
            yield link.url

    cluster = Deployment(folder, tools=TOOLS, agents=2, workers=2, settings=SETTINGS, postgres=postgres, link=between)
    with cluster.running():
        told = asyncio.run(Trial(cluster, runs=runs, kills=0, seed=seed, lease_s=LEASE_S, patience_s=60.0).live())
        return told, links[0], asyncio.run(outcomes(cluster.dsn, runs))


async def outcomes(dsn: str, runs: int) -> int:
    journal = PostgresJournal(dsn)
    records = [await journal.read(f"r{number:04d}") for number in range(runs)]
    await journal.close()
    return sum(isinstance(one.event, AttemptSucceeded | AttemptFailed) for record in records for one in record)


def test_what_comes_twice_late_or_in_another_order_changes_no_result_and_is_counted(
    tmp_path: Path, postgres_server: Postgres
) -> None:
    faults = Faults(duplicate=0.1, late=0.3, very_late=0.03, far_s=1.5 * LEASE_S)

    told, link, on_record = lived(tmp_path, postgres_server, faults, runs=60, seed=7)

    assert told.verdict.is_good, table(told)
    assert link.counts["duplicated outcome"] > 0
    assert link.counts["very late outcome"] > 0
    assert link.counts["very late command"] > 0
    # Of each attempt one outcome counted, and every other one that came to an agent was refused.
    stale = told.metrics["planloom_cluster_inputs_stale_total"]
    assert stale >= sum(link.outcomes.values()) - on_record > 0


def test_a30_two_hundred_runs_over_a_faulty_bus_do_everything_once_and_come_to_the_same(
    tmp_path: Path, postgres_server: Postgres
) -> None:
    faults = Faults(duplicate=1.0, late=1.0, jitter_s=0.05, drop=0.01)

    told, link, _ = lived(tmp_path, postgres_server, faults, runs=200, seed=8)

    assert told.verdict.is_good, table(told)
    assert sum(told.verdict.statuses.values()) == 200
    assert {what for what in ("command", "outcome", "question") if link.counts[f"dropped {what}"]}
