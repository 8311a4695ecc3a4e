"""Where a command's words go: answers to stdout, everything else to stderr.

Rule 1: with `--json`, stdout holds one JSON document (or one per line) and nothing else, whatever a tool prints.
Rule 2: a reader that went away never ends a run: notes to it are dropped, only a command that has nothing else to do
ends.
Rule 3: a terminal that cannot show a character gets another one, not an error.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

from planloom.observe.looks import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PROBE = "✓→○█…"


class BrokenOutputError(Exception):
    """Nobody reads the answers any more."""


class Screen:
    """What a command prints through.

    Attributes:
        as_json: True when answers are JSON.
    """

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self._apart = False
        """True while descriptor 1 leads to stderr."""
        self._answers: TextIO = _forgiving(sys.stdout)
        self._notes: TextIO = _forgiving(sys.stderr)

    @property
    def ascii_only(self) -> bool:
        """Return True where answers can hold no sign beyond ASCII."""
        return not _can_show(self._answers)

    @property
    def notes_ascii_only(self) -> bool:
        return not _can_show(self._notes)

    @property
    def notes_are_seen(self) -> bool:
        """Return True when notes go to a terminal."""
        return self._notes.isatty()

    @property
    def width(self) -> int:
        """Return the columns of the terminal that answers go to; 120 where it is none."""
        with suppress(OSError, ValueError):
            return os.get_terminal_size(self._answers.fileno()).columns
        return 120

    @property
    def notes(self) -> TextIO:
        return self._notes

    def note(self, text: str) -> None:
        """Tell a person something; never fails."""
        try:
            self._notes.write(text + "\n")
            self._notes.flush()
        except (OSError, ValueError):
            self._give_up_notes()

    def _give_up_notes(self) -> None:
        _lead_nowhere(self._notes)
        if self._apart:
            os.dup2(2, 1)  # what children of tools print went the same way

    def answer(self, value: Any, text: str) -> None:
        """Print what the command was asked for: the value as JSON, or the text.

        Raises:
            BrokenOutputError: Nobody reads it.
        """
        self.write(_json(value, self._answers) + "\n" if self.as_json else text if text.endswith("\n") else text + "\n")

    def value_text(self, value: Any) -> str:
        """Return a run's output for stdout: text as it is, made printable on a terminal; anything else as JSON."""
        if not isinstance(value, str):
            return _json(value, self._answers)
        return value if not self._answers.isatty() else "\n".join(printable(line) for line in value.splitlines())

    def write(self, text: str) -> None:
        """Print as it is; see `answer`."""
        try:
            self._answers.write(text)
            self._answers.flush()
        except BrokenPipeError as error:
            _lead_nowhere(self._answers)
            raise BrokenOutputError from error

    @contextmanager
    def only_answers_on_stdout(self) -> Iterator[None]:
        """Send everything else that is written to stdout, by tools and by their child processes too, to stderr."""
        with self._answers_apart(), _printing_to(_Patient(self._notes, self._give_up_notes)):
            yield

    @contextmanager
    def _answers_apart(self) -> Iterator[None]:
        """Give answers a descriptor of their own, and let descriptor 1 lead to stderr."""
        kept = self._answers
        if not (_is_file(kept, 1) and _is_file(self._notes, 2)):
            yield
            return
        kept.flush()
        real = os.dup(1)
        apart = _forgiving(open(real, "w", encoding=kept.encoding))  # noqa: SIM115  # closed below
        os.dup2(2, 1)
        self._answers, self._apart = apart, True
        try:
            yield
        finally:
            self._answers, self._apart = kept, False
            with suppress(OSError):
                apart.flush()
            os.dup2(real, 1)
            with suppress(OSError):
                apart.close()


class _Patient:
    """A stream that nobody's `print` fails on, because its reader went away."""

    def __init__(self, stream: TextIO, give_up: Callable[[], None]) -> None:
        self._stream = stream
        self._give_up = give_up

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            self._give_up()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._give_up()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def _printing_to(stream: _Patient) -> Iterator[None]:
    kept = sys.stdout, sys.stderr
    sys.stdout = sys.stderr = cast("TextIO", stream)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = kept


def _is_file(stream: TextIO, number: int) -> bool:
    with suppress(OSError, ValueError):
        return stream.fileno() == number
    return False


def _forgiving(stream: TextIO | None) -> TextIO:
    """Return the stream so that no character is an error to it; one to nowhere where there is none."""
    if stream is None:
        return open(os.devnull, "w", encoding="utf-8")
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")
    return stream


def _lead_nowhere(stream: TextIO) -> None:
    """Let a stream without a reader lead to nowhere, or Python complains about what it still holds as it exits."""
    with suppress(OSError, ValueError), Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())


def _can_show(stream: TextIO) -> bool:
    try:
        PROBE.encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _json(value: Any, stream: TextIO) -> str:
    return json.dumps(value, ensure_ascii=not _can_show(stream), indent=2 if stream.isatty() else None)


def jsonable(value: Any) -> Any:
    """Return a value of dataclasses, enums and JSON as JSON alone; fields that are None or empty are kept."""
    if hasattr(type(value), "__dataclass_fields__"):
        return {name: jsonable(getattr(value, name)) for name in type(value).__dataclass_fields__}
    if isinstance(value, dict):
        return {str(key): jsonable(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(entry) for entry in value]
    if isinstance(value, str):
        return str(value)
    return value
