"""A worker's connection to its engine, in a thread of its own: a tool that blocks the event loop does not silence it.

Rule 1: signs of life come from the process, not from what its tools do: how long a tool may take, its step says.
Rule 2: the engine proves that it knows the token before it is told or given anything more than a name.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from planloom.transport.frames import MAX_FRAME_BYTES, MAX_STRANGER_BYTES, json_text, too_long
from planloom.transport.handshake import WELCOME_S, Address, new_nonce, proof, proves
from planloom.transport.link import Link

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_ROOM_BYTES = 100
"""For what a frame holds besides the message."""
RETRY_S = 0.1
"""Seconds between tries to reach an engine that does not listen yet."""


class Post:
    """Talks with the engine.

    Args:
        offer: What the worker says of itself; see `handshake.Hello`.
        heard: Takes each message of the engine, in the thread of the post.
        ended: Is told, there, why there is no connection (any more), and whether the engine refused.
        wait_s: Seconds to go on trying to reach an engine that does not listen.
    """

    def __init__(
        self,
        address: str,
        token: str,
        offer: Mapping[str, Any],
        *,
        heard: Callable[[dict[str, Any]], None],
        ended: Callable[[str, bool], None],
        wait_s: float = 0.0,
    ) -> None:
        self._address = Address.of(address)
        self._token = token
        self._offer = dict(offer)
        self._heard = heard
        self._ended = ended
        self._wait_s = wait_s
        self._nonce = new_nonce()
        self._asked = ""
        self._beat_s = 1.0
        self._is_welcome = False
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._done: asyncio.Future[tuple[str, bool]] | None = None
        self._link: Link | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._talk()), name="planloom-post", daemon=True)

    def start(self) -> None:
        self._thread.start()
        self._ready.wait()

    def send(self, message: dict[str, Any]) -> None:
        """Have a message sent; from any thread.

        Raises:
            ProtocolError: It is no JSON, or too long.
        """
        text = json_text(message)
        size_bytes = len(text)  # it is ASCII
        if size_bytes > MAX_FRAME_BYTES - _ROOM_BYTES:
            raise too_long(size_bytes, MAX_FRAME_BYTES)
        if self._loop is not None:
            with suppress(RuntimeError):  # the thread has ended, and everything with it
                self._loop.call_soon_threadsafe(self._send, text)

    def stop(self, timeout_s: float = 1.0) -> None:
        """Send what is left, close, and wait for that."""
        if self._loop is not None:
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._finish, "the worker leaves", False)
        self._thread.join(timeout_s)

    # --- in the thread ---

    async def _talk(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._done = self._loop.create_future()
        self._ready.set()
        link = self._link = Link(self._strange, lambda why: self._finish(why, False), max_bytes=MAX_FRAME_BYTES)
        try:
            await self._connect(link)
        except OSError as error:
            self._ended(f"there is no engine at {self._address}: {error}", False)
            return
        patience = self._loop.call_later(WELCOME_S, self._finish_unwelcome)
        why, refused = await self._done
        patience.cancel()
        link.close()
        await asyncio.sleep(0.02)  # what was written last goes out
        self._ended(why, refused)

    async def _connect(self, link: Link) -> None:
        assert self._loop is not None
        end = self._loop.time() + self._wait_s
        while True:
            try:
                if self._address.path:
                    await self._loop.create_unix_connection(lambda: link.channel, self._address.path)
                else:
                    await self._loop.create_connection(lambda: link.channel, self._address.host, self._address.port)
            except OSError:
                if self._loop.time() >= end:
                    raise
                await asyncio.sleep(RETRY_S)
            else:
                return

    def _strange(self, message: dict[str, Any]) -> None:
        """Hear somebody who has not proved that it is the engine."""
        match message.get("m"):
            case "challenge":
                self._asked = str(message.get("nonce", ""))
                shown = proof(self._token, "worker", self._asked, self._nonce)
                hello = json_text({"m": "hello", "nonce": self._nonce, "proof": shown, **self._offer})
                if len(hello) > MAX_STRANGER_BYTES - _ROOM_BYTES:
                    self._finish("it has more tools than a worker can tell of: give it fewer", True)
                else:
                    self._send(hello)
            case "welcome" if proves(str(message["proof"]), self._token, "engine", self._asked, self._nonce):
                assert self._link is not None
                self._is_welcome = True
                self._link.on_message = self._heard
                self._beat_s = float(message["beat_s"])
                self._beat()
            case "refused":
                self._finish(f"the engine refused: {message.get('why')}", True)
            case _:
                self._finish("whoever listens there is not the engine", True)

    def _beat(self) -> None:
        if self._link is not None and self._loop is not None and self._done is not None and not self._done.done():
            self._link.beat()
            self._loop.call_later(self._beat_s, self._beat)

    def _send(self, text: str) -> None:
        if self._link is not None:
            self._link.send_text(text)

    def _finish_unwelcome(self) -> None:
        if not self._is_welcome:
            self._finish("the engine does not answer", False)

    def _finish(self, why: str, refused: bool) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_result((why, refused))
