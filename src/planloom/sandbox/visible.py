"""What of this machine a program in the cpython sandbox sees: an interpreter and its standard library, read-only.

Rule 1: nothing is shown that is not named here: no /etc, no /proc, no /home, no packages, no program but the
interpreter.
Rule 2: it looks at the machine once in a process; looking takes a third of a second.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from planloom.errors import NoSandboxError

DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")
_OPTIONAL = ("/usr/share/zoneinfo",)
_LIBRARY = re.compile(r"(/\S+) \(0x")
_NO_BWRAP = "`runtime: cpython` needs bubblewrap, and there is no `bwrap`"
_INSTALL = "apt-get install bubblewrap (or the same of your system), or run the step with `runtime: monty`"


@dataclass(frozen=True, slots=True)
class Visible:
    """Where things are on this machine.

    Attributes:
        bwrap: The bubblewrap program.
        python: The interpreter behind any virtual environment.
        shown: Files and folders that the program sees, each where it is.
        hidden: Folders inside those that it sees empty.
    """

    bwrap: str
    python: str
    shown: tuple[str, ...]
    hidden: tuple[str, ...]

    @property
    def folders(self) -> list[str]:
        """Return the folders on the way to what is shown; they are made for anyone to pass through."""
        above = {str(folder) for path in (*self.shown, *DEVICES) for folder in Path(path).parents}
        return sorted(above - {"/"})


def missing() -> NoSandboxError | None:
    """Return why programs cannot run here, as far as can be seen without looking further."""
    if sys.platform != "linux":
        return NoSandboxError(
            "`runtime: cpython` needs Linux: it is held by namespaces of its kernel",
            remedy="run the step with `runtime: monty`, or on a Linux machine",
            backend="cpython",
        )
    if shutil.which("bwrap") is None:
        return NoSandboxError(_NO_BWRAP, remedy=_INSTALL, backend="cpython")
    return None


@cache
def look() -> Visible:
    """Look at this machine.

    Raises:
        NoSandboxError: There is no bubblewrap, or this is not Linux.
    """
    lacking = missing()
    bwrap = shutil.which("bwrap")
    if lacking is not None or bwrap is None:
        raise lacking or NoSandboxError(_NO_BWRAP, remedy=_INSTALL, backend="cpython")
    python = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
    base = {"base": sys.base_prefix, "platbase": sys.base_exec_prefix}
    libraries = {os.path.realpath(sysconfig.get_path(name, vars=base)) for name in ("stdlib", "platstdlib")}
    shown = [python, *sorted(libraries), *_needed(python, libraries)]
    shown += [path for path in _OPTIONAL if os.path.isdir(path)]
    packages = [f"{library}/{name}" for library in libraries for name in ("site-packages", "dist-packages")]
    return Visible(bwrap, python, tuple(dict.fromkeys(shown)), tuple(path for path in packages if os.path.isdir(path)))


def _needed(python: str, libraries: set[str]) -> list[str]:
    """Return the shared libraries that the interpreter and its own extension modules load."""
    extensions = [str(file) for library in sorted(libraries) for file in Path(library, "lib-dynload").glob("*.so")]
    done = subprocess.run(["ldd", python, *extensions], capture_output=True, text=True, check=False)  # noqa: S603, S607
    return sorted(set(_LIBRARY.findall(done.stdout)))
