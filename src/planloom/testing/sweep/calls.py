"""What tools really did, whatever a journal says: every call of them, over all of a run's lives.

Rule 1: a logged tool is the tool it was to everybody who looks at it: name, schema, effects, digest.
Rule 2: a call takes MOMENT_S of the loop's time between what it does and its answer, so that whatever may happen
meanwhile does: calls side by side overlap, in the same order each time.
Rule 3: a sync tool does its work in a thread, for which the loop stands still; one that takes longer than SHORT_S goes
on beside it, as it would in an engine.
Rule 4: a process that has no power calls nothing.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from planloom.core.events import CallStarted, StepDispatched
from planloom.errors import DeadlockError, NotDoneError, OutputError, RunNotFoundError
from planloom.plan.policy import Effects
from planloom.plan.terms import fresh
from planloom.plan.values import as_json
from planloom.testing.sweep.loop import PatientLoop
from planloom.tools.context import ToolContext

if TYPE_CHECKING:
    from planloom.core.commands import RunStep
    from planloom.core.events import Event
    from planloom.ports import Journal
    from planloom.testing.sweep.point import PointKind
    from planloom.tools.tool import Tool

MOMENT_S = 0.001
SHORT_S = 0.25
"""Real seconds a sync tool may take before others go on."""
PATIENCE_S = 30.0
"""Real seconds to wait for a sync tool of a process that has no power any more."""
_CONTEXT = "planloom_sweep_context"
"""Parameter of a logged tool that takes the context where its own tool takes none."""


class Gate(Protocol):
    """What a process asks before it does anything: whether it comes so far."""

    async def about_to(self, kind: PointKind) -> int:
        """Return the number of what is to be done, unless the process comes no further."""
        ...

    async def done(self, kind: PointKind, number: int) -> None:
        """Return, unless the process came no further than having done it."""
        ...


@dataclass(slots=True, eq=False)
class MadeCall:
    """One call of a tool.

    Attributes:
        life: In which life of the run's process it began, from 1.
        key: Its idempotency key.
        effects: What making it again would do, as the step or the tool says.
        args: What it was given, as JSON.
        ended: False while nobody knows what it came to.
        error: Class names of what it raised, most derived first, and what that says; then there is no output.
        recorded: Whether its start was on record when it began; None: it has no effects, so that nobody looked.
        sees_attempt: Whether it is told which attempt it is of, so that another one may be answered otherwise.
        is_all: Whether it is all that its step does.
        has_start: Whether its own start is on record; else it begins with its attempt.
    """

    tool: str
    step: str
    attempt: int
    key: str
    effects: Effects
    args: Any
    life: int
    sees_attempt: bool
    is_all: bool
    has_start: bool
    ended: bool = False
    output: Any = None
    error: tuple[str, ...] = ()
    not_done: bool = False
    recorded: bool | None = None

    @property
    def answer(self) -> str:
        """Return what it came to, for people."""
        return f"raised {self.error[0]}: {self.error[-1]}" if self.error else f"answered {self.output!r}"


class _Starts:
    """The starts on record of one run, read as far as it goes."""

    def __init__(self, disk: Journal, run_id: str) -> None:
        self._disk = disk
        self._run_id = run_id
        self._read = 0
        self._begun: set[tuple[str, int, str]] = set()

    async def hold(self, made: MadeCall) -> bool:
        """Return whether the start of a call is on record: its attempt's, and, inside an attempt, its own."""
        try:
            record = await self._disk.read(self._run_id, after=self._read)
        except RunNotFoundError:
            return False
        for entry in record:
            self._read = entry.seq
            event: Event = entry.event
            if isinstance(event, StepDispatched):
                self._begun.add((event.step, event.attempt, ""))
            elif isinstance(event, CallStarted):
                self._begun.add((event.step, event.attempt, f"{self._run_id}/{event.step}/{event.key}"))
        return (made.step, made.attempt, made.key if made.has_start else "") in self._begun


