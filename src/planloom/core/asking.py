"""What a model step says to its model, and how large a call can get; the budget reserves what is worked out here.

Rule 1: the heart reserves with the same words the executor sends: both are made here.
Rule 2: a ceiling counts bytes: no tokenizer of a hosted model makes more than one token of a byte. How many bytes a
token is, nobody knows: of an answer still to come, which a later call will quote, ANSWER_BYTES for each are set aside.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from planloom.core.chat import Message, ModelCall

if TYPE_CHECKING:
    from planloom.plan.model import Step

PER_MESSAGE = 16
"""Tokens that a provider's own format adds to a message or a tool, at most."""
ANSWER_AS_JSON = "Answer with one JSON value that fits this JSON Schema, and with nothing else:\n"
MAX_ROUNDS = 8
"""Times a model step may ask for tools before it has to answer."""
MAX_CALLS = 16
"""Tools a model step may call in one attempt."""
RE_ASK_TOKENS = 2_000
"""Most tokens that telling a model what was wrong with its answer takes."""
AGENT_BYTES = 6_000
"""Most of what an agent's own loop says in a call, besides the task, its tools and what has happened so far."""
HISTORY_BYTES = 32_000
"""Most of what has happened so far, as an agent tells it to its model in a call."""
ROUND_CALLS = 6
"""Times an agent mostly asks its model in one iteration."""
ROUND_TASKS = 8
"""Tools an agent may call in one iteration."""
JUDGE_TOKENS = 1_000
"""Most tokens of a verdict."""
ANSWER_BYTES = 8
"""Bytes that a token of an answer is taken to have: ordinary text has 3 to 6."""
VERDICT_TOKENS = 16
"""Most tokens of a verdict on a draft. It is one token long, but some providers take no fewer, and a call that ends at
its very limit counts as cut off."""
VERDICT_PROMPT_BYTES = 1_500
"""Most of what the judge of a draft is told besides the request and the draft."""


def messages_of(args: Mapping[str, Any]) -> tuple[Message, ...]:
    """Return the conversation that a model step's resolved arguments begin: system, then prompt, then what is `with`.

    Args:
        args: As in `RunStep.args`: `prompt`, perhaps `system`, and the step's own arguments, JSON.
    """
    found: list[Message] = []
    if args.get("system"):
        found.append(Message("system", str(args["system"])))
    parts = [text_of(args.get("prompt", ""))] if args.get("prompt") else []
    parts += [f"{name}:\n{text_of(value)}" for name, value in args.items() if name not in ("prompt", "system")]
    found.append(Message("user", "\n\n".join(parts)))
    return tuple(found)


def task_of(step: Step, args: Mapping[str, Any]) -> str:
    """Return what a step is asked to do, for whoever judges its answer."""
    if step.kind in ("model", "agent"):
        return "\n\n".join(message.content for message in messages_of(args))
    what = {
        "tool": f"A call of the tool {step.tool}.",
        "code": f"The result of this code:\n{step.code.source if step.code is not None else ''}",
    }
    told = [step.description, step.task or what.get(step.kind, ""), f"Arguments:\n{text_of(args)}" if args else ""]
    return "\n\n".join(text for text in told if text)


def text_of(value: Any) -> str:
    """Return text as it is, and any other value as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def size_bytes(text: str) -> int:
    """Return the length in UTF-8; lone surrogates count as three bytes, as they are escaped."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def prompt_ceiling(call: ModelCall) -> int:
    """Return a number of prompt tokens that this call cannot pass."""
    tokens = PER_MESSAGE
    for message in call.messages:
        tokens += PER_MESSAGE + size_bytes(message.content)
        for wish in message.tool_calls:
            tokens += PER_MESSAGE + size_bytes(wish.name) + size_bytes(text_of(wish.arguments))
    for tool in call.tools:
        tokens += PER_MESSAGE + size_bytes(tool.name) + size_bytes(tool.description)
        tokens += size_bytes(json.dumps(tool.parameters, ensure_ascii=False))
    if call.output is not None:
        # Twice: a provider that takes no schema is told it in words as well.
        tokens += 2 * schema_ceiling(call.output)
    if call.material is not None:
        tokens += sum(PER_MESSAGE + size_bytes(passage.text) for passage in call.material.passages)
    return tokens + size_bytes(call.prediction or "")


def schema_ceiling(schema: Mapping[str, Any]) -> int:
    return PER_MESSAGE + size_bytes(ANSWER_AS_JSON) + size_bytes(json.dumps(schema, ensure_ascii=False))


def step_ceiling(step: Step, args: Mapping[str, Any], *, tool_bytes: int = 0) -> int:
    """Return a number of prompt tokens that the first call of a model step cannot pass.

    Args:
        tool_bytes: Size of what the model is told of the step's tools.
    """
    return prompt_ceiling(ModelCall(messages=messages_of(args), output=step.output)) + tool_bytes
