"""A small model's worker calls tools as they are, fills in what is missing, and does what is only described."""

from __future__ import annotations

import asyncio
import contextvars
import subprocess
import sys
import threading
from datetime import date
from typing import Any

import pytest

from planloom.agents.small import SmallModelWorker
from planloom.api.execute import execute_plan
from planloom.core.chat import ModelCall
from planloom.core.prices import ModelPrice
from planloom.core.result import Usage
from planloom.errors import (
    ArgumentsError,
    ConfigError,
    ModelError,
    ModelRefusedError,
    NotAllowedError,
    OutputError,
    ToolExecutionError,
    UnknownModelError,
    UnknownToolError,
)
from planloom.models.llm import LLM
from planloom.models.scripted import FunctionModel, ScriptedModel
from planloom.tools import Tool, ToolContext, ToolRegistry
from planloom.tools.catalogue import ToolCatalog
from planloom.tools.definition import ToolDefinition, ToolExample, ToolParameter

MINI = ModelPrice(0.15, 0.60, source="list")
USED = Usage(1000, 500, requests=1)
CENTS_OF_ONE_CALL = 0.00045

CATEGORIZE = ToolDefinition(
    name="receipts.categorize",
    description="Say what kind of purchase it was.",
    parameters=(ToolParameter(name="merchant"),),
    output_schema={"type": "object", "properties": {"category": {"enum": ["food", "fuel"]}}, "required": ["category"]},
    examples=(ToolExample(input={"merchant": "Shell"}, output={"category": "fuel"}),),
)


def save(merchant: str, total: float, note: str = "") -> dict[str, Any]:
    """Keep a receipt."""
    return {"merchant": merchant, "total": total, "note": note}


def nobody(call: ModelCall) -> str:
    raise AssertionError(f"a model was asked: {call}")


def working(answers: Any, *tools: Any, **options: Any) -> tuple[SmallModelWorker, Any]:
    """Return a worker and its model, which gives these answers or those of a function."""
    price = options.pop("price", MINI)
    model: Any
    if callable(answers):
        model = FunctionModel(answers, usage=USED, price=price)
    else:
        model = ScriptedModel(answers, usage=USED, price=price)
    return SmallModelWorker(model, tools=list(tools), **options), model


def run(worker: SmallModelWorker, tool: str, parameters: Any = None) -> Any:
    return asyncio.run(worker.execute_tool(tool, parameters))


# --- tools that are called ----------------------------------------------------------------------


@pytest.mark.parametrize("given", [{"merchant": "Aldi", "total": 3}, '{"merchant": "Aldi", "total": 3.0}'])
def test_arguments_that_fit_reach_the_tool_and_no_model(given: Any) -> None:
    worker, _ = working(nobody, save)

    assert run(worker, "save", given) == {"merchant": "Aldi", "total": 3.0, "note": ""}
    assert (worker.usage, worker.cost_usd) == (Usage(), 0.0)


def test_arguments_in_text_are_read_by_the_model_and_checked() -> None:
    worker, model = working([{"merchant": "Aldi", "total": 3.5}], save, max_tokens=77, temperature=0.3)

    result = run(worker, "functions.save", "Paid 3.50 at Aldi")

    assert result == {"merchant": "Aldi", "total": 3.5, "note": ""}
    (call,) = model.calls
    assert (call.max_tokens, call.temperature) == (77, 0.3)
    assert call.output == worker.catalogue.get_tool("save").input_schema
    assert "save. Keep a receipt." in call.messages[0].content
    assert call.messages[1].content == "Paid 3.50 at Aldi"
    assert worker.usage == USED
    assert worker.cost_usd == pytest.approx(CENTS_OF_ONE_CALL)


def test_a_missing_argument_is_filled_in_and_what_was_given_stays() -> None:
    worker, model = working([{"merchant": "ALDI GmbH", "total": 3.5}], save)

    result = run(worker, "save", {"merchant": "Aldi", "note": "cash", "receipt": "ALDI 3,50"})

    assert result == {"merchant": "Aldi", "total": 3.5, "note": "cash"}
    assert '"receipt": "ALDI 3,50"' in model.calls[0].messages[1].content


