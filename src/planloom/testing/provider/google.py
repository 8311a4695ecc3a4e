"""Google's generateContent and streamGenerateContent, of the Gemini API.

Rule 1: it takes every field under two names, `maxOutputTokens` and `max_output_tokens`, and so do we.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from planloom.core.chat import Message, ToolCall, ToolSpec
from planloom.testing.provider.answers import RecordedRequest, Reply, Status
from planloom.testing.provider.wire import (
    Problem,
    SentEvent,
    Wire,
    fields_of,
    list_in,
    named,
    number,
    pieces,
    sse,
    whole_number,
)

_FIELDS = (
    "contents tools toolConfig safetySettings systemInstruction generationConfig cachedContent serviceTier store labels"
)
_CONFIG = (
    "stopSequences responseMimeType responseSchema responseJsonSchema responseModalities candidateCount "
    "maxOutputTokens temperature topP topK seed presencePenalty frequencyPenalty responseLogprobs logprobs "
    "enableEnhancedCivicAnswers speechConfig thinkingConfig mediaResolution imageConfig"
)
_NAME = r"[a-zA-Z_][a-zA-Z0-9_.:-]{0,127}"
_MODES = {"AUTO": "auto", "NONE": "none", "ANY": "required", "VALIDATED": "auto"}
_FINISH = {"stop": "STOP", "length": "MAX_TOKENS", "refusal": "SAFETY", "filter": "PROHIBITED_CONTENT"}
_STATUS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
STREAMS = ":streamGenerateContent"


def _camel(fields: dict[str, Any]) -> dict[str, Any]:
    """Return an object with the one name for each of its fields."""
    return {re.sub(r"_([a-z])", lambda found: found[1].upper(), name): value for name, value in fields.items()}


def _read(path: str, sent: dict[str, Any]) -> dict[str, Any]:
    body = _camel(sent)
    fields_of(body, _FIELDS)
    config = _camel(body.get("generationConfig") or {})
    fields_of(config, _CONFIG, "generationConfig.")
    instructions = body.get("systemInstruction")
    system = [] if instructions is None else [Message("system", _said(instructions, "systemInstruction"))]
    tools = tuple(
        _tool(function, place)
        for group in body.get("tools") or ()
        for place, function in enumerate(_camel(group).get("functionDeclarations") or ())
    )
    is_json = config.get("responseMimeType") == "application/json"
    schema = config.get("responseJsonSchema") or config.get("responseSchema")
    if schema is not None and not is_json:
        raise Problem("generationConfig: a response schema needs responseMimeType 'application/json'")
    return {
        "model": path.rsplit("/", 1)[-1].split(":", 1)[0],
        "stream": path.endswith(STREAMS),
        "messages": tuple(system + list(_messages(list_in(body, "contents")))),
        "tools": tools,
        "tool_choice": _choice(body, tools),
        "output_schema": schema,
        "json_mode": is_json and schema is None,
        "max_tokens": whole_number(config, "maxOutputTokens"),
        "temperature": number(config, "temperature", most=2),
        "stop": tuple(config.get("stopSequences") or ()),
    }


def _messages(contents: list[Any]) -> Iterator[Message]:
    """Yield what was said; a turn with calls is answered by a turn with as many answers."""
    calls: tuple[ToolCall, ...] = ()
    for place, content in enumerate(contents):
        where = f"contents[{place}]"
        role = content.get("role", "user") if isinstance(content, dict) else None
        if role not in ("user", "model"):
            raise Problem(f"{where}.role: Please use a valid role: user, model.")
        parts = content.get("parts")
        if not isinstance(parts, list) or not parts or not all(parts):
            raise Problem(f"{where}.parts: must not be empty")
        parts = [_camel(part) for part in parts]
        answers = [part["functionResponse"] for part in parts if "functionResponse" in part]
        if len(answers) != len(calls):
            raise Problem(f"{where}: {len(calls)} function calls need as many function responses, not {len(answers)}")
        for call, answer in zip(calls, answers, strict=True):
            if answer.get("name") != call.name or not isinstance(answer.get("response"), dict):
                raise Problem(f"{where}: functionResponse: name {call.name!r} and a response object are required")
            yield Message("tool", str(answer["response"]), tool_call_id=answer.get("id"), name=call.name)
        calls = tuple(_call(part["functionCall"], where, n) for n, part in enumerate(parts) if "functionCall" in part)
        text = "".join(part.get("text") or "" for part in parts)
        if text or calls:
            yield Message("assistant" if role == "model" else "user", text, tool_calls=calls)
    if calls:
        raise Problem(f"contents: {len(calls)} function calls have no function response")


def _call(call: dict[str, Any], where: str, place: int) -> ToolCall:
    if not isinstance(call.get("args", {}), dict):
        raise Problem(f"{where}: functionCall.args: an object is required")
    return ToolCall(call.get("id") or f"{where}/{place}", str(call.get("name")), call.get("args", {}))


def _said(content: Any, where: str) -> str:
    text = "".join(part.get("text") or "" for part in content.get("parts") or ())
    if not text:
        raise Problem(f"{where}: must include at least one parts field")
    return text


def _tool(declared: dict[str, Any], place: int) -> ToolSpec:
    function = _camel(declared)
    name = named(function.get("name"), _NAME, f"tools[0].function_declarations[{place}].name")
    schema = function.get("parametersJsonSchema") or function.get("parameters") or {"type": "object"}
    return ToolSpec(name, function.get("description") or "", schema)


def _choice(body: dict[str, Any], tools: tuple[ToolSpec, ...]) -> str:
    given = _camel(body.get("toolConfig") or {}).get("functionCallingConfig")
    if given is None:
        return "auto"
    calling = _camel(given)
    if not tools:
        raise Problem("Function calling config is set without function_declarations.")
    mode, allowed = calling.get("mode", "AUTO"), calling.get("allowedFunctionNames") or []
    if mode not in _MODES or not set(allowed) <= {tool.name for tool in tools}:
        raise Problem("toolConfig.functionCallingConfig: unknown mode or function")
    return str(allowed[0]) if mode == "ANY" and len(allowed) == 1 else _MODES[mode]


# --- answers ------------------------------------------------------------------------------------


def _usage(reply: Reply, request: RecordedRequest, *, share: float = 1.0) -> dict[str, Any]:
    """Return the tokens that are billed once this share of the answer has been given."""
    used = reply.usage_for(request)
    answered = int((used.output_tokens - reply.thinking_tokens) * share)
    told = {
        "promptTokenCount": used.input_tokens,
        "candidatesTokenCount": answered,
        "totalTokenCount": used.input_tokens + reply.thinking_tokens + answered,
    }
    if used.cache_read_tokens:
        told["cachedContentTokenCount"] = used.cache_read_tokens
    if reply.thinking_tokens:
        told["thoughtsTokenCount"] = reply.thinking_tokens
    return told


def _parts(reply: Reply) -> list[dict[str, Any]]:
    said: list[dict[str, Any]] = [{"text": reply.text}] if reply.text else []
    return said + [
        {"functionCall": {"id": call.id, "name": call.name, "args": call.arguments}} for call in reply.tool_calls
    ]


def _answer(
    reply: Reply, request: RecordedRequest, parts: list[dict[str, Any]], *, finish: str | None, share: float = 1.0
) -> dict[str, Any]:
    candidate: dict[str, Any] = {"index": 0}
    if parts or finish is None:
        candidate["content"] = {"role": "model", "parts": parts}
    if finish is not None:
        candidate["finishReason"] = finish
    return {
        "candidates": [candidate],
        "usageMetadata": _usage(reply, request, share=share),
        "modelVersion": request.model,
        "responseId": f"resp-{request.number}",
    }


def _whole(reply: Reply, request: RecordedRequest) -> dict[str, Any]:
    if reply.finish == "filter":
        return {
            "promptFeedback": {"blockReason": "PROHIBITED_CONTENT"},
            "usageMetadata": _usage(reply, request),
            "modelVersion": request.model,
            "responseId": f"resp-{request.number}",
        }
    parts = [] if reply.finish == "refusal" else _parts(reply)
    return _answer(reply, request, parts, finish=_FINISH[reply.finish])


def _stream(reply: Reply, request: RecordedRequest) -> Iterator[SentEvent]:
    def told(answer: dict[str, Any], *, piece: bool = False) -> SentEvent:
        return SentEvent(sse(answer, end="\r\n\r\n"), piece)

    if reply.finish in ("filter", "refusal"):
        yield told(_whole(reply, request))
        return
    parts = [{"text": piece} for piece in pieces(reply.text)] + [part for part in _parts(reply) if "text" not in part]
    for place, part in enumerate(parts, start=1):
        yield told(_answer(reply, request, [part], finish=None, share=place / len(parts)), piece=True)
    yield told(_answer(reply, request, [{"text": ""}], finish=_FINISH[reply.finish]))


def _error(status: Status) -> dict[str, Any]:
    told = {"code": status.code, "message": status.message, "status": _STATUS.get(status.code, "UNKNOWN")}
    if status.retry_after is not None:
        told["details"] = [
            {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{status.retry_after}s"}
        ]
    return {"error": told}


def _error_event(message: str) -> bytes:
    return sse(_error(Status(503, message)), end="\r\n\r\n")


GENERATE = Wire("google", ("x-goog-api-key",), _read, _whole, _stream, _error, _error_event, tells_wait_in_header=False)
