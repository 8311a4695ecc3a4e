"""Values that must be on no record: declared once for the process, struck out wherever something is written or told.

Rule 1: a fact is struck before a run takes it in, so that what is decided because of it, the record, and whatever is
told of either never knew it: a run that goes on after a crash is given what it was given before.
Rule 2: texts only, wherever they stand in a value; numbers, and the names of fields, steps and tools are left alone.
Rule 3: where nothing is declared there is no mask, and asking for it is all that it costs.
"""

from __future__ import annotations

import base64
import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, quote_plus

from planloom.core import events as record

if TYPE_CHECKING:
    from planloom.core.events import Fact

MASK = "***"
LEAST_SECRET = 8
"""Characters of a value that is struck out: shorter ones, like "true", are in too many texts."""
LEAST_LINE = 16
"""Characters of one line of a value of several that is struck out by itself."""
VARIABLE = "PLANLOOM_SECRETS"
"""Variable with names of variables that hold secrets, a comma between two; how worker processes are told of them."""

_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL", re.IGNORECASE)
_log = logging.getLogger("planloom.masking")
_F = TypeVar("_F", bound="Fact")

_TEXTS: Mapping[type[Any], tuple[str, ...]] = {
    record.RunStarted: ("reused",),
    record.AttemptSucceeded: ("output", "metadata"),
    record.AttemptFailed: ("error",),
    record.CallEnded: ("output", "error"),
    record.SpeculationAnswered: ("error",),
    record.ApprovalAnswered: ("output", "by"),
    record.StepResolved: ("output", "error", "by"),
    record.CancelRequested: ("by", "reason"),
    record.PauseRequested: ("by",),
}
"""By fact: its fields that somebody else filled in."""


def looks_secret(variable: str) -> bool:
    """Return whether a variable is named like one that holds a key."""
    return _SECRET_NAME.search(variable) is not None


class Mask:
    """Strikes out some values, in each spelling that they usually have.

    Args:
        secrets: Each value, with the name that people know it by.
    """

    __slots__ = ("_by_form", "_least", "_pattern")

    def __init__(self, secrets: Mapping[str, str]) -> None:
        self._by_form = {form: name for value, name in secrets.items() for form in _forms(value)}
        longest_first = sorted(self._by_form, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)))
        self._least = min(map(len, longest_first), default=1)

    def text(self, text: str) -> str:
        """Return the text without them."""
        if len(text) < self._least or self._pattern.search(text) is None:
            return text
        return self._pattern.sub(MASK, text)

    def value(self, value: Any) -> Any:
        """Return a JSON value without them; the value itself where it holds none."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list | tuple):
            struck = [self.value(one) for one in value]
            return value if all(map(_is, struck, value)) else type(value)(struck)
        if isinstance(value, dict):
            pairs = [(self.value(name), self.value(one)) for name, one in value.items()]
            same = all(new is one and key is name for (key, new), (name, one) in zip(pairs, value.items(), strict=True))
            return value if same else dict(pairs)
        return value

    def name_in(self, value: Any) -> str | None:
        """Return the name of one that a JSON value holds, or None."""
        if isinstance(value, str):
            found = self._pattern.search(value)
            return None if found is None else self._by_form[found[0]]
        if isinstance(value, dict):
            value = [*value.keys(), *value.values()]
        if isinstance(value, list | tuple):
            return next((name for one in value if (name := self.name_in(one)) is not None), None)
        return None

    def fact(self, fact: _F) -> _F:
        """Return a fact without them; a piece of an answer is struck by `StruckFacts`, which knows the one before."""
        fields = _TEXTS.get(type(fact))
        if fields is None:
            return fact
        struck: dict[str, Any] = {}
        for name in fields:
            given = getattr(fact, name)
            if given and (left := self.value(given)) is not given:
                struck[name] = left
        return replace(fact, **struck) if struck else fact

    def began(self, text: str) -> int:
        """Return how many characters at the end of a text may be the beginning of one of them."""
        most = 0
        for form in self._by_form:
            at = max(0, len(text) - len(form) + 1)
            while 0 <= (at := text.find(form[0], at)) < len(text) - most:
                if form.startswith(text[at:]):
                    most = len(text) - at
                    break
                at += 1
        return most


class StruckFacts:
    """Strikes the facts of one run, its streamed pieces too: what may be the beginning of a secret waits for more."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, int, int], str] = {}

    def facts(self, mask: Mask, fact: Fact) -> Iterator[Fact]:
        """Yield what is to be taken in instead of this fact, in order."""
        if isinstance(fact, record.OutputStreamed):
            yield from self._piece(mask, fact)
            return
        if isinstance(fact, record.AttemptSucceeded | record.AttemptFailed):
            held = self._held.pop((fact.step, fact.attempt, fact.epoch), "")
            if held:
                yield record.OutputStreamed(fact.step, fact.attempt, fact.epoch, held, fact.at)
        yield mask.fact(fact)

    def _piece(self, mask: Mask, piece: record.OutputStreamed) -> Iterator[Fact]:
        attempt = (piece.step, piece.attempt, piece.epoch)
        text = mask.text(self._held.pop(attempt, "") + piece.text)
        begun = mask.began(text)
        if begun:
            self._held[attempt] = text[-begun:]
            text = text[:-begun]
        if text:
            yield piece if text == piece.text else replace(piece, text=text)


