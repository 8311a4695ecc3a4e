"""Plans as the tools of an MCP server: a call runs one, on record, and is told what the run came to.

Rule 1: only a run that ended well is a success; one that waits for a person is an error that names the run.
Rule 2: whoever cancels a call, or goes away, cancels its run; that is on record.
Rule 3: over HTTP it is on this machine only, and nobody is served without the token.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import os
import re
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from planloom.cli.plan_file import PlanFile
from planloom.core.events import AttemptSucceeded, RunFinished, StepFailed, StepSkipped, StepSucceeded
from planloom.core.result import ENDED, RUN_ENDED, RunStatus
from planloom.errors import ConfigError, MissingKeyError, PlanloomError
from planloom.plan.inputs import inputs_schema
from planloom.runtime.engine import Engine
from planloom.server.plans import PLAN_SUFFIXES

if TYPE_CHECKING:
    from mcp.server.lowlevel import Server

    from planloom.cli.output import Screen
    from planloom.cli.project import Workplace
    from planloom.core.result import RunResult
    from planloom.plan.model import Plan
    from planloom.runtime.run import Run

LOOPBACK = ("127.0.0.1", "localhost", "::1")
TELL_S = 1.0
"""Seconds in which the progress of a run that has ended has to be told."""
SHORTEST_TOKEN = 16
"""Characters."""
_TOOL_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_WELL = (RunStatus.SUCCESS, RunStatus.PARTIAL)
_MAY_END_A_STEP = (AttemptSucceeded, StepSucceeded, StepFailed, StepSkipped, RunFinished)
_ANSWER = {
    "type": "object",
    "properties": {"run_id": {"type": "string"}, "status": {"type": "string"}, "output": {}},
    "required": ["run_id", "status", "output"],
}

Report = Callable[[float, float | None, str | None], Awaitable[None]]
"""Takes how many steps are done, how many there are, and what was done last."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a call is told.

    Attributes:
        value: As JSON: run, status and output, or the error.
        text: For models that read text only.
    """

    value: dict[str, Any]
    text: str
    is_error: bool = False


class ServedPlans:
    """Plans, each under the name that callers use.

    Args:
        hints: Options with which `planloom` finds the same journal, for the commands that a waiting run asks for.
    """

    def __init__(self, engine: Engine, paths: Iterable[Path], *, hints: str = "") -> None:
        """Read and check the plans.

        Raises:
            PlanError: One cannot run here.
            ConfigError: Two have one name, or there is none at all.
        """
        self._engine = engine
        self._hints = hints
        self.plans: dict[str, Plan] = {}
        for path in _files(paths):
            plan = PlanFile(path).read(also=engine.problems_here)
            name = plan.name if _TOOL_NAME.fullmatch(plan.name) else path.stem
            if name in self.plans or not _TOOL_NAME.fullmatch(name):
                raise ConfigError(f"{path} cannot be served as {name!r}", remedy="give each plan a `name` of its own")
            self.plans[name] = plan

    async def call(self, name: str, arguments: dict[str, Any], report: Report | None) -> Answer:
        """Run a plan and return what a caller is told; whatever goes wrong with the plan is an answer, too."""
        try:
            run = await self._engine.start(self.plans[name], arguments)
            result = await _finished(self._engine, run, report)
        except PlanloomError as error:
            return Answer({"error": error.to_dict()}, str(error), is_error=True)
        return self._answer(result)

    def _answer(self, result: RunResult) -> Answer:
        value: dict[str, Any] = {"run_id": result.run_id, "status": result.status.value, "output": result.output}
        if result.status in _WELL:
            output = result.output
            return Answer(value, output if isinstance(output, str) else json.dumps(output, ensure_ascii=False))
        if result.status is RunStatus.WAITING:
            value["blocked"] = blocked = [one | {"command": one["command"] + self._hints} for one in result.blockers()]
            told = "; ".join(f"step {one['step']!r} {one['why']}: {one['command']}" for one in blocked)
            then = f"planloom resume {result.run_id}{self._hints}"
            return Answer(value, f"run {result.run_id} is not done: {told}; then {then}", is_error=True)
        value["error"] = {"message": result.error, "failed_step": result.failed_step}
        if result.exceeded_limits:
            value["error"]["exceeded"] = list(result.exceeded_limits)
        return Answer(value, f"run {result.run_id} ended as {result.status.value}: {result.error}", is_error=True)


def _files(paths: Iterable[Path]) -> list[Path]:
    found: list[Path] = []
    for path in paths:
        inside = sorted(one for one in path.iterdir() if one.suffix in PLAN_SUFFIXES) if path.is_dir() else [path]
        if not inside:
            raise ConfigError(f"there are no plans in {path}", remedy="plans end in .yaml, .yml or .json")
        found += inside
    return found


async def _finished(engine: Engine, run: Run, report: Report | None) -> RunResult:
    """Wait for a run, in a task of its own: the caller's cancellation comes again and again, and ending takes time."""
    finishing = asyncio.create_task(engine.finish(run))
    telling = asyncio.create_task(_told(run, report)) if report is not None else None
    try:
        result = await asyncio.shield(finishing)
    except asyncio.CancelledError:
        import anyio

        finishing.cancel()
        with anyio.CancelScope(shield=True):
            await asyncio.wait([finishing])
        raise
    else:
        if telling is not None and result.status in RUN_ENDED:
            await asyncio.wait([telling], timeout=TELL_S)
        return result
    finally:
        if telling is not None:
            telling.cancel()


