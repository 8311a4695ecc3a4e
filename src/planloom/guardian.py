"""A tiny process that outlives its engine for a moment, to kill the processes that the engine started.

A worker ends by itself when its engine is gone, unless it was stopped (SIGSTOP), or something in it has Python's lock,
or it is still loading its tools; a tool server ends if it listens to the end of its input. No signal of the kernel's
tells a whole group; this does: it reads from a pipe which groups there are, and kills them all when the pipe ends,
which it does however the engine ended.

Rule 1: it is told of a group before anything else is done about it, and told to forget it before its leader is reaped:
until then its number cannot belong to anybody else.
Rule 2: one that was killed itself is replaced when the next group is told of; the guard is a net, and no lock.
"""

from __future__ import annotations

import logging
import os
import subprocess
import weakref
from contextlib import suppress

_log = logging.getLogger("planloom.guardian")

# A shell: it takes a megabyte and two milliseconds, where Python takes ten and twenty.
_SCRIPT = """
trap '' HUP INT QUIT TERM
groups=' '
while read -r what group; do
    case $what in
        +) groups="$groups$group " ;;
        -) groups="${groups%% $group *} ${groups#* $group }" ;;
    esac
done
for group in $groups; do kill -s KILL -- "-$group" 2> /dev/null; done
exit 0
"""
END_S = 1.0
"""Seconds it has to end when its pipe has; it is killed then."""


class Guardian:
    """Kills process groups when this process ends, however it ends."""

    def __init__(self) -> None:
        self._groups: set[int] = set()
        self._shell: subprocess.Popen[bytes] | None = None
        self._pipe = -1
        _GUARDIANS.add(self)

    @property
    def guards(self) -> int:
        """Return how many groups it watches."""
        return len(self._groups)

    def watch(self, group: int) -> None:
        """Have a group killed at the end of this process."""
        self._groups.add(group)
        if self._shell is None or not self._tell(f"+ {group}\n"):
            self._start()

    def forget(self, group: int) -> None:
        if group in self._groups:
            self._groups.remove(group)
            self._tell(f"- {group}\n")

    def close(self) -> None:
        """End it; it kills what it was not told to forget."""
        self.let_go()
        shell, self._shell = self._shell, None
        if shell is not None:
            try:
                shell.wait(END_S)
            except subprocess.TimeoutExpired:
                shell.kill()
                shell.wait()

    def let_go(self) -> None:
        """Close the pipe, and nothing else."""
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1

    def _start(self) -> None:
        if self._shell is not None:  # dead, or it does not read: it must not take the end of its pipe for ours
            self._shell.kill()
        self.close()
        reading, self._pipe = os.pipe()
        try:
            os.set_blocking(self._pipe, False)
            self._shell = subprocess.Popen(  # noqa: S603 - nothing of it comes from outside
                ["/bin/sh", "-c", _SCRIPT],
                stdin=reading,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={},
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            self.let_go()
            _log.warning("guardian.missing because=%s; what is stopped may outlive its engine", error)
        finally:
            os.close(reading)
        self._tell("".join(f"+ {group}\n" for group in self._groups))

    def _tell(self, text: str) -> bool:
        """Return whether it could be told."""
        try:
            return os.write(self._pipe, text.encode()) == len(text)
        except OSError:  # it was killed, or stopped for so long that the pipe is full
            return False


_GUARDIANS: weakref.WeakSet[Guardian] = weakref.WeakSet()


def _let_all_go() -> None:
    """In a process that was forked off: the pipe is to end with the engine, and not with whatever that forked off."""
    for guardian in list(_GUARDIANS):
        with suppress(OSError):
            guardian.let_go()


os.register_at_fork(after_in_child=_let_all_go)
