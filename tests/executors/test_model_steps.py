"""Model steps through the engine: what a model is asked, what becomes of its answer, what it costs."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest

from planloom import Engine, MemoryJournal, ResourceLimits, RunResult, RunStatus, Settings, execute_plan
from planloom.core.chat import Message, ModelCall
from planloom.core.commands import RunStep
from planloom.core.events import OutputStreamed, RunStarted
from planloom.core.prices import ModelPrice
from planloom.core.result import StepOutcome, Usage
from planloom.errors import (
    ConfigError,
    FieldError,
    MissingKeyError,
    ModelError,
    ModelTruncatedError,
    NotInstalledError,
    PlanError,
    UnknownModelError,
    UnknownPriceError,
)
from planloom.executors.by_kind import ByKind
from planloom.executors.calls import ToolCalls
from planloom.executors.llm import PIECE_CHARACTERS, LlmExecutor, streams
from planloom.executors.threads import ThreadPool
from planloom.models import llm
from planloom.models.catalogue import Models
from planloom.ports import AttemptContext, Model
from planloom.testing.clock import ManualClock
from planloom.testing.fakes import CallLog, fake_tool
from planloom.testing.models import FunctionModel, ScriptedModel, register, unregister
from planloom.tools.registry import ToolRegistry
from tests.executors.attempts import Books, asking

PRICE = ModelPrice(0.15, 0.60, source="test")
USED = Usage(1_000, 500, requests=1)
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


def ask(step_id: str = "a", **fields: Any) -> dict[str, Any]:
    return {"id": step_id, "model": "m", "prompt": "Say it.", **fields}


def plan(*steps: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"planloom": 1, "steps": list(steps), **fields}


def run(
    document: dict[str, Any],
    model: Model | None = None,
    *,
    tools: list[Any] | None = None,
    settings: Settings | None = None,
    models: dict[str, Any] | None = None,
    **options: Any,
) -> RunResult:
    async def main() -> RunResult:
        given = models if models is not None else {} if model is None else {"m": model}
        engine = Engine(MemoryJournal(), tools=tools or [], models=given, settings=settings)
        async with asyncio.timeout(5), engine:
            return await engine.run(document, run_id="r", **options)

    return asyncio.run(main())


# --- what is asked ----------------------------------------------------------------------------


def test_a_prompt_says_what_its_references_come_to() -> None:
    model = ScriptedModel(["ok"])
    step = ask(
        prompt="Category of ${{ steps.read.output.shop }}?",
        system="You know ${{ inputs.what }}.",
        **{"with": {"items": "${{ steps.read.output.items }}"}},
    )
    document = plan({"id": "read", "tool": "read"}, step, inputs={"what": {"type": "string"}})

    run(document, model, tools=[fake_tool("read", [{"shop": "Bäcker", "items": [1, 2]}])], inputs={"what": "shops"})

    assert model.calls[0].messages == (
        Message("system", "You know shops."),
        Message("user", "Category of Bäcker?\n\nitems:\n[1, 2]"),
    )


def test_a60_most_tokens_and_temperature_reach_the_model() -> None:
    model = ScriptedModel(["one", "two"])

    run(plan(ask("a", max_tokens=77, temperature=0.33), ask("b", needs=["a"])), model)

    said, unsaid = model.calls
    assert (said.max_tokens, said.temperature) == (77, 0.33)
    assert (unsaid.max_tokens, unsaid.temperature) == (4096, None)


def test_an_answer_feeds_the_steps_after_it_and_says_how_it_was_made() -> None:
    model = FunctionModel(lambda call: f"<{call.messages[-1].content}>")

    result = run(plan(ask("a"), ask("b", prompt="Then: ${{ steps.a.output }}")), model)

    assert result.step("b").output == "<Then: <Say it.>>"
    assert result.step("a").metadata == {
        "model": "scripted://function",
        "provider": "scripted",
        "model_name": "function",
        "requests": 1,
        "finish_reason": "stop",
    }


def test_the_default_model_is_the_one_the_settings_name() -> None:
    result = run(plan(ask(model="default")), settings=Settings(default_model="scripted://echo"))

    assert result.output == "Say it."


# --- values -----------------------------------------------------------------------------------


def test_a_step_with_a_schema_has_a_value() -> None:
    model = ScriptedModel(['```json\n{"n": 3}\n```'])
    uses = {"id": "b", "tool": "t", "with": {"n": "${{ steps.a.output.n }}"}}

    result = run(plan(ask("a", output=SCHEMA), uses), model, tools=[fake_tool("t")])

    assert result.step("b").output == {"n": 3}
    assert model.calls[0].output == SCHEMA


def test_an_answer_that_is_no_such_value_is_asked_for_once_more() -> None:
    model = ScriptedModel(["three", {"n": 3}], usage=USED, price=PRICE)

    result = run(plan(ask(output=SCHEMA)), model)

    assert result.output == {"n": 3}
    assert result.step("a").metadata["requests"] == 2  # type: ignore[index]
    assert result.cost_usd == pytest.approx(2 * 0.00045, abs=1e-12)


def test_a_value_that_never_comes_fails_the_step_and_what_it_cost_is_kept() -> None:
    model = ScriptedModel(["three"], repeat_last=True, usage=USED, price=PRICE)

    result = run(plan(ask(output=SCHEMA, retry={"max_attempts": 2, "initial_delay": 0})), model)

    assert result.status is RunStatus.FAILED
    assert result.step("a").error_kind == "output"
    assert result.step("a").usage == Usage(4_000, 2_000, requests=4)
    assert result.cost_usd == pytest.approx(4 * 0.00045, abs=1e-12)


# --- streaming --------------------------------------------------------------------------------

LONG = "An answer that is long enough to come in quite a few pieces, and ends in an odd one."


def streamed(document: dict[str, Any], model: Model) -> tuple[RunResult, list[OutputStreamed]]:
    async def main() -> tuple[RunResult, list[OutputStreamed]]:
        async with asyncio.timeout(5), Engine(MemoryJournal(), tools=[], models={"m": model}) as engine:
            started = await engine.start(document)
            live = [one.event async for one in started.follow() if isinstance(one.event, OutputStreamed)]
            return await engine.finish(started), live

    return asyncio.run(main())


def test_a_streamed_answer_is_seen_in_pieces_that_make_the_whole() -> None:
    result, pieces = streamed(plan(ask(stream=True)), ScriptedModel([LONG]))

    assert "".join(piece.text for piece in pieces) == result.output == LONG
    assert len(pieces) > 2
    assert 0 < len(pieces[0].text) < PIECE_CHARACTERS, "nobody waits for more than the first"
    assert all(len(piece.text) >= PIECE_CHARACTERS for piece in pieces[1:-1])
    assert {(piece.step, piece.attempt) for piece in pieces} == {("a", 1)}


def test_a_streamed_attempt_that_fails_is_begun_anew_by_the_next() -> None:
    calls = 0

    class Breaking(FunctionModel):
        async def stream(self, call: ModelCall) -> Any:
            nonlocal calls
            calls += 1
            yield LONG[:40]
            if calls == 1:
                raise ModelError("the line went dead")
            async for piece in super().stream(call):
                yield piece if not isinstance(piece, str) else ""

    result, pieces = streamed(plan(ask(stream=True, retry={"initial_delay": 0})), Breaking(lambda call: LONG[:40]))

    assert result.output == LONG[:40]
    assert "".join(piece.text for piece in pieces if piece.attempt == 2) == LONG[:40]


def test_without_stream_nothing_is_streamed() -> None:
    result, pieces = streamed(plan(ask()), ScriptedModel([LONG]))

    assert (result.output, pieces) == (LONG, [])


@pytest.mark.parametrize(
    ("fields", "role"),
    [
        ({"output": SCHEMA}, ""),
        ({"tools": ["t"]}, ""),
        ({"verify": {"strategy": "judge"}}, ""),
        ({"speculate": {"draft": "d", "policy": "hedged"}}, ""),
        ({"speculate": {"draft": "d"}}, "draft"),
    ],
    ids=["values", "tools", "judged", "hedged", "drafts"],
)
def test_what_may_be_thrown_away_is_not_streamed(fields: dict[str, Any], role: str) -> None:
    assert streams(asking({"stream": True}))
    assert not streams(asking({"stream": True, **fields}, role=role))


# --- drafts -----------------------------------------------------------------------------------


def test_a_draft_is_asked_of_the_model_that_drafts() -> None:
    cheap, strong = ScriptedModel(["a guess"], name="cheap"), ScriptedModel([], name="m")

    async def main() -> StepOutcome:
        models = Models(given={"cheap": cheap, "m": strong}, clock=ManualClock())
        executor = LlmExecutor(models, ToolCalls(ToolRegistry(), ThreadPool(1)))
        return await executor.execute(asking({"speculate": {"draft": "cheap"}}, role="draft"), Books())

    outcome = asyncio.run(main())

    assert outcome.output == "a guess"
    assert strong.calls == []


def test_what_replaces_a_failed_step_s_work_is_done_by_an_executor_of_its_own() -> None:
    class Says:
        def __init__(self, what: str) -> None:
            self.what = what

        async def execute(self, request: RunStep, context: AttemptContext) -> StepOutcome:
            return StepOutcome(self.what)

    by_kind = ByKind({"model": Says("model"), "replan": Says("replan")})

    async def main() -> list[Any]:
        return [(await by_kind.execute(asking(role=role), Books())).output for role in ("", "draft", "replan")]

    assert asyncio.run(main()) == ["model", "model", "replan"]
    with pytest.raises(NotInstalledError):
        ByKind({}).execute(asking(role="replan"), Books())


# --- money ------------------------------------------------------------------------------------


def test_a21_costs_are_exact_and_the_sum_has_every_try_in_it() -> None:
    answers: list[Any] = ["one", ModelError("overloaded", status_code=529), "two", "three", "bad", {"n": 1}]
    model = ScriptedModel(answers, usage=USED, price=PRICE)
    steps = [
        ask("a"),
        ask("b", needs=["a"], retry={"initial_delay": 0}),
        ask("c", needs=["b"]),
        ask("d", needs=["c"], output=SCHEMA),
    ]

    result = run(plan(*steps), model)

    assert [result.step(name).cost_usd for name in "abcd"] == pytest.approx([0.00045] * 3 + [0.0009], abs=1e-12)
    assert result.cost_usd == pytest.approx(5 * 0.00045, abs=1e-12)
    assert result.usage == Usage(5_000, 2_500, requests=5)
    assert result.step("b").attempts == 2


def test_a21_without_costs_there_are_none_and_no_price_is_looked_up() -> None:
    document = plan(ask())

    async def main() -> tuple[RunResult, RunStarted]:
        model = ScriptedModel(["one"], usage=USED, price=PRICE)
        async with Engine(MemoryJournal(), tools=[], models={"m": model}) as engine:
            result = await engine.run(document, run_id="r", track_cost=False)
            first = (await engine.journal.read("r"))[0].event
            assert isinstance(first, RunStarted)
            return result, first

    result, first = asyncio.run(main())

    assert (result.cost_usd, result.step("a").cost_usd, result.to_dict()["cost"]) == (None, None, None)
    assert first.models["m"].price is None
    assert result.usage == USED


def test_a_limit_of_money_binds_even_where_no_costs_are_kept() -> None:
    model = ScriptedModel(["one"], usage=USED, price=PRICE)
    limits = ResourceLimits(max_total_cost_usd=0.002)  # an answer of 4096 tokens may cost 0.0025

    result = run(plan(ask()), model, limits=limits, track_cost=False)

    assert result.exceeded_limits == ("max_total_cost_usd",)
    assert model.calls == []


def test_unknown_is_not_zero() -> None:
    result = run(plan(ask()), ScriptedModel(["one"], usage=USED, price=None))

    assert result.step("a").cost_usd is None
    assert result.to_dict()["steps"][0]["cost"] is None


# --- before anything happens ------------------------------------------------------------------


def refused(document: dict[str, Any], kind: type[Exception], **options: Any) -> Any:
    """Run a plan whose first step has an effect, see it refused, and that nothing happened."""
    log = CallLog()
    first = {"id": "first", "tool": "act"}

    async def main() -> None:
        journal = MemoryJournal()
        settings = options.pop("settings", None)
        models = options.pop("models", None)
        async with Engine(journal, tools=[fake_tool("act", log=log)], models=models, settings=settings) as engine:
            try:
                await engine.run({**document, "steps": [first, *document["steps"]]}, **options)
            finally:
                assert await journal.runs() == []

    with pytest.raises(kind) as caught:
        asyncio.run(main())
    assert log.calls == []
    return caught.value


@pytest.mark.parametrize(
    ("step", "path"),
    [
        (ask(model="nobody"), ("model",)),
        (ask(model="nowhere://m"), ("model",)),
        (ask(model="default", verify={"strategy": "judge", "model": "nobody"}), ("verify", "model")),
        (ask(model="default", speculate={"draft": "nobody"}), ("speculate", "draft")),
        (
            ask(model="default", speculate={"draft": "scripted://echo", "judge": "nobody"}),
            ("speculate", "judge"),
        ),
        (ask(model="default", replan={"model": "nobody"}), ("replan", "model")),
        ({"id": "sub", "plan": plan(ask(model="nobody"))}, ("plan", "steps", 0, "model")),
        (ask(model="openai://m?base_url=http://elsewhere.example"), ("model",)),
        (ask(model="default", verify={"strategy": "judge", "model": "openai://m?key_env=K"}), ("verify", "model")),
    ],
    ids=[
        "a name",
        "a scheme",
        "a judge",
        "a draft",
        "a draft's judge",
        "who replans",
        "in a sub-plan",
        "a place",
        "a judge's key",
    ],
)
def test_a_model_nobody_knows_is_a_problem_of_the_plan(step: dict[str, Any], path: tuple[str | int, ...]) -> None:
    problem = refused(plan(step), UnknownModelError, settings=Settings(default_model="scripted://echo"))

    assert isinstance(problem, PlanError)
    assert problem.path == ("steps", 1, *path)
    assert problem.remedy


@pytest.mark.parametrize(
    ("verify", "why"),
    [
        ({"strategy": "validator"}, "has no validators"),
        ({"strategy": "validator", "validators": ["nobody"]}, "nobody"),
        ({"strategy": "judge", "rubric": {"taste": -1}}, "rubric"),
    ],
)
def test_a_verification_that_cannot_be_done_here_is_a_problem_of_the_plan(verify: dict[str, Any], why: str) -> None:
    step = {"id": "sub", "plan": plan(ask(model="default", verify=verify))}

    problem = refused(plan(step), FieldError, settings=Settings(default_model="scripted://echo"))

    assert isinstance(problem, FieldError)
    assert problem.path == ("steps", 1, "plan", "steps", 0, "verify")
    assert (problem.step, why in problem.message) == ("sub/a", True)


def test_every_unknown_model_is_told_at_once() -> None:
    problem = refused(plan(ask("a", model="x"), ask("b", model="y")), PlanError)

    assert [one.path for one in problem.problems] == [("steps", 1, "model"), ("steps", 2, "model")]


def test_a22_a_model_step_without_a_configured_model_names_the_setting() -> None:
    problem = refused(plan(ask(model="default")), ConfigError)

    assert "default_model" in str(problem)


def test_money_is_limited_and_an_unknown_price_stops_the_run_before_it_begins() -> None:
    models = {"m": ScriptedModel(["one"], price=None)}

    problem = refused(plan(ask()), UnknownPriceError, models=models, limits=ResourceLimits())

    assert problem.path == ("steps", 1, "model")
    assert "[prices]" in problem.remedy
    assert "price_in=" in problem.remedy


def test_a_missing_key_stops_the_run_before_it_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)

    problem = refused(plan(ask(model="openai://gpt-4o-mini")), MissingKeyError)

    assert "OPENAI_API_KEY" in str(problem)


def test_a22_tool_steps_make_no_model_and_open_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("nobody asked for that")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(llm.LLM, "__init__", refuse)

    told = asyncio.run(execute_plan(plan({"id": "a", "tool": "t"}), worker=None, tools=[fake_tool("t", ["done"])]))

    assert told["result"] == "done"


# --- again ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "asked"),
    [
        ({}, 1),
        ({"prompt": "Say something else."}, 2),
        ({"system": "Be brief."}, 2),
        ({"model": "other"}, 2),
        ({"temperature": 0.5}, 2),
        ({"max_tokens": 5}, 2),
        ({"tools": ["t"]}, 2),
        ({"output": {"type": "string"}}, 2),
        ({"verify": {"strategy": "basic"}}, 2),
        ({"speculate": {"draft": "other", "policy": "compare"}}, 2),
    ],
    ids=["same", "prompt", "system", "model", "temperature", "max_tokens", "tools", "output", "verify", "speculate"],
)
def test_a_kept_answer_is_used_again_only_for_the_very_same_question(other: dict[str, Any], asked: int) -> None:
    model = ScriptedModel(['"answer"'], repeat_last=True)
    document = plan(ask("a", cache=True), ask("b", **({"cache": True, "needs": ["a"]} | other)))

    result = run(document, models={"m": model, "other": model}, tools=[fake_tool("t")])

    assert result.status is RunStatus.SUCCESS
    assert len(model.calls) == asked


@pytest.mark.parametrize("price", [ModelPrice(1.0, 1.0), None], ids=["priced", "unpriced"])
def test_what_a_failed_call_used_is_booked_once_however_many_wait_for_it(price: ModelPrice | None) -> None:
    error = ModelTruncatedError("it was cut off")
    error.usage = Usage(100, 10, 1)
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def before(call: ModelCall) -> None:
        asked.set()
        await go_on.wait()

    model = ScriptedModel([error], price=price, before=before)
    steps = [ask(f"s{n}", cache=True, on_error="continue") for n in range(4)]

    async def main() -> RunResult:
        async with asyncio.timeout(10), Engine(models={"m": model}) as engine:
            run = await engine.start(plan(*steps))
            await asked.wait()
            for _ in range(20):
                await asyncio.sleep(0)
            go_on.set()
            return await engine.finish(run)

    result = asyncio.run(main())

    told = [step for step in result.steps if step.kind == "model"]
    assert len(model.calls) == 1
    assert [step.status.value for step in told] == ["failed"] * 4
    assert (result.usage.total_tokens, result.usage.requests) == (110, 1)
    if price is None:
        assert (result.cost_unknown, result.cost_usd) == (("s0",), 0.0)  # the others are known to have cost nothing
    else:
        assert (result.cost_unknown, result.cost_usd) == ((), pytest.approx(110 / 1_000_000))


# --- what nobody knows the price of -------------------------------------------------------------


def test_a_cost_that_is_not_known_is_not_told_as_nothing() -> None:
    document = plan({"id": "t", "tool": "t"}, ask())

    result = run(document, models={"m": ScriptedModel(["one"], price=None)}, tools=[fake_tool("t")])

    assert (result.cost_usd, result.cost_unknown) == (None, ("a",))
    told = result.to_dict()
    assert (told["cost"], told["cost_unknown"]) == (None, ["a"])
    assert [step["cost"] for step in told["steps"]] == [0.0, None]


def test_with_a_step_of_unknown_cost_the_rest_is_the_least_that_the_run_cost() -> None:
    used = Usage(100, 10, 1)
    models = {
        "priced": ScriptedModel(["one"], price=ModelPrice(1.0, 1.0), usage=used),
        "m": ScriptedModel(["x", "y", "z"], price=None, usage=used),
    }
    each = ask("each", for_each=[1, 2])
    inner = {"id": "sub", "plan": {"steps": [ask("inner")]}}

    result = run(plan(ask("known", model="priced"), each, inner), models=models)

    assert result.cost_usd == pytest.approx(110 / 1_000_000)
    assert result.cost_unknown == ("each", "sub/inner")


def test_where_every_price_is_known_nothing_is_said_of_unknown_costs() -> None:
    priced = run(plan(ask()), models={"m": ScriptedModel(["one"], price=ModelPrice(1.0, 1.0))})
    untracked = run(plan(ask()), models={"m": ScriptedModel(["one"], price=None)}, track_cost=False)

    assert "cost_unknown" not in priced.to_dict()
    assert (untracked.cost_usd, untracked.cost_unknown) == (None, ())


def test_a_run_on_record_is_not_taken_up_without_its_models(tmp_path: Path) -> None:
    document = plan({"id": "ok", "approve": "Go on?"}, ask(needs=["ok"]))

    async def main() -> str:
        async with Engine(tmp_path / "runs.db", models={"m": ScriptedModel(["never"])}) as engine:
            await (await engine.start(document, run_id="r")).result()
        async with Engine(tmp_path / "runs.db") as engine:
            with pytest.raises(ConfigError, match="'m'"):
                await engine.resume("r")
            assert await engine.recover() == []
        async with Engine(tmp_path / "runs.db", models={"m": ScriptedModel(["said"])}) as engine:
            resumed = await engine.resume("r")
            await resumed.approve("ok", by="me")
            return str((await resumed.result()).output)

    assert asyncio.run(main()) == "said"


def test_leaving_the_engine_lets_go_of_the_models_it_made() -> None:
    closed: list[str] = []

    class Open(FunctionModel):
        async def close(self) -> None:
            closed.append(self.metadata.name)

    register("opened", Open(lambda call: "said", name="made"))
    try:
        result = run(plan(ask(model="scripted://opened")), models={"given": Open(lambda call: "", name="given")})
    finally:
        unregister("opened")

    assert result.output == "said"
    assert closed == ["made"]


def test_a_failed_run_that_is_tried_again_knows_its_models() -> None:
    model = ScriptedModel([ModelError("no"), "yes"], usage=USED, price=PRICE)

    async def main() -> RunResult:
        async with Engine(MemoryJournal(), tools=[], models={"m": model}) as engine:
            await engine.run(plan(ask()), run_id="r")
            return await engine.finish(await engine.retry_failed("r"))

    result = asyncio.run(main())

    assert result.output == "yes"
    assert result.cost_usd == pytest.approx(0.00045)
