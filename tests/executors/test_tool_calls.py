"""A model step with tools: the model asks, the tools are called under the step's rules, and the model answers."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import pytest

from planloom import Engine, ResourceLimits, RunResult, RunStatus, Tool, ToolContext
from planloom.core.asking import MAX_CALLS, MAX_ROUNDS
from planloom.core.chat import Message, ModelCall, ToolCall
from planloom.errors import NotAllowedError, NotDoneError
from planloom.executors.calls import ToolCalls
from planloom.executors.llm import LlmExecutor
from planloom.executors.threads import ThreadPool
from planloom.models.catalogue import Models
from planloom.testing.clock import ManualClock
from planloom.testing.fakes import CallLog, fake_tool
from planloom.testing.models import FunctionModel, ScriptedModel
from planloom.tools.registry import ToolRegistry
from tests.executors.attempts import Books, asking

SEARCH_SCHEMA = {
    "type": "object",
    "properties": {"text": {"type": "string"}},
    "required": ["text"],
    "additionalProperties": False,
}


def wish(name: str, arguments: dict[str, Any] | str | None = None, *, call_id: str = "1") -> ToolCall:
    return ToolCall(call_id, name, {} if arguments is None else arguments)


def run(
    answers: Any,
    tools: list[Tool],
    *,
    step: dict[str, Any] | None = None,
    plan: dict[str, Any] | None = None,
    **options: Any,
) -> tuple[RunResult, list[ModelCall]]:
    """Run one model step that may use all the tools; return the result and what the model was asked."""
    model = answers if isinstance(answers, FunctionModel | ScriptedModel) else ScriptedModel(answers)
    asks = {"id": "a", "model": "m", "prompt": "Do it.", "tools": [tool.name for tool in tools]} | (step or {})

    async def main() -> RunResult:
        given = {name: options.pop(name, None) for name in ("allow", "clock")}
        engine = Engine(tools=tools, models={"m": model}, **given)
        async with asyncio.timeout(5), engine:
            return await engine.run({"planloom": 1, "steps": [asks], **(plan or {})}, run_id="r", **options)

    return asyncio.run(main()), model.calls


def told(call: ModelCall) -> list[tuple[str | None, Any]]:
    """Return what the model was told tools came to: call id and value."""
    return [(one.tool_call_id, json.loads(one.content)) for one in call.messages if one.role == "tool"]


def test_a_model_calls_a_tool_and_answers_with_what_it_came_to() -> None:
    log = CallLog()
    result, asked = run(
        [wish("sum_up", {"numbers": [1, 2]}), "Three."],
        [fake_tool("sum_up", [{"sum": 3}], log=log)],
        step={"system": "Be brief."},
    )

    assert result.output == "Three."
    assert log.of("sum_up") == [{"numbers": [1, 2]}]
    assert asked[1].messages == (
        Message("system", "Be brief."),
        Message("user", "Do it."),
        Message("assistant", "", tool_calls=(wish("sum_up", {"numbers": [1, 2]}),)),
        Message("tool", '{"sum": 3}', tool_call_id="1", name="sum_up"),
    )
    assert result.step("a").metadata["tools_called"] == ["sum_up"]  # type: ignore[index]
    assert result.step("a").usage.requests == 2  # type: ignore[union-attr]


def test_the_model_is_told_of_the_step_s_tools_and_no_others() -> None:
    tools = [fake_tool("mail.read", description="Reads."), fake_tool("mail.send")]

    _, asked = run(["done"], tools, step={"tools": ["mail.read"]})

    (spec,) = asked[0].tools
    assert spec.name.startswith("mail_read_")  # in the characters that providers take
    assert (spec.description, spec.parameters) == ("Reads.", tools[0].schema)


def test_calls_of_one_answer_run_at_the_same_time_and_their_results_keep_its_order() -> None:
    both = asyncio.Barrier(2)

    async def meet(name: str) -> str:
        await both.wait()
        if name == "first":
            await asyncio.sleep(0.01)
        return name

    wishes = (wish("meet", {"name": "first"}, call_id="x"), wish("meet", {"name": "second"}, call_id="y"))
    result, asked = run([wishes, "done"], [Tool.from_function(meet, effects="none")])

    assert result.output == "done"
    assert [(one.tool_call_id, one.content) for one in asked[1].messages if one.role == "tool"] == [
        ("x", "first"),
        ("y", "second"),
    ]


def test_a_sync_tool_runs_in_a_thread_beside_another() -> None:
    def slow(n: int) -> int:
        time.sleep(0.05)
        return n

    wishes = tuple(wish("slow", {"n": n}, call_id=str(n)) for n in range(3))
    _, asked = run([wishes, "done"], [Tool.from_function(slow, effects="none")])

    assert told(asked[1]) == [("0", 0), ("1", 1), ("2", 2)]


@pytest.mark.parametrize(
    "asked_for", ["send", "functions.send", "tools.send", "post"], ids=["name", "namespace", "other namespace", "alias"]
)
@pytest.mark.parametrize("widened", [True, False], ids=["only the step forbids it", "the plan forbids it"])
def test_a_tool_that_the_step_does_not_name_fails_it_and_is_not_called(asked_for: str, *, widened: bool) -> None:
    log = CallLog()
    tools = [fake_tool("read", log=log), fake_tool("send", log=log, aliases=("post",))]
    plan = {} if widened else {"allow": ["read"]}

    result, asked = run(
        [(wish("read"), wish(asked_for)), "sent"],
        tools,
        step={"tools": ["read"], "retry": {"initial_delay": 0}},
        plan=plan,
    )

    assert result.status is RunStatus.FAILED
    assert result.step("a").error_kind == "not_allowed"
    assert "'send'" in (result.step("a").error or "")
    assert log.calls == []
    assert len(asked) == 1, "the model is not told"


def test_what_the_model_gets_wrong_it_is_told_and_nothing_is_called() -> None:
    log = CallLog()
    search = Tool.from_schema("search", lambda **args: log.calls.append(args), SEARCH_SCHEMA, effects="none")
    wrong = (
        wish("search", {"text": 7}, call_id="type"),
        wish("search", {"txt": "x"}, call_id="name"),
        wish("search", '{"text": "x"', call_id="json"),
        wish("serch", {"text": "x"}, call_id="tool"),
    )

    result, asked = run([wrong, "sorry"], [search])

    assert result.output == "sorry"
    assert log.calls == []
    found = dict(told(asked[1]))
    assert "text" in found["type"]["error"]
    assert "txt" in found["name"]["error"]
    assert "not a JSON object" in found["json"]["error"]
    assert found["tool"]["try"] == "did you mean 'search'?"
    assert result.tool_calls == 0


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ConnectionError("gone"), "error"),
        (ValueError("bad"), "error"),
        (TypeError("bug"), "refused"),
        (NotDoneError("no"), "not_done"),
    ],
    ids=str,
)
def test_a_tool_that_raises_fails_the_step_as_it_fails_a_tool_step(error: Exception, kind: str) -> None:
    tools = [fake_tool("t", [error])]

    inside, asked = run([wish("t"), "fine all the same"], tools)
    alone, _ = run([], tools, step={"model": None, "prompt": None, "tools": None, "tool": "t"})

    assert len(asked) == 1
    assert inside.step("a").error_kind == alone.step("a").error_kind == kind
    assert inside.step("a").error == alone.step("a").error


def test_a_tool_that_exits_beside_another_fails_the_step_and_not_the_engine() -> None:
    async def leave() -> None:
        sys.exit(3)

    async def stay() -> None:
        await asyncio.sleep(0)

    result, _ = run(
        [(wish("leave"), wish("stay")), "done"],
        [Tool.from_function(leave, effects="none"), Tool.from_function(stay, effects="none")],
    )

    assert result.status is RunStatus.FAILED
    assert "sys.exit(3)" in (result.error or "")


def test_a_result_that_does_not_fit_what_the_tool_declares_fails_the_step() -> None:
    result, _ = run([wish("t"), "done"], [fake_tool("t", ["text"], output_schema={"type": "integer"})])

    assert result.step("a").error_kind == "output"


def test_a_tool_s_own_time_bounds_its_call_and_not_the_step_after_it() -> None:
    clock = ManualClock()

    async def slow(seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "slept"

    async def think(call: ModelCall) -> Any:
        if len(call.messages) == 1:
            return wish("slow", {"seconds": 0})
        clock.advance(100)  # the tool's time is over, but the tool has long answered
        await asyncio.sleep(0)
        return "done"

    fast, _ = run(FunctionModel(think), [Tool.from_function(slow, effects="none", timeout_seconds=5)], clock=clock)
    late, _ = run([wish("slow", {"seconds": 5})], [Tool.from_function(slow, effects="none", timeout_seconds=0.05)])

    assert fast.output == "done"
    assert late.step("a").status.value == "timed_out"


def test_after_so_many_rounds_the_model_has_to_answer() -> None:
    log = CallLog()

    obeys, asked = run([wish("t")] * MAX_ROUNDS + ["all right"], [fake_tool("t", log=log)])
    insists, _ = run([wish("t")] * (MAX_ROUNDS + 1), [fake_tool("t")])

    assert obeys.output == "all right"
    assert len(log) == MAX_ROUNDS
    assert [call.tool_choice for call in asked] == ["auto"] * MAX_ROUNDS + ["none"]
    assert "has to answer" in (insists.error or "")


def test_so_many_calls_are_made_and_the_model_is_told_that_there_are_no_more() -> None:
    log = CallLog()
    wishes = tuple(wish("t", {"n": n}, call_id=str(n)) for n in range(MAX_CALLS + 2))

    result, asked = run([wishes, "done"], [fake_tool("t", log=log)])

    assert result.output == "done"
    assert len(log) == MAX_CALLS == result.tool_calls
    results = told(asked[1])
    assert [call_id for call_id, value in results if "error" in value] == [str(MAX_CALLS), str(MAX_CALLS + 1)]
    assert asked[1].tool_choice == "none"


def test_no_call_is_made_beyond_the_run_s_limit_of_calls() -> None:
    log = CallLog()

    result, _ = run(
        [wish("t"), (wish("t"), wish("t")), "done"],
        [fake_tool("t", log=log)],
        limits=ResourceLimits(max_tool_calls=2, max_total_cost_usd=None),
    )

    assert result.status is RunStatus.LIMIT_EXCEEDED
    assert result.exceeded_limits == ("max_tool_calls",)
    assert len(log) == 1, "two do not fit, so neither of them is made"
    assert result.tool_calls == 1


def test_what_tools_cost_is_the_step_s_cost_and_bounded_with_it() -> None:
    def paid(usd: float, context: ToolContext) -> None:
        context.report_cost(usd)

    paying = Tool.from_function(paid, effects="none", cost_per_call=1.0)
    tools = [paying, fake_tool("flat", cost_per_call=0.25), fake_tool("broken", [ValueError()], cost_per_call=0.5)]

    spent, _ = run([(wish("paid", {"usd": 0.1}), wish("flat"), wish("flat")), "done"], tools)
    failed, _ = run([wish("broken")], tools)
    limits = ResourceLimits(max_total_cost_usd=0.2)
    bounded, _ = run([wish("flat"), "done"], tools, limits=limits)
    fits, _ = run([(wish("flat"), wish("flat")), "done"], tools, limits=ResourceLimits(max_total_cost_usd=0.5))

    assert spent.cost_usd == pytest.approx(0.6)
    assert failed.cost_usd == pytest.approx(0.5)
    assert bounded.exceeded_limits == ("max_total_cost_usd",)
    assert bounded.cost_usd == 0.0
    assert fits.cost_usd == pytest.approx(0.5)


def test_each_call_has_a_key_of_its_own_and_every_attempt_the_same_ones() -> None:
    seen: list[tuple[int, str, str]] = []

    async def look(context: ToolContext) -> str:
        seen.append((context.attempt, context.step, context.idempotency_key))
        if len(seen) == 2:
            raise NotDoneError("once more")
        return "looked"

    answers = [wish("look"), wish("look"), (wish("look"), wish("look")), "done"]
    retry = {"max_attempts": 2, "initial_delay": 0}
    result, _ = run(answers, [Tool.from_function(look, effects="idempotent")], step={"retry": retry})

    assert result.output == "done"
    assert seen == [(1, "a", "r/a/1"), (1, "a", "r/a/2"), (2, "a", "r/a/1"), (2, "a", "r/a/2")]


def test_a_value_is_asked_for_with_all_that_the_tools_came_to() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}

    result, asked = run([wish("t"), "not JSON", {"n": 3}], [fake_tool("t", [3])], step={"output": schema})

    assert result.output == {"n": 3}
    assert [one.role for one in asked[2].messages] == ["user", "assistant", "tool", "assistant", "user"]


def test_where_the_price_of_the_model_is_unknown_so_is_the_cost_of_the_step() -> None:
    result, _ = run(ScriptedModel([wish("t"), "done"], price=None), [fake_tool("t", cost_per_call=0.25)])

    assert result.output == "done"
    assert result.step("a").cost_usd is None


def test_an_allowlist_holds_where_the_call_is_made_whatever_the_plan_said() -> None:
    log, books = CallLog(), Books()
    model = ScriptedModel([wish("send"), "sent"])
    executor = LlmExecutor(
        Models(given={"m": model}), ToolCalls(ToolRegistry([fake_tool("send", log=log)]), ThreadPool(1))
    )

    with pytest.raises(NotAllowedError):
        asyncio.run(executor.execute(asking({"tools": ["send"]}, allow=(frozenset({"read"}),), models={}), books))

    assert log.calls == []
    assert model.calls == []


def test_a_tool_is_no_way_around_the_caller_s_allowlist() -> None:
    tools = [fake_tool("read"), fake_tool("send")]

    with pytest.raises(ValueError, match="not allowed"):
        run([wish("send")], tools, allow=["read"])


@pytest.mark.parametrize(
    ("declared", "attempts"),
    [(["none", "none"], 2), (["none", "once"], 1)],
    ids=["changes nothing", "changes something"],
)
def test_a_step_is_as_careful_as_the_strictest_of_its_tools(declared: list[str], attempts: int) -> None:
    tools = [fake_tool(f"t{at}", [ConnectionError()], effects=effects) for at, effects in enumerate(declared)]
    retry = {"max_attempts": 2, "initial_delay": 0}

    result, _ = run([wish("t0")] * 2, tools, step={"retry": retry})

    assert result.step("a").attempts == attempts
