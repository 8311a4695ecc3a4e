"""Calls inside an attempt, each on record by itself: what an earlier attempt has paid for is not paid for again.

Rule 1: a call is known by what is asked, and by how often that was asked before: never by when, nor by which task got
there first. A changed question is another call; two equal ones are two calls, and either's answer will do for both.
What is asked for another answer of the attempt, a sample or a better one, is another call, too.
Rule 2: a call with an effect is on record, durably, before it is made; what one came to that may be made only once is
on record before anything else happens. If it failed, it is never made again; what it failed with is told again.
Rule 3: any other failure that the attempt went on after is part of what happened, and is told again; one that it ended
in is tried again. A model is always asked again.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from planloom import masking
from planloom.core.events import CallEnded, CallStarted
from planloom.core.result import Usage
from planloom.errors import FlowError, InnerCallError, OutputError
from planloom.executors.classify import text_of, type_names
from planloom.executors.labels import refuse_flow
from planloom.executors.part import Part
from planloom.plan.policy import Effects
from planloom.plan.values import as_json

if TYPE_CHECKING:
    from planloom.core.commands import RunStep
    from planloom.errors import NotAllowedError
    from planloom.ports import AttemptContext
    from planloom.tools.tool import Tool

MODEL, TOOL, OTHER = "model", "tool", "other"
"""Kinds of call."""
_DIGITS = 16
"""Hex digits of a key that stand for what was asked."""


class Inner:
    """The calls of one attempt."""

    def __init__(self, request: RunStep, context: AttemptContext) -> None:
        self._request = request
        self._context = context
        self._asked: Counter[str] = Counter()
        self._last = list(request.recorded)[-1] if request.recorded else None
        """Key of the call that ended last on record."""

    def key(self, kind: str, name: str, asked: Any) -> str:
        """Return the key of the next call that asks this, e.g. ``"tool/search/9f2c…/1"``; it counts how often.

        Args:
            asked: All that decides what the call comes to, in any form that `as_json` takes.
        """
        told, mask = as_json(asked, where="call"), masking.known()
        if mask is not None:  # a later attempt is given answers from the record, and must ask the same with them
            told = mask.value(told)
        text = json.dumps(told, sort_keys=True, separators=(",", ":"))
        bare = f"{kind}/{name}/{sha256(text.encode()).hexdigest()[:_DIGITS]}"
        self._asked[bare] += 1
        key = f"{bare}/{self._asked[bare]}"
        return key if self._request.answer == 1 else f"{key}/{self._request.answer}"

    async def once(
        self,
        key: str,
        call: Callable[[AttemptContext], Awaitable[Any]],
        *,
        name: str,
        kind: str,
        effects: Effects = Effects.NONE,
    ) -> Any:
        """Return what the call came to in an earlier attempt, else make it and put on record what it comes to.

        Args:
            key: The same for the same call in every attempt; see `key`.
            call: Makes it, and says what it uses to the context it is given; its result must be JSON.
            name: The tool or model that is called.
            kind: MODEL, TOOL or OTHER.
            effects: What making it again would do.

        Raises:
            InnerCallError: It failed in an earlier attempt, and is not made again.
            CancelledError: The run has no use for this attempt any more. The call was not made.
            Exception: Whatever the call raises.
        """
        known = self._request.recorded.get(key)
        if known is not None and known.labels:
            self._context.report_labels(known.labels)
        if known is not None and known.error is None:
            return as_json(known.output)
        if known is not None and self._stays_failed(known, effects):
            raise self._told_again(known, effects)
        context, step = self._context, self._request
        started_at = context.clock.now()
        if effects is not Effects.NONE:
            started = CallStarted(step.key, step.attempt, step.epoch, key, name, started_at, effects)
            if not await context.record(started):
                raise asyncio.CancelledError
        counted = Part(context)
        try:
            output = as_json(await call(counted), where=name)
        except Exception as error:
            await self._tell(self._ended(counted, key, name, kind, started_at, None, error), effects)
            raise
        await self._tell(self._ended(counted, key, name, kind, started_at, output, None), effects)
        return output

    async def _tell(self, ended: CallEnded, effects: Effects) -> None:
        if effects is not Effects.ONCE:
            self._context.note(ended)
        elif not await self._context.record(ended):
            raise asyncio.CancelledError

    def void(self, key: str, name: str, why: str) -> None:
        """Put on record that a model's answer is of no use, so that a later attempt asks again."""
        now = self._context.clock.now()
        self._context.note(self._ended(Part(self._context), key, name, MODEL, now, None, OutputError(why)))

    def check_flow(self, tool: Tool, arguments: dict[str, Any], *, tells_model: bool) -> None:
        """Let a call pass that needs nobody's word; put on record that another was denied.

        Raises: as `labels.refuse_flow`.
        """
        try:
            refuse_flow(tool, self._request, self._context, tells_model=tells_model)
        except FlowError as error:
            self.deny(tool.name, arguments, error)
            raise

    def deny(self, name: str, asked: Any, error: NotAllowedError | FlowError) -> None:
        """Put on record that a tool was asked for and denied: it was not called, and may be asked for again."""
        key = self.key(TOOL, name, ["denied", asked])
        now = self._context.clock.now()
        self._context.note(self._ended(Part(self._context), key, name, TOOL, now, None, error))

    def _stays_failed(self, known: CallEnded, effects: Effects) -> bool:
        if known.kind == MODEL:
            return False
        return known.key != self._last or is_unknown(known.error_types, effects)

    def _told_again(self, known: CallEnded, effects: Effects) -> InnerCallError:
        return InnerCallError(
            known.error or "it failed", is_unknown=is_unknown(known.error_types, effects), call=known.name
        )

    def _ended(
        self, counted: Part, key: str, name: str, kind: str, started_at: float, output: Any, error: Exception | None
    ) -> CallEnded:
        """Return what goes on record of a call, with what it used."""
        step, usage = self._request, None if counted.usage == Usage() else counted.usage
        return CallEnded(
            step.key,
            step.attempt,
            step.epoch,
            key,
            name,
            kind,
            output,
            started_at,
            self._context.clock.now(),
            usage,
            counted.usd if usage is not None or counted.usd else None,
            counted.calls,
            None if error is None else text_of(error),
            () if error is None else type_names(error),
            tuple(sorted(counted.labels)),
        )


def is_unknown(error_types: tuple[str, ...], effects: Effects) -> bool:
    """Return whether a call that failed so may all the same have had an effect that it may have only once."""
    return effects is Effects.ONCE and "NotDoneError" not in error_types