class CallBook:
    """The calls of all tools of one world, in order.

    Attributes:
        made: All of them so far.
        attempts: What each attempt was asked to do.
        gate: Of the process that lives now.
        life: Which life that is, from 1.
    """

    def __init__(self, disk: Journal, run_id: str, *, in_real_time: bool = False) -> None:
        self.made: list[MadeCall] = []
        self.attempts: dict[tuple[str, int], RunStep] = {}
        self.gate: Gate
        self.life = 0
        self._starts = _Starts(disk, run_id)
        self._in_real_time = in_real_time
        self._threads: set[threading.Thread] = set()

    def logged(self, tools: Iterable[Tool]) -> list[Tool]:
        """Return the tools with every call of theirs put down here."""
        return [self._logged(tool) for tool in tools]

    def _logged(self, tool: Tool) -> Tool:
        parameter = tool.context_parameter or _CONTEXT

        async def call(**kwargs: Any) -> Any:
            context: ToolContext = kwargs[parameter]
            if tool.context_parameter is None:
                del kwargs[parameter]
            return await self._made(tool, kwargs, context)

        return replace(tool, function=call, is_async=True, context_parameter=parameter)

    async def _made(self, tool: Tool, kwargs: dict[str, Any], context: ToolContext) -> Any:
        gate = self.gate
        number = await gate.about_to("call")
        made = self._begun(tool, kwargs, context)
        if made.effects is not Effects.NONE:
            made.recorded = await self._starts.hold(made)
        try:
            result = await self._doing(tool, kwargs)
            made.output = _json(result)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            made.error = (*(kind.__name__ for kind in type(error).__mro__), str(error))
            made.not_done = isinstance(error, NotDoneError)
            made.ended = True
            await asyncio.sleep(MOMENT_S)
            await gate.done("call", number)
            raise
        made.ended = True
        await asyncio.sleep(MOMENT_S)
        await gate.done("call", number)
        return result

    def _begun(self, tool: Tool, kwargs: dict[str, Any], context: ToolContext) -> MadeCall:
        request = self.attempts.get((context.step, context.attempt))
        is_all = request is not None and request.step.tool is not None
        has_start = not is_all and request is not None and request.step.model is None
        if request is not None and context.idempotency_key == request.idempotency_key:
            has_start = False  # an agent of another kind
        made = MadeCall(
            tool.name,
            context.step,
            context.attempt,
            context.idempotency_key,
            _effects(tool, request if is_all else None),
            _json({name: value for name, value in kwargs.items() if name != tool.context_parameter}),
            self.life,
            tool.context_parameter is not None,
            is_all,
            has_start,
        )
        self.made.append(made)
        return made

    async def _doing(self, tool: Tool, kwargs: dict[str, Any]) -> Any:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, PatientLoop)
        if not tool.is_async:
            return await self._in_thread(tool.function, kwargs, loop)
        loop.calls += 1
        loop.outside += self._in_real_time
        try:
            return await tool.function(**kwargs)
        finally:
            loop.calls -= 1
            loop.outside -= self._in_real_time

    async def _in_thread(self, function: Callable[..., Any], kwargs: dict[str, Any], loop: PatientLoop) -> Any:
        ended: asyncio.Future[None] = loop.create_future()
        came: list[tuple[Any, BaseException | None]] = []
        context = copy_context()

        def work() -> None:
            try:
                came.append((context.run(function, **kwargs), None))
            except BaseException as error:  # noqa: BLE001 - carried to whoever called
                came.append((None, error))
            if late.is_set():
                with suppress(RuntimeError):  # the loop has closed: nobody waits any more
                    loop.call_soon_threadsafe(_answer, ended)

        late = threading.Event()
        thread = threading.Thread(target=work, name="planloom-sweep-tool", daemon=True)
        thread.start()
        thread.join(SHORT_S)
        if thread.is_alive():
            late.set()
            await self._came_late(thread, ended, loop)
        result, error = came[0]
        if error is not None:
            if isinstance(error, StopIteration | GeneratorExit):
                error = RuntimeError(f"{type(error).__name__}: {error}")  # as in an engine's own threads
            raise error
        return result

    async def _came_late(self, thread: threading.Thread, ended: asyncio.Future[None], loop: PatientLoop) -> None:
        self._threads.add(thread)
        loop.outside += 1
        try:
            while thread.is_alive() and not ended.done():
                await asyncio.wait({ended}, timeout=SHORT_S)
        finally:
            loop.outside -= 1
        thread.join()

    def wait_for_threads(self) -> None:
        """Wait, really, for the sync tools of a process without power: what they began they end.

        Raises:
            DeadlockError: One of them does not.
        """
        for thread in self._threads:
            thread.join(PATIENCE_S)
            if thread.is_alive():
                raise DeadlockError(
                    f"a sync tool was still at work {PATIENCE_S:g} s after its process was stopped",
                    remedy="give it an end, or have it ask `ToolContext.cancelled()` now and then",
                )
        self._threads.clear()

    def of_step(self, step: str) -> list[MadeCall]:
        return [made for made in self.made if made.step == step]


def _effects(tool: Tool, request: RunStep | None) -> Effects:
    """Return what step and tool declare; what the engine makes of it is what is looked at."""
    own = None if request is None else request.step.effects
    return own or tool.effects or Effects.ONCE


def _answer(ended: asyncio.Future[None]) -> None:
    if not ended.done():
        ended.set_result(None)


def _json(value: Any) -> Any:
    """Return a copy as JSON; of what is none, its text: that it is none, the engine says."""
    try:
        return fresh(as_json(value))
    except OutputError:
        return repr(value)
