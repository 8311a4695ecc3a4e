"""Errors as HTTP knows them: which status each has, and what is told of it (RFC 9457, problem+json).

Rule 1: an error's status stands in `STATUSES` and nowhere else; the nearest class above it counts.
Rule 2: what only the operator can mend is logged, and told without its particulars: no paths, no traces.
Rule 3: every answer of 400 and more is a problem, those that the framework makes included.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match, Route

from planloom import errors, masking

if TYPE_CHECKING:
    from collections.abc import Iterable

_log = logging.getLogger("planloom.server")

DOCS = "https://planloom.dev/reference/errors"
"""Where the kinds of errors are told; a problem's `type` is its code there."""
STATUSES: dict[type[errors.PlanloomError], int] = {
    errors.UnknownPlanError: 404,
    errors.PlanError: 422,
    errors.StepError: 422,
    errors.ResourceLimitError: 422,
    errors.RunBlockedError: 409,
    errors.OverloadedError: 503,
    errors.SubmissionRefusedError: 422,
    errors.WorkerError: 503,
    errors.RunNotFoundError: 404,
    errors.NoStepError: 404,
    errors.RunBusyError: 409,
    errors.JournalConflictError: 409,
    errors.JournalError: 503,
    errors.RunStateError: 409,
    errors.ConfigError: 422,
    errors.PlanloomError: 500,
}
_TITLES = {
    400: "The request cannot be read",
    401: "A token is needed",
    403: "Not allowed",
    404: "Not here",
    405: "Not with this method",
    408: "The request took too long",
    409: "The run does not stand so",
    413: "The request is too large",
    415: "Not of a kind that is read here",
    421: "Another server is meant",
    422: "What is asked is not sound",
    429: "Too many requests",
    500: "A bug of planloom",
    503: "Not now",
}
_CODES = {400: "request.invalid", 404: "request.path", 405: "request.method", 415: "request.type"}
_FOR_OPERATORS = (errors.JournalError, errors.WorkerError)
_TOLD_WHOLE = (
    errors.OverloadedError,
    errors.RunBusyError,
    errors.JournalConflictError,
    errors.NoStepError,
    errors.SubmissionRefusedError,
)


class OneProblem(BaseModel):
    """One of several things that are wrong with a plan or a request."""

    code: str = Field(examples=["plan.unknown_tool"])
    detail: str = Field(examples=["there is no tool 'fetsh'"])
    remedy: str = Field(default="", examples=["did you mean 'fetch'?"])
    where: str = Field(default="", examples=["line 4, column 7"])
    step: str | None = Field(default=None, examples=["load"])
    path: list[str | int] = Field(default_factory=list, examples=[["steps", 0, "tool"]])
    line: int | None = None
    column: int | None = None


class ProblemValue(BaseModel):
    """Why a request was not done, and what to do about it (RFC 9457)."""

    type: str = Field(examples=[f"{DOCS}#journal.no_run"])
    title: str = Field(examples=["Not here"])
    status: int = Field(examples=[404], ge=400, le=599)
    detail: str = Field(examples=["there is no run '20261120-093015-4f1c09ab'"])
    code: str = Field(examples=["journal.no_run"])
    remedy: str = Field(default="", examples=["GET /v1/runs lists them"])
    problems: list[OneProblem] = Field(default_factory=list)
    """All that is wrong, where it is more than one thing or has a place."""


