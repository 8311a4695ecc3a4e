"""The one way out, against a real server on this machine: only checked addresses are connected to."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from planloom.errors import ArgumentsError, ConfigError, HttpStatusError, NotAllowedError, NotDoneError, StepError
from planloom.tools import ToolContext
from planloom.tools.egress import Egress, retry_after_s
from planloom.tools.standard import http_tools

Answer = bytes | Callable[[socket.socket], None]


class Server:
    """A server that keeps what it was sent and answers raw bytes by path."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []
        self.answers: dict[str, Answer] = {}
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.threads = [threading.Thread(target=self._accept)]
        self.threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connection,))
            self.threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            request = connection.recv(65_536)
            if not request:
                return
            told = re.search(rb"Content-Length: (\d+)", request)
            while told and len(request.partition(b"\r\n\r\n")[2]) < int(told[1]):
                request += connection.recv(65_536)  # a body may come in a segment of its own
            self.requests.append(request)
            answer = self.answers.get(request.split(b" ")[1].decode("latin-1"), ok(b"hello"))
            try:
                if callable(answer):
                    answer(connection)
                else:
                    connection.sendall(answer)
            except OSError:
                return  # the other side has gone, which some tests are about

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for thread in self.threads:
            thread.join()


def ok(body: bytes, headers: str = "Content-Type: text/plain\r\n", status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body


def to(location: str, status: str = "302 Found") -> bytes:
    return ok(b"", f"Location: {location}\r\n", status)


@contextmanager
def serving() -> Iterator[Server]:
    server = Server()
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


def local(*, allow: str = "here.example", **bounds: object) -> Egress:
    """Return an egress for which every name leads to this machine, as a name server may well claim."""
    bounds = {"timeout_s": 5.0, "resolve": lambda host, port: ["127.0.0.1"], **bounds}
    return Egress(allow_hosts=tuple(allow.split()), **bounds)  # type: ignore[arg-type]


def test_a_request_goes_to_the_checked_address_under_the_name_that_was_asked_for(server: Server) -> None:
    answer = local().request(
        "GET", f"http://here.example:{server.port}/a b?q=ü".replace(" ", "%20"), headers={"X-Mark": "1"}
    )

    assert (answer.status, answer.body) == (200, b"hello")
    assert server.requests[0].startswith(b"GET /a%20b?q=%C3%BC HTTP/1.1\r\n")
    assert f"Host: here.example:{server.port}\r\n".encode() in server.requests[0]
    assert b"X-Mark: 1\r\n" in server.requests[0]


def test_a_name_is_resolved_once_so_a_second_answer_leads_nowhere(server: Server) -> None:
    answers = iter([["127.0.0.1"], ["127.0.0.9"]])

    answer = local(resolve=lambda host, port: next(answers)).request("GET", f"http://here.example:{server.port}/")

    assert answer.status == 200
    assert next(answers) == ["127.0.0.9"]


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "192.168.0.1",
        "172.16.0.1",
        "169.254.169.254",
        "0.0.0.0",
        "100.64.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1",
        "fd00::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::127.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "fd00:ec2::254",
        "240.0.0.1",
        "198.18.0.1",
        "nonsense",
        "fe80::1%eth0",
    ],
)
def test_a_name_that_leads_to_an_address_that_is_not_public_is_refused(address: str, server: Server) -> None:
    egress = local(allow="*", resolve=lambda host, port: ["93.184.215.14", address])

    with pytest.raises(NotAllowedError, match="leads to"):
        egress.request("GET", f"http://rebound.example:{server.port}/")

    assert server.requests == []


@pytest.mark.parametrize(
    "address",
    ["169.254.169.254", "fd00:ec2::254", "64:ff9b::a9fe:a9fe", "::ffff:169.254.169.254", "0.0.0.0", "224.0.0.1"],
)
def test_a_host_allowed_by_name_does_not_lead_to_metadata_either(address: str) -> None:
    with pytest.raises(NotAllowedError, match="leads to"):
        local(resolve=lambda host, port: [address]).request("GET", "http://here.example/")


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:{}/",
        "http://2130706433:{}/",
        "http://0x7f.1:{}/",
        "http://localhost:{}/",
        "http://[::ffff:127.0.0.1]:{}/",
    ],
)
def test_no_spelling_of_this_machine_gets_through_the_systems_resolver(url: str, server: Server) -> None:
    egress = Egress(allow_hosts=("*",), timeout_s=5)

    with pytest.raises((NotAllowedError, NotDoneError)):
        egress.request("GET", url.format(server.port))

    assert server.requests == []


