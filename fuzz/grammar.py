"""Hostile inputs by grammar: nearly right plans, expressions, rows and messages, and what people try against parsers.

Rule 1: mostly right: an input that fails at its first field tries nothing behind it.
Rule 2: every field of a step and of a plan, every operator and every function can come up.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import yaml
from hypothesis import strategies as st

from planloom.core.commands import RunStep
from planloom.core.events import EVENT_TYPES, ToolFacts
from planloom.plan.model import Step
from planloom.plan.policy import Effects
from planloom.plan.terms import FUNCTIONS
from planloom.runtime.wire import JsonWire

Make = st.SearchStrategy[bytes]
WIRE = JsonWire()
IDS = ("a", "b", "c", "d", "fetch", "7", "a-b", "ü")

# --- values -----------------------------------------------------------------------------------

NASTY_TEXTS = (
    *("", " ", "\0", "\t", "\r", "\x85", "\u2028", "\ufeff", "\u202e", "\ud800", "\U0001f600", "é" * 50, "x" * 3_000),
    *(
        "${{",
        "}}",
        "$${{",
        "${{ }}",
        "${{ inputs.n }}",
        "${{ steps.a.output }} and ${{ steps.b }}",
        "{{x}}",
        "step:a.x",
    ),
    *("on", "no", "~", "null", "1.10", "010", "0x1F", "2026-12-01", "<<", "*a", "&a b", "!!python/object:os.system x"),
    *("- a", "a: b", "# x", "%YAML 1.1", "---", "'", '"', "\\", "../../etc/passwd", "plan.yaml", "__class__", "a.b[0]"),
)
NASTY_NUMBERS: tuple[float, ...] = (
    0,
    -1,
    1,
    2**31,
    2**63,
    -(2**63) - 1,
    10**299,
    10**310,
    0.0,
    -0.0,
    5e-324,
    1.8e308,
    -1e-300,
    0.1,
)
NASTY_NUMBERS += (float("inf"), float("nan"), 1e15, 2.5)
TEXTS = st.one_of(st.sampled_from(NASTY_TEXTS), st.sampled_from(IDS), st.text(max_size=12))
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-3, 9), st.sampled_from(NASTY_NUMBERS), TEXTS)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)),
    max_leaves=12,
)


def nested(draw: st.DrawFn) -> Any:
    """Return a value of up to hundreds of levels."""
    levels = draw(st.sampled_from((1, 8, 38, 41, 62, 63, 64, 65, 66, 199, 201, 900, 3_000)))
    value: Any = draw(SCALARS)
    for _ in range(levels):
        value = [value] if levels % 2 else {"a": value}
    return value


# --- expressions ------------------------------------------------------------------------------

_ATOMS = st.sampled_from(
    (
        *("inputs", "inputs.n", "inputs.list", "inputs.wide", "inputs.long", "inputs.deep", "inputs.missing", "item"),
        *("steps.a.output", "steps.a.output.x[0]", "steps.b", "steps.fetch.status", "steps['a-b'].output", "index"),
        *("context.n", "run.id", "inputs.big", "inputs.huge", "inputs.tiny", "inputs.quotes", "inputs.obj.b.c[-1]"),
        *("1", "-1", "0", "2.5", "1e308", "9" * 300, "-99999999", "1e-300", "true", "false", "null", "True", "None"),
        *(
            '"x"',
            "'x'",
            '"\\""',
            "'\\\\'",
            '"\\u00e9"',
            '"\\ud800"',
            '""',
            '"}}"',
            '"' + "y" * 200 + '"',
            "[]",
            "[1, 2]",
        ),
        *("unknown", "steps.zzz.output", "inputs.__class__", "steps", "inputs[0]", "inputs['x']", "len", "and"),
    )
)
_SIGNS = st.sampled_from((" == ", " != ", " < ", "<=", ">", ">=", " in ", " not in ", " and ", " or ", ", ", " ", "."))


def _deeper(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.builds(lambda left, sign, right: f"{left}{sign}{right}", inner, _SIGNS, inner),
        st.builds(lambda name, given: f"{name}({', '.join(given)})", st.sampled_from(sorted(FUNCTIONS)), _some(inner)),
        st.builds(lambda one: f"({one})", inner),
        st.builds(lambda one: f"not {one}", inner),
        st.builds(lambda many: f"[{', '.join(many)}]", _some(inner)),
        st.builds(lambda one, key: f"{one}[{key}]", inner, inner),
    )


def _some(inner: st.SearchStrategy[str]) -> st.SearchStrategy[list[str]]:
    return st.lists(inner, min_size=0, max_size=3)


@st.composite
def _long(draw: st.DrawFn) -> str:
    """Return an expression of one thing many times: chains, parentheses, nested calls."""
    atom = draw(_ATOMS)
    count = draw(st.sampled_from((2, 10, 37, 39, 40, 41, 100, 600)))
    name = draw(st.sampled_from(sorted(FUNCTIONS)))
    rest = draw(st.sampled_from((")", ")", ")", ", 1)", ", -1)", ", inputs.n)")))
    form = draw(st.integers(0, 9))
    chains = (" and ", " or ", " == ", ", ")
    if form < 4:
        return chains[form].join([atom] * count)
    if form == 4:
        return "(" * count + atom + ")" * count
    if form == 5:
        return "[" * count + atom + "]" * count
    if form == 6:
        return f"{name}(" * count + atom + rest * count
    if form == 9:
        grows = draw(st.sampled_from(("json", "text", "upper", "join", "first")))
        return (
            f"{grows}(" * min(count, 38)
            + draw(st.sampled_from(('"\\""', "inputs.quotes", "[inputs.quotes]")))
            + ")" * min(count, 38)
        )
    if form == 7:
        return "not " * count + atom
    return f"{name}([{', '.join([atom] * count)}])"


_NUMBER: st.SearchStrategy[str] = st.deferred(
    lambda: st.one_of(
        st.sampled_from(("1", "-2.5", "inputs.n", "inputs.f", "steps.a.attempts", "inputs['list'][0]")),
        st.sampled_from(("1", "-99999999", "inputs.big", "inputs.huge", "5e-324", "steps.a.output.x[-1]")),
        st.builds(lambda one: f"len({one})", _LIST | _TEXT),
        st.builds(lambda name, one: f"{name}({one})", st.sampled_from(("abs", "round", "number")), _NUMBER),
        st.builds(lambda one, digits: f"round({one}, {digits})", _NUMBER, _NUMBER),
        st.builds(lambda name: f"{name}(inputs.numbers)", st.sampled_from(("sum", "min", "max", "first", "last"))),
    )
)
_TEXT: st.SearchStrategy[str] = st.deferred(
    lambda: st.one_of(
        st.sampled_from(
            ("'x'", '"\\""', "inputs.s", "inputs['a-b']", "steps.a.status", "inputs.quotes", "inputs.long")
        ),
        st.builds(
            lambda name, one: f"{name}({one})", st.sampled_from(("lower", "upper", "trim", "json", "text")), _TEXT
        ),
        st.builds(lambda name, one: f"{name}({one})", st.sampled_from(("json", "text")), _LIST | _NUMBER | _TRUTH),
        st.builds(lambda one, other: f"join({one}, {other})", _LIST, _TEXT),
    )
)
_LIST: st.SearchStrategy[str] = st.deferred(
    lambda: st.one_of(
        st.sampled_from(("inputs.list", "inputs.numbers", "[]", "inputs.wide", "values(inputs.obj)", "keys(inputs)")),
        st.builds(lambda one, other: f"split({one}, {other})", _TEXT, _TEXT),
        st.builds(lambda many: f"[{', '.join(many)}]", st.lists(_NUMBER | _TEXT | _LIST, max_size=3)),
        st.builds(lambda one: f"default(inputs.no.such, {one})", _LIST),
    )
)
_ORDERS = st.sampled_from(("<", "<=", ">", ">=", "=="))
_TRUTH: st.SearchStrategy[str] = st.deferred(
    lambda: st.one_of(
        st.sampled_from(("true", "inputs.yes", "exists(inputs.no)", "steps.a.output.y == 'z'", "all(inputs.list)")),
        st.builds(
            lambda one, sign, other: f"{one} {sign} {other}",
            _NUMBER,
            st.sampled_from(["<", "<=", ">", ">=", "=="]),
            _NUMBER,
        ),
        st.builds(
            lambda one, sign, other: f"{one} {sign} {other}", _TEXT, st.sampled_from(("in", "not in", "!=")), _TEXT
        ),
        st.builds(lambda one, other: f"{one} in {other}", _NUMBER | _TEXT | _LIST, _LIST),
        st.builds(lambda one, sign, other: f"({one} {sign} {other})", _TRUTH, st.sampled_from(("and", "or")), _TRUTH),
        st.builds(lambda one: f"not {one}", _TRUTH),
    )
)
SOUND_EXPRESSIONS = _TRUTH | _NUMBER | _TEXT | _LIST
"""Expressions of the right types, most of which can be worked out."""
EXPRESSIONS = st.one_of(st.recursive(_ATOMS, _deeper, max_leaves=8), _long())
REFERENCES = st.one_of(
    st.builds(lambda before, one: f"{before}${{{{ {one} }}}}", st.sampled_from(("", "so ")), SOUND_EXPRESSIONS),
    st.builds(lambda one: f"${{{{ {one} }}}}", EXPRESSIONS),
    st.builds(lambda before, one, behind: f"{before}${{{{{one}}}}}{behind}", TEXTS, EXPRESSIONS, TEXTS),
)

# --- plans ------------------------------------------------------------------------------------

_FEW = st.integers(0, 3)
_NUMBERS = st.one_of(st.sampled_from((1, 2, 5, 0.5, 30, 1.0)), st.sampled_from(NASTY_NUMBERS))
_GIVEN = st.dictionaries(st.sampled_from(("x", "to", "text", "")), st.one_of(VALUES, REFERENCES), max_size=3)
_NEED = st.one_of(
    st.sampled_from(IDS),
    st.sampled_from(IDS),
    st.fixed_dictionaries({"step": st.sampled_from(IDS), "when": EXPRESSIONS}),
)
_SCHEMAS = st.recursive(
    st.one_of(
        st.builds(
            lambda kind: {"type": kind}, st.sampled_from(("string", "integer", "number", "object", "array", "x"))
        ),
        st.sampled_from(({}, True, {"$ref": "#"}, {"$ref": "#/properties/a"}, {"$ref": "http://x/"}, {"enum": [1]})),
        st.sampled_from(({"pattern": "(a+)+$"}, {"pattern": "(?=a)"}, {"multipleOf": 1e-300}, {"minLength": 1e308})),
        st.sampled_from(({"pattern": r"\w{99}"}, {"pattern": "a{1000}"}, {"uniqueItems": True}, {"multipleOf": 0.1})),
        st.builds(lambda value: {"default": value, "type": "string"}, VALUES),
    ),
    lambda inner: st.one_of(
        st.builds(lambda name, one: {name: one}, st.sampled_from(("items", "not", "if", "contains")), inner),
        st.builds(lambda name, many: {name: many}, st.sampled_from(("allOf", "anyOf", "oneOf")), st.lists(inner)),
        st.builds(lambda name, one: {name: one}, st.just("properties"), st.dictionaries(st.sampled_from("abc"), inner)),
        st.dictionaries(
            st.sampled_from(("default", "required", "format", "type", "maxItems", "$defs", "const")), VALUES
        ),
    ),
    max_leaves=5,
)
_KINDS: dict[str, st.SearchStrategy[Any]] = {
    "tool": st.sampled_from(("t", "mail.send", "mail.foreign", "", "${{ inputs.n }}")),
    "model": st.sampled_from(("default", "openai://x", "")),
    "agent": st.one_of(st.just("writer"), st.fixed_dictionaries({"name": TEXTS}, optional={"tools": _GIVEN})),
    "code": st.one_of(st.just("1 + 1"), st.fixed_dictionaries({"source": TEXTS, "runtime": TEXTS})),
    "approve": st.one_of(REFERENCES, st.fixed_dictionaries({"message": TEXTS})),
    "wait": st.one_of(_NUMBERS, REFERENCES, st.fixed_dictionaries({"until": st.sampled_from(("2026-12-01", "x"))})),
    "task": TEXTS,
}
_FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "with": _GIVEN,
    "prompt": st.one_of(REFERENCES, TEXTS),
    "system": TEXTS,
    "tools": st.one_of(st.lists(TEXTS, max_size=3), TEXTS),
    "max_tokens": _NUMBERS,
    "temperature": _NUMBERS,
    "output": _SCHEMAS,
    "for_each": st.one_of(EXPRESSIONS, REFERENCES, st.lists(VALUES, max_size=3)),
    "on_item_error": st.sampled_from(("fail_fast", "collect", "x")),
    "max_failure_rate": _NUMBERS,
    "max_parallel": _NUMBERS,
    "needs": st.one_of(st.lists(_NEED, max_size=3), _NEED),
    "depends_on": st.lists(_NEED, max_size=2),
    "when": st.one_of(EXPRESSIONS, REFERENCES, st.booleans()),
    "join": st.sampled_from(("all_success", "all_done", "one_success", "none_failed", "always", "x")),
    "mode": st.sampled_from(("parallel", "sequential")),
    "priority": _NUMBERS,
    "concurrency": st.sampled_from(("db", "web", "")),
    "on_error": st.sampled_from(("fail", "skip", "continue", "x")),
    "retry": st.dictionaries(
        st.sampled_from(("max_attempts", "initial_delay", "max_delay", "exponential_base", "jitter", "x")), _NUMBERS
    ),
    "timeout_seconds": _NUMBERS,
    "attempt_timeout": _NUMBERS,
    "effects": st.sampled_from(("none", "idempotent", "once", "x")),
    "idempotency_key": REFERENCES,
    "cache": st.one_of(st.booleans(), st.fixed_dictionaries({"ttl_seconds": _NUMBERS})),
    "verify": st.one_of(
        st.sampled_from(("judge", "basic", "x")),
        st.fixed_dictionaries(
            {"strategy": st.sampled_from(("full", "self_consistency"))},
            optional={"threshold": _NUMBERS, "validators": VALUES, "rubric": VALUES, "samples": _NUMBERS},
        ),
    ),
    "speculate": st.one_of(TEXTS, st.fixed_dictionaries({"draft": TEXTS}, optional={"policy": TEXTS})),
    "replan": st.one_of(st.booleans(), VALUES),
    "stream": st.booleans(),
    "labels": st.dictionaries(TEXTS, TEXTS, max_size=2),
    "description": TEXTS,
    "nonsense": VALUES,
}
_ABOVE = st.sampled_from(("steps.a.output", "inputs.n", "inputs.list", "steps.a.output.x[0]", "steps.a.status"))
_CONDITIONS = st.sampled_from(("steps.a.output > 1", "inputs.n in [1, 2] and not exists(steps.a.output.y)", "true"))
_SOUND_TEXTS = st.one_of(
    st.just("x"), st.builds(lambda one: f"so ${{{{ {one} }}}}", _ABOVE), st.sampled_from(NASTY_TEXTS[19:])
)
_SOUND: dict[str, st.SearchStrategy[Any]] = {
    "with": st.dictionaries(st.sampled_from(("x", "to")), st.one_of(st.integers(), _SOUND_TEXTS), max_size=2),
    "for_each": st.one_of(_ABOVE, st.lists(st.integers(), max_size=3)),
    "needs": st.lists(st.sampled_from((*"aa", {"step": "a", "when": "steps.a.output == 1"})), max_size=2),
    "when": st.one_of(_CONDITIONS, _CONDITIONS.map(lambda one: f"${{{{ {one} }}}}"), st.booleans()),
    "join": st.sampled_from(("all_success", "all_done", "one_success", "none_failed", "always")),
    "mode": st.sampled_from(("parallel", "sequential")),
    "priority": st.integers(),
    "on_error": st.sampled_from(("fail", "skip", "continue")),
    "retry": st.dictionaries(
        st.sampled_from(("max_attempts", "exponential_base", "max_delay")), st.integers(1, 10**18)
    ),
    "timeout_seconds": st.floats(1e-300, 1e300),
    "attempt_timeout": st.floats(min_value=0.001, allow_infinity=False),
    "effects": st.sampled_from(("none", "idempotent", "once")),
    "idempotency_key": _SOUND_TEXTS,
    "output": st.sampled_from(({}, {"type": "object"}, {"$ref": "#"}, {"enum": [1, None]}, {"pattern": "a+"})),
    "labels": st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2),
    "description": st.text(max_size=9),
}
"""What a tool step may have, soundly; references and needs lead to step `a`."""


@st.composite
def sound(draw: st.DrawFn, *, levels: int = 2, tool: str = "t") -> Any:
    """Return the document of a plan that is right in all, or nearly all, of its parts."""
    steps: list[Any] = [{"id": "a", draw(st.sampled_from(("tool", "tool", "task", "model"))): tool, "prompt": "go"}]
    if "model" not in steps[0]:
        del steps[0]["prompt"]
    for place in range(draw(st.integers(0, 4))):
        step: dict[str, Any] = {"id": draw(st.sampled_from((f"s{place}", place, f"s {place}", f"é{place}")))}
        if levels and draw(st.integers(0, 7)) == 0:
            step["plan"] = draw(sound(levels=levels - 1, tool=tool))
        else:
            step["tool"] = tool
            for name in draw(st.lists(st.sampled_from(sorted(_SOUND)), max_size=4)):
                step[name] = draw(_SOUND[name])
        steps.append(step)
    plan: dict[str, Any] = {"planloom": 1, "steps": steps}
    for name in draw(st.lists(st.sampled_from(sorted(_SOUND_HEAD)), max_size=2)):
        plan[name] = draw(_SOUND_HEAD[name])
    return plan


_SOUND_HEAD: dict[str, st.SearchStrategy[Any]] = {
    "name": st.text(max_size=9),
    "inputs": st.sampled_from(
        ({"n": {}, "list": {"default": [1]}}, {"n": {"default": 1, "type": "integer"}, "list": {}})
    ),
    "limits": st.dictionaries(st.sampled_from(("timeout_seconds", "max_tool_calls")), st.integers(1, 10**18)),
    "concurrency": st.dictionaries(st.text(max_size=3), st.integers(1, 10**18), max_size=2),
    "allow": st.lists(st.sampled_from(("t", "mail.*", "x"))),
    "fail_fast": st.booleans(),
    "outputs": st.one_of(_SOUND_TEXTS, st.dictionaries(st.text(max_size=3), _SOUND_TEXTS), st.floats(-1e300, 1e300)),
    "cost": st.floats(allow_nan=False, allow_infinity=False),
}
_HEAD: dict[str, st.SearchStrategy[Any]] = {
    "name": TEXTS,
    "description": TEXTS,
    "inputs": st.dictionaries(st.sampled_from(("n", "list", "x")), _SCHEMAS, max_size=3),
    "limits": st.dictionaries(
        st.sampled_from(("timeout_seconds", "max_duration", "max_tool_calls", "max_concurrent", "max_memory_mb", "x")),
        _NUMBERS,
        max_size=3,
    ),
    "concurrency": st.dictionaries(st.sampled_from(("db", "web")), _NUMBERS),
    "allow": st.one_of(st.lists(TEXTS, max_size=3), TEXTS),
    "fail_fast": st.booleans(),
    "outputs": st.one_of(VALUES, REFERENCES),
    "cost": _NUMBERS,
    "estimated_latency_ms": _NUMBERS,
    "nonsense": VALUES,
}
_FOREIGN_HEAD: dict[str, st.SearchStrategy[Any]] = {
    "request_id": st.one_of(TEXTS, st.integers(0, 9)),
    "task": TEXTS,
    "final_synthesis": st.one_of(
        VALUES, st.fixed_dictionaries({"prompt_template": st.sampled_from(("{{steps}}", "{{a}} {{steps.b}}"))})
    ),
}
_FOREIGN_TEXTS = st.sampled_from(
    ("step:a.x.y", "{{steps[1].output.m}}", "{{a.field}}", "{{steps['b'].x}}", "{{n}}", "{{", "step:", "{{ a . b }}")
)
_FOREIGN_FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "input": st.dictionaries(TEXTS, _FOREIGN_TEXTS, max_size=3),
    "parameters": st.dictionaries(TEXTS, _FOREIGN_TEXTS, max_size=3),
    "condition": st.one_of(EXPRESSIONS, st.sampled_from(("a.x > 1 and {{b}} == 'y'", "step:a.ok", "__import__('os')"))),
    "run_if": EXPRESSIONS,
    "retry_policy": st.dictionaries(st.sampled_from(("retries", "backoff_s", "x")), _NUMBERS),
    "retry_count": _NUMBERS,
    "timeout_s": _NUMBERS,
    "depends_on": st.lists(st.sampled_from(IDS), max_size=2),
}


@st.composite
def plans(draw: st.DrawFn, *, levels: int = 2) -> Any:
    """Return the document of a plan, nearly right."""
    foreign = draw(st.integers(0, 4)) == 0
    fields = _FOREIGN_FIELDS if foreign else _FIELDS
    head: dict[str, Any] = {} if draw(st.booleans()) or foreign else {"planloom": 1}
    for name in draw(st.lists(st.sampled_from(sorted(_FOREIGN_HEAD if foreign else _HEAD)), max_size=3)):
        head[name] = draw((_FOREIGN_HEAD if foreign else _HEAD)[name])
    count = draw(st.sampled_from((0, 1, 1, 2, 3, 5)))
    head["steps"] = [draw(_steps(place, fields, levels, foreign=foreign)) for place in range(count)]
    if count and draw(st.integers(0, 9)) == 0:
        _chain(draw, head["steps"])
    return head


def _chain(draw: st.DrawFn, steps: list[Any]) -> None:
    """Add many equal steps, or steps that wait for each other in a circle."""
    many = draw(st.sampled_from((3, 50, 200)))
    circle = draw(st.booleans())
    for place in range(many):
        before = (place - 1) % many if circle or place else place
        steps.append({"id": f"s{place}", "tool": "t", "needs": [f"s{before}"] if place or circle else []})


@st.composite
def _steps(
    draw: st.DrawFn, place: int, fields: dict[str, st.SearchStrategy[Any]], levels: int, *, foreign: bool
) -> Any:
    if draw(st.integers(0, 39)) == 0:
        return draw(VALUES)
    name = IDS[place] if draw(st.integers(0, 9)) else draw(SCALARS)
    step: dict[str, Any] = {"step_id" if foreign and place % 2 else "id": name}
    if levels and draw(st.integers(0, 9)) == 0:
        step["plan"] = draw(plans(levels=levels - 1))
    elif foreign:
        step["tool_name" if place % 2 else "tool"] = "t"
    else:
        kind = draw(st.sampled_from(("tool", "tool", "tool", *_KINDS)))
        step[kind] = "t" if kind == "tool" and draw(st.booleans()) else draw(_KINDS[kind])
    for field in draw(st.lists(st.sampled_from(sorted(fields)), max_size=4)):
        step[field] = draw(fields[field]) if draw(st.integers(0, 19)) else draw(VALUES)
    return step


def nested_plans(draw: st.DrawFn) -> Any:
    """Return sub-plans inside each other, on either side of the most there may be."""
    plan: dict[str, Any] = {"steps": [{"id": "a", "tool": "t"}]}
    for _ in range(draw(st.sampled_from((1, 7, 8, 9, 20, 31, 200)))):
        plan = {"steps": [{"id": "a", "plan": plan}]}
    return plan


# --- texts ------------------------------------------------------------------------------------


def as_json_text(value: Any, *, ascii_only: bool = True) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    except (RecursionError, ValueError):
        return b"[" * 5_000


def as_yaml_text(value: Any, *, flow: bool) -> bytes:
    dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    try:
        text: str = yaml.dump(value, Dumper=dumper, default_flow_style=flow, allow_unicode=True, sort_keys=False)
        return text.encode("utf-8", "surrogatepass")
    except (yaml.YAMLError, UnicodeError, RecursionError, ValueError):
        return as_json_text(value)


@st.composite
def documents(draw: st.DrawFn, of: st.SearchStrategy[Any]) -> bytes:
    """Return a value as JSON or YAML text."""
    value = draw(of)
    form = draw(st.integers(0, 3))
    return as_yaml_text(value, flow=form == 1) if form < 2 else as_json_text(value, ascii_only=form == 2)


def _schema_bomb(draw: st.DrawFn, count: int) -> Any:
    """Return a plan whose schema makes much work of its default."""
    names = [f"a{place}" for place in range(count)]
    schema: dict[str, Any] = draw(
        st.sampled_from(
            (
                {"items": {"required": names}},
                {"items": {"properties": dict.fromkeys(names, True)}},
                {"items": {"enum": [{"a": name} for name in names]}},
                {"uniqueItems": True},
                {"items": {"anyOf": [{"$ref": "#"}, {"$ref": "#"}]}},
                {"allOf": [{"uniqueItems": True}] * count},
                {"anyOf": [{"pattern": rf"\w{name}"} for name in names]},
                {"dependentRequired": {"a": names}},
            )
        )
    )
    default = draw(st.sampled_from(([{}] * count, [{"a": 1}] * count, [{"a": name} for name in names], "x" * count)))
    return {"inputs": {"n": {**schema, "default": default}}, "steps": []}


def _repeated(draw: st.DrawFn, count: int) -> bytes:
    """Return a plan with one small thing in it very often, in one place or another."""
    part = draw(
        st.sampled_from(("{{steps}}", "a.", "${{a}}", "${{ json(inputs.n) }}", "{{a.b}}", "[0]", "((", "é", " "))
    )
    text = draw(st.sampled_from(("", "step:", "{{", "${{ ", "a"))) + part * count
    steps: list[Any] = [{"id": f"a{place}", "tool": "t"} for place in range(draw(st.sampled_from((1, 20, 200))))]
    places = ("with", "prompt", "when", "for_each", "id", "tool", "needs", "description", "input", "condition", "task")
    place = draw(st.sampled_from(places))
    steps.append({"id": "z", "tool": "t", place: {"x": text} if place in ("with", "input") else text})
    plan: dict[str, Any] = {"steps": steps}
    if draw(st.booleans()):
        plan["final_synthesis"] = {"prompt_template": text}
    return as_json_text(plan)


@st.composite
def bombs(draw: st.DrawFn) -> bytes:
    """Return what is small as a text and large as a value, or what is nested beyond reason."""
    wide, levels = draw(st.sampled_from(((2, 9), (10, 6), (9, 9), (100, 3), (40, 4), (2, 60)))), draw(_FEW)
    many, deep = wide
    form = draw(st.integers(0, 8))
    if form == 0:
        lines = ["steps: [{id: a, tool: t}]\noutputs:\n x: [1]"] if draw(st.booleans()) else []
        lines += ["x0: &x0 [" + ",".join("a" * many) + "]"]
        lines += [f"x{at}: &x{at} [{','.join([f'*x{at - 1}'] * many)}]" for at in range(1, deep)]
        return "\n".join(lines).encode()
    if form == 1:
        return as_json_text(nested(draw))
    if form == 2:
        return b"steps: " + draw(st.sampled_from((b"[", b"{a: ", b"- ", b"? "))) * (500 * (levels + 1))
    if form == 3:
        return as_json_text(nested_plans(draw))
    if form == 8:
        return as_json_text(_schema_bomb(draw, 200 * (levels + 1)))
    if form in (6, 7):
        return _repeated(draw, 150 * (levels + 1))
    if form == 4:
        return b'{"steps":[' + b",".join([b'{"id":"a","tool":"t","nmae":1}'] * (200 * (levels + 1))) + b"]}"
    return b"planloom: 1\nname: " + draw(st.sampled_from((b"1", b"x", b"'", b"\t", b"\xc3\xa9", b"&"))) * 20_000


@st.composite
def lettered(draw: st.DrawFn) -> bytes:
    """Return lettered English lines."""
    lines = ["Write to everyone:"] if draw(st.booleans()) else []
    for place in range(draw(st.integers(1, 5))):
        letter = draw(st.sampled_from(("abcdefg"[place], "A", "zz", "(b", "1")))
        lines.append(f"{letter}{draw(st.sampled_from('.).'))} {draw(_LINES)}{draw(_CLAUSES)}")
    return draw(st.sampled_from(("\n", "\r\n", "\n\n", "\x85"))).join(lines).encode("utf-8", "surrogatepass")


_RUNS = st.builds(
    lambda part, count: part * count, st.sampled_from((" ", "a ", "after ", ", a", "[", "(")), st.just(900)
)
_ARGUMENTS = st.sampled_from(
    (' x="y"', " x=a", " x=inputs.n", " x=a.b[0]", " x=1e999", ' x="\\ud800"', " x=true", " x=$")
)
_BINDINGS = st.builds(lambda given: f"[mail.send{''.join(given)}]", st.lists(_ARGUMENTS, max_size=3))
_LINES = st.one_of(TEXTS, st.just("Get all contacts "), _BINDINGS, st.builds(lambda a, b: f"{a} {b}", TEXTS, _BINDINGS))
_CLAUSES = st.one_of(
    st.sampled_from(
        ("", "", "(requires step a)", "(requires steps a and b)", " after a", "requires a, b.", "(after zz)")
    ),
    st.builds(
        lambda clause, run, end: clause + run + end, st.sampled_from((" after a", "(needs b)", "")), _RUNS, TEXTS
    ),
)

# --- the record and the wire ------------------------------------------------------------------

_NAMES = st.sampled_from(("run_id", "at", "step", "attempt", "output", "usage", "plan", "inputs", "tools", "kind", "x"))
_EVENT_FIELDS = sorted({name for kind in EVENT_TYPES for name in kind.__dataclass_fields__})
_USAGE = st.dictionaries(st.sampled_from(("input_tokens", "output_tokens", "calls", "x")), _NUMBERS, max_size=3)
_EVENT_VALUES = st.one_of(
    SCALARS, VALUES, _USAGE, st.sampled_from(({"t": {"digest": "d"}}, {"t": 1}, {"m": {}}, "completed", "success", "p"))
)
_KIND_NAMES = tuple(
    "".join(f"_{mark.lower()}" if mark.isupper() else mark for mark in kind.__name__).lstrip("_")
    for kind in EVENT_TYPES
)


@st.composite
def rows(draw: st.DrawFn) -> bytes:
    """Return a row of a journal: mostly all that its kind needs, some of it of the wrong type."""
    place = draw(st.integers(0, len(EVENT_TYPES) - 1))
    fields = EVENT_TYPES[place].__dataclass_fields__
    body = {
        name: draw(_EVENT_VALUES) if draw(st.integers(0, 5)) == 0 else _plain(str(fields[name].type)) for name in fields
    }
    for name in draw(st.lists(st.sampled_from(sorted(fields)), max_size=2)):
        body.pop(name, None)
    if "plan" in body and draw(st.booleans()):
        body["plan@blob"] = draw(st.sampled_from(("p", "x", "t", "n", "zz", 1)))
        body.pop("plan")
    if draw(st.integers(0, 9)) == 0:
        body[draw(st.one_of(st.sampled_from(_EVENT_FIELDS), TEXTS))] = draw(_EVENT_VALUES)
    version = draw(st.sampled_from(("1", "1", "1", "1", "2", "x", "")))
    return f"{_KIND_NAMES[place]} {version}\n".encode() + as_json_text(body)


def _plain(kind: str) -> Any:
    """Return a value of the type of an event's field."""
    known: dict[str, Any] = {"str": "a", "int": 1, "float": 1.5, "bool": True, "Any": {"x": 1}, "Plan": {"planloom": 1}}
    known |= {"FailureKind": "error", "Effects": "none", "RunStatus": "success", "StepStatus": "completed"}
    known |= {"SkipReason": "condition"}
    if kind in known:
        return known[kind]
    return None if kind.endswith("None") else [] if kind.startswith(("tuple", "list")) else {}


