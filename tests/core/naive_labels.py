"""What every step of a run carries, worked out once more: from the plan's own text and the record, without the heart.

Rule 1: references are found by their looks in the text of a field, not by how they are compiled.
Rule 2: nothing is remembered but what the record says so far; each event is taken by itself, in order.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from planloom.core.events import (
    AttemptFailed,
    AttemptSucceeded,
    CallEnded,
    Event,
    ReplanRequested,
    RunStarted,
    StepDispatched,
    StepExpanded,
    StepFailed,
    StepReplanned,
    StepSkipped,
    StepSucceeded,
    SubPlanStarted,
    ToolFacts,
)

Labels = frozenset[str]
NONE: Labels = frozenset()
_STEP = re.compile(r"steps\.(\w+)\.")
_INPUT = re.compile(r"inputs\.(\w+)")


@dataclass
class _Scope:
    """One plan instance: its steps as documents, what each input carries, what decided that it runs."""

    steps: Mapping[str, dict[str, Any]]
    outputs: Any
    given: dict[str, Labels] = field(default_factory=dict)
    control: Labels = NONE


class NaiveLabels:
    """The labels after a record.

    Attributes:
        of: By step key, what others see of it.
        told: By step key, what its last attempt was given.
        asked: Steps whose next attempt asks for a plan in their place.
    """

    def __init__(self, journal: Iterable[Event]) -> None:
        self.of: dict[str, Labels] = {}
        self.told: dict[str, Labels] = {}
        self._calls: dict[str, Labels] = {}
        self._tools: Mapping[str, ToolFacts] = {}
        self._scopes: dict[str, _Scope] = {}
        self.asked: set[str] = set()
        self._tried: set[str] = set()
        self._parts: dict[str, list[str]] = {}
        for event in journal:
            self._take(event)

    def of_key(self, key: str) -> Labels:
        return self.of.get(key, NONE)

    # --- where a key belongs ---

    def _place(self, key: str) -> tuple[str, str]:
        """Return the scope of a key and the id of its step: `m[0]/a[1]` is step `a` of scope `m[0]/`."""
        prefix, slash, own = key.rpartition("/")
        return prefix + slash, own.partition("[")[0]

    def step(self, key: str) -> dict[str, Any]:
        prefix, step_id = self._place(key)
        return self._scopes[prefix].steps[step_id]

    def _seen(self, prefix: str, value: Any) -> Labels:
        """Return what a text of this scope refers to carries."""
        text, scope = json.dumps(value), self._scopes[prefix]
        found = NONE
        for name in _STEP.findall(text):
            found |= self.of_key(prefix + name)
        for name in _INPUT.findall(text):
            found |= scope.given.get(name, NONE)
        return found

    def _control(self, key: str) -> Labels:
        prefix, step_id = self._place(key)
        step = self._scopes[prefix].steps[step_id]
        conditions = [need["when"] for need in step.get("needs", ()) if isinstance(need, dict)]
        return self._scopes[prefix].control | self._seen(prefix, [step.get("when"), step.get("for_each"), conditions])

    def flows_in(self, key: str) -> Labels:
        """Return what an attempt of this step would be given now, and what decides that it is made."""
        step, prefix = self.step(key), self._place(key)[0]
        given = NONE if "plan" in step else self._seen(prefix, [step.get(name) for name in ("with", "wait", "approve")])
        return self._control(key) | given | (self.of_key(key) if key in self.asked else NONE)

    def _inputs(self, key: str) -> dict[str, Labels]:
        prefix = self._place(key)[0]
        return {name: self._seen(prefix, value) for name, value in self.step(key).get("with", {}).items()}

    def _facts(self, key: str) -> ToolFacts | None:
        return self._tools.get(self.step(key).get("tool", ""))

    # --- events ---

    def _take(self, event: Event) -> None:
        match event:
            case RunStarted():
                self._tools = event.tools
                self._scopes[""] = _scope(event.plan.to_dict())
            case StepDispatched():
                self.told[event.step] = self.flows_in(event.step)
                self._tried.add(event.step)
            case CallEnded():
                self._calls[event.step] = self._calls.get(event.step, NONE) | frozenset(event.labels)
            case ReplanRequested():
                self.asked.add(event.step)
            case AttemptSucceeded() if event.step in self.asked:
                self.told[event.step] |= frozenset(event.labels)
            case AttemptSucceeded():
                self.of[event.step] = self._after(event.step) | frozenset(event.labels)
            case AttemptFailed() if event.step not in self.asked:
                self._failed(event.step, frozenset(event.labels))
            case StepExpanded():
                self._parts[event.step] = [f"{event.step}[{place}]" for place in range(len(event.items))]
            case SubPlanStarted():
                self._open(event.step, self.step(event.step)["plan"], self._control(event.step))
            case StepReplanned():
                self.asked.discard(event.step)
                self._open(event.step, event.plan.to_dict(), self.told[event.step])
            case StepSucceeded():
                self.of[event.step] = self._closed(event.step)
            case StepFailed() | StepSkipped():
                self._failed(event.step, NONE)
            case _:
                pass

    def _open(self, key: str, plan: dict[str, Any], control: Labels) -> None:
        scope = _scope(plan)
        scope.given, scope.control = self._inputs(key), control
        self._scopes[f"{key}/"] = scope
        self._parts[key] = [f"{key}/{step_id}" for step_id in scope.steps]

    def _after(self, key: str) -> Labels:
        found, facts = self.told[key], self._facts(key)
        if facts is not None:
            found = (found - frozenset(facts.cleans)) | _brings(facts)
        return found | self._calls.get(key, NONE)

    def _closed(self, key: str) -> Labels:
        step = self.step(key)
        scope = self._scopes.get(f"{key}/")
        if scope is not None:
            return self._of_outputs(f"{key}/", scope)
        if key in self._parts:
            parts = self._parts[key]
            return NONE.union(*map(self.of_key, parts)) if parts else self._control(key)
        return self.flows_in(key) if "wait" in step else NONE

    def _of_outputs(self, prefix: str, scope: _Scope) -> Labels:
        if scope.outputs is not None:
            seen = self._seen(prefix, scope.outputs)
            return seen if _STEP.search(json.dumps(scope.outputs)) else seen | scope.control
        above = {name for step in scope.steps.values() for name in _needed(step)}
        last = [self.of_key(prefix + name) for name in scope.steps if name not in above]
        return NONE.union(*last) if last else scope.control

    def _failed(self, key: str, reported: Labels) -> None:
        parts = map(self.of_key, self._parts.get(key, ()))
        found = reported.union(self.flows_in(key), self.of_key(key), self.told.get(key, NONE), *parts)
        found = found.union(self._calls.get(key, NONE), *self._inputs(key).values())
        facts = self._facts(key)
        if facts is not None and key in self._tried:
            found |= _brings(facts)
        self.of[key] = found


def _brings(facts: ToolFacts) -> Labels:
    return frozenset(facts.source) | (frozenset({"secret"}) if facts.secret else NONE)


def _scope(plan: dict[str, Any]) -> _Scope:
    return _Scope({step["id"]: step for step in plan["steps"]}, plan.get("outputs"))


def _needed(step: dict[str, Any]) -> set[str]:
    """Return the steps that a step waits for: those it names, and those it refers to."""
    named = {need["step"] if isinstance(need, dict) else need for need in step.get("needs", ())}
    own = {name: value for name, value in step.items() if name not in ("plan", "needs")}
    return named | set(_STEP.findall(json.dumps(own)))