def _is(one: Any, other: Any) -> bool:
    return one is other


# --- spellings ----------------------------------------------------------------------------------


def _forms(value: str) -> set[str]:
    """Return the spellings of a secret that are looked for."""
    lines = [line.strip() for line in value.splitlines()] if "\n" in value else []
    plain = {value, *(line for line in lines if len(line) >= LEAST_LINE and not line.startswith("-----"))}
    forms: set[str] = set()
    for one in plain:
        written = one.encode(errors="surrogateescape")
        forms |= {one, one.lower(), one.upper(), one.swapcase(), written.hex(), written.hex().upper()}
        for is_ascii in (True, False):
            shown = {one, repr(one)[1:-1], one.replace("\\", "\\\\")}
            once = {json.dumps(text, ensure_ascii=is_ascii)[1:-1] for text in shown}
            forms |= shown | once | {json.dumps(text, ensure_ascii=is_ascii)[1:-1] for text in once}
        quoted = {quote(written, safe=safe) for safe in ("", "/")} | {quote_plus(written)}
        forms |= (
            quoted
            | {text.lower() for text in quoted}
            | {re.sub("%[0-9A-F]{2}", lambda found: found[0].lower(), text) for text in quoted}
        )
        forms |= set(_in_base64(written))
    return forms


def _in_base64(written: bytes) -> Iterator[str]:
    """Yield what every base64 of a text that holds this has in it, wherever in that text it stands."""
    for before in range(3):
        bits = (before * 8, (before + len(written)) * 8)
        for others in (b"+/", b"-_"):
            whole = base64.b64encode(b"\0" * before + written, others).decode()
            yield whole[-(-bits[0] // 6) : bits[1] // 6]


# --- what is declared in this process -------------------------------------------------------------

_lock = Lock()
_declared: dict[str, str] = {}
"""Value → the name it is known by. What was declared once stays a secret, whatever becomes of its variable."""
_names: set[str] = set()
_mask: Mask | None = None


def known() -> Mask | None:
    """Return what strikes out all that is declared in this process; None where nothing is."""
    return _mask


def names() -> list[str]:
    """Return the variables that are declared to hold secrets."""
    return sorted(_names)


def declare(secrets: Mapping[str, str | None], *, variables: Iterable[str] = ()) -> None:
    """Have values struck out from here on; surrounding white space is not part of one.

    Args:
        secrets: By the name that people know each by, the value; one that is not set, or too short, is passed over.
        variables: Those of the names that are variables of the environment, for processes that this one starts.
    """
    global _mask  # noqa: PLW0603 - a log line knows no engine: there is one mask for the process
    found = {name: value.strip() for name, value in secrets.items() if value is not None and value.strip()}
    with _lock:
        _names.update(variables)
        new = {value: name for name, value in found.items() if len(value) >= LEAST_SECRET and value not in _declared}
        for name, value in found.items():
            if len(value) < LEAST_SECRET:
                _log.warning("secret %s has fewer than %d characters, and is not struck out", name, LEAST_SECRET)
        if new:
            _declared.update(new)
            _mask = Mask(_declared)


@contextmanager
def forgetting() -> Iterator[None]:
    """Forget afterwards what is declared in this block: for tests, each of which is a process of its own to secrets."""
    global _mask  # noqa: PLW0603 - see `declare`
    kept = dict(_declared), set(_names), _mask
    try:
        yield
    finally:
        with _lock:
            _declared.clear()
            _declared.update(kept[0])
            _names.clear()
            _names.update(kept[1])
            _mask = kept[2]
