"""Three brokers that hold everything three times: one of them dies, and nobody notices for long."""

from __future__ import annotations

import asyncio
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from planloom.errors import BrokerError
from planloom.transport.nats.link import Broker, BrokerLink
from planloom.transport.nats.streams import CMD, StreamTerms, ensure_streams
from tests.cluster.links import linked
from tests.cluster.servers import Nats, comes
from tests.cluster.small_agent import small_agent, value, worker
from tests.transport.workplace import calls

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow


def free_ports(count: int) -> list[int]:
    with ExitStack() as ending:
        sockets = [ending.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


@pytest.fixture
def three(tmp_path: Path) -> Iterator[dict[str, Nats]]:
    """Return three servers of one cluster, by name."""
    ports = free_ports(3)
    routes = ", ".join(f"nats://127.0.0.1:{port}" for port in ports)
    with ExitStack() as ending:
        servers = {}
        for number, port in enumerate(ports):
            config = f"max_payload: 8MB\nserver_name: n{number}\n"
            config += f"cluster {{ name: three, listen: 127.0.0.1:{port}, routes: [{routes}] }}\n"
            servers[f"n{number}"] = server = Nats(tmp_path / f"n{number}", config)
            ending.callback(server.kill)
            server.start()
        yield servers


async def leader(link: BrokerLink) -> str:
    return str((await link.api(f"STREAM.INFO.{CMD}"))["cluster"]["leader"])


async def is_settled(link: BrokerLink, terms: StreamTerms) -> bool:
    """Return whether the servers have found together, so that there are streams now."""
    try:
        await ensure_streams(link, terms)
    except BrokerError:
        return False
    return True


@pytest.mark.parametrize("comes_back", [True, False])
def test_a_step_ends_once_though_the_leader_of_its_stream_dies(
    three: dict[str, Nats], tmp_path: Path, comes_back: bool
) -> None:
    urls = tuple(server.url for server in three.values())
    terms = StreamTerms(replicas=3, lease_s=5.0)

    async def main() -> list[Any]:
        async with linked(three["n0"], terms=None) as link:
            await comes(lambda: is_settled(link, terms), within_s=40)
            broker = Broker(urls, name="agent")
            async with (
                small_agent(three["n0"], lease_s=8.0, broker=broker, terms=terms) as agent,
                worker(" ".join(urls)),
            ):
                work = {"folder": str(tmp_path), "n": 4, "seconds": 1.0}
                first = await agent.ask_for("w.put", work, run="first")
                await comes(lambda: calls(tmp_path))
                died = three[await leader(agent.link)]
                await asyncio.to_thread(died.kill)
                fact = await agent.outcome(first, within_s=30)
                if comes_back:
                    await asyncio.to_thread(died.start)
                second = await comes(lambda: asked(agent), within_s=30)
                again = await agent.outcome(second, within_s=30)
                return [value(fact), value(again) > 0, len(calls(tmp_path)), len(agent.stale)]

    async def asked(agent: Any) -> Any:
        try:
            return await agent.ask_for("w.pid", run="second")
        except BrokerError:
            return None

    assert asyncio.run(main()) == [16, True, 1, 0]
