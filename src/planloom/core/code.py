"""A program for a sandbox, what it may use, and what it came to: the words that executors and sandboxes share.

Rule 1: a program is untrusted; so is everything that it says, prints or answers with.
Rule 2: a limit that a sandbox cannot hold is named in `unenforced`; none is dropped in silence.
Rule 3: a program's own failure is a result. Only what is wrong around it (no sandbox here, a tool that fails) raises.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from planloom.errors import ConfigError

LEAST_MEMORY_MB = 16
"""A Python that has done nothing yet needs about ten."""


class ErrorType(StrEnum):
    """What kind of end a program came to that did not end well."""

    SYNTAX = "syntax"
    """It is no Python, or none that this sandbox can run."""
    RUNTIME = "runtime"
    """It raised."""
    MEMORY = "memory"
    TIMEOUT = "timeout"
    OUTPUT = "output"
    """It printed more than it may."""
    RESULT = "result"
    """What it returned, or gave to a tool, is no JSON, or too much of it."""
    DISK = "disk"
    """It wrote more than it may."""
    DENIED = "denied"
    """It asked for what it may not have: a tool, a module, a file, a socket, a process."""
    PROTOCOL = "protocol"
    """It sent what the sandbox's own messages never look like."""
    CRASHED = "crashed"
    """Its process died."""


@dataclass(frozen=True, slots=True)
class SandboxLimits:
    """What one program may use. MB are 10^6 bytes.

    Attributes:
        memory_mb: The interpreter's own share, about 10 MB, is in it.
        wall_s: Seconds from start to end, waits for tools included.
        cpu_percent: Of one core, on average; None: as much as there is.
        output_bytes: Of what it prints.
        result_bytes: Of what it returns, as JSON; also the most that one call of a tool may carry.
        processes: Processes and threads at a time.
        disk_mb: In files of its own, which go with it; 0: it has none.
        tool_calls: Calls of tools, all together.
        source_bytes: Of the program itself.
    """

    memory_mb: float = 100
    wall_s: float = 5.0
    cpu_percent: float | None = 50
    output_bytes: int = 1_000_000
    result_bytes: int = 1_000_000
    processes: int = 8
    disk_mb: float = 16
    tool_calls: int = 1_000
    source_bytes: int = 100_000

    def __post_init__(self) -> None:
        if not self.memory_mb >= LEAST_MEMORY_MB:
            raise ConfigError(
                f"memory_mb of a sandbox is {self.memory_mb!r}", remedy=f"give it {LEAST_MEMORY_MB} or more"
            )
        if self.cpu_percent is not None and not self.cpu_percent >= 1:
            raise ConfigError(f"cpu_percent of a sandbox is {self.cpu_percent!r}", remedy="give it 1 or more, or None")
        for name in ("wall_s", "output_bytes", "result_bytes", "processes", "source_bytes"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} of a sandbox is {getattr(self, name)!r}", remedy="give it more than 0")
        for name in ("disk_mb", "tool_calls"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} of a sandbox is {getattr(self, name)!r}", remedy="give it 0 or more")

    @property
    def memory_bytes(self) -> int:
        return int(self.memory_mb * 1e6)

    @property
    def disk_bytes(self) -> int:
        return int(self.disk_mb * 1e6)


ToolFunction = Callable[[tuple[Any, ...], dict[str, Any]], Awaitable[Any]]
"""Makes a call for a program, in the host: positional and keyword arguments, JSON all; returns JSON.

What it raises ends the program and is raised to whoever runs it, but for an `ArgumentsError`: that the program is told.
"""


def _nothing_else(_name: str) -> bool:
    return False


def _nobody_asks(_seconds: float | None) -> None: ...


@dataclass(frozen=True, slots=True)
class Program:
    """Python to run, and what it gets.

    Attributes:
        inputs: Its global variables, JSON.
        tools: What it may call, by the name it calls it by: `name(...)`, `tools.name(...)` or `functions.name(...)`.
        forbids: Whether a name that it has not got means a tool that it may not call.
        allowed_imports: Modules it may import, with what is inside them; None: all that the sandbox has.
        waits: Is told that it waits for a place (None), and when it has one, how many seconds that took.
    """

    source: str
    inputs: Mapping[str, Any] = field(default_factory=dict)
    tools: Mapping[str, ToolFunction] = field(default_factory=dict)
    limits: SandboxLimits = field(default_factory=SandboxLimits)
    forbids: Callable[[str], bool] = _nothing_else
    allowed_imports: frozenset[str] | None = None
    waits: Callable[[float | None], None] = _nobody_asks


@dataclass(frozen=True, slots=True)
class ProgramCall:
    """One call of a tool that a program made.

    Attributes:
        time_s: Seconds it took.
        error: What it failed with, or None.
    """

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    time_s: float
    error: str | None = None


@dataclass(frozen=True, slots=True)
class SandboxResult:
    """What a program came to.

    Attributes:
        output: What it printed.
        stderr: What it, or its interpreter, wrote to standard error.
        result: What it returned with `return x`, else the value of its last line; JSON.
        error: What went wrong, as text, or None.
        error_type: An `ErrorType`, or None if nothing went wrong.
        execution_time: Seconds, start of the sandbox included.
        backend: Name of what ran it.
        denied_tool: The tool that it asked for and may not call, if that was it.
        enforced: How each limit was held.
        unenforced: Why each of the others was not.
    """

    output: str = ""
    result: Any = None
    tool_calls: tuple[ProgramCall, ...] = ()
    error: str | None = None
    error_type: ErrorType | None = None
    execution_time: float = 0.0
    backend: str = ""
    stderr: str = ""
    denied_tool: str | None = None
    enforced: Mapping[str, str] = field(default_factory=dict)
    unenforced: Mapping[str, str] = field(default_factory=dict)

    @property
    def success(self) -> bool:
        return self.error_type is None

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values, ready for JSON."""
        return {
            "output": self.output,
            "stderr": self.stderr,
            "result": self.result,
            "tool_calls": [asdict(call) for call in self.tool_calls],
            "error": self.error,
            "error_type": None if self.error_type is None else self.error_type.value,
            "execution_time": self.execution_time,
            "backend": self.backend,
            "enforced": dict(self.enforced),
            "unenforced": dict(self.unenforced),
        }
