"""Every way of a labelled value through a plan: known ones, and random ones held against a walk over all of them."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings

from planloom import Plan, load_plan
from planloom.core.events import ToolFacts
from planloom.plan.flow import SECRET, FlowPolicy
from planloom.plan.flow_paths import FlowPath, flows, refusals
from planloom.plan.graph import compile_plan
from planloom.plan.policy import Effects
from tests.plan.flow_plans import TOOLS, plan, plans, text_of, tool

POLICY = FlowPolicy()


class Catalogue:
    def resolve(self, name: str) -> str | None:
        return name if name in TOOLS else None

    def expanded(self, allow: Any) -> frozenset[str]:
        return frozenset(TOOLS)

    def facts(self, name: str) -> ToolFacts:
        return TOOLS[name]


def found(document: dict[str, Any], policy: FlowPolicy = POLICY, **options: Any) -> list[FlowPath]:
    return flows(load_plan(document), Catalogue(), policy, **options)


def told(document: dict[str, Any], **options: Any) -> list[tuple[str, ...]]:
    """Return each way as label, steps and what is decided about, with its verdict."""
    return [
        (one.label, ">".join((one.source, *one.through, one.sink)), one.tool, one.verdict, "" if one.certain else "if")
        for one in found(document, **options)
    ]


# --- known ones ---------------------------------------------------------------------------------


def test_a_page_that_a_model_makes_a_mail_of() -> None:
    document = plan(
        tool("page", "get"), {"id": "sum", "model": "m", "prompt": text_of(["page"])}, tool("mail", "send", "sum")
    )

    assert told(document) == [("web", "page>sum>mail", "send", "needs_approval", "")]


def test_what_is_allowed_is_listed_too_and_comes_last() -> None:
    document = plan(tool("page", "get"), tool("log", "log", "page"), tool("mail", "send", "page"))

    assert [one[1:4] for one in told(document)] == [
        ("page>mail", "send", "needs_approval"),
        ("page>log", "log", "allowed"),
    ]


def test_a_secret_in_a_prompt_is_refused_and_a_problem_of_the_plan() -> None:
    document = plan(
        tool("key", "vault"), tool("same", "same", "key"), {"id": "ask", "model": "m", "prompt": text_of(["same"])}
    )

    [way] = found(document)
    [problem] = refusals([way])

    assert (way.sink, way.tool, way.verdict, way.certain) == ("ask", "m", "refused", True)
    assert (problem.step, problem.path) == ("ask", ("steps", 2))
    assert "goes on through same" in problem.message


def test_a_tool_that_cleans_ends_the_way_but_not_what_its_error_says() -> None:
    clean = tool("count", "clean", "page")
    way = [("web", "page>count>mail", "send", "needs_approval", "if")]

    assert told(plan(tool("page", "get"), clean, tool("mail", "send", "count"))) == []
    assert told(plan(tool("page", "get"), clean, tool("mail", "send", "steps.count.error"))) == way
    assert told(plan(tool("page", "get"), clean | {"on_error": "continue"}, tool("mail", "send", "count"))) == way
    assert told(plan(tool("page", "get"), clean, tool("mail", "send", "count", join="all_done"))) == way
    assert told(plan(tool("page", "get"), clean | {"for_each": "[1]"}, tool("mail", "send", "count"))) == way


def test_a_person_s_answer_carries_nothing() -> None:
    ask = {"id": "ask", "approve": text_of(["page"])}

    assert told(plan(tool("page", "get"), ask, tool("mail", "send", "ask"))) == []


@pytest.mark.parametrize(
    "fields",
    [
        {"when": "steps.page.output == 'x'"},
        {"needs": [{"step": "page", "when": "steps.page.output == 'x'"}]},
        {"for_each": "steps.page.output"},
        {"idempotency_key": "${{ steps.page.output }}"},
    ],
)
def test_what_decides_about_a_step_counts_like_what_it_is_given(fields: dict[str, Any]) -> None:
    assert told(plan(tool("page", "get"), tool("mail", "send", **fields)))[0][1] == "page>mail"


def test_only_to_wait_for_a_step_is_no_way() -> None:
    assert told(plan(tool("page", "get"), tool("mail", "send", needs=["page"]))) == []


def test_the_way_into_a_sub_plan_is_by_the_input_that_carries_it() -> None:
    inner = plan(tool("a", "send", "inputs.page"), tool("b", "send", "inputs.to"), inputs={"page": {}, "to": {}})
    sub = {"id": "sub", "plan": inner, "with": {"page": text_of(["page"]), "to": "ann"}}

    assert told(plan(tool("page", "get"), sub)) == [("web", "page>sub>sub/a", "send", "needs_approval", "")]


def test_the_way_out_of_a_sub_plan_is_by_its_outputs() -> None:
    inner = plan(tool("page", "get"), tool("one", "same"), outputs="${{ steps.one.output }}")
    whole = plan(tool("page", "get"))

    assert told(plan({"id": "sub", "plan": inner}, tool("mail", "send", "sub"))) == []
    assert told(plan({"id": "sub", "plan": whole}, tool("mail", "send", "sub"))) == [
        ("web", "sub/page>sub>mail", "send", "needs_approval", "")
    ]
    assert len(told(plan({"id": "sub", "plan": inner}, tool("mail", "send", "steps.sub.error")))) == 1


def test_whether_a_sub_plan_is_done_decides_about_every_step_in_it() -> None:
    sub = {"id": "sub", "plan": plan(tool("mail", "send")), "when": "steps.page.output"}

    assert told(plan(tool("page", "get"), sub)) == [("web", "page>sub>sub/mail", "send", "needs_approval", "")]


def test_whether_a_sub_plan_was_done_shows_in_what_it_gives() -> None:
    sub = {"id": "sub", "plan": plan(tool("a", "same"), outputs="x"), "when": "steps.page.output"}

    assert told(plan(tool("page", "get"), sub, tool("mail", "send", "sub")))[0][1] == "page>sub>mail"


def test_a_list_of_which_each_item_is_cleaned_is_clean() -> None:
    clean = plan(tool("count", "clean", "inputs.page"), inputs={"page": {}})
    sub = {"id": "sub", "plan": clean, "for_each": "steps.page.output", "with": {"page": "${{ item }}"}}

    ways = told(plan(tool("page", "get"), sub, tool("mail", "send", "sub")))

    assert ways == [("web", "page>sub>mail", "send", "needs_approval", "if")]  # where the list is empty, or one failed


def test_what_a_sub_plan_was_given_may_be_in_its_error() -> None:
    sub = {"id": "sub", "plan": plan(tool("a", "same"), inputs={"p": {}}), "with": {"p": text_of(["page"])}}

    assert told(plan(tool("page", "get"), sub, tool("mail", "send", "sub"))) == []
    assert told(plan(tool("page", "get"), sub, tool("mail", "send", "steps.sub.error")))[0][1] == "page>sub>mail"


def test_all_three_inside_one_step_are_listed() -> None:
    """Private data, what others wrote, and a way out, in the hands of one model."""
    document = plan({"id": "ask", "model": "m", "prompt": "?", "tools": ["vault", "read", "send"]})

    assert told(document) == [
        ("inbox", "ask>ask", "send", "refused", "if"),
        ("secret", "ask>ask", "m", "refused", "if"),
        ("secret", "ask>ask", "send", "refused", "if"),
    ]
    assert refusals(found(document)) == []


def test_what_a_program_may_read_counts_behind_it() -> None:
    code = {"id": "code", "code": {"source": "read()", "tools": ["read"]}}

    assert told(plan(code, tool("mail", "send", "code"))) == [("inbox", "code>mail", "send", "needs_approval", "if")]


def test_an_agent_has_the_tools_it_is_said_to_have() -> None:
    document = plan({"id": "job", "agent": "a", "prompt": "go"})

    assert told(document, inner=lambda _: {"get": TOOLS["get"], "send": TOOLS["send"]}) == [
        ("web", "job>job", "send", "refused", "if")
    ]


def test_an_agent_that_is_plain_code_is_a_way_out_like_a_tool() -> None:
    document = plan(tool("page", "get"), {"id": "job", "agent": "a", "prompt": text_of(["page"])})

    assert told(document, agent_effects=lambda _: Effects.ONCE) == [("web", "page>job", "a", "needs_approval", "")]
    assert told(document) == []


def test_a_judge_is_told_what_a_step_came_to() -> None:
    judged = tool("key", "vault", verify={"strategy": "judge", "model": "m"}, effects="none")

    assert told(plan(judged)) == [("secret", "key>key", "m", "refused", "")]


def test_the_policy_decides() -> None:
    document = plan(tool("page", "get"), tool("mail", "send", "page"))

    assert [one.verdict for one in found(document, FlowPolicy(untrusted="refuse"))] == ["refused"]
    assert [one.verdict for one in found(document, FlowPolicy(untrusted="allow"))] == ["allowed"]


def test_a_step_may_not_talk_its_tool_out_of_its_effects() -> None:
    document = plan(tool("page", "get"), tool("mail", "same", "page", effects="once"))

    assert [one.verdict for one in found(document)] == ["needs_approval"]


def test_a_thousand_steps_are_no_matter() -> None:
    names = ("get", "read", "vault", "same", "send", "log")
    steps = [tool(f"s{n}", names[n % 6], *(f"s{(n * k) // 7}" for k in range(1, 6) if n)) for n in range(1000)]
    loaded = Plan.from_dict(plan(*steps))
    compile_plan(loaded)

    began = time.process_time()
    ways = flows(loaded, Catalogue(), POLICY)

    assert time.process_time() - began < 1.0
    assert len(ways) > 300


# --- random ones --------------------------------------------------------------------------------


def own(name: str) -> frozenset[str]:
    """Return the labels that a tool brings."""
    return frozenset(TOOLS[name].source) | ({SECRET} if TOOLS[name].secret else frozenset())


class Naive:
    """What each step is given and gives, worked out by asking what it refers to, over and over, from its text alone."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.certain: set[tuple[str, str, str]] = set()
        self.possible: set[tuple[str, str, str]] = set()
        for only_certain, ways in ((True, self.certain), (False, self.possible)):
            self.plan(document, "", {}, frozenset(), only_certain, ways)

    def plan(
        self,
        document: dict[str, Any],
        prefix: str,
        inputs: Mapping[str, frozenset[str]],
        control: frozenset[str],
        only_certain: bool,
        ways: set[tuple[str, str, str]],
    ) -> tuple[frozenset[str], frozenset[str]]:
        """Return the labels of a plan's outputs, and of everything in it."""
        known = dict(inputs)
        for step in document["steps"]:
            key = prefix + step["id"]
            decided = control.union(*self.refs({"w": step.get("when"), "f": step.get("for_each")}, known))
            comes_in = decided.union(*self.refs({k: v for k, v in step.items() if k != "plan"}, known))
            if "plan" in step:
                given = {f"inputs.{k}": frozenset().union(*self.refs(v, known)) for k, v in step["with"].items()}
                out, all_of_it = self.plan(step["plan"], f"{key}/", given, decided, only_certain, ways)
                self.gives(step, known, out, all_of_it.union(decided, *given.values()), only_certain)
                continue
            brought = frozenset(label for tool in self.inner(step) for label in own(tool))
            out = comes_in | (frozenset() if only_certain else brought)
            if "tool" in step:
                whole = out | own(step["tool"])
                out = out - set(TOOLS[step["tool"]].cleans) | own(step["tool"])
                self.gives(step, known, out, whole, only_certain)
            else:
                out = frozenset() if "approve" in step else out
                self.gives(step, known, out, out, only_certain)
            self.sinks(step, key, comes_in, frozenset() if only_certain else brought, ways)
        ends = [known[f"steps.{step['id']}.output"] for step in document["steps"] if not self.is_needed(step, document)]
        if "outputs" in document:
            ends = list(self.refs(document["outputs"], known))
        all_of_it = frozenset().union(
            *(known[f"steps.{s['id']}.{f}"] for s in document["steps"] for f in ("output", "error"))
        )
        return frozenset().union(*ends), all_of_it

    def gives(self, step: Any, known: dict[str, frozenset[str]], out: Any, if_failed: Any, only_certain: bool) -> None:
        """Take note of what a step says: if all goes well, and in an error, or as an empty list."""
        whole = out if only_certain else out | if_failed
        known[f"steps.{step['id']}.error"] = whole
        known[f"steps.{step['id']}.output"] = whole if "for_each" in step else out

    def sinks(self, step: Any, key: str, comes_in: frozenset[str], brought: frozenset[str], ways: set[Any]) -> None:
        for label in comes_in | brought:
            if label in comes_in and TOOLS.get(step.get("tool"), TOOLS["same"]).effects is Effects.ONCE:
                ways.add((label, key, step["tool"]))
            if "model" in step and label == SECRET:
                ways.add((label, key, "m"))
            ways.update((label, key, tool) for tool in self.inner(step) if TOOLS[tool].effects is Effects.ONCE)

    def inner(self, step: Any) -> list[str]:
        return (step.get("tools") or []) if "code" not in step else step["code"]["tools"]

    def refs(self, value: Any, known: Mapping[str, frozenset[str]]) -> Iterator[frozenset[str]]:
        for match in re.findall(r"(?:steps\.s\d+\.(?:output|error)|inputs\.\w+)", str(value)):
            yield known[match]

    def is_needed(self, step: Any, document: Any) -> bool:
        others = [{k: v for k, v in one.items() if k != "plan"} for one in document["steps"]]
        return f"steps.{step['id']}." in str(others)


