"""Answers of a real model, recorded once and replayed: `cassette://path/to/file.jsonl?model=openai://gpt-4o-mini`.

Rule 1: `mode=replay` (the default) never asks the model: a call that is not on the cassette is an error that says what
is different from the nearest one. `mode=record` always asks and replaces; `mode=auto` asks for what is missing.
Rule 2: a recording is found by the SHA-256 of what the model would be told: messages, tools, settings. Where it is
asked, with which key and in which time is not part of it.
Rule 3: several recordings of one call (samples, say) are given in their order, and then from the first again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from planloom.core.chat import LLMResponse, Material, Message, ModelCall
from planloom.errors import ConfigError, ModelError, UnknownFieldError, suggestion
from planloom.models.llm import COMMON_PARAMS, LLM
from planloom.models.pricing import unpriced
from planloom.models.scripted import PIECE_CHARACTERS, file_of
from planloom.models.tape import Recording, key_of, tape_at, wish_of, without_secrets
from planloom.models.uri import parse_uri

if TYPE_CHECKING:
    from planloom.core.model_uri import ModelUri
    from planloom.ports import ModelMetadata

MODES = ("replay", "record", "auto")
_NOT_ASKED = frozenset({"base_url", "key_env", "timeout", "rpm", "tpm", "price_in", "price_out", "context_window"})
"""Params of the recorded model's address that the model itself is not told."""


def model_of(uri: ModelUri) -> Cassette:
    """Return the cassette at this address.

    Raises:
        ConfigError: It names no model, there is nothing to replay, or the file cannot be read.
    """
    known = (*COMMON_PARAMS, "model", "mode")
    unknown = sorted(uri.params.keys() - set(known))
    if unknown:
        raise UnknownFieldError(
            f"cassette:// addresses have no param {unknown[0]!r}", remedy=suggestion(unknown[0], known)
        )
    mode = str(uri.params.get("mode", "replay"))
    if mode not in MODES:
        raise ConfigError(f"mode of {uri} is {mode!r}", remedy=f"use one of: {', '.join(MODES)}")
    if "model" not in uri.params:
        raise ConfigError(f"{uri} does not say which model it records", remedy="add ?model=openai://gpt-4o-mini")
    recorded = parse_uri(str(uri.params["model"]))
    if recorded.scheme == uri.scheme:
        raise ConfigError(f"{uri} records a cassette", remedy="give the address of the model itself as model=")
    return Cassette(file_of(uri), LLM.from_uri(recorded), mode=mode)


class Cassette:
    """A model that answers from recordings of another one.

    Args:
        path: Of the file; made when the first answer is recorded.
        recorded: The model that is, or was, recorded.
        mode: One of MODES.
    """

    def __init__(self, path: Path, recorded: LLM, *, mode: str = "replay") -> None:
        if mode == "replay" and not path.is_file():
            raise ConfigError(f"there is no cassette {path} to replay", remedy=_how_to_record(path))
        self._tape = tape_at(path)
        self._recorded = recorded
        self._mode = mode
        self._asked: Counter[str] = Counter()
        self._saved: Counter[str] = Counter()

    @property
    def metadata(self) -> ModelMetadata:
        """Return what is known of the recorded model, its price among it."""
        return self._recorded.metadata

    @property
    def unpriced(self) -> ModelMetadata:
        return unpriced(self._recorded.model)

    def ready(self) -> None:
        """See that it can record; a replay needs no key."""
        if self._mode == "record":
            self._recorded.ready()

    async def respond(self, call: ModelCall) -> LLMResponse:
        request = self._rendered(call)
        take = self._replayed(request)
        if take is not None:
            return take.response
        response = await self._recorded.ask(call)
        self._save(Recording(key_of(request), request, response))
        return response

    async def stream(self, call: ModelCall) -> AsyncIterator[str | LLMResponse]:
        request = self._rendered(call)
        take = self._replayed(request)
        if take is not None:
            for text in take.pieces or _pieces(take.response.text):
                yield text
            yield take.response
            return
        pieces: list[str] = []
        async with aclosing(self._recorded.stream_call(call)) as asked:
            async for piece in asked:
                if isinstance(piece, LLMResponse):
                    self._save(Recording(key_of(request), request, piece, tuple(pieces)))
                else:
                    pieces.append(piece)
                yield piece

    async def close(self) -> None:
        await self._recorded.close()

    def _rendered(self, call: ModelCall) -> dict[str, Any]:
        """Return what the model is told, as JSON."""
        uri = self._recorded.uri
        told = {name: value for name, value in uri.params.items() if name not in _NOT_ASKED}
        return {"model": str(replace(uri, params=told))} | rendered(call)

    def _replayed(self, request: dict[str, Any]) -> Recording | None:
        """Return the recording whose turn it is, or None if the model itself is to be asked.

        Raises:
            ModelError: It is not to be asked, and there is no recording.
        """
        key = key_of(request)
        before = self._asked[key]
        self._asked[key] += 1
        takes = self._tape.takes(key)
        if self._mode == "replay" and not takes:
            raise ModelError(
                f"{self._tape.path} holds no answer to this call; {self._tape.difference(request)}",
                remedy=_how_to_record(self._tape.path),
                cassette=str(self._tape.path),
                key=key,
            )
        if self._mode == "record" or (self._mode == "auto" and before >= len(takes)):
            return None
        return takes[before % len(takes)]

    def _save(self, take: Recording) -> None:
        place = self._saved[take.key]
        self._saved[take.key] += 1
        self._tape.save(take, place if self._mode == "record" else None)


# --- what is compared -------------------------------------------------------------------------


def rendered(call: ModelCall) -> dict[str, Any]:
    """Return what a call tells any model, as JSON: nothing empty, nothing secret, nothing about how it is sent."""
    told: dict[str, Any] = {"messages": [_message(message) for message in call.messages]}
    if call.tools:
        told["tools"] = [
            {"name": tool.name, "description": tool.description, "parameters": tool.parameters} for tool in call.tools
        ]
        told["tool_choice"] = call.tool_choice
    settings = ("max_tokens", "temperature", "output", "prediction")
    told |= {name: getattr(call, name) for name in settings if getattr(call, name) is not None}
    if call.json_mode:
        told["json_mode"] = True
    if call.stop:
        told["stop"] = list(call.stop)
    if call.material is not None:
        told["material"] = _material(call.material)
    options = without_secrets(call.options)
    return told | ({"options": options} if options else {})


def _material(material: Material) -> dict[str, Any]:
    return {
        "lead": material.lead,
        "passages": [[passage.node, passage.text] for passage in material.passages],
        "near": [sorted(map(list, row.items())) for row in material.near],
        "policy": material.policy.model_dump(mode="json", exclude_defaults=True),
    }


def _message(message: Message) -> dict[str, Any]:
    told: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        told["tool_calls"] = [wish_of(wish) for wish in message.tool_calls]
    return told | {
        name: getattr(message, name) for name in ("tool_call_id", "name") if getattr(message, name) is not None
    }


def _how_to_record(path: Path) -> str:
    return (
        f"record it: ask once at cassette://{path}?model=…&mode=record (or auto, for what is missing only) where there "
        "is a key, and keep the file"
    )


def _pieces(text: str) -> Iterator[str]:
    return (text[start : start + PIECE_CHARACTERS] for start in range(0, len(text), PIECE_CHARACTERS))
