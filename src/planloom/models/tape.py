"""The file that recorded answers are kept in: one JSON object a line, in the order of recording.

Rule 1: nothing secret is written: no value of a variable of the environment that is named like a key, and none that is
declared to be one.
Rule 2: one file has one tape in a process, whoever uses it: writers never lose each other's recordings.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from hashlib import sha256
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from planloom import masking
from planloom.core.chat import LLMResponse, ToolCall
from planloom.core.result import Usage
from planloom.errors import ConfigError

VERSION = 1
"""Of a line of the file."""
MAX_COMPARED = 200
"""Recordings that a call that is on none of them is compared with."""
MAX_SHOWN = 3
"""Differences that are told."""

_NOT_TOLD = re.compile(
    r".*headers?|(.*[-_])?((api|access|secret|private|auth)[-_]?)?(key|token)|secret|password|authorization"
    r"|credentials?",
    re.IGNORECASE,
)
"""Names of settings that are not written."""


def key_of(request: dict[str, Any]) -> str:
    """Return the SHA-256 that a request is found by."""
    return sha256(json.dumps(request, sort_keys=True, default=str).encode()).hexdigest()


def wish_of(wish: ToolCall) -> dict[str, Any]:
    return {"id": wish.id, "name": wish.name, "arguments": wish.arguments}


def without_secrets(told: Any) -> Any:
    """Return settings without those that are named like a key or a header."""
    if isinstance(told, dict):
        return {name: without_secrets(value) for name, value in told.items() if not _NOT_TOLD.fullmatch(str(name))}
    if isinstance(told, list | tuple):
        return [without_secrets(value) for value in told]
    return told


def masked(told: Any) -> Any:
    """Return JSON without any value of the environment that is named like a key, and without what is declared one."""
    mask = masking.known()
    if mask is not None:
        told = mask.value(told)
    secrets = {
        value for name, value in os.environ.items() if len(value) >= masking.LEAST_SECRET and masking.looks_secret(name)
    }
    return _masked(told, sorted(secrets, key=len, reverse=True))


def _masked(told: Any, secrets: list[str]) -> Any:
    if isinstance(told, dict):
        return {_masked(name, secrets): _masked(value, secrets) for name, value in told.items()}
    if isinstance(told, list | tuple):
        return [_masked(one, secrets) for one in told]
    if isinstance(told, str):
        for secret in secrets:
            told = told.replace(secret, masking.MASK)
    return told


@dataclass(frozen=True, slots=True)
class Recording:
    """An answer, and what was asked.

    Attributes:
        key: See `key_of`.
        pieces: As it was streamed; () if it came whole.
    """

    key: str
    request: dict[str, Any]
    response: LLMResponse
    pieces: tuple[str, ...] = ()

    def line(self) -> bytes:
        answer = self.response
        told = {
            "text": answer.text,
            "tool_calls": [wish_of(wish) for wish in answer.tool_calls],
            "provider": answer.provider,
            "model_name": answer.model_name,
            "usage": {name: getattr(answer.usage, name) for name in Usage.__slots__ if getattr(answer.usage, name)},
            "metadata": without_secrets(answer.metadata),
        }
        whole = {"v": VERSION, "key": self.key, "request": self.request, "answer": told}
        if self.pieces and masked(answer.text) == answer.text:  # else a piece could hold half of a secret
            whole["pieces"] = list(self.pieces)
        whole = masked(whole)
        try:
            return f"{json.dumps(whole, ensure_ascii=False, default=str)}\n".encode()
        except UnicodeEncodeError:  # half a surrogate pair, which JSON can write and UTF-8 cannot
            return f"{json.dumps(whole, default=str)}\n".encode()

    @classmethod
    def read(cls, told: dict[str, Any]) -> Recording:
        answer = told["answer"]
        response = LLMResponse(
            answer["text"],
            answer["provider"],
            answer["model_name"],
            Usage(**answer["usage"]),
            answer["metadata"],
            tuple(ToolCall(wish["id"], wish["name"], wish["arguments"]) for wish in answer["tool_calls"]),
        )
        return cls(told["key"], told["request"], response, tuple(told.get("pieces", ())))


class Tape:
    """One file, shared by all models of the process that use it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._takes: list[Recording] = []
        self._seen: tuple[int, int] | None = None
        self._is_open_ended = False

    def load(self) -> None:
        """Read the file, unless it is as it was.

        Raises:
            ConfigError: It is damaged, of a newer version, or cannot be read.
        """
        with self._lock:
            seen = self._look()
            if seen == self._seen:
                return
            try:
                lines = self.path.read_text(encoding="utf-8").split("\n") if seen is not None else []
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError(f"the cassette {self.path} cannot be read: {error}") from error
            self._takes = [self._read(line, number) for number, line in enumerate(lines, start=1) if line.strip()]
            self._is_open_ended = bool(lines) and lines[-1] != ""
            self._seen = seen

    def takes(self, key: str) -> list[Recording]:
        with self._lock:
            return [take for take in self._takes if take.key == key]

    def save(self, take: Recording, place: int | None) -> None:
        """Keep a recording, in place of the one at that place among those of its call, or after all others."""
        with self._lock:
            same = [at for at, other in enumerate(self._takes) if other.key == take.key]
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                if place is not None and place < len(same):
                    self._takes[same[place]] = take
                    self._write_all()
                else:
                    self._takes.append(take)
                    with self.path.open("ab") as file:
                        file.write(b"\n" * self._is_open_ended + take.line())
                self._is_open_ended = False
            except OSError as error:
                raise ConfigError(f"the cassette {self.path} cannot be written: {error}") from error
            self._seen = self._look()

    def difference(self, request: dict[str, Any]) -> str:
        """Return in words what is different from the nearest recording."""
        with self._lock:
            recorded = [take.request for take in self._takes[-MAX_COMPARED:]]
        if not recorded:
            return "it is empty"
        asked = json.dumps(request, default=str)
        nearest = max(
            recorded, key=lambda one: SequenceMatcher(None, json.dumps(one, default=str), asked).quick_ratio()
        )
        found = list(_differences(masked(nearest), masked(request), "")) or ["what is named like a secret"]
        more = f" and {len(found) - MAX_SHOWN} more" if len(found) > MAX_SHOWN else ""
        return f"the nearest recording differs in {'; '.join(found[:MAX_SHOWN])}{more}"

    def _read(self, line: str, number: int) -> Recording:
        remedy = "record it again, or take the line out"
        try:
            told = json.loads(line)
            version = told["v"]
            if version == VERSION:
                return Recording.read(told)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ConfigError(f"line {number} of the cassette {self.path} is damaged", remedy=remedy) from error
        raise ConfigError(
            f"line {number} of the cassette {self.path} is of version {version!r:.20}; this planloom reads {VERSION}",
            remedy="record it again, or use the planloom that wrote it",
        )

    def _write_all(self) -> None:
        """Write the file anew, so that whoever reads it meanwhile finds the old one or the new one."""
        beside = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        beside.write_bytes(b"".join(take.line() for take in self._takes))
        beside.replace(self.path)

    def _look(self) -> tuple[int, int] | None:
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return None
        return found.st_mtime_ns, found.st_size


