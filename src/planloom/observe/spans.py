"""What a run's record says as spans: run → step → attempt → chat, tool or agent, and what an agent called.

Rule 1: recorded events only, with the times that are on record: nothing here asks a clock, and a run that went on in
another process makes the same spans, by the same names.
Rule 2: no arguments, ever; answers and the words of errors only where content is asked for, and then without anything
that looks secret.
Rule 3: a span begins after its parent began, and ends before its parent ends.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from planloom.core import events as on_record
from planloom.core.result import RunStatus, StepStatus
from planloom.models.tape import masked, without_secrets
from planloom.observe import genai
from planloom.observe.steps import RUN, StepsOfRun

if TYPE_CHECKING:
    from planloom.core.events import CallEnded, Event
    from planloom.core.result import Usage
    from planloom.plan.model import Step

MAX_CONTENT = 8_000
"""Characters of an answer or an error in a span."""
Attributes = dict[str, str | int | float | bool | tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Happened:
    """Something at one moment of a span."""

    name: str
    at: float
    attributes: Attributes = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Began:
    """A span has begun.

    Attributes:
        path: Names it within its run, the same whoever reads the record.
        parent: Path of its parent; None for the run's own.
        is_client: It waits for an answer from elsewhere.
    """

    path: str
    parent: str | None
    name: str
    at: float
    attributes: Attributes
    is_client: bool = False


@dataclass(frozen=True, slots=True)
class Ended:
    """A span has ended.

    Attributes:
        error: What kind of failure it ended in, e.g. "timeout"; None: in none.
        told: The words of the error, where content is asked for.
    """

    path: str
    at: float
    attributes: Attributes = field(default_factory=dict)
    error: str | None = None
    told: str = ""
    happened: tuple[Happened, ...] = ()


@dataclass(slots=True)
class _Attempt:
    """An attempt under way, or one that ran ahead."""

    path: str
    step: str
    number: int
    epoch: int
    role: str
    at: float
    calls: list[CallEnded] = field(default_factory=list)
    happened: list[Happened] = field(default_factory=list)


class Spans:
    """Reads the record of one run.

    Args:
        content: Whether spans tell what was answered, and what errors say.
    """

    def __init__(self, run_id: str, *, content: bool = False) -> None:
        self._run_id = run_id
        self._content = content
        self._steps = StepsOfRun()
        self._models: Mapping[str, Any] = {}
        self._open: dict[str, float] = {}
        self._happened: dict[str, list[Happened]] = {}
        self._attempts: dict[tuple[str, str], _Attempt] = {}
        self._replanning: set[str] = set()
        self._skipped = 0

    def read(self, event: Event) -> Iterator[Began | Ended]:
        """Yield what this event begins and ends; events come in the order of the record."""
        self._steps.read(event)
        match event:
            case on_record.RunStarted():
                yield from self._run_started(event)
            case on_record.RunResumed():
                yield from self._resumed(event)
            case on_record.RunFinished():
                yield from self._run_finished(event)
            case on_record.StepDispatched():
                yield from self._begin_step(event.step, event.at)
                self._begin_attempt(event.step, event.attempt, event.epoch, "", event.at)
            case on_record.StepSpeculated():
                yield from self._begin_step(event.step, event.at)
                self._begin_attempt(event.step, event.attempt, event.epoch, event.role, event.at)
            case on_record.AttemptSucceeded() | on_record.AttemptFailed():
                yield from self._attempt_ended(event)
            case on_record.SpeculationAnswered():
                yield from self._guess_answered(event)
            case on_record.CallEnded():
                attempt = self._attempt_of(event.step, event.attempt, event.epoch)
                if attempt is not None:
                    attempt.calls.append(event)
            case _:
                yield from self._read_of_step(event)

    def _read_of_step(self, event: Event) -> Iterator[Began | Ended]:
        match event:
            case (
                on_record.StepExpanded()
                | on_record.WaitStarted()
                | on_record.ApprovalRequested()
                | on_record.SubPlanStarted()
            ):
                yield from self._begin_step(event.step, event.at)
            case on_record.ReplanRequested():
                self._replanning.add(event.step)
            case on_record.StepSucceeded():
                yield from self._begin_step(event.step, event.at)
                yield from self._end_step(event.step, event.at, StepStatus.COMPLETED, output=event.output)
            case on_record.StepFailed():
                yield from self._begin_step(event.step, event.at)
                error = None if event.status is StepStatus.CANCELLED else event.kind.value
                yield from self._end_step(event.step, event.at, event.status, error=error, told=event.error)
            case on_record.StepSkipped():
                self._skipped += 1
            case _:
                self._note(event)

    def _note(self, event: Event) -> None:
        """Take note of what happens at one moment of a span."""
        match event:
            case on_record.AttemptWaiting(reason=str() as reason):
                attributes: Attributes = {genai.REASON: reason}
                if event.until is not None:
                    attributes[genai.UNTIL] = event.until
                self._happens(event.step, event.attempt, event.epoch, Happened("waits", event.at, attributes))
            case on_record.CircuitChanged():
                about: Attributes = {genai.TOOL_NAME: event.tool, genai.FAILURES: event.failures}
                name = f"circuit {event.state}"
                self._happens(event.step, event.attempt, event.epoch, Happened(name, event.at, about))
            case on_record.RetryScheduled():
                due: Attributes = {genai.ATTEMPT: event.attempt, genai.UNTIL: event.due_at}
                self._happens_to(_step_path(event.step), Happened("retry", event.at, due))
            case on_record.OutcomeUnknown():
                self._happens_to(_step_path(event.step), Happened("outcome unknown", event.at))
            case on_record.RunStopping():
                self._happens_to(RUN, Happened("stopping", event.at, {genai.RUN_STATUS: event.status.value}))
            case on_record.PauseRequested():
                self._happens_to(RUN, Happened("pause", event.at))
            case _:
                pass

    # --- the run ---

    def _run_started(self, event: on_record.RunStarted) -> Iterator[Began]:
        self._models = event.models
        self._open[RUN] = event.at
        yield Began(
            RUN,
            None,
            f"{genai.INVOKE_WORKFLOW} {event.plan.name}",
            event.at,
            {
                genai.OPERATION: genai.INVOKE_WORKFLOW,
                genai.WORKFLOW_NAME: event.plan.name,
                genai.RUN_ID: self._run_id,
            },
        )

    def _resumed(self, event: on_record.RunResumed) -> Iterator[Began | Ended]:
        """End what was under way when the last engine died: nobody knows what came of it."""
        for attempt in [one for one in self._attempts.values() if one.epoch < event.epoch]:
            yield from self._spans_of(attempt, attempt.at, event.at, Ended(attempt.path, event.at, error="lost"))
        self._happens_to(RUN, Happened("resumed", event.at, {genai.EPOCH: event.epoch}))

    def _run_finished(self, event: on_record.RunFinished) -> Iterator[Began | Ended]:
        for attempt in list(self._attempts.values()):
            yield from self._spans_of(attempt, attempt.at, event.at, Ended(attempt.path, event.at, error="stopped"))
        for path in reversed([path for path in self._open if path != RUN]):
            yield self._end(Ended(path, event.at))
        bad = event.status in (RunStatus.FAILED, RunStatus.LIMIT_EXCEEDED)
        attributes: Attributes = {genai.RUN_STATUS: event.status.value}
        if self._skipped:
            attributes[genai.STEPS_SKIPPED] = self._skipped
        self._put_content(attributes, genai.OUTPUT, event.output)
        error = event.status.value if bad else None
        yield self._end(Ended(RUN, event.at, attributes, error, self._words(event.error)))

    # --- steps ---

    def _begin_step(self, key: str, at: float) -> Iterator[Began]:
        path = _step_path(key)
        if path in self._open:
            return
        parent = _parent_of(key)
        if parent != RUN:
            yield from self._begin_step(parent, at)
        step = self._steps.step(key)
        attributes: Attributes = {genai.STEP: key}
        if step is not None:
            attributes[genai.STEP_KIND] = step.kind
        self._open[path] = at
        yield Began(path, RUN if parent == RUN else _step_path(parent), f"step {key}", at, attributes)

    def _end_step(
        self, key: str, at: float, status: StepStatus, *, output: Any = None, error: str | None = None, told: str = ""
    ) -> Iterator[Began | Ended]:
        path = _step_path(key)
        for attempt in [one for (step, _), one in self._attempts.items() if step == key and not one.role]:
            yield from self._spans_of(attempt, attempt.at, at, Ended(attempt.path, at, error=error or "stopped"))
        if path in self._open:
            attributes: Attributes = {genai.STEP_STATUS: status.value}
            self._put_content(attributes, genai.OUTPUT, output)
            yield self._end(Ended(path, at, attributes, error, self._words(told)))

    # --- attempts ---

    def _begin_attempt(self, key: str, number: int, epoch: int, role: str, at: float) -> None:
        path = f"{_step_path(key)}#{role}{number}.{epoch}"
        self._attempts[key, role] = _Attempt(path, key, number, epoch, role, at)

    def _attempt_of(self, key: str, number: int, epoch: int) -> _Attempt | None:
        """Return the attempt under way that says so; one that ran ahead and was confirmed is the step's own."""
        for role in ("", "ahead"):
            attempt = self._attempts.get((key, role))
            if attempt is not None and (attempt.number, attempt.epoch) == (number, epoch):
                return attempt
        return None

    def _attempt_ended(self, event: on_record.AttemptSucceeded | on_record.AttemptFailed) -> Iterator[Began | Ended]:
        attempt = self._attempt_of(event.step, event.attempt, event.epoch)
        yield from self._begin_step(event.step, event.started_at)
        if attempt is None:
            self._begin_attempt(event.step, event.attempt, event.epoch, "", event.started_at)
            attempt = self._attempts[event.step, ""]
        if isinstance(event, on_record.AttemptFailed):
            ended = Ended(attempt.path, event.at, {}, event.kind.value, self._words(event.error))
            yield from self._spans_of(attempt, event.started_at, event.at, ended, event.usage, event.cost_usd)
            return
        about: Attributes = {genai.CACHED: True} if event.cached else {}
        ended = Ended(attempt.path, event.at, about)
        yield from self._spans_of(
            attempt,
            event.started_at,
            event.at,
            ended,
            event.usage,
            event.cost_usd,
            output=event.output,
            told=event.metadata,
        )
        if event.step in self._replanning:
            self._replanning.discard(event.step)  # what it came to is a plan, and the step goes on with that
        else:
            yield from self._end_step(event.step, event.at, StepStatus.COMPLETED, output=event.output)

    def _guess_answered(self, event: on_record.SpeculationAnswered) -> Iterator[Began | Ended]:
        attempt = self._attempts.get((event.step, event.role))
        if attempt is not None:
            error = None if event.ok else "error"
            ended = Ended(attempt.path, event.at, {}, error, self._words(event.error))
            yield from self._spans_of(attempt, event.started_at, event.at, ended, event.usage, event.cost_usd)

    def _spans_of(
        self,
        attempt: _Attempt,
        started_at: float,
        at: float,
        ended: Ended,
        usage: Usage | None = None,
        cost_usd: float | None = None,
        output: Any = None,
        told: dict[str, Any] | None = None,
    ) -> Iterator[Began | Ended]:
        """Yield the spans of an attempt that has ended, from the outside to the inside and back."""
        self._attempts.pop((attempt.step, attempt.role), None)
        started_at = min(started_at, at)
        step = self._steps.step(attempt.step)
        attributes: Attributes = {genai.STEP: attempt.step, genai.ATTEMPT: attempt.number, genai.EPOCH: attempt.epoch}
        if attempt.role:
            attributes[genai.ROLE] = attempt.role
        what = f"{attempt.role or 'attempt'} {attempt.number}"
        yield Began(attempt.path, _step_path(attempt.step), what, started_at, attributes)
        if step is not None and genai.CACHED not in ended.attributes:
            yield from self._doing(attempt, step, started_at, ended, usage, output, told or {})
        about = dict(ended.attributes)
        if cost_usd is not None:
            about[genai.COST_USD] = cost_usd
        yield Ended(attempt.path, at, about, ended.error, ended.told, tuple(attempt.happened))

    def _doing(
        self,
        attempt: _Attempt,
        step: Step,
        started_at: float,
        ended: Ended,
        usage: Usage | None,
        output: Any,
        metadata: dict[str, Any],
    ) -> Iterator[Began | Ended]:
        """Yield what the attempt did: its one call, or the calls that are on record, which an agent made."""
        path = f"{attempt.path}/doing"
        inside = path if step.agent is not None else attempt.path
        about: Attributes = {}
        if step.agent is not None:
            about = {genai.OPERATION: genai.INVOKE_AGENT, genai.AGENT_NAME: step.agent.name}
            yield Began(path, attempt.path, f"{genai.INVOKE_AGENT} {step.agent.name}", started_at, about)
        elif not attempt.calls and step.tool is not None:
            yield self._tool(path, attempt.path, step.tool, started_at)
        elif not attempt.calls and step.model is not None:
            drafts = step.speculate.draft if attempt.role == "draft" and step.speculate is not None else None
            ref = drafts or step.model
            yield self._chat(path, attempt.path, ref, started_at, step)
        else:
            path = ""
        for number, call in enumerate(attempt.calls, start=1):
            yield from self._call(f"{attempt.path}/{number}", inside, call)
        if path:
            told: Attributes = {} if any(call.usage for call in attempt.calls) else _used(usage)
            if step.tool is not None:
                self._put_content(told, genai.TOOL_RESULT, output)
            else:
                finished = metadata.get("finish_reason")
                if step.agent is None:
                    told |= _answered(metadata)
                self._put_answer(told, output, finished if isinstance(finished, str) else "stop")
            yield Ended(path, ended.at, told, ended.error, ended.told)

    def _call(self, path: str, parent: str, call: CallEnded) -> Iterator[Began | Ended]:
        told = _used(call.usage)
        if call.cost_usd is not None:
            told[genai.COST_USD] = call.cost_usd
        if call.kind == "model":
            yield self._chat(path, parent, call.name, call.started_at)
            self._put_answer(told, call.output)
        elif call.kind == "tool":
            yield self._tool(path, parent, call.name, call.started_at)
            self._put_content(told, genai.TOOL_RESULT, call.output)
        else:
            yield Began(path, parent, call.name, call.started_at, {})
        error = "error" if call.error is not None else None
        yield Ended(path, call.at, told, error, self._words(call.error))

    def _tool(self, path: str, parent: str, name: str, at: float) -> Began:
        about: Attributes = {genai.OPERATION: genai.EXECUTE_TOOL, genai.TOOL_NAME: name, genai.TOOL_TYPE: "function"}
        return Began(path, parent, f"{genai.EXECUTE_TOOL} {name}", at, about)

    def _chat(self, path: str, parent: str, ref: str, at: float, step: Step | None = None) -> Began:
        facts = self._models.get(ref)
        name = facts.name if facts is not None and facts.name else ref
        about: Attributes = {genai.OPERATION: genai.CHAT, genai.REQUEST_MODEL: name}
        if facts is not None and facts.provider:
            about[genai.PROVIDER] = genai.PROVIDERS.get(facts.provider, facts.provider)
        if step is not None:
            about |= _asked(step)
        return Began(path, parent, f"{genai.CHAT} {name}", at, about, is_client=True)

    # --- what is told ---

    def _end(self, ended: Ended) -> Ended:
        self._open.pop(ended.path, None)
        happened = self._happened.pop(ended.path, None)
        if not happened:
            return ended
        return Ended(ended.path, ended.at, ended.attributes, ended.error, ended.told, tuple(happened))

    def _happens(self, key: str, number: int, epoch: int, what: Happened) -> None:
        attempt = self._attempt_of(key, number, epoch)
        if attempt is not None:
            attempt.happened.append(what)

    def _happens_to(self, path: str, what: Happened) -> None:
        if path in self._open:
            self._happened.setdefault(path, []).append(what)

    def _words(self, error: str | None) -> str:
        return _cut(masked(error)) if self._content and error else ""

    def _put_content(self, attributes: Attributes, name: str, value: Any) -> None:
        if self._content and value is not None:
            attributes[name] = _cut(json.dumps(masked(without_secrets(value)), ensure_ascii=False))

    def _put_answer(self, attributes: Attributes, output: Any, finished: str = "stop") -> None:
        """Tell what a model answered, in the form that the conventions give."""
        if self._content and output is not None:
            safe = masked(without_secrets(output))
            text = safe if isinstance(safe, str) else json.dumps(safe, ensure_ascii=False)
            parts = [{"type": "text", "content": _cut(text)}]
            message = {"role": "assistant", "parts": parts, "finish_reason": finished}
            attributes[genai.OUTPUT_MESSAGES] = json.dumps([message], ensure_ascii=False)


