"""What the events of one run measure.

Rule 1: recorded events only, with the times that are on record; an event is read once, in the order of the record.
Rule 2: what a call on record used is counted with it, and only the rest with its attempt: nothing twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from planloom.core import events as on_record
from planloom.core.result import StepStatus, Usage
from planloom.observe import genai
from planloom.observe import instruments as of
from planloom.observe.steps import StepsOfRun

if TYPE_CHECKING:
    from collections.abc import Mapping

    from planloom.core.events import Event
    from planloom.core.prices import ModelFacts
    from planloom.observe.instruments import Instrument
    from planloom.plan.model import Step

NONE = Usage()
UNKNOWN = "unknown"
SUCCESS, ERROR, LOST, ROLLED_BACK = "success", "error", "lost", "rolled_back"

Measured = tuple["Instrument", float, tuple[str, ...]]
"""An instrument, what to add to it, and its labels' values."""


@dataclass(slots=True)
class _Attempt:
    """An attempt under way, and what its calls on record used."""

    number: int
    epoch: int
    at: float
    role: str = ""
    usd: float = 0.0
    usage: Usage = field(default=NONE)
    has_calls: bool = False


class RunMeter:
    """Reads the record of one run.

    Attributes:
        plan: Its plan's name.
        asked: Steps that wait for a person's answer, each with when it was asked.
        ended: Whether the run has.
    """

    def __init__(self) -> None:
        self.plan = ""
        self.asked: dict[str, float] = {}
        self.ended = False
        self._steps = StepsOfRun()
        self._models: Mapping[str, ModelFacts] = {}
        self._started_at = 0.0
        self._begun: dict[str, float] = {}
        self._attempts: dict[tuple[str, str], _Attempt] = {}
        self._waits: dict[str, float] = {}
        self._guessed: dict[tuple[str, str], on_record.SpeculationAnswered] = {}
        self._in_vain: set[tuple[str, str]] = set()
        self._replanning: set[str] = set()

    @property
    def attempts(self) -> int:
        """Return how many are dispatched and not answered."""
        return len(self._attempts)

    def read(self, event: Event) -> Iterator[Measured]:
        """Yield what this event measures."""
        yield of.EVENTS, 1, (type(event).__name__,)
        self._steps.read(event)
        match event:
            case on_record.StepDispatched():
                self._begin(event.step, "", event.attempt, event.epoch, event.at)
            case on_record.AttemptSucceeded() | on_record.AttemptFailed():
                yield from self._attempt_ended(event)
            case on_record.CallEnded():
                yield from self._call_ended(event)
            case on_record.AttemptWaiting():
                yield from self._waited(event)
            case on_record.StepSucceeded():
                yield from self._step_ended(event.step, event.at, StepStatus.COMPLETED)
            case on_record.StepFailed():
                yield from self._step_ended(event.step, event.at, event.status)
            case on_record.StepSkipped():
                yield from self._step_ended(event.step, event.at, StepStatus.SKIPPED)
            case on_record.StepSpeculated() | on_record.SpeculationAnswered() | on_record.SpeculationSettled():
                yield from self._speculated(event)
            case on_record.ApprovalRequested() | on_record.ApprovalAnswered():
                yield from self._asked(event)
            case _:
                yield from self._of_wait(event)

    def _of_wait(self, event: Event) -> Iterator[Measured]:
        match event:
            case on_record.RetryScheduled():
                yield of.RETRIES, 1, (self._kind(event.step),)
                yield of.WAITING, max(0.0, event.due_at - event.at), ("retry",)
            case on_record.WaitStarted():
                self._begun.setdefault(event.step, event.at)
                yield of.WAITING, max(0.0, event.until - event.at), ("timer",)
            case on_record.ReplanRequested():
                self._replanning.add(event.step)
            case _:
                yield from self._of_run(event)

    def _of_run(self, event: Event) -> Iterator[Measured]:
        match event:
            case on_record.RunStarted():
                self.plan, self._models, self._started_at = event.plan.name, event.models, event.at
                yield of.RUNS_STARTED, 1, (self.plan,)
            case on_record.RunResumed():
                yield of.RUNS_RESUMED, 1, (self.plan,)
                for key, role in [key for key, one in self._attempts.items() if one.epoch < event.epoch]:
                    del self._attempts[key, role]
                    yield of.ATTEMPTS, 1, (self._kind(key), LOST)
            case on_record.RunStopping():
                for limit in event.limits:
                    yield of.LIMITS_HIT, 1, (limit,)
            case on_record.RunFinished():
                self.ended = True
                self.asked.clear()
                self._attempts.clear()
                yield of.RUNS_ENDED, 1, (self.plan, event.status.value)
                yield of.RUN_DURATION, max(0.0, event.at - self._started_at), (self.plan,)
            case _:
                pass

    # --- attempts ---

    def _begin(self, key: str, role: str, number: int, epoch: int, at: float) -> None:
        self._begun.setdefault(key, at)
        self.asked.pop(key, None)
        adopted = None if role else self._attempts.pop((key, "ahead"), None)
        if adopted is not None:
            self._attempts[key, role] = replace(adopted, number=number, epoch=epoch, role=role)
        else:
            self._attempts[key, role] = _Attempt(number, epoch, at, role)

    def _under_way(self, key: str, number: int, epoch: int) -> _Attempt | None:
        for role in ("", "ahead"):
            attempt = self._attempts.get((key, role))
            if attempt is not None and (attempt.number, attempt.epoch) == (number, epoch):
                return attempt
        return None

    def _attempt_ended(self, event: on_record.AttemptSucceeded | on_record.AttemptFailed) -> Iterator[Measured]:
        key = event.step
        attempt = self._under_way(key, event.attempt, event.epoch)
        if attempt is None:
            attempt = _Attempt(0, 0, event.started_at)
        else:
            del self._attempts[key, attempt.role]
        step, kind = self._steps.step(key), self._kind(key)
        went_well = isinstance(event, on_record.AttemptSucceeded)
        took_s = max(0.0, event.at - event.started_at)
        outcome = SUCCESS if isinstance(event, on_record.AttemptSucceeded) else event.kind.value
        yield of.ATTEMPTS, 1, (kind, outcome)
        yield of.ATTEMPT_DURATION, took_s, (kind,)
        yield of.ATTEMPT_QUEUE, max(0.0, event.started_at - attempt.at), (kind,)
        yield from self._used(attempt, event.usage, event.cost_usd, None if step is None else step.model)
        cached = isinstance(event, on_record.AttemptSucceeded) and event.cached
        if step is not None and not cached and not attempt.has_calls:
            yield from self._its_calls(step, took_s, outcome, event)
        if isinstance(event, on_record.AttemptFailed):
            for limit in event.limits:
                yield of.LIMITS_HIT, 1, (limit,)
            return
        if cached:
            yield of.CACHED, 1, (kind,)
        yield from self._saved(event, step)
        if went_well and key not in self._replanning:
            yield from self._step_ended(key, event.at, StepStatus.COMPLETED)
        self._replanning.discard(key)  # what such an attempt came to is a plan, and the step goes on with that

    def _its_calls(
        self, step: Step, took_s: float, outcome: str, event: on_record.AttemptSucceeded | on_record.AttemptFailed
    ) -> Iterator[Measured]:
        """Yield the calls of an attempt that has none on record by itself: as many as it counted."""
        if step.tool is not None:
            yield from self._tool_call(step.tool, took_s, outcome)
            return
        if step.model is not None and step.agent is None:
            requests = 1 if event.usage is None else event.usage.requests
            if requests > 1 and outcome == SUCCESS:  # how long each of them took is on no record
                yield of.MODEL_CALLS, requests, (self._model(step.model)[0], outcome)
            else:
                yield from self._model_call(step.model, took_s, outcome)
        if event.tool_calls:
            names = step.tools or ()
            yield of.TOOL_CALLS, event.tool_calls, (names[0] if len(names) == 1 else UNKNOWN, outcome)

    def _call_ended(self, event: on_record.CallEnded) -> Iterator[Measured]:
        attempt = self._under_way(event.step, event.attempt, event.epoch)
        took_s, outcome = max(0.0, event.at - event.started_at), SUCCESS if event.error is None else ERROR
        if attempt is not None:
            attempt.has_calls = True
            attempt.usd += event.cost_usd or 0.0
            attempt.usage += event.usage or NONE
        if event.kind == "model":
            yield from self._model_call(event.name, took_s, outcome)
        elif event.kind == "tool":
            yield from self._tool_call(event.name, took_s, outcome)
        if event.usage is not None:
            yield from self._tokens(event.name, event.usage)
        if event.cost_usd:
            yield of.COST, event.cost_usd, (self.plan,)

    def _used(
        self, attempt: _Attempt, usage: Usage | None, cost_usd: float | None, model: str | None
    ) -> Iterator[Measured]:
        """Yield what an attempt used beside its calls on record."""
        if cost_usd is not None and cost_usd > attempt.usd:
            yield of.COST, cost_usd - attempt.usd, (self.plan,)
        if usage is not None:
            yield from self._tokens(model or UNKNOWN, _less(usage, attempt.usage))

    def _waited(self, event: on_record.AttemptWaiting) -> Iterator[Measured]:
        if event.reason is not None:
            self._waits.setdefault(event.step, event.at)
        elif event.step in self._waits:
            yield of.WAITING, max(0.0, event.at - self._waits.pop(event.step)), ("rate",)

    # --- calls ---

    def _model_call(self, ref: str, took_s: float, outcome: str) -> Iterator[Measured]:
        name, provider = self._model(ref)
        yield of.MODEL_CALLS, 1, (name, outcome)
        yield of.MODEL_DURATION, took_s, (name,)
        yield of.MODEL_SECONDS, took_s, (genai.CHAT, provider, name)

    def _tool_call(self, name: str, took_s: float, outcome: str) -> Iterator[Measured]:
        yield of.TOOL_CALLS, 1, (name, outcome)
        yield of.TOOL_DURATION, took_s, (name,)

    def _tokens(self, ref: str, usage: Usage) -> Iterator[Measured]:
        name, provider = self._model(ref)
        for direction, count in (("input", usage.input_tokens), ("output", usage.output_tokens)):
            if count:
                yield of.TOKENS, count, (name, direction)
                yield of.TOKEN_USAGE, count, (genai.CHAT, provider, name, direction)
        if usage.cache_read_tokens:
            yield of.TOKENS, usage.cache_read_tokens, (name, "cache_read")
        if usage.cache_write_tokens:
            yield of.TOKENS, usage.cache_write_tokens, (name, "cache_write")

    def _model(self, ref: str) -> tuple[str, str]:
        """Return a model's name at its provider, and the provider."""
        facts = self._models.get(ref)
        return (
            (ref, UNKNOWN)
            if facts is None
            else (
                facts.name or ref,
                genai.PROVIDERS.get(facts.provider, facts.provider) or UNKNOWN,
            )
        )

    def _saved(self, event: on_record.AttemptSucceeded, step: Step | None) -> Iterator[Measured]:
        stats: Any = None if event.metadata is None else event.metadata.get("gasa_stats")
        if isinstance(stats, dict):
            before, after = stats.get("tokens_before"), stats.get("tokens_after")
            if type(before) is int and type(after) is int and before > after:
                model = UNKNOWN if step is None or step.model is None else self._model(step.model)[0]
                yield of.GASA_SAVED, before - after, (model,)

    # --- steps, guesses, people ---

    def _step_ended(self, key: str, at: float, status: StepStatus) -> Iterator[Measured]:
        kind = self._kind(key)
        self.asked.pop(key, None)
        yield of.STEPS, 1, (self.plan, kind, status.value)
        begun = self._begun.pop(key, None)
        if begun is not None:
            yield of.STEP_DURATION, max(0.0, at - begun), (kind,)

    def _speculated(
        self, event: on_record.StepSpeculated | on_record.SpeculationAnswered | on_record.SpeculationSettled
    ) -> Iterator[Measured]:
        where = (event.step, event.role)
        if isinstance(event, on_record.StepSpeculated):
            self._begin(*where, event.attempt, event.epoch, event.at)
        elif isinstance(event, on_record.SpeculationSettled):
            yield of.SPECULATIONS, 1, (event.role, event.outcome)
            if event.outcome == ROLLED_BACK:
                answered = self._guessed.pop(where, None)
                if answered is None:
                    self._in_vain.add(where)  # it is being stopped, and will say what it used
                else:
                    yield from self._wasted(answered)
            elif event.role == "ahead":
                self._guessed.pop(where, None)  # its step's attempt tells all of it
        elif event.role == "ahead" and where not in self._in_vain:
            self._guessed[where] = event
        elif event.role == "ahead":
            self._in_vain.discard(where)
            yield from self._wasted(event)
        else:
            yield from self._guess(event, SUCCESS if event.ok else ERROR)

    def _wasted(self, event: on_record.SpeculationAnswered) -> Iterator[Measured]:
        yield from self._guess(event, ROLLED_BACK)
        yield of.WASTED_COST, event.cost_usd or 0.0, (event.role,)
        yield of.WASTED_TOKENS, event.usage.total_tokens if event.usage else 0, (event.role,)

    def _guess(self, event: on_record.SpeculationAnswered, outcome: str) -> Iterator[Measured]:
        """Yield what a draft measures, or an attempt that ran ahead in vain."""
        attempt = self._attempts.pop((event.step, event.role), None) or _Attempt(0, 0, event.started_at)
        step, model = self._steps.step(event.step), None
        if step is not None:
            model = step.speculate.draft if event.role == "draft" and step.speculate is not None else step.model
        yield of.ATTEMPTS, 1, (self._kind(event.step), outcome)
        yield from self._used(attempt, event.usage, event.cost_usd, model)
        if model is not None and not attempt.has_calls:
            yield from self._model_call(model, max(0.0, event.at - event.started_at), SUCCESS if event.ok else ERROR)

    def _asked(self, event: on_record.ApprovalRequested | on_record.ApprovalAnswered) -> Iterator[Measured]:
        if isinstance(event, on_record.ApprovalRequested):
            self._begun.setdefault(event.step, event.at)
            self.asked.setdefault(event.step, event.at)
            return
        yield of.APPROVALS, 1, ("approved" if event.approved else "denied",)
        asked_at = self.asked.pop(event.step, None)
        if asked_at is not None:
            yield of.WAITING, max(0.0, event.at - asked_at), ("approval",)

    def _kind(self, key: str) -> str:
        step = self._steps.step(key)
        return UNKNOWN if step is None else step.kind


def _less(usage: Usage, part: Usage) -> Usage:
    """Return what is left of it without a part."""
    if part is NONE:
        return usage
    return Usage(*(max(0, getattr(usage, name) - getattr(part, name)) for name in Usage.__slots__))
