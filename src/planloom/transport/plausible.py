"""What a worker may say of an attempt in numbers and values: nothing that the engine could not reckon with or write.

Rule 1: a worker is told what to do, and believed what it did, but not that it cost less than nothing: budgets are kept
by what workers say.
"""

from __future__ import annotations

from dataclasses import astuple
from typing import TYPE_CHECKING, Any

from planloom.core.events import AttemptSucceeded
from planloom.errors import OutputError, ProtocolError
from planloom.plan.flow import MAX_LABELS, is_label
from planloom.plan.values import MAX_DEPTH, as_json

if TYPE_CHECKING:
    from planloom.core.events import Fact

MOST = 1e15
"""More than anybody has seconds, tokens, dollars or calls."""
_COUNTS = ("cost_usd", "tool_calls", "retry_after_s", "failures")
_TIMES = ("started_at", "at", "until")


def check_plausible(fact: Fact) -> None:
    """Refuse numbers below nothing or beyond all measure, and values that no step could hand on.

    Raises:
        ProtocolError: It holds one.
    """
    usage = getattr(fact, "usage", None)
    counts = [getattr(fact, name, None) for name in _COUNTS] + ([] if usage is None else list(astuple(usage)))
    if not all(count is None or _is_number(count, 0) for count in counts):
        raise ProtocolError(f"a {type(fact).__name__} counts what cannot be counted")
    values = getattr(fact, "output", None), getattr(fact, "metadata", None)
    if any(_is_deeper(value, MAX_DEPTH) for value in values):
        raise ProtocolError(f"a {type(fact).__name__} holds a value of more than {MAX_DEPTH} levels")
    labels = getattr(fact, "labels", ())
    if len(labels) > MAX_LABELS or not all(map(is_label, labels)):
        raise ProtocolError(f"a {type(fact).__name__} holds labels that are none")
    if isinstance(fact, AttemptSucceeded):
        try:
            as_json(fact.output)
        except OutputError as error:
            raise ProtocolError(f"a worker's result is no value: {error.message}") from error


def check_times(fact: Fact) -> None:
    """Refuse moments with which one cannot reckon.

    Raises:
        ProtocolError: It holds one.
    """
    moments = [getattr(fact, name, None) for name in _TIMES]
    if not all(moment is None or _is_number(moment, -MOST) for moment in moments):
        raise ProtocolError(f"a {type(fact).__name__} tells of no time there is")


def _is_number(value: Any, least: float) -> bool:
    return isinstance(value, int | float) and least <= value <= MOST


def _is_deeper(value: Any, levels: int) -> bool:
    if isinstance(value, dict):
        return not levels or any(_is_deeper(entry, levels - 1) for entry in value.values())
    if isinstance(value, list):
        return not levels or any(_is_deeper(entry, levels - 1) for entry in value)
    return False
