"""What was measured on: facts without which a number says little."""

from __future__ import annotations

import os
import platform
import sqlite3
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from benchmarks.timing import wall_s

_SYNCS = 50


def facts(folder: Path) -> dict[str, str]:
    """Return name → fact of this machine, this Python, and the disk that the databases are on."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    append_us, overwrite_us = fsync_us(folder)
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "processor": f"{_processor()}, {cores} cores",
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "sqlite": sqlite3.sqlite_version,
        "file system": _file_system(folder),
        "fsync of 4 KB": f"{append_us:,.0f} µs appended, {overwrite_us:,.0f} µs in place (median of {_SYNCS})",
        "load": " ".join(f"{load:.2f}" for load in os.getloadavg()) + " (1, 5 and 15 minutes, when it began)",
    }


def fsync_us(folder: Path) -> tuple[float, float]:
    """Return the microseconds until 4 KB are on the disk, at the end of a file that grows and in its middle."""
    page = bytes(4096)
    found: tuple[list[float], list[float]] = ([], [])
    with (folder / "fsync").open("wb", buffering=0) as file:
        for seconds, in_place in zip(found, (False, True), strict=True):
            for _ in range(_SYNCS):
                if in_place:
                    file.seek(0)
                file.write(page)
                started = wall_s()
                os.fsync(file.fileno())
                seconds.append(wall_s() - started)
    return median(found[0]) * 1e6, median(found[1]) * 1e6


def _processor() -> str:
    listed = Path("/proc/cpuinfo")
    if listed.exists():
        for line in listed.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _file_system(folder: Path) -> str:
    mounts = Path("/proc/mounts")
    if not mounts.exists():
        return "unknown"
    parts = [line.split() for line in mounts.read_text(encoding="utf-8").splitlines()]
    around = [(len(part[1]), part[2]) for part in parts if folder.resolve().is_relative_to(part[1])]
    return max(around)[1] if around else "unknown"
