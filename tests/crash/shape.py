"""What one plan shape of the crash sweep is, and how it is swept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from planloom import MemoryJournal, Tool
from planloom.journal.codec import decode, encode
from planloom.journal.memory import MemoryRunWriter
from planloom.plan.load import load_plan
from planloom.ports import Journal, OnDurable, Recorded
from planloom.testing.sweep.everywhere import Law, Sweep
from planloom.testing.sweep.report import CrashReport
from planloom.testing.sweep.story import CrashWorld, Staging
from tests.crash.answers import TOOLS

DOWN_S = 3_600.0
"""How long the power stays off."""
Steps = list[dict[str, Any]]


class OnPaper(MemoryJournal):
    """Gives back what stands on paper: every event written as JSON, large values apart, and read again."""

    def __init__(self) -> None:
        super().__init__()
        self._read: dict[tuple[str, int], Recorded] = {}

    async def read(self, run_id: str, *, after: int = 0, limit: int | None = None) -> list[Recorded]:
        return self._copied(run_id, await super().read(run_id, after=after, limit=limit))

    async def take(self, run_id: str, on_durable: OnDurable) -> tuple[list[Recorded], MemoryRunWriter]:
        record, writer = await super().take(run_id, on_durable)
        return self._copied(run_id, record), writer

    def _copied(self, run_id: str, record: list[Recorded]) -> list[Recorded]:
        for entry in record:
            if (run_id, entry.seq) not in self._read:
                kind, version, body, blobs = encode(entry.event)
                texts = {blob.sha256: blob.text for blob in blobs}
                event = decode(kind, version, body, texts.__getitem__)
                self._read[run_id, entry.seq] = replace(entry, event=event)
        return [self._read[run_id, entry.seq] for entry in record]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A plan, and what it needs besides the tools of all shapes.

    Attributes:
        fields: Of the plan, besides its steps.
        parts: Of `CrashWorld`.
        staging: Of `Staging`, besides plan and world.
    """

    steps: Steps
    fields: Mapping[str, Any] = field(default_factory=dict)
    parts: Callable[[Sequence[Tool]], Mapping[str, Any]] | None = None
    staging: Mapping[str, Any] = field(default_factory=dict)
    laws: tuple[Law, ...] = ()

    def sweep(self, name: str, *, lag: int, twice: int | None = None) -> CrashReport:
        """Stop it everywhere; return what was found."""
        document = {"planloom": 1, "name": name, **self.fields, "steps": self.steps}
        plan, text = load_plan(document), str(document)
        tools = [tool for tool in TOOLS if f"'{tool.name}'" in text]  # each costs a little at every point
        world = CrashWorld(tools=tools, parts=self.parts)
        options = {"down_s": DOWN_S, **self.staging}
        staging = Staging(plan=plan, world=lambda: world, lag=lag, journal=disk_of(lag), **options)
        return Sweep(staging, laws=self.laws, twice=twice).run()


def disk_of(lag: int) -> Callable[[], Journal]:
    """Return what makes the disk: one on paper where every write is on it at once."""
    return OnPaper if lag == 0 else MemoryJournal


def out(step_id: str) -> str:
    """Return the reference to a step's output."""
    return f"${{{{ steps.{step_id}.output }}}}"


def do(step_id: str, tool: str, n: Any, *needs: str, **fields: Any) -> dict[str, Any]:
    """Return a tool step that is given a number."""
    return {"id": step_id, "tool": tool, "with": {"n": n}, **({"needs": list(needs)} if needs else {}), **fields}
