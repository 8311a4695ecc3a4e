"""Plans: right ones, nearly right ones in every form, and lettered English lines."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from fuzz.grammar.expressions import EXPRESSIONS, REFERENCES
from fuzz.grammar.values import IDS, NASTY_TEXTS, NUMBERS, SCALARS, TEXTS, VALUES

_GIVEN = st.dictionaries(st.sampled_from(("x", "to", "text", "")), st.one_of(VALUES, REFERENCES), max_size=3)
_NEED = st.one_of(
    st.sampled_from(IDS),
    st.sampled_from(IDS),
    st.fixed_dictionaries({"step": st.sampled_from(IDS), "when": EXPRESSIONS}),
)
SCHEMAS = st.recursive(
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
    "wait": st.one_of(NUMBERS, REFERENCES, st.fixed_dictionaries({"until": st.sampled_from(("2026-12-01", "x"))})),
    "task": TEXTS,
}
_FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "with": _GIVEN,
    "prompt": st.one_of(REFERENCES, TEXTS),
    "system": TEXTS,
    "tools": st.one_of(st.lists(TEXTS, max_size=3), TEXTS),
    "max_tokens": NUMBERS,
    "temperature": NUMBERS,
    "output": SCHEMAS,
    "for_each": st.one_of(EXPRESSIONS, REFERENCES, st.lists(VALUES, max_size=3)),
    "on_item_error": st.sampled_from(("fail_fast", "collect", "x")),
    "max_failure_rate": NUMBERS,
    "max_parallel": NUMBERS,
    "needs": st.one_of(st.lists(_NEED, max_size=3), _NEED),
    "depends_on": st.lists(_NEED, max_size=2),
    "when": st.one_of(EXPRESSIONS, REFERENCES, st.booleans()),
    "join": st.sampled_from(("all_success", "all_done", "one_success", "none_failed", "always", "x")),
    "mode": st.sampled_from(("parallel", "sequential")),
    "priority": NUMBERS,
    "concurrency": st.sampled_from(("db", "web", "")),
    "on_error": st.sampled_from(("fail", "skip", "continue", "x")),
    "retry": st.dictionaries(
        st.sampled_from(("max_attempts", "initial_delay", "max_delay", "exponential_base", "jitter", "x")), NUMBERS
    ),
    "timeout_seconds": NUMBERS,
    "attempt_timeout": NUMBERS,
    "effects": st.sampled_from(("none", "idempotent", "once", "x")),
    "idempotency_key": REFERENCES,
    "cache": st.one_of(st.booleans(), st.fixed_dictionaries({"ttl_seconds": NUMBERS})),
    "verify": st.one_of(
        st.sampled_from(("judge", "basic", "x")),
        st.fixed_dictionaries(
            {"strategy": st.sampled_from(("full", "self_consistency"))},
            optional={"threshold": NUMBERS, "validators": VALUES, "rubric": VALUES, "samples": NUMBERS},
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
    "inputs": st.dictionaries(st.sampled_from(("n", "list", "x")), SCHEMAS, max_size=3),
    "limits": st.dictionaries(
        st.sampled_from(("timeout_seconds", "max_duration", "max_tool_calls", "max_concurrent", "max_memory_mb", "x")),
        NUMBERS,
        max_size=3,
    ),
    "concurrency": st.dictionaries(st.sampled_from(("db", "web")), NUMBERS),
    "allow": st.one_of(st.lists(TEXTS, max_size=3), TEXTS),
    "fail_fast": st.booleans(),
    "outputs": st.one_of(VALUES, REFERENCES),
    "cost": NUMBERS,
    "estimated_latency_ms": NUMBERS,
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
    "retry_policy": st.dictionaries(st.sampled_from(("retries", "backoff_s", "x")), NUMBERS),
    "retry_count": NUMBERS,
    "timeout_s": NUMBERS,
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
