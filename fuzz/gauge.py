"""One input, measured: what it came to, how long it took and how much memory it needed.

Rule 1: a second input never pays for a first: what is slow is timed again, alone, before it is a finding.
Rule 2: time is processor time of this thread, so that a busy machine finds nothing that is not there.
Rule 3: memory is measured twice. What the process grows by is read around every input (`Held`), so none escapes it that
takes new memory; one that took over `LOOK_MS` is read again under `tracemalloc`, which also sees memory used again: to
write 64 MB takes longer than that.
"""

from __future__ import annotations

import base64
import gc
import hashlib
import mmap
import os
import resource
import struct
import sys
import time
import traceback
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fuzz.targets import BrokenLaw, Target

MOST_MS = 100.0
"""Milliseconds an input may take."""
MOST_MB = 64.0
"""MB (2^20 bytes) an input may need at a time."""
LOOK_MS = 5.0
"""Milliseconds from which an input is read again under `tracemalloc`."""
LOOK_MB = 1.0
"""MB that the process grows by from which it is, too."""
MOST_INPUT_BYTES = 32 * 1024
"""Of an input, whoever made it: the two bounds above are for inputs of this size."""
MOST_PUT_OFF = 300
"""Inputs that are measured again at the end of a lane, where they are not at once."""
MOST_FINDINGS = 20
"""Different findings of one lane that are kept."""
SPARE_BYTES = 2 << 30
"""Of address space beyond what the process has when it begins: a bomb ends here, and not on the whole machine."""
_TIMES = 3
_PLANLOOM = "planloom"


@dataclass(frozen=True, slots=True)
class Finding:
    """An input that came to what no input may."""

    target: str
    what: str
    where: str
    data: bytes

    def to_dict(self) -> dict[str, str]:
        encoded = base64.b64encode(self.data).decode()
        return {"target": self.target, "what": self.what, "where": self.where, "base64": encoded}

    def text(self) -> str:
        encoded = base64.b64encode(self.data).decode()
        shown = repr(self.data) if len(self.data) <= 2_000 else f"{self.data[:2_000]!r} … ({len(self.data)} bytes)"
        lines = (
            f"FOUND in {self.target}: {self.what}" + (f"  at {self.where}" if self.where else ""),
            f"  input   {shown}",
            f"  base64  {encoded}",
            f"  again   python -m fuzz again {self.target} {encoded}",
        )
        return "\n".join(lines)


@dataclass(slots=True)
class Gauge:
    """What inputs to one target came to.

    Attributes:
        slowest_ms, largest_mb: Of one input.
        looks_later: What took long is measured again at the end: reading it twice would tell the engine that makes
            inputs by coverage something else each time.
        digest: Of all inputs in order, so that two runs of one seed can be compared.
    """

    target: Target
    inputs: int = 0
    accepted: int = 0
    slowest_ms: float = 0.0
    largest_mb: float = 0.0
    findings: dict[tuple[str, str], Finding] = field(default_factory=dict)
    told: Progress | None = None
    looks_later: bool = False
    _digest: Any = field(default_factory=hashlib.sha256)
    _to_look_at: list[tuple[float, float, bytes]] = field(default_factory=list)
    _held: Held = field(default_factory=lambda: Held())

    @property
    def refused(self) -> int:
        return self.inputs - self.accepted

    def start(self) -> None:
        """Bound what the process may ever take, beyond what it holds now."""
        gc.collect()
        held = Path("/proc/self/statm")
        if not held.exists():
            return  # no Linux: nobody says what is held now
        limit = int(held.read_text(encoding="ascii").split()[0]) * mmap.PAGESIZE + SPARE_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))

    def take(self, data: bytes) -> Finding | None:
        """Give an input to the target; return what is wrong, if anything is and it has not been found before."""
        data = data[:MOST_INPUT_BYTES]
        self._digest.update(len(data).to_bytes(4) + data)
        if self.told is not None:
            self.told.about(self.inputs, data)
        self.inputs += 1
        self._held.mark()
        took_ms, accepted, wrong = self._once(data)
        grown_mb = self._held.grown_mb()
        self.accepted += accepted
        if wrong is not None:
            return self._found(*wrong, data)
        if took_ms <= LOOK_MS and grown_mb <= LOOK_MB:
            self.slowest_ms, self.largest_mb = max(self.slowest_ms, took_ms), max(self.largest_mb, grown_mb)
            return None
        if self.looks_later:
            self._to_look_at.append((took_ms, grown_mb, data))
            return None
        return self._look(took_ms, grown_mb, data)

    def settle(self) -> None:
        """Look at what was put off, the slowest first."""
        for took_ms, grown_mb, data in sorted(self._to_look_at, reverse=True)[:MOST_PUT_OFF]:
            if self.told is not None:
                self.told.about(self.inputs - 1, data)
            self._look(took_ms, grown_mb, data)
        self._to_look_at.clear()

    def _look(self, took_ms: float, grown_mb: float, data: bytes) -> Finding | None:
        """Measure an input again that took long, or much."""
        wrong: tuple[str, str] | None = None
        took_ms = min(took_ms, self._once(data)[0])  # the first one may have paid for others' garbage
        if took_ms > MOST_MS:
            took_ms = min(took_ms, *(self._once(data)[0] for _ in range(_TIMES)))
            if took_ms > MOST_MS:
                wrong = (f"took {took_ms:.0f} ms, the most is {MOST_MS:.0f}", "")
        grown_mb = max(grown_mb, peak_mb(lambda: self._once(data)))
        if grown_mb > MOST_MB:
            wrong = wrong or (f"needed {grown_mb:.0f} MB, the most is {MOST_MB:.0f}", "")
        self.slowest_ms, self.largest_mb = max(self.slowest_ms, took_ms), max(self.largest_mb, grown_mb)
        return None if wrong is None else self._found(*wrong, data)

    def _once(self, data: bytes) -> tuple[float, bool, tuple[str, str] | None]:
        """Return the milliseconds that an input took, whether it was taken, and what is wrong with what it came to."""
        wrong: tuple[str, str] | None = None
        check = None
        started = time.thread_time()
        took_s = None
        try:
            check = self.target.reads(data)
            took_s = time.thread_time() - started
            if check is not None:
                check()
        except self.target.refusals as error:
            wrong = _untold(error) if took_s is None else (f"taken, and then {type(error).__name__}", _place_of(error))
        except BrokenLaw as error:
            wrong = (f"broken law: {error}", "")
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - whatever else comes out is looked for; a Rust panic is no Exception
            wrong = (f"{type(error).__name__}: {str(error)[:200]}", _place_of(error))
        took_s = time.thread_time() - started if took_s is None else took_s
        return took_s * 1000, check is not None, wrong

    def _found(self, what: str, where: str, data: bytes) -> Finding | None:
        kind = (where or what.split(maxsplit=1)[0], what.split(":", maxsplit=1)[0] if where else "")
        if kind in self.findings or len(self.findings) >= MOST_FINDINGS:
            return None
        self.findings[kind] = finding = Finding(self.target.name, what, where, data)
        return finding

    def to_dict(self) -> dict[str, Any]:
        return {
            "inputs": self.inputs,
            "accepted": self.accepted,
            "refused": self.refused,
            "slowest_ms": self.slowest_ms,
            "largest_mb": self.largest_mb,
            "digest": self._digest.hexdigest()[:12],
            "findings": [finding.to_dict() for finding in self.findings.values()],
        }


