"""Our words into pydantic-ai's and back. Imports pydantic-ai, so only `hosted.py` imports this, when it is first used.

Rule 1: what a provider cannot be told is an error or said in words; a setting that a model does not take, as reasoning
models do with a temperature, is left out and named in the answer's metadata, `ignored`.
Rule 2: an answer is whole or it is an error that carries what was billed for it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

from pydantic_ai import messages as said
from pydantic_ai.models import Model, ModelRequestParameters
from pydantic_ai.output import OutputObjectDefinition
from pydantic_ai.profiles.anthropic import ANTHROPIC_SAMPLING_PARAMS
from pydantic_ai.profiles.openai import SAMPLING_PARAMS
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import ToolDefinition

from planloom.core.asking import ANSWER_AS_JSON, text_of
from planloom.core.chat import LLMResponse, Message, ModelCall, ToolCall
from planloom.core.result import Usage
from planloom.errors import (
    ModelError,
    ModelRefusedError,
    ModelStreamError,
    ModelTruncatedError,
    UnknownFieldError,
    suggestion,
)
from planloom.models.llm import estimated_tokens
from planloom.models.prompts import ANSWER_IN_JSON, arguments_of, with_words
from planloom.models.terms import Terms

OPTIONS: dict[str, tuple[str, ...]] = {
    "": (
        "top_p",
        "top_k",
        "seed",
        "presence_penalty",
        "frequency_penalty",
        "logit_bias",
        "parallel_tool_calls",
        "thinking",
        "service_tier",
    ),
    "openai": (
        "openai_reasoning_effort",
        "openai_text_verbosity",
        "openai_logprobs",
        "openai_top_logprobs",
        "openai_prompt_cache_key",
        "openai_store",
        "openai_user",
    ),
    "anthropic": (
        "anthropic_thinking",
        "anthropic_cache_instructions",
        "anthropic_cache_messages",
        "anthropic_cache_tool_definitions",
    ),
    "google": ("google_thinking_config", "google_safety_settings"),
}
"""What `ModelCall.options` may hold, by family; "" for all. The names are pydantic-ai's."""
_NOT_PREDICTED = ("openai_logprobs", "presence_penalty", "frequency_penalty")


@dataclass(frozen=True, slots=True)
class Translated:
    """A call in pydantic-ai's words.

    Attributes:
        ignored: Settings of the call that this model does not take, and is not told.
    """

    messages: list[said.ModelMessage]
    settings: ModelSettings
    parameters: ModelRequestParameters
    ignored: tuple[str, ...] = ()


def in_their_words(call: ModelCall, model: Model, terms: Terms) -> Translated:
    """Return the call as this model is to be asked.

    Args:
        call: With a prediction only if this model takes one.

    Raises:
        UnknownFieldError: An option that this family does not have.
    """
    call, parameters = _output(call, model, terms.family)
    if call.tools and call.tool_choice != "none":
        parameters = replace(parameters, function_tools=[_tool(tool) for tool in call.tools])
    settings = _settings(call, terms.family, terms.timeout_s)
    ignored = tuple(name for name in _not_taken(model, settings) if name in settings)
    taken = {name: value for name, value in settings.items() if name not in ignored}
    return Translated(list(_history(call.messages)), cast("ModelSettings", taken), parameters, ignored)


def _not_taken(model: Model, settings: dict[str, Any]) -> tuple[str, ...]:
    """Return the settings that pydantic-ai would leave out for this model, with a warning."""
    known: dict[str, Any] = {**model.profile}
    if known.get("anthropic_disallows_sampling_settings"):
        return tuple(ANTHROPIC_SAMPLING_PARAMS)
    if not known.get("openai_supports_reasoning"):
        return ()
    efforts = known.get("openai_reasoning_efforts")
    may_stop = known.get("openai_supports_reasoning_effort_none") if efforts is None else "none" in efforts
    effort, thinking = settings.get("openai_reasoning_effort"), settings.get("thinking")
    if effort is not None:
        reasons = effort != "none"
    elif thinking is not None:
        reasons = thinking is not False or bool(known.get("thinking_always_enabled"))
    else:
        reasons = bool(known.get("thinking_enabled_by_default"))
    return () if may_stop and not reasons else tuple(SAMPLING_PARAMS)


