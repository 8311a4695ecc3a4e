"""What every picture of a plan shows: boxes and arrows, before anybody decides how they look.

Rule 1: one way in, `picture_of`; SVG, Mermaid, DOT and text all draw the same `Picture`.
Rule 2: texts are kept as they are; whoever draws them escapes them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from planloom.core.result import StepStatus
from planloom.observe.looks import BLOCKED, counted, every_step, note_of, status_of, step_facts
from planloom.plan.graph import compile_plan
from planloom.plan.model import Need, Plan

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from planloom.core.result import RunResult, StepResult
    from planloom.plan.model import Step

MAX_NESTING = 3
MAX_INSIDE = 40
"""Steps a sub-plan may have to be drawn out; larger ones are one box."""
GROUP_FROM = 4
"""Steps that must be alike before they are drawn as one."""


@dataclass(frozen=True, slots=True)
class Tally:
    """How many of the things behind one box stand how, by status; `width` is None while nobody knows how many."""

    width: int | None
    by_status: Mapping[str, int] = field(default_factory=dict)

    @property
    def done(self) -> int:
        return self.by_status.get(StepStatus.COMPLETED, 0)

    @property
    def failed(self) -> int:
        return self.by_status.get(StepStatus.FAILED, 0) + self.by_status.get(StepStatus.TIMED_OUT, 0)


@dataclass(frozen=True, slots=True)
class Box:
    """One step, or several that are alike.

    Attributes:
        key: Its key in a run, `sub/extract` inside a sub-plan.
        status: A key of `looks.LOOKS`, or None where there is no run.
        facts: Short texts: time, cost, attempts.
        when: Its condition, or None.
        tally: For a `for_each` step and for a group.
        inside: The drawn-out sub-plan, or None.
        members: Ids of the steps behind a group.
    """

    id: str
    key: str
    kind: str
    doer: str
    status: str | None = None
    facts: tuple[str, ...] = ()
    when: str | None = None
    tally: Tally | None = None
    inside: Picture | None = None
    members: tuple[str, ...] = ()
    description: str = ""
    note: str = ""
    """Its error, or why it was skipped or waits."""


@dataclass(frozen=True, slots=True)
class Arrow:
    """From one box to another, by their places in `Picture.boxes`."""

    source: int
    target: int
    when: str | None = None
    """The condition under which it counts, or None."""


@dataclass(frozen=True, slots=True)
class Picture:
    name: str
    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...]

    @property
    def edges(self) -> list[tuple[int, int]]:
        return [(arrow.source, arrow.target) for arrow in self.arrows]

    def statuses(self) -> list[str]:
        """Return the statuses shown anywhere in it, in the order of their first box."""
        found: dict[str, None] = {}
        for box in self.boxes:
            if box.status is not None:
                found[box.status] = None
            if box.inside is not None:
                found |= dict.fromkeys(box.inside.statuses())
        return list(found)


def picture_of(plan: Plan, result: RunResult | None = None, *, nested: bool = True) -> Picture:
    """Return the boxes and arrows of a plan, with how each step stands where there is a result.

    Args:
        plan: The plan.
        result: A run of it, under way or ended, or None.
        nested: Draw small sub-plans out, instead of as one box.

    Raises:
        PlanError: The plan has a circle, or steps that do not exist.
    """
    known = {step.id: step for step in every_step(result.steps)} if result is not None else None
    return _picture(plan, known, prefix="", depth=MAX_NESTING if nested else 0)


def _picture(plan: Plan, known: Mapping[str, StepResult] | None, *, prefix: str, depth: int) -> Picture:
    boxes = tuple(_box(step, known, prefix=prefix, depth=depth) for step in plan.steps)
    return Picture(plan.name, boxes, tuple(_arrows(plan)))


def _box(step: Step, known: Mapping[str, StepResult] | None, *, prefix: str, depth: int) -> Box:
    key = prefix + step.id
    inside = None
    if isinstance(step.plan, Plan) and step.for_each is None and depth > 0 and len(step.plan.steps) <= MAX_INSIDE:
        inside = _picture(step.plan, known, prefix=f"{key}/", depth=depth - 1)
    box = Box(
        id=step.id,
        key=key,
        kind=step.kind,
        doer=_doer(step),
        when=None if step.when is None else _bare(step.when),
        tally=Tally(None) if step.for_each is not None else None,
        inside=inside,
        description=step.description,
    )
    if known is None:
        return box
    result = known.get(key)
    if result is None:
        return replace(box, status=StepStatus.PENDING.value)
    return replace(
        box,
        status=status_of(result),
        facts=step_facts(result),
        tally=_map_tally(result) if box.tally is not None else None,
        note=note_of(result),
    )


def _doer(step: Step) -> str:
    if isinstance(step.plan, Plan):
        return step.plan.name
    if step.plan is not None:
        return step.plan
    return step.doer


def _map_tally(result: StepResult) -> Tally:
    return Tally(result.width, Counter(status_of(item) for item in result.parts))


def _arrows(plan: Plan) -> list[Arrow]:
    found: list[Arrow] = []
    for entry in compile_plan(plan).steps:
        conditions = {need.step: need.when for need in entry.step.needs if isinstance(need, Need)}
        for source in entry.upstream:
            when = conditions.get(plan.steps[source].id) if source in entry.conditions else None
            found.append(Arrow(source, entry.place, None if when is None else _bare(when)))
    return found


def _bare(condition: str | bool) -> str:
    """Return the condition without the brackets of a reference."""
    return str(condition).strip().removeprefix("${{").removesuffix("}}").strip()


def grouped(picture: Picture) -> Picture:
    """Return the picture with steps that do the same, after the same and before the same, drawn as one box."""
    before: list[set[int]] = [set() for _ in picture.boxes]
    after: list[set[int]] = [set() for _ in picture.boxes]
    conditional: set[int] = set()
    for arrow in picture.arrows:
        before[arrow.target].add(arrow.source)
        after[arrow.source].add(arrow.target)
        if arrow.when is not None:
            conditional |= {arrow.source, arrow.target}
    alike: dict[object, list[int]] = {}
    for index, box in enumerate(picture.boxes):
        alone = box.inside is not None or box.tally is not None or box.when is not None or index in conditional
        sort = (box.kind, box.doer, frozenset(before[index]), frozenset(after[index]), index if alone else None)
        alike.setdefault(sort, []).append(index)
    moved: dict[int, int] = {}
    boxes: list[Box] = []
    for group in alike.values():
        parts = [group] if len(group) >= GROUP_FROM else [[index] for index in group]
        for part in parts:
            moved |= dict.fromkeys(part, len(boxes))
            boxes.append(_group_box([picture.boxes[index] for index in part]))
    ends = {(moved[arrow.source], moved[arrow.target]): arrow.when for arrow in picture.arrows}
    return Picture(picture.name, tuple(boxes), tuple(Arrow(*pair, when) for pair, when in ends.items()))


_WORST_FIRST = (
    StepStatus.FAILED,
    StepStatus.TIMED_OUT,
    BLOCKED,
    StepStatus.RUNNING,
    StepStatus.READY,
    StepStatus.PENDING,
    StepStatus.CANCELLED,
    StepStatus.SKIPPED,
    StepStatus.COMPLETED,
)


def _group_box(boxes: Sequence[Box]) -> Box:
    first = boxes[0]
    if len(boxes) == 1:
        return first
    statuses = Counter(box.status for box in boxes if box.status is not None)
    return Box(
        id=f"{first.id} … {boxes[-1].id}",
        key=first.key,
        kind=first.kind,
        doer=first.doer,
        status=next((str(status) for status in _WORST_FIRST if status in statuses), None),
        tally=Tally(len(boxes), statuses),
        members=tuple(box.id for box in boxes),
        description=counted(len(boxes), "step"),
    )
