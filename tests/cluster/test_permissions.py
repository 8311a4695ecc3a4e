"""What a stolen credential is good for: its own module's work, and nothing else. The server itself refuses the rest.

The thief has a worker's credential of `mail`; `users` is another module with work under way.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from planloom.transport.nats import subjects
from tests.cluster.secured import Connection, SecuredNats, add_consumer, connected, hung_up, secured, stored
from tests.cluster.servers import comes

MAIL, USERS = subjects.consumer("mail"), subjects.consumer("users")
OWN_OUTCOME = subjects.outcome("mail", "run-1", "send", 1, 0)


@dataclass(slots=True)
class Scene:
    """A cluster at work.

    Attributes:
        under_way: A command of `users` that its worker has and has not acknowledged.
    """

    server: SecuredNats
    agent: Connection
    thief: Connection
    victim: Connection
    under_way: Msg


async def ask_for(agent: Connection, module: str, run: str) -> None:
    sent = await agent.asked(subjects.command(module, "", run, "step", 1, 0), {"run": run})
    assert sent is not None, agent.refused
    assert "error" not in sent, sent


@asynccontextmanager
async def at_work(folder: Path) -> AsyncIterator[Scene]:
    async with secured(folder) as server:
        mint = server.authority.mint
        async with (
            connected(server, mint.agent("agent-1")) as agent,
            connected(server, mint.worker("mail", "thief")) as thief,
            connected(server, mint.worker("users", "victim")) as victim,
        ):
            await ask_for(agent, "users", "run-1")
            await ask_for(agent, "users", "run-2")
            under_way = await victim.pull(USERS)
            assert under_way is not None, victim.refused
            yield Scene(server, agent, thief, victim, under_way)


async def contents(agent: Connection) -> dict[str, dict[str, int]]:
    return {stream: await stored(agent, stream) for stream in ("CMD", "IN")}


PUBLISHED = {
    "pull another module's work": f"$JS.API.CONSUMER.MSG.NEXT.CMD.{USERS}",
    "ask for work of another module": subjects.command("users", "", "run-9", "step", 1, 0),
    "ask for work of its own": subjects.command("mail", "", "run-9", "step", 1, 0),
    "tell another module's outcome": subjects.outcome("users", "run-1", "step", 1, 0),
    "have something of another module recorded": subjects.ask("users", "run-1", "step", 1, 0),
    "submit a run": subjects.submission("run-9"),
    "approve": subjects.signal("run-1", "approve"),
    "stop another module's work": subjects.stop("users"),
    "drain another worker": subjects.drain("mail", "other"),
    "tell news": subjects.news("run-1", "planloom.run.completed"),
    "read a message of a stream": "$JS.API.STREAM.MSG.GET.CMD",
    "read a message directly": "$JS.API.DIRECT.GET.IN",
    "look at a stream": "$JS.API.STREAM.INFO.IN",
    "list streams": "$JS.API.STREAM.NAMES",
    "purge a stream": "$JS.API.STREAM.PURGE.CMD",
    "delete a message": "$JS.API.STREAM.MSG.DELETE.CMD",
    "delete a stream": "$JS.API.STREAM.DELETE.IN",
    "make a stream": "$JS.API.STREAM.CREATE.MINE",
    "change a stream": "$JS.API.STREAM.UPDATE.CMD",
    "make a consumer": "$JS.API.CONSUMER.CREATE.CMD.mine",
    "make a durable consumer": "$JS.API.CONSUMER.DURABLE.CREATE.CMD.mine",
    "look at another module's consumer": f"$JS.API.CONSUMER.INFO.CMD.{USERS}",
    "delete another module's consumer": f"$JS.API.CONSUMER.DELETE.CMD.{USERS}",
    "pause another module's consumer": f"$JS.API.CONSUMER.PAUSE.CMD.{USERS}",
    "look at the account": "$JS.API.INFO",
    "answer another worker": subjects.inbox("mail", "other") + ".1",
    "have the server reload": "$SYS.REQ.SERVER.X.RELOAD",
    "look at the server's accounts": "$SYS.REQ.SERVER.PING.ACCOUNTZ",
    "look at the connections of its account": "$SYS.REQ.USER.INFO",
    "say it to anybody": "anything.else",
}
HEARD = {
    "commands": subjects.ALL_COMMANDS,
    "commands of its own module": subjects.commands_of("mail"),
    "outcomes": subjects.ALL_INPUTS,
    "what others ask": subjects.ALL_ASKED,
    "news": subjects.ALL_NEWS,
    "everything": ">",
    "another module's stops": subjects.stop("users"),
    "another worker's drain": subjects.drain("mail", "other"),
    "all answers": "_INBOX.>",
    "another module's answers": subjects.inbox("users", "victim") + ".>",
    "another worker's answers": subjects.inbox("mail", "other") + ".>",
    "what the server says of streams": "$JS.EVENT.>",
    "acknowledgements": "$JS.ACK.>",
    "what the system says": "$SYS.>",
    "who has gone": "$SYS.ACCOUNT.*.DISCONNECT",
}


@pytest.mark.slow
def test_a_stolen_credential_may_say_nothing_but_its_modules_own(tmp_path: Path) -> None:
    async def main() -> list[str]:
        async with at_work(tmp_path / "cluster") as scene:
            before = await contents(scene.agent)
            let_through = []
            for what, subject in PUBLISHED.items():
                for body in (b"", b'{"batch":1}'):
                    await scene.thief.client.publish(subject, body, reply=scene.thief.inbox())
                    if not await scene.thief.is_refused():
                        let_through.append(what)
            assert await contents(scene.agent) == before
            return let_through

    assert asyncio.run(main()) == []


@pytest.mark.slow
def test_a_stolen_credential_may_hear_nothing_but_its_own_answers_and_orders(tmp_path: Path) -> None:
    async def main() -> list[str]:
        async with at_work(tmp_path / "cluster") as scene:
            let_through = []
            for what, subject in HEARD.items():
                await scene.thief.client.subscribe(subject)
                if not await scene.thief.is_refused():
                    let_through.append(what)
            return let_through

    assert asyncio.run(main()) == []


@pytest.mark.slow
def test_another_workers_message_is_not_the_thiefs_to_acknowledge(tmp_path: Path) -> None:
    async def main() -> None:
        async with at_work(tmp_path / "cluster") as scene:
            before = await contents(scene.agent)

            for body in (b"", b"+ACK", b"-NAK", b"+TERM", b"+NXT"):
                await scene.thief.client.publish(scene.under_way.reply, body)
                assert await scene.thief.is_refused()

            assert await contents(scene.agent) == before
            assert await scene.victim.asked(scene.under_way.reply) == {}
            assert subjects.command("users", "", "run-1", "step", 1, 0) not in await stored(scene.agent, "CMD")

    asyncio.run(main())


WEAPONS: dict[str, Callable[[Connection, str, Msg], Awaitable[object]]] = {
    "an acknowledgement": lambda thief, to, own: thief.client.publish(own.reply, b"+WPI", reply=to),
    "an empty acknowledgement": lambda thief, to, own: thief.client.publish(own.reply, b"", reply=to),
    "an outcome": lambda thief, to, _: thief.client.publish(OWN_OUTCOME, b"{}", reply=to),
    "a pull of work": lambda thief, to, _: thief.pull(MAIL, reply=to),
    "a pull of nothing": lambda thief, to, _: thief.pull(MAIL, reply=to, no_wait=True),
    "a question": lambda thief, to, _: thief.client.publish(subjects.ask("mail", "r", "s", 1, 0), b"{}", reply=to),
}
TARGETS = {
    "another module's commands": subjects.command("users", "", "run-9", "step", 1, 0),
    "another module's outcomes": subjects.outcome("users", "run-9", "step", 1, 0),
    "submissions": subjects.submission("run-9"),
    "signals": subjects.signal("run-9", "approve"),
    "the deletion of a stream": "$JS.API.STREAM.DELETE.IN",
    "the purge of a stream": "$JS.API.STREAM.PURGE.IN",
    "the deletion of a message": "$JS.API.STREAM.MSG.DELETE.CMD",
    "the deletion of a consumer": f"$JS.API.CONSUMER.DELETE.CMD.{USERS}",
    "another module's stops": subjects.stop("users"),
    "another module's questions": subjects.ask("users", "run-1", "step", 1, 0),
    "another module's answers": subjects.inbox("users", "victim") + ".heard",
    "news": subjects.news("run-1", "planloom.run.completed"),
}


@pytest.mark.slow
@pytest.mark.parametrize("weapon", WEAPONS)
def test_no_answer_reaches_a_subject_that_the_thief_may_not_use_itself(weapon: str, tmp_path: Path) -> None:
    """The servers let anybody name any subject for an answer; in the thief's own account these lead nowhere."""

    async def main() -> None:
        async with at_work(tmp_path / "cluster") as scene:
            reached: list[str] = []

            async def hear(message: Msg) -> None:
                reached.append(message.subject)

            async def answer(message: Msg) -> None:
                await message.respond(b'{"wanted":true}')

            await scene.agent.client.subscribe(subjects.ask("mail", "r", "s", 1, 0), cb=answer)
            await scene.agent.client.subscribe("pl.ask.users.>", cb=hear)
            await scene.agent.client.subscribe("pl.evt.>", cb=hear)
            await scene.victim.client.subscribe(subjects.stop("users"), cb=hear)
            await scene.victim.client.subscribe(subjects.inbox("users", "victim") + ".heard", cb=hear)
            await scene.agent.settled()
            await scene.victim.settled()
            for target in [*TARGETS.values(), scene.under_way.reply]:
                await ask_for(scene.agent, "mail", f"mail-{len(reached)}-{target[:40].replace('.', '_')}")
                own = await scene.thief.pull(MAIL)
                assert own is not None, scene.thief.refused
                await ask_for(scene.agent, "mail", f"more-{target[:40].replace('.', '_')}")
                await WEAPONS[weapon](scene.thief, target, own)
            await scene.thief.settled()
            await scene.agent.asked("$JS.API.INFO")  # whatever was answered has been answered before this

            everything = await contents(scene.agent)  # both streams are there
            assert {subject for subject in everything["IN"] if not subject.startswith("pl.in.mail.")} == set()
            others = {subject for subject in everything["CMD"] if not subject.startswith("pl.cmd.mail.")}
            assert others == {subjects.command("users", "", run, "step", 1, 0) for run in ("run-1", "run-2")}
            assert reached == []
            assert await scene.victim.pull(USERS) is not None

    asyncio.run(main())