def _step_path(key: str) -> str:
    return f"step {key}"


def _parent_of(key: str) -> str:
    """Return the key of the step that this one is an item or a part of; RUN for a step of the run's own plan."""
    if key.endswith("]"):
        return key[: key.rfind("[")]
    return key.rpartition("/")[0]


def _asked(step: Step) -> Attributes:
    """Return how a step's model is asked, as far as the step says."""
    told: Attributes = {genai.OUTPUT_TYPE: "text" if step.output is None else "json"}
    if step.max_tokens is not None:
        told[genai.REQUEST_MAX_TOKENS] = step.max_tokens
    if step.temperature is not None:
        told[genai.REQUEST_TEMPERATURE] = step.temperature
    if step.stream:
        told[genai.REQUEST_STREAM] = True
    return told


def _answered(metadata: Mapping[str, Any]) -> Attributes:
    """Return what is on record of who answered, and why the answer ended there."""
    told: Attributes = {}
    model, finished = metadata.get("model_name"), metadata.get("finish_reason")
    if isinstance(model, str):
        told[genai.RESPONSE_MODEL] = model
    if isinstance(finished, str):
        told[genai.FINISH_REASONS] = (finished,)
    return told


def _used(usage: Usage | None) -> Attributes:
    if usage is None:
        return {}
    told: Attributes = {
        genai.INPUT_TOKENS: usage.input_tokens,
        genai.OUTPUT_TOKENS: usage.output_tokens,
        genai.REQUESTS: usage.requests,
    }
    if usage.cache_read_tokens:
        told[genai.CACHE_READ_TOKENS] = usage.cache_read_tokens
    if usage.cache_write_tokens:
        told[genai.CACHE_WRITE_TOKENS] = usage.cache_write_tokens
    return told


def _cut(text: str) -> str:
    return text if len(text) <= MAX_CONTENT else f"{text[: MAX_CONTENT - 1]}…"
