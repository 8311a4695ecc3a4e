"""OpenAI's responses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from planloom.core.chat import Message, ToolCall
from planloom.testing.provider.answers import RecordedRequest, Reply, arguments_text
from planloom.testing.provider.openai_shared import (
    CREATED,
    choice_of,
    error,
    function_spec,
    json_schema_of,
    no_temperature,
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
    "access_programs background context_management conversation image include input instructions max_output_tokens "
    "max_tool_calls metadata model moderation parallel_tool_calls previous_response_id prompt prompt_cache_key "
    "prompt_cache_options prompt_cache_retention reasoning safety_identifier service_tier store stream "
    "stream_options temperature text tool_choice tools top_logprobs top_p truncation user"
)
_ROLES = ("developer", "system", "user", "assistant")
_INCOMPLETE = {"length": "max_output_tokens", "filter": "content_filter"}


def _read(path: str, body: dict[str, Any]) -> dict[str, Any]:
    fields_of(body, _FIELDS)
    model = text_in(body, "model")
    no_temperature(body, model)
    given = body.get("input")
    items = [{"role": "user", "content": given}] if given and isinstance(given, str) else list_in(body, "input")
    messages = tuple(_in_turns(_messages(items)))
    if body.get("instructions"):
        messages = (Message("system", text_in(body, "instructions")), *messages)
    tools = tuple(function_spec(tool, f"tools[{place}]") for place, tool in enumerate(body.get("tools") or ()))
    choice = body.get("tool_choice")
    chosen = choice.get("name") if isinstance(choice, dict) else None
    schema, json_mode = _format((body.get("text") or {}).get("format") or {}, messages)
    return {
        "model": model,
        "stream": bool(body.get("stream")),
        "messages": messages,
        "tools": tools,
        "tool_choice": choice_of(choice, chosen, tools),
        "output_schema": schema,
        "json_mode": json_mode,
        "max_tokens": whole_number(body, "max_output_tokens", least=16),
        "temperature": number(body, "temperature", most=2),
    }


def _messages(items: list[Any]) -> Iterator[Message]:
    """Yield what was said, an item at a time; every call of a tool must have its answer further down."""
    open_calls: dict[str, str] = {}
    for place, item in enumerate(items):
        where = f"input[{place}]"
        if not isinstance(item, dict):
            raise Problem(f"{where}: an item is required")
        match item.get("type", "message"):
            case "message":
                role = item.get("role")
                if role not in _ROLES:
                    raise Problem(f"{where}.role: {role!r} is none of {', '.join(_ROLES)}")
                yield Message("system" if role == "developer" else role, _content(item, where, role))
            case "function_call":
                call = ToolCall(text_in(item, "call_id"), text_in(item, "name"), text_in(item, "arguments"))
                open_calls[call.id] = call.name
                yield Message("assistant", tool_calls=(call,))
            case "function_call_output":
                answered = text_in(item, "call_id")
                if answered not in open_calls:
                    raise Problem(f"{where}: No tool call found for function call output with call_id {answered}.")
                output = item.get("output")
                said = output if isinstance(output, str) else _content({"content": output}, where, "user")
                yield Message("tool", said, tool_call_id=answered, name=open_calls.pop(answered))
            case "reasoning":
                continue
            case other:
                raise Problem(f"{where}.type: {other!r} is not supported")
    if open_calls:
        raise Problem(f"input: No tool output found for function call {next(iter(open_calls))}.")


def _in_turns(said: Iterable[Message]) -> Iterator[Message]:
    """Yield what was said, calls together with what the assistant said before them."""
    turn: Message | None = None
    for message in said:
        if turn is not None and message.role == "assistant" and message.tool_calls:
            turn = replace(turn, tool_calls=turn.tool_calls + message.tool_calls)
            continue
        if turn is not None:
            yield turn
        turn = message if message.role == "assistant" else None
        if turn is None:
            yield message
    if turn is not None:
        yield turn


def _content(item: dict[str, Any], where: str, role: str) -> str:
    content = item.get("content")
    if isinstance(content, str):
        return content
    takes = ("output_text", "refusal") if role == "assistant" else ("input_text", "input_image", "input_file")
    for part in content if isinstance(content, list) else ({},):
        if part.get("type") not in takes:
            raise Problem(f"{where}.content: {part.get('type')!r} is none of {', '.join(takes)}")
    return "".join(part.get("text") or part.get("refusal") or "" for part in content or ())


def _format(form: dict[str, Any], messages: tuple[Message, ...]) -> tuple[dict[str, Any] | None, bool]:
    match form.get("type", "text"):
        case "text":
            return None, False
        case "json_object":
            says_json(messages)
            return None, True
        case "json_schema":
            return json_schema_of(form, "text.format"), False
        case other:
            raise Problem(f"text.format.type: {other!r} is none of text, json_object, json_schema")


# --- answers ------------------------------------------------------------------------------------


def _message(reply: Reply, request: RecordedRequest, status: str) -> dict[str, Any]:
    return {
        "id": f"msg_{request.number}",
        "type": "message",
        "role": "assistant",
        "status": status,
        "content": [_part(reply, reply.text)],
    }


def _part(reply: Reply, text: str) -> dict[str, Any]:
    if reply.finish == "refusal":
        return {"type": "refusal", "refusal": text}
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _calls(reply: Reply, request: RecordedRequest) -> list[dict[str, Any]]:
    return [
        {
            "id": f"fc_{request.number}_{place}",
            "type": "function_call",
            "status": "completed",
            "call_id": call.id,
            "name": call.name,
            "arguments": arguments_text(call),
        }
        for place, call in enumerate(reply.tool_calls)
    ]


def _thought(reply: Reply, request: RecordedRequest) -> list[dict[str, Any]]:
    return [{"id": f"rs_{request.number}", "type": "reasoning", "summary": []}] if reply.thinking_tokens else []


def _response(request: RecordedRequest, status: str) -> dict[str, Any]:
    body = request.body
    return {
        "id": f"resp_{request.number}",
        "object": "response",
        "created_at": CREATED,
        "status": status,
        "error": None,
        "incomplete_details": None,
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "model": request.model,
        "output": [],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "store": body.get("store", True),
        "temperature": body.get("temperature", 1.0),
        "text": body.get("text") or {"format": {"type": "text"}},
        "tool_choice": body.get("tool_choice") or "auto",
        "tools": body.get("tools") or [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": None,
        "user": None,
        "metadata": {},
    }


def _whole(reply: Reply, request: RecordedRequest) -> dict[str, Any]:
    reason = _INCOMPLETE.get(reply.finish)
    status = "incomplete" if reason else "completed"
    said = [_message(reply, request, status)] if reply.text or not reply.tool_calls else []
    return _response(request, status) | {
        "incomplete_details": {"reason": reason} if reason else None,
        "output": _thought(reply, request) + said + _calls(reply, request),
        "usage": usage(reply.usage_for(request), ("input", "output"), thinking=reply.thinking_tokens),
    }


def _stream(reply: Reply, request: RecordedRequest) -> Iterator[SentEvent]:
    sequence = 0

    def told(kind: str, *, piece: bool = False, **said: Any) -> SentEvent:
        nonlocal sequence
        event = {"type": kind, "sequence_number": sequence, **said}
        sequence += 1
        return SentEvent(sse(event, event=kind), piece)

    whole = _whole(reply, request)
    begun = _response(request, "in_progress")
    yield told("response.created", response=begun)
    yield told("response.in_progress", response=begun)
    for index, item in enumerate(whole["output"]):
        place: dict[str, Any] = {"output_index": index, "item_id": item["id"]}
        yield told("response.output_item.added", output_index=index, item=_begun(item))
        if item["type"] == "message":
            place["content_index"] = 0
            field = "refusal" if reply.finish == "refusal" else "text"
            kind = "response.refusal" if field == "refusal" else "response.output_text"
            more: dict[str, Any] = {} if field == "refusal" else {"logprobs": []}
            said: dict[str, Any] = {field: reply.text}
            yield told("response.content_part.added", **place, part=_part(reply, ""))
            for piece in pieces(reply.text):
                yield told(f"{kind}.delta", **place, **more, delta=piece, piece=True)
            yield told(f"{kind}.done", **place, **more, **said)
            yield told("response.content_part.done", **place, part=item["content"][0])
        elif item["type"] == "function_call":
            for piece in pieces(item["arguments"]):
                yield told("response.function_call_arguments.delta", **place, delta=piece, piece=True)
            yield told("response.function_call_arguments.done", **place, name=item["name"], arguments=item["arguments"])
        yield told("response.output_item.done", output_index=index, item=item)
    yield told(f"response.{whole['status']}", response=whole)


def _begun(item: dict[str, Any]) -> dict[str, Any]:
    """Return an item as it stands before anything of it has been said."""
    if item["type"] == "reasoning":
        return item
    empty: dict[str, Any] = {"content": []} if item["type"] == "message" else {"arguments": ""}
    return item | {"status": "in_progress"} | empty


def _error_event(message: str) -> bytes:
    event = {"type": "error", "sequence_number": 99, "code": "server_error", "message": message, "param": None}
    return sse(event, event="error")


RESPONSES = Wire("openai-responses", ("authorization",), _read, _whole, _stream, error, _error_event)
