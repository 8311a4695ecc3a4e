"""What Schemathesis is told by `api_fuzz`: who calls, by which method, what is counted, what strangers may see.

Rule 1: a stranger's call is the one that Schemathesis made up, but for the method and who sends it: each method there
is and each kind of stranger in turn, for each operation by itself.
Rule 2: after each call of a stranger, SQLite itself says whether anybody has written to the journal.
"""

from __future__ import annotations

import atexit
import json
import os
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import schemathesis

ABOUT: dict[str, Any] = json.loads(os.environ["API_FUZZ"])
TOKENS: dict[str, str] = ABOUT["tokens"]
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW")
STRANGERS = (
    "no token",
    "unknown token",
    "other scheme",
    "foreign host",
    "foreign origin",
    "scope 0",
    "scope 1",
    "scope 2",
)
GUARDED = ("/v1", "/metrics")
ALWAYS = {"no token": 401, "unknown token": 401, "other scheme": 401, "foreign host": 421, "foreign origin": 403}
"""What the gate answers, whatever is asked."""
IS_STRANGE = ABOUT["part"] == "strangers"

_by_status: Counter[str] = Counter()
_kinds: Counter[str] = Counter()
_turns: Counter[str] = Counter()
_changes: Counter[str] = Counter()
_who: dict[str, str] = {}
_journal = sqlite3.connect(f"file:{ABOUT['journal']}?mode=ro", uri=True, check_same_thread=False)


def _written() -> int:
    """Return a number that changes with every commit of another process."""
    return int(_journal.execute("PRAGMA data_version").fetchone()[0])


_version = _written()


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    turn = _turns[case.operation.label]
    _turns[case.operation.label] += 1
    headers = case.headers = dict(case.headers or {})
    if IS_STRANGE:
        _who[case.id] = _disguised(case, turn, headers)
    elif case.operation.path.endswith("/events") and turn % 2 and case.path_parameters["run_id"] in ABOUT["ended"]:
        headers["Accept"] = "text/event-stream"  # it ends, for the run has


def _disguised(case: Any, turn: int, headers: dict[str, str]) -> str:
    """Make a call one of a stranger; return of which."""
    number, which = divmod(turn, len(STRANGERS))
    if number % 2:  # every other time by the operation's own
        case.method = METHODS[number // 2 % len(METHODS)]
    who = STRANGERS[which]
    for name in [one for one in headers if one.lower() in ("authorization", "host", "origin")]:  # by chance
        del headers[name]
    headers["Authorization"] = f"Bearer {TOKENS['all']}"
    if who == "no token":
        del headers["Authorization"]
    elif who == "unknown token":
        headers["Authorization"] = "Bearer nobody-knows-this-one"
    elif who == "other scheme":
        headers["Authorization"] = f"Basic {TOKENS['all']}"
    elif who == "foreign host":
        headers["Host"] = "evil.example"
    elif who == "foreign origin":
        headers["Origin"] = "http://evil.example"
    else:
        others = [scope for scope in TOKENS if scope not in ("all", *_needed(case))]
        headers["Authorization"] = f"Bearer {TOKENS[others[int(who[-1]) % len(others)]]}"
    return who


def _needed(case: Any) -> list[str]:
    """Return the scopes that the document says a path needs, by the method of the call."""
    told = case.operation.schema.raw_schema["paths"][case.operation.path].get(case.method.lower(), {})
    return [scope for one in told.get("security", ()) for scopes in one.values() for scope in scopes]


@schemathesis.hook
def after_call(context: Any, case: Any, response: Any) -> None:
    _by_status[str(response.status_code)] += 1
    _kinds[f"{case.operation.label}, {_who[case.id]}, {case.method}" if IS_STRANGE else case.operation.label] += 1


@schemathesis.check
def nothing_is_done_for_strangers(ctx: Any, response: Any, case: Any) -> None:
    """A stranger is turned away, and nothing of the journal has changed."""
    global _version
    found, before, _version = _written(), _version, _written()
    if found != before:
        _changes["by a stranger"] += 1
        raise AssertionError(f"the journal changed by a call of one with {_who[case.id]}")
    path = urlsplit(response.request.url).path
    is_guarded = any(path == one or path.startswith(f"{one}/") for one in GUARDED)
    who, status = _who[case.id], response.status_code
    wanted = ALWAYS.get(who)
    if status == 400 or not is_guarded:  # no HTTP at all; and what is open is open
        return
    if status != wanted if wanted is not None else not 400 < status < 500:
        raise AssertionError(f"one with {who} was answered {status}")


@atexit.register
def _told() -> None:
    told = {"requests": sum(_by_status.values()), "by_status": _by_status, "kinds": _kinds}
    told["changes"] = _changes["by a stranger"]
    Path(os.environ["API_FUZZ_TOLD"]).write_text(json.dumps(told), encoding="utf-8")
