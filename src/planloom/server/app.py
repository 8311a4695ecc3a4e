"""The HTTP side: the app with its routes, whether it lives, what it counts, and its document.

Rule 1: a route reads its request, calls the service, and writes what comes back: nothing is decided here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Response
from starlette.responses import PlainTextResponse

import planloom
from planloom.observe.prometheus import CONTENT_TYPE
from planloom.server import bodies
from planloom.server.auth import Doorkeeper
from planloom.server.gate import HttpGate
from planloom.server.page import page_router
from planloom.server.problems import JsonResponse, ProblemValue, tell_problems
from planloom.server.routes.people import add_says
from planloom.server.routes.plans import add_plans
from planloom.server.routes.reading import add_run
from planloom.server.routes.runs import add_runs
from planloom.server.routes.terms import needs, problems
from planloom.server.settings import TokenScope

if TYPE_CHECKING:
    from planloom.observe.metrics import Metrics
    from planloom.server.limits import RequestRate
    from planloom.server.service import RunService
    from planloom.server.settings import ServerSettings


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
    add_plans(app, service)
    add_runs(app, service)
    add_run(app, service)
    add_says(app, service)
    _add_document(app)
    if page:
        app.include_router(page_router())
    app.add_middleware(HttpGate, settings=settings, doorkeeper=Doorkeeper(settings), rate=rate)
    return app


def _add_health(app: FastAPI, service: RunService) -> None:
    @app.get("/healthz", tags=["health"], operation_id="healthz", response_model=bodies.Health)
    async def healthz() -> Response:
        """Whether the server lives."""
        return JsonResponse({"status": "ok"})

    @app.get("/readyz", tags=["health"], operation_id="readyz", response_model=bodies.Health, responses=problems())
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
        responses=problems(),
        dependencies=needs(TokenScope.READ),
    )
    async def metrics_text() -> Response:
        """What was counted since the server began, as Prometheus reads it."""
        return Response(metrics.text(), media_type=CONTENT_TYPE)


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

    @app.get("/v1/openapi.json", include_in_schema=False, dependencies=needs(TokenScope.READ))
    async def openapi() -> Response:
        return JsonResponse(app.openapi())
