from __future__ import annotations

from typing import Any

import pytest

from planloom.errors import FieldError, PlanError
from planloom.plan.forms import is_foreign, to_native
from planloom.plan.load import load_plan
from planloom.plan.model import Step
from planloom.plan.policy import Effects, JoinRule, RetryPolicy

PLANNER: dict[str, Any] = {
    "request_id": "r-1",
    "steps": [
        {"id": "step-1", "tool": "extract", "input": {"text": "{{receipt}}"}, "depends_on": [], "mode": "parallel"},
        {
            "id": "step-2",
            "tool": "save",
            "input": {"all": "step:step-1", "first": "step:step-1.lines[0].name", "text": "total {{step-1.total}}!"},
            "depends_on": ["step-1"],
            "mode": "sequential",
            "idempotency_key": "save-{{step-1.id}}",
            "run_if": "step:step-1.total > 0 and {{step-1.ok}}",
            "retry_policy": {"retries": 2, "backoff_s": 3},
            "timeout_s": 30,
            "stream": False,
        },
    ],
    "final_synthesis": {"prompt_template": "Sum up: {{steps}} for {{user}}", "meta": {"tone": "dry"}},
}


def test_the_planner_prompt_form_becomes_a_native_plan() -> None:
    plan = load_plan(PLANNER)

    assert plan.name == "r-1"
    assert plan.steps[0] == Step(id="step-1", tool="extract", args={"text": "${{ inputs.receipt }}"})
    assert plan.steps[1] == Step(
        id="step-2",
        tool="save",
        args={
            "all": "${{ steps.step-1.output }}",
            "first": "${{ steps.step-1.output.lines[0].name }}",
            "text": "total ${{ steps.step-1.output.total }}!",
        },
        needs=("step-1",),
        mode="sequential",
        idempotency_key="save-${{ steps.step-1.output.id }}",
        when="steps.step-1.output.total > 0 and steps.step-1.output.ok",
        retry=RetryPolicy(max_attempts=3, initial_delay=3),
        effects=Effects.IDEMPOTENT,
        timeout_seconds=30,
    )


def test_a_final_synthesis_becomes_a_last_model_step_that_shows_every_output() -> None:
    plan = load_plan(PLANNER)

    assert plan.steps[2] == Step(
        id="final_synthesis",
        model="default",
        prompt=(
            'Sum up: {"step-1": ${{ json(default(steps.step-1.output, null)) }}, '
            '"step-2": ${{ json(default(steps.step-2.output, null)) }}} for ${{ inputs.user }}'
        ),
        needs=("step-1", "step-2"),
        join=JoinRule.NONE_FAILED,
        description='{"tone": "dry"}',
    )
    assert plan.outputs == "${{ steps.final_synthesis.output }}"


def test_the_doc_page_form_becomes_a_native_plan() -> None:
    plan = load_plan(
        {
            "task": "Book a receipt",
            "steps": [
                {"id": 1, "tool": "extract", "parameters": {"text": "{{receipt}}"}},
                {"id": 2, "tool": "save", "parameters": {"m": "{{steps[1].output.merchant}}"}, "depends_on": [1]},
            ],
            "estimated_cost": 0.01,
            "estimated_latency_ms": 350,
        }
    )

    assert plan.description == "Book a receipt"
    assert (plan.estimated_cost, plan.estimated_latency_ms) == (0.01, 350)
    assert plan.steps[0].args == {"text": "${{ inputs.receipt }}"}
    assert plan.steps[1].args == {"m": '${{ steps["1"].output.merchant }}'}
    assert plan.steps[1].needs == ("1",)


def test_the_workflow_form_becomes_a_native_plan() -> None:
    plan = load_plan(
        {
            "steps": [
                {"step_id": "fetch", "tool_name": "get", "parameters": {"url": "{{url}}"}, "retry_count": 0},
                {
                    "step_id": "store",
                    "tool_name": "put",
                    "parameters": {"name": "{{fetch.user.name}}", "all": ["{{fetch}}"]},
                    "depends_on": ["fetch"],
                    "condition": "fetch.status == 'ok' and limit > 2 and not fetch.gone",
                    "retry_count": 1,
                    "timeout_seconds": 5,
                },
            ]
        }
    )

    assert plan.steps[0] == Step(
        id="fetch", tool="get", args={"url": "${{ inputs.url }}"}, retry=RetryPolicy(max_attempts=1)
    )
    assert plan.steps[1] == Step(
        id="store",
        tool="put",
        args={"name": "${{ steps.fetch.output.user.name }}", "all": ["${{ steps.fetch.output }}"]},
        needs=("fetch",),
        when="steps.fetch.output.status == 'ok' and inputs.limit > 2 and not steps.fetch.output.gone",
        retry=RetryPolicy(max_attempts=2),
        effects=Effects.IDEMPOTENT,
        timeout_seconds=5,
    )


