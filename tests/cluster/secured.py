"""A nats-server as `planloom cluster init` makes one, and bare connections to it: thieves use no library of ours."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import TimeoutError as NatsTimeoutError

from planloom.transport.nats import subjects
from planloom.transport.nats.authority import ClusterAuthority
from planloom.transport.nats.credentials import Credential, CredentialFile
from planloom.transport.nats.server_conf import ServerConf, version_of
from tests.cluster.servers import Nats, nats_program, until

MODULES = ("mail", "users")


class SecuredNats(Nats):
    """A server that goes by a cluster's folder alone."""

    def __init__(self, authority: ClusterAuthority) -> None:
        super().__init__(authority.folder / "server")
        self.authority = authority
        self.config = authority.folder / "nats-server.conf"

    def start(self) -> SecuredNats:
        ports = self.authority.folder / "server" / "ports"
        shutil.rmtree(ports, ignore_errors=True)
        ports.mkdir()
        port = urlsplit(self.url).port if self.url else -1
        self._run.start([self._program, "-c", str(self.config), "-p", str(port), "--ports_file_dir", str(ports)])

        def listens() -> str:
            self._run.check_alive()
            for file in ports.glob("*.ports"):
                with suppress(ValueError, OSError):
                    return str(json.loads(file.read_text())["nats"][0])
            return ""

        self.url = until(listens, what="nats-server")
        return self

    def reload(self) -> None:
        """Have it read its accounts again, and wait until it has."""
        before = self.log.count("Reloaded server configuration")
        os.kill(self.pid, signal.SIGHUP)
        until(lambda: self.log.count("Reloaded server configuration") > before, what="the reload")


class Connection:
    """A bare connection, and what the server refused it."""

    def __init__(self, client: Client, credential: Credential) -> None:
        self.client = client
        self.credential = credential
        self.refused: list[str] = []
        self.closed = asyncio.Event()
        self._numbers = 0

    def inbox(self) -> str:
        """Return a subject of its own at which nobody was answered yet."""
        self._numbers += 1
        return f"{self.credential.inbox}.test.{self._numbers}"

    async def settled(self) -> None:
        """Wait until the server has done everything that was sent."""
        await self.client.flush(5)

    async def is_refused(self, *, within_s: float = 2.0) -> bool:
        """Return whether the server refuses what was just sent."""
        end = asyncio.get_running_loop().time() + within_s
        while not self.refused and asyncio.get_running_loop().time() < end:
            await self.settled()  # it says so apart from the answer to this
            await asyncio.sleep(0)
        found, self.refused[:] = list(self.refused), []
        return any("permissions violation" in one for one in found)

    async def pull(self, consumer: str, *, reply: str = "", **told: Any) -> Msg | None:
        """Ask a consumer for a message; None where none comes."""
        inbox = reply or self.inbox()
        hears = await self.client.subscribe(f"{inbox}") if not reply else None
        subject = f"$JS.API.CONSUMER.MSG.NEXT.CMD.{consumer}"
        await self.client.publish(subject, json.dumps({"batch": 1, **told}).encode(), reply=inbox)
        if hears is None:
            return None
        try:
            got = await hears.next_msg(1)
        except NatsTimeoutError:
            return None
        finally:
            await hears.unsubscribe()
        return got if got.reply else None

    async def asked(self, subject: str, body: Any = None, *, timeout_s: float = 2.0) -> dict[str, Any] | None:
        """Ask, and return the answer; None where none comes."""
        told = b"" if body is None else json.dumps(body).encode()
        try:
            answer = await self.client.request(subject, told, timeout=timeout_s)
        except NatsTimeoutError:
            return None
        found: dict[str, Any] = json.loads(answer.data) if answer.data else {}
        return found


@asynccontextmanager
async def connected(server: Nats, credential: Credential | Path) -> AsyncIterator[Connection]:
    """Connect with a credential, or with a file of one that may be replaced meanwhile."""
    client = Client()
    if isinstance(credential, Path):
        path = credential
    else:
        path = server.config.parent / f"{credential.public_key}.creds"
        credential.write(path)
    file = CredentialFile(path)
    one = Connection(client, file.used)

    async def wrong(error: Exception) -> None:
        one.refused.append(str(error).lower())

    async def closed() -> None:
        one.closed.set()

    try:
        await client.connect(
            server.url,
            user_jwt_cb=file.jwt,
            signature_cb=file.sign,
            inbox_prefix=one.credential.inbox,
            error_cb=wrong,
            closed_cb=closed,
            allow_reconnect=False,
            connect_timeout=5,
        )
        yield one
    finally:
        await hung_up(client)


async def hung_up(client: Client) -> None:
    """Close a connection, also one that was not let in."""
    with suppress(Exception):
        await client.close()
    if client._transport is not None:  # it leaves that open where connecting failed
        client._transport.close()
        with suppress(Exception):
            await client._transport.wait_closed()


@asynccontextmanager
async def secured(
    folder: Path, *, modules: Iterable[str] = MODULES, streams: bool = True
) -> AsyncIterator[SecuredNats]:
    """Start a server of a new cluster with the streams of one, and a consumer for each module."""
    version = version_of(nats_program())
    authority = ClusterAuthority.made(folder, ServerConf(port=-1, version=version), modules=modules)
    server = SecuredNats(authority)
    server.start()
    try:
        if streams:
            await _make_streams(server, modules)
        yield server
    finally:
        server.kill()


async def _make_streams(server: SecuredNats, modules: Iterable[str]) -> None:
    async with connected(server, server.authority.mint.agent("setup")) as agent:
        queue = {"retention": "workqueue", "discard": "new", "storage": "file"}
        commands = {"name": "CMD", "subjects": ["pl.cmd.>"], "max_msgs_per_subject": 1, "max_msgs": 1000}
        for told in (
            {**commands, "discard_new_per_subject": True, **queue},
            {"name": "IN", "subjects": ["pl.in.>"], **queue},
        ):
            made = await agent.asked(f"$JS.API.STREAM.CREATE.{told['name']}", told)
            assert made is not None, agent.refused
            assert "error" not in made, made
        for module in modules:
            await add_consumer(agent, module)


async def add_consumer(agent: Connection, module: str, place: str = "") -> None:
    name = subjects.consumer(module, place)
    told = {
        "durable_name": name,
        "ack_policy": "explicit",
        "ack_wait": 30_000_000_000,
        "max_deliver": 4,
        "filter_subject": subjects.commands_of(module, place),
    }
    made = await agent.asked(f"$JS.API.CONSUMER.DURABLE.CREATE.CMD.{name}", {"stream_name": "CMD", "config": told})
    assert made is not None, agent.refused
    assert "error" not in made, made


async def stored(agent: Connection, stream: str) -> dict[str, int]:
    """Return how many messages a stream has at each subject."""
    told = await agent.asked(f"$JS.API.STREAM.INFO.{stream}", {"subjects_filter": ">"})
    assert told is not None, agent.refused
    assert "error" not in told, told
    return dict(told["state"].get("subjects") or {})
