"""The spans of a whole record at once: a line of JSON each, or a document as OTLP over HTTP takes it. Needs no SDK.

Rule 1: the same names and numbers as `trace.py` gives them: what is sent twice is the same spans, not more of them.
"""

from __future__ import annotations

import http.client
import json
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from planloom.errors import ConfigError
from planloom.observe import genai
from planloom.observe.naming import span_id_of, trace_id_of
from planloom.observe.spans import Began, Ended, Spans

if TYPE_CHECKING:
    from planloom.ports import Recorded

SEND_S = 30.0
"""Seconds that a collector has to take what it is sent."""
_INTERNAL, _CLIENT = 1, 3
_ERROR = 2


def span_rows(run_id: str, record: Iterable[Recorded], *, content: bool = False) -> Iterator[dict[str, Any]]:
    """Yield each span that has ended as a JSON object, in the order they ended."""
    spans = Spans(run_id, content=content)
    begun: dict[str, Began] = {}
    for recorded in record:
        for signal in spans.read(recorded.event):
            if isinstance(signal, Began):
                begun[signal.path] = signal
            else:
                yield _row(run_id, begun.pop(signal.path), signal)


def _row(run_id: str, began: Began, ended: Ended) -> dict[str, Any]:
    row: dict[str, Any] = {
        "trace_id": f"{trace_id_of(run_id):032x}",
        "span_id": f"{span_id_of(run_id, began.path):016x}",
        "parent_id": None if began.parent is None else f"{span_id_of(run_id, began.parent):016x}",
        "name": began.name,
        "kind": "client" if began.is_client else "internal",
        "started_at": began.at,
        "ended_at": ended.at,
        "attributes": began.attributes | ended.attributes,
    }
    if ended.happened:
        row["events"] = [{"name": one.name, "at": one.at, "attributes": one.attributes} for one in ended.happened]
    if ended.error is not None:
        row["attributes"][genai.ERROR_TYPE] = ended.error
        row["error"] = ended.told or ended.error
    return row


def otlp_document(rows: Iterable[Mapping[str, Any]], *, version: str) -> dict[str, Any]:
    """Return an OTLP `ExportTraceServiceRequest` of these rows."""
    scope = {"scope": {"name": "planloom", "version": version}, "spans": [_otlp_span(row) for row in rows]}
    resource = {"attributes": _otlp_attributes({"service.name": "planloom"})}
    return {"resourceSpans": [{"resource": resource, "scopeSpans": [scope]}]}


def _otlp_span(row: Mapping[str, Any]) -> dict[str, Any]:
    span: dict[str, Any] = {
        "traceId": row["trace_id"],
        "spanId": row["span_id"],
        "name": row["name"],
        "kind": _CLIENT if row["kind"] == "client" else _INTERNAL,
        "startTimeUnixNano": _ns(row["started_at"]),
        "endTimeUnixNano": _ns(row["ended_at"]),
        "attributes": _otlp_attributes(row["attributes"]),
        "events": [
            {"name": one["name"], "timeUnixNano": _ns(one["at"]), "attributes": _otlp_attributes(one["attributes"])}
            for one in row.get("events", ())
        ],
        "status": {"code": _ERROR, "message": row["error"]} if "error" in row else {},
    }
    if row["parent_id"] is not None:
        span["parentSpanId"] = row["parent_id"]
    return span


def _otlp_attributes(attributes: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value": _otlp_value(value)} for key, value in attributes.items()]


def _otlp_value(value: Any) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}  # 64 bits do not fit a JSON number everywhere
    if isinstance(value, float):
        return {"doubleValue": value}
    if isinstance(value, tuple):
        return {"arrayValue": {"values": [_otlp_value(one) for one in value]}}
    return {"stringValue": str(value)}


def _ns(at: float) -> str:
    return str(round(at * 1_000_000_000))


class _StaysHere(urllib.request.HTTPRedirectHandler):
    """Follows nobody elsewhere: the headers, and the key among them, are for the collector."""

    def redirect_request(self, *_: Any) -> None:
        return None


def send(document: Mapping[str, Any], endpoint: str, headers: str = "") -> None:
    """Post a document to a collector.

    Args:
        endpoint: As in OTEL_EXPORTER_OTLP_ENDPOINT, e.g. ``"http://localhost:4318"``.
        headers: As in OTEL_EXPORTER_OTLP_HEADERS, e.g. ``"Authorization=Basic …"``.

    Raises:
        ConfigError: No collector there, or it would not take it.
    """
    if not endpoint.startswith(("http://", "https://")):
        raise ConfigError(f"{endpoint!r} is no address of a collector", remedy="give one, e.g. http://localhost:4318")
    pairs = (one.split("=", 1) for one in headers.split(",") if "=" in one)
    told = {name.strip(): unquote(value.strip()) for name, value in pairs}
    url = f"{endpoint.rstrip('/')}/v1/traces"
    body = json.dumps(document).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json", **told})  # noqa: S310 - see above
    try:
        with urllib.request.build_opener(_StaysHere).open(request, timeout=SEND_S):
            pass
    except (OSError, http.client.HTTPException, ValueError) as error:
        why = getattr(error, "reason", None) or type(error).__name__  # not its text, which may tell a header
        raise ConfigError(f"{url} did not take the spans: {why}", remedy="see address, key and network") from error
