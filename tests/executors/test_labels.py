"""What calls inside an attempt bring in, and which are not made because of what the attempt knows."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from planloom.core.chat import ToolCall
from planloom.core.events import AttemptFailed, AttemptSucceeded, CallEnded
from planloom.errors import FlowError
from planloom.executors.attempt import Attempts
from planloom.executors.calls import ToolCalls
from planloom.executors.inner import TOOL, Inner
from planloom.executors.labels import refuse_flow, refuse_judge
from planloom.executors.llm import LlmExecutor
from planloom.executors.threads import ThreadPool
from planloom.models.catalogue import Models
from planloom.plan.flow import FlowPolicy
from planloom.plan.policy import FailureKind
from planloom.testing.models import ScriptedModel
from planloom.tools.registry import ToolRegistry
from planloom.tools.tool import Tool
from tests.executors.attempts import Books, asking

ASK = FlowPolicy()


async def get() -> str:
    return "page"


async def broken() -> str:
    raise ValueError("the page said: no")


async def send(text: str = "") -> str:
    return "sent"


GET = Tool.from_function(get, effects="none", source="web")
BROKEN = Tool.from_function(broken, effects="none", source="web")
SEND = Tool.from_function(send, effects="once", cost_per_call=0.5)
TOOLS = ToolRegistry([GET, BROKEN, SEND])


def attempt(answers: list[Any], context: Books, **fields: Any) -> tuple[Any, ScriptedModel]:
    model = ScriptedModel(answers, name="m")

    async def main() -> Any:
        executor = LlmExecutor(Models(given={"m": model}), ToolCalls(TOOLS, ThreadPool(1)))
        request = asking({"tools": ("get", "broken", "send")}, **{"flow": ASK} | fields)
        return await Attempts(executor)(request, context)

    return asyncio.run(main()), model


def test_what_calls_bring_in_goes_with_the_answer() -> None:
    fact, _ = attempt([ToolCall("1", "get", {}), "done"], Books())

    assert isinstance(fact, AttemptSucceeded)
    assert fact.labels == ("web",)


def test_what_a_call_brought_in_goes_with_its_error_too() -> None:
    fact, _ = attempt([ToolCall("1", "broken", {})], Books())

    assert isinstance(fact, AttemptFailed)
    assert "the page said" in fact.error
    assert fact.labels == ("web",)


def test_calls_asked_for_at_once_know_nothing_of_each_other() -> None:
    fact, _ = attempt([[ToolCall("1", "get", {}), ToolCall("2", "send", {})], "done"], Books())

    assert (fact.output, fact.metadata["tools_called"]) == ("done", ["get", "send"])


def test_a_call_that_is_not_made_counts_and_costs_nothing() -> None:
    context = Books()

    fact, model = attempt([[ToolCall("1", "send", {})], "done"], context, labels=frozenset({"web"}))

    assert (fact.output, fact.tool_calls) == ("done", 0)
    assert (context.reported_usd or 0) < 0.01
    assert "a step of its own" in model.calls[-1].messages[-1].content


def test_a_run_without_labels_looks_at_none() -> None:
    fact, _ = attempt([ToolCall("1", "get", {}), ToolCall("2", "send", {}), "done"], Books(), flow=None)

    assert (fact.labels, fact.metadata["tools_called"]) == ((), ["get", "send"])


@pytest.mark.parametrize(
    ("policy", "is_made"), [({}, False), ({"untrusted": "refuse"}, False), ({"untrusted": "allow"}, True)]
)
def test_the_run_s_policy_decides(policy: dict[str, Any], is_made: bool) -> None:
    request = asking(labels=frozenset({"web"}), flow=FlowPolicy(**policy))

    if is_made:
        refuse_flow(SEND, request, Books(), tells_model=True)
    else:
        with pytest.raises(FlowError, match="'send' was not called"):
            refuse_flow(SEND, request, Books(), tells_model=True)


def test_what_the_run_was_told_of_a_tool_counts_and_not_what_it_says_today() -> None:
    request = asking(labels=frozenset({"web"}), flow=ASK, tools={"send": SEND.facts})
    laxer = replace(SEND, accepts=("web",))

    with pytest.raises(FlowError):
        refuse_flow(laxer, request, Books(), tells_model=False)


def test_another_tool_of_the_same_name_speaks_for_itself() -> None:
    """An agent's own: its parameters are others than those of the tool that the run was told of."""
    request = asking(labels=frozenset({"web"}), flow=ASK, tools={"send": replace(SEND.facts, digest="0" * 64)})

    refuse_flow(replace(SEND, accepts=("web",)), request, Books(), tells_model=False)


def test_a_secret_is_read_for_a_program_and_not_for_a_model() -> None:
    vault = Tool.from_function(get, name="vault", effects="none", secret=True)
    request = asking(flow=ASK)

    refuse_flow(vault, request, Books(), tells_model=False)
    with pytest.raises(FlowError, match="a model would be told a secret"):
        refuse_flow(vault, request, Books(), tells_model=True)


def test_a_judge_is_asked_where_models_may_be_told() -> None:
    context = Books()
    context.report_labels({"secret"})

    refuse_judge(asking(flow=FlowPolicy(models_accept="secret")), context)
    with pytest.raises(FlowError, match="was not judged"):
        refuse_judge(asking(flow=ASK), context)


def test_a_call_on_record_brings_in_again_what_it_brought() -> None:
    done = CallEnded("a", 1, 1, "k", "get", TOOL, "page", 1.0, 2.0, labels=("web",))
    context = Books()

    async def main() -> Any:
        inner = Inner(asking(recorded={"k": done}, flow=ASK), context)
        return await inner.once("k", _never, name="get", kind=TOOL)

    assert asyncio.run(main()) == "page"
    assert context.reported_labels == {"web"}


async def _never(_: Any) -> Any:
    raise AssertionError("it is on record")


def test_trying_again_cannot_help_a_call_that_may_not_be_made() -> None:
    class Refusing:
        async def execute(self, *_: Any) -> Any:
            raise FlowError("no")

    fact = asyncio.run(Attempts(Refusing())(asking(), Books()))

    assert isinstance(fact, AttemptFailed)
    assert fact.kind is FailureKind.NOT_ALLOWED