class Progress:
    """How far a lane is and which input it is at, in a file that outlives it: it may hang, or die with its input."""

    SIZE = 12 + MOST_INPUT_BYTES

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._shared = mmap.mmap(file.fileno(), self.SIZE)

    @classmethod
    def create(cls, path: Path) -> Progress:
        path.write_bytes(b"\0" * cls.SIZE)
        return cls(path)

    def about(self, count: int, data: bytes) -> None:
        self._shared[: 12 + len(data)] = struct.pack("<QI", count + 1, len(data)) + data

    def read(self) -> tuple[int, bytes]:
        """Return the number of the input that is being read, 0 before the first, and the input."""
        count, size = struct.unpack_from("<QI", self._shared)
        return count, self._shared[12 : 12 + size]


def peak_mb(what: Callable[[], object]) -> float:
    """Return the most MB that Python held at a time for what is done."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        what()
        return (tracemalloc.get_traced_memory()[1] - before) / (1 << 20)
    finally:
        tracemalloc.stop()


class Held:
    """How much the process grows between two moments, at its largest in between."""

    def __init__(self) -> None:
        try:
            self._reset: int | None = os.open("/proc/self/clear_refs", os.O_WRONLY)
        except OSError:
            self._reset = None  # no Linux: what is below the most there ever was is not seen
        self._before_kb = _most_kb()

    def mark(self) -> None:
        """Begin anew: forget the most that was held before."""
        if self._reset is not None:
            os.write(self._reset, b"5")
        self._before_kb = _most_kb()

    def grown_mb(self) -> float:
        return (_most_kb() - self._before_kb) / 1024


def _most_kb() -> int:
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most // 1024 if sys.platform == "darwin" else most


def _untold(error: BaseException) -> tuple[str, str] | None:
    """Return what is wrong with a refusal: whoever gets it must be able to print and send it."""
    try:
        str(error).encode()
    except UnicodeEncodeError:
        return f"{type(error).__name__} whose text no terminal can print", _place_of(error)
    if len(str(error)) > 100_000:
        return f"{type(error).__name__} with a text of {len(str(error))} characters", _place_of(error)
    return None


def _place_of(error: BaseException) -> str:
    """Return the innermost line of planloom that an error came through."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if _PLANLOOM in Path(frame.filename).parts]
    frame = (ours or frames)[-1]
    return f"{'/'.join(Path(frame.filename).parts[-3:])}:{frame.lineno}"
