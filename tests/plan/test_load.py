from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planloom.errors import (
    CycleError,
    DuplicateStepError,
    ExpressionError,
    FieldError,
    InvalidPlanError,
    PlanError,
    PlanSyntaxError,
    UnknownStepError,
    plan_error,
)
from planloom.plan.check import check_plan
from planloom.plan.graph import compile_plan
from planloom.plan.load import load_plan, parse_plan
from planloom.plan.model import Plan, Step
from planloom.plan.policy import Effects, RetryPolicy

EXAMPLE = (Path(__file__).parent / "receipts.yaml").read_text()


def check_loaded(plan: Plan) -> Plan:
    problems = check_plan(plan)
    if problems:
        raise plan_error(problems)
    return plan


# --- sources ----------------------------------------------------------------------------------


def test_the_same_plan_comes_out_of_text_dict_path_and_its_own_dict(tmp_path: Path) -> None:
    path = tmp_path / "receipts.yaml"
    path.write_text(EXAMPLE)

    plan = parse_plan(EXAMPLE)

    assert [step.id for step in plan.steps] == ["extract", "categorize", "check_lines", "save"]
    assert load_plan(EXAMPLE) == plan
    assert load_plan(path) == plan
    assert load_plan(str(path)) == plan
    assert load_plan(plan.to_dict()) == plan
    assert parse_plan(json.dumps(plan.to_dict())) == plan
    assert load_plan(plan) is plan


def test_an_empty_plan_goes_through_its_own_dict() -> None:
    assert load_plan(Plan().to_dict()) == Plan()


def test_a_dict_with_python_values_is_read_as_json() -> None:
    document = {"steps": ({"id": "a", "tool": "t", "effects": Effects.NONE, "retry": RetryPolicy(max_attempts=2)},)}

    plan = load_plan(document)

    assert plan.steps == (Step(id="a", tool="t", effects=Effects.NONE, retry=RetryPolicy(max_attempts=2)),)


def test_a_loaded_plan_shares_nothing_with_the_dict_it_came_from() -> None:
    document: dict[str, Any] = {"steps": [{"id": "a", "tool": "t", "with": {"x": [1]}}]}
    plan = load_plan(document)

    document["steps"][0]["with"]["x"].append(2)

    assert plan.steps[0].args == {"x": [1]}


@pytest.mark.parametrize("source", [3, None, ["a"], b"steps: []", object()])
def test_a_source_of_another_type_is_refused(source: Any) -> None:
    with pytest.raises(PlanSyntaxError, match="is no plan"):
        load_plan(source)


@pytest.mark.parametrize(
    "document",
    [{"steps": [{"id": "a", "tool": "t", "with": {"x": object()}}]}, {1: 2}, {"x": float("nan")}, {"x": b""}],
)
def test_a_dict_that_is_no_json_is_refused(document: Any) -> None:
    with pytest.raises(FieldError, match="plan"):
        load_plan(document)


def test_a_missing_file_is_named_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(PlanSyntaxError, match="does not exist") as caught:
        load_plan(str(tmp_path / "gone.yaml"))

    assert caught.value.remedy


@pytest.mark.parametrize("name", [".", "x\0.yaml", "x" * 5000 + ".yaml"])
def test_what_cannot_be_read_as_a_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(PlanSyntaxError):
        load_plan(tmp_path / name)


@pytest.mark.parametrize(
    ("raw", "said", "place"),
    [
        (EXAMPLE.encode("utf-16"), "UTF-16", (1, 1)),
        (b"planloom: 1\nname: \xff\n", "0xff is not UTF-8", (2, 7)),
        (b"\x7fELF\x02\x01\0\0\xff\xfe", "binary", (1, 9)),
        (b"planloom: 1\nname: a\0", "NUL", (2, 8)),
        (b"", "empty", (1, 1)),
        (b"\xef\xbb\xbf", "empty", (1, 1)),
        (b"x" * 10_000_000, "10,000,000 bytes", (1, 1)),
    ],
    ids=["utf-16", "latin-1", "binary", "nul", "empty", "only a mark", "10 MB"],
)
@pytest.mark.timing
def test_a_file_that_is_no_text_of_a_plan_ends_at_once(
    tmp_path: Path, raw: bytes, said: str, place: tuple[int, int]
) -> None:
    path = tmp_path / "plan.yaml"
    path.write_bytes(raw)
    begun = time.perf_counter()

    with pytest.raises(PlanSyntaxError, match=said) as caught:
        load_plan(path)

    assert (caught.value.line, caught.value.column) == place
    assert caught.value.remedy
    assert time.perf_counter() - begun < 1


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    path = tmp_path / "plan.yml"
    path.write_bytes(b"\xef\xbb\xbfplanloom: 1\r\nsteps:\r\n  - {id: a, tool: t}\r\n")

    assert load_plan(path).steps == (Step(id="a", tool="t"),)


