"""Tokens into text as they come: whole characters only, and nothing of a stop text.

Rule 1: the pieces, put together, are the answer: what was given out is never taken back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

BROKEN = "\N{REPLACEMENT CHARACTER}"
"""What half a character is decoded as."""


class Text:
    """The text of an answer under way.

    Args:
        decode: Tokens to text.
        stops: Texts at which the answer ends; they are no part of it.
        hear: Gets each piece.
    """

    def __init__(
        self, decode: Callable[[Sequence[int]], str], stops: Sequence[str], hear: Callable[[str], None]
    ) -> None:
        self._decode = decode
        self._stops = [stop for stop in stops if stop]
        self._hear = hear
        self._ids: list[int] = []
        self._given = self._read = 0
        self._held = ""
        self._pieces: list[str] = []
        self.is_stopped = False

    @property
    def whole(self) -> str:
        """Return what was given out so far."""
        return "".join(self._pieces)

    def add(self, token: int) -> bool:
        """Take the next token; return True if a stop text is complete."""
        self._ids.append(token)
        # What a token reads as depends on those before it, so some that were given out are decoded along with it.
        before, after = self._decode(self._ids[self._given : self._read]), self._decode(self._ids[self._given :])
        if len(after) > len(before) and not after.endswith(BROKEN):
            self._given, self._read = self._read, len(self._ids)
            self._take(after[len(before) :])
        return self.is_stopped

    def end(self) -> str:
        """Give out what was held back; return the whole answer."""
        if not self.is_stopped:
            before, after = self._decode(self._ids[self._given : self._read]), self._decode(self._ids[self._given :])
            self._take(after[len(before) :])
        if not self.is_stopped:
            self._give(self._held)
        return self.whole

    def _take(self, text: str) -> None:
        held = self._held + text
        found = [at for stop in self._stops if (at := held.find(stop)) >= 0]
        if found:
            self.is_stopped, self._held = True, ""
            self._give(held[: min(found)])
            return
        # The end may be the beginning of a stop text.
        most = max(map(len, self._stops), default=1) - 1
        kept = next((n for n in range(min(most, len(held)), 0, -1) if self._may_stop(held[-n:])), 0)
        self._held = held[len(held) - kept :]
        self._give(held[: len(held) - kept])

    def _may_stop(self, tail: str) -> bool:
        return any(stop.startswith(tail) for stop in self._stops)

    def _give(self, text: str) -> None:
        if text:
            self._pieces.append(text)
            self._hear(text)
