"""Results of earlier executions, by everything that matters for them.

Rule 1: only results are kept, never errors; what is handed out is a copy.
Rule 2: a file that cannot be read is no result: the model is asked, and the file written anew.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import OrderedDict
from hashlib import sha256
from pathlib import Path
from typing import Any

from planloom.api.execution import ExecutionResult
from planloom.errors import ConfigError

MAX_KEPT = 1_000


def key_of(*parts: Any) -> str:
    """Return one key for these JSON values."""
    return sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


class KeptResults:
    """The results used last, in memory; with a folder also there, one file each.

    Args:
        folder: None: in memory only.
    """

    def __init__(self, folder: Path | None = None, *, size: int = MAX_KEPT) -> None:
        self._folder = folder
        self._size = size
        self._kept: OrderedDict[str, ExecutionResult] = OrderedDict()

    async def get(self, key: str) -> ExecutionResult | None:
        """Return a copy of what is kept."""
        kept = self._kept.get(key)
        if kept is None and self._folder is not None:
            kept = await asyncio.to_thread(_read, self._folder / f"{key}.json")
        if kept is None:
            return None
        self._keep(key, kept)
        return kept.copy()

    async def put(self, key: str, result: ExecutionResult) -> None:
        """Keep a copy.

        Raises:
            ConfigError: The folder cannot be written.
        """
        kept = result.copy()
        self._keep(key, kept)
        if self._folder is not None:
            await asyncio.to_thread(_write, self._folder / f"{key}.json", kept)

    def _keep(self, key: str, result: ExecutionResult) -> None:
        self._kept[key] = result
        self._kept.move_to_end(key)
        while len(self._kept) > self._size:
            self._kept.popitem(last=False)


def _read(path: Path) -> ExecutionResult | None:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        return ExecutionResult.from_dict(told) if isinstance(told, dict) else None
    except (OSError, ValueError, ConfigError):
        return None


def _write(path: Path, result: ExecutionResult) -> None:
    beside = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(json.dumps(result.to_dict(), ensure_ascii=False), encoding="utf-8")
        beside.replace(path)  # whole or not at all: another process may read it
    except OSError as error:
        raise ConfigError(
            f"results cannot be kept in {path.parent}: {error}", remedy="give another cache_dir"
        ) from error
