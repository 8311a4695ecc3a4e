"""The plans that a server knows, and what is wrong with others."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI, Path, Response

from planloom.errors import PlanError
from planloom.plan.inputs import inputs_schema
from planloom.server import bodies
from planloom.server.plans import NAME
from planloom.server.problems import JsonResponse
from planloom.server.routes.terms import needs, problems
from planloom.server.settings import TokenScope

if TYPE_CHECKING:
    from planloom.server.service import RunService


def add_plans(app: FastAPI, service: RunService) -> None:
    @app.get(
        "/v1/plans",
        tags=["plans"],
        operation_id="list_plans",
        response_model=bodies.PlanList,
        responses=problems(),
        dependencies=needs(TokenScope.READ),
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
        responses=problems(404),
        dependencies=needs(TokenScope.READ),
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
        responses=problems(408, 413),
        dependencies=needs(TokenScope.READ),
    )
    async def check_plan(body: bodies.PlanBody) -> Response:
        """Say everything that is wrong with a plan, and where. Nothing is run."""
        plan = await service.checked(body.plan)
        told = {"name": plan.name, "hash": plan.hash, "steps": len(plan.steps), "inputs": inputs_schema(plan)}
        return JsonResponse(told)
