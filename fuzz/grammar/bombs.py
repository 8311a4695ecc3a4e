"""What is small as a text and large as a value, or makes much work: aliases, depth, repetition, schemas."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from fuzz.grammar.plans import nested_plans
from fuzz.grammar.values import FEW, as_json_text, nested


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
    wide, levels = draw(st.sampled_from(((2, 9), (10, 6), (9, 9), (100, 3), (40, 4), (2, 60)))), draw(FEW)
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