async def _told(run: Run, report: Report) -> None:
    """Tell of each step of the plan as it ends, also of one that ended before anybody asked."""
    told: set[str] = set()
    async for recorded in run.follow():
        if not isinstance(recorded.event, _MAY_END_A_STEP):
            continue
        steps = run.state_now().steps
        for one in steps:
            if one.status in ENDED and one.id not in told:
                told.add(one.id)
                await report(len(told), len(steps), f"{one.id} {one.status.value}")


def mcp_server(served: ServedPlans) -> Server[Any]:
    """Return an MCP server whose tools are these plans.

    Raises:
        ConfigError: The package is not installed.
    """
    try:
        import mcp_types as types
        from mcp import MCPError
        from mcp.server.lowlevel import Server
    except ImportError as error:
        raise ConfigError("MCP needs the package mcp", remedy="pip install 'planloom[mcp]'") from error

    tools = [
        types.Tool(
            name=name, description=plan.description or None, input_schema=inputs_schema(plan), output_schema=_ANSWER
        )
        for name, plan in served.plans.items()
    ]

    async def list_tools(context: Any, params: Any) -> types.ListToolsResult:
        return types.ListToolsResult(tools=tools)

    async def call_tool(context: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
        if params.name not in served.plans:
            raise MCPError(types.INVALID_PARAMS, f"there is no tool {params.name!r}")
        wanted = (params.meta or {}).get("progress_token") is not None
        report: Report | None = context.session.report_progress if wanted else None
        answer = await served.call(params.name, params.arguments or {}, report)
        content: list[Any] = [types.TextContent(text=answer.text)]
        return types.CallToolResult(content=content, structured_content=answer.value, is_error=answer.is_error)

    return Server("planloom", version=_version(), on_list_tools=list_tools, on_call_tool=call_tool)


def _version() -> str:
    import planloom

    return planloom.__version__


@asynccontextmanager
async def _server(place: Workplace, paths: Iterable[Path], screen: Screen) -> AsyncIterator[Server[Any]]:
    with screen.only_answers_on_stdout():  # what tools print while they are loaded is no message of the protocol
        tools = await place.all_tools(screen.note)
        settings = place.settings_here
        engine = Engine(place.journal, tools=tools, allow=settings.allow, settings=settings)
    async with engine:
        with place.needing_servers():
            served = ServedPlans(engine, paths, hints=place.hints(tools=True))
        screen.note(f"serving {', '.join(served.plans)}")
        yield mcp_server(served)


async def serve_stdio(place: Workplace, paths: Iterable[Path], screen: Screen) -> None:
    """Serve until whoever is at the other end of stdin goes away."""
    async with _server(place, paths, screen) as server:
        from mcp.server.stdio import stdio_server

        # A print that is still in Python's own buffer would come after the last message, on the wire.
        async with stdio_server() as (read, write):
            with redirect_stdout(sys.stderr):
                await server.run(read, write, server.create_initialization_options())


async def serve_http(place: Workplace, paths: Iterable[Path], screen: Screen, *, address: str, token_env: str) -> None:
    """Serve on an address of this machine, until the process is told to end.

    Raises:
        ConfigError: The address is another machine's, or taken.
        MissingKeyError: There is no token.
    """
    host, port = _address(address)
    token = os.environ.get(token_env, "")
    if len(token) < SHORTEST_TOKEN:
        raise MissingKeyError(
            f"{token_env} holds no token of at least {SHORTEST_TOKEN} characters",
            remedy=f'export {token_env}="$(openssl rand -hex 32)", and give it to whoever may call',
        )
    async with _server(place, paths, screen) as server:
        import uvicorn

        with listening_on(host, port) as listening:
            guarded = TokenGuard(server.streamable_http_app(host=host), token)
            shown = f"[{host}]" if ":" in host else host
            screen.note(f"listening on http://{shown}:{listening.getsockname()[1]}/mcp")
            await uvicorn.Server(uvicorn.Config(guarded, log_level="warning")).serve(sockets=[listening])


def _address(given: str) -> tuple[str, int]:
    host, _, port = given.rpartition(":")
    host = host.strip("[]") or LOOPBACK[0]
    if not port.isdigit() or int(port) > 65_535:
        raise ConfigError(f"{given!r} is no address", remedy="give a port, or HOST:PORT")
    if host not in LOOPBACK:
        raise ConfigError(
            f"{host!r} is not this machine's own address, and plans are served there only",
            remedy=f"use one of {', '.join(LOOPBACK)}, and let a proxy with TLS reach it from elsewhere",
        )
    return host, int(port)


def listening_on(host: str, port: int) -> socket.socket:
    """Return a socket that listens there; ConfigError where that cannot be."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        made = socket.create_server((host, port), family=family)
    except OSError as error:
        why = error.strerror or str(error)
        raise ConfigError(f"cannot listen on {host}:{port}: {why}", remedy="use another port") from error
    # It does not say that it is TCP, and then asyncio leaves Nagle's algorithm on: every answer would wait 40 ms.
    return socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, fileno=made.detach())


class TokenGuard:
    """An ASGI app that only those reach who give the token."""

    def __init__(self, app: Any, token: str) -> None:
        self._app = app
        self._wanted = f"Bearer {token}".encode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan" or self._is_told(scope):
            await self._app(scope, receive, send)
            return
        headers = [(b"content-type", b"text/plain"), (b"www-authenticate", b"Bearer")]
        await send({"type": "http.response.start", "status": 401, "headers": headers})
        await send({"type": "http.response.body", "body": b"a bearer token is needed\n"})

    def _is_told(self, scope: Any) -> bool:
        given = [value for name, value in scope.get("headers", ()) if name == b"authorization"]
        return len(given) == 1 and hmac.compare_digest(given[0], self._wanted)
