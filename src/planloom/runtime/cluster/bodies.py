"""Messages of a cluster as an agent reads and writes them.

Rule 1: whoever sent a message had the right to its subject, and no other: what its body says has to be of that subject.
Rule 2: what cannot be read is noise: it says nothing about any run, and stops nobody.
"""

from __future__ import annotations

import json
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from planloom.errors import ProtocolError, field_problems
from planloom.plan.policy import ResourceLimits
from planloom.runtime.cluster.inputs import SIGNALS, Claimed, PersonSaid, Stated
from planloom.runtime.cluster.outbox import written
from planloom.transport.nats import subjects

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planloom.core.events import Fact
    from planloom.journal.postgres.work import Work, WorkKey
    from planloom.transport.event import Event
    from planloom.transport.wire import WireFormat

VERSION = 1


class EarlierRun(BaseModel):
    """Which run another one goes on from, and how: as if a step had come to another output, or from what failed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_id: str
    step: str | None = None
    """None: what failed is done anew."""
    output: Any = None
    repeat_effects: bool = False


class PlanSubmission(BaseModel):
    """What somebody asks for: a run of a plan, or one that goes on from an earlier run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    v: int = VERSION
    run_id: str
    plan: dict[str, Any] = {}
    earlier: EarlierRun | None = None
    """With it, plan, inputs, limits and whatever else belongs to a run are those of that one."""
    inputs: dict[str, Any] = {}
    limits: dict[str, Any] | None = None
    allow: tuple[str, ...] | None = None
    module: str = ""
    parallel: bool = True
    track_cost: bool = True
    asked: str = ""
    """What tells one request from another, for the record; "": all that is submitted does."""
    nonce: str = ""
    """What tells this submission from an earlier one of the same."""

    def written(self) -> bytes:
        return written(self.model_dump(mode="json")).encode("utf-8", "surrogatepass")

    @property
    def request(self) -> str:
        """Return what is asked for, for the record: under one name it is taken on once, however often it comes."""
        return self.asked or self.ticket

    @property
    def ticket(self) -> str:
        """Return what tells this submission from another one of the same name, where it is refused."""
        return sha256(self.written()).hexdigest()

    @property
    def own_limits(self) -> ResourceLimits | None:
        return None if self.limits is None else ResourceLimits(**self.limits)


def read_submission(subject: str, body: bytes) -> PlanSubmission:
    """Return what was submitted.

    Raises:
        ProtocolError: It is none, or of another run than its subject says.
    """
    try:
        found = PlanSubmission.model_validate(_object(body))
    except ValidationError as error:
        raise ProtocolError(f"this is no submission: {'; '.join(field_problems(error))}") from error
    if subjects.submission(found.run_id) != subject:
        raise ProtocolError("a submission was made under another run's name")
    return found


def read_outcome(subject: str, body: bytes, wire: WireFormat, now: float) -> Stated:
    """Return what an attempt came to, as somebody says who may speak for its capability.

    Raises:
        ProtocolError: It says nothing, or of another attempt than its subject does.
    """
    told = _object(body)
    run_id, key = _attempt(told)
    speaks_for = _capability(subject)
    _same(subject, subjects.outcome(speaks_for, run_id, *key))
    return Stated(run_id, key, _text(told, "token"), wire.fact_in(told.get("fact"), now), True, speaks_for)


def read_asked(subject: str, body: bytes, wire: WireFormat, now: float) -> Stated | Claimed:
    """Return what a worker asks.

    Raises:
        ProtocolError: It is nothing to ask, or about another attempt than its subject says.
    """
    told = _object(body)
    run_id, key = _attempt(told)
    speaks_for = _capability(subject)
    _same(subject, subjects.ask(speaks_for, run_id, *key))
    token = _text(told, "token")
    if told.get("what") == "claim":
        return Claimed(run_id, key, token, _text(told, "worker"), bool(told.get("redelivered")), speaks_for)
    return Stated(run_id, key, token, wire.fact_in(told.get("fact"), now), False, speaks_for)


def answered(*, wanted: bool, problem: str = "") -> bytes:
    """Return what a worker is answered."""
    return written({"wanted": wanted, "problem": problem}).encode()


def read_signal(subject: str, body: bytes, wire: WireFormat, now: float) -> PersonSaid:
    """Return what somebody says to a run.

    Raises:
        ProtocolError: It says nothing, to another run than its subject says, or what is not said under this name.
    """
    told = _object(body)
    run_id = _text(told, "run_id")
    name = subjects.untoken(subject.rpartition(".")[2])
    _same(subject, subjects.signal(run_id, name))
    fact = wire.fact_in(told.get("fact"), now)
    if type(fact) is not SIGNALS.get(name):
        raise ProtocolError(f"a {type(fact).__name__} was said as {name!r}")
    return PersonSaid(run_id, fact)


def signal_body(run_id: str, fact: Fact, wire: WireFormat) -> bytes:
    return written({"v": VERSION, "run_id": run_id, "fact": wire.fact_out(fact)}).encode("utf-8", "surrogatepass")


def stop_body(stopped: Sequence[Work]) -> bytes:
    """Return what workers are told of attempts that are to stop."""
    return written({"v": VERSION, "at": [[work.run_id, *work.key] for work in stopped]}).encode()


def command_subject(work: Work) -> str:
    return subjects.command(work.capability, work.place, work.run_id, *work.key)


def outcome_subject(work: Work) -> str:
    return subjects.outcome(work.capability, work.run_id, *work.key)


def attempt_of_command(body: bytes) -> tuple[str, WorkKey, str]:
    """Return run, attempt and token that a command names.

    Raises:
        ProtocolError: It names none.
    """
    told = _object(body)
    return *_attempt(told), _text(told, "token")


def news_body(event: Event) -> bytes:
    return written(event.to_dict()).encode("utf-8", "surrogatepass")


def _object(body: bytes) -> dict[str, Any]:
    try:
        told = json.loads(body.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"this is no JSON: {type(error).__name__}") from error
    if not isinstance(told, dict) or told.get("v") != VERSION:
        raise ProtocolError("this is no message of this version")
    return told


def _attempt(told: dict[str, Any]) -> tuple[str, WorkKey]:
    at = told.get("at")
    if not isinstance(at, list) or [type(one) for one in at] != [str, str, int, int]:
        raise ProtocolError("a message names no attempt")
    run_id, step, attempt, epoch = at
    return run_id, (step, attempt, epoch)


def _text(told: dict[str, Any], name: str) -> str:
    found = told.get(name)
    if not isinstance(found, str) or not found or len(found) > 1_000:
        raise ProtocolError(f"a message has no {name}")
    return found


def _capability(subject: str) -> str:
    parts = subject.split(".")
    if len(parts) < 3:
        raise ProtocolError("a message came over no subject of ours")
    return subjects.untoken(parts[2])


def _same(subject: str, own: str) -> None:
    if subject != own:
        raise ProtocolError("a message is about another attempt than its subject says")