def test_a_byte_order_mark_may_stand_before_a_text_too() -> None:
    assert parse_plan("\ufeffplanloom: 1\n") == Plan()


def test_a_json_file_must_be_json(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text("{planloom: 1, steps: []}")

    with pytest.raises(PlanSyntaxError, match="not JSON"):
        load_plan(path)

    assert parse_plan(path.read_text()) == Plan()  # as a text it may be YAML


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join(['*' + chr(97 + n)] * 9)}]\n" for n in range(20)),
        "x: " + "[" * 1_000_000,
        "x: " + "{a: " * 1_000_000,
        "- " * 1_000_000,
        "? " * 1_000_000,
        "{" * 3_000_000,
        " " * 3_000_000 + "x",
        "- &a [" + "*a," * 1000,
        "a. " + "requires a, " * 300_000,
        '{"steps": [{"step_id": "a", "parameters": {"x": "' + "{{" * 1_000_000 + '"}}]}',
        "x: '" + "${{ " * 900_000,
        "steps:\n" + "- {id: a, tool: t, needs: [zzzzzzzz]}\n" * 1500,
    ],
    ids=[
        "bomb",
        "lists",
        "mappings",
        "dashes",
        "keys",
        "braces",
        "spaces",
        "self",
        "english",
        "forms",
        "refs",
        "needs",
    ],
)
@pytest.mark.timing
def test_a_hostile_text_ends_in_under_a_second(text: str) -> None:
    begun = time.perf_counter()

    with pytest.raises(PlanError):
        parse_plan(text)

    assert time.perf_counter() - begun < 1


@pytest.mark.slow
@pytest.mark.parametrize("text", ["x: [" + "1," * 600_000 + "1]", "[" + "1," * 600_000 + "1]"], ids=["yaml", "json"])
def test_a_text_of_too_many_values_is_refused(text: str) -> None:
    with pytest.raises(PlanSyntaxError, match="500,000 values"):
        parse_plan(text)


@pytest.mark.slow
@pytest.mark.timing
def test_two_thousand_steps_load_in_under_two_seconds() -> None:
    steps = "".join(
        f"  - id: s{at}\n    tool: t\n    needs: [{f's{at - 1}' if at else ''}]\n"
        "    with: {a: '${{ inputs.x }}'}\n"
        f"    output: {{type: object, properties: {{p{at}: {{type: string}}}}}}\n"
        for at in range(2000)
    )
    begun = time.perf_counter()

    plan = parse_plan("planloom: 1\nsteps:\n" + steps)

    assert len(plan.steps) == 2000
    assert time.perf_counter() - begun < 2


# --- scalars ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("on", "on"),
        ("no", "no"),
        ("yes", "yes"),
        ("y", "y"),
        ("True", True),
        ("false", False),
        ("~", None),
        ("", None),
        ("null", None),
        ("1.10", 1.1),
        ("'1.10'", "1.10"),
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("0b11", "0b11"),
        ("1_000", "1_000"),
        ("12:30:45", "12:30:45"),
        ("2026-12-01", "2026-12-01"),
        ("1e3", 1000.0),
        ("-.5", -0.5),
        (".", "."),
        ("!!str 12", "12"),
        ("! 12", "12"),
        ("!!float 12", 12.0),
        ("=", "="),
        ('"\\u00e9"', "é"),
        ("=x", "=x"),
    ],
)
def test_scalars_are_those_of_the_yaml_1_2_core_schema(written: str, read: Any) -> None:
    plan = parse_plan(f"planloom: 1\nsteps: []\noutputs:\n  x: {written}\n")

    assert plan.outputs == {"x": read}
    assert type(plan.outputs["x"]) is type(read)