@pytest.mark.slow
def test_its_own_work_goes_through(tmp_path: Path) -> None:
    async def main() -> None:
        async with at_work(tmp_path / "cluster") as scene:
            worker, agent = scene.thief, scene.agent

            async def answer(message: Msg) -> None:
                await message.respond(b'{"wanted":true}')

            await agent.client.subscribe(subjects.ALL_ASKED, queue=subjects.ORCHESTRATORS, cb=answer)
            await agent.settled()
            orders = await worker.client.subscribe(subjects.stop("mail"))
            drained = await worker.client.subscribe(subjects.drain("mail", "thief"))
            await worker.settled()
            await ask_for(agent, "mail", "run-1")

            got = await worker.pull(MAIL)
            assert got is not None, worker.refused
            await worker.client.publish(got.reply, b"+WPI")
            queue = await worker.asked(f"$JS.API.CONSUMER.INFO.CMD.{MAIL}")
            assert await worker.asked(subjects.ask("mail", "run-1", "send", 1, 0), {}) == {"wanted": True}
            told = await worker.asked(OWN_OUTCOME, {"fact": 1})
            assert await worker.asked(got.reply) == {}
            await agent.client.publish(subjects.stop("mail"), b"{}")
            await agent.client.publish(subjects.drain("mail", "thief"), b"{}")

            assert got.data == b'{"run": "run-1"}'
            assert queue is not None, worker.refused
            assert queue["num_ack_pending"] == 1
            assert told == {"stream": "IN", "seq": 1}
            assert (await orders.next_msg(2)).data == b"{}"
            assert (await drained.next_msg(2)).data == b"{}"
            assert await stored(agent, "IN") == {OWN_OUTCOME: 1}
            assert subjects.command("mail", "", "run-1", "step", 1, 0) not in await stored(agent, "CMD")
            assert worker.refused == []

    asyncio.run(main())


