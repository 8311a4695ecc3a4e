"""Log lines for machines: one JSON object a line, with the run, step and attempt that it is about; or text for people.

Rule 1: a line never tells a prompt, an argument or an answer: planloom logs names, numbers, and what went wrong.
Rule 2: what is declared a secret, or stands in a variable named like one, is struck out of whatever is logged.
Rule 3: a line is one line, whatever is in it.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, TextIO

from planloom.core import events as on_record
from planloom.core.result import RunStatus
from planloom.errors import ConfigError
from planloom.models.tape import masked
from planloom.tools.context import under_way

if TYPE_CHECKING:
    from planloom.core.events import Event
    from planloom.ports import Recorded

Format = Literal["text", "json"]
ROOT = "planloom"
MAX_TEXT = 8_000
"""Characters of a message, and of an error's traceback."""
_runs = logging.getLogger("planloom.run")


def configure(
    *, format: Format = "text", level: str = "INFO", stream: TextIO | None = None, loggers: Iterable[str] = (ROOT,)
) -> logging.Handler:
    """Have planloom log here; a second call takes the place of the first. Returns the handler.

    Args:
        level: Name of the least level that is logged.
        stream: None: stderr, as it is when a line is written.
        loggers: Names of the loggers, e.g. ``("planloom", "uvicorn")``.

    Raises:
        ConfigError: No such format or level.
    """
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None or format not in ("text", "json"):
        raise ConfigError(
            f"logs cannot be of format {format!r} and level {level!r}",
            remedy="format is text or json; level is DEBUG, INFO, WARNING or ERROR",
        )
    handler = _Handler(stream)
    handler.addFilter(_knows_where)
    handler.setFormatter(_Json() if format == "json" else _Text())
    for name in loggers:
        logger = logging.getLogger(name)
        for old in [one for one in logger.handlers if isinstance(one, _Handler)]:
            logger.removeHandler(old)
        logger.addHandler(handler)
        logger.setLevel(number)
        logger.propagate = False  # else whatever the program has set up writes each line once more, unmasked
    return handler


class _Handler(logging.StreamHandler[Any]):
    """Writes to stderr as it is now, unless it was given a stream."""

    def __init__(self, stream: TextIO | None) -> None:
        super().__init__(stream or sys.stderr)
        self._is_stderr = stream is None

    def emit(self, record: logging.LogRecord) -> None:
        if self._is_stderr:
            self.stream = sys.stderr
        super().emit(record)


def _knows_where(record: logging.LogRecord) -> bool:
    """Put on the record where it was logged, unless whoever logged it said so."""
    here = under_way.get()
    if here is not None and not hasattr(record, "run_id"):
        record.run_id, record.step, record.attempt = here
    return True


class _Json(logging.Formatter):
    """A record as a JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        told: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _cut(_message(record)),
        }
        for name, attribute in (("run", "run_id"), ("step", "step"), ("attempt", "attempt")):
            value = getattr(record, attribute, None)
            if value not in (None, ""):
                told[name] = value if isinstance(value, int) else str(value)
        if record.exc_info and record.exc_info[0] is not None:
            told["error"] = record.exc_info[0].__name__
            told["traceback"] = _cut(self.formatException(record.exc_info))
        return json.dumps(masked(told))


class _Text(logging.Formatter):
    """A record as a line for people."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        where = "/".join(
            str(value) for name in ("run_id", "step", "attempt") if (value := getattr(record, name, None)) is not None
        )
        line = f"{at} {record.levelname} {record.name}{f' {where}' if where else ''}: {_message(record)}"
        if record.exc_info and record.exc_info[0] is not None:
            line += f" {self.formatException(record.exc_info)}"
        text: str = masked(line)
        text = text.encode(errors="backslashreplace").decode()  # half a surrogate pair is no UTF-8
        return "\\n".join(_cut(text).splitlines())


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (TypeError, ValueError, KeyError):  # a caller's own format string does not fit what it is given
        return str(record.msg)


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 1]}…"


# --- what is on record, as log lines ------------------------------------------------------------


class RunLog:
    """Logs what becomes of runs, from their records: names, numbers and kinds, and no word of what they are about."""

    @staticmethod
    def wanted() -> bool:
        """Return whether anybody would read it."""
        return _runs.isEnabledFor(logging.INFO) and _runs.hasHandlers()

    def begin(self, run_id: str, record: Iterable[Recorded] = (), *, backlog: Callable[[], int] = int) -> None:
        """Take note of nothing: what was on record before is not logged again."""

    def flushed(self, seconds: float) -> None:
        """Take note of nothing."""

    def let_go(self, run_id: str) -> None:
        """Take note of nothing."""

    def observe(self, run_id: str, event: Event) -> None:
        line = _line_of(event)
        if line is not None:
            level, message = line
            where = {"run_id": run_id, "step": getattr(event, "step", ""), "attempt": getattr(event, "attempt", None)}
            _runs.log(level, "%s", message, extra=where)


def _line_of(event: Event) -> tuple[int, str] | None:
    match event:
        case on_record.RunStarted():
            return logging.INFO, f"run.started plan={event.plan.name!r}"
        case on_record.RunResumed():
            return logging.INFO, f"run.resumed epoch={event.epoch}"
        case on_record.RunFinished():
            bad = event.status in (RunStatus.FAILED, RunStatus.LIMIT_EXCEEDED)
            return logging.WARNING if bad else logging.INFO, f"run.ended status={event.status.value}"
        case on_record.RunStopping(limits=limits) if limits:
            return logging.WARNING, f"run.limit limits={','.join(limits)}"
        case on_record.AttemptFailed():
            return logging.INFO, f"attempt.failed kind={event.kind.value}"
        case on_record.RetryScheduled():
            return logging.INFO, f"step.retry in_s={event.due_at - event.at:.3g}"
        case on_record.StepFailed():
            return logging.WARNING, f"step.failed status={event.status.value} kind={event.kind.value}"
        case on_record.ApprovalRequested():
            return logging.INFO, "step.asks"
        case on_record.ApprovalAnswered():
            return logging.INFO, f"step.answered approved={event.approved}"
        case on_record.OutcomeUnknown():
            return logging.WARNING, "step.outcome_unknown"
        case _:
            return None
