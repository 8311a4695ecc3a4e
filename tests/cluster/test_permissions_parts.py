"""Our own parts do their work with credentials, across the accounts of the modules."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import subprocess
from contextlib import asynccontextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from planloom.errors import BrokerError
from planloom.runtime.cluster.client import ClusterClient
from planloom.transport.nats import commands, subjects
from planloom.transport.nats.authority import SUBMITTER_FILE, ClusterAuthority
from planloom.transport.nats.link import Broker, BrokerLink
from planloom.transport.nats.permissions import DISCONNECTS
from planloom.transport.nats.puller import Delivery, Puller
from planloom.transport.nats.server_conf import ServerConf, version_of
from planloom.transport.nats.streams import CMD, StreamTerms, backlog, ensure_streams, ensure_workers
from tests.cluster.secured import Connection, SecuredNats, add_consumer, connected, secured, stored
from tests.cluster.servers import comes, nats_program

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from planloom.transport.nats.credentials import Credential

pytestmark = pytest.mark.slow
MAIL = subjects.consumer("mail")


@asynccontextmanager
async def link_of(server: SecuredNats, made: Credential, trouble: list[str]) -> AsyncIterator[BrokerLink]:
    path = server.authority.folder / f"{made.public_key}.creds"
    made.write(path)
    link = BrokerLink(Broker((server.url,), credentials=path), on_trouble=trouble.append)
    await link.open()
    try:
        yield link
    finally:
        await link.close()


def test_an_agent_makes_the_streams_and_a_worker_takes_from_them(tmp_path: Path) -> None:
    async def main() -> tuple[list[bytes], list[str]]:
        trouble: list[str] = []
        async with secured(tmp_path / "cluster", streams=False) as server:
            mint = server.authority.mint
            async with (
                link_of(server, mint.agent("a1"), trouble) as agent,
                link_of(server, mint.worker("mail", "w1", labels={"region": "eu"}), trouble) as worker,
            ):
                await ensure_streams(agent, StreamTerms())
                places = subjects.places_of({"region": "eu"})
                consumers = [await ensure_workers(agent, "mail", place) for place in places]
                for place in places:
                    for number in range(20):
                        subject = subjects.command("mail", place, f"run-{number}", "a", 1, 0)
                        assert await commands.send(agent, subject, b"x", msg_id=subject) is commands.Sent.SENT
                taken: list[Delivery] = []
                pullers = [Puller(worker, CMD, one, taken.append, room=lambda: 100) for one in consumers]
                for number, puller in enumerate(pullers):
                    puller.start(f"{worker.inbox}.{number}")
                await comes(lambda: len(taken) == 40)
                for one in taken:
                    await one.renew()
                    await worker.store(subjects.outcome("mail", str(one.sequence), "a", 1, 0), b"{}")
                    await one.ack_surely()
                assert (await backlog(worker, CMD, MAIL)).in_flight == 0
                for puller in pullers:
                    await puller.withdraw()
                return [one.body for one in taken], trouble

    taken, trouble = asyncio.run(main())

    assert taken == [b"x"] * 40
    assert trouble == []


HEADERS = [
    {"Nats-Rollup": "all"},
    {"Nats-Rollup": "sub"},
    {"Nats-TTL": "1s"},
    {"Nats-Schedule": "@at 2020-01-01T00:00:00Z", "Nats-Schedule-Target": subjects.submission("run-9")},
    {"Nats-Marker-Reason": "Purge"},
    {"Nats-Batch-Id": "b", "Nats-Batch-Sequence": "1", "Nats-Batch-Commit": "1"},
    {"Nats-Request-Info": '{"acc":"planloom"}'},
]


def test_no_header_of_a_workers_message_touches_what_is_not_its_own(tmp_path: Path) -> None:
    async def main() -> None:
        async with secured(tmp_path / "cluster", streams=False) as server:
            mint = server.authority.mint
            async with link_of(server, mint.agent("a1"), []) as agent:
                await ensure_streams(agent, StreamTerms())
            async with (
                connected(server, mint.agent("a2")) as looking,
                connected(server, mint.worker("users", "w1")) as other,
                connected(server, mint.worker("mail", "thief")) as thief,
            ):
                theirs, own = (subjects.outcome(module, "run-1", "a", 1, 0) for module in ("users", "mail"))
                assert await other.asked(theirs, {"fact": 1}) is not None
                for headers in HEADERS:
                    for reply in ("", thief.inbox()):
                        await thief.client.publish(own, b"{}", reply=reply, headers=headers)
                await thief.settled()
                await thief.asked(own, {"fact": 2})

                held = await stored(looking, "IN")

                assert held.pop(theirs) == 1
                assert set(held) == {own}

    asyncio.run(main())


def test_no_worker_swallows_a_submission_that_it_knows(tmp_path: Path) -> None:
    """The stream takes one message of each id, whoever sent it; so ids must not be guessed."""
    plan = {"name": "p", "steps": [{"id": "a", "tool": "t"}]}

    async def main() -> dict[str, int]:
        async with secured(tmp_path / "cluster") as server:
            credentials = server.authority.folder / SUBMITTER_FILE
            async with connected(server, server.authority.mint.agent("a1")) as looking:
                async with ClusterClient(server.url, credentials=credentials) as client:
                    await client.submit(plan, run_id="twin")
                sent = await looking.asked("$JS.API.STREAM.MSG.GET.IN", {"last_by_subj": subjects.submission("twin")})
                assert sent is not None
                known = base64.b64decode(sent["message"]["data"]).replace(b"twin", b"nightly")
                guessed = (f"nightly/{sha256(known).hexdigest()}", sha256(known).hexdigest(), "nightly")
                async with connected(server, server.authority.mint.worker("mail", "thief")) as thief:
                    for number, one in enumerate(guessed):
                        subject = subjects.outcome("mail", f"run-{number}", "a", 1, 0)
                        await thief.client.publish(subject, b"{}", headers={"Nats-Msg-Id": one})
                    await thief.settled()
                async with ClusterClient(server.url, credentials=credentials) as client:
                    await client.submit(plan, run_id="nightly")
                return await stored(looking, "IN")

    assert asyncio.run(main())[subjects.submission("nightly")] == 1


def test_over_tls_only_whoever_trusts_the_servers_certificate_speaks_to_it(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("not installed: openssl")
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    named = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*made, *named, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    conf = ServerConf(host="0.0.0.0", port=-1, certificate=certificate, key=key, version=version_of(nats_program()))
    server = SecuredNats(ClusterAuthority.made(tmp_path / "cluster", conf, modules=["mail"]))
    server.start()

    async def main() -> None:
        port = server.url.rpartition(":")[2]
        broker = Broker((f"nats://127.0.0.1:{port}",), credentials=server.authority.folder / "creds/agent.creds")
        with pytest.raises(BrokerError):
            await BrokerLink(broker).open()
        link = BrokerLink(replace(broker, ca=certificate))
        await link.open()
        await ensure_streams(link, StreamTerms())
        await link.close()

    try:
        asyncio.run(main())
    finally:
        server.kill()


async def nobody_asks(agent: Connection) -> bool:
    """Return whether the server knows of nobody who waits for a message of the module."""
    told = await agent.asked(f"$JS.API.CONSUMER.INFO.CMD.{MAIL}")
    return told is not None and told["num_waiting"] == 0


@pytest.mark.parametrize("how", ["it went", "its inbox went"])
def test_nothing_is_given_to_one_who_asked_and_went(how: str, tmp_path: Path) -> None:
    """A lost message would come again only when its lease ends: 30 s."""

    async def main() -> bytes:
        async with secured(tmp_path / "cluster") as server:
            mint = server.authority.mint
            async with (
                connected(server, mint.agent("a1")) as agent,
                connected(server, mint.worker("mail", "w1")) as gone,
                connected(server, mint.worker("mail", "w2")) as stays,
            ):
                await add_consumer(agent, "mail")
                inbox = gone.inbox()
                hears = await gone.client.subscribe(inbox)
                told = {"batch": 50, "expires": 30_000_000_000, "idle_heartbeat": 1_000_000_000}
                subject = f"$JS.API.CONSUMER.MSG.NEXT.CMD.{MAIL}"
                await gone.client.publish(subject, json.dumps(told).encode(), reply=inbox)
                await gone.settled()
                if how == "it went":
                    left = await agent.client.subscribe(DISCONNECTS)
                    await agent.settled()
                    await gone.client.close()
                    await left.next_msg(5)  # the server has noticed; JetStream does a moment later
                    await comes(lambda: nobody_asks(agent))
                else:
                    await hears.unsubscribe()
                    await gone.settled()
                sent = await agent.asked(subjects.command("mail", "", "run-1", "a", 1, 0), {"run": 1})
                assert sent is not None

                got = await stays.pull(MAIL, expires=2_000_000_000)

                assert got is not None
                return bytes(got.data)

    assert asyncio.run(main()) == b'{"run": 1}'
