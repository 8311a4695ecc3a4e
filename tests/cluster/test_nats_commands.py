"""Commands: one outstanding for each attempt, refused when there is no room, looked for and taken back."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest

from planloom.errors import ConfigError
from planloom.transport.nats import subjects
from planloom.transport.nats.commands import Sent, bury, dead_command, purge, send
from planloom.transport.nats.puller import Delivery, Puller
from planloom.transport.nats.stranded import number_of
from planloom.transport.nats.streams import (
    BURIERS,
    CMD,
    DLQ,
    Backlog,
    StreamTerms,
    backlog,
    ensure_streams,
    ensure_workers,
)
from tests.cluster.links import linked
from tests.cluster.servers import Nats, comes

if TYPE_CHECKING:
    from pathlib import Path

    from planloom.transport.nats.link import BrokerLink


def at(run: str, number: int = 1, place: str = "") -> str:
    return subjects.command("mail", place, run, "fetch", number, 0)


def test_streams_are_made_once_and_follow_the_settings(nats: Nats) -> None:
    async def main() -> tuple[list[str], list[str], int]:
        async with linked(nats, terms=None) as link:
            first = await ensure_streams(link, StreamTerms())
            second = await ensure_streams(link, StreamTerms(max_queued=7))
            told = await link.api("STREAM.INFO.CMD")
        return first, second, told["config"]["max_msgs"]

    assert asyncio.run(main()) == (["CMD", "IN", "DLQ", "EVT"], [], 7)


def test_agents_that_come_together_make_the_streams_together(tmp_path: Path) -> None:
    """What one makes is reserved twice for a moment: the broker then says that it has no room for the other's."""
    server = Nats(tmp_path / "nats", "jetstream { max_memory_store: 256MB }\n").start()  # just enough

    async def main() -> None:
        async with AsyncExitStack() as open_links:
            links = [await open_links.enter_async_context(linked(server, terms=None)) for _ in range(6)]
            for _ in range(5):
                await asyncio.gather(*(ensure_streams(link, StreamTerms()) for link in links))
                for name in (CMD, DLQ, "IN", "EVT"):
                    await links[0].api(f"STREAM.DELETE.{name}")

    try:
        asyncio.run(main())
    finally:
        server.kill()


def test_a_stream_of_somebody_else_is_left_alone(nats: Nats) -> None:
    async def main() -> None:
        async with linked(nats, terms=None) as link:
            await link.api("STREAM.CREATE.CMD", {"name": "CMD", "subjects": ["theirs"], "retention": "limits"})
            with pytest.raises(ConfigError, match="another one"):
                await ensure_streams(link, StreamTerms())

    asyncio.run(main())


def test_one_command_is_outstanding_for_an_attempt_even_while_a_worker_has_it(nats: Nats) -> None:
    async def main() -> list[Sent]:
        async with linked(nats) as link:
            consumer = await ensure_workers(link, "mail")
            sent = [await send(link, at("r"), b"1", msg_id="a"), await send(link, at("r"), b"2", msg_id="b")]
            taken = await pull(link, consumer, 1)
            sent.append(await send(link, at("r"), b"3", msg_id="c"))
            await taken[0].ack_surely()
            sent.append(await send(link, at("r"), b"4", msg_id="a"))  # the first once more, after it was done with
            sent.append(await send(link, at("r"), b"5", msg_id="d"))
        return sent

    assert asyncio.run(main()) == ["sent", "outstanding", "outstanding", "outstanding", "sent"]


async def pull(link: BrokerLink, consumer: str, count: int, *, stream: str = CMD) -> list[Delivery]:
    taken: list[Delivery] = []
    puller = Puller(link, stream, consumer, taken.append, room=lambda: count - len(taken))
    puller.start(f"_INBOX.pull.{consumer}.{count}")
    await comes(lambda: len(taken) >= count)
    await puller.withdraw()
    return taken