@pytest.mark.parametrize(
    ("written", "native"),
    [
        ("step:a", "${{ steps.a.output }}"),
        (" step:a.x ", "${{ steps.a.output.x }}"),
        ("step:a.output.x", "${{ steps.a.output.x }}"),
        ("step:a[0]", "${{ steps.a.output[0] }}"),
        ("step:a.0.k", "${{ steps.a.output[0].k }}"),
        ("step:b.c", '${{ steps["b.c"].output }}'),
        ("step:b.c.d", '${{ steps["b.c"].output.d }}'),
        ("see step:a", "see step:a"),
        ("step:a and more", "step:a and more"),
        ("{{a}}", "${{ steps.a.output }}"),
        ("{{ a.x }}", "${{ steps.a.output.x }}"),
        ("{{steps.a.x}}", "${{ steps.a.output.x }}"),
        ("{{steps['a'].output.x}}", "${{ steps.a.output.x }}"),
        ("{{steps[7].output.x}}", '${{ steps["7"].output.x }}'),
        ("{{context.user}}", "${{ context.user }}"),
        ("{{inputs.user}}", "${{ inputs.user }}"),
        ("{{user}}", "${{ inputs.user }}"),
        ("{{user[0].x}}", "${{ inputs.user[0].x }}"),
        ("${{ steps.a.output }}", "${{ steps.a.output }}"),
        ("a {brace} and {{", "a {brace} and {{"),
        ("{{a + 1}}", "${{ a + 1 }}"),
        (5, 5),
    ],
)
def test_foreign_references_become_native_ones(written: Any, native: Any) -> None:
    steps = [{"id": "a", "tool": "t"}, {"id": "b.c", "tool": "t"}, {"id": 7, "tool": "t"}]

    document = to_native({"task": "x", "steps": [*steps, {"id": "z", "tool": "t", "parameters": {"v": written}}]})

    assert document["steps"][3]["with"] == {"v": native}


def test_a_native_plan_keeps_its_braces() -> None:
    plan = load_plan({"steps": [{"id": "a", "tool": "t", "with": {"x": "{{b}} step:b"}}]})

    assert plan.steps[0].args == {"x": "{{b}} step:b"}


@pytest.mark.parametrize("name", ["needs", "depends_on", "requires"])
@pytest.mark.parametrize("value", [["a"], "a"])
def test_a_native_step_may_say_what_it_waits_for_under_three_names(name: str, value: Any) -> None:
    plan = load_plan({"steps": [{"id": "a", "tool": "t"}, {"id": "b", "tool": "t", name: value}]})

    assert plan.steps[1].needs == ("a",)


@pytest.mark.parametrize(
    ("document", "foreign"),
    [
        ({"steps": [{"id": "a", "tool": "t"}]}, False),
        ({"planloom": 1, "task": "x", "steps": []}, False),
        ({"steps": [{"id": "a", "task": "x"}]}, False),
        ({"request_id": "x", "steps": []}, True),
        ({"steps": [{"id": "a", "tool": "t"}, {"step_id": "b", "tool_name": "t"}]}, True),
    ],
)
def test_the_form_is_told_by_its_fields(document: dict[str, Any], foreign: bool) -> None:
    assert is_foreign(document) is foreign


@pytest.mark.parametrize(
    ("step", "path"),
    [
        ({"step_id": "a", "tool_name": "t", "retry_count": "many"}, ("steps", 0, "retry", "max_attempts")),
        ({"step_id": "a", "tool_name": "t", "retry_count": -3}, ("steps", 0, "retry", "max_attempts")),
        ({"step_id": "a", "tool_name": "t", "id": "b"}, ("steps", 0, "step_id")),
        ({"id": "a", "tool": "t", "retry_policy": {"retrys": 1}}, ("steps", 0, "retry", "retrys")),
        ({"id": "a", "tool": "t", "input": {}, "parameters": {}}, ("steps", 0, "parameters")),
        ({"id": "a", "tool": "t", "input": [1]}, ("steps", 0, "with")),
    ],
)
def test_what_does_not_fit_a_foreign_form_is_refused_and_not_dropped(
    step: dict[str, Any], path: tuple[Any, ...]
) -> None:
    with pytest.raises(FieldError) as caught:
        load_plan({"steps": [step]})

    assert caught.value.path == path


def test_a_problem_in_a_foreign_text_is_found_under_its_own_name() -> None:
    text = '{"task": "x",\n "steps": [{"id": 1, "tool": "t",\n  "parameters": {"m":\n   "{{steps[9].output}}"}}]}'

    with pytest.raises(PlanError) as caught:
        load_plan(text)

    assert (caught.value.line, caught.value.column) == (4, 4)


def test_the_document_given_is_left_as_it_was() -> None:
    document = {
        "steps": [{"step_id": "a", "tool_name": "t", "retry_policy": {"retries": 1}, "parameters": {"x": "{{y}}"}}]
    }
    before = repr(document)

    to_native(document)

    assert repr(document) == before
