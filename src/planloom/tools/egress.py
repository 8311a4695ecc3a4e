"""The one way out: an HTTP request to an address that was checked, and to no other.

Rule 1: a name is resolved once; the connection goes to an address that was checked, so a second answer of the name
    server cannot lead elsewhere. TLS and the Host header keep the name.
Rule 2: every redirect is a new request and passes the same checks.
Rule 3: one deadline for everything, one cap on the body, no proxies from the environment, no credentials in a URL.
Rule 4: what failed before a byte was sent is a `NotDoneError`: trying again is safe whatever the method.
"""

from __future__ import annotations

import http.client
import ipaddress
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from planloom.errors import ArgumentsError, ConfigError, NotAllowedError, NotDoneError, StepError

MAX_REDIRECTS = 5
MAX_BODY_BYTES = 5_000_000
MAX_URL_LENGTH = 8_000
MAX_ADDRESSES = 4
"""Addresses of one name that are tried in turn."""

Resolver = Callable[[str, int], Sequence[str]]
"""Takes a host and a port, returns its addresses as text; raises OSError."""

_PORTS = {"http": 80, "https": 443}
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_HEADER_VALUE = re.compile(r"[\x20-\x7e\t]{0,8000}")
_OURS = frozenset(
    {"host", "connection", "content-length", "transfer-encoding", "te", "trailer", "upgrade", "expect", "keep-alive"}
)
"""Headers that say how a message is framed and where it goes; nobody else may set them."""
_SECRET = frozenset({"authorization", "cookie", "proxy-authorization", "x-api-key"})
"""Headers that stay with the host they were given for."""
_METADATA = frozenset({"169.254.169.254", "fd00:ec2::254", "100.100.100.200", "168.63.129.16", "192.0.0.192"})
"""Where clouds hand a machine its credentials; reached only when the address itself is allowed."""
_TRANSLATED = tuple(map(ipaddress.IPv6Network, ("64:ff9b::/96", "64:ff9b:1::/48")))
"""IPv6 that a gateway turns into the IPv4 address in its last 32 bits."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """What came back.

    Attributes:
        status: The status code.
        url: The URL that answered, after redirects.
        headers: By lower-case name; one that came several times is joined with ", ".
        body: All of it.
    """

    status: int
    url: str
    headers: dict[str, str]
    body: bytes


def resolve_with_system(host: str, port: int) -> list[str]:
    """Return the addresses that the system's resolver knows for a host."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


