"""Metrics are counted from records, once, within bounds, and told as Prometheus and OpenTelemetry have them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider

from planloom import Engine, MemoryJournal, Reasoner, RunResult, ToolRegistry
from planloom.core.chat import ToolCall
from planloom.core.events import AttemptSucceeded, Event, RunFinished, RunStarted, StepDispatched
from planloom.core.prices import ModelPrice
from planloom.core.result import RunStatus, Usage
from planloom.observe.instruments import ALL, Form
from planloom.observe.metrics import Metrics
from planloom.observe.trace import Tracing
from planloom.plan.model import Plan
from planloom.plan.policy import ResourceLimits
from planloom.runtime.replay import diverges, replayed
from planloom.testing.fakes import fake_tool
from planloom.testing.models import ScriptedModel
from tests.observe.exposition import Family, parsed
from tests.runtime.test_speculation import ran
from tests.runtime.test_speculation import step as speculating

USAGE = Usage(100, 10, 1)


def read(metrics: Metrics) -> dict[str, Family]:
    return parsed(metrics.text())


def run(metrics: Metrics, *steps: dict[str, Any], limits: ResourceLimits | None = None, **options: Any) -> RunResult:
    plan = {"planloom": 1, "name": "p", "fail_fast": False, "steps": list(steps)}

    async def main() -> RunResult:
        async with asyncio.timeout(20), Engine(metrics=metrics, **options) as engine:
            return await engine.run(plan, run_id="r", limits=limits)

    return asyncio.run(main())


def test_runs_steps_attempts_and_retries_are_counted_by_how_they_ended() -> None:
    metrics = Metrics()
    retry = {"max_attempts": 3, "initial_delay": 0}
    steps: list[dict[str, Any]] = [
        {"id": "a", "tool": "flaky", "retry": retry},
        {"id": "b", "tool": "bad", "on_error": "skip"},
        {"id": "c", "tool": "ok", "for_each": [1, 2, 3]},
        {"id": "d", "plan": {"steps": [{"id": "in", "tool": "ok"}]}},
    ]
    tools = [
        fake_tool("flaky", [ConnectionError("x"), ConnectionError("x"), "fine"]),
        fake_tool("bad", [ValueError("x")]),
        fake_tool("ok"),
    ]

    run(metrics, *steps, tools=tools)

    told = read(metrics)
    assert told["planloom_runs_started_total"].value(plan="p") == 1
    assert told["planloom_runs_ended_total"].value(plan="p", status="partial") == 1
    assert told["planloom_run_duration_seconds"].value("_count", plan="p") == 1
    assert told["planloom_attempts_total"].value(kind="tool", outcome="success") == 5
    assert told["planloom_attempts_total"].value(kind="tool", outcome="error") == 3
    assert told["planloom_retries_total"].value(kind="tool") == 2
    assert told["planloom_tool_calls_total"].value(tool="flaky", outcome="error") == 2
    assert told["planloom_tool_calls_total"].value(tool="ok", outcome="success") == 4
    assert told["planloom_steps_total"].value(kind="tool", status="completed") == 6
    assert told["planloom_steps_total"].value(kind="tool", status="skipped") == 1
    assert told["planloom_steps_total"].value(kind="plan", status="completed") == 1
    assert told["planloom_waiting_seconds"].value("_count", reason="retry") == 2
    assert told["planloom_journal_flush_seconds"].value("_count") > 0
    assert [told[f"planloom_{name}"].value() for name in ("runs_active", "attempts_active", "journal_backlog")] == [
        0
    ] * 3


def test_what_models_used_is_counted_once_wherever_it_is_on_record() -> None:
    metrics = Metrics()
    price = ModelPrice(1_000.0, 1_000.0)
    plain = ScriptedModel(["hello"], usage=USAGE, price=price)
    caller = ScriptedModel([ToolCall("1", "look", {}), "done"], usage=USAGE, price=price)
    steps = [
        {"id": "a", "model": "plain", "prompt": "p"},
        {"id": "b", "model": "caller", "prompt": "p", "tools": ["look"]},
    ]

    result = run(metrics, *steps, models={"plain": plain, "caller": caller}, tools=[fake_tool("look")])

    told = read(metrics)
    assert told["planloom_tokens_total"].value(direction="input") == 300
    assert told["planloom_tokens_total"].value(direction="output") == 30
    assert told["planloom_model_calls_total"].value(outcome="success") == 3
    assert told["planloom_tool_calls_total"].value(tool="look", outcome="success") == 1
    assert told["planloom_cost_usd_total"].value(plan="p") == pytest.approx(result.cost_usd)
    assert told["gen_ai_client_token_usage"].value("_sum", gen_ai_token_type="input") == 300
    assert told["gen_ai_client_operation_duration_seconds"].value("_count", gen_ai_operation_name="chat") == 1


def test_what_an_agent_used_is_counted_by_its_calls_and_the_rest_with_its_attempt() -> None:
    metrics = Metrics()
    plan = {"has_sufficient_info": True, "reasoning": "", "tasks": [{"description": "s", "tool_name": "look"}]}
    done = {"is_complete": True, "reasoning": "", "missing_steps": [], "next_action": None}
    model = ScriptedModel([plan, {}, done], usage=USAGE, price=ModelPrice(1_000.0, 1_000.0))
    agent = Reasoner(name="clerk", model=model, tools=ToolRegistry([fake_tool("look")]))

    result = run(metrics, {"id": "a", "agent": "clerk", "prompt": "go"}, tools=(), agents=[agent])

    told = read(metrics)
    assert result.usage is not None
    assert told["planloom_tokens_total"].value() == result.usage.total_tokens == 330
    assert told["planloom_cost_usd_total"].value() == pytest.approx(result.cost_usd)
    assert told["planloom_model_calls_total"].value(outcome="success") == 3
    assert told["planloom_tool_calls_total"].value(tool="look") == 1
    assert told["gen_ai_client_operation_duration_seconds"].value("_count") == 3


def test_tokens_of_documents_that_were_left_out_are_counted() -> None:
    metrics = Metrics()
    plan = Plan.from_dict({"planloom": 1, "name": "p", "steps": [{"id": "s", "model": "m", "prompt": "p"}]})
    stats = {"gasa_stats": {"tokens_before": 900, "tokens_after": 200}}

    for event in (RunStarted(plan, {}, 1.0), AttemptSucceeded("s", 1, 1, "x", 1.0, 2.0, metadata=stats)):
        metrics.observe("r", event)

    assert read(metrics)["planloom_gasa_saved_tokens_total"].value(model="m") == 700


def test_questions_that_wait_are_seen_until_they_are_answered() -> None:
    metrics = Metrics()
    plan = {"planloom": 1, "name": "p", "steps": [{"id": "ok", "approve": "Go on?"}]}

    async def main() -> list[float]:
        seen = []
        journal = MemoryJournal()
        async with Engine(journal, metrics=metrics) as engine:
            run = await engine.start(plan, run_id="r")
            await run.result()
            seen.append(read(metrics)["planloom_approvals_waiting"].value())
            await engine.release("r")
            seen.append(read(metrics)["planloom_approvals_waiting"].value())
            run = await engine.resume("r")
            seen.append(read(metrics)["planloom_approvals_waiting"].value())
            await run.approve("ok", by="ann")
            await run.result()
            seen.append(read(metrics)["planloom_approvals_waiting"].value())
        return seen

    assert asyncio.run(main()) == [1, 1, 1, 0]
    told = read(metrics)
    assert told["planloom_approvals_total"].value(answer="approved") == 1
    assert told["planloom_waiting_seconds"].value("_count", reason="approval") == 1


def test_limits_that_stop_a_run_are_counted() -> None:
    metrics = Metrics()

    result = run(
        metrics,
        {"id": "a", "tool": "t", "for_each": [1, 2, 3]},
        limits=ResourceLimits(max_tool_calls=2),
        tools=[fake_tool("t")],
    )

    assert result.status is RunStatus.LIMIT_EXCEEDED
    assert read(metrics)["planloom_limits_hit_total"].value(limit="max_tool_calls") >= 1


@pytest.mark.parametrize("place", ["memory", "file"])
def test_a_resumed_or_replayed_run_is_counted_once(tmp_path: Path, place: str) -> None:
    metrics = Metrics()
    journal = MemoryJournal()
    where: Any = journal if place == "memory" else tmp_path / "runs.db"
    steps = [{"id": "a", "tool": "t"}, {"id": "b", "tool": "wait", "needs": ["a"]}]
    stuck, go_on = asyncio.Event(), asyncio.Event()

    async def wait() -> str:
        stuck.set()
        await go_on.wait()
        return "done"

    tools = [fake_tool("t"), fake_tool("wait", wait, effects="none")]

    async def main() -> None:
        async with Engine(where, tools=tools, metrics=metrics) as engine:
            await engine.start({"planloom": 1, "name": "p", "steps": steps}, run_id="r")
            await stuck.wait()
        go_on.set()
        async with Engine(where, tools=tools, metrics=metrics) as engine:
            await engine.finish(await engine.resume("r"))
            record = await engine.journal.read("r")
            assert diverges("r", record) is None
            assert replayed("r", record).ended
            async for _ in engine.follow("r"):
                pass
            assert (await engine.resume("r")).status is RunStatus.SUCCESS

    asyncio.run(main())

    told = read(metrics)
    assert told["planloom_runs_started_total"].value() == 1
    assert told["planloom_runs_resumed_total"].value() == 1
    assert told["planloom_runs_ended_total"].value() == 1
    assert told["planloom_attempts_total"].value(outcome="success") == 2
    assert told["planloom_attempts_total"].value(outcome="lost") == 1
    assert told["planloom_steps_total"].value() == 2


def test_the_number_of_series_is_bounded_whatever_plans_are_called() -> None:
    metrics = Metrics(max_values=5)

    for number in range(50):
        plan = Plan.from_dict({"planloom": 1, "name": f'p{number}"\n\\', "steps": [{"id": "s", "tool": "t"}]})
        events: list[Event] = [
            RunStarted(plan, {}, 1.0),
            StepDispatched("s", 1, 1, 1.0),
            AttemptSucceeded("s", 1, 1, None, 1.0, 2.0),
            RunFinished(RunStatus.SUCCESS, None, 3.0),
        ]
        for event in events:
            metrics.observe(f"run-{number}", event)

    started = read(metrics)["planloom_runs_started_total"]
    assert len(started.samples) == 6
    assert started.value(plan="other") == 45
    assert started.value(plan='p0"\n\\') == 1
    assert "run-" not in metrics.text()
    assert metrics._runs == {}


def test_what_was_never_measured_is_there_and_nothing_is_called_twice() -> None:
    told = read(Metrics())

    assert len(told) == len(ALL)
    assert all(family.samples == {} or family.form == "gauge" for family in told.values())


@pytest.mark.parametrize("right", [True, False])
def test_what_ran_ahead_is_paid_for_once_and_in_vain_it_is_waste(right: bool) -> None:
    metrics, journal = Metrics(), MemoryJournal()
    steps = [speculating("a", "slow", "one"), speculating("b", "quick", "${{ steps.a.output }}")]

    result = ran(steps, right=right, journal=journal).result

    for recorded in asyncio.run(journal.read("r")):
        metrics.observe("r", recorded.event)
    told, of_run = read(metrics), result.speculation
    assert of_run is not None
    assert told["planloom_tokens_total"].value() == result.usage.total_tokens
    assert told["planloom_cost_usd_total"].value() == pytest.approx(result.cost_usd)
    assert told["planloom_model_calls_total"].value() == result.usage.requests
    assert told["planloom_speculation_wasted_tokens_total"].value() == of_run["wasted_tokens"]
    assert told["planloom_speculation_wasted_cost_usd_total"].value() == pytest.approx(of_run["wasted_cost_usd"])
    outcome = "confirmed" if right else "rolled_back"
    assert told["planloom_speculations_total"].value(role="ahead", outcome=outcome) == 1
    assert told["planloom_attempts_active"].value() == 0


def test_telemetry_tells_the_same_to_opentelemetry() -> None:
    reader = InMemoryMetricReader()
    meters = MeterProvider([reader], shutdown_on_exit=False)
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("test")
    telemetry = Tracing(tracer, meter=meters.get_meter("test"))
    model = ScriptedModel(["hello"], usage=USAGE)

    async def main() -> None:
        async with Engine(models={"m": model}, telemetry=telemetry, tools=()) as engine:
            await engine.run({"planloom": 1, "name": "p", "steps": [{"id": "a", "model": "m", "prompt": "secret"}]})

    asyncio.run(main())

    data = reader.get_metrics_data()
    assert data is not None
    told = json.loads(data.to_json())
    points = {
        metric["name"]: metric["data"]["data_points"]
        for resource in told["resource_metrics"]
        for scope in resource["scope_metrics"]
        for metric in scope["metrics"]
    }
    (usage_in, usage_out) = points["gen_ai.client.token.usage"]
    assert (usage_in["sum"], usage_out["sum"]) == (100, 10)
    assert usage_in["attributes"]["gen_ai.request.model"] == "scripted"
    assert points["planloom.runs.ended"][0]["attributes"] == {"plan": "p", "status": "success"}
    assert points["planloom.runs.active"][0]["value"] == 0
    assert "secret" not in data.to_json()
    assert {one.name for one in ALL if one.form is Form.GAUGE} <= points.keys()


def test_an_instrument_that_breaks_changes_nothing_for_the_run(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Metrics):
        def observe(self, run_id: str, event: Event) -> None:
            raise RuntimeError("no such instrument")

    result = run(Broken(), {"id": "a", "tool": "t"}, tools=[fake_tool("t")])

    assert result.status is RunStatus.SUCCESS
    assert "no such instrument" in caplog.text
