"""Random plans of every feature: as text, so that each goes through the loader like a user's.

Rule 1: every value that a step is given comes from the steps that it needs, so that a step that runs too early, on
another's value or on half of its inputs, is one that was given something else.
"""

from __future__ import annotations

from random import Random
from typing import Any

from planloom.plan.policy import Effects
from tests.simulation.world import EFFECTS

JOINS = ("none_failed_min_one_success", "all_done", "one_success", "none_failed", "always")
MOST_STEPS = 14
TOOLS = (*("pure",) * 5, "web", *("put",) * 5, *("pay",) * 6, "wire")
"""Each as often as it is to be chosen."""
LONG_S = 60
"""Longest a step waits, in seconds: an engine looks for what people left for it twice a second."""


def random_plan(draw: Random, *, depth: int = 0) -> dict[str, Any]:
    """Return the document of a plan; sub-plans are up to two deep."""
    steps: list[dict[str, Any]] = []
    for place in range(draw.randint(2, MOST_STEPS) if depth == 0 else draw.randint(1, 3)):
        steps.append(_step(draw, f"s{place}", steps, depth))
    plan: dict[str, Any] = {"planloom": 1, "name": f"level-{depth}", "steps": steps, "fail_fast": draw.random() < 0.25}
    if any(step.get("concurrency") for step in steps):
        plan["concurrency"] = {"narrow": draw.randint(1, 2)}
    if depth == 0 and draw.random() < 0.35:
        plan["limits"] = _limits(draw)
    if draw.random() < 0.3:
        plan["outputs"] = {"last": f"${{{{ default(steps.{steps[-1]['id']}.output, 'nothing') }}}}"}
    return plan


def _limits(draw: Random) -> dict[str, Any]:
    """Return limits of which some bind now and then. One that is not named would have its own default."""
    return {
        "timeout_seconds": draw.choice((None, None, 20, 60, 200)),
        "max_tool_calls": draw.choice((None, 4, 10, 20, 40)),
        "max_concurrent": draw.choice((None, 1, 2, 3)),
        "max_total_cost_usd": draw.choice((None, None, 2.0, 4.0, 6.0, 10.0)),
        "max_memory_mb": None,
        "max_cpu_percent": None,
    }


def _step(draw: Random, name: str, above: list[dict[str, Any]], depth: int) -> dict[str, Any]:
    near = above[-5:]
    guessed = [one["id"] for one in near if "speculate" in one]
    if guessed and draw.random() < 0.5:
        return _after_a_guess(draw, name, guessed[-1])
    needs = draw.sample(near, min(len(near), draw.choice((0, 1, 1, 2, 2, 3))))
    step: dict[str, Any] = {"id": name} | _kind(draw, depth)
    _given(draw, step, needs)
    if needs:
        step["needs"] = [_need(draw, one["id"]) for one in needs]
        if draw.random() < 0.25:
            step["join"] = draw.choice(JOINS)
    if draw.random() < 0.12:
        step["when"] = draw.choice(("true", "false", "inputs.nothing" if depth == 0 else "inputs.given"))
    if draw.random() < 0.5:
        step["on_error"] = draw.choice(("skip", "continue"))
    if draw.random() < 0.1:
        step["priority"] = draw.randint(-2, 2)
    if draw.random() < 0.1:
        step["mode"] = "sequential"
    if draw.random() < 0.1:
        step["concurrency"] = "narrow"
    return step


def _after_a_guess(draw: Random, name: str, above: str) -> dict[str, Any]:
    """Return a step that may run ahead on the draft of another one."""
    told = f"${{{{ steps.{above}.output }}}}"
    if draw.random() < 0.5:
        tool = draw.choice(("pure", "pure", "pay"))
        return {"id": name, "tool": tool, "needs": [above], "with": {"n": draw.randint(1, 3), "given": {above: told}}}
    step = {"id": name, "model": "big", "prompt": f"Go on: {told}", "needs": [above]}
    return step | ({"speculate": _speculate(draw)} if draw.random() < 0.7 else {})


def _speculate(draw: Random) -> dict[str, Any]:
    return {
        "draft": "small",
        "policy": "compare",
        "max_depth": draw.choice((1, 2, 3)),
        "latency_weight": draw.choice((1.0, 1.0, 0.7)),
    }


def _need(draw: Random, name: str) -> Any:
    if draw.random() < 0.1:
        return {"step": name, "when": draw.choice(("true", "false", f"steps.{name}.status == 'completed'"))}
    return name


