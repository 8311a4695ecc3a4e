"""SharedState: values by key, each with who set it and when, and everything that was ever set.

Rule 1: values are JSON; one that is set is copied, one that is handed out is a copy, so the history stays what it was.
Rule 2: safe to use from several threads; no method waits for anything but the others.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from threading import RLock
from typing import Any

from planloom.errors import ConfigError
from planloom.plan.terms import fresh
from planloom.plan.values import as_json

MAX_HISTORY = 10_000
"""Entries of its history that a state keeps unless told otherwise; the oldest go first."""


@dataclass(frozen=True, slots=True)
class StateEntry:
    """One value that was set.

    Attributes:
        source: Who set it, e.g. the name of a node; None where nobody said.
        timestamp: Seconds since the epoch.
        metadata: What else was said about it, JSON.
    """

    key: str
    value: Any
    source: str | None = None
    timestamp: float = 0.0
    metadata: dict[str, Any] | None = None

    def copy(self) -> StateEntry:
        """Return the entry with a value and metadata of its own."""
        return replace(self, value=fresh(self.value), metadata=fresh(self.metadata))

    def to_dict(self) -> dict[str, Any]:
        """Return the entry as JSON, nothing of it shared with the entry."""
        return {
            "key": self.key,
            "value": fresh(self.value),
            "source": self.source,
            "timestamp": self.timestamp,
            "metadata": fresh(self.metadata),
        }


class SharedState:
    """What the nodes of a graph, or whoever else shares it, have set so far.

    Args:
        values: What it begins with; source "initial".
        max_history: Entries kept in the history.

    Raises:
        OutputError: A value that is no JSON.
    """

    def __init__(self, values: Mapping[str, Any] | None = None, *, max_history: int = MAX_HISTORY) -> None:
        if isinstance(max_history, bool) or not isinstance(max_history, int) or max_history < 1:
            raise ConfigError(f"max_history={max_history!r} keeps nothing", remedy="give 1 or more")
        if values is not None and not isinstance(values, Mapping):
            raise ConfigError(f"a {type(values).__name__} is no state", remedy="give a dict: key → value")
        self._lock = RLock()
        self._entries: dict[str, StateEntry] = {}
        self._history: deque[StateEntry] = deque(maxlen=max_history)
        for key, value in (values or {}).items():
            self.set(key, value, source="initial")

    def set(
        self, key: str, value: Any, source: str | None = None, metadata: dict[str, Any] | None = None
    ) -> SharedState:
        """Set a value; return the state.

        Raises:
            OutputError: The value or the metadata is no JSON.
            ConfigError: The key is no text, or an empty one.
        """
        check_key(key)
        kept = as_json(value, where=f"state[{key!r}]")
        told = None if metadata is None else as_json(metadata, where="metadata")
        self.put(StateEntry(key, kept, source, time.time(), told))
        return self

    def put(self, entry: StateEntry, *, is_current: bool = True) -> None:
        """Take in an entry as it is.

        Args:
            is_current: False: it goes into the history only, because a value that counts for more is there.
        """
        with self._lock:
            self._history.append(entry)
            if is_current:
                self._entries[entry.key] = entry

    def get(self, key: str, default: Any = None) -> Any:
        """Return a value, or the default where there is none; None that was set is a value."""
        entry = self._entries.get(key)
        return default if entry is None else fresh(entry.value)

    def has(self, key: str) -> bool:
        return key in self._entries

    def delete(self, key: str) -> bool:
        """Take a value out; return whether there was one. What was set stays in the history."""
        with self._lock:
            return self._entries.pop(key, None) is not None

    def get_entry(self, key: str) -> StateEntry | None:
        """Return a value with who set it and when, or None."""
        entry = self._entries.get(key)
        return None if entry is None else entry.copy()

    def get_all(self) -> dict[str, Any]:
        """Return every value by its key."""
        return {entry.key: entry.value for entry in self.entries()}

    def entries(self) -> list[StateEntry]:
        """Return what holds now, in the order in which the keys came."""
        with self._lock:
            found = list(self._entries.values())
        return [entry.copy() for entry in found]

    def get_history(self, key: str | None = None) -> list[StateEntry]:
        """Return everything that was set, oldest first; of one key, or of all."""
        with self._lock:
            found = [entry for entry in self._history if key is None or entry.key == key]
        return [entry.copy() for entry in found]

    def clear(self) -> None:
        """Forget every value and the history."""
        self.replace((), ())

    def replace(self, entries: Iterable[StateEntry], history: Iterable[StateEntry]) -> None:
        """Make these the values and the history, at once."""
        with self._lock:
            self._entries = {entry.key: entry for entry in entries}
            self._history = deque(history, maxlen=self._history.maxlen)

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Return each value with its source, timestamp and metadata, by key."""
        return {entry.key: entry.to_dict() for entry in self.entries()}

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[str]:
        with self._lock:
            return iter(list(self._entries))

    def __repr__(self) -> str:
        return f"SharedState({', '.join(self)})"  # values may be anybody's secrets


def check_key(key: object) -> None:
    """Raise ConfigError where this cannot be the key of a value."""
    if not isinstance(key, str) or not key or any("\ud800" <= sign <= "\udfff" for sign in key):
        raise ConfigError(f"{key!r:.80} is no key of a state", remedy="give a text")
