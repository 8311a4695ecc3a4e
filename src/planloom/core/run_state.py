"""Everything known about a run: what `fold.py` makes of its events, and what follows from that by itself.

Rule 1: state changes only in `fold.py` and `ended.py`, and only because of an event.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from planloom.core import ahead
from planloom.core.budget import Budget
from planloom.core.claims import Claims
from planloom.core.events import (
    RunFinished,
    RunStarted,
    RunStopping,
    ToolFacts,
)
from planloom.core.flow import Flow
from planloom.core.inner import InnerCalls
from planloom.core.needs import agent_facts
from planloom.core.prices import ModelFacts
from planloom.core.ready import ReadySteps
from planloom.core.result import RunStatus, StepStatus
from planloom.core.state import Node, Replan, ScopeState
from planloom.plan.graph import PlanGraph
from planloom.plan.policy import Effects


class RunState:
    """A run as its events tell it.

    Attributes:
        seq: Number of the last event.
        nodes: Every step and item by key.
        ready: Steps whose turn may come.
        joined: Steps whose upstream steps have ended, not yet looked at.
        closing: Containers whose parts have all ended, not yet closed.
        running: Attempts under way by step key.
        timers: When each waiting step is due.
        blocked: Steps that wait for a person.
        to_stop: Attempts that the last events ask to stop.
        paused: Nothing new starts until the run is resumed.
        stopping: What the run will end as, once it stops early; `limits` that made it stop.
        path_s: Seconds of the longest chain of dependent steps so far; `busy_s`: of all attempts.
        ahead: Attempts that run, or ran, ahead and are not settled, by lane key.
        hits: Of steps whose drafts others ran ahead on: how often that was right, and wrong, in this run.
        rolled_back, wasted_usd, wasted_tokens, wasted_s: What came of those that were wrong.
        flow: The labels of its values; None: none of its tools says anything of any.
        refused: Results and answers that came too late, or for something else.
        imperfect: Steps skipped or failed and tolerated: a run with any is at best partial.
    """

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.seq = 0
        self.epoch = 1
        self.status = RunStatus.RUNNING
        self.started: RunStarted | None = None
        self.finished: RunFinished | None = None
        self.reused: dict[str, Any] = {}
        self.edited: str | None = None
        self.flow: Flow | None = None
        self.models: dict[str, ModelFacts] = {}
        self.tools: dict[str, ToolFacts] = {}
        self._effects: dict[str | None, Effects] = {}
        self.root: ScopeState
        self.budget: Budget
        self.claims: Claims
        self.nodes: dict[str, Node] = {}
        self.ready = ReadySteps()
        self.joined: list[Node] = []
        self.closing: list[Node] = []
        self.running: dict[str, Node] = {}
        self.timers: dict[str, float] = {}
        self.blocked: dict[str, Node] = {}
        self.to_stop: list[str] = []
        self.stopping: RunStopping | None = None
        self.paused = False
        self.imperfect = 0
        self.refused = 0
        self.ahead: dict[str, ahead.Ahead] = {}
        self.hits: dict[str, list[int]] = {}
        self.rolled_back = 0
        self.wasted_usd = 0.0
        self.wasted_tokens = 0
        self.wasted_s = 0.0
        self.path_s = 0.0
        self.busy_s = 0.0
        self.last_at = 0.0
        self.segment_at = 0.0
        self.paused_at = 0.0
        self.active_s = 0.0

    def time_runs(self) -> bool:
        """Return whether the run's time limit still binds: it does while a failed run cleans up."""
        return self.stopping is None or self.stopping.status is RunStatus.FAILED

    def end_segment(self) -> None:
        """Close the books on the time an engine that is gone was active; called before each `RunResumed`."""
        self.paused_at = self.last_at
        self.active_s += self.last_at - self.segment_at

    def effects(self, node: Node) -> Effects:
        """Return what running this step again would do: what step or tool say, else the safe answer for its kind."""
        step = node.entry.step
        if node.replan is Replan.ASKED:
            return Effects.NONE
        if node.calls is not None and node.calls.open:
            return Effects.ONCE  # whatever the step says of itself: what is under way inside may be made only once
        if step.effects is not None:
            return step.effects
        known = self._effects.get(step.tool)
        if known is not None:
            return known
        if step.tool is None and step.model is None:
            return self._effects_inside(node)
        if step.tool is None:
            return strictest(self._effects_of(name) for name in step.tools or ())
        return self._effects_of(step.tool)

    def _effects_inside(self, node: Node) -> Effects:
        """Return what doing an agent or code step again would do: each of its calls is on record by itself."""
        step = node.entry.step
        if step.code is not None:
            return Effects.NONE
        assert self.started is not None
        facts = agent_facts(step, self.started.agents)
        return facts.effects or Effects.ONCE if facts is not None else Effects.ONCE

    def calls_known(self, node: Node) -> InnerCalls | None:
        """Return the calls of an attempt so far; None where its kind puts none of them on record."""
        if node.calls is not None or node.replan is Replan.ASKED:
            return node.calls
        assert self.started is not None
        facts = agent_facts(node.entry.step, self.started.agents)
        is_told = node.entry.step.code is not None or (facts is not None and facts.model is not None)
        return InnerCalls() if is_told else None

    def _effects_of(self, tool: str) -> Effects:
        assert self.started is not None
        facts = self.started.tools.get(tool)
        found = facts.effects or Effects.ONCE if facts is not None else Effects.ONCE
        self._effects[tool] = found
        return found

    def labels_by_step(self) -> dict[str, list[str]]:
        """Return the labels of every completed step by key, for a run that reuses outputs; nothing if none are kept."""
        if self.flow is None:
            return {}
        done = (node for node in self.nodes.values() if node.status is StepStatus.COMPLETED)
        return {node.key: sorted(node.labels) for node in done}

    def turns(self, graph: PlanGraph) -> Sequence[int]:
        """Return each step's turn; paths weigh what tools are expected to take, where any of them says so."""
        started = self.started
        assert started is not None
        if not started.parallel:
            turns = [0] * len(graph.order)
            for turn, place in enumerate(graph.order):
                turns[place] = turn
            return turns
        expected = {name: facts.expected_latency_ms for name, facts in started.tools.items()}
        known = [latency for latency in expected.values() if latency]
        if not known:
            return graph.urgency()
        usual = sum(known) / len(known)
        return graph.urgency([expected.get(entry.step.tool or "") or usual for entry in graph.steps])

    def hits_of(self, key: str) -> tuple[float, float]:
        """Return how often this step's draft led to the right inputs, and how often not, earlier runs included."""
        assert self.started is not None
        hits, misses = self.hits.get(key, (0, 0))
        before = self.started.guesses.get(key, (0, 0))
        return hits + before[0], misses + before[1]

    def guesses_confirmed(self, keys: Iterable[str]) -> None:
        for key in keys:
            self.hits.setdefault(key, [0, 0])[0] += 1

    def guesses_missed(self, keys: Iterable[str]) -> None:
        for key in keys:
            self.hits.setdefault(key, [0, 0])[1] += 1


def strictest(effects: Iterable[Effects]) -> Effects:
    """Return the effects of doing all of these; `none` of nothing."""
    found = set(effects)
    return next((one for one in (Effects.ONCE, Effects.IDEMPOTENT) if one in found), Effects.NONE)
