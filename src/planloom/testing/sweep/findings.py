"""What a story shows that must not be: compared with the same run undisturbed, and with the laws of a record.

Rule 1: tools are asked first: where one of them contradicts itself, what follows is not held against the engine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from planloom.core.events import AttemptFailed, AttemptSucceeded, CallEnded, OutcomeUnknown, StepResolved
from planloom.plan.policy import Effects
from planloom.runtime.replay import diverges
from planloom.testing.history.check import check_history
from planloom.testing.history.violation import LoggedCall
from planloom.testing.sweep.story import RUN_ID

if TYPE_CHECKING:
    from planloom.core.result import RunResult, StepResult
    from planloom.ports import Recorded
    from planloom.testing.sweep.calls import MadeCall
    from planloom.testing.sweep.story import Life, Story

CrashKind = Literal["tool", "lost", "doubled", "early", "law", "outcome", "stuck", "own"]
KINDS: dict[CrashKind, str] = {
    "tool": "a tool is not what it declares to be, or not repeatable",
    "lost": "what was on record, or had to be done, is not there",
    "doubled": "what was on record, or may be done once, was done again",
    "early": "an effect began before its start was on record",
    "law": "the record breaks a law",
    "outcome": "the run came to something else",
    "stuck": "the run neither ended nor waited for anybody, or broke",
    "own": "a law of the caller's own is broken",
}


@dataclass(frozen=True, slots=True)
class CrashFinding:
    """One thing that must not be, in a sentence."""

    kind: CrashKind
    what: str


def come_to(result: RunResult) -> dict[str, Any]:
    """Return what a run came to, without times, costs and numbers of attempts."""

    def of(step: StepResult) -> Any:
        return step.status.value, step.output, step.skip_reason, [of(part) for part in step.parts]

    return {"status": result.status.value, "output": result.output} | {
        f"step {step.id}": of(step) for step in result.steps
    }


def unknown_outcomes(story: Story) -> int:
    return sum(isinstance(entry.event, OutcomeUnknown) for entry in story.record)


def findings_of(story: Story, whole: Story) -> list[CrashFinding]:
    """Return what is wrong with a story.

    Args:
        whole: The same run undisturbed; may be the story itself.
    """
    about_tools = list(_contradictions(story, whole))
    if about_tools:
        return about_tools
    found = [*_on_record(story), *_done(story, whole), *_differences(story, whole)]
    found += (finding for life in story.lives for finding in _again(story, life))
    return found


# --- tools ------------------------------------------------------------------------------------


def _contradictions(story: Story, whole: Story) -> Iterator[CrashFinding]:
    """Find tools that give two answers to one question."""
    answers: dict[Any, MadeCall] = {}
    for made in (*whole.made, *(made for made in story.made if story is not whole)):
        if not made.ended or made.not_done:
            continue
        asked = (made.tool, made.step, made.key, repr(made.args), made.attempt if made.sees_attempt else 0)
        first = answers.setdefault(asked, made)
        if first.sees_attempt and first.error != made.error:
            continue
        if (first.output, first.error) == (made.output, made.error):
            continue
        if first in whole.made and made not in whole.made:
            when = f"{first.answer} undisturbed, and {made.answer} here"
        else:
            when = f"first {first.answer}, then {made.answer}"
        why = (
            "declares to be idempotent, and with the key"
            if made.effects is Effects.IDEMPOTENT
            else "is not repeatable: with the key"
        )
        yield CrashFinding("tool", f"tool {made.tool!r} {why} {made.key!r} and {made.args!r} it {when}")


# --- the record -------------------------------------------------------------------------------


def _on_record(story: Story) -> Iterator[CrashFinding]:
    for life in story.lives:
        if life.after[: len(life.before)] != life.before:
            yield CrashFinding("lost", "what was on record before a restart is not on record after it")
    record = story.record
    # Of an agent's own tools the record does not say what they do; `_done` and `_again` look at their calls.
    calls = [LoggedCall(made.step, made.attempt, made.key, made.tool) for made in story.made if made.is_all]
    for violation in check_history(record, tool_calls=calls, before=story.lives[-1].before, run_id=RUN_ID):
        yield CrashFinding("law", str(violation))
    divergence = diverges(RUN_ID, record)
    if divergence is not None:
        yield CrashFinding("law", f"decided again, the record comes to something else: {divergence}")


def _again(story: Story, life: Life) -> Iterator[CrashFinding]:
    """Find what was called in a life although what it came to was on record before."""
    ended, completed, calls = _known(life.before)
    for made in story.made[life.called :]:
        where = f"tool {made.tool!r} of step {made.step!r}, attempt {made.attempt}"
        if (made.step, made.attempt) in ended or made.step in completed:
            yield CrashFinding("doubled", f"{where}, was called again although the attempt is on record")
        elif made.has_start and made.key in calls:
            yield CrashFinding("doubled", f"{where}, was called again although the call {made.key!r} is on record")


def _known(record: list[Recorded]) -> tuple[set[tuple[str, int]], set[str], set[str]]:
    """Return the attempts that ended, the steps that one of them completed, and the keys of calls that ended."""
    ended: set[tuple[str, int]] = set()
    completed: set[str] = set()
    calls: set[str] = set()
    for entry in record:
        event = entry.event
        if isinstance(event, AttemptSucceeded | AttemptFailed):
            ended.add((event.step, event.attempt))
            if isinstance(event, AttemptSucceeded):
                completed.add(event.step)
        elif isinstance(event, CallEnded) and event.kind == "tool" and event.error is None:
            calls.add(f"{RUN_ID}/{event.step}/{event.key}")
    return ended, completed, calls


# --- what was done ----------------------------------------------------------------------------


def _done(story: Story, whole: Story) -> Iterator[CrashFinding]:
    """Find effects that happened too often, too early, or not at all."""
    usual = Counter(made.key for made in whole.made if made.effects is Effects.ONCE and not made.not_done)
    often = Counter(made.key for made in story.made if made.effects is Effects.ONCE and not made.not_done)
    for key, times in often.items():
        if times > max(1, usual[key]):
            yield CrashFinding("doubled", f"what may be done once was done {times} times, with the key {key!r}")
    for made in story.made:
        if made.recorded is False:
            yield CrashFinding(
                "early",
                f"tool {made.tool!r} of step {made.step!r} was called before its start was on record",
            )
    done = {(made.tool, made.key) for made in story.made}
    said = {entry.event.step for entry in story.record if isinstance(entry.event, StepResolved)}
    for made in whole.made:
        if made.step in said and not made.is_all:
            continue  # somebody answered for all that the step does
        if made.effects is not Effects.NONE and (made.tool, made.key) not in done:
            yield CrashFinding("lost", f"tool {made.tool!r} was never called with the key {made.key!r}")
    for life in story.lives[1:]:
        if not life.before and any(made.effects is not Effects.NONE for made in story.made[: life.called]):
            yield CrashFinding("early", "a tool with effects was called for a run that is not on record")


def _differences(story: Story, whole: Story) -> Iterator[CrashFinding]:
    if story is whole:
        return
    expected, found = come_to(whole.result), come_to(story.result)
    for what in dict.fromkeys((*expected, *found)):
        if expected.get(what) != found.get(what):
            yield CrashFinding("outcome", f"{what} came to {found.get(what)!r}, undisturbed to {expected.get(what)!r}")
    if story.seen != whole.seen:
        what = f"what is seen at the end is {story.seen!r}, undisturbed {whole.seen!r}"
        yield CrashFinding("outcome", what + _suspects(story))


def _suspects(story: Story) -> str:
    """Return which tools were called again, as they declare to bear."""
    calls = Counter((made.tool, made.effects, made.key) for made in story.made)
    again = dict.fromkeys((tool, effects) for (tool, effects, _), times in calls.items() if times > 1)
    names = [f"{tool!r}, which declares {effects.value!r}" for tool, effects in again]
    return f"; called again with the same key: {', '.join(names)}" if names else ""
