"""`http.get` and `http.post`: through `Egress`, to hosts that are allowed and nowhere else."""

from __future__ import annotations

import base64
import json
import time
from dataclasses import dataclass
from typing import Any

from planloom.errors import ArgumentsError, HttpStatusError
from planloom.plan.values import as_json
from planloom.tools.egress import Egress, HttpResponse, retry_after_s
from planloom.tools.tool import Tool

WEB = "web"
"""Label of what came from a server."""


@dataclass(frozen=True, slots=True)
class Http:
    """The tools' way out."""

    egress: Egress

    def get(self, url: str, headers: dict[str, str] | None = None, accept_any_status: bool = False) -> dict[str, Any]:
        """Fetch a URL: {status, url, headers, body}, and `json` where the answer is JSON.

        Args:
            url: An http or https URL of an allowed host.
            headers: Headers to send.
            accept_any_status: True: a status of 400 or more is a result; else it is an error.
        """
        return _result(self.egress.request("GET", url, headers=headers), accept_any_status=accept_any_status)

    def post(
        self,
        url: str,
        body: str | None = None,
        json_body: Any = None,
        headers: dict[str, str] | None = None,
        accept_any_status: bool = False,
    ) -> dict[str, Any]:
        """Send something to a URL: {status, url, headers, body}, and `json` where the answer is JSON.

        Args:
            url: An http or https URL of an allowed host.
            body: Text to send, as UTF-8.
            json_body: A JSON value to send instead of a text.
            headers: Headers to send.
            accept_any_status: True: a status of 400 or more is a result; else it is an error.
        """
        if body is not None and json_body is not None:
            raise ArgumentsError("body and json_body are both given", remedy="give one of them")
        sent = dict(headers or {})
        kind = "text/plain; charset=utf-8" if json_body is None else "application/json"
        if "content-type" not in {name.lower() for name in sent}:
            sent["Content-Type"] = kind
        text = (body or "") if json_body is None else json.dumps(as_json(json_body, where="json_body"))
        answer = self.egress.request("POST", url, headers=sent, body=text.encode())
        return _result(answer, accept_any_status=accept_any_status)


def _result(answer: HttpResponse, *, accept_any_status: bool) -> dict[str, Any]:
    if answer.status >= 400 and not accept_any_status:
        raise HttpStatusError(
            f"{answer.url} answered {answer.status}: {answer.body[:200].decode(errors='replace')}",
            status_code=answer.status,
            retry_after_s=retry_after_s(answer.headers, now=time.time()),
            url=answer.url,
        )
    kind, _, parameters = answer.headers.get("content-type", "").partition(";")
    result: dict[str, Any] = {"status": answer.status, "url": answer.url, "headers": answer.headers}
    text = _text(answer.body, parameters)
    result["body"] = text
    if text is None:
        result["body_base64"] = base64.b64encode(answer.body).decode()
    elif kind.strip().lower() == "application/json" or kind.strip().lower().endswith("+json"):
        try:
            result["json"] = as_json(json.loads(text))
        except (ValueError, RecursionError):
            result["json"] = None  # it says JSON and is none: the body tells
    return result


def _text(body: bytes, parameters: str) -> str | None:
    """Return a body as text, None when it is none."""
    charset = next(
        (
            one.partition("=")[2].strip("\"' ")
            for one in parameters.split(";")
            if one.strip().lower().startswith("charset=")
        ),
        "utf-8",
    )
    known = charset.lower() in {"utf-8", "utf8", "iso-8859-1", "latin-1", "us-ascii", "ascii", "windows-1252", "utf-16"}
    try:
        return body.decode(charset if known else "utf-8")
    except UnicodeDecodeError:
        return None


def http_tools(*, allow_hosts: tuple[str, ...] | list[str], egress: Egress | None = None) -> list[Tool]:
    """Return `http.get` and `http.post`. What they bring is labelled "web".

    An address is a way out, too: `http.get` follows what the web itself named, and nothing else that carries a label
    unless a person says so. What is posted is asked about whoever wrote it.

    Args:
        allow_hosts: Hosts that may be reached, see `Egress`; ``"*"`` for any host at a public address.
        egress: Other bounds than the default; it brings its own allowed hosts.
    """
    http = Http(egress or Egress(allow_hosts=tuple(allow_hosts)))
    return [
        Tool.from_function(http.get, name="http.get", effects="none", source=WEB, sink=True, accepts=WEB),
        Tool.from_function(http.post, name="http.post", effects="once", source=WEB),
    ]
