"""Who drives which run: one advisory lock per run, which dies with its process.

Rule 1: a lock is one byte of `<journal>-owners`, at a place worked out from the run's id; the file stays empty and is
never deleted, or two processes could hold "the same" lock in two files.
Rule 2: POSIX gives a process's locks up as soon as it closes any descriptor of the file, and never refuses a process
its own lock. So one process opens the file once (`_OPEN`) and keeps its own list of what it holds.
Rule 3: these locks need a local file system, as WAL does.
"""

from __future__ import annotations

import os
import struct
import sys
from hashlib import sha256
from threading import Lock
from typing import TYPE_CHECKING

from planloom.errors import JournalWriteError

if TYPE_CHECKING:
    from pathlib import Path

if sys.platform == "win32":
    import msvcrt

    _PLACES = 2**31 - 1
    """`msvcrt.locking` counts in 32 bits; two runs may then share a place, one in two thousand million."""
else:
    import fcntl

    _PLACES = 2**62

_OPEN: dict[Path, OwnersFile] = {}
_GUARD = Lock()
"""Guards `_OPEN` and what each file holds: journals of two threads may share a file."""
_FLOCK = "hhqqi"
"""`struct flock` of 64-bit Linux: type, whence, start, length, pid."""


class OwnersFile:
    """The locks that this process holds in one journal's sidecar file. Get it with `owners_of`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._held: set[str] = set()
        self._users = 0
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise JournalWriteError(
                f"the owners' file {path} cannot be opened: {error.strerror}",
                remedy="give this user the right to write to the journal's folder, or name another journal",
            ) from error

    def claim(self, run_id: str) -> bool:
        """Take the run; return False when this or another process has it."""
        with _GUARD:
            if run_id in self._held or not _lock(self._descriptor, _place(run_id), self._path):
                return False
            self._held.add(run_id)
            return True

    def release(self, run_id: str) -> None:
        """Give the run up; harmless when it is not held."""
        with _GUARD:
            if run_id in self._held:
                self._held.discard(run_id)
                _unlock(self._descriptor, _place(run_id))

    def owner(self, run_id: str) -> str:
        """Return who has the run, for people."""
        with _GUARD:
            if run_id in self._held:
                return f"this process ({os.getpid()})"
            pid = _holder(self._descriptor, _place(run_id))
        return f"process {pid}" if pid else "another process"

    def close(self) -> None:
        """Let go of the file once nobody in this process uses it any more."""
        with _GUARD:
            self._users -= 1
            if self._users == 0:
                del _OPEN[self._path]
                self._held.clear()  # a late `release` must not touch a descriptor that is somebody else's by then
                os.close(self._descriptor)

    def _shared(self) -> OwnersFile:
        self._users += 1
        return self


def owners_of(journal: Path) -> OwnersFile:
    """Return the owners' file of a journal, the same one for everybody in this process; close it once each.

    Args:
        journal: Absolute, without symbolic links: two names of one file would defeat rule 2.
    """
    path = journal.with_name(journal.name + "-owners")
    with _GUARD:
        if path not in _OPEN:
            _OPEN[path] = OwnersFile(path)
        return _OPEN[path]._shared()


def is_owned(journal: Path, run_id: str) -> bool | None:
    """Return whether a process has the run now; None where the system does not say."""
    if not journal.with_name(journal.name + "-owners").is_file():
        return False
    if sys.platform != "linux":
        return None
    owners = owners_of(journal)
    try:
        return owners.owner(run_id) != "another process"  # what it says when no process holds the lock
    finally:
        owners.close()


def _place(run_id: str) -> int:
    return int.from_bytes(sha256(run_id.encode()).digest()[:8], "big") % _PLACES


if sys.platform == "win32":

    def _lock(descriptor: int, place: int, path: Path) -> bool:
        os.lseek(descriptor, place, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _unlock(descriptor: int, place: int) -> None:
        os.lseek(descriptor, place, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)

    def _holder(descriptor: int, place: int) -> int | None:
        return None

else:

    def _lock(descriptor: int, place: int, path: Path) -> bool:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
        except (BlockingIOError, PermissionError):  # POSIX allows either for "somebody has it"
            return False
        except OSError as error:
            raise JournalWriteError(
                f"the file system of {path} has no locks: {error.strerror}", remedy="keep the journal on a local disk"
            ) from error
        return True

    def _unlock(descriptor: int, place: int) -> None:
        fcntl.lockf(descriptor, fcntl.LOCK_UN, 1, place)

    def _holder(descriptor: int, place: int) -> int | None:
        if sys.platform != "linux" or struct.calcsize("P") != 8:
            return None
        asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, place, 1, 0)
        kind, _, _, _, pid = struct.unpack(_FLOCK, fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))
        return pid if kind != fcntl.F_UNLCK and pid > 0 else None
