"""Runs as a list: one more, and which there are."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

from fastapi import FastAPI, Query, Request, Response

from planloom.core.result import RunStatus
from planloom.errors import ValidationError
from planloom.server import bodies
from planloom.server.auth import caller_of
from planloom.server.problems import JsonResponse
from planloom.server.routes.terms import QUEUED, Key, needs, new_run, problems
from planloom.server.settings import TokenScope
from planloom.server.showing import run_line

if TYPE_CHECKING:
    from planloom.server.service import RunService

MOST_ROWS = 500
_BEFORE = re.compile(r"(\d{1,20}(?:\.\d{1,20})?):(.{1,1000})", re.DOTALL)
_TOLD_BEFORE = {"pattern": r"^[0-9]{1,20}(\.[0-9]{1,20})?:[\s\S]{1,1000}$"}
"""The same as the document has it; checked by `_place`, which says what to give instead."""


def add_runs(app: FastAPI, service: RunService) -> None:
    @app.post(
        "/v1/runs",
        tags=["runs"],
        operation_id="submit_run",
        status_code=201,
        response_model=bodies.RunSummary,
        responses=problems(
            404,
            408,
            409,
            413,
            also={200: {"model": bodies.RunSummary, "description": "The run that this key began before."}, **QUEUED},
        ),
        dependencies=needs(TokenScope.SUBMIT),
    )
    async def submit_run(request: Request, body: bodies.SubmitBody, idempotency_key: Key = None) -> Response:
        """Run a plan. The run is on record when this answers; it goes on whether or not anybody listens.

        A cluster may answer 202: the run is taken on, cannot be lost, and is on record once an agent has begun it.
        """
        run_id, is_new = await service.submit(body, by=caller_of(request).name, key=idempotency_key)
        return await new_run(service, run_id, is_new=is_new)

    @app.get(
        "/v1/runs",
        tags=["runs"],
        operation_id="list_runs",
        response_model=bodies.RunList,
        responses=problems(),
        dependencies=needs(TokenScope.READ),
    )
    async def list_runs(
        status: RunStatus | None = None,
        plan: Annotated[str | None, Query(max_length=1_000)] = None,
        limit: Annotated[int, Query(ge=1, le=MOST_ROWS)] = 50,
        before: Annotated[
            str | None,
            Query(max_length=2_000, description="`next` of the page before.", json_schema_extra=_TOLD_BEFORE),
        ] = None,
    ) -> Response:
        """Runs, newest first."""
        place = None if before is None else _place(before)
        rows = await service.rows(status=status, plan=plan, limit=limit + 1, before=place)
        following = None
        if len(rows) > limit:
            last = rows[limit - 1][0]
            following = f"{last.started_at!r}:{last.run_id}"
        shown = [run_line(row, stands.value) for row, stands in rows[:limit]]
        return JsonResponse({"runs": shown, "next": following})


def _place(before: str) -> tuple[float, str]:
    found = _BEFORE.fullmatch(before)
    if found is None:
        raise ValidationError("`before` is none of this list's", remedy="give `next` of the page before")
    return float(found[1]), found[2]
