"""Code written on the spot: `SandboxEnvironment` runs it by itself, `ProgrammaticToolExecutor` with tools to call.

Rule 1: thin doors. The one is a `Sandbox` that remembers what was printed; the other a plan of one code step, run by an
engine of its own, so that its tools are allowed, counted, limited and paid for as those of any plan.
Rule 2: what a program did wrong is in the result, under `error`; what is wrong around it raises.
Rule 3: a program's variables go in as inputs: nothing in them is ever read as a reference.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from time import monotonic
from typing import TYPE_CHECKING, Any

from planloom.core.code import Program, ProgramCall, SandboxLimits, SandboxResult
from planloom.core.result import RunResult
from planloom.errors import ConfigError
from planloom.plan.model import Plan, Step
from planloom.plan.policy import CodePolicy, ResourceLimits
from planloom.runtime.engine import Engine
from planloom.sandbox.sandbox import backend_of
from planloom.tools.catalogue import ToolCatalog
from planloom.tools.registry import ToolRegistry

if TYPE_CHECKING:
    from planloom.errors import NoSandboxError
    from planloom.ports import SandboxBackend

CODE = "code"
MAX_LOGS = 1_000
"""Lines that an environment remembers."""


class SandboxEnvironment:
    """Runs one program after the other, each by itself: what one leaves behind is gone before the next.

    Args:
        limits: Of each program; of a `ResourceLimits` its memory, processor share and time.
        allowed_imports: Modules a program may import; None: all that its sandbox has.
        filesystem_access: Whether it has files of its own, in memory. Those of this machine it never has.
        runtime: See `Sandbox`.
    """

    def __init__(
        self,
        limits: ResourceLimits | SandboxLimits | None = None,
        allowed_imports: Iterable[str] | None = None,
        filesystem_access: bool = False,
        *,
        runtime: str = "monty",
    ) -> None:
        given = limits_of(limits)
        self.limits = given if filesystem_access else replace(given, disk_mb=0)
        self.allowed_imports = None if allowed_imports is None else frozenset(allowed_imports)
        self.filesystem_access = filesystem_access
        self.runtime = runtime
        backend_of(runtime)
        self._logs: list[str] = []

    async def execute_code(self, code: str, globals_dict: Mapping[str, Any] | None = None) -> SandboxResult:
        """Run a program; it may say `return x` outside of any function, and `await`.

        Args:
            globals_dict: Its variables, JSON; a module or any other object among them is refused.

        Raises:
            NoSandboxError: The runtime cannot be had here.
        """
        program = Program(code, globals_dict or {}, limits=self.limits, allowed_imports=self.allowed_imports)
        result = await backend_of(self.runtime).run(program)
        lines = [*result.output.splitlines(), *result.stderr.splitlines()]
        lines += [f"error: {result.error}"] if result.error is not None else []
        self._logs = [*self._logs, *lines][-MAX_LOGS:]
        return result

    def get_logs(self) -> list[str]:
        """Return what the programs since the last `reset` printed, and what they failed with, a line each."""
        return list(self._logs)

    def reset(self) -> None:
        """Forget what was printed."""
        self._logs = []


def limits_of(limits: ResourceLimits | SandboxLimits | None) -> SandboxLimits:
    """Return limits of a sandbox for those of a run; None: a sandbox's own."""
    if limits is None or isinstance(limits, SandboxLimits):
        return limits or SandboxLimits()
    usual = SandboxLimits()
    return replace(
        usual,
        memory_mb=limits.max_memory_mb or usual.memory_mb,
        wall_s=limits.timeout_seconds or usual.wall_s,
        cpu_percent=limits.max_cpu_percent,
    )


