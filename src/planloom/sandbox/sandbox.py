"""`Sandbox`, the public face: code in, what it came to out; and which sandboxes there are.

Rule 1: a face has no settings of its own: it says limits in the words that its callers know.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from planloom.blocking import run as wait_for
from planloom.errors import ConfigError, suggestion
from planloom.sandbox.bubblewrap import CpythonSandbox
from planloom.sandbox.monty import MontySandbox
from planloom.sandbox.program import Program, SandboxLimits, SandboxResult

if TYPE_CHECKING:
    from collections.abc import Mapping

    from planloom.ports import SandboxBackend

BACKENDS: Mapping[str, type[MontySandbox | CpythonSandbox]] = {"monty": MontySandbox, "cpython": CpythonSandbox}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmg]?i?)b?\s*", re.IGNORECASE)
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}


def backend_of(runtime: str) -> SandboxBackend:
    """Return a new backend by its name.

    Raises:
        ConfigError: There is none of that name.
    """
    backend = BACKENDS.get(runtime)
    if backend is None:
        raise ConfigError(f"there is no runtime {runtime!r:.100} for code", remedy=suggestion(runtime, BACKENDS))
    return backend()


class Sandbox:
    """Runs code that nobody has read.

    Args:
        memory_limit: Bytes, or text like ``"100MB"`` (10^6 bytes) or ``"64MiB"``.
        cpu_limit: Cores it may use on average, e.g. 0.5; None: as much as there is.
        network_access: There is none to be had: a program that needs something from outside is given a tool.
        runtime: ``"monty"``: a small Python that needs no rights and starts in milliseconds; ``"cpython"``: all of
            Python, on Linux with bubblewrap.
        limits: Of everything else.

    Raises:
        ConfigError: A limit that cannot be read, or network access.
    """

    def __init__(
        self,
        memory_limit: str | float = "100MB",
        cpu_limit: float | None = 0.5,
        network_access: bool = False,
        *,
        runtime: str = "monty",
        limits: SandboxLimits | None = None,
    ) -> None:
        if network_access:
            raise ConfigError("no sandbox has a network", remedy="give the program a tool that asks for it")
        self.runtime = runtime
        backend_of(runtime)
        self.limits = replace(
            limits or SandboxLimits(),
            memory_mb=size_bytes(memory_limit) / 1e6,
            cpu_percent=None if cpu_limit is None else cpu_limit * 100,
        )

    async def execute(
        self, code: str, timeout: float = 5.0, *, inputs: Mapping[str, Any] | None = None
    ) -> SandboxResult:
        """Run a program and return what it came to.

        Args:
            timeout: Seconds until it is killed.
            inputs: Its variables, JSON.

        Raises:
            NoSandboxError: The runtime cannot be had here.
        """
        limits = replace(self.limits, wall_s=timeout)
        return await backend_of(self.runtime).run(Program(code, inputs or {}, limits=limits))

    def run(self, code: str, timeout: float = 5.0, *, inputs: Mapping[str, Any] | None = None) -> SandboxResult:
        """Do the same from code that is not async."""
        return wait_for(self.execute(code, timeout, inputs=inputs))


def size_bytes(size: str | float) -> int:
    """Return how many bytes a text like ``"100MB"`` means; a number is bytes.

    Raises:
        ConfigError: It says no size.
    """
    if isinstance(size, int | float) and not isinstance(size, bool):
        return int(size)
    found = _SIZE.fullmatch(size) if isinstance(size, str) else None
    unit = _UNITS.get(found[2].lower()) if found is not None else None
    if found is None or unit is None:
        raise ConfigError(f"{size!r} is no size", remedy='write it like "100MB" or "64MiB"')
    return int(float(found[1]) * unit)
