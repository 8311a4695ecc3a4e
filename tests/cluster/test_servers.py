"""The servers that the tests of a cluster stand on."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import nats as client
import pytest

if TYPE_CHECKING:
    from tests.cluster.servers import Nats, Postgres


async def kept(url: str) -> int:
    connection = await client.connect(url)
    try:
        return (await connection.jetstream().stream_info("KEPT")).state.messages
    finally:
        await connection.close()


async def keep_one(url: str) -> None:
    connection = await client.connect(url)
    await connection.jetstream().add_stream(name="KEPT", subjects=["kept"])
    await connection.jetstream().publish("kept", b"1")
    await connection.close()


def test_a_nats_that_was_killed_comes_back_where_it_was_with_what_it_had(nats: Nats) -> None:
    url = nats.url
    asyncio.run(keep_one(url))

    nats.restart()

    assert nats.url == url
    assert asyncio.run(kept(url)) == 1


def test_a_nats_that_was_wiped_comes_back_empty(nats: Nats) -> None:
    asyncio.run(keep_one(nats.url))

    nats.restart(empty=True)

    with pytest.raises(client.js.errors.NotFoundError):
        asyncio.run(kept(nats.url))


def test_a_postgresql_that_was_killed_comes_back_where_it_was_with_what_it_had(postgres_server: Postgres) -> None:
    name = postgres_server.database().split("/")[3].split("?")[0]
    postgres_server.sql("CREATE TABLE kept AS SELECT 7 AS number", database=name)

    postgres_server.restart()

    assert postgres_server.sql("SELECT number FROM kept", database=name) == "7"
