"""Names of runs: new ones, and those that callers give."""

from __future__ import annotations

import os
import time

from planloom.errors import ConfigError

MAX_RUN_ID = 1_000


def new_run_id() -> str:
    """Return a name that sorts by time and does not come twice: 20261120-093015-4f1c09ab."""
    return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{os.urandom(4).hex()}"


def checked_run_id(run_id: str) -> str:
    """Return the name of a run.

    Raises:
        ConfigError: It is no text that a journal could keep, or an empty one.
    """
    is_text = isinstance(run_id, str) and 0 < len(run_id) <= MAX_RUN_ID
    if not is_text or any("\ud800" <= sign <= "\udfff" or sign == "\0" for sign in run_id):
        raise ConfigError(
            f"{run_id!r:.80} is no name of a run",
            remedy=f"give a text of 1 to {MAX_RUN_ID} signs, or None for a new one",
        )
    return run_id
