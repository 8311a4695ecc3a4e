"""The benchmark of a cluster works, whatever it measures."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from benchmarks import cluster
from benchmarks.timing import Scale
from tests.cluster.servers import nats_program

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.slow
def test_each_row_of_the_benchmark_was_measured(tmp_path: Path) -> None:
    nats_program()

    rows = asyncio.run(cluster.measure(Scale(tiny=True), tmp_path))

    assert len({row.what for row in rows}) == len(rows) >= 20
    assert all(row.ours >= 0 for row in rows)
    assert sum(row.reference is not None for row in rows) == 7
