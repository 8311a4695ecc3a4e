"""One run: how it stands, its events, its steps, its record, its picture."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from functools import partial
from typing import TYPE_CHECKING, Annotated

from fastapi import FastAPI, Header, Path, Query, Request, Response
from starlette.responses import StreamingResponse

from planloom.blocking import in_thread
from planloom.journal.telling import entry_row, entry_value
from planloom.observe.svg import graph_svg
from planloom.server import bodies, follow
from planloom.server.problems import JsonResponse
from planloom.server.routes.terms import RUN, RunId, needs, problems
from planloom.server.settings import TokenScope
from planloom.server.showing import questions_of, run_detail, shown_result, step_detail
from planloom.server.view import RunView

if TYPE_CHECKING:
    from planloom.server.service import RunService

MOST_EVENTS = 1_000
_NDJSON = "application/x-ndjson"
_STREAM = "text/event-stream"
_FRAME = {
    "description": "One event of the stream.",
    "type": "object",
    "required": ["id", "event", "data"],
    "properties": {
        "id": {"type": "string", "pattern": "^[0-9]+$", "description": "Its number: the next Last-Event-ID."},
        "event": {"type": "string", "examples": ["step_succeeded"]},
        "data": {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": {"type": "object", "required": ["seq", "event", "at"]},
            "description": "The event, as a page of events has it.",
        },
    },
}
"""OpenAPI 3.1 has no word for a stream's parts: what a schema says of one holds for each event."""
_SVG_HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; sandbox",
}
After = Annotated[int, Query(ge=0, le=1 << 53, description="Only events with higher numbers.")]


def add_run(app: FastAPI, service: RunService) -> None:
    @app.get(
        RUN,
        tags=["run"],
        dependencies=needs(TokenScope.READ),
        operation_id="get_run",
        response_model=bodies.RunDetail,
        responses=problems(404),
    )
    async def get_run(run_id: RunId) -> Response:
        """How a run stands, with all of its steps."""
        return JsonResponse(run_detail(await service.read(run_id)))

    @app.get(
        f"{RUN}/events",
        tags=["run"],
        dependencies=needs(TokenScope.READ),
        operation_id="follow_run",
        response_model=bodies.EventPage,
        responses=problems(404, also={200: {"content": {_STREAM: {"schema": _FRAME}}}}),
    )
    async def follow_run(
        request: Request,
        run_id: RunId,
        after: After = 0,
        limit: Annotated[int, Query(ge=1, le=MOST_EVENTS)] = MOST_EVENTS,
        last_event_id: Annotated[str | None, Header(alias="Last-Event-ID", max_length=100)] = None,
    ) -> Response:
        """A run's events: a page of them as JSON, or, for `Accept: text/event-stream`, all of them as they come.

        As a stream each event has its number for an id; Last-Event-ID, or `after`, says from where on.
        """
        if _STREAM in request.headers.get("accept", ""):
            await follow.check_run(service, run_id)
            if last_event_id is not None and last_event_id.isascii() and last_event_id.isdigit():
                after = min(int(last_event_id), 1 << 53)
            headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
            return StreamingResponse(follow.stream(service, run_id, after), media_type=_STREAM, headers=headers)
        found = await service.journal.read(run_id, after=after, limit=limit)
        ended = bool(found) and type(found[-1].event).__name__ == "RunFinished"
        last = found[-1].seq if found else after
        events = [entry_value(recorded) for recorded in found]
        return JsonResponse({"run_id": run_id, "events": events, "last": last, "ended": ended})

    @app.get(
        f"{RUN}/questions",
        tags=["run"],
        dependencies=needs(TokenScope.READ),
        operation_id="list_questions",
        response_model=bodies.QuestionList,
        responses=problems(404),
    )
    async def list_questions(run_id: RunId) -> Response:
        """What the run asks people, each with the JSON Schema of its form."""
        return JsonResponse({"run_id": run_id, "questions": questions_of(await service.read(run_id))})

    @app.get(
        RUN + "/steps/{key:path}",
        tags=["run"],
        dependencies=needs(TokenScope.READ),
        operation_id="get_step",
        response_model=bodies.StepDetail,
        responses=problems(404),
    )
    async def get_step(run_id: RunId, key: Annotated[str, Path(min_length=1, max_length=2_000)]) -> Response:
        """A step with its attempts, inputs, output, errors, tokens, cost and labels."""
        return JsonResponse(step_detail(await service.read(run_id), key))

    @app.get(
        f"{RUN}/record",
        tags=["run"],
        dependencies=needs(TokenScope.READ),
        operation_id="download_record",
        response_class=Response,
        responses=problems(
            404, also={200: {"content": {_NDJSON: {"schema": {"type": "string"}}}, "description": "An event a line."}}
        ),
    )
    async def download_record(run_id: RunId) -> Response:
        """All of a run's record, an event a line, in the form of the journal."""
        first = await service.journal.read(run_id, limit=MOST_EVENTS)

        async def lines() -> AsyncIterator[str]:
            page = first
            while page:
                yield "".join(f"{json.dumps(entry_row(recorded), separators=(',', ':'))}\n" for recorded in page)
                page = await service.journal.read(run_id, after=page[-1].seq, limit=MOST_EVENTS)

        name = re.sub(r"[^A-Za-z0-9_.-]", "_", run_id)[:100]
        headers = {"cache-control": "no-store", "content-disposition": f'attachment; filename="{name}.ndjson"'}
        return StreamingResponse(lines(), media_type=_NDJSON, headers=headers)

    @app.get(
        f"{RUN}/graph.svg",
        tags=["run"],
        dependencies=needs(TokenScope.READ),
        operation_id="draw_run",
        response_class=Response,
        responses=problems(
            404, also={200: {"content": {"image/svg+xml": {"schema": {"type": "string"}}}, "description": "A picture."}}
        ),
    )
    async def draw_run(run_id: RunId) -> Response:
        """The plan as a picture, with how each step stands."""
        run = await service.read(run_id)
        picture = await in_thread(partial(graph_svg, run.plan, shown_result(run)))
        return Response(picture, media_type="image/svg+xml", headers=_SVG_HEADERS)

    @app.get(
        f"{RUN}/view",
        tags=["run"],
        dependencies=needs(TokenScope.READ),
        operation_id="view_run",
        response_model=RunView,
        responses=problems(404),
    )
    async def view_run(
        run_id: RunId,
        known: Annotated[str, Query(max_length=64, description="`graph.hash` of the view before.")] = "",
    ) -> Response:
        """What the page draws of a run: picture, timeline, totals, budget, questions."""
        view = await service.views.view(run_id, known=known)
        return Response(view, media_type=JsonResponse.media_type, headers={"cache-control": "no-store"})
