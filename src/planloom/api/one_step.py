"""A plan of one or two model steps, made for one question and run by an engine of its own.

Rule 1: what is asked goes in as an input and is referred to: no text of a caller is ever read as a reference.
Rule 2: a failed run raises what its model raised, the very same object where there is one.
Rule 3: models belong to whoever made them: an engine closes none that it is given.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from planloom.core.events import OutputStreamed
from planloom.core.model_uri import ModelUri
from planloom.core.result import RunResult, RunStatus
from planloom.errors import ToolExecutionError, VerificationError
from planloom.executors.classify import text_of
from planloom.journal.memory import MemoryJournal
from planloom.models.llm import LLM
from planloom.plan.model import Plan, Step
from planloom.plan.policy import FailureKind, OnError
from planloom.plan.rules import STREAMED_DRAFTS
from planloom.runtime.engine import Engine

if TYPE_CHECKING:
    from planloom.core.chat import LLMResponse, ModelCall
    from planloom.executors.acceptance import AcceptanceGate
    from planloom.models.llm import OnWait
    from planloom.plan.gasa import GasaPolicy
    from planloom.plan.policy import SpeculatePolicy, VerifyPolicy
    from planloom.ports import Model
    from planloom.runtime.run import Run
    from planloom.verify.checks import ValidatorRegistry
    from planloom.verify.judge import JudgeAgent

ANSWER = "answer"
DRAFT = "draft"
MODEL = "model"
JUDGE = "judge"
"""Who verifies the answer."""
CHECK = "check"
"""Who scores the draft."""
SHADOW = "shadow"
"""Whose tokenizer counts for a model that cannot be asked."""


def llm_of(model: LLM | Model | str) -> LLM:
    """Return a model as an `LLM`: itself, the one at a URI, or one around a `ports.Model`."""
    if isinstance(model, LLM):
        return model
    if isinstance(model, str):
        return LLM.from_uri(model)
    known = model.metadata
    return LLM(model, ModelUri(known.provider or "model", known.name or type(model).__name__, known.version))


@dataclass(slots=True)
class Seen:
    """What the models of one execution answered and raised."""

    answers: list[LLMResponse] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)

    def answer(self, text: str) -> LLMResponse | None:
        """Return the last answer of this text."""
        return next((one for one in reversed(self.answers) if one.text == text), None)

    def error(self, text: str | None) -> Exception | None:
        """Return the last error that reads so."""
        return next((one for one in reversed(self.errors) if text_of(one) == text), None)


class Watched(LLM):
    """A model as it is, with what it answers and raises noted: the record keeps only the text of an error.

    Args:
        temperature: In place of the call's own.
        max_tokens: The same.
    """

    def __init__(
        self, llm: LLM, seen: Seen, *, temperature: float | None = None, max_tokens: int | None = None
    ) -> None:
        self.__dict__.update(vars(llm))  # in every other respect it is the model itself
        self._llm = llm
        self._seen = seen
        self._temperature = temperature
        self._max_tokens = max_tokens

    async def ask(self, call: ModelCall, *, on_wait: OnWait | None = None) -> LLMResponse:
        try:
            answer = await self._llm.ask(self._told(call), on_wait=on_wait)
        except Exception as error:
            self._seen.errors.append(error)
            raise
        self._seen.answers.append(answer)
        return answer

    async def stream_call(
        self, call: ModelCall, *, on_wait: OnWait | None = None
    ) -> AsyncGenerator[str | LLMResponse, None]:
        try:
            async with aclosing(self._llm.stream_call(self._told(call), on_wait=on_wait)) as streaming:
                async for piece in streaming:
                    if not isinstance(piece, str):
                        self._seen.answers.append(piece)
                    yield piece
        except Exception as error:
            self._seen.errors.append(error)
            raise

    def _told(self, call: ModelCall) -> ModelCall:
        return replace(
            call,
            temperature=call.temperature if self._temperature is None else self._temperature,
            max_tokens=call.max_tokens if self._max_tokens is None else self._max_tokens,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a model is asked, and how."""

    prompt: str
    documents: tuple[dict[str, Any], ...] = ()
    """What is read along a graph; documents that are not stand in the prompt."""
    graph: dict[str, Any] | None = None
    gasa: GasaPolicy | None = None
    system: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    verify: VerifyPolicy | None = None
    speculate: SpeculatePolicy | None = None
    is_streamed: bool = False
    is_compared: bool = False
    """Whether the draft is asked beside the model, and only compared."""

    @property
    def plan(self) -> Plan:
        inputs: dict[str, dict[str, Any]] = {"prompt": {"type": "string"}}
        asked: dict[str, Any] = {"prompt": "${{ inputs.prompt }}"}
        if self.system is not None:
            inputs["system"] = {"type": "string"}
            asked["system"] = "${{ inputs.system }}"
        if self.gasa is not None:
            inputs |= {"documents": {"type": "array"}, "graph": {"type": ["object", "null"]}}
            asked |= {"args": {"documents": "${{ inputs.documents }}", "graph": "${{ inputs.graph }}"}}
            asked["gasa"] = self.gasa
        asked |= {"max_tokens": self.max_tokens, "temperature": self.temperature}
        # What an accepted draft would take the place of is not shown before it is settled.
        is_streamed = self.is_streamed and (self.speculate is None or self.speculate.policy in STREAMED_DRAFTS)
        answer = Step(id=ANSWER, model=MODEL, verify=self.verify, speculate=self.speculate, stream=is_streamed, **asked)
        draft = (Step(id=DRAFT, model=DRAFT, on_error=OnError.CONTINUE, **asked),) if self.is_compared else ()
        return Plan(
            name="question",
            inputs=inputs,
            steps=(*draft, answer),
            outputs=f"${{{{ steps.{ANSWER}.output }}}}",
        )

    @property
    def inputs(self) -> dict[str, Any]:
        given: dict[str, Any] = {"prompt": self.prompt}
        if self.system is not None:
            given["system"] = self.system
        if self.gasa is not None:
            given |= {"documents": list(self.documents), "graph": self.graph}
        return given


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Who is asked.

    Attributes:
        models: By the names the plan uses: MODEL, and where they are needed DRAFT and JUDGE.
        draft: What the draft model is told in place of the answer's own settings.
        gate: What earlier drafts came to.
    """

    models: Mapping[str, LLM]
    draft: Mapping[str, Any] = field(default_factory=dict)
    judges: Mapping[str, JudgeAgent] = field(default_factory=dict)
    validators: ValidatorRegistry | None = None
    gate: AcceptanceGate | None = None

    @asynccontextmanager
    async def begun(self, question: Question, seen: Seen) -> AsyncIterator[tuple[Engine, Run]]:
        """Begin to ask; leaving it stops whatever is still under way."""
        models = {
            name: Watched(llm, seen, **(self.draft if name == DRAFT else {})) for name, llm in self.models.items()
        }
        async with Engine(
            MemoryJournal(),
            tools=(),
            models=models,
            judges=self.judges,
            validators=self.validators,
            gate=self.gate,
        ) as engine:
            yield engine, await engine.start(question.plan, question.inputs)

    async def answer(self, question: Question, seen: Seen) -> RunResult:
        """Ask, and return how the run ended.

        Raises:
            ModelError: As the model raised it.
            VerificationError: The answer was not judged good enough.
        """
        async with self.begun(question, seen) as (engine, run):
            result = await engine.finish(run)
        raise_for(result, seen)
        return result


async def pieces(run: Run) -> AsyncIterator[str]:
    """Yield what the answering step streams, until the run ends."""
    async for recorded in run.follow():
        event = recorded.event
        if isinstance(event, OutputStreamed) and event.step == ANSWER:
            yield event.text


def raise_for(result: RunResult, seen: Seen) -> None:
    """Raise what a run failed with, if it did: the very error of the model where it was one."""
    if result.status in (RunStatus.SUCCESS, RunStatus.PARTIAL):
        return
    step = result.step(ANSWER)
    told = step.error or result.error or "the run did not end well"
    own = seen.error(step.error)
    if own is not None:
        raise own
    cause = seen.errors[-1] if seen.errors else None
    if step.error_kind == FailureKind.OUTPUT.value:
        message, _, remedy = told.partition("\n  try: ")
        raise VerificationError(message, remedy=remedy) from cause
    raise ToolExecutionError(ANSWER, step.doer, told) from cause
