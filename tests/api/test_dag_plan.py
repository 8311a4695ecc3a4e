from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from planloom.api import dag_plan
from planloom.api.dag import AgentDAG, AgentNode
from planloom.api.dag_plan import plan_of
from planloom.errors import FieldError, PlanError
from planloom.plan.check import check_plan
from planloom.plan.model import Need, Plan
from planloom.plan.policy import Effects, JoinRule


def echo(value: Any) -> Any:
    return value


def dag_of(*nodes: AgentNode) -> AgentDAG:
    dag = AgentDAG("g")
    for node in nodes:
        dag.add_node(node)
    return dag


def given(plan: Plan, node: str) -> Any:
    return plan.step(node).args["input"]


def test_without_a_mapping_a_node_is_given_all_of_the_state_it_sees() -> None:
    dag = dag_of(AgentNode("a", echo, output_key="first"), AgentNode("b", echo), AgentNode("other", echo))
    dag.add_edge("a", "b")

    plan = plan_of(dag, ["x", "with space"]).plan

    assert given(plan, "b") == {
        "x": "${{ inputs.x }}",
        "with space": '${{ inputs["with space"] }}',
        "first": "${{ steps.a.output }}",
    }
    assert check_plan(plan) == []


def test_a_mapping_gives_its_parameters_and_nothing_else() -> None:
    dag = dag_of(AgentNode("a", echo), AgentNode("b", echo, input_mapping={"text": "a", "again": "a"}))
    dag.add_edge("a", "b")

    assert given(plan_of(dag, ["x"]).plan, "b") == {"text": "${{ steps.a.output }}", "again": "${{ steps.a.output }}"}


def test_an_object_whose_only_key_is_input_is_given_as_that_value_itself() -> None:
    dag = dag_of(AgentNode("a", echo), AgentNode("b", echo, input_mapping={"input": "a"})).add_edge("a", "b")

    plan = plan_of(dag, ["input"]).plan

    assert given(plan, "a") == "${{ inputs.input }}"
    assert given(plan, "b") == "${{ steps.a.output }}"


def test_every_key_that_is_missing_is_told_before_anything_runs_with_node_key_and_what_is_there() -> None:
    dag = dag_of(
        AgentNode("a", echo, output_key="total"),
        AgentNode("b", echo, input_mapping={"x": "totl"}),
        AgentNode("c", echo, input_mapping={"y": "total"}),
    )
    dag.add_edge("a", "b")

    with pytest.raises(PlanError) as caught:
        plan_of(dag, ["question"])

    first, second = map(str, caught.value.problems)
    assert "node 'b'" in first
    assert "'totl'" in first
    assert "'question', 'total'" in first
    assert "did you mean 'total'" in first
    assert "node 'c'" in second
    assert "the keys there are 'question'" in second


def test_the_last_node_in_order_that_leaves_a_key_is_the_one_that_counts() -> None:
    dag = dag_of(*(AgentNode(name, echo, output_key="k") for name in ("b", "a")), AgentNode("end", echo))
    dag.add_edge("b", "end").add_edge("a", "end")

    assert given(plan_of(dag, ["k"]).plan, "end") == {"k": "${{ steps.a.output }}"}


def test_what_a_branch_may_not_have_left_falls_back_on_what_was_there_before() -> None:
    dag = dag_of(
        *(AgentNode(name, echo, output_key="k") for name in ("start", "left", "right")), AgentNode("end", echo)
    )
    dag.add_edge("start", "left", "steps.start.output").add_edge("start", "right", "not steps.start.output")
    dag.add_edge("left", "end").add_edge("right", "end")

    plan = plan_of(dag).plan

    assert given(plan, "end") == {
        "k": "${{ default(steps.right.output, default(steps.left.output, steps.start.output)) }}"
    }
    # It waits for `start` because it refers to it; that must not make it run when neither branch did.
    assert plan.step("end").needs == ("left", "right", Need(step="start", when="false"))


