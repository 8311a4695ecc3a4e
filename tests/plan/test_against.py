from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest

from planloom.errors import ArgumentsError, FieldError, NotAllowedError, NotInstalledError, PlanError, UnknownToolError
from planloom.plan.check import check_against, check_plan, notices
from planloom.plan.load import load_plan
from planloom.plan.model import Plan, Step
from planloom.plan.policy import Effects, RetryPolicy
from planloom.tools.registry import ToolRegistry

SAVE = {
    "type": "object",
    "properties": {
        "record": {"$ref": "#/$defs/Record"},
        "times": {"type": "integer", "minimum": 1},
        "tags": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["record"],
    "$defs": {"Record": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}},
}


@dataclass
class Tools:
    """A catalogue of three tools: `save` (also `store`) says nothing of its effects."""

    schemas: dict[str, Any] = field(default_factory=lambda: {"save": SAVE, "mail.send": {}, "read": {"properties": {}}})
    declared: dict[str, Effects] = field(
        default_factory=lambda: {"mail.send": Effects.IDEMPOTENT, "read": Effects.NONE}
    )

    def names(self) -> Iterable[str]:
        return self.schemas

    def resolve(self, name: str) -> str | None:
        name = {"store": "save"}.get(name, name)
        return name if name in self.schemas else None

    def expanded(self, allow: Iterable[str] | None) -> frozenset[str]:
        return frozenset(self.schemas if allow is None else (found for one in allow if (found := self.resolve(one))))

    def schema(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.schemas[name]
        return found

    def effects(self, name: str) -> Effects | None:
        return self.declared.get(name)


def problems_of(*steps: Step, **options: Any) -> list[PlanError]:
    return check_against(Plan(steps=steps), Tools(), **options)


def saving(**args: Any) -> Step:
    return Step(id="s", tool="save", args=args)


def test_a_plan_that_fits_has_no_problems() -> None:
    steps = (
        saving(record={"n": 1}, times=2, tags=["a"]),
        Step(id="t", tool="store", args={"record": "${{ steps.s.output }}", "times": "${{ inputs.n }}"}),
        Step(id="u", tool="mail.send", args={"anything": 1}, effects=Effects.ONCE),
        Step(id="v", tool="read", effects=Effects.IDEMPOTENT),
        Step(id="w", tool="save", args={"record": {"n": "${{ inputs.n }}"}}, effects=Effects.NONE),
    )

    assert problems_of(*steps) == []


def test_a1_an_unknown_tool_is_refused_with_a_suggestion() -> None:
    (problem,) = problems_of(Step(id="a", tool="sav"))

    assert isinstance(problem, UnknownToolError)
    assert problem.remedy == "did you mean 'save'?"
    assert (problem.step, problem.path) == ("a", ("steps", 0, "tool"))


@pytest.mark.parametrize(
    ("args", "path", "said"),
    [
        ({}, ("with",), "parameter 'record'"),
        ({"record": {"n": 1}, "tmes": 1}, ("with", "tmes"), "no parameter 'tmes'"),
        ({"record": {"n": "x"}}, ("with", "record", "n"), "'x' is not of type 'integer'"),
        ({"record": {}}, ("with", "record"), "'n' is a required property"),
        ({"record": {"n": 1}, "times": 0}, ("with", "times"), "minimum"),
        ({"record": "${{ inputs.r }}", "tags": ["a", 1]}, ("with", "tags", 1), "not of type 'string'"),
        ({"record": {"n": 1}, "times": None}, ("with", "times"), "None is not of type"),
    ],
)
def test_a1_wrong_arguments_are_refused(args: dict[str, Any], path: tuple[Any, ...], said: str) -> None:
    (problem,) = problems_of(saving(**args))

    assert isinstance(problem, ArgumentsError)
    assert problem.path == ("steps", 0, *path)
    assert said in problem.message
    assert problem.remedy


def test_a_tool_that_takes_none_refuses_any_and_one_that_says_nothing_takes_all() -> None:
    assert [type(problem) for problem in problems_of(Step(id="a", tool="read", args={"x": 1}))] == [ArgumentsError]
    assert problems_of(Step(id="a", tool="mail.send", args={"x": 1})) == []


@pytest.mark.parametrize(
    ("plan", "allow"),
    [
        (Plan(steps=(Step(id="a", tool="store", args={"record": {"n": 1}}),)), ["read"]),
        (Plan(steps=(Step(id="a", tool="store", args={"record": {"n": 1}}),)), []),
        (Plan(allow=("read",), steps=(Step(id="a", tool="save", args={"record": {"n": 1}}),)), None),
        (Plan(allow=("save",), steps=(Step(id="a", tool="save", args={"record": {"n": 1}}),)), ["read"]),
        (Plan(steps=(Step(id="a", task="x", tools=("read", "save")),)), ["read"]),
        (load_plan({"steps": [{"id": "a", "agent": {"name": "x", "tools": ["store"]}, "prompt": "p"}]}), ["read"]),
        (load_plan({"steps": [{"id": "a", "code": {"source": "x", "tools": ["store"]}}]}), ["read"]),
    ],
    ids=["caller", "caller allows none", "plan", "plan cannot widen", "task", "agent", "code"],
)
def test_a28_a_tool_outside_an_allowlist_is_refused_under_any_name(plan: Plan, allow: list[str] | None) -> None:
    (problem,) = check_against(plan, Tools(), allow=allow)

    assert isinstance(problem, NotAllowedError)
    assert problem.facts["tool"] == "save"


def test_a28_a_sub_plan_cannot_use_more_than_the_plan_around_it() -> None:
    inner = Plan(allow=("save", "read"), steps=(Step(id="x", tool="save", args={"record": {"n": 1}}),))
    plan = Plan(allow=("read",), steps=(Step(id="sub", plan=inner),))

    (problem,) = check_against(plan, Tools(), allow=["save", "read"])

    assert isinstance(problem, NotAllowedError)
    assert (problem.step, problem.path) == ("sub/x", ("steps", 0, "plan", "steps", 0, "tool"))


@pytest.mark.parametrize(
    ("tool", "said", "is_sound"),
    [
        ("mail.send", Effects.NONE, False),
        ("mail.send", Effects.IDEMPOTENT, True),
        ("mail.send", Effects.ONCE, True),
        ("read", Effects.NONE, True),
        ("save", Effects.NONE, True),
    ],
)
def test_a_step_may_be_stricter_than_its_tool_and_never_laxer(tool: str, said: Effects, is_sound: bool) -> None:
    args = {"record": {"n": 1}} if tool == "save" else {}

    problems = problems_of(Step(id="a", tool=tool, args=args, effects=said))

    assert [(type(problem), problem.path) for problem in problems] == (
        [] if is_sound else [(FieldError, ("steps", 0, "effects"))]
    )


@pytest.mark.parametrize(("tool", "is_sound"), [("save", False), ("mail.send", False), ("read", True)])
def test_only_a_tool_without_effects_can_be_cached(tool: str, is_sound: bool) -> None:
    plan = load_plan({"steps": [{"id": "a", "tool": tool, "cache": True, "with": {}}]})

    problems = [problem for problem in check_against(plan, Tools()) if isinstance(problem, FieldError)]

    assert [problem.path for problem in problems] == ([] if is_sound else [("steps", 0, "cache")])


def test_a_cached_step_with_effects_of_its_own_is_refused_once() -> None:
    plan = Plan(steps=(Step(id="a", tool="read", effects=Effects.ONCE, cache={}),))  # type: ignore[arg-type]

    assert len(check_plan(plan) + check_against(plan, Tools())) == 1


AGAIN = {"strategy": "model", "refinement": "retry"}


@pytest.mark.parametrize(
    ("fields", "refused"),
    [
        ({"tool": "save"}, ["verify", "replan"]),
        ({"tool": "store"}, ["verify", "replan"]),
        ({"tool": "mail.send"}, ["verify"]),
        ({"tool": "read"}, []),
        ({"tool": "save", "effects": "once"}, []),  # `check_plan` says it
        ({"model": "m", "prompt": "p", "tools": ["read", "save"]}, ["verify", "replan"]),
        ({"model": "m", "prompt": "p", "tools": ["read", "mail.send"]}, ["verify"]),
        ({"model": "m", "prompt": "p", "tools": ["read"]}, []),
        ({"model": "m", "prompt": "p"}, []),
    ],
    ids=str,
)
def test_whether_a_step_may_be_done_again_its_tools_decide(fields: dict[str, Any], refused: list[str]) -> None:
    inner = {"steps": [{"id": "a", "verify": AGAIN, "replan": True, **fields}]}
    plan = Plan.from_dict({"steps": [{"id": "sub", "plan": inner}]})

    problems = [
        problem
        for problem in check_against(plan, Tools())
        if isinstance(problem, FieldError) and not isinstance(problem, ArgumentsError)
    ]

    assert [problem.path for problem in problems] == [("steps", 0, "plan", "steps", 0, name) for name in refused]
    assert all(problem.step == "sub/a" for problem in problems)


def test_a_kind_without_an_executor_is_refused_with_what_there_is() -> None:
    (problem,) = problems_of(Step(id="x", model="m", prompt="p"), installed_kinds=frozenset({"tool", "wait"}))

    assert isinstance(problem, NotInstalledError)
    assert problem.message.startswith("step 'x' is a model step: not installed: ")
    assert "tool, wait" in problem.remedy
    assert problem.path == ("steps", 0, "model")


def test_what_may_surprise_is_noticed_and_not_refused() -> None:
    retry = RetryPolicy(max_attempts=3)
    inner = Plan(steps=(Step(id="in", tool="store", args={"record": {"n": 1}}, retry=retry),))
    plan = Plan(
        allow=("save", "gone"),
        steps=(
            Step(id="sub", plan=inner),
            Step(id="ok", tool="mail.send", retry=retry),
            Step(id="map", tool="mail.send", for_each=[1], idempotency_key="k"),
            Step(id="slow", tool="read", attempt_timeout=9, timeout_seconds=3),
        ),
    )

    found = notices(plan, Tools())

    assert [text.split()[:2] for text in found] == [
        ["'allow'", "names"],
        ["step", "'sub/in'"],
        ["step", "'map'"],
        ["step", "'slow'"],
    ]


def test_the_tool_registry_is_a_catalogue() -> None:
    registry = ToolRegistry()

    def add(left: int, right: int) -> int:
        """Add two numbers."""
        return left + right

    registry.add(add)
    plan = Plan(steps=(Step(id="a", tool="add", args={"left": 1, "rigth": 2}),))

    problems = check_against(plan, registry, allow=["add"])

    assert [type(problem) for problem in problems] == [ArgumentsError, ArgumentsError]
    assert notices(plan, registry) == []


def test_a_tool_that_a_registry_denies_is_not_allowed() -> None:
    registry = ToolRegistry()

    def one() -> int:
        """Return one."""
        return 1

    def two() -> int:
        """Return two."""
        return 2

    registry.add(one)
    registry.add(two)
    plan = Plan(steps=(Step(id="a", tool="two", retry=RetryPolicy()),))

    problems = check_against(plan, registry.restricted(["one"]))

    assert [type(problem) for problem in problems] == [NotAllowedError]
    assert notices(plan, registry.restricted(["one"]))


@pytest.mark.parametrize("extra", [{"verify": {"strategy": "basic"}}, {"speculate": {"draft": "scripted://draft"}}])
def test_what_nothing_here_does_is_refused_and_not_ignored(extra: dict[str, Any]) -> None:
    (field,) = extra
    plan = Plan.from_dict({"steps": [{"id": "a", "model": "scripted://m", "prompt": "p", **extra}]})

    (problem,) = check_against(plan, ToolRegistry(), installed_kinds=frozenset({"model"}))

    assert isinstance(problem, NotInstalledError)
    assert problem.path == ("steps", 0, field)
    assert check_against(plan, ToolRegistry(), installed_kinds=frozenset({"model", field})) == []


@pytest.mark.parametrize("n", ["${{ steps.nope.output }}", "${{ steps.a. }}", "${{ inputs.nope }}", "${{ item }}"])
def test_references_that_are_wrong_hide_nothing_else_that_is(n: str) -> None:
    wrong = {"times": "often", "record": {"n": 1}}
    steps = [
        {"id": "a", "tool": "save", "with": wrong, "needs": ["nope"]},
        {"id": "b", "tool": "save", "with": {**wrong, "record": {"n": n}}},
        {"id": "c", "tool": "safe"},
    ]
    plan = {"planloom": 1, "inputs": {"there": {}}, "steps": steps}

    with pytest.raises(PlanError) as raised:
        load_plan(plan, also=lambda one: check_against(one, Tools()))

    assert {(problem.step, problem.path[2:]) for problem in raised.value.problems} == {
        ("a", ("needs", 0)),
        ("a", ("with", "times")),
        ("b", ("with", "record", "n")),
        ("b", ("with", "times")),
        ("c", ("tool",)),
    }