def test_an_answer_that_does_not_fit_is_asked_for_once_more_and_both_are_paid() -> None:
    worker, _ = working([{"merchant": "Aldi"}, {"merchant": "Aldi", "total": 1}], save)

    assert run(worker, "save", "Aldi")["total"] == 1
    assert worker.usage == USED + USED
    assert worker.cost_usd == pytest.approx(2 * CENTS_OF_ONE_CALL)


def test_a_model_that_cannot_fill_in_fails_the_call_and_the_tool_is_not_called() -> None:
    called: list[Any] = []
    worker, _ = working(["no idea", "none"], Tool.from_function(lambda x: called.append(x), name="t"))

    with pytest.raises(OutputError, match="asked twice"):
        run(worker, "t", "?")
    assert called == []


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"merchant": "Aldi", "total": "much"}, "total"),
        ({"merchant": "Aldi", "total": 1, "sum": 2}, "sum: is not a parameter"),
        ({"total": "much"}, "merchant: is missing"),
        ({}, "merchant: is missing"),
        ("  ", "merchant: is missing"),
        (None, "merchant: is missing"),
        ([1], "wrong arguments"),
        (7, "wrong arguments"),
    ],
)
def test_wrong_arguments_are_told_and_no_model_is_asked_to_mend_them(given: Any, problem: str) -> None:
    worker, _ = working(nobody, save)

    with pytest.raises(ArgumentsError, match=problem):
        run(worker, "save", given)


def test_a_tool_with_a_foreign_schema_is_filled_in_alike() -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    worker, _ = working([{"city": "Oslo"}], Tool.from_schema("weather", lambda city: f"rain in {city}", schema))

    assert run(worker, "weather", {"question": "Is it raining in Oslo?"}) == "rain in Oslo"


def test_values_that_json_has_no_form_for_are_kept_from_the_model() -> None:
    worker, _ = working(nobody, save)

    with pytest.raises(OutputError, match=r"parameters\.receipt"):
        run(worker, "save", {"receipt": object()})


def test_a_plain_function_runs_in_a_thread_with_the_callers_context() -> None:
    seen = contextvars.ContextVar("seen", default="")

    def where() -> list[str]:
        return [seen.get(), threading.current_thread().name]

    async def main() -> Any:
        seen.set("mine")
        return await SmallModelWorker(tools=[where]).execute_tool("where")

    value, thread = asyncio.run(main())

    assert value == "mine"
    assert thread != threading.main_thread().name


def test_what_a_tool_reports_or_declares_is_counted() -> None:
    async def reports(context: ToolContext) -> str:
        context.report_cost(0.25)
        return ""

    declares = Tool.from_function(lambda: None, name="declares", cost_per_call=0.5)
    both = Tool.from_function(reports, name="both", cost_per_call=100)
    worker, _ = working(nobody, declares, both)

    run(worker, "declares")
    run(worker, "both")

    assert worker.cost_usd == 0.75


def test_a_result_is_json_of_the_declared_schema() -> None:
    day = Tool.from_function(lambda: date(2026, 12, 1), name="day", output_schema={"type": "string"})
    wrong = Tool.from_function(lambda: 3, name="wrong", output_schema={"type": "string"})
    worker, _ = working(nobody, day, wrong, Tool.from_function(object, name="thing"))

    assert run(worker, "day") == "2026-12-01"
    with pytest.raises(OutputError, match="result of 'wrong' does not fit"):
        run(worker, "wrong")
    with pytest.raises(OutputError):
        run(worker, "thing")


def test_a_tool_is_given_up_when_its_own_time_is_over() -> None:
    async def waits() -> None:
        await asyncio.Event().wait()

    async def hurries() -> None:
        raise TimeoutError("its server")

    worker, _ = working(
        nobody,
        Tool.from_function(waits, timeout_seconds=0.01),
        Tool.from_function(hurries, timeout_seconds=60),
    )

    with pytest.raises(TimeoutError, match=r"'waits' took over 0.01 s"):
        run(worker, "waits")
    with pytest.raises(TimeoutError, match="its server"):
        run(worker, "hurries")


def test_what_a_tool_raises_comes_through() -> None:
    def breaks() -> None:
        raise KeyError("shelf")

    worker, _ = working(nobody, breaks)

    with pytest.raises(KeyError, match="shelf"):
        run(worker, "breaks")