@dataclass(frozen=True, slots=True)
class ProgramOutcome:
    """What code that called tools came to.

    Attributes:
        output: What it printed.
        result: What it returned.
        tool_calls: The calls it made, in the order in which they ended.
        execution_time: Seconds.
        error: What went wrong, or None.
        execution_id: The run's id.
        error_type: An `ErrorType`, what kind of failure a tool's was, or "limit"; None if nothing went wrong.
        cost_usd: What the tools cost, or None where nobody knows.
        exceeded_limits: Limits of the run that ended it.
    """

    output: str
    result: Any
    tool_calls: tuple[ProgramCall, ...]
    execution_time: float
    error: str | None
    execution_id: str
    error_type: str | None = None
    cost_usd: float | None = None
    exceeded_limits: tuple[str, ...] = ()

    @property
    def success(self) -> bool:
        return self.error is None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class ProgrammaticToolExecutor:
    """Runs code that calls tools by their names, plainly, or with `await` where the code awaits anything.

    Args:
        catalog: A `ToolCatalog`, a registry, or functions.
        limits: Of each execution; None: those that a `ResourceLimits` has by itself.
        allow: Names of the tools that code may call; None: all of the catalogue that can be called.
        runtime: See `Sandbox`.
    """

    def __init__(
        self,
        catalog: ToolCatalog | ToolRegistry | Iterable[Any] | None = None,
        limits: ResourceLimits | None = None,
        *,
        allow: Iterable[str] | None = None,
        runtime: str = "monty",
    ) -> None:
        self.registry = ToolRegistry.of(catalog)
        self.limits = limits or ResourceLimits()
        self.tools = tuple(sorted(self.registry.expanded(allow) if allow is not None else self.registry.names()))
        self.runtime = runtime
        self._backend = backend_of(runtime)

    async def execute(self, code: str, context: Mapping[str, Any] | None = None) -> ProgramOutcome:
        """Run code to its end.

        Args:
            context: Its variables, JSON.

        Raises:
            NoSandboxError: The runtime cannot be had here.
            PlanError: The variables are no JSON, or their names no names.
        """
        begun_at = monotonic()
        missing = self._backend.missing()
        if missing is not None:
            raise missing
        noted = _Noted(self._backend)
        variables = dict(context or {})
        async with Engine(tools=self.registry, sandboxes={self.runtime: noted}) as engine:
            run = await engine.start(self._plan(code, variables), variables, limits=self.limits)
            ended = await engine.finish(run)
        if noted.error is not None:
            raise noted.error
        return _outcome(ended, noted, monotonic() - begun_at)

    def _plan(self, code: str, variables: Mapping[str, Any]) -> Plan:
        fields: dict[str, Any] = {
            "code": CodePolicy(source=code, runtime=self.runtime, tools=self.tools),
            "with": {name: f"${{{{ inputs.{name} }}}}" for name in variables},
        }
        return Plan(name="program", inputs={name: {} for name in variables}, steps=(Step(id=CODE, **fields),))


class _Noted:
    """A sandbox as it is, with what it said noted: the record keeps only the text of an error."""

    def __init__(self, backend: SandboxBackend) -> None:
        self._backend = backend
        self.result: SandboxResult | None = None
        self.error: ConfigError | None = None
        self.name = backend.name

    def missing(self) -> NoSandboxError | None:
        return self._backend.missing()

    async def run(self, program: Program) -> SandboxResult:
        try:
            self.result = await self._backend.run(program)
        except ConfigError as error:
            self.error = error
            raise
        return self.result

    async def close(self) -> None:
        await self._backend.close()


def _outcome(ended: RunResult, noted: _Noted, took_s: float) -> ProgramOutcome:
    told, step = noted.result, ended.step(CODE)
    kind = step.error_kind if told is None or told.error_type is None else told.error_type.value
    return ProgramOutcome(
        output="" if told is None else told.output,
        result=step.output,
        tool_calls=() if told is None else told.tool_calls,
        execution_time=took_s,
        error=step.error or ended.error,
        execution_id=ended.run_id,
        error_type="limit" if ended.exceeded_limits else kind,
        cost_usd=ended.cost_usd,
        exceeded_limits=ended.exceeded_limits,
    )
