"""What one fact leads to, and what those who decide are given to say it with.

Rule 1: whoever decides records an event or adds a command, by `Turns`; there is no other way to change a run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from planloom.plan.frozen import frozen
from planloom.plan.policy import JoinRule

if TYPE_CHECKING:
    from planloom.core.commands import Command
    from planloom.core.events import Event
    from planloom.core.run_state import RunState
    from planloom.core.state import Node


@frozen
class Turn:
    """What one fact led to.

    Attributes:
        events: The fact and the decisions, to be recorded in this order, all or none; empty if it changed nothing.
        causes: For each event the number of the event that led to it, 0 for none.
        commands: What to do, in this order.
    """

    events: tuple[Event, ...]
    causes: tuple[int, ...]
    commands: tuple[Command, ...]


NOTHING = Turn((), (), ())


class RunsAhead(Protocol):
    """What runs ahead of its time, as far as starting a step has to know: `speculation.Speculation`."""

    def adopts(self, node: Node, args: dict[str, Any], labels: frozenset[str]) -> Any: ...

    def goes_on(self, node: Node, adopted: Any) -> None: ...

    def forget(self) -> None: ...


class Turns(Protocol):
    """Who records what is decided and has it done: `machine.RunMachine`."""

    run_id: str
    state: RunState
    now: float
    """Time of the turn."""

    @property
    def speculation(self) -> RunsAhead | None:
        """Return what runs ahead; None where no step of the plan has others do so."""
        ...

    def record(self, event: Event) -> None: ...

    def command(self, command: Command) -> None: ...


def is_stopping(node: Node) -> bool:
    """Return True when nothing new may be tried for this step; clean-up steps go on after a failure."""
    if node.parent is not None and node.parent.stopping:
        return True
    scope = node.scope
    return scope.stopping and not (scope.cleans_up and node.entry.join is JoinRule.ALWAYS)
