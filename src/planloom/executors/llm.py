"""Model steps: a prompt, perhaps with tools, to an answer: text, or a value that fits the step's schema.

Rule 1: every call goes through a `Meter`, every tool through `ToolCalls`; nothing here counts or calls by itself.
Rule 2: what a model writes is untrusted: it picks among the step's own tools, and its arguments are checked like any.
Rule 3: what is streamed, put together, is the output. What may still be thrown away is not streamed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from planloom.core.asking import messages_of, question_of
from planloom.core.chat import LLMResponse, ModelCall
from planloom.core.result import StepOutcome
from planloom.errors import OutputError
from planloom.executors.conversation import Conversation
from planloom.executors.documents import read_for
from planloom.executors.meter import Meter
from planloom.models.structured import answer_value, ask_for_value, problems_of
from planloom.together import together

if TYPE_CHECKING:
    from planloom.core.commands import RunStep
    from planloom.executors.calls import ToolCalls
    from planloom.executors.documents import Reading
    from planloom.models.catalogue import Models
    from planloom.plan.gasa import GasaPolicy
    from planloom.ports import AttemptContext

PIECE_CHARACTERS = 20
"""Least length of a streamed piece, but for the first, which somebody waits for, and the last: each goes on record by
itself."""
_TOLD = ("finish_reason", "accepted_prediction_tokens", "rejected_prediction_tokens", "decoding")
"""What of an answer's own metadata goes on record."""


@dataclass(frozen=True, slots=True)
class LlmExecutor:
    """Does a step by asking its model; with role "draft", by asking the model that drafts for it."""

    models: Models
    calls: ToolCalls

    async def execute(
        self,
        request: RunStep,
        context: AttemptContext,
        *,
        prediction: str | None = None,
        options: dict[str, Any] | None = None,
    ) -> StepOutcome:
        """Do the step.

        Args:
            prediction: What the answer is likely to be: the same answer, sooner, where the provider can.
            options: As in `ModelCall`.
        """
        step = request.step
        ref = model_of(request)
        meter = Meter(context, request, self.models)
        talk = Conversation(ref, meter, self.calls, request, context)
        call = ModelCall(
            messages=messages_of(question_of(step, request.args)),
            max_tokens=step.max_tokens,
            temperature=step.temperature,
            tools=talk.specs,
            output=step.output,
            prediction=prediction,
            options=options or {},
        )
        reading = None if step.gasa is None else await self._reading(step.gasa, ref, meter, request, call)
        if reading is not None:
            call = await _read(reading, call, ref, meter)
        output: Any
        if step.output is not None and request.role == "draft":
            answer = await talk.answer(call)  # only once: a draft that has to be mended saves nothing
            output = _value(answer, step.output)
        elif step.output is not None:
            output, answer = await ask_for_value(talk.answer, call)
        elif streams(request):
            pieces = _Pieces(context.stream)
            answer = await meter.stream(ref, call, pieces.add)
            output = pieces.end()
        else:
            answer = await talk.answer(call)
            output = answer.text
        metadata = _metadata(str(meter.llm(ref).uri), meter, answer, talk)
        if reading is not None:
            metadata["gasa_stats"] = reading.told(answer)
        cost_usd = context.reported_usd if meter.is_priced else None
        return StepOutcome(output, context.reported_usage, cost_usd, metadata=metadata)

    async def _reading(self, policy: GasaPolicy, ref: str, meter: Meter, request: RunStep, call: ModelCall) -> Reading:
        """Return what the step reads."""
        facts = request.models.get(ref)
        most = call.max_tokens or (None if facts is None else facts.max_tokens)
        return await read_for(
            meter.llm(ref),
            replace(call, max_tokens=most),
            policy,
            request.args,
            shadow=None if policy.shadow_model is None else meter.llm(policy.shadow_model),
            window=None if facts is None else facts.context_window,
        )


async def _read(reading: Reading, call: ModelCall, ref: str, meter: Meter) -> ModelCall:
    """Return the call that is to be answered, once what is read apart has been read."""
    if not reading.is_apart:
        return reading.whole(call)
    answers = await together([partial(meter.ask, ref, part) for part in reading.parts(call)])
    return reading.merged(call, answers)


def model_of(request: RunStep) -> str:
    """Return the name or URI of the model that is to be asked."""
    step = request.step
    if request.role == "draft" and step.speculate is not None:
        return step.speculate.draft or "default"
    return step.model or "default"


def streams(request: RunStep) -> bool:
    """Return whether the answer is streamed: as text, and by nobody whose answer may be thrown away."""
    step = request.step
    return (
        step.stream
        and step.output is None
        and not step.tools
        and request.role == ""
        and step.verify is None
        and (step.speculate is None or step.speculate.policy != "hedged")
    )


def _value(answer: LLMResponse, schema: dict[str, Any]) -> Any:
    """Return the value that an answer is.

    Raises:
        OutputError: It is none of this schema.
    """
    value = answer_value(answer.text)
    problems = problems_of(value, schema)
    if problems:
        raise OutputError(f"the draft of {answer.model_name} does not fit its schema: {'; '.join(problems)}")
    return value


def _metadata(uri: str, meter: Meter, answer: LLMResponse, talk: Conversation) -> dict[str, Any]:
    told: dict[str, Any] = {
        "model": uri,
        "provider": answer.provider,
        "model_name": answer.model_name,
        "requests": meter.requests,
    }
    told |= {name: answer.metadata[name] for name in _TOLD if answer.metadata.get(name) is not None}
    if talk.called:
        told["tools_called"] = talk.called
    if talk.refused:
        told["tools_refused"] = talk.refused
    return told


class _Pieces:
    """Streamed text in pieces that are worth a place on record each."""

    def __init__(self, put: Callable[[str], None]) -> None:
        self._put = put
        self._all: list[str] = []
        self._kept = ""

    def add(self, text: str) -> None:
        self._kept += text
        if len(self._kept) >= PIECE_CHARACTERS or (self._kept and not self._all):
            self._hand_on()

    def end(self) -> str:
        """Hand on the rest; return all of it."""
        if self._kept:
            self._hand_on()
        return "".join(self._all)

    def _hand_on(self) -> None:
        self._all.append(self._kept)
        self._put(self._kept)
        self._kept = ""