@st.composite
def facts(draw: st.DrawFn) -> bytes:
    """Return what a worker says came of an attempt."""
    head, _, body = draw(rows()).decode("utf-8", "surrogatepass").partition("\n")
    kind, _, version = head.partition(" ")
    number: Any = int(version) if version.isdigit() else draw(SCALARS)
    apart: Any = draw(st.sampled_from(({}, {}, {}, {"p": "{}"}, [], None)))
    return as_json_text([kind, number, body, apart, *draw(st.sampled_from(((), (), (), (1,))))])


_REQUEST = RunStep(
    run_id="r",
    key="a",
    step=Step(id="a", tool="t"),
    attempt=1,
    epoch=1,
    args={"x": 1},
    effects=Effects.NONE,
    after_durable=False,
    idempotency_key="k",
    tools={"t": ToolFacts("d")},
)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """Return what a worker is asked to do."""
    asked = WIRE.request_out(_REQUEST, 100.0)
    for name in draw(st.lists(st.sampled_from(sorted(asked)), max_size=3)):
        asked[name] = draw(VALUES)
    return as_json_text(asked)


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    """Return the bytes of a connection."""
    parts = []
    for body in draw(st.lists(st.one_of(st.builds(as_json_text, VALUES), st.binary(max_size=20), bombs()), max_size=4)):
        size = len(body) + draw(st.sampled_from((0, 0, 0, 0, 1, -1, 1 << 20, 1 << 31)))
        parts.append(max(0, size).to_bytes(4) + body)
    return b"".join(parts) + draw(st.binary(max_size=5))


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    """Return what a model says when it is asked for a value."""
    said = draw(st.one_of(st.builds(as_json_text, st.one_of(_ANSWERS, VALUES)), bombs()))
    before, behind = draw(st.sampled_from(((b"", b""), (b"```json\n", b"\n```"), (b"Sure: ", b""), (b"```\n", b"```"))))
    return before + said + behind


