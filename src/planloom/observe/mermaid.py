"""A plan as Mermaid and as Graphviz DOT, for documents that draw those themselves.

Rule 1: a step's id never becomes an identifier there; boxes are `n0`, `n1`, … and ids are labels, escaped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from planloom.core.result import StepStatus
from planloom.observe.looks import LOOKS, printable, shortened
from planloom.observe.picture import picture_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from planloom.core.result import RunResult
    from planloom.observe.picture import Box, Picture
    from planloom.plan.model import Plan

LABEL_COLUMNS = 80

_PAINT = {
    StepStatus.PENDING.value: ("#f1f5f9", "#64748b"),
    StepStatus.READY.value: ("#eef2ff", "#4f46e5"),
    StepStatus.RUNNING.value: ("#dbeafe", "#1d4ed8"),
    StepStatus.COMPLETED.value: ("#dcfce7", "#15803d"),
    StepStatus.FAILED.value: ("#fee2e2", "#b91c1c"),
    StepStatus.SKIPPED.value: ("#f8fafc", "#64748b"),
    StepStatus.CANCELLED.value: ("#ffedd5", "#7c2d12"),
    StepStatus.TIMED_OUT.value: ("#ffedd5", "#c2410c"),
    "blocked": ("#fef9c3", "#a16207"),
}
"""Fill and stroke by status; the text is dark on each."""
_SHAPES = {
    "tool": ("[", "]"),
    "model": ("([", "])"),
    "agent": ("[[", "]]"),
    "code": ("[/", "/]"),
    "plan": ("[[", "]]"),
    "approve": ("{{", "}}"),
    "wait": ("([", "])"),
    "task": (">", "]"),
}


def _words(box: Box) -> list[str]:
    """Return what a box says, line by line."""
    lines = [box.id, box.kind if box.doer == box.kind else f"{box.kind} · {box.doer}"]
    if box.tally is not None:
        width = "?" if box.tally.width is None else str(box.tally.width)
        counts = f", {box.tally.done} done, {box.tally.failed} failed" if box.tally.by_status else ""
        lines.append(f"for each of {width} items{counts}")
    if box.when is not None:
        lines.append(f"if {box.when}")
    if box.status is not None:
        look = LOOKS[box.status]
        lines.append(" · ".join((f"{look.symbol} {look.word}", *box.facts)))
    return [shortened(printable(line), LABEL_COLUMNS) for line in lines]


# --- Mermaid ----------------------------------------------------------------------------------

_MERMAID_PLAIN = frozenset(" .,:_-·✓✗○◌▶↷■◷…/")


def _mermaid_text(text: str) -> str:
    """Return the text with everything but letters, digits and a few signs as Mermaid's `#code;`."""
    return "".join(char if char.isalnum() or char in _MERMAID_PLAIN else f"#{ord(char)};" for char in text)


def graph_mermaid(plan: Plan, result: RunResult | None = None) -> str:
    """Return the plan as a Mermaid flowchart, each step in the class of its status where there is a result.

    Raises:
        PlanError: The plan has a circle, or steps that do not exist.
    """
    return picture_mermaid(picture_of(plan, result))


def picture_mermaid(picture: Picture) -> str:
    """Return any picture, a plan's or an agent graph's, as a Mermaid flowchart."""
    lines = ["flowchart TD", *(f"  {line}" for line in _mermaid_body(picture, "n"))]
    for status in dict.fromkeys(picture.statuses()):
        fill, stroke = _PAINT[status]
        dashes = ",stroke-dasharray:4 3" if status == StepStatus.SKIPPED else ""
        lines.append(f"  classDef {status} fill:{fill},stroke:{stroke},color:#0f172a{dashes}")
    return "\n".join(lines) + "\n"


def _mermaid_body(picture: Picture, prefix: str) -> Iterator[str]:
    for index, box in enumerate(picture.boxes):
        name = f"{prefix}{index}"
        label = "<br/>".join(_mermaid_text(line) for line in _words(box))
        if box.inside is not None and box.inside.boxes:
            yield f'subgraph {name}["{label}"]'
            for line in _mermaid_body(box.inside, f"{name}_"):
                yield f"  {line}"
            yield "end"
        else:
            left, right = _SHAPES[box.kind]
            yield f'{name}{left}"{label}"{right}'
        if box.status is not None:
            yield f"class {name} {box.status}"
    for arrow in picture.arrows:
        source, target = f"{prefix}{arrow.source}", f"{prefix}{arrow.target}"
        if arrow.when is None:
            yield f"{source} --> {target}"
        else:
            when = shortened(printable(f"if {arrow.when}"), LABEL_COLUMNS)
            yield f'{source} -. "{_mermaid_text(when)}" .-> {target}'


# --- DOT --------------------------------------------------------------------------------------


def _quoted(text: str) -> str:
    """Return the text as a DOT string; line feeds in it end a line of a label."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("&", "&amp;").replace("\n", "\\n")
    return f'"{escaped}"'


def graph_dot(plan: Plan, result: RunResult | None = None) -> str:
    """Return the plan as a Graphviz digraph, coloured by status where there is a result.

    Raises:
        PlanError: The plan has a circle, or steps that do not exist.
    """
    return picture_dot(picture_of(plan, result))


def picture_dot(picture: Picture) -> str:
    """Return any picture, a plan's or an agent graph's, as a Graphviz digraph."""
    lines = [
        f"digraph {_quoted(printable(picture.name))} {{",
        "  rankdir=TB; compound=true;",
        '  node [shape=box, style="rounded,filled", fillcolor="#ffffff", color="#64748b", fontname="Helvetica"];',
        '  edge [color="#64748b", fontname="Helvetica", fontsize=10];',
        *(f"  {line}" for line in _dot_body(picture, "n")),
        "}",
    ]
    return "\n".join(lines) + "\n"


def _dot_body(picture: Picture, prefix: str) -> Iterator[str]:
    for index, box in enumerate(picture.boxes):
        name = f"{prefix}{index}"
        label = _quoted("\n".join(_words(box)))
        paint = ""
        if box.status is not None:
            fill, stroke = _PAINT[box.status]
            dashed = ', style="rounded,filled,dashed"' if box.status == StepStatus.SKIPPED else ""
            paint = f', fillcolor="{fill}", color="{stroke}"{dashed}'
        if box.inside is not None and box.inside.boxes:
            yield f"subgraph cluster_{name} {{"
            yield f"  label={label};"
            yield f'  {name} [shape=point, style=invis, label=""];'
            for line in _dot_body(box.inside, f"{name}_"):
                yield f"  {line}"
            yield "}"
        else:
            stack = ", peripheries=2" if box.tally is not None else ""
            yield f"{name} [label={label}{paint}{stack}];"
    for arrow in picture.arrows:
        facts = [f"style=dashed, label={_quoted(shortened(printable(f'if {arrow.when}'), LABEL_COLUMNS))}"]
        facts = facts if arrow.when is not None else []
        for end, place in (("ltail", arrow.source), ("lhead", arrow.target)):
            inside = picture.boxes[place].inside
            if inside is not None and inside.boxes:
                facts.append(f"{end}=cluster_{prefix}{place}")
        about = f" [{', '.join(facts)}]" if facts else ""
        yield f"{prefix}{arrow.source} -> {prefix}{arrow.target}{about};"