def test_only_tools_that_are_there_and_allowed_are_called() -> None:
    other = Tool.from_function(lambda: None, name="other")
    worker = SmallModelWorker(tools=ToolRegistry([save, other]).restricted(["other"]))

    with pytest.raises(NotAllowedError):
        run(worker, "save", {"merchant": "Aldi", "total": 1})
    with pytest.raises(UnknownToolError):
        run(worker, "delete")


# --- tools that are only described --------------------------------------------------------------


def test_a_tool_that_is_only_described_is_done_by_the_model_in_its_output_schema() -> None:
    worker, model = working([{"category": "food"}], CATEGORIZE)

    assert run(worker, "receipts.categorize", {"merchant": "Aldi"}) == {"category": "food"}
    (call,) = model.calls
    assert call.output == CATEGORIZE.output_schema
    assert "Say what kind of purchase it was." in call.messages[0].content
    assert 'Example: {"merchant": "Shell"} gives {"category": "fuel"}' in call.messages[0].content
    assert call.messages[1].content == '{"merchant": "Aldi"}'
    assert worker.cost_usd == pytest.approx(CENTS_OF_ONE_CALL)


def test_a_described_tool_without_an_output_schema_answers_text_and_takes_text() -> None:
    worker, model = working(["a summary"], {"name": "summarize", "parameters": [{"name": "text"}]})

    assert run(worker, "summarize", "a long story") == "a summary"
    assert (model.calls[0].output, model.calls[0].messages[1].content) == (None, "a long story")


@pytest.mark.parametrize("given", [{}, {"merchant": 3}, {"merchant": "a", "x": 1}, [1], None])
def test_wrong_arguments_of_a_described_tool_are_told_before_the_model_is_asked(given: Any) -> None:
    worker, _ = working(nobody, CATEGORIZE)

    with pytest.raises(ArgumentsError, match=r"'receipts.categorize'"):
        run(worker, "receipts.categorize", given)


@pytest.mark.parametrize(
    "more", [{"type": "mcp"}, {"type": "agent"}, {"type": "code_exec"}, {"effects": "once"}, {"effects": "idempotent"}]
)
def test_a_model_never_stands_in_for_what_is_more_than_text(more: dict[str, Any]) -> None:
    worker, _ = working(nobody, {"name": "mail.send", **more}, save)

    with pytest.raises(ConfigError, match=r"'mail.send' has no function here"):
        run(worker, "mail.send", {})
    assert worker.registry().names() == ["save"]
    assert worker.get_capabilities()["tools"] == ["save"]


def test_an_error_of_the_model_comes_through_with_what_it_cost() -> None:
    def refuses(_: ModelCall) -> str:
        error = ModelRefusedError("no")
        error.usage = USED
        raise error

    worker, _ = working(refuses, CATEGORIZE)

    with pytest.raises(ModelError):
        run(worker, "receipts.categorize", {"merchant": "Aldi"})
    assert worker.usage == USED
    assert worker.cost_usd == pytest.approx(CENTS_OF_ONE_CALL)


def test_a_price_that_nobody_knows_makes_the_cost_unknown_and_not_zero() -> None:
    worker, _ = working(["x"], {"name": "say"}, price=None)

    run(worker, "say", "hello")

    assert worker.cost_usd is None
    assert worker.usage == USED


# --- many calls ---------------------------------------------------------------------------------


def test_a22_a_batch_of_100_keeps_the_order_and_its_bound() -> None:
    under_way, most = 0, 0
    turns: list[asyncio.Event] = []

    async def slow(number: int) -> int:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        turn = asyncio.Event()
        turns.append(turn)
        if len(turns) % 5 == 0:  # the last of five lets the others go, the latest first
            for waiting in reversed(turns[-5:]):
                waiting.set()
        await turn.wait()
        under_way -= 1
        return number * number

    worker, _ = working(nobody, slow, max_concurrent=5)

    results = asyncio.run(worker.batch_execute({"tool": "slow", "params": {"number": n}} for n in range(100)))

    assert results == [number * number for number in range(100)]
    assert most == 5


