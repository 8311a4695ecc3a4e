"""Agents, workers, a broker and a database that are killed while runs go on. `make cluster-kills` does it at length."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.cluster.kill_shapes import TOOLS
from tests.cluster.kills import Told, Trial, table
from tests.cluster.members import Deployment
from tests.cluster.servers import Postgres

pytestmark = pytest.mark.slow
LEASE_S = 2.0
SETTINGS = f"lease_s = {LEASE_S:g}\ncheck_s = 2\n"


def tried(folder: Path, postgres: Postgres, *ways: str, runs: int, seed: int, workers: int = 2) -> Told:
    """Live a small trial in which these kills happen."""
    cluster = Deployment(folder, tools=TOOLS, agents=2, workers=workers, settings=SETTINGS, postgres=postgres)
    with cluster.running():
        trial = Trial(
            cluster, runs=runs, kills=len(ways), seed=seed, ways=ways, lease_s=LEASE_S, pace_s=0.8, patience_s=60.0
        )
        return asyncio.run(trial.live())


def test_kills_of_everything_lose_no_run_and_double_no_effect(tmp_path: Path, postgres_server: Postgres) -> None:
    ways = (
        "worker killed",
        "broker killed",
        "agent killed",
        "worker stopped past its lease",
        "database killed",
        "worker killed",
    )

    told = tried(tmp_path, postgres_server, *ways, runs=30, seed=5)

    assert told.verdict.is_good, table(told)
    assert sum(told.verdict.statuses.values()) == 30
    assert sum(told.struck.values()) == len(ways)


def test_all_runs_finish_though_the_broker_comes_back_with_an_empty_store(
    tmp_path: Path, postgres_server: Postgres
) -> None:
    told = tried(tmp_path, postgres_server, *["broker killed, store lost"] * 2, runs=30, seed=6)

    assert told.verdict.is_good, table(told)
    assert sum(told.verdict.statuses.values()) == 30
    assert told.metrics["planloom_cluster_broker_losses_total"] >= 2
