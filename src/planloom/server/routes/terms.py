"""What routes have in common: who may call them, what they may answer, how a run is named.

Rule 1: every route under /v1 names its scope here; the gate knows the caller before the route is looked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Header, Path, Response, Security

from planloom.errors import RunNotFoundError
from planloom.runtime.run_ids import MAX_RUN_ID
from planloom.server import bodies
from planloom.server.auth import NeedsScope
from planloom.server.problems import JsonResponse
from planloom.server.settings import TokenScope
from planloom.server.showing import run_summary

if TYPE_CHECKING:
    from planloom.server.service import RunService

RUN = "/v1/runs/{run_id}"
SAYING = (404, 408, 409, 413)
"""What may become of saying something to a run."""
_SCOPE = NeedsScope()
_WORDS = {
    400: "The request cannot be read.",
    401: "There is no token, or none that is known.",
    403: "The token is not good for this, or the request comes from elsewhere.",
    404: "There is no such thing here.",
    408: "The request did not come in time.",
    409: "The run does not stand so that this could be done; nothing was.",
    413: "The request is too large.",
    421: "The Host is none of this server's.",
    422: "What is asked is not sound; `problems` lists all that is wrong.",
    429: "Too many requests; Retry-After says when there may be more.",
    503: "Too much is under way, or the record cannot be used; nothing was taken. Retry-After says when to ask again.",
}

RunId = Annotated[str, Path(min_length=1, max_length=MAX_RUN_ID, examples=["20261120-093015-4f1c09ab"])]
Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        description="Your own name of this request: sent again with it, the same run is meant.",
    ),
]

Responses = dict[int | str, dict[str, Any]]
QUEUED: Responses = {202: {"model": bodies.QueuedRun, "description": "The cluster has it, and has yet to begin it."}}
"""What only a server answers that has a cluster see to its runs."""


def problems(*statuses: int, also: Responses | None = None) -> Responses:
    """Return what the document says of a route's answers: the errors that any may have, its own, and what else."""
    told: Responses = dict(also or {})
    for status in sorted({400, 401, 403, 421, 422, 429, 503, *statuses}):
        schema = {"schema": {"$ref": "#/components/schemas/Problem"}}
        told[status] = {"description": _WORDS[status], "content": {"application/problem+json": schema}}
    return told


def needs(scope: TokenScope) -> Sequence[Any]:
    return [Security(_SCOPE, scopes=[scope.value])]


async def new_run(service: RunService, run_id: str, *, is_new: bool) -> Response:
    at = {"location": f"/v1/runs/{run_id}"}
    try:
        run = await service.read(run_id)
    except RunNotFoundError:
        if not is_new:
            raise
        return JsonResponse({"run_id": run_id, "status": "queued"}, 202, at)
    return JsonResponse(run_summary(run), 201 if is_new else 200, at)
