"""A70, plans: the programs of the founding page about `execute_plan` run, against a provider on this machine.

Rule 1: the programs are the page's, line by line (`test_seeds.py` compares them); only their imports are changed.
Rule 2: what the page leaves to its reader (the tools, the receipts, a plan in hand) is at the top of each test.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from planloom.agents.small import SmallModelWorker
from planloom.errors import ResourceLimitError, ToolExecutionError
from planloom.models import hosted
from planloom.plan.load import load_plan
from planloom.plan.model import Plan
from planloom.testing.provider import ProviderServer, RecordedRequest
from planloom.tools import registry
from planloom.tools.declare import tool
from tests.acceptance.founding import run

BASIC = """
    from orchestrator import LargePlanner, SmallModelWorker, execute_plan

    # Step 1: Create plan
    planner = LargePlanner(model="gpt-4o")
    plan = await planner.create_plan(
        task="Extract receipt fields and categorize",
        tools=tool_catalog
    )

    # Step 2: Execute plan
    worker = SmallModelWorker(model="gpt-4o-mini")
    result = await execute_plan(
        plan=plan,
        worker=worker,
        context={"receipt_text": text}
    )

    print(f"Result: {result['result']}")
    print(f"Cost: ${result['cost']:.4f}")
    print(f"Latency: {result['latency_ms']}ms")
"""
LIMITS = """
    from orchestrator import execute_plan, ResourceLimits

    # Enforce strict limits
    limits = ResourceLimits(
        timeout_seconds=30,
        max_tool_calls=20,
        max_total_cost_usd=0.10
    )

    result = await execute_plan(
        plan=plan,
        worker=worker,
        context=context,
        limits=limits
    )

    # Execution stops if limits exceeded
    if result.get("exceeded_limits"):
        print(f"Stopped: {result['exceeded_limits']}")
"""
BATCH = """
    from orchestrator import LargePlanner, SmallModelWorker, execute_plan

    # Create plan once
    planner = LargePlanner(model="gpt-4o")
    plan = await planner.create_plan(
        task="Process receipt: extract + categorize + validate",
        tools=tool_catalog
    )

    # Execute plan for many receipts
    worker = SmallModelWorker(model="gpt-4o-mini")
    results = []

    for receipt_text in receipts:
        result = await execute_plan(
            plan=plan,
            worker=worker,
            context={"receipt": receipt_text}
        )
        results.append(result)

    # Cost efficiency: 1 plan × $0.05 + 100 executions × $0.0006 = $0.11
    # vs all GPT-4: 100 × $0.09 = $9.00
    print(f"Total cost: ${sum(r['cost'] for r in results):.2f}")
"""
PARALLEL = """
    from orchestrator import execute_plan
    import asyncio

    # Plan with parallel steps
    # Step 1: extract (sequential)
    # Step 2a, 2b, 2c: validate, categorize, check (parallel)
    # Step 3: save (sequential)

    result = await execute_plan(plan=plan, worker=worker, context=context)

    # Execution automatically parallelizes steps 2a, 2b, 2c
    # Latency: ~400ms (vs ~1200ms if sequential)
    print(f"Parallel efficiency: {result['parallel_efficiency']:.1%}")
"""
ERRORS = """
    from orchestrator import execute_plan

    try:
        result = await execute_plan(plan=plan, worker=worker, context=context)
    except TimeoutError:
        print("Execution exceeded timeout")
    except ResourceLimitError as e:
        print(f"Resource limit exceeded: {e}")
    except ToolExecutionError as e:
        print(f"Tool failed: {e.tool_name} - {e.error}")
"""
COSTS = """
    from orchestrator import execute_plan

    result = await execute_plan(
        plan=plan,
        worker=worker,
        context=context,
        track_cost=True
    )

    # Detailed cost breakdown
    print(f"Total cost: ${result['cost']:.4f}")
    print(f"Cost per step:")
    for step in result['steps']:
        print(f"  {step['tool']}: ${step['cost']:.4f}")
