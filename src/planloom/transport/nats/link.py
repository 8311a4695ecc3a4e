"""A connection to a cluster's broker that is kept up for as long as it is wanted.

Rule 1: it comes back by itself, whatever ended it; what was heard is heard again, and `on_back` says so.
Rule 2: a request without an answer may have been done: whoever asks again says so with the same `msg_id`.
Rule 3: what the broker refuses comes as an error apart from any request: it is told to `on_trouble`, never dropped.
"""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from planloom.errors import BrokerError, BrokerRefusedError, ConfigError, JetStreamError

try:
    from nats.aio.client import Client
    from nats.errors import Error as NatsError
    from nats.errors import MaxPayloadError, NoRespondersError
    from nats.errors import TimeoutError as NatsTimeoutError
except ImportError as _missing:  # pragma: no cover - only where the extra is not installed
    raise ConfigError(
        "what talks with a cluster's broker is not installed", remedy="pip install 'planloom[cluster]'"
    ) from _missing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription

    from planloom.transport.nats.credentials import CredentialFile

_log = logging.getLogger("planloom.cluster")

ASK_S = 5.0
"""Seconds an answer may take."""
AGAIN_S = 0.2
"""Seconds between two tries to connect."""
MAX_AGAIN_S = 2.0
LOOK_S = 5.0
"""Seconds between looks whether the credential is another one by now."""
END_S = 2.0
"""Seconds in which what is on its way is still heard."""
PING_S = 5
"""Seconds between signs of life asked of the broker; two that are not answered end the connection."""
_REFUSED = ("permissions violation", "authorization violation", "authentication")


@dataclass(frozen=True, slots=True)
class Broker:
    """Where the broker is, and who asks.

    Attributes:
        servers: Addresses, e.g. "nats://10.0.0.5:4222", or "tls://…".
        credentials: A .creds file, or None.
        name: Shown by the broker's own tools.
        inbox: What the subjects begin with at which it is answered.
        ca: A file with the certificates to trust, None: the system's.
    """

    servers: tuple[str, ...]
    credentials: Path | None = None
    name: str = "planloom"
    inbox: str = "_INBOX"
    ca: Path | None = None

    def __repr__(self) -> str:  # an address may hold a password
        return f"Broker({self.name!r})"


@dataclass(slots=True, eq=False)
class Hearing:
    """A subject that is listened to, over every connection there comes to be."""

    subject: str
    heard: Callable[[Msg], Awaitable[None]]
    queue: str
    on: Subscription | None = None
    ended: bool = False

    async def end(self) -> None:
        """Listen no more, but hear out everything that was on its way."""
        self.ended = True
        on, self.on = self.on, None
        if on is not None:
            with suppress(NatsError, asyncio.TimeoutError):  # it is down: nothing is on its way
                await asyncio.wait_for(on.drain(), END_S)  # type: ignore[no-untyped-call]


