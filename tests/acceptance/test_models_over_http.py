"""Model steps end to end: a plan, the engine, its record, and a provider behind a real socket."""

from __future__ import annotations

import asyncio
import json
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest

from planloom import Engine, ResourceLimits, RunResult, RunStatus
from planloom.core.chat import ToolCall
from planloom.core.events import AttemptFailed, OutputStreamed, RetryScheduled
from planloom.core.result import Usage
from planloom.errors import MissingKeyError
from planloom.journal.memory import MemoryJournal
from planloom.testing.clock import ManualClock
from planloom.testing.fakes import CallLog, fake_tool
from planloom.testing.provider import Answer, Hang, ProviderServer, RecordedRequest, Reply, Status, Truncated

if TYPE_CHECKING:
    from pathlib import Path

    from planloom.core.events import Event

KEY = "sk-test-0123456789abcdefghij"
USED = Usage(100, 20, 1)
PRICED = "&price_in=1&price_out=2"
"""US dollars per million tokens: a call with USED costs 0.00014."""


@pytest.fixture(scope="session", autouse=True)
def libraries() -> None:
    """Import what hosted models need, so that no test's time is spent on it."""
    for name in ("openai", "planloom.models.exchange"):
        import_module(name)


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", KEY)


def model_at(server: ProviderServer, more: str = PRICED) -> str:
    return f"openai://gpt-4o-mini?base_url={server.openai_url}&key_env=TEST_KEY{more}"


def one_step(**fields: Any) -> dict[str, Any]:
    return {"planloom": 1, "steps": [{"id": "ask", "model": "m", "prompt": "how are you", **fields}]}


async def outcome(
    server: ProviderServer,
    plan: dict[str, Any],
    *,
    more: str = PRICED,
    tools: Any = (),
    journal: Any = None,
    **how: Any,
) -> tuple[RunResult, list[Event]]:
    """Run the plan; return its result and what is on record."""
    journal = MemoryJournal() if journal is None else journal
    async with asyncio.timeout(20), Engine(journal, tools=list(tools), models={"m": model_at(server, more)}) as engine:
        result = await engine.run(plan, run_id="r", **how)
        return result, [recorded.event for recorded in await engine.journal.read("r")]


def ran(server: ProviderServer, plan: dict[str, Any], **how: Any) -> tuple[RunResult, list[Event]]:
    return asyncio.run(outcome(server, plan, **how))


# --- attempts -----------------------------------------------------------------------------------


def test_three_attempts_at_a_server_that_fails_are_three_requests() -> None:
    plan = one_step(retry={"max_attempts": 3, "initial_delay": 0})

    with ProviderServer(lambda request: Status(500), key=KEY) as server:
        result, _ = ran(server, plan)

        assert server.count == 3
    assert result.status is RunStatus.FAILED
    assert result.step("ask").attempts == 3
    assert "500" in (result.step("ask").error or "")


def test_an_attempt_that_comes_through_is_the_last_one() -> None:
    plan = one_step(retry={"max_attempts": 3, "initial_delay": 0})

    with ProviderServer([Status(500), Reply(text="fine", usage=USED)], key=KEY) as server:
        result, _ = ran(server, plan)

        assert server.count == 2
    assert (result.status, result.output) == (RunStatus.SUCCESS, "fine")
    assert result.usage == USED
    assert result.cost_usd == pytest.approx(0.00014)


@pytest.mark.parametrize("answer", [Status(400), Status(401), Reply(text="no", finish="refusal", usage=USED)])
def test_what_no_attempt_can_mend_is_one_request(answer: Answer) -> None:
    plan = one_step(retry={"max_attempts": 3, "initial_delay": 0})

    with ProviderServer([answer], key=KEY) as server:
        result, _ = ran(server, plan)

        assert server.count == 1
    assert result.status is RunStatus.FAILED
    assert result.usage.output_tokens == (20 if isinstance(answer, Reply) else 0)
    assert result.cost_usd == pytest.approx(0.00014 if isinstance(answer, Reply) else 0)