def test_a_full_queue_says_full_and_what_does_not_fit_a_message_says_so(nats: Nats) -> None:
    async def main() -> list[Sent]:
        async with linked(nats, terms=StreamTerms(max_queued=2)) as link:
            sent = [await send(link, at(f"r{number}"), b"", msg_id=str(number)) for number in range(3)]
            sent.append(await send(link, at("r0"), b"", msg_id="again"))
            sent.append(await send(link, at("large"), bytes(8 * 1024 * 1024), msg_id="large"))
        return sent

    assert asyncio.run(main()) == ["sent", "sent", "full", "outstanding", "too_large"]


def test_commands_of_a_run_are_found_and_taken_back_and_others_are_not(nats: Nats) -> None:
    async def main() -> tuple[list[bool], int]:
        async with linked(nats) as link:
            await ensure_workers(link, "mail")
            for subject in (at("r"), at("r", 2, "region=eu"), at("other")):
                await send(link, subject, b"", msg_id=subject)
            before = [
                await number_of(link, CMD, at("r")) is not None,
                await number_of(link, CMD, at("none")) is not None,
            ]
            gone = await purge(link, "pl.cmd.*.*.r.>")
            after = [
                await number_of(link, CMD, one) is not None for one in (at("r"), at("r", 2, "region=eu"), at("other"))
            ]
        return before + after, gone

    assert asyncio.run(main()) == ([True, False, False, False, True], 2)


def test_nothing_is_held_by_a_broker_that_lost_its_store(nats: Nats) -> None:
    async def main() -> tuple[bool, list[str]]:
        async with linked(nats) as link:
            await send(link, at("r"), b"", msg_id="a")
            await asyncio.to_thread(nats.restart, empty=True)
            await comes(lambda: link.is_up and link.losses)
            return await number_of(link, CMD, at("r")) is not None, await ensure_streams(link, StreamTerms())

    assert asyncio.run(main()) == (False, ["CMD", "IN", "DLQ", "EVT"])


def test_a_command_nobody_acknowledges_ends_as_a_dead_letter(nats: Nats) -> None:
    async def main() -> tuple[bytes, int, bool]:
        async with linked(nats) as link:
            consumer = await ensure_workers(link, "mail")
            await send(link, at("r"), b"poison", msg_id="a")
            for _ in range(4):
                await (await pull(link, consumer, 1))[0].give_back()
            asked = Puller(link, CMD, consumer, lambda _: None, room=lambda: 1)
            asked.start("_INBOX.fifth")  # the fifth asking is what makes the broker say that it is dead
            notice = (await pull(link, BURIERS, 1, stream=DLQ))[0]
            await asked.withdraw()
            dead = await dead_command(link, notice.body)
            assert dead is not None
            await bury(link, dead.sequence)
            await notice.ack_surely()
            return dead.body, dead.deliveries, await number_of(link, CMD, at("r")) is not None

    assert asyncio.run(main()) == (b"poison", 4, False)


@pytest.mark.parametrize("notice", [b"", b"[]", b"{}", b'{"stream":"CMD","stream_seq":77}', b'{"stream_seq":"x"}'])
def test_a_notice_about_nothing_is_nothing(nats: Nats, notice: bytes) -> None:
    async def main() -> None:
        async with linked(nats) as link:
            assert await dead_command(link, notice) is None

    asyncio.run(main())


def test_the_backlog_counts_what_waits_and_what_is_under_way(nats: Nats) -> None:
    async def main() -> Backlog:
        async with linked(nats) as link:
            consumer = await ensure_workers(link, "mail", max_in_flight=5)
            for number in range(5):
                await send(link, at(f"r{number}"), b"", msg_id=str(number))
            await pull(link, consumer, 2)
            return await backlog(link, CMD, consumer)

    assert asyncio.run(main()) == Backlog(waiting=3, in_flight=2, redelivered=0)