class BrokerLink:
    """Talks with the broker; belongs to the event loop that opened it.

    Args:
        on_trouble: Hears what goes wrong beside any request: a lost connection, a refused subject.
        on_back: Is called when there is a connection again; what was asked for before is forgotten by the broker.
    """

    def __init__(
        self,
        broker: Broker,
        *,
        on_trouble: Callable[[str], None] = lambda _: None,
        on_back: Callable[[], None] = lambda: None,
    ) -> None:
        self._broker = broker
        self._on_trouble = on_trouble
        self._on_back = on_back
        self._client: Client | None = None
        self._hearings: list[Hearing] = []
        self._up = asyncio.Event()
        self._closing = False
        self._creds: CredentialFile | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.refused = 0
        """How often the broker did not let something be done."""
        self.losses = 0
        """How often the connection broke."""

    @property
    def is_up(self) -> bool:
        return self._up.is_set()

    @property
    def inbox(self) -> str:
        """Return what the subjects begin with at which it is answered: its credential says so, where it has one."""
        return self._creds.used.inbox if self._creds is not None else self._broker.inbox

    @property
    def max_payload(self) -> int:
        """Return how many bytes a message may have; 1 MB before the first connection."""
        return self._client.max_payload if self._client is not None else 1_048_576

    @property
    def version(self) -> tuple[int, int, int]:
        """Return the version of the server it is connected to; (0, 0, 0) before the first connection."""
        found = None if self._client is None else self._client.connected_server_version
        return (0, 0, 0) if found is None else (found.major, found.minor, found.patch)

    @property
    def is_clustered(self) -> bool:
        """Return whether it is connected to one of several servers."""
        return self._client is not None and bool(self._client._server_info.get("cluster"))

    async def open(self, *, wait_s: float = 0.0) -> None:
        """Connect.

        Args:
            wait_s: Seconds to go on trying to reach a broker that does not listen yet.

        Raises:
            BrokerError: It cannot be reached.
            BrokerRefusedError: It does not let this credential in.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + wait_s
        self._creds = self._credentials()
        while True:
            try:
                await self._connect()
            except BrokerRefusedError:
                raise
            except BrokerError:
                if loop.time() >= end:
                    raise
                await asyncio.sleep(AGAIN_S)
            else:
                break
        if self._creds is not None:
            self._start(self._renew(self._creds))

    async def close(self) -> None:
        """Send what is left and go."""
        self._closing = True
        self._up.clear()
        for task in self._tasks:
            task.cancel()
        client, self._client = self._client, None
        if client is not None and not client.is_closed:
            with suppress(NatsError, OSError, asyncio.TimeoutError):
                if client.is_connected:
                    await client.flush(1)
            with suppress(NatsError, OSError, asyncio.TimeoutError):
                await asyncio.wait_for(client.close(), END_S)

    async def up(self) -> None:
        """Wait until there is a connection."""
        await self._up.wait()

    # --- what is said ---

    async def subscribe(self, subject: str, heard: Callable[[Msg], Awaitable[None]], *, queue: str = "") -> Hearing:
        """Have everything heard that is said at a subject; of a queue's members, one hears it."""
        hearing = Hearing(subject, heard, queue)
        self._hearings = [one for one in self._hearings if not one.ended]
        self._hearings.append(hearing)
        if self._client is not None and self.is_up:
            with suppress(NatsError):  # it went down this moment: it is heard when it is up again
                hearing.on = await self._client.subscribe(subject, queue=queue, cb=heard)
        return hearing

    async def publish(
        self, subject: str, body: bytes, *, reply: str = "", headers: dict[str, str] | None = None
    ) -> None:
        """Say something to whoever listens now.

        Raises:
            BrokerError: There is no connection; nothing was said.
        """
        client = self._here()
        try:
            await client.publish(subject, body, reply=reply, headers=headers)
        except (NatsError, OSError) as error:
            raise BrokerError(f"{subject}: {error or type(error).__name__}") from error

    async def request(
        self, subject: str, body: bytes, *, timeout_s: float = ASK_S, headers: dict[str, str] | None = None
    ) -> bytes:
        """Ask, and return the answer.

        Raises:
            BrokerError: Nobody listens there, there is no connection, or no answer in time.
        """
        client = self._here()
        try:
            answer = await client.request(subject, body, timeout=timeout_s, headers=headers)
        except NoRespondersError as error:
            raise BrokerError(
                f"nobody listens at {subject}", remedy="start an agent, or look at the streams"
            ) from error
        except (TimeoutError, NatsTimeoutError) as error:
            raise BrokerError(f"no answer from {subject} within {timeout_s:g} s") from error
        except MaxPayloadError as error:
            raise JetStreamError(f"{len(body)} bytes are more than the broker takes", number=0) from error
        except (NatsError, OSError) as error:
            raise BrokerError(f"{subject}: {error or type(error).__name__}") from error
        return answer.data

    async def store(self, subject: str, body: bytes, *, msg_id: str = "", timeout_s: float = ASK_S) -> dict[str, Any]:
        """Have a stream keep a message; return its answer: the broker has it.

        Raises:
            JetStreamError: The stream did not take it.
            BrokerError: It is not known whether it did.
        """
        headers = {"Nats-Msg-Id": msg_id} if msg_id else None
        return _answered(await self.request(subject, body, timeout_s=timeout_s, headers=headers))

    async def api(self, name: str, body: dict[str, Any] | None = None, *, timeout_s: float = ASK_S) -> dict[str, Any]:
        """Ask JetStream itself for something, e.g. ``STREAM.INFO.CMD``.

        Raises:
            JetStreamError: It did not do it.
            BrokerError: It is not known whether it did.
        """
        told = json.dumps(body).encode() if body is not None else b""
        return _answered(await self.request(f"$JS.API.{name}", told, timeout_s=timeout_s))

    def _here(self) -> Client:
        if self._client is None or not self.is_up:
            raise BrokerError("there is no connection to the broker", remedy="it is tried again by itself")
        return self._client

    # --- the connection ---

    def _credentials(self) -> CredentialFile | None:
        if self._broker.credentials is None:
            return None
        from planloom.transport.nats.credentials import CredentialFile

        return CredentialFile(self._broker.credentials)

    async def _connect(self) -> None:
        client = Client()

        async def closed() -> None:
            await self._closed(client)

        async def wrong(error: Exception) -> None:
            errors.append(str(error) or type(error).__name__)
            await self._error(client, error)

        errors: list[str] = []
        creds = self._creds
        as_whom: dict[str, Any] = {}
        if creds is not None:
            as_whom = {"user_jwt_cb": creds.jwt, "signature_cb": creds.sign}
        if self._broker.ca is not None:
            as_whom["tls"] = ssl.create_default_context(cafile=str(self._broker.ca))
        try:
            await client.connect(
                list(self._broker.servers),
                name=self._broker.name,
                inbox_prefix=self.inbox,
                error_cb=wrong,
                disconnected_cb=self._went_down,
                reconnected_cb=self._came_back,
                closed_cb=closed,
                allow_reconnect=False,  # a first connection that is refused is said so, and not tried for ever
                max_reconnect_attempts=1,
                reconnect_time_wait=AGAIN_S,  # type: ignore[arg-type]  # it sleeps so long: a part of a second will do
                ping_interval=PING_S,
                connect_timeout=2,
                **as_whom,
            )
        except (TimeoutError, NatsError, OSError) as error:
            if client.is_connecting:  # there is a socket
                # Where TLS was not agreed on, it would wait for ever for the end of a connection that never was.
                with suppress(NatsError, OSError, asyncio.TimeoutError):
                    await asyncio.wait_for(client.close(), END_S)
            why = errors[-1] if errors else str(error) or type(error).__name__
            if any(words in why.lower() for words in _REFUSED):
                raise BrokerRefusedError(
                    "the broker does not let this credential in", remedy="mint another one: `planloom cluster`"
                ) from error
            raise BrokerError(
                f"the broker cannot be reached: {why}", remedy="start nats-server, or look at its address"
            ) from error
        client.options |= {"allow_reconnect": True, "max_reconnect_attempts": -1}
        self._client = client
        self._up.set()
        for hearing in self._hearings:
            if not hearing.ended:
                hearing.on = await client.subscribe(hearing.subject, queue=hearing.queue, cb=hearing.heard)

    async def _error(self, client: Client, error: Exception) -> None:
        if client is not self._client:
            return  # it is not connected yet: whoever connects it tells
        text = str(error) or type(error).__name__
        if any(words in text.lower() for words in _REFUSED):
            self.refused += 1
        if not self._closing:
            self._on_trouble(text)

    async def _went_down(self) -> None:
        if not self._closing:
            self._up.clear()
            self.losses += 1
            self._on_trouble("the connection to the broker is lost")

    async def _came_back(self) -> None:
        if not self._closing:
            self._up.set()
            self._on_back()

    async def _closed(self, client: Client) -> None:
        """Make another connection where the client gave up: it does, when its credential's time is over."""
        if not self._closing and client is self._client:
            self._up.clear()
            self._client = None
            self._start(self._again())

    async def _again(self) -> None:
        wait_s = AGAIN_S
        while not self._closing:
            try:
                await self._connect()
            except BrokerError as error:
                self._on_trouble(error.message)
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, MAX_AGAIN_S)
            else:
                self._on_back()
                return

    async def _renew(self, creds: CredentialFile) -> None:
        """Use a credential that took the place of the one before it, before that one's time is over."""
        while True:
            await asyncio.sleep(LOOK_S)
            if creds.newer() and self._client is not None and self.is_up:
                await self._client.force_reconnect()

    def _start(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _answered(text: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(text)
    except ValueError as error:
        raise BrokerError(f"the broker's answer is no JSON: {text[:100]!r}") from error
    if not isinstance(answer, dict):
        raise BrokerError(f"the broker's answer is no object: {text[:100]!r}")
    wrong = answer.get("error")
    if wrong:
        raise JetStreamError(
            f"the broker did not do it: {wrong.get('description')}",
            number=wrong.get("err_code", 0),
            status=wrong.get("code", 0),
            words=wrong.get("description", ""),
        )
    return answer
