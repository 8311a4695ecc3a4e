"""Tools that declare what passes through them, and random plans of all kinds of step with them."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from planloom.core.events import ToolFacts
from planloom.plan.policy import Effects

TOOLS = {
    "get": ToolFacts("0", Effects.NONE, source=("web",)),
    "read": ToolFacts("0", Effects.NONE, source=("inbox",)),
    "vault": ToolFacts("0", Effects.NONE, secret=True),
    "same": ToolFacts("0", Effects.NONE),
    "clean": ToolFacts("0", Effects.NONE, cleans=("web", "inbox")),
    "swap": ToolFacts("0", Effects.NONE, cleans=("web",), source=("inbox",)),
    "send": ToolFacts("0", Effects.ONCE),
    "log": ToolFacts("0", Effects.ONCE, accepts=("web",)),
}


def tool(key: str, name: str, *refs: str, **fields: Any) -> dict[str, Any]:
    return {"id": key, "tool": name, "with": {"x": text_of(refs)}, **fields}


def text_of(refs: Any) -> str:
    return " ".join(f"${{{{ {ref if '.' in ref else f'steps.{ref}.output'} }}}}" for ref in refs)


def plan(*steps: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"planloom": 1, "steps": list(steps), **fields}


KINDS = (*TOOLS, "model", "code", "approve", *["sub"] * 5)
"""What is drawn from, so that most plans have a plan inside."""


@st.composite
def plans(
    draw: st.DrawFn, depth: int = 1, names: tuple[str, ...] = (), kinds: tuple[str, ...] = KINDS
) -> dict[str, Any]:
    """Draw a plan; `names` are its inputs."""
    steps: list[dict[str, Any]] = []
    for at in range(draw(st.integers(2, 7 - depth))):
        above = [f"steps.s{n}.{field}" for n in range(at) for field in ("output", "error")]
        above += [f"inputs.{name}" for name in names]
        refs = draw(st.lists(st.sampled_from(above), max_size=3, unique=True)) if above else []
        steps.append(
            _step(
                draw,
                f"s{at}",
                draw(st.sampled_from([kind for kind in kinds if depth or kind != "sub"])),
                refs,
                depth,
                kinds,
            )
        )
        if above and draw(st.integers(0, 3)) == 0:
            steps[-1] |= {"when": f"default({draw(st.sampled_from(above))}, 1) == 1"}
        if above and draw(st.integers(0, 4)) == 0 and "approve" not in steps[-1]:
            steps[-1] |= {"for_each": f"default({draw(st.sampled_from(above))}, [])"}
    fields: dict[str, Any] = {"inputs": {name: {} for name in names}} if names else {}
    if draw(st.booleans()):
        fields["outputs"] = {"o": f"${{{{ steps.s{draw(st.integers(0, len(steps) - 1))}.output }}}}"}
    return plan(*steps, **fields)


def _step(draw: st.DrawFn, key: str, kind: str, refs: list[str], depth: int, kinds: tuple[str, ...]) -> dict[str, Any]:
    brought = st.lists(st.sampled_from(["get", "vault", "send", "log"]), max_size=2, unique=True)
    if kind == "model":
        return {"id": key, "model": "m", "prompt": "? " + text_of(refs), "tools": draw(brought) or None}
    if kind == "code":
        return {"id": key, "code": {"source": "1", "tools": draw(brought)}, "with": {"x": text_of(refs)}}
    if kind == "approve":
        return {"id": key, "approve": "? " + text_of(refs)}
    if kind == "sub":
        given = {"p": text_of(refs[:1]), "q": text_of(refs[1:])}
        return {"id": key, "plan": draw(plans(depth - 1, ("p", "q"), kinds)), "with": given}
    return tool(key, kind, *refs)
