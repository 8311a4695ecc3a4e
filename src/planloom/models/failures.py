"""What went wrong with a hosted model, in our words. Imports pydantic-ai, so only `hosted.py` imports this, late.

Rule 1: no message holds a key, or more of what the provider sent than 300 printable characters.
Rule 2: an HTTP error keeps its status, and with it whether another attempt may help; what no attempt can mend is a
refusal.
"""

from __future__ import annotations

import re
from typing import Any

import httpx2
from pydantic_ai import exceptions as theirs

from planloom.errors import ModelError, ModelRefusedError, ModelStreamError, ModelTimeoutError
from planloom.models.terms import Terms

try:
    import httpx  # google-genai brings it and may raise its errors; without that extra nothing does

    _TRANSPORT: tuple[type[Exception], ...] = (httpx2.HTTPError, httpx2.StreamError, httpx.HTTPError, httpx.StreamError)
    _TIMEOUTS: tuple[type[Exception], ...] = (httpx2.TimeoutException, httpx.TimeoutException)
except ImportError:
    _TRANSPORT = (httpx2.HTTPError, httpx2.StreamError)
    _TIMEOUTS = (httpx2.TimeoutException,)

UNREADABLE = (LookupError, TypeError, AttributeError, ValueError, AssertionError, ArithmeticError)
"""What client libraries raise on a body that is not what they expect."""
CAUGHT: tuple[type[Exception], ...] = (
    theirs.AgentRunError,
    RuntimeError,  # their UserError, a closed connection, a body nested too deep
    OSError,
    httpx2.InvalidURL,
    *_TRANSPORT,
    *UNREADABLE,
)
"""Everything that asking a hosted model may raise."""

MAX_CHAIN = 16
"""Errors behind an error that are looked at."""
_FILTERS = re.compile(r"content_?(filter|policy)|ResponsibleAI|moderation|prohibited", re.I)
_WANTS_KEY = "the server wants a key: name the variable that holds it in the address, key_env=NAME"
_BILLING = "the account behind the key has nothing left: top it up, or use another key"


def failure_of(error: Exception, terms: Terms, *, text_so_far: str | None = None) -> ModelError:
    """Return what went wrong, with the original as its cause unless that could show the key.

    Args:
        text_so_far: What had been streamed; None if nothing of an answer had come.
    """
    failure = _translated(error, terms)
    if text_so_far is not None and type(failure) is ModelError:
        failure = _broken_off(failure, terms, text_so_far)
    if not _shows(error, terms.key):
        failure.__cause__ = _bare(error)
    failure.__suppress_context__ = True
    return failure


def _bare(error: Exception) -> Exception:
    """Return the error and those behind it without their frames, which hold the request, its key, and open streams."""
    one: BaseException | None = error
    for _ in range(MAX_CHAIN):
        if one is None:
            break
        one.__traceback__ = None
        one = one.__cause__ or one.__context__
    return error


def _broken_off(failure: ModelError, terms: Terms, text_so_far: str) -> ModelStreamError:
    broken = ModelStreamError(
        f"the stream of {terms.uri} broke off after {len(text_so_far)} characters: "
        + failure.message.removeprefix(f"{terms.uri} "),
        status_code=failure.status_code,
        retry_after_s=failure.retry_after_s,
    )
    broken.text_so_far = text_so_far
    return broken


def _translated(error: Exception, terms: Terms) -> ModelError:
    if isinstance(error, (theirs.ModelRequestTimeout, theirs.ModelTimeoutError, TimeoutError, *_TIMEOUTS)):
        return ModelTimeoutError(
            f"{terms.uri} did not answer within {terms.timeout_s:g} s",
            remedy="give it more time: timeout= in its address",
        )
    if isinstance(error, theirs.ModelHTTPError):
        return _http(error, terms)
    if isinstance(error, theirs.ContentFilterError):
        return ModelRefusedError(f"{terms.uri} would not answer: {_said(error, terms)}", remedy="ask in other words")
    if isinstance(error, theirs.UserError):
        return ModelRefusedError(f"{terms.uri} cannot be asked this way: {_said(error, terms)}")
    if isinstance(error, (theirs.ModelConnectionError, OSError, *_TRANSPORT)):
        return ModelError(f"{terms.uri} cannot be reached: {_said(_root(error), terms)}", remedy="is its server up?")
    if isinstance(error, theirs.ModelAPIError):
        return ModelError(f"{terms.uri} failed: {_said(error, terms)}", retry_after_s=error.retry_after)
    if isinstance(error, (theirs.AgentRunError, *UNREADABLE)):
        what = "not what its provider's interface promises"
        return ModelError(f"the answer of {terms.uri} is {what}: {type(error).__name__}: {_said(error, terms)}")
    return ModelError(f"{terms.uri} could not be asked: {type(error).__name__}: {_said(error, terms)}")


def _http(error: theirs.ModelHTTPError, terms: Terms) -> ModelError:
    status, words = error.status_code, _said(error, terms)
    facts: dict[str, Any] = {"status_code": status, "retry_after_s": _seconds(error.retry_after)}
    if _FILTERS.search(f"{error.provider_error_code} {error.provider_error_type}"):
        return ModelRefusedError(f"{terms.uri} would not answer: {words}", remedy="ask in other words", **facts)
    if isinstance(error, theirs.ModelQuotaExceededError):
        return ModelRefusedError(f"{terms.uri} answered {status}: {words}", remedy=_BILLING, **facts)
    remedy = {
        401: f"is the key in {terms.key_env} right, and for this provider?" if terms.key_env else _WANTS_KEY,
        403: f"may the key in {terms.key_env} use this model?" if terms.key_env else _WANTS_KEY,
        404: "is the model's name right, and base_url= if there is one?",
        429: "give its rates: rpm= and tpm= in its address, or below [rates] in planloom.toml",
    }.get(status, "")
    if error.suggested_model_id is not None:
        remedy = f"did you mean {error.suggested_model_id.partition(':')[2] or error.suggested_model_id}?"
    return ModelError(f"{terms.uri} answered {status}: {words}", remedy=remedy, **facts)


def _seconds(told: float | None) -> float | None:
    return told if told is not None and 0 <= told < float("inf") else None


def _said(error: BaseException, terms: Terms) -> str:
    """Return the provider's own words out of an error."""
    words = (
        _words(getattr(error, "body", None)) or getattr(error, "message", None) or str(error) or type(error).__name__
    )
    return terms.shown(str(words)) or type(error).__name__


def _words(body: object) -> str:
    """Return the message in a provider's body, wherever that provider puts it."""
    if isinstance(body, dict):
        for name in ("error", "message", "detail", "msg"):
            if found := _words(body.get(name)):
                return found
        return ""
    if isinstance(body, list):
        return _words(body[0]) if body else ""
    return body if isinstance(body, str) else ""


def _root(error: BaseException) -> BaseException:
    """Return what an error came from in the first place: client libraries say only "Connection error."."""
    for _ in range(MAX_CHAIN):
        cause = error.__cause__ or error.__context__
        if not isinstance(cause, Exception):
            break
        error = cause
    return error


def _shows(error: BaseException | None, key: str) -> bool:
    """Return whether an error, or one behind it, has the key in its text."""
    for _ in range(MAX_CHAIN if key else 0):
        if error is None:
            break
        if key in str(error) or key in repr(error):
            return True
        error = error.__cause__ or error.__context__
    return False
