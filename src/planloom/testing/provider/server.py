"""A provider of language models that runs in this process and answers what a test says, over real sockets.

It speaks OpenAI's chat completions and responses, Anthropic's messages and Google's generateContent, whole and
streamed, and refuses what the real ones refuse.

Rule 1: it lives on a thread and an event loop of its own; every public method may be called from any thread.
Rule 2: what goes wrong in a test's own answers drops the connection and is raised when the server ends: no script
runs out unseen.
Rule 3: it ends within a second, whatever clients are doing.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from types import TracebackType
from typing import Any

from planloom.testing.provider.answers import (
    Answer,
    Drop,
    Failing,
    Garbage,
    Hang,
    RecordedRequest,
    Slow,
    Status,
    Truncated,
    reply_of,
)
from planloom.testing.provider.anthropic import MESSAGES
from planloom.testing.provider.google import GENERATE
from planloom.testing.provider.http import Broken, ClientConnection, RawRequest
from planloom.testing.provider.openai_chat import CHAT
from planloom.testing.provider.openai_responses import RESPONSES
from planloom.testing.provider.wire import WITHHELD, Problem, Wire

_ROUTES: tuple[tuple[re.Pattern[str], Wire], ...] = (
    (re.compile(r"/v1/chat/completions"), CHAT),
    (re.compile(r"/v1/responses"), RESPONSES),
    (re.compile(r"/v1/messages"), MESSAGES),
    (re.compile(r"/v1(beta)?/models/[^/:]+:(generateContent|streamGenerateContent)"), GENERATE),
)
_KEY_HEADERS = ("authorization", "x-api-key", "x-goog-api-key", "api-key", "cookie")
_PAGE = b"<!DOCTYPE html><html><body><h1>Welcome to the hotel network</h1></body></html>"
START_S = 5.0
"""Seconds it may take to open the socket."""

AnswerTo = Callable[[RecordedRequest], Answer]


class ProviderServer:
    """A provider on ``127.0.0.1``; a context manager.

    Args:
        answers: In the order requests come in; or a function of the request, called on the server's thread.
        key: The one key that is taken; None: any, as long as there is one.
    """

    def __init__(self, answers: Iterable[Answer] | AnswerTo = (), *, key: str | None = None) -> None:
        self._answer_to = answers if callable(answers) else None
        self._listed: Iterator[Answer] = iter(()) if callable(answers) else iter(list(answers))
        self._key = key
        self._requests: list[RecordedRequest] = []
        self._changed = threading.Condition()
        self._connections: set[ClientConnection] = set()
        self._accepted = 0
        self._most_open = 0
        self._failures: list[BaseException] = []
        self._held = False
        self._released = asyncio.Event()
        self._stop = asyncio.Event()
        self._thread: threading.Thread | None = None
        self._port = 0

    # --- what a test asks ---

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def openai_url(self) -> str:
        return f"{self.url}/v1"

    @property
    def anthropic_url(self) -> str:
        return self.url

    @property
    def google_url(self) -> str:
        return self.url

    @property
    def requests(self) -> list[RecordedRequest]:
        """Return what came in so far, those it refused included."""
        return list(self._requests)

    @property
    def count(self) -> int:
        """Return how many requests came in so far."""
        return len(self._requests)

    @property
    def connections(self) -> int:
        """Return how many connections were made so far."""
        return self._accepted

    @property
    def open_connections(self) -> int:
        return len(self._connections)

    @property
    def most_open_connections(self) -> int:
        """Return the most connections that were open at the same time."""
        return self._most_open

    def wait_until(self, is_so: Callable[[ProviderServer], bool], *, timeout_s: float = 5.0) -> None:
        """Block until something holds of this server; in a test that is async, by way of `asyncio.to_thread`.

        Raises:
            TimeoutError: It did not come to hold.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: is_so(self), timeout_s):
                raise TimeoutError(f"not so after {timeout_s} s: {self.count} requests, {self.open_connections} open")

    async def arrived(self, requests: int, *, timeout_s: float = 5.0) -> None:
        """Wait until so many requests came in."""
        await asyncio.to_thread(self.wait_until, lambda server: server.count >= requests, timeout_s=timeout_s)

    async def closed(self, *, timeout_s: float = 5.0) -> None:
        """Wait until no connection is open."""
        await asyncio.to_thread(self.wait_until, lambda server: server.open_connections == 0, timeout_s=timeout_s)

    def hold(self) -> None:
        """Keep every answer back from here on; requests are still recorded."""
        self._held = True

    def release(self) -> None:
        """Give the answers that were kept back, and no longer keep any."""
        self._held = False
        self._loop.call_soon_threadsafe(self._let_go)

    def _let_go(self) -> None:
        self._released.set()
        self._released = asyncio.Event()

    # --- its life ---

    def __enter__(self) -> ProviderServer:
        ready: Future[int] = Future()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._live(ready)), name="planloom-provider", daemon=True
        )
        self._thread.start()
        self._port = ready.result(START_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._thread is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()
            self._thread = None
        if self._failures and error is None:
            raise self._failures[0]
        if self._failures and error is not None:
            error.add_note(f"before that, the provider's own answers failed: {self._failures[0]!r}")

    async def _live(self, ready: Future[int]) -> None:
        self._loop = asyncio.get_running_loop()
        try:
            listening = await self._loop.create_server(
                lambda: ClientConnection(self._talk, self._over, self._loop), host="127.0.0.1", port=0
            )
        except OSError as error:
            ready.set_exception(error)
            return
        ready.set_result(listening.sockets[0].getsockname()[1])
        await self._stop.wait()
        listening.close()
        talking = [connection.task for connection in self._connections if connection.task is not None]
        for connection in list(self._connections):
            connection.abort()
        await asyncio.gather(*talking, return_exceptions=True)
        await asyncio.sleep(0)  # the transports close in the loop's next turn

    async def _talk(self, connection: ClientConnection) -> None:
        with self._changed:
            self._connections.add(connection)
            self._accepted += 1
            self._most_open = max(self._most_open, len(self._connections))
            self._changed.notify_all()
        try:
            while (raw := await connection.read()) is not None:
                await self._serve(raw, connection)
        finally:
            with self._changed:
                self._connections.discard(connection)
                self._changed.notify_all()

    def _over(self, talking: asyncio.Future[None]) -> None:
        error = None if talking.cancelled() else talking.exception()
        if error is not None:
            self._failures.append(error)

    # --- one request ---

    async def _serve(self, raw: RawRequest, connection: ClientConnection) -> None:
        wire = next((wire for path, wire in _ROUTES if path.fullmatch(raw.path)), None)
        request, problem = self._read(raw, wire)
        with self._changed:
            self._requests.append(request)
            self._changed.notify_all()
        if self._held:
            await self._released.wait()
        wire = wire or CHAT
        if problem is not None:
            await self._error(Status(problem.status, problem.message), request, wire, connection)
            return
        await self._give(self._next(request), request, wire, connection)

    def _read(self, raw: RawRequest, wire: Wire | None) -> tuple[RecordedRequest, Problem | None]:
        """Return the request as it goes on record, and why it is refused."""
        recorded = RecordedRequest(
            number=len(self._requests) + 1,
            protocol=wire.name if wire else "",
            path=raw.path,
            headers={name: WITHHELD if name in _KEY_HEADERS else value for name, value in raw.headers.items()},
            at=time.time(),
        )
        try:
            body = json.loads(raw.body or b"{}")
            if not isinstance(body, dict):
                raise Problem("the body is no JSON object")
            recorded = replace(recorded, body=body)
            if wire is None:
                raise Problem(f"nothing is served at {raw.path}", status=404)
            self._admit(raw, wire)
            return replace(recorded, **wire.read(raw.path, body)), None
        except ValueError as error:
            problem = Problem(f"the body is no JSON: {error}")
        except Problem as found:
            problem = found
        except (AttributeError, KeyError, TypeError) as error:  # a part of the body is of quite another type
            problem = Problem(f"the body is not as it should be: {type(error).__name__}: {error}")
        return replace(recorded, problem=problem.message), problem

    def _admit(self, raw: RawRequest, wire: Wire) -> None:
        if raw.method != "POST":
            raise Problem(f"{raw.method} is not allowed here", status=405)
        given = next((raw.headers[name] for name in wire.key_headers if name in raw.headers), "")
        given = given.removeprefix("Bearer").strip()
        if "key" in raw.query:
            raise Problem("a key in an address ends up in logs; send it in a header", status=401)
        if not given or (self._key is not None and given != self._key):
            raise Problem("no key, or not the right one", status=401)
        for name in wire.required_headers:
            if name not in raw.headers:
                raise Problem(f"{name}: header is required")

    def _next(self, request: RecordedRequest) -> Answer:
        if self._answer_to is not None:
            return self._answer_to(request)
        answer = next(self._listed, None)
        if answer is None:
            raise LookupError(f"request {request.number} came, and no answer was left for it")
        return answer

    async def _give(self, answer: Answer, request: RecordedRequest, wire: Wire, connection: ClientConnection) -> None:
        match answer:
            case Slow():
                await asyncio.sleep(answer.seconds)
                await self._give(answer.then, request, wire, connection)
            case Drop():
                raise Broken
            case Hang(after=None):
                await asyncio.Event().wait()
            case Status():
                await self._error(answer, request, wire, connection)
            case Garbage():
                await connection.head(
                    answer.code, {"content-type": "text/html; charset=utf-8", "content-length": str(len(_PAGE))}
                )
                await connection.write(_PAGE)
            case Failing() if not request.stream:
                await self._error(Status(500, answer.message), request, wire, connection)
            case _ if request.stream:
                await self._stream(answer, request, wire, connection)
            case _:
                await self._whole(answer, request, wire, connection)

    async def _error(self, status: Status, request: RecordedRequest, wire: Wire, connection: ClientConnection) -> None:
        headers = dict(status.headers)
        if status.retry_after is not None and wire.tells_wait_in_header:
            headers["retry-after"] = str(status.retry_after)
        content = json.dumps(wire.error(status)).encode()
        await connection.head(status.code, _json_headers(request, len(content)) | headers)
        await connection.write(content)

    async def _whole(self, answer: Answer, request: RecordedRequest, wire: Wire, connection: ClientConnection) -> None:
        cut = answer if isinstance(answer, Truncated | Hang) else None
        reply = reply_of(cut.reply if cut else answer)
        content = json.dumps(wire.whole(reply, request), ensure_ascii=False).encode("utf-8", "surrogatepass")
        sent = content[: len(content) // 2] if cut else content
        is_clean = isinstance(cut, Truncated) and cut.clean
        await connection.head(200, _json_headers(request, len(sent if is_clean else content)))
        await connection.write(sent)
        await _end(cut)

    async def _stream(self, answer: Answer, request: RecordedRequest, wire: Wire, connection: ClientConnection) -> None:
        cut = answer if isinstance(answer, Truncated | Failing | Hang) else None
        left = cut.after if cut else None
        reply = reply_of(cut.reply if cut else answer)
        await connection.head(200, _STREAM_HEADERS | _ids(request))
        for event in wire.stream(reply, request):
            if left is not None and event.piece:
                if left == 0:
                    break
                left -= 1
            if event.piece and reply.pause_s:
                await asyncio.sleep(reply.pause_s)
            await connection.chunk(event.content)
        if isinstance(cut, Failing):
            await connection.chunk(wire.error_event(cut.message))
        await _end(cut)
        await connection.chunk(b"")


_STREAM_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "transfer-encoding": "chunked",
}


def _ids(request: RecordedRequest) -> dict[str, str]:
    return {"x-request-id": f"req-{request.number}", "request-id": f"req-{request.number}"}


def _json_headers(request: RecordedRequest, size: int) -> dict[str, str]:
    return {"content-type": "application/json", "content-length": str(size)} | _ids(request)


async def _end(cut: Truncated | Failing | Hang | Any) -> None:
    """Do what an answer does where it was cut."""
    if isinstance(cut, Hang):
        await asyncio.Event().wait()
    if isinstance(cut, Truncated) and not cut.clean:
        raise Broken