@dataclass(frozen=True, slots=True, kw_only=True)
class Egress:
    """Who may be reached, and within what bounds.

    Attributes:
        allow_hosts: ``api.example.com`` (also at a private address), ``*.example.com`` (hosts below it, at public
            addresses), ``*`` (any host, at public addresses), each with or without ``:port``. Nothing else is reached.
        timeout_s: Seconds for everything, redirects included.
        max_body_bytes: Bytes of an answer that are read; a longer one is an error.
        resolve: How a name becomes addresses.
        tls: How certificates are checked.
    """

    allow_hosts: tuple[str, ...]
    timeout_s: float = 30.0
    max_body_bytes: int = MAX_BODY_BYTES
    resolve: Resolver = resolve_with_system
    tls: ssl.SSLContext = field(default_factory=ssl.create_default_context)

    def __post_init__(self) -> None:
        for entry in self.allow_hosts:
            if not re.fullmatch(r"(\*|\*\.[\w.-]+|[\w.-]+|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?", entry, re.ASCII):
                raise ConfigError(f"{entry!r} is no host", remedy="give 'api.example.com', '*.example.com' or '*'")

    def request(
        self, method: str, url: str, *, headers: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> HttpResponse:
        """Send a request, follow up to five redirects, return the answer whatever its status.

        Raises:
            ArgumentsError: A URL or header that cannot be sent.
            NotAllowedError: A host or an address that may not be reached, in the URL or in a redirect.
            NotDoneError: Nothing was sent: no such host, nobody answers, no valid certificate.
            TimeoutError: Not done in time.
            StepError: Too long an answer, too many redirects, or an answer that is not HTTP.
        """
        deadline = time.monotonic() + self.timeout_s
        sent = _checked_headers(headers or {})
        target = _target(url)
        for hop in range(MAX_REDIRECTS + 1):
            answer = self._once(method, target, sent, body, deadline, sent_before=hop > 0)
            location = answer.headers.get("location")
            if answer.status not in _REDIRECTS or location is None:
                return answer
            following = _target(urljoin(target.url, location))
            if target.scheme == "https" and following.scheme == "http":
                raise NotAllowedError(
                    f"{target.url} redirects from https to http", remedy="ask for the other URL itself"
                )
            if (following.host, following.port) != (target.host, target.port):
                sent = {name: value for name, value in sent.items() if name.lower() not in _SECRET}
            if answer.status == 303 or (answer.status in {301, 302} and method == "POST"):
                method, body = "GET", None
                sent = {name: value for name, value in sent.items() if name.lower() != "content-type"}
            target = following
        raise StepError(f"{url} redirects more than {MAX_REDIRECTS} times", remedy="ask for the last URL itself")

    def _once(
        self,
        method: str,
        target: Target,
        headers: dict[str, str],
        body: bytes | None,
        deadline: float,
        *,
        sent_before: bool,
    ) -> HttpResponse:
        addresses = self._addresses(target)
        connection = _Connection(target, addresses, self.tls if target.scheme == "https" else None, deadline)
        try:
            try:
                connection.connect()
            except OSError as error:
                if sent_before:
                    raise
                raise NotDoneError(
                    f"{target.url} cannot be reached: {error}", remedy="check the host and the port"
                ) from error
            return self._exchange(connection, method, target, headers, body)
        except (OSError, http.client.HTTPException, ValueError) as error:
            if connection.expired:
                raise _too_slow(target, self.timeout_s) from error
            if isinstance(error, http.client.HTTPException):
                raise StepError(f"{target.url} did not answer in HTTP: {error!r}", remedy="check the URL") from error
            raise
        finally:
            connection.release()

    def _exchange(
        self, connection: _Connection, method: str, target: Target, headers: dict[str, str], body: bytes | None
    ) -> HttpResponse:
        defaults = {"Accept-Encoding": "identity", "User-Agent": "planloom", "Connection": "close"}
        given = {name.lower() for name in headers}
        kept = {name: value for name, value in defaults.items() if name.lower() not in given}
        connection.request(method, target.path, body=body, headers=kept | headers)
        answer = connection.getresponse()
        received: dict[str, str] = {}
        for name, value in answer.getheaders():
            key = name.lower()
            received[key] = f"{received[key]}, {value}" if key in received else value
        if received.get("content-encoding", "identity") != "identity":
            raise StepError(f"{target.url} sent a compressed answer it was not asked for", remedy="ask another URL")
        with answer:
            body_received = self._body(answer, target)
        if connection.expired:  # cut off by the deadline, which looks like an end
            raise _too_slow(target, self.timeout_s)
        if answer.length:
            raise StepError(f"{target.url} ended {answer.length:,} bytes early", remedy="try again")
        return HttpResponse(answer.status, target.url, received, body_received)

    def _body(self, answer: http.client.HTTPResponse, target: Target) -> bytes:
        parts, size = [], 0
        while part := answer.read(min(65_536, self.max_body_bytes + 1 - size)):
            parts.append(part)
            size += len(part)
            if size > self.max_body_bytes:
                raise StepError(
                    f"{target.url} answered with more than {self.max_body_bytes:,} bytes", remedy="ask for less of it"
                )
        return b"".join(parts)

    def _addresses(self, target: Target) -> list[str]:
        """Return the addresses to connect to, every one of them checked."""
        named = any(entry in {target.host, target.authority} for entry in map(str.lower, self.allow_hosts))
        if not named and not any(_covers(entry.lower(), target) for entry in self.allow_hosts):
            raise NotAllowedError(
                f"host {target.host!r} is not on the list of hosts that may be reached",
                remedy="add it to allow_hosts, if tools may reach it",
                host=target.host,
            )
        try:
            found = list(self.resolve(target.host.strip("[]"), target.port))[:MAX_ADDRESSES]
        except (OSError, UnicodeError) as error:
            raise NotDoneError(f"host {target.host!r} has no address: {error}", remedy="check its spelling") from error
        if not found:
            raise NotDoneError(f"host {target.host!r} has no address", remedy="check its spelling")
        for address in found:
            why = _refusal(address, named=named, literal=address == target.host.strip("[]"))
            if why:
                raise NotAllowedError(
                    f"host {target.host!r} leads to {address}, {why}",
                    remedy="add the host itself to allow_hosts, if tools may reach it there",
                    host=target.host,
                    address=address,
                )
        return found


def retry_after_s(headers: Mapping[str, str], *, now: float) -> float | None:
    """Return the seconds a Retry-After header asks to wait, None without one or with one that cannot be read."""
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit() and len(value) < 9:
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - now)
    except (ValueError, OverflowError):
        return None


@dataclass(frozen=True, slots=True)
class Target:
    """A URL, taken apart and checked."""

    url: str
    scheme: str
    host: str
    """Lower case and ASCII; an IPv6 address in brackets."""
    port: int
    path: str
    """With its query; what stands on the request line."""

    @property
    def authority(self) -> str:
        return f"{self.host}:{self.port}"


