"""I3, I4 and I5: what may start, when, and how often; and that what has ended stays so."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from planloom.core.events import (
    ApprovalAnswered,
    ApprovalRequested,
    CallEnded,
    CallStarted,
    ReplanRequested,
    ResultRefused,
    RetryScheduled,
    RunStopping,
    SpeculationAnswered,
    SpeculationSettled,
    StepDispatched,
    StepExpanded,
    StepFailed,
    StepSkipped,
    StepSpeculated,
    StepSucceeded,
    SubPlanStarted,
    WaitStarted,
)
from planloom.core.result import RunStatus, SkipReason
from planloom.errors import EvaluationError, MissingValueError, PlanError
from planloom.plan.inputs import check_inputs
from planloom.plan.policy import Effects, JoinRule, OnError
from planloom.plan.terms import truthy
from planloom.testing.history.picture import UndecidableError, View

if TYPE_CHECKING:
    from planloom.ports import Recorded
    from planloom.testing.history.picture import RunPart, RunPicture
    from planloom.testing.history.violation import Findings

BEGINS = (StepDispatched, StepExpanded, SubPlanStarted, WaitStarted, ApprovalRequested)
_TRIES = (*BEGINS, StepSpeculated, RetryScheduled, ReplanRequested)
_AFTER_THE_END = (ResultRefused, SpeculationAnswered, SpeculationSettled)
CANNOT_RESOLVE = (MissingValueError, EvaluationError)


class Starts:
    """Judges what begins, is skipped, or is tried again."""

    def __init__(self, picture: RunPicture, findings: Findings) -> None:
        self.picture = picture
        self.findings = findings
        self.places: dict[tuple[int, str], list[RunPart]] = {}
        self.confirmed: dict[str, StepSpeculated] = {}

    def look(self, entry: Recorded) -> bool:
        event, picture = entry.event, self.picture
        if picture.finished is not None and not isinstance(event, ResultRefused):
            self.findings.accuse("I5", entry.seq, getattr(event, "step", ""), f"{_name(event)} after the run's end")
            return False
        if isinstance(event, RunStopping):
            before = picture.stops[-1].status if picture.stops else None
            if before is RunStatus.CANCELLED or (before is not None and event.status is RunStatus.FAILED):
                self.findings.accuse("I5", entry.seq, "", f"the run stops as {before} and is stopped as {event.status}")
            return True
        part = picture.parts.get(getattr(event, "step", ""))
        if part is None:
            return True
        if part.status is not None and not isinstance(event, _AFTER_THE_END):
            self._accuse("I5", entry, f"{_name(event)} after it had ended as {part.status}")
            return False
        if isinstance(event, _TRIES) or (isinstance(event, StepSucceeded) and event.reused):
            self._may_begin(entry, part)
        self._of_step(entry, part)
        return True

    def _of_step(self, entry: Recorded, part: RunPart) -> None:
        event = entry.event
        if isinstance(event, ApprovalRequested) and event.attempt:
            self._question(entry, part, event)
        elif isinstance(event, BEGINS):
            self._begin(entry, part)
        elif isinstance(event, ApprovalAnswered):
            self._answer(entry, part, event)
        elif isinstance(event, StepSucceeded) and event.reused:
            self._reused(entry, part)
        elif isinstance(event, StepSkipped):
            self._skip(entry, part, event)
        elif isinstance(event, StepFailed) and not part.begun and part.parent is None:
            self._upstream_ended(entry, part, "failed")
        elif isinstance(event, CallStarted):
            self._call(entry, part, event)
        elif isinstance(event, CallEnded):
            self._call_ended(entry, part, event)
        elif isinstance(event, StepSpeculated):
            self._ahead(entry, part, event)
        elif isinstance(event, SpeculationSettled):
            self._settled(entry, part, event)

    def _accuse(self, law: str, entry: Recorded, what: str) -> None:
        self.findings.accuse(law, entry.seq, getattr(entry.event, "step", ""), what)

    # --- I5 ---

    def _may_begin(self, entry: Recorded, part: RunPart) -> None:
        picture, event = self.picture, entry.event
        self.findings.count("I5", "starts")
        if picture.paused and not isinstance(event, RetryScheduled | ReplanRequested):
            self._accuse("I5", entry, f"{_name(event)} in a run that rests")
        elif part.stopping or (picture.stops and isinstance(event, StepSpeculated)):
            self._accuse("I5", entry, f"{_name(event)} in a plan that stops")

    # --- I3 and I4: a step begins ---

    def _begin(self, entry: Recorded, part: RunPart) -> None:
        event = entry.event
        self.findings.count("I4", "starts")
        if part.replan != "asked" and not isinstance(event, begins_with(part)):
            self._accuse("order", entry, f"it begins with {_name(event)}, and it is a {part.step.kind} step")
            return
        if part.begun and not isinstance(event, StepDispatched):
            if not isinstance(event, StepExpanded):
                self._accuse("order", entry, "it begins again")
            return
        if part.open is not None:
            self._accuse("I4", entry, f"attempt {part.open[0].attempt} is still under way")
        if part.waits == "unknown":
            self._accuse("I3", entry, "it starts while a person is asked what came of it")
        if isinstance(event, StepDispatched):
            self._once(entry, part)
            self._permitted(entry, part, event)
            lane = self.picture.lanes.get((part.key, "ahead"))
            if lane is not None and not lane.settled:
                self._accuse("I4", entry, "it starts while an attempt ahead of its time is not settled")
        if not part.begun:
            if part.parent is None:
                self._joined(entry, part)
            self._inputs(entry, part)
        confirmed = self.confirmed.pop(part.key, None)
        if confirmed is not None and isinstance(event, StepDispatched):
            self._as_guessed(entry, part, confirmed)
        self._places(entry, part)

    def _once(self, entry: Recorded, part: RunPart) -> None:
        effects = self.picture.effects(part)
        self.findings.count("I3", "attempts without effects" if effects is Effects.NONE else f"{effects} attempts")
        if effects is Effects.ONCE and part.attempts and not part.cleared:
            self._accuse("I3", entry, f"attempt {part.attempts + 1} of what may be done only once, and nobody said so")

    # --- I4: a person's word ---

    def _question(self, entry: Recorded, part: RunPart, event: ApprovalRequested) -> None:
        """Judge whether a person is asked about what the attempt would be given, and when its time is there."""
        self.findings.count("I4", "attempts that need a person's word")
        if event.attempt != part.attempts + 1 or part.open is not None:
            self._accuse("order", entry, f"a person is asked about attempt {event.attempt}")
        if not part.begun and part.parent is None:
            self._joined(entry, part)
        try:
            args = part.entry.args.resolve(part.view)
        except (UndecidableError, *CANNOT_RESOLVE):
            return
        if event.args is not None and event.args != args:
            self._accuse("I4", entry, "a person is asked about arguments that are not those on record for it")

    def _answer(self, entry: Recorded, part: RunPart, event: ApprovalAnswered) -> None:
        asked = part.question
        if asked is not None and asked.binding != event.binding:
            self._accuse("I4", entry, "an answer counts that was given to another question")

    def _permitted(self, entry: Recorded, part: RunPart, event: StepDispatched) -> None:
        if part.question is not None and part.replan != "asked" and part.permitted != event.attempt:
            self._accuse("I4", entry, f"attempt {event.attempt} starts without the word of a person that it needs")

    # --- I3: calls inside attempts ---

    def _call(self, entry: Recorded, part: RunPart, event: CallStarted) -> None:
        if event.effects is not Effects.ONCE:
            return
        self.findings.count("I3", "once calls inside attempts")
        call = part.calls.get(event.key)
        if call is None or not call.begun:
            return
        told = call.ended.error_types if call.ended is not None and call.ended.error is not None else ()
        if call.open or "NotDoneError" not in told:
            self._accuse("I3", entry, f"call {event.key!r}, which may be made only once, is begun again")

    def _call_ended(self, entry: Recorded, part: RunPart, event: CallEnded) -> None:
        started = self.picture.started
        if event.kind != "tool" or event.error is not None or started is None or event.name not in started.tools:
            return
        call = part.calls.get(event.key)
        if self.picture.effects_of(event.name) is not Effects.NONE and (call is None or not call.open):
            self._accuse("I3", entry, f"call {event.key!r} had an effect, and no start of it is on record")

    def _joined(self, entry: Recorded, part: RunPart) -> None:
        """Judge whether a step's join rule and condition let it begin."""
        first = part.entry.join is JoinRule.ONE_SUCCESS
        if part.broken and not first:
            self._accuse("I4", entry, "it starts although a condition before it cannot be worked out")
        elif not part.unsure and not rule_met(part):
            before = f"{part.met} of {len(part.entry.upstream)} steps before it ended"
            told = f"{part.ok} well, {part.failed} badly, {part.skipped} left out"
            self._accuse("I4", entry, f"`join: {part.entry.join}` does not let it start: {before}, {told}")
        elif part.entry.when is not None and not (first and len(part.entry.upstream) > 1):
            try:
                if not truthy(part.entry.when.evaluate(View(part.instance))):
                    self._accuse("I4", entry, "it starts although its `when` does not hold")
            except UndecidableError:
                pass
            except CANNOT_RESOLVE as error:
                self._accuse("I4", entry, f"it starts although its `when` cannot be worked out: {error.message}")

    def _inputs(self, entry: Recorded, part: RunPart) -> None:
        """Judge whether all that a step is given is on record."""
        event = entry.event
        if isinstance(event, StepExpanded):
            return  # its items are judged with maps
        try:
            args = part.entry.args.resolve(part.view)
            if part.entry.key is not None:
                part.entry.key.resolve(part.view)
            if isinstance(event, SubPlanStarted) and part.entry.sub is not None:
                self._same(entry, "its inputs", event.inputs, check_inputs(part.entry.sub.plan, args))
            elif isinstance(event, ApprovalRequested):
                self._same(entry, "its message", event.message, str(args["message"]))
            elif isinstance(event, WaitStarted) and args["until"] is None and isinstance(args["seconds"], int | float):
                self._same(entry, "the seconds it waits", event.until, event.at + args["seconds"])
        except UndecidableError:
            return
        except (*CANNOT_RESOLVE, PlanError) as error:
            self._accuse("I4", entry, f"it starts although what it is given is not on record: {error.message}")

    def _same(self, entry: Recorded, what: str, found: Any, wanted: Any) -> None:
        if found != wanted:
            self._accuse("I4", entry, f"{what} are not what is on record for it")

    def _upstream_ended(self, entry: Recorded, part: RunPart, word: str) -> None:
        missing = len(part.entry.upstream) - part.met
        if missing and part.entry.join is not JoinRule.ONE_SUCCESS:
            self._accuse("I4", entry, f"it {word} before {missing} of the steps before it had ended")

    def _reused(self, entry: Recorded, part: RunPart) -> None:
        if part.parent is None:
            self._joined(entry, part)
        started = self.picture.started
        if started is not None and part.key == started.edited:
            return  # somebody's own output, whatever was done before it
        again = (SkipReason.CONDITION_FALSE, SkipReason.UPSTREAM_SKIPPED)
        for place in part.entry.upstream if part.parent is None else ():
            above = part.instance.parts[place]
            if not (above.reused or above.reason in again):
                self._accuse("I4", entry, f"it takes over an earlier result although {above.key} was done anew")

    def _skip(self, entry: Recorded, part: RunPart, event: StepSkipped) -> None:
        if event.reason is SkipReason.ON_ERROR_SKIP:
            if part.parent is not None or part.step.on_error is not OnError.SKIP:
                self._accuse("I4", entry, "its failure is skipped, and it does not say `on_error: skip`")
            return
        self.findings.count("I4", "skips")
        if part.begun or part.parent is not None:
            self._accuse("I4", entry, f"it is skipped ({event.reason}) after it began")
        elif part.met < len(part.entry.upstream) and part.entry.join is not JoinRule.ONE_SUCCESS:
            self._upstream_ended(entry, part, "was skipped")
        elif part.unsure or part.broken:
            return
        elif event.reason is SkipReason.CONDITION_FALSE:
            self._left_out(entry, part)
        elif rule_met(part):
            self._accuse(
                "I4", entry, f"it is skipped ({event.reason}) although `join: {part.entry.join}` lets it start"
            )
        elif (event.reason is SkipReason.UPSTREAM_FAILED) is not (part.failed > 0):
            self._accuse("I4", entry, f"it is skipped as {event.reason}, and {part.failed} steps before it failed")

    def _left_out(self, entry: Recorded, part: RunPart) -> None:
        if part.entry.when is None or not rule_met(part):
            self._accuse("I4", entry, "it is skipped for a condition that it does not have, or that is not looked at")
            return
        if part.met < len(part.entry.upstream):
            return
        try:
            if truthy(part.entry.when.evaluate(View(part.instance))):
                self._accuse("I4", entry, "it is skipped although its `when` holds")
        except (UndecidableError, *CANNOT_RESOLVE):
            return

    # --- I4: places ---

    def _places(self, entry: Recorded, part: RunPart) -> None:
        """Judge whether a place was free where only so many may be under way, and take it."""
        step, instance = part.step, part.instance
        wanted: list[tuple[tuple[int, str], int, str]] = []
        if step.mode == "sequential" and part.parent is None:
            wanted.append(((id(instance), "mode"), 1, "`mode: sequential`"))
        if step.concurrency is not None and not part.is_map:
            most = instance.graph.plan.concurrency.get(step.concurrency, 1)
            wanted.append(((id(instance), f"name {step.concurrency}"), most, f"`concurrency: {step.concurrency}`"))
        if step.max_parallel is not None and part.parent is not None:
            wanted.append(((id(part.parent), "items"), step.max_parallel, f"`max_parallel` of {part.parent.key}"))
        for place, most, name in wanted:
            held = [one for one in self.places.get(place, ()) if one is not part and one.holds]
            self.findings.count("I4", "places taken")
            if len(held) >= most:
                self._accuse(
                    "I4", entry, f"{name} has room for {most}, and {', '.join(one.key for one in held)} is there"
                )
            self.places[place] = [*held, part]

    # --- running ahead ---

    def _ahead(self, entry: Recorded, part: RunPart, event: StepSpeculated) -> None:
        self.findings.count("I4", "attempts ahead of their time")
        if self.picture.effects(part) is not Effects.NONE and event.role == "ahead":
            self._accuse("I4", entry, "it runs ahead of its time, and it may have an effect")
        if (part.key, event.role) in self.picture.lanes:
            self._accuse("I4", entry, "it runs ahead of its time twice")
        if event.role == "ahead" and (part.begun or part.met == len(part.entry.upstream)):
            self._accuse("I4", entry, "it runs ahead although its time has come")
        if not set(event.drafts) <= set(event.on):
            self._accuse("I4", entry, "it runs ahead on drafts that it does not wait for")

    def _settled(self, entry: Recorded, part: RunPart, event: SpeculationSettled) -> None:
        lane = self.picture.lanes.get((part.key, event.role))
        if lane is None or lane.settled:
            self._accuse("order", entry, "what ran ahead is settled, and nothing does")
        elif event.outcome == "confirmed":
            self.confirmed[part.key] = lane.event

    def _as_guessed(self, entry: Recorded, part: RunPart, event: StepSpeculated) -> None:
        try:
            text = json.dumps(part.entry.args.resolve(part.view), sort_keys=True, separators=(",", ":"))
        except (UndecidableError, *CANNOT_RESOLVE):
            return
        if sha256(text.encode()).hexdigest() != event.inputs:
            self._accuse("I4", entry, "what ran ahead was confirmed, and it was given something else")


def begins_with(part: RunPart) -> type[Any]:
    """Return the event that a step of this kind begins with."""
    if part.is_map:
        return StepExpanded
    if part.entry.is_leaf:
        return StepDispatched
    if part.step.approve is not None:
        return ApprovalRequested
    return SubPlanStarted if part.step.plan is not None else WaitStarted


def rule_met(part: RunPart) -> bool:
    """Return whether what is known of the steps before this one lets it start, by its join rule."""
    total = len(part.entry.upstream)
    match part.entry.join:
        case JoinRule.ALL_SUCCESS:
            return part.ok == total
        case JoinRule.NONE_FAILED:
            return part.ok + part.skipped == total
        case JoinRule.ONE_SUCCESS:
            return part.ok > 0 or total == 0
        case JoinRule.NONE_FAILED_MIN_ONE_SUCCESS:
            return part.ok + part.skipped == total and (part.ok > 0 or total == 0)
    return part.met == total


def _name(event: Any) -> str:
    return type(event).__name__
