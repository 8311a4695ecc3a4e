"""StateManager: a shared state as it was at a moment: kept under a name, written to a file, read back.

Rule 1: a file is written whole or not at all, and says which version of the format it is.
Rule 2: what is read back is checked before anything of the state changes.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from planloom.api.shared_state import SharedState, StateEntry, check_key
from planloom.errors import ConfigError, OutputError, field_problems, suggestion
from planloom.plan.values import as_json
from planloom.whole_file import write_whole

STATE_VERSION = 1
"""Of the format of exported states."""


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    key: str
    value: Any
    source: str | None = None
    timestamp: float = Field(allow_inf_nan=False)
    metadata: dict[str, Any] | None = None

    @property
    def entry(self) -> StateEntry:
        check_key(self.key)
        told = None if self.metadata is None else as_json(self.metadata)
        return StateEntry(self.key, as_json(self.value), self.source, self.timestamp, told)


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    planloom_state: Literal[1]
    entries: list[_Entry]
    history: list[_Entry] = []


class StateManager:
    """Keeps states of one `SharedState`.

    Args:
        state: None: a new one.
    """

    def __init__(self, state: SharedState | None = None) -> None:
        self.state = SharedState() if state is None else state
        self._snapshots: dict[str, tuple[list[StateEntry], list[StateEntry]]] = {}

    def snapshot(self, name: str | None = None) -> str:
        """Keep the state as it is now; return the name it is kept under.

        Args:
            name: None: a new one. One that is kept already is replaced.
        """
        if name is None:
            number = len(self._snapshots) + 1
            while f"snapshot-{number}" in self._snapshots:
                number += 1
            name = f"snapshot-{number}"
        self._snapshots[name] = (self.state.entries(), self.state.get_history())
        return name

    def snapshots(self) -> list[str]:
        """Return the names of what is kept, oldest first."""
        return list(self._snapshots)

    def restore(self, name: str) -> SharedState:
        """Make the state what it was, history included; return it.

        Raises:
            ConfigError: Nothing is kept under that name.
        """
        try:
            entries, history = self._snapshots[name]
        except KeyError:
            remedy = suggestion(name, self._snapshots, otherwise="call snapshot first")
            raise ConfigError(f"there is no snapshot {name!r}", remedy=remedy) from None
        self.state.replace(entries, history)
        return self.state

    def export_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """Return the state and its history as JSON text; with a path, also write it there, whole or not at all.

        Raises:
            ConfigError: The file cannot be written.
        """
        document = {
            "planloom_state": STATE_VERSION,
            "entries": [entry.to_dict() for entry in self.state.entries()],
            "history": [entry.to_dict() for entry in self.state.get_history()],
        }
        text = json.dumps(document, ensure_ascii=False, indent=2)
        if path is not None:
            _write(Path(path), text + "\n")
        return text

    def import_json(self, source: str | os.PathLike[str]) -> SharedState:
        """Make the state what was exported; return it.

        Args:
            source: A path, or the text itself, which begins with "{".

        Raises:
            ConfigError: The file cannot be read, or is no exported state. The state is as it was.
        """
        is_text = isinstance(source, str) and source.lstrip().startswith("{")
        where = "the text" if is_text else os.fspath(source)
        try:
            text = str(source) if is_text else Path(source).read_text(encoding="utf-8")
            document = _Document.model_validate(json.loads(text))
            entries = [one.entry for one in document.entries]
            history = [one.entry for one in document.history]
        except ValidationError as error:
            told = "; ".join(field_problems(error)[:5])
            raise ConfigError(
                f"{where} is no exported state of version {STATE_VERSION}: {told}", remedy="give what export_json wrote"
            ) from error
        except (OSError, ValueError, RecursionError, OutputError, ConfigError) as error:
            raise ConfigError(f"{where} cannot be read: {error}", remedy="give what export_json wrote") from error
        self.state.replace(entries, history)
        return self.state


def _write(path: Path, text: str) -> None:
    try:
        write_whole(path, text)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error}", remedy="give another path") from error
