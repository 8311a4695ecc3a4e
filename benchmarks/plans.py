"""The shapes that are measured, each as a plan and as a dict of what needs what.

Rule 1: both are made from one dict, so that both sides do the same work.
Rule 2: a step takes the output of the first step it needs, and 0 if it needs none.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from random import Random
from typing import Any

from planloom import Plan, tool

Needs = dict[str, tuple[str, ...]]
"""Step → the steps it needs, the one whose output it takes first."""
Function = Callable[..., Coroutine[Any, Any, int]]


@tool(name="bench.pass_on", effects="none", register=False)
async def pass_on(x: int = 0) -> int:
    return x + 1


@tool(name="bench.pass_on_once", effects="once", register=False)
async def pass_on_once(x: int = 0) -> int:
    return x + 1


def chain(count: int) -> Needs:
    return {f"s{n}": (f"s{n - 1}",) if n else () for n in range(count)}


def fan_out(count: int) -> Needs:
    """Return a root, `count - 2` steps that need it, and one that needs all of those."""
    middle = tuple(f"s{n}" for n in range(1, count - 1))
    return {"s0": (), **dict.fromkeys(middle, ("s0",)), f"s{count - 1}": middle}


def five_steps() -> Needs:
    """Return a diamond with a tail."""
    return {"a": (), "b": ("a",), "c": ("a",), "d": ("b", "c"), "e": ("d",)}


def layered(layers: int, width: int, seed: int = 7) -> Needs:
    """Return layers of equal width; a step needs one to three random steps of the layer before."""
    random = Random(seed)
    needs: Needs = {}
    above: list[str] = []
    for layer in range(layers):
        row = [f"l{layer}_{place}" for place in range(width)]
        for step in row:
            needs[step] = tuple(random.sample(above, min(random.randint(1, 3), len(above)))) if above else ()
        above = row
    return needs


def plan_of(needs: Needs, *, tool: str, given: Mapping[str, Mapping[str, Any]] | None = None) -> Plan:
    """Return the plan; `given` are further arguments by step."""
    steps = []
    for step, above in needs.items():
        taken = {"x": f"${{{{ steps.{above[0]}.output }}}}"} if above else {}
        steps.append({"id": step, "tool": tool, "with": {**taken, **(given or {}).get(step, {})}, "needs": above[1:]})
    return Plan.from_dict({"name": "bench", "steps": steps})
