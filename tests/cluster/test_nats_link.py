"""A connection to the broker: kept up, refused, cut."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from planloom.errors import BrokerError, BrokerRefusedError, JetStreamError
from planloom.transport.nats.link import Broker, BrokerLink
from tests.cluster.links import linked
from tests.cluster.servers import Nats, comes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from nats.aio.msg import Msg

USERS = """
max_payload: 8MB
accounts { A { jetstream: enabled, users: [
  { user: all, password: well-known }
  { user: few, password: well-known, permissions: { publish: ["may"], subscribe: ["_INBOX.>"] } }
] } }
"""


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Nats]:
    server = Nats(tmp_path / "guarded", USERS).start()
    try:
        yield server
    finally:
        server.kill()


def as_user(server: Nats, user: str, password: str = "well-known") -> Broker:
    return Broker((server.url.replace("//", f"//{user}:{password}@"),), name="test")


def test_where_nothing_listens_it_says_so_and_does_not_try_for_ever() -> None:
    link = BrokerLink(Broker(("nats://127.0.0.1:1",)))

    with pytest.raises(BrokerError, match="cannot be reached"):
        asyncio.run(link.open())


def test_a_wrong_password_is_refused_and_is_in_no_text(guarded: Nats) -> None:
    link = BrokerLink(as_user(guarded, "all", "hunter2"))

    with pytest.raises(BrokerRefusedError) as caught:
        asyncio.run(link.open(wait_s=5))

    assert "hunter2" not in str(caught.value) + repr(as_user(guarded, "all", "hunter2"))


def test_what_the_broker_does_not_allow_is_told_and_counted(guarded: Nats) -> None:
    async def main() -> tuple[list[str], int]:
        told: list[str] = []
        link = BrokerLink(as_user(guarded, "few"), on_trouble=told.append)
        await link.open()
        await link.publish("may.not", b"")
        await comes(lambda: told)
        await link.close()
        return told, link.refused

    told, refused = asyncio.run(main())

    assert "may.not" in told[0]
    assert refused == 1


def test_after_a_restart_of_the_broker_everything_is_heard_again(nats: Nats) -> None:
    async def main() -> list[bytes]:
        heard: list[bytes] = []
        back: list[int] = []

        async def hear(message: Msg) -> None:
            heard.append(message.data)

        async with linked(nats, on_back=lambda: back.append(1)) as link:
            await link.subscribe("news", hear)
            await asyncio.to_thread(nats.kill)
            await comes(lambda: not link.is_up)
            with pytest.raises(BrokerError, match="no connection"):
                await link.publish("news", b"lost")
            await asyncio.to_thread(nats.start)
            await comes(lambda: back)
            await link.publish("news", b"heard")
            await comes(lambda: heard)
        return heard

    assert asyncio.run(main()) == [b"heard"]


def test_a_client_that_gave_up_is_replaced_and_hears_what_the_one_before_it_heard(nats: Nats) -> None:
    async def main() -> list[bytes]:
        heard: list[bytes] = []

        async def hear(message: Msg) -> None:
            heard.append(message.data)

        async with linked(nats) as link:
            await link.subscribe("news", hear)
            first = link._client
            assert first is not None
            await first.close()  # as nats-py itself does when a credential's time is over
            await comes(lambda: link.is_up and link._client is not first)
            await link.publish("news", b"heard")
            await comes(lambda: heard)
        return heard

    assert asyncio.run(main()) == [b"heard"]


def test_nobody_there_and_no_stream_and_too_much_are_three_errors(nats: Nats) -> None:
    async def main() -> None:
        async with linked(nats, terms=None) as link:
            with pytest.raises(BrokerError, match=r"nobody listens at pl\.ask\.x"):
                await link.request("pl.ask.x", b"")
            with pytest.raises(BrokerError, match="nobody listens"):
                await link.store("pl.in.x", b"")
            with pytest.raises(JetStreamError, match="more than the broker takes"):
                await link.store("pl.in.x", bytes(9_000_000))
            assert link.max_payload == 8 * 1024 * 1024
            with pytest.raises(JetStreamError, match="stream not found"):
                await link.api("STREAM.INFO.NONE")

    asyncio.run(main())


def test_of_a_queue_one_answers(nats: Nats) -> None:
    async def main() -> list[str]:
        heard: list[str] = []

        async with linked(nats) as one, linked(nats) as other:

            def answers(name: str, link: BrokerLink):  # type: ignore[no-untyped-def]
                async def answer(message: Msg) -> None:
                    heard.append(name)
                    await link.publish(message.reply, json.dumps(name).encode())

                return answer

            await one.subscribe("asked", answers("one", one), queue="some")
            await other.subscribe("asked", answers("other", other), queue="some")
            for _ in range(8):
                await one.request("asked", b"")
        return heard

    assert len(asyncio.run(main())) == 8