@pytest.mark.slow
@given(plans())
@settings(max_examples=120, deadline=None)
def test_the_ways_are_those_that_a_walk_over_everything_finds(document: dict[str, Any]) -> None:
    naive = Naive(document)

    ways = flows(Plan.from_dict(document), Catalogue(), POLICY)

    places = [(one.label, one.sink, one.tool) for one in ways]
    assert len(places) == len(set(places))
    assert set(places) == naive.possible
    inside = set(_keys(document, {"model", "code"}))
    sure = {place for place in naive.certain if place[1] not in inside or place[2] == "m"}
    assert {(one.label, one.sink, one.tool) for one in ways if one.certain} == sure


def _keys(document: dict[str, Any], kinds: set[str], prefix: str = "") -> Iterator[str]:
    for step in document["steps"]:
        if kinds & step.keys():
            yield prefix + step["id"]
        if "plan" in step:
            yield from _keys(step["plan"], kinds, f"{prefix}{step['id']}/")


@pytest.mark.slow
@given(plans(depth=0))
@settings(max_examples=120, deadline=None)
def test_each_way_is_a_shortest_one_of_all_there_are(document: dict[str, Any]) -> None:
    reads = {step["id"]: set(re.findall(r"steps\.(s\d+)\.", str(step))) for step in document["steps"]}
    by_id = {step["id"]: step for step in document["steps"]}

    def lengths(label: str, key: str, so_far: int) -> Iterator[int]:
        """Yield the length of each way back from a step to one that brings the label."""
        for above in reads[key]:
            step, steps = by_id[above], so_far + 1
            if "tool" in step and label in own(step["tool"]):
                yield steps
            if "approve" not in step:
                yield from lengths(label, above, steps)

    for way in flows(Plan.from_dict(document), Catalogue(), POLICY):
        walk = (way.source, *way.through, way.sink)
        assert way.source == way.sink or all(one in reads[other] for one, other in pairwise(walk))
        if way.certain and not any("clean" in step.get("tool", "") for step in document["steps"]):
            assert len(walk) - 1 == min(lengths(way.label, way.sink, 0))
