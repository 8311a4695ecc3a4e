"""A call as tokens: the conversation in the model's own chat template, with the documents cut out of it.

Rule 1: what is put before the question (`Material`) is tokenised piece by piece and the ids are joined, so that where
each piece stands is exact; what a document says is never read as a mark of the template.
Rule 2: a tokenizer without a chat template is given a plain form: `System:`, `User:` and `Assistant:`, a paragraph a
message, and `Assistant:` at the end.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2.exceptions import TemplateError
from transformers import AutoTokenizer

from planloom.core.asking import ANSWER_AS_JSON, text_of
from planloom.errors import ConfigError, ModelRefusedError
from planloom.models.prompts import ANSWER_IN_JSON, with_words

if TYPE_CHECKING:
    from planloom.core.chat import Material, Message, ModelCall

_PLAIN = {"system": "System", "assistant": "Assistant"}
_CUT = "\N{SYMBOL FOR UNIT SEPARATOR}documents {number}\N{SYMBOL FOR UNIT SEPARATOR}"
"""Stands where the documents go while the template is applied; it is in no message."""
_UNREADABLE = (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError, RuntimeError)
"""What transformers raises on a folder that is not what it expects."""


@dataclass(frozen=True, slots=True)
class PromptTokens:
    """A prompt's ids.

    Attributes:
        sink: Everything before the documents; all of it where there are none.
        passages: Each document's.
        summary: A mark after the documents, if the policy wants one.
        reader: Everything after that.
    """

    sink: tuple[int, ...]
    passages: tuple[tuple[int, ...], ...] = ()
    summary: tuple[int, ...] = ()
    reader: tuple[int, ...] = ()

    @property
    def ids(self) -> list[int]:
        return [*self.sink, *(one for passage in self.passages for one in passage), *self.summary, *self.reader]


@lru_cache(maxsize=8)
def tokenizer_of(folder: Path) -> Any:
    """Return the tokenizer in a folder; no weights are read.

    Raises:
        ConfigError: There is none that can be read.
    """
    try:
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except _UNREADABLE as error:
        raise ConfigError(
            f"the tokenizer in {folder} cannot be read: {type(error).__name__}: {str(error)[:300]}",
            remedy="save it there: tokenizer.save_pretrained(folder); code of its own is never run",
        ) from error


def unlike_tokens(one: Any, other: Any) -> str | None:
    """Return why the tokens of one tokenizer are not those of another, or None if they are."""
    known, others = one.get_vocab(), other.get_vocab()
    if known == others:
        return None
    differing = sum(known.get(token) != number for token, number in others.items()) or len(known) - len(others)
    return f"its tokenizer is another one ({abs(differing)} tokens differ)"


def count(tokenizer: Any, text: str) -> int:
    """Return how many tokens a text is, by itself."""
    return len(_ids(tokenizer, text))


def prompt_of(call: ModelCall, tokenizer: Any, *, where: str) -> PromptTokens:
    """Return the tokens of a call.

    Args:
        where: What the model is called, for messages.

    Raises:
        ModelRefusedError: It brings tools, or a conversation that the template does not take.
    """
    if call.tools and call.tool_choice != "none":
        raise ModelRefusedError(f"{where} takes no tools", remedy="ask another model, or leave the tools out")
    messages = _in_words(call)
    material = call.material
    if material is None:
        return PromptTokens(tuple(_whole(tokenizer, messages, where)))
    mark = _mark(messages)
    last = messages[-1]
    text = _rendered(tokenizer, (*messages[:-1], replace(last, content=mark + last.content)), where)
    before, found, after = text.partition(mark)
    if not found or mark in after:
        raise ModelRefusedError(f"the chat template of {where} does not show the last message once")
    return PromptTokens(
        sink=(*_begin(tokenizer), *_ids(tokenizer, before), *_ids(tokenizer, material.lead, is_data=True)),
        passages=tuple(tuple(_ids(tokenizer, passage.text, is_data=True)) for passage in material.passages),
        summary=tuple(_summary(tokenizer, material)),
        reader=tuple(_ids(tokenizer, after)),
    )


def _whole(tokenizer: Any, messages: Sequence[Message], where: str) -> list[int]:
    return [*_begin(tokenizer), *_ids(tokenizer, _rendered(tokenizer, messages, where))]


def _summary(tokenizer: Any, material: Material) -> list[int]:
    policy = material.policy
    return _ids(tokenizer, f"{policy.summary_token}\n\n") if policy.add_summary_token else []


def _mark(messages: Sequence[Message]) -> str:
    said = "".join(message.content for message in messages)
    number = 0
    while _CUT.format(number=number) in said:
        number += 1
    return _CUT.format(number=number)


def _in_words(call: ModelCall) -> tuple[Message, ...]:
    """Return the conversation, with the form of the answer said in words."""
    if call.output is not None:
        return with_words(call.messages, ANSWER_AS_JSON + json.dumps(call.output, ensure_ascii=False))
    return with_words(call.messages, ANSWER_IN_JSON) if call.json_mode else call.messages


def _ids(tokenizer: Any, text: str, *, is_data: bool = False) -> list[int]:
    """Return a text's tokens, nothing put around it; with `is_data` the marks of the template are text like any."""
    clean = text.encode("utf-8", "replace").decode("utf-8")  # tokenizers take no lone surrogates
    found: list[int] = tokenizer(clean, add_special_tokens=False, split_special_tokens=is_data, verbose=False).input_ids
    return found


def _begin(tokenizer: Any) -> list[int]:
    """Return what the tokenizer puts before a text; a chat template writes that itself."""
    if tokenizer.chat_template:
        return []
    whole, bare = tokenizer("a").input_ids, tokenizer("a", add_special_tokens=False).input_ids
    return [whole[0]] if len(whole) > len(bare) and whole[0] == tokenizer.bos_token_id else []


def _rendered(tokenizer: Any, messages: Sequence[Message], where: str) -> str:
    if not tokenizer.chat_template:
        said = (f"{_PLAIN.get(message.role, 'User')}: {_content(message)}\n\n" for message in messages)
        return f"{''.join(said)}Assistant:"
    told = [{"role": _role(message), "content": _content(message)} for message in messages]
    try:
        return _applied(tokenizer, told)
    except TemplateError:  # some take no system message, or insist on turns
        pass
    try:
        return _applied(tokenizer, _in_turns(told))
    except TemplateError as error:
        raise ModelRefusedError(
            f"the chat template of {where} does not take this conversation: {str(error)[:200]}"
        ) from error


def _applied(tokenizer: Any, told: list[dict[str, str]]) -> str:
    return str(tokenizer.apply_chat_template(told, tokenize=False, add_generation_prompt=True))


def _role(message: Message) -> str:
    return "user" if message.role == "tool" else message.role


def _content(message: Message) -> str:
    if message.role == "tool":
        return f"Result of {message.name or message.tool_call_id or 'a tool'}:\n{message.content}"
    wishes = [f"{wish.name}({text_of(wish.arguments)})" for wish in message.tool_calls]
    return "\n".join(filter(None, (message.content, *wishes)))


def _in_turns(told: list[dict[str, str]]) -> list[dict[str, str]]:
    """Return a conversation of user and assistant by turns; instructions go to the user's first words."""
    turns: list[dict[str, str]] = []
    for one in told:
        role = "user" if one["role"] == "system" else one["role"]
        if turns and turns[-1]["role"] == role:
            turns[-1] = {"role": role, "content": f"{turns[-1]['content']}\n\n{one['content']}"}
        else:
            turns.append({"role": role, "content": one["content"]})
    return turns
