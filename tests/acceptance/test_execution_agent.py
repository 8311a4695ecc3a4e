"""A28-A30, A32, A33, A35, A36: modules, lettered plans, provisioning, overload, dead letters, what led to what.

Workers here are slots of this process; with worker processes the same agent is tried in tests/runtime.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import textwrap
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from planloom import Engine, MemoryJournal, NotAllowedError, RunStatus, SqliteJournal, parse_plan
from planloom.agents.reasoning import Reasoner
from planloom.core.chat import ToolCall
from planloom.core.events import RunStarted
from planloom.errors import OverloadedError, PlanError
from planloom.models.llm import LLM
from planloom.models.uri import parse_uri
from planloom.runtime.execution_agent import ExecutionAgent
from planloom.runtime.explain import explained, steps_of
from planloom.runtime.modules import Module
from planloom.testing.fakes import CallLog, fake_tool
from planloom.testing.models import ScriptedModel
from planloom.transport.bus import EventBus
from planloom.transport.event import Event
from planloom.transport.events_out import DEAD_LETTER, DENIED
from planloom.transport.slots import SlotPool

SEED_PLAN = """\
a. Get all contacts [contacts.all]
b. Compose Email message: "Hello World!" [mail.compose text="Hello World!"]
c. Send emails (requires steps a and b) [mail.send to=a text=b]
"""


def one_step(tool: str, **fields: Any) -> dict[str, Any]:
    return {"planloom": 1, "name": "one", "steps": [{"id": "do", "tool": tool, **fields}]}


def model(*answers: Any) -> dict[str, LLM]:
    return {"default": LLM(ScriptedModel(list(answers)), parse_uri("scripted://default"))}


class Mail:
    """Two tools, one of them not for the mailer, and everything told on the bus."""

    def __init__(self, *modules: Module, **options: Any) -> None:
        self.log = CallLog()
        send = fake_tool("send_email", log=self.log)
        users = fake_tool("read_users", log=self.log, aliases=("users",))
        self.bus = EventBus()
        mailer = Module("mailer", allow={"send_email"})
        self.agent = ExecutionAgent(self.bus, tools=[send, users], modules=[mailer, *modules], **options)

    @property
    def denials(self) -> list[dict[str, Any]]:
        return [event.data for event in self.bus.recent(DENIED)]


@pytest.mark.parametrize("spelled", ["read_users", "functions.read_users", "tools.read_users", "users", "tools.users"])
def test_a28_a_tool_that_a_module_may_not_use_is_denied_by_any_name_and_never_called(spelled: str) -> None:
    async def main() -> Mail:
        mail = Mail()
        async with mail.agent:
            with pytest.raises(NotAllowedError, match="not allowed"):
                await mail.agent.submit(one_step(spelled), module="mailer")
        return mail

    mail = asyncio.run(main())

    assert mail.log.calls == []
    (denial,) = mail.denials
    assert denial["who"]["module"] == "mailer"
    assert denial["who"]["step"] == "do"
    assert denial["what"] == "read_users"
    assert "is not allowed" in denial["why"]


@pytest.mark.parametrize("spelled", ["send_email", "functions.send_email"])
def test_a28_what_a_module_may_use_it_may_use_by_any_name(spelled: str) -> None:
    async def main() -> Mail:
        mail = Mail()
        async with mail.agent:
            result = await (await mail.agent.submit(one_step(spelled), module="mailer"))
            assert result.status is RunStatus.SUCCESS
        return mail

    mail = asyncio.run(main())

    assert [call.tool for call in mail.log.calls] == ["send_email"]
    assert mail.denials == []


def test_a28_another_module_changes_nothing_for_the_first() -> None:
    async def main() -> tuple[Any, ...]:
        mail = Mail()
        async with mail.agent as agent:
            before = await agent.submit(one_step("send_email"), module="mailer")
            await before
            agent.modules.add(Module("hr", allow={"read_users"}))
            after = await agent.submit(one_step("send_email"), module="mailer")
            await after
            hr = await agent.submit(one_step("read_users"), module="hr")
            assert (await hr).status is RunStatus.SUCCESS
            with pytest.raises(NotAllowedError):
                await agent.submit(one_step("read_users"), module="mailer")
            with pytest.raises(NotAllowedError):
                await agent.submit(one_step("send_email"), module="hr")
            starts = [(await agent.journal.read(one.run_id))[0].event for one in (before, after, hr)]
        return tuple((start.module, start.allow) for start in starts if isinstance(start, RunStarted))

    assert asyncio.run(main()) == (
        ("mailer", ("send_email",)),
        ("mailer", ("send_email",)),
        ("hr", ("read_users",)),
    )


def test_a28_a_plan_that_allows_itself_more_is_denied_all_the_same() -> None:
    async def main() -> Mail:
        mail = Mail()
        async with mail.agent as agent:
            with pytest.raises(NotAllowedError):
                await agent.submit(one_step("read_users") | {"allow": ["read_users", "*.*"]}, module="mailer")
        return mail

    assert asyncio.run(main()).log.calls == []


def test_a28_a_model_that_asks_for_a_tool_of_others_is_denied_at_dispatch_and_it_is_told_who_asked() -> None:
    plan = {"planloom": 1, "steps": [{"id": "ask", "model": "default", "prompt": "go", "tools": ["send_email"]}]}

    async def main() -> Mail:
        mail = Mail(models=model(ToolCall("1", "read_users", {}), "done"))
        async with mail.agent as agent:
            result = await (await agent.submit(plan, module="mailer"))
            assert result.status is RunStatus.FAILED
        return mail

    mail = asyncio.run(main())

    assert mail.log.calls == []
    (denial,) = mail.denials
    assert (denial["who"]["module"], denial["who"]["step"], denial["what"]) == ("mailer", "ask", "read_users")
    assert "may not use tool 'read_users'" in denial["why"]


def test_a28_a_plan_that_a_model_writes_on_the_way_cannot_widen_what_the_module_may() -> None:
    wider = {"allow": ["read_users"], "steps": [{"id": "x", "tool": "read_users"}]}
    document = one_step("fail", replan={"max_steps": 2}) | {"allow": ["fail", "read_users", "send_email"]}
    log = CallLog()

    async def main() -> RunStatus:
        tools = [fake_tool("fail", [ConnectionError("503")], log=log), fake_tool("read_users", log=log)]
        modules = [Module("mailer", allow={"fail"})]
        async with ExecutionAgent(tools=tools, modules=modules, models=model(wider, wider, wider)) as agent:
            return (await (await agent.submit(document, module="mailer"))).status

    status = asyncio.run(main())

    assert status is RunStatus.FAILED
    assert {call.tool for call in log.calls} == {"fail"}


def test_a28_an_engine_that_takes_a_run_up_widens_nothing_either() -> None:
    journal, log = MemoryJournal(), CallLog()
    document = {"planloom": 1, "steps": [{"id": "ok", "approve": "Go on?"}, {"id": "do", "tool": "t", "needs": ["ok"]}]}

    async def main() -> str | None:
        tools = [fake_tool("t", log=log), fake_tool("read_users", log=log)]
        async with ExecutionAgent(tools=tools, journal=journal, modules=[Module("m", allow={"t"})]) as agent:
            first = await agent.submit(document, module="m", run_id="r")
            assert (await first).status is RunStatus.WAITING
        async with Engine(journal, tools=tools) as engine:  # which allows everything
            run = await engine.resume("r")
            started = run._machine.state.root.allow
            await run.cancel()
            await run.result()
        return str(started)

    assert asyncio.run(main()) == str((frozenset({"t"}),))


# --- A29 ----------------------------------------------------------------------------------------


def test_a29_a_and_b_start_together_and_c_after_both_because_of_one_of_them() -> None:
    both_began = asyncio.Event()
    began: list[str] = []

    async def at_once(name: str) -> str:
        began.append(name)
        if len(began) == 2:
            both_began.set()
        await asyncio.wait_for(both_began.wait(), 5)
        return name

    async def main() -> tuple[Any, list[Event]]:
        log = CallLog()
        tools = [
            fake_tool("contacts.all", lambda: at_once("a"), log=log),
            fake_tool("mail.compose", lambda text: at_once("b"), log=log),
            fake_tool("mail.send", lambda to, text: [to, text], log=log),
        ]
        async with EventBus() as bus, ExecutionAgent(bus, tools=tools) as agent:
            subscription = bus.subscribe("planloom.step.*")
            result = await (await agent.submit(parse_plan(SEED_PLAN), run_id="r"))
            subscription.close()
            return result, [event async for event in subscription]

    result, events = asyncio.run(main())

    assert result.output == ["a", "b"]
    kinds = [(event.type.rpartition(".")[2], event.subject) for event in events]
    done = {event.subject: event for event in events if event.type == "planloom.step.completed"}
    c_requested = next(event for event in events if event.subject == "c")
    assert kinds.index(("requested", "b")) < kinds.index(("completed", "a"))
    assert kinds.index(("requested", "c")) > max(kinds.index(("completed", "a")), kinds.index(("completed", "b")))
    assert c_requested.causation_id in {done["a"].id, done["b"].id}
    assert {event.correlation_id for event in events} == {"r"}
    assert len({event.id for event in events}) == len(events)


@pytest.mark.parametrize(
    ("clause", "needs"),
    [
        ("(requires steps a and b)", {"a", "b"}),
        ("(requires step a)", {"a"}),
        ("requires a, b", {"a", "b"}),
    ],
)
def test_a29_what_a_line_requires_is_read_however_it_is_said(clause: str, needs: set[str]) -> None:
    plan = parse_plan(f"a. One [t]\nb. Two [t]\nc. Three {clause}")

    assert set(plan.steps[2].needs) == needs


def test_a29_an_unknown_letter_is_told_with_its_line() -> None:
    with pytest.raises(PlanError, match="line 3") as refused:
        parse_plan("a. One [t]\nb. Two [t]\nc. Three (requires steps a and z)")

    assert refused.value.line == 3


# --- A30 ----------------------------------------------------------------------------------------


class FaultyBus(EventBus):
    """Delivers everything twice, up to 50 ms late and in another order, and one in a hundred only when asked again."""

    def __init__(self) -> None:
        super().__init__(history=200_000, buffer=200_000)
        self._dice = random.Random(1)
        self.dropped = 0

    def publish(self, event: Event) -> bool:
        loop = asyncio.get_running_loop()
        for _ in range(2):
            late_s = self._dice.random() * 0.05
            if self._dice.random() < 0.01:
                self.dropped += 1
                late_s += 0.05  # redelivered
            loop.call_later(late_s, super().publish, event)
        return True


@pytest.mark.slow
def test_a30_two_hundred_runs_over_a_faulty_bus_do_everything_once_and_come_to_the_same() -> None:
    async def run_all(bus: EventBus) -> tuple[Counter[str], list[Any], set[str]]:
        effects: Counter[str] = Counter()

        def effect(run: str, step: str) -> str:
            effects[f"{run}/{step}"] += 1
            return step

        steps = [
            {"id": "a", "tool": "once", "with": {"run": "${{ run.id }}", "step": "a"}},
            {"id": "b", "tool": "once", "with": {"run": "${{ run.id }}", "step": "b"}},
            {"id": "c", "tool": "once", "with": {"run": "${{ run.id }}", "step": "c"}, "needs": ["a", "b"]},
        ]
        plan = {"planloom": 1, "steps": steps}
        heard = bus.subscribe("planloom.step.completed")
        tools = [fake_tool("once", effect, effects="once")]
        async with ExecutionAgent(bus, SlotPool(1, 16), tools=tools, max_queue=200) as agent:
            programs = [await agent.submit(plan, run_id=f"r{number}") for number in range(200)]
            results = [(await one).output for one in programs]
            await asyncio.sleep(0.15)
        await bus.close()
        return effects, results, {event.id async for event in heard}

    faulty = FaultyBus()
    effects, results, heard = asyncio.run(run_all(faulty))
    _, same, all_heard = asyncio.run(run_all(EventBus(history=10_000, buffer=10_000)))

    assert set(effects.values()) == {1}
    assert len(effects) == 600
    assert results == same
    assert faulty.dropped > 0
    assert heard == all_heard


# --- A32 ----------------------------------------------------------------------------------------


def provisions(bus: EventBus) -> tuple[list[str | None], list[str | None]]:
    """Return for which programs workers were provisioned, and released."""
    return (
        [event.correlation_id for event in bus.recent("planloom.worker.provisioned")],
        [event.correlation_id for event in bus.recent("planloom.worker.released")],
    )


@pytest.mark.slow
@pytest.mark.timing
def test_a32_eight_programs_on_one_to_four_workers_take_two_rounds_and_the_pool_shrinks_again() -> None:
    async def main() -> tuple[float, SlotPool, int, EventBus]:
        async def second() -> str:
            await asyncio.sleep(1)
            return "done"

        pool, bus = SlotPool(1, 4, idle_s=0.2), EventBus()
        async with pool, ExecutionAgent(bus, pool, tools=[fake_tool("t", second)]) as agent:
            assert pool.size == 1
            began = time.monotonic()
            programs = [await agent.submit(one_step("t"), run_id=f"r{number}") for number in range(8)]
            results = [await one for one in programs]
            took_s = time.monotonic() - began
            assert {result.status for result in results} == {RunStatus.SUCCESS}
            await asyncio.sleep(0.5)
            return took_s, pool, pool.size, bus

    took_s, pool, size, bus = asyncio.run(main())

    assert 2 <= took_s <= 2.6
    assert pool.peak == 4
    assert size == 1
    provisioned, released = provisions(bus)
    assert sorted(map(str, provisioned)) == sorted(f"r{number}" for number in range(8))
    assert sorted(map(str, released)) == sorted(map(str, provisioned))


def test_a32_every_provision_has_one_release_across_success_failure_and_cancel() -> None:
    async def main() -> tuple[list[str], EventBus, SlotPool]:
        tools = [
            fake_tool("good"),
            fake_tool("bad", [ValueError("no")]),
            fake_tool("long", lambda: asyncio.Event().wait()),
        ]
        bus, pool = EventBus(), SlotPool(0, 2)
        async with ExecutionAgent(bus, pool, tools=tools) as agent:
            good = await agent.submit(one_step("good"), run_id="good")
            bad = await agent.submit(one_step("bad"), run_id="bad")
            ended = [(await good).status.value, (await bad).status.value]
            under_way = [await agent.submit(one_step("long"), run_id=f"long{number}") for number in (1, 2)]
            queued = await agent.submit(one_step("good"), run_id="queued")
            while any(one.run is None for one in under_way):
                await asyncio.sleep(0)
            assert queued.status == "queued"
            await queued.cancel(by="me", reason="no time")
            for one in under_way:
                await agent.cancel(one.run_id, by="me")
            ended += [(await one).status.value for one in (*under_way, queued)]
            assert "before it began, by me: no time" in str((await queued).error)
        return ended, bus, pool

    ended, bus, pool = asyncio.run(main())

    assert ended == ["success", "failed", "cancelled", "cancelled", "cancelled"]
    provisioned, released = provisions(bus)
    assert sorted(map(str, provisioned)) == ["bad", "good", "long1", "long2"]
    assert sorted(map(str, released)) == sorted(map(str, provisioned))
    assert pool.busy == 0


# --- A33 ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("waits", [True, False], ids=["wait", "refuse"])
def test_a33_overload_is_signalled_and_nothing_is_lost(waits: bool) -> None:
    async def main() -> tuple[int, int, Counter[str], int]:
        gate, most = asyncio.Event(), 0

        async def work() -> None:
            await gate.wait()

        async with ExecutionAgent(pool=SlotPool(1, 2), tools=[fake_tool("t", work)], max_queue=10) as agent:
            taken, refused = [], 0

            async def submit(number: int) -> None:
                nonlocal refused, most
                try:
                    taken.append(await agent.submit(one_step("t"), run_id=f"r{number}", wait=waits))
                except OverloadedError:
                    refused += 1
                most = max(most, agent.queued)

            submitting = [asyncio.create_task(submit(number)) for number in range(100)]
            for _ in range(50):
                await asyncio.sleep(0)
            gate.set()
            await asyncio.gather(*submitting)
            ended = Counter([(await one).status.value for one in taken])
            assert len(agent.bus.recent("planloom.agent.overloaded")) == refused
            return len(taken), refused, ended, most

    taken, refused, ended, most = asyncio.run(main())

    assert taken + refused == 100
    assert refused == 0 if waits else refused > 0
    assert ended == {"success": taken}
    assert most <= 12  # ten that wait, and two that are just being lent a worker


def test_a33_a_step_that_fails_all_its_attempts_is_one_dead_letter_with_its_history_for_whoever_subscribed() -> None:
    retry = {"max_attempts": 3, "initial_delay": 0, "jitter": False}
    journal = MemoryJournal()

    async def main() -> tuple[list[Event], list[Event], list[Event]]:
        tools = [fake_tool("bad", [ConnectionError("503 from the mail server")])]
        async with EventBus() as bus, ExecutionAgent(bus, tools=tools, journal=journal) as agent:
            first, second = bus.subscribe(DEAD_LETTER), bus.subscribe("planloom.step.dead_letter", "r")
            assert (await (await agent.submit(one_step("bad", retry=retry), run_id="r"))).status is RunStatus.FAILED
            first.close()
            second.close()
            heard = [event async for event in first], [event async for event in second]
        async with ExecutionAgent(tools=tools, journal=journal) as later:
            return (*heard, await later.dead_letters())

    first, second, on_record = asyncio.run(main())

    assert first == second == on_record
    (letter,) = first
    assert (letter.subject, letter.correlation_id, letter.data["attempts"]) == ("do", "r", 3)
    failures = [entry for entry in letter.data["history"] if entry["event"] == "AttemptFailed"]
    assert [entry["attempt"] for entry in failures] == [1, 2, 3]
    assert all("503 from the mail server" in entry["error"] for entry in failures)
    assert json.loads(json.dumps(letter.to_dict()))["data"]["does"] == "bad"


# --- A35 ----------------------------------------------------------------------------------------

AGENT = """
import asyncio, sys
from pathlib import Path
from planloom import tool
from planloom.runtime.execution_agent import ExecutionAgent

