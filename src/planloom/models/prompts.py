"""What a caller may say to a model, as a `ModelCall`: text, messages or dicts, tools in the forms providers use.

Rule 1: an unknown keyword or a message that cannot be read is an error, never left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from planloom.core.chat import ROLES, Message, ModelCall, ToolCall, ToolSpec
from planloom.errors import ConfigError, UnknownFieldError, suggestion

Prompt = str | Message | Sequence[Message | Mapping[str, Any]]

OPTIONS = ("tools", "tool_choice", "output", "prediction", "stop", "timeout_s", "options")
"""What `generate` takes beside its own parameters: fields of `ModelCall`."""
_NAMED = ("max_tokens", "temperature", "functions", "function_call", "json_mode")
ANSWER_IN_JSON = "Answer in JSON, and with nothing else."
_OTHER_ROLES = {"developer": "system", "function": "tool"}


def call_of(
    prompt: Prompt,
    *,
    max_tokens: int | None = None,
    temperature: float | None = None,
    functions: Sequence[Mapping[str, Any]] | None = None,
    function_call: str | Mapping[str, Any] | None = None,
    json_mode: bool = False,
    **options: Any,
) -> ModelCall:
    """Return the call that these arguments mean.

    Args:
        prompt: Text, or a conversation; dicts as providers take them: ``{"role": …, "content": …}``.
        functions: Tools, ``{"name", "description", "parameters"}``; the older name of `tools`.
        function_call: "auto", "none", or ``{"name": …}``; the older name of `tool_choice`.
        options: See OPTIONS.

    Raises:
        UnknownFieldError: A keyword that does not exist.
        ConfigError: A message or a tool that cannot be read.
    """
    unknown = sorted(options.keys() - set(OPTIONS))
    if unknown:
        raise UnknownFieldError(
            f"a model cannot be asked with {unknown[0]!r}; there are {', '.join((*_NAMED, *OPTIONS))}",
            remedy=suggestion(unknown[0], (*_NAMED, *OPTIONS)),
        )
    tools = (*(functions or ()), *(options.pop("tools", None) or ()))
    choice = options.pop("tool_choice", None) or function_call or "auto"
    stop = options.pop("stop", None) or ()
    return ModelCall(
        messages=messages_from(prompt),
        max_tokens=max_tokens,
        temperature=temperature,
        json_mode=json_mode,
        tools=tuple(map(_tool, tools)),
        tool_choice=choice if isinstance(choice, str) else _chosen(choice),
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        options=options.pop("options", None) or {},
        **options,
    )


def messages_from(prompt: Prompt) -> tuple[Message, ...]:
    """Return the conversation that a prompt is.

    Raises:
        ConfigError: It is empty, or something in it is no message.
    """
    if isinstance(prompt, str):
        return (Message("user", prompt),)
    found = (prompt,) if isinstance(prompt, Message) else tuple(map(_message, prompt))
    if not found:
        raise ConfigError("a model is asked nothing: the list of messages is empty", remedy="give at least one message")
    return found


def with_words(messages: tuple[Message, ...], words: str) -> tuple[Message, ...]:
    """Return the conversation with these words at the end of what the user said last."""
    for place in reversed(range(len(messages))):
        if messages[place].role == "user":
            told = replace(messages[place], content=f"{messages[place].content}\n\n{words}")
            return (*messages[:place], told, *messages[place + 1 :])
    return (Message("system", words), *messages)


def _message(said: Message | Mapping[str, Any]) -> Message:
    if isinstance(said, Message):
        role = said.role
    elif isinstance(said, Mapping):
        role = _OTHER_ROLES.get(str(said.get("role")), str(said.get("role")))
    else:
        raise ConfigError(f"a message is a {type(said).__name__}", remedy='write {"role": "user", "content": "…"}')
    if role not in ROLES:
        raise ConfigError(f"no message has the role {role!r}", remedy=f"use one of: {', '.join(ROLES)}")
    if isinstance(said, Message):
        return said
    calls = [_wish(wish) for wish in said.get("tool_calls") or ()]
    if said.get("function_call"):
        calls.append(_wish(said["function_call"]))
    return Message(
        role,
        _content(said.get("content")),
        tool_calls=tuple(calls),
        tool_call_id=said.get("tool_call_id") or (said.get("name") if role == "tool" else None),
        name=said.get("name"),
    )


def _content(said: Any) -> str:
    if said is None:
        return ""
    if isinstance(said, str):
        return said
    parts = said if isinstance(said, Sequence) else (said,)
    if not all(isinstance(part, Mapping) and isinstance(part.get("text"), str) for part in parts):
        raise ConfigError(
            "the content of a message is not text", remedy='give text, or parts {"type": "text", "text": …}'
        )
    return "".join(part["text"] for part in parts)


def _wish(said: ToolCall | Mapping[str, Any]) -> ToolCall:
    if isinstance(said, ToolCall):
        return said
    told = said.get("function", said)
    name = str(told.get("name"))
    return ToolCall(str(said.get("id") or name), name, arguments_of(told.get("arguments")))


def arguments_of(said: Any) -> dict[str, Any] | str:
    """Return the arguments of a tool call, or the model's own text where it is no JSON object."""
    if isinstance(said, Mapping):
        return dict(said)
    if said is None or said == "":
        return {}
    try:
        read = json.loads(said)
    except (ValueError, TypeError, RecursionError):
        return str(said)
    return read if isinstance(read, dict) else str(said)


def _tool(said: ToolSpec | Mapping[str, Any]) -> ToolSpec:
    if isinstance(said, ToolSpec):
        return said
    told = said.get("function", said) if isinstance(said, Mapping) else {}
    if not isinstance(told.get("name"), str):
        raise ConfigError("a tool has no name", remedy='write {"name": …, "description": …, "parameters": {…}}')
    parameters = told.get("parameters") or {"type": "object", "properties": {}}
    return ToolSpec(told["name"], told.get("description") or "", dict(parameters))


def _chosen(said: Mapping[str, Any]) -> str:
    name = said.get("function", said).get("name")
    if not isinstance(name, str):
        raise ConfigError("tool_choice names no tool", remedy='write "auto", "none", "required" or {"name": …}')
    return name
