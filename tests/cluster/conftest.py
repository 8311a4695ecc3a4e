"""The servers that tests of a cluster use: one PostgreSQL for all of them, one NATS and one database for each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.cluster.servers import Nats, Postgres

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """Return the PostgreSQL that tests share; whoever kills it starts it again."""
    server = Postgres()
    try:
        yield server.start()
    finally:
        server.remove()


@pytest.fixture
def postgres(postgres_server: Postgres) -> str:
    """Return the address of an empty database of one's own."""
    return postgres_server.database()


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[Nats]:
    """Return a NATS of one's own."""
    server = Nats(tmp_path / "nats")
    try:
        yield server.start()
    finally:
        server.kill()
