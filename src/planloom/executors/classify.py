"""What kind of failure an exception is. The one classification; `core/retry.py` decides what follows from it."""

from __future__ import annotations

from collections.abc import Mapping

from jsonschema.exceptions import ValidationError as SchemaValidationError
from pydantic import ValidationError

from planloom.core.result import Usage
from planloom.errors import (
    ArgumentsError,
    ConfigError,
    EvaluationError,
    FlowError,
    GrantError,
    IncompleteError,
    MissingValueError,
    ModelRefusedError,
    ModelTruncatedError,
    NoAnswerError,
    NotAllowedError,
    NotDoneError,
    OutputError,
    PlanError,
    PlanloomError,
    PlanningError,
    VerificationError,
)
from planloom.models.tape import masked
from planloom.plan.policy import FailureKind

MAX_ERROR = 4_000
"""Characters of an error that go on record."""
RETRYABLE_STATUS = frozenset({408, 425, 429})
"""HTTP 4xx that another attempt may mend; so may every 5xx."""

_BY_TYPE: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], FailureKind], ...] = (
    (NotDoneError, FailureKind.NOT_DONE),
    (NoAnswerError, FailureKind.LOST),
    ((NotAllowedError, FlowError), FailureKind.NOT_ALLOWED),
    ((ArgumentsError, MissingValueError, EvaluationError), FailureKind.INPUT),
    ((OutputError, VerificationError), FailureKind.OUTPUT),
    (GrantError, FailureKind.LIMIT),
    ((ModelRefusedError, ModelTruncatedError, ConfigError, PlanningError, IncompleteError), FailureKind.REFUSED),
    (TimeoutError, FailureKind.TIMEOUT),
    (
        (
            PlanError,
            SyntaxError,
            TypeError,
            AttributeError,
            NameError,
            ImportError,
            ValidationError,
            SchemaValidationError,
            SystemExit,
            KeyboardInterrupt,
        ),
        FailureKind.REFUSED,
    ),
)


def kind_of(error: BaseException) -> FailureKind:
    """Return what kind of failure this is."""
    for types, kind in _BY_TYPE:
        if isinstance(error, types):
            return kind
    status = http_status(error)
    if status is not None and 400 <= status < 500 and status not in RETRYABLE_STATUS:
        return FailureKind.REFUSED
    return FailureKind.ERROR


def http_status(error: BaseException) -> int | None:
    """Return the HTTP status an exception of any client library carries, or None."""
    for holder in (_attribute(error, "response"), error):
        for name in ("status_code", "status", "code"):
            status = _attribute(holder, name)
            if isinstance(status, int) and 100 <= status < 600:
                return status
    return None


def retry_after_s(error: BaseException) -> float | None:
    """Return the seconds that the server asked to wait; None if it asked nothing, or gave a date."""
    value = _attribute(error, "retry_after_s") or _attribute(error, "retry_after")
    if value is None:
        headers = _attribute(_attribute(error, "response"), "headers") or _attribute(error, "headers")
        value = headers.get("retry-after") if isinstance(headers, Mapping) else None
    try:
        seconds = float(value) if isinstance(value, int | float | str) else None
    except (ValueError, OverflowError):
        return None
    return seconds if seconds is not None and 0 <= seconds < float("inf") else None


def limits_of(error: BaseException) -> tuple[str, ...]:
    """Return the limits that kept an attempt from going on."""
    return error.limits if isinstance(error, GrantError) else ()


def usage_of(error: BaseException) -> Usage | None:
    """Return the tokens that an attempt used before it failed, where its exception says so."""
    usage = _attribute(error, "usage")
    return usage if isinstance(usage, Usage) else None


def _attribute(holder: object, name: str) -> object:
    """Return an attribute of something a tool made, or None: even looking at it may raise."""
    try:
        return getattr(holder, name, None)
    except Exception:  # noqa: BLE001 - a tool's exception must not break what classifies it
        return None


def type_names(error: BaseException) -> tuple[str, ...]:
    """Return the names of its class and bases, most derived first, up to `Exception`."""
    return tuple(base.__name__ for base in type(error).__mro__ if base not in (object, BaseException))


def text_of(error: BaseException) -> str:
    """Return the error as one text: planloom's own as they read, others with their class name; notes on it follow.

    It goes on record, so that what this process was given as a key is not in it.
    """
    if isinstance(error, PlanloomError):
        text = str(error)
    elif isinstance(error, SystemExit):
        text = f"the tool called sys.exit({error.code!r})"
    else:
        message = _message(error)
        text = f"{type(error).__name__}: {message}" if message else type(error).__name__
    told: str = masked("\n".join([text, *_notes(error)]))
    return told if len(told) <= MAX_ERROR else f"{told[: MAX_ERROR - 1]}…"


def _notes(error: BaseException) -> list[str]:
    notes = _attribute(error, "__notes__")
    return [note for note in notes if isinstance(note, str)] if isinstance(notes, list) else []


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - see _attribute
        return ""
