"""Read every receipt of the folder, side by side, and show what came of each.

    python run_all.py [--out FOLDER]        FOLDER gets runs.db, receipts.db, plan.svg and outcomes.json

One receipt is one run of plan.yaml; a receipt that cannot be read fails its own run and no other.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from pathlib import Path
from typing import Any

import tools
from planloom import Engine, Plan, RunResult, RunStatus, load_plan
from planloom.observe.looks import padded
from planloom.observe.svg import graph_svg
from planloom.observe.text import graph_text

HERE = Path(__file__).resolve().parent
TOOLS = [tools.extract, tools.categorize, tools.check_line, tools.validate, tools.save]
AT_ONCE = 8
"""Receipts under way at the same time."""


def main(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    files = sorted((HERE / "receipts").glob("*.txt"))
    plan = load_plan(HERE / "plan.yaml")
    given = [{"receipt": file.read_text(encoding="utf-8"), "database": str(out / "receipts.db")} for file in files]
    began = time.perf_counter()
    results = asyncio.run(read_all(plan, given, journal=out / "runs.db"))
    seconds = time.perf_counter() - began

    outcomes = {file.stem: outcome(result) for file, result in zip(files, results, strict=True)}
    (out / "outcomes.json").write_text(json.dumps(outcomes, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    longest = max(results, key=lambda result: len(result.step("check_lines").parts))
    (out / "plan.svg").write_text(graph_svg(plan, longest), encoding="utf-8")

    print_table(outcomes)
    calls = sum(result.tool_calls for result in results)
    print(f"\n{len(results)} receipts, {calls} tool calls, {seconds:.1f} s, {AT_ONCE} receipts at a time")
    print(f"\n{graph_text(plan, longest)}\n")
    print(f"graph    {out / 'plan.svg'}")
    print(f"record   {out / 'runs.db'}        planloom list --journal {out / 'runs.db'}")
    print(f"kept     {out / 'receipts.db'}")


async def read_all(plan: Plan, given: list[dict[str, Any]], *, journal: Path) -> list[RunResult]:
    """Run the plan once per receipt, a few at a time; results in the order of the receipts."""
    async with Engine(journal, tools=TOOLS) as engine:
        return await engine.batch(plan, given, max_concurrent=AT_ONCE)


def outcome(result: RunResult) -> dict[str, Any]:
    """Return what a person would want to know about a receipt: what it says, and whether it adds up or why not."""
    if result.status is RunStatus.FAILED:
        return {"ok": False, "why": (result.error or "").removeprefix("ValueError: ")}
    receipt, verdict = result.output["receipt"], result.output["verdict"]
    told = {
        "merchant": receipt["merchant"],
        "date": receipt["date"],
        "currency": receipt["currency"],
        "lines": len(receipt["lines"]),
        "total_minor": receipt["total_minor"],
        "category": result.output["category"],
        "ok": verdict["ok"],
    }
    return told if verdict["ok"] else told | {"why": verdict["why"]}


def print_table(outcomes: dict[str, dict[str, Any]]) -> None:
    print(f"{'receipt':<26} {'merchant':<28} {'date':<10} {'total':>13}  {'category':<11} adds up")
    for name, told in outcomes.items():
        merchant, date = told.get("merchant") or "", told.get("date") or ""
        verdict = "yes" if told["ok"] else f"no: {told['why']}"
        print(
            f"{name:<26} {padded(merchant, 28)} {date:<10} {money(told):>13}  {told.get('category', ''):<11} {verdict}"
        )


def money(told: dict[str, Any]) -> str:
    total_minor = told.get("total_minor")
    if total_minor is None:
        return ""
    amount = f"{total_minor:,}" if told["currency"] == "JPY" else f"{total_minor / 100:,.2f}"
    return f"{amount} {told['currency'] or ''}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Read every receipt of the folder.")
    parser.add_argument("--out", type=Path, default=HERE / "out", help="where to leave what came of them")
    main(parser.parse_args().out)
