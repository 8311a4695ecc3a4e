"""The HTTP side: every route, what it needs, what it answers.

Rule 1: a route reads its request, calls the service, and writes what comes back: nothing is decided here.
Rule 2: every route under /v1 names its scope; the gate knows the caller before the route is looked for.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Body, FastAPI, Header, Path, Query, Request, Response, Security
from starlette.responses import PlainTextResponse, StreamingResponse

import planloom
from planloom.blocking import in_thread
from planloom.core.result import RunStatus
from planloom.errors import PlanError, ValidationError
from planloom.journal.telling import entry_row, entry_value
from planloom.observe.prometheus import CONTENT_TYPE
from planloom.observe.svg import graph_svg
from planloom.plan.inputs import inputs_schema
from planloom.runtime.run_ids import MAX_RUN_ID
from planloom.server import bodies, follow
from planloom.server.auth import Doorkeeper, NeedsScope, caller_of
from planloom.server.gate import HttpGate
from planloom.server.page import page_router
from planloom.server.plans import NAME
from planloom.server.problems import JsonResponse, ProblemValue, tell_problems
from planloom.server.settings import TokenScope
from planloom.server.showing import questions_of, run_detail, run_line, run_summary, step_detail
from planloom.server.view import RunView, view_of

if TYPE_CHECKING:
    from planloom.observe.metrics import Metrics
    from planloom.server.limits import RequestRate
    from planloom.server.service import RunService, Said
    from planloom.server.settings import ServerSettings

MOST_ROWS = 500
MOST_EVENTS = 1_000
_RUN = "/v1/runs/{run_id}"
_NDJSON = "application/x-ndjson"
_STREAM = "text/event-stream"
_SCOPE = NeedsScope()
_SAYING = (404, 408, 409, 413)
_SVG_HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; sandbox",
}
_BEFORE = re.compile(r"(\d{1,20}(?:\.\d{1,20})?):(.{1,1000})", re.DOTALL)

RunId = Annotated[str, Path(min_length=1, max_length=MAX_RUN_ID, examples=["20261120-093015-4f1c09ab"])]
After = Annotated[int, Query(ge=0, le=1 << 53, description="Only events with higher numbers.")]
Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        description="Your own name of this request: sent again with it, the same run is meant.",
    ),
]


def make_app(
    service: RunService,
    settings: ServerSettings,
    *,
    page: bool = True,
    rate: RequestRate | None = None,
    metrics: Metrics | None = None,
) -> FastAPI:
    """Return the app that serves these runs.

    Args:
        page: Whether the page is served, too.
        rate: How much each caller may ask; None: as the settings say.
        metrics: What the engine counts in, told at /metrics; None: there is no such route.

    Raises:
        MissingKeyError: The variable of a token holds none.
    """

    @asynccontextmanager
    async def serving(app: FastAPI) -> AsyncIterator[None]:
        await service.open()
        try:
            yield
        finally:
            await service.close()

    app = FastAPI(
        title="planloom",
        version=planloom.__version__,
        summary="Runs of plans: submit, follow, answer, cancel.",
        lifespan=serving,
        docs_url=None,  # the usual pages load scripts from elsewhere
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        separate_input_output_schemas=False,
    )
    app.state.service = service
    tell_problems(app)
    _add_health(app, service)
    if metrics is not None:
        _add_metrics(app, metrics)
    _add_plans(app, service)
    _add_runs(app, service)
    _add_run(app, service)
    _add_says(app, service)
    _add_document(app)
    if page:
        app.include_router(page_router())
    app.add_middleware(HttpGate, settings=settings, doorkeeper=Doorkeeper(settings), rate=rate)
    return app


Responses = dict[int | str, dict[str, Any]]


def _problems(*statuses: int, also: Responses | None = None) -> Responses:
    """Return what the document says of a route's answers: the errors that any may have, its own, and what else."""
    told: Responses = dict(also or {})
    for status in sorted({400, 401, 403, 421, 422, 429, 503, *statuses}):
        schema = {"schema": {"$ref": "#/components/schemas/Problem"}}
        told[status] = {"description": _WORDS[status], "content": {"application/problem+json": schema}}
    return told


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


def _needs(scope: TokenScope) -> Sequence[Any]:
    return [Security(_SCOPE, scopes=[scope.value])]


