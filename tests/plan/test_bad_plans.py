"""Every way a plan's text can be wrong has its own error class, the right line and column, and a remedy."""

from __future__ import annotations

import pytest

from planloom.errors import (
    ArgumentsError,
    CycleError,
    DuplicateStepError,
    ExpressionError,
    FieldError,
    InputsError,
    PlanError,
    PlanSyntaxError,
    UnknownStepError,
)
from planloom.plan.load import parse_plan

STEPS = "planloom: 1\nsteps:\n"
A = STEPS + "  - {id: a, tool: t}\n"
B = STEPS + "  - id: b\n    tool: t\n"

BAD: list[tuple[str, str, type[PlanError], int, int, str]] = [
    # what is no plan at all
    ("an empty text", "  \n\n", PlanSyntaxError, 1, 1, "empty"),
    ("only comments", "# nothing\n", PlanSyntaxError, 1, 1, "empty"),
    ("a list", "- a\n- b\n", PlanSyntaxError, 1, 1, "a list"),
    ("a word", "hello", PlanSyntaxError, 1, 1, "a single value"),
    ("a tab", "planloom: 1\nsteps:\n\t- id: a\n", PlanSyntaxError, 3, 1, "cannot start any token"),
    ("an open quote", 'planloom: 1\nname: "x\n', PlanSyntaxError, 3, 1, "quoted scalar"),
    ("a NUL", "planloom: 1\nname: a\0b\n", PlanSyntaxError, 2, 8, "NUL"),
    ("a control character", "planloom: 1\nname: \x01\n", PlanSyntaxError, 2, 7, "U+0001"),
    ("half a character", "planloom: 1\nname: \ud800\n", PlanSyntaxError, 2, 7, "surrogate"),
    ("two documents", "planloom: 1\n---\nplanloom: 1\n", PlanSyntaxError, 2, 1, "several YAML documents"),
    ("YAML 1.1", "%YAML 1.1\n---\nplanloom: 1\n", PlanSyntaxError, 1, 1, "YAML 1.2"),
    ("a doubled key", "planloom: 1\nname: a\nname: b\n", PlanSyntaxError, 3, 1, "first on line 2"),
    ("a number as a key", A + "inputs: {1: {}}\n", PlanSyntaxError, 4, 10, "not text"),
    ("a truth value as a key", A + "true: x\n", PlanSyntaxError, 4, 1, "not text"),
    ("a list as a key", "? [a]\n: b\n", PlanSyntaxError, 1, 3, "list or mapping"),
    ("a merge key", "x: &a {b: 1}\ny:\n  <<: *a\n", PlanSyntaxError, 3, 3, "merge"),
    ("a tag", "planloom: 1\nname: !!python/name:os.system x\n", PlanSyntaxError, 2, 7, "tag"),
    ("a tag on a mapping", "planloom: 1\nx: !!python/object:os.P {}\n", PlanSyntaxError, 2, 4, "tag"),
    ("a tag that does not fit", "planloom: 1\nx: !!int abc\n", PlanSyntaxError, 2, 4, "not a int"),
    ("an unknown alias", "planloom: 1\nname: *x\n", PlanSyntaxError, 2, 7, "no anchor"),
    ("an alias inside itself", "planloom: 1\nx: &x [*x]\n", PlanSyntaxError, 2, 8, "inside itself"),
    ("infinity", "planloom: 1\nx: .inf\n", PlanSyntaxError, 2, 4, "not a number"),
    ("a number too large", "planloom: 1\nx: 1e999\n", PlanSyntaxError, 2, 4, "too large"),
    ("a number too long", "planloom: 1\nx: " + "1" * 5000, PlanSyntaxError, 2, 4, "5000 characters"),
    ("deep nesting", "x: " + "[" * 70 + "]" * 70, PlanSyntaxError, 1, 67, "64 deep"),
    ("an unquoted reference in braces", B + "    with: {x: ${{ inputs.a }}}\n", PlanSyntaxError, 5, 16, "not YAML"),
    # JSON
    ("broken JSON", '{"planloom": 1,\n "steps": [}', PlanSyntaxError, 2, 12, "not JSON"),
    ("JSON with a doubled key", '{"planloom": 1,\n "name": "a", "name": "b"}', PlanSyntaxError, 2, 15, "stands twice"),
    ("JSON with NaN", '{"planloom": 1,\n "estimated_cost": NaN}', PlanSyntaxError, 2, 20, "NaN"),
    ("JSON with infinity", '{"planloom": 1,\n "estimated_cost": 1e999}', PlanSyntaxError, 2, 20, "too large"),
    ("JSON with half a character", '{"planloom": 1,\n "name": "\\ud800"}', PlanSyntaxError, 2, 11, "surrogate"),
    ("deep JSON", "[" * 100_000, PlanSyntaxError, 1, 1, "deep"),
    ("a wrong field in JSON", '{"planloom": 1,\n "nmae": "x", "steps": []}', FieldError, 2, 2, "nmae"),
    # fields
    ("another version", "planloom: 2\nsteps: []\n", FieldError, 1, 11, "format 2"),
    ("no steps", "name: x\n", FieldError, 1, 1, "'steps' is missing"),
    ("steps that are no list", "planloom: 1\nsteps: {a: {tool: t}}\n", FieldError, 2, 8, "must be a list"),
    ("a step that is no mapping", STEPS + "  - hello\n", FieldError, 3, 5, "step 1 must be a mapping"),
    ("an unknown plan field", A + "outptus: x\n", FieldError, 4, 1, "outptus"),
    ("an unknown step field", B + "    timeout_secs: 3\n", FieldError, 5, 5, "timeout_secs"),
    ("an unknown limit", A + "limits: {max_cost: 1}\n", FieldError, 4, 10, "max_cost"),
    ("a limit that is text", A + "limits: {max_tool_calls: many}\n", FieldError, 4, 26, "must be a number"),
    ("a limit that is true", A + "limits: {max_tool_calls: true}\n", FieldError, 4, 26, "must be a number"),
    ("a negative limit", A + "limits: {max_tool_calls: -1}\n", FieldError, 4, 26, "at least 0"),
    ("a limit twice", A + "limits: {timeout_seconds: 1, max_duration: 1}\n", FieldError, 4, 44, "another name"),
    ("an unknown retry field", B + "    retry: {attempts: 3}\n", FieldError, 5, 13, "attempts"),
    ("no attempts", B + "    retry: {max_attempts: 0}\n", FieldError, 5, 27, "at least 1"),
    ("attempts that are true", B + "    retry: {max_attempts: true}\n", FieldError, 5, 27, "whole number"),
    ("a missing id", STEPS + "  - tool: t\n", FieldError, 3, 5, "'id' is missing"),
    ("an empty id", STEPS + "  - {id: '', tool: t}\n", FieldError, 3, 10, "at least 1 characters"),
    ("a tool that is a number", STEPS + "  - {id: a, tool: 3}\n", FieldError, 3, 19, "must be text"),
    ("on instead of true", B + "    stream: on\n", FieldError, 5, 13, "true or false"),
    ("a wrong on_error", B + "    on_error: skp\n", FieldError, 5, 15, "fail, skip, continue"),
    ("a wrong join", B + "    join: all\n", FieldError, 5, 11, "all_success"),
    ("a wrong mode", B + "    mode: serial\n", FieldError, 5, 11, "parallel, sequential"),
    ("needs without a step", B + "    needs: [{when: 'true'}]\n", FieldError, 5, 13, "'step' is missing"),
    ("both needs and depends_on", B + "    needs: []\n    depends_on: []\n", FieldError, 6, 5, "depends_on"),
    # one step by itself
    ("no kind", STEPS + "  - id: a\n", FieldError, 3, 5, "does not say what to do"),
    ("two kinds", B + "    model: m\n    prompt: x\n", FieldError, 5, 12, "several kinds: tool, model"),
    ("a prompt for a tool", B + "    prompt: x\n", FieldError, 5, 13, "means nothing"),
    ("with on approve", STEPS + "  - {id: a, approve: ok?, with: {x: 1}}\n", FieldError, 3, 33, "'with'"),
    ("retry on wait", STEPS + "  - {id: a, wait: 3, retry: {max_attempts: 2}}\n", FieldError, 3, 29, "'retry'"),
    ("a model without a prompt", STEPS + "  - {id: a, model: m}\n", FieldError, 3, 20, "no prompt"),
    ("a tool chosen at run time", STEPS + "  - {id: a, tool: '${{ inputs.t }}'}\n", FieldError, 3, 19, "no reference"),
    ("an unknown runtime", STEPS + "  - {id: a, code: {source: x, runtime: py}}\n", FieldError, 3, 40, "monty"),
    ("an unknown strategy", B + "    verify: {strategy: jugde}\n", FieldError, 5, 24, "jugde"),
    ("a wait for nothing", STEPS + "  - {id: a, wait: {}}\n", FieldError, 3, 19, "neither"),
    ("a wait for both", STEPS + "  - {id: a, wait: {seconds: 1, until: x}}\n", FieldError, 3, 19, "both"),
    ("a negative wait", STEPS + "  - {id: a, wait: -1}\n", FieldError, 3, 19, "-1"),
    ("a wait in words", STEPS + "  - {id: a, wait: soon}\n", FieldError, 3, 19, "soon"),
    ("no moment", STEPS + "  - {id: a, wait: {until: tomorrow}}\n", FieldError, 3, 27, "tomorrow"),
    (
        "a moment without offset",
        STEPS + "  - {id: a, wait: {until: '2026-12-01T09:00:00'}}\n",
        FieldError,
        3,
        27,
        "offset",
    ),
    ("a cached once step", B + "    effects: once\n    cache: true\n", FieldError, 6, 12, "effects are 'once'"),
    ("max_parallel alone", B + "    max_parallel: 2\n", FieldError, 5, 19, "for_each"),
    ("an undefined limit", B + "    concurrency: db\n", FieldError, 5, 18, "'db'"),
    # schemas
    ("an input that is no schema", A + "inputs: {x: {type: strin}}\n", FieldError, 4, 13, "JSON Schema"),
    ("an input that is a word", A + "inputs: {x: string}\n", FieldError, 4, 13, "must be a mapping"),
    (
        "a default that does not fit",
        A + "inputs: {x: {type: string, default: 3}}\n",
        InputsError,
        4,
        13,
        "does not fit",
    ),
    ("an output that is no schema", B + "    output: {required: x}\n", FieldError, 5, 13, "JSON Schema"),
    ("a schema from elsewhere", B + "    output: {$ref: 'http://x/y'}\n", FieldError, 5, 13, "stays inside"),
    ("a pattern that is none", B + "    output: {pattern: '('}\n", FieldError, 5, 13, "pattern: must be"),
    (
        "a form that is no schema",
        STEPS + "  - {id: a, approve: {message: m, form: {type: x}}}\n",
        FieldError,
        3,
        41,
        "Schema",
    ),
    # between steps
    ("an id used again", A + "  - {id: a, tool: t}\n", DuplicateStepError, 4, 10, "used again"),
    ("an unknown need", B + "    needs: [zzz]\n", UnknownStepError, 5, 13, "'zzz'"),
    ("a need of itself", B + "    needs: [b]\n", CycleError, 5, 13, "b -> b"),
    (
        "a circle",
        A + "  - {id: b, tool: t, needs: c}\n  - {id: c, tool: t, needs: b}\n",
        CycleError,
        4,
        29,
        "b -> c -> b",
    ),
    ("an unknown reference", B + '    with: {x: {y: [1, "${{ steps.q.output }}"]}}\n', UnknownStepError, 5, 23, "'q'"),
    ("an unknown output", A + "outputs:\n  x: ${{ steps.q.output }}\n", UnknownStepError, 5, 6, "'outputs'"),
    ("an unknown input", A + "inputs: {x: {}}\noutputs: ${{ inputs.y }}\n", InputsError, 5, 10, "'y'"),
    ("an open reference", B + "    with: {x: 'a ${{ inputs.x'}\n", ExpressionError, 5, 15, "missing"),
    ("an unreadable condition", B + "    when: 1 +\n", ExpressionError, 5, 11, "not part of the language"),
    ("Python in a condition", B + "    when: __import__('os')\n", ExpressionError, 5, 11, "__import__"),
    (
        "Python in a path",
        A + "  - id: c\n    tool: t\n    when: steps.a.output.__class__\n",
        ExpressionError,
        6,
        11,
        "__class__",
    ),
    ("an item outside for_each", B + "    with: {x: '${{ item.a }}'}\n", ExpressionError, 5, 15, "for_each"),
    ("an item in when", B + "    for_each: [1]\n    when: item > 1\n", ExpressionError, 6, 11, "for_each"),
    # sub-plans
    ("a sub-plan without a folder", STEPS + "  - {id: a, plan: other.yaml}\n", FieldError, 3, 19, "no folder"),
    ("a sub-plan that is no path", STEPS + "  - {id: a, plan: other}\n", FieldError, 3, 19, "no path"),
    (
        "a sub-plan's problem",
        STEPS + "  - id: a\n    plan:\n      steps:\n        - {id: b}\n",
        FieldError,
        6,
        11,
        "'b'",
    ),
    (
        "a sub-plan's missing input",
        STEPS + "  - id: a\n    plan: {inputs: {x: {}}, steps: []}\n    with: {y: 1, x: 2}\n",
        ArgumentsError,
        5,
        15,
        "'y'",
    ),
    # lettered English
    ("a line without a letter", "a. Get contacts\nWrite to them\n", PlanSyntaxError, 2, 1, "no letter"),
    ("an unknown letter", "a. Get contacts\n  b. Write (requires steps a and q)\n", UnknownStepError, 2, 3, "'q'"),
    ("a letter twice", "a. Get contacts\na. Write\n", DuplicateStepError, 2, 1, "first on line 1"),
    (
        "an unreadable clause",
        "a. Get contacts\nb. Write (requires the contacts)\n",
        PlanSyntaxError,
        2,
        1,
        "cannot read",
    ),
    ("an unreadable binding", "a. Get contacts [contacts.all city]\n", PlanSyntaxError, 1, 1, "cannot read"),
    ("an unquoted word", "a. Get contacts [contacts.all city=Paris]\n", PlanSyntaxError, 1, 1, 'city="Paris"'),
]