def test_the_engine_waits_as_long_as_the_provider_asks_and_no_other_clock_counts() -> None:
    clock = ManualClock()
    asked_at: list[float] = []

    def answer(request: RecordedRequest) -> Answer:
        asked_at.append(clock.now())
        return Status(429, retry_after=7) if request.number == 1 else "fine"

    async def main(server: ProviderServer) -> tuple[RunResult, list[Event]]:
        async with Engine(clock=clock, tools=[], models={"m": model_at(server)}) as engine:
            run = await engine.start(one_step(retry={"max_attempts": 3}), run_id="r")
            finishing = asyncio.ensure_future(run.result())
            async with asyncio.timeout(10):
                while run.state_now().step("ask").waiting != "retry":
                    await asyncio.sleep(0.005)
            clock.advance(6.9)
            await asyncio.sleep(0.05)
            assert server.count == 1
            clock.advance(0.1)
            async with asyncio.timeout(10):
                result = await finishing
            return result, [recorded.event for recorded in await engine.journal.read("r")]

    with ProviderServer(answer, key=KEY) as server:
        result, events = asyncio.run(main(server))

        assert server.count == 2
    failed = next(event for event in events if isinstance(event, AttemptFailed))
    retry = next(event for event in events if isinstance(event, RetryScheduled))
    assert failed.retry_after_s == 7
    assert retry.due_at - failed.at == pytest.approx(7)
    assert asked_at[1] - asked_at[0] == pytest.approx(7)
    assert (result.status, result.output) == (RunStatus.SUCCESS, "fine")


def test_what_a_broken_attempt_cost_counts_too() -> None:
    plan = one_step(stream=True, retry={"max_attempts": 2, "initial_delay": 0})

    with ProviderServer([Truncated(after=2), Reply(text="fine", usage=USED)], key=KEY) as server:
        result, events = ran(server, plan)

        assert server.count == 2
    failed = next(event for event in events if isinstance(event, AttemptFailed))
    assert failed.usage is not None
    assert failed.usage.estimated_tokens > 0
    assert result.usage == USED + failed.usage
    assert result.cost_usd == pytest.approx(0.00014 + (failed.cost_usd or 0))
    assert (failed.cost_usd or 0) > 0


@pytest.mark.slow
def test_an_attempt_that_takes_too_long_is_stopped_and_its_connection_closed() -> None:
    async def main(server: ProviderServer) -> RunResult:
        plan = one_step(attempt_timeout=0.2, retry={"max_attempts": 2, "initial_delay": 0})
        async with Engine(tools=[], models={"m": model_at(server)}) as engine:
            result = await engine.run(plan)
            await server.closed()
            return result

    with ProviderServer(lambda request: Hang(), key=KEY) as server:
        result = asyncio.run(main(server))

        assert server.count == 2
    assert result.step("ask").error_kind == "timeout"


def test_cancelling_a_run_hangs_up() -> None:
    async def main(server: ProviderServer) -> RunResult:
        async with Engine(tools=[], models={"m": model_at(server)}) as engine:
            run = await engine.start(one_step())
            await server.arrived(1)
            await run.cancel()
            async with asyncio.timeout(5):
                result = await run.result()
            await server.closed()
            return result

    with ProviderServer([Hang()], key=KEY) as server:
        result = asyncio.run(main(server))

    assert result.status is RunStatus.CANCELLED


def test_a_call_that_an_engine_left_open_is_made_again_by_the_next(tmp_path: Path) -> None:
    async def main(server: ProviderServer) -> RunResult:
        models = {"m": model_at(server)}
        async with Engine(tmp_path / "runs.db", tools=[], models=models) as engine:
            await engine.start(one_step(), run_id="r")
            await server.arrived(1)
        await server.closed()
        async with Engine(tmp_path / "runs.db", tools=[], models=models) as engine:
            return await engine.finish(await engine.resume("r"))

    with ProviderServer([Hang(), Reply(text="fine", usage=USED)], key=KEY) as server:
        result = asyncio.run(main(server))

        assert server.count == 2
    assert (result.status, result.output) == (RunStatus.SUCCESS, "fine")


# --- answers ------------------------------------------------------------------------------------


def test_a60_what_a_step_says_arrives_on_the_wire() -> None:
    with ProviderServer(["fine"], key=KEY) as server:
        ran(server, one_step(system="Be brief.", max_tokens=77, temperature=0.33))
        request = server.requests[0]

    assert (request.system, request.prompt) == ("Be brief.", "how are you")
    assert (request.max_tokens, request.temperature) == (77, 0.33)


def test_a69_what_is_streamed_put_together_is_the_output() -> None:
    text = "Grüße an alle, die das lesen, und an 🌍, so lange es sie gibt, von hier aus und von dort."

    with ProviderServer([Reply(text=text, usage=USED)], key=KEY) as server:
        result, events = ran(server, one_step(stream=True))

        assert server.requests[0].stream
    pieces = [event.text for event in events if isinstance(event, OutputStreamed)]
    assert len(pieces) > 1
    assert "".join(pieces) == result.output == text
    assert result.usage == USED


def test_a_value_that_does_not_fit_its_schema_is_asked_for_once_more_and_both_are_paid() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    answers = [Reply(text='{"n": "three"}', usage=USED), Reply(text='{"n": 3}', usage=USED)]

    with ProviderServer(answers, key=KEY) as server:
        result, _ = ran(server, one_step(output=schema))

        assert server.count == 2
        assert server.requests[1].problem is None
    assert result.output == {"n": 3}
    assert result.step("ask").attempts == 1
    assert result.usage == USED + USED
    assert result.cost_usd == pytest.approx(0.00028)