# --- is it there ------------------------------------------------------------------------------


def _add_health(app: FastAPI, service: RunService) -> None:
    @app.get("/healthz", tags=["health"], operation_id="healthz", response_model=bodies.Health)
    async def healthz() -> Response:
        """Whether the server lives."""
        return JsonResponse({"status": "ok"})

    @app.get("/readyz", tags=["health"], operation_id="readyz", response_model=bodies.Health, responses=_problems())
    async def readyz() -> Response:
        """Whether the server takes runs: its record can be read, and it is not about to end."""
        await service.check_ready()
        return JsonResponse({"status": "ok"})


def _add_metrics(app: FastAPI, metrics: Metrics) -> None:
    @app.get(
        "/metrics",
        tags=["health"],
        operation_id="metrics",
        response_class=PlainTextResponse,
        responses=_problems(),
        dependencies=_needs(TokenScope.READ),
    )
    async def metrics_text() -> Response:
        """What was counted since the server began, as Prometheus reads it."""
        return Response(metrics.text(), media_type=CONTENT_TYPE)


# --- plans ------------------------------------------------------------------------------------


def _add_plans(app: FastAPI, service: RunService) -> None:
    @app.get(
        "/v1/plans",
        tags=["plans"],
        operation_id="list_plans",
        response_model=bodies.PlanList,
        responses=_problems(),
        dependencies=_needs(TokenScope.READ),
    )
    async def list_plans() -> Response:
        """The plans that can be run by name."""
        rows: list[dict[str, Any]] = []
        for name in service.plans.names():
            try:
                plan = await service.named(name)
            except PlanError as error:
                rows.append({"name": name, "title": name, "description": "", "inputs": {}, "problem": error.message})
            else:
                told = {"name": name, "title": plan.name, "description": plan.description or ""}
                rows.append(told | {"inputs": inputs_schema(plan), "problem": None})
        return JsonResponse({"plans": rows})

    @app.get(
        "/v1/plans/{name}",
        tags=["plans"],
        operation_id="get_plan",
        response_model=bodies.PlanDetail,
        responses=_problems(404),
        dependencies=_needs(TokenScope.READ),
    )
    async def get_plan(name: Annotated[str, Path(pattern=NAME)]) -> Response:
        """One of them, whole."""
        plan = await service.named(name)
        told = {"name": name, "hash": plan.hash, "plan": json.loads(plan.canonical_json), "inputs": inputs_schema(plan)}
        return JsonResponse(told)

    @app.post(
        "/v1/plans/check",
        tags=["plans"],
        operation_id="check_plan",
        response_model=bodies.CheckedPlan,
        responses=_problems(408, 413),
        dependencies=_needs(TokenScope.READ),
    )
    async def check_plan(body: bodies.PlanBody) -> Response:
        """Say everything that is wrong with a plan, and where. Nothing is run."""
        plan = await service.checked(body.plan)
        told = {"name": plan.name, "hash": plan.hash, "steps": len(plan.steps), "inputs": inputs_schema(plan)}
        return JsonResponse(told)


# --- runs -------------------------------------------------------------------------------------