def test_a22_models_too_are_asked_no_more_than_the_bound_at_a_time() -> None:
    under_way, most = 0, 0

    async def answer(call: ModelCall) -> str:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        for _ in range(3):
            await asyncio.sleep(0)
        under_way -= 1
        return call.messages[-1].content.upper()

    worker, _ = working(answer, {"name": "shout"}, max_concurrent=3)
    texts = [f"text {number}" for number in range(100)]

    results = asyncio.run(worker.batch_execute([{"tool": "shout", "params": text} for text in texts]))

    assert results == [text.upper() for text in texts]
    assert most == 3
    assert worker.usage.requests == 100
    assert worker.cost_usd == pytest.approx(100 * CENTS_OF_ONE_CALL)


def failing_batch() -> tuple[SmallModelWorker, list[int], list[dict[str, Any]]]:
    done: list[int] = []

    async def halve(number: int) -> float:
        await asyncio.sleep(0)
        done.append(number)
        if number in (2, 3):
            raise ValueError(f"{number} is not to be halved")
        return number / 2

    worker, _ = working(nobody, halve, max_concurrent=2)
    return worker, done, [{"tool": "halve", "params": {"number": number}} for number in range(6)]


def test_a_call_that_fails_costs_itself_only_and_is_raised_when_all_have_ended() -> None:
    worker, done, calls = failing_batch()

    with pytest.raises(ToolExecutionError, match=r"'calls\[2\]' \(halve\) failed: ValueError: 2 is not") as caught:
        asyncio.run(worker.batch_execute(calls))

    assert sorted(done) == [0, 1, 2, 3, 4, 5]
    assert (caught.value.tool_name, caught.value.error) == ("halve", "ValueError: 2 is not to be halved")
    assert isinstance(caught.value.__cause__, ValueError)
    assert caught.value.partial == {
        "results": [0.0, 0.5, None, None, 2.0, 2.5],
        "errors": {2: "ValueError: 2 is not to be halved", 3: "ValueError: 3 is not to be halved"},
    }


def test_errors_stand_among_the_results_where_that_is_asked_for() -> None:
    worker, _, calls = failing_batch()

    results = asyncio.run(worker.batch_execute(calls, return_exceptions=True))

    assert [result if isinstance(result, float) else type(result) for result in results] == [
        0.0,
        0.5,
        ValueError,
        ValueError,
        2.0,
        2.5,
    ]


@pytest.mark.parametrize("wrong", [{"params": {}}, {"tool": 3}, {"tool": "save", "parameters": {}}, "save", None])
def test_a_batch_with_something_else_in_it_is_refused_whole(wrong: Any) -> None:
    called: list[int] = []
    worker, _ = working(nobody, Tool.from_function(lambda: called.append(1), name="t"))

    with pytest.raises(ConfigError, match=r"calls\[1\] is no call"):
        asyncio.run(worker.batch_execute([{"tool": "t"}, wrong]))
    assert called == []


def test_a_batch_of_nothing_is_nothing_and_a_worker_outlives_its_loop() -> None:
    worker, _ = working(nobody, Tool.from_function(lambda: 1, name="one"), max_concurrent=1)

    assert asyncio.run(worker.batch_execute([])) == []
    assert asyncio.run(worker.batch_execute([{"tool": "one"}] * 3)) == [1, 1, 1]
    assert asyncio.run(worker.batch_execute([{"tool": "one"}] * 3)) == [1, 1, 1]


# --- what it is ---------------------------------------------------------------------------------


def test_capabilities_say_what_it_can_do() -> None:
    worker, _ = working(nobody, save, CATEGORIZE, max_tokens=50, temperature=0.5, max_concurrent=7)

    assert worker.get_capabilities() == {
        "model": "function",
        "provider": "scripted",
        "uri": "scripted://function",
        "tools": ["save", "receipts.categorize"],
        "max_tokens": 50,
        "temperature": 0.5,
        "max_concurrent": 7,
        "context_window": None,
        "price": {"input": 0.15, "output": 0.60, "source": "list"},
        "supports": ["json", "json_schema", "prediction", "streaming", "tools"],
    }


def test_the_usual_worker_is_the_small_model_of_openai_and_needs_no_key_to_be_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)

    worker = SmallModelWorker(tools=[])
    told = worker.get_capabilities()

    assert (worker.max_tokens, worker.temperature, worker.max_concurrent) == (1000, 0.0, 5)
    assert (told["uri"], told["model"], told["provider"]) == ("openai://gpt-4o-mini", "gpt-4o-mini", "openai")
    assert (told["price"]["input"], told["price"]["output"]) == (0.15, 0.60)