_ANSWERS = st.fixed_dictionaries(
    {"name": st.sampled_from(("a", "abc", "A", ""))},
    optional={"count": _NUMBERS, "of": st.lists(VALUES, max_size=3), "share": _NUMBERS, "kind": SCALARS},
)
_ARGS = st.fixed_dictionaries(
    {"to": st.one_of(st.lists(TEXTS, max_size=2), VALUES)},
    optional={"subject": TEXTS, "copies": _NUMBERS, "share": _NUMBERS, "more": VALUES, "x": VALUES},
)


def _utf8(texts: st.SearchStrategy[str]) -> Make:
    return texts.map(lambda text: text.encode("utf-8", "surrogatepass"))


PLANS = st.one_of(*[documents(sound())] * 9, *[documents(plans())] * 6, bombs(), lettered(), documents(VALUES))
MAKES: dict[str, Callable[[], Make]] = {
    "plan": lambda: PLANS,
    "lettered": lettered,
    "model_answer": lambda: st.one_of(
        st.builds(as_json_text, sound(levels=0, tool="mail.quiet")), st.builds(as_json_text, plans(levels=0)), answers()
    ),
    "expression": lambda: _utf8(st.one_of(SOUND_EXPRESSIONS, SOUND_EXPRESSIONS, EXPRESSIONS, REFERENCES)),
    "references": lambda: st.one_of(
        _utf8(REFERENCES), st.builds(as_json_text, st.dictionaries(TEXTS, REFERENCES)), bombs()
    ),
    "schema": lambda: st.one_of(st.builds(as_json_text, _SCHEMAS), bombs()),
    "row": rows,
    "frames": frames,
    "request": requests,
    "fact": facts,
    "answer": answers,
    "arguments": lambda: st.builds(as_json_text, st.one_of(_ARGS, _ANSWERS, VALUES)),
}
"""Target → what makes inputs for it."""