@pytest.mark.slow
def test_a_worker_takes_work_only_from_where_its_labels_are(tmp_path: Path) -> None:
    async def main() -> None:
        async with secured(tmp_path / "cluster") as server:
            mint, where = server.authority.mint, {"region": "eu"}
            place, elsewhere = subjects.place_of_labels(where), subjects.place_of_labels({"region": "us"})
            async with (
                connected(server, mint.agent("agent-1")) as agent,
                connected(server, mint.worker("mail", "w1", labels=where)) as worker,
            ):
                for one in (place, elsewhere):
                    await add_consumer(agent, "mail", one)
                    sent = await agent.asked(subjects.command("mail", one, "run-1", "step", 1, 0), {"at": one})
                    assert sent is not None, agent.refused

                near = await worker.pull(subjects.consumer("mail", place))
                assert near is not None, worker.refused
                assert await worker.asked(near.reply) == {}
                assert await worker.pull(subjects.consumer("mail", elsewhere)) is None
                assert await worker.is_refused()

    asyncio.run(main())


@pytest.mark.slow
def test_a28_another_module_changes_nothing_for_the_first(tmp_path: Path) -> None:
    async def main() -> None:
        async with secured(tmp_path / "cluster", modules=["mail"]) as server:
            mint = server.authority.mint
            async with (
                connected(server, mint.agent("agent-1")) as agent,
                connected(server, mint.worker("mail", "w1")) as worker,
            ):
                assert server.authority.add_module("users")
                server.reload()
                await add_consumer(agent, "users")
                await ask_for(agent, "users", "run-1")
                await ask_for(agent, "mail", "run-1")

                async with connected(server, mint.worker("users", "w1")) as other:
                    theirs = await other.pull(USERS)
                    assert theirs is not None, other.refused
                    assert await worker.pull(USERS) is None
                    assert await worker.is_refused()
                    assert await other.pull(MAIL) is None
                    assert await other.is_refused()
                    mine = await worker.pull(MAIL)  # over the connection it had before
                    assert mine is not None, worker.refused

    asyncio.run(main())


