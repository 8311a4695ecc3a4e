"""How requests and facts become JSON and back, handed in by `runtime/`, which knows the codecs.

Rule 1: times do not travel, only differences: the clocks of two places need not agree.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from planloom.core.commands import RunStep
    from planloom.core.events import Fact


class WireFormat(Protocol):
    """Writes and reads what travels between an engine and its workers."""

    def request_out(self, request: RunStep, now: float) -> dict[str, Any]:
        """Return a request as JSON."""
        ...

    def request_in(self, document: Any, now: float) -> RunStep:
        """Return the request; ProtocolError if it is none."""
        ...

    def fact_out(self, fact: Fact) -> list[Any]:
        """Return a fact as JSON; OutputError if it holds something that is none."""
        ...

    def fact_in(self, document: Any, now: float) -> Fact:
        """Return the fact, as if it had happened here and now; ProtocolError if it is none."""
        ...