def test_a_model_calls_the_steps_tools_and_is_told_of_those_that_nobody_has() -> None:
    log = CallLog()
    calls = (ToolCall("a", "look", {"at": "sky"}), ToolCall("b", "listen", {}))
    tools = [fake_tool("look", lambda **_: "grey", log=log), fake_tool("burn", log=log)]

    with ProviderServer([Reply(tool_calls=calls, usage=USED), Reply(text="Rain.", usage=USED)], key=KEY) as server:
        result, _ = ran(server, one_step(tools=["look"]), tools=tools)
        offered, answered = server.requests

    assert [tool.name for tool in offered.tools] == ["look"]
    assert [call.tool for call in log.calls] == ["look"]
    assert [message.role for message in answered.messages] == ["user", "assistant", "tool", "tool"]
    assert "grey" in answered.messages[2].content
    assert "no tool" in answered.messages[3].content
    assert result.output == "Rain."
    assert result.usage == USED + USED
    assert result.cost_usd == pytest.approx(0.00028)


def test_a_model_that_asks_for_a_tool_its_step_does_not_name_fails_the_step_and_nothing_is_called() -> None:
    log = CallLog()
    calls = (ToolCall("a", "look", {}), ToolCall("b", "burn", {"what": "all"}))
    tools = [fake_tool("look", log=log), fake_tool("burn", log=log)]

    with ProviderServer([Reply(tool_calls=calls, usage=USED)], key=KEY) as server:
        result, _ = ran(server, one_step(tools=["look"], retry={"max_attempts": 3}), tools=tools)

        assert server.count == 1
    assert len(log) == 0
    assert result.step("ask").error_kind == "not_allowed"
    assert result.usage == USED


def test_many_steps_ask_at_once_over_a_bounded_number_of_connections() -> None:
    plan = {"planloom": 1, "steps": [{"id": f"s{n}", "model": "m", "prompt": f"call {n}"} for n in range(40)]}

    with ProviderServer(lambda request: Reply(text=request.prompt, usage=USED), key=KEY) as server:
        result, _ = ran(server, plan)

        assert (server.count, server.connections <= 40) == (40, True)
    assert [step.output for step in result.steps] == [f"call {n}" for n in range(40)]
    assert result.usage == Usage(4000, 800, 40)
    assert result.cost_usd == pytest.approx(40 * 0.00014)


# --- limits and keys ----------------------------------------------------------------------------


def test_a13_no_call_is_made_that_could_pass_the_limit() -> None:
    # 1 dollar a token of answer, at most one: every call may cost at most 1 dollar and its prompt, and costs 0.5.
    steps = [{"id": f"s{n}", "model": "m", "prompt": "x", "max_tokens": 1} for n in range(20)]
    limits = ResourceLimits(max_total_cost_usd=5.01, max_concurrent=None)
    used = Usage(0, 1, 1)

    with ProviderServer(lambda request: Reply(text="x", usage=used), key=KEY) as server:
        more = "&price_in=0&price_out=1000000"
        result, _ = ran(server, {"planloom": 1, "steps": steps}, more=more, limits=limits)

        assert server.count == 5
    assert result.cost_usd == pytest.approx(5.0)
    assert result.status is RunStatus.LIMIT_EXCEEDED
    assert result.exceeded_limits == ("max_total_cost_usd",)


def test_a61_without_a_key_a_run_does_not_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEST_KEY")
    log = CallLog()
    plan = one_step()
    plan["steps"].insert(0, {"id": "first", "tool": "t"})

    with ProviderServer() as server:
        with pytest.raises(MissingKeyError, match="TEST_KEY"):
            ran(server, plan, tools=[fake_tool("t", log=log)])

        assert server.count == 0
    assert len(log) == 0


def test_a_key_is_nowhere_on_the_disk_and_in_no_result(tmp_path: Path) -> None:
    plan = one_step(retry={"max_attempts": 2, "initial_delay": 0}, stream=True)
    plan["steps"].append({"id": "fails", "model": "m", "prompt": "x", "on_error": "continue"})

    def answer(request: RecordedRequest) -> Answer:
        if request.prompt == "x":
            return Status(401, f"Incorrect API key provided: {KEY}")
        return Reply(text="fine, and no more than that", usage=USED)

    with ProviderServer(answer, key=KEY) as server:
        result, events = ran(server, plan, journal=tmp_path / "runs.db")

    on_disk = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"fine, and no more" in on_disk
    assert KEY.encode() not in on_disk
    assert KEY not in json.dumps(result.to_dict()) + repr(events) + repr(result)