def _target(url: str) -> Target:
    if len(url) > MAX_URL_LENGTH:
        raise ArgumentsError(
            f"the URL has more than {MAX_URL_LENGTH:,} characters", remedy="send long values in a body"
        )
    if re.search(r"[\x00-\x20\x7f\\]", url):
        raise ArgumentsError(
            f"{url[:200]!r} is no URL: it has spaces, control characters or \\", remedy="percent-encode them"
        )
    try:
        parts = urlsplit(url)
        host, port = _host(parts), parts.port
    except (ValueError, UnicodeError) as error:
        raise ArgumentsError(
            f"{url[:200]!r} is no URL: {error}", remedy="give http://host/path or https://host/path"
        ) from error
    if parts.scheme not in _PORTS or not host:
        raise ArgumentsError(f"{url[:200]!r} is no HTTP URL", remedy="give http://host/path or https://host/path")
    if parts.username is not None or parts.password is not None:
        raise ArgumentsError("the URL holds credentials, and URLs end up in records", remedy="send them in a header")
    path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
    query = "?" + quote(parts.query, safe="/%:@!$&'()*+,;=~-._?") if parts.query else ""
    port = _PORTS[parts.scheme] if port is None else port
    shown = host if port == _PORTS[parts.scheme] else f"{host}:{port}"
    return Target(f"{parts.scheme}://{shown}{path}{query}", parts.scheme, host, port, path + query)


def _host(parts: SplitResult) -> str:
    host = (parts.hostname or "").rstrip(".")
    if ":" in host:
        return f"[{ipaddress.IPv6Address(host)}]" if "%" not in host else ""
    host = host if host.isascii() else host.encode("idna").decode()
    if host and not re.fullmatch(r"[A-Za-z0-9._-]{1,253}", host):
        raise ValueError("its host has characters that no host has")
    return host.lower()


def _checked_headers(headers: Mapping[str, str]) -> dict[str, str]:
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            raise ArgumentsError(
                f"header {name[:100]!r} has a name or value that HTTP does not allow",
                remedy="use visible ASCII characters, without line breaks",
            )
        if name.lower() in _OURS or name.lower().startswith("proxy-"):
            raise ArgumentsError(f"header {name!r} is set by the engine", remedy="leave it out")
    if len({name.lower() for name in headers}) < len(headers):
        raise ArgumentsError("two headers differ only in case", remedy="give each header once")
    return dict(headers)


def _covers(entry: str, target: Target) -> bool:
    pattern, colon, port = entry.partition(":") if not entry.startswith("[") else (entry, "", "")
    if colon and port != str(target.port):
        return False
    return pattern == "*" or (pattern.startswith("*.") and target.host.endswith(pattern[1:]))


def _refusal(text: str, *, named: bool, literal: bool) -> str:
    """Return why an address may not be connected to, or "".

    A host that is allowed by name may live at a private or loopback address; metadata, link-local, multicast and
    unspecified addresses must be named themselves.
    """
    try:
        address = _embedded(ipaddress.ip_address(text))
    except ValueError:
        return "which is no address"
    if named and literal:
        return ""
    if str(address) in _METADATA or address.is_link_local:
        return "where machines find their own credentials"
    if address.is_multicast or address.is_unspecified:
        return "which is no single machine"
    if named:
        return ""
    return "" if address.is_global and not address.is_reserved else "which is not a public address"


def _embedded(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 address stands for, or the address itself."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
    compatible = 1 < int(address) < 2**32  # ::a.b.c.d, long out of use
    if inner is None and (compatible or any(address in net for net in _TRANSLATED)):
        inner = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return inner or address


def _too_slow(target: Target, timeout_s: float) -> TimeoutError:
    return TimeoutError(f"{target.url} did not answer completely within {timeout_s:g} s")


class _Connection(http.client.HTTPConnection):
    """A connection to a checked address, cut when the deadline comes, however slowly the other side drips."""

    def __init__(self, target: Target, addresses: Sequence[str], tls: ssl.SSLContext | None, deadline: float) -> None:
        super().__init__(target.host.strip("[]"), target.port)
        self.default_port = _PORTS[target.scheme]  # so that the Host header leaves it out
        self._addresses = addresses
        self._tls = tls
        self._deadline = deadline
        self._cutter: threading.Timer | None = None
        self.expired = False

    def connect(self) -> None:
        problem: OSError = OSError("it has no address")
        for place, address in enumerate(self._addresses):
            left = max(0.001, self._deadline - time.monotonic())
            try:  # a share each: one address that swallows everything must not use up the time of the others
                raw = socket.create_connection((address, self.port), timeout=left / (len(self._addresses) - place))
            except OSError as error:
                problem = error
                continue
            raw.settimeout(None)  # from here the deadline cuts
            self._guard(raw)
            self.sock = self._tls.wrap_socket(raw, server_hostname=self.host) if self._tls else raw
            return
        raise problem

    def _guard(self, raw: socket.socket) -> None:
        """Cut the connection at the deadline: a read that gets a byte now and then would never time out itself."""
        self.sock = raw
        handle = raw.dup()  # TLS takes the original over

        def cut() -> None:
            self.expired = True
            try:
                handle.shutdown(socket.SHUT_RDWR)
            except OSError:
                return  # the other side was faster
            finally:
                handle.close()

        self._handle = handle
        self._cutter = threading.Timer(max(0.0, self._deadline - time.monotonic()), cut)
        self._cutter.daemon = True
        self._cutter.start()

    def release(self) -> None:
        """Let go of everything. Not `close`: http.client calls that while the body is still being read."""
        self.close()
        if self._cutter is not None:
            self._cutter.cancel()
            self._cutter.join()
            self._handle.close()