@pytest.mark.parametrize(
    ("allow", "url", "allowed"),
    [
        ("127.0.0.1", "http://127.0.0.1:{}/", True),
        ("127.0.0.1:{}", "http://127.0.0.1:{}/", True),
        ("127.0.0.1:1", "http://127.0.0.1:{}/", False),
        ("HERE.example", "http://here.EXAMPLE.:{}/", True),
        ("here.example", "http://there.example:{}/", False),
        ("*.example", "http://here.example:{}/", False),  # allowed, but not at a private address
        ("example", "http://here.example:{}/", False),
    ],
)
def test_only_listed_hosts_are_reached_and_private_ones_only_by_their_own_name(
    allow: str, url: str, allowed: bool, server: Server
) -> None:
    egress = local(allow=allow.format(server.port))

    if allowed:
        assert egress.request("GET", url.format(server.port)).status == 200
    else:
        with pytest.raises(NotAllowedError):
            egress.request("GET", url.format(server.port))
        assert server.requests == []


@pytest.mark.parametrize(
    "location",
    ["http://127.0.0.1:{}/secret", "//169.254.169.254/latest", "http://other.example/", "file:///etc/passwd"],
)
def test_a_redirect_is_checked_like_a_first_request(location: str, server: Server) -> None:
    server.answers["/start"] = to(location.format(server.port))

    with pytest.raises((NotAllowedError, ArgumentsError)):
        local().request("GET", f"http://here.example:{server.port}/start")

    assert len(server.requests) == 1


def test_redirects_are_followed_and_end_after_five(server: Server) -> None:
    server.answers["/a"] = to("/b")
    server.answers["/loop"] = to("/loop")

    assert local().request("GET", f"http://here.example:{server.port}/a").url.endswith("/b")
    with pytest.raises(StepError, match="more than 5"):
        local().request("GET", f"http://here.example:{server.port}/loop")
    assert len(server.requests) == 2 + 6


def test_secrets_stay_with_their_host_and_a_posted_body_is_not_sent_again_after_303(server: Server) -> None:
    server.answers["/a"] = to(f"http://two.example:{server.port}/b", "303 See Other")

    egress = local(allow="one.example two.example")
    egress.request(
        "POST", f"http://one.example:{server.port}/a", headers={"Authorization": "s", "X-A": "1"}, body=b"data"
    )

    assert b"Authorization: s" in server.requests[0]
    assert server.requests[1].startswith(b"GET /b")
    assert b"Authorization" not in server.requests[1]
    assert b"X-A: 1" in server.requests[1]
    assert b"data" not in server.requests[1]


def test_too_long_a_body_is_an_error_whether_or_not_its_length_is_told(server: Server) -> None:
    server.answers["/told"] = ok(b"x" * 2_000)
    server.answers["/untold"] = b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 2_000
    server.answers["/fits"] = ok(b"x" * 1_000)
    egress = local(max_body_bytes=1_000)

    for path in ("/told", "/untold"):
        with pytest.raises(StepError, match="more than 1,000 bytes"):
            egress.request("GET", f"http://here.example:{server.port}{path}")
    assert len(egress.request("GET", f"http://here.example:{server.port}/fits").body) == 1_000


def drip(head: bytes) -> Callable[[socket.socket], None]:
    def send(connection: socket.socket) -> None:
        connection.sendall(head)
        for _ in range(200):
            connection.sendall(b"x")
            time.sleep(0.02)

    return send


@pytest.mark.slow
@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nX-Slow: ", b""])
def test_an_answer_that_drips_is_cut_at_the_deadline_and_never_taken_for_a_whole_one(
    head: bytes, server: Server
) -> None:
    server.answers["/"] = drip(head)
    begun = time.monotonic()

    with pytest.raises(TimeoutError, match=r"within 0\.3 s"):
        local(timeout_s=0.3).request("GET", f"http://here.example:{server.port}/")

    assert time.monotonic() - begun < 1.5


