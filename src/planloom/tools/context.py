"""What a tool may know about the attempt that calls it, and the little it may tell back.

Rule 1: a tool gets one by annotating a parameter `ToolContext`; that parameter is no part of its schema.
Rule 2: plain and cheap: nothing is made until it is asked for.
"""

from __future__ import annotations

import logging
import math
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

from planloom.errors import StepError

if TYPE_CHECKING:
    from collections.abc import Callable

_LOGGER = logging.getLogger("planloom.tools")
under_way: ContextVar[tuple[str, str, int] | None] = ContextVar("planloom attempt", default=None)
"""Run, step and number of the attempt that is being made here; log lines tell them."""


def _never() -> bool:
    return False


def _unheard(cost_usd: float) -> None:
    """Take note of nothing: outside a run there is no budget."""


@dataclass(frozen=True, slots=True)
class ToolContext:
    """One attempt, as its tool sees it.

    Attributes:
        run_id: The run.
        step: The step's key in the run, `check[3]` for an item of a map.
        attempt: 1 for the first.
        idempotency_key: The same for every attempt of this step in this run; hand it on to whatever can use one.
        deadline_at: Seconds since the epoch at which the attempt is given up, or None.
        is_cancelled: Answers `cancelled()`; given by whoever runs the tool.
        on_cost: Takes what `report_cost` is told; given by whoever runs the tool.
    """

    run_id: str = ""
    step: str = ""
    attempt: int = 1
    idempotency_key: str = ""
    deadline_at: float | None = None
    is_cancelled: Callable[[], bool] = _never
    on_cost: Callable[[float], None] = _unheard

    def cancelled(self) -> bool:
        """Return whether the attempt was given up; a sync tool that works for long asks now and then, and returns."""
        return self.is_cancelled()

    def report_cost(self, usd: float) -> None:
        """Say what the call cost so far, on top of what was reported before, in US dollars.

        Raises:
            StepError: Not a finite number of at least 0.
        """
        if not math.isfinite(usd) or usd < 0:
            raise StepError(f"{usd!r} is not a cost", remedy="report a finite number of US dollars, 0 or more")
        self.on_cost(usd)

    @property
    def logger(self) -> logging.LoggerAdapter[logging.Logger]:
        """Return a logger whose records carry run, step and attempt."""
        return logging.LoggerAdapter(_LOGGER, {"run_id": self.run_id, "step": self.step, "attempt": self.attempt})
