"""What runs ahead in a run, as its events tell it: folded here, decided in `speculation.py`.

Rule 1: what an attempt that ran ahead used counts once: with its step's own attempt if it is confirmed, else here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

from planloom.core.budget import Budget, Claim
from planloom.core.result import Usage

if TYPE_CHECKING:
    from planloom.core.events import SpeculationAnswered, SpeculationSettled, StepSpeculated
    from planloom.core.state import Node


class Books(Protocol):
    """What is kept of a run, as far as this file keeps it: `fold.RunState`."""

    seq: int
    nodes: dict[str, Node]
    budget: Budget
    ahead: dict[str, Ahead]
    rolled_back: int
    wasted_usd: float
    wasted_tokens: int
    wasted_s: float

    def guesses_confirmed(self, keys: Iterable[str]) -> None: ...

    def guesses_missed(self, keys: Iterable[str]) -> None: ...


class Ahead:
    """One attempt ahead of its time.

    Attributes:
        key: Its name on the way to its place and back: the step's key, ``!`` and the role.
        role: "ahead", or "draft".
        inputs: SHA-256 of its arguments.
        on: Steps whose own answer it still waits for to be confirmed.
        drafts: Those of them whose draft is in its arguments.
        running: It has not answered; `dying`: it is settled, and only its answer is waited for.
    """

    __slots__ = (
        "answer", "attempt", "began_at", "claim", "drafts", "dying", "epoch", "inputs", "key", "node", "on", "role",
        "running", "seq",
    )  # fmt: skip

    def __init__(self, node: Node, event: StepSpeculated, seq: int) -> None:
        self.key = lane_key(node, event.role)
        self.node = node
        self.role = event.role
        self.attempt = event.attempt
        self.epoch = event.epoch
        self.inputs = event.inputs
        self.on = frozenset(event.on)
        self.drafts = event.drafts
        self.claim = Claim(calls=event.calls, cost_usd=event.cost_usd, tokens=event.tokens)
        self.seq = seq
        self.began_at = event.at
        self.running = True
        self.dying = False
        self.answer: SpeculationAnswered | None = None


def lane_key(node: Node, role: str) -> str:
    return f"{node.key}!{role}"


def alive(entry: Ahead | None) -> Ahead | None:
    """Return the entry unless it is settled already."""
    return None if entry is None or entry.dying else entry


def begin(state: Books, event: StepSpeculated) -> None:
    entry = Ahead(state.nodes[event.step], event, state.seq)
    state.ahead[entry.key] = entry
    state.budget.take(entry.claim)


def answer(state: Books, event: SpeculationAnswered) -> None:
    entry = state.ahead[lane_key(state.nodes[event.step], event.role)]
    entry.running = False
    entry.answer = event
    state.budget.end_ahead()
    if entry.dying:
        _book(state, entry, wasted=True)


def settle(state: Books, event: SpeculationSettled) -> None:
    entry = state.ahead[lane_key(state.nodes[event.step], event.role)]
    if event.outcome == "confirmed":
        state.guesses_confirmed(entry.drafts)
        timeout = entry.node.step.timeout_seconds
        if timeout is not None and event.began_at is not None:
            entry.node.deadline_at = event.began_at + timeout
        if entry.running:
            state.budget.end_ahead()
        state.budget.settle_ahead(entry.claim, cost_usd=0.0, usage=None, calls=0)
        del state.ahead[entry.key]
        return
    entry.dying = True
    if event.outcome == "rolled_back" and entry.role == "ahead":
        state.guesses_missed(entry.drafts)
    if not entry.running:
        _book(state, entry, wasted=event.outcome == "rolled_back")


def lose_all(state: Books) -> None:
    """Forget what ran ahead: its engine is gone. What it used is unknown, so all that was set aside counts."""
    for entry in list(state.ahead.values()):
        if entry.running:
            state.budget.end_ahead()
        _book(state, entry, wasted=True)


def _book(state: Books, entry: Ahead, *, wasted: bool) -> None:
    """Count what it used for its step, and for the run."""
    told, claim, node = entry.answer, entry.claim, entry.node
    if told is None:
        cost: float | None = claim.cost_usd or None
        usage = Usage(input_tokens=claim.tokens, estimated_tokens=claim.tokens) if claim.tokens else None
        calls = claim.calls
    else:
        cost, usage = told.cost_usd, told.usage
        calls = claim.calls + told.tool_calls if entry.node.step.tool is not None else told.tool_calls
    state.budget.settle_ahead(claim, cost_usd=cost or 0.0, usage=usage, calls=calls)
    del state.ahead[entry.key]
    if cost is not None:
        node.cost_usd = (node.cost_usd or 0.0) + cost
    if usage is not None:
        node.usage = usage if node.usage is None else node.usage + usage
    if wasted:
        state.rolled_back += 1
        state.wasted_usd += cost or 0.0
        state.wasted_tokens += usage.total_tokens if usage is not None else 0
        state.wasted_s += 0.0 if told is None else told.at - told.started_at