@pytest.mark.slow
def test_a_submitter_submits_and_follows_and_may_do_nothing_else(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            at_work(tmp_path / "cluster") as scene,
            connected(scene.server, scene.server.authority.mint.submitter("gateway")) as gateway,
        ):
            news = await gateway.client.subscribe(subjects.ALL_NEWS)
            await gateway.settled()
            sent = await gateway.asked(subjects.submission("run-5"), {"plan": {}})
            approved = await gateway.asked(subjects.signal("run-5", "approve"), {})
            await scene.agent.client.publish(subjects.news("run-5", "planloom.run.started"), b"{}")
            heard = await news.next_msg(2)
            before = await contents(scene.agent)

            let_through = []
            for what, subject in {**PUBLISHED, "tell an outcome": OWN_OUTCOME}.items():
                if what not in ("submit a run", "approve"):
                    await gateway.client.publish(subject, b"", reply=gateway.inbox())
                    if not await gateway.is_refused():
                        let_through.append(what)
            for what, subject in HEARD.items():
                if what != "news":
                    await gateway.client.subscribe(subject)
                    if not await gateway.is_refused():
                        let_through.append(what)
            for target in TARGETS.values():
                await gateway.client.publish(subjects.submission("run-5"), b"{}", reply=target)
            await gateway.settled()

            assert sent is not None
            assert approved is not None
            assert sent["stream"] == approved["stream"] == "IN"
            assert heard.subject == subjects.news("run-5", "planloom.run.started")
            assert let_through == []
            after = await contents(scene.agent)
            assert after["CMD"] == before["CMD"]
            assert set(after["IN"]) == set(before["IN"])

    asyncio.run(main())


@pytest.mark.slow
def test_an_agent_says_nothing_that_is_a_workers_or_a_submitters_to_say(tmp_path: Path) -> None:
    async def main() -> None:
        async with at_work(tmp_path / "cluster") as scene:
            for subject in (OWN_OUTCOME, subjects.submission("run-9"), subjects.signal("run-1", "approve")):
                await scene.agent.client.publish(subject, b"{}")
                assert await scene.agent.is_refused()

    asyncio.run(main())


@pytest.mark.slow
def test_an_agent_hears_at_once_that_a_worker_of_any_module_has_gone(tmp_path: Path) -> None:
    async def main() -> None:
        async with at_work(tmp_path / "cluster") as scene:
            gone = await scene.agent.client.subscribe("$SYS.ACCOUNT.*.DISCONNECT")
            await scene.agent.settled()
            await scene.victim.client.close()

            told = await gone.next_msg(2)

            assert scene.victim.credential.public_key.encode() in told.data

    asyncio.run(main())


@pytest.mark.slow
def test_nobody_is_let_in_without_a_credential(tmp_path: Path) -> None:
    async def main() -> None:
        async with secured(tmp_path / "cluster") as server:
            for options in ({}, {"user": "planloom", "password": "planloom"}, {"token": "x"}):
                client, said = Client(), []

                async def wrong(error: Exception, said: list[str] = said) -> None:
                    said.append(str(error).lower())

                with pytest.raises(Exception, match=r"."):
                    await client.connect(server.url, allow_reconnect=False, error_cb=wrong, **options)
                assert not client.is_connected
                await hung_up(client)
                assert any("authorization violation" in one for one in said)

    asyncio.run(main())


@pytest.mark.slow
def test_a_credential_of_another_cluster_is_worth_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with secured(tmp_path / "cluster") as server, secured(tmp_path / "other") as other:
            with pytest.raises(Exception, match=r"."):
                async with connected(server, other.authority.mint.agent("agent-1")):
                    pass
            async with connected(server, server.authority.mint.agent("agent-1")) as agent:
                assert await comes(lambda: agent.client.is_connected)

    asyncio.run(main())