def test_an_alias_is_a_copy_of_its_own() -> None:
    plan = parse_plan("steps:\n  - {id: a, tool: t, with: &w {x: [1]}}\n  - {id: b, tool: t, with: *w}\n")

    assert plan.steps[0].args == plan.steps[1].args == {"x": [1]}
    assert plan.steps[0].args["x"] is not plan.steps[1].args["x"]


# --- A1, A3, A5, A7: structure ----------------------------------------------------------------


def chain(*needs: tuple[str, list[str]]) -> dict[str, Any]:
    return {"steps": [{"id": name, "tool": "t", "needs": above} for name, above in needs]}


def test_a1_a_circle_beside_an_independent_step_is_refused_with_its_path() -> None:
    with pytest.raises(CycleError) as caught:
        load_plan(chain(("a", ["c"]), ("b", ["a"]), ("c", ["b"]), ("d", [])))

    assert caught.value.facts["cycle"] == ["a", "b", "c", "a"]


@pytest.mark.parametrize(
    ("document", "kind"),
    [
        (chain(("a", ["zzz"])), UnknownStepError),
        (chain(("a", []), ("a", [])), DuplicateStepError),
        (chain(("a", ["a"])), CycleError),
        ({"steps": [{"id": "a", "tool": "t", "with": {"x": "${{ steps.a.output }}"}}]}, CycleError),
    ],
    ids=["unknown need", "doubled id", "self-edge", "self-reference"],
)
def test_a1_other_broken_structure_is_refused(document: dict[str, Any], kind: type[PlanError]) -> None:
    with pytest.raises(kind):
        load_plan(document)


def test_a1_a_plan_built_in_python_is_held_to_the_same_rules() -> None:
    plan = Plan(steps=(Step(id="a", tool="t", needs=("b",)), Step(id="b", tool="t", needs=("a",)), Step(id="c")))

    with pytest.raises(InvalidPlanError) as caught:
        check_loaded(plan)

    assert {type(problem) for problem in caught.value.problems} == {CycleError, FieldError}


def test_a1_a_problem_inside_a_sub_plan_built_in_python_has_its_path() -> None:
    plan = Plan(steps=(Step(id="s", plan=Plan(steps=(Step(id="x", tool="t", needs=("zzz",)),))),))

    with pytest.raises(UnknownStepError) as caught:
        check_loaded(plan)

    assert (caught.value.step, caught.value.path) == ("s/x", ("steps", 0, "plan", "steps", 0, "needs", 0))


def test_sub_plans_built_in_python_nest_eight_deep_and_no_deeper() -> None:
    plan = Plan(steps=(Step(id="x", tool="t"),))
    for _ in range(8):
        plan = Plan(steps=(Step(id="s", plan=plan),))

    assert check_loaded(plan) is plan
    with pytest.raises(FieldError, match="8 deep"):
        check_loaded(Plan(steps=(Step(id="s", plan=plan),)))


@pytest.mark.parametrize(
    ("document", "order"),
    [
        (chain(("c", ["a", "b"]), ("b", ["a"]), ("a", [])), ["a", "b", "c"]),
        (chain(("a", []), ("b", ["a"]), ("c", ["a", "d"]), ("d", ["b"])), ["a", "b", "d", "c"]),
    ],
    ids=["triangle", "skewed"],
)
def test_a3_dependency_order_is_found_whatever_the_order_of_writing(document: dict[str, Any], order: list[str]) -> None:
    plan = load_plan(document)

    graph = compile_plan(plan)

    assert [plan.steps[place].id for place in graph.order] == order


def test_a5_a_reference_to_an_unknown_step_is_refused_before_anything_starts() -> None:
    document = {"request_id": "r", "steps": [{"id": "b", "tool": "t", "input": {"x": "step:zzz.v"}, "depends_on": []}]}

    with pytest.raises(UnknownStepError, match="zzz") as caught:
        load_plan(document)

    assert caught.value.path == ("steps", 0, "with", "x")


