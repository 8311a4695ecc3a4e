"""One of several things an attempt is made of, as an attempt context of its own: it counts what it used itself.

Rule 1: everything is told to the whole attempt as well, so that nothing a part used goes unbooked.
Rule 2: what is used so far is the whole's: a grant is for all parts together.
Rule 3: while one part waits for its turn and another is at work, the attempt does not wait.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from planloom.core.result import Usage
from planloom.plan.flow import NO_LABELS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from planloom.core.events import Note
    from planloom.ports import AttemptContext, Clock


class Part:
    """A `ports.AttemptContext` inside another.

    Attributes:
        whole: The context it is a part of: the attempt's, or a part's.
        root: The attempt's own: what parts of parts have in common.
        usage: Tokens that this part used.
        last: Tokens of its last call, the one its answer came from.
        usd: What it cost, or None where nobody knows.
        calls: Tools that it called.
        labels: Of what its calls brought in.
    """

    def __init__(self, whole: AttemptContext, *, is_held: bool = False) -> None:
        """Begin a part; with `is_held`, nothing it streams or waits for is heard: others are at work beside it."""
        self.whole = whole
        self.root: AttemptContext = whole.root if isinstance(whole, Part) else whole
        self.usage = Usage()
        self.last = Usage()
        self.calls = 0
        self.labels = NO_LABELS
        self._usd: float | None = None
        self._is_held = is_held

    @property
    def usd(self) -> float | None:
        if self._usd is None and self.usage == Usage():
            return 0.0  # it asked nobody
        return self._usd

    # --- ports.AttemptContext ---

    def stream(self, text: str) -> None:
        if not self._is_held:
            self.whole.stream(text)

    def report_usage(self, usage: Usage) -> None:
        self.usage += usage
        self.last = usage
        self.whole.report_usage(usage)

    def report_usd(self, usd: float) -> None:
        self._usd = (self._usd or 0.0) + usd
        self.whole.report_usd(usd)

    @property
    def reported_usage(self) -> Usage | None:
        return self.whole.reported_usage

    @property
    def reported_usd(self) -> float | None:
        return self.whole.reported_usd

    def report_call(self) -> None:
        self.calls += 1
        self.whole.report_call()

    @property
    def reported_calls(self) -> int:
        return self.whole.reported_calls

    def report_labels(self, labels: Iterable[str]) -> None:
        self.labels = self.labels.union(labels)
        self.whole.report_labels(labels)

    @property
    def reported_labels(self) -> frozenset[str]:
        return self.whole.reported_labels

    def waiting(self, reason: str | None, until: float | None = None) -> None:
        if not self._is_held:
            self.whole.waiting(reason, until)

    def note(self, fact: Note) -> None:
        self.whole.note(fact)

    async def record(self, fact: Note) -> bool:
        return await self.whole.record(fact)

    @property
    def clock(self) -> Clock:
        return self.whole.clock

    @property
    def stopping(self) -> bool:
        return self.whole.stopping

    @property
    def closing(self) -> bool:
        return self.whole.closing

    @property
    def abandoned(self) -> bool:
        return self.whole.abandoned

    def abandon(self) -> None:
        self.whole.abandon()

    @property
    def waited_s(self) -> float:
        return self.whole.waited_s

    def wait(self, seconds: float) -> None:
        self.whole.wait(seconds)

    def give_up_after(self, seconds: float, text: str) -> None:
        self.whole.give_up_after(seconds, text)