"""

PROGRAMS = {3: BASIC, 4: LIMITS, 5: BATCH, 6: PARALLEL, 7: ERRORS, 8: COSTS}
"""By their place on the page."""
RECEIPT = "Corner Shop\nBread 2.50\nMilk 1.20"
CATEGORY = "groceries"


# --- what the page leaves to its reader ---------------------------------------------------------


async def extract(text: str) -> dict[str, Any]:
    """Extract the fields of a receipt: merchant and total."""
    lines = text.splitlines()
    return {"merchant": lines[0], "total": sum(float(line.rpartition(" ")[2]) for line in lines[1:])}


async def validate(total: float) -> bool:
    """Validate that a receipt adds up."""
    return total > 0


def planned(given: str) -> dict[str, Any]:
    """Return what the large model answers: the input of each program of the page has another name."""
    ask = "Category of a purchase at ${{ steps.extract.output.merchant }}, one word:"
    return {
        "name": "receipt",
        "steps": [
            {"id": "extract", "tool": "extract", "with": {"text": f"${{{{ inputs.{given} }}}}"}},
            {"id": "categorize", "model": "default", "prompt": ask},
            {"id": "validate", "tool": "validate", "with": {"total": "${{ steps.extract.output.total }}"}},
        ],
        "outputs": {
            "merchant": "${{ steps.extract.output.merchant }}",
            "category": "${{ steps.categorize.output }}",
            "valid": "${{ steps.validate.output }}",
        },
    }


def answer_to(request: RecordedRequest) -> Any:
    """Plan for the large model, categorize for the small one."""
    if request.model == "gpt-4o":
        return planned("receipt_text" if "Extract receipt fields" in json.dumps(request.body) else "receipt")
    return CATEGORY


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[ProviderServer]:
    with ProviderServer(answer_to) as server:
        # The page says only the names of models, and no variable of the environment sends a key to another host.
        monkeypatch.setitem(hosted.HOSTS, "openai", replace(hosted.HOSTS["openai"], base_url=server.openai_url))
        monkeypatch.setenv("OPENAI_API_KEY", "sk-for-a-test")
        yield server


@pytest.fixture(autouse=True)
def _tools(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decorate the reader's tools, for this test only: the page never hands any to `execute_plan`."""
    monkeypatch.setattr(registry, "_DEFAULT", registry.ToolRegistry())
    tool(effects="none", cost_per_call=0.001)(extract)
    tool(effects="none")(validate)


def in_hand(document: dict[str, Any] | None = None, **given: Any) -> dict[str, Any]:
    """Return the names that a program of the page takes for granted."""
    return {
        "plan": load_plan({"planloom": 1} | (document or planned("receipt"))),
        "worker": SmallModelWorker(model="gpt-4o-mini"),
        "context": {"receipt": RECEIPT},
        "ResourceLimitError": ResourceLimitError,
        "ToolExecutionError": ToolExecutionError,
    } | given


# --- the programs -------------------------------------------------------------------------------


@pytest.mark.slow
def test_a70_a_task_is_planned_once_and_executed_by_a_small_model(
    provider: ProviderServer, capsys: pytest.CaptureFixture[str]
) -> None:
    names = run(BASIC, tool_catalog=[extract, validate], text=RECEIPT)

    shown = capsys.readouterr().out
    plan, result = names["plan"], names["result"]
    assert isinstance(plan, Plan)
    assert f"Result: {{'merchant': 'Corner Shop', 'category': '{CATEGORY}', 'valid': True}}\n" in shown
    assert re.search(r"^Cost: \$0\.00[1-9]", shown, re.MULTILINE)
    assert [request.model for request in provider.requests] == ["gpt-4o", "gpt-4o-mini"]
    assert result["steps_completed"] == 3
    assert plan.cost is not None
    assert plan.cost > 0


