"""OpenAI's chat completions, as its server and every server compatible with it speak them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from planloom.core.chat import Message, ToolCall
from planloom.testing.provider.answers import RecordedRequest, Reply, arguments_text
from planloom.testing.provider.openai_shared import (
    CREATED,
    choice_of,
    error,
    error_event,
    function_spec,
    json_schema_of,
    no_temperature,
    reasons,
    says_json,
    usage,
)
from planloom.testing.provider.wire import (
    Problem,
    SentEvent,
    Wire,
    fields_of,
    list_in,
    number,
    pieces,
    sse,
    text_in,
    whole_number,
)

_FIELDS = (
    "messages model audio frequency_penalty function_call functions logit_bias logprobs max_completion_tokens "
    "max_tokens metadata modalities moderation n parallel_tool_calls prediction presence_penalty prompt_cache_key "
    "prompt_cache_options prompt_cache_retention reasoning_effort response_format safety_identifier seed "
    "service_tier stop store stream stream_options temperature tool_choice tools top_logprobs top_p user verbosity "
    "web_search_options"
)
_ROLES = ("developer", "system", "user", "assistant", "tool")
_FINISH = {"stop": "stop", "length": "length", "refusal": "stop", "filter": "content_filter"}
_NOT_PREDICTED = ("n", "logprobs", "presence_penalty", "frequency_penalty", "max_completion_tokens", "tools")


def _read(path: str, body: dict[str, Any]) -> dict[str, Any]:
    fields_of(body, _FIELDS)
    model = text_in(body, "model")
    no_temperature(body, model)
    if reasons(model) and body.get("max_tokens") is not None:
        raise Problem("'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.")
    if body.get("stream_options") is not None and not body.get("stream"):
        raise Problem("stream_options: only allowed when 'stream' is true")
    messages = tuple(_messages(list_in(body, "messages")))
    tools = tuple(
        function_spec(tool.get("function"), f"tools[{place}]") for place, tool in enumerate(body.get("tools") or ())
    )
    choice = body.get("tool_choice")
    chosen = choice.get("function", {}).get("name") if isinstance(choice, dict) else None
    schema, json_mode = _format(body.get("response_format") or {}, messages)
    stop = body.get("stop") or ()
    return {
        "model": model,
        "stream": bool(body.get("stream")),
        "messages": messages,
        "tools": tools,
        "tool_choice": choice_of(choice, chosen, tools),
        "output_schema": schema,
        "json_mode": json_mode,
        "max_tokens": whole_number(body, "max_completion_tokens") or whole_number(body, "max_tokens"),
        "temperature": number(body, "temperature", most=2),
        "stop": (stop,) if isinstance(stop, str) else tuple(stop),
        "prediction": _prediction(body),
    }


def _messages(said: list[Any]) -> Iterator[Message]:
    """Yield what was said; every call of a tool must be answered before anything else is said."""
    open_calls: dict[str, str] = {}
    for place, message in enumerate(said):
        where = f"messages[{place}]"
        role = message.get("role") if isinstance(message, dict) else None
        if role not in _ROLES:
            raise Problem(f"{where}.role: {role!r} is none of {', '.join(_ROLES)}")
        if role == "tool":
            answered = message.get("tool_call_id")
            if answered not in open_calls:
                raise Problem(f"{where}: a 'tool' message must answer a preceding message with 'tool_calls'")
            yield Message("tool", _content(message, where), tool_call_id=answered, name=open_calls.pop(answered))
            continue
        if open_calls:
            raise Problem(f"{where}: these tool calls have no answer: {', '.join(open_calls)}")
        calls = tuple(_call(call, where) for call in message.get("tool_calls") or ())
        open_calls = {call.id: call.name for call in calls}
        content = "" if calls and message.get("content") is None else _content(message, where)
        yield Message("system" if role == "developer" else role, content, tool_calls=calls)
    if open_calls:
        raise Problem(f"messages: these tool calls have no answer: {', '.join(open_calls)}")


def _content(message: dict[str, Any], where: str) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    if isinstance(content, list) and content and all(isinstance(part, dict) and "type" in part for part in content):
        return "".join(part.get("text") or part.get("refusal") or "" for part in content)
    raise Problem(f"{where}.content: text or parts are required, not {content!r:.80}")


def _call(call: dict[str, Any], where: str) -> ToolCall:
    function = call.get("function", {})
    if not call.get("id") or call.get("type") != "function" or not isinstance(function.get("arguments"), str):
        raise Problem(f"{where}.tool_calls: id, type 'function' and arguments as text are required")
    return ToolCall(call["id"], text_in(function, "name"), function["arguments"])


def _format(form: dict[str, Any], messages: tuple[Message, ...]) -> tuple[dict[str, Any] | None, bool]:
    match form.get("type", "text"):
        case "text":
            return None, False
        case "json_object":
            says_json(messages)
            return None, True
        case "json_schema":
            return json_schema_of(form.get("json_schema") or {}, "response_format.json_schema"), False
        case other:
            raise Problem(f"response_format.type: {other!r} is none of text, json_object, json_schema")


def _prediction(body: dict[str, Any]) -> str | None:
    prediction = body.get("prediction")
    if prediction is None:
        return None
    wrong = [name for name in _NOT_PREDICTED if body.get(name) not in (None, 0, False, [])]
    if wrong and not (wrong == ["n"] and body["n"] == 1):
        raise Problem(f"{wrong[0]}: not supported together with 'prediction'")
    if prediction.get("type") != "content":
        raise Problem("prediction.type: must be 'content'")
    return _content(prediction, "prediction")


# --- answers ------------------------------------------------------------------------------------


def _calls(reply: Reply) -> list[dict[str, Any]]:
    return [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments_text(call)}}
        for call in reply.tool_calls
    ]


def _finish(reply: Reply) -> str:
    return "tool_calls" if reply.tool_calls and reply.finish == "stop" else _FINISH[reply.finish]


def _usage(reply: Reply, request: RecordedRequest) -> dict[str, Any]:
    return usage(
        reply.usage_for(request),
        ("prompt", "completion"),
        thinking=reply.thinking_tokens,
        accepted_prediction_tokens=reply.accepted_prediction_tokens,
        rejected_prediction_tokens=reply.rejected_prediction_tokens,
    )


def _whole(reply: Reply, request: RecordedRequest) -> dict[str, Any]:
    refused = reply.finish == "refusal"
    message: dict[str, Any] = {
        "role": "assistant",
        "content": None if refused or (reply.tool_calls and not reply.text) else reply.text,
        "refusal": reply.text or "I cannot help with that." if refused else None,
        "annotations": [],
    }
    if reply.tool_calls:
        message["tool_calls"] = _calls(reply)
    return {
        "id": f"chatcmpl-{request.number}",
        "object": "chat.completion",
        "created": CREATED,
        "model": request.model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": _finish(reply)}],
        "usage": _usage(reply, request),
        "service_tier": "default",
        "system_fingerprint": None,
    }


def _stream(reply: Reply, request: RecordedRequest) -> Iterator[SentEvent]:
    tells_usage = bool((request.body.get("stream_options") or {}).get("include_usage"))
    chunk = {
        "id": f"chatcmpl-{request.number}",
        "object": "chat.completion.chunk",
        "created": CREATED,
        "model": request.model,
        "system_fingerprint": None,
    } | ({"usage": None} if tells_usage else {})

    def said(delta: dict[str, Any], *, piece: bool = False, finish: str | None = None) -> SentEvent:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return SentEvent(sse(chunk | {"choices": [choice]}), piece)

    yield said({"role": "assistant", "content": None if reply.tool_calls else "", "refusal": None})
    field = "refusal" if reply.finish == "refusal" else "content"
    for piece in pieces(reply.text):
        yield said({field: piece}, piece=True)
    for index, call in enumerate(_calls(reply)):
        arguments = call["function"]["arguments"]
        begun = call | {"index": index, "function": call["function"] | {"arguments": ""}}
        yield said({"tool_calls": [begun]})
        for piece in pieces(arguments):
            yield said({"tool_calls": [{"index": index, "function": {"arguments": piece}}]}, piece=True)
    yield said({}, finish=_finish(reply))
    if tells_usage:
        yield SentEvent(sse(chunk | {"choices": [], "usage": _usage(reply, request)}))
    yield SentEvent(sse("[DONE]"))


CHAT = Wire("openai-chat", ("authorization",), _read, _whole, _stream, error, error_event)
