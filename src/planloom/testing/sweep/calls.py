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
from contextvars import copy_context
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NoReturn

from planloom.errors import NotDoneError, OutputError
from planloom.plan.policy import Effects
from planloom.plan.terms import fresh
from planloom.plan.values import as_json
from planloom.testing.sweep.loop import PatientLoop
from planloom.tools.context import ToolContext

if TYPE_CHECKING:
    from planloom.core.commands import RunStep
    from planloom.ports import Journal
    from planloom.testing.sweep.power import Power
    from planloom.tools.tool import Tool

MOMENT_S = 0.001
SHORT_S = 0.25
"""Real seconds a sync tool may take before others go on."""
PATIENCE_S = 30.0
"""Real seconds to wait for a sync tool of a process that has no power any more."""
_CONTEXT = "planloom_sweep_context"
"""Parameter of a logged tool that takes the context where its own tool takes none."""


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
    """

    tool: str
    step: str
    attempt: int
    key: str
    effects: Effects
    args: Any
    life: int
    at: float
    sees_attempt: bool
    inside: bool
    ended: bool = False
    output: Any = None
    error: tuple[str, ...] = ()
    not_done: bool = False
    recorded: bool | None = None

    @property
    def answer(self) -> str:
        """Return what it came to, for people."""
        return f"raised {self.error[0]}: {self.error[-1]}" if self.error else f"answered {self.output!r}"


class CallBook:
    """The calls of all tools of one world, in order.

    Attributes:
        made: They.
        power: Of the process that lives now.
        disk: What is on record for good.
    """

    def __init__(self, disk: Journal, *, in_real_time: bool = False) -> None:
        self.made: list[MadeCall] = []
        self.attempts: dict[tuple[str, int], RunStep] = {}
        """What each attempt was asked to do."""
        self.power: Power
        self.life = 0
        self._disk = disk
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
        power = self.power
        number = await power.about_to("call")
        made = self._begun(tool, kwargs, context)
        if made.effects is not Effects.NONE:
            made.recorded = await self._is_on_record(made, context)
        try:
            result = await self._doing(tool, kwargs)
            made.output = _json(result)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - put down, whatever it is, and raised
            made.error = (*(kind.__name__ for kind in type(error).__mro__), str(error))
            made.not_done = isinstance(error, NotDoneError)
            made.ended = True
            await asyncio.sleep(MOMENT_S)
            await power.done("call", number)
            raise
        made.ended = True
        await asyncio.sleep(MOMENT_S)
        await power.done("call", number)
        return result

    def _begun(self, tool: Tool, kwargs: dict[str, Any], context: ToolContext) -> MadeCall:
        request = self.attempts.get((context.step, context.attempt))
        inside = request is None or request.step.tool is None
        declared = tool.effects or Effects.ONCE
        made = MadeCall(
            tool.name,
            context.step,
            context.attempt,
            context.idempotency_key,
            declared if inside or request is None else request.effects,
            _json({name: value for name, value in kwargs.items() if name != tool.context_parameter}),
            self.life,
            self.power.now(),
            tool.context_parameter is not None,
            inside,
        )
        self.made.append(made)
        return made

    async def _is_on_record(self, made: MadeCall, context: ToolContext) -> bool:
        return await self.power.has_begun(self._disk, context.run_id, made)

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
                loop.call_soon_threadsafe(lambda: ended.done() or ended.set_result(None))

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

    def wait_for_threads(self) -> bool:
        """Wait, really, for the sync tools of a process without power; return False if one of them does not end."""
        for thread in self._threads:
            thread.join(PATIENCE_S)
        return not any(thread.is_alive() for thread in self._threads)

    def of_step(self, step: str) -> list[MadeCall]:
        return [made for made in self.made if made.step == step]


def _json(value: Any) -> Any:
    """Return a copy as JSON; of what is none, its text: that it is none, the engine says."""
    try:
        return fresh(as_json(value))
    except OutputError:
        return repr(value)


async def for_ever() -> NoReturn:
    """Wait as a process without power does."""
    while True:
        await asyncio.Event().wait()
