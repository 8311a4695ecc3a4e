"""Anthropic's messages."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from planloom.core.chat import Message, ToolCall, ToolSpec
from planloom.testing.provider.answers import RecordedRequest, Reply, Status, arguments_text
from planloom.testing.provider.wire import (
    Problem,
    SentEvent,
    Wire,
    closed_schema,
    fields_of,
    list_in,
    named,
    number,
    object_schema,
    pieces,
    sse,
    text_in,
    whole_number,
)

_FIELDS = (
    "max_tokens messages model cache_control container diagnostics inference_geo metadata output_config "
    "service_tier speed stop_sequences stream system temperature thinking tool_choice tools top_k top_p"
)
_TAKES_NO_TEMPERATURE = re.compile(r"claude-((fable|mythos|opus|sonnet)-5|opus-4-[78]|haiku-5-5)")
_STOP = {"stop": "end_turn", "length": "max_tokens", "refusal": "refusal", "filter": "refusal"}
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}


def _read(path: str, body: dict[str, Any]) -> dict[str, Any]:
    fields_of(body, _FIELDS)
    model = text_in(body, "model")
    if _TAKES_NO_TEMPERATURE.match(model) and body.get("temperature") is not None:
        raise Problem("temperature: not supported for this model")
    most = whole_number(body, "max_tokens")
    if most is None:
        raise Problem("max_tokens: Field required")
    system = body.get("system")
    instructions = [] if system is None else [Message("system", _texts(system, "system"))]
    messages = tuple(instructions + list(_messages(list_in(body, "messages"))))
    tools = tuple(_tool(tool, f"tools.{place}") for place, tool in enumerate(body.get("tools") or ()))
    return {
        "model": model,
        "stream": bool(body.get("stream")),
        "messages": messages,
        "tools": tools,
        "tool_choice": _choice(body.get("tool_choice"), tools),
        "output_schema": _schema(body),
        "max_tokens": most,
        "temperature": number(body, "temperature", most=1),
        "stop": tuple(body.get("stop_sequences") or ()),
    }


def _messages(said: list[Any]) -> Iterator[Message]:
    """Yield what was said, the answers of tools each as a message; every call must be answered in the very next one."""
    open_calls: dict[str, str] = {}
    for place, message in enumerate(said):
        where = f"messages.{place}"
        role = message.get("role") if isinstance(message, dict) else None
        if role not in ("user", "assistant", "system"):
            raise Problem(f"{where}.role: {role!r} is none of 'user', 'assistant', 'system'")
        if place == 0 and role != "user":
            raise Problem("messages: first message must use the 'user' role")
        blocks = _blocks(message, where, last=place == len(said) - 1 and role == "assistant")
        for block in blocks:
            if block["type"] == "tool_result":
                answered = block.get("tool_use_id")
                if answered not in open_calls:
                    raise Problem(f"{where}: unexpected tool_use_id in tool_result blocks: {answered}")
                content = block.get("content") or ""
                text = content if isinstance(content, str) else _texts(content, where)
                yield Message("tool", text, tool_call_id=answered, name=open_calls.pop(answered))
        if open_calls:
            raise Problem(f"{where}: tool_use ids without tool_result blocks: {', '.join(open_calls)}")
        calls = tuple(_call(block, where) for block in blocks if block["type"] == "tool_use")
        open_calls = {call.id: call.name for call in calls}
        text = "".join(block["text"] for block in blocks if block["type"] == "text")
        if text or calls:
            yield Message(role, text, tool_calls=calls)
    if open_calls:
        raise Problem(f"messages: tool_use ids without tool_result blocks: {', '.join(open_calls)}")


def _blocks(message: dict[str, Any], where: str, *, last: bool) -> list[dict[str, Any]]:
    content = message.get("content")
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(blocks, list) or not blocks:
        raise Problem(f"{where}: all messages must have non-empty content")
    for block in blocks:
        if block.get("type") not in ("text", "tool_use", "tool_result", "image", "document", "thinking"):
            raise Problem(f"{where}.content: unknown type {block.get('type')!r}")
        if block["type"] == "text" and not str(block.get("text") or "").strip():
            raise Problem(f"{where}: text content blocks must contain non-whitespace text")
    if last and blocks[-1]["type"] == "text" and blocks[-1]["text"] != blocks[-1]["text"].rstrip():
        raise Problem(f"{where}: final assistant content cannot end with trailing whitespace")
    return blocks


def _texts(content: Any, where: str) -> str:
    """Return text, of text itself or of text blocks."""
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
    texts = [block.get("text") for block in blocks if block.get("type") == "text"]
    if not all(isinstance(text, str) and text for text in texts):
        raise Problem(f"{where}: text content blocks must be non-empty")
    return "".join(map(str, texts))


def _call(block: dict[str, Any], where: str) -> ToolCall:
    if not isinstance(block.get("input"), dict):
        raise Problem(f"{where}: tool_use.input: Input should be a valid dictionary")
    return ToolCall(text_in(block, "id"), text_in(block, "name"), block["input"])


def _tool(tool: dict[str, Any], where: str) -> ToolSpec:
    name = named(tool.get("name"), r"[a-zA-Z0-9_-]{1,128}", f"{where}.name")
    return ToolSpec(
        name, tool.get("description") or "", object_schema(tool.get("input_schema"), f"{where}.input_schema")
    )


def _choice(choice: Any, tools: tuple[ToolSpec, ...]) -> str:
    if choice is None:
        return "auto"
    if not tools:
        raise Problem("tool_choice: may only be specified while providing tools")
    kind = choice.get("type")
    if kind == "tool":
        if choice.get("name") not in {tool.name for tool in tools}:
            raise Problem(f"tool_choice: tool {choice.get('name')!r} not found in provided tools")
        return str(choice["name"])
    if kind not in ("auto", "any", "none"):
        raise Problem(f"tool_choice.type: {kind!r} is none of auto, any, none, tool")
    return "required" if kind == "any" else str(kind)


def _schema(body: dict[str, Any]) -> dict[str, Any] | None:
    form = (body.get("output_config") or {}).get("format")
    if form is None:
        return None
    if form.get("type") != "json_schema" or not isinstance(form.get("schema"), dict):
        raise Problem("output_config.format: type 'json_schema' and a schema are required")
    closed_schema(form["schema"], "output_config.format.schema", all_required=False)
    schema: dict[str, Any] = form["schema"]
    return schema


# --- answers ------------------------------------------------------------------------------------


def _usage(reply: Reply, request: RecordedRequest) -> dict[str, Any]:
    used = reply.usage_for(request)
    return {
        "input_tokens": used.input_tokens - used.cache_read_tokens - used.cache_write_tokens,
        "cache_creation_input_tokens": used.cache_write_tokens,
        "cache_read_input_tokens": used.cache_read_tokens,
        "output_tokens": used.output_tokens,
    }


def _content(reply: Reply) -> list[dict[str, Any]]:
    said = [{"type": "text", "text": reply.text, "citations": None}] if reply.text else []
    return said + [
        {"type": "tool_use", "id": call.id, "name": call.name, "input": _input(call)} for call in reply.tool_calls
    ]


def _input(call: ToolCall) -> Any:
    try:
        return json.loads(arguments_text(call))
    except ValueError:
        return call.arguments


def _stop_reason(reply: Reply) -> str:
    return "tool_use" if reply.tool_calls and reply.finish == "stop" else _STOP[reply.finish]


def _whole(reply: Reply, request: RecordedRequest) -> dict[str, Any]:
    return {
        "id": f"msg_{request.number}",
        "type": "message",
        "role": "assistant",
        "model": request.model,
        "content": _content(reply),
        "stop_reason": _stop_reason(reply),
        "stop_sequence": None,
        "usage": _usage(reply, request) | {"service_tier": "standard"},
    }


def _stream(reply: Reply, request: RecordedRequest) -> Iterator[SentEvent]:
    def told(kind: str, *, piece: bool = False, **said: Any) -> SentEvent:
        return SentEvent(sse({"type": kind, **said}, event=kind), piece)

    whole = _whole(reply, request)
    usage = whole["usage"]
    begun = {"content": [], "stop_reason": None, "usage": usage | {"output_tokens": 1}}
    yield told("message_start", message=whole | begun)
    for index, block in enumerate(whole["content"]):
        is_text = block["type"] == "text"
        empty: dict[str, Any] = {"text": ""} if is_text else {"input": {}}
        yield told("content_block_start", index=index, content_block=block | empty)
        if index == 0:
            yield told("ping")
        said = block["text"] if is_text else arguments_text(reply.tool_calls[index - bool(reply.text)])
        kind, field = ("text_delta", "text") if is_text else ("input_json_delta", "partial_json")
        for piece in pieces(said):
            yield told("content_block_delta", index=index, delta={"type": kind, field: piece}, piece=True)
        yield told("content_block_stop", index=index)
    ended = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
    yield told("message_delta", delta=ended, usage={k: v for k, v in usage.items() if k != "service_tier"})
    yield told("message_stop")


def _error(status: Status) -> dict[str, Any]:
    kind = _TYPES.get(status.code, "api_error")
    return {"type": "error", "error": {"type": kind, "message": status.message}, "request_id": None}


def _error_event(message: str) -> bytes:
    return sse(_error(Status(529, message)), event="error")


MESSAGES = Wire(
    "anthropic",
    ("x-api-key", "authorization"),
    _read,
    _whole,
    _stream,
    _error,
    _error_event,
    required_headers=("anthropic-version",),
)
