"""What goes over a stream socket: JSON values, each behind its length in four bytes.

Rule 1: a frame longer than allowed, or that is not JSON, ends the connection; nothing of it is used.
Rule 2: JSON only, both ways: nothing that comes in can name or make a Python object.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, NoReturn, cast

from planloom.errors import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_FRAME_BYTES = 64 * 1024 * 1024
"""Longest frame of a worker that has shown its token."""
MAX_STRANGER_BYTES = 256 * 1024
"""Longest frame of one that has not: room for the digests of two thousand tools."""
STRANGER_QUOTA_BYTES = 4 * MAX_STRANGER_BYTES
"""All that one may say before it has shown its token."""
_LENGTH = 4


def json_text(value: Any) -> str:
    """Return a value as JSON.

    Raises:
        ProtocolError: It is none: NaN, a circle, a Python object.
    """
    try:
        return json.dumps(value, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ProtocolError(f"this cannot be sent: {error}", remedy="use JSON values only") from error


def too_long(size_bytes: int, max_bytes: int) -> ProtocolError:
    return ProtocolError(
        f"a message of {size_bytes} bytes is too long to be sent; at most {max_bytes} bytes are",
        remedy="put what is large where both sides can read it, and pass on where that is",
    )


class FrameChannel(asyncio.Protocol):
    """One end of a connection, in frames.

    Attributes:
        max_bytes: Longest frame to take or send.
        quota_bytes: How much more may come in all; None: any amount.
    """

    def __init__(
        self,
        on_frame: Callable[[Any], None],
        on_closed: Callable[[str], None],
        *,
        on_open: Callable[[], None] | None = None,
        max_bytes: int = MAX_FRAME_BYTES,
    ) -> None:
        self.max_bytes = max_bytes
        self.quota_bytes: int | None = None
        self._on_open = on_open
        self._on_frame = on_frame
        self._on_closed = on_closed
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._why = "the connection was closed"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if self._on_open is not None:
            self._on_open()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._on_closed(self._why if exc is None else f"the connection broke: {exc}")

    def data_received(self, data: bytes) -> None:
        if self.quota_bytes is not None:
            self.quota_bytes -= len(data)
            if self.quota_bytes < 0:
                self.abort("too much was said")
                return
        buffer = self._buffer
        buffer += data
        start = 0
        try:
            while len(buffer) - start >= _LENGTH and self._transport is not None:
                size = int.from_bytes(buffer[start : start + _LENGTH])
                if size > self.max_bytes:
                    raise ProtocolError(f"a frame of {size} bytes came; at most {self.max_bytes} are taken")
                end = start + _LENGTH + size
                if len(buffer) < end:
                    break
                frame = _parsed(buffer[start + _LENGTH : end])
                start = end
                self._on_frame(frame)
        except ProtocolError as error:
            self.abort(error.message)
        del buffer[:start]

    def write(self, text: str) -> None:
        """Send a frame; one that is too long is not sent.

        Raises:
            ProtocolError: It is longer than allowed.
        """
        body = text.encode()
        if len(body) > self.max_bytes:
            raise too_long(len(body), self.max_bytes)
        if self._transport is not None:
            self._transport.write(len(body).to_bytes(_LENGTH) + body)

    def close(self) -> None:
        """Send what is left, then close."""
        if self._transport is not None:
            self._transport.close()

    def abort(self, why: str) -> None:
        """Close at once."""
        self._why = why
        if self._transport is not None:
            self._transport.abort()


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def _parsed(body: bytearray) -> Any:
    try:
        return _DECODER.decode(body.decode())
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"a frame came that is no JSON: {error}") from error
