"""Three servers that go by one cluster's accounts: rights hold over their routes, and work is given to who is there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from planloom.errors import BrokerError
from planloom.transport.nats import commands, subjects
from planloom.transport.nats.authority import AGENT_FILE, ClusterAuthority
from planloom.transport.nats.link import Broker, BrokerLink
from planloom.transport.nats.puller import Delivery, Puller
from planloom.transport.nats.server_conf import ServerConf, version_of
from planloom.transport.nats.streams import CMD, IN, StreamTerms, ensure_streams, ensure_workers
from tests.cluster.secured import SecuredNats, connected
from tests.cluster.servers import comes, nats_program
from tests.cluster.test_nats_replicas import free_ports

pytestmark = pytest.mark.slow
MAIL = subjects.consumer("mail")
TERMS = StreamTerms(replicas=3)


class _Node(SecuredNats):
    """One of several servers that go by the accounts of one folder."""

    def __init__(self, authority: ClusterAuthority, name: str, routes: list[int], port: int) -> None:
        super().__init__(authority)
        self._folder = authority.folder / name
        self._folder.mkdir()
        text = self.config.read_text().replace("include ./", "include ../")
        text = text.replace(f"{authority.folder}/", f"{self._folder}/")
        told = ", ".join(f"nats://127.0.0.1:{route}" for route in routes)
        text += f"server_name: {name}\ncluster {{ name: three, listen: 127.0.0.1:{port}, routes: [{told}] }}\n"
        self.config = self._folder / "nats.conf"
        self.config.write_text(text)


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[list[SecuredNats]]:
    conf = ServerConf(port=-1, version=version_of(nats_program()))
    authority = ClusterAuthority.made(tmp_path / "cluster", conf, modules=["mail", "users"])
    ports = free_ports(3)
    with ExitStack() as ending:
        started: list[SecuredNats] = []
        for number, port in enumerate(ports):
            node = _Node(authority, f"n{number}", ports, port)
            ending.callback(node.kill)
            node.start()
            started.append(node)
        yield started


async def settled(link: BrokerLink) -> bool:
    try:
        await ensure_streams(link, TERMS)
        await ensure_workers(link, "mail")
        await ensure_workers(link, "users")
    except BrokerError:
        return False
    return True


def test_rights_hold_and_work_finds_who_is_there_whichever_server_they_are_at(
    nodes: list[SecuredNats], tmp_path: Path
) -> None:
    authority = nodes[0].authority
    authority.mint.worker("mail", "w1").write(tmp_path / "w1.creds")

    async def main() -> None:
        trouble: list[str] = []
        agent = BrokerLink(Broker((nodes[0].url,), credentials=authority.folder / AGENT_FILE))
        await agent.open(wait_s=10)
        await comes(lambda: settled(agent), within_s=40)
        for number, node in enumerate(nodes):
            worker = BrokerLink(Broker((node.url,), credentials=tmp_path / "w1.creds"), on_trouble=trouble.append)
            await worker.open(wait_s=10)
            taken: list[Delivery] = []
            puller = Puller(worker, CMD, MAIL, taken.append, room=lambda: 50)
            puller.start(f"{worker.inbox}.{number}")
            await comes(lambda puller=puller: puller.asked)
            for one in range(20):
                subject = subjects.command("mail", "", f"run-{number}-{one}", "a", 1, 0)
                assert await commands.send(agent, subject, b"x", msg_id=subject) is commands.Sent.SENT
            await comes(lambda taken=taken: len(taken) == 20, within_s=10)
            for delivery in taken:
                assert delivery.deliveries == 1
                await worker.store(subjects.outcome("mail", f"o-{number}-{delivery.sequence}", "a", 1, 0), b"{}")
                await delivery.ack_surely()
            # It has asked for more than came, and goes: what comes next is for the one after it.
            begin = time.monotonic()
            await puller.withdraw()
            assert time.monotonic() - begin < 10
            await worker.close()
        assert trouble == []

        for node in nodes:
            async with connected(node, authority.mint.worker("mail", "thief")) as thief:
                for target in ("$JS.API.STREAM.DELETE.IN", subjects.submission("x"), "pl.cmd.users.any.x.y.1-0"):
                    await thief.client.publish(subjects.outcome("mail", "x", "y", 1, 0), b"{}", reply=target)
                    await thief.pull(MAIL, reply=target, no_wait=True)
                await thief.client.publish(
                    f"$JS.API.CONSUMER.MSG.NEXT.CMD.{subjects.consumer('users')}", b"1", reply="x"
                )
                assert await thief.is_refused()
        told = {name: await agent.api(f"STREAM.INFO.{name}", {"subjects_filter": ">"}) for name in (CMD, IN)}
        assert (told[CMD]["state"].get("subjects") or {}) == {}
        assert all(subject.startswith("pl.in.mail.") for subject in told[IN]["state"]["subjects"])
        await agent.close()

    asyncio.run(main())


def test_who_looks_after_the_servers_sees_these_and_no_run(nodes: list[SecuredNats]) -> None:
    async def main() -> None:
        async with connected(nodes[0], nodes[0].authority.mint.system("ops")) as ops:
            answers = await ops.client.subscribe(ops.inbox() + ".here")
            await ops.client.publish("$SYS.REQ.SERVER.PING", b"", reply=answers.subject)
            assert b'"server"' in (await answers.next_msg(5)).data
            for subject in ("pl.>", subjects.ALL_NEWS, "$JS.API.>"):
                await ops.client.subscribe(subject)
                assert await ops.is_refused()
            await ops.client.publish(subjects.submission("run-1"), b"{}")
            assert await ops.is_refused()

    asyncio.run(main())