@pytest.mark.parametrize(
    ("text", "kind", "line", "column", "said"), [row[1:] for row in BAD], ids=[row[0] for row in BAD]
)
def test_a_bad_plan_is_refused_with_its_class_place_and_remedy(
    text: str, kind: type[PlanError], line: int, column: int, said: str
) -> None:
    with pytest.raises(PlanError) as caught:
        parse_plan(text)

    (problem,) = caught.value.problems
    assert type(problem) is kind
    assert (problem.line, problem.column) == (line, column)
    assert said in str(problem)
    assert problem.remedy


def test_all_problems_of_a_plan_come_at_once_and_in_the_order_of_the_text() -> None:
    text = (
        "planloom: 1\n"
        "nme: x\n"
        "limits: {max_tool_cals: 3}\n"
        "steps:\n"
        "  - {id: a, tool: t, model: m, prompt: '${{ steps.zz.output }}'}\n"
        "  - {id: b, tool: t, needs: [c, q], timout_seconds: 3, with: {x: '${{ 1 + }}'}}\n"
        "  - {id: c, tool: t, with: {z: '${{ steps.b.output }}'}, retry: {jitter: 3}}\n"
        "  - {id: b, wait: {seconds: 3}, prompt: x}\n"
        "  - {wait: 3}\n"
    )

    with pytest.raises(PlanError) as caught:
        parse_plan(text)

    problems = caught.value.problems
    assert [problem.line for problem in problems] == [2, 3, 5, 5, 6, 6, 6, 7, 8, 8, 9]
    assert [problem.step for problem in problems[2:]] == ["a", "a", "b", "b", "b", "c", "b", "b", None]