def _settings(call: ModelCall, family: str, timeout_s: float) -> dict[str, Any]:
    known = (*OPTIONS[""], *OPTIONS.get(family, ()))
    for name in call.options:
        if name not in known:
            raise UnknownFieldError(
                f"{family} models have no option {name!r}; there are {', '.join(known)}", remedy=suggestion(name, known)
            )
    found: dict[str, Any] = {"timeout": timeout_s, "request_timeout": timeout_s, **call.options}
    if call.max_tokens is not None:
        found["max_tokens"] = call.max_tokens
    if call.temperature is not None:
        found["temperature"] = call.temperature
    if call.stop:
        found["stop_sequences"] = list(call.stop)
    if call.tools and call.tool_choice == "required":
        found["tool_choice"] = "required"
    elif call.tools and call.tool_choice not in ("auto", "none"):
        found["tool_choice"] = [call.tool_choice]
    if call.prediction is not None:
        found["openai_prediction"] = {"type": "content", "content": _clean(call.prediction)}
    return found


def is_predicted(call: ModelCall) -> bool:
    """Return whether a prediction goes with the call: it is a hint only, and with some things no provider takes it."""
    return call.prediction is not None and not call.tools and not any(call.options.get(name) for name in _NOT_PREDICTED)


def _output(call: ModelCall, model: Model, family: str) -> tuple[ModelCall, ModelRequestParameters]:
    """Return how the form of the answer is asked for: by the provider's own means, else in words."""
    if call.output is not None:
        if _takes_schema(call, model, family):
            wanted = OutputObjectDefinition(json_schema=call.output, name="answer")
            return call, ModelRequestParameters(output_mode="native", output_object=wanted)
        words = ANSWER_AS_JSON + json.dumps(call.output, ensure_ascii=False)
    elif not call.json_mode:
        return call, ModelRequestParameters()
    else:
        words = ANSWER_IN_JSON
    spoken = replace(call, messages=with_words(call.messages, words))
    # A JSON mode is for objects only, so a schema of anything else goes without it.
    if call.output is not None and call.output.get("type") != "object":
        return spoken, ModelRequestParameters()
    return spoken, ModelRequestParameters(output_mode="prompted", prompted_output_template=False)


def _takes_schema(call: ModelCall, model: Model, family: str) -> bool:
    schema = call.output or {}
    if not model.profile.get("supports_json_schema_output", False) or schema.get("type") != "object":
        return False
    if family == "google" and call.tools:
        return False  # most Gemini models take tools or a schema, not both
    # Anthropic closes every object, and an object of free keys would always come back empty.
    return family != "anthropic" or not _is_open(schema)


def _is_open(schema: Any) -> bool:
    """Return whether some object of a schema has keys that the schema does not name."""
    if isinstance(schema, list):
        return any(map(_is_open, schema))
    if not isinstance(schema, dict):
        return False
    free = schema.get("additionalProperties", False)
    if free is True or isinstance(free, dict) or (schema.get("type") == "object" and "properties" not in schema):
        return True
    return any(map(_is_open, schema.values()))


def _tool(tool: Any) -> ToolDefinition:
    return ToolDefinition(name=tool.name, description=tool.description, parameters_json_schema=tool.parameters)


def _history(messages: tuple[Message, ...]) -> Iterator[said.ModelMessage]:
    """Yield requests and responses by turns: what follows an answer, tools' answers too, is one request."""
    names = {wish.id: wish.name for message in messages for wish in message.tool_calls}
    parts: list[said.ModelRequestPart] = []
    for message in messages:
        if message.role == "assistant":
            if parts:
                yield said.ModelRequest(parts)
            parts = []
            yield said.ModelResponse(list(_answer_parts(message)))
        elif message.role == "system":
            parts.append(said.SystemPromptPart(_clean(message.content)))
        elif message.role == "tool":
            call_id = message.tool_call_id or message.name or ""
            name = message.name or names.get(call_id, call_id)
            parts.append(said.ToolReturnPart(name, _clean(message.content), tool_call_id=call_id))
        else:
            parts.append(said.UserPromptPart(_clean(message.content)))
    if parts:
        yield said.ModelRequest(parts)


def _answer_parts(message: Message) -> Iterator[said.ModelResponsePart]:
    if message.content:
        yield said.TextPart(_clean(message.content))
    for wish in message.tool_calls:
        yield said.ToolCallPart(wish.name, wish.arguments, tool_call_id=wish.id)