@pytest.mark.slow
def test_making_a_worker_and_calling_a_tool_loads_no_model_library() -> None:
    program = """
import asyncio, sys
from planloom.agents.small import SmallModelWorker
worker = SmallModelWorker(tools={'one': lambda: 1})
assert asyncio.run(worker.execute_tool('one')) == 1
print([name for name in ('pydantic_ai', 'openai', 'genai_prices', 'httpx') if name in sys.modules])
"""

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr


@pytest.mark.parametrize(
    ("options", "uri"),
    [
        ({"model": "ollama://phi3"}, "ollama://phi3"),
        ({"model": "my-own", "provider": "vllm"}, "vllm://my-own"),
        ({"model": LLM.from_uri("scripted://echo")}, "scripted://echo"),
    ],
)
def test_a_model_is_named_in_any_of_the_usual_ways(options: dict[str, Any], uri: str) -> None:
    assert str(SmallModelWorker(tools=[], **options).llm.uri) == uri


def test_a_model_that_nobody_knows_is_an_error_when_it_is_needed_and_not_before() -> None:
    worker = SmallModelWorker("my-own", tools=[Tool.from_function(lambda: 1, name="one")])

    assert run(worker, "one") == 1
    with pytest.raises(UnknownModelError, match="whose model 'my-own' is"):
        _ = worker.llm


@pytest.mark.parametrize("options", [{"max_tokens": 0}, {"max_concurrent": 0}])
def test_a_bound_that_lets_nothing_happen_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="=0 lets nothing happen"):
        SmallModelWorker(tools=[], **options)


def test_a_worker_lets_go_of_a_model_it_made() -> None:
    class Closing(FunctionModel):
        closed = 0

        async def close(self) -> None:
            self.closed += 1

    model = Closing(nobody)
    worker = SmallModelWorker(model, tools=[])

    asyncio.run(worker.close())
    assert model.closed == 0  # it was never asked for
    assert worker.llm.metadata.name == "function"
    asyncio.run(worker.close())
    assert model.closed == 1


# --- in plans -----------------------------------------------------------------------------------

PLAN = {
    "name": "receipts",
    "inputs": {"merchant": {"type": "string"}},
    "steps": [
        {"id": "what", "tool": "receipts.categorize", "with": {"merchant": "${{ inputs.merchant }}"}},
        {"id": "keep", "tool": "save", "with": {"merchant": "${{ steps.what.output.category }}", "total": 1}},
    ],
}


def test_a_plan_runs_with_described_tools_done_by_the_model_and_paid_in_its_steps() -> None:
    worker, _ = working([{"category": "food"}], save, CATEGORIZE)

    result = asyncio.run(execute_plan(PLAN, tools=worker.registry(), context={"merchant": "Aldi"}))

    assert result["result"] == {"merchant": "food", "total": 1.0, "note": ""}
    assert result["steps"][0]["cost"] == pytest.approx(CENTS_OF_ONE_CALL)
    assert worker.cost_usd == pytest.approx(CENTS_OF_ONE_CALL)


def test_a_stand_in_may_run_again_and_says_what_it_may_cost_at_most() -> None:
    worker, _ = working(nobody, CATEGORIZE, {"name": "priced", "metadata": {"cost_per_call": 0.125}})

    made = worker.registry()

    tool = made.get("receipts.categorize")
    assert tool.effects == "none"
    assert tool.cost_per_call is not None
    assert 1000 * 0.60 / 1e6 < tool.cost_per_call < 2 * 1000 * 0.60 / 1e6
    assert made.get("priced").cost_per_call == 0.125


def test_a_registry_without_anything_only_described_is_the_catalogues_own() -> None:
    catalogue = ToolCatalog([save])

    assert SmallModelWorker(tools=catalogue).registry() is catalogue.registry
    assert SmallModelWorker(tools=[]).registry([save]).names() == ["save"]


def test_a_stand_in_checks_its_arguments_like_any_tool() -> None:
    worker, _ = working(nobody, CATEGORIZE)

    with pytest.raises(ArgumentsError):
        worker.registry().get("receipts.categorize").validate({"merchant": 3})
