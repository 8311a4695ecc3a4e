"""What the exit code of a command means.

Rule 1: a code never changes its meaning; scripts rely on it.
"""

from __future__ import annotations

from enum import IntEnum

from planloom import errors


class Exit(IntEnum):
    OK = 0
    FAILED = 1
    """The run failed, or a check found a difference."""
    USAGE = 2
    """Wrong arguments, or a plan with problems."""
    PARTIAL = 3
    """The run ended well, but steps were skipped or failed and were tolerated."""
    WAITING = 4
    """The run waits for a person."""
    LIMIT = 5
    """The run reached a limit."""
    JOURNAL = 6
    """The journal cannot be read or written, has no such run, or another process drives it."""
    CONFIG = 7
    """The configuration is wrong, or tools cannot be loaded."""
    FLOW = 8
    """`check --strict-flow`: a labelled value would reach a tool or a model only with a person's word, or never."""
    STRANDED = 9
    """`inflight`: a run on record, not ended, could not go on with what is here."""
    BUG = 70
    """Something that planloom did not expect; see `--debug`."""
    INTERRUPTED = 130
    """Cancelled, by Ctrl-C or by `planloom cancel`."""
    BROKEN_PIPE = 141
    """Whoever read the output stopped reading."""


EPILOG = """\b
Exit codes:
  0    success
  1    the run failed
  2    wrong arguments, or a plan with problems
  3    partial: steps were skipped, or failed and were tolerated
  4    the run waits for a person
  5    the run reached a limit
  6    the journal cannot be used, or has no such run
  7    the configuration is wrong, or tools cannot be loaded
  8    check --strict-flow: somebody would be asked about a labelled value, or a call of it refused
  9    inflight: a run that has not ended could not go on
  130  cancelled
"""

_BY_STATUS = {
    "running": Exit.OK,
    "success": Exit.OK,
    "partial": Exit.PARTIAL,
    "failed": Exit.FAILED,
    "cancelled": Exit.INTERRUPTED,
    "limit_exceeded": Exit.LIMIT,
    "waiting": Exit.WAITING,
}


def exit_of_run(status: str) -> Exit:
    """Return the code for a run that stands so."""
    return _BY_STATUS[status]


def exit_of_error(error: errors.PlanloomError) -> Exit:
    """Return the code for an error that ended a command."""
    for kind, code in (
        (errors.PlanError, Exit.USAGE),
        (errors.JournalError, Exit.JOURNAL),
        (errors.ConfigError, Exit.CONFIG),
        (errors.RunBlockedError, Exit.WAITING),
        (errors.ResourceLimitError, Exit.LIMIT),
    ):
        if isinstance(error, kind):
            return code
    return Exit.FAILED
