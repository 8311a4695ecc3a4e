"""Workers of a cluster, as processes: they make attempts, claim, record, stop, drain, and say what came of it."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from planloom.cli.main import main as command
from planloom.plan.policy import Effects, FailureKind
from planloom.transport.nats import subjects
from planloom.transport.nats.stranded import number_of
from planloom.transport.nats.streams import CMD, backlog
from tests.cluster.servers import Nats, comes
from tests.cluster.small_agent import failure, small_agent, value, worker
from tests.transport.workplace import calls

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cluster.small_agent import SmallAgent

pytestmark = pytest.mark.slow


def run(main: Any) -> Any:
    return asyncio.run(main())


def test_an_attempt_is_made_and_its_command_is_gone_once_its_outcome_is_there(nats: Nats) -> None:
    async def main() -> tuple[Any, int]:
        async with small_agent(nats) as agent, worker(nats) as process:
            at = await agent.ask_for("w.pid")
            made_by = value(await agent.outcome(at))
            subject = subjects.command("main", "", *at)
            await comes(lambda: gone(agent.link, subject))
            return made_by, process.pid

    made_by, pid = run(main)

    assert made_by == pid


async def gone(link: Any, subject: str) -> bool:
    return await number_of(link, CMD, subject) is None


def test_it_takes_as_many_as_it_has_slots_and_leaves_the_rest_to_others(nats: Nats, tmp_path: Path) -> None:
    async def main() -> tuple[int, int]:
        async with small_agent(nats) as agent, worker(nats, "--capacity", "2"):
            for number in range(5):
                await agent.ask_for("w.put", {"folder": str(tmp_path), "n": 1, "seconds": 30.0}, run=f"r{number}")
            await comes(lambda: len(calls(tmp_path)) == 2)
            left = await backlog(agent.link, CMD, subjects.consumer("main"))
            return left.in_flight, left.waiting

    assert run(main) == (2, 3)


def test_signs_of_life_keep_a_step_that_takes_longer_than_its_lease_and_keeps_the_loop(
    nats: Nats, tmp_path: Path
) -> None:
    async def main() -> list[Any]:
        async with small_agent(nats, lease_s=0.5) as agent, worker(nats), worker(nats):
            at = await agent.ask_for("w.block", {"folder": str(tmp_path), "seconds": 2.0})
            told = await agent.outcomes(at)
            return [told.fact, calls(tmp_path), agent.stale]

    fact, made, stale = run(main)

    assert value(fact) is None
    assert len(made) == 1
    assert stale == []


def test_a_tool_outside_its_own_allowlist_is_refused_by_the_worker_itself(nats: Nats, tmp_path: Path) -> None:
    async def main() -> Any:
        async with small_agent(nats) as agent, worker(nats, "--allow", "w.pid"):
            at = await agent.ask_for("w.pay", {"folder": str(tmp_path)})
            return await agent.outcome(at)

    fact = failure(run(main))

    assert fact.kind in (FailureKind.NOT_ALLOWED, FailureKind.REFUSED)
    assert "w.pay" in fact.error
    assert calls(tmp_path) == []


def test_what_must_be_claimed_is_claimed_once_and_made_by_whom_it_was_granted(nats: Nats, tmp_path: Path) -> None:
    async def main() -> tuple[list[Any], Any]:
        async with small_agent(nats) as agent, worker(nats, "--name", "w1"):
            at = await agent.ask_for("w.pay", {"folder": str(tmp_path)}, needs_claim=True, effects=Effects.ONCE)
            return [agent.asked, agent.tokens[at]], await agent.outcome(at)

    (asked, token), fact = run(main)

    assert value(fact) == "paid"
    claims = [one for one in asked if one["what"] == "claim"]
    assert [(one["token"], one["redelivered"], one["worker"].split("/")[0]) for one in claims] == [(token, False, "w1")]


def test_what_is_not_granted_is_not_made_and_its_command_is_done_with(nats: Nats, tmp_path: Path) -> None:
    async def main() -> list[Any]:
        async with small_agent(nats) as agent, worker(nats):
            agent.wanted = lambda told: told["what"] != "claim"
            at = await agent.ask_for("w.pay", {"folder": str(tmp_path)}, needs_claim=True)
            await comes(lambda: gone(agent.link, subjects.command("main", "", *at)))
            return [agent.told, calls(tmp_path)]

    assert run(main) == [[], []]


def test_a_claim_nobody_answers_is_asked_for_again_in_the_same_words(nats: Nats, tmp_path: Path) -> None:
    async def main() -> list[str]:
        async with small_agent(nats) as agent, worker(nats):
            agent.wanted = lambda _: len(agent.asked) > 1 or answered_wrong()
            at = await agent.ask_for("w.pay", {"folder": str(tmp_path)}, needs_claim=True)
            await agent.outcome(at)
            return [f"{one['n']} {one['worker']}" for one in agent.asked if one["what"] == "claim"]

    def answered_wrong() -> bool:
        raise LookupError("no answer this time")

    words = run(main)

    assert len(words) == 2
    assert len(set(words)) == 1


def test_a_step_that_is_told_to_stop_stops_and_one_that_waits_never_begins(nats: Nats, tmp_path: Path) -> None:
    async def main() -> list[Any]:
        async with small_agent(nats, places=("", "region=eu")) as agent, worker(nats, "--label", "region=eu"):
            options = {"folder": str(tmp_path), "n": 1, "seconds": 60.0}
            first = await agent.ask_for("w.put", options, run="first")
            await comes(lambda: calls(tmp_path))
            await agent.stop(first)
            return [failure(await agent.outcome(first)).kind, len(calls(tmp_path))]

    assert run(main) == [FailureKind.CANCELLED, 1]


def test_a_worker_told_to_go_ends_what_it_began_and_takes_nothing_more(nats: Nats, tmp_path: Path) -> None:
    async def main() -> list[Any]:
        async with small_agent(nats) as agent, worker(nats) as process:
            first = await agent.ask_for("w.put", {"folder": str(tmp_path), "n": 3, "seconds": 1.0}, run="first")
            await comes(lambda: calls(tmp_path))
            process.terminate()
            await agent.ask_for("w.put", {"folder": str(tmp_path), "n": 4}, run="second")
            fact = await agent.outcome(first)
            code = await asyncio.wait_for(process.wait(), 10)
            left = await backlog(agent.link, CMD, subjects.consumer("main"))
            return [value(fact), code, left.waiting, left.in_flight, len(calls(tmp_path))]

    assert run(main) == [9, 0, 1, 0, 1]


def test_a_worker_told_to_go_over_the_broker_goes(nats: Nats) -> None:
    async def main() -> int:
        async with small_agent(nats) as agent, worker(nats, "--name", "w1") as process:
            await agent.outcome(await agent.ask_for("w.pid"))
            await agent.link.publish(subjects.drain("main", "w1"), b"")
            return await asyncio.wait_for(process.wait(), 10)

    assert run(main) == 0


def test_a_worker_told_twice_to_go_says_that_what_it_was_at_is_lost(nats: Nats, tmp_path: Path) -> None:
    async def main() -> Any:
        async with small_agent(nats, lease_s=30.0) as agent, worker(nats) as process:
            at = await agent.ask_for("w.put", {"folder": str(tmp_path), "n": 3, "seconds": 60.0})
            await comes(lambda: calls(tmp_path))
            process.terminate()
            await asyncio.sleep(0.1)
            process.terminate()
            fact = await agent.outcome(at, within_s=5)
            await asyncio.wait_for(process.wait(), 10)
            return fact

    assert failure(run(main)).kind is FailureKind.LOST


def test_what_is_too_large_for_the_broker_fails_the_attempt_and_says_so(nats: Nats, tmp_path: Path) -> None:
    tools = tmp_path / "large.py"
    tools.write_text(
        "from planloom import tool\n@tool(name='w.large', effects='none')\ndef large(size: int) -> str:\n"
        "    '''Return much.'''\n    return 'x' * size\n"
    )

    async def main() -> list[Any]:
        async with small_agent(nats) as agent, worker(nats, tools=str(tools)):
            large = await agent.ask_for("w.large", {"size": 9_000_000}, run="large")
            small = await agent.ask_for("w.large", {"size": 3_000_000}, run="small")
            return [failure(await agent.outcome(large)), len(value(await agent.outcome(small)))]

    fact, small = run(main)

    assert fact.kind is FailureKind.OUTPUT
    assert "bytes is too long" in fact.error
    assert small == 3_000_000


def test_a_secret_that_the_worker_knows_is_in_nothing_that_it_tells(
    nats: Nats, tmp_path: Path, monkeypatch: Any
) -> None:
    tools = tmp_path / "leaky.py"
    tools.write_text(
        "import os\nfrom planloom import tool\n@tool(name='w.leak', effects='none')\ndef leak() -> str:\n"
        "    '''Return a secret.'''\n    return 'it is ' + os.environ['MY_TOKEN']\n"
    )
    (tmp_path / "planloom.toml").write_text('secrets = ["MY_TOKEN"]\n')
    monkeypatch.setenv("MY_TOKEN", "canary-7c1f2b9d")
    monkeypatch.chdir(tmp_path)

    async def main() -> Any:
        async with small_agent(nats) as agent, worker(nats, tools=str(tools)):
            return value(await agent.outcome(await agent.ask_for("w.leak")))

    said = run(main)

    assert "canary" not in said
    assert said.startswith("it is ")


def test_what_is_no_command_is_dropped_and_the_next_one_is_made(nats: Nats) -> None:
    async def main() -> list[Any]:
        async with small_agent(nats) as agent, worker(nats):
            for number, noise in enumerate([b"", b"{}", b"[1]", b'{"v":1,"at":[1,2,3,4]}', b"\xff"]):
                subject = subjects.command("main", "", f"noise{number}", "s", 1, 0)
                await agent.link.store(subject, noise)
            made = await agent.outcome(await agent.ask_for("w.pid"))
            left = await backlog(agent.link, CMD, subjects.consumer("main"))
            return [value(made) > 0, left.waiting]

    assert run(main) == [True, 0]


def test_without_a_broker_it_says_so_and_ends() -> None:
    async def main() -> tuple[int, str]:
        async with worker("nats://127.0.0.1:1", "--wait", "0") as process:
            _, said = await asyncio.wait_for(process.communicate(), 20)
            assert process.returncode is not None
            return process.returncode, said.decode()

    code, said = run(main)

    assert code != 0
    assert "cannot be reached" in said


def test_the_password_of_an_address_is_in_nothing_it_says() -> None:
    async def main() -> str:
        async with worker("nats://me:hunter2-well@127.0.0.1:1", "--wait", "0") as process:
            _, said = await asyncio.wait_for(process.communicate(), 20)
            return said.decode()

    assert "hunter2" not in run(main)


async def both_at_work(agent: SmallAgent) -> None:
    pids: set[int] = set()
    for turn in itertools.count():
        pair = [await agent.ask_for("w.pid", {"seconds": 0.3}, run=f"warm{turn}.{number}") for number in range(2)]
        pids |= {value(await agent.outcome(at)) for at in pair}
        if len(pids) == 2:
            return


def test_two_workers_of_one_name_do_not_hear_each_others_commands(nats: Nats, tmp_path: Path) -> None:
    async def main() -> list[int]:
        async with (
            small_agent(nats) as agent,
            worker(nats, "--name", "w") as one,
            worker(nats, "--name", "w") as other,
        ):
            await both_at_work(agent)
            ats = [
                await agent.ask_for("w.put", {"folder": str(tmp_path), "n": number}, run=f"r{number}")
                for number in range(20)
            ]
            for at in ats:
                await agent.outcome(at)
            for process in (one, other):
                process.terminate()
                await asyncio.wait_for(process.wait(), 10)
            return [len(calls(tmp_path)), len(agent.stale)]

    assert run(main) == [20, 0]


def test_a_worker_is_stopped_from_its_terminal_as_by_a_signal(nats: Nats) -> None:
    async def main() -> int:
        async with small_agent(nats) as agent, worker(nats) as process:
            await agent.outcome(await agent.ask_for("w.pid"))
            os.kill(process.pid, signal.SIGINT)
            return await asyncio.wait_for(process.wait(), 10)

    assert run(main) == 0


def test_a_worker_of_a_module_has_its_modules_tools_and_no_others(
    nats: Nats, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = f'[cluster]\nnats = ["{nats.url}"]\n[cluster.modules.counting]\nallow = ["w.pid"]\n'
    (tmp_path / "planloom.toml").write_text(settings)
    monkeypatch.chdir(tmp_path)

    async def main() -> list[Any]:
        async with (
            small_agent(nats, capability="counting") as agent,
            worker("", "--capability", "counting"),
        ):
            refused = await agent.ask_for("w.add", {"a": 1, "b": 2}, capability="counting", run="refused")
            made = await agent.ask_for("w.pid", capability="counting", run="made")
            return [failure(await agent.outcome(refused)).kind, value(await agent.outcome(made)) > 0]

    kind, is_made = run(main)

    assert kind in (FailureKind.NOT_ALLOWED, FailureKind.REFUSED)
    assert is_made


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--connect", "tcp:127.0.0.1:1", "--nats", "nats://127.0.0.1:1"], "whom is it to work for"),
        ([], "whom is it to work for"),
        (["--nats", "nats://127.0.0.1:1", "--processes", "4"], "is no number of processes"),
        (["--nats", "nats://127.0.0.1:1", "--processes", "4..1"], "is no number of processes"),
        (["--connect", "tcp:127.0.0.1:1", "--processes", "1..2"], "--processes is for a cluster"),
    ],
    ids=["both", "none", "one number", "turned round", "pool"],
)
def test_what_cannot_be_meant_is_said(options: list[str], said: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)

    result = CliRunner().invoke(command, ["worker", *options])

    assert result.exit_code != 0
    assert said in str(result.exception or "") + result.output


def test_a_worker_with_labels_takes_work_of_its_places_and_of_any_and_leaves_that_of_others(
    nats: Nats, tmp_path: Path
) -> None:
    places = ("", "region=eu", "region=us", "gpu=yes,region=eu")

    async def main() -> list[Any]:
        options = ("--label", "region=eu", "--label", "gpu=yes", "--capacity", "2")
        async with small_agent(nats, places=places) as agent, worker(nats, *options):
            work = {"folder": str(tmp_path), "n": 2, "seconds": 0.05}
            ats = {
                place: [await agent.ask_for("w.put", work, run=f"{place}/{number}", place=place) for number in range(6)]
                for place in places
            }
            for place in ("", "region=eu", "gpu=yes,region=eu"):
                for at in ats[place]:
                    await agent.outcome(at)
            left = await backlog(agent.link, CMD, subjects.consumer("main", "region=us"))
            return [left.waiting, len(agent.told), len(calls(tmp_path)), {told["what"] for told in agent.asked}]

    assert run(main) == [6, 18, 18, {"claim"}]


def test_what_came_to_two_places_at_once_waits_alive_for_the_one_slot_there_is(nats: Nats, tmp_path: Path) -> None:
    async def main() -> list[Any]:
        places = ("", "region=eu")
        async with small_agent(nats, lease_s=0.6, places=places) as agent, worker(nats, "--label", "region=eu"):
            await agent.outcome(await agent.ask_for("w.pid", run="warm"))
            work = {"folder": str(tmp_path), "n": 2, "seconds": 1.0}
            ats = await asyncio.gather(
                *(agent.ask_for("w.put", work, run=f"r{number}", place=place) for number, place in enumerate(places))
            )
            facts = [value(await agent.outcome(at)) for at in ats]
            return [facts, len(calls(tmp_path)), agent.stale]

    assert run(main) == [[4, 4], 2, []]


def test_seconds_that_a_command_waited_count_against_its_time(nats: Nats, tmp_path: Path) -> None:
    async def main() -> list[Any]:
        async with small_agent(nats) as agent:
            at = await agent.ask_for("w.put", {"folder": str(tmp_path), "n": 1, "seconds": 20.0}, left_s=1.5)
            began = time.monotonic()
            async with worker(nats):
                told = await agent.outcomes(at)
            return [failure(told.fact).kind, told.heard_at - began]

    kind, took_s = run(main)

    assert kind is FailureKind.TIMEOUT
    assert took_s < 10.0


def test_without_the_extra_it_says_what_to_install(tmp_path: Path) -> None:
    start = "import sys, runpy; sys.modules['nats'] = None; runpy.run_module('planloom', run_name='__main__')"
    command = [sys.executable, "-c", start, "worker", "--nats", "nats://127.0.0.1:1"]

    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert done.returncode != 0
    assert "pip install 'planloom[cluster]'" in done.stderr