_tapes: WeakValueDictionary[Path, Tape] = WeakValueDictionary()
_tapes_lock = threading.Lock()


def tape_at(path: Path) -> Tape:
    """Return the tape of a file, as the file is now."""
    place = path.absolute()
    with _tapes_lock:
        tape = _tapes.get(place)
        if tape is None:
            tape = _tapes[place] = Tape(path)
    tape.load()
    return tape


def _likeness(recorded: str, asked: str) -> float:
    return SequenceMatcher(None, recorded, asked, autojunk=False).quick_ratio()


def _differences(recorded: Any, asked: Any, where: str) -> Iterator[str]:
    """Yield each place where two requests differ, with what stood there and what stands there now."""
    if recorded == asked:
        return
    if isinstance(recorded, dict) and isinstance(asked, dict):
        for name in recorded | asked:
            inner = f"{where}.{name}" if where else str(name)
            if name in recorded and name in asked:
                yield from _differences(recorded[name], asked[name], inner)
            elif name in asked:
                yield f"{inner} (recorded without, asked {_short(asked[name])})"
            else:
                yield f"{inner} (recorded {_short(recorded[name])}, asked without)"
    elif isinstance(recorded, list) and isinstance(asked, list):
        if len(recorded) != len(asked):
            yield f"the number of {where} (recorded {len(recorded)}, asked {len(asked)})"
        for at, (was, now) in enumerate(zip(recorded, asked, strict=False)):
            yield from _differences(was, now, f"{where}[{at}]")
    elif isinstance(recorded, str) and isinstance(asked, str):
        same = next((at for at, (a, b) in enumerate(zip(recorded, asked, strict=False)) if a != b), None)
        same = min(len(recorded), len(asked)) if same is None else same
        start = max(0, same - 20)
        yield f"{where} from character {same + 1} (recorded {_short(recorded[start:])}, asked {_short(asked[start:])})"
    else:
        yield f"{where} (recorded {_short(recorded)}, asked {_short(asked)})"


def _short(value: Any) -> str:
    text = repr(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:59]}…"
