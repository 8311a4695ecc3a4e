"""What a `StepExecutor` did so far, in numbers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from planloom.api.step_answers import StepAnswer


@dataclass(slots=True)
class StepMetrics:
    """Steps of agents, counted; steps of tools are not.

    Attributes:
        failed_executions: Those that gave an error dict, raised, or were cancelled.
        cancelled_executions: Those among them that were cancelled.
        retry_count: Attempts after the first of a step.
        total_execution_time: Seconds, waits between attempts included.
    """

    total_executions: int = 0
    successful_executions: int = 0
    failed_executions: int = 0
    cancelled_executions: int = 0
    retry_count: int = 0
    total_execution_time: float = 0.0

    def to_dict(self) -> dict[str, int | float]:
        return {name: getattr(self, name) for name in self.__slots__}

    @contextmanager
    def refusing(self, steps: int) -> Iterator[None]:
        """Count so many steps as begun and failed if this ends with an exception."""
        try:
            yield
        except Exception:
            self.total_executions += steps
            self.failed_executions += steps
            raise

    @contextmanager
    def counting(self, steps: int) -> Iterator[None]:
        """Count so many steps that are begun now; if this ends with an exception, they all failed."""
        self.total_executions += steps
        began_at = monotonic()
        try:
            yield
        except BaseException as error:
            self.failed_executions += steps
            self.total_execution_time += (monotonic() - began_at) * bool(steps)
            if isinstance(error, asyncio.CancelledError | GeneratorExit):
                self.cancelled_executions += steps
            raise

    def book(self, answer: StepAnswer) -> None:
        """Count how a step that was begun has ended."""
        if answer.is_error:
            self.failed_executions += 1
        else:
            self.successful_executions += 1
        self.retry_count += answer.retries
        self.total_execution_time += answer.latency_s
