"""What a program sends over its pipe, a line at a time, and no faster than the host can bear.

Rule 1: between two turns of the event loop little is taken; what has not been taken stays in the pipe, where the
program waits for room.
Rule 2: a line is bounded before it is read as JSON, in bytes and in values: a byte or two can stand for a whole object.
Rule 3: nothing is taken while the program has more calls under way than there is room for.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from typing import Any

from planloom.core.code import ErrorType
from planloom.errors import OutputError
from planloom.sandbox.program import most_values

ENVELOPE = 16_384
"""Bytes of a message beside the value that it carries."""
_AT_ONCE = 16_384
"""Bytes that are taken between two turns of the event loop, or one line if that is longer."""
_LEAST = 256
"""Bytes that a line counts as at least."""
_WRONG = (ValueError, LookupError, TypeError, ArithmeticError, RecursionError, AttributeError, OutputError)
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\Z)', re.DOTALL)


class Inbox:
    """Takes what comes apart into messages.

    Args:
        most_bytes: Of the value in one message.
        take: Is given each message, an object of JSON, and how many bytes it was.
        refuse: Is told what was wrong with one, after which there are no more.
        has_room: Returns whether the next message may be taken; `go_on` is to be called when it may again.
        listen: Has the pipe read, or left alone.
    """

    def __init__(
        self,
        most_bytes: int,
        *,
        take: Callable[[dict[str, Any], int], None],
        refuse: Callable[[ErrorType, str], None],
        has_room: Callable[[], bool],
        listen: Callable[[bool], None],
    ) -> None:
        self._most_bytes = most_bytes
        self._take = take
        self._refuse = refuse
        self._has_room = has_room
        self._listen = listen
        self._loop = asyncio.get_running_loop()
        self._heard = bytearray()
        self._looked_at = 0
        """Bytes of `_heard` that no line ends in."""
        self._next: asyncio.Handle | None = None
        self._is_closed = False

    def close(self) -> None:
        """Take nothing more."""
        self._is_closed = True
        self._heard.clear()
        if self._next is not None:
            self._next.cancel()

    def heard(self, piece: bytes) -> None:
        if not self._is_closed:
            self._heard += piece
            self.go_on()

    def go_on(self) -> None:
        """Take what has come, as far as there is room, and a little at a time."""
        if self._next is None and not self._is_closed:
            self._some()

    def _some(self) -> None:
        self._next = None
        taken = 0
        while taken < _AT_ONCE and self._has_room():
            end = self._heard.find(b"\n", self._looked_at)
            if end < 0:
                self._looked_at = len(self._heard)
                if self._looked_at > self._most_bytes + ENVELOPE:
                    self._too_much(f"{self._most_bytes:,} bytes of JSON")
                    return
                self._listen(True)
                return
            line = bytes(self._heard[:end])
            del self._heard[: end + 1]
            self._looked_at = 0
            taken += max(_LEAST, len(line))
            self._read(line)
            if self._is_closed:
                return
        self._listen(False)
        if self._has_room():
            self._next = self._loop.call_soon(self._some)

    def _read(self, line: bytes) -> None:
        most = most_values(self._most_bytes)
        if line.count(b",") > most and _STRING.sub(b"", line).count(b",") > most:
            self._too_much(f"{most:,} values")
            return
        try:
            if len(line) > self._most_bytes + ENVELOPE:
                raise ValueError(len(line))
            message = json.loads(line, parse_constant=_no_constant)
            if type(message) is not dict:
                raise TypeError(message)
            self._take(message, len(line))
        except _WRONG as error:
            self._refuse(ErrorType.PROTOCOL, f"it sent what is no message: {type(error).__name__}")

    def _too_much(self, what: str) -> None:
        self._refuse(ErrorType.RESULT, f"it returned, or gave to a tool, more than {what}")


def _no_constant(name: str) -> Any:
    raise ValueError(name)
