"""The subjects of a cluster: where commands, outcomes, questions and news go.

Rule 1: whatever a name holds, its token is letters, digits, `_`, `-` and `=`: nobody's name reaches another subject.
Rule 2: two names have two tokens, and two pairs of capability and place two consumers.
Rule 3: a subject is for permissions, filters and uniqueness; who an attempt is, its message says.
"""

from __future__ import annotations

import re
from hashlib import sha256
from itertools import combinations
from typing import TYPE_CHECKING

from planloom.errors import ConfigError, ProtocolError

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = "pl"
ANY = "any"
"""The place of a command that workers anywhere may take. No other place is called so: each has an `=`."""
ALL_COMMANDS = f"{ROOT}.cmd.>"
ALL_INPUTS = f"{ROOT}.in.>"
ALL_ASKED = f"{ROOT}.ask.>"
ALL_NEWS = f"{ROOT}.evt.>"
SUBMIT, SIGNAL = "submit", "signal"
RESERVED = frozenset({SUBMIT, SIGNAL})
"""No capability may be called so: it would be allowed to submit and to signal."""
ORCHESTRATORS = "orchestrators"
"""The queue group of those who answer what is asked: one of them does."""
MAX_TOKEN = 200
"""Characters of a token; a longer name has a digest in place of its end."""
_KEPT = 120
MAX_LABELS = 4
"""Of one worker."""

_OTHER = re.compile(rb"[^A-Za-z0-9_-]")
_TOKEN = re.compile(r"(?:[A-Za-z0-9_-]|=[0-9A-F]{2})*")


def token(text: str) -> str:
    """Return a name as one token of a subject."""
    written = _OTHER.sub(lambda found: b"=%02X" % found[0][0], text.encode("utf-8", "surrogatepass")).decode()
    if len(written) > MAX_TOKEN:
        digest = sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:40]
        return f"{written[:_KEPT]}=={digest}"
    return written or "="


def untoken(written: str) -> str:
    """Return the name that a token stands for.

    Raises:
        ProtocolError: It is no token, or one of a name so long that it holds a digest.
    """
    if written == "=":
        return ""
    if not written or not _TOKEN.fullmatch(written):
        raise ProtocolError(f"{written!r} is no token of a subject", remedy="take the name from the message itself")
    raw = re.sub(rb"=([0-9A-F]{2})", lambda found: bytes([int(found[1], 16)]), written.encode())
    return raw.decode("utf-8", "surrogatepass")


def place_token(place: str) -> str:
    return token(place) if place else ANY


def _attempt(run_id: str, step: str, attempt: int, epoch: int) -> str:
    return f"{token(run_id)}.{token(step)}.{attempt}-{epoch}"


def command(capability: str, place: str, run_id: str, step: str, attempt: int, epoch: int) -> str:
    """Return where an attempt is asked for; `place` is "" for any, else as `place_of_labels` has it."""
    at = _attempt(run_id, step, attempt, epoch)
    return f"{ROOT}.cmd.{token(capability)}.{place_token(place)}.{at}"


def commands_of(capability: str, place: str = "") -> str:
    """Return the filter of a consumer."""
    return f"{ROOT}.cmd.{token(capability)}.{place_token(place)}.>"


def outcome(capability: str, run_id: str, step: str, attempt: int, epoch: int) -> str:
    """Return where what an attempt came to is told."""
    return f"{ROOT}.in.{token(capability)}.{_attempt(run_id, step, attempt, epoch)}"


def submission(run_id: str) -> str:
    return f"{ROOT}.in.{SUBMIT}.{token(run_id)}"


def signal(run_id: str, name: str) -> str:
    return f"{ROOT}.in.{SIGNAL}.{token(run_id)}.{token(name)}"


def ask(capability: str, run_id: str, step: str, attempt: int, epoch: int) -> str:
    """Return where a worker asks for something to be recorded, noted or claimed, and waits for the answer."""
    return f"{ROOT}.ask.{token(capability)}.{_attempt(run_id, step, attempt, epoch)}"


def stop(capability: str) -> str:
    """Return where every worker of a capability hears which attempts are to stop."""
    return f"{ROOT}.ctl.{token(capability)}.stop"


def drain(capability: str, worker: str) -> str:
    """Return where one worker hears that it is to take nothing more."""
    return f"{ROOT}.ctl.{token(capability)}.{token(worker)}.drain"


def inbox(capability: str, worker: str) -> str:
    """Return what the subjects begin with at which a worker is answered."""
    return f"_INBOX.{token(capability)}.{token(worker)}"


def news(run_id: str, kind: str) -> str:
    """Return where an event of a run is told; the dots of its kind are dots of the subject."""
    return ".".join([ROOT, "evt", token(run_id), *(token(part) for part in kind.split("."))])


def consumer(capability: str, place: str = "") -> str:
    """Return the name of the consumer that workers of a capability at a place share."""
    parts = (part.replace("-", "=2D") for part in (token(capability), place_token(place)))
    return "-".join(["w", *parts])


def place_of_labels(labels: Mapping[str, str]) -> str:
    """Return labels as a place, e.g. ``region=eu`` or ``gpu=yes,region=eu``; no labels are any place.

    Commas, `=` and `%` in names and values are written with `%`, so that two sets are never one place.
    """
    return ",".join(f"{_bare(name)}={_bare(labels[name])}" for name in sorted(labels))


def labels_of_place(place: str) -> dict[str, str]:
    """Return the labels that a place stands for."""
    pairs = (pair.partition("=") for pair in place.split(",")) if place else ()
    return {_plain(name): _plain(value) for name, _, value in pairs}


def places_of(labels: Mapping[str, str]) -> list[str]:
    """Return every place that a worker with these labels is at; the last is "", any.

    Raises:
        ConfigError: More labels than a worker can look after: each doubles the places it is at.
    """
    if len(labels) > MAX_LABELS:
        raise ConfigError(
            f"a worker with {len(labels)} labels is at {2 ** len(labels)} places",
            remedy=f"give it {MAX_LABELS} labels at most",
        )
    names = sorted(labels)
    chosen = (some for size in range(len(names), -1, -1) for some in combinations(names, size))
    return [place_of_labels({name: labels[name] for name in some}) for some in chosen]


def _bare(text: str) -> str:
    return text.replace("%", "%25").replace(",", "%2C").replace("=", "%3D")


def _plain(text: str) -> str:
    return text.replace("%3D", "=").replace("%2C", ",").replace("%25", "%")