def _clean(text: str) -> str:
    """Return the text without lone surrogates, which no request can carry."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


# --- back --------------------------------------------------------------------------------------


def piece_of(event: said.ModelResponseStreamEvent) -> str:
    """Return the text that an event of a stream adds to the answer; "" for most."""
    if isinstance(event, said.PartStartEvent) and isinstance(event.part, said.TextPart):
        return event.part.content
    if isinstance(event, said.PartDeltaEvent) and isinstance(event.delta, said.TextPartDelta):
        return event.delta.content_delta
    return ""


def answer_of(response: said.ModelResponse, call: ModelCall, terms: Terms, *, streamed: bool) -> LLMResponse:
    """Return the whole answer.

    Raises:
        ModelRefusedError: The model or a filter would not answer.
        ModelTruncatedError: It was cut off at `max_tokens`.
        ModelStreamError: The stream ended before the answer did.
        ModelError: The model failed in the middle of it.
    """
    text = "".join(part.content for part in response.parts if isinstance(part, said.TextPart))
    usage = usage_of(response, call, text)
    failure = _failure(response, terms, text, streamed)
    if failure is not None:
        failure.usage = usage
        raise failure
    return LLMResponse(
        text,
        terms.provider,
        response.model_name or "",
        usage,
        _metadata(response),
        tuple(
            ToolCall(part.tool_call_id, part.tool_name, arguments_of(part.args))
            for part in response.parts
            if isinstance(part, said.ToolCallPart)
        ),
    )


def _failure(response: said.ModelResponse, terms: Terms, text: str, streamed: bool) -> ModelError | None:
    details, uri = response.provider_details or {}, terms.uri
    if response.finish_reason == "content_filter":
        reason = terms.shown(str(details.get("refusal") or "it gives no reason"))
        return ModelRefusedError(f"{uri} would not answer: {reason}", remedy="ask in other words, or ask another model")
    if response.finish_reason == "length":
        return ModelTruncatedError(f"the answer of {uri} was cut off", remedy="raise max_tokens, or ask for less")
    if response.finish_reason == "error" or response.state not in ("complete", "incomplete"):
        reason = terms.shown(str(details.get("finish_reason") or response.state))
        return ModelError(f"{uri} failed in the middle of its answer: {reason}")
    if _is_whole(response):
        return None
    if not streamed:
        return ModelError(f"the answer of {uri} ended before it was whole")
    failure = ModelStreamError(f"the stream of {uri} ended before its answer was whole")
    failure.text_so_far = text
    return failure


def _is_whole(response: said.ModelResponse) -> bool:
    """Return whether the provider said why the answer ends, if only in words that nobody knows."""
    told = response.finish_reason or (response.provider_details or {}).get("finish_reason")
    return response.state == "complete" and bool(told)


def usage_of(response: said.ModelResponse, call: ModelCall, text: str) -> Usage:
    """Return the tokens as the provider counted them; our own estimate, flagged, of what it did not count."""
    told = response.usage
    counted, answered = told.input_tokens or 0, told.output_tokens or 0
    asked_for = 0 if counted else sum(estimated_tokens(message.content) + 4 for message in call.messages)
    is_counted = _is_whole(response) and bool(counted or answered)
    guessed = 0 if is_counted else max(0, _answered(response, text) - answered)
    return Usage(
        counted + asked_for,
        answered + guessed,
        requests=1,
        cache_read_tokens=told.cache_read_tokens or 0,
        cache_write_tokens=told.cache_write_tokens or 0,
        estimated_tokens=asked_for + guessed,
    )


def _answered(response: said.ModelResponse, text: str) -> int:
    wishes = (part for part in response.parts if isinstance(part, said.ToolCallPart))
    return estimated_tokens(text + "".join(f"{wish.tool_name}{text_of(wish.args)}" for wish in wishes))


def _metadata(response: said.ModelResponse) -> dict[str, Any]:
    told: dict[str, Any] = {"id": response.provider_response_id, "finish_reason": response.finish_reason}
    for name in ("accepted_prediction_tokens", "rejected_prediction_tokens", "reasoning_tokens"):
        told[name] = response.usage.details.get(name)
    for name in ("logprobs", "service_tier", "system_fingerprint"):
        told[name] = (response.provider_details or {}).get(name)
    return {name: value for name, value in told.items() if value is not None}
