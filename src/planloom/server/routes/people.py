"""What people say to runs: answers, resolutions, stop, rest, go on, go on otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from fastapi import Body, FastAPI, Request, Response

from planloom.server import bodies
from planloom.server.auth import caller_of
from planloom.server.problems import JsonResponse
from planloom.server.routes.terms import QUEUED, RUN, SAYING, Key, RunId, needs, new_run, problems
from planloom.server.settings import TokenScope

if TYPE_CHECKING:
    from planloom.server.hands import Said
    from planloom.server.service import RunService


def add_says(app: FastAPI, service: RunService) -> None:

    def by(request: Request, person: str) -> str:
        name = caller_of(request).name
        return f"{person} ({name})" if person else name

    async def told(run_id: str, fact: Said, driven: bool | None) -> Response:
        status = (await service.read(run_id)).result.status.value
        return JsonResponse({"run_id": run_id, "recorded": type(fact).__name__, "status": status, "driven": driven})

    @app.post(
        f"{RUN}/answers",
        tags=["run"],
        operation_id="answer_question",
        response_model=bodies.ToldRun,
        responses=problems(*SAYING),
        dependencies=needs(TokenScope.ANSWER),
    )
    async def answer_question(request: Request, run_id: RunId, body: bodies.AnswerBody) -> Response:
        """Approve or deny what a step asks, with what its form asks for."""
        return await told(run_id, *await service.steering.answer(run_id, body, by=by(request, body.by)))

    @app.post(
        f"{RUN}/resolutions",
        tags=["run"],
        operation_id="resolve_step",
        response_model=bodies.ToldRun,
        responses=problems(*SAYING),
        dependencies=needs(TokenScope.ANSWER),
    )
    async def resolve_step(request: Request, run_id: RunId, body: bodies.ResolutionBody) -> Response:
        """Say what came of a step whose outcome is unknown."""
        return await told(run_id, *await service.steering.resolve(run_id, body, by=by(request, body.by)))

    @app.post(
        f"{RUN}/cancel",
        tags=["run"],
        operation_id="cancel_run",
        response_model=bodies.ToldRun,
        responses=problems(*SAYING),
        dependencies=needs(TokenScope.CANCEL),
    )
    async def cancel_run(
        request: Request, run_id: RunId, body: Annotated[bodies.CancelBody | None, Body()] = None
    ) -> Response:
        """Stop a run: what is under way is stopped, and nothing new starts."""
        body = body or bodies.CancelBody()
        return await told(run_id, *await service.steering.cancel(run_id, by=by(request, body.by), reason=body.reason))

    @app.post(
        f"{RUN}/pause",
        tags=["run"],
        operation_id="pause_run",
        response_model=bodies.ToldRun,
        responses=problems(*SAYING),
        dependencies=needs(TokenScope.CANCEL),
    )
    async def pause_run(
        request: Request, run_id: RunId, body: Annotated[bodies.PauseBody | None, Body()] = None
    ) -> Response:
        """Have nothing new start; what is under way ends, and then the run rests until it is resumed."""
        body = body or bodies.PauseBody()
        return await told(run_id, *await service.steering.pause(run_id, by=by(request, body.by)))

    @app.post(
        f"{RUN}/resume",
        tags=["run"],
        operation_id="resume_run",
        response_model=bodies.RunSummary,
        responses=problems(
            *SAYING, also={201: {"model": bodies.RunSummary, "description": "The new run, for `failed`."}, **QUEUED}
        ),
        dependencies=needs(TokenScope.SUBMIT),
    )
    async def resume_run(
        request: Request,
        run_id: RunId,
        body: Annotated[bodies.ResumeBody | None, Body()] = None,
        idempotency_key: Key = None,
    ) -> Response:
        """Go on with a run that is paused or that nobody drives; or, with `failed`, run the rest of one that failed.

        The key is about the new run; whoever goes on twice with the same one does so once anyway.
        """
        if body is not None and body.failed:
            by = caller_of(request).name
            new_id, is_new = await service.retry_failed(run_id, body, by=by, key=idempotency_key)
            return await new_run(service, new_id, is_new=is_new)
        return await new_run(service, await service.steering.resume(run_id), is_new=False)

    @app.post(
        f"{RUN}/fork",
        tags=["run"],
        operation_id="fork_run",
        status_code=201,
        response_model=bodies.RunSummary,
        responses=problems(
            *SAYING,
            also={200: {"model": bodies.RunSummary, "description": "The run that this key began before."}, **QUEUED},
        ),
        dependencies=needs(TokenScope.SUBMIT),
    )
    async def fork_run(request: Request, run_id: RunId, body: bodies.ForkBody, idempotency_key: Key = None) -> Response:
        """Start a run that goes on from this one as if a step had come to another output."""
        new_id, is_new = await service.fork(run_id, body, by=caller_of(request).name, key=idempotency_key)
        return await new_run(service, new_id, is_new=is_new)