@pytest.mark.parametrize(
    "answer",
    [
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
        b"",
        ok(b"x", "Content-Encoding: gzip\r\n"),
    ],
)
def test_what_is_no_whole_answer_is_an_error(answer: bytes, server: Server) -> None:
    server.answers["/"] = answer

    with pytest.raises((StepError, ConnectionError)) as caught:
        local().request("GET", f"http://here.example:{server.port}/")

    assert not isinstance(caught.value, NotDoneError)


def test_what_failed_before_anything_was_sent_is_safe_to_try_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]

    with pytest.raises(NotDoneError, match="cannot be reached"):
        local().request("POST", f"http://here.example:{port}/", body=b"x")
    with pytest.raises(NotDoneError, match="has no address"):
        local(resolve=lambda host, port: []).request("GET", "http://here.example/")


def test_a_server_without_a_valid_certificate_is_sent_nothing(server: Server) -> None:
    with pytest.raises(NotDoneError):
        local().request("GET", f"https://here.example:{server.port}/secret")

    assert not any(b"secret" in request for request in server.requests)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://here.example/",
        "file:///etc/passwd",
        "http://",
        "here.example",
        "http://user:pw@here.example/",
        "http://a b/",
        "http://here.example/\r\nX: 1",
        "http://here.example\\@evil/",
        "http://here.example:99999/",
        "http://[::1/",
        "//x/",
        "http://[fe80::1%25eth0]/",
        "http://h%00st/",
        "http://" + "a" * 9_000,
        "http://a..b/",
        "javascript:alert(1)",
    ],
)
def test_a_url_that_could_mean_something_else_is_refused(url: str) -> None:
    with pytest.raises((ArgumentsError, NotAllowedError)):
        local().request("GET", url)


@pytest.mark.parametrize(
    "headers",
    [
        {"X": "a\r\nY: b"},
        {"X\r\nY": "b"},
        {"X": "a\n b"},
        {"": "x"},
        {"X": "ü"},
        {"Host": "evil"},
        {"content-length": "3"},
        {"Transfer-Encoding": "chunked"},
        {"Proxy-Authorization": "x"},
        {"X": "1", "x": "2"},
        {"X: Y": "z"},
    ],
)
def test_headers_that_would_change_the_message_are_refused(headers: dict[str, str], server: Server) -> None:
    with pytest.raises(ArgumentsError):
        local().request("GET", f"http://here.example:{server.port}/", headers=headers)

    assert server.requests == []


def test_proxies_of_the_environment_are_not_used(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")

    assert local().request("GET", f"http://here.example:{server.port}/").status == 200


def test_an_entry_that_is_no_host_is_a_config_error() -> None:
    for entry in ("http://a.example", "a b", "", "*a.example", "a.example/path"):
        with pytest.raises(ConfigError):
            Egress(allow_hosts=(entry,))


def test_the_tools_return_json_and_raise_on_a_failing_status(server: Server) -> None:
    server.answers["/json"] = ok(b'{"a": [1]}', "Content-Type: application/json; charset=utf-8\r\n")
    server.answers["/busy"] = ok(b"later", "Retry-After: 7\r\n", "429 Too Many Requests")
    server.answers["/bytes"] = ok(b"\xff\xfe\x00", "Content-Type: image/png\r\n")
    get, post = http_tools(allow_hosts=["here.example"], egress=local())
    at = f"http://here.example:{server.port}"

    assert get.call({"url": f"{at}/json"})["json"] == {"a": [1]}
    assert get.call({"url": f"{at}/busy", "accept_any_status": True})["status"] == 429
    assert get.call({"url": f"{at}/bytes"})["body_base64"] == "//4A"
    with pytest.raises(HttpStatusError, match="answered 429: later") as caught:
        get.call({"url": f"{at}/busy"}, ToolContext())
    assert (caught.value.status_code, caught.value.retry_after_s) == (429, 7.0)
    post.call({"url": at, "json_body": {"b": 2}})
    assert server.requests[-1].endswith(b'{"b": 2}')
    assert b"Content-Type: application/json" in server.requests[-1]
    assert (str(get.effects), str(post.effects)) == ("none", "once")


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        ("Thu, 01 Jan 1970 00:01:40 GMT", 90.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("soon", None),
        ("²", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str, seconds: float | None) -> None:
    assert retry_after_s({"retry-after": value}, now=10.0) == seconds