def _given(draw: Random, step: dict[str, Any], needs: list[dict[str, Any]]) -> None:
    """Have a step told what those it needs came to."""
    told = {one["id"]: f"${{{{ default(steps.{one['id']}.output, 'nothing') }}}}" for one in needs}
    if needs and draw.random() < 0.2:
        told[needs[0]["id"]] = f"${{{{ steps.{needs[0]['id']}.output }}}}"
    if "for_each" in step:
        told["this"] = "${{ item }}"
        lists = [one["id"] for one in needs if "tool" in one and "for_each" not in one]
        if lists and draw.random() < 0.5:
            step["for_each"] = f"default(steps.{lists[0]}.output.items, [])"
    if "tool" in step:
        step["with"] = {"n": draw.randint(1, 3), "given": told}
    elif "plan" in step:
        step["with"] = {"given": told}
    elif "model" in step:
        step["prompt"] = " ".join([step["prompt"], *told.values()])


def _kind(draw: Random, depth: int) -> dict[str, Any]:
    roll = draw.random()
    if roll < 0.07:
        step: dict[str, Any] = {"approve": "Go on?"}
        if draw.random() < 0.3:
            step["approve"] = {"message": "Go on?", "expires_seconds": draw.choice((5, 40))}
        return step
    if roll < 0.14:
        return {"wait": draw.choice((0, 1, 8, LONG_S))}
    if roll < 0.17:
        return {"agent": "worker", "prompt": _tasks(draw), "retry": {"max_attempts": 4, "initial_delay": 1}}
    if roll < 0.36:
        step = _model(draw)
    elif roll < 0.44 and depth < 2:
        step = {"plan": random_plan(draw, depth=depth + 1) | {"inputs": {"given": {}}}}
        if draw.random() < 0.2:
            step["timeout_seconds"] = draw.choice((5, 30))
    else:
        step = _tool(draw)
    if draw.random() < 0.2 and not step.keys() & {"speculate", "replan"}:
        step["for_each"] = list(range(draw.randint(0, 4)))
        step["on_item_error"] = draw.choice(("collect", "collect", "fail_fast"))
        if draw.random() < 0.4:
            step["max_parallel"] = draw.randint(1, 2)
    return step


def _tool(draw: Random) -> dict[str, Any]:
    step: dict[str, Any] = {"tool": draw.choice(TOOLS)}
    pure = EFFECTS[step["tool"]] is Effects.NONE
    if draw.random() < 0.4:
        step["retry"] = {
            "max_attempts": draw.randint(2, 4),
            "initial_delay": draw.choice((0, 1, 10)),
            "jitter": draw.random() < 0.5,
        }
    if draw.random() < 0.15:
        step["attempt_timeout"] = draw.choice((1, 4))
    elif draw.random() < 0.1:
        step["timeout_seconds"] = draw.choice((1, 6, 30))
    if pure and draw.random() < 0.25:
        step["cache"] = {"ttl_seconds": draw.choice((1, 20, None))}
    elif pure and draw.random() < 0.15:
        step["effects"] = draw.choice(("idempotent", "once"))
    if EFFECTS[step["tool"]] is not Effects.ONCE and step.get("effects") != "once" and draw.random() < 0.35:
        step["replan"] = {"model": "planner", "max_steps": 3}
    return step


def _model(draw: Random) -> dict[str, Any]:
    step: dict[str, Any] = {"model": "big", "prompt": "Go on:"}
    if draw.random() < 0.6:
        step["speculate"] = _speculate(draw)
    elif draw.random() < 0.4:
        step["verify"] = draw.choice(({"strategy": "basic"}, {"strategy": "model", "model": "judge"}))
    elif draw.random() < 0.3:
        step["stream"] = True
    if draw.random() < 0.4:
        step["retry"] = {"max_attempts": draw.randint(2, 4), "initial_delay": draw.choice((0, 2))}
    if draw.random() < 0.1:
        step["attempt_timeout"] = draw.choice((1, 4))
    return step


def _tasks(draw: Random) -> str:
    """Return what an agent is to do: rounds of tasks."""
    names = ("pure", "put", "pay", "pay")
    rounds = [
        ", ".join(f"{draw.choice(names)} {draw.randint(1, 9)}" for _ in range(draw.randint(1, 2)))
        for _ in range(draw.randint(1, 2))
    ]
    return " | ".join(rounds)
