"""What travels between an engine and its workers comes back as it was, and what is no request or fact is refused."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

import pytest

from planloom import Plan, Step
from planloom.core.commands import Grant, RunStep
from planloom.core.events import AttemptFailed, AttemptSucceeded, AttemptWaiting, CallEnded, ToolFacts
from planloom.core.prices import ModelFacts, ModelPrice
from planloom.core.result import Usage
from planloom.errors import ProtocolError
from planloom.plan.flow import FlowPolicy
from planloom.plan.policy import Effects, FailureKind, RetryPolicy
from planloom.runtime.wire import JsonWire
from planloom.transport.frames import json_text

WIRE = JsonWire()
CALL = CallEnded("a", 1, 1, "1/x", "t", "tool", {"n": [1]}, 3.0, 4.0, Usage(1, 2, 1), 0.5, 1)
FULL = RunStep(
    run_id="r",
    key="sub/a[3]",
    step=Step(
        id="a",
        model="default",
        prompt="Say ${{ inputs.x }}",
        tools=("t", "u"),
        retry=RetryPolicy(max_attempts=2),
        labels={"require.region": "eu"},
        output={"type": "object"},
    ),
    attempt=2,
    epoch=3,
    args={"prompt": "Say \ud800 é \x00", "deep": [{"a": None, "b": 1.5}]},
    effects=Effects.IDEMPOTENT,
    after_durable=True,
    idempotency_key="k",
    deadline_at=105.0,
    allow=(frozenset({"t", "u"}), frozenset({"t"})),
    grant=Grant(usd=0.1, tokens=10, calls=2, memory_mb=64, cpu_percent=50),
    models={"default": ModelFacts("openai://x", "openai", "x", ModelPrice(1.0, 2.0, tiers=((10, 2.0, 3.0),)))},
    recorded={"1/x": CALL},
    role="draft",
    tools={"t": ToolFacts("0" * 64, Effects.NONE, 0.1), "u": ToolFacts("1" * 64, source=("web",), cleans=("mail",))},
    answer=2,
    labels=frozenset({"web", "secret"}),
    flow=FlowPolicy(untrusted="refuse", models_accept=("secret",), approval_seconds=60),
)


def there_and_back(request: RunStep, *, here: float = 100.0, there: float = 100.0) -> RunStep:
    return WIRE.request_in(json.loads(json_text(WIRE.request_out(request, here))), there)


def test_a_request_with_every_field_comes_back_as_it_was() -> None:
    assert all(getattr(FULL, field.name) != field.default for field in fields(RunStep))

    back = there_and_back(FULL)

    assert back == FULL
    assert back.tools == FULL.tools


def test_a_request_with_a_plan_inside_comes_back_as_it_was() -> None:
    inner = Plan(steps=(Step(id="x", tool="t"),))
    request = replace(FULL, step=Step(id="p", plan=inner), recorded={}, models={}, tools={})

    assert there_and_back(request) == request


def test_a_deadline_is_as_far_off_by_whatever_clock() -> None:
    assert there_and_back(FULL, here=100.0, there=9_000.0).deadline_at == 9_005.0


def test_only_tools_that_the_step_names_are_told() -> None:
    many = replace(FULL, tools=dict(FULL.tools) | {"secret.tool": ToolFacts("2" * 64)})

    assert there_and_back(many).tools.keys() == {"t", "u"}


@pytest.mark.parametrize(
    "fact",
    [
        AttemptSucceeded("a", 1, 1, {"x": "é" * 40_000}, 10.0, 12.5, Usage(1, 2, 3), 0.25, True, 2, {"m": 1}),
        AttemptFailed("a", 1, 1, FailureKind.TIMEOUT, "no", 10.0, 12.5, ("TimeoutError",), limits=("x",)),
        AttemptWaiting("a", 1, 1, 12.5, "rate", 15.5),
    ],
)
def test_a_fact_happens_where_it_is_heard_and_takes_as_long(fact: Any) -> None:
    heard = WIRE.fact_in(WIRE.fact_out(fact), 1_012.5)

    moved = {name: getattr(fact, name) + 1_000 for name in ("started_at", "until") if getattr(fact, name, None)}
    assert heard == replace(fact, at=1_012.5, **moved)


@pytest.mark.parametrize(
    "document",
    [None, [], {}, {"run_id": "r"}, WIRE.request_out(FULL, 0.0) | {"unknown": 1}, {"step": {"id": 3}, "tools": {}}],
)
def test_what_is_no_request_is_refused(document: Any) -> None:
    with pytest.raises(ProtocolError):
        WIRE.request_in(document, 0.0)


@pytest.mark.parametrize("document", [None, [], ["x", 1, "{}", {}], ["attempt_failed", 1, "{", {}], [1, 2, 3, 4]])
def test_what_is_no_fact_is_refused(document: Any) -> None:
    with pytest.raises(ProtocolError):
        WIRE.fact_in(document, 0.0)