def test_a5_a_reference_is_a_need() -> None:
    plan = load_plan({"request_id": "r", "steps": [
        {"id": "a", "tool": "t", "input": {}},
        {"id": "b", "tool": "t", "input": {"whole": "step:a.v[1].k", "text": "x{{a.v[1].k}}"}},
    ]})  # fmt: skip

    graph = compile_plan(plan)

    assert plan.steps[1].args == {
        "whole": "${{ steps.a.output.v[1].k }}",
        "text": "x${{ steps.a.output.v[1].k }}",
    }
    assert graph.steps[1].upstream == (0,)


@pytest.mark.parametrize("field", ["run_if", "condition", "when"])
@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "__import__",
        "steps.a.output.__import__ == 1",
        "().__class__",
        "{{__import__}}",
    ],
)
def test_a7_a_condition_with_python_in_it_is_refused(field: str, text: str) -> None:
    document = {"task": "x", "steps": [{"id": "a", "tool": "t"}, {"id": "b", "tool": "t", field: text}]}

    with pytest.raises(ExpressionError):
        load_plan(document)


# --- sub-plans --------------------------------------------------------------------------------


def write(folder: Path, **plans: str) -> None:
    for name, text in plans.items():
        (folder / f"{name}.yaml").write_text("planloom: 1\nsteps:\n" + text)