def _add_runs(app: FastAPI, service: RunService) -> None:
    @app.post(
        "/v1/runs",
        tags=["runs"],
        operation_id="submit_run",
        status_code=201,
        response_model=bodies.RunSummary,
        responses=_problems(
            404,
            408,
            409,
            413,
            also={200: {"model": bodies.RunSummary, "description": "The run that this key began before."}},
        ),
        dependencies=_needs(TokenScope.SUBMIT),
    )
    async def submit_run(request: Request, body: bodies.SubmitBody, idempotency_key: Key = None) -> Response:
        """Run a plan. The run is on record when this answers; it goes on whether or not anybody listens."""
        run_id, is_new = await service.submit(body, by=caller_of(request).name, key=idempotency_key)
        return await _new_run(service, run_id, is_new=is_new)

    @app.get(
        "/v1/runs",
        tags=["runs"],
        operation_id="list_runs",
        response_model=bodies.RunList,
        responses=_problems(),
        dependencies=_needs(TokenScope.READ),
    )
    async def list_runs(
        status: RunStatus | None = None,
        plan: Annotated[str | None, Query(max_length=1_000)] = None,
        limit: Annotated[int, Query(ge=1, le=MOST_ROWS)] = 50,
        before: Annotated[str | None, Query(max_length=2_000, description="`next` of the page before.")] = None,
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


async def _new_run(service: RunService, run_id: str, *, is_new: bool) -> Response:
    told = run_summary(await service.read(run_id))
    return JsonResponse(told, 201 if is_new else 200, {"location": f"/v1/runs/{run_id}"})


def _add_run(app: FastAPI, service: RunService) -> None:
    @app.get(
        _RUN,
        tags=["run"],
        dependencies=_needs(TokenScope.READ),
        operation_id="get_run",
        response_model=bodies.RunDetail,
        responses=_problems(404),
    )
    async def get_run(run_id: RunId) -> Response:
        """How a run stands, with all of its steps."""
        return JsonResponse(run_detail(await service.read(run_id)))

    @app.get(
        f"{_RUN}/events",
        tags=["run"],
        dependencies=_needs(TokenScope.READ),
        operation_id="follow_run",
        response_model=bodies.EventPage,
        responses=_problems(404, also={200: {"content": {_STREAM: {"schema": {"type": "string"}}}}}),
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
            await service.journal.read(run_id, limit=1)
            follow.check_room(service)
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
        f"{_RUN}/questions",
        tags=["run"],
        dependencies=_needs(TokenScope.READ),
        operation_id="list_questions",
        response_model=bodies.QuestionList,
        responses=_problems(404),
    )
    async def list_questions(run_id: RunId) -> Response:
        """What the run asks people, each with the JSON Schema of its form."""
        return JsonResponse({"run_id": run_id, "questions": questions_of(await service.read(run_id))})

    @app.get(
        _RUN + "/steps/{key:path}",
        tags=["run"],
        dependencies=_needs(TokenScope.READ),
        operation_id="get_step",
        response_model=bodies.StepDetail,
        responses=_problems(404),
    )
    async def get_step(run_id: RunId, key: Annotated[str, Path(min_length=1, max_length=2_000)]) -> Response:
        """A step with its attempts, inputs, output, errors, tokens, cost and labels."""
        return JsonResponse(step_detail(await service.read(run_id), key))

    @app.get(
        f"{_RUN}/record",
        tags=["run"],
        dependencies=_needs(TokenScope.READ),
        operation_id="download_record",
        response_class=Response,
        responses=_problems(
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
        f"{_RUN}/graph.svg",
        tags=["run"],
        dependencies=_needs(TokenScope.READ),
        operation_id="draw_run",
        response_class=Response,
        responses=_problems(
            404, also={200: {"content": {"image/svg+xml": {"schema": {"type": "string"}}}, "description": "A picture."}}
        ),
    )
    async def draw_run(run_id: RunId) -> Response:
        """The plan as a picture, with how each step stands."""
        run = await service.read(run_id)
        return Response(graph_svg(run.plan, run.result), media_type="image/svg+xml", headers=_SVG_HEADERS)

    @app.get(
        f"{_RUN}/view",
        tags=["run"],
        dependencies=_needs(TokenScope.READ),
        operation_id="view_run",
        response_model=RunView,
        responses=_problems(404),
    )
    async def view_run(
        run_id: RunId,
        known: Annotated[str, Query(max_length=64, description="`graph.hash` of the view before.")] = "",
    ) -> Response:
        """What the page draws of a run: picture, timeline, totals, budget, questions."""
        run = await service.read(run_id)
        return JsonResponse(await in_thread(partial(view_of, run, known=known)))


# --- what is said to runs ---------------------------------------------------------------------


def _add_says(app: FastAPI, service: RunService) -> None:

    def by(request: Request, person: str) -> str:
        name = caller_of(request).name
        return f"{person} ({name})" if person else name

    async def told(run_id: str, fact: Said, driven: bool | None) -> Response:
        status = (await service.read(run_id)).result.status.value
        return JsonResponse({"run_id": run_id, "recorded": type(fact).__name__, "status": status, "driven": driven})

    @app.post(
        f"{_RUN}/answers",
        tags=["run"],
        operation_id="answer_question",
        response_model=bodies.ToldRun,
        responses=_problems(*_SAYING),
        dependencies=_needs(TokenScope.ANSWER),
    )
    async def answer_question(request: Request, run_id: RunId, body: bodies.AnswerBody) -> Response:
        """Approve or deny what a step asks, with what its form asks for."""
        return await told(run_id, *await service.answer(run_id, body, by=by(request, body.by)))

    @app.post(
        f"{_RUN}/resolutions",
        tags=["run"],
        operation_id="resolve_step",
        response_model=bodies.ToldRun,
        responses=_problems(*_SAYING),
        dependencies=_needs(TokenScope.ANSWER),
    )
    async def resolve_step(request: Request, run_id: RunId, body: bodies.ResolutionBody) -> Response:
        """Say what came of a step whose outcome is unknown."""
        return await told(run_id, *await service.resolve(run_id, body, by=by(request, body.by)))

    @app.post(
        f"{_RUN}/cancel",
        tags=["run"],
        operation_id="cancel_run",
        response_model=bodies.ToldRun,
        responses=_problems(*_SAYING),
        dependencies=_needs(TokenScope.CANCEL),
    )
    async def cancel_run(
        request: Request, run_id: RunId, body: Annotated[bodies.CancelBody | None, Body()] = None
    ) -> Response:
        """Stop a run: what is under way is stopped, and nothing new starts."""
        body = body or bodies.CancelBody()
        return await told(run_id, *await service.cancel(run_id, by=by(request, body.by), reason=body.reason))

    @app.post(
        f"{_RUN}/pause",
        tags=["run"],
        operation_id="pause_run",
        response_model=bodies.ToldRun,
        responses=_problems(*_SAYING),
        dependencies=_needs(TokenScope.CANCEL),
    )
    async def pause_run(
        request: Request, run_id: RunId, body: Annotated[bodies.PauseBody | None, Body()] = None
    ) -> Response:
        """Have nothing new start; what is under way ends, and then the run rests until it is resumed."""
        body = body or bodies.PauseBody()
        return await told(run_id, *await service.pause(run_id, by=by(request, body.by)))

    @app.post(
        f"{_RUN}/resume",
        tags=["run"],
        operation_id="resume_run",
        response_model=bodies.RunSummary,
        responses=_problems(
            *_SAYING, also={201: {"model": bodies.RunSummary, "description": "The new run, for `failed`."}}
        ),
        dependencies=_needs(TokenScope.SUBMIT),
    )
    async def resume_run(run_id: RunId, body: Annotated[bodies.ResumeBody | None, Body()] = None) -> Response:
        """Go on with a run that is paused or that nobody drives; or, with `failed`, run the rest of one that failed."""
        if body is not None and body.failed:
            return await _new_run(service, await service.retry_failed(run_id), is_new=True)
        return await _new_run(service, await service.resume(run_id), is_new=False)

    @app.post(
        f"{_RUN}/fork",
        tags=["run"],
        operation_id="fork_run",
        status_code=201,
        response_model=bodies.RunSummary,
        responses=_problems(
            *_SAYING, also={200: {"model": bodies.RunSummary, "description": "The run that this key began before."}}
        ),
        dependencies=_needs(TokenScope.SUBMIT),
    )
    async def fork_run(request: Request, run_id: RunId, body: bodies.ForkBody, idempotency_key: Key = None) -> Response:
        """Start a run that goes on from this one as if a step had come to another output."""
        new_id, is_new = await service.fork(run_id, body, by=caller_of(request).name, key=idempotency_key)
        return await _new_run(service, new_id, is_new=is_new)


# --- the document -----------------------------------------------------------------------------


def _add_document(app: FastAPI) -> None:
    """Serve the OpenAPI document, with the one form that every error has."""
    make = app.openapi

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            told = make()
            schema = ProblemValue.model_json_schema(ref_template="#/components/schemas/{model}")
            parts = told["components"]["schemas"]
            parts |= schema.pop("$defs", {})
            parts["Problem"] = schema
            for unused in ("HTTPValidationError", "ValidationError"):
                parts.pop(unused, None)
        return app.openapi_schema or make()

    app.openapi = document  # type: ignore[method-assign]  # FastAPI's own way to add to the document

    @app.get("/v1/openapi.json", include_in_schema=False, dependencies=_needs(TokenScope.READ))
    async def openapi() -> Response:
        return JsonResponse(app.openapi())