def test_a_node_behind_a_condition_runs_if_none_failed_and_one_is_done_and_any_other_if_all_are() -> None:
    dag = dag_of(*(AgentNode(name, echo) for name in "abcd"))
    dag.add_edge("a", "b", "steps.a.output").add_edge("b", "c")

    plan = plan_of(dag).plan

    rules = [plan.step(name).join for name in "abcd"]
    branched = JoinRule.NONE_FAILED_MIN_ONE_SUCCESS
    assert rules == [JoinRule.ALL_SUCCESS, branched, branched, JoinRule.ALL_SUCCESS]


def test_a_node_may_have_a_rule_of_its_own() -> None:
    dag = dag_of(AgentNode("a", echo), AgentNode("b", echo, join="all_done")).add_edge("a", "b")

    assert plan_of(dag).plan.step("b").join is JoinRule.ALL_DONE


def test_a_condition_that_is_a_function_is_a_hidden_step_in_front_of_the_nodes() -> None:
    dag = dag_of(AgentNode("a", echo), AgentNode("b", echo)).add_edge("a", "b", lambda state: bool(state))

    graph = plan_of(dag, ["x"])

    assert [step.id for step in graph.plan.steps] == ["a -> b", "a", "b"]
    assert graph.plan.step("a -> b").args == {"state": {"x": "${{ inputs.x }}", "a": "${{ steps.a.output }}"}}
    assert graph.order == ("a", "b")
    assert list(graph.conditions) == ["a -> b"]


def test_a_hidden_step_never_takes_the_name_of_a_node() -> None:
    dag = dag_of(AgentNode("a", echo), AgentNode("b", echo), AgentNode("a -> b", echo)).add_edge("a", "b", bool)

    assert {step.id for step in plan_of(dag).plan.steps} == {"a", "b", "a -> b", "a -> b (2)"}


def test_retries_come_on_top_of_the_first_attempt_and_need_an_agent_that_may_run_again() -> None:
    class Careful:
        effects = "none"

        def run(self, value: Any) -> Any:
            return value

    dag = dag_of(
        AgentNode("once", echo),
        AgentNode("again", echo, retry_count=2),
        AgentNode("careful", Careful(), retry_count=2),
        AgentNode("said", echo, retry_count=2, effects="none"),
    )

    plan = plan_of(dag).plan

    again = plan.step("again")
    assert again.retry is not None
    assert again.retry.max_attempts == 3
    effects = {step.id: step.effects for step in plan.steps}
    assert effects == {"once": None, "again": Effects.IDEMPOTENT, "careful": None, "said": Effects.NONE}


def test_a_graph_of_odd_names_and_keys_is_still_a_sound_plan() -> None:
    odd = ['say "hi"', "a}}b", "back\\slash", "ümlaut", "steps.a", "1"]
    dag = dag_of(*(AgentNode(name, echo, output_key=f"{name}!") for name in odd))
    for above, below in pairwise(odd):
        dag.add_edge(above, below, bool)

    plan = plan_of(dag, odd).plan

    assert check_plan(plan) == []


def test_too_many_references_are_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dag_plan, "MAX_REFERENCES", 10)
    dag = dag_of(*(AgentNode(f"n{number}", echo) for number in range(20)))
    for number in range(19):
        dag.add_edge(f"n{number}", f"n{number + 1}")

    with pytest.raises(FieldError, match="input_mapping"):
        plan_of(dag)


def test_too_many_nodes_that_may_leave_one_key_are_refused() -> None:
    dag = dag_of(AgentNode("start", echo), *(AgentNode(f"n{one}", echo, output_key="k") for one in range(40)))
    dag.add_node(AgentNode("end", echo))
    for number in range(40):
        dag.add_edge("start", f"n{number}", "true").add_edge(f"n{number}", "end")

    with pytest.raises(FieldError, match="40 nodes may leave 'k'"):
        plan_of(dag)
