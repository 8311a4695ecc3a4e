"""How a program ends, whichever sandbox it is in: what it printed, what it asked for, and what ended it.

Rule 1: the first end counts; what comes after it is noise of a process that is being killed.
Rule 2: everything that a program says is bounded before it is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING, Any

from planloom.core.code import ErrorType, Program, ProgramCall, SandboxResult
from planloom.errors import ArgumentsError
from planloom.plan.values import as_json
from planloom.sandbox.program import listed

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_ERROR = 4_000
MAX_LAST_WORDS = 1_000
"""Characters of what a program printed that go with what a tool of its raised."""
CALLS_AT_ONCE = 64
"""Calls of tools that one program has under way at a time; more wait their turn."""
HELD_AT_ONCE = 4
"""How many times what one call may carry is held here for a program at a time, in calls and in answers."""
MAX_ARGS_ON_RECORD = 10_000
"""Characters of the arguments of all calls together that are kept with the result."""


@dataclass(slots=True)
class Ending:
    """What is known so far of how a program ends.

    Attributes:
        on_end: Called once, when something has ended it.
    """

    program: Program
    on_end: Callable[[], None]
    begun_at: float = field(default_factory=monotonic)
    error_type: ErrorType | None = None
    error: str | None = None
    raised: BaseException | None = None
    denied_tool: str | None = None
    result: Any = None
    is_over: bool = False
    calls: list[ProgramCall] = field(default_factory=list)
    _asked: int = 0
    _kept: int = 0
    _pieces: dict[str, list[str]] = field(default_factory=lambda: {"stdout": [], "stderr": []})
    _printed: int = 0

    def done(self, result: Any) -> None:
        if not self.is_over:
            self.result = result
            self._over()

    def failed(self, kind: ErrorType, text: str) -> None:
        if not self.is_over:
            self.error_type, self.error = kind, _written(text[:MAX_ERROR])
            self._over()

    def raises(self, error: BaseException) -> None:
        """End it with an error of the host's own."""
        if not self.is_over:
            self.raised = error
            self._over()

    def _over(self) -> None:
        self.is_over = True
        self.on_end()

    def raised_in_program(self, kind: ErrorType, text: str, name: str | None = None) -> None:
        """End it with what it raised; `name` is what it has no value for, if that was it."""
        if name is not None and self.program.forbids(name):
            self.deny(name)
            return
        told = f"{text}{listed(self.program.tools)}" if name is not None else text
        self.failed(kind, told)

    def deny(self, name: str) -> None:
        if not self.is_over:
            self.denied_tool = _written(name[:200])
        self.failed(ErrorType.DENIED, f"the program may not call tool {name!r:.200}{listed(self.program.tools)}")

    def printed(self, stream: str, text: str) -> bool:
        """Keep a piece of output; return whether there may be more."""
        room = self.program.limits.output_bytes - self._printed
        size = len(text) if text.isascii() else len(text.encode(errors="replace"))
        self._printed += size
        self._pieces[stream].append(text if size <= room else text[: max(0, room)])
        if size > room:
            self.failed(ErrorType.OUTPUT, f"it printed more than {self.program.limits.output_bytes:,} bytes")
        return size <= room

    def may_call(self, name: str) -> bool:
        """Return whether the program may make one more call, of this tool; if not, that ends it."""
        if self.is_over:
            return False
        if name not in self.program.tools:
            self.deny(name)
            return False
        self._asked += 1
        if self._asked > self.program.limits.tool_calls:
            self.failed(ErrorType.DENIED, f"it called tools more than {self.program.limits.tool_calls:,} times")
            return False
        return True

    async def call(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], size: int) -> dict[str, Any]:
        """Make a call that the program may make; return the answer to send it.

        Args:
            size: Bytes of JSON that its arguments are.
        """
        function = self.program.tools[name]
        begun_at = monotonic()
        told: dict[str, Any]
        error: BaseException | None = None
        try:
            told = {"value": as_json(await function(args, kwargs), where=name)}
        except ArgumentsError as wrong:
            error, told = wrong, {"error": wrong.message}
        except BaseException as other:
            error = other
            raise
        finally:
            self._kept += size
            if self._kept > MAX_ARGS_ON_RECORD:
                args, kwargs = (), {}
            failed = None if error is None else type(error).__name__
            self.calls.append(ProgramCall(name, args, kwargs, monotonic() - begun_at, failed))
        return told

    def finished(self, backend: str, enforced: Mapping[str, str], unenforced: Mapping[str, str]) -> SandboxResult:
        """Return the result.

        Raises:
            BaseException: What a tool of the host raised.
        """
        if self.raised is not None:
            printed = "".join(self._pieces["stdout"]).rstrip()[-MAX_LAST_WORDS:]
            if printed:
                self.raised.add_note(f"the program had printed: {_written(printed)}")
            raise self.raised
        if not self.is_over:
            self.failed(ErrorType.CRASHED, "it ended without a word")
        return SandboxResult(
            output="".join(self._pieces["stdout"]),
            stderr="".join(self._pieces["stderr"]),
            result=self.result,
            tool_calls=tuple(self.calls),
            error=self.error,
            error_type=self.error_type,
            execution_time=monotonic() - self.begun_at,
            backend=backend,
            denied_tool=self.denied_tool,
            enforced=enforced,
            unenforced=unenforced,
        )


def _written(text: str) -> str:
    """Return a text that can go on record: without halves of characters, which UTF-8 has no way to write."""
    return text.encode(errors="replace").decode()
