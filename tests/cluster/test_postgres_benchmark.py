"""The benchmark of the journal in PostgreSQL works, whatever it measures."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from benchmarks import postgres
from benchmarks.timing import Scale

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.slow
def test_each_row_of_the_benchmark_has_its_reference(tmp_path: Path) -> None:
    rows = asyncio.run(postgres.measure(Scale(tiny=True), tmp_path))

    assert len(rows) == 7
    assert all(row.ours > 0 and row.reference and row.beside for row in rows)