class HttpError(Exception):
    """A request that is turned away before planloom hears of it."""

    def __init__(
        self, status: int, code: str, detail: str, *, remedy: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.remedy = remedy
        self.headers = dict(headers or {})


class JsonResponse(Response):
    """JSON that any client can read, whatever texts are in it, and that nobody keeps."""

    media_type = "application/json"

    def __init__(
        self, content: Any, status_code: int = 200, headers: Mapping[str, str] | None = None, **rest: Any
    ) -> None:
        super().__init__(content, status_code, {"cache-control": "no-store", **(headers or {})}, **rest)

    def render(self, content: Any) -> bytes:
        return json_bytes(content)


def json_bytes(value: Any) -> bytes:
    """Return a value as JSON that any client can read: escaped, for half of a surrogate pair is no UTF-8."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()


class ProblemResponse(JsonResponse):
    """A problem, without secrets: it may quote what was sent."""

    media_type = "application/problem+json"

    def render(self, content: Any) -> bytes:
        mask = masking.known()
        return super().render(content if mask is None else mask.value(content))


def problem_of(error: errors.PlanloomError) -> tuple[dict[str, Any], dict[str, str]]:
    """Return what is told of an error, and the headers that go with it."""
    status = next(STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES)
    detail, remedy = error.message, error.remedy
    if isinstance(error, errors.RunNotFoundError):
        detail, remedy = f"there is no run {error.facts.get('run_id', '')!r}", "GET /v1/runs lists them"
    elif isinstance(error, _FOR_OPERATORS) and not isinstance(error, _TOLD_WHOLE):
        _log.error("%s: %s", error.code, error.message)
        detail, remedy = "the record cannot be read or written now", "ask whoever runs this server: its log says why"
        if isinstance(error, errors.BrokerError):
            detail = "the cluster's broker gives no answer now, and may have taken this"
            remedy = "ask again with the same Idempotency-Key; the server's log says why"
    elif status == 500:
        detail, remedy = "something that planloom did not expect", "report it; the server's log has the particulars"
    told = problem(status, error.code, detail, remedy=remedy)
    if isinstance(error, errors.SubmissionRefusedError):
        told["problems"] = _refused(error.facts.get("refusal", {}))
    if isinstance(error, errors.PlanError):
        told["problems"] = [_one(one) for one in error.problems]
        if len(error.problems) > 1:
            told["detail"] = f"{len(error.problems)} problems, the first: {error.problems[0].message}"
    return told, {"retry-after": str(error.facts.get("retry_after_s", 1))} if status == 503 else {}


def _one(error: errors.PlanError) -> dict[str, Any]:
    place = {"step": error.step, "path": list(error.path), "line": error.line, "column": error.column}
    return {"code": error.code, "detail": error.message, "remedy": error.remedy, "where": error.where, **place}


def _refused(refusal: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return all that the agents of a cluster found wrong."""
    return [
        {
            "code": one["code"],
            "detail": one["message"],
            "remedy": one.get("remedy", ""),
            "where": "",
            "step": one.get("step"),
            "path": one.get("path", []),
            "line": one.get("line"),
            "column": one.get("column"),
        }
        for one in refusal.get("problems", [refusal] if refusal else [])
    ]


def problem(status: int, code: str, detail: str, *, remedy: str = "") -> dict[str, Any]:
    """Return a problem as it is sent."""
    title = _TITLES.get(status, "Not done")
    told = {"type": f"{DOCS}#{code}", "title": title, "status": status, "detail": detail, "code": code}
    return told | {"remedy": remedy, "problems": []}


def response_of(error: HttpError) -> ProblemResponse:
    return ProblemResponse(
        problem(error.status, error.code, error.detail, remedy=error.remedy), error.status, error.headers
    )


def tell_problems(app: FastAPI) -> None:
    """Have the app answer with a problem wherever something goes wrong."""

    async def planned(request: Request, error: Exception) -> Response:
        assert isinstance(error, errors.PlanloomError)
        told, headers = problem_of(error)
        if told["status"] == 500:
            _log.error("%s %s", request.method, request.url.path, exc_info=error)
        return ProblemResponse(told, told["status"], headers)

    async def turned_away(request: Request, error: Exception) -> Response:
        assert isinstance(error, HttpError)
        return response_of(error)

    async def misread(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return ProblemResponse(_misread(error.errors()), 422)

    async def framework(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        headers = {name.lower(): value for name, value in (error.headers or {}).items()}
        if error.status_code == 405:  # the framework names the methods of the first route of that path only
            headers["allow"] = ", ".join(sorted(methods_at(app, request)))
        code = _CODES.get(error.status_code, "request.invalid")
        return ProblemResponse(problem(error.status_code, code, str(error.detail)), error.status_code, headers)

    async def unexpected(request: Request, error: Exception) -> Response:
        # The framework raises it again after this answer, so that the server's log has it whole.
        detail = "something that planloom did not expect"
        return ProblemResponse(
            problem(500, "bug", detail, remedy="report it; the server's log has the particulars"), 500
        )

    app.add_exception_handler(errors.PlanloomError, planned)
    app.add_exception_handler(HttpError, turned_away)
    app.add_exception_handler(RequestValidationError, misread)
    app.add_exception_handler(HTTPException, framework)
    app.add_exception_handler(Exception, unexpected)


def _misread(found: Iterable[Any]) -> dict[str, Any]:
    told = [
        {
            "code": "request.invalid",
            "detail": one["msg"],
            "remedy": "",
            "where": ".".join(map(str, one["loc"])),
            "step": None,
            "path": list(one["loc"]),
            "line": None,
            "column": None,
        }
        for one in found
    ]
    first = told[0]
    value = problem(422, "request.invalid", f"{first['where']}: {first['detail']}", remedy="see /v1/openapi.json")
    return value | {"problems": told}


def methods_at(app: FastAPI, request: Request) -> set[str]:
    """Return the methods that the path of a request is served with."""
    found: set[str] = set()
    for route in app.routes:
        if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE:
            found |= route.methods or set()
    return found
