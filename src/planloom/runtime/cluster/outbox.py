"""Attempts as work that is put where workers find it: how it is written, placed, and written anew.

Rule 1: each time it is put somewhere it has a token of its own; what was said with an earlier one counts no longer.
Rule 2: what may happen only once is begun only by whoever the record says has it: it needs a claim, and so does
what is meant for certain workers, which may be given to others meanwhile.
"""

from __future__ import annotations

import json
from dataclasses import replace
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from planloom.journal.postgres.work import Work
from planloom.plan.frozen import frozen
from planloom.plan.policy import Effects
from planloom.transport.fitting import place_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from planloom.core.commands import RunStep
    from planloom.transport.wire import WireFormat

GRACE_S = 2.0
"""Seconds that an attempt has to answer once it was asked to stop, or its time is over; then it is given up."""


@frozen
class Placing:
    """How attempts are put where workers find them.

    Attributes:
        capability_of: Returns the capability whose workers make an attempt; raises PlanError where none does.
        place_of_labels: Returns labels as a place.
        lease_s: How long a worker may be silent that has an attempt.
        patience_s: How long workers with certain labels are waited for.
    """

    wire: WireFormat
    capability_of: Callable[[RunStep], str]
    place_of_labels: Callable[[Mapping[str, str]], str]
    lease_s: float = 30.0
    patience_s: float = 10.0

    def new_work(self, request: RunStep, lane: str, now: float) -> Work:
        """Return an attempt as work.

        Raises:
            PlanError: No capability covers it, or more than one does.
        """
        capability = self.capability_of(request)
        wanted = place_of(request, self.patience_s)
        place = self.place_of_labels({**wanted.prefer, **wanted.require})
        token = token_hex(16)
        body = {
            "v": 1,
            "lane": lane,
            "lease_s": self.lease_s,
            "at": [request.run_id, request.key, request.attempt, request.epoch],
            "token": token,
            "needs_claim": bool(place) or request.effects is Effects.ONCE,
            "once": request.effects is Effects.ONCE,
            "require": self.place_of_labels(wanted.require),
            "end_at": request.deadline_at,
            "step": self.wire.request_out(request, now),
        }
        stop_at = None if request.deadline_at is None else request.deadline_at + GRACE_S
        return Work(
            request.run_id,
            request.key,
            request.attempt,
            request.epoch,
            token,
            capability,
            place,
            written(body),
            now,
            stop_at=stop_at,
        )

    def moved(self, work: Work, now: float) -> Work | None:
        """Return work for workers that were not preferred; None: no other ones will do."""
        told = json.loads(work.body)
        if told["require"] == work.place:
            return None
        told["needs_claim"] = bool(told["require"]) or told["once"]
        return again(replace(work, place=told["require"], body=written(told)), now)

    def patient_until(self, work: Work) -> float | None:
        """Return until when workers of its place are waited for; None: as long as it takes."""
        if not work.place or work.claimed_by is not None:
            return None
        return (work.sent_at or work.send_at) + self.patience_s


def again(work: Work, now: float) -> Work:
    """Return work as it is put where workers find it anew."""
    token = token_hex(16)
    told = json.loads(work.body)
    told["token"] = token
    return replace(work, token=token, body=written(told), send_at=now, sent_at=None, claimed_by=None)


def as_sent(work: Work, now: float) -> str:
    """Return the body of a command as it is published now: what it may take counts from now."""
    if work.stop_at is None:
        return work.body  # it may take as long as it takes
    told: dict[str, Any] = json.loads(work.body)
    if told["end_at"] is not None:
        told["step"]["left_s"] = told["end_at"] - now
    return written(told)


def needs_claim(work: Work) -> bool:
    return bool(json.loads(work.body)["needs_claim"])


def is_once(work: Work) -> bool:
    """Return whether what it does may happen only once."""
    return bool(json.loads(work.body)["once"])


def written(body: dict[str, Any]) -> str:
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False)
