"""Plans and results that the pictures are tried on."""

from __future__ import annotations

import random
from typing import Any

from planloom.core.result import RunResult, RunStatus, SkipReason, StepResult, StepStatus
from planloom.plan.model import Plan

NOON = 1_760_000_000.0
EVIL_IDS = ("<script>alert('x')</script>", "]]>", 'a"b&c', "\x1b[31mred\x00", "\u202eback", "日本語", "#35;\\N`%{}|")


def plan_of(steps: list[dict[str, Any]], name: str = "p") -> Plan:
    return Plan.from_dict({"name": name, "steps": steps})


def step_result(step_id: str, status: str, **facts: Any) -> StepResult:
    return StepResult(step_id, facts.pop("kind", "tool"), facts.pop("doer", "t"), StepStatus(status), **facts)


def run_result(*steps: StepResult, status: RunStatus = RunStatus.RUNNING, **facts: Any) -> RunResult:
    return RunResult("run-1", "p", status, None, steps, **facts)


DIAMOND = plan_of(
    [
        {"id": "a", "tool": "t"},
        {"id": "b", "tool": "t", "needs": ["a"]},
        {"id": "c", "tool": "t", "needs": ["a"]},
        {"id": "d", "tool": "t", "needs": ["b", "c"]},
    ],
    name="diamond",
)

MIXED = plan_of(
    [
        {"id": "done", "tool": "web.fetch"},
        {"id": "broken", "model": "openai://m", "prompt": "x", "needs": ["done"]},
        {"id": "passed_by", "tool": "t", "needs": [{"step": "done", "when": "steps.done.output.n < 3"}]},
        {"id": "busy", "tool": "t", "needs": ["done"]},
        {"id": "waiting", "tool": "t", "needs": ["busy"]},
    ],
    name="mixed",
)
MIXED_RESULT = run_result(
    step_result("done", "completed", attempts=1, started_at=NOON, ended_at=NOON + 0.032),
    step_result("broken", "failed", attempts=3, started_at=NOON + 0.1, ended_at=NOON + 4, cost_usd=0.034, error="no"),
    step_result("passed_by", "skipped", skip_reason=SkipReason.CONDITION_FALSE),
    step_result("busy", "running", attempts=1, started_at=NOON + 0.5),
    step_result("waiting", "pending"),
    started_at=NOON,
)

MAPPED = plan_of(
    [{"id": "each", "tool": "t", "for_each": "inputs.lines"}, {"id": "after", "tool": "t", "needs": ["each"]}],
    name="mapped",
)

NESTED = plan_of(
    [
        {"id": "inner", "plan": {"name": "sub", "steps": [{"id": "x", "tool": "t"}, {"id": "y", "tool": "t"}]}},
        {"id": "end", "tool": "t", "needs": ["inner"]},
    ],
    name="nested",
)

EVIL = plan_of(
    [{"id": step_id, "tool": "t", "when": f"'{index}' != 'x'"} for index, step_id in enumerate(EVIL_IDS)]
    + [{"id": "last", "tool": "]]><b>", "needs": list(EVIL_IDS)}],
    name="<script>alert(1)</script>",
)


def random_plan(steps: int, *, span: int, degree: int, seed: int = 1) -> Plan:
    """Return a plan whose steps each need up to `degree` of the `span` steps before them."""
    dice = random.Random(seed)
    found = []
    for step in range(steps):
        above = (
            {dice.randrange(max(0, step - span), step) for _ in range(dice.randrange(degree + 1))} if step else set()
        )
        found.append({"id": f"s{step}", "tool": "t", "needs": [f"s{other}" for other in sorted(above)]})
    return plan_of(found, name=f"{steps} steps")
