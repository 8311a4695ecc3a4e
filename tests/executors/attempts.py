"""One attempt without an engine: its request, and a context that remembers what it was told."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from planloom.core.commands import Grant, RunStep
from planloom.core.events import Note
from planloom.core.prices import ModelFacts, ModelPrice
from planloom.core.result import Usage
from planloom.plan.flow import NO_LABELS
from planloom.plan.model import Step
from planloom.plan.policy import Effects
from planloom.ports import Clock
from planloom.testing.clock import ManualClock

FIFTEEN_SIXTY = ModelPrice(0.15, 0.60, source="test")
"""US dollars per million tokens in and out."""


class Books:
    """A `ports.AttemptContext` that keeps everything it is told."""

    reported_usd: float | None = None
    reported_usage: Usage | None = None
    reported_calls = 0
    reported_labels: frozenset[str] = NO_LABELS
    waited_s = 0.0
    stopping = closing = abandoned = False

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock: Clock = clock or ManualClock()
        self.streamed: list[str] = []
        self.waits: list[str | None] = []
        self.noted: list[Note] = []
        self.is_useless = False
        """Whether the run has no use for the attempt any more."""

    def abandon(self) -> None:
        self.abandoned = True

    def report_usd(self, usd: float) -> None:
        self.reported_usd = (self.reported_usd or 0.0) + usd

    def report_usage(self, usage: Usage) -> None:
        self.reported_usage = usage if self.reported_usage is None else self.reported_usage + usage

    def report_call(self) -> None:
        self.reported_calls += 1

    def report_labels(self, labels: Iterable[str]) -> None:
        self.reported_labels = self.reported_labels.union(labels)

    def stream(self, text: str) -> None:
        self.streamed.append(text)

    def waiting(self, reason: str | None, until: float | None = None) -> None:
        self.waits.append(reason)

    def note(self, fact: Note) -> None:
        self.noted.append(fact)

    async def record(self, fact: Note) -> bool:
        if not self.is_useless:
            self.noted.append(fact)
        return not self.is_useless

    def wait(self, seconds: float) -> None:
        self.waited_s += seconds

    def give_up_after(self, seconds: float, text: str) -> None:
        """Every test here has a time limit of its own."""


def facts(name: str = "m", *, price: ModelPrice | None = FIFTEEN_SIXTY, max_tokens: int = 100) -> ModelFacts:
    return ModelFacts(f"scripted://{name}", "scripted", name, price, max_tokens)


def asking(step: dict[str, Any] | None = None, *, grant: Grant | None = None, **fields: Any) -> RunStep:
    """Return the request of a model step whose model is `m`."""
    made = Step(**({"id": "a", "model": "m", "prompt": "Say it."} | (step or {})))
    return RunStep(
        "r",
        "a",
        made,
        1,
        1,
        {"prompt": made.prompt},
        Effects.NONE,
        after_durable=False,
        idempotency_key="r/a",
        grant=grant or Grant(),
        **({"models": {"m": facts()}} | fields),
    )