FOLDER = Path(sys.argv[1])


@tool(name="work", effects="idempotent")
async def work(number: int) -> int:
    with open(FOLDER / "calls.log", "a") as log:
        log.write(f"{number}\\n")
    if number == 3 and not (FOLDER / "go_on").exists():
        print("ready", flush=True)
        await asyncio.Event().wait()
    return number


STEPS = [
    {"id": f"s{n}", "tool": "work", "with": {"number": n}, "needs": [f"s{n - 1}"] if n > 1 else []} for n in range(1, 6)
]


async def main():
    async with ExecutionAgent(journal=FOLDER / "runs.db", tools=[work]) as agent:
        await (await agent.submit({"planloom": 1, "steps": STEPS}, run_id="r"))


if __name__ == "__main__":
    asyncio.run(main())
"""


@pytest.mark.slow
def test_a35_when_an_agent_is_killed_another_goes_on_and_repeats_no_completed_step(tmp_path: Path) -> None:
    script = tmp_path / "agent.py"
    script.write_text(textwrap.dedent(AGENT), encoding="utf-8")
    with subprocess.Popen([sys.executable, str(script), str(tmp_path)], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        first_line = child.stdout.readline()
        child.kill()
    assert first_line == b"ready\n"
    (tmp_path / "go_on").touch()

    async def main() -> tuple[str, list[str]]:
        def work(number: int) -> int:
            with (tmp_path / "calls.log").open("a", encoding="utf-8") as log:
                log.write(f"{number}\n")
            return number

        own = [fake_tool("work", work, effects="idempotent")]
        async with ExecutionAgent(journal=SqliteJournal(tmp_path / "runs.db"), tools=own) as agent:
            heard = agent.bus.subscribe("planloom.run.*", "r")
            (again,) = [one for one in agent.submissions if one.run_id == "r"]
            result = await again
            heard.close()
            return result.status.value, [event.type async for event in heard]

    status, told = asyncio.run(main())

    assert status == "success"
    assert (tmp_path / "calls.log").read_text().split() == ["1", "2", "3", "3", "4", "5"]
    assert told[0] == "planloom.run.started"
    assert "planloom.run.resumed" in told
    assert told[-1] == "planloom.run.finished"


# --- A36 ----------------------------------------------------------------------------------------

MANY = {
    "planloom": 1,
    "steps": [
        {"id": "get", "tool": "flaky", "retry": {"max_attempts": 3, "initial_delay": 0, "jitter": False}},
        {"id": "each", "tool": "double", "for_each": "${{ steps.get.output }}", "with": {"n": "${{ item }}"}},
        {
            "id": "sub",
            "plan": {
                "planloom": 1,
                "inputs": {"all": {}},
                "steps": [
                    {"id": "sum", "tool": "sum", "with": {"all": "${{ inputs.all }}"}},
                    {"id": "twice", "tool": "double", "with": {"n": "${{ steps.sum.output }}"}},
                ],
            },
            "with": {"all": "${{ steps.each.output }}"},
        },
        {"id": "never", "tool": "double", "with": {"n": 1}, "when": "${{ steps.sub.output == 'x' }}"},
        {"id": "behind", "tool": "double", "with": {"n": 1}, "needs": ["never"]},
        {"id": "bad", "tool": "broken", "needs": ["sub"]},
        {"id": "after", "tool": "double", "with": {"n": 1}, "needs": ["bad"]},
        {"id": "long", "wait": {"seconds": 3600}},
    ],
}


def test_a36_the_events_alone_tell_statuses_timings_outputs_and_every_chain_ends_in_the_submission() -> None:
    tries: list[Any] = [ConnectionError("503"), [1, 2, 3]]

    async def main() -> Any:
        tools = [
            fake_tool("flaky", tries),
            fake_tool("double", lambda n: n * 2),
            fake_tool("sum", lambda all: sum(all)),
            fake_tool("broken", [ValueError("no")]),
        ]
        journal = MemoryJournal()
        async with EventBus() as bus, ExecutionAgent(bus, tools=tools, journal=journal) as agent:
            events = bus.subscribe("planloom.step.*", "r")
            result = await (await agent.submit(MANY, run_id="r"))
            events.close()
            ends = ("planloom.step.completed", "planloom.step.failed", "planloom.step.skipped")
            told = {event.subject: event.data async for event in events if event.type in ends}
            return result, told, await journal.read("r"), await agent.explain("r", "after")

    result, told, entries, after = asyncio.run(main())

    def everything(steps: Any) -> Any:
        for step in steps:
            yield step
            yield from everything(step.parts)

    steps = list(everything(result.steps))
    assert {step.id for step in steps} == set(told)
    for step in steps:
        data = told[step.id]
        assert data["status"] == step.status.value
        assert (data["started_at"], data["ended_at"]) == (step.started_at, step.ended_at)
        assert data["attempts"] == step.attempts
        assert data.get("output") == step.output
    statuses = Counter(step.status.value for step in result.steps)
    assert statuses == {"completed": 3, "skipped": 3, "failed": 1, "cancelled": 1}
    for key in {*steps_of(entries), *told} - {None}:
        chain = explained("r", entries, str(key)).chain
        assert (chain[-1].event, chain[-1].seq) == ("run_started", 1), key
    assert [(link.event, link.step) for link in after.chain] == [
        ("run_stopping", ""),
        ("step_failed", "bad"),
        ("attempt_failed", "bad"),
        ("step_dispatched", "bad"),
        ("step_succeeded", "sub"),
        ("sub_plan_started", "sub"),
        ("step_succeeded", "each"),
        ("step_expanded", "each"),
        ("attempt_succeeded", "get"),
        ("step_dispatched", "get"),
        ("timer_fired", "get"),
        ("retry_scheduled", "get"),
        ("attempt_failed", "get"),
        ("step_dispatched", "get"),
        ("run_started", ""),
    ]


def test_a28_an_agents_model_that_asks_for_a_tool_of_others_is_denied_and_it_is_told_who_asked() -> None:
    wish = {"has_sufficient_info": True, "tasks": [{"description": "look", "tool_name": "read_users"}]}
    done = {"is_complete": True, "reasoning": "", "missing_steps": [], "next_action": None, "answer": "nobody"}
    plan = {"planloom": 1, "steps": [{"id": "ask", "agent": "clerk", "prompt": "go"}]}

    async def main() -> tuple[Mail, str]:
        clerk = Reasoner(name="clerk", model=ScriptedModel([wish, done]))
        mail = Mail(Module("office", allow={"send_email"}, agents={"clerk"}), agents=[clerk])
        async with mail.agent as agent:
            one = await agent.submit(plan, module="office", run_id="r")
            return mail, (await one).status.value

    mail, status = asyncio.run(main())

    assert status == "success"
    assert mail.log.calls == []
    (denial,) = mail.denials
    assert denial["who"] == {"module": "office", "run": "r", "step": "ask"}
    assert denial["what"] == "read_users"
    assert "may not use tool 'read_users'" in denial["why"]
