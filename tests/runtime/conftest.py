"""Where the runs of these tests are on record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from planloom import (
    MemoryJournal,
)


@pytest.fixture(params=["memory", "sqlite"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Return what opens the same journal each time it is called."""
    if request.param == "sqlite":
        return lambda: tmp_path / "runs.db"
    journal = MemoryJournal()
    return lambda: journal
