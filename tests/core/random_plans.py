"""Plans of every shape, for tests that walk runs at random.

Rule 1: conditions compare one upstream output with a number, so that a test can work them out by itself.
Rule 2: every call of a tool costs exactly what it is expected to, one dollar, so that a money limit is exact.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from planloom.core.events import ToolFacts
from planloom.plan.flow import FlowPolicy
from planloom.plan.policy import Effects, JoinRule

COST_USD = 1.0
TOOLS = {
    "t": ToolFacts("d", Effects.NONE, COST_USD, memory_mb=1.0),
    "once": ToolFacts("d", Effects.ONCE, COST_USD, memory_mb=2.0),
    "key": ToolFacts("d", Effects.IDEMPOTENT, COST_USD),
}
NAMES = "abcdefgh"
IN_PLACE: tuple[dict[str, Any], ...] = (
    {"steps": [{"id": "a", "tool": "t"}]},
    {"steps": [{"id": "a", "tool": "t", "retry": {"max_attempts": 2}}, {"id": "b", "tool": "t", "needs": ["a"]}]},
    {"steps": [{"id": "a", "tool": "once", "for_each": [1, 2]}, {"id": "b", "tool": "key", "on_error": "continue"}]},
    {"steps": [{"id": "a", "tool": "key", "join": "always", "mode": "sequential"}, {"id": "b", "tool": "t"}]},
    {"steps": [{"id": "a", "tool": "t", "replan": True}]},
    {"steps": []},
)
"""What may be answered to a step that asks for a plan; the last two must be refused."""
OUTPUTS = st.one_of(st.integers(0, 2), st.just([1, 2]), st.none())


@st.composite
def plans(draw: st.DrawFn, *, depth: int = 2, replans: bool = False, refers: bool = False) -> dict[str, Any]:
    """Return the document of a plan of up to eight steps, sub-plans nested up to `depth`.

    Args:
        replans: Some steps may be replanned.
        refers: Steps are given values of others, and of their plan's input `x`.
    """
    count = draw(st.integers(1, 8 if depth == 2 else 3))
    steps = [draw(_steps(place, depth, replans=replans, refers=refers)) for place in range(count)]
    document: dict[str, Any] = {"steps": steps, "fail_fast": draw(st.booleans()), "concurrency": {"db": 1, "web": 2}}
    if draw(st.integers(0, 3)) == 0:
        document["outputs"] = {"x": f"${{{{ steps.{NAMES[draw(st.integers(0, count - 1))]}.output }}}}"}
    return document


@st.composite
def _steps(draw: st.DrawFn, place: int, depth: int, *, replans: bool, refers: bool) -> dict[str, Any]:
    step: dict[str, Any] = {"id": NAMES[place]} | draw(_kinds(depth, replans=replans, refers=refers))
    if refers:
        _refer(draw, step, place)
    needs = []
    for above in range(place):
        if draw(st.integers(0, 2)) == 0:
            name = NAMES[above]
            plain = draw(st.integers(0, 3)) > 0
            needs.append(name if plain else {"step": name, "when": f"steps.{name}.output == {draw(st.integers(0, 2))}"})
    if needs:
        step["needs"] = needs
    if draw(st.integers(0, 2)) == 0:
        step["join"] = draw(st.sampled_from(list(JoinRule))).value
    if draw(st.integers(0, 2)) == 0:
        step["on_error"] = draw(st.sampled_from(["skip", "continue"]))
    if draw(st.integers(0, 9)) == 0:
        step["when"] = draw(st.sampled_from(["false", "true", "inputs.nothing"]))
    if draw(st.integers(0, 9)) == 0:
        step["priority"] = draw(st.integers(-1, 1))
    if draw(st.integers(0, 3)) == 0:
        step["mode"] = "sequential"
    if draw(st.integers(0, 5)) == 0:
        step["concurrency"] = draw(st.sampled_from(["db", "web"]))
    return step


def _refer(draw: st.DrawFn, step: dict[str, Any], place: int) -> None:
    """Give a step values of those above it, whatever became of them."""
    values = [f"steps.{NAMES[above]}.{field}" for above in range(place) for field in ("output", "error", "status")]
    pick = st.sampled_from([*values, "inputs.x", "inputs.x"])
    if ("tool" in step or "plan" in step) and draw(st.booleans()):
        step["with"] = {name: f"${{{{ default({draw(pick)}, 0) }}}}" for name in draw(st.sampled_from(["x", "xy"]))}
    if draw(st.integers(0, 4)) == 0:
        step["when"] = f"default({draw(pick)}, 0) != 2"
    if "for_each" in step and draw(st.booleans()):
        step["for_each"] = [f"${{{{ default({draw(pick)}, 0) }}}}"] * len(step["for_each"])


@st.composite
def _kinds(draw: st.DrawFn, depth: int, *, replans: bool, refers: bool) -> dict[str, Any]:
    kind = draw(st.sampled_from(["tool"] * 6 + ["approve", "wait"] + ["plan"] * (2 if depth else 0)))
    step: dict[str, Any]
    if kind == "tool":
        step = {"tool": draw(st.sampled_from(["t", "t", "once", "key"]))}
        if draw(st.booleans()):
            step["retry"] = {"max_attempts": draw(st.integers(2, 3)), "jitter": draw(st.booleans())}
        if draw(st.integers(0, 5)) == 0:
            step["timeout_seconds"] = draw(st.integers(1, 6))
        if replans and draw(st.booleans()):
            return step | {"replan": {"max_steps": 2}}
    elif kind == "plan":
        step = {"plan": draw(plans(depth=depth - 1, replans=replans, refers=refers))}
        if draw(st.integers(0, 2)) == 0:
            step["timeout_seconds"] = draw(st.integers(1, 6))
    elif kind == "approve":
        step = {"approve": {"message": "Go?"}}
        if draw(st.booleans()):
            step["approve"]["expires_seconds"] = draw(st.integers(1, 9))
    else:
        step = {"wait": draw(st.integers(0, 5))}
    if draw(st.integers(0, 4)) == 0:
        step["for_each"] = [1] * draw(st.integers(0, 3))
        step["on_item_error"] = draw(st.sampled_from(["fail_fast", "collect"]))
        if draw(st.booleans()):
            step["max_parallel"] = draw(st.integers(1, 2))
    return step


@st.composite
def labelled_tools(draw: st.DrawFn) -> dict[str, ToolFacts]:
    """Return the same tools, which say where their values come from and where they may go."""
    some = st.lists(st.sampled_from(["web", "inbox"]), max_size=2, unique=True).map(lambda found: tuple(sorted(found)))
    rarely = st.sampled_from([False, False, False, True])
    return {
        name: replace(
            facts,
            source=draw(some),
            secret=draw(rarely),
            sink=draw(st.sampled_from([None, None, True, False])),
            accepts=draw(some),
            cleans=draw(some),
            needs_approval=draw(rarely),
        )
        for name, facts in TOOLS.items()
    }


def policies() -> st.SearchStrategy[FlowPolicy]:
    handling = st.sampled_from(["ask", "ask", "refuse", "allow"])
    seconds = st.one_of(st.none(), st.integers(1, 9))
    return st.builds(FlowPolicy, untrusted=handling, secret=handling, approval_seconds=seconds)


@st.composite
def limits(draw: st.DrawFn) -> dict[str, Any] | None:
    """Return no limits, or a few that bind now and then."""
    if draw(st.booleans()):
        return None
    sometimes = lambda low, high: st.one_of(st.none(), st.none(), st.integers(low, high))  # noqa: E731
    return {
        "timeout_seconds": draw(sometimes(1, 30)),
        "max_tool_calls": draw(sometimes(0, 8)),
        "max_concurrent": draw(sometimes(1, 3)),
        "max_total_cost_usd": draw(sometimes(0, 5)),
        "max_memory_mb": draw(sometimes(1, 4)),
        "max_cpu_percent": None,
    }
