"""Whatever a run of a random plan refuses, or asks about, was listed before it began."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
from hypothesis import given, settings

from planloom import Engine
from planloom.core.events import ApprovalRequested, StepFailed
from planloom.plan.flow import SECRET
from planloom.runtime.settings import Settings
from planloom.testing.models import FunctionModel
from planloom.tools.registry import ToolRegistry
from planloom.tools.tool import Tool
from tests.plan.flow_plans import TOOLS, plans


def _tool(name: str) -> Tool:
    facts = TOOLS[name]
    said = {"effects": facts.effects, "source": facts.source, "secret": facts.secret}
    said |= {"accepts": facts.accepts, "cleans": facts.cleans}
    return Tool.from_function(_give, name=name, **said)


def _give(x: Any = None) -> list[Any]:
    if "fail" in str(x):
        raise ValueError(f"not {x}")
    return [x, "fail"]


KINDS = ("get", "vault", "clean", "swap", "same", "send", "send", "log", "model", "sub", "sub", "sub")
"""More ways out than there are of other kinds."""
REGISTRY = ToolRegistry(map(_tool, TOOLS))


@pytest.mark.slow
@given(plans(kinds=KINDS))
@settings(max_examples=100, deadline=None)
def test_a_run_stops_nothing_that_was_not_listed(document: dict[str, Any]) -> None:
    async def main() -> tuple[set[Any], list[Any]]:
        flow = {"untrusted": "ask", "secret": "ask"}
        chosen = Settings.model_validate({"flow": flow})
        model = FunctionModel(lambda call: call.messages[-1].content)
        async with Engine(tools=REGISTRY, models={"m": model}, settings=chosen) as engine:
            plan = engine.check(_going_on(document))
            run = await engine.start(plan)
            result = await run.result()
            while asked := [step.id for step in result.steps if step.approval is not None]:
                for step in asked:
                    await run.approve(step, by="ann")
                result = await run.result()
            listed = {(one.label, one.sink) for one in engine.flows(plan)}
            return listed, [entry.event for entry in await engine.journal.read(run.run_id)]

    listed, events = asyncio.run(main())

    for event in events:
        if isinstance(event, ApprovalRequested) and event.attempt:
            step = re.sub(r"\[\d+\]", "", event.step)
            counts = set(event.labels) if event.tool in TOOLS else {SECRET}
            assert {(label, step) for label in counts} <= listed, event
        assert not (isinstance(event, StepFailed) and "secret" in event.error), event


def _going_on(document: dict[str, Any]) -> dict[str, Any]:
    """Return the plan with steps whose failure ends nothing, so that what follows one is done, too."""
    steps = []
    for step in document["steps"]:
        more = {"on_error": "continue"} | ({"on_item_error": "collect"} if "for_each" in step else {})
        inner = {"plan": _going_on(step["plan"])} if "plan" in step else {}
        steps.append(step | more | inner)
    return document | {"steps": steps, "fail_fast": False}
