from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from cli.conftest import Folder
from planloom.observe.naming import trace_id_of

STEPS = (
    {"id": "a", "tool": "t.echo", "with": {"value": "hush-hush"}},
    {"id": "each", "tool": "t.count", "for_each": ["x", "y z"], "with": {"text": "${{ item }}"}},
)


@contextmanager
def collector(status: int = 200, *, to: str = "") -> Iterator[tuple[str, list[tuple[str, str | None, bytes]]]]:
    """Take what is posted; yield the address, and path, Authorization and body of what came."""
    came: list[tuple[str, str | None, bytes]] = []

    class Takes(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            came.append((self.path, self.headers["Authorization"], body))
            self.send_response(status)
            if to:
                self.send_header("Location", to)
            self.end_headers()

        def do_GET(self) -> None:
            came.append((self.path, self.headers["Authorization"], b""))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Takes)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", came
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def ran(folder: Folder) -> Folder:
    assert folder.call("run", folder.plan("p.json", *STEPS), "--run-id", "r1").code == 0
    return folder


def test_trace_prints_a_span_a_line_from_the_record_alone(ran: Folder) -> None:
    rows = [json.loads(line) for line in ran.call("trace", "r1").out.splitlines()]

    names = {row["span_id"]: row["name"] for row in rows}
    under = {row["name"]: names.get(row["parent_id"]) for row in rows if row["name"].startswith("step")}
    assert under == {
        "step a": "invoke_workflow p",
        "step each": "invoke_workflow p",
        "step each[0]": "step each",
        "step each[1]": "step each",
    }
    assert {row["trace_id"] for row in rows} == {f"{trace_id_of('r1'):032x}"}
    assert len(rows) == 11
    assert all(row["started_at"] <= row["ended_at"] for row in rows)


def test_trace_tells_what_was_answered_only_when_asked(ran: Folder) -> None:
    assert "hush-hush" not in ran.call("trace", "r1").out
    assert "hush-hush" in ran.call("trace", "r1", "--content").out


def test_trace_sends_the_spans_to_a_collector_with_its_headers(ran: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "Authorization=Basic%20abc,x=y")

    with collector() as (address, came):
        told = ran.call("trace", "r1", "--otlp", address)

    (path, key, body) = came[0]
    spans = json.loads(body)["resourceSpans"][0]["scopeSpans"][0]["spans"]
    assert told.out == f"11 spans sent to {address}\n"
    assert (path, key) == ("/v1/traces", "Basic abc")
    assert {"name", "traceId", "spanId", "startTimeUnixNano", "endTimeUnixNano", "attributes"} <= spans[0].keys()
    assert [span["name"] for span in spans if "parentSpanId" not in span] == ["invoke_workflow p"]


def test_a_collector_that_refuses_is_an_error_that_tells_no_header(
    ran: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "Authorization=Basic%20abc")

    with collector(401) as (address, _):
        told = ran.call("trace", "r1", "--otlp", address)

    assert told.code != 0
    assert "did not take the spans" in told.err
    assert "abc" not in told.err


def test_trace_takes_no_other_address_than_that_of_a_server(ran: Folder) -> None:
    assert "is no address of a collector" in ran.call("trace", "r1", "--otlp", "file:///etc/passwd").err


@pytest.mark.parametrize("answer", [b"", b"what?\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"])
def test_a_collector_that_does_not_speak_http_is_an_error_without_a_traceback(ran: Folder, answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(2**20)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        told = ran.call("trace", "r1", "--otlp", f"http://127.0.0.1:{listening.getsockname()[1]}")
        thread.join()

    assert "Traceback" not in told.err
    assert told.code == 0 or "did not take the spans" in told.err


def test_no_key_goes_to_where_a_collector_sends_us(ran: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "Authorization=Basic%20abc")

    with collector() as (elsewhere, came), collector(302, to=elsewhere) as (address, _):
        told = ran.call("trace", "r1", "--otlp", address)

    assert "did not take the spans" in told.err
    assert came == []