def test_a_sub_plan_is_read_from_its_file_and_put_in_place(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    write(tmp_path, main="  - {id: a, plan: parts/sub.yaml}\n  - {id: b, plan: parts/sub.yaml}\n")
    write(tmp_path / "parts", sub="  - {id: x, tool: t}\n")

    plan = load_plan(tmp_path / "main.yaml")

    assert [step.plan for step in plan.steps] == [Plan(steps=(Step(id="x", tool="t"),))] * 2
    assert load_plan(plan.to_dict()) == plan


def test_a_text_finds_its_sub_plans_in_base_dir(tmp_path: Path) -> None:
    write(tmp_path, sub="  - {id: x, tool: t}\n")

    plan = load_plan("steps:\n  - {id: a, plan: sub.yaml}\n", base_dir=tmp_path)

    assert isinstance(plan.steps[0].plan, Plan)


def test_a_sub_plan_in_another_form_is_read_too() -> None:
    plan = load_plan({"steps": [{"id": "s", "plan": {"steps": [{"step_id": "x", "tool_name": "t"}]}}]})

    assert plan.steps[0].plan == Plan(steps=(Step(id="x", tool="t"),))


def test_a_sub_plan_outside_the_folder_is_refused(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    write(tmp_path, secret="  - {id: x, tool: t}\n")
    (inside / "link.yaml").symlink_to(tmp_path / "secret.yaml")

    for named in (
        "../secret.yaml",
        str(tmp_path / "secret.yaml"),
        "link.yaml",
        "x/../../secret.yaml",
        "/etc/passwd.txt",
    ):
        with pytest.raises(FieldError, match="outside") as caught:
            load_plan({"steps": [{"id": "a", "plan": named}]}, base_dir=inside)
        assert caught.value.path == ("steps", 0, "plan")


def test_sub_plans_that_contain_each_other_are_refused_with_the_path(tmp_path: Path) -> None:
    write(tmp_path, a="  - {id: a, plan: b.yaml}\n", b="  - {id: b, plan: a.yaml}\n")

    with pytest.raises(FieldError, match=r"a\.yaml -> b\.yaml -> a\.yaml") as caught:
        load_plan(tmp_path / "a.yaml")

    assert (caught.value.step, caught.value.path) == ("a/b", ("steps", 0, "plan", "steps", 0, "plan"))


def test_a_problem_in_a_sub_plan_names_its_file_line_and_step(tmp_path: Path) -> None:
    write(tmp_path, main="  - {id: a, plan: sub.yaml}\n", sub="  - id: x\n    tol: t\n    task: t\n")

    with pytest.raises(FieldError, match=r"in 'sub\.yaml'") as caught:
        load_plan(tmp_path / "main.yaml")

    assert (caught.value.line, caught.value.column, caught.value.step) == (4, 5, "a/x")


@pytest.mark.parametrize(("levels", "is_sound"), [(8, True), (9, False)])
def test_sub_plans_nest_eight_deep_and_no_deeper(tmp_path: Path, levels: int, is_sound: bool) -> None:
    for level in range(levels):
        write(tmp_path, **{f"p{level}": f"  - {{id: s, plan: p{level + 1}.yaml}}\n"})
    write(tmp_path, **{f"p{levels}": "  - {id: s, tool: t}\n"})

    if is_sound:
        assert check_loaded(load_plan(tmp_path / "p0.yaml"))
    else:
        with pytest.raises(FieldError, match="8 deep"):
            load_plan(tmp_path / "p0.yaml")


def test_sub_plans_cannot_multiply_without_end(tmp_path: Path) -> None:
    for level in range(8):
        steps = "".join(f"  - {{id: s{at}, plan: p{level + 1}.yaml}}\n" for at in range(30))
        write(tmp_path, **{f"p{level}": steps})
    write(tmp_path, p8="  - {id: s, tool: t}\n")

    with pytest.raises(PlanSyntaxError, match="with its sub-plans"):
        load_plan(tmp_path / "p0.yaml")


def test_the_problems_of_a_sub_plan_are_told_once_however_often_it_is_used(tmp_path: Path) -> None:
    for level in range(7):
        steps = "".join(f"  - {{id: s{at}, plan: p{level + 1}.yaml}}\n" for at in range(10))
        write(tmp_path, **{f"p{level}": steps})
    write(tmp_path, p7="  - {id: s}\n")

    with pytest.raises(InvalidPlanError) as caught:
        load_plan(tmp_path / "p0.yaml")

    assert len(caught.value.problems) == 1 + 7 * 9
    assert sum("does not say what to do" in problem.message for problem in caught.value.problems) == 1


def test_a_plan_with_an_unread_sub_plan_is_not_sound() -> None:
    with pytest.raises(FieldError, match="not loaded"):
        check_loaded(Plan(steps=(Step(id="a", plan="sub.yaml"),)))


# --- anything at all --------------------------------------------------------------------------

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
NAMES = st.sampled_from(
    [
        *(
            "planloom",
            "steps",
            "id",
            "tool",
            "with",
            "needs",
            "plan",
            "wait",
            "retry",
            "limits",
            "inputs",
            "outputs",
            "when",
        ),
        *("request_id", "input", "final_synthesis", "parameters", "step_id", "tool_name", "condition", "retry_policy"),
        *(
            "code",
            "agent",
            "approve",
            "cache",
            "for_each",
            "output",
            "task",
            "model",
            "prompt",
            "depends_on",
            "retry_count",
        ),
    ]
)
TEXTS = st.sampled_from(
    ["a", "b", "step:a.x", "{{a.b}}", "{{steps[1].output}}", "${{ steps.a.output }}", "${{", "x.yaml"]
)
DOCUMENTS = st.recursive(
    SCALARS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES | st.text(max_size=5), inner, max_size=6),
    max_leaves=30,
)
FRAGMENTS = st.sampled_from(
    [
        *"ab:-[]{}&*!|>%@`'\"#,?\n\t ",
        "\n  ",
        "steps:",
        "- ",
        "id: ",
        "tool: ",
        "${{ ",
        " }}",
        "\r",
        "\0",
        "\x85",
        "a. ",
        "<<",
    ]
)


def is_plan_or_plan_error(source: Any) -> None:
    problems: tuple[PlanError, ...] = ()
    try:
        load_plan(source)
    except PlanError as error:
        problems = error.problems

    assert all(problem.remedy and problem.message for problem in problems)


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(st.text() | st.lists(FRAGMENTS, max_size=40).map("".join) | DOCUMENTS.map(json.dumps))
def test_any_text_is_a_plan_or_a_plan_error(text: str) -> None:
    is_plan_or_plan_error(text + "\n")


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(NAMES, DOCUMENTS, max_size=6)
    | st.lists(st.dictionaries(NAMES, DOCUMENTS, max_size=6), max_size=4).map(lambda steps: {"steps": steps})
)
def test_any_document_is_a_plan_or_a_plan_error(document: dict[str, Any]) -> None:
    is_plan_or_plan_error(document)


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(st.binary())
def test_any_bytes_are_a_plan_or_a_plan_error(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(raw)

    is_plan_or_plan_error(path)