@pytest.mark.slow
def test_a70_limits_that_hold_are_not_told_of(provider: ProviderServer, capsys: pytest.CaptureFixture[str]) -> None:
    names = run(LIMITS, **in_hand())

    assert capsys.readouterr().out == ""
    assert (names["result"]["status"], names["result"]["result"]["category"]) == ("success", CATEGORY)


@pytest.mark.slow
def test_a70_a_limit_that_is_reached_is_told_of_with_what_was_done(
    provider: ProviderServer, capsys: pytest.CaptureFixture[str]
) -> None:
    many = planned("receipt")
    many["steps"] += [{"id": f"more{number}", "tool": "extract", "with": {"text": "x"}} for number in range(30)]

    names = run(LIMITS, **in_hand(many))

    assert capsys.readouterr().out == "Stopped: ['max_tool_calls']\n"
    assert names["result"]["tool_calls"] == 20


@pytest.mark.slow
def test_a70_one_plan_serves_many_receipts(provider: ProviderServer, capsys: pytest.CaptureFixture[str]) -> None:
    receipts = [f"Shop {number}\nBread {number}.00" for number in range(1, 6)]

    names = run(BATCH, tool_catalog=[extract, validate], receipts=receipts)

    assert re.fullmatch(r"Total cost: \$\d\.\d\d\n", capsys.readouterr().out)
    assert [result["result"]["merchant"] for result in names["results"]] == [f"Shop {n}" for n in range(1, 6)]
    assert [request.model for request in provider.requests] == ["gpt-4o", *["gpt-4o-mini"] * 5]


@pytest.mark.slow
def test_a70_steps_that_need_each_other_not_run_side_by_side(
    provider: ProviderServer, capsys: pytest.CaptureFixture[str]
) -> None:
    met = asyncio.Barrier(3)

    async def meet(total: float) -> bool:
        """Pass once three of these are under way at the same time."""
        async with met:
            return total > 0

    tool(effects="none")(meet)
    total = {"total": "${{ steps.extract.output.total }}"}
    document = {
        "steps": [
            {"id": "extract", "tool": "extract", "with": {"text": "${{ inputs.receipt }}"}},
            *({"id": name, "tool": "meet", "with": total} for name in ("validate", "categorize", "check")),
            {"id": "save", "tool": "validate", "with": total, "needs": ["validate", "categorize", "check"]},
        ]
    }

    names = run(PARALLEL, **in_hand(document))

    assert re.fullmatch(r"Parallel efficiency: \d+\.\d%\n", capsys.readouterr().out)
    assert names["result"]["steps_completed"] == 5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"steps": [{"id": "e", "tool": "extract", "with": {"text": "Shop\nBread x"}}]}, "Tool failed: extract - "),
        ({"steps": [{"id": "w", "wait": 5}], "limits": {"timeout_seconds": 0.05}}, ""),
    ],
    ids=["a tool fails", "a limit is an outcome, not an error"],
)
def test_a70_errors_are_caught_by_the_names_on_the_page(
    provider: ProviderServer, capsys: pytest.CaptureFixture[str], change: dict[str, Any], told: str
) -> None:
    names = run(ERRORS, **in_hand(change))

    assert capsys.readouterr().out.startswith(told)
    assert ("result" in names) is (told == "")


@pytest.mark.slow
def test_a70_costs_are_told_by_step_and_add_up(provider: ProviderServer, capsys: pytest.CaptureFixture[str]) -> None:
    names = run(COSTS, **in_hand())

    lines = capsys.readouterr().out.splitlines()
    result = names["result"]
    assert [line.partition(":")[0].strip() for line in lines[2:]] == ["extract", "default", "validate"]
    assert result["cost"] == pytest.approx(sum(step["cost"] for step in result["steps"]))
    assert result["steps"][0]["cost"] == 0.001
    assert result["steps"][1]["cost"] > 0
