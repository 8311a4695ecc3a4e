"""What follows from what: edges, order, levels, paths, circles."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planloom.errors import (
    CycleError,
    DuplicateStepError,
    ExpressionError,
    InvalidPlanError,
    PlanError,
    UnknownStepError,
)
from planloom.plan.graph import PlanGraph, compile_plan, critical_path, find_cycle, topological_order
from planloom.plan.model import Plan
from planloom.plan.policy import JoinRule


def step(step_id: str, *needs: Any, **fields: Any) -> dict[str, Any]:
    return {"id": step_id, "tool": "t", "needs": list(needs)} | fields


def plan(*steps: dict[str, Any], **fields: Any) -> Plan:
    return Plan.from_dict({"steps": list(steps)} | fields)


def graph(*steps: dict[str, Any], **fields: Any) -> PlanGraph:
    return compile_plan(plan(*steps, **fields))


def problem(*steps: dict[str, Any], **fields: Any) -> PlanError:
    with pytest.raises(PlanError) as caught:
        graph(*steps, **fields)
    return caught.value


# --- edges ---


def test_needs_are_edges_both_ways() -> None:
    made = graph(step("a"), step("b", "a"), step("c", "b", "a"))

    assert [entry.upstream for entry in made.steps] == [(), (0,), (0, 1)]
    assert [entry.downstream for entry in made.steps] == [(1, 2), (2,), ()]


@pytest.mark.parametrize(
    "fields",
    [
        {"with": {"x": ["deep", {"y": "${{ steps.a.output }}"}]}},
        {"when": "steps.a.output > 1"},
        {"for_each": "steps.a.output"},
        {"for_each": ["${{ steps.a.output }}"]},
        {"idempotency_key": "pay-${{ steps.a.output.id }}"},
        {"tool": None, "model": "m://x", "prompt": "About ${{ steps.a.output }}"},
        {"tool": None, "model": "m://x", "prompt": "p", "system": "You are ${{ steps.a.output }}"},
        {"tool": None, "approve": "Pay ${{ steps.a.output }}?"},
        {"tool": None, "wait": "${{ steps.a.output }}"},
        {"tool": None, "wait": {"until": "${{ steps.a.output }}"}},
        {"tool": None, "task": "Do it", "with": {"x": "${{ steps.a.output }}"}},
    ],
    ids=lambda fields: next(name for name in fields if name != "tool"),
)
def test_a_reference_is_an_edge_wherever_it_stands(fields: dict[str, Any]) -> None:
    made = graph(step("a"), step("b", **fields))

    assert made.steps[1].upstream == (0,)


def test_a_need_that_is_also_a_reference_is_one_edge() -> None:
    made = graph(step("a"), step("b", "a", **{"with": {"x": "${{ steps.a.output }} ${{ steps.a.status }}"}}))

    assert (made.steps[1].upstream, made.steps[0].downstream) == ((0,), (1,))


def test_a_condition_belongs_to_its_edge_and_changes_the_default_join() -> None:
    made = graph(step("a"), step("b"), step("c", {"step": "a", "when": "steps.a.output"}, "b"), step("d", "a"))

    assert list(made.steps[2].conditions) == [0]
    assert made.steps[2].join is JoinRule.NONE_FAILED_MIN_ONE_SUCCESS
    assert made.steps[3].join is JoinRule.ALL_SUCCESS


def test_a_join_rule_that_is_written_is_kept() -> None:
    need = {"step": "a", "when": "steps.a.output"}

    assert graph(step("a"), step("b", need, join="all_done")).steps[1].join is JoinRule.ALL_DONE


def test_a_condition_survives_a_plain_mention_of_the_same_step() -> None:
    need = {"step": "a", "when": "steps.a.output"}

    for needs in (["a", need], [need, "a"]):
        assert list(graph(step("a"), step("b", *needs)).steps[1].conditions) == [0]


def test_the_work_is_done_once_per_plan() -> None:
    made = plan(step("a"))

    assert compile_plan(made) is compile_plan(made)


def test_a_condition_may_be_plainly_true_or_false() -> None:
    made = graph(step("a", when=False), step("b", when=True), step("c"))

    assert [entry.when and entry.when.text for entry in made.steps] == ["false", "true", None]


def test_a_sub_plan_is_compiled_with_its_plan() -> None:
    made = graph({"id": "sub", "plan": {"steps": [step("a"), step("b", "a")]}})

    assert made.steps[0].sub is not None
    assert made.steps[0].sub.order == (0, 1)


# --- what is wrong ---


def test_a1_a_circle_is_named_in_the_order_it_would_run() -> None:
    error = problem(step("a", "c"), step("b", "a"), step("c", "b"), step("d"))

    assert isinstance(error, CycleError)
    assert error.message == "steps wait for each other: a -> b -> c -> a"
    assert error.facts["cycle"] == ["a", "b", "c", "a"]


def test_a1_a_step_that_waits_for_itself_is_a_circle() -> None:
    assert problem(step("a", "a")).message == "steps wait for each other: a -> a"


def test_a_circle_through_references_is_a_circle() -> None:
    error = problem(step("a", **{"with": {"x": "${{ steps.b.output }}"}}), step("b", "a"))

    assert isinstance(error, CycleError)


def test_a1_an_unknown_step_is_named_with_the_closest_known_one() -> None:
    error = problem(step("fetch"), step("b", "fetsh"))

    assert isinstance(error, UnknownStepError)
    assert error.message == "step 'b' needs 'fetsh', but there is no step 'fetsh'"
    assert error.remedy == "did you mean 'fetch'?"
    assert (error.step, error.path) == ("b", ("steps", 1, "needs", 0))


def test_an_unknown_step_in_a_reference_is_named_with_the_reference() -> None:
    error = problem(step("a", **{"with": {"x": "${{ steps.zzz.output.n }}"}}))

    assert isinstance(error, UnknownStepError)
    assert error.message == "step 'a' refers to steps.zzz.output.n, but there is no step 'zzz'"
    assert error.path == ("steps", 0, "with")


def test_an_unknown_step_in_the_outputs_is_named_too() -> None:
    error = problem(step("a"), outputs={"x": "${{ steps.zzz.output }}"})

    assert isinstance(error, UnknownStepError)
    assert error.message == "the plan's outputs refers to steps.zzz.output, but there is no step 'zzz'"


def test_an_unknown_step_in_a_condition_of_an_edge_is_named_too() -> None:
    error = problem(step("a"), step("b", {"step": "a", "when": "steps.zzz.output"}))

    assert isinstance(error, UnknownStepError)
    assert error.path == ("steps", 1, "needs", 0, "when")


def test_a1_an_id_used_twice_is_refused() -> None:
    error = problem(step("a"), step("a"))

    assert isinstance(error, DuplicateStepError)
    assert error.remedy == "rename one of them, e.g. 'a_2'"


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"with": {"x": [{"y": "${{ nope }}"}]}}, ("steps", 0, "with", "x", 0, "y")),
        ({"when": "1 +"}, ("steps", 0, "when")),
        ({"for_each": "steps."}, ("steps", 0, "for_each")),
        ({"for_each": ["${{ }}"]}, ("steps", 0, "for_each", 0)),
        ({"idempotency_key": "${{ x"}, ("steps", 0, "idempotency_key")),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_cannot_be_read_is_told_with_its_place(fields: dict[str, Any], path: tuple[str | int, ...]) -> None:
    error = problem(step("a", **fields))

    assert isinstance(error, ExpressionError)
    assert (error.step, error.path) == ("a", path)


def test_a_condition_of_an_edge_that_cannot_be_read_is_told_with_its_place() -> None:
    error = problem(step("a"), step("b", {"step": "a", "when": "1 +"}))

    assert isinstance(error, ExpressionError)
    assert (error.step, error.path) == ("b", ("steps", 1, "needs", 0, "when"))


def test_outputs_that_cannot_be_read_are_told_with_their_place() -> None:
    error = problem(step("a"), outputs={"x": "${{ steps.a.total }}"})

    assert isinstance(error, ExpressionError)
    assert (error.step, error.path) == (None, ("outputs", "x"))


def test_all_problems_are_told_at_once() -> None:
    error = problem(step("a", "b"), step("b", "a", when="1 +"), step("c"), step("c", "zzz"))

    assert isinstance(error, InvalidPlanError)
    assert {type(one) for one in error.problems} == {
        DuplicateStepError,
        ExpressionError,
        UnknownStepError,
        CycleError,
    }


def test_problems_of_a_sub_plan_are_told_with_their_place() -> None:
    error = problem(step("a"), {"id": "sub", "plan": {"steps": [step("x", "zzz")]}})

    assert error.path == ("steps", 1, "plan", "steps", 0, "needs", 0)


def test_problems_of_a_sub_plan_are_told_the_same_the_second_time() -> None:
    made = plan({"id": "sub", "plan": {"steps": [step("x", "zzz")]}})

    told = []
    for _ in range(2):
        with pytest.raises(PlanError) as caught:
            compile_plan(made)
        told.append(caught.value.path)

    assert told[0] == told[1] == ("steps", 0, "plan", "steps", 0, "needs", 0)


# --- order, levels, paths ---


def test_levels_are_the_longest_way_to_a_step() -> None:
    made = graph(step("a"), step("b", "a"), step("c", "a", "b"), step("d"))

    assert made.levels() == [["a", "d"], ["b"], ["c"]]
    assert graph().levels() == []


def test_remaining_is_the_longest_way_to_an_end() -> None:
    made = graph(step("a"), step("b", "a"), step("c", "b"), step("d", "a"))

    assert made.remaining() == [3, 2, 1, 1]
    assert made.remaining([1, 10, 1, 20]) == [21, 11, 1, 20]


def test_urgency_is_priority_then_path_then_plan_order() -> None:
    made = graph(step("a"), step("b"), step("c", "b"), step("d", priority=1))

    assert list(made.urgency()) == [2, 1, 3, 0]
    assert made.urgency() is made.urgency()
    assert list(made.urgency([9, 1, 1, 1])) == [1, 2, 3, 0]


def test_the_critical_path_is_the_longest_chain_in_seconds() -> None:
    made = graph(step("a"), step("b", "a"), step("c", "a"), step("d", "b", "c"))

    assert critical_path(made, {"a": 0.2, "b": 0.15, "c": 0.1, "d": 0.1}) == pytest.approx(0.45)
    assert critical_path(made, {}) == 0.0
    assert critical_path(graph(), {}) == 0.0


def test_ancestors_are_everything_a_step_waits_for() -> None:
    made = graph(step("a"), step("b", "a"), step("c", "b"), step("d", "c", "b"), step("e"))

    assert made.ancestors(3) == {0, 1, 2}
    assert made.ancestors(4) == set()


# --- laws ---

EDGES = st.integers(1, 9).flatmap(
    lambda count: st.tuples(
        st.just(count), st.sets(st.tuples(st.integers(0, count - 1), st.integers(0, count - 1)), max_size=14)
    )
)


def both_ways(count: int, edges: set[tuple[int, int]]) -> tuple[list[list[int]], list[list[int]]]:
    upstream: list[list[int]] = [[] for _ in range(count)]
    downstream: list[list[int]] = [[] for _ in range(count)]
    for above, below in sorted(edges):
        upstream[below].append(above)
        downstream[above].append(below)
    return upstream, downstream


def reaches(count: int, edges: set[tuple[int, int]]) -> list[list[bool]]:
    """Return whether there is a way from one to the other, the slow way."""
    there = [[(above, below) in edges for below in range(count)] for above in range(count)]
    for middle in range(count):
        for above in range(count):
            for below in range(count):
                there[above][below] = there[above][below] or (there[above][middle] and there[middle][below])
    return there


@given(EDGES)
def test_the_order_is_topological_and_the_first_such_in_plan_order(drawn: tuple[int, set[tuple[int, int]]]) -> None:
    count, edges = drawn
    upstream, downstream = both_ways(count, edges)
    there = reaches(count, edges)
    unreachable = {
        place
        for place in range(count)
        if any(there[on][on] and (on == place or there[on][place]) for on in range(count))
    }

    order = topological_order(upstream, downstream)

    assert set(order) == set(range(count)) - unreachable
    done: set[int] = set()
    for place in order:
        could_go = [at for at in range(count) if at not in done and done.issuperset(upstream[at])]
        assert place == min(could_go)
        done.add(place)


@given(EDGES)
def test_a_circle_is_found_exactly_when_there_is_one(drawn: tuple[int, set[tuple[int, int]]]) -> None:
    count, edges = drawn
    upstream, downstream = both_ways(count, edges)
    there = reaches(count, edges)
    left = set(range(count)) - set(topological_order(upstream, downstream))

    assert bool(left) == any(there[place][place] for place in range(count))
    if left:
        circle = find_cycle(upstream, left)
        assert circle[0] == circle[-1] == min(circle)
        assert len(set(circle)) == len(circle) - 1
        assert all(edge in edges for edge in pairwise(circle))


@given(EDGES)
def test_levels_and_remaining_paths_agree_with_brute_force(drawn: tuple[int, set[tuple[int, int]]]) -> None:
    count, edges = drawn
    forwards = {(min(edge), max(edge)) for edge in edges if edge[0] != edge[1]}
    upstream, downstream = both_ways(count, forwards)
    made = graph(*(step(f"s{at}", *(f"s{above}" for above in upstream[at])) for at in range(count)))

    def depth(at: int) -> int:
        return 1 + max((depth(above) for above in upstream[at]), default=-1)

    def height(at: int) -> int:
        return 1 + max((height(below) for below in downstream[at]), default=0)

    assert [made.levels()[depth(at)].count(f"s{at}") for at in range(count)] == [1] * count
    assert made.remaining() == [height(at) for at in range(count)]
    assert sorted(made.urgency()) == list(range(count))


# --- size ---


@pytest.mark.slow
def test_a4_a_chain_of_a_hundred_thousand_is_a_plan_like_any_other() -> None:
    count = 100_000
    made = plan(*(step(f"s{at}", *([f"s{at - 1}"] if at else [])) for at in range(count)))

    compiled = compile_plan(made)

    assert compiled.order == tuple(range(count))
    assert compiled.remaining()[0] == count
    assert len(compiled.levels()) == count
    assert len(compiled.ancestors(count - 1)) == count - 1


@pytest.mark.slow
def test_a4_a_circle_of_many_thousands_is_found() -> None:
    count = 20_000

    error = problem(*(step(f"s{at}", f"s{(at - 1) % count}") for at in range(count)))

    assert len(error.facts["cycle"]) == count + 1
