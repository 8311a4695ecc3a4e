"""A large model plans once, a small one carries the plan out for 100 receipts; and what that saves, measured.

    python run.py

Everything runs against a server in this process that speaks OpenAI's protocol: no key, no network, real model names,
real list prices. The same plan is then carried out with the large model in every step, and both are put side by side;
the large side pays nothing for the plan.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from receipts import WRONG_SUM, Receipt, receipts
from stand_in import answer

import tools
from planloom import Engine, Plan, RunResult, RunStatus, Usage
from planloom.agents.planner import LargePlanner
from planloom.agents.small import SmallModelWorker
from planloom.core.prices import ModelPrice
from planloom.models.pricing import price_of
from planloom.testing.provider import ProviderServer
from planloom.tools.catalogue import ToolCatalog

TASK = "Process a receipt: read its fields, categorize it, hold it against the expense rules, validate it and save it"
LARGE, SMALL = "gpt-4o", "gpt-4o-mini"
AT_ONCE = 8
"""Receipts under way at the same time."""


@dataclass(frozen=True, slots=True)
class Side:
    """What one way of doing it used and cost; the planning aside."""

    model: str
    usage: Usage
    cost_usd: float


def list_price(name: str) -> ModelPrice:
    """Return OpenAI's list price, as genai-prices has it."""
    price = price_of("openai", name)
    assert price is not None, name
    return price


def address(name: str, server: ProviderServer) -> str:
    """Return the address of a model on this server. It could be anybody's, so its price has to be said."""
    price = list_price(name)
    return f"openai://{name}?base_url={server.openai_url}&price_in={price.input}&price_out={price.output}"


async def main() -> None:
    papers = receipts(100)
    catalogue = ToolCatalog([tools.validate, tools.save])
    with ProviderServer(answer) as server:
        planner = LargePlanner(address(LARGE, server))
        plan = await planner.create_plan(TASK, catalogue)
        planning = Side(LARGE, planner.total_usage, planner.total_cost_usd or 0.0)
        small = await carried_out(plan, papers, SmallModelWorker(address(SMALL, server), tools=catalogue))
        large = await carried_out(plan, papers, SmallModelWorker(address(LARGE, server), tools=catalogue))
        await planner.close()
        assert all(request.problem is None for request in server.requests)
        assert server.count == 1 + 2 * 3 * len(papers)
    show(planning, small, large, len(papers))


async def carried_out(plan: Plan, papers: list[Receipt], worker: SmallModelWorker) -> Side:
    """Run the plan once for each receipt with this worker's model; check what came of it; return what it took."""
    tools.BOOKED.clear()
    async with Engine(tools=worker.registry(), models={"default": worker.llm}) as engine:
        results = await engine.batch(plan, [{"receipt": paper.text} for paper in papers], max_concurrent=AT_ONCE)
    await worker.close()
    check(results, papers)
    usage, cost_usd = Usage(), 0.0
    for result in results:
        usage += result.usage
        cost_usd += result.cost_usd or 0.0
    name = worker.llm.metadata.name
    assert abs(cost_usd - list_price(name).cost_usd(usage)) < 1e-9, "what is on record is usage by list price"
    return Side(name, usage, cost_usd)


def check(results: list[RunResult], papers: list[Receipt]) -> None:
    assert [result.status for result in results] == [RunStatus.SUCCESS] * len(papers)
    assert [result.steps_completed for result in results] == [5] * len(papers)
    assert [result.output for result in results] == [tools.BOOKED[paper.number] for paper in papers]
    for place, (result, paper) in enumerate(zip(results, papers, strict=True)):
        entry: dict[str, Any] = result.output
        assert (entry["merchant"].lower(), entry["category"]) == (paper.merchant.lower(), paper.category)
        assert entry["for_a_person"] == (place in WRONG_SUM)


def show(planning: Side, small: Side, large: Side, count: int) -> None:
    total_small = planning.cost_usd + small.cost_usd
    saved = 1 - total_small / large.cost_usd
    print(
        f"{count} receipts, one plan, 3 model calls a receipt; US dollars at list price ({list_price(LARGE).source})\n"
    )
    print(f"{'':<24}{'planned by ' + LARGE:>24}{'':>4}{LARGE + ' in':>20}")
    print(f"{'':<24}{'done by ' + SMALL:>24}{'':>4}{'every step':>20}")
    row("planning, once", f"{planning.cost_usd:.4f}", "-")
    row("model calls", f"{planning.usage.requests} + {small.usage.requests}", f"{large.usage.requests}")
    row("tokens in", f"{planning.usage.input_tokens + small.usage.input_tokens:,}", f"{large.usage.input_tokens:,}")
    row("tokens out", f"{planning.usage.output_tokens + small.usage.output_tokens:,}", f"{large.usage.output_tokens:,}")
    row("a receipt", f"{small.cost_usd / count:.6f}", f"{large.cost_usd / count:.6f}")
    row(f"{count} receipts", f"{total_small:.4f}", f"{large.cost_usd:.4f}")
    print(f"\nsaved: {saved:.1%} of {large.cost_usd:.4f}, the planning paid for")
    per_receipt = (large.cost_usd - small.cost_usd) / count
    enough = int(planning.cost_usd / per_receipt) + 1
    print(f"the plan has paid for itself after {enough} receipt{'s' * (enough != 1)}; for a single one ", end="")
    print(f"it costs {planning.cost_usd + small.cost_usd / count:.4f} against {large.cost_usd / count:.4f}")
    assert saved > 0
    assert (small.usage.input_tokens, small.usage.output_tokens) == (
        large.usage.input_tokens,
        large.usage.output_tokens,
    )


def row(name: str, left: str, right: str) -> None:
    print(f"{name:<24}{left:>24}{'':>4}{right:>20}")


if __name__ == "__main__":
    asyncio.run(main())
