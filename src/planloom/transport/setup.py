"""What the processes of a pool are started with.

Rule 1: an operator says where tools come from, never a plan.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from planloom import masking

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MODULE = "planloom.runtime.worker"
"""What a worker process runs."""


@dataclass(frozen=True, slots=True)
class WorkerSetup:
    """What a worker has and may use.

    Attributes:
        tools: Modules, or paths of Python files, with its tools; none: those of `settings`.
        settings: A `planloom.toml`: models, prices, rates, threads; its `tools` if none are given here.
        allow: Names of the tools it may use, ``family.*`` for a family; None: all it has.
        paths: Folders to find modules in, before all others.
        env: Environment variables on top of those of this process.
    """

    tools: tuple[str, ...] = ()
    settings: Path | None = None
    allow: tuple[str, ...] | None = None
    paths: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)

    def command(self) -> list[str]:
        return [sys.executable, "-m", MODULE]

    def environment(self, token: str) -> dict[str, str]:
        """Return its environment, without variables that hold the pool's token: everything a tool starts sees it."""
        secrets = {masking.VARIABLE: ",".join(masking.names())} if masking.names() else {}
        return {name: value for name, value in os.environ.items() if token not in value} | secrets | dict(self.env)

    def first_line(self, *, address: str, token: str, worker: str, labels: Mapping[str, str], capacity: int) -> str:
        """Return what a worker process reads first."""
        return json.dumps(
            {
                "address": address,
                "token": token,
                "worker": worker,
                "labels": dict(labels),
                "capacity": capacity,
                "tools": list(self.tools),
                "settings": None if self.settings is None else str(self.settings.resolve()),
                "allow": None if self.allow is None else list(self.allow),
                "paths": list(self.paths),
            }
        )