def test_a_wrong_field_does_not_hide_a_circle_between_the_same_steps() -> None:
    text = STEPS + "  - {id: a, tool: t, needs: b, tmeout: 1}\n  - {id: b, tool: t, needs: a, retry: 3}\n"

    with pytest.raises(PlanError) as caught:
        parse_plan(text)

    assert [type(problem) for problem in caught.value.problems] == [CycleError, FieldError, FieldError]


@pytest.mark.parametrize(
    "text",
    [
        STEPS + "  - 1\n" * 500,
        STEPS + "".join(f"  - {{id: a{at}}}\n" for at in range(500)),
        STEPS + "".join(f"  - {{id: a{at}, tool: t, needs: z}}\n" for at in range(500)),
        "steps: []\n" + "".join(f"x{at}: 1\n" for at in range(500)),
        "steps: []\nlimits: {" + ", ".join(f"x{at}: 1" for at in range(500)) + "}\n",
        STEPS + "  - {id: a, tool: t, " + ", ".join(f"x{at}: 1" for at in range(500)) + "}\n",
    ],
    ids=["steps", "kinds", "needs", "fields", "limits", "step fields"],
)
def test_a_plan_with_hundreds_of_problems_names_two_hundred_and_says_that_there_are_more(text: str) -> None:
    with pytest.raises(PlanError) as caught:
        parse_plan(text)

    *told, last = caught.value.problems
    assert len(told) == 200
    assert "more problems" in last.message
