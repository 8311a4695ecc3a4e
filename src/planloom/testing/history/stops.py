"""How the end of a step, and a stop, reach others in the picture of a run: what ends by itself, and who may start.

Rule 1: as in `picture.py`: nothing here asks the heart.
"""

from __future__ import annotations

from planloom.core.result import SkipReason, StepStatus
from planloom.errors import EvaluationError, MissingValueError
from planloom.plan.policy import JoinRule
from planloom.plan.terms import truthy
from planloom.testing.history.picture import Instance, RunPart, RunPicture, UndecidableError, View

ENOUGH_ITEMS = 5
"""Items of a map that have to have ended before `max_failure_rate` is looked at."""


def end(picture: RunPicture, part: RunPart, status: StepStatus, *, by_itself: bool = False) -> None:
    if part.status is None:
        part.status, part.by_itself = status, by_itself
        tell(picture, part)


def tell(picture: RunPicture, part: RunPart) -> None:
    """Let what it is in, and what waits for it, know that a step has ended."""
    ended = [part]
    while ended:
        one = ended.pop()
        one.seq = picture.seq
        one.waits, one.until = "", None
        if one.parent is not None:
            one.parent.left -= 1
            if one.parent.left and _fails_too_often(one.parent):
                stop_parts(picture, one.parent, keep=False)
            continue
        one.instance.left -= 1
        for place in one.entry.downstream:
            below = one.instance.parts[place]
            _count(one, below)
            if below.status is not None or not below.instance.stopping or below.cleans_up:
                continue
            first = below.entry.join is JoinRule.ONE_SUCCESS and below.ok == 1
            if not below.begun and (below.met == len(below.entry.upstream) or first):
                _not_started(picture, below)
                ended.append(below)


def _count(part: RunPart, below: RunPart) -> None:
    """Count an ended step for one that waits for it: well, badly, or left out."""
    below.met += 1
    if part.status is StepStatus.SKIPPED:
        if part.reason is SkipReason.UPSTREAM_FAILED:
            below.failed += 1
        else:
            below.skipped += 1
        return
    if part.status is not StepStatus.COMPLETED and not part.tolerated:
        below.failed += 1
        return
    condition = below.entry.conditions.get(part.entry.place)
    holds = True
    if condition is not None:
        try:
            holds = truthy(condition.evaluate(View(part.instance)))
        except UndecidableError:
            below.unsure = True
        except (MissingValueError, EvaluationError):
            below.broken, holds = True, False
    if holds:
        below.ok += 1
    else:
        below.skipped += 1


def _fails_too_often(part: RunPart) -> bool:
    rate = part.step.max_failure_rate
    done = len(part.items or ()) - part.left
    return rate is not None and not part.halted_parts and done >= ENOUGH_ITEMS and part.bad_items > rate * done


def stop(picture: RunPicture, instance: Instance, *, keep: bool) -> None:
    """Stop a plan: what waits ends now, what is under way when it answers, the rest with what it waits for."""
    instance.cleans_up = keep and (instance.cleans_up or not instance.stopping)
    instance.stopping = True
    for part in instance.parts:
        _halt(picture, part)


def stop_parts(picture: RunPicture, part: RunPart, *, keep: bool) -> None:
    part.halted_parts = True
    if part.inner is not None:
        stop(picture, part.inner, keep=keep)
    for item in part.items or ():
        _halt(picture, item)


def _halt(picture: RunPicture, part: RunPart) -> None:
    if part.status is not None or (part.parent is None and part.cleans_up and not part.halted_parts):
        return
    if part.open is not None:
        return
    if part.items is not None or part.inner is not None:
        stop_parts(picture, part, keep=part.instance.cleans_up and not part.halted_parts)
    elif part.begun:
        end(picture, part, StepStatus.CANCELLED, by_itself=True)
    elif part.parent is not None or part.met == len(part.entry.upstream) or part.question is not None:
        _not_started(picture, part)
        tell(picture, part)


def _not_started(picture: RunPicture, part: RunPart) -> None:
    part.status, part.reason, part.by_itself = StepStatus.SKIPPED, SkipReason.NOT_STARTED, True
    picture.imperfect += 1
