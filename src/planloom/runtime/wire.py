"""Requests and facts as JSON and back, for workers in other processes (`transport.wire.WireFormat`).

Rule 1: a field of `RunStep` that is not written here is refused by a test, not forgotten.
Rule 2: times travel as differences; a fact that comes in happened when it came in, and took as long as it says.
Rule 3: what a worker is not told of it cannot leak: of the run's pinned tools it gets those that the step names.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from planloom.core.commands import Grant, RunStep
from planloom.core.events import CallEnded, ToolFacts
from planloom.core.prices import ModelFacts
from planloom.errors import JournalFormatError, ProtocolError
from planloom.journal.codec import decode, encode
from planloom.plan.flow import FlowPolicy
from planloom.plan.model import Step
from planloom.plan.policy import Effects
from planloom.runtime.clock import moved
from planloom.transport.fitting import tools_of
from planloom.transport.plausible import check_times

if TYPE_CHECKING:
    from planloom.core.events import Fact

_STEP: TypeAdapter[Step] = TypeAdapter(Step)


class JsonWire:
    """Writes and reads with the journal's own codec."""

    def request_out(self, request: RunStep, now: float) -> dict[str, Any]:
        step = request.step
        named = {name: request.tools[name] for name in tools_of(step) if name in request.tools}
        return {
            "run_id": request.run_id,
            "key": request.key,
            "step": _STEP.dump_python(step, mode="json", by_alias=True, exclude_defaults=True),
            "attempt": request.attempt,
            "epoch": request.epoch,
            "args": request.args,
            "effects": request.effects,
            "after_durable": request.after_durable,
            "idempotency_key": request.idempotency_key,
            "left_s": None if request.deadline_at is None else request.deadline_at - now,
            "allow": [sorted(names) for names in request.allow],
            "grant": _flat(request.grant),
            "models": {name: facts.to_dict() for name, facts in request.models.items()},
            "recorded": {key: self.fact_out(ended) for key, ended in request.recorded.items()},
            "role": request.role,
            "answer": request.answer,
            "tools": {name: _flat(facts) for name, facts in named.items()},
            "labels": sorted(request.labels),
            "flow": None if request.flow is None else request.flow.model_dump(mode="json"),
        }

    def request_in(self, document: Any, now: float) -> RunStep:
        try:
            told = dict(document)
            left_s, tools = told.pop("left_s"), told.pop("tools")
            flow = told.pop("flow")
            known = {name: _facts(facts) for name, facts in tools.items()}
            return RunStep(
                **told
                | {
                    "step": _STEP.validate_python(told["step"]),
                    "effects": Effects(told["effects"]),
                    "deadline_at": None if left_s is None else now + left_s,
                    "allow": tuple(frozenset(names) for names in told["allow"]),
                    "grant": Grant(**told["grant"]),
                    "models": {name: ModelFacts.from_dict(facts) for name, facts in told["models"].items()},
                    "recorded": {key: _call(self._read(ended)) for key, ended in told["recorded"].items()},
                    "tools": known,
                    "labels": frozenset(told["labels"]),
                    "flow": None if flow is None else FlowPolicy.model_validate(flow),
                }
            )
        except (KeyError, TypeError, ValueError, AttributeError, ValidationError) as error:
            raise ProtocolError(f"this is no attempt to make: {type(error).__name__}: {error}") from error

    def fact_out(self, fact: Fact) -> list[Any]:
        kind, version, body, blobs = encode(fact)
        return [kind, version, body, {blob.sha256: blob.text for blob in blobs}]

    def fact_in(self, document: Any, now: float) -> Fact:
        fact = self._read(document)
        check_times(fact)
        return moved(fact, now - getattr(fact, "at", now))

    def _read(self, document: Any) -> Fact:
        try:
            kind, version, body, apart = document
            fact: Fact = decode(kind, version, body, apart.__getitem__)  # type: ignore[assignment]  # checked by its taker
        except (JournalFormatError, TypeError, ValueError, KeyError, AttributeError) as error:
            raise ProtocolError(f"this is no fact: {error}") from error
        return fact


def _flat(value: Grant | ToolFacts) -> dict[str, Any]:
    """Return its fields; what `asdict` does beyond that, none of them needs."""
    return {one.name: getattr(value, one.name) for one in fields(value)}


def _facts(told: dict[str, Any]) -> ToolFacts:
    read: dict[str, Any] = {name: tuple(told[name]) for name in ("source", "accepts", "cleans")}
    read["effects"] = None if told["effects"] is None else Effects(told["effects"])
    return ToolFacts(**told | read)


def _call(fact: Fact) -> CallEnded:
    if not isinstance(fact, CallEnded):
        raise ProtocolError(f"a {type(fact).__name__} is not what a call came to")
    return fact
